"""The join: what ran forward, and the nodes that torch made for it and ran backward, as one `Trace`.

It rests on torch's sequence numbers: while an operator is dispatched, the counter less one is the number of the
autograd node that was made for it. The first operator dispatched under a number owns the node; what runs inside a
custom `Function.forward` has grad mode off and belongs to the Function, whose `apply` is noted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gradexplain.recording.computation import Computation
from gradexplain.recording.custom_functions import arguments_of
from gradexplain.recording.cuts import cuts_in, dropped_in
from gradexplain.recording.events import Application, Event, Held, held_in, source_of
from gradexplain.recording.nodes import is_leaf, ordered
from gradexplain.recording.recorder import Recorder, is_freed, paths_of
from gradexplain.recording.trace import Draw, Dropped, Edge, Hooked, Node, Slice, Trace
from gradexplain.versions.internals import function_of, results_of, saved, schema_of, sequence_of, viewed

LEAF = "AccumulateGrad"


@dataclass(frozen=True)
class Run:
    """One recorded forward and backward pass, not yet joined."""

    output: Tensor
    outputs: int
    seed: Tensor
    recorder: Recorder
    inputs: Mapping[str, Tensor]
    names: Mapping[int, str]  # of leaves, by identity
    gradients: Mapping[str, Tensor | None]
    saved: Mapping[Any, Mapping[str, Any]]
    jacobians: Mapping[Any, Mapping[int, Tensor]]
    sent: Mapping[Any, Sent]
    hooked: tuple[Hooked, ...]
    dropped: Sequence[tuple[str, Tensor]]


@dataclass(slots=True)
class Sent:
    """What one node received and sent in the backward pass."""

    received: tuple[Tensor | None, ...]
    sent: tuple[Tensor | None, ...]


def joined(run: Run, computation: Computation) -> Trace:
    """Returns the trace of what was recorded of a computation."""
    modules = {path: type(module).__name__ for path, module in paths_of(computation.modules).values()}
    if run.output.grad_fn is None:
        return _leaf_alone(run, modules)
    nodes_in_order = ordered(run.output.grad_fn)
    index = {node: i for i, node in enumerate(nodes_in_order)}
    owners = owners_of(run.recorder.events, nodes_in_order)
    own = {application.node: application for application in run.recorder.applications}
    values = _values(run.recorder.events, run.recorder.applications, owners, run.output)
    nodes = tuple(
        _leaf(node, i, run) if is_leaf(node) else _node(node, i, index, owners.get(node), own.get(node), values, run)
        for node, i in index.items()
    )
    return Trace(
        nodes=nodes,
        output=(index[run.output.grad_fn], run.output.output_nr),
        value=values.get((run.output.grad_fn, run.output.output_nr), run.output).detach(),
        cotangent=run.seed,
        inputs={name: _kept(tensor, computation.inputs.get(name)) for name, tensor in run.inputs.items()},
        gradients={name: None if g is None else g.detach() for name, g in run.gradients.items()},
        order=tuple(index[node] for node in run.sent),
        cuts=tuple(
            cuts_in(
                run.recorder.events,
                run.recorder.applications,
                owners,
                list(run.inputs.values()),
                {id(user): index[node] for known in (owners, own) for node, user in known.items() if node in index},
            )
        ),
        draws=tuple(dict.fromkeys(_draws(run.recorder.events))),
        modules=modules,
        unregistered=computation.unregistered,
        outputs=run.outputs,
        dropped=_dropped(run, owners),
        hooked=run.hooked,
        inlined=tuple(dict.fromkeys(run.recorder.inlined)),
    )


def _kept(leaf: Tensor, given: object) -> Tensor:
    """Returns an input's numbers: of a leaf whose memory was freed, those that it was made of."""
    return given.detach() if is_freed(leaf) and isinstance(given, Tensor) else leaf.detach()


