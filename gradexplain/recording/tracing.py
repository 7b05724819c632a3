"""Recording: one forward pass under a dispatch mode, one backward pass under hooks, joined into a `Trace`.

The join rests on torch's sequence numbers: while an operator is dispatched, the counter less one is the number of the
autograd node that was made for it. The first operator dispatched under a number owns the node; what runs inside a
custom `Function.forward` has grad mode off and belongs to the Function, whose `apply` is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gradexplain.errors import RunError, message_of
from gradexplain.recording.computation import Computation, chosen_output
from gradexplain.recording.custom_functions import arguments_of, given_back
from gradexplain.recording.cuts import cuts_in, not_differentiable
from gradexplain.recording.events import Application, Event, Held, held_in, source_of
from gradexplain.recording.failures import backward_failure
from gradexplain.recording.nodes import is_leaf, nodes_below, ordered
from gradexplain.recording.plain import (
    Cotangent,
    Plain,
    apart,
    is_same,
    kept_as_found,
    left_by_backward,
    reaches_back,
    run_plainly,
    seed_for,
)
from gradexplain.recording.recorder import (
    Recorder,
    copy_of,
    is_repeatable,
    materialised,
    paths_of,
    tensors_of,
    watching_functions,
    watching_modules,
)
from gradexplain.recording.trace import Draw, Edge, Hooked, Node, Trace
from gradexplain.targets.sources import Source
from gradexplain.versions.internals import (
    function_of,
    has_hooks,
    hooks_after,
    hooks_of,
    results_of,
    saved,
    saved_names,
    schema_of,
    sequence_number,
    sequence_of,
)

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


def trace(computation: Computation, *, cotangent: Cotangent = None, plain: bool = True) -> Trace:
    """Runs `computation` forward and backward, plainly and then watched, and returns what torch did.

    The gradients are those of the plain run; without `plain`, there is the watched run alone. `cotangent` has the
    output's shape; without it, 1 for a scalar output and ones otherwise. Raises `RunError` where the output cannot be
    differentiated, naming the place where the gradient was lost, or where there is nothing to differentiate by: no
    check of that could fail.
    """
    own = run_plainly(computation, cotangent) if plain else None
    if own is None or not computation.wrt:
        with recorded(computation, cotangent) as run:
            if not computation.wrt:
                raise not_differentiable(run.recorder, run.inputs)
            return joined(run, computation)
    if own.fault is not None:
        record(computation, cotangent)  # fails as well, and says who is at fault
        raise RunError("backward_failed", message=str(own.fault).split("\n", 1)[0]) from own.fault
    try:
        with recorded(computation, cotangent, needed=False) as run:
            found = joined(run, computation)
    except RunError as fault:
        return _unwatched(own, computation, fault)
    return replace(
        found,
        value=own.value,
        gradients=own.gradients,
        plain=True,
        apart=apart(own, found.gradients, lambda: run_plainly(computation, cotangent), inlined=bool(found.inlined)),
        hooked=tuple(dict.fromkeys((*found.hooked, *_after(own, computation)))),
    )


def _unwatched(own: Plain, computation: Computation, fault: RunError) -> Trace:
    """Returns the trace of a function that runs while nobody watches, and fails else: one step, with nothing inside."""
    inputs = {n: v.detach() for n, v in computation.inputs.items() if isinstance(v, Tensor)}
    leaves = [
        Node(i, LEAF, None, {}, (inputs[name],), (), (gradient,), {}, leaf=name)
        for i, (name, gradient) in enumerate(own.gradients.items())
    ]
    edges = tuple(Edge(leaf.index, 0, leaf.leaf or "", leaf.cotangents[0]) for leaf in leaves)
    whole = Node(len(leaves), computation.name, None, {}, (own.value,), edges, (own.seed,), {})
    return Trace(
        nodes=(*leaves, whole),
        output=(whole.index, 0),
        value=own.value,
        cotangent=own.seed,
        inputs=inputs,
        gradients=own.gradients,
        order=(whole.index,),
        plain=True,
        unwatched=message_of(fault),
    )


def _after(own: Plain, computation: Computation) -> Iterator[Hooked]:
    """Yields the hooks that changed a gradient when it had been accumulated."""
    for name in own.changed:
        yield from (_hooked(name, hook) for hook in hooks_after(computation.own[name]))


def _hooked(name: str, hook: Callable[..., object]) -> Hooked:
    code = getattr(hook, "__code__", None)
    source = Source(code.co_filename, code.co_firstlineno, "") if code else None
    return Hooked(name, getattr(hook, "__qualname__", type(hook).__name__), source)


@contextmanager
def recorded(
    computation: Computation,
    cotangent: Cotangent = None,
    *,
    again: bool = False,
    backwards: bool = True,
    needed: bool = True,
) -> Iterator[Run]:
    """Yields a forward pass under a recorder and a backward pass under hooks; the block may run its nodes again.

    With `again`, what is needed to run each operator and each node again is kept, and not what is only shown. Without
    `backwards` there is no backward pass; one that cannot be watched is left out unless it is `needed`.
    """
    leaves, users = computation.leaf_values(), [own for own in computation.own.values() if has_hooks(own)]
    before = sequence_number()()
    with kept_as_found(users, numbers=False), ExitStack() as running:
        hooked = _carried(computation, leaves)
        with torch.enable_grad():
            recorder = Recorder(computation.locate, copying=again)
            with watching_modules(computation.modules, recorder), watching_functions(recorder), recorder.recording():
                result = running.enter_context(computation.run_for(leaves))
        output, outputs = chosen_output(result, computation.name)
        if not output.requires_grad:
            raise not_differentiable(recorder, leaves)
        names = {id(t): n for n, t in computation.leaves.items()} | {id(t): n for n, t in leaves.items()}
        below = nodes_below(output.grad_fn)
        nodes = [node for node in below if not is_leaf(node)]
        saved = {} if again else {node: saved_by(node) for node in nodes}
        small = [] if again else [node for node in nodes if is_small_function(node)]
        seed, wanted = seed_for(output, cotangent), {n: leaves[n] for n in computation.wrt}
        # A graph that reaches into what the user computed before belongs to the user, and must not be freed.
        keep = reaches_back(nodes, before) or again or bool(small)
        try:
            asked = list(wanted.values()) if backwards else []
            found, sent = backward(output, asked, seed, below, keep=keep, into_leaves=computation.into_leaves)
        except Exception as fault:  # torch's own refusal, or an error in a custom Function
            if needed:
                in_order = ordered(output.grad_fn)
                owners = owners_of(recorder.events, in_order)
                raise backward_failure(fault, in_order, owners, recorder.applications, recorder.events) from fault
            found, sent = [], {}
        gradients = dict(zip(wanted, found or [None] * len(wanted), strict=True))
        # After the pass: a backward that remembers its calls was called for the first time there.
        jacobians = {node: measured for node in small if (measured := own_jacobians(node))}
        changed = tuple(dict.fromkeys(hooked))
        yield Run(output, outputs, seed, recorder, leaves, names, gradients, saved, jacobians, sent, changed)


def record(computation: Computation, cotangent: Cotangent = None, *, again: bool = False) -> Run:
    """Returns what `recorded` yields, for whoever runs no custom Function's node again."""
    with recorded(computation, cotangent, again=again) as run:
        return run


