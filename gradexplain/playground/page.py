"""The page around the explanation: its controls, its words and its script, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from gradexplain.documents.html import PLOT_SCRIPT, PLOT_STYLE, in_script
from gradexplain.lessons.contents import told, topics
from gradexplain.locale.catalogue import say, table
from gradexplain.playground.asked import DTYPES, Asked

_FOLDER = Path(__file__).parent
_TEMPLATES = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True)


def shell(named: Asked, language: str, *, watches: bool, first: Mapping[str, Any] | None = None) -> str:
    """Returns the page with its controls, which begins with what was named; it holds no token.

    With the `first` answer, it is a page in a frame, which asks what is around it, as in a notebook.
    """
    words = table("play", language)
    config = {"named": named.plain(), "language": language, "watches": watches, "words": words, "first": first}
    return _filled(
        "shell.html", language, dtypes=DTYPES, lessons=None if first else _offered(language), config=in_script(config),
        script=PLOT_SCRIPT + _text("framed.js" if first else "served.js") + _text("play.js"),
    )  # fmt: skip


def _offered(language: str) -> dict[str, dict[str, str]]:
    """Returns the titles of the lessons by name, by topic."""
    return {
        say(f"teaching.topic_{topic}", language): {name: told(name, "title", language) for name in own}
        for topic, own in topics().items()
    }


def key_page(language: str) -> str:
    """Returns the page that asks for the token, for who has an address without it."""
    return _filled("key.html", language)


def _filled(name: str, language: str, **parts: object) -> str:
    template = _TEMPLATES.get_template(name)
    return template.render(
        words=table("play", language), language=language, style=PLOT_STYLE + _text("play.css"), **parts
    )


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
