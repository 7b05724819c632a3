"""The whole graph as boxes in boxes: every fold with what stands in it, to be opened in place.

A level is what stands directly in one fold. An edge between two levels passes through the borders of the folds between
them: at each border it has a port, which is known by the edge's place in the level outside.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from gradexplain.graphs.folding import MOST
from gradexplain.graphs.graph import CutAt, Edge, Graph, Node, Note, Output
from gradexplain.graphs.tree import Item, Tree, chained, in_runs

# More boxes than this make a file that is slow to open.
MOST_BOXES = 12_000
# A leaf that more parts of a level use stands in, or beside, each of them.
_APART = 3
# More values than this go from one fold to another as one line.
_BUNDLED = 6


@dataclass(frozen=True)
class Level:
    """What stands in one fold, or in the whole.

    `picture` has a node of kind `port` for each edge that passes the border. `entries` and `exits` send such a node to
    the edge's place in the picture of the level outside; `inside` sends a folded node to its level. `stands` has, for
    each node of the picture, the nodes of the whole that stand in it and in no level further in.
    """

    picture: Graph
    entries: Mapping[int, int]
    exits: Mapping[int, int]
    inside: Mapping[int, int]
    open: bool
    stands: Mapping[int, Sequence[int]]


def nested(picture: Graph) -> list[Level]:
    """Returns the levels of a picture, the whole first, each fold's level behind that in which the fold stands."""
    if len(picture.nodes) <= MOST or picture.whole is not None or not (tree := Tree(picture)).inner:
        return [Level(picture, {}, {}, {}, True, {i: [i] for i in range(len(picture.nodes))})]
    return _Nesting(_Drawn(tree)).levels()


class _End(NamedTuple):
    """What an edge of a level begins or ends at: the level's item of this number, the leaf that is this node, or the
    port of this edge of the level outside. A leaf that stands beside each of its users has a `copy` for each."""

    kind: Literal["item", "leaf", "in", "out"]
    number: int
    copy: int = -1


# ------------------------------------------------------------------------------------------------------- the tree


@dataclass
class _Branch:
    """One fold: `items` stand in it; `inside` sends those that can be opened to their branches; its own place is the
    item `place` of the branch `parent`."""

    items: Sequence[Item]
    parent: int = -1
    place: int = 0
    depth: int = 0
    inside: dict[int, int] = field(default_factory=dict)
    leaves: list[_End] = field(default_factory=list)
    open: bool = False

    @property
    def size(self) -> int:
        return len(self.items) + len(self.leaves)

    def item_at(self, position: int) -> int:
        """Returns which item an operation stands in."""
        return bisect_right(self.items, position, key=lambda item: item.start) - 1


