"""`lesson`."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gradexplain.cli.checks import UsageError, at_least, one_of
from gradexplain.cli.groups import Offer, group
from gradexplain.cli.options import Language, Width
from gradexplain.cli.output import deliver, faults_said, page_width, progress
from gradexplain.documents.formats import PAGES
from gradexplain.locale.catalogue import LANGUAGES, say

# Where the lesson that was read last is noted.
_LAST = Path(typer.get_app_dir("gradexplain")) / "lesson"


def _lessons() -> Iterator[Offer]:
    """Yields what the command line says of every lesson."""
    from gradexplain import lessons as course

    for name in course.names():
        help = f"{course.told(name, 'title')}\n\n{course.told(name, 'question')}"
        examples = ("", " --language zh", " --output course", " --exercise 1 --answer 8")
        yield Offer(
            name,
            help,
            partial(course.function_of, name),
            _lesson_options,
            PAGES,
            tuple(f"gradexplain lesson {name}{options}" for options in examples),
            ("DIR", "Write the lesson and its figures into this folder."),
        )


def _lesson_options(
    *,
    language: Language = "en",
    answer: Annotated[str | None, typer.Option(metavar="TEXT", help="Check your answer to an exercise.")] = None,
    exercise: Annotated[
        int | None,
        typer.Option(metavar="N", help="Which exercise it answers, where there are several.", callback=at_least(1)),
    ] = None,
    width: Width = None,
) -> None:
    """The options of every lesson."""


def _lesson(offer: Offer, options: Mapping[str, Any], output: Path | None, format: str | None) -> None:
    """Runs one lesson and shows it, writes it, or judges an answer."""
    own, shared = offer.split(options)
    language = shared["language"]
    with faults_said(language):
        from gradexplain import lessons as course
        from gradexplain.lessons.answers import exercise_of

        with progress(language):
            found = course.run(offer.name, **own)
        if shared.get("exercise") is not None:
            exercise_of(found, shared["exercise"])  # refuses one that there is not
        if shared.get("answer") is not None:
            right, page = course.judge(found, shared["answer"], shared.get("exercise"), language=language)
            sys.stdout.write(page)
            raise typer.Exit(0 if right else 1)
        if output is None:
            chosen = format or ("terminal" if sys.stdout.isatty() else "text")
            deliver(found.render(chosen, language=language, width=shared.get("width") or page_width()), None, language)
            _remember(offer.name)
        else:
            written = course.save(found, output, format or "markdown", language=language)
            sys.stdout.write(say("explanation.complete", language, path=written) + "\n")
    raise typer.Exit(0 if found.holds else 1)


def _course(
    context: typer.Context,
    listed: Annotated[bool, typer.Option("--list", help="List the lessons.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Run every lesson, and write the course.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to write it into.")] = None,
    format: Annotated[str | None, typer.Option(metavar="|".join(PAGES), help="Format.", callback=one_of(PAGES))] = None,
    language: Annotated[str | None, typer.Option(metavar="en|zh", help="Language.", callback=one_of(LANGUAGES))] = None,
) -> None:
    """Teaches automatic differentiation: every number of a lesson is computed while it runs, every claim checked.

    \b
    Examples:
      gradexplain lesson
      gradexplain lesson chain-rule
      gradexplain lesson 3
      gradexplain lesson next
      gradexplain lesson descent --lr 1.01 --steps 50 --language zh
      gradexplain lesson chain-rule --answer 8
      gradexplain lesson --all --output course
    """
    with faults_said(language or "en"):
        if context.invoked_subcommand is not None:
            if listed or everything or output is not None or format is not None or language is not None:
                raise UsageError("before_the_name", name=context.invoked_subcommand)
            return
        chosen = language or "en"
        from gradexplain import lessons as course

        if listed or not everything:
            sys.stdout.write(course.listing(chosen, page_width()))
            return
        if output is None:
            raise UsageError("no_folder")
        with progress(chosen):
            found = course.save_course(output, format or "markdown", language=chosen)
        sys.stdout.write(say("explanation.complete", chosen, path=output) + "\n")
    raise typer.Exit(0 if all(lesson.holds for lesson in found) else 1)


def _meant(word: str) -> str | None:
    """Returns the lesson of a number, or the one after the last that was read on a terminal.

    Raises `UsageError` where there is no lesson of that number.
    """
    from gradexplain import lessons as course

    names = course.names()
    if word == "next":
        last = _LAST.read_text(encoding="utf-8") if _LAST.is_file() else ""
        return names[(names.index(last) + 1) % len(names)] if last in names else names[0]
    if not word.isdecimal():
        return None
    if not 0 < int(word) <= len(names):
        raise UsageError("no_lesson", number=word, count=len(names))
    return names[int(word) - 1]


def _remember(name: str) -> None:
    """Notes the lesson that a person reads, for `lesson next`; where nothing can be noted, nothing is."""
    if sys.stdout.isatty():
        with suppress(OSError):
            _LAST.parent.mkdir(parents=True, exist_ok=True)
            _LAST.write_text(name, encoding="utf-8")


lessons = group(_lessons, _lesson, _course, _meant)
