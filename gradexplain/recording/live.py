"""A live tensor: its graph as torch holds it, run backward once; nothing is run forward again.

Values are those of the leaves and those that torch saved for the backward pass, and what single operators make of them
again: one that is given the numbers that it was given then, and that neither draws nor writes. Where a rule needs only
the shape of a value that is not known, a tensor without numbers (device "meta") stands in for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import InputError, RunError
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.events import tensors_in
from gradexplain.recording.failures import OVERWRITTEN, refused
from gradexplain.recording.frames import is_ours_or_torchs
from gradexplain.recording.join import LEAF, Sent
from gradexplain.recording.nodes import is_leaf, nodes_below, ordered, saved_by
from gradexplain.recording.plain import seed_for
from gradexplain.recording.trace import Edge, Edited, Node, Trace
from gradexplain.recording.tracing import backward
from gradexplain.rules.application import call, is_repeatable
from gradexplain.rules.entries import overload
from gradexplain.rules.nodes import operators_by_node
from gradexplain.rules.registry import rule_of
from gradexplain.targets.sources import Source
from gradexplain.versions.internals import internals, results_of, schema_of

_Key = tuple[Any, int]


def trace_live(output: Tensor, *, cotangent: Tensor | None = None, names: Mapping[int, str] | None = None) -> Trace:
    """Returns the trace of a live tensor; `names`, by identity, names leaves, which are x, or leaf1, leaf2, … without.

    Raises `InputError` for a tensor without `grad_fn`, and `RunError` where saved tensors were freed already.
    """
    internals()
    if output.grad_fn is None:
        raise InputError("no_grad_fn", flag=output.requires_grad)
    leaves = list({id(n.variable): n.variable for n in ordered(output.grad_fn) if is_leaf(n)}.values())
    named: dict[int, str] = {}
    for i, leaf in enumerate(leaves, 1):
        name = (names or {}).get(id(leaf), f"leaf{i}" if len(leaves) > 1 else "x")
        named[id(leaf)] = name if name not in named.values() else f"leaf{i}"
    seed = seed_for(output, cotangent)
    found, sent = _run(output, leaves, seed, named)
    nodes = ordered(output.grad_fn)
    index = {node: i for i, node in enumerate(nodes)}
    kept = {**_values(nodes), (output.grad_fn, output.output_nr): output.detach()}
    values = dict(kept)
    _compute(nodes, values)
    gradients = {named[id(t)]: None if g is None else g.detach() for t, g in zip(leaves, found, strict=True)}
    traced = tuple(_leaf(n, index[n], named, gradients) if is_leaf(n) else _node(n, index, values, sent) for n in nodes)
    return Trace(
        nodes=traced,
        output=(index[output.grad_fn], output.output_nr),
        value=output.detach(),
        cotangent=seed,
        inputs={named[id(t)]: t.detach() for t in leaves},
        gradients=gradients,
        order=tuple(index[node] for node in sent),
        live=True,
        edited=tuple(e for n, node in zip(nodes, traced, strict=True) if (n, 0) in kept and (e := _edited(node))),
    )


def nodes_live(output: Tensor, names: Mapping[int, str]) -> list[Node]:
    """Returns the nodes of a live tensor with the values that torch still holds, producers first; nothing is run.

    `names` names leaves, by identity.
    """
    nodes = ordered(output.grad_fn)
    index = {node: i for i, node in enumerate(nodes)}
    values = {**_values(nodes), (output.grad_fn, output.output_nr): output.detach()}
    named = {id(n.variable): names.get(id(n.variable), f"leaf{i}") for n, i in index.items() if is_leaf(n)}
    nothing = dict.fromkeys(named.values())
    return [_leaf(n, i, named, nothing) if is_leaf(n) else _node(n, index, values, {}) for n, i in index.items()]


def _run(
    output: Tensor, leaves: list[Tensor], seed: Tensor, named: Mapping[int, str]
) -> tuple[list[Tensor | None], dict[Any, Sent]]:
    try:
        return backward(output, leaves, seed, nodes_below(output.grad_fn), keep=True)
    except RuntimeError as fault:
        if overwritten := _overwritten(output, named) if OVERWRITTEN in str(fault) else None:
            raise overwritten from fault
        if "second time" in str(fault) or "freed" in str(fault):
            raise RunError("graph_freed", node=output.grad_fn.name() if output.grad_fn else "") from fault
        raise RunError("backward_failed", message=str(fault).split("\n", 1)[0]) from fault


def _overwritten(output: Tensor, named: Mapping[int, str]) -> RunError | None:
    """Returns the error that names what a node keeps and torch does not give out any more: it was written into."""
    for node in reversed(ordered(output.grad_fn)):
        kept = None if is_leaf(node) else refused(node)
        if kept is None:
            continue
        slots = _slots(node, operators_by_node().get(node.name()))
        child = next((child for slot, (child, _) in zip(slots, node.next_functions, strict=True) if slot == kept), None)
        while child is not None and not is_leaf(child) and len(child.next_functions) == 1:  # a view of a leaf
            child = child.next_functions[0][0]
        data = {"node": node.name(), "kept": kept}
        if child is not None and is_leaf(child):
            return RunError("kept_leaf_overwritten", **data, name=named[id(child.variable)])
        return RunError("kept_overwritten", **data)
    return None


def _leaf(node: Any, index: int, named: Mapping[int, str], gradients: Mapping[str, Any]) -> Node:
    name = named[id(node.variable)]
    return Node(index, LEAF, None, {}, (node.variable.detach(),), (), (gradients[name],), {}, leaf=name)


def _node(node: Any, index: Mapping[Any, int], values: Mapping[_Key, Tensor], sent: Mapping[Any, Sent]) -> Node:
    operator = operators_by_node().get(node.name())
    passed = sent.get(node, Sent((), ()))
    slots = _slots(node, operator)
    edges = tuple(
        Edge(index[child], number, slots[slot], passed.sent[slot] if slot < len(passed.sent) else None)
        for slot, (child, number) in enumerate(node.next_functions)
        if child is not None
    )
    saved = saved_by(node)
    made = [values.get((node, n)) for n in range(max(len(passed.received), 1))]
    outputs = tuple(_with_saved_outputs(made, operator, saved))
    arguments = _arguments(node, operator, slots, saved, values) if operator else {}
    received = tuple(passed.received)
    return Node(index[node], node.name(), operator, arguments, outputs, edges, received, saved, _source(node))


def _source(node: Any) -> Source | None:
    """Returns the line that made a node, where torch kept it (in its mode that detects anomalies); the code is unknown.

    It kept the stack as text, a frame an entry, the innermost last.
    """
    for entry in reversed(node.metadata.get("traceback_") or ()):
        place = re.match(r'\s*File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)', entry)
        if place is not None and not is_ours_or_torchs(place["file"]):
            return Source(place["file"], int(place["line"]), "", None, place["function"])
    return None


def _compute(nodes: Sequence[Any], values: dict[_Key, Tensor]) -> None:
    """Adds the values that operators make of what is known, in the order of the forward pass."""
    for node in nodes:
        operator = None if is_leaf(node) else operators_by_node().get(node.name())
        if operator is None or (node, 0) in values or not _is_repeatable(operator):
            continue
        arguments = _arguments(node, operator, _slots(node, operator), saved_by(node), values)
        if any(t.is_meta for t in tensors_in(list(arguments.values()))):
            continue
        for number, (value, result) in enumerate(zip(_made(operator, arguments), results_of(node), strict=False)):
            if tuple(value.shape) == tuple(result.shape) and value.dtype == result.dtype:
                values.setdefault((node, number), value)


def _made(operator: str, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Returns what an operator makes of arguments: nothing where one is not known, or not given out as it is taken."""
    try:
        with torch.no_grad():
            return call(operator, arguments)
    except Exception:
        return ()


