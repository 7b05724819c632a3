"""A backward pass that failed: who broke it, and what to write instead."""

from __future__ import annotations

import json
import linecache
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.recording.custom_functions import breach, cotangents_like, given_back
from gradexplain.recording.events import Application, Event, Held, held_in, source_of, written_by
from gradexplain.recording.frames import is_ours_or_torchs, place_text
from gradexplain.recording.join import argument_names, bound, written_view
from gradexplain.targets.sources import Source
from gradexplain.versions.internals import saved, saved_names, schema_of

OVERWRITTEN = "modified by an inplace operation"


def backward_failure(
    fault: Exception,
    nodes: Sequence[Any],
    owners: Mapping[Any, Event],
    applications: Sequence[Application],
    events: Sequence[Event],
) -> RunError:
    """Returns the error that names the node at fault; `nodes` stand in the order of the forward pass."""
    own = {application.node: application for application in applications}
    backwards = [node for node in reversed(nodes) if node in owners or node in own]
    if OVERWRITTEN in str(fault):
        found = next(chain(_overwritten(backwards, owners, own, events), _overwritten_parts(events)), None)
    else:
        found = _raised(fault, own) or next(_broken([own[n] for n in backwards if n in own]), None)
        found = found or _misshapen(str(fault), backwards, owners) or _underivable(str(fault), events)
    return found or RunError("backward_failed", message=str(fault).split("\n", 1)[0])


# What torch says of a gradient of its own that has not the shape of what it is of.
_MISSHAPEN = re.compile(
    r"Function (\w+) returned an invalid gradient at index (\d+) - got (\[.*?\]) but expected shape"
)


def _misshapen(message: str, nodes: Sequence[Any], owners: Mapping[Any, Event]) -> RunError | None:
    """Returns the error that names the operator, and the argument whose gradient has another shape."""
    told = _MISSHAPEN.match(message)
    for node in nodes if told is not None else ():
        assert told is not None
        event, slot = owners.get(node), int(told[2])
        if event is None or node.name() != told[1] or slot >= len(node.next_functions):
            continue
        arguments = bound(event)
        argument = argument_names(node.next_functions, arguments)[slot]
        held, source = arguments.get(argument), source_of(event.frame)
        if not isinstance(held, Held) or str(list(held.tensor.shape)) == told[3]:
            continue
        index = arguments.get("index")
        beside = isinstance(index, Held) and str(list(index.tensor.shape)) == told[3]
        return RunError(
            "gradient_by_index" if beside else "gradient_misshapen",
            operator=str(event.operator),
            code=(source.code if source else "") or node.name(),
            place=place_text(source, node.name()),
            argument=argument,
            seen=str(tuple(json.loads(told[3]))),
            needed=str(tuple(held.tensor.shape)),
        )
    return None


# What torch says of an operator of its own that has no backward.
_UNDERIVABLE = re.compile(r"derivative for (aten::\w+) is not implemented")


def _underivable(message: str, events: Sequence[Event]) -> RunError | None:
    """Returns the error that names the place of an operator that torch cannot differentiate."""
    told = _UNDERIVABLE.match(message)
    event = next((e for e in reversed(events) if told and schema_of(e.operator).name == told[1]), None)
    if event is None:
        return None
    source, operator = source_of(event.frame), str(event.operator)
    code = (source.code if source else "") or operator
    return RunError("no_derivative", operator=operator, code=code, place=place_text(source, operator))


def _broken(applications: Sequence[Application]) -> Iterator[RunError]:
    """Yields the breaches of contract that a call of each backward by itself shows."""
    for application in applications:
        try:
            returned = given_back(application.node, cotangents_like(application))
        except Exception:  # the user's own code, which torch ran on other numbers
            continue
        found = breach(application, returned)
        if found is not None:
            yield RunError(found.key, **found.data)


