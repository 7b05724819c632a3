"""Displayed equations, and the reader that recomputes them from their own digits.

An equation is `label: expression = result`. `=` stands only where the displayed digits give the result exactly, `≈`
only where they give it within rounding: where the interval of the displayed operands (half a unit of the last digit
either way) meets the interval of the displayed result, and is narrow enough to say something about it. `↦` marks what
is not an equation: the machine's own number where its arithmetic rounds, overflows or underflows. `≠` is a
contradiction: no rounding makes this number of these operands, so that either the rule or torch is wrong.
"""

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import mpmath
from mpmath.ctx_iv import MPIntervalContext

from gradexplain.mathematics.terms import ARITY, SHOWN_NAME, Term, number_text, text

DIGITS = (5, 6, 7, 9, 12, 17)
EXACT, ROUNDED, STORED, CONTRADICTED = "=", "≈", "↦", "≠"
# Below this many digits a displayed number is exact, by the convention of `number_text`.
_ROUNDED_FROM = DIGITS[0]
# An `≈` whose operands leave the result open by more than this says too little: more digits are shown.
_NARROW = 2e-3


@dataclass(frozen=True)
class Equation:
    """One displayed equation. `value` is the captured number that `result` rounds."""

    label: str
    expression: str
    relation: str
    result: str
    value: float

    def __str__(self) -> str:
        return f"{self.label}: {self.expression} {self.relation} {self.result}"


def equation(label: str, term: Term, value: float) -> Equation:
    """Returns `label: term = value`, with as many digits as the equation needs to hold; `↦` or `≠` where none do."""
    for digits in (*DIGITS, DIGITS[2]):
        expression, result = text(term, digits), number_text(value, digits)
        relation = _relation(expression, result)
        if relation:
            return Equation(label, expression, relation, result, value)
    return Equation(label, expression, relation_of(expression, result, value), result, value)


def relation_of(expression: str, result: str, value: float) -> str:
    """Returns the strongest relation that may stand between the digits of both sides; `value` is what was captured."""
    return _relation(expression, result) or (STORED if _explained(expression, value) else CONTRADICTED)


def _relation(expression: str, result: str) -> str | None:
    return next((relation for relation in (EXACT, ROUNDED) if holds(expression, relation, result)), None)


# Rounding in the coarsest type, bfloat16, is a 256th of what is rounded; a few such errors may add up.
_COARSEST = 0.05
# The largest number of the narrowest type, float16.
_NARROWEST = 65504


# Rounded digits cannot tell on which side of a step these stand.
_STEPS = ("floor(", "ceil(", "round(", "trunc(")


def _explained(expression: str, value: float) -> bool:
    """Says whether rounding or overflow of a machine type can make `value` of `expression`."""
    try:
        tree = _parsed(expression)
        right = _value(tree, _POINTS)
        sizes = [abs(_value(part, _POINTS)) for part in _rounded_parts(tree)]
    except _UNREADABLE:
        return False
    if any(step in expression for step in _STEPS):
        return True
    largest = max((size for size in sizes if not mpmath.isnan(size)), default=0)
    if not math.isfinite(value) or not _finite(right):
        return bool(largest >= _NARROWEST)
    return bool(abs(right - value) <= _COARSEST * largest)


_SUM, _PRODUCT = (ast.Add, ast.Sub), (ast.Mult, ast.Div)


def _rounded_parts(tree: ast.expr) -> Iterator[ast.expr]:
    """Yields what rounding is measured by: summands, first factors, and what stands in parentheses and is no sum."""
    enclosed = [tree]
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(left, ast.Add() | ast.Sub(), right):
                yield from (right,) if _is(left, *_SUM) else (left, right)
            case ast.BinOp(left, ast.Mult() | ast.Div(), right):
                yield from () if _is(left, *_PRODUCT) else (left,)
                enclosed += [right] if _is(right, *_PRODUCT, ast.USub) else []
            case ast.BinOp(ast.Constant(numeral) as base, ast.Pow(), _):
                enclosed += [base] if "e" in str(numeral) else []
            case ast.BinOp(base, ast.Pow(), _):
                enclosed += [base] if _is(base, *_PRODUCT, ast.USub) else []
            case ast.Call(args=arguments):
                enclosed += arguments
    yield from (part for part in enclosed if not _is(part, *_SUM))


