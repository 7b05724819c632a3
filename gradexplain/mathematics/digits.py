"""Numbers of a dtype: how it rounds, and the shortest decimal that names one.

That is 0.1 for the float32 that is 0.100000001490116…
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch


class Rounding(NamedTuple):
    """How a type rounds: the distance from 1 to the next number, below which number digits are lost, its largest."""

    unit: float
    tiny: float
    largest: float
    name: str


@cache
def rounding_of(dtype: torch.dtype) -> Rounding:
    """Returns how a type rounds; one of integers as torch's default type does, in which it divides them."""
    import torch

    limits = torch.finfo(dtype if dtype.is_floating_point else torch.get_default_dtype())
    return Rounding(limits.eps, limits.tiny, limits.max, str(dtype).removeprefix("torch."))


def coarsest(roundings: Iterable[Rounding]) -> Rounding:
    """Returns how numbers of several types together are rounded: as the coarsest, and within the range of each."""
    units, tinies, largest, names = zip(*roundings, strict=True)
    return Rounding(max(units), max(tinies), min(largest), names[units.index(max(units))])


def shortest(value: Any, dtype: torch.dtype) -> float:
    """Returns the shortest decimal that rounds to `value` in `dtype`; `value` itself below the numbers of full digits.

    There the shortest one may have a single digit, which names the number and does not say how large it is.
    """
    import torch

    if not isinstance(value, float) or not math.isfinite(value) or dtype == torch.float64:
        return float(value)
    if abs(value) < rounding_of(dtype).tiny:
        return value
    if dtype == torch.float32:
        return float(str(np.float32(value)))
    if dtype == torch.float16:
        return float(str(np.float16(value)))
    for digits in range(1, 10):
        candidate = float(f"{value:.{digits}g}")
        if torch.tensor(candidate, dtype=dtype).item() == value:
            return candidate
    return value
