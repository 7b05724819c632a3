"""The document as Markdown: tables, code spans for equations, a code block for diagrams."""

import re
from collections.abc import Iterator
from urllib.parse import quote

from gradexplain.documents import doc
from gradexplain.documents.diagram import drawn
from gradexplain.documents.doc import Block, Doc
from gradexplain.documents.plot import tabled


def markdown(document: Doc, width: int) -> str:
    """Returns the document as Markdown; `width` bounds diagrams alone."""
    return "\n".join(line for block in document.blocks for line in _block(block, width)).strip() + "\n"


def _block(block: Block, width: int) -> Iterator[str]:
    match block:
        case doc.Title(name, lines):
            yield f"# {_escaped(name)}"
            yield ""
            for line in lines:
                yield _code(line) + "  "
        case doc.Heading(content):
            yield ""
            yield f"## {_escaped(content)}"
            yield ""
        case doc.Paragraph(content):
            yield ""
            yield _prose(content)
        case doc.Entry():
            yield from _entry(block)
        case doc.Table(header, rows):
            yield ""
            yield "| " + " | ".join(map(_cell, header)) + " |"
            yield "|" + "---|" * len(header)
            for row in rows:
                yield "| " + " | ".join(map(_cell, row)) + " |"
        case doc.Diagram():
            yield from ("```text", *drawn(block, width), "```")
        case doc.Plot():
            yield from _block(tabled(block, width), width)
        case doc.Listing(content, kind):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", content)), default=0))
            yield from ("", fence + ("python" if kind == "code" else "text"), *content.splitlines(), fence)
        case doc.Image(caption, file, command):
            yield ""
            yield f"![{_escaped(caption)}]({quote(file)})" if file else f"{_escaped(caption)} {_code(command)}"
        case doc.Link(remark=remark):
            yield f"- {_link(block)}" + (f" {_prose(remark)}" if remark else "")
        case doc.Notes(items):
            for item in items:
                yield f"- {_prose(item)}"


def _entry(entry: doc.Entry) -> Iterator[str]:
    detail = f" — {_code(entry.detail)}" if entry.detail else ""
    yield f"- **{_escaped(entry.label)}** {_code(entry.head)}{detail}"
    for row in entry.rows:
        if row.equations:
            yield f"  - {_escaped(row.key)}"
            yield from (f"    - {_code(e)}" for e in row.equations)
        else:
            yield f"  - {_escaped(row.key)} {_code(row.text)}"


def _code(text: str) -> str:
    """Returns a code span that holds `text` whatever backquotes are in it."""
    text = re.sub(r"\s*\n\s*", " ", text)
    if not text:
        return ""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _cell(text: str | doc.Link) -> str:
    if isinstance(text, doc.Link):
        return _link(text)
    return re.sub(r"(?<!\\)\|", r"\\|", _prose(text)).replace("\n", " ")


def _link(link: doc.Link) -> str:
    return f"[{_escaped(link.text)}]({quote(link.file)})"


def _prose(text: str) -> str:
    """Returns running text: code spans stay what they are, all else is escaped."""
    parts = re.split(r"(?<!`)(`[^`\n]+`)(?!`)", text)
    return "".join(part if k % 2 else _escaped(part) for k, part in enumerate(parts))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)
