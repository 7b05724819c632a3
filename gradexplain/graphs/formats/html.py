"""HTML: one file that needs no network. Every fold opens in its place.

Each level is laid out here, levels of one form once; the page itself only moves boxes apart where a fold opens. What
stands on boxes and lines is kept as numbers into one list of texts, as most of it is there many times.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradexplain.documents.doc import Doc, Listing, Title
from gradexplain.documents.html import STYLE as PAGE
from gradexplain.documents.html import in_script, sections, titled
from gradexplain.graphs.engine import HEAD, LINE, PAD, TEXT, text_width
from gradexplain.graphs.formats.svg import STYLE, kind_of, line_of
from gradexplain.graphs.graph import Edge, Graph
from gradexplain.graphs.layout import widths
from gradexplain.graphs.nesting import Level, nested
from gradexplain.graphs.sheets import Sheet, spread
from gradexplain.graphs.words import Words
from gradexplain.locale.catalogue import table

if TYPE_CHECKING:
    from jinja2 import Template

_FOLDER = Path(__file__).parent


def html(picture: Graph, words: Words, text: str) -> str:
    """Returns the picture as one interactive HTML file, with its text below."""
    heading, _, below = text.partition("\n")
    title = Doc((Title("gradexplain", (heading,)),), words.language)
    listing = Doc((Listing(below.strip("\n"), "output"),), words.language)
    return board(drawn(picture, words.language), title, sections(listing))


def board(
    data: Mapping[str, Any], head: Doc, text: str, template: Path | None = None, *, style: str = "", **more: object
) -> str:
    """Returns a page: a graph to be touched, between head and text; a `template` may put steps beside it."""
    return template_of(template or _FOLDER / "page.html").render(
        language=head.language,
        title=titled(head),
        style=PAGE + STYLE + _own("stage.css") + style,
        drawing=_own("viewer.js"),
        head=sections(head),
        text=text,
        words=table("page", head.language),
        data=in_script(data),
        **more,
    )


@cache
def template_of(file: Path) -> Template:
    """Returns a template, which may extend those of this folder, compiled."""
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader

    loader = ChoiceLoader([PrefixLoader({"board": FileSystemLoader(_FOLDER)}), FileSystemLoader(file.parent)])
    return Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(file.name)


def drawn(picture: Graph, language: str) -> dict[str, object]:
    """Returns what `drawGraph` of the viewer takes: every level laid out, and the notes on the whole."""
    page = _Page(language)
    levels = nested(picture)
    for level in levels:
        page.add(level)
    return {**page.data, "notes": list(Words(levels[0].picture, language).notes())}


def _own(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


class _Page:
    """Gathers what the page needs to know of every level."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.texts: dict[str, int] = {}
        self.sheets: dict[Sheet, int] = {}
        self.known: dict[Any, Sheet] = {}
        self.levels: list[dict[str, object]] = []

    def add(self, level: Level) -> None:
        """Adds the next level: its form, and what stands on its boxes and lines."""
        picture, words = level.picture, Words(level.picture, self.language)
        sheet, edges = spread(picture, words, level.entries, level.exits, self.known)
        width, place = widths(picture), {id(edge): k for k, edge in enumerate(picture.edges)}
        lines = [
            [
                *self.line(edge, strand.again, words),
                round(width(edge), 1),
                place.get(id(edge), -1),
                -1 if edge is None else edge.slot,
            ]
            for edge, strand in zip(edges, sheet.strands, strict=True)
        ]
        boxes = [self.box(p.node, level, words) for p in sheet.places]
        number = self.sheets.setdefault(sheet, len(self.sheets))
        self.levels.append({"sheet": number, "open": level.open, "boxes": boxes, "lines": lines})

    def box(self, node: int, level: Level, words: Words) -> list[object]:
        """Returns a box's classes, title, lines, details, the level that opens in its place, its edge as a port, and
        the nodes of the whole that stand in it alone."""
        if node in level.entries or node in level.exits:
            port = level.entries.get(node, level.exits.get(node))
            return ["in" if node in level.entries else "out", 0, [], 0, -1, port, []]
        caption = words.cut(level.picture.cuts[-1 - node]) if node < 0 else words.caption(node)
        kind = kind_of(node, level.picture, any(o.node == node for o in level.picture.outputs))
        texts = [self.text(caption.title), list(map(self.text, caption.lines)), self.text("\n".join(caption.details))]
        return [kind, *texts, level.inside.get(node, -1), -1, list(level.stands.get(node, ()))]

    def line(self, edge: Edge | None, again: bool, words: Words) -> list[object]:
        """Returns a line's class, its tooltip and its lines of text."""
        kind = line_of(edge, again, words.picture)
        if edge is None:
            return [kind, self.text(""), []]
        return [kind, self.text(words.edge_details(edge)), [] if again else list(map(self.text, words.edge(edge)))]

    def text(self, text: str) -> int:
        """Returns the number of a text."""
        return self.texts.setdefault(text, len(self.texts))

    @property
    def data(self) -> dict[str, object]:
        sheets = [_plain(sheet) for sheet in self.sheets]
        sizes = {"head": HEAD, "line": LINE, "pad": PAD, "letter": text_width("0", TEXT)}
        return {"texts": list(self.texts), "sheets": sheets, "levels": self.levels, "sizes": sizes}


def _plain(sheet: Sheet) -> dict[str, object]:
    return {
        "size": sheet.size,
        "rows": sheet.rows,
        "boxes": [[*place[1:], row] for place, row in zip(sheet.places, sheet.row, strict=True)],
        "lines": [[s.tail, s.head, s.turns, s.at, s.ends] for s in sheet.strands],
        "frames": sheet.frames,
    }
