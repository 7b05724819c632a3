"""`run`."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradexplain.cli.checks import UsageError, at_least, page_format
from gradexplain.cli.groups import Command
from gradexplain.cli.options import Format, Language, Output, Width
from gradexplain.cli.output import deliver, faults_said, page_width
from gradexplain.errors import InputError
from gradexplain.training.launching import Ending, Script

if TYPE_CHECKING:
    from gradexplain.training.report import TrainingReport
    from gradexplain.training.session import Session

_LONE = frozenset({"--halt", "--rerun", "--help", "-h"})


class RunCommand(Command):
    """A command whose own options end where the script begins: what follows is the script's."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        return super().parse_args(ctx, _divided(args))


def _divided(args: list[str]) -> list[str]:
    """Puts `--` where the script's own arguments begin."""
    i = 0
    while i < len(args):
        word = args[i]
        if word == "--":
            return args
        if word == "-m":
            return [*args[: i + 2], "--", *args[i + 2 :]]
        if not word.startswith("-"):
            return [*args[:i], "--", *args[i:]]
        i += 1 if word in _LONE or "=" in word else 2
    return args


def run(
    script: Annotated[list[str] | None, typer.Argument(metavar="SCRIPT [ARGUMENTS]...", help="What to run.")] = None,
    module: Annotated[str | None, typer.Option("-m", metavar="MODULE", help="Run a module, as python -m does.")] = None,
    halt: Annotated[bool, typer.Option("--halt", help="End it at the first number that is not finite.")] = False,
    steps: Annotated[int | None, typer.Option(metavar="N", help="End it after N steps.", callback=at_least(1))] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Look into a step by a second run even where it acts again as the first.")
    ] = False,
    language: Language = "en",
    format: Format = None,
    output: Output = None,
    width: Width = None,
) -> None:
    """Runs a training as it is, watches it, and says what is wrong with it.

    \b
    The script runs as Python runs it, and its numbers are the same with and without us. What was found is said on
    standard error after its last word, or in --output FILE; the exit code is the script's own, and a finding makes 1
    of a 0.

    \b
    Examples:
      gradexplain run train.py --epochs 3
      gradexplain run --steps 100 --output run.html train.py
      gradexplain run -m package.train
    """
    with faults_said(language):
        given = list(script or ())
        if module is None and not given:
            raise UsageError("no_script")
        from gradexplain.training.session import Session, is_reporting, own_file

        name, arguments = (module, given) if module is not None else (given[0], given[1:])
        session = Session(Script(name, tuple(arguments), module is not None), halt, steps, rerun)
        saying = Saying(session, page_format(format, output, sys.stderr), own_file(output), language, width)
        session.refresh = saying.refresh if output is not None else None
        ending = session.run(saying.before_end)
        code = saying.say(ending)
        raise typer.Exit(code if is_reporting() else ending.code)


@dataclass
class Saying:
    """How a session's report is said: at its end, and to a file now and then."""

    session: "Session"
    format: str
    output: Path | None
    language: str
    width: int | None

    def say(self, ending: Ending | None) -> int:
        """Says what was seen and returns the exit code: the script's own, 1 where something was found behind a 0."""
        from gradexplain.training.session import leave

        try:
            report = self.session.report(ending)
        except KeyboardInterrupt:  # of one who does not wait until it is looked into
            report = self.session.report(None)
        deliver(self._page(report), self.output, self.language, sys.stderr)
        leave(report)
        code = ending.code if ending is not None else 0
        return code or (1 if report.verdict == "found" else 0)

    def _page(self, report: "TrainingReport") -> str | bytes:
        import gradexplain.narration.trainings  # noqa: F401  # registers how it is told

        return report.render(self.format, language=self.language, width=self.width or page_width(sys.stderr))

    def refresh(self) -> None:
        """Writes into the file what was seen until now, so that it is there if the process is killed."""
        from gradexplain.documents.shown import is_replaced, write

        if self.output is not None and is_replaced(self.output):  # a pipe is written into once
            with suppress(InputError):  # what cannot be written is said at the end
                write(self.output, self._page(self.session.report(None)))

    def before_end(self, code: int | None) -> None:
        """Says it before the process is ended: by `os._exit` with a code, or by a signal."""
        self.say(None if code is None else Ending(code))
