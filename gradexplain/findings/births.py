"""Where the first number that is not finite was made in one recorded step of a training.

One goes back from the loss along what is not finite, through operators that no gradient passes as well (what is done to
data), to where that came of finite numbers. What is healed on the way has no path to the loss, and −∞ that was written
on purpose (a mask) is no cause. What met there is told as everywhere (`not_finite`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradexplain.findings.finding import Finding
from gradexplain.findings.not_finite import gradients_born, values_born
from gradexplain.mathematics.indices import Index, indexed, unravelled
from gradexplain.recording.events import Event, Held, held_in, source_of
from gradexplain.recording.join import node_of
from gradexplain.recording.trace import Node, Trace
from gradexplain.rules.application import call, is_repeatable

# Operators that write what they are told: an infinity that they make is meant.
_WRITING = frozenset({
    "masked_fill", "fill", "full", "full_like", "scalar_tensor", "lift_fresh", "where", "copy", "index_put", "new_full",
    "zeros", "ones", "empty", "triu", "tril", "masked_scatter", "scatter", "detach", "constant_pad_nd",
})  # fmt: skip
# What only lays numbers out anew, or takes some of them.
_MOVING = frozenset({
    "view", "reshape", "unsafe_view", "t", "transpose", "permute", "squeeze", "unsqueeze", "expand", "clone", "slice",
    "select", "alias", "as_strided", "detach", "cat", "stack", "index", "index_select", "gather", "split", "copy",
})  # fmt: skip


def base_name(operator: str) -> str:
    """Returns `log` for aten.log_.default."""
    return operator.removeprefix("aten.").partition(".")[0].strip("_")


@dataclass(frozen=True)
class _Bad:
    """A recorded operator that gave a number that is not finite, with the first such element of each kind."""

    place: int
    event: Event
    output: Tensor
    nan: Index | None
    infinite: Index | None


def born_forward(events: Sequence[Event], loss: Tensor) -> Finding | None:
    """Returns what made the first value that is not finite and that reached the loss; `None` where none did."""
    bad = {b.place: b for b in _bad_events(events)}
    producers: dict[int, list[int]] = {}
    for place, event in enumerate(events):
        for held in held_in([event.outputs]):
            producers.setdefault(id(held.live), []).append(place)
    ends = [p for p in producers.get(id(loss), []) if p in bad] or list(bad)[-1:]
    if not ends:
        return None
    path = _path(bad, bad[ends[-1]], producers)
    birth = path[-1]
    given = _given_bad(birth.event)
    if given is not None and not producers.get(id(given.live)):
        return _from_data(birth, given)
    nodes = [node_of(b.event, b.place) for b in reversed(path)]
    found = _first(values_born(nodes, _names(nodes)))
    return found and replace(found, data={**found.data, "learned": _is_learned(birth, events, producers)})


def _is_learned(made: _Bad, events: Sequence[Event], producers: Mapping[int, Sequence[int]]) -> bool:
    """Says whether anything that learns took part in what was made, or it is made of data alone."""
    waiting, seen = [made.place], {made.place}
    while waiting:
        place = waiting.pop()
        for held in held_in([events[place].arguments, events[place].keywords]):
            if held.tracked:
                return True
            before = {p for p in producers.get(id(held.live), ()) if p < place} - seen
            waiting += before
            seen |= before
    return False


def born_backward(trace: Trace) -> Finding | None:
    """Returns the first operator whose backward was given finite gradients and sent others; `None` without one."""
    return _first(gradients_born(trace, _names(trace.nodes)))


def born_live(nodes: Sequence[Node]) -> Finding | None:
    """Returns the first of the nodes of a live loss that made a value that is not finite, as far as values are kept."""
    whole = [node for node in map(_computed, nodes) if node.leaf is not None or node.is_complete]
    names = {n.index: n.leaf or base_name(n.operator or n.name) for n in nodes}  # of a line, no part can be told
    return _first(values_born(whole, names))


def _computed(node: Node) -> Node:
    """Returns a node with its output, computed again where torch kept only what it was computed of."""
    unknown = any(getattr(value, "is_meta", False) for value in node.arguments.values())
    if node.operator is None or unknown or any(output is not None for output in node.outputs):
        return node
    if not is_repeatable(node.operator):
        return node
    try:
        made = call(node.operator, node.arguments)
    except (RuntimeError, TypeError, IndexError, KeyError):  # an argument that is not saved has no default
        return node
    return replace(node, outputs=tuple(made))


def _names(nodes: Sequence[Node]) -> dict[int, str]:
    """Returns what the value of each node is called: its variable's name, or the code that made it."""
    return {n.index: n.leaf or (n.source and (n.source.target or n.source.code)) or n.name for n in nodes}


