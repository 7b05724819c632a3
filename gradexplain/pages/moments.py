"""The moments of a forward and a backward pass, one after another, as a reader steps through them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradexplain.explanation.elements import is_real, number
from gradexplain.explanation.explanation import Contribution, Explanation, Step
from gradexplain.mathematics.digits import rounding_of
from gradexplain.mathematics.equations import Equation, equation
from gradexplain.mathematics.indices import indexed, indices
from gradexplain.mathematics.terms import total
from gradexplain.recording.summaries import TensorSummary

# Rounding leaves a sum of contributions open by so many roundings of each.
_ROUNDINGS = 2


@dataclass(frozen=True)
class Moment:
    """One moment: an operator computes ("forward"), the backward pass starts ("seed"), or a contribution arrives.

    `node` is the operator's, `slot` the number of the contribution that it sends. The contribution is the `arrival`-th
    of `arrivals` at its value; the `sum` of those that arrived is written out in `sums` where something was added.
    `apart` says that torch's gradient of the value is not their sum: a hook changed it, or some came another way.
    """

    kind: Literal["inputs", "forward", "seed", "backward"]
    node: int
    slot: int = -1
    arrival: int = 1
    arrivals: int = 1
    sum: TensorSummary | None = None
    sums: tuple[Equation, ...] = ()
    apart: bool = False


def moments_of(e: Explanation) -> tuple[Moment, ...]:
    """Returns the moments of an explanation, from its inputs to the last contribution."""
    return tuple(_moments(e))


def _moments(e: Explanation) -> Iterator[Moment]:
    yield Moment("inputs", -1)
    for step in e.steps:
        yield Moment("forward", step.index)
    reached = sorted((s for s in e.steps if s.order is not None), key=lambda s: s.order or 0)
    if not reached:
        return
    yield Moment("seed", reached[0].index)
    sums = _Sums(e)
    for step in reached:
        for slot, sent in enumerate(step.contributions):
            if sent.value is not None:
                yield sums.arrived(step, slot, sent, sent.value)


class _Sums:
    """The gradients as they add up, contribution by contribution."""

    def __init__(self, e: Explanation) -> None:
        self.e = e
        self.whole = {step.index: step.cotangent for step in e.steps}
        by_name = {g.name: g.value for g in e.by_input}
        self.whole |= {index: by_name.get(name) for index, name in e.names.items() if index not in self.whole}
        self.detailed = {step.index for step in e.detailed}
        self.counts: dict[tuple[int, int], int] = {}
        for step in e.steps:
            for sent in step.contributions:
                if sent.value is not None:
                    self.counts[sent.producer, sent.output] = self.counts.get((sent.producer, sent.output), 0) + 1
        self.so_far: dict[tuple[int, int], list[Tensor]] = {}

    def arrived(self, step: Step, slot: int, sent: Contribution, value: TensorSummary) -> Moment:
        """Returns the moment at which a contribution arrives at its value."""
        key = sent.producer, sent.output
        earlier = self.so_far.setdefault(key, [])
        before = earlier[-1] if earlier else None
        after = value.tensor if before is None else before + value.tensor
        earlier.append(after)
        place, count = len(earlier), self.counts[key]
        whole, apart = self.whole.get(sent.producer), False
        if place == count and whole is not None and whole.shape == value.shape:
            apart = not _is_sum(whole.tensor, after, count)
            after = after if apart else whole.tensor
        sums = tuple(self.written(step, sent, before, value.tensor, after)) if before is not None else ()
        return Moment("backward", step.index, slot, place, count, TensorSummary(after), sums, apart)

    def written(self, step: Step, sent: Contribution, before: Tensor, own: Tensor, after: Tensor) -> Iterator[Equation]:
        if step.index not in self.detailed or not all(map(is_real, (before, own, after))):
            return
        shown = indices(own.shape) if TensorSummary(own).small else sent.through
        for index in shown:
            term = total([number(before, index), number(own, index)])
            label = indexed(f"∂{self.e.scalar}/∂{sent.to}", index)
            yield equation(label, term, number(after, index).value, rounding_of(after.dtype))


def _is_sum(whole: Tensor, added: Tensor, count: int) -> bool:
    """Says whether a gradient is the sum of its contributions, whatever the order in which they were added."""
    if whole.layout != torch.strided or added.layout != torch.strided:
        return True
    unit = torch.finfo(whole.dtype).eps if whole.dtype.is_floating_point or whole.dtype.is_complex else 0.0
    added = added.to(whole.dtype)
    # Most are equal, which is known much sooner.
    return torch.equal(whole, added) or torch.allclose(
        whole, added, rtol=_ROUNDINGS * count * unit, atol=0.0, equal_nan=True
    )
