"""How a result shows itself: one mixin, and the functions by which each kind of result is told.

The data stands below its words: `told`, `recorded`, `paged` and `celled` are registered for a class where its words are
known.
"""

from __future__ import annotations

import json
from functools import singledispatch
from pathlib import Path
from typing import Any

from gradexplain.documents.console import Page
from gradexplain.documents.doc import Doc
from gradexplain.documents.formats import FORMATS, format_of
from gradexplain.documents.html import fragment, html
from gradexplain.documents.renderers import RENDERERS
from gradexplain.documents.visible import visible
from gradexplain.errors import InputError
from gradexplain.locale.spelling import options_spelled


@singledispatch
def told(thing: Any, language: str, *, format: str, width: int) -> Doc:
    """Returns the document that tells a result in `language`, to be rendered in `format` at `width` columns."""
    raise AssertionError(f"nothing tells a {type(thing).__name__}")


@singledispatch
def recorded(thing: Any, *, full: bool) -> dict[str, Any]:
    """Returns a result as plain data for JSON; tensors are whole if they are small or `full`, else in a few numbers."""
    raise AssertionError(f"nothing records a {type(thing).__name__}")


@singledispatch
def paged(thing: Any, document: Doc) -> str:
    """Returns a result as one HTML file; `document` is what it tells in words, and all of it unless more is known."""
    return html(document, 100)


@singledispatch
def celled(thing: Any, document: Doc) -> str:
    """Returns a result as a part of a notebook; `document` is as in `paged`."""
    return fragment(document)


class Shown:
    """A result that renders, saves and represents itself."""

    def render(self, format: str = "terminal", *, language: str = "en", width: int = 100) -> str:
        """Returns the result as a page.

        `format` is `terminal`, `text`, `markdown`, `html` or `json`, `language` "en" or "zh" (JSON has its own words
        in English), `width` the columns of a page. Raises `InputError` for a format that does not exist, `ValueError`
        for a language that does not.

        >>> import torch, gradexplain as gx
        >>> page = gx.explain(lambda x: (x**2).sum(), [torch.tensor([3.0])]).render("markdown", width=80)
        """
        if format not in FORMATS:
            raise InputError("unknown_format", name=format, names=", ".join(FORMATS))
        if format == "json":
            return self.to_json() + "\n"
        document = self._told(language, format=format, width=width)
        return paged(self, document) if format == "html" else RENDERERS[format](document, width)

    def to_json(self, *, full: bool = False) -> str:
        """Returns the result as one JSON object; tensors are summarised unless they are small, or `full` is set."""
        with options_spelled(str):  # a record has the same words wherever it was made
            written = json.dumps(recorded(self, full=full), ensure_ascii=False, indent=2)
        return written.encode(errors="backslashreplace").decode()  # half a pair, as of a file's name, has no letters

    def save(self, path: str | Path, *, language: str = "en", width: int = 100) -> None:
        """Writes the result; the format follows the file's suffix (.txt, .md, .html, .json).

        Raises `InputError` for another suffix or where the folder cannot be written to; never leaves half a file.
        """
        path = Path(path)
        write(path, self.render(format_of(path), language=language, width=width))

    def _told(self, language: str, *, format: str, width: int) -> Doc:
        return visible(told(self, language, format=format, width=width))

    def __str__(self) -> str:
        return self.render("text")

    def _repr_html_(self) -> str:
        return celled(self, self._told("en", format="html", width=100))

    def __rich__(self) -> Any:
        return Page(self._told("en", format="terminal", width=100))


def is_replaced(path: Path) -> bool:
    """Says whether what is written to a path takes the place of what is there; a device or a pipe is written into."""
    return path.is_file() or not path.exists()


def write(path: Path, content: str | bytes) -> None:
    """Writes `content` to `path`, whole or not at all; raises `InputError` where that cannot be.

    What is no file, as a device or a pipe, is written into.
    """
    whole = is_replaced(path)
    part = path.with_name(path.name + ".part") if whole else path
    try:
        part.write_bytes(content if isinstance(content, bytes) else content.encode())
        if whole:
            part.replace(path)
    except OSError as fault:
        if whole:
            part.unlink(missing_ok=True)
        raise InputError("cannot_write", path=path, reason=fault.strerror or type(fault).__name__) from fault
