"""Figures: their numbers against mathematics, their bytes, their looks, what they leave alone and what they refuse."""

import contextlib
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import mpmath
import numpy as np
import pytest
import torch
from figures import DOTS, FIGURES, FOLDER, coarse, made_with
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

import gradexplain as gx
from gradexplain.errors import GradexplainError, InputError
from gradexplain.figures import components, derivatives, expressions, inputs, landscape, layers, paths, steps, style
from gradexplain.figures.design import SUFFIXES, computed, designs, drawn, rendered
from gradexplain.figures.typesetting import titled, typeset

DESIGNS = list(designs())
LOOKS = [(language, name) for language in ("en", "zh") for name in ("light", "dark")]


@cache
def numbers(name: str) -> Any:
    return computed(designs()[name], {})


def painted(name: str, language: str = "en", look: str = "light", **options: Any) -> Figure:
    """Draws a figure of numbers that are computed once for all tests."""
    design = replace(designs()[name], compute=lambda: numbers(name))
    return drawn(design, {}, language=language, style=look, **options)


# ----------------------------------------------------------------------------------------------------------- numbers


def test_ones_in_every_dimension_have_the_gradient_2_and_are_one_series() -> None:
    found = components.dimensions(at="ones")
    assert [s.gradients for s in found.series] == [(2.0,) * d for d in range(1, 6)]
    assert found.identical == ((1, 2, 3, 4, 5),)
    assert found.line is None


def test_with_arange_the_points_lie_on_2x() -> None:
    found = components.dimensions(n=7)
    assert all(g == 2 * x for s in found.series for x, g in zip(s.inputs, s.gradients, strict=True))
    assert found.line is not None
    assert found.line.straight
    assert found.line.slope == pytest.approx(2, rel=1e-14)


def test_series_that_differ_are_not_called_identical() -> None:
    # the gradient of a mean is 2x/n: every number of dimensions has its own
    assert components.dimensions("mean(x**2)", n=4).identical == ()
    # |x|³ has the gradient 3x|x|, in every number of dimensions the same
    assert components.dimensions("sum(abs(x)**3)", n=3, at="1,-2,3").identical == ((1, 2, 3),)
    one, other = components.Series((1.0, 1.0), (2.0, 2.0)), components.Series((1.0, 1.0, 1.0), (2.0, 2.0000001, 2.0))
    assert components._identical([one, other]) == ()


def test_identical_series_are_said_and_each_has_a_ring_of_its_own_at_its_true_place() -> None:
    figure = painted("dimensions")
    assert "5 series are identical" in figure.get_supxlabel()
    (axes,) = figure.axes
    rings = {line.get_label(): line for line in axes.lines if str(line.get_label()).startswith("n = ")}
    assert list(rings) == [f"n = {d}" for d in range(1, 6)]
    for d, line in enumerate(rings.values(), 1):
        assert line.get_xydata().tolist() == [[i, 2 * i] for i in range(1, d + 1)]  # on the line 2·i, and nowhere else
    widths = [line.get_markersize() - line.get_markeredgewidth() for line in rings.values()]
    gaps = [b - a - rings["n = 1"].get_markeredgewidth() for a, b in pairwise(widths)]
    assert min(gaps) > 0


def test_advice_is_for_who_makes_the_figure_and_not_in_it(command: Callable, tmp_path: Path) -> None:
    for arguments, advice in (
        (["dimensions", "--at", "ones"], "--at arange"),
        (["curve", "x**3", "--at", "3", "--ends=-1,4"], "another --at"),
        (["dimensions"], ""),
    ):
        found = command("figure", *arguments, "--output", str(tmp_path / "a.svg"))
        assert (found.code, bool(found.err)) == (0, bool(advice))
        assert advice in found.err
    assert gx.figures.dimensions(at="ones").get_supxlabel().endswith("Every gradient is 2.")


def test_the_gradient_of_a_sum_of_squares_is_proportional_with_slope_2() -> None:
    line = inputs.proportional().line
    assert line.proportional
    assert (line.slope, line.intercept) == (pytest.approx(2, rel=1e-15), pytest.approx(0, abs=1e-15))


@pytest.mark.parametrize(
    ("expression", "straight", "proportional"),
    [("sum(3*x**2)", True, True), ("sum(x**2 + x)", True, False), ("sum(x**3)", False, False)],
)
def test_a_gradient_that_is_not_proportional_is_not_called_so(
    expression: str, straight: bool, proportional: bool
) -> None:
    found = inputs.proportional(expression, at="randn(20)")
    assert (found.line.straight, found.line.proportional) == (straight, proportional)
    xs, gs = np.array(found.inputs), np.array(found.gradients)
    slope, intercept = np.polyfit(xs, gs, 1)  # numpy's own least squares
    assert found.line.slope == pytest.approx(slope)
    assert found.line.intercept == pytest.approx(intercept, abs=1e-12)


def test_derivatives_of_every_order_are_those_of_mpmath() -> None:
    found = derivatives.curve("sin(x)*exp(-x/2)", order=4, at=2.0, ends=(0.0, 8.0), points=21)
    with mpmath.workdps(40):
        for order, row in enumerate(found.rows):
            for x, value in zip(found.x, row, strict=True):
                true = mpmath.diff(lambda t: mpmath.sin(t) * mpmath.exp(-t / 2), mpmath.mpf(x), order)
                assert abs(value - true) <= 1e-14


def test_a_point_that_cannot_tell_two_derivatives_apart_is_named() -> None:
    assert derivatives.curve("x**3", at=2.0, ends=(-1.0, 3.0)).coincide == ((1, 2),)  # 3·2² = 6·2 = 12
    assert derivatives.curve("x**3", at=3.0, ends=(-1.0, 4.0)).coincide == ((0, 1),)  # 3³ = 3·3² = 27
    assert derivatives.curve("x**3", at=1.5).coincide == ()
    assert derivatives.curve("x**2", at=0.0, order=3).coincide == ()  # zeros tell no coincidence
    assert derivatives.curve("x**2", at=0.0, order=4).there == (0.0, 0.0, 2.0, 0.0, 0.0)


