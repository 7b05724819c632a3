"""An explanation as one HTML file: its text, and above it the graph, the steps and the numbers to be touched."""

from __future__ import annotations

from pathlib import Path

from gradexplain.documents import doc
from gradexplain.documents.doc import Doc
from gradexplain.documents.html import STYLE, html, in_script, sections, titled
from gradexplain.documents.shown import paged
from gradexplain.explanation.explanation import Explanation


@paged.register
def page(explanation: Explanation, document: Doc) -> str:
    """Returns the page of an explanation; one without steps is its text alone."""
    if not explanation.steps:
        return html(document, 100)
    from jinja2 import Environment, FileSystemLoader

    from gradexplain.graphs.formats.html import STAGE, VIEWER
    from gradexplain.graphs.formats.svg import STYLE as GRAPH
    from gradexplain.pages.data import data_of

    folder = Path(__file__).parent
    data = data_of(explanation, document.language)
    first = next((i for i, b in enumerate(document.blocks) if isinstance(b, doc.Heading)), len(document.blocks))
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True)
    return environment.get_template("page.html").render(
        language=document.language,
        title=titled(document),
        style=STYLE + GRAPH + STAGE + (folder / "page.css").read_text(encoding="utf-8"),
        script=VIEWER + (folder / "page.js").read_text(encoding="utf-8"),
        head=sections(Doc(document.blocks[:first], document.language)),
        text=sections(Doc(document.blocks[first:], document.language)),
        words=data["words"],
        last=len(data["moments"]) - 1,
        data=in_script(data),
    )
