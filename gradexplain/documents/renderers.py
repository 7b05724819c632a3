"""Every way to draw a document: a format is one entry, a pure function of the document and a width in columns."""

from collections.abc import Callable, Mapping

from gradexplain.documents.console import terminal, text
from gradexplain.documents.doc import Doc
from gradexplain.documents.html import html
from gradexplain.documents.markdown import markdown

RENDERERS: Mapping[str, Callable[[Doc, int], str]] = {
    "terminal": terminal,
    "text": text,
    "markdown": markdown,
    "html": html,
}