class _Drawn:
    """The tree as far as it is drawn. Should room run out, the first of several is still followed to its last node."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.branches = [_Branch(self.contents(tree.root), open=True)]
        self.grow()
        self.homes = [0] * len(tree.inner)
        for number, branch in enumerate(self.branches):
            for item in branch.items:
                self.homes[item.start : item.stop] = [number] * (item.stop - item.start)
        self.leaf_ends: dict[tuple[int, int], tuple[int, _End]] = {}
        self.drawn_in: dict[int, list[int]] = {}
        self.place_leaves()
        self.unfold(small=False)
        self.unfold(small=True)

    def grow(self) -> None:
        boxes = len(self.branches[0].items)
        waiting = [(0, 0, 0)]
        while waiting:
            later, depth, number = heapq.heappop(waiting)
            branch = self.branches[number]
            for k, item in enumerate(branch.items):
                items = self.contents(item) if item.how else []
                if not items or boxes + len(items) > MOST_BOXES:
                    continue
                boxes += len(items)
                branch.inside[k] = len(self.branches)
                heapq.heappush(waiting, (later + (k > 0), depth + 1, len(self.branches)))
                self.branches.append(_Branch(items, number, k, depth + 1))

    def contents(self, item: Item) -> list[Item]:
        """Returns what stands in a fold, in at most as many parts as a picture shows."""
        items = self.tree.blocks(item, MOST) if item.how == "repeat" else self.tree.parts(item)
        if len(items) == 1 and items[0].how:
            return self.contents(items[0])
        if len(items) <= MOST:
            return items
        lines = chained(items, lambda i: self.tree.places[i.start])
        if 1 < len(lines) <= MOST:
            return lines
        return in_runs(lines if len(lines) > 1 else items, MOST)

    def place_leaves(self) -> None:
        """Puts every leaf into the innermost fold in which all that use it stand, or beside each part that uses it; a
        parameter that one operation uses and of which nothing is shown is drawn into the operation."""
        tree = self.tree
        users: dict[int, list[int]] = {leaf: [] for leaf in tree.leaves}
        for edge in tree.picture.edges:
            if edge.producer in users:
                users[edge.producer].append(int(tree.position[edge.consumer]))
        for leaf, own in users.items():
            node = tree.picture.nodes[leaf]
            if node.kind == "parameter" and node.facts is None and len(set(own)) == 1:
                self.drawn_in.setdefault(own[0], []).append(leaf)
            else:
                self.place_leaf(leaf, own)

    def place_leaf(self, leaf: int, users: Sequence[int]) -> None:
        waiting = [(users, self.shared(users), -1)]
        while waiting:
            own, home, copy = waiting.pop()
            branch = self.branches[home]
            apart: dict[int, list[int]] = {}
            for position in own:
                apart.setdefault(branch.item_at(position), []).append(position)
            if len(apart) > _APART:
                waiting += [(some, self.shared(some), item) for item, some in reversed(apart.items())]
                continue
            end = _End("leaf", leaf, copy)
            branch.leaves.append(end)
            self.leaf_ends.update({(leaf, position): (home, end) for position in own})

    def shared(self, positions: Sequence[int]) -> int:
        """Returns the innermost branch in which all of some operations stand."""
        homes = {self.homes[p] for p in positions} or {0}
        while len(homes) > 1:
            deepest = max(homes, key=lambda h: self.branches[h].depth)
            homes = homes - {deepest} | {self.branches[deepest].parent}
        return homes.pop()

    def unfold(self, *, small: bool) -> None:
        """Opens level by level, a level whole or only its largest fold, as long as all fits one picture."""
        shown = sum(branch.size for branch in self.branches if branch.open)
        for depth in range(1, 1 + max(branch.depth for branch in self.branches)):
            batch = [b for b in self.branches if b.depth == depth and not b.open and self.can_unfold(b, small)]
            for some in (batch, sorted(batch, key=self.held)[-1:]):
                more = sum(branch.size - 1 for branch in some)
                if some and shown + more <= MOST and not any(branch.open for branch in some):
                    shown += more
                    for branch in some:
                        branch.open = True

    def held(self, branch: _Branch) -> int:
        return branch.items[-1].stop - branch.items[0].start

    def can_unfold(self, branch: _Branch, small: bool) -> bool:
        outside = self.branches[branch.parent]
        runs = all(item.how == "repeat" for item in branch.items)
        return outside.open and not runs and self.tree.opens(outside.items[branch.place], small)

    def way(self, start: int, goal: int) -> tuple[list[int], list[int]]:
        """Returns the branches that an edge leaves and those that it enters, the outermost of each first."""
        left, entered = [], []
        while start != goal:
            if self.branches[start].depth >= self.branches[goal].depth:
                left.append(start)
                start = self.branches[start].parent
            else:
                entered.append(goal)
                goal = self.branches[goal].parent
        return left[::-1], entered[::-1]


# ----------------------------------------------------------------------------------------------------- the levels

_Ends = tuple[int, _End, _End]


class _Course(NamedTuple):
    """An edge of the picture on its way through the levels: out of the branches `left`, through `at`, into `entered`.

    `tails` and `heads` are what it begins and ends at in each level, the outermost last.
    """

    edge: Edge
    at: int
    tails: Sequence[_End]
    heads: Sequence[_End]
    left: Sequence[int]
    entered: Sequence[int]

    @property
    def ends(self) -> _Ends:
        return self.at, self.tails[-1], self.heads[-1]


class _Drafted:
    """The edges of one level, as they are found; each by its ends, its value and its slot."""

    def __init__(self) -> None:
        self.edges: dict[tuple[Any, ...], Edge] = {}
        self.places: dict[tuple[Any, ...], int] = {}
        self.ports: dict[_End, str] = {}
        self.outputs: list[tuple[_End, Output]] = []
        self.cuts: list[tuple[_End, CutAt]] = []

    def add(self, edge: Edge, key: tuple[Any, ...]) -> int:
        """Returns the place of an edge, which is added where it is new."""
        self.edges.setdefault(key, edge)
        return self.places.setdefault(key, len(self.places))


class _Nesting:
    """Turns a tree into levels."""

    def __init__(self, drawn: _Drawn) -> None:
        self.drawn, self.tree, self.branches = drawn, drawn.tree, drawn.branches
        self.picture = drawn.tree.picture
        self.drafts = [_Drafted() for _ in self.branches]
        self.notes = (*self.picture.notes, *self.told())
        courses = list(self.courses())
        values: dict[_Ends, set[tuple[int, int]]] = {}
        for c in courses:
            values.setdefault(c.ends, set()).add((c.edge.producer, c.edge.output))
        for c in courses:
            self.follow(c, len(values[c.ends]) <= _BUNDLED)
        for output in self.picture.outputs:
            for branch, end in self.seen(output.node):
                self.drafts[branch].outputs.append((end, output))
        for cut in self.picture.cuts:
            branch, end = next(iter(self.seen(cut.consumer)))
            self.drafts[branch].cuts.append((end, cut))

    def courses(self) -> Iterator[_Course]:
        """Yields the way of every edge that is drawn: not of one whose leaf is drawn into what uses it."""
        for edge in self.picture.edges:
            position = int(self.tree.position[edge.consumer])
            goal, head = self.of_operation(position)
            if self.tree.position[edge.producer] >= 0:
                start, tail = self.of_operation(int(self.tree.position[edge.producer]))
            elif edge.producer in self.drawn.drawn_in.get(position, ()):
                continue
            else:
                start, tail = self.drawn.leaf_ends[edge.producer, position]
            if (start, tail) == (goal, head):
                continue  # inside a fold that does not open
            left, entered = self.drawn.way(start, goal)
            at = self.branches[(left or entered)[0]].parent if left or entered else goal
            ways = [tail, *map(self.fold, reversed(left))], [head, *map(self.fold, reversed(entered))]
            yield _Course(edge, at, *ways, left, entered)

    def follow(self, course: _Course, apart: bool) -> None:
        """Adds a course to every level that it passes; `apart` says that its value has a line of its own."""
        edge, tails, heads = course.edge, list(course.tails), list(course.heads)
        further = place = self.join(edge, course.at, tails.pop(), heads.pop(), apart)
        for branch in course.left:
            further = self.join(edge, branch, tails.pop(), _End("out", further), apart)
        for branch in course.entered:
            place = self.join(edge, branch, _End("in", place), heads.pop(), apart)

    def join(self, edge: Edge, branch: int, tail: _End, head: _End, apart: bool) -> int:
        """Returns the place, among a branch's edges, of the one that an edge of the picture runs along."""
        begins, ends = self.is_plain(branch, tail), self.is_plain(branch, head)
        draft = self.drafts[branch]
        for end, node in ((tail, edge.producer), (head, edge.consumer)):
            if end.kind in ("in", "out"):
                draft.ports.setdefault(end, self.picture.nodes[node].name)
        shown = edge._replace(output=edge.output if begins else 0, slot=edge.slot if ends else min(edge.slot, 0))
        shown = shown if ends else shown._replace(passed=None, argument="")
        value = (edge.producer, edge.output) if begins or apart else ()
        return draft.add(shown, (tail, value, head, edge.slot if ends else None))

    def is_plain(self, branch: int, end: _End) -> bool:
        return end.kind == "leaf" or (end.kind == "item" and not self.branches[branch].items[end.number].how)

    def of_operation(self, position: int) -> tuple[int, _End]:
        """Returns the level in which an operation stands, and what it is drawn as there."""
        home = self.drawn.homes[position]
        return home, _End("item", self.branches[home].item_at(position))

    def fold(self, branch: int) -> _End:
        return _End("item", self.branches[branch].place)

    def seen(self, node: int) -> Iterator[tuple[int, _End]]:
        """Yields the levels in which a node can be seen, itself or the fold in which it stands, innermost first."""
        position = int(self.tree.position[node])
        places = (
            [self.of_operation(position)]
            if position >= 0
            else [p for k, p in self.drawn.leaf_ends.items() if k[0] == node]
        )
        for branch, end in places[:1]:
            while branch >= 0:
                yield branch, end
                branch, end = self.branches[branch].parent, self.fold(branch)

    # ----------------------------------------------------------------------------------------------- as pictures

    def levels(self) -> list[Level]:
        return [self.level(number) for number in range(len(self.branches))]

    def level(self, number: int) -> Level:
        branch, draft = self.branches[number], self.drafts[number]
        ends: list[_End] = [end for end in draft.ports if end.kind == "in"]
        ends += branch.leaves
        ends += [_End("item", k) for k in range(len(branch.items))]
        ends += [end for end in draft.ports if end.kind == "out"]
        at = {end: k for k, end in enumerate(ends)}
        edges = [
            edge._replace(producer=at[tail], consumer=at[head]) for (tail, _, head, _), edge in draft.edges.items()
        ]
        picture = replace(
            self.picture,
            nodes=tuple(self.node(branch, draft, end) for end in ends),
            edges=tuple(edges),
            outputs=tuple(output._replace(node=at[end]) for end, output in draft.outputs),
            cuts=tuple(dict.fromkeys(cut._replace(consumer=at[end]) for end, cut in draft.cuts)),
            notes=self.notes,
            whole=self.picture.size,
        )
        entries = {at[end]: end.number for end in draft.ports if end.kind == "in"}
        exits = {at[end]: end.number for end in draft.ports if end.kind == "out"}
        inside = {at[_End("item", k)]: inner for k, inner in branch.inside.items()}
        stands = {at[end]: own for end in ends if (own := self.stands(branch, end))}
        return Level(picture, entries, exits, inside, branch.open, stands)

    def stands(self, branch: _Branch, end: _End) -> list[int]:
        """Returns the nodes of the whole that are drawn as what an edge begins or ends at, and no further in."""
        if end.kind == "leaf":
            return [end.number]
        if end.kind != "item" or end.number in branch.inside:
            return []
        item = branch.items[end.number]
        positions = range(item.start, item.stop)
        weights = [leaf for p in positions for leaf in self.drawn.drawn_in.get(p, ())]
        return [*(int(self.tree.inner[p]) for p in positions), *weights]

    def node(self, branch: _Branch, draft: _Drafted, end: _End) -> Node:
        if end.kind == "leaf":
            return self.picture.nodes[end.number]
        if end.kind in ("in", "out"):
            return Node(draft.ports[end], "port")
        item = branch.items[end.number]
        weights = [leaf for p in range(item.start, item.stop) for leaf in self.drawn.drawn_in.get(p, ())]
        return self.tree.node(item, weights)

    def told(self) -> Iterator[Note]:
        """Yields what the page holds, and a remark on the folds for which there was no room."""
        yield Note("held", {"nodes": len(self.picture.nodes), "edges": len(self.picture.edges)})
        closed = sum(sum(1 for item in b.items if item.how) - len(b.inside) for b in self.branches)
        if closed:
            yield Note("left_shut", {"count": closed, "most": MOST_BOXES})