def _is(node: ast.expr, *signs: type[ast.AST]) -> bool:
    return isinstance(node, ast.BinOp | ast.UnaryOp) and isinstance(node.op, signs)


def recomputed(equations: Sequence[Equation], page: str) -> int:
    """Counts those of `equations` that stand on `page` and hold when read back from it.

    Two conditions: the digits on the page give the result, and the result rounds the number that was captured.
    """
    shown = [read for line in unwrapped(page) for read in read_equations(line)]
    remaining = {(e.label, e.expression, e.relation, e.result) for e in shown if holds(*e[1:])}
    return sum(
        (e.label, e.expression, e.relation, e.result) in remaining and rounds(e.result, e.value) for e in equations
    )


def rounds(result: str, value: float) -> bool:
    """Says whether the displayed `result` is `value`, correctly rounded to the digits displayed."""
    if not math.isfinite(value):
        return result == number_text(value, DIGITS[0])
    digits = max(_significant(result), 1)
    return any(result == number_text(value, d) for d in {*DIGITS, digits})


# ------------------------------------------------------------------------------------------------------- reading


class Read(NamedTuple):
    """An equation as it stands on a page."""

    label: str
    expression: str
    relation: str
    result: str


_EQUATION = re.compile(r"(?P<label>[^\s:][^:]*): (?P<expression>[^:=≈]*\S) (?P<relation>[=≈]) (?P<result>-?[\w.+-]+)$")
_GAP = re.compile(r"\s{3,}|│")
CONTINUATION = "↪"


def unwrapped(page: str) -> list[str]:
    """Returns the lines of a page, with lines that were broken at the margin joined again."""
    lines: list[str] = []
    for line in page.splitlines():
        stripped = line.strip()
        if stripped.startswith(CONTINUATION) and lines:
            lines[-1] += " " + stripped.removeprefix(CONTINUATION).strip()
        else:
            lines.append(line.rstrip())
    return lines


def read_equations(line: str) -> list[Read]:
    """Returns the equations of one line; several may stand side by side, three spaces apart."""
    equations = []
    for cell in _GAP.split(line):
        if match := _EQUATION.match(cell.strip(" `")):
            with suppress(*_UNREADABLE):
                _parsed(match["expression"])
                equations.append(Read(*match.groups()))
    return equations


def holds(expression: str, relation: str, result: str) -> bool:
    """Says whether `expression relation result` is true of the digits that stand there."""
    try:
        left, right = _parsed(expression), _parsed(result)
        given, shown = _value(left, _POINTS), _value(right, _POINTS)
        if not (_finite(given) and _finite(shown)):
            return relation == EXACT and bool(given == shown or (mpmath.isnan(given) and mpmath.isnan(shown)))
        if relation == EXACT:
            return bool(abs(given - shown) <= _ROUNDING * max(abs(shown), _LEAST))
        operands, rounded = _value(left, _INTERVALS), _value(right, _INTERVALS)
    except _UNREADABLE:
        return False
    meets = operands.a <= rounded.b and rounded.a <= operands.b
    return bool(meets and operands.delta <= _NARROW * abs(shown))


def _finite(value: Any) -> bool:
    return bool(mpmath.isfinite(value))


# --------------------------------------------------------------------------------------------------------- syntax

# What stands on a page, and how Python writes it.
_ON_A_PAGE = re.compile(r"[\w\s.,+\-×·/^()⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_SIGNS = str.maketrans({"×": " * ", "·": " * ", "^": " ** ", "π": "pi"})
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_NUMERAL = re.compile(r"\d+(\.\d*)?(e[+-]?\d+)?")
_NAMED = ("pi", "inf", "nan")
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "^"}
_ARITY = {SHOWN_NAME.get(name, name): count for name, count in ARITY.items() if name != "where"}
# What is no expression, and what has no number: log of an interval below zero, an exponent beyond display.
_UNREADABLE = (SyntaxError, ArithmeticError, ValueError, RecursionError)


