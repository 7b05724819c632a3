"""Gradient descent: where each step leads, for several learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from gradexplain.figures.design import Design
from gradexplain.figures.expressions import OF_ONE, Formula, at_points, finite, formula, symbolic
from gradexplain.figures.parameters import Count, Range
from gradexplain.figures.style import DASHES, MARKS, Style, below, logarithmic, number, plain
from gradexplain.figures.typesetting import titled

# A path that leaves the others this many times behind would flatten them to a line.
_FAR = 3.0
# The largest loss that is drawn; of an axis that ends near 1e308, matplotlib cannot compute the next tick.
_MOST = 1e200


@dataclass(frozen=True)
class Path:
    """One descent: its points and losses until they are no more finite, and what mathematics says of them.

    `factor` is 1 − lr·f″, by which a quadratic's distance to its minimum changes in one step, and `exact` where its
    points are by the closed form x* + (x₀ − x*)·(1 − lr·f″)ᵏ; neither exists for another function.
    """

    lr: float
    points: tuple[float, ...]
    losses: tuple[float, ...]
    factor: float | None = None
    exact: tuple[float, ...] = ()

    @property
    def apart(self) -> float | None:
        """How far a point is from the closed form at most, as a part of its size or of the start's."""
        scale = max(1.0, abs(self.points[0]))
        pairs = zip(self.points, self.exact, strict=True)
        return max(abs(x - e) / max(abs(e), scale) for x, e in pairs) if self.exact else None


@dataclass(frozen=True)
class Descent:
    """Several descents from one start; `minimum` is (x*, f(x*)) of a quadratic that has one."""

    expression: str
    variable: str
    start: float
    steps: int
    paths: tuple[Path, ...]
    minimum: tuple[float, float] | None


def descent(
    expression: Annotated[str, "A function of one variable.", OF_ONE] = "x**2 + 2*x",
    *,
    start: Annotated[float, "Where every path starts."] = 1.0,
    lr: Annotated[tuple[float, ...], "Learning rates.", Range(above=0), Count(most=8)] = (0.1, 0.8, 1.01),
    steps: Annotated[int, "Steps of each path.", Range(1, 2000)] = 20,
    dtype: Annotated[Literal["float32", "float64"], "Type that torch computes in."] = "float64",
) -> Descent:
    """Gradient descent: path and loss for several learning rates.

    Of a quadratic, the closed form is drawn beside what torch did, and the legend has the factor by which every step
    shrinks or stretches the distance to the minimum.
    """
    f = formula(expression, 1)
    quadratic = _quadratic(f)
    paths = tuple(_path(f, rate, start, steps, dtype, quadratic) for rate in lr)
    minimum = quadratic.minimum if quadratic and quadratic.bend > 0 else None
    return Descent(f.text, f.variables[0], start, steps, paths, minimum)


@dataclass(frozen=True)
class _Quadratic:
    """f″, and x* with f(x*)."""

    bend: float
    minimum: tuple[float, float]


def _quadratic(f: Formula) -> _Quadratic | None:
    """Returns the quadratic that sympy finds the function to be, or `None`."""
    import sympy as sp

    known = symbolic(f)
    if known is None:
        return None
    expression, (x,) = known
    try:
        c, b, a = sp.Poly(expression, x).all_coeffs()[::-1]
    except (sp.PolynomialError, ValueError):
        return None
    lowest = -b / (2 * a)
    return _Quadratic(float(2 * a), (float(lowest), float(c - b**2 / (4 * a))))


def _path(f: Formula, lr: float, start: float, steps: int, dtype: str, quadratic: _Quadratic | None) -> Path:
    import torch

    x = torch.tensor([start], dtype=getattr(torch, dtype))
    points, losses = [], []
    for k in range(steps + 1):
        loss, (gradient,) = at_points(f, [x])
        if k == 0:
            finite(f, torch.cat([loss, gradient]), [torch.cat([x, x])])
        if not math.isfinite(float(loss)) or not bool(x.isfinite().all()):
            break
        points.append(float(x))
        losses.append(float(loss))
        x = x - lr * gradient
    if quadratic is None:
        return Path(lr, tuple(points), tuple(losses))
    factor, lowest = 1 - lr * quadratic.bend, quadratic.minimum[0]
    exact = (lowest + (points[0] - lowest) * factor**k for k in range(len(points)))
    return Path(lr, tuple(points), tuple(losses), factor, tuple(exact))


# ----------------------------------------------------------------------------------------------------------- painting


