"""The tree of a picture: modules, repeats of equal blocks and chains, down to single operations.

A folded picture is a cut through it, a page on which folds open is the tree drawn. Torch records operations one after
another, and an item of the tree always stands for an unbroken run of that order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from math import prod
from typing import Any, Literal

import numpy as np

from gradexplain.graphs.graph import LEAVES, Facts, Fold, Graph, Node
from gradexplain.graphs.repeats import repeats_in

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


class Tree:
    """A picture as a tree: its operations in the order in which they were recorded, and what they stand in together.

    An item is a place in the tree, and `parts` are the items in it; the items of one level follow each other.
    """

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

    @property
    def root(self) -> Item:
        """All operations."""
        return Item(0, len(self.inner), "module")

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

    def blocks(self, item: Item, most: int) -> list[Item]:
        """Returns the blocks of a repeat, or `most` runs of them where they are more."""
        size = -(-item.times // most)
        return [self._run(item, k, min(size, item.times - k)) for k in range(0, item.times, size)]

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

    def _run(self, item: Item, first: int, times: int) -> Item:
        """Returns `times` blocks of a repeat from its block `first`."""
        unit = tuple(self._moved(own, first * item.block) for own in item.unit)
        if times == 1:
            return chain_of(unit)
        stop = unit[0].start + times * item.block
        return replace(item, start=unit[0].start, stop=stop, path=unit[0].path, times=times, unit=unit)

    def _moved(self, item: Item, by: int) -> Item:
        path = self.paths[item.start + by][: len(item.path)]
        return replace(item, start=item.start + by, stop=item.stop + by, path=path)

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


def chained(items: Sequence[Item], key: Callable[[Item], Hashable]) -> list[Item]:
    """Returns the items with plain operations of one key, next to each other, as one."""
    found: list[list[Item]] = []
    for item in items:
        if found and not item.how and not found[-1][-1].how and key(found[-1][-1]) == key(item):
            found[-1].append(item)
        else:
            found.append([item])
    return [chain_of(run) for run in found]


def in_runs(items: Sequence[Item], most: int) -> list[Item]:
    """Returns items next to each other as one, so many together that at most `most` are left."""
    size = -(-len(items) // most)
    return [chain_of(items[k : k + size]) for k in range(0, len(items), size)]


def chain_of(run: Sequence[Item]) -> Item:
    """Returns what follows each other as one item."""
    return run[0] if len(run) == 1 else Item(run[0].start, run[-1].stop, "chain", (), 1, tuple(run))