P = math.pi / 2
# An expression, the order of a derivative, and its breaks from -2 to 2: where, left and right limit, value there; a
# limit that there is not is infinite.
BREAKS: list[tuple[str, int, list[tuple[float, float, float, float | None]]]] = [
    ("tan(x)", 0, [(-P, math.inf, -math.inf, None), (P, math.inf, -math.inf, None)]),
    ("tan(x)", 1, [(-P, math.inf, math.inf, None), (P, math.inf, math.inf, None)]),
    ("1/x", 0, [(0, -math.inf, math.inf, None)]),
    ("1/x**2", 0, [(0, math.inf, math.inf, None)]),
    ("1/(x - 0.007)**2", 0, [(0.007, math.inf, math.inf, None)]),
    ("1/sqrt(abs(x))", 0, [(0, math.inf, math.inf, None)]),
    ("relu(x)", 0, []),
    ("relu(x)", 1, [(0, 0, 1, 0)]),
    ("abs(x)", 1, [(0, -1, 1, 0)]),
    ("relu(x - 1/3)", 1, [(1 / 3, 0, 1, None)]),
    ("floor(x)", 0, [(-1, -2, -1, -1), (0, -1, 0, 0), (1, 0, 1, 1), (2, 1, 2, 2)]),
    ("sin(x)/x", 0, [(0, 1, 1, None)]),
    ("where(x > 0.5, x**2, x)", 0, [(0.5, 0.5, 0.25, 0.5)]),
    *((smooth, order, []) for smooth in ("x**3", "tanh(1000*x)", "1e6*sin(x)", "0*x + 3") for order in range(3)),
    ("sin(x)**2 + cos(x)**2", 2, []),
    ("1/(x**2 + 1e-6)", 0, []),
    ("log(x)", 0, []),
    ("sqrt(x)", 0, []),
]


@pytest.mark.parametrize(("expression", "order", "expected"), BREAKS)
def test_jumps_and_poles_are_where_mathematics_has_them_and_nowhere_else(
    expression: str, order: int, expected: list[tuple[float, float, float, float | None]]
) -> None:
    found = derivatives.curve(expression, at=1.5 if expression == "tan(x)" else 0.9, order=max(order, 1)).breaks[order]
    assert len(found) == len(expected)
    for b, (x, left, right, value) in zip(found, expected, strict=True):
        assert b.x == pytest.approx(x, abs=1e-9)
        assert b.singular == math.isinf(left)
        assert b.value == value
        for seen, true in ((b.left, left), (b.right, right)):
            assert (
                math.copysign(1, seen) == math.copysign(1, true)
                if b.singular
                else seen == pytest.approx(true, abs=1e-6)
            )
            assert abs(seen) > 1e3 or not b.singular


def test_the_line_is_broken_at_a_pole_and_at_a_jump() -> None:
    for expression, at, order, places in (("tan(x)", 1.0, 2, (-P, P)), ("floor(x)", 0.5, 1, (-1.0, 0.0, 1.0))):
        figure = gx.figures.curve(expression, at=at, order=order)
        line = next(line for line in figure.axes[0].lines if str(line.get_label()).startswith("f("))
        for place in places:
            crossing = [
                (a, b) for a, b in pairwise(line.get_xydata().tolist())
                if a[0] <= place <= b[0] and a[0] < b[0] and math.isfinite(a[1]) and math.isfinite(b[1])
            ]  # fmt: skip
            assert not [(a, b) for a, b in crossing if abs(a[1] - b[1]) > 0.5]
    low, high = gx.figures.curve("tan(x)", at=1.0).axes[0].get_ylim()
    assert -10 < low < -3 < 3 < high < 10  # and not the millions that a sample beside a pole is


def test_derivatives_of_other_sizes_have_panels_of_their_own() -> None:
    figure = gx.figures.curve("exp(3*x)*sin(20*x)", ends=(0.0, 1.0), at=0.5)  # f, f′ and f″ reach 20, 400 and 6000
    assert [axes.get_ylabel() for axes in figure.axes] == ["f", "f′", "f″"]
    for k, axes in enumerate(figure.axes):
        line = next(line for line in axes.lines if str(line.get_label()).startswith(f"f{'′″'[k - 1] if k else ''}("))
        low, high = axes.get_ylim()
        assert np.ptp(line.get_ydata()) > 0.5 * (high - low)
    assert len(gx.figures.curve("x**3").axes) == 1
    assert len(gx.figures.curve("sin(x)**2 + cos(x)**2", order=3).axes) == 1  # rounding is no size
    own = Figure().subplots()
    gx.figures.curve("exp(3*x)", ax=own)
    assert len(own.lines) > 3


def circles_of(axes: Any) -> dict[tuple[float, ...], str]:
    """Returns the colour inside of each circle, by its place."""
    return {tuple(p.get_xydata()[0]): p.get_markerfacecolor() for p in axes.lines if len(p.get_xydata()) == 1}


def test_a_kink_has_circles_at_its_slopes_and_no_tangent() -> None:
    (axes,) = gx.figures.curve("abs(x)", at=0.0, order=1).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "torch's slope 0" in labels
    assert not [label for label in labels if "tangent" in label]
    paper = style.PALETTES["light"].paper
    circles = {
        tuple(line.get_xydata()[0]): line.get_markerfacecolor() for line in axes.lines if len(line.get_xydata()) == 1
    }
    assert (circles[0.0, -1.0], circles[0.0, 1.0]) == (paper, paper)  # open: neither slope is torch's
    assert circles[0.0, 0.0] != paper
    (axes,) = gx.figures.curve("relu(x)", at=0.5, order=1).axes
    circles = {
        tuple(line.get_xydata()[0]): line.get_markerfacecolor() for line in axes.lines if len(line.get_xydata()) == 1
    }
    assert circles[0.0, 1.0] == paper
    assert circles[0.0, 0.0] != paper  # torch's relu has slope 0 at 0
    assert "tangent, slope 1" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_what_is_not_finite_is_said_and_what_is_not_defined_has_no_derivative() -> None:
    figure = gx.figures.curve("log(x)", order=1)
    assert "f is not finite at 101 of 201 points, between x = −2 and x = 0" in figure.get_supxlabel()
    found = derivatives.curve("log(x)", order=1)
    assert all(math.isnan(slope) for x, slope in zip(found.x, found.rows[1], strict=True) if x < 0)  # not 1/x
    assert "no finite limit at x = −1.571, 1.571" in gx.figures.curve("tan(x)").get_supxlabel()


def test_descent_on_a_quadratic_follows_its_closed_form() -> None:
    found = numbers("descent")
    assert found.minimum == (-1.0, -1.0)
    for path in found.paths:
        true = [-1 + 2 * mpmath.mpf(1 - 2 * path.lr) ** k for k in range(21)]
        assert path.factor == pytest.approx(1 - 2 * path.lr)
        assert max(abs(x - t) for x, t in zip(path.points, true, strict=True)) <= 1e-13
        assert path.apart is not None
        assert path.apart <= 1e-13


