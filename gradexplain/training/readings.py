"""Numbers of a training that are read one step later or many: a device is not waited for at each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_FEW = 12  # so many numbers are read one by one in less time than it takes to put them together
_MOST = 128  # so many copies are kept at most


def is_waited_for(tensor: Tensor) -> bool:
    """Says whether to read a number of a tensor is to wait for a device."""
    return not tensor.is_cpu


def numbers(tensors: Sequence[Tensor]) -> list[float]:
    """Returns the numbers of tensors that have no dimension; a device is waited for once."""
    if len(tensors) < _FEW and not is_waited_for(tensors[0]):
        return [t.item() for t in tensors]
    read: list[float] = _together(torch.stack, tensors).tolist()
    return read


def _together(join: Callable[[list[Tensor]], Tensor], tensors: Sequence[Tensor]) -> Tensor:
    try:
        return join([*tensors])
    except RuntimeError:  # of several devices
        return join([t.to(tensors[0].device) for t in tensors])


def norms(tensors: list[Tensor], order: float = 2.0) -> list[Tensor]:
    """Returns the norm of each tensor, where it lies; of what is sparse or complex, by itself.

    Of `order` ∞ it does not overflow: it is finite where all numbers are.
    """
    try:
        return list(torch._foreach_norm(tensors, order))
    except (RuntimeError, NotImplementedError):
        dense = [_dense(t) for t in tensors]
        return [torch.linalg.vector_norm(t, order) if t.numel() else t.new_zeros(()) for t in dense]


def _dense(tensor: Tensor) -> Tensor:
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return values if values.is_complex() else values.float()


@dataclass
class Readings:
    """What is still to be read, the oldest first, and who is told of it."""

    kept: list[tuple[Tensor, Callable[[list[float]], None]]] = field(default_factory=list)
    is_used: bool = False  # the training runs on a device

    def keep(self, tensors: Sequence[Tensor], then: Callable[[list[float]], None]) -> None:
        """Copies the numbers of tensors that have no dimension where they lie, to be read with the next block."""
        self.is_used = True
        self.kept.append((_together(torch.stack, tensors).detach(), then))
        if len(self.kept) >= _MOST:
            self.read()

    def read(self) -> None:
        """Reads what is kept and tells it, in order."""
        kept, self.kept = self.kept, []
        if not kept:
            return
        read = iter(_together(torch.cat, [tensor for tensor, _ in kept]).tolist())
        for tensor, then in kept:
            then([next(read) for _ in range(tensor.numel())])