def _carried(computation: Computation, leaves: Mapping[str, Tensor]) -> list[Hooked]:
    """Puts the hooks on the user's own leaves on those of a run; the list fills with those that change a gradient."""
    changing: list[Hooked] = []
    for name, own in computation.own.items():
        if name in computation.wrt:
            for hook in hooks_of(own):
                leaves[name].register_hook(_heard(name, hook, changing))
    return changing


def _heard(name: str, hook: Callable[[Tensor], Any], changing: list[Hooked]) -> Callable[[Tensor], Any]:
    def heard(gradient: Tensor) -> Any:
        before = copy_of(gradient)
        result = hook(gradient)
        if not is_same(before, gradient if result is None else result):
            changing.append(_hooked(name, hook))
        return result

    return update_wrapper(heard, hook)


def generic(output: Tensor) -> Tensor:
    """Returns a cotangent in which no two elements are alike by design: ±[½, 1] in 256ths, exact in every type.

    Ones would hide errors that cancel in a sum; so would a cotangent with small entries.
    """
    generator = torch.Generator().manual_seed(11)

    def draw() -> Tensor:
        size = torch.randint(128, 256, output.shape, generator=generator) / 256
        return size * (torch.randint(0, 2, output.shape, generator=generator) * 2 - 1)

    return (torch.complex(draw(), draw()) if output.is_complex() else draw()).to(output.dtype).to(output.device)