def test_the_tutorials_descent_ends_where_it_does() -> None:
    rates, ends = (0.1, 0.5, 0.99, 1.0, 1.01), (-0.99999988, -1.0, -0.735, 1.0, 13.49)
    found = paths.descent(lr=rates, steps=100, dtype="float32")
    assert [path.points[-1] for path in found.paths] == [pytest.approx(e, rel=1e-3) for e in ends]
    assert found.paths[0].points[-1] == np.float32(-0.99999988)  # where float32 stalls, not −1 + 2·0.8¹⁰⁰


def test_a_descent_that_leaves_all_numbers_ends_there_and_says_so() -> None:
    figure = gx.figures.descent("x**4", start=3.0, lr=(0.01, 1.0), steps=30)
    assert "no finite number any more at step" in figure.get_supxlabel()
    found = paths.descent("x**4", start=3.0, lr=(1.0,), steps=30)
    assert (found.minimum, found.paths[0].factor, found.paths[0].exact) == (None, None, ())


def test_a_wrong_gradient_is_seen_against_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    right = expressions.slopes
    monkeypatch.setattr(expressions, "slopes", lambda *a, **k: tuple(1.0001 * g for g in right(*a, **k)))
    assert max(path.apart or 0 for path in paths.descent().paths) > 1e-5


@pytest.mark.parametrize("expression", ["x**2 + y**2", "x**2 + 4*y**2 - x*y", "sin(x)*cos(y) + x", "exp(x - y) + x*y"])
def test_gradients_are_perpendicular_to_contours_found_without_them(expression: str) -> None:
    found = landscape.surface(expression, points=21)
    dots = [(a.dot, a.norm) for a in found.arrows if a.dot is not None]
    assert len(dots) >= 40
    # the chord's error is the square of its radius, ε^⅔ ≈ 4e-11, times the curvature of the contour
    assert all(dot <= 1e-8 * max(norm, 1) for dot, norm in dots)


def test_tangents_of_circles_are_those_of_circles() -> None:
    for arrow in landscape.surface(points=21).arrows:
        x, y = arrow.at
        assert arrow.gradient == (2 * x, 2 * y)
        assert arrow.tangent is not None
        assert abs(arrow.tangent[0] * x + arrow.tangent[1] * y) <= 1e-10
        assert math.hypot(*arrow.tangent) == pytest.approx(1)


def test_a_turned_gradient_is_not_perpendicular(monkeypatch: pytest.MonkeyPatch) -> None:
    right = landscape.at_points

    def turned(*arguments: Any) -> Any:
        value, (gx_, gy) = right(*arguments)
        return value, (gx_ - 0.001 * gy, gy + 0.001 * gx_)

    monkeypatch.setattr(landscape, "at_points", turned)
    found = landscape.surface(points=21)
    assert max(a.dot or 0 for a in found.arrows) > 1e-4


@pytest.mark.parametrize(
    ("expression", "at", "kind", "curvature"),
    [
        ("x**2 + y**2", (0, 0), "minimum", (2, 2)),
        ("x**2 - y**2", (0, 0), "saddle", (-2, 2)),
        ("-(x - 0.3)**2 - 2*(y + 0.7)**2", (0.3, -0.7), "maximum", (-4, -2)),
        ("(1 - x)**2 + 100*(y - x**2)**2", (1, 1), "minimum", None),  # Rosenbrock
        ("1e10*x**2 + y**2", (0, 0), "minimum", (2, 2e10)),
        ("x + y", None, "none", None),
        ("x**2 + (y - 9)**2", None, "none", None),  # outside of the range
    ],
)
def test_the_grid_goes_through_the_stationary_point(expression: str, at: Any, kind: str, curvature: Any) -> None:
    found = landscape.surface(expression, points=20)
    assert len(found.x) == len(found.y) == 21
    if at is None:
        assert (found.stationary, kind) == ((), "none")
        return
    (point,) = found.stationary
    assert point.kind == kind
    assert point.at == pytest.approx(at, abs=1e-12)
    assert point.at[0] in found.x
    assert point.at[1] in found.y
    assert (found.x[0], found.x[-1]) == (-2, 2)
    if curvature:
        assert point.curvature == pytest.approx(curvature)
    if kind == "minimum":
        assert found.heights.min() == pytest.approx(0, abs=1e-20)  # 100 points would give 8.16e-4


def test_every_extreme_and_saddle_is_found_and_marked() -> None:
    found = landscape.surface("sin(x)*cos(y)", points=41)
    kinds = {(round(p.at[0], 12), round(p.at[1], 12)): p.kind for p in found.stationary}
    half = round(math.pi / 2, 12)
    assert kinds == {(half, 0): "maximum", (-half, 0): "minimum", (0, half): "saddle", (0, -half): "saddle"}
    assert all(p.at[0] in found.x and p.at[1] in found.y for p in found.stationary)
    figure = gx.figures.surface("sin(x)*cos(y)", points=21)
    words = {text.get_text() for text in figure.axes[1].get_legend().get_texts()}
    assert words == {"tangent point", "minimum", "maximum", "saddle point"}
    valley = landscape.surface("(x + y)**2", points=21).stationary  # a line of minima
    assert [p.kind for p in valley] == ["flat"]
    monkey = landscape.surface("x**3 - 3*x*y**2", points=21).stationary  # every second derivative is 0 at the saddle
    assert [(p.kind, p.curvature) for p in monkey] == [("flat", (0, 0))]
    double = landscape.surface("(x**2 - 1)**2 + y**2", points=21).stationary
    assert sorted((round(p.at[0], 9), p.kind) for p in double) == [(-1, "minimum"), (0, "saddle"), (1, "minimum")]


@pytest.mark.parametrize("expression", ["sin(x)*cos(y)", "x**2 - y**2", "x**2 + y**2", "exp(x)*y"])
def test_levels_are_round_and_their_labels_stand_inside(expression: str) -> None:
    figure = gx.figures.surface(expression, points=51)
    axes = figure.axes[1]
    figure.canvas.draw()
    frame = axes.get_window_extent()
    labels = [t for t in axes.texts if t.get_text()]
    assert len(labels) >= 3
    for label in labels:
        box = label.get_window_extent()
        assert frame.x0 < box.x0 < box.x1 < frame.x1
        assert frame.y0 < box.y0 < box.y1 < frame.y1
        assert len(label.get_text()) <= 5, label
        # a line that ends at a number reads as its minus: the number stands in a box
        assert label.get_bbox_patch().get_facecolor() == mpl.colors.to_rgba(style.PALETTES["light"].paper)
    (bar,) = axes.child_axes
    ticks = [t.get_text() for t in bar.get_yticklabels()]
    assert "0" in ticks
    assert all(len(t) <= 5 for t in ticks)


