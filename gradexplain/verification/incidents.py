"""What happens to a gradient besides its operators: saved numbers that were edited, hooks, random draws, stops.

None of these is an error of an operator's backward, and each has a name and a place of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules._functions import BackwardHookFunction

from gradexplain.findings.finding import Finding
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.custom_functions import arguments_of
from gradexplain.recording.cuts import stops_in
from gradexplain.recording.events import Application, Event, Held, held_in, source_of, written_by
from gradexplain.recording.join import Run, bound
from gradexplain.recording.nodes import saved_by
from gradexplain.recording.plain import is_same
from gradexplain.recording.recorder import is_freed, kept_on, paths_of, same
from gradexplain.recording.replay import Alone, Operator, sent_alone, unused
from gradexplain.recording.trace import Hooked, Node, Trace
from gradexplain.recording.tracing import hooks_in
from gradexplain.targets.sources import Source
from gradexplain.verification.oracles.measures import MARGIN, plain
from gradexplain.versions.internals import backward_hooks_of

# ---------------------------------------------------------------------------------------------------- saved numbers


def edits(alone: Alone, run: Run) -> Iterator[Finding]:
    """Yields what a node keeps for its backward and what was changed since, with who changed it."""
    for name, now, then in _kept(alone):
        if not then.used_up and _is_comparable(now, then.tensor) and not same(then.tensor, now):
            yield _edit(alone, run.recorder.events, name, now, then)


def _is_comparable(now: Tensor, then: Tensor) -> bool:
    plainly = now.layout == then.layout == torch.strided and not is_freed(now) and not is_freed(then)
    return plainly and (now.shape, now.dtype) == (then.shape, then.dtype)


def _kept(alone: Alone) -> Iterator[tuple[str, Tensor, Held]]:
    """Yields what the node keeps now, and the record of what it was given, or had made."""
    origin = alone.origin
    if isinstance(origin, Application):
        now = kept_on(alone.node)
        known = _storages(origin)
        yield from (
            (known.get(then.storage, name), now[name], then) for name, then in origin.kept.items() if name in now
        )
    elif origin is not None and origin.rewritten is None and not origin.packed:
        given = _by_saved_name(origin)
        for name, value in saved_by(alone.node).items():
            for i, (tensor, held) in enumerate(_pairs(value, given.get(name))):
                yield name if isinstance(value, Tensor) else f"{name}[{i}]", tensor, held


def _storages(origin: Application) -> dict[int, str]:
    """Returns the name of the argument, or `output`, that lies in a storage."""
    outputs = {held.storage: "output" for held in held_in([origin.outputs])}
    return outputs | {v.storage: n for n, v in arguments_of(origin).items() if isinstance(v, Held)}


def _by_saved_name(origin: Event) -> dict[str, Any]:
    """Returns the operator's arguments, and its outputs as torch calls them: result, or result0, result1, …"""
    made = list(held_in([origin.outputs]))
    results = {"result": made[0]} if made else {}
    return bound(origin) | results | {f"result{i}": held for i, held in enumerate(made)}


def _pairs(now: Any, then: Any) -> Iterator[tuple[Tensor, Held]]:
    if isinstance(now, Tensor) and isinstance(then, Held):
        yield now, then
    elif isinstance(now, (list, tuple)) and isinstance(then, (list, tuple)) and len(now) == len(then):
        for one, other in zip(now, then, strict=True):
            yield from _pairs(one, other)


def _edit(alone: Alone, events: Sequence[Event], name: str, now: Tensor, then: Held) -> Finding:
    origin = alone.origin
    start = origin.inside.stop if isinstance(origin, Application) else events.index(origin) + 1 if origin else 0
    writer = next((e for e in events[start:] if any(h.storage == then.storage for h in written_by(e))), None)
    changed = ~((now == then.tensor) | (now.isnan() & then.tensor.isnan()))
    place = unravelled(int(changed.flatten().int().argmax()), now.shape)
    data = {
        "argument": name,
        "count": int(changed.sum()),
        "total": changed.numel(),
        "place": place,
        "before": plain(then.tensor[place]),
        "now": plain(now[place]),
    }
    if writer is None:
        return Finding("saved-changed-unseen", data, alone.recorded.source)
    source = source_of(writer.frame)
    code = source.code if source and source.code else str(writer.operator)
    return Finding("saved-changed", data | {"code": code}, source)


