"""A function of one variable, its derivatives, and the tangent at a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.expressions import OF_ONE, Formula, finite, formula, interval, slopes, spaced, values
from gradexplain.figures.parameters import Count, Range
from gradexplain.figures.style import DASHES, Style, beside, number, plain, titled

HIGHEST = 4
_PRIMES = ("", "′", "″", "‴", "⁗")
# Of two derivatives that are one number at a point, what rounding alone may leave between them.
_ROUNDING = 64 * 2.0**-52


@dataclass(frozen=True)
class Curve:
    """A function and its derivatives: `rows[k]` is the k-th on the points `x`, `there[k]` at the point `at`.

    `coincide` has the pairs of orders whose values at the point are one number other than 0. At a kink, `sides` has the
    slopes from the left and from the right.
    """

    expression: str
    variable: str
    x: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    at: float
    there: tuple[float, ...]
    sides: tuple[float, float] | None = None

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
    import torch

    f = formula(expression, 1)
    low, high = interval("ends", ends)
    if not low <= at <= high:
        raise InputError("figure_point_outside", name="at", point=number(at), low=number(low), high=number(high))
    x = spaced(low, high, points)
    rows = _derivatives(f, torch.cat([x, torch.tensor([at], dtype=torch.float64)]), order)
    there = tuple(row[-1] for row in rows)
    return Curve(
        f.text, f.variables[0], tuple(x.tolist()), tuple(row[:-1] for row in rows), at, there, _sides(f, at, high - low)
    )


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


def _derivatives(f: Formula, x: Any, order: int) -> list[tuple[float, ...]]:
    import torch

    leaf = x.clone().requires_grad_()
    row = values(f, [leaf])
    rows = [row]
    for k in range(order):
        # Of a constant nothing was recorded any more, and its derivative is 0.
        row = slopes(f, row, [leaf], again=True)[0] if row.requires_grad or k == 0 else torch.zeros_like(x)
        rows.append(row)
    return [tuple(finite(f, row.detach(), [x]).tolist()) for row in rows]


def paint(data: Curve, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints the function, its derivatives and the tangent; returns what is to be said below."""
    (panel,) = axes
    slope, height = data.there[1], data.there[0]
    panel.axhline(0, color=style.palette.soft, linewidth=0.8)
    for k, row in enumerate(data.rows):
        panel.plot(
            data.x, row, color=style.colour(k), linestyle=DASHES[k], linewidth=2.2 if k == 0 else 1.7,
            label=f"f{_PRIMES[k]}({number(data.at)}) = {number(data.there[k])}",
        )  # fmt: skip
        panel.plot([data.at], [data.there[k]], "o", color=style.colour(k), markersize=6, zorder=4)
    span = 0.3 * (data.x[-1] - data.x[0])
    tangent = [max(data.x[0], data.at - span), min(data.x[-1], data.at + span)]
    panel.plot(
        tangent, [height + slope * (x - data.at) for x in tangent], color=style.palette.ink, linewidth=1.2, zorder=3,
        label=style.say("curve_tangent", slope=number(slope)),
    )  # fmt: skip
    panel.axvline(data.at, color=style.palette.soft, linewidth=0.8, linestyle=(0, (2, 3)))
    panel.set_xlabel(data.variable)
    panel.set_ylabel(style.say("curve_values"))
    panel.set_title(style.say("curve_title", expression=titled(data.expression)))
    plain(panel.xaxis, panel.yaxis)
    beside(panel)
    kink = [] if data.sides is None else [
        style.say("curve_kink", at=f"{data.variable} = {number(data.at)}", left=number(round(data.sides[0], 4)),
                  right=number(round(data.sides[1], 4)), chosen=number(data.there[1]))
    ]  # fmt: skip
    return kink + [
        style.say("curve_coincide", a=f"f{_PRIMES[j]}", b=f"f{_PRIMES[k]}", value=number(data.there[k]),
                  at=f"{data.variable} = {number(data.at)}")
        for j, k in data.coincide
    ]  # fmt: skip


DESIGN = Design(
    "curve", curve, paint, (("",),), (7.8, 4.6),
    ("", '"x**2 + 2*x" --at 3 --order 1 --ends -4,4', '"sin(x)*exp(-x/2)" --order 3 --ends 0,8 --at 2 --language zh'),
)  # fmt: skip
