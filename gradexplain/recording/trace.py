"""What torch did, as plain data: nodes, edges, values and gradients, detached from torch's own graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gradexplain.errors import NoGradientError
from gradexplain.targets.sources import Source

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Edge:
    """One use of one value by one node. A value used twice has two edges.

    `contribution` is what the node sent along this edge in the backward pass; `None` where nothing was sent.
    """

    producer: int
    output: int
    argument: str
    contribution: Tensor | None


@dataclass(frozen=True)
class Slice:
    """What a node for a write into a view did to the whole tensor behind it, or how a node looks at it through a view.

    Writing makes a function of the whole: in the part at `size`, `stride` and `offset` stands what `operator` made of
    its `arguments`, of which `written` is the view. A node that looks at the part again writes nothing. `slots` names
    the argument of each edge, `whole` has the shape and the strides of the whole tensor.
    """

    operator: str
    arguments: Mapping[str, Any]
    written: str
    slots: tuple[str, ...]
    whole: tuple[tuple[int, ...], tuple[int, ...]]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Node:
    """One recorded application of an operator, or a leaf (`leaf` is its name, `operator` is `None`).

    `arguments` are by the schema's names; `outputs` and `cotangents` stand in the order of the node's outputs, `None`
    where a value was not recorded or no gradient arrived. `saved` is what torch kept for the backward pass. A small
    custom Function has `jacobians`: for each of its edges, (elements of its first output, elements of the input), as
    its own backward gives them. A node for a write into a view has no operator of its own, but a `part`.
    """

    index: int
    name: str
    operator: str | None
    arguments: Mapping[str, Any]
    outputs: tuple[Tensor | None, ...]
    edges: tuple[Edge, ...]
    cotangents: tuple[Tensor | None, ...]
    saved: Mapping[str, Any]
    source: Source | None = None
    module: str = ""
    leaf: str | None = None
    jacobians: Mapping[int, Tensor] = field(default_factory=dict)
    part: Slice | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all numbers of the operator were recorded; those of a live tensor may not have been saved."""
        known = all(not getattr(value, "is_meta", False) for value in self.arguments.values())
        return known and all(output is not None for output in self.outputs)


def is_custom(node: Node) -> bool:
    """Says whether a node is that of a Function written in Python; torch numbers its own nodes, or has `::` in them."""
    return node.operator is None and node.leaf is None and not node.name[-1:].isdigit() and "::" not in node.name


@dataclass(frozen=True)
class Cut:
    """A place where a value went on without its gradient.

    `reason` is detach, no_grad, backward (a backward pass that records no graph), integer, number, function (a custom
    one gives on what it made without a gradient) or padding.

    `consumer` is the index of the node that used the value as a constant.
    """

    reason: str
    operator: str
    source: Source | None
    module: str
    consumer: int | None = None


@dataclass(frozen=True)
class Dropped:
    """An output that depends on an input and carries no gradient, and where it lost it."""

    name: str
    cut: Cut


@dataclass(frozen=True)
class Draw:
    """A place where random numbers were drawn."""

    operator: str
    source: Source | None
    module: str


@dataclass(frozen=True)
class Hooked:
    """A hook on a leaf of the user's that changed its gradient."""

    leaf: str
    hook: str
    source: Source | None


@dataclass(frozen=True)
class Edited:
    """A node of a live tensor whose kept values do not belong together.

    At one place of its output, the number that is `kept` and the one that is `made` of the inputs that are kept.
    """

    node: int
    place: tuple[int, ...]
    kept: Any
    made: Any


Cause = Literal["watching", "function", "backward", "draws"]


@dataclass(frozen=True)
class Apart:
    """Where a gradient of the plain run and that of another run differ: the worst element, and both numbers.

    The `cause` is "watching" where a second plain run gave what the first one did, and `other` is then of the watched
    run; else of the second plain run, in which the "function" gave another value, or its "backward" another gradient of
    the same one. It is "draws" where the backward pass draws random numbers, and with others of them the same value has
    another gradient. A `slight` difference is one of last digits.
    """

    place: tuple[int, ...]
    plain: Any
    other: Any
    cause: Cause
    slight: bool

    @property
    def astray(self) -> bool:
        """Whether the steps that were watched say nothing about the gradient of the plain run."""
        return self.cause in ("watching", "function") and not self.slight


@dataclass(frozen=True)
class Trace:
    """One forward and one backward pass: `nodes` with every producer before its consumers.

    `output` is (node, output number). `gradients` has one entry per differentiable input; `None` means that the
    output does not depend on it. `order` lists the nodes as the backward pass visited them; `outputs` counts the
    tensors that the function returned, and `dropped` has those that the inputs lead to and no gradient leads back from.

    If it is `plain`, then `value` and `gradients` are those of one plain run, which nobody watched; `apart` has the
    inputs for which the watched run gave another gradient, `hooked` the hooks on leaves that changed one, `inlined` the
    places of the checkpoints whose inside was run in line to be seen. What arrives at the inputs in `hidden` comes, at
    least in part, from a backward pass inside that of a custom Function, which no edge shows. `unregistered` are the
    modules that another one holds in a plain list. `drawn_again` is the first node whose backward draws random numbers.
    `unwatched` is how the function failed when it was watched: then the whole of it is one step. `lost` says why no
    gradient leads back at all: then there is no step. `edited` are the nodes of a live tensor whose kept values were
    written into since, behind torch's back.
    """

    nodes: tuple[Node, ...]
    output: tuple[int, int]
    value: Tensor
    cotangent: Tensor
    inputs: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None]
    order: tuple[int, ...]
    cuts: tuple[Cut, ...] = ()
    draws: tuple[Draw, ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    live: bool = False
    outputs: int = 1
    dropped: tuple[Dropped, ...] = ()
    plain: bool = False
    apart: Mapping[str, Apart] = field(default_factory=dict)
    hooked: tuple[Hooked, ...] = ()
    inlined: tuple[Source | None, ...] = ()
    hidden: frozenset[str] = frozenset()
    drawn_again: Draw | None = None
    unregistered: tuple[str, ...] = ()
    unwatched: str | None = None
    lost: NoGradientError | None = None
    edited: tuple[Edited, ...] = ()

    def unfollowed(self, name: str) -> str | None:
        """Returns why the steps do not lead to the gradient of an input, `None` where they do."""
        if name in self.hidden:
            return "hidden"
        return "watched" if name in self.apart and self.apart[name].astray else None

    def consumers(self) -> Mapping[int, Sequence[tuple[int, int]]]:
        """Returns, for each node, the (consumer, edge number) pairs that use one of its outputs."""
        found: dict[int, list[tuple[int, int]]] = {}
        for node in self.nodes:
            for number, edge in enumerate(node.edges):
                found.setdefault(edge.producer, []).append((node.index, number))
        return found
