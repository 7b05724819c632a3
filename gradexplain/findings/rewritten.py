"""A tensor that was saved for the backward pass and written into since: who saved it, and which line wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gradexplain.findings.births import base_name
from gradexplain.findings.finding import Finding, Remedy
from gradexplain.recording.events import Event, held_in, source_of, written_by
from gradexplain.recording.join import owners_of
from gradexplain.recording.nodes import nodes_below
from gradexplain.versions.internals import saved, saved_names


def rewritten(events: Sequence[Event], loss: Tensor) -> Finding | None:
    """Returns the first tensor of the graph of a loss that cannot be had any more as it was saved."""
    nodes = nodes_below(loss.grad_fn)
    owners = owners_of(events, nodes)
    places = {id(event): place for place, event in enumerate(events)}
    for node in nodes:
        event = owners.get(node)
        name = _changed(node)
        if name is None or event is None:
            continue
        own = {h.storage for h in held_in([event.arguments, event.keywords, event.outputs])}
        after = events[places[id(event)] + 1 :]
        writers = [e for e in after if any(h.storage in own for h in written_by(e))]
        if writers:
            return _finding(event, writers[0])
    return None


def _changed(node: Any) -> str | None:
    """Returns the name of what a node saved and that was written into since."""
    for name in saved_names(node):
        try:
            saved(node, name)
        except RuntimeError as fault:
            if "modified by an inplace operation" in str(fault):
                return name
    return None


def _finding(event: Event, writer: Event) -> Finding:
    source, place = source_of(event.frame), source_of(writer.frame)
    data = {
        "operator": base_name(str(event.operator)),
        "code": (source.code if source else "") or str(event.operator),
        "saved": "" if source is None else f"{source.file}:{source.line}",
        "writer": place.code if place else str(writer.operator),
    }
    cure = Remedy("saved-changed-by-step" if ".step(" in data["writer"] else "saved-changed", data)
    return Finding("saved-changed", data, place, "P13", None, "backward", module=writer.module, remedy=cure)
