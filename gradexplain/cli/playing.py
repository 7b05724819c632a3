"""`play`."""

from typing import Annotated

import typer

from gradexplain.cli.checks import UsageError
from gradexplain.cli.options import Inputs, Language
from gradexplain.cli.output import faults_said
from gradexplain.cli.request import read_request
from gradexplain.errors import InputError

# What the page begins with where nothing is named.
_BEGIN = "x**2 + 2*x", ["x=3"]


def _check_port(value: int) -> int:
    if not 0 <= value < 2**16:
        raise InputError("parameter_range", name="port", seen=value, range="0 … 65535")
    return value


def _check_lesson(value: str | None) -> str | None:
    from gradexplain.lessons.contents import known

    return value and known(value)


def play(
    target: Annotated[
        str | None, typer.Argument(help="An expression, package.module:function, or path/file.py:function.")
    ] = None,
    inputs: Inputs = None,
    port: Annotated[int, typer.Option(metavar="N", help="The port; 0 for any that is free.", callback=_check_port)] = 0,
    open: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    lesson: Annotated[
        str | None, typer.Option(metavar="NAME", help="Begin with this lesson.", callback=_check_lesson)
    ] = None,
    language: Language = "en",
) -> None:
    """Serves a live page on this machine alone: edit the expression, drag a value, and torch runs at every edit.

    The page's address is printed, with a key that changes at every start. Nothing else of this machine can be asked
    from it but expressions, and the program and files that are named here. Ctrl-C ends it.

    \b
    Examples:
      gradexplain play
      gradexplain play "x**2 + 2*x" x=3
      gradexplain play "sum(tanh(x @ W))" "x=randn(2,3)" "W=randn(3,4)" --language zh
      gradexplain play --lesson descent
      gradexplain play losses.py:focal "x=randn(8)" --port 8765 --no-open
    """
    with faults_said(language):
        try:
            from gradexplain.playground.server import serve
        except ModuleNotFoundError as fault:
            missing = (fault.name or "").partition(".")[0]
            if missing not in ("starlette", "uvicorn"):
                raise
            raise UsageError("play_extra", missing=missing) from None
        from gradexplain.playground.asked import OPTIONS, Asked

        if target is None:
            target, inputs = _BEGIN
        request = read_request(target, inputs)
        typed = {name: str(text) for name, text in request.inputs.items()}
        serve(Asked(target, typed, {**OPTIONS, "lesson": lesson or ""}), language=language, port=port, opens=open)
