"""Finding single elements by bisection: which of many elements makes a measured effect, in few measurements."""

from __future__ import annotations

import math
from collections.abc import Callable

Measure = Callable[[int, int], float]


def singled_out(measure: Measure, size: int, whole: float, threshold: float, *, tries: int, most: int) -> list[int]:
    """Returns up to `most` of the elements 0 … size − 1 that make an effect larger than `threshold`.

    `measure(start, stop)` gives the effect of these elements alone; effects add up, and `whole` is that of all. At most
    `tries` measurements are made, about log2(size) an element: what one half makes, the other half lacks.
    """
    positions: list[int] = []
    open_ranges = [(0, size, whole)]
    while open_ranges and len(positions) < most:
        start, stop, effect = open_ranges.pop(_largest(open_ranges))
        if stop - start == 1:
            positions.append(start)
            continue
        if tries == 0:
            continue
        tries -= 1
        middle = (start + stop) // 2
        left = measure(start, middle)
        halves = ((start, middle, left), (middle, stop, effect - left))
        open_ranges += [half for half in halves if not abs(half[2]) <= threshold]  # nan, outside the domain, as well
    return positions


def _largest(ranges: list[tuple[int, int, float]]) -> int:
    """A range of nan comes first, then the largest effect; of equals, the shortest."""
    sizes = [(math.inf if math.isnan(effect) else abs(effect), start - stop) for start, stop, effect in ranges]
    return sizes.index(max(sizes))
