"""Who was seen: what error in each element of a gradient an oracle would have found, and outputs of one size together.

A bound on ⟨error, u⟩ along a direction u says something of an element only beside that element's own effect |gᵢ uᵢ|:
an error of the smallest of many is nothing beside the largest. So resolution belongs to an element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# An answer that resolves an element of the gradient to less than this part of it is evidence; a coarser one is not.
RESOLUTION = 1e-4
# Where an operator has no kernel in float64, all that anybody can see of the others is float32's.
NARROWED_RESOLUTION = 1e-2
# Outputs are judged together within so many decades, or more where this would make more parts than so many.
DECADES, MOST_PARTS = 3, 9


@dataclass(frozen=True)
class Part:
    """Outputs of about one size: their cotangent (0 elsewhere) and what it makes of the gradients."""

    cotangent: Tensor
    gradients: Mapping[str, Tensor]


def output_parts(value: Tensor) -> list[Tensor]:
    """Returns a mask for each group of outputs of about one size, the largest first; zeros are with the smallest."""
    size = value.detach().abs()
    order = size.log10()
    known = order[order.isfinite()]
    span = float(known.max() - known.min()) if known.numel() else 0.0
    width = max(DECADES, span / (MOST_PARTS - 1))
    group = torch.floor(order / width)
    larger = group[group.isfinite()].unique(sorted=True).tolist()[:0:-1]
    lowest = ~(group >= larger[-1]) if larger else torch.ones_like(size, dtype=torch.bool)
    return [*(group == g for g in larger), lowest]


def seen(bounds: Tensor, resolution: float = RESOLUTION) -> Tensor:
    """Returns which elements an error would have been seen in, from relative bounds."""
    return bounds <= resolution


def count_seen(bounds: Tensor, resolution: float = RESOLUTION) -> int:
    """Returns how many elements an error would have been seen in; of the same bounds that is counted once."""
    counts = _COUNTS.setdefault(bounds, {})
    key = bounds._version, resolution
    if key not in counts:
        counts[key] = int(torch.count_nonzero(seen(bounds, resolution)))
    return counts[key]


_COUNTS: MutableMapping[Tensor, dict[tuple[int, float], int]] = WeakIdKeyDictionary()


def joined(bounds: Sequence[Tensor]) -> Tensor | None:
    """Returns the sharpest of several bounds for each element."""
    return reduce(torch.minimum, bounds) if bounds else None


def coarsest(bounds: Tensor | None, resolution: float = RESOLUTION) -> float:
    """Returns the coarsest bound among the elements that were seen, nan where none was."""
    if bounds is None or not bounds.numel():
        return 0.0
    if count_seen(bounds, resolution) == bounds.numel():
        return float(bounds.max())
    worst = float(torch.where(seen(bounds, resolution), bounds, -1.0).max())
    return worst if worst >= 0 else math.nan