def _first(found: Iterator[Finding]) -> Finding | None:
    """Returns the first of some findings, with those after it as what it led to."""
    first = next(found, None)
    return None if first is None else replace(first, consequences=tuple(found))


def _bad_events(events: Sequence[Event]) -> Iterator[_Bad]:
    for place, event in enumerate(events):
        for held in held_in([event.outputs]):
            tensor = held.tensor
            if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel() or tensor.layout != torch.strided:
                continue
            if base_name(str(event.operator)).startswith(("empty", "new_empty")) or bool(tensor.isfinite().all()):
                continue
            yield _Bad(place, event, tensor.detach(), _where(tensor.isnan()), _where(tensor.isinf()))
            break


def _where(mask: Tensor) -> Index | None:
    return unravelled(int(mask.flatten().int().argmax()), mask.shape) if bool(mask.any()) else None


def _path(bad: Mapping[int, _Bad], end: _Bad, producers: Mapping[int, Sequence[int]]) -> list[_Bad]:
    """Returns the way back from what reached the loss to where it was made.

    A nan is followed to the first nan; from there to what gave it its infinity, unless that was written on purpose.
    """
    path = [end]
    while True:
        last = path[-1]
        parents = _parents(last, bad, producers)
        nans = [b for b in parents if b.nan is not None]
        if last.nan is not None and nans:
            path.append(_earliest(nans))
        elif last.nan is not None:
            meant = [b for b in parents if _is_meant(b, bad, producers)]
            others = [b for b in parents if b not in meant]
            if not others or _is_masked_row(last):
                return path
            path.append(_earliest(others))
        elif parents and not _is_meant(_earliest(parents), bad, producers):
            path.append(_earliest(parents))
        else:
            return path


def _earliest(found: Sequence[_Bad]) -> _Bad:
    return min(found, key=lambda b: b.place)


def _parents(last: _Bad, bad: Mapping[int, _Bad], producers: Mapping[int, Sequence[int]]) -> list[_Bad]:
    found: dict[int, _Bad] = {}
    for held in held_in([last.event.arguments, last.event.keywords]):
        if not _is_bad(held.tensor):
            continue
        before = [p for p in producers.get(id(held.live), ()) if p < last.place and p in bad]
        if before:
            found[before[-1]] = bad[before[-1]]
    return list(found.values())


def _is_bad(tensor: Tensor) -> bool:
    return (
        not tensor.is_meta
        and tensor.is_floating_point()
        and tensor.layout == torch.strided
        and not bool(tensor.isfinite().all())
    )


def _is_meant(made: _Bad, bad: Mapping[int, _Bad], producers: Mapping[int, Sequence[int]]) -> bool:
    """Says whether an infinity was written as one: as a mask is."""
    name = base_name(str(made.event.operator))
    if name in _WRITING and made.nan is None:
        return True
    if name in _MOVING or name in ("add", "sub", "mul", "div", "to_copy"):
        parents = _parents(made, bad, producers)
        masked = made.nan is None and bool((made.output != math.inf).all())
        return masked and _given_bad(made.event) is None and all(_is_meant(b, bad, producers) for b in parents)
    return False


def _is_masked_row(made: _Bad) -> bool:
    return base_name(str(made.event.operator)) in ("softmax", "log_softmax", "safe_softmax")


def _given_bad(event: Event) -> Held | None:
    """Returns what an operator was given that is nan or +∞; −∞ alone is a mask."""
    if base_name(str(event.operator)) in _WRITING:
        return None
    given = [h for h in held_in([event.arguments, event.keywords]) if _is_bad(h.tensor)]
    return next((h for h in given if not bool((h.tensor < math.inf).all())), None)


def _from_data(birth: _Bad, given: Held) -> Finding:
    at = _where(given.tensor.isnan()) or _where(given.tensor.isinf()) or ()
    source = source_of(birth.event.frame)
    data = {
        "element": indexed("", at) or "()",
        "shape": str(tuple(given.tensor.shape)),
        "value": float(given.tensor[at]),
        "operator": str(birth.event.operator),
        "code": source.code if source else "",
        "learned": given.tracked,
    }
    code = "weight-not-finite" if given.tracked and given.producer is None else "data-not-finite"
    return Finding(code, data, source, phase="data", module=birth.event.module)
