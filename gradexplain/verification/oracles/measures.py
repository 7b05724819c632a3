"""What all oracles measure alike: sizes, natural steps, and what rounding explains of a difference."""

from __future__ import annotations

import torch
from torch import Tensor

from gradexplain.recording.trace import Trace

# Rounding errors add up like a random walk; a measured change stands for their size, and this is our margin over it.
MARGIN = 32
# One evaluation in float64 of a larger problem takes seconds; of one so many times larger, each operation by itself.
LARGE_ELEMENTS, TIMES_HUGE = 5_000_000, 4


def epsilon(trace: Trace) -> float:
    """Returns the largest relative rounding error among the floating types that a trace went through."""
    tensors = [trace.value, *trace.inputs.values(), *(y for node in trace.nodes for y in node.outputs)]
    types = {t.dtype for t in tensors if t is not None and (t.is_floating_point() or t.is_complex())}
    return max(torch.finfo(dtype).eps for dtype in types)


def pair(a: Tensor, b: Tensor) -> float:
    """Returns ⟨a, b⟩ = Re Σ conj(a) b, torch's own pairing of a cotangent with a tangent."""
    return float((a.conj() * b).real.sum())


def weighed(cotangent: Tensor, value: Tensor) -> float:
    """Returns |v∘y|₂, the size that the rounding error of ⟨v, y⟩ is relative to."""
    return float(
        torch.linalg.vector_norm((cotangent * value).double() if not value.is_complex() else cotangent * value)
    )


def scales(x: Tensor) -> Tensor:
    """Returns the size of a natural step for each element: its own, or for zeros that of its tensor, up to 1.

    An element that is infinite or nan cannot be moved: its step is 0.
    """
    size = _magnitude(x)
    return torch.where(size == 0, common_scale(x), size).nan_to_num(0.0, 0.0, 0.0)


def common_scale(x: Tensor) -> float:
    """Returns the typical size of a tensor's elements, 1 at most, and 1 where all are 0."""
    size = _magnitude(x)
    known = size[(size > 0) & size.isfinite()]
    return min(_typical(known), 1.0) if known.numel() else 1.0


def _magnitude(x: Tensor) -> Tensor:
    size = x.detach().abs()
    return size.double() if size.numel() <= LARGE_ELEMENTS else size


def _typical(size: Tensor) -> float:
    return float(size.square().mean().sqrt())


def dense(gradient: Tensor | None, like: Tensor) -> Tensor:
    """Returns a gradient as a plain tensor: zero where there is none."""
    if gradient is None:
        return torch.zeros_like(like)
    return gradient.to_dense() if gradient.layout != torch.strided else gradient


def allowance(changes: Tensor | float, magnitude: Tensor, eps: float) -> Tensor:
    """Returns what rounding explains of a difference: a margin over what it was seen to do, and over the last digit."""
    # A gradient is a sum of n products, each rounded by eps at most: errors that add up like a random walk make about
    # √n eps of the size of a summand. `changes` is such an error, measured in a few trials, and a margin over it covers
    # a trial that came out small by chance. The second term holds where no trial happened to move anything.
    return MARGIN * changes + MARGIN / 2 * eps * magnitude


def largest(values: Tensor) -> float:
    """Returns the largest element, 0 for an empty tensor; nan wins."""
    return float(values.max()) if values.numel() else 0.0


def unexplained(difference: Tensor, changes: Tensor | float, magnitude: Tensor, eps: float) -> Tensor:
    """Returns which elements differ by more than rounding explains.

    `changes` is what one rounding error made of each element, in a few trials; `magnitude` the size of what was summed.
    A trial can miss an element by chance: where one in a thousand is beyond, the typical change of the tensor counts.
    """
    # |difference| ≤ m · changes + m / 2 · eps · magnitude with m = MARGIN, element by element (`allowance`). Of many
    # elements a few draw so small a change that this is too little. The root of the mean square over the tensor is no
    # such draw; what is beyond it, too, stays unexplained.
    beyond = ~(difference <= allowance(changes, magnitude, eps))
    if isinstance(changes, Tensor) and 0 < int(beyond.sum()) <= difference.numel() // 1000:
        typical = MARGIN * changes.square().mean().sqrt()
        beyond = beyond & ~(difference <= typical)
    return beyond


def first_not_finite(value: Tensor) -> float:
    """Returns the first number that is not finite, of a complex one its size."""
    found = value[~value.isfinite()][0]
    return float(found.abs() if found.is_complex() else found)


def plain(value: Tensor) -> float | complex:
    """Returns a one-element tensor as a Python number."""
    number: float | complex = value.item()
    return number
