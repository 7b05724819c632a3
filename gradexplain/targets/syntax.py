"""From the text of an expression to Python's syntax tree, and the places in it that errors point at."""

from __future__ import annotations

import ast
import re
import textwrap
import unicodedata
import warnings

from gradexplain.errors import InputError
from gradexplain.targets.values import first_line, shown

MAX_LENGTH = 10_000  # characters
MAX_DEPTH = 100  # nested operations
# What mathematics writes and Python does not.
SIGNS = str.maketrans({
    "²": "**2", "³": "**3", "⁴": "**4", "×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "√": "sqrt",
    "（": "(", "）": ")", "，": ",", "；": ";", "＝": "=", "＋": "+",
})  # fmt: skip
FACTOR = re.compile(r"(?<![\w.])(\d+\.?\d*(?:[eE][+-]?\d+)?) ?(?=[^\W\d]|\()")
DEFINITION = re.compile(r"^[^\W\d]\w*\s*\([\w\s,]*\)\s*=(?!=)\s*")


def cleaned(text: str) -> str:
    """Returns `text` without outer space and with lines that end as Python's parser ends them."""
    if len(text) > MAX_LENGTH:
        raise InputError("expression_too_long", length=len(text), limit=MAX_LENGTH)
    if "\0" in text:
        raise InputError("expression_null_byte", position=text.index("\0") + 1)
    text = textwrap.dedent(text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    if not text.strip(" \t\f\n;"):
        raise InputError("expression_empty")
    return text


def tree_of(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python comments on style, such as `1if x`; we answer with errors only
            tree = ast.parse(text)
    except (MemoryError, RecursionError) as error:
        raise InputError("expression_too_deep", limit=MAX_DEPTH, piece=shown(text, 40)) from error
    except SyntaxError as error:
        raise _syntax_fault(error, text) from error
    except ValueError as error:  # surrogates, which no file can hold
        raise InputError("expression_not_text", reason=first_line(error)) from error
    if not tree.body:  # a comment
        raise InputError("expression_empty")
    return tree


def _syntax_fault(error: SyntaxError, text: str) -> InputError:
    if "too many nested" in error.msg:
        return InputError("expression_too_deep", limit=MAX_DEPTH, piece=shown(text, 40))
    line = min(max(error.lineno or 1, 1), text.count("\n") + 1)
    column = max(error.offset or 1, 1)
    same_line = error.end_lineno == error.lineno and error.end_offset is not None
    width = max(error.end_offset - column, 1) if same_line and error.end_offset else 1
    source = text.split("\n")[line - 1]
    at = place(line, column, width, source)
    if "Exceeds the limit" in error.msg:
        return InputError("number_too_large", **at)
    if fixed := _meant(text):
        return InputError("expression_meant", fixed=shown(fixed, 200), **at)
    return InputError("expression_syntax", reason=shown(error.msg, 200).rstrip(".?"), **at)


def _meant(text: str) -> str | None:
    """Returns how Python writes mathematics such as `2x`, `x²` and `f(x) = x**2`; `None` where that is no Python."""
    fixed = DEFINITION.sub("", FACTOR.sub(r"\1*", text.translate(SIGNS)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(fixed)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return fixed


def check_depth(tree: ast.AST, text: str) -> None:
    """Refuses deep nesting without recursion, so that what follows may recurse."""
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH + 2):  # the module and its statement are no nesting
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    raise InputError("expression_too_deep", limit=MAX_DEPTH, piece=shown(text, 40))


# ---- places ----------------------------------------------------------------------------------------------------------


def fault_at(key: str, text: str, node: ast.expr | ast.stmt | ast.keyword, **data: object) -> InputError:
    """Returns the error `key` at `node`."""
    return InputError(key, **place_of(text, node), **data)


def place_of(text: str, node: ast.expr | ast.stmt | ast.keyword) -> dict[str, object]:
    line = text.split("\n")[node.lineno - 1]
    encoded = line.encode()  # ast counts in UTF-8
    start = len(encoded[: node.col_offset].decode())
    end = len(encoded[: node.end_col_offset].decode()) if node.end_lineno == node.lineno else len(line)
    return place(node.lineno, start + 1, end - start, line)


def place(line: int, column: int, width: int, source: str) -> dict[str, object]:
    piece = source[column - 1 : column - 1 + width]
    return {"line": line, "column": column, "piece": shown(piece, 40), "pointer": _pointer(source, column - 1, width)}


def _pointer(source: str, start: int, width: int) -> str:
    """Returns the line, or the part of a long one around `start`, with a caret under the piece."""
    left = max(0, start - 40)
    shift = "…" if left else ""
    before, piece = shift + shown(source[left:start]), shown(source[start : start + width], 30)
    after = shown(source[start + width : start + width + 30], 30)
    mark = "^" + "~" * (_columns(piece) - 1)
    return f"    {before}{piece}{after}".rstrip() + f"\n    {' ' * _columns(before)}{mark}"


def _columns(text: str) -> int:
    """Returns how many terminal columns `text` takes; Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
