"""What is refused before anything is loaded, and in which sentence; a check takes and returns an option's value."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TextIO

import typer

from gradexplain.documents.formats import format_of
from gradexplain.errors import InputError
from gradexplain.locale.catalogue import say

DTYPES = ("float16", "bfloat16", "float32", "float64")
LEAST_WIDTH = 40


class UsageError(InputError):
    """A usage error; its sentence stands in the table `usage`."""

    def sentence(self, language: str = "en") -> str:
        return say(f"usage.{self.key}", language, **self.data)


def one_of(names: Collection[str], separator: str | None = None) -> Callable[..., str | None]:
    """Returns the check of an option that is one of `names`, or several of them between separators."""

    def check(option: typer.CallbackParam, value: str | None) -> str | None:
        for word in [] if value is None else value.split(separator) if separator else [value]:
            if word.strip() not in names and (word.strip() or not separator):
                raise InputError("parameter_choice", name=option.name, seen=word.strip(), names=", ".join(names))
        return value

    return check


def at_least(least: int) -> Callable[..., int | None]:
    """Returns the check of an option that is a number."""

    def check(option: typer.CallbackParam, value: int | None) -> int | None:
        if value is not None and value < least:
            raise InputError("parameter_range", name=option.name, seen=value, range=f"≥ {least}")
        return value

    return check


def check_dtype(value: str | None) -> str | None:
    if value is not None and value not in DTYPES:
        raise UsageError("unknown_dtype", name=value, names=", ".join(DTYPES))
    return value


def check_effort(value: float) -> float:
    if not 0 < value < math.inf:
        raise UsageError("bad_effort", effort=value)
    return value


def check_seed(value: int) -> int:
    if not 0 <= value < 2**63:
        raise UsageError("bad_seed", seed=value)
    return value


def check_width(value: int | None) -> int | None:
    if value is not None and value < LEAST_WIDTH:
        raise UsageError("narrow", width=value, least=LEAST_WIDTH)
    return value


def page_format(format: str | None, output: Path | None, stream: TextIO | None = None) -> str:
    """Returns the format of a page: what was asked for, what the file's suffix says, or what a stream takes.

    The stream is standard output, unless another is given.
    """
    if format is not None:
        return format
    return format_of(output) if output else "terminal" if (stream or sys.stdout).isatty() else "text"


def graph_format(format: str | None, output: Path | None, suffixes: Mapping[str, str]) -> str:
    """Returns the format of a graph, of those that have `suffixes`: text where nothing says more."""
    if format in ("png", "pdf") and output is None and sys.stdout.isatty():
        raise UsageError("bytes_to_terminal", format=format)
    return format or (format_of(output, suffixes) if output else "text")