def test_the_tangent_plane_is_seen() -> None:
    """Behind a hill it is hidden, from the other side it is not; the chosen view shows most of it, or nearly so."""
    found = landscape.surface("-(x**2 + y**2)", at=(-1.2, 1.2), points=41)
    plane = np.array([found.height])
    away, towards = landscape._seen(found, plane, 15, -45), landscape._seen(found, plane, 15, 135)
    assert away < 0.1
    assert towards > 0.5
    view = landscape._view(found, plane)
    assert landscape._seen(found, plane, *view) >= 0.75 * towards
    level = landscape.surface("0*x + 0*y + 3", points=11)
    assert landscape._seen(level, np.array([3.0]), 28, -58) == pytest.approx(math.sin(math.radians(28)))


def test_the_tangent_plane_touches_with_autograds_slope() -> None:
    found = landscape.surface("x**2 * y", at=(1.5, 1.0))
    assert (found.at, found.height, found.gradient) == ((1.5, 1.0), 2.25, (3.0, 2.25))


def test_descent_on_a_surface_is_that_of_both_variables() -> None:
    found = landscape.surface("x**2 + 4*y**2", at=(1.5, 1.0), descent=0.1, steps=10, points=21)
    true = [(1.5 * 0.8**k, 0.2**k) for k in range(11)]
    assert np.allclose(found.path, true, rtol=1e-13)


def test_errors_of_differences_fall_and_rise_as_taylor_and_rounding_say() -> None:
    for precision in numbers("step-error").precisions:
        for slope in precision.slopes:
            for h, error in zip(numbers("step-error").steps, slope.errors, strict=True):
                if 10 * precision.epsilon < h <= 0.1:
                    # Taylor's rest is at most twice its first term here; four roundings of f, two of x + h
                    assert error <= 2 * slope.truncation(h) + 4 * precision.noise / h
                if slope.truncation(h) > 100 * precision.noise / h and h <= 1e-2:
                    assert error == pytest.approx(slope.truncation(h), rel=0.05)


def test_the_best_steps_are_where_mathematics_puts_them() -> None:
    for precision in numbers("step-error").precisions:
        for slope in precision.slopes:
            # an error may be small by luck, not seven in a row
            runs = [max(slope.errors[max(k - 3, 0) : k + 4]) for k in range(len(slope.errors))]
            best = numbers("step-error").steps[runs.index(min(runs))]
            expected = (precision.noise / slope.coefficient) ** (1 / (slope.power + 1))
            assert expected / 30 <= best <= expected * 30
            assert min(runs) > 10 * precision.automatic


def test_the_true_derivative_is_mathematics_and_not_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    right = steps.at_points

    def scaled(*arguments: Any) -> Any:
        value, (gradient,) = right(*arguments)
        return value, (1.001 * gradient,)

    for precision in steps.step_error("sin(x)*exp(x)", at=1.0).precisions:
        true = mpmath.exp(precision.point) * (mpmath.sin(precision.point) + mpmath.cos(precision.point))
        assert precision.true == pytest.approx(float(true), rel=1e-15)
        assert precision.automatic <= 2 * precision.epsilon * float(true)
    monkeypatch.setattr(steps, "at_points", scaled)
    assert min(p.automatic for p in steps.step_error().precisions) > 1e-3


def test_a_quadratic_has_no_truncation_error_in_central_differences() -> None:
    figure = gx.figures.step_error("x**2 + 2*x", at=3.0, density=2)
    assert "no truncation error" in figure.get_supxlabel()
    found = steps.step_error("x**2 + 2*x", at=3.0, density=2).precisions[0]
    assert (found.true, found.automatic) == (8.0, 0.0)
    assert [s.coefficient for s in found.slopes] == [1.0, 0.0]


def test_steps_too_small_to_move_the_point_have_no_error_but_a_bar() -> None:
    found = numbers("step-error")
    for precision in found.precisions:
        half = 2.0 ** (math.floor(math.log2(precision.point)) - (53 if precision.dtype == "float64" else 24))
        assert precision.still == sum(h < half for h in found.steps)
    assert found.precisions[1].still > 40
    figure = painted("step-error")
    for panel, precision in zip(figure.axes, found.precisions, strict=True):
        marks = [line for line in panel.lines if str(line.get_label()).endswith("difference")]
        assert len(marks) == 2
        assert all(np.isfinite(line.get_ydata()).sum() == len(found.steps) - precision.still for line in marks)


def test_gradients_vanish_arrive_and_explode_where_theory_says() -> None:
    found = numbers("gradient-flow").flows
    assert {name: flow.verdict for name, flow in found.items()} == {
        "sigmoid": "vanishing", "relu": "healthy", "linear": "exploding",
    }  # fmt: skip
    assert max(found["sigmoid"].slopes) <= 0.25  # σ′ = σ(1 − σ) ≤ ¼
    assert found["sigmoid"].gain <= 0.25 * 1.1  # weights of variance 1/n keep norms in the mean
    assert found["linear"].gain == pytest.approx(8, rel=0.1)  # √n
    assert found["relu"].gain == pytest.approx(1, rel=0.15)  # half of the signal, twice the variance
    assert set(found["linear"].slopes) == {1.0}


def test_norms_of_gradients_are_those_of_the_chain_rule_by_hand() -> None:
    flow = layers.gradient_flow(networks=("linear",), depth=3, width=5, batch=4, seed=7).flows["linear"]
    generator = torch.Generator().manual_seed(7)
    weights = [torch.nn.init.normal_(torch.empty(5, 5, dtype=torch.float64), generator=generator) for _ in range(3)]
    x, v = (torch.randn((4, 5), generator=generator, dtype=torch.float64) for _ in range(2))
    g = v / v.norm()
    norms = [1.0]
    for w in reversed(weights):
        g = g @ w
        norms.insert(0, float(g.norm()))
    assert flow.gradients == pytest.approx(norms)
    assert flow.signals[1] == pytest.approx(float((x @ weights[0].T).norm()))
    assert math.prod(flow.backward_gains) == pytest.approx(flow.gain**3)


