"""What a forward pass keeps for its backward pass, watched from outside: how much, and for how long."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Kept:
    """A tensor in a box that the graph alone holds: it lives exactly as long as the graph keeps it."""

    tensor: Tensor


@contextmanager
def watched() -> Iterator[list[weakref.ref[Kept]]]:
    """Gives a list of weak references to all that is saved for a backward pass in the block."""
    kept: list[weakref.ref[Kept]] = []

    def pack(tensor: Tensor) -> Kept:
        box = Kept(tensor.detach())  # the tensor itself leads back to the node that keeps it, and both would stay
        kept.append(weakref.ref(box))
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        yield kept


def alive(kept: Sequence[weakref.ref[Kept]]) -> list[Tensor]:
    """Returns the tensors that are still kept."""
    boxes = [reference() for reference in kept]
    return [box.tensor for box in boxes if box is not None]


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """Returns the memory of tensors, each storage counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