def _edited(node: Node) -> Edited | None:
    """Returns where what is kept of a node's output is not what its operator makes of the inputs that are kept.

    The same kernel rounds both, by another order of sums at most.
    """
    kept = node.outputs[0] if node.outputs else None
    if node.operator is None or not node.is_complete or not _is_repeatable(node.operator):
        return None
    operands = list(tensors_in(list(node.arguments.values())))
    if kept is None or not kept.is_floating_point() or not kept.numel() or any(t.is_meta for t in operands):
        return None
    made = _made(node.operator, node.arguments)
    if not made or made[0].shape != kept.shape or made[0].dtype != kept.dtype:
        return None
    bound = torch.finfo(kept.dtype).eps ** 0.5 * (made[0].abs() + _summed(node, operands))
    beyond = (made[0] - kept).abs() > bound
    if not bool(beyond.any()):
        return None
    place = unravelled(int(beyond.flatten().to(torch.uint8).argmax()), kept.shape)
    return Edited(node.index, place, kept[place].item(), made[0][place].item())


def _summed(node: Node, operands: Sequence[Tensor]) -> float:
    """Returns what the sums inside an operator come to at most.

    No sum has more terms than the largest tensor has elements, and no term is larger than its factors together.
    """
    rule = rule_of(node.operator)
    given = [t for t in operands if t.is_floating_point() and t.numel()]
    if (rule is not None and rule.elementwise) or not given:
        return 0.0
    return max(t.numel() for t in given) * math.prod(float(t.abs().nan_to_num().max()) for t in given)


