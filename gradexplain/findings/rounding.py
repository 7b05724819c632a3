"""What an operator makes in double precision of what it was given, or would have been given without rounding before it.

It tells a fault of the function from one of the type that it was computed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradexplain.recording.trace import Node, Trace
from gradexplain.rules.application import call, is_repeatable, wide


def made_wide(node: Node, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Returns what a node's operator makes of arguments in double precision; nothing where that cannot be had.

    It cannot of one that draws or writes, that was told a type, or of numbers that were not recorded.
    """
    told = any(isinstance(value, torch.dtype) for value in arguments.values())
    unknown = any(getattr(value, "is_meta", False) for value in arguments.values())
    if node.operator is None or node.part is not None or told or unknown or not is_repeatable(node.operator):
        return ()
    try:
        return call(node.operator, {name: wide(value) for name, value in arguments.items()})
    except (RuntimeError, TypeError, KeyError):  # a kernel that has no such type, an argument that is missing
        return ()


def sent_wide(node: Node, number: int) -> Tensor | None:
    """Returns what a node's operator sends along one of its edges in double precision, of what arrived at it."""
    edge, argument = node.edges[number], node.edges[number].argument
    if len(node.outputs) != 1 or node.cotangents[0] is None or not isinstance(node.arguments.get(argument), Tensor):
        return None
    leaf = wide(node.arguments[argument].detach()).requires_grad_()
    with torch.enable_grad():
        made = made_wide(node, {**node.arguments, argument: leaf})
    if len(made) != 1 or made[0].grad_fn is None or edge.contribution is None:
        return None
    sent: Sequence[Tensor | None] = torch.autograd.grad(made[0], leaf, wide(node.cotangents[0]), allow_unused=True)
    return sent[0]


def given_wide(trace: Trace, node: Node) -> Mapping[str, Any] | None:
    """Returns the arguments that a node would have been given had all before it been computed in double precision."""
    values: dict[tuple[int, int], Tensor] = {}
    for place in sorted(ancestors(trace, [node])):
        behind = trace.nodes[place]
        uses = {edge.argument: values.get((edge.producer, edge.output)) for edge in behind.edges}
        if any(value is None or "[" in argument for argument, value in uses.items()):
            return None
        arguments = {**behind.arguments, **uses}
        if behind is node:
            return arguments
        made = (behind.outputs[0],) if behind.leaf is not None else made_wide(behind, arguments)
        values |= {(place, number): wide(value) for number, value in enumerate(made)}
    return None


def ancestors(trace: Trace, nodes: list[Node]) -> set[int]:
    """Returns the places of nodes and of all that they were made of."""
    found: set[int] = set()
    stack = [node.index for node in nodes]
    while stack:
        index = stack.pop()
        if index not in found:
            found.add(index)
            stack += [edge.producer for edge in trace.nodes[index].edges]
    return found
