"""The error of numerical differentiation by its step: truncation falls with the step, rounding grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.expressions import OF_ONE, Formula, at_points, finite, formula, interval, symbolic, values
from gradexplain.figures.parameters import Count, Range
from gradexplain.figures.style import Style, logarithmic, number
from gradexplain.figures.typesetting import titled
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("forward", "central")
_DIGITS = 60


@dataclass(frozen=True)
class Slope:
    """One way to the derivative: the step of each error, and the size of its truncation error.

    By Taylor's formula, truncation is `coefficient`·h**`power`, but for higher powers of h: h·|f″|/2 for forward
    differences, h²·|f‴|/6 for central ones.
    """

    method: str
    errors: tuple[float, ...]
    coefficient: float
    power: int

    def truncation(self, h: float) -> float:
        """Returns the truncation error at a step, to first order."""
        return self.coefficient * h**self.power

    @property
    def best(self) -> int:
        """Which step has the smallest error."""
        return min(range(len(self.errors)), key=self.errors.__getitem__)


@dataclass(frozen=True)
class Precision:
    """One type of number: `point` is the point as that type holds it, `true` the derivative there by sympy.

    `automatic` is the error of torch's gradient. `noise`/h is what the rounding of two values, and of x + h, makes of a
    difference: ε·(|f| + |x·f′|). The first `still` steps are so small that x + h and x − h are x: there is no
    difference.
    """

    dtype: str
    epsilon: float
    point: float
    true: float
    noise: float
    automatic: float
    still: int
    slopes: tuple[Slope, ...]


@dataclass(frozen=True)
class StepError:
    """Errors of differences by step, in each type, beside the error of automatic differentiation."""

    expression: str
    variable: str
    at: float
    steps: tuple[float, ...]
    precisions: tuple[Precision, ...]


def step_error(
    expression: Annotated[str, "A function of one variable that sympy can differentiate.", OF_ONE] = "x**3",
    *,
    at: Annotated[float, "The point."] = 0.7,
    dtypes: Annotated[
        tuple[Literal["float64", "float32"], ...], "The types that torch computes in, two of them.", Count(2, 2)
    ] = ("float64", "float32"),
    powers: Annotated[tuple[int, ...], "The steps, as powers of ten.", Range(-30, 6), Count(2, 2)] = (-16, 0),
    density: Annotated[int, "Steps for each power of ten.", Range(1, 40)] = 6,
) -> StepError:
    """Error of numerical differentiation against step size, beside automatic differentiation.

    Forward and central differences are computed by torch at every step; the true derivative is sympy's, with 60 digits,
    at the number that the type really holds. No step makes a difference as exact as torch's gradient.
    """
    f = formula(expression, 1)
    low, high = interval("powers", powers)
    steps = tuple(10.0 ** (k / density) for k in range(int(low) * density, int(high) * density + 1))
    exact = _exact(f)
    return StepError(f.text, f.variables[0], at, steps, tuple(_precision(f, at, d, steps, exact) for d in dtypes))


Exact = Callable[[int, float], Any]


def _exact(f: Formula) -> Exact:
    """Returns sympy's k-th derivative at a float, with 60 digits."""
    import sympy as sp

    known = symbolic(f)
    if known is None:
        raise InputError("figure_not_in_sympy", text=shown(f.text))
    expression, (x,) = known
    derivatives = [expression]
    for _ in range(3):
        derivatives.append(sp.diff(derivatives[-1], x))

    def at(order: int, point: float) -> Any:
        value = sp.N(derivatives[order].subs(x, sp.Rational(point)), _DIGITS)
        if not (value.is_real and value.is_finite):
            raise InputError("figure_no_derivative", text=shown(f.text), at=f"{x} = {number(point)}")
        return value

    return at


def _precision(f: Formula, at: float, dtype: str, steps: Sequence[float], exact: Exact) -> Precision:
    import torch

    x = torch.tensor([at], dtype=getattr(torch, dtype))
    h = torch.tensor(steps, dtype=x.dtype)
    point, epsilon = float(x), float(torch.finfo(x.dtype).eps)
    value, (gradient,) = at_points(f, [x])
    finite(f, torch.cat([value, gradient]), [torch.cat([x, x])])
    y, true = (exact(order, point) for order in (0, 1))
    ahead, behind = (finite(f, values(f, [x + s * h]), [x + s * h]) for s in (1, -1))

    def errors(differences: Tensor) -> tuple[float, ...]:
        return tuple(float(abs(d - true)) for d in differences.double().tolist())

    slopes = (
        Slope("forward", errors((ahead - value) / h), float(abs(exact(2, point))) / 2, 1),
        Slope("central", errors((ahead - behind) / (2 * h)), float(abs(exact(3, point))) / 6, 2),
    )
    noise = epsilon * float(abs(y) + abs(point * true))
    still = int(((x + h == x) & (x - h == x)).sum())  # the steps rise
    return Precision(dtype, epsilon, point, float(true), noise, float(abs(float(gradient) - true)), still, slopes)


