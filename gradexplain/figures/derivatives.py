"""A function of one variable, its derivatives, and the tangent at a point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.discontinuities import Break, breaks, middle
from gradexplain.figures.expressions import OF_ONE, Formula, formula, interval, slopes, spaced, values
from gradexplain.figures.parameters import Count, Range
from gradexplain.figures.style import DASHES, Style, number, plain
from gradexplain.figures.typesetting import titled
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST = 4
_PRIMES = ("", "′", "″", "‴", "⁗")
# Of two derivatives that are one number at a point, what rounding alone may leave between them.
_ROUNDING = 64 * 2.0**-52
# Rows whose sizes differ by more than this have a panel each, but for what is 0 beside the others.
_SCALES, _NOTHING = 10.0, 1e-12
# More jumps than this have no circles.
_CIRCLES = 12


@dataclass(frozen=True)
class Curve:
    """A function and its derivatives: `rows[k]` is the k-th on the points `x`, `there[k]` at the point `at`.

    `breaks[k]` are the places where the k-th is not continuous, and `windows[k]` the heights in which it is shown: all
    of its own, or most of them where it has no finite limit somewhere. `coincide` has the pairs of orders whose values
    at the point are one number other than 0. At a kink, `sides` has the slopes from the left and from the right.
    """

    expression: str
    variable: str
    x: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    at: float
    there: tuple[float, ...]
    breaks: tuple[tuple[Break, ...], ...]
    windows: tuple[tuple[float, float], ...]
    sides: tuple[float, float] | None = None

    @property
    def apart(self) -> bool:
        """Whether one scale would make a line at 0 of one of the rows."""
        sizes = [max(map(abs, window)) for window in self.windows]
        return any(_NOTHING * max(sizes) < size < max(sizes) / _SCALES for size in sizes)

    @property
    def coincide(self) -> tuple[tuple[int, int], ...]:
        """The pairs of orders that the point does not tell apart."""
        orders = range(len(self.there))
        return tuple((j, k) for k in orders for j in range(k) if _same(self.there[j], self.there[k]))


def _same(a: float, b: float) -> bool:
    return a != 0 and abs(a - b) <= _ROUNDING * max(abs(a), abs(b))


def curve(
    expression: Annotated[str, "A function of one variable.", OF_ONE] = "x**3",
    *,
    at: Annotated[float, "Where the tangent touches."] = 1.0,
    order: Annotated[int, "The highest derivative.", Range(1, HIGHEST)] = 2,
    ends: Annotated[tuple[float, ...], "The range of the variable.", Count(2, 2)] = (-2.0, 2.0),
    points: Annotated[int, "Points of each curve.", Range(11, 5001)] = 201,
) -> Curve:
    """A function of one variable with its derivatives, and the tangent at a point.

    Every derivative is torch's: each is the backward pass of the one before. Where two of them are one number at the
    point, this is said, for such a point cannot tell a right formula from a wrong one.
    """
    return curve_of(formula(expression, 1), at, order, ends, points)


def curve_of(f: Formula, at: float, order: int, ends: Sequence[float], points: int) -> Curve:
    """Returns a function with its derivatives up to `order` between two ends; see `curve`."""
    import torch

    low, high = interval("ends", ends)
    if not low <= at <= high:
        raise InputError("figure_point_outside", name="at", point=number(at), low=number(low), high=number(high))
    x = spaced(low, high, points)

    def rows_at(points: Tensor) -> list[Tensor]:
        return _derivatives(f, points, order)

    there = [float(row[0]) for row in rows_at(torch.tensor([at], dtype=torch.float64))]
    if not all(map(math.isfinite, there)):
        raise InputError("figure_no_derivative", text=shown(f.text), at=f"{f.variables[0]} = {number(at)}")
    rows, broken = rows_at(x), breaks(rows_at, x)
    windows = tuple(_window(*of) for of in zip(rows, broken, there, strict=True))
    return Curve(
        f.text, f.variables[0], tuple(x.tolist()), tuple(tuple(row.tolist()) for row in rows), at, tuple(there), broken,
        windows, _sides(f, at, high - low),
    )  # fmt: skip


def _window(row: Tensor, broken: Sequence[Break], there: float) -> tuple[float, float]:
    """Returns the heights in which a row is shown: with what it is at the point, in any case."""
    if any(b.singular for b in broken):
        low, high = middle(row)
    else:
        finite = row[row.isfinite()]
        low, high = float(finite.min()), float(finite.max())
    return min(low, there), max(high, there)


def _sides(f: Formula, at: float, span: float) -> tuple[float, float] | None:
    """Returns the slopes to the left and to the right of a point, by values alone, where it is a kink.

    Where there is a derivative, the two come together as the step shrinks: halved, their difference falls to a half, or
    to √½ where the curvature is infinite. At a kink it stays. Rounding leaves a difference too, of ε·|f| over a step.
    """
    import torch

    step = span * 2.0**-17
    points = at + step * torch.tensor([-2, -1, 0, 1, 2], dtype=torch.float64)
    farther, left, here, right, farthest = values(f, [points]).tolist()
    near = (here - left) / step, (right - here) / step
    wide = (here - farther) / (2 * step), (farthest - here) / (2 * step)
    rounding = 64 * 2.0**-52 * max(map(abs, (left, here, right))) / step
    return near if abs(near[1] - near[0]) > max(0.75 * abs(wide[1] - wide[0]), rounding) else None


def _derivatives(f: Formula, x: Tensor, order: int) -> list[Tensor]:
    """Returns a function and its derivatives at points; what is not finite stays so."""
    import torch

    leaf = x.clone().requires_grad_()
    row = values(f, [leaf])
    rows = [row]
    for k in range(order):
        # Of a constant nothing was recorded any more, and its derivative is 0.
        row = slopes(f, row, [leaf], again=True)[0] if row.requires_grad or k == 0 else torch.zeros_like(x)
        rows.append(row)
    # The backward of log has numbers where log has none.
    return [row.detach().where(~rows[0].isnan(), math.nan) for row in rows]


# ----------------------------------------------------------------------------------------------------------- painting


def paint(data: Curve, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints the function, its derivatives and the tangent, on one panel or on one each; returns what is to be said."""
    panels = axes if len(axes) == len(data.rows) else [axes[0]] * len(data.rows)
    for panel in axes:
        panel.axhline(0, color=style.palette.soft, linewidth=0.8)
        panel.axvline(data.at, color=style.palette.soft, linewidth=0.8, linestyle=(0, (2, 3)))
        panel.set_xlim(*_wider(data.x[0], data.x[-1]))
    for k, panel in enumerate(panels):
        _paint_row(data, k, panel, style, alone=len(axes) > 1)
    _paint_tangent(data, panels[0], style)
    for panel in axes:
        shown_here = [k for k, other in enumerate(panels) if other is panel]
        if any(b.singular for k in shown_here for b in data.breaks[k]):
            windows = [data.windows[k] for k in shown_here]
            panel.set_ylim(*_wider(min(low for low, _ in windows), max(high for _, high in windows)))
        plain(panel.xaxis, panel.yaxis)
        if not style.column:
            style.legend(panel)
        if panel is not axes[-1]:
            panel.tick_params(labelbottom=False)
    if style.column:
        style.legend(axes[-1], of=axes)
    axes[-1].set_xlabel(data.variable)
    if len(axes) == 1:
        axes[0].set_ylabel(style.say("curve_values"))
    style.head(axes[0], style.say("curve_title", expression=titled(data.expression)))
    return [*_said(data, style)]


