"""Source places: from a code object and an instruction to the sub-expression that ran, exactly."""

from __future__ import annotations

import ast
import linecache
import re
import sys
from dataclasses import dataclass
from dis import opname
from functools import cache
from itertools import islice
from types import CodeType

# The file of what was typed as an expression.
EXPRESSION = "<expression>"
# First line and column, last line and column.
Span = tuple[int, int | None, int | None, int | None]
# What Python places at the target of an assignment or at a whole loop.
_OF_STATEMENTS = frozenset({"STORE_SUBSCR", "STORE_SLICE", "UNPACK_SEQUENCE", "UNPACK_EX", "GET_ITER", "FOR_ITER"})


@dataclass(frozen=True)
class Source:
    """A place in the user's code: the innermost sub-expression that ran, and the variable it was assigned to.

    What ran in the backward pass of an expression stands at its place, has no code of its own, and `behind` is the
    expression's.
    """

    file: str
    line: int
    code: str
    target: str | None = None
    function: str = ""
    behind: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def cell_of(file: str) -> str | None:
    """Returns the number of the notebook's cell that IPython knows as `file`, `None` for any other file."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    named = shell.compile.format_code_name(file) if shell is not None else None
    number = re.search(r"\d+", named[1]) if named else None
    return number[0] if number else None


def source_at(code: CodeType, instruction: int) -> Source:
    """Returns the place of the instruction at byte offset `instruction` of `code`."""
    return _source_in(code.co_filename, code, instruction)


@cache
def _source_in(file: str, code: CodeType, instruction: int) -> Source:
    """Returns the place in `file`, by which equal code of two files is told apart: Python compares it as equal."""
    line, end_line, column, end_column = next(islice(code.co_positions(), instruction // 2, None))
    line = line or code.co_firstlineno
    if None in (end_line, column, end_column):
        return Source(file, line, linecache.getline(file, line).strip(), None, code.co_name)
    span = (line, column, end_line, end_column)
    shown = _spans(file).get(span, span) if opname[code.co_code[instruction]] in _OF_STATEMENTS else span
    return Source(file, line, _segment(file, *shown), _assignments(file).get(span), code.co_name)


def _segment(file: str, line: int, column: int | None, end_line: int | None, end_column: int | None) -> str:
    lines = [linecache.getline(file, n).encode() for n in range(line, (end_line or line) + 1)]
    if not lines or not lines[0]:
        return ""
    lines[-1] = lines[-1][:end_column]
    lines[0] = lines[0][column:]
    return " ".join(part.decode(errors="replace").strip() for part in lines)


@cache
def _assignments(file: str) -> dict[Span, str]:
    """Returns, by the span of a whole right-hand side, the plain name that it is assigned to."""
    return {
        _span(n.value): n.targets[0].id
        for n in _nodes(file)
        if isinstance(n, ast.Assign) and len(n.targets) == 1 and isinstance(n.targets[0], ast.Name)
    }


@cache
def _spans(file: str) -> dict[Span, Span]:
    """Returns, by the span that Python gives to what a statement does, as much of the statement as tells it.

    That is all of an assignment into a part, or of one that takes something apart, and the head of a loop.
    """
    found: dict[Span, Span] = {}
    for n in _nodes(file):
        if isinstance(n, ast.For):
            found[_span(n)] = (*_span(n)[:2], *_span(n.iter)[2:])
        elif isinstance(n, (ast.Assign, ast.AugAssign)):
            for target in n.targets if isinstance(n, ast.Assign) else [n.target]:
                found[_span(target)] = _span(n)
    return found


@cache
def _nodes(file: str) -> tuple[ast.AST, ...]:
    try:
        return tuple(ast.walk(ast.parse("".join(linecache.getlines(file)))))
    except (SyntaxError, ValueError):
        return ()


def _span(node: ast.expr | ast.stmt) -> Span:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset
