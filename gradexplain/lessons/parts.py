"""What a lesson is made of: plain data, in the order in which it is told. The words stand in `locale/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gradexplain.lessons.claims import Claim, Relation

if TYPE_CHECKING:
    from gradexplain.explanation.explanation import Explanation
    from gradexplain.graphs.picture import Picture
    from gradexplain.verification.verdicts import Report

Topic = Literal["differentiation", "graphs", "gradients", "training", "squares"]
TOPICS: tuple[Topic, ...] = ("differentiation", "graphs", "gradients", "training", "squares")
Section = Literal["result", "forward", "graph", "backward", "gradients", "checks", "findings"]
SECTIONS: tuple[Section, ...] = ("result", "forward", "graph", "backward", "gradients", "checks")


@dataclass(frozen=True)
class Text:
    """A paragraph, or the head of a section: the sentence `key` of the lesson with `data` put in."""

    key: str
    data: Mapping[str, Any]
    heading: bool = False


@dataclass(frozen=True)
class Other:
    """Another lesson, by its name: a cell of a table, which leads there where the whole course is written."""

    name: str


@dataclass(frozen=True)
class Listing:
    """Code that was run as it stands: what it printed, the fault that ended it (empty: none), the names it made."""

    code: str
    printed: str
    fault: str
    message: str
    warnings: tuple[str, ...]
    names: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows under a header of keys; a cell is a number, a tensor, a word without translation, a `Text` or an `Other`."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


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


Part = Text | Listing | Table | Claim | Explained | Verified | Drawn | Pictured | Exercise


@dataclass(frozen=True)
class Lesson:
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

    def render(self, format: str = "terminal", *, language: str = "en", width: int = 100) -> str:
        """Returns the lesson as `terminal`, `text`, `markdown` or `html`; figures are named, not drawn."""
        from gradexplain.lessons import telling

        return telling.rendered(self, format, language=language, width=width)

    def __str__(self) -> str:
        return self.render("text")


# ------------------------------------------------------------------------------------------- how lessons write them


def head(key: str, **data: Any) -> Text:
    """Returns the head of a section."""
    return Text(key, data, heading=True)


def text(key: str, **data: Any) -> Text:
    """Returns a paragraph."""
    return Text(key, data)


def claim(
    key: str, measured: Any, relation: Relation, expected: Any, *rows: str, within: float = 0.0, **data: Any
) -> Claim:
    """Returns a claim; `rows` are those of the tutorials that it settles."""
    return Claim(key, measured, relation, expected, within, rows, data)


def exercise(key: str, answer: Any, *, digits: int | None = None, **data: Any) -> Exercise:
    """Returns a question with its answer."""
    return Exercise(key, answer, digits, data)
