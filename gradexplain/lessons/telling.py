"""From a lesson that has run to a document in words."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, assert_never

from gradexplain.documents import doc
from gradexplain.documents.doc import Block, Doc
from gradexplain.documents.formats import SUFFIXES
from gradexplain.documents.renderers import RENDERERS
from gradexplain.documents.shown import recorded, told
from gradexplain.figures.parameters import parameters_of, written
from gradexplain.lessons.claims import Claim, plain
from gradexplain.lessons.parts import (
    Drawn,
    Exercise,
    Explained,
    Lesson,
    Other,
    Pictured,
    Ran,
    Rows,
    Said,
    Verified,
)  # fmt: skip
from gradexplain.locale.catalogue import say
from gradexplain.mathematics.equations import Equation
from gradexplain.narration.explanations import MARKS, TONES, Teller, elements_text
from gradexplain.narration.jsonable import jsonable
from gradexplain.narration.reports import ReportTeller

if TYPE_CHECKING:
    from gradexplain.explanation.explanation import Explanation
    from gradexplain.lessons.parts import Part

# The suffix of the file that a page in each format is written to.
SUFFIX_OF = {**SUFFIXES, "terminal": ".txt"}
CONTENTS = "README"
_DIGITS = 5


@told.register
def lesson_told(
    lesson: Lesson,
    language: str,
    *,
    format: str,
    width: int,
    files: Mapping[int, str] = MappingProxyType({}),
    beside: Sequence[str] = (),
) -> Doc:
    """Returns the page of a lesson.

    `files` names the picture of each part that has one, without which figures are named, not drawn; `beside` the
    lessons that are written with it, in their order.
    """
    suffix = SUFFIX_OF[format]
    teller = LessonTeller(language, lesson, width, files, {name: name + suffix for name in beside})
    return Doc((*teller.page(), *(teller.onwards(CONTENTS + suffix) if beside else ())), language)


@recorded.register
def lesson_record(lesson: Lesson, *, full: bool = False) -> dict[str, Any]:
    """Returns what a lesson claims and asks as plain data."""
    teller = LessonTeller("en", lesson)
    claims = [
        {"code": c.key, "holds": c.holds, "measured": plain(c.measured), "relation": c.relation,
         "expected": plain(c.expected), "within": c.within, "rows": c.rows, "text": teller.sentence(c)}
        for c in lesson.claims
    ]  # fmt: skip
    exercises = [{"code": e.key, "text": teller.say(e.key, **e.data)} for e in lesson.exercises]
    return {"kind": "lesson", **jsonable({"name": lesson.name, "options": lesson.options, "holds": lesson.holds,
                                          "claims": claims, "exercises": exercises})}  # fmt: skip


def judgement(lesson: Lesson, exercise: Exercise, right: bool, language: str) -> str:
    """Returns what is said of an answer."""
    return RENDERERS["text"](LessonTeller(language, lesson).judged(exercise, right), 100)


@dataclass(frozen=True)
class LessonTeller:
    """Tells a lesson in one language."""

    language: str
    lesson: Lesson
    width: int = 100
    files: Mapping[int, str] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)

    def say(self, key: str, **data: Any) -> str:
        """Returns a sentence of this lesson."""
        words = {name: self.shown(value) for name, value in data.items()}
        return say(f"lessons/{self.lesson.name}.{key}", self.language, **words)

    def common(self, key: str, **data: Any) -> str:
        """Returns a sentence that all lessons share."""
        return say(f"teaching.{key}", self.language, **data)

    def shown(self, value: Any) -> str:
        """Returns a value as it stands in a sentence or a table."""
        if isinstance(value, Said):
            return self.say(value.key, **value.data)
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(self.shown, value)) + "]"
        value = plain(value)
        if isinstance(value, list):
            return self.shown(value)
        if isinstance(value, dict):
            return ", ".join(f"{key}: {self.shown(item)}" for key, item in value.items())
        number = isinstance(value, (int, float, complex)) and not isinstance(value, bool)
        return elements_text(value, _DIGITS) if number else str(value)

    def cell(self, value: Any) -> str | doc.Link:
        """Returns a value as it stands in a table."""
        if not isinstance(value, Other):
            return self.shown(value)
        return doc.Link(value.name, self.pages[value.name]) if value.name in self.pages else value.name

    def command(self, *more: str) -> str:
        """Returns the command that runs this lesson with these options."""
        return " ".join(("gradexplain lesson", self.lesson.name, *_options(self.lesson.options), *more))

    # ---------------------------------------------------------------------------------------------------- the page

    def page(self) -> Iterator[Block]:
        """Yields the whole lesson, and at the end what its claims came to."""
        yield doc.Title(self.say("title"), (self.command(),))
        yield doc.Paragraph(self.say("question"))
        for place, part in enumerate(self.lesson.parts):
            if part is next(iter(self.lesson.exercises), None):
                yield doc.Heading(self.common("remember"))
                yield doc.Paragraph(self.say("remember"))
                yield doc.Heading(self.common("exercises"))
            yield from self.part(place, part)
        yield from self.closing()

    def part(self, place: int, part: Part) -> Iterator[Block]:
        match part:
            case Said(key, data, heading):
                yield (doc.Heading if heading else doc.Paragraph)(self.say(key, **data))
            case Ran():
                yield from self.listing(part)
            case Rows(header, rows):
                yield doc.Table(tuple(map(self.say, header)), tuple(tuple(map(self.cell, row)) for row in rows))
            case Claim():
                yield self.claim(part)
            case Explained(explanation, sections):
                yield from self.explained(explanation, sections)
            case Verified(report):
                teller = ReportTeller(self.language)
                yield doc.Paragraph(
                    f"{MARKS[report.verdict]} {teller.verdict(report, report.findings)}", TONES[report.verdict]
                )
                yield from teller.blamed(report, report.findings)
            case Drawn(key, figure, options):
                words = ("gradexplain figure", figure, *_arguments(figure, options), f"--output {figure}.svg")
                yield doc.Image(self.caption(place, key), self.files.get(place, ""), " ".join(words))
            case Pictured(key, picture):
                if place in self.files:
                    yield doc.Image(self.caption(place, key), self.files[place])
                else:
                    yield doc.Paragraph(self.say(key))
                    yield doc.Listing(str(picture.render("text", language=self.language, width=self.width)), "output")
            case Exercise():
                yield doc.Paragraph(self.exercise(part))
            case _:
                assert_never(part)

    def listing(self, part: Ran) -> Iterator[Block]:
        yield doc.Listing(part.code)
        if part.printed:
            yield doc.Listing(part.printed.rstrip("\n"), "output")
        for warning in part.warnings:
            yield doc.Listing(warning, "error")
        if part.fault:
            yield doc.Listing(f"{part.fault}: {part.message}", "error")

    def caption(self, place: int, key: str) -> str:
        """Returns the sentence that leads to a picture, or stands under it where the picture is there."""
        said = self.say(key)
        return said.rstrip(":：") if place in self.files else said

    def sentence(self, part: Claim) -> str:
        """Returns what is claimed."""
        own = {name: getattr(part, name) for name in ("measured", "expected", "within", "off")}
        return self.say(part.key, **{**own, **part.data})

    def claim(self, part: Claim) -> Block:
        sentence = self.sentence(part)
        if part.holds:
            return doc.Paragraph(f"✓ {sentence}", "good")
        seen = f"{self.shown(part.measured)} {part.relation} {self.shown(part.expected)}"
        return doc.Paragraph(f"✗ {sentence} {self.common('false', seen=seen)}", "bad")

    def explained(self, e: Explanation, sections: tuple[str, ...]) -> Iterator[Block]:
        teller = Teller(self.language)
        body = [block for section in sections for block in getattr(teller, section)(e)]
        shown = list(_equations(e, sections))
        page = RENDERERS["text"](Doc(tuple(body)), self.width)
        yield from body
        if shown:
            yield teller.counted(shown, page)

    # ----------------------------------------------------------------------------------------------- its exercises

    def exercise(self, part: Exercise) -> str:
        number = self.lesson.exercises.index(part) + 1
        option = ("--exercise", str(number)) if len(self.lesson.exercises) > 1 else ()
        question = self.say(part.key, **part.data)
        return self.common("exercise", number=number, text=question, command=self.command(*option, "--answer …"))

    def judged(self, part: Exercise, right: bool) -> Doc:
        """Returns what is said of an answer: that it is right, or the hint."""
        key, tone = ("right", TONES["agrees"]) if right else ("not_right", TONES["differs"])
        hint = self.say(f"{part.key}-hint", **part.data)
        said = self.common(key, question=self.say(part.key, **part.data), hint=hint)
        return Doc((doc.Paragraph(f"{'✓' if right else '✗'} {said}", tone),))

    def score(self) -> str:
        """Returns how many of the claims hold."""
        claims = self.lesson.claims
        true = sum(claim.holds for claim in claims)
        return f"{'✓' if true == len(claims) else '✗'} {self.common('claims', true=true, count=len(claims))}"

    def closing(self) -> Iterator[Block]:
        yield doc.Heading(self.common("checked"))
        yield doc.Paragraph(self.score(), TONES["agrees" if self.lesson.holds else "differs"])

    def onwards(self, contents: str) -> Iterator[Block]:
        """Yields links to the next lesson and to the table of contents."""
        names = [*self.pages]
        for name in names[names.index(self.lesson.name) + 1 :][:1]:
            yield doc.Link(self.common("next", title=say(f"lessons/{name}.title", self.language)), self.pages[name])
        yield doc.Link(self.common("contents"), contents)


def _options(options: Mapping[str, Any]) -> list[str]:
    """Returns options as the command line takes them."""
    return [f"--{name.replace('_', '-')} {shlex.quote(written(value))}" for name, value in options.items()]


def _arguments(figure: str, options: Mapping[str, Any]) -> list[str]:
    """Returns the options of a figure as the command line takes them: those without a name of theirs come first."""
    from gradexplain.figures.design import designs

    first = [p.name for p in parameters_of(designs()[figure].compute) if p.positional and p.name in options]
    named = {name: value for name, value in options.items() if name not in first}
    return [*(shlex.quote(written(options[name])) for name in first), *_options(named)]


def _equations(e: Explanation, sections: tuple[str, ...]) -> Iterator[Equation]:
    """Yields the equations that stand in `sections`."""
    for step in e.detailed:
        if "forward" in sections:
            yield from step.equations
        if "backward" in sections and step.order is not None:
            yield from chain(step.sums, *(contribution.equations for contribution in step.contributions))
    if "gradients" in sections:
        yield from chain.from_iterable(gradient.sums for gradient in e.by_input)
