"""Cuts: where a value that depends on an input went on without its gradient, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.recording import Event, Recorder, held_in, source_of, storage_of
from gradexplain.traces import Cut

# Operators whose output does not depend on the numbers of their input.
_FRESH = ("empty", "zeros", "ones", "full", "rand", "new_", "bernoulli", "normal", "uniform", "scalar_tensor", "arange")


def cuts_in(events: Sequence[Event], owners: Mapping[int, Event], inputs: Sequence[Tensor]) -> Iterator[Cut]:
    """Finds the values that depend on an input and went on into a recorded operator without their gradient.

    `owners` has the event of each node by the node's number, which becomes the cut's `consumer`.
    """
    owning = {id(event): number for number, event in owners.items()}
    dependent = {storage_of(t) for t in inputs if t.requires_grad}
    lost: dict[int, tuple[str, Event]] = {}
    reported: set[int] = set()
    for event in events:
        operands = [*held_in(event.arguments), *held_in(event.keywords)]
        owned = id(event) in owning and event.recorded
        for held in operands if owned else ():
            loss = lost.get(held.storage)
            if loss and not held.tracked and held.tensor.is_floating_point() and id(loss[1]) not in reported:
                reported.add(id(loss[1]))
                yield _cut(*loss, consumer=owning[id(event)])
        if _is_fresh(event) or not any(h.storage in dependent for h in operands):
            continue
        inherited = next((lost[h.storage] for h in operands if not h.tracked and h.storage in lost), None)
        for held in held_in([event.outputs]):
            dependent.add(held.storage)
            loss = None if owned else inherited or _loss(event)
            if loss:
                lost[held.storage] = loss


# Operators whose output does not depend on the numbers of their input.
_FRESH = ("empty", "zeros", "ones", "full", "rand", "new_", "bernoulli", "normal", "uniform", "scalar_tensor", "arange")


def _is_fresh(event: Event) -> bool:
    return _short_name(event).startswith(_FRESH)


def _short_name(event: Event) -> str:
    name: str = event.operator._schema.name
    return name.removeprefix("aten::")


def _loss(event: Event) -> tuple[str, Event] | None:
    """Returns why the output of an operator that owns no node does not carry a gradient."""
    if _short_name(event) == "detach":
        return "detach", event
    if not event.recorded:
        return "no_grad", event
    made = next(held_in([event.outputs]), None)
    continuous = made is not None and (made.tensor.is_floating_point() or made.tensor.is_complex())
    return None if continuous else ("integer", event)


def _cut(reason: str, event: Event, consumer: int | None = None) -> Cut:
    return Cut(reason, str(event.operator), source_of(event.frame), event.module, consumer)


def not_differentiable(recorder: Recorder, leaves: Mapping[str, Tensor]) -> RunError:
    """Returns the error that says where the gradient of the output was lost."""
    asked = [name for name, tensor in leaves.items() if tensor.requires_grad]
    if not asked:
        return RunError("nothing_differentiable", names=", ".join(leaves) or "–")
    for event in reversed(recorder.events):
        tracked = any(h.tracked for h in (*held_in(event.arguments), *held_in(event.keywords)))
        loss = _loss(event) if tracked and not _is_fresh(event) else None
        if loss:
            cut = _cut(*loss)
            code = cut.source.code if cut.source else ""
            return RunError(f"lost_by_{cut.reason}", operator=cut.operator, place=str(cut.source or "?"), code=code)
    return RunError("output_constant", names=", ".join(asked))
