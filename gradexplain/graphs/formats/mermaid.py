"""Mermaid: a flowchart whose labels hold letters, digits and spaces, and entities for everything else."""

from __future__ import annotations

from collections.abc import Iterator

from gradexplain.graphs.colours import INKS, PAPER, shade
from gradexplain.graphs.graph import Graph
from gradexplain.graphs.words import Words


def mermaid(picture: Graph, words: Words) -> str:
    """Returns the picture as a Mermaid flowchart."""
    return "\n".join(_lines(picture, words)) + "\n"


def _lines(picture: Graph, words: Words) -> Iterator[str]:
    yield "flowchart TB"
    for number, node in enumerate(picture.nodes):
        yield f"n{number}[{quoted(words.caption(number).text)}]:::{shade(node)}"
    for edge in picture.edges:
        label = "\n".join(words.edge(edge))
        yield f"n{edge.producer} -->{_label(label)} n{edge.consumer}"
    for edge in picture.again:
        yield f"n{edge.producer} -.-> n{edge.consumer}"
    for k, cut in enumerate(picture.cuts):
        yield f"c{k}[{quoted(words.cut(cut).text)}]:::outside"
        yield f"c{k} -.-> n{cut.consumer}"
    yield from _subgraphs(picture, words)
    for kind, (fill, border) in PAPER.items():
        yield f"classDef {kind} fill:{fill},stroke:{border},color:{INKS['ink'][0]}"


def _label(text: str) -> str:
    return f"|{quoted(text)}|" if text else ""


def _subgraphs(picture: Graph, words: Words) -> Iterator[str]:
    """Yields each frame with the nodes that stand in no frame further inside, and the frames within by name."""
    for k, group in enumerate(picture.groups):
        inner = [(i, g) for i, g in enumerate(picture.groups) if g.inside == k]
        deeper = frozenset(m for _, g in inner for m in g.members)
        yield f"subgraph g{k}[{quoted(words.group(group) or ' ')}]"
        yield from (f"n{member}" for member in sorted(group.members - deeper))
        yield from (f"g{i}" for i, _ in inner)
        yield "end"


def quoted(text: str) -> str:
    """Returns a quoted label; whatever Mermaid could read as its own, as Markdown or as HTML is an entity."""
    return '"' + "<br/>".join("".join(map(_safe, line)) for line in text.split("\n")) + '"'


def _safe(character: str) -> str:
    return character if character.isalnum() or character == " " else f"#{ord(character)};"
