"""An expression as a title shows it: `x**2 + 2*x` as x² + 2x, in the formula language that matplotlib reads.

What is typeset is what was written, in its order; nothing is simplified. What has no such form stays as it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence

from gradexplain.targets.expression import parse
from gradexplain.targets.values import shown

# What a title has room for, in columns.
_COLUMNS = 44
# How tightly each part of a formula is bound; what is bound less tightly inside another stands in parentheses.
_SUM, _PRODUCT, _NEGATIVE, _POWER, _ATOM = range(5)
_UPRIGHT = {"sin", "cos", "tan", "sinh", "cosh", "tanh", "log", "max", "min"}
_GREEK = {"pi", "alpha", "beta", "gamma", "delta", "theta", "mu", "sigma", "tau", "phi", "omega"}


class _Unset(Exception):
    """A part of an expression that has no form of its own here."""


def titled(expression: str, columns: int = _COLUMNS) -> str:
    """Returns an expression on one line: typeset where it can be, and cut where a title has no more room."""
    text = " ".join(expression.split())
    if len(text) > columns:
        return shown(text, columns)
    formula = typeset(text)
    return text if formula is None else f"${formula}$"


def typeset(expression: str) -> str | None:
    """Returns the formula of an expression, without spaces or dollars; `None` for what has none."""
    statements = parse(expression).statements
    if len(statements) > 1 or statements[0].targets:
        return None
    try:
        return _formula(statements[0].value)[0]
    except _Unset:
        return None


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# What a formula says without signs of its own, in the order in which it is read.
_SPOKEN: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]] = (
    (r"\\math[a-z]+\{((?:[^{}\\]|\\.)*)\}", r"\1"),
    (r"\^\{?(-?\d+)\}?", lambda found: found[1].translate(_SUPERSCRIPTS)),
    (r"\\,", " "),
    (r"\\cdot", "·"),
    (r"\\sqrt", "√"),
    (r"\\(?=\w)", ""),
    (r"\{", "("),
    (r"\}", ")"),
)


def spoken(title: str) -> str:
    """Returns a title as one line of plain text, as a screen reader and the name of a window take it."""
    line = " ".join(title.split())
    if line.count("$") < 2:
        return line
    parts = line.split("$")
    for i in range(1, len(parts), 2):
        for pattern, text in _SPOKEN:
            parts[i] = re.sub(pattern, text, parts[i])
    return "".join(parts)


def _formula(node: ast.expr) -> tuple[str, int]:
    """Returns a formula, and how tightly it is bound."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _number(repr(value))
        case ast.Name(id=name):
            return _name(name), _ATOM
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return "-" + _within(operand, _POWER), _NEGATIVE
        case ast.BinOp(left, ast.Add() | ast.Sub() as op, right):
            # x-(y-1) keeps its parentheses, and so does x+(-1)
            sign = "+" if isinstance(op, ast.Add) else "-"
            return f"{_within(left, _SUM)}{sign}{_within(right, _PRODUCT, negative=False)}", _SUM
        case ast.BinOp(left, ast.Mult(), right):
            return _product(left, right), _PRODUCT
        case ast.BinOp(left, ast.Div(), right):
            return f"{_within(left, _PRODUCT)}/{_within(right, _POWER)}", _PRODUCT
        case ast.BinOp(left, ast.Pow(), right):
            return _power(left, right), _POWER
        case ast.Call(func, args, []):
            return _call(func, args)
    raise _Unset


def _within(node: ast.expr, least: int, *, negative: bool = True) -> str:
    """Returns a part of a formula, in parentheses where it is bound less tightly than it must be there."""
    text, bound = _formula(node)
    return f"({text})" if bound < least or (bound == _NEGATIVE and not negative) else text


def _number(text: str) -> tuple[str, int]:
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text, _ATOM
    power = f"10^{{{int(exponent)}}}"
    return (power, _POWER) if mantissa == "1" else (rf"{mantissa}\cdot{power}", _PRODUCT)


def _name(name: str) -> str:
    word, _, below = name.partition("_")
    if not word or "_" in below:
        return rf"\mathit{{{name.replace('_', chr(92) + '_')}}}"
    letter = rf"\{word}" if word in _GREEK else word if len(word) == 1 else rf"\mathit{{{word}}}"
    return rf"{letter}_{{\mathit{{{below}}}}}" if below else letter


def _product(left: ast.expr, right: ast.expr) -> str:
    """Returns a product as it is written by hand: 2x, and a dot where two parts would read as one."""
    one, other = _within(left, _PRODUCT), _within(right, _POWER, negative=False)
    if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Div):
        one = f"({one})"  # a/b·c would read as a/(b·c)
    if other[0].isdigit() or (other[0] == "(" and not one[-1].isdigit() and one[-1] != ")"):
        return rf"{one}\cdot{other}"
    return one + other if isinstance(left, ast.Constant) else rf"{one}\,{other}"


def _power(base: ast.expr, exponent: ast.expr) -> str:
    over = _formula(exponent)[0]
    match base, exponent:
        case ast.Call(func=ast.Name(id=name), args=[inner]), ast.Constant(value=int()) if name in _UPRIGHT:
            return rf"\{name}^{{{over}}}({_formula(inner)[0]})"
    return f"{_within(base, _ATOM)}^{{{over}}}"


def _call(func: ast.expr, args: list[ast.expr]) -> tuple[str, int]:
    match func, args:
        case ast.Name(id="exp"), [inner]:
            return f"e^{{{_formula(inner)[0]}}}", _POWER
        case ast.Name(id="sqrt"), [inner]:
            return rf"\sqrt{{{_formula(inner)[0]}}}", _ATOM
        case ast.Name(id="abs"), [inner]:
            return f"|{_formula(inner)[0]}|", _ATOM
        case ast.Name(id=name), _:
            inside = ",".join(_formula(arg)[0] for arg in args)
            upright = rf"\{name}" if name in _UPRIGHT else rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}"
            return f"{upright}({inside})", _POWER  # sin(x)² could be either
    raise _Unset
