"""What the graph of a loss tells of the data that went in: labels, and inputs of the first layers.

Read is what torch saved at the loss and at the layers that data enter, where it was saved as it is and not through
hooks. Kept are counts: no tensor.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler

from gradexplain.versions.internals import plainly_saved, storage_of

_SUPERVISED = re.compile(
    r"(NllLoss|NllLoss2D|MseLoss|L1Loss|SmoothL1Loss|HuberLoss|BinaryCrossEntropy|BinaryCrossEntropyWithLogits)"
    r"Backward\d$"
)
# By the node of a layer: what it saved of its input, and which of its edges that came by.
_ENTRIES: Mapping[str, tuple[str, int]] = {
    "AddmmBackward0": ("mat1", 1),
    "MmBackward0": ("self", 0),
    "ConvolutionBackward0": ("input", 0),
}
# What takes in data as well, unseen: nothing can be said of the rest.
_UNSEEN = re.compile(r"\w*(Rnn|Lstm|Gru|Embedding)\w*Backward\d$|(?!\w+Backward\d$)")
_SAMPLED, _WIDTH = 1024, 256


@dataclass(frozen=True)
class Loaded:
    """What a loader gave last: the memory of its tensors, the arrays of its data set, and whether it goes in order."""

    storages: frozenset[int] = frozenset()
    arrays: tuple[Tensor, ...] = ()
    ordered: bool = False

    @classmethod
    def of(cls, iterator: Any, batch: Any) -> Loaded:
        """Returns it of one batch that the iterator of a loader gave."""
        parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else [batch]
        storages = frozenset(storage_of(part) for part in parts if isinstance(part, Tensor))
        kept = getattr(iterator._dataset, "__dict__", {}).values()
        arrays = (array for value in kept for array in (value if isinstance(value, tuple) else [value]))
        batches = iterator._index_sampler
        in_order = type(batches) is BatchSampler and isinstance(batches.sampler, SequentialSampler)
        return cls(storages, tuple(map(torch.as_tensor, filter(_is_array, arrays))), in_order)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or (type(value).__name__ == "ndarray" and value.dtype.kind in "biuf")


@dataclass(frozen=True)
class Labels:
    """The targets of one batch: how many, the number that all of them are (`None` where they differ), and the classes.

    `given` says that they are a part of a larger array, or came from a loader: nobody made them up for this batch;
    `ordered`, that the batches follow each other as the data do; `whole`, that the array they are of has no other
    number either.
    """

    count: int
    value: float | None
    given: bool
    ordered: bool = False
    whole: bool = False
    classes: Mapping[int, int] = field(default_factory=dict)

    @property
    def diversity(self) -> float:
        """Returns how often two of them differ, from 0 to 1."""
        return diversity(self.classes)


@dataclass(frozen=True)
class Batch:
    """What a loss was computed of: its targets, where it has them of one kind, and whether its samples differ."""

    labels: Labels | None = None
    samples: int = 0
    alike: bool = False  # every sample is the same as every other, in all that enters


def diversity(classes: Mapping[int, int]) -> float:
    """Returns how often two of some labels differ that are drawn with replacement."""
    count = sum(classes.values())
    return 1 - sum((n / count) ** 2 for n in classes.values()) if count else 0.0


def batch_of(nodes: Sequence[Any], loaded: Loaded) -> Batch:
    """Returns what the nodes of a loss tell of its data."""
    targets = [t for t in (plainly_saved(n, "target") for n in nodes if _SUPERVISED.match(n.name())) if t is not None]
    entering = [] if any(_UNSEEN.match(node.name()) for node in nodes) else list(_entering(nodes))
    alike = [_is_alike(tensor) for tensor in entering]
    samples = min((len(tensor) for tensor in entering), default=0)
    return Batch(_labels(targets[0], loaded) if len(targets) == 1 else None, samples, bool(alike) and all(alike))


def _entering(nodes: Sequence[Any]) -> Iterator[Tensor]:
    for node in nodes:
        name, slot = _ENTRIES.get(node.name(), ("", 0))
        if name and node.next_functions[slot][0] is None:
            tensor = plainly_saved(node, name)
            if tensor is not None and tensor.dim() >= 2 and tensor.numel():
                yield tensor.detach()


def _is_alike(tensor: Tensor) -> bool:
    rows = tensor.flatten(1)
    rows = rows[:, :: max(1, rows.shape[1] // _WIDTH)]
    return bool((rows == rows[:1]).all())


def _labels(target: Tensor, loaded: Loaded) -> Labels | None:
    flat = target.detach().reshape(-1)
    if not len(flat):
        return None
    from_loader, part = storage_of(target) in loaded.storages, bool(target.storage_offset())
    shown = flat[:: max(1, len(flat) // _SAMPLED)]
    value = float(shown[0]) if _is_only(shown, shown[0]) else None
    arrays = loaded.arrays if from_loader else [target._base] if part and target._base is not None else []
    like = [a for a in arrays if a.dtype == target.dtype and a.shape[1:] == target.shape[1:]]
    whole = value is not None and bool(like) and all(_is_only(a, shown[0]) for a in like)
    classes = Counter(shown.tolist()) if target.dim() == 1 and not target.is_floating_point() else {}
    return Labels(len(flat), value, from_loader or part, part or loaded.ordered, whole, classes)


def _is_only(numbers: Tensor, value: Tensor) -> bool:
    return bool((numbers == value).all())


def is_cut(node: Any) -> bool:
    """Says whether a node is a clamp all of whose numbers lie beyond its bounds, as far as no device has to tell."""
    if not node.name().startswith(("ClampBackward", "ClampMinBackward", "ClampMaxBackward")):
        return False
    given, low, high = plainly_saved(node, "self"), *(getattr(node, f"_saved_{name}", None) for name in ("min", "max"))
    if given is None or not given.is_cpu or not given.numel() or isinstance(low, Tensor) or isinstance(high, Tensor):
        return False
    inside = (given >= (-math.inf if low is None else low)) & (given <= (math.inf if high is None else high))
    return not bool(inside.any())


def rounded(node: Any, made: Any) -> tuple[float, str]:
    """Returns the share of a loss's probabilities that are exactly 0 or 1 against their label, and the type they have.

    `made` is the node that made them.
    """
    p, target, result = plainly_saved(node, "self"), plainly_saved(node, "target"), plainly_saved(made, "result")
    if p is None or target is None or result is None:
        return 0.0, ""
    lost = ((p == 1) & (target == 0)) | ((p == 0) & (target == 1))
    return float(lost.float().mean()), str(result.dtype).removeprefix("torch.")
