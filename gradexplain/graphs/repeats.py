"""Repeats in a sequence: where the same run of signatures stands several times in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# How many of the most frequent distances between equal signatures are tried as periods.
_PERIODS = 12


class Repeat(NamedTuple):
    """`times` equal blocks of `period` items each, from `start`."""

    start: int
    period: int
    times: int


def repeats_in(signatures: Sequence[int]) -> list[Repeat]:
    """Returns the repeats, none overlapping another; at each place the one that covers most, of these the shortest."""
    sequence = np.asarray(signatures, dtype=np.int64)
    covers = {period: _covered(sequence, period) for period in _periods(sequence)}
    found: list[Repeat] = []
    at = 0
    starts = np.zeros(len(sequence), dtype=bool)
    for covered in covers.values():
        starts |= covered > 0
    for candidate in np.flatnonzero(starts).tolist():
        if candidate < at:
            continue
        best = max(covers, key=lambda p: (int(covers[p][candidate]), -p))
        times = int(covers[best][candidate]) // best
        found.append(Repeat(candidate, best, times))
        at = candidate + best * times
    return found


def _periods(sequence: Any) -> list[int]:
    """Returns the most frequent distances from one signature to the next equal one."""
    order = np.argsort(sequence, kind="stable")
    same = sequence[order][1:] == sequence[order][:-1]
    distances, counts = np.unique(np.diff(order)[same], return_counts=True)
    return [int(d) for d in distances[np.argsort(-counts, kind="stable")][:_PERIODS]]


def _covered(sequence: Any, period: int) -> Any:
    """Returns how many items whole blocks of `period` cover from each place; 0 where nothing is repeated."""
    equal = sequence[:-period] == sequence[period:]
    ends = np.flatnonzero(~np.append(equal, False))
    places = np.arange(len(equal))
    run = ends[np.searchsorted(ends, places)] - places
    times = run // period + 1
    least = 3 if period == 1 else 2
    return np.append(np.where(times >= least, times * period, 0), np.zeros(period, dtype=np.int64))