# ----------------------------------------------------------------------------------------------------------- painting


def paint(data: StepError, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints the errors, a panel for each type, with one scale; returns what is to be said below."""
    low, high = _heights(data)
    for panel, precision in zip(axes, data.precisions, strict=True):
        _paint_lines(data, precision, panel, style, low, high)
        for k, (slope, mark, size) in enumerate(zip(precision.slopes, "os", (5.5, 3.0), strict=True)):
            heights = [max(e, low) if i >= precision.still else math.nan for i, e in enumerate(slope.errors)]
            label = style.say(f"difference_{slope.method}")
            panel.plot(data.steps, heights, mark, color=style.colour(k), markersize=size, label=label, zorder=3)
        panel.set_ylim(low, high)
        panel.set_xlim(data.steps[0] / 2, data.steps[-1] * 2)
        for which in "xy":
            logarithmic(panel, which)
        if precision.still:
            first = data.steps[min(precision.still, len(data.steps) - 1)]
            panel.axvspan(
                data.steps[0] / 2, first * 0.8, color=style.palette.grid, label=style.say("step_still"), zorder=0
            )
        panel.set_xlabel(style.say("step_h"))
        style.head(panel, f"{titled(data.expression, 20)}, {precision.dtype} (ε = {number(precision.epsilon, 2)})")
    axes[0].set_ylabel(style.say("error_of_derivative"))
    style.legend(axes[-1], of=axes)
    where = f"{data.variable} = {number(data.at)}"
    said = [style.say("step_error_title", at=where)]
    return [*said, *_said(data, style)]


def _heights(data: StepError) -> tuple[float, float]:
    """Returns the ends of the common axis: all errors but 0, which stand on its lower edge."""
    errors = [e for p in data.precisions for s in p.slopes for e in s.errors]
    seen = [e for e in (*errors, *(p.automatic for p in data.precisions)) if e > 0] or [1.0]
    least = min([*seen, *(p.epsilon * abs(p.true) / 4 for p in data.precisions if p.true)])
    return least / 5, max(seen) * 10


def _paint_lines(data: StepError, precision: Precision, panel: Any, style: Style, low: float, high: float) -> None:
    ends = (data.steps[0], data.steps[-1])
    for k, slope in enumerate(precision.slopes):
        if slope.coefficient:
            heights = [slope.truncation(h) for h in data.steps]
            inside = [(h, y) for h, y in zip(data.steps, heights, strict=True) if low <= y <= high]
            label = style.say(f"truncation_{slope.method}")
            panel.plot(*zip(*inside, strict=True), color=style.colour(k), linewidth=1.3, linestyle=(0, (5, 2)),
                       label=label)  # fmt: skip
    panel.plot(
        ends, [precision.noise / h for h in ends], color=style.palette.soft, linewidth=1.3, linestyle=(0, (1, 1.5)),
        label=style.say("rounding_line"),
    )  # fmt: skip
    height = max(precision.automatic, low * 1.15)
    panel.axhline(height, color=style.colour(2), linewidth=2.4, label=style.say("automatic"))


def _said(data: StepError, style: Style) -> Any:
    for precision in data.precisions:
        best = [(s, s.best) for s in precision.slopes]
        parts = [
            style.say("step_best", method=style.say(f"difference_{s.method}"), error=number(s.errors[k], 2),
                      h=number(data.steps[k], 2))
            for s, k in best
        ]  # fmt: skip
        joined = style.say("semicolon").join(
            [*parts, style.say("automatic_error", error=number(precision.automatic, 2))]
        )
        yield f"{precision.dtype}{style.say('colon')}{joined}"
    for slope in data.precisions[0].slopes:
        if not slope.coefficient:
            yield style.say(f"no_truncation_{slope.method}")
    if any(e == 0 for p in data.precisions for s in p.slopes for e in s.errors):
        yield style.say("errors_of_0")


DESIGN = Design(
    "step-error", step_error, paint, (("", ""),), (10.6, 4.6),
    ("", '"sin(x)*exp(x)" --at 1', '"x**2 + 2*x" --at 3 --style dark --language zh'),
)  # fmt: skip
