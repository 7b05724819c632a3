"""What is refused before anything is loaded, and in which sentence."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gradexplain.errors import InputError
from gradexplain.graphs.options import SUFFIXES
from gradexplain.locale.catalogue import say

PAGES = ("terminal", "text", "markdown", "html")
FORMATS = (*PAGES, "json")
DTYPES = ("float16", "bfloat16", "float32", "float64")
LEAST_WIDTH = 40


class UsageError(InputError):
    """A usage error; its sentence stands in the table `usage`."""

    def sentence(self, language: str = "en") -> str:
        return say(f"usage.{self.key}", language, **self.data)


def check_choice(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError("unknown_choice", option=option, name=value, names=", ".join(allowed))


def check_dtype(name: str | None) -> None:
    """Refuses a type that there is not."""
    if name is not None and name not in DTYPES:
        raise UsageError("unknown_dtype", name=name, names=", ".join(DTYPES))


def page_format(format: str | None, output: Path | None) -> str:
    if format is not None:
        check_choice("--format", format, FORMATS)
        return format
    if output is None:
        return "terminal" if sys.stdout.isatty() else "text"
    suffixes = {".txt": "text", ".md": "markdown", ".html": "html", ".json": "json"}
    if output.suffix not in suffixes:
        raise InputError("unknown_suffix", path=output, names=", ".join(suffixes))
    return suffixes[output.suffix]


def graph_format(format: str | None, output: Path | None) -> str:
    if format is None and output is None:
        return "text"
    if format is None:
        found = next((name for name, suffix in SUFFIXES.items() if output and output.suffix == suffix), None)
        if found is None:
            raise InputError("unknown_suffix", path=output, names=", ".join(SUFFIXES.values()))
        return found
    check_choice("--format", format, tuple(SUFFIXES))
    if format in ("png", "pdf") and output is None and sys.stdout.isatty():
        raise UsageError("bytes_to_terminal", format=format)
    return format


def check_numbers(width: int | None, seed: int, effort: float) -> None:
    if not 0 < effort < float("inf"):
        raise UsageError("bad_effort", effort=effort)
    if width is not None and width < LEAST_WIDTH:
        raise UsageError("narrow", width=width, least=LEAST_WIDTH)
    if not 0 <= seed < 2**63:
        raise UsageError("bad_seed", seed=seed)


def check_least(numbers: Mapping[str, tuple[int, int]]) -> None:
    for option, (number, least) in numbers.items():
        if number < least:
            raise UsageError("too_small", option=option, number=number, least=least)