@pytest.mark.parametrize("name", layers.RECIPES)
def test_the_slope_of_a_recipe_is_the_derivative_of_its_activation(name: str) -> None:
    recipe, z = layers.RECIPES[name], torch.linspace(-3, 3, 12, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(getattr(torch.nn, recipe.activation)()(z).sum(), z)
    torch.testing.assert_close(recipe.slope(z.detach()), slopes)


# --------------------------------------------------------------------------------------------------- bytes and looks


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize(("language", "look"), LOOKS)
def test_every_figure_is_made_in_every_format_language_and_style(name: str, language: str, look: str) -> None:
    figure = painted(name, language, look)
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    for format in SUFFIXES:
        assert rendered(figure, format).startswith(starts[format])
    assert figure.get_facecolor() == mpl.colors.to_rgba(style.PALETTES[look].paper)
    words = " ".join(t.get_text() for t in figure.findobj(Text))
    assert any("\u4e00" <= c <= "\u9fff" for c in words) == (language == "zh")


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_figure_has_a_name_for_screen_readers_and_tabs_in_its_language(name: str, language: str) -> None:
    root = ElementTree.fromstring(rendered(painted(name, language), "svg"))
    title = root[0]
    assert root.get("role") == "img"
    assert title.tag == "{http://www.w3.org/2000/svg}title"
    assert title.text
    assert not set(title.text) & set("$\\{}\n")
    assert any("\u4e00" <= c <= "\u9fff" for c in title.text) == (language == "zh" and name != "step-error")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("What $x^2$ costs & <b>why</b>", "What x² costs & <b>why</b>"),
        (r"$\mathit{x\_a}\,\sin^{2}(x)+\sqrt{x}/e^{-x}$", "x_a sin²(x)+√(x)/e^(-x)"),
        (r"$2\cdot10^{-7}$ of\n$\pi$", "2·10⁻⁷ of pi"),
        ("costs $5", "costs $5"),
    ],
)
def test_a_title_is_read_aloud_without_the_signs_of_its_formulas(title: str, name: str) -> None:
    written = rendered(gx.figures.curve("x**2", title=title.replace("\\n", "\n")), "svg")
    assert ElementTree.fromstring(written)[0].text == name


LONG = {1: "x**2 + 0.125*x*x + 0.0625*x*x*x + 0.03125*x*x*x*x", 2: "x**2 + y**2 + 0.125*x*x + 0.0625*y*y*y*x*x"}
LONGEST: dict[str, dict[str, Any]] = {
    "dimensions": {"expression": f"sum({LONG[1]})", "at": "linspace(0.125,12,12)", "n": 12},
    "proportional": {"expression": f"sum({LONG[1]})"},
    "surface": {"expression": LONG[2], "points": 21, "descent": 0.0123},
    "gradient-flow": {"depth": 3, "width": 8, "networks": ("sigmoid", "relu", "tanh", "linear")},
    "curve": {"expression": LONG[1], "order": 4},
    "step-error": {"expression": LONG[1], "density": 1},
    "descent": {"expression": LONG[1], "lr": (0.12345, 0.023456)},
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize(
    ("language", "kind"), [("en", "usual"), ("zh", "usual"), ("en", "long"), ("en", "column"), ("zh", "column")]
)
def test_no_text_is_cut_off_or_lies_on_another(name: str, language: str, kind: str) -> None:
    make = getattr(gx.figures, name.replace("-", "_"))
    size = "column" if kind == "column" else None
    figure = make(language=language, **LONGEST[name]) if kind == "long" else painted(name, language, size=size)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    page = figure.bbox.padded(1)
    boxes = dict(_boxes(figure, renderer))
    for label, box in boxes.items():
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, label
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, label
    for (a, one), (b, other) in ((p, q) for p in boxes.items() for q in boxes.items() if p[0] < q[0]):
        assert not one.padded(-0.5).overlaps(other.padded(-0.5)), (a, b)


def _boxes(figure: Figure, renderer: Any) -> Iterator[tuple[tuple[int, str], Any]]:
    """Yields the titles, labels, legends and notes of a figure; tick labels too where the panel is flat."""
    texts: list[Any] = [figure._supxlabel] if figure.get_supxlabel() else []
    for axes in figure.axes:
        texts += [axes._left_title, axes.title, axes.xaxis.label, axes.yaxis.label]
        texts += [axes.zaxis.label] if axes.name == "3d" else []
        texts += [axes.get_legend()] if axes.get_legend() else []
        if axes.name != "3d":
            low, high = sorted(axes.get_xlim())
            texts += [t for t, at in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True) if low <= at <= high]
            low, high = sorted(axes.get_ylim())
            texts += [t for t, at in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True) if low <= at <= high]
    for k, one in enumerate(texts):
        if not isinstance(one, Text) or one.get_text():
            yield (k, str(one)), one.get_window_extent(renderer)


