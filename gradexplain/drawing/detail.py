"""The picture of a recorded forward and backward pass: with values, gradients, local derivatives and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from gradexplain.drawing.picture import CutAt, Edge, Facts, Kind, Node, Numbers, Output, Passed, Picture, Saved
from gradexplain.explanation import Explanation
from gradexplain.summaries import Value
from gradexplain.traces import Cut, Source, Trace
from gradexplain.traces import Node as Recorded


def detailed(trace: Trace, explanation: Explanation, asked: frozenset[str], parameters: frozenset[str]) -> Picture:
    """Returns the picture of a trace: its nodes and edges are those of torch's graph, numbers are on them as asked."""
    maker = _Maker(trace, explanation, asked, parameters)
    nodes = tuple(maker.node(node) for node in trace.nodes)
    edges = tuple(maker.edge(node, slot) for node in trace.nodes for slot in range(len(node.edges)))
    places = {number: number for number in range(len(nodes))}
    return Picture(
        title=explanation.target,
        view="backward",
        nodes=nodes,
        edges=edges,
        outputs=(Output(*trace.output, explanation.output_name),),
        torch=explanation.torch,
        cuts=tuple(cut for c in trace.cuts if (cut := placed(c, places)) is not None),
    )


def placed(cut: Cut, place: Mapping[int, int]) -> CutAt | None:
    """Returns a cut at the picture's node that used its value, `None` where that node is not in the picture."""
    consumer = None if cut.consumer is None else place.get(cut.consumer)
    return None if consumer is None else CutAt(consumer, cut.reason, cut.operator, cut.source)


class _Maker:
    def __init__(self, trace: Trace, explanation: Explanation, asked: frozenset[str], parameters: frozenset[str]):
        self.trace, self.asked, self.parameters = trace, asked, parameters
        self.names = explanation.names
        self.rules = {(s.index, c.argument): c.rule for s in explanation.steps for c in s.contributions if c.rule}
        self.wrong = _wrong(explanation)
        self.judged = bool(explanation.report.checks)
        self.source: Source | None = None

    def node(self, node: Recorded) -> Node:
        known = next((t for t in node.outputs if t is not None), None)
        shapes = tuple(tuple(t.shape) if t is not None else () for t in node.outputs)
        dtype = "" if known is None else str(known.dtype).removeprefix("torch.")
        label = self.names.get(node.index, "")
        if node.leaf is not None:
            leaf: Kind = "parameter" if node.leaf in self.parameters else "input"
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
    value = Value(tensor)
    low, high = value.range or (None, None)
    elements = value.elements if value.small else None
    norm = value.norm if math.isfinite(value.norm) else None
    return Numbers(value.shape, value.dtype, elements, norm, low, high, value.nans, value.infinities)