# Operators that read memory: they make something else of the same numbers in another layout.
_BY_MEMORY = ("aten.as_strided.default",)


def _is_repeatable(operator: str) -> bool:
    return operator not in _BY_MEMORY and is_repeatable(operator)


def _with_saved_outputs(
    made: list[Tensor | None], operator: str | None, saved: Mapping[str, Any]
) -> Iterator[Tensor | None]:
    """Yields an operator's outputs, those too that torch saved by name: the places that a maximum came from."""
    returns = schema_of(overload(operator)).returns if operator else ()
    for number in range(max(len(made), len(returns))):
        name = (returns[number].name if number < len(returns) else "") or f"result{number}"
        output = made[number] if number < len(made) else None
        yield output if output is not None else saved.get(name)


def _slots(node: Any, operator: str | None) -> list[str]:
    """Returns which argument each of a node's edges belongs to: its differentiable arguments in the schema's order."""
    rule = rule_of(operator)
    known = {**rule.slopes, **rule.derivatives} if rule else {}
    count = len(node.next_functions)
    if operator is None or rule is None:
        return [""] * count
    names = [a.name for a in schema_of(overload(operator)).arguments if a.name in known]
    if len(names) == 1 and count > 1:
        return [f"{names[0]}[{i}]" for i in range(count)]
    return [*names, *[""] * count][:count]


def _values(nodes: list[Any]) -> dict[_Key, Tensor]:
    """Returns the values that are known: saved results, and saved arguments as the outputs of who made them."""
    found: dict[_Key, Tensor] = {}
    for node in nodes:
        if is_leaf(node):
            found[node, 0] = node.variable.detach()
            continue
        saved = saved_by(node)
        if isinstance(saved.get("result"), Tensor):
            found.setdefault((node, 0), saved["result"])
        for slot, (child, number) in zip(
            _slots(node, operators_by_node().get(node.name())), node.next_functions, strict=True
        ):
            if child is not None and isinstance(saved.get(slot), Tensor):
                found.setdefault((child, number), saved[slot])
    return found


# What an operator's numbers do not depend on: types, places, layouts, and how to go about it.
_FORM = frozenset(
    {"check_errors", "device", "driver", "dtype", "generator", "implicit", "include_last_offset", "layout",
     "memory_format", "non_blocking", "out_dtype", "pin_memory", "sorted", "unroll_dim"}
)  # fmt: skip


def _arguments(
    node: Any, operator: str, slots: list[str], saved: Mapping[str, Any], values: Mapping[_Key, Tensor]
) -> dict[str, Any]:
    """Returns the operator's arguments: saved ones, outputs of the producers, defaults, and shapes for the rest.

    A default is taken only for what changes no number: what else torch did not save may have been another one.
    """
    found: dict[str, Any] = {}
    for argument in schema_of(overload(operator)).arguments:
        if argument.name in saved:
            found[argument.name] = saved[argument.name]
        elif argument.has_default_value() and argument.name in _FORM:
            found[argument.name] = argument.default_value
    for slot, (child, number) in zip(slots, node.next_functions, strict=True):
        if slot and not isinstance(found.get(slot), Tensor):
            known = {} if operator in _BY_MEMORY else values
            value = None if child is None else known.get((child, number), _shape_only(child, number))
            if value is not None or "[" in slot:
                found[slot] = value
    return dict(_lists_gathered(found))


def _shape_only(child: Any, number: int) -> Tensor | None:
    metadata = results_of(child)
    if number >= len(metadata):
        return None
    return torch.empty(tuple(metadata[number].shape), dtype=metadata[number].dtype, device="meta")


def _lists_gathered(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Turns `tensors[0]`, `tensors[1]`, … into the list `tensors`; one that lacks a member is not recorded."""
    lists: dict[str, list[Any]] = {}
    for name, value in arguments.items():
        if "[" in name:
            lists.setdefault(name.partition("[")[0], []).append(value)
        else:
            yield name, value
    yield from ((name, members) for name, members in lists.items() if not any(m is None for m in members))
