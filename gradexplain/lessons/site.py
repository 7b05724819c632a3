"""Lessons as pages of a static site, which works from a disk: an index with a map, the lessons, and the audit."""

from __future__ import annotations

import base64
import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from rich.cells import cell_len, chop_cells

from gradexplain.documents.doc import Doc
from gradexplain.documents.html import PLOT_SCRIPT, PLOT_STYLE, STYLE, framed, in_script, prose, sections
from gradexplain.documents.shown import celled, paged
from gradexplain.graphs.engine import Box, Line, around, bounds, engine, text_width
from gradexplain.lessons.answers import accepted
from gradexplain.lessons.audit import audit
from gradexplain.lessons.claims import Claim
from gradexplain.lessons.contents import names, topics
from gradexplain.lessons.contents import told as told_of
from gradexplain.lessons.course import RESTS_ON
from gradexplain.lessons.live import live
from gradexplain.lessons.parts import Drawn, Exercise, Lesson, Part, Said
from gradexplain.lessons.pictures import pictures
from gradexplain.lessons.telling import LessonTeller
from gradexplain.locale.catalogue import say, table

_FOLDER = Path(__file__).parent / "web"
# Words that are read in a minute, and minutes for an exercise or a figure that is moved.
_WORDS, _DOING = 120, 2
# A box of the map: the cells of its longest line, the size of its letters, a line's height, what is left around.
_CELLS, _LETTER, _TALL, _PAD = 20, 12.0, 17.0, 9.0


@dataclass
class _Section:
    """A heading, and below it what a template draws: each item has a `kind`."""

    title: str
    items: list[dict[str, Any]] = field(default_factory=list)


def lesson_page(
    lesson: Lesson, language: str, *, files: Mapping[int, str] | None = None, beside: Sequence[str] = ()
) -> str:
    """Returns the page of a lesson; `files` names the pictures of its parts, `beside` the lessons written with it."""
    teller = LessonTeller(language, lesson, files=files or {}, pages={name: f"{name}.html" for name in beside})
    place = beside.index(lesson.name) if lesson.name in beside else -1
    nearby = {
        "previous": beside[place - 1 : place] if place > 0 else (),
        "next": beside[place + 1 :][:1] if beside else (),
    }
    return _filled(
        "lesson.html", language, title=teller.say("title"), question=teller.say("question"), name=lesson.name,
        command=teller.command(), remember=teller.say("remember"), minutes=minutes(lesson), score=teller.score(),
        holds=lesson.holds, sections=_sections(teller), course=bool(beside), count=len(lesson.exercises),
        around={way: [(f"{n}.html", told_of(n, "title", language)) for n in found] for way, found in nearby.items()},
    )  # fmt: skip


@paged.register
def page(lesson: Lesson, document: Doc) -> str:
    """Returns the page of a lesson with its pictures in it."""
    inside = {
        place: f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"
        for place, picture in pictures(lesson, document.language)
    }
    return lesson_page(lesson, document.language, files=inside)


@celled.register
def cell(lesson: Lesson, document: Doc) -> str:
    """Returns the page of a lesson in a frame."""
    return framed(page(lesson, document), document)


def index_page(lessons: Sequence[Lesson], language: str) -> str:
    """Returns the table of contents, with a map of what leads to what."""
    by_name = {lesson.name: lesson for lesson in lessons}
    listed = [
        (say(f"teaching.topic_{topic}", language), [_entry(by_name[name], language) for name in own])
        for topic, own in topics().items()
    ]
    title = say("teaching.course", language)
    return _filled("index.html", language, title=title, topics=listed, map=_map(language), course=True)


def audit_page(lessons: Sequence[Lesson], language: str) -> str:
    """Returns the page that says of each row of the tutorials what settles it."""
    rows = audit([LessonTeller(language, lesson) for lesson in lessons], language, ".html")
    title = say("teaching.rows", language)
    return _filled("audit.html", language, title=title, body=Markup(sections(Doc((rows,), language))), course=True)


def minutes(lesson: Lesson) -> int:
    """Returns how long a lesson takes about, by its length in English and by what there is to do."""
    doing = len(lesson.exercises) + sum(isinstance(part, Drawn) for part in lesson.parts)
    return 5 * max(1, round((len(lesson.render("text").split()) / _WORDS + _DOING * doing) / 5))


# ------------------------------------------------------------------------------------------------------- a lesson


def _sections(teller: LessonTeller) -> list[_Section]:
    found = [_Section("")]
    for place, part in enumerate(teller.lesson.parts):
        if part is teller.lesson.exercises[0]:
            found.append(_Section(teller.common("exercises")))
        if isinstance(part, Said) and part.heading:
            found.append(_Section(teller.say(part.key, **part.data)))
        else:
            found[-1].items += _items(teller, place, part)
    return found


