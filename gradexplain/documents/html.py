"""The document as HTML: a page of its own, or a part of a notebook that takes the notebook's colours and letters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

from gradexplain.documents import doc
from gradexplain.documents.diagram import sketched
from gradexplain.documents.doc import Block, Doc
from gradexplain.documents.plot import plotted

# A section of a notebook's cell with more entries than this is folded.
_MOST_OPEN = 6
# Where a viewer drops the frame, nothing stands before the text, which stays. A frame has the scheme of its notebook.
FRAME = (
    ".gx-live{display:block;width:100%;height:min(85vh,56rem);min-height:30rem;border:0}.gx-live+.gx{display:none}"
    "[data-jp-theme-light=false] .gx-live,.vscode-dark .gx-live{color-scheme:dark}"
)
# A cell of a table with more letters than this is given room.
_LONG = 30
_IN_SCRIPT = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
STYLE, PLOT_STYLE, PLOT_SCRIPT = (
    (Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("page.css", "plot.css", "plot.js")
)


def html(document: Doc, width: int) -> str:
    """Returns the document as one file that asks for no other but its pictures; `width` bounds nothing here."""
    head = (
        "<meta charset='utf-8'>\n<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(titled(document))}</title>\n<style>{STYLE}</style>"
    )
    body = sections(document)
    return (
        f"<!doctype html>\n<html lang='{document.language}'>\n<head>\n{head}\n</head>\n<body class='gx gx-page'>\n"
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def titled(document: Doc) -> str:
    """Returns what a page of the document is called."""
    return next((f"{b.name}: {b.lines[0]}" for b in document.blocks if isinstance(b, doc.Title)), "gradexplain")


def sections(document: Doc) -> str:
    """Returns the document as the body of a page, every section open."""
    return "\n".join(_sections(document, folds=False))


def in_script(data: object) -> str:
    """Returns data as JSON that a script element can hold, whatever the texts in it."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_IN_SCRIPT)


def fragment(document: Doc) -> str:
    """Returns the document as a part of another page, long sections folded."""
    body = "\n".join(_sections(document, folds=True))
    return f"<div class='gx' lang='{document.language}'>\n<style>{STYLE}</style>\n{body}\n</div>\n"


def framed(page: str, document: Doc) -> str:
    """Returns a page in a frame that can touch nothing around it, before the text for viewers that drop frames."""
    inside, title = escape(page), escape(titled(document))
    frame = f"<iframe class='gx-live' sandbox='allow-scripts allow-forms' title='{title}' srcdoc='{inside}'></iframe>"
    return f"<style>{FRAME}</style>\n{frame}{fragment(document)}"


def _sections(document: Doc, *, folds: bool) -> Iterator[str]:
    """Yields the blocks, those below each heading in a section of their own."""
    head: doc.Heading | None = None
    below: list[Block] = []
    for block in (*document.blocks, doc.Heading("")):
        if isinstance(block, doc.Heading):
            yield from _section(head, below, folds=folds)
            head, below = block, []
        else:
            below.append(block)


def _section(head: doc.Heading | None, blocks: list[Block], *, folds: bool) -> Iterator[str]:
    inside = "\n".join(line for block in blocks for line in _block(block))
    if head is None or not head.text:
        if inside:
            yield inside
    elif folds:
        is_long = sum(isinstance(block, doc.Entry) for block in blocks) > _MOST_OPEN
        opened = "" if is_long else " open"
        yield f"<details{opened}><summary><h2>{prose(head.text)}</h2></summary>\n{inside}\n</details>"
    else:
        yield f"<section>\n<h2>{prose(head.text)}</h2>\n{inside}\n</section>"


def _block(block: Block) -> Iterator[str]:
    match block:
        case doc.Title(name, lines):
            named = name.split(" ")[0] == "gradexplain"  # a result is called by what was asked, a text by its title
            kind, title, rest = (name, lines[0], lines[1:]) if named else (lines[0], name, lines[1:])
            below = "".join(f"<p>{prose(line)}</p>" for line in rest)
            yield f"<header><p class='kind'>{prose(kind)}</p><h1>{prose(title)}</h1>{below}</header>"
        case doc.Paragraph(content, tone):
            yield f"<p class='{tone}'>{prose(content)}</p>"
        case doc.Entry():
            yield from _entry(block)
        case doc.Table():
            yield from _table(block)
        case doc.Diagram():
            yield f"<div class='wide' tabindex='0'>{sketched(block)}</div>"
        case doc.Plot():
            yield f"<figure class='wide'>{plotted(block)}</figure>"
        case doc.Listing(content, kind):
            yield f"<pre class='{kind}'>{escape(content)}</pre>"
        case doc.Image(caption, file, command):
            source = file if file.startswith("data:") else quote(file)
            shown = f"<img src='{source}' alt='{escape(caption)}'>" if file else f"<code>{escape(command)}</code>"
            yield f"<figure>{shown}<figcaption>{prose(caption)}</figcaption></figure>"
        case doc.Link(remark=remark):
            yield f"<p class='link'>{_link(block)}{' ' if remark else ''}{prose(remark)}</p>"
        case doc.Notes(items):
            yield f"<ul class='notes'>{_items(items)}</ul>"


def _entry(entry: doc.Entry) -> Iterator[str]:
    detail = f"<span class='place'>{escape(entry.detail)}</span>" if entry.detail else ""
    yield "<article>"
    yield f"<h3><span class='label'>{escape(entry.label)}</span> <code>{escape(entry.head)}</code> {detail}</h3>"
    yield "<dl>"
    for row in entry.rows:
        said = f"<ul class='equations'>{_equations(row.equations)}</ul>" if row.equations else prose(row.text)
        yield f"<dt>{escape(row.key)}</dt><dd>{said}</dd>"
    yield "</dl>\n</article>"


def _equations(equations: Iterable[str]) -> str:
    return "".join(f"<li><code>{escape(equation)}</code></li>" for equation in equations)


def _items(items: Iterable[str]) -> str:
    return "".join(f"<li>{prose(item)}</li>" for item in items)


def _table(table: doc.Table) -> Iterator[str]:
    yield "<div class='wide' tabindex='0'><table>"
    titles = (f"<th>{prose(title)}</th>" if title else "<td></td>" for title in table.header)
    yield f"<thead><tr>{''.join(titles)}</tr></thead>\n<tbody>"
    for i, row in enumerate(table.rows):
        tone = f" class='{table.tones[i]}'" if i < len(table.tones) else ""
        cells = "".join(f"<td{_room(c)}>{_link(c) if isinstance(c, doc.Link) else prose(c)}</td>" for c in row)
        yield f"<tr{tone}>{cells}</tr>"
    yield "</tbody></table></div>"


def _room(cell: str | doc.Link) -> str:
    """Returns the class of a cell that a narrow page must not squeeze into a column of single words."""
    return " class='long'" if isinstance(cell, str) and len(cell) > _LONG else ""


def _link(link: doc.Link) -> str:
    return f"<a href='{quote(link.file)}'>{escape(link.text)}</a>"


def prose(text: str) -> str:
    """Returns running text with its code spans; every character is escaped, a line break stays one."""
    parts = re.split(r"(?<!`)`([^`\n]+)`(?!`)", text)
    marked = (f"<code>{escape(p)}</code>" if k % 2 else escape(p).replace("\n", "<br>") for k, p in enumerate(parts))
    return "".join(marked)
