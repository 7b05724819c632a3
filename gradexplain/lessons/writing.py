"""Lessons, their pictures and the table of contents of a course as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gradexplain.documents import doc
from gradexplain.documents.doc import Block, Doc
from gradexplain.documents.renderers import RENDERERS
from gradexplain.documents.shown import write
from gradexplain.errors import InputError
from gradexplain.lessons.parts import Drawn, Lesson, Pictured
from gradexplain.lessons.telling import CONTENTS, SUFFIXES, LessonTeller, rendered
from gradexplain.locale.catalogue import say


def save(
    lesson: Lesson,
    folder: Path,
    format: str = "markdown",
    *,
    language: str = "en",
    width: int = 100,
    beside: Sequence[str] = (),
) -> Path:
    """Writes the lesson and its pictures (`NAME-1.svg`, …) into `folder`, and returns the file of its text.

    It leads to the lessons that are written `beside` it, itself among them, and to their table of contents.
    Raises `InputError` where that cannot be written; every file is written whole or not at all, the text last.
    """
    prepare(folder, format)
    files = {}
    for number, (place, part) in enumerate(_pictures(lesson), 1):
        files[place] = f"{lesson.name}-{number}.svg"
        write(folder / files[place], drawing(part, language))
    page = folder / f"{lesson.name}{SUFFIXES[format]}"
    write(page, rendered(lesson, format, language=language, width=width, files=files, beside=beside))
    return page


def save_contents(
    lessons: Sequence[Lesson],
    topics: Mapping[str, Sequence[str]],
    folder: Path,
    format: str = "markdown",
    *,
    language: str = "en",
    width: int = 100,
) -> Path:
    """Writes the table of contents of a course: its lessons by topic, and which claims settle which row."""
    page = folder / f"{CONTENTS}{SUFFIXES[format]}"
    write(page, RENDERERS[format](Doc(tuple(_contents(lessons, topics, language, SUFFIXES[format]))), width))
    return page


def _contents(
    lessons: Sequence[Lesson], topics: Mapping[str, Sequence[str]], language: str, suffix: str
) -> Iterator[Block]:
    tellers = {lesson.name: LessonTeller(language, lesson, 100, {}) for lesson in lessons}
    yield doc.Title(say("teaching.course", language), ("gradexplain lesson --all",))
    for topic, names in topics.items():
        yield doc.Heading(say(f"teaching.topic_{topic}", language))
        for name in names:
            yield doc.Link(tellers[name].say("title"), name + suffix, tellers[name].score())
    yield doc.Heading(say("teaching.rows", language))
    header = tuple(say(f"teaching.{key}", language) for key in ("row", "lesson", "checked_there"))
    rows = sorted(_by_row(tellers.values()), key=lambda r: (r[0][0], int(r[0][1:])))
    yield doc.Table(header, tuple((row, doc.Link(name, name + suffix), said) for row, name, said in rows))


def _by_row(tellers: Iterable[LessonTeller]) -> Iterator[tuple[str, str, str]]:
    """Yields each row of the tutorials with the lesson and the claims that settle it."""
    for teller in tellers:
        found: dict[str, list[str]] = {}
        for claim in teller.lesson.claims:
            for row in claim.rows:
                found.setdefault(row, []).append(f"{'✓' if claim.holds else '✗'} {teller.sentence(claim)}")
        yield from ((row, teller.lesson.name, " ".join(said)) for row, said in found.items())


def prepare(folder: Path, format: str) -> None:
    """Makes the folder to write to; raises `InputError` where that cannot be, or for a format that there is not."""
    if format not in RENDERERS:
        raise InputError("unknown_format", name=format, names=", ".join(RENDERERS))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise InputError("cannot_write", path=folder, reason=fault.strerror or type(fault).__name__) from fault


def drawing(part: Drawn | Pictured, language: str) -> str | bytes:
    """Returns the picture of a part as SVG."""
    if isinstance(part, Pictured):
        return part.picture.render("svg", language=language)
    from gradexplain import figures
    from gradexplain.figures.design import rendered as painted

    figure = getattr(figures, part.figure.replace("-", "_"))(language=language, **part.options)
    return painted(figure, "svg")


def _pictures(lesson: Lesson) -> Iterator[tuple[int, Drawn | Pictured]]:
    for place, part in enumerate(lesson.parts):
        if isinstance(part, (Drawn, Pictured)):
            yield place, part