def _raised(fault: Exception, own: Mapping[Any, Application]) -> RunError | None:
    """Returns the error for an exception out of the user's own backward, which torch called as a method of its node."""
    frames = list(traceback.walk_tb(fault.__traceback__))
    contexts = {id(node): application for node, application in own.items()}
    application = next((a for f, _ in frames if (a := contexts.get(id(f.f_locals.get("self"))))), None)
    users = [(f, line) for f, line in frames if not is_ours_or_torchs(f.f_code.co_filename)]
    if application is None or not users:
        return None
    frame, line = users[-1]
    return RunError(
        "backward_raised",
        function=application.function.__name__,
        kind=type(fault).__name__,
        message=str(fault).strip().split("\n", 1)[0],
        place=f"{frame.f_code.co_filename}:{line}",
        code=linecache.getline(frame.f_code.co_filename, line).strip(),
        used=place_text(source_of(application.frame), f"{application.function.__name__}.apply"),
    )


# ------------------------------------------------------------------------------------------- saved and overwritten


def _overwritten(
    nodes: Sequence[Any], owners: Mapping[Any, Event], own: Mapping[Any, Application], events: Sequence[Event]
) -> Iterator[RunError]:
    """Yields, for each node whose saved tensors torch does not give out any more, who wrote into them."""
    for node in nodes:
        kept = refused(node)
        if kept is None:
            continue
        user = own.get(node) or owners[node]
        source = source_of(user.frame)
        storages = _storages(user, kept)
        start = user.inside.stop if isinstance(user, Application) else events.index(user) + 1
        yield _told(node.name(), kept, source, _writer(events[start:], storages))


def _writer(events: Sequence[Event], storages: set[int]) -> Event | None:
    """Returns the first operator that wrote into one of the storages."""
    return next((e for e in events if any(h.storage in storages for h in written_by(e))), None)


def _told(node: str, kept: str, source: Source | None, writer: Event | None) -> RunError:
    edit = source_of(writer.frame) if writer else None
    return RunError(
        "saved_overwritten" if writer else "saved_overwritten_somewhere",
        node=node,
        kept=kept,
        code=(source.code if source else "") or node,
        place=place_text(source, node),
        edit=(edit.code if edit else "") or (str(writer.operator) if writer else ""),
        where=place_text(edit, "") if writer else "",
    )


def _overwritten_parts(events: Sequence[Event]) -> Iterator[RunError]:
    """Yields, for each operator that wrote into a view, who wrote into what it keeps: its node is not to be asked.

    What it keeps may be a view of the same tensor: then it is the operator's own write that comes too late.
    """
    for position, event in enumerate(events):
        written = written_view(event) if event.recorded else ""
        node = _node_alone(event) if written else None
        if node is None:
            continue
        for kept in saved_names(node):
            if kept != written and isinstance(saved(node, kept), Tensor):
                start = position + (kept not in bound(event))
                writer = _writer(events[start:], _storages(event, kept))
                if writer is not None:
                    yield _told(node.name(), kept, source_of(event.frame), writer)


def _node_alone(event: Event) -> Any:
    """Returns a node that torch makes for an operator, of tensors of the same shapes."""
    with torch.enable_grad():
        given = {n: _fresh(v) for n, v in bound(event).items()}
        try:
            made = event.operator(**given)
        except Exception:  # an operator that cannot be called so keeps nothing that can be told
            return None
    return made.grad_fn if isinstance(made, Tensor) else None


def _fresh(value: Any) -> Any:
    if not isinstance(value, Held):
        return value
    made = value.tensor.detach().clone()
    return made.requires_grad_().clone() if value.tracked else made


def refused(node: Any) -> str | None:
    """Returns the name of what a node saved that torch refuses to give out, because it was overwritten."""
    own = saved_names(node)
    for name in own or ("saved_tensors",):
        try:
            saved(node, name) if own else getattr(node, name, None)
        except RuntimeError as fault:
            if OVERWRITTEN in str(fault):
                return name
    return None


def _storages(user: Event | Application, kept: str) -> set[int]:
    """Returns the storages that a saved tensor may lie in: the argument of its name, or else all that the node knew."""
    if isinstance(user, Event):
        names = [argument.name for argument in schema_of(user.operator).arguments]
        if kept in names and names.index(kept) < len(user.arguments):
            return {held.storage for held in held_in(user.arguments[names.index(kept)])}
        return {held.storage for held in held_in([user.outputs])}
    known: list[Held] = [*held_in(user.arguments), *held_in([user.outputs])]
    return {held.storage for held in known}
