"""Why a loss does not reach parameters: not used at all, or cut off on the way, and by which line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gradexplain.findings.births import base_name
from gradexplain.recording.events import Event, Held, held_in, source_of
from gradexplain.recording.recorder import Recorder
from gradexplain.recording.trace import Node, Trace
from gradexplain.targets.sources import Source


@dataclass(frozen=True)
class Way:
    """How the way from parameters to a loss ends.

    It is unused, unused_in_step (by all of its losses), frozen, no_grad, detach, integer, item, silent or unknown.
    """

    why: str
    source: Source | None = None
    module: str = ""


# What makes a new tensor of the numbers of others: it stands for a loss sooner than a number that is only printed.
_REBUILDING = ("tensor", "as_tensor", "asarray")


def way_to(loss: Tensor, parameters: Sequence[Tensor], recorder: Recorder) -> Way:
    """Returns how the way ends, in what was recorded of one step."""
    ends: dict[int, Way | None] = {id(parameter): None for parameter in parameters}
    numbers: list[Way] = []
    used = False
    for event in recorder.events:
        given = [h for h in held_in([event.arguments, event.keywords]) if id(h.live) in ends]
        if not given or base_name(str(event.operator)).startswith(("empty", "zeros", "ones")):
            continue
        made = list(held_in([event.outputs]))
        used = used or {id(h.live) for h in made} != {id(h.live) for h in given}  # or it is being filled
        end = next((way for h in given if (way := ends[id(h.live)]) is not None), None)
        if end is None and (why := _end(event, given, made)):
            end = Way(why, source_of(event.frame), event.module)
        if end is not None and not made:
            numbers.append(end)
        for held in made:
            ends.setdefault(id(held.live), end)
    exits = [
        (name, ends[id(held.live)] or Way("item", source_of(frame)))
        for held, frame, name in recorder.exits
        if id(held.live) in ends
    ]
    rebuilt = [way for name, way in exits if name in _REBUILDING]
    found = ends.get(id(loss)) or next(iter([*rebuilt, *numbers, *(way for _, way in exits)]), None)
    return found or Way("unknown" if used else "unused")


def silent_in(trace: Trace) -> Way:
    """Returns what got a gradient in a backward pass and sent none: a custom Function that gives back `None`."""
    nodes = (trace.nodes[index] for index in trace.order)
    silent = (n for n in nodes if n.edges and _got(n) and all(edge.contribution is None for edge in n.edges))
    node = next(silent, None)
    return Way("silent" if node is not None and node.source else "unknown", node.source if node is not None else None)


def _got(node: Node) -> bool:
    return node.leaf is None and any(cotangent is not None for cotangent in node.cotangents)


def _end(event: Event, given: Sequence[Held], made: Sequence[Held]) -> str:
    """Returns why an operator's outputs carry no gradient although what it was given does; nothing where they do."""
    if not any(h.live.requires_grad for h in given) or any(h.live.requires_grad for h in made):
        return ""
    if not made:
        return "item"
    if base_name(str(event.operator)) == "detach":
        return "detach"
    if not event.recorded:
        return "no_grad"
    return "detach" if made[0].live.is_floating_point() else "integer"
