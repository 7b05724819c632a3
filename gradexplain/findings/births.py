"""Where the first number that is not finite was made, among the operators of one recorded step.

Forward, one goes back from the loss along what is not finite, to where that came of finite numbers. What is healed on
the way has no path to the loss, and −∞ that was written on purpose (a mask) is no cause. Backward, it is the first node
that was given finite gradients and sent others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.findings.finding import Finding
from gradexplain.findings.reasons import Reason, base_name, reason_of, slope_reason
from gradexplain.mathematics.indices import Index, unravelled
from gradexplain.recording.events import Event, Held, held_in, source_of
from gradexplain.recording.join import Sent, argument_names, bound, owners_of
from gradexplain.recording.nodes import nodes_below

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


@dataclass(frozen=True)
class _Bad:
    """A recorded operator that gave a number that is not finite, with the first such element of each kind."""

    place: int
    event: Event
    output: Tensor
    nan: Index | None
    infinite: Index | None

    def at(self, *, nan: bool) -> Index:
        first, second = (self.nan, self.infinite) if nan else (self.infinite, self.nan)
        found = first if first is not None else second
        assert found is not None
        return found


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
    following = [b for b in path[:-1] if base_name(str(b.event.operator)) not in _MOVING]
    first = _finding(birth, events)
    nan = next((b for b in reversed(following) if b.nan is not None), None)
    if birth.nan is None and nan is not None:
        first = replace(first, consequences=(_finding(nan, events),))
    return first


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
    at = made.at(nan=True)
    return reason_of(str(made.event.operator), _arguments(made.event), made.output, at).key == "masked-row"


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
        "element": _element("", at),
        "shape": str(tuple(given.tensor.shape)),
        "value": float(given.tensor[at]),
        "operator": base_name(str(birth.event.operator)),
        "code": source.code if source else "",
    }
    parameter = given.tracked and given.producer is None
    return Finding("weight-not-finite" if parameter else "data-not-finite", data, source, None, phase="data")


def _arguments(event: Event) -> dict[str, Any]:
    return {name: _plain(value) for name, value in bound(event).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Held):
        return value.tensor.detach()
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _finding(made: _Bad, events: Sequence[Event]) -> Finding:
    at = made.at(nan=made.nan is not None)
    reason = reason_of(str(made.event.operator), _arguments(made.event), made.output, at)
    data = _told(made.event, made.output, at, reason, float(made.output[at]))
    return Finding(
        "first-not-finite", data, source_of(made.event.frame), None, phase="forward", module=made.event.module
    )


def _told(event: Event, tensor: Tensor, at: Index, reason: Reason, value: float) -> dict[str, Any]:
    source = source_of(event.frame)
    name = base_name(str(event.operator))
    return {
        "operator": name,
        "element": _element(source.target if source and source.target else name, at),
        "shape": str(tuple(tensor.shape)),
        "value": value,
        "reason": reason.key,
        "values": dict(reason.values),
        "met": met_text(name, reason.values),
        "code": source.code if source and source.code else name,
    }


def _element(name: str, at: Index) -> str:
    return f"{name}[{', '.join(map(str, at))}]" if at else name


_SIGNS = {"div": "/", "mul": "·", "add": "+", "sub": "−", "pow": "^", "true_divide": "/"}
_FIELDS = ("gradient", "result")


def met_text(name: str, values: Mapping[str, float]) -> str:
    """Returns the values that met as a formula: `log(0)`, `0 / 0`, `0 · inf`."""
    given = [_number(v) for k, v in values.items() if k not in _FIELDS and k in ("self", "other", "exponent")]
    if name in _SIGNS and len(given) == 2:
        return f"{given[0]} {_SIGNS[name]} {given[1]}"
    if given:
        return f"{name}({', '.join(given)})"
    told = ", ".join(f"{k} = {_number(v)}" for k, v in values.items() if k not in _FIELDS)
    return f"{name} ({told})" if told else name


def _number(value: float) -> str:
    return f"{value:.6g}".replace("e+0", "e+").replace("e-0", "e-")


# ------------------------------------------------------------------------------------------------------------ backward


def born_backward(events: Sequence[Event], root: Tensor, sent: Mapping[Any, Sent]) -> Finding | None:
    """Returns the first node that was given finite gradients and sent others; `None` where there is none."""
    nodes = nodes_below(root.grad_fn)
    owners = owners_of(events, nodes)
    users: dict[Any, list[Any]] = {}
    for node in nodes:
        for child, _ in node.next_functions:
            if child is not None:
                users.setdefault(child, []).append(node)
    for node, passed in sent.items():
        if any(_is_bad(t) for t in passed.received if t is not None):
            continue
        slot = next((i for i, t in enumerate(passed.sent) if t is not None and _is_bad(t)), None)
        if slot is not None:
            return _born_in(node, slot, passed, owners.get(node), users.get(node, []))
    return None


def _born_in(node: Any, slot: int, passed: Sent, event: Event | None, users: Sequence[Any]) -> Finding:
    tensor = passed.sent[slot]
    assert tensor is not None
    at = _where(tensor.isnan()) or _where(tensor.isinf()) or ()
    arrived = passed.received[0] if passed.received else None
    name = node.name().partition("Backward")[0].lower() if event is None else base_name(str(event.operator))
    data: dict[str, Any] = {"operator": name, "value": float(tensor[at]), "shape": str(tuple(tensor.shape))}
    source = source_of(event.frame) if event is not None else None
    if event is None or not event.recorded:
        data |= {"element": _element(name, at), "code": source.code if source else name, "reason": "undefined"}
        return Finding("first-gradient-not-finite", {**data, "values": {}, "met": name}, source, phase="backward")
    arguments = _arguments(event)
    names = argument_names(node.next_functions, bound(event))
    output = next((h.tensor.detach() for h in held_in([event.outputs])), None)
    same = arrived is not None and arrived.shape == tensor.shape
    gradient = float(arrived[at]) if same and arrived is not None else _only(arrived)
    reason = slope_reason(str(event.operator), arguments, output, at if same else (), gradient)
    untaken = gradient == 0 and any(user.name().startswith("Where") for user in users)
    key = "branch-not-taken" if untaken and reason.key == "zero-times-slope" else reason.key
    argument = names[slot] if slot < len(names) else ""
    data |= {
        "element": _element(argument or name, at),
        "reason": key,
        "values": dict(reason.values),
        "met": met_text(name, reason.values),
        "gradient": math.nan if gradient is None else gradient,
        "code": source.code if source and source.code else name,
    }
    return Finding("first-gradient-not-finite", data, source, phase="backward", module=event.module)


def _only(tensor: Tensor | None) -> float | None:
    return float(tensor) if tensor is not None and tensor.numel() == 1 else None