@lru_cache(maxsize=4096)
def _parsed(expression: str) -> ast.expr:
    """Returns the tree of a displayed expression, the `value` of each number the numeral that stands on the page.

    It is parsed by Python and never executed; `SyntaxError` is raised for all that no page shows.
    """
    if not _ON_A_PAGE.fullmatch(expression):
        raise SyntaxError(expression)
    raised = _RAISED.sub(lambda match: f" ** {match[0].translate(_LOWERED)}", expression.strip())
    source = raised.translate(_SIGNS)
    tree = ast.parse(source, mode="eval").body
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant():
                node.value = source[node.col_offset : node.end_col_offset]
                known = _NUMERAL.fullmatch(str(node.value)) is not None
            case ast.Name(name):
                known = name in (_ARITY if node in called else _NAMED)
            case ast.Call(ast.Name(name), arguments, []):
                known = len(arguments) == _ARITY.get(name)
            case ast.UnaryOp(ast.USub()) | ast.BinOp():
                known = True
            case _:
                known = isinstance(node, (ast.Load, ast.USub, *_OPERATORS))
        if not known:
            raise SyntaxError(expression)
    return tree


class _Arithmetic(NamedTuple):
    """How a tree becomes a number: what a numeral stands for, and the operators and functions by name."""

    number: Callable[[str], Any]
    functions: Mapping[str, Callable[..., Any]]


def _value(tree: ast.AST, arithmetic: _Arithmetic) -> Any:
    """Returns what a tree comes to in an arithmetic."""
    match tree:
        case ast.Constant(numeral) | ast.Name(numeral):
            return arithmetic.number(str(numeral))
        case ast.UnaryOp(_, operand):
            return -_value(operand, arithmetic)
        case ast.BinOp(left, sign, right):
            function = arithmetic.functions[_OPERATORS[type(sign)]]
            return function(_value(left, arithmetic), _value(right, arithmetic))
        case ast.Call(ast.Name(name), arguments):
            return arithmetic.functions[name](*(_value(a, arithmetic) for a in arguments))
    raise AssertionError(ast.dump(tree))


def _significant(token: str) -> int:
    digits = re.sub(r"e.*|[.\-]", "", token).lstrip("0")
    return len(digits)


# --------------------------------------------------------------------------------------------------------- points

# Contexts of our own: the precision of mpmath's is the whole process's.
_mp = mpmath.MPContext()
_mp.dps = 50
# What arithmetic in 50 digits leaves open of an equation that is exact.
_ROUNDING = _mp.mpf(10) ** -40
# Less than this is zero in every machine type.
_LEAST = _mp.mpf(10) ** -300


def _point(numeral: str) -> Any:
    return +_mp.pi if numeral == "pi" else _mp.mpf(numeral)


# IEEE arithmetic where mathematics has none: the equations show what the machine computes at poles.
def _divide(a: Any, b: Any) -> Any:
    if b != 0:
        return a / b
    return _mp.nan if a == 0 or mpmath.isnan(a) else (_mp.inf if a > 0 else -_mp.inf)


def _raise(a: Any, b: Any) -> Any:
    if a == 0 and b < 0:
        return _mp.inf
    if a < 0 and _finite(b) and b != int(b):
        return _mp.nan
    if _finite(b) and abs(b) > 10**6:
        raise ValueError("an exponent beyond display")
    return _mp.power(a, b)


def _bessel(order: int) -> Callable[[Any], Any]:
    """Returns I₀ or I₁, which grow without bound: I₀ is even, I₁ is odd."""
    return lambda a: _mp.besseli(order, a) if _finite(a) else (abs(a) if order == 0 else a)


def _real(function: Callable[[Any], Any], domain: Callable[[Any], bool] = lambda a: True) -> Callable[[Any], Any]:
    """Returns nan outside the real domain, as the machine does."""
    return lambda a: _mp.nan if mpmath.isnan(a) or not domain(a) else _mp.mpf(function(a))


def _logarithm(base: int | None) -> Callable[[Any], Any]:
    taken = _real(_mp.ln if base is None else lambda a: _mp.log(a, base), lambda a: a > 0)
    return lambda a: -_mp.inf if a == 0 else taken(a)


def _in_unit(a: Any) -> bool:
    return bool(-1 <= a <= 1)


def _inside_unit(a: Any) -> bool:
    return bool(-1 < a < 1)


def _no_pole(a: Any) -> bool:
    return bool(a > 0 or a != int(a))