def paint(data: Descent, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints the points and the losses of every path by its step; returns what is to be said below."""
    left, right = axes
    _paint_points(data, left, style)
    _paint_losses(data, right, style)
    style.legend(right, of=(left,))
    return [*_said(data, style)]


def _paint_points(data: Descent, axes: Any, style: Style) -> None:
    for k, path in enumerate(data.paths):
        every = _every(path)
        label = style.say("descent_rate", lr=number(path.lr))
        if path.factor is not None:
            label = style.say("descent_factor", lr=number(path.lr), factor=number(path.factor))
        axes.plot(
            range(len(path.points)), path.points, MARKS[k % len(MARKS)], markevery=every,
            linestyle=DASHES[k % len(DASHES)], linewidth=1.2, color=style.colour(k), label=label, markersize=4.5,
        )  # fmt: skip
        if path.exact:
            axes.plot(
                range(0, len(path.exact), every), path.exact[::every], "o", markersize=8.5, fillstyle="none",
                markeredgewidth=0.7, color=style.palette.ink, alpha=0.75, zorder=1.5,
                label=style.say("descent_exact") if k == len(data.paths) - 1 else None,
            )  # fmt: skip
    axes.set_ylim(*_window(data))
    axes.set_xlabel(style.say("step_k"))
    axes.set_ylabel(f"{data.variable}ₖ")
    style.head(axes, style.say("descent_points", expression=titled(data.expression, 24)))
    plain(axes.xaxis, axes.yaxis)


def _every(path: Path) -> int:
    """Returns every how many steps a mark stands: an odd number, or points that jump to and fro would show one side."""
    return len(path.points) // 50 * 2 + 1


def _window(data: Descent) -> tuple[float, float]:
    """Returns the part of the axis that is shown: what the paths that stay near reach, and a part of the others."""
    lowest = data.minimum[0] if data.minimum else data.start
    reach = [max(abs(x - lowest) for x in path.points) for path in data.paths]
    least = max(abs(data.start - lowest), min(reach))
    most = max(r for r in reach if r <= _FAR * least or r == min(reach)) or 1.0
    inside = [x for path in data.paths for x in path.points if abs(x - lowest) <= most * 1.0001]
    low, high = min(inside), max(inside)
    margin = 0.08 * ((high - low) or 1.0)
    return low - margin, high + margin


def _paint_losses(data: Descent, axes: Any, style: Style) -> None:
    base = data.minimum[1] if data.minimum else 0.0
    positive = data.minimum is not None or all(loss > 0 for path in data.paths for loss in path.losses)
    for k, path in enumerate(data.paths):
        above = [loss - base for loss in path.losses]
        seen = [a if a > 0 or not positive else math.nan for a in above]
        every = _every(path)
        axes.plot(
            range(len(seen)), seen, MARKS[k % len(MARKS)], markevery=every, linestyle=DASHES[k % len(DASHES)],
            linewidth=1.2, color=style.colour(k), markersize=4.5,
        )  # fmt: skip
    if positive:
        heights = [loss - base for path in data.paths for loss in path.losses if loss > base] or [1.0]
        axes.set_ylim(min(heights) / 3, min(max(heights), _MOST) * 3)
        logarithmic(axes)
    else:
        plain(axes.yaxis)
    plain(axes.xaxis)
    axes.set_xlabel(style.say("step_k"))
    f = f"f({data.variable}ₖ)"
    axes.set_ylabel(f"{f} − f*" if data.minimum else f)
    style.head(axes, style.say("descent_gap" if data.minimum else "descent_loss"))


def _said(data: Descent, style: Style) -> Any:
    if data.minimum:
        x, y = data.minimum
        yield style.say("descent_minimum", x=f"{data.variable}* = {number(x)}", y=number(y))
    apart = [path.apart for path in data.paths if path.apart is not None]
    if apart:
        yield style.say("descent_apart", most=below(max(apart)))
    for path in data.paths:
        reached = next((k for k, loss in enumerate(path.losses) if data.minimum and loss <= data.minimum[1]), None)
        if reached is not None:
            yield style.say("descent_reached", lr=number(path.lr), step=reached)
        if len(path.points) <= data.steps:
            yield style.say("descent_left", lr=number(path.lr), step=len(path.points))


DESIGN = Design(
    "descent",
    descent,
    paint,
    (("", ""),),
    (10.0, 4.6),
    ("", "--lr 0.1,0.5,1.01 --steps 50", '"x**4 - 2*x**2" --start 1.8 --lr 0.01,0.05,0.1 --language zh'),
)
