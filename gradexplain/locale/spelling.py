"""How a sentence spells what it names: options as its reader gives them, two numbers so that they are told apart.

And a noun behind its count; and in Chinese, a space between its own characters and the letters or digits beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from string import Formatter

_SPELLING: ContextVar[Callable[[str], str]] = ContextVar("spelling", default=str)


class Option:
    """What a template names as `{option:order=2}`: `order=2` in Python, `--order 2` for who typed a command."""

    def __format__(self, given: str) -> str:
        return _SPELLING.get()(given)


def as_typed(given: str) -> str:
    """Returns an option that is given as in Python, such as `max_nodes=3`, as the command line takes it."""
    name, _, value = given.partition("=")
    words = ("--" + name.replace("_", "-"), value.strip("'()").replace(", ", ","))
    return " ".join(word for word in words if word not in ("", "True"))


@contextmanager
def options_spelled(spelling: Callable[[str], str]) -> Iterator[None]:
    """Lets sentences spell options in another way: `as_typed`, or as Python has them with `str`."""
    token = _SPELLING.set(spelling)
    try:
        yield
    finally:
        _SPELLING.reset(token)


class Numeral(float):
    """A number that is spelled with some more digits than its template asks for."""

    def __new__(cls, value: float, digits: int) -> Numeral:
        numeral = super().__new__(cls, value)
        numeral.digits = digits
        return numeral

    digits: int

    def __format__(self, asked: str) -> str:
        precision = asked.removeprefix(".").removesuffix("g")
        return format(float(self), f".{max(self.digits, int(precision))}g" if precision.isdigit() else asked)


class Counted(str):
    """A count, with the noun behind it: "{count:element|elements}"."""

    __slots__ = ()

    def __format__(self, nouns: str) -> str:
        one, _, many = nouns.partition("|")
        noun = one if self == "1" else many
        return f"{self!s} {noun}" if noun else str(self)


def counted(data: Mapping[str, object], template: str) -> Mapping[str, object]:
    """Returns the data of a sentence, the counts of its `template` with their nouns."""
    named = set(re.findall(r"\{(\w+):\w+\|\w+\}", template)) if "|" in template else set()
    return {name: Counted(value) if name in named else value for name, value in data.items()}


def told_apart(data: Mapping[str, object]) -> Mapping[str, object]:
    """Returns the data of a sentence, `seen` and `right` with the digits from which they differ, and one more."""
    seen, right = data.get("seen"), data.get("right")
    if not (isinstance(seen, float) and isinstance(right, float)) or seen == right:
        return data
    first = next((digits for digits in range(1, 17) if f"{seen:.{digits}g}" != f"{right:.{digits}g}"), 17)
    digits = min(first + 1, 17)
    return {**data, "seen": Numeral(seen, digits), "right": Numeral(right, digits)}


def spaced(template: str, data: Mapping[str, object]) -> str:
    """Returns a sentence with one space where what is put in meets a Chinese character and is none, else without.

    Only what is around the data is spaced, never the data.
    """
    said = ""
    for literal, field, given, conversion in Formatter().parse(template):
        said = _joined(said, literal)
        if field is not None:
            part = "{" + field + (f"!{conversion}" if conversion else "") + (f":{given}" if given else "") + "}"
            said = _joined(said, part.format(**data))
    return said


def _joined(left: str, right: str) -> str:
    before, after = left.rstrip(" "), right.lstrip(" ")
    if len(left + right) > len(before + after) + 1 or not before or not after:  # spaces that set something apart
        return left + right
    last, first = before[-1], after[0]
    if _is_chinese(last) and _is_chinese(first):
        return before + after
    mixed = (_is_chinese(last) and first.isascii()) or (last.isascii() and _is_chinese(first))
    apart = mixed and not last.isspace() and not first.isspace() and last not in _OPENING and first not in _CLOSING
    return f"{before} {after}" if apart else left + right


# What stands without a space before it, and behind it.
_CLOSING, _OPENING = frozenset(")]},.;:!?"), frozenset("([{")


def _is_chinese(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"