@pytest.mark.thorough
def test_the_same_figures_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    names = ("descent", "surface")
    code = (
        "import sys, gradexplain as gx\n"
        f"for name in {names}:\n"
        "    f = getattr(gx.figures, name)()\n"
        f"    for s in {list(SUFFIXES.values())}: gx.figures.save(f, f'{{sys.argv[1]}}/{{name}}{{s}}')\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment)
    for name in names:
        figure = painted(name)
        for format, suffix in SUFFIXES.items():
            assert (tmp_path / f"{name}{suffix}").read_bytes() == rendered(figure, format)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_of_readme_and_course_are_made_again(name: str) -> None:
    figure = FIGURES[name]()
    kept = Image.open(FOLDER / f"figure-{name}.png").convert("RGB")
    assert distance(kept, Image.open(io.BytesIO(coarse(figure))).convert("RGB")) <= TOLERANCE
    if json.loads((FOLDER / "figures.json").read_text(encoding="utf-8")) == made_with():
        assert (FOLDER / f"figure-{name}.svg").read_bytes() == rendered(figure, "svg")


# Letters are not hinted, so that FreeType's versions differ by a level or two of 255 at their edges, which are less
# than a tenth of all dots: 2·√0.1 ≈ 0.6. A mark that is missing makes 0.7, a line that moved 2, another title 4.
TOLERANCE = 0.6


def distance(one: Image.Image, other: Image.Image) -> float:
    """Returns the root of the mean square difference of two pictures, in levels of 255."""
    if one.size != other.size:
        return math.inf
    return float(np.sqrt(np.mean((np.asarray(one, float) - np.asarray(other, float)) ** 2)))


@pytest.mark.parametrize("change", ["mark", "line", "title"])
def test_a_changed_figure_is_not_taken_for_the_kept_one(change: str) -> None:
    name = "dimensions" if change == "mark" else "curve"
    figure = painted(name)
    axes = figure.axes[0]
    if change == "mark":
        axes.lines[4].set_data(axes.lines[4].get_xdata()[1:], axes.lines[4].get_ydata()[1:])
    elif change == "line":
        (line,) = (line for line in axes.lines if line.get_label() == "f(1) = 1")
        line.set_ydata(np.asarray(line.get_ydata()) * 1.05)
    else:
        axes.set_title("another", loc="left")
    kept = Image.open(FOLDER / f"figure-{name}.png").convert("RGB")
    assert distance(kept, Image.open(io.BytesIO(coarse(figure))).convert("RGB")) > TOLERANCE


@pytest.mark.parametrize("name", ["step-error", "gradient-flow", "descent"])
def test_logarithmic_axes_have_powers_of_ten_alone_and_at_least_two(name: str) -> None:
    figures = [painted(name)]
    if name == "gradient-flow":
        figures.append(gx.figures.gradient_flow(networks=("sigmoid",), depth=4, width=8))  # norms within one power
    for axes in (axes for figure in figures for axes in figure.axes):
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                low, high = axis.get_view_interval()
                places = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
                shown = [label.get_text() for at, label in places if low <= at * (1 + 1e-9) and at <= high * (1 + 1e-9)]
                assert len(shown) >= 2
                assert all(set(text.removeprefix("10")) <= set("⁻⁰¹²³⁴⁵⁶⁷⁸⁹") for text in shown), shown


def test_all_numbers_of_an_axis_are_written_in_one_way() -> None:
    assert [style.tick(v, -2.6e6, 2.6e6) for v in (-2e6, 0, 5e5, 1e6)] == ["−2·10⁶", "0", "0.5·10⁶", "1·10⁶"]
    assert [style.tick(v, 0, 5e-5) for v in (1e-5, 2.5e-5)] == ["1·10⁻⁵", "2.5·10⁻⁵"]
    assert [style.tick(v, -4, 12) for v in (-2.5, 0, 10)] == ["−2.5", "0", "10"]


@pytest.mark.parametrize(
    ("expression", "formula"),
    [
        ("x**2 + 2*x", "x^{2}+2x"),
        ("exp(3*x)*sin(20*x)", r"e^{3x}\,\sin(20x)"),
        ("x - (y - 1)", "x-(y-1)"),
        ("(x - y) - 1", "x-y-1"),
        ("x/(y*2)", r"x/(y\cdot2)"),
        ("x/y*2", r"(x/y)\cdot2"),
        ("2**-x", "2^{-x}"),
        ("2**x**3", "2^{x^{3}}"),
        ("(x**2)**3", "(x^{2})^{3}"),
        ("-(x + 1)**2", "-(x+1)^{2}"),
        ("(-x)**2", "(-x)^{2}"),
        ("x + -1", "x+(-1)"),
        ("x*-2", r"x\cdot(-2)"),
        ("x*(x + 1)", r"x\cdot(x+1)"),
        ("3*(x + 1)", "3(x+1)"),
        ("sin(x)**2", r"\sin^{2}(x)"),
        ("sin(x)**-1", r"(\sin(x))^{-1}"),
        ("relu(x - 0.5)", r"\mathrm{relu}(x-0.5)"),
        ("abs(x)**3", "|x|^{3}"),
        ("sqrt(1 + x_1**2)", r"\sqrt{1+x_{\mathit{1}}^{2}}"),
        ("1e-7*x", "10^{-7}x"),
        ("x @ x", None),
        ("u = x**2\nu + 1", None),
    ],
)
def test_titles_are_typeset_as_they_were_written(expression: str, formula: str | None) -> None:
    from matplotlib.mathtext import MathTextParser

    assert typeset(expression) == formula
    if formula:
        MathTextParser("path").parse(f"${formula}$")
    assert titled(expression, 3) == " ".join(expression.split())[:2] + "…"  # no room: cut as it was written


def test_a_title_of_ones_own_takes_the_place_of_the_figures() -> None:
    figure = gx.figures.curve("x**2", title="What $x^2$ does")
    assert figure.axes[0].get_title("left") == "What $x^2$ does"
    assert "x" not in gx.figures.curve("x**2", title="").axes[0].get_title("left")
    assert painted("descent", title="Three rates").get_suptitle() == "Three rates"
    with pytest.raises(InputError, match="dollars"):
        gx.figures.curve("x**2", title=r"$\nothing{$")
    assert gx.figures.curve("x**2", title="5$ a piece").axes[0].get_title("left") == "5$ a piece"


@pytest.mark.parametrize("name", DESIGNS)
def test_in_a_column_of_a_paper_every_letter_can_be_read(name: str) -> None:
    figure = painted(name, size="column")
    width, height = figure.get_size_inches()
    assert width == 3.4
    assert 2 < height < 11
    sizes = [t.get_fontsize() for t in figure.findobj(Text) if t.get_text()]
    assert min(sizes) >= 6.5


def test_a_notebook_shows_a_figure_without_being_told() -> None:
    figure = painted("descent")
    assert figure._repr_svg_().encode() == rendered(figure, "svg")


@pytest.mark.parametrize(
    ("expression", "law"),
    [("sum(x**2)", "proportional"), ("sum(x**2 + x)", "linear, not proportional"), ("sum(exp(x))", "not proportional")],
)
def test_the_title_says_whether_the_gradient_is_proportional(expression: str, law: str) -> None:
    (axes,) = gx.figures.proportional(expression).axes
    assert axes.get_title("left").endswith(f": {law}")
    dashed = next(line for line in axes.lines if str(line.get_label()).startswith("least")).get_linestyle() == "--"
    assert dashed == (law == "not proportional")


def test_colours_are_told_apart_without_colour() -> None:
    """The scale rises evenly in lightness; series differ in mark and dash as well."""
    scale = mpl.colormaps[style.PALETTES["light"].scale](np.linspace(0, 1, 64))[:, :3]
    grey = scale @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) > 0).all()
    assert len(set(style.MARKS)) == len(style.MARKS)


