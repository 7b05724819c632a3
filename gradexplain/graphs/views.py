"""Views of one graph: torch's backward nodes, the forward operators, both joined, and the elements of small tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gradexplain.errors import InputError
from gradexplain.explanation.elements import can_take_apart, is_real, measured, pieces_of
from gradexplain.explanation.explanation import Explanation
from gradexplain.graphs.detail import numbers
from gradexplain.graphs.graph import Edge, Facts, Graph, Kind, Node, Numbers, Output, Passed
from gradexplain.mathematics.indices import Index, indices
from gradexplain.mathematics.terms import number_text
from gradexplain.recording.trace import Edge as Use
from gradexplain.recording.trace import Node as Recorded
from gradexplain.rules.registry import rule_of

# More elements than this are no picture.
MOST_ELEMENTS = 400
_KEEPS = "keeps"


def viewed(picture: Graph, view: str) -> Graph:
    """Returns the picture in another view: names are told by the view, `both` doubles every node."""
    return _joined(picture) if view == "both" else replace(picture, view=view)


def _joined(picture: Graph) -> Graph:
    """Returns forward operators and backward nodes in one picture: what is kept goes across, gradients go back."""
    count = len(picture.nodes)
    mirror = {i: 2 * count - 1 - i for i in range(count)}
    forward = [n._replace(facts=_part(n.facts, forward=True)) for n in picture.nodes]
    back = [n._replace(kind="gradient", facts=_part(n.facts, forward=False)) for n in reversed(picture.nodes)]
    values = [e._replace(passed=None) for e in picture.edges]
    across = [
        Edge(i, 0, mirror[i], -1, _KEEPS) for i, n in enumerate(picture.nodes) if n.kind in ("operation", "function")
    ]
    gradients = [
        Edge(mirror[e.consumer], e.slot, mirror[e.producer], e.output, e.argument, e.passed) for e in picture.edges
    ]
    edges = (*values, *across, *gradients)
    return replace(picture, view="both", nodes=(*forward, *back), edges=edges)


def _part(facts: Facts | None, *, forward: bool) -> Facts | None:
    if facts is None:
        return None
    return replace(facts, gradient=None) if forward else replace(facts, value=None)


# ------------------------------------------------------------------------------------------------------ elements


def elements_of(nodes: Sequence[Recorded], explanation: Explanation, title: str, tensors: Graph) -> Graph:
    """Returns the picture of single elements: one node an element, one edge a local derivative that is not
    structurally zero. `tensors` is the picture of the same nodes. Raises `InputError` where there are too many."""
    count = sum(t.numel() for n in nodes for t in n.outputs if t is not None)
    if count > MOST_ELEMENTS:
        raise InputError("too_many_elements", count=count, most=MOST_ELEMENTS)
    maker = _Elements(explanation.names)
    for node in nodes:
        maker.add(node)
    for node in nodes:
        for slot, use in enumerate(node.edges):
            maker.connect(node, slot, use)
    ends = [place for o in tensors.outputs for key, place in maker.at.items() if key[:2] == (o.node, o.output)]
    outputs = tuple(Output(place, 0, maker.nodes[place].name) for place in ends)
    edges = tuple(sorted(maker.edges, key=lambda e: (e.consumer, e.slot)))
    return Graph(
        title, "elements", tuple(maker.nodes), edges, outputs, explanation.torch, tensors=tensors, notes=tensors.notes
    )


@dataclass
class _Elements:
    """Gathers the elements of every value, and the local derivatives between them."""

    names: Mapping[int, str]
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    at: dict[tuple[int, int, Index], int] = field(default_factory=dict)

    def add(self, node: Recorded) -> None:
        name = node.leaf or self.names.get(node.index, node.name)
        for number, value in enumerate(node.outputs):
            if value is None or not is_real(value):
                raise InputError("no_elements", name=name)
            arriving = node.cotangents[number] if number < len(node.cotangents) else None
            own = f"{name}.{number}" if len(node.outputs) > 1 else name
            for index in indices(value.shape):
                self.at[node.index, number, index] = len(self.nodes)
                gradient = None if arriving is None else numbers(arriving[index])
                facts = Facts(value=numbers(value[index]), gradient=gradient, link=node.index)
                kind: Kind = "input" if node.leaf is not None else "element"
                self.nodes.append(
                    Node(_subscripted(own, index), kind, ((),), str(value.dtype)[6:], "", node.operator or "",
                         node.source, node.module, -1, facts)
                )  # fmt: skip

    def connect(self, node: Recorded, slot: int, use: Use) -> None:
        for producer, output, consumer, slope, sent in _slopes(node, slot, use):
            tail = self.at[use.producer, use.output, producer]
            head = self.at[node.index, output, consumer]
            passed = Passed(_one(sent), "" if slope is None else number_text(slope, 4))
            self.edges.append(Edge(tail, 0, head, slot, use.argument, passed))


def _subscripted(name: str, index: Index) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def _one(value: float | None) -> Numbers | None:
    return None if value is None else Numbers((), "", value, abs(value), value, value)


def _slopes(node: Recorded, slot: int, use: Use) -> Iterator[tuple[Index, int, Index, float | None, float | None]]:
    """Yields (input element, output number, output element, slope, what is sent) of one edge of a node."""
    rule = rule_of(node.operator)
    if use.contribution is None:
        return
    if rule is not None and can_take_apart(node, use, rule):
        for index in indices(use.contribution.shape):
            for output, element, cotangent, slope in pieces_of(node, use.argument, rule, index):
                yield index, output, element, slope, cotangent * slope
        return
    jacobian = node.jacobians.get(slot) if node.jacobians else measured(node, slot)
    value = node.outputs[0]
    if value is None:
        return
    for i, index in enumerate(indices(use.contribution.shape)):
        for j, element in enumerate(indices(value.shape)):
            own = None if jacobian is None else float(jacobian[j, i])
            if own != 0:
                yield index, 0, element, own, None
