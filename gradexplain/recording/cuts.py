"""Cuts: where a value that depends on an input went on without its gradient, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from torch import Tensor

from gradexplain.errors import NoGradientError
from gradexplain.recording.events import Application, Event, held_in, source_of
from gradexplain.recording.frames import place_text
from gradexplain.recording.recorder import Recorder
from gradexplain.recording.trace import Cut, Dropped
from gradexplain.versions.internals import schema_of, storage_of

# Operators whose output does not depend on the numbers of their input.
_FRESH = ("empty", "zeros", "ones", "full", "rand", "new_", "bernoulli", "normal", "uniform", "scalar_tensor", "arange")


def cuts_in(
    events: Sequence[Event],
    applications: Sequence[Application],
    owners: Mapping[Any, Event],
    inputs: Sequence[Tensor],
    numbers: Mapping[int, int],
) -> Iterator[Cut]:
    """Finds the values that depend on an input and went on into a recorded operator without their gradient.

    `numbers` has, by the identity of an event or application, the number of its node: the cut's `consumer`.
    """
    reported: set[int] = set()
    for user, reason, event in stops_in(events, applications, owners, inputs):
        if id(event) not in reported:
            reported.add(id(event))
            yield _cut(reason, event, numbers.get(id(user)))


def dropped_in(
    events: Sequence[Event],
    applications: Sequence[Application],
    owners: Mapping[Any, Event],
    inputs: Sequence[Tensor],
    outputs: Sequence[tuple[str, Tensor]],
) -> Iterator[Dropped]:
    """Yields the outputs, of those that carry no gradient, that depend on an input, and where each lost it."""
    stops = list(stops_in(events, applications, owners, inputs, [output for _, output in outputs]))
    for name, output in outputs:
        yield from (Dropped(name, _cut(reason, event)) for user, reason, event in stops if user is output)


def stops_in(
    events: Sequence[Event],
    applications: Sequence[Application],
    owners: Mapping[Any, Event],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor] = (),
) -> Iterator[tuple[Event | Application | Tensor, str, Event]]:
    """Yields each use of a value that lost its gradient: who used it, why it was lost, and by which operator.

    Of the run's `outputs`, each is the last use of itself.
    """
    owning = {id(event) for event in owners.values()}
    inner = _inner(events, applications)
    dependent = {storage_of(t) for t in inputs if t.requires_grad}
    lost: dict[int, tuple[str, Event]] = {}
    for event in _in_order(events, applications):
        operands = [*held_in(event.arguments), *held_in(event.keywords)]
        owned = isinstance(event, Application) or (id(event) in owning and event.recorded)
        for held in operands if owned else ():
            if held.storage in lost and not held.tracked and held.tensor.is_floating_point():
                yield event, *lost[held.storage]
        if isinstance(event, Event) and pads(event):
            yield event, "padding", event
        if isinstance(event, Application) or _is_fresh(event) or not any(h.storage in dependent for h in operands):
            continue
        inherited = next((lost[h.storage] for h in operands if not h.tracked and h.storage in lost), None)
        for held in held_in([event.outputs]):
            dependent.add(held.storage)
            loss = None if owned else inherited or _loss(event, inner)
            if loss:
                lost[held.storage] = loss
    yield from ((output, *lost[storage]) for output in outputs if (storage := storage_of(output)) in lost)


def _in_order(events: Sequence[Event], applications: Sequence[Application]) -> Iterator[Event | Application]:
    """Yields what ran in its order, a custom Function after what ran inside it."""
    waiting = list(applications)
    for position, event in enumerate(events):
        while waiting and waiting[0].inside.stop <= position:
            yield waiting.pop(0)
        yield event
    yield from waiting


def pads(event: Event) -> bool:
    """Says whether an embedding looks up the row that by its own definition gets no gradient."""
    if short_name(event) != "embedding" or len(event.arguments) < 3:
        return False
    indices, padding = event.arguments[1:3]
    return padding >= 0 and bool((indices.tensor == padding).any())


def _is_fresh(event: Event) -> bool:
    return short_name(event).startswith(_FRESH)


def short_name(event: Event) -> str:
    name: str = schema_of(event.operator).name
    return name.removeprefix("aten::")


def _inner(events: Sequence[Event], applications: Sequence[Application]) -> set[int]:
    """Returns the identities of the events that ran inside custom Functions."""
    return {id(event) for own in applications for event in events[own.inside.start : own.inside.stop]}


def _loss(event: Event, inner: Set[int]) -> tuple[str, Event] | None:
    """Returns why the output of an operator that owns no node does not carry a gradient."""
    if id(event) in inner:
        return "function", event
    if short_name(event) == "detach":
        return "detach", event
    if not event.recorded:
        return "backward" if event.backward else "no_grad", event
    if next(held_in([event.outputs]), None) is None:
        return "number", event
    made = next(held_in([event.outputs]), None)
    continuous = made is not None and (made.tensor.is_floating_point() or made.tensor.is_complex())
    return None if continuous else ("integer", event)


def _cut(reason: str, event: Event, consumer: int | None = None) -> Cut:
    return Cut(reason, str(event.operator), source_of(event.frame), event.module, consumer)


def not_differentiable(recorder: Recorder, leaves: Mapping[str, Tensor]) -> NoGradientError:
    """Returns the error that says where the gradient of the output was lost."""
    if not leaves:
        return NoGradientError("no_input")
    asked = [name for name, tensor in leaves.items() if tensor.requires_grad]
    if not asked:
        names = (f"{name}: {str(leaf.dtype).removeprefix('torch.')}" for name, leaf in leaves.items())
        return NoGradientError("nothing_differentiable", names=", ".join(names))
    inner = _inner(recorder.events, recorder.applications)
    for event in reversed(recorder.events):
        tracked = any(h.tracked for h in (*held_in(event.arguments), *held_in(event.keywords)))
        loss = _loss(event, inner) if tracked and not _is_fresh(event) else None
        if loss:
            cut = _cut(*loss)
            name = short_name(loss[1])
            code = (cut.source.code if cut.source else "") or name
            place = place_text(cut.source, name)
            return NoGradientError(f"lost_by_{cut.reason}", operator=cut.operator, place=place, code=code)
    return NoGradientError("output_constant", names=", ".join(asked))