_ln, _sqrt = _logarithm(None), _real(_mp.sqrt, lambda a: a >= 0)
# fmt: off
_POINTS = _Arithmetic(_point, {
    "+": operator.add,                  "-": operator.sub,                "*": operator.mul,
    "/": _divide,                       "^": _raise,                      "abs": abs,
    "exp": _real(_mp.exp),              "expm1": _real(_mp.expm1),        "ln": _ln,
    "log1p": lambda a: _ln(1 + a),      "log2": _logarithm(2),            "log10": _logarithm(10),
    "sqrt": _sqrt,                      "rsqrt": lambda a: _divide(_mp.mpf(1), _sqrt(a)),
    "sin": _real(_mp.sin),              "cos": _real(_mp.cos),            "tan": _real(_mp.tan),
    "asin": _real(_mp.asin, _in_unit),  "acos": _real(_mp.acos, _in_unit), "atan": _real(_mp.atan),
    "sinh": _real(_mp.sinh),            "cosh": _real(_mp.cosh),          "tanh": _real(_mp.tanh),
    "asinh": _real(_mp.asinh),          "acosh": _real(_mp.acosh, lambda a: a >= 1),
    "atanh": _real(_mp.atanh, _inside_unit), "sigmoid": _real(lambda a: 1 / (1 + _mp.exp(-a))),
    "erf": _real(_mp.erf),              "erfc": _real(_mp.erfc),          "erfinv": _real(_mp.erfinv, _inside_unit),
    "lgamma": _real(lambda a: _mp.log(abs(_mp.gamma(a))), _no_pole),
    "digamma": _real(_mp.digamma, _no_pole),
    "trigamma": _real(lambda a: _mp.psi(1, a), _no_pole),
    "floor": _mp.floor,                 "ceil": _mp.ceil,                 "round": _mp.nint,
    "trunc": lambda a: _mp.floor(a) if a > 0 else _mp.ceil(a),
    "sign": _mp.sign,                   "sinc": _mp.sincpi,               "atan2": _mp.atan2,
    "i0": _bessel(0),                   "i1": _bessel(1),
    "maximum": max,                     "minimum": min,
})
# fmt: on

# ------------------------------------------------------------------------------------------------------ intervals

_iv = MPIntervalContext()
_iv.dps = _mp.dps


def _interval(numeral: str) -> Any:
    """Returns the interval of the numbers that round to a numeral; one of few digits is exact."""
    middle = _point(numeral)
    if _significant(numeral) < _ROUNDED_FROM or numeral.isdigit() or numeral in _NAMED:
        return _iv.mpf(middle)
    mantissa, _, exponent = numeral.partition("e")
    half = _mp.mpf(10) ** (int(exponent or 0) - len(mantissa.partition(".")[2])) / 2
    return _iv.mpf((middle - half, middle + half))


# A display of 7 digits leaves a float32 open by 1e-6 to 1e-7 of itself, where the float32 itself is rounded by 2**-24,
# which is 6e-8, at each operation on the page. A twentieth of an interval, 5e-8 of the number where it is widest, is
# left on either side of it for this; it is enough too for the bend of a function whose corners alone are taken.
_SLACK = _iv.mpf((-0.05, 0.05))


def _by_corners(function: Callable[..., Any]) -> Callable[..., Any]:
    """Carries intervals through a function by their ends and middles: exact where it is monotone in each."""

    def apply(*arguments: Any) -> Any:
        corners = itertools.product(*((a.a,) if a.a == a.b else (a.a, a.mid, a.b) for a in arguments))
        values = [function(*map(_mp.mpf, corner)) for corner in corners]
        return _iv.mpf((min(values), max(values)))

    return apply


def _power(a: Any, b: Any) -> Any:
    """Even powers turn at zero; the others are monotone in both, where they are real."""
    return a**b if _iv.isint(b) else _by_corners(_raise)(a, b)


def _carried(name: str, point: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of intervals: of exact numbers what it is of points, with the machine's poles."""
    carry = _BY_MPMATH.get(name) or _by_corners(point)

    def apply(*arguments: Any) -> Any:
        if all(a.a == a.b for a in arguments):
            return _iv.mpf(point(*map(_mp.mpf, arguments)))
        result = carry(*arguments)
        return result + _SLACK * result.delta

    return apply


_BY_MPMATH: Mapping[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "^": _power, "abs": abs,
    "exp": _iv.exp, "ln": _iv.ln, "sqrt": _iv.sqrt, "sin": _iv.sin, "cos": _iv.cos,
}  # fmt: skip
_INTERVALS = _Arithmetic(_interval, {name: _carried(name, point) for name, point in _POINTS.functions.items()})