# ------------------------------------------------------------------------------------------------------------ hooks


def changed_gradients(run: Run, trace: Trace) -> dict[int, list[Finding]]:
    """Returns, by node, the gradients that a hook of the user's changed on their way to it, leaves included."""
    changed: dict[int, list[Finding]] = {}
    for node, _, hooked in hooks_that_changed(run, trace):
        data = {"value": hooked.leaf} | ({"hook": hooked.hook} if hooked.hook else {})
        code = "hook" if hooked.hook else "hook-unseen"
        changed.setdefault(node.index, []).append(Finding(code, data, hooked.source or node.source))
    return changed


def hooks_that_changed(run: Run, trace: Trace) -> Iterator[tuple[Node, int, Hooked]]:
    """Yields the outputs of nodes whose gradient a hook changed, with the hook; one that torch does not list is "".

    What the gradient is of is told by its code.
    """
    arrived: dict[tuple[int, int], list[Tensor]] = {trace.output: [trace.cotangent]}
    for node in trace.nodes:
        for edge in node.edges:
            if edge.contribution is not None:
                arrived.setdefault((edge.producer, edge.output), []).append(edge.contribution)
    hooks = hooks_in(run)
    for node in trace.nodes:
        for number, received in enumerate(node.cotangents):
            sent = arrived.get((node.index, number), [])
            if received is not None and sent and not _adds_up(received, sent):
                own = hooks.get((node.index, number), [])
                name, source = _named(own[0]) if own else ("", None)
                value = node.leaf or (node.source.code if node.source else node.name)
                yield node, number, Hooked(value, name, source)


def _adds_up(received: Tensor, sent: Sequence[Tensor]) -> bool:
    """Says whether a gradient is the sum of what was sent, but for the order of the sum."""
    if any(t.layout != torch.strided for t in (received, *sent)):
        return True
    if len(sent) == 1 and torch.equal(received, sent[0]):
        return True
    total, size = sum(sent[1:], sent[0]), sum((t.abs() for t in sent[1:]), sent[0].abs())
    eps = torch.finfo(received.dtype).eps
    apart = (received - total).abs()
    return bool(((apart <= MARGIN / 2 * eps * size) | (received == total) | (received.isnan() & total.isnan())).all())


def _of_module(alone: Alone, modules: Mapping[str, nn.Module]) -> tuple[str, Callable[..., object]] | None:
    """Returns the hook of a module that a node of torch's carries, with the module's path; `None` if it may be another.

    Such a node runs inside the module that it belongs to, but for hooks on what arrives.
    """
    if not (isinstance(alone.origin, Application) and alone.origin.function is BackwardHookFunction):
        return None
    return _hook_of(modules, alone.recorded.module)


def _hook_of(modules: Mapping[str, nn.Module], inside: str) -> tuple[str, Callable[..., object]] | None:
    hooks = {path: backward_hooks_of(module) for path, module in paths_of(modules).values()}
    found = [(path, hook) for path, (after, before) in hooks.items() for hook in (*after, *before)]
    if len(found) > 1 and not any(before for _, before in hooks.values()):
        found = [(path, hook) for path, hook in found if path == inside]
    return found[0] if len(found) == 1 else None


def hooks_of_modules(trace: Trace, modules: Mapping[str, nn.Module]) -> Iterator[tuple[Node, Hooked]]:
    """Yields the nodes by which torch calls a hook of a module in the backward pass, with that hook."""
    for node in trace.nodes:
        if node.name == f"{BackwardHookFunction.__name__}Backward" and (found := _hook_of(modules, node.module)):
            yield node, Hooked(found[0], *_named(found[1]))


