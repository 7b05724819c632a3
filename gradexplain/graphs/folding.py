"""Folding: a picture of any size as one of a few nodes, a cut through its tree.

A fold stands for an unbroken run of the recorded order, so whatever is folded, no arrow of the folded picture goes
backwards; the one exception, a repeated block that feeds itself, is said on its frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gradexplain.graphs.graph import Drawn, Edge, Facts, Fold, Graph, Group, Node, Note
from gradexplain.graphs.tree import Item, Tree, chained, in_runs

MOST = 25
_LAST = 1000


def fold(picture: Drawn, *, most: int = MOST, depth: int | None = None) -> Drawn:
    """Returns the picture with at most `most` nodes, or with its modules opened to `depth`.

    What opens most is opened first: modules, then one of several equal blocks; what is left over folds by line of code.
    """
    if len(picture.nodes) <= most and depth is None:
        return picture
    tree = Tree(picture)
    if not tree.inner:
        return picture
    cut = _Cut(tree, tuple(tree.parts(tree.root)))
    cut = cut.to_depth(depth) if depth is not None else cut.within(most)
    return _Drawing(cut).of(picture)


@dataclass(frozen=True)
class _Frame:
    item: Item
    start: int
    stop: int
    inside: int | None


@dataclass(frozen=True)
class _Cut:
    """One way to draw the whole: `items` in order; `same` sends each operation to the one that is drawn for it."""

    tree: Tree
    items: tuple[Item, ...]
    frames: tuple[_Frame, ...] = ()
    same: Any = None

    # ------------------------------------------------------------------------------------------------- choosing

    def within(self, most: int) -> _Cut:
        """Opens what can be opened within `most` nodes; folds by lines and then by number where there are too many."""
        cut = self
        for room in range(most, 0, -1):
            if cut.size <= most:
                break
            cut = self._compressed(room)
        return cut._unfolded(most, small=False)._unfolded(most, small=True)

    def _unfolded(self, most: int, *, small: bool) -> _Cut:
        """Opens level by level, a level whole or not at all, so that equals are drawn alike; where that is too much,
        the one that holds most of what the level holds. Without `small`, modules without modules in them stay shut."""
        cut, refused = self, set[Item]()
        while closed := [i for i in cut.items if i.how and i not in refused and cut.tree.opens(i, small)]:
            level = min(map(_level, closed))
            batch = [i for i in closed if _level(i) == level]
            largest = max(batch, key=lambda i: (i.block, -i.start))
            alone = [largest] if 2 * largest.block > sum(i.block for i in batch) else []
            fitting = (c for some in (batch, alone) if (c := cut.all_opened(some)).size <= most and some)
            opened = next(fitting, None)
            if opened is None:
                refused.update(batch)
            cut = opened or cut
        return cut

    def all_opened(self, items: Sequence[Item]) -> _Cut:
        """Returns the cut with all of `items` opened."""
        cut = self
        for item in items:
            cut = cut.opened(item)
        return cut

    def to_depth(self, depth: int) -> _Cut:
        cut = self
        while True:
            closed = [i for i in cut.items if i.how in ("module", "repeat") and 0 < len(i.path) <= depth]
            if not closed:
                return cut
            cut = cut.opened(closed[0])

    @property
    def size(self) -> int:
        """How many nodes the picture will have."""
        return len(self.items) + len(self._leaf_groups())

    def opened(self, item: Item) -> _Cut:
        """Returns the cut with the parts of one item in its place, in a frame."""
        at = self.items.index(item)
        parts = tuple(self.tree.parts(item))
        items = (*self.items[:at], *parts, *self.items[at + 1 :])
        start, stop = item.start, item.start + item.block
        around = [k for k, f in enumerate(self.frames) if f.start <= start and stop <= f.stop]
        frames = (*self.frames, _Frame(item, start, stop, around[-1] if around else None))
        frames = self.frames if item.how == "chain" or (len(parts) == 1 and item.times == 1) else frames
        return _Cut(self.tree, items, frames, self._mapped(item) if item.times > 1 else self.same)

    def _mapped(self, item: Item) -> Any:
        """Sends the operations of every further block to those of the first."""
        new = np.arange(len(self.tree.inner))
        new[item.start : item.stop] = item.start + np.arange(item.stop - item.start) % item.block
        return new if self.same is None else new[self.same]

    def _compressed(self, room: int) -> _Cut:
        items = chained(self.items, lambda i: self.tree.places[i.start])
        if len(items) > room:
            items = chained(self.items, lambda i: 0)
        if len(items) > room:
            items = in_runs(self.items, room)
        return replace(self, items=tuple(items))

    # -------------------------------------------------------------------------------------------------- drawing

    def _owners(self, nodes: Any) -> Any:
        """Returns the item that is drawn for each of some operations, -1 for a leaf."""
        starts = np.array([i.start for i in self.items])
        position = self.tree.position[nodes]
        drawn = position if self.same is None else self.same[position]
        return np.where(position < 0, -1, np.searchsorted(starts, drawn, side="right") - 1)

    def _leaf_groups(self) -> dict[tuple[str, frozenset[int]], list[int]]:
        """Returns the leaves that are drawn, those of one kind with the same users together; what a single item uses
        of parameters is drawn into it."""
        producers, consumers = self.tree.ends
        of_leaf = self.tree.position[producers] < 0
        users: dict[int, set[int]] = defaultdict(set)
        pairs = np.stack([producers[of_leaf], self._owners(consumers[of_leaf])], 1)
        for leaf, item in np.unique(pairs, axis=0).tolist():
            users[leaf].add(item)
        groups: dict[tuple[str, frozenset[int]], list[int]] = {}
        for leaf in self.tree.leaves:
            kind = self.tree.picture.nodes[leaf].kind
            if kind == "parameter" and len(users[leaf]) == 1:
                continue
            groups.setdefault((kind, frozenset(users[leaf])), []).append(leaf)
        return groups


def _level(item: Item) -> int:
    """Returns how deep an item stands: a module by its path; chains come last."""
    return len(item.path) if item.how != "chain" else _LAST


class _Drawing:
    """Turns a cut into a picture."""

    def __init__(self, cut: _Cut) -> None:
        self.cut, self.tree, self.nodes = cut, cut.tree, cut.tree.picture.nodes
        self.groups = cut._leaf_groups()
        self.shift = len(self.groups)
        self.leaf_at = {leaf: k for k, group in enumerate(self.groups.values()) for leaf in group}
        self.producers, self.consumers = self.tree.ends
        self.heads = cut._owners(self.consumers)
        self.tails = cut._owners(self.producers)

    def of(self, old: Drawn) -> Drawn:
        leaves = [self.leaf(group) for group in self.groups.values()]
        items = [self.tree.node(item, self.within.get(k, [])) for k, item in enumerate(self.cut.items)]
        edges, again = self.edges()
        at = {i: self.drawn(i) for i in (o.node for o in old.outputs)}
        cuts = [c._replace(consumer=self.drawn(c.consumer)) for c in old.cuts]
        picture = replace(
            old,
            nodes=(*leaves, *items),
            edges=edges,
            again=again,
            outputs=tuple(o._replace(node=at[o.node]) for o in old.outputs),
            cuts=tuple(dict.fromkeys(cuts)),
            groups=tuple(self.frame(f) for f in self.cut.frames),
            whole=old.size,
        )
        return replace(picture, notes=(*old.notes, *_told(picture)))

    def drawn(self, node: int) -> int:
        owner = int(self.cut._owners(np.array([node]))[0])
        return self.leaf_at.get(node, 0) if owner < 0 else owner + self.shift

    def edges(self) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
        """Returns the edges between what is drawn, equal ones once, and those by which a block feeds the next one."""
        found: dict[tuple[int, int, int, int], Edge] = {}
        again: dict[tuple[int, int], Edge] = {}
        for k in np.flatnonzero((self.tails != self.heads) | self.turns).tolist():
            edge, head, tail = self.tree.picture.edges[k], int(self.heads[k]), int(self.tails[k])
            if tail < 0 and edge.producer not in self.leaf_at:
                continue
            start = self.leaf_at[edge.producer] if tail < 0 else tail + self.shift
            output = 0 if tail >= 0 and self.cut.items[tail].how else edge.output
            slot = 0 if self.cut.items[head].how else edge.slot
            drawn = edge._replace(producer=start, output=output, consumer=head + self.shift, slot=slot)
            if tail >= head or self.turns[k]:
                again.setdefault((start, drawn.consumer), drawn)
            else:
                found.setdefault(drawn[:4], drawn)
        return tuple(sorted(found.values(), key=lambda e: (e.consumer, e.slot))), tuple(again.values())

    @cached_property
    def turns(self) -> Any:
        """Which edges go from one block of an opened repeat into a later one, where both are drawn as one block."""
        found = np.zeros(len(self.heads), dtype=bool)
        start, stop = self.tree.position[self.producers], self.tree.position[self.consumers]
        for frame in self.cut.frames:
            if frame.item.times > 1:
                inside = (start >= frame.item.start) & (stop < frame.item.stop) & (stop >= 0)
                block = frame.item.block
                found |= inside & ((start - frame.item.start) // block != (stop - frame.item.start) // block)
        return found

    def leaf(self, group: Sequence[int]) -> Node:
        first = self.nodes[group[0]]
        if len(group) == 1:
            return first
        last = self.nodes[group[-1]]
        name = first.name if first.name == last.name else f"{first.name} … {last.name}"
        folded = Fold("repeat", first.name, last.name, len(group), len(group), *self.tree.amount(group))
        return first._replace(name=name, facts=Facts(fold=folded))

    @cached_property
    def within(self) -> Mapping[int, list[int]]:
        """The parameters that are drawn into each item."""
        found: dict[int, dict[int, None]] = defaultdict(dict)
        at = self.tree.position[self.consumers]
        for k in np.flatnonzero(self.tails < 0).tolist():
            leaf, head = int(self.producers[k]), int(self.heads[k])
            if leaf not in self.leaf_at and self.cut.items[head].start <= at[k] < self.cut.items[head].stop:
                found[head][leaf] = None
        return {item: list(leaves) for item, leaves in found.items()}

    def frame(self, frame: _Frame) -> Group:
        first, last = self.tree.names(frame.item)
        if frame.item.how == "repeat" and frame.item.unit[0].how != "module":
            first = last = ""
        title = first if not last or last == first else f"{first} … {last}"
        members = frozenset(
            k + self.shift for k, i in enumerate(self.cut.items) if frame.start <= i.start and i.stop <= frame.stop
        )
        return Group(title, frame.item.times, members, frame.inside)


def _told(picture: Graph) -> Iterator[Note]:
    """Yields what was folded, as remarks."""
    nodes, edges = picture.size
    folds = [n.facts.fold for n in picture.nodes if n.kind == "fold" and n.facts is not None and n.facts.fold]
    yield Note("folded", {"nodes": nodes, "edges": edges, "shown": len(picture.nodes)})
    if folds:
        yield Note("folds", {"count": len(folds), "operations": sum(f.nodes for f in folds)})
    for group in picture.groups:
        if group.times > 1:
            yield Note("repeated", {"times": group.times, "title": group.title or "–"})
