"""The document on a console: colours in a terminal, the same characters as plain text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.containers import Lines
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from gradexplain.documents import doc
from gradexplain.documents.diagram import drawn
from gradexplain.documents.doc import Block, Doc, Tone
from gradexplain.documents.plot import tabled
from gradexplain.mathematics.equations import CONTINUATION

_STYLES: dict[Tone, str] = {"good": "green", "bad": "bold red", "unsure": "yellow", "plain": ""}
_MARGINS = {"code": "  │ ", "output": "  › ", "error": "  ✗ "}
_KEYS = 12  # columns of the keys of an entry
_LABELS = 5
_GAP = 4


# Between Chinese characters a line may break, but not before a mark that closes and not behind one that opens.
_CLOSING, _OPENING = "。，、；：？！）》」』”’…%", "（《「『“‘"
_PIECE = re.compile(
    rf"[{_OPENING}]*(?:[\u2e80-\u9fff\uff00-\uffef]|[^\s\u2e80-\u9fff\uff00-\uffef{_OPENING}{_CLOSING}]+)[{_CLOSING}]*\s*|\s+|\S"
)


class _Prose(Text):
    """A text whose lines may break between Chinese characters as well."""

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        if self.plain.isascii() or not any("\u2e80" <= c <= "\u9fff" for c in self.plain):
            return super().wrap(console, width, **options)
        lines = Lines()
        for line in self.split(allow_blank=True):
            for part in line.divide(_breaks(line.plain, width)):
                part.rstrip_end(width)
                lines.extend(Text.wrap(part, console, width, **options))  # a word that is too long is folded
        return lines


def _breaks(text: str, width: int) -> list[int]:
    """Returns where a line that holds Chinese is broken so that it fits into so many cells."""
    found, used = [], 0
    for piece in _PIECE.finditer(text):
        cells = cell_len(piece.group().rstrip())
        if used and used + cells > width:
            found.append(piece.start())
            used = 0
        used += cell_len(piece.group())
    return found


class Page:
    """A document as something that rich can print; it takes the width that the console gives."""

    def __init__(self, document: Doc) -> None:
        self.document = document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for block in self.document.blocks:
            yield from _block(block, options.max_width)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(40, options.max_width)


def terminal(document: Doc, width: int) -> str:
    """Returns the document with ANSI colours."""
    return _printed(document, width, color=True)


def text(document: Doc, width: int) -> str:
    """Returns the document as plain characters, without trailing blanks."""
    return "\n".join(line.rstrip() for line in _printed(document, width, color=False).splitlines()) + "\n"


def _printed(document: Doc, width: int, *, color: bool) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        color_system="standard" if color else None,
        force_terminal=color,
        legacy_windows=False,
        force_jupyter=False,
        _environ={},
    )
    console.print(Page(document))
    return out.getvalue()


def _block(block: Block, width: int) -> Iterator[RenderableType]:
    match block:
        case doc.Title(name, lines):
            yield Panel(_Prose("\n".join(lines)), title=Text(name), box=box.ROUNDED, width=width)
        case doc.Heading(content):
            yield Text("\n" + content, style="bold cyan")
        case doc.Paragraph(content, tone):
            yield _indented(_Prose(content, style=_STYLES[tone]))
        case doc.Entry():
            yield from _entry(block, width)
        case doc.Table():
            yield _table(block)
        case doc.Diagram():
            yield Text("\n".join("  " + line for line in drawn(block, width - 2)), no_wrap=True, overflow="ignore")
        case doc.Plot():
            yield _table(tabled(block, width))
        case doc.Listing(content, kind):
            style = {"code": "cyan", "output": "", "error": "red"}[kind]
            for line in content.splitlines():
                yield _hanging(_MARGINS[kind], Text(line, style=style))
        case doc.Image(caption, file, command):
            yield _hanging("  ▣ ", Text(f"{caption}\n{file or command}"))
        case doc.Link(remark=remark):
            yield _hanging("  → ", Text.assemble(_linked(block), f"  {remark}" if remark else ""))
        case doc.Notes(items):
            for item in items:
                yield _hanging("  • ", _Prose(item))


def _indented(content: Text) -> Grid:
    return _hanging("  ", content)


def _hanging(mark: str, content: Text) -> Grid:
    grid = Grid.grid(padding=0)
    grid.add_column(width=cell_len(mark), no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark), content)
    return grid


def _entry(entry: doc.Entry, width: int) -> Iterator[RenderableType]:
    head = Text(f" {entry.label:<{_LABELS - 1}}", style="bold")
    head.append(entry.head, style="bold")
    if entry.detail:
        gap = width - cell_len(head.plain) - cell_len(entry.detail)
        head.append(" " * gap if gap > 1 else "\n" + " " * _LABELS)
        head.append(entry.detail, style="dim")
    yield head
    for row in entry.rows:
        yield _row(row, width - _LABELS - _KEYS)


def _row(row: doc.Row, width: int) -> Grid:
    grid = Grid.grid(padding=0)
    grid.add_column(width=_LABELS)
    grid.add_column(width=_KEYS, no_wrap=True)
    grid.add_column(width=width, overflow="fold")
    content = Text("\n".join(flowed(row.equations, width))) if row.equations else _Prose(row.text)
    grid.add_row("", Text(row.key, style="dim"), content)
    return grid


def flowed(equations: Sequence[str], width: int) -> list[str]:
    """Sets equations side by side in aligned columns; one that is too long goes on under a mark."""
    if any(cell_len(e) > width for e in equations):
        return [line for e in equations for line in _broken(e, width)]
    cell = max(map(cell_len, equations)) + _GAP
    across = max(1, (width + _GAP) // cell)
    rows = [equations[i : i + across] for i in range(0, len(equations), across)]
    return ["".join(e + " " * (cell - cell_len(e)) for e in row).rstrip() for row in rows]


def _broken(equation: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in equation.split(" "):
        if line and cell_len(line) + 1 + cell_len(word) > width:
            lines.append(line)
            line = f"{CONTINUATION} {word}"
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _table(table: doc.Table) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for title in table.header:
        grid.add_column(Text(title), overflow="fold")
    for i, row in enumerate(table.rows):
        style = _STYLES[table.tones[i]] if i < len(table.tones) else ""
        grid.add_row(*(_linked(cell) if isinstance(cell, doc.Link) else Text(cell, style=style) for cell in row))
    return grid


def _linked(link: doc.Link) -> Text:
    return Text.assemble((link.text, f"link {quote(link.file)}"))
