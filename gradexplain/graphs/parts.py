"""Parts of a picture: one module, what lies around a node, or what lies between two."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from gradexplain.errors import InputError
from gradexplain.graphs.graph import LEAVES, Drawn, Edge, Graph, Note


def part(picture: Drawn, keep: Collection[int], *, edges: Sequence[Edge] | None = None, note: bool = True) -> Drawn:
    """Returns the picture of the nodes `keep`; what they use from elsewhere stands beside them as `outside`.

    `edges` are those that enter one of the nodes, where the caller has them.
    """
    kept = set(keep)
    own = picture.edges if edges is None else edges
    entering = {e.producer for e in own if e.consumer in kept and e.producer not in kept}
    leaves = {i for i in entering if picture.nodes[i].kind in LEAVES}
    outside = entering - leaves
    order = [*sorted(outside), *sorted(leaves), *sorted(kept)]
    place = {old: new for new, old in enumerate(order)}
    nodes = tuple(picture.nodes[i]._replace(kind="outside") if i in outside else picture.nodes[i] for i in order)
    moved = [
        e._replace(producer=place[e.producer], consumer=place[e.consumer])
        for e in own
        if e.consumer in kept and e.producer in place
    ]
    whole, _ = picture.size
    told = Note("kept_part", {"nodes": whole, "shown": len(nodes)})
    return replace(
        picture,
        nodes=nodes,
        edges=tuple(sorted(moved, key=lambda e: (e.consumer, e.slot))),
        outputs=tuple(o._replace(node=place[o.node]) for o in picture.outputs if o.node in kept),
        cuts=tuple(c._replace(consumer=place[c.consumer]) for c in picture.cuts if c.consumer in kept),
        notes=(*picture.notes, told) if note else picture.notes,
    )


def in_module(picture: Drawn, path: str) -> Drawn:
    """Returns what ran in one module; raises `InputError` where there is none of this path."""
    keep = [i for i, n in enumerate(picture.nodes) if n.module == path or n.module.startswith(f"{path}.")]
    if not keep:
        modules = sorted({n.module for n in picture.nodes if n.module})
        raise InputError("unknown_module" if modules else "no_modules", name=path, names=", ".join(modules[:20]))
    return part(picture, keep)


def around(picture: Drawn, name: str, radius: int) -> Drawn:
    """Returns the nodes at most `radius` edges away from the one called `name`."""
    near: dict[int, list[int]] = {}
    for edge in picture.edges:
        near.setdefault(edge.producer, []).append(edge.consumer)
        near.setdefault(edge.consumer, []).append(edge.producer)
    found = ring = {node_called(picture, name)}
    for _ in range(radius):
        ring = {n for i in ring for n in near.get(i, ())} - found
        found = found | ring
    return part(picture, found)


def between(picture: Drawn, start: str, goal: str) -> Drawn:
    """Returns the nodes on the ways from `start` to `goal`; raises `InputError` where there is no way."""
    first, last = node_called(picture, start), node_called(picture, goal)
    below = _reached(first, picture.edges, lambda e: (e.producer, e.consumer))
    above = _reached(last, picture.edges, lambda e: (e.consumer, e.producer))
    if last not in below:
        raise InputError("no_way", start=start, goal=goal)
    return part(picture, below & above)


def _reached(start: int, edges: Iterable[Edge], step: Callable[[Edge], tuple[int, int]]) -> set[int]:
    onward: dict[int, list[int]] = {}
    for edge in edges:
        tail, head = step(edge)
        onward.setdefault(tail, []).append(head)
    found, waiting = {start}, [start]
    while waiting:
        fresh = [n for n in onward.get(waiting.pop(), ()) if n not in found]
        found.update(fresh)
        waiting += fresh
    return found


def node_called(picture: Graph, name: str) -> int:
    """Returns the first node of this name: a leaf's, a variable's, an output's, torch's, or its number as #7."""
    if name.startswith("#") and name[1:].isdigit() and int(name[1:]) < len(picture.nodes):
        return int(name[1:])
    known: dict[str, int] = {}
    for i, node in enumerate(picture.nodes):
        target = node.source.target if node.source is not None else None
        for own in (node.name, node.label, target, node.module):
            if own:
                known.setdefault(own, i)
    known |= {output.name: output.node for output in picture.outputs}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5) or list(known)[:20]
        raise InputError("unknown_node", name=name, names=", ".join(close))
    return known[name]
