"""Who was seen: what error in each element of a gradient an oracle would have found, and outputs of one size together.

A bound on ⟨error, u⟩ along a direction u says something of an element only beside that element's own effect |gᵢ uᵢ|:
an error of the smallest of many is nothing beside the largest. So resolution belongs to an element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# An answer that resolves an element of the gradient to less than this part of it is evidence; a coarser one is not.
RESOLUTION = 1e-4
# Where an operator has no kernel in float64, all that anybody can see of the others is float32's.
NARROWED_RESOLUTION = 1e-2
# Outputs are judged together within so many decades; more parts than this are not made.
DECADES, MOST_PARTS = 3, 9


@dataclass(frozen=True)
class Part:
    """Outputs of about one size: their cotangent (0 elsewhere) and what it makes of the gradients."""

    cotangent: Tensor
    gradients: Mapping[str, Tensor]


def output_parts(value: Tensor) -> list[Tensor]:
    """Returns a mask for each group of outputs of about one size, the largest first; zeros are with the smallest."""
    size = value.detach().abs()
    decade = torch.floor(size.log10() / DECADES)
    known = decade[decade.isfinite()].unique(sorted=True).tolist()
    if len(known) < 2:
        return [torch.ones_like(size, dtype=torch.bool)]
    lowest = known[max(len(known) - MOST_PARTS, 0)]
    kept = [d for d in reversed(known) if d > lowest]
    return [*(decade == d for d in kept), ~(decade > lowest)]


def seen(bounds: Tensor, resolution: float = RESOLUTION) -> Tensor:
    """Returns which elements an error would have been seen in, from relative bounds."""
    return bounds <= resolution


def joined(bounds: Sequence[Tensor]) -> Tensor | None:
    """Returns the sharpest of several bounds for each element."""
    return torch.stack([b.double() for b in bounds]).amin(0) if bounds else None


def coarsest(bounds: Tensor | None, resolution: float = RESOLUTION) -> float:
    """Returns the coarsest bound among the elements that were seen, nan where none was."""
    if bounds is None or not bounds.numel():
        return 0.0
    kept = bounds[seen(bounds, resolution)]
    return float(kept.max()) if kept.numel() else math.nan
