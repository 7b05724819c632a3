"""The page around the explanation: its controls, its words and its script, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from gradexplain.locale.catalogue import sentences
from gradexplain.play.asked import DTYPES, Asked

_FOLDER = Path(__file__).parent


def shell(named: Asked, language: str, *, watches: bool) -> str:
    """Returns the page with its controls, which begins with what was named; it holds no token."""
    dtypes = "".join(f'<option value="{name}">{name}</option>' for name in DTYPES)
    config = {"named": named.plain(), "language": language, "watches": watches, "words": _words(language)}
    return _filled("shell.html", language, dtypes=dtypes, config=_as_script(config), script=_text("play.js"))


def key_page(language: str) -> str:
    """Returns the page that asks for the token, for who has an address without it."""
    return _filled("key.html", language)


def _filled(name: str, language: str, **parts: str) -> str:
    words = {key: escape(sentence) for key, sentence in _words(language).items()}
    return Template(_text(name)).substitute(words, language=language, style=_text("play.css"), **parts)


def _words(language: str) -> Mapping[str, str]:
    return {key[5:]: text for key, text in sentences(language).items() if key.startswith("play.")}


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _as_script(thing: Any) -> str:
    """Returns data as it may stand in a script of a page: nothing in it ends the script."""
    return json.dumps(thing, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
