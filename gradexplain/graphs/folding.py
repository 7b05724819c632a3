"""Folding: a picture of any size as one of a few nodes.

Torch records operations one after another. A fold always stands for an unbroken run of that order, so whatever is
folded, no arrow of the folded picture goes backwards; the one exception, a repeated block that feeds itself, is said on
its frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from math import prod
from typing import Any, Literal

import numpy as np

from gradexplain.graphs.graph import LEAVES, Drawn, Edge, Facts, Fold, Graph, Group, Node, Note
from gradexplain.graphs.repeats import repeats_in

MOST = 25
_LAST = 1000
# A module with more operations than torch's own layers have is opened where there is room.
_BASIC = 8


@dataclass(frozen=True)
class Item:
    """The run [start, stop) of the recorded order: one operation, a module, equal blocks, or a chain.

    `path` is the module's; `unit` holds the items of the first of `times` blocks.
    """

    start: int
    stop: int
    how: Literal["", "module", "repeat", "chain"] = ""
    path: tuple[str, ...] = ()
    times: int = 1
    unit: tuple[Item, ...] = ()

    @property
    def block(self) -> int:
        """How many operations one block has."""
        return (self.stop - self.start) // self.times


def fold(picture: Drawn, *, most: int = MOST, depth: int | None = None) -> Drawn:
    """Returns the picture with at most `most` nodes, or with its modules opened to `depth`.

    What opens most is opened first: modules, then one of several equal blocks; what is left over folds by line of code.
    """
    if len(picture.nodes) <= most and depth is None:
        return picture
    whole = Whole(picture)
    if not len(whole.inner):
        return picture
    cut = _Cut(whole, tuple(whole.parts(Item(0, len(whole.inner), "module"))))
    cut = cut.to_depth(depth) if depth is not None else cut.within(most)
    return _Drawing(cut).of(picture)


class Whole:
    """A picture as arrays: its operations in the order in which they were recorded, and what kind each is of."""

    def __init__(self, picture: Graph) -> None:
        self.picture = picture
        nodes = picture.nodes
        self.leaves = [i for i, n in enumerate(nodes) if n.kind in LEAVES]
        self.inner = [i for i, n in enumerate(nodes) if n.kind not in LEAVES]
        self.position = np.full(len(nodes), -1, dtype=np.int64)
        self.position[self.inner] = np.arange(len(self.inner))
        self.paths = _paths(picture, self.inner)
        kinds: dict[Any, int] = {}
        self.kinds = np.array([kinds.setdefault((nodes[i].name, nodes[i].shapes), len(kinds)) for i in self.inner])
        places: dict[Any, int] = {}
        self.places = [places.setdefault(_line(nodes[i]), len(places)) for i in self.inner]

    @cached_property
    def ends(self) -> tuple[Any, Any]:
        """The producers and the consumers of all edges."""
        pairs = np.array([(e[0], e[2]) for e in self.picture.edges], dtype=np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def parts(self, item: Item) -> list[Item]:
        """Returns what stands inside an item, equal blocks together."""
        if item.how == "repeat":
            return self.parts(item.unit[0]) if len(item.unit) == 1 else list(item.unit)
        if item.how == "chain":
            return list(item.unit)
        return self._gathered(self._split(item))

    def opens(self, item: Item, small: bool) -> bool:
        """Says whether an item has something worth opening: torch's small layers and a single operation do not."""
        if item.how == "repeat":
            return item.block > 1
        if item.how != "module":
            return True
        holds_modules = any(len(path) > len(item.path) for path in self.paths[item.start : item.stop])
        return holds_modules or (small and item.block > _BASIC)

    def names(self, item: Item) -> tuple[str, str]:
        """Returns what an item's first and last block are called."""
        if item.how == "module":
            return ".".join(item.path), ""
        if item.how == "repeat" and item.unit[0].how == "module":
            return ".".join(item.path), ".".join(self.paths[item.stop - 1][: len(item.path)])
        nodes = self.picture.nodes
        return nodes[self.inner[item.start]].name, nodes[self.inner[item.stop - 1]].name

    def node(self, item: Item, weights: Sequence[int]) -> Node:
        """Returns the node that is drawn for an item, with the parameters that are drawn into it."""
        nodes = self.picture.nodes
        last = nodes[self.inner[item.start + item.block - 1]]
        if not item.how:
            facts = replace(last.facts or Facts(), weights=tuple(nodes[i].name for i in weights))
            return last._replace(facts=facts) if weights else last
        first, final = self.names(item)
        folded = Fold(item.how, first, final, item.times, item.stop - item.start, *self.amount(weights))
        facts = replace(last.facts or Facts(), fold=folded, saved=None, weights=())
        same_line = len({self.places[p] for p in range(item.start, item.stop)}) == 1
        return last._replace(
            name=first, kind="fold", label="", facts=facts, source=last.source if same_line else None,
            operator="", module=".".join(item.path),
        )  # fmt: skip

    def amount(self, leaves: Sequence[int]) -> tuple[int, int]:
        """Returns how many of the leaves are parameters, and how many numbers these hold."""
        own = [node for i in leaves if (node := self.picture.nodes[i]).kind == "parameter"]
        return len(own), sum(prod(n.shapes[0]) for n in own)

    def _split(self, item: Item) -> list[Item]:
        depth, found = len(item.path), []
        start = item.start
        while start < item.stop:
            path = self.paths[start][: depth + 1]
            stop = start + 1
            if len(path) > depth:
                while stop < item.stop and self.paths[stop][: depth + 1] == path:
                    stop += 1
            found.append(Item(start, stop, "module", path) if len(path) > depth else Item(start, stop))
            start = stop
        return [Item(i.start, i.stop) if i.how and i.stop - i.start == 1 else i for i in found]

    def _gathered(self, items: Sequence[Item]) -> list[Item]:
        """Returns the items with equal blocks in a row as one."""
        known: dict[Any, int] = {}
        signatures = [known.setdefault(self._signature(item), len(known)) for item in items]
        found: list[Item] = []
        at = 0
        for start, period, times in repeats_in(signatures):
            unit = tuple(items[start : start + period])
            last = items[start + period * times - 1]
            found += [*items[at:start], Item(unit[0].start, last.stop, "repeat", unit[0].path, times, unit)]
            at = start + period * times
        return [*found, *items[at:]]

    def _signature(self, item: Item) -> Any:
        if not item.how:
            return int(self.kinds[item.start]), self.places[item.start]
        own = item.path[-1]
        return ("" if own.isdigit() else own), self.kinds[item.start : item.stop].tobytes()


