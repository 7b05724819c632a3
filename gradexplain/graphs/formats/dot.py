"""DOT, for Graphviz: a label is always a quoted string, in which a quote, a backslash and an ampersand are escaped."""

from __future__ import annotations

from collections.abc import Iterator

from gradexplain.graphs.colours import INKS, PAPER, shade
from gradexplain.graphs.graph import Graph
from gradexplain.graphs.words import Words


def dot(picture: Graph, words: Words) -> str:
    """Returns the picture as DOT."""
    return "\n".join(_lines(picture, words)) + "\n"


def _lines(picture: Graph, words: Words) -> Iterator[str]:
    yield "digraph {"
    yield f"label={quoted(words.heading())};"
    yield 'node [shape=box,style="rounded,filled",fontname="monospace",fontsize=10];'
    yield f'edge [color="{INKS["line"][0]}",fontname="monospace",fontsize=9];'
    for number in range(len(picture.nodes)):
        yield _node(picture, number, words)
    for edge in picture.edges:
        label = "\n".join(words.edge(edge))
        yield f"n{edge.producer}->n{edge.consumer}" + (f" [label={quoted(label)}];" if label else ";")
    for edge in picture.again:
        yield f"n{edge.producer}->n{edge.consumer} [style=dashed,constraint=false];"
    for k, cut in enumerate(picture.cuts):
        yield f"c{k} [label={quoted(words.cut(cut).text)},style=dotted];\nc{k}->n{cut.consumer} [style=dotted];"
    yield from _clusters(picture, words)
    yield "}"


def _node(picture: Graph, number: int, words: Words) -> str:
    node = picture.nodes[number]
    fill, border = PAPER[shade(node)]
    style = ",style=dashed" if node.kind == "outside" else ""
    return f'n{number} [label={quoted(words.caption(number).text)},fillcolor="{fill}",color="{border}"{style}];'


def _clusters(picture: Graph, words: Words) -> Iterator[str]:
    """Yields the frames, each inside the one around it."""
    below: dict[int | None, list[int]] = {}
    for k, group in enumerate(picture.groups):
        below.setdefault(group.inside, []).append(k)
    waiting: list[int | str] = list(reversed(below.get(None, [])))
    while waiting:
        next_one = waiting.pop()
        if isinstance(next_one, str):
            yield next_one
            continue
        k = next_one
        group = picture.groups[k]
        yield f"subgraph cluster_{k} {{ label={quoted(words.group(group))}; style=dashed; labeljust=l;"
        yield " ".join(f"n{member};" for member in sorted(group.members))
        waiting += ["}", *reversed(below.get(k, []))]


def quoted(text: str) -> str:
    """Returns a quoted string of DOT; Graphviz would read &lt; as <, hence & is escaped too."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;").replace("\n", "\\n")
    return f'"{escaped}"'
