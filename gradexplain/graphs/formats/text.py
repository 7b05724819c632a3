"""Text: boxes from left to right where they fit the width, else an indented list, one node a line."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size

from gradexplain.documents.diagram import boxed
from gradexplain.documents.doc import Arrow, Box, Diagram
from gradexplain.graphs.graph import Graph
from gradexplain.graphs.words import Words

# Above this, boxes are a thicket.
_FEW = 12


def text(picture: Graph, words: Words, width: int) -> str:
    """Returns the picture in at most `width` columns."""
    lines = [words.heading(), "", *(_boxes(picture, words, width) or _list(picture, words)), ""]
    lines += [line for note in words.notes() for line in textwrap.wrap(note, width)]
    return "".join(f"{_cut(line, width)}\n" for line in lines)


def _cut(line: str, width: int) -> str:
    return line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + "…"


def _boxes(picture: Graph, words: Words, width: int) -> list[str] | None:
    """Returns a drawing, `None` where there are too many nodes or too few columns for one."""
    if len(picture.nodes) > _FEW or picture.groups or not picture.edges:
        return None
    captions = [words.caption(i) for i in range(len(picture.nodes))]
    boxes = [Box(str(i), (c.title, *c.lines), c.title) for i, c in enumerate(captions)]
    arrows = [Arrow(str(e.producer), str(e.consumer), " ".join(words.edge(e))) for e in picture.edges]
    for k, cut in enumerate(picture.cuts):
        caption = words.cut(cut)
        boxes.insert(0, Box(f"c{k}", (caption.title, *caption.lines), caption.title))
        arrows.append(Arrow(f"c{k}", str(cut.consumer), "✂"))
    lines = boxed(Diagram(tuple(boxes), tuple(arrows)))
    return lines if max(map(cell_len, lines), default=0) <= width else None


def _list(picture: Graph, words: Words) -> Iterator[str]:
    """Yields one line a node: its number, its name, what is known of it, and the numbers of what it uses."""
    used: dict[int, list[str]] = {}
    for edge in picture.edges:
        said = " ".join(words.edge(edge))
        used.setdefault(edge.consumer, []).append(f"{edge.producer}" + (f" ({said})" if said else ""))
    for edge in picture.again:
        used.setdefault(edge.consumer, []).append(f"↺ {edge.producer}")
    for cut in picture.cuts:
        used.setdefault(cut.consumer, []).append(f"✂ {words.cut(cut).title}")
    digits = len(str(len(picture.nodes)))
    for number in range(len(picture.nodes)):
        depth = 0
        for k, group in enumerate(picture.groups):
            if number in group.members:
                if number == min(group.members):
                    yield " " * (digits + 2 + 2 * depth) + f"┌ {words.group(picture.groups[k])}".rstrip()
                depth += 1
        caption = words.caption(number)
        inputs = f"  ← {', '.join(used[number])}" if number in used else ""
        bars = "│ " * depth
        about = f"  {' · '.join(caption.lines)}" if caption.lines else ""
        yield f"{number:>{digits}}  {bars}{caption.title}{inputs}{about}"
