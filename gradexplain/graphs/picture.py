"""The picture of a graph, as plain data: what every format draws. It holds no tensor and nothing of torch's graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from gradexplain.targets.sources import Source

Shape: TypeAlias = tuple[int, ...]
# What a node stands for. A fold stands for several nodes; `outside` is a node whose own inputs are left out; a `port`
# is where an edge passes the border of a fold.
Kind = Literal["input", "parameter", "outside", "operation", "function", "fold", "element", "gradient", "port"]
LEAVES = ("input", "parameter", "outside")


@dataclass(frozen=True)
class Numbers:
    """What is shown of a tensor: its elements where they are few, its size and range where they are many."""

    shape: Shape
    dtype: str
    elements: Any = None
    norm: float | None = None
    low: float | None = None
    high: float | None = None
    nans: int = 0
    infinities: int = 0


@dataclass(frozen=True)
class Saved:
    """A tensor that a node keeps for the backward pass; `shares` is the first node that keeps the same storage."""

    name: str
    shape: Shape
    dtype: str
    bytes: int
    shares: int | None = None


@dataclass(frozen=True)
class Fold:
    """What a folded node stands for: `nodes` nodes that `times` equal blocks are made of, and the leaves within."""

    how: Literal["module", "repeat", "chain"]
    first: str
    last: str
    times: int
    nodes: int
    parameters: int = 0
    numbers: int = 0


@dataclass(frozen=True)
class Facts:
    """What is known of one node beyond its name and shape.

    `weights` names the leaves that were drawn into it; `link` is the node of the tensor that an element belongs to.
    """

    value: Numbers | None = None
    gradient: Numbers | None = None
    saved: tuple[Saved, ...] | None = None
    verdict: str = ""
    hooks: int = 0
    fold: Fold | None = None
    weights: tuple[str, ...] = ()
    link: int = -1


class Node(NamedTuple):
    """One node: a leaf by the user's own name, torch's backward node, an operator, or a fold of several."""

    name: str
    kind: Kind
    shapes: tuple[Shape, ...] = ()
    dtype: str = ""
    label: str = ""
    operator: str = ""
    source: Source | None = None
    module: str = ""
    sequence: int = -1
    facts: Facts | None = None


@dataclass(frozen=True)
class Passed:
    """What goes along one edge in the backward pass: the contribution, and the local derivative as text."""

    contribution: Numbers | None = None
    derivative: str = ""


class Edge(NamedTuple):
    """One use of one value by one node: result `output` of `producer` is input `slot` of `consumer`."""

    producer: int
    output: int
    consumer: int
    slot: int
    argument: str = ""
    passed: Passed | None = None


class Output(NamedTuple):
    """A tensor that the graph was asked for: result `output` of `node`, by the user's name."""

    node: int
    output: int
    name: str


class CutAt(NamedTuple):
    """A place where a value went on into `consumer` without its gradient: detach, no_grad or integer."""

    consumer: int
    reason: str
    operator: str
    source: Source | None


@dataclass(frozen=True)
class Group:
    """A frame around nodes: a module, or one block of several equal ones. `inside` is the index of the frame around it,
    or none."""

    title: str
    times: int
    members: frozenset[int]
    inside: int | None = None


@dataclass(frozen=True)
class Note:
    """A remark below the picture: the key of a sentence and its data."""

    key: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A graph: `nodes` with every producer before its consumers, `edges` by consumer, one for each use of a value.

    `again` are the edges by which one block of a repeat feeds the next, where only one block is drawn; `cuts` are no
    nodes of torch's. `tensors` is, for a picture of elements, the picture of the tensors. `whole` is how many nodes and
    edges there were before anything was folded or left out.

    >>> import torch, gradexplain as gx
    >>> picture = gx.graph(lambda x: x.exp().sum(), [torch.tensor([0.0, 1.0])])
    >>> len(picture.nodes), len(picture.edges), len(picture.outputs)
    (3, 2, 1)
    """

    title: str
    view: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    outputs: tuple[Output, ...]
    torch: str = ""
    shown: frozenset[str] = frozenset()
    again: tuple[Edge, ...] = ()
    cuts: tuple[CutAt, ...] = ()
    groups: tuple[Group, ...] = ()
    notes: tuple[Note, ...] = ()
    tensors: Picture | None = None
    whole: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """How many nodes and edges there are without any folding."""
        return self.whole or (len(self.nodes), len(self.edges))

    def fold(self, *, most: int | None = None, depth: int | None = None) -> Picture:
        """Returns the picture with at most `most` nodes (25 without it), or with its modules opened to `depth`."""
        from gradexplain.graphs.folding import MOST, fold

        return fold(self, most=MOST if most is None else most, depth=depth)

    def module(self, path: str) -> Picture:
        """Returns the part of the picture that ran in the module at `path`."""
        from gradexplain.graphs.parts import in_module

        return in_module(self, path)

    def around(self, node: str, radius: int = 2) -> Picture:
        """Returns the nodes at most `radius` edges away from `node`, which is named as in the picture."""
        from gradexplain.graphs.parts import around

        return around(self, node, radius)

    def path(self, start: str, goal: str) -> Picture:
        """Returns the nodes on the ways that lead from `start` to `goal`."""
        from gradexplain.graphs.parts import between

        return between(self, start, goal)

    def render(
        self, format: str = "text", *, language: str = "en", width: int = 100, unfolded: bool = False
    ) -> str | bytes:
        """Returns the picture in one of the formats, `png` and `pdf` as bytes.

        Pictures for people are folded to 25 nodes where they have not been folded yet, unless `unfolded`; JSON and DOT
        always hold every node.
        """
        from gradexplain.graphs.rendering import rendered

        return rendered(self, format, language=language, width=width, unfolded=unfolded)

    def save(self, path: str | Path, *, language: str = "en", unfolded: bool = False) -> None:
        """Writes the picture in the format of the file's suffix, whole or not at all."""
        from gradexplain.graphs.rendering import save

        save(self, Path(path), language=language, unfolded=unfolded)

    def __str__(self) -> str:
        return str(self.render("text"))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.title}: {len(self.nodes)} nodes, {len(self.edges)} edges>"

    def _repr_svg_(self) -> str:
        return str(self.render("svg"))
