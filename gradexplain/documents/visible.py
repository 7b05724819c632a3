"""What cannot be seen is written as an escape: the control, bidi and other invisible characters of names, code, files.

A name with an escape of the terminal in it must not colour the terminal, and one with a mark of another direction must
not turn an equation round.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import TypeVar, cast

T = TypeVar("T")


def visible(data: T) -> T:
    """Returns plain data, or a document, with every text in it to be seen; breaks of lines and tabs stay."""
    return cast(T, _visible(data))


def escaped(character: str) -> str:
    """Returns a character, as an escape where it cannot be seen."""
    return character if _is_seen(character) else f"\\u{ord(character):04x}"


def _visible(data: object) -> object:
    if isinstance(data, str):
        if data.isprintable():
            return data
        return "".join(c if c in "\n\t" else escaped(c) for c in data)
    if isinstance(data, Mapping):
        return {_visible(key): _visible(value) for key, value in data.items()}
    if isinstance(data, tuple | list):
        return type(data)(map(_visible, data))
    if is_dataclass(data) and not isinstance(data, type):
        return replace(data, **{field.name: _visible(getattr(data, field.name)) for field in fields(data)})
    return data


@lru_cache(maxsize=4096)
def _is_seen(character: str) -> bool:
    return character == "\u200d" or (unicodedata.category(character)[0] not in "C" and character not in "\u2028\u2029")
