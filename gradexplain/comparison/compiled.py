"""Compiled code: compiled without a trace in the user's own, and the region in which it parts from what was written.

The compiler cuts a function into regions, at its graph breaks, and hands each to the backend. Where the whole differs,
each region is compiled alone, with the others as they were written: the first that still differs is where it begins.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import nn

from gradexplain.comparison.comparing import judged
from gradexplain.comparison.sides import Side
from gradexplain.findings.finding import Finding
from gradexplain.recording.frames import is_ours_or_torchs
from gradexplain.targets.sources import Source

# So many regions are tried, each of which is compiled once more.
_MOST_REGIONS = 16
_LINE = re.compile(r'File "(.+?)", line (\d+), in')


@contextmanager
def compiling(function: Callable[..., object]) -> Iterator[None]:
    """Lets a block compile a function as often as it wants, and forgets what it compiled if nobody else did before.

    Past a limit, the compiler would hand back the code as it was written without a word. What is compiled draws the
    random numbers that the code as it was written draws.
    """
    import torch._dynamo.config as config
    import torch._inductor.config as inductor
    from torch._C._dynamo import eval_frame

    code = _code_of(function)
    before = bool(code and eval_frame._debug_get_cache_entry_list(code))
    try:
        with (
            config.patch(recompile_limit=10**6, accumulated_recompile_limit=10**6),
            inductor.patch(fallback_random=True),
        ):
            yield
    finally:
        if code is not None and not before:
            eval_frame.reset_code(code)


def _code_of(function: Callable[..., object]) -> CodeType | None:
    return getattr(type(function).forward if isinstance(function, nn.Module) else function, "__code__", None)


@dataclass
class _Regions:
    """A backend that compiles one region alone, the others as they are; it notes the lines of each."""

    compile: Callable[..., Any]
    chosen: int | None = None
    lines: list[Sequence[Source]] = field(default_factory=list)

    def __call__(self, module: Any, inputs: Any) -> Any:
        number = len(self.lines)
        self.lines.append(tuple(_lines(module)))
        return self.compile(module, inputs) if number == self.chosen else module.forward


def _lines(module: Any) -> Iterator[Source]:
    """Yields the user's lines of a region, in order."""
    for node in module.graph.nodes:
        places = [p for p in _LINE.findall(node.meta.get("stack_trace") or "") if not is_ours_or_torchs(p[0])]
        if places:
            file, line = places[-1][0], int(places[-1][1])
            yield Source(file, line, linecache.getline(file, line).strip())


def parting_region(
    backend: str, function: Callable[..., object], sides: Callable[[Callable[..., object]], tuple[Side, Side]]
) -> Finding | None:
    """Returns the first region that differs when it is compiled alone, `None` where none does by itself."""
    from torch._dynamo.backends.registry import lookup_backend

    real = lookup_backend(backend)
    plain = _Regions(real)
    if _differs(plain, function, sides):
        return Finding("compiled-unlike", {})
    for number in range(min(len(plain.lines), _MOST_REGIONS)):
        if not _differs(_Regions(real, number), function, sides):
            continue
        lines = plain.lines[number]
        data = {"number": number + 1, "count": len(plain.lines), "backend": backend}
        if not lines:
            return Finding("compiled-part", data)
        ends = {"first": _short(lines[0]), "last": _short(lines[-1])}
        before = plain.lines[number - 1][-1:] if number else ()
        if before:
            return Finding("compiled-after-break", {**data, **ends, "before": _short(before[0])})
        return Finding("compiled-region", {**data, **ends})
    return None


def _short(source: Source) -> str:
    return f"{Path(source.file).name}:{source.line}"


def _differs(
    regions: _Regions, function: Callable[..., object], sides: Callable[[Callable[..., object]], tuple[Side, Side]]
) -> bool:
    with suppress(Exception):  # what cannot be compiled in part says nothing
        one, other = sides(torch.compile(function, backend=regions))
        return judged(one, other, one.run(), other.run()).differs
    return False