def _named(hook: Callable[..., object]) -> tuple[str, Source | None]:
    """Returns the name of a hook and where it is written."""
    hook = inspect.unwrap(hook)
    code = getattr(hook, "__code__", None)
    source = Source(code.co_filename, code.co_firstlineno, "") if code else None
    return getattr(hook, "__qualname__", type(hook).__name__), source


def sent_otherwise(alone: Alone, operator: Operator, run: Run, modules: Mapping[str, nn.Module]) -> Iterator[Finding]:
    """Yields what a node sent in the backward pass and does not send when called alone: a hook on it changed that.

    Of one that draws random numbers or sends something else at each call, nothing of the kind is known.
    """
    passed = run.sent.get(alone.node)
    if passed is None:
        return
    received = [c if c is not None else unused(alone, i) for i, c in enumerate(passed.received)]
    state = torch.get_rng_state()
    again = sent_alone(alone, operator, received).gradients
    pairs = [(name, sent, again.get(name)) for name, sent in zip(operator.slots, passed.sent, strict=False)]
    unlike = [n for n, a, b in pairs if a is not None and b is not None and a.shape == b.shape and not _adds_up(a, [b])]
    if not unlike:
        return
    further = sent_alone(alone, operator, received).gradients
    if any(not is_same(gradient, further.get(name)) for name, gradient in again.items()):
        yield Finding("unsteady", {}, alone.recorded.source)
    elif torch.equal(state, torch.get_rng_state()):
        for name in unlike:
            data: dict[str, object] = {"argument": name, "node": alone.recorded.name}
            if (known := _of_module(alone, modules)) is None:
                yield Finding("hook-on-node", data, alone.recorded.source)
            else:
                hook, source = _named(known[1])
                yield Finding("hook-of-module", data | {"module": known[0], "hook": hook}, source)


# -------------------------------------------------------------------------------------------------- draws and stops


def draws(run: Run) -> dict[int, list[Finding]]:
    """Returns, by the identity of an event or application, the random operators whose numbers went into it."""
    drawn: dict[int, Event] = {}
    findings: dict[int, list[Finding]] = {}
    for event in run.recorder.events:
        used = [h for h in held_in([event.arguments, event.keywords]) if not h.tracked]
        origins = {id(e): e for h in used if (e := drawn.get(h.storage))}
        if event.drew:
            origins[id(event)] = event
        findings[id(event)] = [_drawn(origin) for origin in origins.values()]
        made = [*held_in([event.outputs]), *written_by(event)]
        tracked = any(h.tracked for h in held_in([event.arguments, event.keywords]))
        if origins and (event.drew or not (event.recorded and tracked)):
            drawn.update((held.storage, next(iter(origins.values()))) for held in made)
    for own in run.recorder.applications:
        inside = [run.recorder.events[i] for i in own.inside]
        findings[id(own)] = [_drawn(e) for e in inside if e.drew and not e.recorded]
    return findings


def _drawn(event: Event) -> Finding:
    source = source_of(event.frame)
    name = event.operator._schema.name.removeprefix("aten::")
    return Finding("random", {"operator": name, "code": (source.code if source else "") or name}, source)


def stops(run: Run, owners: Mapping[Any, Event]) -> dict[int, list[Finding]]:
    """Returns, by the identity of an event or application, the values it was given whose gradient had been stopped."""
    findings: dict[int, list[Finding]] = {}
    recorder = run.recorder
    for user, reason, event in stops_in(recorder.events, recorder.applications, owners, list(run.inputs.values())):
        source = source_of(event.frame)
        data = {"code": source.code if source and source.code else str(event.operator)}
        finding = Finding(f"stopped-{reason.replace('_', '-')}", data, source)
        if finding not in findings.setdefault(id(user), []):
            findings[id(user)].append(finding)
    return findings
