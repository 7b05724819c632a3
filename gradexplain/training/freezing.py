"""Frozen layers whose statistics still move: batch normalisation that is in training mode in a part that is frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor, nn

from gradexplain.targets.sources import Source
from gradexplain.training.evaluations import Evaluations

# Batches that statistics were learned from before: those of a layer that was just made are nothing to lose.
_LEARNED = 8


@dataclass(frozen=True)
class Frozen:
    """A layer of a frozen part, as it was when the training had begun."""

    layer: ref[nn.modules.batchnorm._BatchNorm]
    step: int
    source: Source | None  # the line that had set the model to training
    weight: Tensor
    mean: Tensor
    variance: Tensor

    @torch.no_grad()
    def moved(self) -> tuple[float, float] | None:
        """Returns how far its statistics have gone, in the median over its channels.

        First the mean, in deviations, then the variance, in times of what it was; `None` where it is no longer frozen.
        """
        layer = self.layer()
        if layer is None or layer.weight.requires_grad or not torch.equal(layer.weight, self.weight):
            return None
        mean, variance = layer.running_mean, layer.running_var
        if mean is None or variance is None:
            return None
        far = (mean - self.mean).abs() / (self.variance + layer.eps).sqrt()
        return float(far.median()), float(((variance + layer.eps) / (self.variance + layer.eps)).median())


def frozen_in(models: Sequence[nn.Module], evaluations: Evaluations) -> list[Frozen]:
    """Returns the layers with statistics that were learned before and lie in a part that is frozen as a whole."""
    return [
        Frozen(
            ref(m),
            evaluations.step(),
            switch.source if switch is not None and switch.training else None,
            m.weight.detach().clone(),
            m.running_mean.clone(),
            m.running_var.clone(),
        )
        for model, part in _parts(models)
        for switch in [evaluations.switches.get(model)]
        for m in part.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
        and m.training
        and m.weight is not None
        and m.running_mean is not None
        and m.running_var is not None
        and int(m.num_batches_tracked or 0) >= _LEARNED
    ]


def _parts(models: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yields the parts that are frozen, each with the model that it is a part of."""
    for model in models:
        parts = [model] if _is_frozen(model) else filter(_is_frozen, model.children())
        yield from ((model, part) for part in parts)


def _is_frozen(part: nn.Module) -> bool:
    return not any(p.requires_grad for p in part.parameters())