def _draws(events: Sequence[Event]) -> Iterator[Draw]:
    for event in events:
        if event.drew:
            yield Draw(str(event.operator), source_of(event.frame), event.module)


def _leaf_alone(run: Run, modules: Mapping[str, str]) -> Trace:
    """Returns the trace of a function that gives back one of its inputs as it is."""
    name = run.names.get(id(run.output), "leaf0")
    gradients = {n: None if g is None else g.detach() for n, g in run.gradients.items()}
    value = run.output.detach()
    leaf = Node(0, LEAF, None, {}, (value,), (), (gradients.get(name),), {}, leaf=name)
    inputs = {n: tensor.detach() for n, tensor in run.inputs.items()}
    whole = Trace((leaf,), (0, 0), value, run.seed, inputs, gradients, (), modules=modules, outputs=run.outputs)
    return replace(whole, hooked=run.hooked, dropped=_dropped(run, {}))


def _dropped(run: Run, owners: Mapping[Any, Event]) -> tuple[Dropped, ...]:
    recorder = run.recorder
    return tuple(
        dropped_in(recorder.events, recorder.applications, owners, list(run.inputs.values()), run.dropped)
        if run.dropped
        else ()
    )


def owners_of(events: Sequence[Event], nodes: Sequence[Any]) -> dict[Any, Event]:
    """Returns for each autograd node the operator that it was made for, or the first one inside a custom Function.

    Inside a Function grad mode is off. Nodes from before the recording have no operator in it.

    Before `mul_` overwrites its input, torch copies it, under the next number: the second operator of a number that
    writes in place has the number before. A conjugate is copied under the number of the operator that needs it.
    """
    inside: dict[int, Event] = {}
    recorded: dict[int, list[Event]] = {}
    for event in [event for event in events if not _is_of_shapes(event)] or events:
        if event.recorded:
            copied = event.sequence in recorded and schema_of(event.operator).is_mutable
            recorded.setdefault(event.sequence - copied, []).append(event)
        else:
            inside.setdefault(event.sequence, event)
    inner = [node for node in nodes if not is_leaf(node)]
    _behind_views(recorded, inner)
    owners: dict[Any, Event] = {}
    for node in inner:
        number = sequence_of(node)
        if function_of(node):
            owner = inside.get(number)
        else:
            made = recorded.get(number, [])
            alike = [e for e in made if _is_named_alike(e, node)]
            makers = [e for e in made if any(held.live.grad_fn == node for held in held_in([e.outputs]))]
            owner = next(iter([*alike, *makers, *made]), None)
        if owner is not None:
            owners[node] = owner
    return owners


def _is_of_shapes(event: Event) -> bool:
    """Says whether torch asked an operator for the shape of its result alone, as of a product with a tangent of 0."""
    made = list(held_in([event.outputs]))
    return bool(made) and all(h.tensor.is_meta for h in made)


def _behind_views(recorded: dict[int, list[Event]], nodes: Sequence[Any]) -> None:
    """Gives operators back the number that they lost to AsStrided nodes.

    The input of an operator may be a view of what was written into since: then torch, when it has made the operator's
    node already, makes one that looks at the view again.
    """
    again = [n for n in nodes if n.name() == "AsStridedBackward0"]
    for node in sorted(again, key=lambda n: sequence_of(n), reverse=True):
        number = sequence_of(node)
        if number in recorded and not any(_is_named_alike(e, node) for e in recorded[number]):
            recorded.setdefault(number - 1, recorded.pop(number))


def _is_named_alike(event: Event, node: Any) -> bool:
    """Says whether a node has the name that torch makes of an operator's: MulBackward0 for aten::mul_."""
    name: str = schema_of(event.operator).name.partition("::")[2].replace("_", "")
    return bool(node.name().lower().startswith(f"{name}backward"))


def _values(
    events: Sequence[Event], applications: Sequence[Application], owners: Mapping[Any, Event], output: Tensor
) -> dict[tuple[Any, int], Tensor]:
    """Returns the recorded value of each output of each node: from its own operator, or from whoever used it."""
    found: dict[tuple[Any, int], Tensor] = {}
    if output.grad_fn is not None and not is_freed(output):
        found[output.grad_fn, output.output_nr] = output
    for application in applications:
        for held in held_in([application.outputs]):
            if held.producer is not None:
                found.setdefault((held.producer, held.number), held.tensor)
    for event in events:
        for held in (*held_in(event.arguments), *held_in(event.keywords)):
            if held.producer is not None:
                found.setdefault((held.producer, held.number), held.tensor)
    for node, event in owners.items():
        if event.recorded:
            for number, held in enumerate(held_in([event.outputs])):
                found.setdefault((node, number), held.tensor)
    return found


def _leaf(node: Any, index: int, run: Run) -> Node:
    name = run.names.get(id(node.variable), f"leaf{index}")
    return Node(
        index=index,
        name=LEAF,
        operator=None,
        arguments={},
        outputs=(node.variable.detach(),),
        edges=(),
        cotangents=(run.gradients.get(name),),
        saved={},
        leaf=name,
    )


def _node(
    node: Any,
    index: int,
    positions: Mapping[Any, int],
    event: Event | None,
    application: Application | None,
    values: Mapping[tuple[Any, int], Tensor],
    run: Run,
) -> Node:
    owned = event if event is not None and event.recorded else None
    arguments = arguments_of(application) if application else bound(owned) if owned else {}
    passed = run.sent.get(node, Sent((), ()))
    producers = [(child, number) for child, number in node.next_functions]
    used = tensor_names(arguments) if application else completed(argument_names(producers, arguments), node, arguments)
    made = application or event
    writer = writer_of(node, run.recorder.events) if made is None else None
    by = made or writer
    edges = tuple(
        Edge(positions[child], number, used[slot], passed.sent[slot] if slot < len(passed.sent) else None)
        for slot, (child, number) in enumerate(producers)
        if child is not None
    )
    return Node(
        index=index,
        name=node.name(),
        operator=str(owned.operator) if owned else None,
        arguments={name: _plain(value) for name, value in arguments.items()},
        outputs=_outputs(node, owned, values),
        edges=edges,
        cotangents=tuple(passed.received),
        saved=run.saved.get(node, {}),
        source=source_of(by.frame) if by else None,
        module=by.module if by else "",
        jacobians=run.jacobians.get(node, {}),
        part=_part(node, writer) if writer else None,
    )


def writer_of(node: Any, events: Sequence[Event]) -> Event | None:
    """Returns the operator that wrote into the view that a node writes through or looks through; else `None`."""
    if not looks_through_a_view(node) and not node.name().endswith("CopySlices"):
        return None
    number = sequence_of(node)
    return next((e for e in reversed(events) if e.recorded and e.sequence < number and written_view(e)), None)


def looks_through_a_view(node: Any) -> bool:
    """Says whether a node looks through a view at what was written into."""
    return bool(node.name() == "AsStridedBackward0")


def _part(node: Any, writer: Event) -> Slice:
    """Returns what a node did to, or reads of, the tensor behind a view that was written into."""
    arguments, name = bound(writer), written_view(writer)
    view = arguments[name].live
    behind = viewed(view)
    whole, start = (tuple(behind.shape), behind.stride()), int(behind.storage_offset())
    if looks_through_a_view(node):
        size, stride, offset = (saved(node, kept) for kept in ("size", "stride", "storage_offset"))
        return Slice("", {}, "", ("self",), whole, tuple(size), tuple(stride), int(offset) - start)
    others = {n: v for n, v in arguments.items() if n != name}
    slots = (name, *argument_names(node.next_functions[1:], others))
    return Slice(
        operator=str(writer.operator),
        arguments={n: _plain(v) for n, v in arguments.items()},
        written=name,
        slots=tuple(slot for slot, (child, _) in zip(slots, node.next_functions, strict=True) if child is not None),
        whole=whole,
        size=tuple(view.shape),
        stride=view.stride(),
        offset=int(view.storage_offset()) - start,
    )