# ------------------------------------------------------------------------------------------------------ backward


@dataclass(slots=True)
class Sent:
    """What one node received and sent in the backward pass."""

    received: tuple[Tensor | None, ...]
    sent: tuple[Tensor | None, ...]


def backward(
    output: Tensor,
    wanted: Sequence[Tensor],
    seed: Tensor,
    nodes: Sequence[Any],
    *,
    keep: bool,
    into_leaves: bool = True,
) -> tuple[list[Tensor | None], dict[Any, Sent]]:
    """Runs the backward pass; returns the gradients and, in the order of the pass, what each node received and sent.

    `nodes` are those of the graph, which can be run again if `keep`; for the rest see `left_by_backward`. No `.grad` is
    changed, and no hook stays.
    """
    seen: dict[Any, Sent] = {}
    copying = any(map(function_of, nodes))  # a custom Function may write into what arrives and what it gave back
    handles = [handle for node in nodes if not is_leaf(node) for handle in _observed(node, seen, copying=copying)]
    try:
        if not wanted:
            return [], seen
        return left_by_backward(output, wanted, seed, nodes, keep=keep, into_leaves=into_leaves), seen
    finally:
        for handle in handles:
            handle.remove()


def _observed(node: Any, seen: dict[Any, Sent], *, copying: bool) -> Iterator[Any]:
    """Notes what a node receives and sends; yields the handles of the hooks that do."""
    arrived: list[tuple[Tensor | None, ...]] = []

    def kept(tensors: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        keep = copy_of if copying else materialised
        return tuple(None if t is None else keep(t) for t in tensors)

    def observe(sent: tuple[Tensor | None, ...], received: tuple[Tensor | None, ...]) -> None:
        seen[node] = Sent(arrived.pop() if arrived else kept(received), kept(sent))

    if copying:
        yield node.register_prehook(lambda received: arrived.append(kept(received)))
    yield node.register_hook(observe)


# A custom Function with at most this many elements is measured on every one of them.
_MEASURED = 12


def is_small_function(node: Any) -> bool:
    """Says whether a node is that of a small custom Function with one output, whose backward may be called again."""
    metadata = results_of(node)
    if len(metadata) != 1 or not ((function := function_of(node)) and is_repeatable(function)):
        return False
    return 0 < torch.Size(metadata[0].shape).numel() <= _MEASURED


def own_jacobians(node: Any) -> dict[int, Tensor]:
    """Returns what the backward of a small custom Function makes of each unit cotangent, by edge."""
    metadata = results_of(node)[0]
    like = torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)
    try:
        rows = [given_back(node, [unit.reshape(like.shape)]) for unit in torch.eye(like.numel()).to(like)]
    except Exception:  # the user's own code; the backward pass itself will say what is wrong with it
        return {}
    if any(len(row) != len(node.next_functions) for row in rows):
        return {}
    return {
        slot: torch.stack([row[slot].detach().flatten() for row in rows])
        for slot in range(len(node.next_functions))
        if all(isinstance(row[slot], Tensor) for row in rows) and rows[0][slot].numel() <= _MEASURED
    }


# ---------------------------------------------------------------------------------------------------------- join


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
        value=run.output.detach(),
        cotangent=run.seed,
        inputs={name: tensor.detach() for name, tensor in run.inputs.items()},
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
        outputs=run.outputs,
        hooked=run.hooked,
        inlined=tuple(dict.fromkeys(run.recorder.inlined)),
    )


