"""The course. Every lesson is a module in `course/`, found by itself; its words stand in `locale/*/lessons/`.

A lesson's module has `TOPIC` (one of `TOPICS`), `PLACE` (its place within the topic) and `lesson(...)`, a generator of
parts whose keyword parameters are the options that a reader may change.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from gradexplain.documents.progress import followed
from gradexplain.errors import InputError
from gradexplain.lessons import course
from gradexplain.lessons.parts import TOPICS, Lesson, Part
from gradexplain.locale.catalogue import say

__all__ = ["Lesson", "function_of", "judge", "listing", "names", "run", "save", "save_course", "told", "topics"]
_ABOUT = ("TOPIC", "PLACE")


@cache
def topics() -> dict[str, tuple[str, ...]]:
    """Returns the names of the lessons by topic, in the order of the course; no lesson is loaded for it."""
    found: dict[str, list[tuple[int, str]]] = {topic: [] for topic in TOPICS}
    for file in Path(course.__path__[0]).glob("[!_]*.py"):
        about = _constants(file)
        found[about["TOPIC"]].append((about["PLACE"], file.stem.replace("_", "-")))
    return {topic: tuple(name for _, name in sorted(lessons)) for topic, lessons in found.items()}


def names() -> tuple[str, ...]:
    """Returns the names of all lessons, in the order of the course."""
    return tuple(name for lessons in topics().values() for name in lessons)


def told(name: str, key: str, language: str = "en") -> str:
    """Returns a lesson's `title` or `question`."""
    return say(f"lessons/{name}.{key}", language)


def listing(language: str = "en", width: int = 100) -> str:
    """Returns the lessons by topic, each with its title."""
    from gradexplain.documents.doc import Doc, Heading, Paragraph, Table
    from gradexplain.documents.renderers import RENDERERS

    blocks: list[Heading | Paragraph | Table] = []
    for topic, lessons in topics().items():
        blocks.append(Heading(say(f"teaching.topic_{topic}", language)))
        header = (say("teaching.lesson", language), say("teaching.about", language))
        blocks.append(Table(header, tuple((name, told(name, "title", language)) for name in lessons)))
    blocks.append(Paragraph(say("teaching.how", language)))
    return RENDERERS["text"](Doc(tuple(blocks)), width)


def function_of(name: str) -> Callable[..., Iterator[Part]]:
    """Returns the function that runs the lesson; raises `InputError` where there is none of that name."""
    return _module(name).lesson  # type: ignore[no-any-return]


def run(name: str, **options: Any) -> Lesson:
    """Runs a lesson and returns what came of it; `options` are the lesson's own, such as `lr=1.01`.

    Random states, grad mode and default type are as before afterwards, and the lesson starts from a seed and a type of
    its own, so that it runs the same each time. Raises `InputError` for a lesson or an option that does not exist.
    """
    import torch

    from gradexplain.figures.parameters import checked_all
    from gradexplain.recording.computation import kept_generators

    function = function_of(name)
    given = checked_all(function, options)
    with torch.random.fork_rng(devices=[]), kept_generators(), torch.enable_grad(), _float32():
        torch.manual_seed(0)
        return Lesson(name, given, tuple(function(**given)))


def save(lesson: Lesson, folder: str | Path, format: str = "markdown", *, language: str = "en") -> Path:
    """Writes a lesson and its pictures into `folder`, which is made where it is missing, and returns its file.

    Raises `InputError` where that cannot be written; no file is ever half written.
    """
    from gradexplain.lessons import writing

    return writing.save(lesson, Path(folder), format, language=language)


def save_course(folder: str | Path, format: str = "markdown", *, language: str = "en") -> tuple[Lesson, ...]:
    """Runs all lessons, writes them with their pictures and a table of contents into `folder`, and returns them.

    Raises `InputError` where that cannot be written.
    """
    from gradexplain.lessons import writing

    writing.prepare(Path(folder), format)
    found = []
    for name in followed(names(), "lessons"):
        found.append(run(name))
        writing.save(found[-1], Path(folder), format, language=language, beside=names())
    writing.save_contents(found, topics(), Path(folder), format, language=language)
    return tuple(found)


def judge(lesson: Lesson, answer: str, number: int | None = None, *, language: str = "en") -> tuple[bool, str]:
    """Says whether `answer` is right for exercise `number` (from 1; the only one by default), and what is said of it.

    Raises `InputError` where there is no such exercise, or where numbers are asked for and `answer` holds none.
    """
    from gradexplain.lessons import answers, telling

    exercise = answers.exercise_of(lesson, number)
    right = answers.is_right(exercise, answer)
    return right, telling.judgement(lesson, exercise, right, language)


def _constants(file: Path) -> dict[str, Any]:
    """Returns the constants at the top of a module without running it: torch would load with it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in _ABOUT
    }


def _module(name: str) -> ModuleType:
    if name not in names():
        import difflib

        close = difflib.get_close_matches(name, names(), n=1, cutoff=0)[0]
        raise InputError("unknown_lesson", name=name, close=close, names=", ".join(names()))
    return importlib.import_module(f"{course.__name__}.{name.replace('-', '_')}")


@contextmanager
def _float32() -> Iterator[None]:
    """Makes float32 the default type inside the block."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def __dir__() -> list[str]:
    return __all__
