"""HTML: one file that needs no network. Every fold opens as a page of its own; equal folds share one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from json import dumps
from pathlib import Path

from gradexplain.drawing.folding import fold
from gradexplain.drawing.formats.svg import STYLE, body, escaped, number
from gradexplain.drawing.layout import laid_out
from gradexplain.drawing.parts import part
from gradexplain.drawing.picture import Node, Picture
from gradexplain.drawing.words import Words

# More pages than this make a file that is slow to open.
_MOST_PAGES = 200
# A part of so few nodes is shown whole.
_FEW = 60


@dataclass(frozen=True)
class _Page:
    """A part of the graph as it is shown: which folds of it open which pages, and from which page it is opened."""

    title: str
    picture: Picture
    parent: int | None
    opens: dict[int, int]


def html(picture: Picture, words: Words) -> str:
    """Returns the picture as one interactive HTML file."""
    pages = _pages(picture, words)
    data: list[dict[str, object]] = []
    templates: list[str] = []
    for k, page in enumerate(pages):
        own = Words(page.picture, words.language)
        drawing = laid_out(page.picture, own)
        size = f"{number(drawing.width)} {number(drawing.height)}"
        width, height = size.split()
        frame = f'<svg class="g" width="{width}" height="{height}" viewBox="0 0 {size}">'
        templates.append(f'<template id="page{k}">{frame}')
        templates += [*body(drawing, own), "</svg></template>"]
        nodes = [[i, "\n".join(drawing.captions[i].details)] for i in range(len(page.picture.nodes))]
        notes = list(drawing.notes)
        data.append({"title": page.title, "parent": page.parent, "opens": page.opens, "nodes": nodes, "notes": notes})
    return "\n".join(_file(words, templates, data)) + "\n"


def _file(words: Words, templates: list[str], data: list[dict[str, object]]) -> Iterator[str]:
    yield f'<!DOCTYPE html>\n<html lang="{words.language}"><head><meta charset="utf-8">'
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{escaped(words.heading())}</title>"
    yield f"<style>{STYLE}{_own('viewer.css')}</style></head>"
    yield '<body class="g"><header><nav id="trail"></nav>'
    yield f'<input id="search" type="search" placeholder="{escaped(words.say("search"))}"></header>'
    yield '<div id="stage"></div><aside><pre id="details"></pre><div id="hits"></div>'
    yield f'<p id="hint">{escaped(words.say("open_hint"))}</p></aside>'
    yield from templates
    safe = dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    yield f'<script id="pages" type="application/json">{safe}</script>'
    yield f"<script>{_own('viewer.js')}</script></body></html>"


def _own(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _pages(picture: Picture, words: Words) -> list[_Page]:
    """Returns the first page and those that its folds open, breadth first, each part of the graph once."""
    consumers = [edge.consumer for edge in picture.edges]
    top = fold(picture) if picture.whole is None else picture
    pages = [_Page(words.say("whole"), top, None, {})]
    known: dict[tuple[int, int], int] = {}
    for k, page in enumerate(pages):  # grows while it is walked
        for place, node in enumerate(page.picture.nodes):
            members = _members(node)
            if members is None or picture.whole is not None:
                continue
            if members not in known and len(pages) < _MOST_PAGES:
                known[members] = len(pages)
                start, stop = members
                own = picture.edges[bisect_left(consumers, start) : bisect_left(consumers, stop)]
                inside = part(picture, range(start, stop), edges=own, note=False)
                small = fold(inside) if stop - start > _FEW else inside
                pages.append(_Page(Words(page.picture, words.language).title(place), small, k, {}))
            if members in known:
                page.opens[place] = known[members]
    return pages


def _members(node: Node) -> tuple[int, int] | None:
    folded = node.facts.fold if node.facts is not None else None
    return folded.members if folded is not None and node.kind == "fold" else None