def _draws(events: Sequence[Event]) -> Iterator[Draw]:
    for event in events:
        if torch.Tag.nondeterministic_seeded in event.operator.tags:
            yield Draw(str(event.operator), source_of(event.frame), event.module)


def _leaf_alone(run: Run, modules: Mapping[str, str]) -> Trace:
    """Returns the trace of a function that gives back one of its inputs as it is."""
    name = run.names.get(id(run.output), "leaf0")
    gradients = {n: None if g is None else g.detach() for n, g in run.gradients.items()}
    value = run.output.detach()
    leaf = Node(0, LEAF, None, {}, (value,), (), (gradients.get(name),), {}, leaf=name)
    inputs = {n: tensor.detach() for n, tensor in run.inputs.items()}
    return Trace(
        (leaf,), (0, 0), value, run.seed, inputs, gradients, (), modules=modules, outputs=run.outputs, hooked=run.hooked
    )


def owners_of(events: Sequence[Event], nodes: Sequence[Any]) -> dict[Any, Event]:
    """Returns for each autograd node the operator that it was made for, or the first one inside a custom Function.

    Inside a Function grad mode is off. Nodes from before the recording have no operator in it.

    Before `mul_` overwrites its input, torch copies it, under the next number: the second operator of a number that
    writes in place has the number before. A conjugate is copied under the number of the operator that needs it.
    """
    inside: dict[int, Event] = {}
    recorded: dict[int, list[Event]] = {}
    for event in events:
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
            owner = next((e for e in made if _is_named_alike(e, node)), made[0] if made else None)
        if owner is not None:
            owners[node] = owner
    return owners


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
    if output.grad_fn is not None:
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
    used = tensor_names(arguments) if application else argument_names(producers, arguments)
    made = application or event
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
        source=source_of(made.frame) if made else None,
        module=made.module if made else "",
        jacobians=run.jacobians.get(node, {}),
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


def _made_by(held: Held, node: Any, number: int) -> bool:
    if is_leaf(node):
        return held.producer is None
    return held.producer is not None and held.producer == node and held.number == number


def hooks_on(tensors: Iterable[Tensor]) -> dict[tuple[Any, int], list[Callable[..., object]]]:
    """Returns the hooks on tensors, by the node and the output number that each tensor comes from.

    Those on nodes themselves cannot be read: torch lists no hooks of its nodes.
    """
    found: dict[tuple[Any, int], list[Callable[..., object]]] = {}
    for tensor in tensors:
        if tensor.requires_grad and (hooks := hooks_of(tensor)):
            edge = get_gradient_edge(tensor)
            found[edge.node, edge.output_nr] = hooks
    return found


def hooks_in(run: Run) -> dict[tuple[int, int], list[Callable[..., object]]]:
    """Returns the hooks on tensors of a run, by the place of the node in its trace and the output number."""
    index = {node: i for i, node in enumerate(ordered(run.output.grad_fn))}
    found = hooks_on([*tensors_of(run.recorder), run.output])
    return {(index[node], number): hooks for (node, number), hooks in found.items() if node in index}


def saved_by(node: Any) -> dict[str, Any]:
    """Returns what a node keeps for the backward pass: `_saved_self` as `self`; `ctx.saved_tensors` by position."""
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in kept_by(node).items()}


def _signed(value: Any) -> Any:
    """Undoes torch's showing of a saved negative integer as an unsigned one: dim=-1, ignore_index=-100."""
    if isinstance(value, tuple):
        return tuple(map(_signed, value))
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def kept_by(node: Any) -> dict[str, Any]:
    """Returns the same as `saved_by`, but the very tensors, which still hang on the graph."""
    kept: dict[str, Any] = {}
    for name in saved_names(node):
        with suppress(RuntimeError):  # freed by an earlier backward pass
            kept[name] = _signed(saved(node, name))
    own = function_of(node)
    if not kept and own is not None and is_repeatable(own):
        with suppress(RuntimeError):
            kept = {str(i): t for i, t in enumerate(node.saved_tensors) if t is not None}
    return kept
