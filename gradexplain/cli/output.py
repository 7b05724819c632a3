"""What goes to the terminal: pages, progress, and every fault as one sentence with its exit code."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer

from gradexplain.cli.checks import LEAST_WIDTH, UsageError
from gradexplain.documents.visible import visible
from gradexplain.errors import GradexplainError
from gradexplain.locale.catalogue import LANGUAGES, say

EXIT_CODES = {"agrees": 0, "same": 0, "differs": 1, "cannot say": 3}
USAGE = 2
_USUAL_WIDTH = 100
_WIDEST = 120
# Seconds before work that is under way shows how far it is.
_PATIENCE = 2.0


# How a console that is not Unicode shows what our pages are written with; Greek letters are spelled out.
_PLAIN = str.maketrans({
    **dict.fromkeys("─━═╌", "-"), **dict.fromkeys("│┃║", "|"), **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    "→": "->", "←": "<-", "✓": "ok", "✗": "XX", "∂": "d", "·": ".", "×": "x", "−": "-", "–": "-", "—": "-",
    "•": "*", "…": "...", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "⟨": "<", "⟩": ">", "ᵀ": "^T", "²": "^2",
    "‖": "||", "▶": ">", "◀": "<", "▲": "^", "▼": "v", "∞": "inf", "√": "sqrt", "∑": "sum", "\u0304": "_bar",
})  # fmt: skip


def write_to_any_console() -> None:
    """Lets standard output and error show in plain letters what their encoding does not have."""

    def plain(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeEncodeError)
        return "".join(map(_plain, error.object[error.start : error.end])), error.end

    codecs.register_error("gradexplain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and "utf" not in stream.encoding.lower():
            stream.reconfigure(errors="gradexplain")


def _plain(character: str) -> str:
    written = character.translate(_PLAIN)
    if not written.isascii():
        script, _, name = unicodedata.name(character, "").partition(" LETTER ")
        letter = {"GREEK SMALL": name.lower(), "GREEK CAPITAL": name.title()}
        written = letter.get(script, unicodedata.normalize("NFKD", character).translate(_PLAIN))
    return written if written.isascii() else "?"


def page_width(stream: TextIO | None = None) -> int:
    """Returns the terminal's width within reason; a page that goes elsewhere always has the same."""
    import shutil

    if not (stream or sys.stdout).isatty():
        return _USUAL_WIDTH
    return max(LEAST_WIDTH, min(shutil.get_terminal_size((_USUAL_WIDTH, 40)).columns, _WIDEST))


def deliver(content: str | bytes, output: Path | None, language: str, stream: TextIO | None = None) -> None:
    """Writes a page to a file, or to a stream (standard output without one), which hears of the file as well."""
    stream = stream or sys.stdout
    if output is None:
        if isinstance(content, bytes):
            stream.buffer.write(content)
        else:
            stream.write(content)
        stream.flush()
        return
    from gradexplain.documents.shown import write

    write(output, content)
    stream.write(say("explanation.complete", language, path=output) + "\n")


class _Lent:
    """A stream in the hands of the user's code: to close it, or what is made of its buffer, leaves ours open."""

    def __init__(self, ours: TextIO) -> None:
        self._ours = ours

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)

    def close(self) -> None:
        self._ours.flush()

    @cached_property
    def buffer(self) -> Any:
        self._ours.flush()
        try:
            return os.fdopen(os.dup(self._ours.fileno()), "wb")
        except OSError:  # a stream in memory
            return self._ours.buffer


@contextmanager
def as_guest(target: str) -> Iterator[None]:
    """Lets the user's code see the command line of a script that was given no arguments, not ours.

    What it prints goes to standard error: standard output is the page's, and may be read by a program.
    """
    ours, sys.argv = sys.argv, [target.rpartition(":")[0] or target]
    lent: Any = _Lent(sys.stderr)
    try:
        with redirect_stdout(lent), redirect_stderr(lent):
            yield
    finally:
        sys.argv = ours
    if _is_shut(sys.stdout):
        raise UsageError("output_shut", target=target)


def _is_shut(stream: TextIO) -> bool:
    """Says whether nothing can be written any more: the stream is closed, or the file behind it."""
    try:
        os.fstat(stream.fileno())
    except io.UnsupportedOperation:  # a stream in memory
        return stream.closed
    except (OSError, ValueError):
        return True
    return False


@contextmanager
def progress(language: str) -> Iterator[None]:
    """Shows that work goes on, and of what takes longer than two seconds how far it is; on a terminal alone."""
    if not sys.stderr.isatty():
        yield
        return
    import time

    from rich.console import Console
    from rich.progress import Progress

    from gradexplain.documents.progress import followed_by

    started, tasks = time.monotonic(), {}
    with Progress(console=Console(stderr=True), transient=True, disable=False) as bar:
        tasks[""] = bar.add_task(say("explanation.working", language), total=None)

        def follow(what: str, done: int, total: int) -> None:
            if time.monotonic() - started < _PATIENCE:
                return
            if what not in tasks:
                tasks[what] = bar.add_task(say(f"verification.{what}", language), total=total)
            bar.update(tasks[what], completed=done, total=total)

        with followed_by(follow):
            yield


@contextmanager
def faults_said(language: str) -> Iterator[None]:
    """Turns every fault into one sentence on standard error and exit code 2; our own faults say that they are ours."""
    spoken = language if language in LANGUAGES else "en"
    try:
        yield
    except typer.Exit:
        raise
    except GradexplainError as fault:
        fail(fault.sentence(spoken))
    except KeyboardInterrupt:
        fail(say("usage.interrupted", spoken))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(USAGE) from None
    except Exception as fault:
        if os.environ.get("GRADEXPLAIN_TRACEBACK"):
            raise
        message = str(fault).strip().split("\n", 1)[0]
        fail(say("usage.internal", spoken, kind=type(fault).__name__, message=message))


def fail(sentence: str) -> NoReturn:
    """Says why nothing was done, on standard error, and ends with exit code 2."""
    sys.stderr.write(f"gradexplain: {visible(sentence)}\n")
    raise typer.Exit(USAGE)