@pytest.mark.parametrize("look", style.PALETTES)
def test_every_colour_stands_out_from_the_paper(look: str) -> None:
    palette = style.PALETTES[look]
    paper = luminance(palette.paper)
    for colour in (palette.ink, palette.soft, *palette.series):
        bright, dark = sorted((luminance(colour), paper), reverse=True)
        least = 4.5 if colour in (palette.ink, palette.soft) else 2.6  # WCAG: 4.5 for text, 3 for marks
        assert (bright + 0.05) / (dark + 0.05) >= least, colour


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


# -------------------------------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("name", DESIGNS)
def test_nothing_of_the_users_is_changed(name: str) -> None:
    settings = dict(mpl.rcParams)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with torch.no_grad():
        getattr(gx.figures, name.replace("-", "_"))(**SMALL.get(name, {}))
        assert not torch.is_grad_enabled()
    assert dict(mpl.rcParams) == settings
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


SMALL: dict[str, dict[str, Any]] = {
    "surface": {"points": 11}, "gradient-flow": {"depth": 3, "width": 4}, "step-error": {"density": 1},
}  # fmt: skip


def test_the_users_settings_do_not_change_a_figure() -> None:
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": "mine", "text.parse_math": True}):
        figure = painted("proportional")
        assert rendered(figure, "svg") == rendered(painted("proportional"), "svg")
        found = rendered(figure, "svg")
    assert found == rendered(painted("proportional"), "svg")


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import sys, gradexplain as gx\n"
        "for name in gx.figures.names():\n"
        f"    f = getattr(gx.figures, name)(**{SMALL!r}.get(name.replace('_', '-'), {{}}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_axes_of_the_users_are_drawn_on() -> None:
    figure = Figure()
    axes = figure.subplots()
    assert gx.figures.proportional(ax=axes) is figure
    assert axes.get_xlabel()
    assert "Slope 2" in axes.get_title("left")
    pair = Figure().subplots(1, 2)
    assert gx.figures.descent(ax=pair) is pair[0].figure
    assert pair[1].lines


def test_axes_that_do_not_fit_are_refused() -> None:
    for name, axes in (("descent", Figure().subplots()), ("surface", Figure().subplots(1, 2)), ("curve", [])):
        with pytest.raises(InputError, match="needs Axes of the kinds"):
            getattr(gx.figures, name)(ax=axes)


def test_without_a_chinese_font_the_words_are_english_and_this_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "chinese", lambda: ())
    for name in DESIGNS:
        figure = painted(name, "zh")
        figure.draw_without_rendering()  # a missing glyph would be a warning, and warnings are errors
        words = [t.get_text() for t in figure.findobj(Text)]
        assert not [w for w in words if any("\u4e00" <= c <= "\u9fff" for c in w)]
        assert "no font for Chinese" in figure.get_supxlabel()


def test_lines_of_notes_break_where_their_language_breaks() -> None:
    assert style.wrapped("one two three", 8) == "one two\nthree"
    assert style.wrapped("梯度消失，梯度爆炸。", 8) == "梯度消\n失，梯度\n爆炸。"  # no line begins with a comma
    assert style.wrapped("short", 80) == "short"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-2.5, "−2.5"), (1e-7, "10⁻⁷"), (6.1e-4, "6.1·10⁻⁴"), (1 / 3, "0.3333"), (1e20, "10²⁰"), (np.inf, "∞")],
)
def test_numbers_are_written_as_they_are_read(value: float, text: str) -> None:
    assert style.number(float(value)) == text


# -------------------------------------------------------------------------------------------------------- command line


def test_figures_are_listed_with_a_line_each(command: Callable) -> None:
    found = command("figure", "--help")
    assert found.code == 0
    assert all(f"  {name}  " in found.out for name in DESIGNS)


@pytest.mark.parametrize("name", DESIGNS)
def test_a_figures_help_has_its_own_options_and_examples(name: str, command: Callable) -> None:
    found = command("figure", name, "--help")
    assert found.code == 0
    assert all(line in found.out for line in designs()[name].commands)
    assert all(option in found.out for option in ("--language en|zh", "--style light|dark", "--size", "--output"))


@pytest.mark.parametrize("name", DESIGNS)
def test_every_example_of_a_figure_runs(name: str, command: Callable, tmp_path: Path) -> None:
    import shlex

    for k, line in enumerate(designs()[name].commands[1:]):  # the first are the defaults, drawn above
        path = tmp_path / f"{k}.svg"
        found = command(*shlex.split(line)[1:-1], str(path))
        assert (found.code, found.err) == (0, "")
        assert path.read_bytes().startswith(b"<?xml")


def test_python_and_the_command_line_make_one_figure(command: Callable, tmp_path: Path) -> None:
    path, other = tmp_path / "a.svg", tmp_path / "b.svg"
    assert command("figure", "curve", "x**2", "--at", "0.5", "--style", "dark", "--output", str(path)).code == 0
    gx.figures.save(gx.figures.curve("x**2", at=0.5, style="dark"), other)
    assert path.read_bytes() == other.read_bytes()


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext; apt-get install poppler-utils")
def test_the_words_of_a_pdf_can_be_read_and_its_fonts_are_sound(tmp_path: Path) -> None:
    gx.figures.save(painted("descent", "zh"), tmp_path / "a.pdf")
    done = subprocess.run(["pdftotext", tmp_path / "a.pdf", "-"], check=True, capture_output=True, text=True)
    assert "梯度下降" in done.stdout
    assert done.stderr == ""


def test_the_size_is_in_inches() -> None:
    figure = painted("curve", size=(4, 3))
    assert tuple(figure.get_size_inches()) == (4, 3)


