"""Lessons with other options than the usual ones, what they measure with, and errors planted in what they compute."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch

from gradexplain import lessons
from gradexplain.errors import InputError
from gradexplain.lessons.course import descent, frozen, matrix, step_error, training_step
from gradexplain.lessons.measures import alive, bytes_of, operators, watched
from gradexplain.lessons.symbols import gathered, straight, walked_back


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("three-ways", {"expression": "sin(x*exp(x))", "x": 0.5}),
        ("three-ways", {"expression": "tanh(w)**3 + w/7", "x": 1.7, "depth": 3}),
        ("three-ways", {"expression": "5*x - 1", "x": -3.0, "depth": 7}),
        ("step-error", {"function": "sin", "x": 1.25, "near": 3e-4}),
        ("step-error", {"function": "log", "x": 0.5, "near": 3e-5}),
        ("step-error", {"function": "exp", "x": 0.7, "near": 2.45e-4}),
        ("cost", {"n": 50, "size": 8, "outputs": 2}),
        ("cost", {"n": 2000, "size": 512, "outputs": 20}),
        ("differentiable", {"start": 9, "factor": 9.0}),
        ("differentiable", {"start": 1, "factor": 2.5}),
        ("graph", {"x": -7.3}),
        ("graph", {"x": 0.0}),
        ("chain-rule", {"x": 0.5, "depth": 10}),
        ("chain-rule", {"x": 100.0, "depth": 2}),
        ("vector", {"x": (0.0, 0.0)}),
        ("vector", {"x": (-7.3, 100.0, 0.1, 2.0, 5.0)}),
        ("matrix", {"b": (0.1, 7.0, -9.0, 3.0)}),
        ("matrix", {"b": (0.0, 1.0, 0.0, 0.0)}),
        ("higher-derivatives", {"x": -3.7}),
        ("higher-derivatives", {"x": 0.0}),
        ("stopping", {"x": 0.1}),
        ("stopping", {"x": 9.7}),
        ("training-step", {"lr": 1.0, "steps": 20}),
        ("training-step", {"lr": 1e-6, "steps": 1}),
        ("descent", {"lr": 1.01, "steps": 50}),
        ("descent", {"lr": 1.9, "steps": 500, "x0": -100.0}),
        ("descent", {"lr": 1e-6, "x0": 3.3}),
        ("descent", {"lr": 0.5, "x0": 0.1}),
        ("descent", {"lr": 0.1, "x0": -1.0, "steps": 1}),
        ("memory", {"rows": 8, "steps": 20}),
        ("memory", {"rows": 1024, "steps": 1}),
        ("frozen", {"layers": 8, "frozen": 1}),
        ("frozen", {"layers": 3, "frozen": 2}),
        ("gradient-flow", {"depth": 5}),
        ("gradient-flow", {"depth": 50}),
        ("batch-size", {"pieces": 16, "draws": 200}),
        ("mixed-precision", {"power": 20}),
        ("sum-of-squares", {"x": (0.0, -7.3, 0.1, 1000.0)}),
        ("dimensions", {"n": 8}),
        ("surface", {"points": 10, "at": (0.3, 1.7), "radius": 3.3}),
        ("losses", {"p": (1.0, 2.0), "t": (1.0, 2.0), "strength": 10.0}),
        ("weight-decay", {"strength": 0.5, "lr": 0.2, "steps": 50}),
        ("overflow", {"precision": "float32"}),
        ("vectorise", {"n": 500, "seeds": 20}),
        ("summary", {"a": 1e-3}),
        ("summary", {"a": 1e6}),
    ],
)
def test_a_lesson_is_true_for_other_options(name: str, options: dict[str, Any]) -> None:
    assert [claim for claim in lessons.run(name, **options).claims if not claim.holds] == []


def untrue(name: str) -> set[str]:
    return {claim.key for claim in lessons.run(name).claims if not claim.holds}


def test_a_learning_rate_that_is_a_little_off_is_outside_of_what_rounding_explains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true = descent._walk

    def wrong(lr: float, *arguments: Any, **options: Any) -> descent.Walk:
        walk = true(lr * (1 + 1e-5), *arguments, **options)
        return descent.Walk(lr, walk.points, walk.held)

    monkeypatch.setattr(descent, "_walk", wrong)
    assert {"every-step", "all-ends", "pendulum"} <= untrue("descent")


def test_a_slope_by_hand_without_its_factor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    true = training_step._slope
    monkeypatch.setattr(training_step, "_slope", lambda *a: (true(*a)[0] / 2, true(*a)[1]))
    assert untrue("training-step") == {"by-hand"}


def test_a_wrong_rule_of_which_nodes_are_recorded_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_recorded", lambda layers, trained: 4 * len(trained) + 2)
    assert untrue("frozen") == {"count"}


# What a lesson uses, made wrong: the claims that then fail.
PLANTED = {
    ("surface", "_tangents"): (  # turned by 1e-4
        lambda true: lambda *a: true(*a) @ torch.tensor([[1.0, 1e-4], [-1e-4, 1.0]], dtype=torch.float64),
        {"at-right-angles", "ellipse"},
    ),
    ("surface", "_trough"): (lambda true: lambda p: p[..., 0] ** 2 + 3.999 * p[..., 1] ** 2, {"not-every-bowl"}),
    ("weight-decay", "_PROOF"): (lambda true: true.replace("2 * strength", "strength"), {"difference-zero"}),
    ("batch-size", "_shares"): (lambda true: lambda sizes: torch.full((sum(sizes),), 1 / sum(sizes)), {"counts"}),
    ("batch-size", "_squared_errors"): (lambda true: lambda *a: 1.5 * true(*a), {"root", "equal"}),
    ("mixed-precision", "_TINY"): (lambda true: true / 2, {"below-limit", "half", "shares"}),
    ("sum-of-squares", "_stands_for"): (lambda true: lambda *a: true(*a)[:2], {"linked-all"}),
    ("gradient-flow", "_log_spread"): (lambda true: lambda recipe: true(recipe) + 0.2, {"predicted"}),
    ("nan", "_SAFE"): (lambda true: true.replace("sin(safe) / safe", "sin(safe) / x"), {"double-where"}),
    ("overflow", "_STABLE"): (lambda true: true.replace("logsumexp(x, 0)", "logsumexp(1.0001 * x, 0)"), {"stable"}),
    ("losses", "_ridge"): (lambda true: lambda strength: true(strength * 1.0001), {"descended-right"}),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("lesson", "name"), PLANTED)
def test_a_planted_error_is_seen_by_the_claims_about_it(
    lesson: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, seen = PLANTED[lesson, name]
    module = importlib.import_module(f"gradexplain.lessons.course.{lesson.replace('-', '_')}")
    monkeypatch.setattr(module, name, wrong(getattr(module, name)))
    assert untrue(lesson) == seen


@pytest.mark.parametrize("run", [torch.exp, torch.tanh, torch.sin])
def test_what_is_kept_is_alive_exactly_as_long_as_its_graph(run: Callable) -> None:
    x = torch.ones(6, requires_grad=True)
    with watched() as kept:
        y = run(x)
    assert bytes_of(alive(kept)) == 6 * 4
    y.sum().backward()
    assert alive(kept) == []
    assert torch.equal(x.grad, torch.autograd.grad(run(x).sum(), x)[0])
    with watched() as kept:
        y = run(x)
    del y
    assert alive(kept) == []


def test_operators_are_counted_forward_and_backward() -> None:
    a, b = torch.ones(2, 3, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    assert operators(lambda: torch.mm(a, b).sum().backward())["mm"] == 3
    assert operators(lambda: torch.mm(a.detach(), b).sum().backward())["mm"] == 2


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("three-ways", {"expression": "x*z"}, "has the variables x, z"),
        ("three-ways", {"expression": "relu(x)"}, "aten.relu.default"),
        ("three-ways", {"expression": "x"}, "no operation"),
        ("three-ways", {"expression": "log(x)", "x": -1.0}, "is nan at -1"),
        ("three-ways", {"expression": "sqrt(x)", "x": 0.0}, "with the derivative inf"),
        ("matrix", {"b": (2.0, 1.0, 1.0, 3.0)}, "is symmetric"),
    ],
)
def test_a_lesson_says_what_it_does_not_take(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        lessons.run(name, **options)


def test_a_graph_walked_back_line_by_line_has_the_derivatives_of_the_whole() -> None:
    program = straight("sigmoid(2*x - 1) / x + x", torch.tensor(0.7, dtype=torch.float64))
    sent = walked_back(program)
    x = sympy.Symbol("x", real=True)
    assert gathered(sent, "x") == pytest.approx(float(sympy.diff(program.expression, x).subs(x, 0.7)), rel=1e-14)


def test_a_wrong_rule_for_a_product_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matrix._CANDIDATES, "C̄ @ B.T", lambda B, C: C @ B)
    assert {"one-left", "shapes-tell"} <= untrue("matrix")


def test_steps_that_are_chosen_badly_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    true = step_error._central
    monkeypatch.setattr(step_error, "_central", lambda f, x, h, *dtype: true(f, x, 100 * h, *dtype))
    assert "bottom-central" in untrue("step-error")


def test_an_exercise_that_there_is_not_is_refused_without_an_answer_too(command) -> None:
    found = command("lesson", "chain-rule", "--exercise", "99")
    assert (found.code, found.out) == (2, "")
    assert "chain-rule has no exercise 99" in found.err
