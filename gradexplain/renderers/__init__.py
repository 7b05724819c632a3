"""Every way to draw a document: a format is one entry, a pure function of the document and a width in columns."""

from collections.abc import Callable, Mapping

from gradexplain.doc import Doc
from gradexplain.renderers.console import html, terminal, text
from gradexplain.renderers.markdown import markdown

RENDERERS: Mapping[str, Callable[[Doc, int], str]] = {
    "terminal": terminal,
    "text": text,
    "markdown": markdown,
    "html": html,
}
