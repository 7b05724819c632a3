"""What keeps the graphs of earlier losses in memory: a variable or an attribute, and the line that puts them there."""

from __future__ import annotations

import ast
import linecache
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import FrameType, ModuleType
from typing import Any

from torch import Tensor

from gradexplain.recording.frames import is_installed, is_ours_or_torchs
from gradexplain.recording.naming import visible
from gradexplain.targets.sources import Source
from gradexplain.training.lines import classes_of

# So many things that the script can reach are looked at, and so many at either end of a list.
_MOST, _ENDS = 10_000, 8
_OF_MODULES = ("_buffers", "_parameters", "_modules")


@dataclass(frozen=True)
class _Held:
    """Something that the script can reach, the last name on the way to it, and where lines with that name may stand."""

    value: Any
    name: str
    places: tuple[tuple[str, range | None], ...]  # files, and the lines of the function that has the variable


def kept_by(frame: FrameType | None, is_kept: Callable[[Tensor], bool]) -> Source | None:
    """Returns the line that keeps a tensor of a kind where the code of a frame, or of those that called it, has it."""
    waiting, seen = deque(_variables(frame)), set[int]()
    while waiting and len(seen) < _MOST:
        held = waiting.popleft()
        if id(held.value) in seen:
            continue
        seen.add(id(held.value))
        if not isinstance(held.value, Tensor):
            waiting.extend(_inside(held))
        elif is_kept(held.value) and (line := _line_of(held)) is not None:
            return line
    return None


def _variables(frame: FrameType | None) -> Iterator[_Held]:
    while frame is not None:
        code = frame.f_code
        if _is_users(code.co_filename):
            numbers = [line for _, _, line in code.co_lines() if line]
            own, within = {*code.co_varnames, *code.co_cellvars}, range(min(numbers), max(numbers) + 1)
            for name, value in visible(frame).items():
                yield _Held(value, name, ((code.co_filename, within if name in own else None),))
        frame = frame.f_back


def _inside(held: _Held) -> Iterator[_Held]:
    value, kind = held.value, type(held.value)
    if isinstance(value, dict):
        yield from (_Held(v, held.name, held.places) for v in islice([*value.values()], 8 * _ENDS))
    elif isinstance(value, (list, tuple, deque)):
        items = [*value]
        yield from (_Held(v, held.name, held.places) for v in (*items[:_ENDS], *items[_ENDS:][-_ENDS:]))
    elif not isinstance(value, (type, ModuleType)) and not kind.__module__.startswith("gradexplain."):
        places = tuple((file, None) for _, file in classes_of(kind) if _is_users(file))
        for name, own in [*getattr(value, "__dict__", {}).items()]:
            parts = [*own.items()] if name in _OF_MODULES else [(name, own)]
            yield from (_Held(part, key, places) for key, part in parts)


def _is_users(file: str) -> bool:
    return not (is_installed(file) or is_ours_or_torchs(file))


def _line_of(held: _Held) -> Source | None:
    """Returns the line that adds to what has a name; where none does, the last that sets it to what is computed."""
    for file, within in held.places:
        try:
            tree = ast.parse("".join(linecache.getlines(file)))
        except SyntaxError:
            continue
        statements = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and (within is None or n.lineno in within)]
        adding = [n for n in statements if _adds(n, held.name)]
        setting = [n for n in statements if isinstance(n, ast.Assign) and any(_is(t, held.name) for t in n.targets)]
        setting = [n for n in setting if not isinstance(n.value, (ast.Constant, ast.List, ast.Dict))]
        if found := [*adding, *setting[-1:]]:
            return Source(file, found[0].lineno, linecache.getline(file, found[0].lineno).strip())
    return None


def _adds(node: ast.stmt, name: str) -> bool:
    """Says whether a statement makes something new of what has a name and of something else, or puts it in."""
    if isinstance(node, ast.AugAssign):
        return _is(node.target, name)
    if isinstance(node, ast.Assign):
        into = [target for target in node.targets if _is(target, name)]
        read = any(_is(part, name) for part in ast.walk(node.value))
        return bool(into) and (read or any(isinstance(target, ast.Subscript) for target in into))
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    function, changes = node.value.func, False
    while isinstance(function, ast.Attribute):  # x.mul_(0.9).add_(y) changes x
        changes = changes or function.attr in _PUTTING or (function.attr[-1] == "_" and function.attr[0] != "_")
        if not isinstance(function.value, ast.Call):
            return changes and _is(function.value, name)
        function = function.value.func
    return False


_PUTTING: Sequence[str] = ("append", "appendleft", "add", "extend", "insert", "setdefault", "update")


def _is(node: ast.AST, name: str) -> bool:
    """Says whether an expression is what has a name, or an item of it."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)
