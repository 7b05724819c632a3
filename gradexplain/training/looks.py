"""What is kept of a step that is looked into: how far it moves each matrix, and which units take part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Parameter

from gradexplain.training.readings import norms, numbers

# An optimizer that moves a tenth of what it drives loses nothing; a layer half of which takes part is not dead.
MOVING, TAKING_PART = 0.1, 0.5
_SAMPLED = 1024
_EVERY = 64
# Steps that are looked at as well, so that a run of a few dozen steps can be judged.
_EARLY = frozenset({3, 6, 12, 20, 24, 40, 48})


def is_looked_at(step: int) -> bool:
    """Says whether more than a few numbers of this step are kept."""
    return step in _EARLY or not step & (step - 1) or not step % _EVERY


def is_followed(step: int) -> bool:
    """Says whether the graph of the loss is walked at this step."""
    return not step & (step - 1) or not step % _EVERY


@dataclass
class Look:
    """One step of one optimizer, looked at: by place of the parameter, `None` where it had no gradient."""

    step: int
    rate: float
    rms: list[float | None]
    ratio: dict[int, float] = field(default_factory=dict)
    moved: float | None = None  # of the elements with a gradient, the share that the step changed


@dataclass
class Sample:
    """A thousand elements of each of some parameters on one device, before a step is taken."""

    places: list[int]
    before: Tensor
    driven: Tensor | None  # which of them have a gradient, where that is asked

    @classmethod
    def of(cls, parameters: Sequence[Tensor], *, driven: bool) -> list[Sample]:
        """Returns the samples of what is moved: matrices, or where there is none, whatever has a gradient."""
        known = [i for i, p in enumerate(parameters) if _is_sampled(p)]
        devices: dict[torch.device, list[int]] = {}
        for place in [i for i in known if parameters[i].dim() >= 2] or known:
            devices.setdefault(parameters[place].device, []).append(place)
        return [cls._of(parameters, places, driven=driven) for places in devices.values()]

    @classmethod
    def _of(cls, parameters: Sequence[Tensor], places: list[int], *, driven: bool) -> Sample:
        gradients = [g for i in places if (g := parameters[i].grad) is not None]
        return cls(places, _joined(parameters[i] for i in places), _joined(gradients).bool() if driven else None)

    def measure(self, look: Look, parameters: Sequence[Tensor]) -> tuple[int, int]:
        """Adds to a look how far the step moved what was sampled; returns how many elements were driven, and moved."""
        update = _joined(parameters[i] for i in self.places) - self.before
        sizes = [sampled(parameters[i]).numel() for i in self.places]
        counts = [self.driven.sum(), (update.bool() & self.driven).sum()] if self.driven is not None else []
        read = numbers([*norms([*self.before.split(sizes)]), *norms([*update.split(sizes)]), *counts])
        count = len(sizes)
        look.ratio |= {i: d / s for i, s, d in zip(self.places, read, read[count : 2 * count], strict=False) if s}
        driven, moved = read[2 * count :] or (0, 0)
        return int(driven), int(moved)


def _is_sampled(parameter: Tensor) -> bool:
    gradient = parameter.grad
    return (
        gradient is not None
        and gradient.layout == torch.strided
        and parameter.is_floating_point()
        and bool(parameter.numel())
    )


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    """Returns a thousand or two elements of each tensor, all after one another, as exact as 32 bits."""
    joined = torch.cat([sampled(t) for t in tensors])
    return joined.float() if joined.element_size() < 4 else joined


def sampled(tensor: Tensor) -> Tensor:
    """Returns every n-th element."""
    every = max(1, tensor.numel() // _SAMPLED)
    if type(tensor) not in (Tensor, Parameter) or not tensor.is_contiguous():
        return tensor.reshape(-1)[::every]
    return tensor.as_strided((math.ceil(tensor.numel() / every),), (every,), tensor.storage_offset())


def look_at(step: int, rate: float, parameters: Sequence[Tensor], sizes: Mapping[int, float]) -> Look:
    """Returns a look, of which the `sizes` of the gradients by identity of the parameter are known."""
    known = [(sizes.get(id(p)), max(p.numel(), 1)) for p in parameters]
    return Look(step, rate, [None if size is None else size / math.sqrt(count) for size, count in known])


@dataclass
class Units:
    """Which rows of a matrix (the units that it leads to) ever had a gradient, and at how many looks it had any."""

    alive: Tensor
    looks: int = 0
    share: float = 0.0  # of all rows

    def look(self, gradient: Tensor) -> None:
        """Adds those that have one now."""
        rows = gradient.flatten(1)
        found = torch.linalg.vector_norm(rows, dim=1).bool()
        if not bool(found.all()):  # the square of a small number may be 0
            found[~found] = rows[~found].any(1)
        self.alive |= found.cpu()
        self.looks, self.share = self.looks + 1, float(self.alive.float().mean())
