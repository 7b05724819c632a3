"""Lessons, their pictures and the table of contents of a course as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gradexplain.documents import doc
from gradexplain.documents.doc import Block, Doc
from gradexplain.documents.progress import followed
from gradexplain.documents.renderers import RENDERERS
from gradexplain.documents.shown import write
from gradexplain.errors import InputError
from gradexplain.lessons.audit import audit
from gradexplain.lessons.contents import names, topics
from gradexplain.lessons.parts import Lesson
from gradexplain.lessons.pictures import pictures
from gradexplain.lessons.running import run
from gradexplain.lessons.site import audit_page, index_page, lesson_page
from gradexplain.lessons.telling import CONTENTS, SUFFIX_OF, LessonTeller, lesson_told
from gradexplain.locale.catalogue import say

WIDTH = 100


def save(lesson: Lesson, folder: str | Path, format: str = "markdown", *, language: str = "en") -> Path:
    """Writes a lesson and its pictures (`NAME-1.svg`, …) into `folder`, which is made where it is missing.

    Returns the file of its text. Raises `InputError` where that cannot be written; every file is written whole or not
    at all, the text last.
    """
    return _saved(lesson, _prepared(folder, format), format, language, beside=())


def save_course(folder: str | Path, format: str = "markdown", *, language: str = "en") -> tuple[Lesson, ...]:
    """Runs all lessons, writes them with their pictures and a table of contents into `folder`, and returns them.

    Raises `InputError` where that cannot be written.
    """
    there, lessons = _prepared(folder, format), []
    for name in followed(names(), "lessons"):
        lessons.append(run(name))
        _saved(lessons[-1], there, format, language, beside=names())
    suffix = SUFFIX_OF[format]
    if format == "html":
        write(there / "audit.html", audit_page(lessons, language))
        write(there / "index.html", index_page(lessons, language))
        return tuple(lessons)
    write(
        there / f"{CONTENTS}{suffix}",
        RENDERERS[format](Doc(tuple(_contents(lessons, language, suffix)), language), WIDTH),
    )
    return tuple(lessons)


def _prepared(folder: str | Path, format: str) -> Path:
    """Makes the folder to write to; raises `InputError` where that cannot be, or for a format that there is not."""
    if format not in RENDERERS:
        raise InputError("unknown_format", name=format, names=", ".join(RENDERERS))
    there = Path(folder)
    try:
        there.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError("cannot_write", path=there, reason=fault.strerror or type(fault).__name__) from fault
    return there


def _saved(lesson: Lesson, folder: Path, format: str, language: str, *, beside: Sequence[str]) -> Path:
    """Writes a lesson that leads to those written `beside` it, itself among them, and to their table of contents."""
    files: dict[int, str] = {}
    for place, picture in pictures(lesson, language):
        files[place] = f"{lesson.name}-{len(files) + 1}.svg"
        write(folder / files[place], picture)
    page = folder / f"{lesson.name}{SUFFIX_OF[format]}"
    if format == "html":
        write(page, lesson_page(lesson, language, files=files, beside=beside))
        return page
    told = lesson_told(lesson, language, format=format, width=WIDTH, files=files, beside=beside)
    write(page, RENDERERS[format](told, WIDTH))
    return page


def _contents(lessons: Sequence[Lesson], language: str, suffix: str) -> Iterator[Block]:
    """Yields the table of contents of a course: its lessons by topic, and which claims settle which row."""
    tellers = {lesson.name: LessonTeller(language, lesson) for lesson in lessons}
    yield doc.Title(say("teaching.course", language), ("gradexplain lesson --all",))
    for topic, own in topics().items():
        yield doc.Heading(say(f"teaching.topic_{topic}", language))
        for name in own:
            yield doc.Link(tellers[name].say("title"), name + suffix, tellers[name].score())
    yield doc.Heading(say("teaching.rows", language))
    yield audit(tellers.values(), language, suffix)
