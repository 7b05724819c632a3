"""What a lesson is made of: plain data, in the order in which it is told. The words stand in `locale/`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gradexplain.documents.shown import Shown
from gradexplain.lessons.claims import Claim, Relation

if TYPE_CHECKING:
    from gradexplain.explanation.explanation import Explanation
    from gradexplain.graphs.picture import Picture
    from gradexplain.verification.verdicts import Report

Section = Literal["result", "forward", "graph", "backward", "gradients", "checks", "findings"]
SECTIONS: tuple[Section, ...] = ("result", "forward", "graph", "backward", "gradients", "checks")


@dataclass(frozen=True)
class Said:
    """A paragraph, or the head of a section: the sentence `key` of the lesson with `data` put in."""

    key: str
    data: Mapping[str, Any]
    heading: bool = False


@dataclass(frozen=True)
class Other:
    """Another lesson, by its name: a cell of a table, which leads there where the whole course is written."""

    name: str


@dataclass(frozen=True)
class Ran:
    """Code that was run as it stands: what it printed, the fault that ended it (empty: none), the names it made."""

    code: str
    printed: str
    fault: str
    message: str
    warnings: tuple[str, ...]
    names: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Rows:
    """Rows under a header of keys; a cell is a number, a tensor, a word without translation, a `Said` or an `Other`."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __getitem__(self, key: str) -> list[Any]:
        """Returns the column under a key of the header."""
        place = self.header.index(key)
        return [row[place] for row in self.rows]


@dataclass(frozen=True)
class Explained:
    """Those sections of an explanation that the lesson is about."""

    explanation: Explanation
    sections: tuple[Section, ...] = SECTIONS


@dataclass(frozen=True)
class Verified:
    """What `verify` found: the verdict, and where an operation is wrong, which."""

    report: Report


@dataclass(frozen=True)
class Drawn:
    """A figure of `gradexplain figure`, by its name and options, under the sentence `key`."""

    key: str
    figure: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pictured:
    """A graph, under the sentence `key`."""

    key: str
    picture: Picture


@dataclass(frozen=True)
class Exercise:
    """A question with one right answer, which was computed: a number, a tensor, or a word.

    A number is right where it is exactly the answer, or rounds to the same `digits` significant digits.
    """

    key: str
    answer: Any
    digits: int | None
    data: Mapping[str, Any]


Part = Said | Ran | Rows | Claim | Explained | Verified | Drawn | Pictured | Exercise
Parts = Iterator[Part]


@dataclass(frozen=True, repr=False)
class Lesson(Shown):
    """A lesson that has run: its parts in order, and the options that it ran with."""

    name: str
    options: Mapping[str, Any]
    parts: tuple[Part, ...]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Everything that was claimed, true or false."""
        return tuple(part for part in self.parts if isinstance(part, Claim))

    @property
    def exercises(self) -> tuple[Exercise, ...]:
        """The questions at its end."""
        return tuple(part for part in self.parts if isinstance(part, Exercise))

    @property
    def holds(self) -> bool:
        """Whether every claim is true."""
        return all(claim.holds for claim in self.claims)

    def __repr__(self) -> str:
        true = sum(claim.holds for claim in self.claims)
        return f"<Lesson {self.name}: {true} of {len(self.claims)} claims hold>"


# ------------------------------------------------------------------------------------------- how lessons write them


def section(key: str, parts: Parts) -> Parts:
    """Yields the head of a section and its parts."""
    yield Said(key, {}, heading=True)
    yield from parts


def text(key: str, **data: Any) -> Said:
    """Returns a paragraph."""
    return Said(key, data)


def claim(
    key: str, measured: Any, relation: Relation, expected: Any, *rows: str, within: float = 0.0, **data: Any
) -> Claim:
    """Returns a claim; `rows` are those of the tutorials that it settles."""
    return Claim(key, measured, relation, expected, within, rows, data)


def verdict(key: str, report: Report, expected: str, *rows: str, **data: Any) -> Parts:
    """Yields what `verify` found, and the claim that its verdict is the `expected` one."""
    yield Verified(report)
    yield claim(key, report.verdict, "=", expected, *rows, **data)


def columns(table: Mapping[str, Iterable[Any]]) -> Rows:
    """Returns a table of columns, each under its key."""
    return Rows(tuple(table), list(zip(*table.values(), strict=True)))


def code(*names: str) -> str:
    """Returns names of code as they stand in a sentence: each as code, with commas between."""
    return ", ".join(f"`{name}`" for name in names)


def exercise(key: str, answer: Any, *, digits: int | None = None, **data: Any) -> Exercise:
    """Returns a question with its answer."""
    return Exercise(key, answer, digits, data)
