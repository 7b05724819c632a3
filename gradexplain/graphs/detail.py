"""The picture of a recorded forward and backward pass: with values, gradients, local derivatives and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from gradexplain.explanation.explanation import Explanation
from gradexplain.graphs.graph import CutAt, Edge, Facts, Graph, Kind, Node, Note, Numbers, Output, Passed, Saved
from gradexplain.recording.summaries import TensorSummary
from gradexplain.recording.trace import Cut, Trace
from gradexplain.recording.trace import Node as Recorded
from gradexplain.targets.sources import Source


@dataclass(frozen=True)
class Subject:
    """A trace of which a picture is made, with what is known beside it.

    `outputs` are the names of the function's outputs. Where they are several, the trace goes on to one vector of all of
    them, by its last `joining` nodes, which are not drawn. `hooks` counts hooks by node.
    """

    trace: Trace
    outputs: Sequence[str]
    joining: int = 0
    parameters: frozenset[str] = frozenset()
    hooks: Mapping[int, int] = field(default_factory=dict)

    @property
    def nodes(self) -> Sequence[Recorded]:
        """The nodes that are drawn."""
        return self.trace.nodes[: len(self.trace.nodes) - self.joining]

    def ends(self, name: str) -> Iterator[Output]:
        """Yields where each output comes from; `name` is that of a single one."""
        if not self.joining:
            yield Output(*self.trace.output, name)
            return
        for name, edge in zip(self.outputs, self.trace.nodes[-1].edges, strict=True):
            while edge.producer >= len(self.nodes):
                (edge,) = self.trace.nodes[edge.producer].edges
            yield Output(edge.producer, edge.output, name)


def detailed(subject: Subject, explanation: Explanation, asked: frozenset[str]) -> Graph:
    """Returns the picture of a trace: its nodes and edges are those of torch's graph, numbers are on them as asked."""
    maker = _Maker(subject, explanation, asked)
    places = {number: number for number in range(len(subject.nodes))}
    outputs = tuple(subject.ends(explanation.output_name))
    return Graph(
        title=explanation.target,
        view="backward",
        nodes=tuple(maker.node(node) for node in subject.nodes),
        edges=tuple(maker.edge(node, slot) for node in subject.nodes for slot in range(len(node.edges))),
        outputs=outputs,
        torch=explanation.torch,
        cuts=tuple(cut for c in subject.trace.cuts if (cut := placed(c, places)) is not None),
        notes=(Note("summed", {"count": len(outputs)}),) if len(outputs) > 1 else (),
    )


def placed(cut: Cut, place: Mapping[int, int]) -> CutAt | None:
    """Returns a cut at the picture's node that used its value, `None` where that node is not in the picture."""
    consumer = None if cut.consumer is None else place.get(cut.consumer)
    return None if consumer is None else CutAt(consumer, cut.reason, cut.operator, cut.source)


class _Maker:
    def __init__(self, subject: Subject, explanation: Explanation, asked: frozenset[str]) -> None:
        self.subject, self.asked = subject, asked
        self.names = explanation.names
        self.rules = {(s.index, c.argument): c.rule for s in explanation.steps for c in s.contributions if c.rule}
        self.wrong = _wrong(explanation)
        self.source: Source | None = None

    def node(self, node: Recorded) -> Node:
        known = next((t for t in node.outputs if t is not None), None)
        shapes = tuple(tuple(t.shape) if t is not None else () for t in node.outputs)
        dtype = "" if known is None else str(known.dtype).removeprefix("torch.")
        label = self.names.get(node.index, "")
        if node.leaf is not None:
            leaf: Kind = "parameter" if node.leaf in self.subject.parameters else "input"
            return Node(node.leaf, leaf, shapes, dtype, "", facts=self.facts(node))
        self.source = node.source or self.source
        kind: Kind = "operation" if node.name.startswith("torch::") or node.name[-1:].isdigit() else "function"
        operator = node.operator or ""
        return Node(node.name, kind, shapes, dtype, label, operator, self.source, node.module, -1, self.facts(node))

    def facts(self, node: Recorded) -> Facts:
        arriving = next((t for t in node.cotangents if t is not None), None)
        value = next((t for t in node.outputs if t is not None), None)
        return Facts(
            value=numbers(value) if "values" in self.asked else None,
            gradient=numbers(arriving) if self.asked & {"gradients", "norms"} else None,
            saved=self.saved(node) if self.asked & {"saved", "bytes"} else None,
            verdict=self.verdict(node) if "verdicts" in self.asked else "",
            hooks=self.subject.hooks.get(node.index, 0),
        )

    def saved(self, node: Recorded) -> tuple[Saved, ...]:
        return tuple(
            Saved(name, tuple(t.shape), str(t.dtype).removeprefix("torch."), t.numel() * t.element_size())
            for name, t in node.saved.items()
            if isinstance(t, Tensor)
        )

    def verdict(self, node: Recorded) -> str:
        if node.index in self.wrong or node.leaf in self.wrong:
            return "differs"
        return ""

    def edge(self, node: Recorded, slot: int) -> Edge:
        edge = node.edges[slot]
        contribution = numbers(edge.contribution) if self.asked & {"gradients", "norms"} else None
        derivative = self.rules.get((node.index, edge.argument), "") if "derivatives" in self.asked else ""
        passed = Passed(contribution, derivative or "") if contribution or derivative else None
        return Edge(edge.producer, edge.output, node.index, slot, edge.argument, passed)


def _wrong(explanation: Explanation) -> set[object]:
    """Returns the inputs whose gradient differs, and the first node that sent something else than its rule."""
    found: set[object] = {n for n in explanation.report.inputs if explanation.report.of(n) == "differs"}
    found |= {c.data["node"] for c in explanation.report.checks if c.verdict == "differs" and "node" in c.data}
    return found


def numbers(tensor: Tensor | None) -> Numbers | None:
    """Returns what is shown of a tensor."""
    if tensor is None or tensor.is_meta:
        return None
    value = TensorSummary(tensor)
    low, high = value.range or (None, None)
    elements = value.elements if value.small else None
    norm = value.norm if math.isfinite(value.norm) else None
    return Numbers(value.shape, value.dtype, elements, norm, low, high, value.nans, value.infinities)
