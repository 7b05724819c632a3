"""An explanation as one HTML file: its text, and above it the graph, the steps and the numbers to be touched."""

from __future__ import annotations

from pathlib import Path

from gradexplain.documents import doc
from gradexplain.documents.doc import Doc
from gradexplain.documents.html import fragment, framed, html, sections
from gradexplain.documents.shown import celled, paged
from gradexplain.documents.visible import visible
from gradexplain.explanation.explanation import Explanation

_FOLDER = Path(__file__).parent
TEMPLATE = _FOLDER / "page.html"


@celled.register
def cell(explanation: Explanation, document: Doc) -> str:
    """Returns the page in a frame; one without steps is its text alone."""
    return framed(page(explanation, document), document) if explanation.steps else fragment(document)


@paged.register
def page(explanation: Explanation, document: Doc) -> str:
    """Returns the page of an explanation; one without steps is its text alone."""
    if not explanation.steps:
        return html(document, 100)
    from gradexplain.graphs.formats.html import board
    from gradexplain.pages.data import data_of

    data = visible(data_of(explanation, document.language))
    first = next((i for i, b in enumerate(document.blocks) if isinstance(b, doc.Heading)), len(document.blocks))
    return board(
        data,
        Doc(document.blocks[:first], document.language),
        sections(Doc(document.blocks[first:], document.language)),
        TEMPLATE,
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
        last=len(data["moments"]) - 1,
    )
