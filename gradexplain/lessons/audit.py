"""The audit of the two tutorials: which lesson settles which row, by which claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradexplain.documents import doc
from gradexplain.lessons.telling import LessonTeller
from gradexplain.locale.catalogue import say


def audit(tellers: Iterable[LessonTeller], language: str, suffix: str) -> doc.Table:
    """Returns the table of all rows; `suffix` is that of the lessons' files."""
    header = tuple(say(f"teaching.{key}", language) for key in ("row", "lesson", "checked_there"))
    rows = sorted(_by_row(tellers), key=lambda r: (r[0][0], int(r[0][1:])))
    return doc.Table(header, tuple((row, doc.Link(name, name + suffix), said) for row, name, said in rows))


def _by_row(tellers: Iterable[LessonTeller]) -> Iterator[tuple[str, str, str]]:
    """Yields each row of the tutorials with the lesson and the claims that settle it."""
    for teller in tellers:
        sentences: dict[str, list[str]] = {}
        for claim in teller.lesson.claims:
            for row in claim.rows:
                sentences.setdefault(row, []).append(f"{'✓' if claim.holds else '✗'} {teller.sentence(claim)}")
        yield from ((row, teller.lesson.name, " ".join(said)) for row, said in sentences.items())
