"""The graph that an explanation is about, as the drawing formats take it."""

from __future__ import annotations

from collections.abc import Mapping

from gradexplain.explanation.explanation import Contribution, Explanation, Step
from gradexplain.graphs.detail import numbers, placed
from gradexplain.graphs.graph import Edge, Facts, Graph, Kind, Node, Passed
from gradexplain.graphs.options import USUAL
from gradexplain.recording.summaries import TensorSummary


def graph_of(e: Explanation) -> Graph:
    """Returns the graph of an explanation's steps, each node at its index, with values and gradients on it."""
    steps = {step.index: step for step in e.steps}
    arrived = {c.producer: c.value for step in e.steps for c in step.contributions if c.value is not None}
    nodes = [
        _operation(steps[index]) if index in steps else _leaf(e, name, arrived.get(index))
        for index, name in sorted(e.names.items())
    ]
    edges = [_edge(c, step.index, slot) for step in e.steps for slot, c in enumerate(step.contributions)]
    places = {index: index for index in e.names}
    return Graph(
        title=e.target,
        view="forward",
        nodes=tuple(nodes),
        edges=tuple(edges),
        outputs=(),
        torch=e.torch,
        shown=frozenset({*USUAL, "values", "gradients"}),
        cuts=tuple(cut for c in e.cuts if (cut := placed(c, places)) is not None),
    )


def _operation(step: Step) -> Node:
    kind: Kind = "operation" if step.node.startswith("torch::") or step.node[-1:].isdigit() else "function"
    shape, dtype = ((step.forward.shape,), step.forward.dtype) if step.forward is not None else ((), "")
    facts = _facts(step.forward, step.cotangent)
    return Node(step.node, kind, shape, dtype, step.name, step.operator or "", step.source, step.module, -1, facts)


def _leaf(e: Explanation, name: str, arrived: TensorSummary | None) -> Node:
    gradients: Mapping[str, TensorSummary | None] = {g.name: g.value for g in e.by_input}
    value = e.inputs.get(name)
    known = value or arrived
    shape, dtype = ((known.shape,), known.dtype) if known is not None else ((), "")
    kind: Kind = "parameter" if name in e.parameters else "input"
    return Node(name, kind, shape, dtype, facts=_facts(value, gradients.get(name)))


def _facts(value: TensorSummary | None, gradient: TensorSummary | None) -> Facts:
    return Facts(
        value=None if value is None else numbers(value.tensor),
        gradient=None if gradient is None else numbers(gradient.tensor),
    )


def _edge(sent: Contribution, consumer: int, slot: int) -> Edge:
    passed = None if sent.value is None else Passed(numbers(sent.value.tensor))
    return Edge(sent.producer, sent.output, consumer, slot, sent.argument, passed)