def written_view(event: Event) -> str:
    """Returns the argument that an operator wrote into, if that was a view; "" otherwise."""
    schema = schema_of(event.operator)
    written = [a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write] if schema.is_mutable else []
    given = bound(event) if written else {}
    held = (given.get(name) for name in written)
    return next(
        (n for n, h in zip(written, held, strict=True) if isinstance(h, Held) and viewed(h.live) is not None), ""
    )


def node_of(event: Event, index: int) -> Node:
    """Returns what is recorded of an operator alone, whether or not torch made a node for it."""
    return Node(
        index=index,
        name=schema_of(event.operator).name,
        operator=str(event.operator),
        arguments={name: _plain(value) for name, value in bound(event).items()},
        outputs=tuple(held.tensor.detach() for held in held_in([event.outputs])),
        edges=(),
        cotangents=(),
        saved={},
        source=source_of(event.frame),
        module=event.module,
    )


def _outputs(node: Any, owned: Event | None, values: Mapping[tuple[Any, int], Tensor]) -> tuple[Tensor | None, ...]:
    if owned is not None:
        own = [held.tensor.detach() for held in held_in([owned.outputs])]
        if own:
            return tuple(own)
    count = len(results_of(node)) or 1
    return tuple(v.detach() if (v := values.get((node, n))) is not None else None for n in range(count))


def bound(event: Event) -> dict[str, Any]:
    """Returns the arguments of a recorded operator by the names of its schema, defaults filled in."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(schema_of(event.operator).arguments):
        if position < len(event.arguments):
            bound[argument.name] = event.arguments[position]
        elif argument.name in event.keywords:
            bound[argument.name] = event.keywords[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def _plain(value: Any) -> Any:
    if isinstance(value, Held):
        return value.tensor.detach()
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    return value


def tensor_names(arguments: Mapping[str, Any]) -> list[str]:
    """Returns the names of a custom Function's tensors: its node has an edge for each, also where nothing is sent."""
    return [name for name, value in arguments.items() if isinstance(value, Held)]


def argument_names(producers: Sequence[tuple[Any, int]], arguments: Mapping[str, Any]) -> list[str]:
    """Returns which argument each edge of a node belongs to, "" where it cannot be told."""
    candidates = [
        (name if isinstance(value, Held) else f"{name}[{i}]", held)
        for name, value in arguments.items()
        for i, held in enumerate(held_in(value))
        if held.tracked
    ]
    names: list[str] = []
    for child, number in producers:
        match = next((c for c in candidates if child is not None and _made_by(c[1], child, number)), None)
        if match is not None:
            candidates.remove(match)
        names.append(match[0] if match else "")
    return names


def completed(slots: Sequence[str], node: Any, arguments: Mapping[str, Any]) -> list[str]:
    """Fills in names that the recorded tensors do not tell: torch gave the operator a copy (of a conjugate)."""
    held = [(n, v) for n, v in arguments.items() if isinstance(v, Held) and n not in slots]
    left = {n: tuple(v.tensor.shape) for n, v in sorted(held, key=lambda item: not item[1].tracked)}
    found: list[str] = []
    for known, (child, number) in zip(slots, node.next_functions, strict=True):
        alike = (n for n, shape in left.items() if child is not None and shape == _shape_of(child, number))
        found.append(known or next(alike, ""))
        left.pop(found[-1], None)
    return found


def _shape_of(node: Any, number: int) -> tuple[int, ...]:
    return tuple(node.variable.shape if is_leaf(node) else results_of(node)[number].shape)


def _made_by(held: Held, node: Any, number: int) -> bool:
    if is_leaf(node):
        return held.producer is None
    return held.producer is not None and held.producer == node and held.number == number
