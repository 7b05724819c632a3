"""What lessons there are, by topic and title; nothing is run for it, and torch is not loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from itertools import chain

from gradexplain.documents.doc import Block, Doc, Heading, Paragraph, Table
from gradexplain.documents.renderers import RENDERERS
from gradexplain.errors import InputError
from gradexplain.lessons.course import COURSE
from gradexplain.locale.catalogue import say


def topics() -> Mapping[str, tuple[str, ...]]:
    """Returns the names of the lessons by topic, in the order of the course."""
    return COURSE


def names() -> tuple[str, ...]:
    """Returns the names of all lessons, in the order of the course."""
    return tuple(chain.from_iterable(COURSE.values()))


def known(name: str) -> str:
    """Returns the name of a lesson; raises `InputError` where there is none of that name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0)[0]
        raise InputError("unknown_lesson", name=name, close=close, names=", ".join(names()))
    return name


def told(name: str, key: str, language: str = "en") -> str:
    """Returns a lesson's `title` or `question`."""
    return say(f"lessons/{name}.{key}", language)


def listing(language: str = "en", width: int = 100) -> str:
    """Returns the lessons by topic, each with its title."""
    header = (say("teaching.lesson", language), say("teaching.about", language))
    blocks: list[Block] = []
    for topic, lessons in COURSE.items():
        blocks.append(Heading(say(f"teaching.topic_{topic}", language)))
        blocks.append(Table(header, tuple((name, told(name, "title", language)) for name in lessons)))
    return RENDERERS["text"](Doc((*blocks, Paragraph(say("teaching.how", language)))), width)
