"""One node by itself: its recorded operator as a function that can be run again, and its backward called alone.

What torch keeps no operator for is made up from what it recorded. Writing into a view makes two nodes: CopySlices, a
function of the whole tensor behind the view, and AsStrided, which looks at the result through the view again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.recording.computation import Computation, swapped
from gradexplain.recording.computation import _random_states as random_states
from gradexplain.recording.custom_functions import arguments_of, fitted, given_back
from gradexplain.recording.events import Application, Event, Held, held_in, tensors_in
from gradexplain.recording.holdings import held_by
from gradexplain.recording.join import Run, argument_names, bound, completed, owners_of, tensor_names
from gradexplain.recording.nodes import is_leaf, is_repeatable, ordered
from gradexplain.recording.trace import Node, Trace
from gradexplain.versions.internals import function_of, results_of, saved, schema_of, sequence_of

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Operator:
    """What a node was made for: a function of `arguments` (tensors as they were), its results in order.

    `slots` names the argument that each gradient of the node belongs to, "" where it belongs to none.
    """

    label: str
    arguments: Values
    slots: tuple[str, ...]
    run: Callable[[Values], object]
    random_states: tuple[Tensor, ...]


@dataclass(frozen=True)
class Alone:
    """A live node, what was recorded of it and of its operator; `used` are the outputs that the graph goes on from.

    `origin` is the recorded event or application, `None` where there is none of its own.
    """

    node: Any
    recorded: Node
    operator: Operator | None
    origin: Event | Application | None
    used: tuple[int, ...]


def nodes_alone(run: Run, found: Trace) -> Iterator[Alone]:
    """Yields every node of a recorded run that is no leaf, in the order of the forward pass."""
    assert run.output.grad_fn is not None
    live = ordered(run.output.grad_fn)
    owners = owners_of(run.recorder.events, live)
    own = {application.node: application for application in run.recorder.applications}
    views = [e for e in run.recorder.events if e.rewritten is not None]
    used = _used(found)
    for node, recorded in zip(live, found.nodes, strict=True):
        if is_leaf(node):
            continue
        origin = own.get(node) or owners.get(node)
        origin = origin if isinstance(origin, Application) or (origin and origin.recorded) else None
        writer = _writer(node, views) if origin is None else None
        operator = _operator(node, recorded, origin or writer, found)
        yield Alone(node, recorded, operator, origin or writer, used.get(recorded.index, ()))


def _used(found: Trace) -> dict[int, tuple[int, ...]]:
    outputs = [found.output, *((e.producer, e.output) for n in found.nodes for e in n.edges)]
    return {index: tuple(sorted({k for i, k in outputs if i == index})) for index, _ in outputs}


def _writer(node: Any, views: Sequence[Event]) -> Event | None:
    """Returns the operator that wrote into a view and so made a CopySlices: the last one before it."""
    if not node.name().endswith("CopySlices"):
        return None
    return next((e for e in reversed(views) if e.sequence < sequence_of(node)), None)


def _operator(node: Any, recorded: Node, origin: Event | Application | None, found: Trace) -> Operator | None:
    if isinstance(origin, Application):
        return _application(origin)
    if origin is not None:
        return _rewriting(node, origin) if node.name().endswith("CopySlices") else _event(node, origin)
    if node.name() == "AsStridedBackward0" and recorded.edges:
        return _strided(node, recorded, found)
    return None


def _application(origin: Application) -> Operator:
    arguments, dirty = arguments_of(origin), origin.dirty
    names = list(arguments)[: len(origin.arguments)]

    tensors = {id(held.live): name for name, held in arguments.items() if isinstance(held, Held)}
    modules = [m for value in arguments.values() if callable(value) for m in held_by(value)[0].values()]

    def run(given: Values) -> object:
        positional = [_fresh(given[n]) if i in dirty else given[n] for i, n in enumerate(names)]
        # An argument may be a parameter of a module that forward runs: then the module has to have the same.
        with swapped(modules, {own: given[name] for own, name in tensors.items()}):
            return origin.function.apply(*positional, **{n: given[n] for n in origin.keywords})

    return Operator(
        origin.function.__name__, plain(arguments), tuple(tensor_names(arguments)), run, origin.random_states
    )


def _event(node: Any, origin: Event) -> Operator:
    arguments = bound(origin)
    slots = tuple(completed(argument_names(node.next_functions, arguments), node, arguments))
    return Operator(_label(origin), plain(arguments), slots, lambda g: _called(origin, g), origin.random_states)


def _rewriting(node: Any, origin: Event) -> Operator | None:
    """Returns the operator that makes the whole tensor anew, with what was written into the view."""
    rewritten, arguments = origin.rewritten, bound(origin)
    name = next((a.name for a in schema_of(origin.operator).arguments if a.alias_info and a.alias_info.is_write), None)
    if rewritten is None or name is None:
        return None
    others = {n: v for n, v in arguments.items() if n != name}
    slots = (name, *argument_names(node.next_functions[1:], others))

    def run(given: Values) -> object:
        whole = given[name].clone()
        view = whole.as_strided(rewritten.size, rewritten.stride, rewritten.offset)
        _called(origin, {**given, name: view}, into=True)
        return whole

    values = plain({**arguments, name: rewritten.before})
    return Operator(_label(origin), values, slots, run, origin.random_states)


def _strided(node: Any, recorded: Node, found: Trace) -> Operator | None:
    edge = recorded.edges[0]
    whole = found.nodes[edge.producer].outputs[edge.output : edge.output + 1]
    if not whole or whole[0] is None:
        return None
    size, stride, offset = (saved(node, name) for name in ("size", "stride", "storage_offset"))

    def run(given: Values) -> object:
        return given["self"].as_strided(size, stride, offset)

    return Operator("as_strided", {"self": whole[0]}, ("self",), run, ())


def _label(origin: Event) -> str:
    name: str = schema_of(origin.operator).name
    return name.removeprefix("aten::")


def _called(origin: Event, given: Values, *, into: bool = False) -> object:
    """Runs a recorded operator on arguments by name; one that writes gets copies to write into, unless `into`."""
    positional, keywords = [], {}
    for argument in schema_of(origin.operator).arguments:
        value = given.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and not into:
            value = _fresh(value)
        if argument.kwarg_only:
            keywords[argument.name] = value
        else:
            positional.append(value)
    return origin.operator(*positional, **keywords)


def _fresh(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return [_fresh(v) for v in value] if isinstance(value, (list, tuple)) else value


def plain(value: Any) -> Any:
    """Returns a recorded value with tensors, as they were, in place of the records of them."""
    if isinstance(value, Held):
        return value.tensor.detach()
    if type(value) in (list, tuple):
        return type(value)(plain(v) for v in value)
    return {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


# ------------------------------------------------------------------------------------------------------ run again


@dataclass(frozen=True)
class Again:
    """An operator as a computation of its tensor arguments: items of lists are inputs of their own (`tensors[2]`).

    The outputs that are used stand at `positions` among all tensors that it gives; several are joined into one vector.
    """

    computation: Computation
    positions: tuple[int, ...]
    outputs: tuple[Tensor, ...]


def applied_anew(alone: Alone, operator: Operator) -> Computation:
    """Returns the operator as a computation of its tensor arguments, which gives all its outputs."""
    inputs = dict(_tensors(operator.arguments))
    wrt = tuple(n for n, (child, _) in zip(operator.slots, alone.node.next_functions, strict=False) if n and child)
    return Computation(
        name=operator.label,
        call=lambda given: operator.run(_filled(operator.arguments, given)),
        inputs=inputs,
        wrt=tuple(n for n in wrt if n in inputs),
        locate=lambda: None,
        random_states=operator.random_states or random_states(),
    )


def rerun(alone: Alone, operator: Operator) -> Again | None:
    """Returns the operator as a computation, `None` where its outputs carry no gradient when it is run alone."""
    whole = applied_anew(alone, operator)
    with torch.enable_grad():
        made = list(tensors_in(whole.run(whole.leaf_values())))
    chosen = sorted((t.output_nr, i) for i, t in enumerate(made) if t.requires_grad and t.output_nr in alone.used)
    if not chosen or [number for number, _ in chosen] != list(alone.used):
        return None
    positions = tuple(i for _, i in chosen)
    joined = replace(whole, call=lambda given: _joined(whole.call(given), positions))
    return Again(joined, positions, tuple(made[i].detach() for i in positions))


def _tensors(arguments: Values) -> Iterator[tuple[str, Tensor]]:
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from ((f"{name}[{i}]", v) for i, v in enumerate(value) if isinstance(v, Tensor))


def _filled(arguments: Values, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the arguments with the tensors of `given` in their places."""

    def filled(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
            return type(value)(given.get(f"{name}[{i}]", v) for i, v in enumerate(value))
        return given.get(name, value)

    return {name: filled(name, value) for name, value in arguments.items()}


def _joined(result: object, positions: Sequence[int]) -> Tensor:
    made = list(tensors_in(result))
    if len(positions) == 1:
        return made[positions[0]]
    return torch.cat([made[i].reshape(-1) for i in positions])


# ---------------------------------------------------------------------------------------------------- called alone


@dataclass(frozen=True)
class Sent:
    """What a node sent for each argument; `raw` is what a custom Function gave back, before torch fitted it."""

    gradients: Mapping[str, Tensor | None]
    raw: Mapping[str, Any]


def sent_alone(alone: Alone, operator: Operator, cotangents: Sequence[Tensor | None]) -> Sent:
    """Returns what the node makes of a cotangent for each output, without hooks."""
    inputs = dict(_tensors(operator.arguments))
    if isinstance(alone.origin, Application):
        with _speaking(alone, operator) as node:
            raw = dict(zip(operator.arguments, given_back(node, cotangents), strict=False))
    else:
        with torch.no_grad():
            found = alone.node(*cotangents)
        raw = dict(zip(operator.slots, found if isinstance(found, tuple) else (found,), strict=False))
    fit = {n: fitted(g, inputs[n]) for n, g in raw.items() if n in inputs and isinstance(g, Tensor)}
    return Sent({name: fit.get(name) for name in operator.slots if name}, raw)


@contextmanager
def _speaking(alone: Alone, operator: Operator) -> Iterator[Any]:
    """Yields the custom Function's node, or a new one of its operator where the node gives out what it saved once.

    The new node lives as long as its output does, so that is kept for the block.
    """
    if is_repeatable(function_of(alone.node)):
        yield alone.node
        return
    tracked = {n: t.clone().requires_grad_(n in operator.slots) for n, t in _tensors(operator.arguments)}
    with torch.enable_grad():
        made = next(t for t in tensors_in(operator.run(_filled(operator.arguments, tracked))) if t.grad_fn is not None)
    yield made.grad_fn


def cotangents_from(alone: Alone, joined: Tensor) -> list[Tensor | None]:
    """Returns the parts of a joined cotangent for the node's outputs.

    Those that are not used get none; a custom Function gets zeros for them, as torch makes by default.
    """
    metadata = results_of(alone.node)
    shapes = [tuple(metadata[number].shape) for number in alone.used]
    if len(shapes) == 1:
        parts = [joined.reshape(shapes[0])]
    else:
        sizes = [torch.Size(shape).numel() for shape in shapes]
        parts = [p.reshape(s) for p, s in zip(torch.split(joined, sizes), shapes, strict=True)]
    given = dict(zip(alone.used, parts, strict=True))
    return [given.get(number, unused(alone, number)) for number in range(len(metadata))]


def unused(alone: Alone, number: int) -> Tensor | None:
    """Returns what stands for a cotangent that did not arrive."""
    if not isinstance(alone.origin, Application):
        return None
    made = alone.origin.outputs if isinstance(alone.origin.outputs, (list, tuple)) else [alone.origin.outputs]
    held = made[number] if number < len(made) else None
    return torch.zeros_like(held.tensor) if isinstance(held, Held) else None


def recorded_outputs(alone: Alone, again: Again) -> list[Tensor] | None:
    """Returns the recorded values of the outputs that are used, `None` where they were not recorded."""
    origin = alone.origin
    if origin is None:
        return None
    if isinstance(origin, Event) and origin.rewritten is not None and alone.node.name().endswith("CopySlices"):
        return [origin.rewritten.after]
    made = [held.tensor for held in held_in([origin.outputs])]
    return [made[i] for i in again.positions] if max(again.positions) < len(made) else None
