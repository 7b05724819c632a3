"""The nodes of torch's backward graph, walked and put in order without recursion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradexplain.recording.containers import nested
from gradexplain.recording.lifetime import anchor
from gradexplain.versions.internals import nested_layout, sequence_of


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