# fmt: off
BAD = [
    # arguments, a word that the sentence must hold
    (["descent"], "--output"),
    (["descent", "--output", "a.docx"], "suffix"),
    (["descent", "--output", "/nowhere/at/all.svg"], "cannot be written"),
    (["descent", "--format", "gif", "--output", "a.svg"], "svg, png, pdf"),
    (["descent", "--lr", "0", "--output", "a.svg"], "--lr"),
    (["descent", "--lr", "a", "--output", "a.svg"], "numbers"),
    (["descent", "--steps", "999999", "--output", "a.svg"], "--steps"),
    (["descent", "--start", "nan", "--output", "a.svg"], "finite"),
    (["descent", "x**2 + y**2", "--output", "a.svg"], "2 variables"),
    (["descent", "x**", "--output", "a.svg"], "line 1"),
    (["descent", "__import__('os')", "--output", "a.svg"], "line 1"),
    (["descent", "log(x)", "--start", "-1", "--output", "a.svg"], "not finite"),
    (["descent", "--language", "fr", "--output", "a.svg"], "en, zh"),
    (["descent", "--style", "blue", "--output", "a.svg"], "light, dark"),
    (["descent", "--size", "1,1", "--output", "a.svg"], "--size"),
    (["descent", "--size", "5", "--output", "a.svg"], "items"),
    (["descent", "--size", "colum", "--output", "a.svg"], "it can be column, or finite numbers, as in --size 5,3"),
    (["descent", "--title", "$\\nothing{$", "--output", "a.svg"], "dollars"),
    (["descent", "x.detach()", "--output", "a.svg"], "No recorded operation leads"),
    (["surface", "x**2", "--output", "a.svg"], "needs 2"),
    (["surface", "--x-ends", "2,-2", "--output", "a.svg"], "empty"),
    (["surface", "--at", "9,9", "--output", "a.svg"], "outside"),
    (["surface", "log(x) + y", "--output", "a.svg"], "not finite"),
    (["surface", "--points", "5000", "--output", "a.svg"], "--points"),
    (["surface", "argmax(x) + y.detach()", "--output", "a.svg"], "No recorded operation leads"),
    (["curve", "1/x", "--at", "0", "--output", "a.svg"], "no finite real derivative"),
    (["curve", "--ends", "3,3", "--output", "a.svg"], "empty"),
    (["curve", "--at", "7", "--output", "a.svg"], "outside"),
    (["curve", "stack([x, x])", "--output", "a.svg"], "shape"),
    (["curve", "--order", "9", "--output", "a.svg"], "--order"),
    (["dimensions", "--n", "100", "--output", "a.svg"], "--n"),
    (["dimensions", "--at", "1,2", "--output", "a.svg"], "2 numbers"),
    (["dimensions", "x**2", "--output", "a.svg"], "reduce"),
    (["dimensions", "--at", "twos", "--output", "a.svg"], "twos"),
    (["proportional", "--at", "3,3", "--output", "a.svg"], "equal"),
    (["proportional", "--at", "randn(3,3)", "--output", "a.svg"], "in a row"),
    (["proportional", "sum(sqrt(x))", "--output", "a.svg"], "not finite"),
    (["step-error", "relu(x)*digamma(x)*sort(x).values", "--output", "a.svg"], "Sympy"),
    (["step-error", "sqrt(x)", "--at", "0", "--output", "a.svg"], "not finite"),
    (["step-error", "--powers", "0,-3", "--output", "a.svg"], "empty"),
    (["gradient-flow", "--networks", "relu,relu", "--output", "a.svg"], "twice"),
    (["gradient-flow", "--networks", "gelu", "--output", "a.svg"], "sigmoid, relu"),
    (["gradient-flow", "--depth", "1", "--output", "a.svg"], "--depth"),
    (["nonsense"], "nonsense"),
]
# fmt: on


@pytest.mark.parametrize(("arguments", "word"), BAD, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else None)
def test_bad_input_exits_2_with_one_sentence_and_writes_nothing(
    arguments: list[str], word: str, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = command("figure", *arguments)
    assert found.code == 2
    assert found.out == ""
    assert word in found.err
    assert "failed on its own account" not in found.err
    assert "Traceback" not in found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("surface", {"expression": "0*x + 0*y + 3", "points": 11}),
        ("surface", {"expression": "x*y", "x_ends": (0.0, 1.0), "y_ends": (1e6, 1e6 + 2), "points": 11}),
        ("surface", {"expression": "x**2 + y**2", "descent": 1.5, "steps": 500, "points": 11}),
        ("curve", {"expression": "0*x + 3"}),
        ("curve", {"expression": "x.sin()", "order": 4}),
        ("proportional", {"expression": "sum(0*x)"}),
        ("proportional", {"expression": "sum(x) * 1e300"}),
        ("dimensions", {"n": 12, "at": "randn(12)"}),
        ("dimensions", {"n": 1}),
        ("descent", {"lr": (5.0,), "steps": 1000}),
        ("descent", {"expression": "3*x"}),
        ("descent", {"expression": "-x**2", "lr": (0.1,)}),
        ("descent", {"start": -1.0}),
        ("step_error", {"expression": "3*x + 1", "at": 0.0, "density": 1}),
        ("gradient_flow", {"depth": 2, "width": 1, "batch": 1, "networks": ("linear", "tanh")}),
    ],
)
def test_extremes_are_drawn_or_refused_in_a_sentence(name: str, options: dict[str, Any]) -> None:
    with contextlib.suppress(GradexplainError):
        assert rendered(getattr(gx.figures, name)(**options), "png")


def test_options_of_python_are_checked_like_those_of_the_command_line() -> None:
    for options in ({"lr": (0.0,)}, {"steps": "many"}, {"language": "fr"}, {"lr": 0.1}):
        with pytest.raises(InputError):
            gx.figures.descent(**options)
    with pytest.raises(TypeError, match="speed"):
        gx.figures.descent(speed=3)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = gx.figures.nonsense
    assert DOTS < 96


def test_derivatives_that_are_zero_everywhere_are_numbers_as_well() -> None:
    """Torch returns the second derivative of |x| as a tensor without storage."""
    found = derivatives.curve("abs(x)", at=0.5, order=3)
    assert found.there == (0.5, 1.0, 0.0, 0.0)
    assert set(found.rows[2]) == {0.0}
    assert landscape.surface("abs(x) + y**2", at=(1.0, 0.5)).gradient == (1.0, 1.0)


@pytest.mark.parametrize(
    ("expression", "at", "sides"),
    [
        ("abs(x)", 0.0, (-1.0, 1.0)),
        ("relu(x)", 0.0, (0.0, 1.0)),
        ("abs(x)", 0.5, None),
        ("x**3", 1.0, None),
        ("abs(x)**1.5", 0.0, None),
        ("1000000*sin(x)", 1.0, None),
        ("x*0 + 7", 1.0, None),
    ],
)
def test_a_kink_is_told_from_a_point_with_a_tangent(expression: str, at: float, sides: Any) -> None:
    found = derivatives.curve(expression, at=at, order=1)
    assert found.sides == (None if sides is None else pytest.approx(sides, abs=1e-9))
    said = gx.figures.curve(expression, at=at, order=1).get_supxlabel()
    assert ("is a kink" in said) == (sides is not None)