def _paths(picture: Graph, inner: Sequence[int]) -> list[tuple[str, ...]]:
    """Returns the module of each operation: the recorded one, or for tensors that were not recorded, by the parameters.

    What uses a parameter is in the parameter's module. What stands between two such is in the innermost module of both,
    or still in the block of a numbered list that the second has left.
    """
    nodes = picture.nodes
    if any(nodes[i].module for i in inner):
        return [tuple(nodes[i].module.split(".")) if nodes[i].module else () for i in inner]
    owners = {
        edge.consumer: tuple(nodes[edge.producer].name.split(".")[:-1])
        for edge in picture.edges
        if nodes[edge.producer].kind == "parameter" and "." in nodes[edge.producer].name
    }
    after: list[tuple[str, ...]] = []
    following: tuple[str, ...] = ()
    for i in reversed(inner):
        following = owners.get(i, following)
        after.append(following)
    found: list[tuple[str, ...]] = []
    before: tuple[str, ...] = ()
    for i, coming in zip(inner, reversed(after), strict=True):
        before = owners.get(i, before)
        found.append(before if i in owners else _between(before, coming))
    return found


def _between(before: tuple[str, ...], coming: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the module of what stands between what uses parameters of two modules."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, coming, strict=False)))
    block = (k for k in range(shared + 1, len(before)) if before[k - 1].isdigit())
    return before[: next(block, shared)]


def _line(node: Node) -> Any:
    return None if node.source is None else (node.source.file, node.source.line, node.source.code)


@dataclass(frozen=True)
class _Frame:
    item: Item
    start: int
    stop: int
    inside: int | None


@dataclass(frozen=True)
class _Cut:
    """One way to draw the whole: `items` in order; `same` sends each operation to the one that is drawn for it."""

    whole: Whole
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
        while closed := [i for i in cut.items if i.how and i not in refused and cut.whole.opens(i, small)]:
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
        parts = tuple(self.whole.parts(item))
        items = (*self.items[:at], *parts, *self.items[at + 1 :])
        start, stop = item.start, item.start + item.block
        around = [k for k, f in enumerate(self.frames) if f.start <= start and stop <= f.stop]
        frames = (*self.frames, _Frame(item, start, stop, around[-1] if around else None))
        frames = self.frames if item.how == "chain" or (len(parts) == 1 and item.times == 1) else frames
        return _Cut(self.whole, items, frames, self._mapped(item) if item.times > 1 else self.same)

    def _mapped(self, item: Item) -> Any:
        """Sends the operations of every further block to those of the first."""
        new = np.arange(len(self.whole.inner))
        new[item.start : item.stop] = item.start + np.arange(item.stop - item.start) % item.block
        return new if self.same is None else new[self.same]

    def _compressed(self, room: int) -> _Cut:
        items = chained(self.items, lambda i: self.whole.places[i.start])
        if len(items) > room:
            items = chained(self.items, lambda i: 0)
        if len(items) > room:
            size = -(-len(self.items) // room)
            items = [chain_of(self.items[k : k + size]) for k in range(0, len(self.items), size)]
        return replace(self, items=tuple(items))

    # -------------------------------------------------------------------------------------------------- drawing

    def _owners(self, nodes: Any) -> Any:
        """Returns the item that is drawn for each of some operations, -1 for a leaf."""
        starts = np.array([i.start for i in self.items])
        position = self.whole.position[nodes]
        drawn = position if self.same is None else self.same[position]
        return np.where(position < 0, -1, np.searchsorted(starts, drawn, side="right") - 1)

    def _leaf_groups(self) -> dict[tuple[str, frozenset[int]], list[int]]:
        """Returns the leaves that are drawn, those of one kind with the same users together; what a single item uses
        of parameters is drawn into it."""
        producers, consumers = self.whole.ends
        of_leaf = self.whole.position[producers] < 0
        users: dict[int, set[int]] = defaultdict(set)
        pairs = np.stack([producers[of_leaf], self._owners(consumers[of_leaf])], 1)
        for leaf, item in np.unique(pairs, axis=0).tolist():
            users[leaf].add(item)
        groups: dict[tuple[str, frozenset[int]], list[int]] = {}
        for leaf in self.whole.leaves:
            kind = self.whole.picture.nodes[leaf].kind
            if kind == "parameter" and len(users[leaf]) == 1:
                continue
            groups.setdefault((kind, frozenset(users[leaf])), []).append(leaf)
        return groups


def _level(item: Item) -> int:
    """Returns how deep an item stands: a module by its path; chains come last."""
    return len(item.path) if item.how != "chain" else _LAST


def chained(items: Sequence[Item], key: Any) -> list[Item]:
    """Returns the items with plain operations of one key, next to each other, as one."""
    found: list[list[Item]] = []
    for item in items:
        if found and not item.how and not found[-1][-1].how and key(found[-1][-1]) == key(item):
            found[-1].append(item)
        else:
            found.append([item])
    return [chain_of(run) for run in found]


def chain_of(run: Sequence[Item]) -> Item:
    return run[0] if len(run) == 1 else Item(run[0].start, run[-1].stop, "chain", (), 1, tuple(run))


class _Drawing:
    """Turns a cut into a picture."""

    def __init__(self, cut: _Cut) -> None:
        self.cut, self.whole, self.nodes = cut, cut.whole, cut.whole.picture.nodes
        self.groups = cut._leaf_groups()
        self.shift = len(self.groups)
        self.leaf_at = {leaf: k for k, group in enumerate(self.groups.values()) for leaf in group}
        self.producers, self.consumers = self.whole.ends
        self.heads = cut._owners(self.consumers)
        self.tails = cut._owners(self.producers)

    def of(self, old: Drawn) -> Drawn:
        leaves = [self.leaf(group) for group in self.groups.values()]
        items = [self.whole.node(item, self.within.get(k, [])) for k, item in enumerate(self.cut.items)]
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
            edge, head, tail = self.whole.picture.edges[k], int(self.heads[k]), int(self.tails[k])
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
        start, stop = self.whole.position[self.producers], self.whole.position[self.consumers]
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
        folded = Fold("repeat", first.name, last.name, len(group), len(group), *self.whole.amount(group))
        return first._replace(name=name, facts=Facts(fold=folded))

    @cached_property
    def within(self) -> Mapping[int, list[int]]:
        """The parameters that are drawn into each item."""
        found: dict[int, dict[int, None]] = defaultdict(dict)
        at = self.whole.position[self.consumers]
        for k in np.flatnonzero(self.tails < 0).tolist():
            leaf, head = int(self.producers[k]), int(self.heads[k])
            if leaf not in self.leaf_at and self.cut.items[head].start <= at[k] < self.cut.items[head].stop:
                found[head][leaf] = None
        return {item: list(leaves) for item, leaves in found.items()}

    def frame(self, frame: _Frame) -> Group:
        first, last = self.whole.names(frame.item)
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
