"""Where functions of one variable jump, or have no finite limit, found from values alone.

Between two samples, the half in which a function changes more is halved again and again. Where it is continuous, the
change shrinks with the interval; at a jump it stays, and at a pole it grows. A pole that is left and reached on one
side, as of 1/x², changes nothing: there the half with the larger values is followed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# After the first halvings, what changes by less than a part of the range is continuous, or a jump that nobody sees.
_FIRST, _ALL = 8, 30
_SEEN = 3e-3
# How far beside a place its limits are looked for: in parts of the distance of two samples, and so many times as far.
_NEAR, _FAR = 2.0**-27, (1, 4, 16, 64, 256)
# Values that come to a limit are one, but for a part of their size, or their differences shrink: those of log do not.
_SETTLED, _SHRINKS = 0.05, 0.9
# How many places without a limit a row is searched for.
_PEAKS = 40
# Most of the values of a row lie between these parts of them.
_MIDDLE = (0.08, 0.92)
# What rounding may make of a row, in parts of the largest of all rows.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Break:
    """Where a function is not continuous: `left` and `right` are its values at `beside` on either side.

    `value` is what it is there, `None` where that is no finite number, or the place no number. A `singular` break has
    no finite limit on one side at least.
    """

    x: float
    beside: float
    left: float
    right: float
    value: float | None
    singular: bool


Rows = Callable[["Tensor"], "Sequence[Tensor]"]


def breaks(rows_at: Rows, x: Tensor) -> tuple[tuple[Break, ...], ...]:
    """Returns the breaks of every row of functions that `rows_at` gives at points, sampled at increasing `x`."""
    import torch

    rows = rows_at(x)
    sizes = [max(map(abs, middle(row))) for row in rows]
    scales = [max(_range(row), _ROUNDING * max(sizes)) for row in rows]
    searches = [search for k, row in enumerate(rows) for search in _searches(k, scales[k], row, x)]
    for depth in range(_ALL):
        if depth == _FIRST:
            searches = [search.narrowed() for search in searches]
        middles = [(s.low + s.high) / 2 for s in searches]
        lengths = list(map(len, middles))
        if not sum(lengths):
            break
        found = [values.split(lengths) for values in rows_at(torch.cat(middles))]
        searches = [s.halved(m, found[s.row][k]) for k, (s, m) in enumerate(zip(searches, middles, strict=True))]
    return tuple(
        _judged(k, rows[k], scales[k], x, rows_at, [s for s in searches if s.row == k]) for k in range(len(rows))
    )


@dataclass(frozen=True)
class _Search:
    """Intervals of one row that are halved: towards what is `largest`, or what changes most."""

    row: int
    scale: float
    largest: bool
    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor

    def halved(self, middle: Tensor, value: Tensor) -> _Search:
        """Returns the half of every interval that the search is for; a middle that is no number is the place."""
        import torch

        pairs = ((self.at_low, value), (value, self.at_high))
        left, right = ((a.abs() + b.abs() if self.largest else (a - b).abs()).nan_to_num(math.inf) for a, b in pairs)
        chosen = left >= right
        low, high = torch.where(chosen, self.low, middle), torch.where(chosen, middle, self.high)
        at_low, at_high = torch.where(chosen, self.at_low, value), torch.where(chosen, value, self.at_high)
        return replace(self, low=low, high=high, at_low=at_low, at_high=at_high)

    def narrowed(self) -> _Search:
        """Returns the search of the intervals in which the function still changes as far as one sees."""
        if self.largest:
            return self
        kept = ~((self.at_high - self.at_low).abs() <= _SEEN * self.scale)
        return replace(
            self, low=self.low[kept], high=self.high[kept], at_low=self.at_low[kept], at_high=self.at_high[kept]
        )


def _searches(row: int, scale: float, values: Tensor, x: Tensor) -> list[_Search]:
    """Returns the searches of a row between its finite samples."""
    there = values.isfinite()
    pairs = there[1:] & there[:-1]
    size = (values.abs()[:-1] + values.abs()[1:]).where(pairs, values.new_tensor(0.0))
    around = size.new_zeros(len(size) + 2)
    around[1:-1] = size
    peaks = pairs & (size > 3 * scale) & (size >= around[:-2]) & (size >= around[2:])
    return [
        _Search(row, scale, largest, x[k], x[k + 1], values[k], values[k + 1])
        for k, largest in ((pairs.nonzero()[:, 0], False), (peaks.nonzero()[:_PEAKS, 0], True))
    ]


def _range(values: Tensor) -> float:
    """Returns how far apart the values of a row are that are neither among its largest nor among its smallest."""
    low, high = middle(values)
    finite = values[values.isfinite()]
    return high - low or (float(finite.max() - finite.min()) if len(finite) else 0.0)


def middle(values: Tensor) -> tuple[float, float]:
    """Returns between which numbers most of the finite values lie; 0 and 0 where there are none."""
    import torch

    finite = values[values.isfinite()]
    if not len(finite):
        return 0.0, 0.0
    low, high = torch.quantile(finite, torch.tensor(_MIDDLE, dtype=finite.dtype)).tolist()
    return float(low), float(high)


def _judged(
    row: int, values: Tensor, scale: float, x: Tensor, rows_at: Rows, searches: Sequence[_Search]
) -> tuple[Break, ...]:
    """Returns the breaks among the places that searches led to, and at samples that are no number between others."""
    import torch

    known = values.isfinite()
    alone = x[1:-1][~known[1:-1] & known[:-2] & known[2:]]
    near = max(float(x[1] - x[0]) * _NEAR, 8 * 2.0**-52 * float(x.abs().max()))
    places = _distinct(torch.cat([*((s.low + s.high) / 2 for s in searches), alone]).tolist(), near, x)
    if not places:
        return ()
    centre = torch.tensor(places, dtype=x.dtype)
    there, *sides = (rows_at(centre + near * d)[row].tolist() for d in (0, *(-d for d in _FAR), *_FAR))
    found = []
    for place, value, *beside in zip(places, there, *sides, strict=True):
        left, right = beside[: len(_FAR)], beside[len(_FAR) :]  # from near to far
        # What is no number is outside of what the function is defined for: there it has no limit to lack.
        inside = [side for side in (left, right) if not math.isnan(side[0])]
        size = max([scale, *(abs(b) for side in inside for b in side)])
        singular = not all(_settles(side, _SETTLED * size) for side in inside)
        if not singular and all(_joined(one, [value] * len(one), _SEEN * size) for one in inside):
            continue
        k = -1 if singular else 0
        exact = not singular and math.isfinite(value) and place in (round(place, 9), *x.tolist())
        found.append(Break(place, near * _FAR[k], left[k], right[k], value if exact else None, singular))
    return tuple(found)


def _settles(values: Sequence[float], slack: float) -> bool:
    """Says whether values from near to far come to a limit: they are one, or the nearer two always differ by less."""
    if max(values) - min(values) <= slack:
        return True
    steps = [abs(a - b) for a, b in pairwise(values)]
    return all(near < _SHRINKS * far for near, far in pairwise(steps))


def _joined(one: Sequence[float], other: Sequence[float], slack: float) -> bool:
    """Says whether values from near to far come to the same as others."""
    near, far = (abs(a - b) for a, b in zip(one[:2], other[:2], strict=True))
    return near <= slack or near < _SHRINKS * far


def _distinct(places: Sequence[float], near: float, x: Tensor) -> list[float]:
    """Returns places in order, of those that are one for rounding the first; as a sample or a short number, if near."""
    samples, distinct = x.tolist(), [-math.inf]
    for place in sorted(places):
        sample = min(samples, key=lambda one: abs(one - place))
        written = next((one for one in (sample, round(place, 9)) if abs(one - place) <= near), place) + 0.0
        if written - distinct[-1] > near:
            distinct.append(written)
    return distinct[1:]