def _items(teller: LessonTeller, place: int, part: Part) -> Iterator[dict[str, Any]]:
    match part:
        case Claim():
            shown = [teller.shown(value) for value in (part.measured, part.expected, part.within)]
            words = ("measured", "expected", "within")
            evidence = [
                (word, text) for word, text in zip(words, shown, strict=True) if word != "within" or part.within
            ]
            yield {"kind": "claim", "claim": part, "text": teller.sentence(part), "evidence": evidence}
        case Exercise():
            right = base64.b64encode(json.dumps(accepted(part)).encode()).decode()
            hint = teller.say(f"{part.key}-hint", **part.data)
            yield {"kind": "exercise", "text": teller.say(part.key, **part.data), "hint": hint, "accepted": right,
                   "number": teller.lesson.exercises.index(part) + 1}  # fmt: skip
        case _:
            yield {"kind": "html", "html": Markup(sections(Doc(tuple(teller.part(place, part)), teller.language)))}
            if isinstance(part, Drawn) and (data := live(part)) is not None:
                yield {"kind": "live", "figure": part.figure, "data": in_script(data)}


# ------------------------------------------------------------------------------------------------------- the index


def _entry(lesson: Lesson, language: str) -> dict[str, Any]:
    rests = [(f"{name}.html", told_of(name, "title", language)) for name in RESTS_ON.get(lesson.name, ())]
    words = {key: told_of(lesson.name, key, language) for key in ("title", "question")}
    return {"name": lesson.name, "minutes": minutes(lesson), "rests_on": rests, "count": len(lesson.exercises), **words}


def _map(language: str) -> Markup:
    """Returns the lessons as boxes with arrows from those on which others rest, as SVG whose boxes are links."""
    lines = [_wrapped(told_of(name, "title", language)) for name in names()]
    boxes = [
        Box(k, max(text_width(line, _LETTER) for line in own) + 2 * _PAD, _TALL * len(own) + 2 * _PAD)
        for k, own in enumerate(lines)
    ]
    arrows = [Line(names().index(first), names().index(name), None) for name, on in RESTS_ON.items() for first in on]
    laid = engine(boxes, arrows)
    corners = [corner for centre, box in zip(laid.centres, boxes, strict=True) for corner in around(centre, box)]
    left, top, right, bottom = bounds([*corners, *(point for route in laid.routes for point in route)])
    drawn = [_arrow(route) for route in laid.routes]
    for name, own, box, (x, y) in zip(names(), lines, boxes, laid.centres, strict=True):
        first = y - _TALL * len(own) / 2 - 4
        rows = "".join(f'<tspan x="{x:g}" dy="{_TALL:g}">{escape(line)}</tspan>' for line in own)
        drawn.append(
            f'<a href="{name}.html" data-lesson="{name}"><rect x="{x - box.width / 2:g}" y="{y - box.height / 2:g}" '
            f'width="{box.width:g}" height="{box.height:g}" rx="6"/><text y="{first:g}">{rows}</text></a>'
        )
    width, height = right - left + 4, bottom - top + 4
    view = f'width="{width:g}" height="{height:g}" viewBox="{left - 2:g} {top - 2:g} {width:g} {height:g}"'
    return Markup(f'<svg class="map" {view}>{"".join(drawn)}</svg>')


def _arrow(route: Sequence[tuple[float, float]]) -> str:
    x, y = route[-1]
    way = "L".join(f"{px:g} {py:g}" for px, py in route)
    return f'<path class="way" d="M{way}"/><path class="tip" d="M{x:g} {y:g}l-4 -7h8Z"/>'


def _wrapped(title: str) -> list[str]:
    """Returns a title in short lines: between words, or where there are none anywhere."""
    parts = textwrap.wrap(title, _CELLS, break_on_hyphens=False, break_long_words=False)
    return [half for part in parts for half in chop_cells(part, _even(cell_len(part)))]


def _even(cells: int) -> int:
    """Returns the width that leaves no last letter alone on a line."""
    return math.ceil(cells / math.ceil(cells / _CELLS)) + 1


# ------------------------------------------------------------------------------------------------------- templates


@cache
def _templates() -> Environment:
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["prose"] = lambda text: Markup(prose(text))
    return environment


def _filled(template: str, language: str, **parts: Any) -> str:
    style, script = (PLOT_STYLE + STYLE + _text("site.css"), PLOT_SCRIPT + _text("site.js"))
    words = table("course", language)
    return _templates().get_template(template).render(
        language=language, words=words, data=in_script({"words": words, "lessons": names()}),
        style=Markup(style), script=Markup(script), **parts
    )  # fmt: skip


@cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
