"""DOT, for Graphviz: a label is always a quoted string, in which a quote, a backslash and an ampersand are escaped."""

from __future__ import annotations

from collections.abc import Iterator

from gradexplain.drawing.picture import Picture
from gradexplain.drawing.words import Caption, Words

# What a node of each kind is filled with and bordered by.
COLOURS = {
    "input": ("#dafbe1", "#2da44e"),
    "parameter": ("#ddf4ff", "#218bff"),
    "operation": ("#f6f8fa", "#8b949e"),
    "element": ("#f6f8fa", "#8b949e"),
    "function": ("#fbefff", "#a475f9"),
    "fold": ("#fff8c5", "#bf8700"),
    "gradient": ("#fff1e5", "#e16f24"),
    "outside": ("#ffffff", "#8b949e"),
    "bad": ("#ffebe9", "#cf222e"),
}


def dot(picture: Picture, words: Words) -> str:
    """Returns the picture as DOT."""
    return "\n".join(_lines(picture, words)) + "\n"


def _lines(picture: Picture, words: Words) -> Iterator[str]:
    yield "digraph {"
    yield f"label={quoted(words.heading())};"
    yield 'node [shape=box,style="rounded,filled",fontname="monospace",fontsize=10];'
    yield 'edge [color="#8b949e",fontname="monospace",fontsize=9];'
    for number in range(len(picture.nodes)):
        yield _node(picture, number, words)
    for edge in picture.edges:
        label = "\n".join(words.edge(edge))
        yield f"n{edge.producer}->n{edge.consumer}" + (f" [label={quoted(label)}];" if label else ";")
    for edge in picture.again:
        yield f"n{edge.producer}->n{edge.consumer} [style=dashed,constraint=false];"
    for k, cut in enumerate(picture.cuts):
        yield f"c{k} [label={quoted(_text(words.cut(cut)))},style=dotted];\nc{k}->n{cut.consumer} [style=dotted];"
    yield from _clusters(picture, words)
    yield "}"


def _node(picture: Picture, number: int, words: Words) -> str:
    node = picture.nodes[number]
    bad = node.facts is not None and node.facts.verdict == "differs"
    fill, border = COLOURS["bad" if bad else node.kind]
    style = ",style=dashed" if node.kind == "outside" else ""
    return f'n{number} [label={quoted(_text(words.caption(number)))},fillcolor="{fill}",color="{border}"{style}];'


def _text(caption: Caption) -> str:
    return "\n".join([caption.title, *caption.lines])


def _clusters(picture: Picture, words: Words) -> Iterator[str]:
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
