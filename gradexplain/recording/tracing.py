"""Recording: one forward pass under a dispatch mode, one backward pass under hooks, joined into a `Trace`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import update_wrapper
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gradexplain.errors import NoGradientError, RunError, message_of
from gradexplain.recording.computation import Computation, chosen_output, dropped_outputs
from gradexplain.recording.custom_functions import fitted, given_back
from gradexplain.recording.cuts import not_differentiable
from gradexplain.recording.events import source_of
from gradexplain.recording.failures import backward_failure
from gradexplain.recording.join import LEAF, Run, Sent, joined, owners_of
from gradexplain.recording.nodes import is_leaf, is_repeatable, nodes_below, ordered, saved_by
from gradexplain.recording.plain import (
    Cotangent,
    Plain,
    adds_up,
    apart,
    drawn,
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
    materialised,
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
    sequence_number,
)


def trace(
    computation: Computation, *, cotangent: Cotangent = None, plain: bool = True, backwards: bool = True
) -> Trace:
    """Runs `computation` forward and backward, plainly and then watched, and returns what torch did.

    The gradients are those of the plain run; without `plain`, there is the watched run alone, and without `backwards`
    its forward pass. `cotangent` has the output's shape; without it, 1 for a scalar output and ones otherwise. Raises
    `RunError` where the output cannot be differentiated, naming the place where the gradient was lost, or where there
    is nothing to differentiate by: no check of that could fail.
    """
    own = run_plainly(computation, cotangent) if plain else None
    if own is None or not computation.wrt:
        with recorded(computation, cotangent, backwards=backwards) as run:
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
    again = apart(own, found.gradients, lambda: run_plainly(computation, cotangent), inlined=bool(found.inlined))
    random = drawn(own, lambda count: run_plainly(computation, cotangent, skipping=count))
    return replace(
        found,
        value=own.value,
        gradients=own.gradients,
        plain=True,
        apart={**again, **random},
        drawn_again=_drawing(computation, cotangent) if random else None,
        hooked=tuple(dict.fromkeys((*found.hooked, *_after(own, computation)))),
        hidden=frozenset(_hidden(found)),
    )


def traced(computation: Computation, *, cotangent: Cotangent = None) -> Trace:
    """Returns the trace; where no gradient leads back from the output, that of a function without steps."""
    try:
        return trace(computation, cotangent=cotangent)
    except NoGradientError as lost:
        output = computation.output(computation.leaf_values()).detach()
        name = "y" + "_" * sum(n.rstrip("_") == "y" for n in computation.inputs)
        return Trace(
            nodes=(Node(0, LEAF, None, {}, (output,), (), (), {}, leaf=name),),
            output=(0, 0),
            value=output,
            cotangent=torch.ones_like(output),
            inputs={n: v.detach() for n, v in computation.inputs.items() if isinstance(v, Tensor)},
            gradients=dict.fromkeys(computation.wrt),
            order=(),
            plain=True,
            lost=lost,
        )


def _drawing(computation: Computation, cotangent: Cotangent) -> Draw | None:
    """Returns the first node whose backward draws random numbers, by a run in which each is looked at."""
    found: list[Any] = []

    def look(node: Any, states: list[Tensor]) -> None:
        state = torch.get_rng_state()
        if not torch.equal(states[-1], state):
            found.append(node)
        states.append(state)

    with recorded(computation, cotangent, again=True, backwards=False) as run:
        nodes, states = ordered(run.output.grad_fn), [torch.get_rng_state()]
        owners = owners_of(run.recorder.events, nodes)
        own = {application.node: application for application in run.recorder.applications}
        handles = [n.register_hook(lambda *_, n=n: look(n, states)) for n in nodes if not is_leaf(n)]
        try:
            run.output.backward(run.seed)
        finally:
            for handle in handles:
                handle.remove()
        for node in found[:1]:
            user = own.get(node) or owners.get(node)
            name = function.__name__ if (function := function_of(node)) else node.name()
            return Draw(name, source_of(user.frame) if user else None, user.module if user else "")
    return None


def _hidden(found: Trace) -> Iterator[str]:
    """Yields the inputs at which more arrived than the edges of a watched run brought there."""
    if all(node.operator is not None or node.leaf is not None for node in found.nodes):
        return
    users, hooked = found.consumers(), {hook.leaf for hook in found.hooked}
    leaves = {node.leaf: node.index for node in found.nodes if node.leaf is not None}
    for name, arrived in found.gradients.items():
        if arrived is not None and name not in hooked:
            edges = [found.nodes[user].edges[number] for user, number in users.get(leaves.get(name, -1), ())]
            if not adds_up(arrived, [e.contribution for e in edges if e.contribution is not None]):
                yield name


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
        dropped = dropped_outputs(result)
        names = {id(t): n for n, t in computation.leaves.items()} | {id(t): n for n, t in leaves.items()}
        below = nodes_below(output.grad_fn)
        nodes = [node for node in below if not is_leaf(node)]
        saved = {} if again else {node: _readable(saved_by(node)) for node in nodes}
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
        jacobians = {node: measured for node in small if (measured := own_jacobians(node, sent.get(node)))}
        changed = tuple(dict.fromkeys(hooked))
        yield Run(output, outputs, seed, recorder, leaves, names, gradients, saved, jacobians, sent, changed, dropped)


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


def generic(output: Tensor, which: int = 11) -> Tensor:
    """Returns a cotangent in which no two elements are alike by design: ±[½, 1] in 256ths, exact in every type.

    Ones would hide errors that cancel in a sum; so would a cotangent with small entries. Of several outputs each has
    another one, by its number: one for all would hide that two are mixed up.
    """
    generator = torch.Generator().manual_seed(which)

    def draw() -> Tensor:
        size = torch.randint(128, 256, output.shape, generator=generator) / 256
        return size * (torch.randint(0, 2, output.shape, generator=generator) * 2 - 1)

    return (torch.complex(draw(), draw()) if output.is_complex() else draw()).to(output.dtype).to(output.device)


# ------------------------------------------------------------------------------------------------------ backward


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
    with observed(nodes) as seen:
        if not wanted:
            return [], seen
        return left_by_backward(output, wanted, seed, nodes, keep=keep, into_leaves=into_leaves), seen


@contextmanager
def observed(nodes: Sequence[Any]) -> Iterator[dict[Any, Sent]]:
    """Yields what each node receives and sends in a backward pass inside the block, in the order of the pass."""
    seen: dict[Any, Sent] = {}
    copying = any(map(function_of, nodes))  # a custom Function may write into what arrives and what it gave back
    handles = [handle for node in nodes if not is_leaf(node) for handle in _observed(node, seen, copying=copying)]
    try:
        yield seen
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


def _readable(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {name: materialised(value) if isinstance(value, Tensor) else value for name, value in kept.items()}


def is_small_function(node: Any) -> bool:
    """Says whether a node is that of a small custom Function with one output, whose backward may be called again."""
    metadata = results_of(node)
    if len(metadata) != 1 or not ((function := function_of(node)) and is_repeatable(function)):
        return False
    return 0 < torch.Size(metadata[0].shape).numel() <= _MEASURED


def own_jacobians(node: Any, passed: Sent | None) -> dict[int, Tensor]:
    """Returns what the backward of a small custom Function makes of each unit cotangent, by edge.

    Of one that now sends something else for what it received in the pass, these are not those of the pass.
    """
    metadata = results_of(node)[0]
    like = torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device)
    try:
        rows = [given_back(node, [unit.reshape(like.shape)]) for unit in torch.eye(like.numel()).to(like)]
        again = given_back(node, passed.received) if passed is not None else ()
    except Exception:  # the user's own code; the backward pass itself will say what is wrong with it
        return {}
    if any(len(row) != len(node.next_functions) for row in rows):
        return {}
    return {
        slot: torch.stack([row[slot].detach().flatten() for row in rows])
        for slot in range(len(node.next_functions))
        if all(isinstance(row[slot], Tensor) for row in rows) and rows[0][slot].numel() <= _MEASURED
        if passed is None or _is_sent_again(again[slot], passed.sent[slot])
    }


def _is_sent_again(gradient: Any, sent: Tensor | None) -> bool:
    if sent is None or not isinstance(gradient, Tensor):
        return sent is gradient
    same = fitted(gradient, sent)
    return same is not None and adds_up(sent, [same])


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