def _wider(low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _paint_row(data: Curve, k: int, panel: Any, style: Style, *, alone: bool) -> None:
    colour = style.colour(k)
    panel.plot(
        *broken(data, k), color=colour, linestyle=DASHES[k], linewidth=2.2 if k == 0 else 1.7,
        label=f"f{_PRIMES[k]}({number(data.at)}) = {number(data.there[k])}",
    )  # fmt: skip
    jumps = [b for b in data.breaks[k] if not b.singular]
    for b in jumps if len(jumps) <= _CIRCLES else ():
        for height in (b.left, b.right):
            panel.plot([b.x], [height], "o", markeredgecolor=colour, markerfacecolor=style.palette.paper, zorder=4)
        if b.value is not None:
            panel.plot([b.x], [b.value], "o", color=colour, zorder=4.5)
    # Of points on one spot, that of a lower order is the larger.
    under = 0 if alone else sum(_same(data.there[k], v) or data.there[k] == v for v in data.there[k + 1 :])
    panel.plot([data.at], [data.there[k]], "o", color=colour, markersize=6 + 4 * under, zorder=4.5)
    if alone:
        panel.set_ylabel(f"f{_PRIMES[k]}")


def broken(data: Curve, k: int) -> tuple[list[float], list[float]]:
    """Returns the points of a row's line, with its limits at every break and a gap between them."""
    points = [(x, y) for x, y in zip(data.x, data.rows[k], strict=True) if x not in {b.x for b in data.breaks[k]}]
    for b in data.breaks[k]:
        near = b.beside if b.singular else 0.0
        points += [(b.x - near, b.left), (b.x, math.nan), (b.x + near, b.right)]
    # At a jump all three stand at one place; sorting keeps those of one place in their order.
    points.sort(key=lambda point: point[0])
    xs, ys = zip(*points, strict=True)
    return list(xs), list(ys)


def _paint_tangent(data: Curve, panel: Any, style: Style) -> None:
    slope, span = data.there[1], 0.3 * (data.x[-1] - data.x[0])
    ends = [max(data.x[0], data.at - span), min(data.x[-1], data.at + span)]
    kink = data.sides is not None
    panel.plot(
        ends, [data.there[0] + slope * (x - data.at) for x in ends], color=style.palette.ink, linewidth=1.2, zorder=3,
        linestyle=(0, (2, 2)) if kink else "solid",
        label=style.say("curve_slope" if kink else "curve_tangent", slope=number(slope)),
    )  # fmt: skip


def _said(data: Curve, style: Style) -> Iterator[str]:
    at = f"{data.variable} = {number(data.at)}"
    if data.sides is not None:
        left, right = (number(round(side, 4)) for side in data.sides)
        yield style.say("curve_kink", at=at, left=left, right=right, chosen=number(data.there[1]))
    for k, broken in enumerate(data.breaks):
        singular = [b.x for b in broken if b.singular]
        if singular and not any(b.singular for earlier in data.breaks[:k] for b in earlier):
            places = style.say("comma").join(number(x) for x in singular[:_CIRCLES])
            more = "" if len(singular) <= _CIRCLES else ", …"
            yield style.say("curve_singular", row=f"f{_PRIMES[k]}", at=f"{data.variable} = {places}{more}")
    for k, row in enumerate(data.rows):
        missing = [x for x, y in zip(data.x, row, strict=True) if not math.isfinite(y)]
        if len(missing) > sum(b.x in missing for b in data.breaks[k]):
            ends = {"low": number(missing[0]), "high": number(missing[-1]), "count": len(missing)}
            yield style.say("curve_missing", row=f"f{_PRIMES[k]}", x=data.variable, total=len(data.x), **ends)
            break
    for j, k in data.coincide:
        yield style.say("curve_coincide", a=f"f{_PRIMES[j]}", b=f"f{_PRIMES[k]}", value=number(data.there[k]), at=at)


def advise(data: Curve) -> list[tuple[str, Mapping[str, object]]]:
    """Returns the advice to choose another point, where this one cannot tell two derivatives apart."""
    return [("curve_another", {"at": f"{data.variable} = {number(data.at)}"})] if data.coincide else []


DESIGN = Design(
    "curve", curve, paint, (("",),), (7.8, 4.6),
    ("", '"x**2 + 2*x" --at 3 --order 1 --ends -4,4', '"sin(x)*exp(-x/2)" --order 3 --ends 0,8 --at 2 --language zh'),
    advise=advise, split=lambda data: len(data.rows) if data.apart else 1,
)  # fmt: skip
