"""The picture as JSON: every node and every edge, as many as torch has.

`nodes` is a list of `{id, name, kind, shapes, dtype}`, and where they are known `label`, `operator`, `module`,
`sequence` (torch's number), `source: {file, line, code}`, `value`, `gradient`, `saved`, `verdict`, `hooks`, `fold` and
`weights`. `edges` is a list of `{producer, output, consumer, slot}`: result `output` of one node is input `slot` of
another, and where they are known `argument`, `derivative` and `contribution`. `outputs` is a list of
`{node, output, name}`, `cuts` of `{consumer, reason, operator, source}`, `groups` of `{title, times, members, inside}`;
`again` holds the edges by which a folded block feeds the next. A number that is not finite is a text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from json import dumps
from typing import Any

from gradexplain.graphs.graph import CutAt, Edge, Facts, Graph, Group, Node, Output
from gradexplain.targets.sources import Source

_SEPARATORS = (",", ":")


def json(picture: Graph) -> str:
    """Returns the picture as JSON, one node and one edge a line."""
    nodes, edges = picture.size
    head = {"title": picture.title, "view": picture.view, "torch": picture.torch, "whole": [nodes, edges]}
    lists: dict[str, Iterator[Mapping[str, Any]]] = {
        "nodes": (_node(i, n) for i, n in enumerate(picture.nodes)),
        "edges": map(_edge, picture.edges),
        "again": map(_edge, picture.again),
        "outputs": map(_output, picture.outputs),
        "cuts": map(_cut, picture.cuts),
        "groups": map(_group, picture.groups),
        "notes": ({"key": n.key, **n.data} for n in picture.notes),
    }
    parts = [dumps(head, separators=_SEPARATORS)[1:-1]]
    parts += [f'"{name}":[\n' + ",\n".join(map(_line, items)) + "]" for name, items in lists.items()]
    return "{" + ",\n".join(parts) + "}\n"


def _line(item: Mapping[str, Any]) -> str:
    return dumps(item, separators=_SEPARATORS)


def _node(number: int, node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {"id": number, "name": node.name, "kind": node.kind}
    found |= {"shapes": node.shapes, "dtype": node.dtype}
    if node.sequence >= 0:
        found["sequence"] = node.sequence
    for key, text in (("label", node.label), ("operator", node.operator), ("module", node.module)):
        if text:
            found[key] = text
    if node.source is not None:
        found["source"] = _source(node.source)
    if node.facts is not None:
        found |= _facts(node.facts)
    return found


def _source(source: Source | None) -> dict[str, Any] | None:
    return None if source is None else {"file": source.file, "line": source.line, "code": source.code}


def _facts(facts: Facts) -> dict[str, Any]:
    return {name: plain(_data(value)) for name, value in vars(facts).items() if value not in (None, "", (), 0)}


def _data(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_data(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {k: v for k, v in asdict(value).items() if v is not None}
    return value


def _edge(edge: Edge) -> dict[str, Any]:
    found: dict[str, Any] = {"producer": edge.producer, "output": edge.output}
    found |= {"consumer": edge.consumer, "slot": edge.slot}
    if edge.argument:
        found["argument"] = edge.argument
    if edge.passed is not None and edge.passed.derivative:
        found["derivative"] = edge.passed.derivative
    if edge.passed is not None and edge.passed.contribution is not None:
        found["contribution"] = plain(_data(edge.passed.contribution))
    return found


def _output(output: Output) -> dict[str, Any]:
    return output._asdict()


def _cut(cut: CutAt) -> dict[str, Any]:
    return {**cut._asdict(), "source": _source(cut.source)}


def _group(group: Group) -> dict[str, Any]:
    return {**asdict(group), "members": sorted(group.members)}


def plain(value: Any) -> Any:
    """Returns plain data: nan and infinities, which JSON lacks, as text, and complex numbers as pairs."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
