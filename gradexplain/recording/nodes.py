"""The nodes of torch's backward graph, walked and put in order without recursion, and what they keep."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from gradexplain.recording.containers import nested
from gradexplain.recording.lifetime import anchor
from gradexplain.versions.internals import function_of, nested_layout, saved, saved_names, sequence_of


def is_leaf(node: Any) -> bool:
    """Says whether an autograd node stands for a leaf tensor."""
    return hasattr(node, "variable")


def nodes_below(*roots: Any) -> list[Any]:
    """Returns every autograd node that one of `roots` reaches, without recursion."""
    found: dict[Any, None] = {}
    stack = [root for root in roots if root is not None]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found[node] = None
        stack.extend(child for child, _ in node.next_functions if child is not None and child not in found)
    return list(found)


def ordered(*roots: Any) -> list[Any]:
    """Returns all nodes below `roots`, producers first: leaves by first use, then the others by sequence number.

    Raises `InputError` where one of them stands for a nested tensor.
    """
    nodes = nodes_below(*roots)
    for layout in filter(None, map(nested_layout, nodes)):
        raise nested(layout)
    inner = sorted((n for n in nodes if not is_leaf(n)), key=sequence_of)
    place = {node: k for k, node in enumerate(inner)}
    uses = [[place.get(child, child) for child, _ in node.next_functions if child is not None] for node in inner]
    if any(isinstance(use, int) and use >= k for k, own in enumerate(uses) for use in own):
        order = _by_dependence(uses)
        inner, uses = [inner[k] for k in order], [uses[k] for k in order]
    anchor(inner[::-1])
    leaves = dict.fromkeys(use for own in uses for use in own if not isinstance(use, int))
    return [*(leaves | dict.fromkeys(filter(is_leaf, nodes))), *inner]


def _by_dependence(uses: Sequence[Sequence[Any]]) -> list[int]:
    """Returns the numbers of nodes that several threads recorded, producers first and earlier ones before later ones;
    `uses` has for each the numbers of what it uses."""
    from networkx import DiGraph, lexicographical_topological_sort

    graph = DiGraph()
    graph.add_nodes_from(range(len(uses)))
    graph.add_edges_from((use, k) for k, own in enumerate(uses) for use in own if isinstance(use, int))
    return list(lexicographical_topological_sort(graph))


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


def is_repeatable(function: Any) -> bool:
    """Says whether a custom Function gives out what it saved more than once."""
    return not getattr(function, "clear_saved_tensors_on_access", False)
