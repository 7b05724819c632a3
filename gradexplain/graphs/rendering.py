"""Every format of a picture: one entry, a function of the picture, its words and a width in columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gradexplain.documents.formats import format_of
from gradexplain.documents.shown import write
from gradexplain.errors import InputError
from gradexplain.graphs.folding import fold
from gradexplain.graphs.formats.dot import dot
from gradexplain.graphs.formats.html import html
from gradexplain.graphs.formats.json import json
from gradexplain.graphs.formats.mermaid import mermaid
from gradexplain.graphs.formats.paper import pdf, png, printable
from gradexplain.graphs.formats.svg import svg
from gradexplain.graphs.formats.text import text
from gradexplain.graphs.graph import Graph
from gradexplain.graphs.layout import laid_out
from gradexplain.graphs.options import SUFFIXES, WHOLE
from gradexplain.graphs.words import Words

FORMATS: Mapping[str, Callable[[Graph, Words, int], str | bytes]] = {
    "text": text,
    "svg": lambda picture, words, width: svg(picture, words),
    "png": lambda picture, words, width: png(laid_out(picture, printable(words))),
    "pdf": lambda picture, words, width: pdf(laid_out(picture, printable(words))),
    "dot": lambda picture, words, width: dot(picture, words),
    "mermaid": lambda picture, words, width: mermaid(picture, words),
    "json": lambda picture, words, width: json(picture),
    "html": lambda picture, words, width: html(picture, words, _read(picture, words)),
}


def _read(picture: Graph, words: Words) -> str:
    """Returns the text of a page, for search, copies and readers without scripts: folded as any text for people."""
    shown = picture if picture.whole is not None else fold(picture)
    return text(shown, Words(shown, words.language), 100)


def rendered(
    picture: Graph, format: str, *, language: str = "en", width: int = 100, unfolded: bool = False
) -> str | bytes:
    """Returns the picture in `format`; raises `InputError` for one that does not exist."""
    if format not in FORMATS:
        raise InputError("unknown_format", name=format, names=", ".join(FORMATS))
    as_it_is = unfolded or format in WHOLE or picture.whole is not None
    shown = picture if as_it_is else fold(picture)
    return FORMATS[format](shown, Words(shown, language), width)


def save(picture: Graph, path: Path, *, language: str = "en", unfolded: bool = False) -> None:
    """Writes the picture in the format of the file's suffix, whole or not at all."""
    write(path, rendered(picture, format_of(path, SUFFIXES), language=language, unfolded=unfolded))
