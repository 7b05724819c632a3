"""What a displayed expression comes to: exactly, between two bounds, and in the arithmetic of a machine's type.

A page's expression is read by Python's parser, never executed, and carried out in one of three arithmetics. The exact
one has fractions, and 50 digits where a function of them is not rational; the enclosing one has intervals that hold
what the exact one rounds; the machine's has the intervals of what a type that rounds each operation may come to.
"""

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

import mpmath
from mpmath.ctx_iv import MPIntervalContext

from gradexplain.mathematics.digits import Rounding
from gradexplain.mathematics.terms import ARITY, SHOWN_NAME

# What is no expression, and what has no number: log of an interval below zero, an exponent beyond display.
UNREADABLE = (SyntaxError, ArithmeticError, ValueError, RecursionError)

# --------------------------------------------------------------------------------------------------------- syntax

# What stands on a page, and how Python writes it.
_ON_A_PAGE = re.compile(r"[\w\s.,+\-×·/^()⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_SIGNS = str.maketrans({"×": " * ", "·": " * ", "^": " ** ", "π": "pi"})
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_NUMERAL = re.compile(r"\d+(\.\d*)?(e[+-]?\d{1,3})?")
_NAMED = ("pi", "inf", "nan")
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "^"}
_ARITY = {SHOWN_NAME.get(name, name): count for name, count in ARITY.items() if name != "where"}


@lru_cache(maxsize=4096)
def parsed(expression: str) -> ast.expr:
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


class _Arithmetic(Protocol):
    """How a tree becomes a number: what a numeral stands for, and what an operator or a function makes of numbers."""

    def number(self, numeral: str) -> Any: ...

    def apply(self, name: str, *arguments: Any) -> Any: ...


def _value(tree: ast.AST, arithmetic: _Arithmetic) -> Any:
    """Returns what a tree comes to in an arithmetic."""
    match tree:
        case ast.Constant(numeral) | ast.Name(numeral):
            return arithmetic.number(str(numeral))
        case ast.UnaryOp(_, operand):
            return -_value(operand, arithmetic)
        case ast.BinOp(left, sign, right):
            return arithmetic.apply(_OPERATORS[type(sign)], _value(left, arithmetic), _value(right, arithmetic))
        case ast.Call(ast.Name(name), arguments):
            return arithmetic.apply(name, *(_value(a, arithmetic) for a in arguments))
    raise AssertionError(ast.dump(tree))


# --------------------------------------------------------------------------------------------------------- points

# Contexts of our own: the precision of mpmath's is the whole process's.
_mp = mpmath.MPContext()
_iv = MPIntervalContext()
_DIGITS = 50
# Where so many leave a question open, the numbers of every machine type have less than this between them.
_MOST_DIGITS = 700
_mp.dps = _iv.dps = _DIGITS
# Digits of mpmath's functions that are not relied on.
_GUARD = 8
# Beyond these many binary digits before the point no function is asked.
_LARGEST = 4096
# No fraction is raised to a power of more bits than this.
_MOST_BITS = 100_000


@contextmanager
def _precision(digits: int) -> Iterator[None]:
    _mp.dps = _iv.dps = digits
    try:
        yield
    finally:
        _mp.dps = _iv.dps = _DIGITS


# IEEE arithmetic where mathematics has none: the equations show what the machine computes at poles.
def _divide(a: Any, b: Any) -> Any:
    if b != 0:
        return a / b
    return _mp.nan if a == 0 or mpmath.isnan(a) else (_mp.inf if a > 0 else -_mp.inf)


def _raise(a: Any, b: Any) -> Any:
    if a == 0 and b < 0:
        return _mp.inf
    if a < 0 and mpmath.isfinite(b) and b != int(b):
        return _mp.nan
    if mpmath.isfinite(b) and abs(b) > 10**6:
        raise ValueError("an exponent beyond display")
    return _mp.power(a, b)


def _bessel(order: int) -> Callable[[Any], Any]:
    """Returns I₀ or I₁, which grow without bound: I₀ is even, I₁ is odd."""
    return lambda a: _mp.besseli(order, a) if mpmath.isfinite(a) else (abs(a) if order == 0 else a)


def _real(function: Callable[[Any], Any], domain: Callable[[Any], bool] = lambda a: True) -> Callable[[Any], Any]:
    """Returns nan outside the real domain, as the machine does."""

    def apply(a: Any) -> Any:
        if mpmath.isnan(a) or not domain(a):
            return _mp.nan
        if mpmath.isfinite(a) and a != 0 and _mp.mag(a) > _LARGEST:
            raise ValueError("a number beyond display")
        return _mp.mpf(function(a))

    return apply


def _logarithm(base: int | None) -> Callable[[Any], Any]:
    taken = _real(_mp.ln if base is None else lambda a: _mp.log(a, base), lambda a: a > 0)
    return lambda a: -_mp.inf if a == 0 else taken(a)


def _in_unit(a: Any) -> bool:
    return bool(-1 <= a <= 1)


def _inside_unit(a: Any) -> bool:
    return bool(-1 < a < 1)


def _no_pole(a: Any) -> bool:
    return bool(a > 0 or a != int(a))


_sqrt = _real(_mp.sqrt, lambda a: a >= 0)
# fmt: off
_POINTS: Mapping[str, Callable[..., Any]] = {
    "+": operator.add,                  "-": operator.sub,                "*": operator.mul,
    "/": _divide,                       "^": _raise,                      "abs": abs,
    "exp": _real(_mp.exp),              "expm1": _real(_mp.expm1),        "ln": _logarithm(None),
    "log1p": lambda a: -_mp.inf if a == -1 else _real(_mp.log1p, lambda a: a > -1)(a),
    "log2": _logarithm(2),              "log10": _logarithm(10),
    "sqrt": _sqrt,                      "rsqrt": lambda a: _divide(_mp.mpf(1), _sqrt(a)),
    "sin": _real(_mp.sin),              "cos": _real(_mp.cos),            "tan": _real(_mp.tan),
    "asin": _real(_mp.asin, _in_unit),  "acos": _real(_mp.acos, _in_unit), "atan": _real(_mp.atan),
    "sinh": _real(_mp.sinh),            "cosh": _real(_mp.cosh),          "tanh": _real(_mp.tanh),
    "asinh": _real(_mp.asinh),          "acosh": _real(_mp.acosh, lambda a: a >= 1),
    "atanh": _real(_mp.atanh, _inside_unit), "sigmoid": _real(lambda a: 1 / (1 + _mp.exp(-a))),
    "erf": _real(_mp.erf),              "erfc": _real(_mp.erfc),          "erfinv": _real(_mp.erfinv, _inside_unit),
    "lgamma": _real(lambda a: _mp.re(_mp.loggamma(a)), _no_pole),
    "digamma": _real(_mp.digamma, _no_pole),
    "trigamma": _real(lambda a: _mp.psi(1, a), _no_pole),
    "floor": _mp.floor,                 "ceil": _mp.ceil,                 "round": _mp.nint,
    "trunc": lambda a: _mp.floor(a) if a > 0 else _mp.ceil(a),
    "sign": _mp.sign,                   "sinc": _mp.sincpi,               "atan2": _mp.atan2,
    "i0": _bessel(0),                   "i1": _bessel(1),
    "maximum": max,                     "minimum": min,
}
# fmt: on

# ---------------------------------------------------------------------------------------------------------- exact


def _root(a: Fraction, order: int) -> Fraction | None:
    """Returns the root of a fraction, its order a power of two, where that is a fraction."""
    while order > 1 and a >= 0:
        root = Fraction(math.isqrt(a.numerator), math.isqrt(a.denominator))
        if root * root != a:
            return None
        a, order = root, order // 2
    return a if order == 1 else None


def _rational_power(a: Fraction, b: Fraction) -> Fraction | None:
    if a == 0 and b < 0:
        return None
    bits = max(a.numerator.bit_length(), a.denominator.bit_length())
    base = _root(a, b.denominator) if b.denominator & (b.denominator - 1) == 0 else None
    return base**b.numerator if base is not None and bits * abs(b.numerator) <= _MOST_BITS else None


def _rational_logarithm(base: int) -> Callable[[Fraction], Fraction | None]:
    def apply(a: Fraction) -> Fraction | None:
        if a <= 0:
            return None
        power = round(math.log(a.numerator, base) - math.log(a.denominator, base))
        return Fraction(power) if Fraction(base) ** power == a else None

    return apply


def _known(values: Mapping[int, float]) -> Callable[[Fraction], Fraction | None]:
    """Returns a function that is rational at these rational points alone."""
    return lambda a: Fraction(values[int(a)]) if a.denominator == 1 and int(a) in values else None


_AT_0, _ONE_AT_0, _AT_1 = _known({0: 0}), _known({0: 1}), _known({1: 0})
# Each function where it is rational at a rational point; `None` elsewhere, and where it has no value.
_RATIONAL: Mapping[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b if b else None,
    "^": _rational_power,
    "sqrt": lambda a: _root(a, 2),
    "rsqrt": lambda a: 1 / root if (root := _root(a, 2)) else None,
    **dict.fromkeys(("expm1", "log1p", "sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh"), _AT_0),
    **dict.fromkeys(("erf", "erfinv", "i1"), _AT_0),
    **dict.fromkeys(("exp", "cos", "cosh", "erfc", "i0"), _ONE_AT_0),
    **dict.fromkeys(("ln", "acos", "acosh"), _AT_1),
    "sigmoid": _known({0: 0.5}),
    "lgamma": _known({1: 0, 2: 0}),
    "log2": _rational_logarithm(2),
    "log10": _rational_logarithm(10),
    "sinc": lambda a: Fraction(a == 0) if a.denominator == 1 else None,
    "atan2": lambda a, b: Fraction(0) if a == 0 and b >= 0 else None,
    "digamma": lambda a: None,
    "trigamma": lambda a: None,
    "abs": abs,
    "sign": lambda a: Fraction((a > 0) - (a < 0)),
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "round": lambda a: Fraction(round(a)),
    "trunc": lambda a: Fraction(math.trunc(a)),
    "maximum": max,
    "minimum": min,
}


# These give one of the numbers that they are given.
_CHOOSING = ("maximum", "minimum")


def _point(a: Any) -> Any:
    return _mp.mpf(a.numerator) / a.denominator if isinstance(a, Fraction) else a


class _Exact:
    """Fractions; a number of 50 digits, or an infinity or nan, where there is none."""

    def number(self, numeral: str) -> Any:
        if numeral == "pi":
            return +_mp.pi
        return _mp.mpf(numeral) if numeral in _NAMED else Fraction(numeral)

    def apply(self, name: str, *arguments: Any) -> Any:
        if all(isinstance(a, Fraction) for a in arguments) and (found := _RATIONAL[name](*arguments)) is not None:
            return found
        points = [_point(a) for a in arguments]
        found = _POINTS[name](*points)
        if name in _CHOOSING:
            return next((a for a, point in zip(arguments, points, strict=True) if point == found), found)
        # At infinity these have limits, of which all but ±π/2 are whole.
        ended = any(map(mpmath.isinf, points)) and mpmath.isint(found)
        return Fraction(int(found)) if ended else found


def exactly(tree: ast.expr) -> Any:
    """Returns what the digits of a tree come to: a fraction where they give one exactly, else a number of mpmath's."""
    return _value(tree, _Exact())


def are_same(a: Any, b: Any) -> bool:
    """Says whether two numbers are exactly the same: fractions, infinities or nan."""
    if isinstance(a, Fraction) or isinstance(b, Fraction):
        return isinstance(a, Fraction) and isinstance(b, Fraction) and a == b
    return bool((mpmath.isinf(a) and a == b) or (mpmath.isnan(a) and mpmath.isnan(b)))


# ------------------------------------------------------------------------------------------------------ intervals


def _by_corners(function: Callable[..., Any], turn: float | None = None, *, poles: bool = False) -> Callable[..., Any]:
    """Carries intervals through a function by their ends and middles: exact where it is monotone in each.

    One of one argument may turn at a point, and have `poles` at 0, −1, −2, …
    """

    def apply(*arguments: Any) -> Any:
        if poles and arguments[0].a <= 0 and mpmath.floor(arguments[0].b) >= arguments[0].a:
            return +_EVERYTHING
        ends = [(a.a,) if a.a == a.b else (a.a, a.mid, a.b) for a in arguments]
        if turn is not None and turn in arguments[0]:
            ends[0] = (*ends[0], _iv.mpf(turn))
        corners = itertools.product(*ends)
        values = [function(*map(_mp.mpf, corner)) for corner in corners]
        if any(map(mpmath.isnan, values)):
            return +_EVERYTHING
        return _iv.mpf((min(values), max(values)))

    return apply


def _power(a: Any, b: Any) -> Any:
    """Even powers turn at zero; the others are monotone in both, where they are real."""
    return a**b if _iv.isint(b) else _by_corners(_raise)(a, b)


_EVERYTHING = _iv.mpf(("-inf", "inf"))
_BY_MPMATH: Mapping[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "^": _power, "abs": abs,
    "exp": _iv.exp, "ln": _iv.ln, "sqrt": _iv.sqrt, "sin": _iv.sin, "cos": _iv.cos, "tan": _iv.tan,
    "cosh": _by_corners(_POINTS["cosh"], 0.0), "i0": _by_corners(_POINTS["i0"], 0.0),
    "lgamma": _by_corners(_POINTS["lgamma"], 1.4616321449683623, poles=True),
    "digamma": _by_corners(_POINTS["digamma"], poles=True), "trigamma": _by_corners(_POINTS["trigamma"], poles=True),
}  # fmt: skip


def _carry(name: str, *arguments: Any) -> Any:
    """Returns the interval that a function makes of intervals: of points what it is of points, with all their poles."""
    if name in ("+", "-", "*") or not all(a.a == a.b for a in arguments):
        return (_BY_MPMATH.get(name) or _by_corners(_POINTS[name]))(*arguments)
    found = _POINTS[name](*map(_mp.mpf, arguments))
    if not mpmath.isfinite(found):
        return +_EVERYTHING if mpmath.isnan(found) else _iv.mpf(found)
    left_open = _mp.mpf(10) ** (_GUARD - _mp.dps) * max(abs(found), 1)
    return _iv.mpf((found - left_open, found + left_open))


class _Enclosing:
    """Intervals that hold what the digits come to."""

    def number(self, numeral: str) -> Any:
        if numeral == "nan":
            raise ValueError(numeral)
        return +_iv.pi if numeral == "pi" else _iv.mpf(numeral)

    def apply(self, name: str, *arguments: Any) -> Any:
        return _carry(name, *arguments)


def is_within(tree: ast.expr, given: Any, shown: Fraction, distance: Fraction) -> bool:
    """Says whether what the digits of a tree come to, `given`, is proved to be nearer to a number than a distance."""
    if isinstance(given, Fraction):
        return abs(given - shown) < distance
    if not mpmath.isfinite(given):
        return False
    for digits in (_DIGITS, _MOST_DIGITS):
        with _precision(digits):
            middle, half = (_iv.mpf(part.numerator) / part.denominator for part in (shown, distance))
            try:
                apart = abs(_value(tree, _Enclosing()) - middle)
            except UNREADABLE:  # a few digits leave open whether a number is beyond where a function ends
                continue
            if apart.b < half.a or apart.a >= half.b:
                return bool(apart.b < half.a)
    return False


# -------------------------------------------------------------------------------------------------- the machine's

# A kernel is right if its result is the function of a number that is so many roundings away; those of 16 bits work in
# float32. Each operation on the page may round twice in place of once: a formula may be carried out in other steps.
_KERNEL = 4
_OF_FLOAT32 = 2.0**-23


def _widened(interval: Any, part: float, apart: Any = 0) -> Any:
    """Returns an interval with ends that are so much farther out: a part of themselves, and a distance."""
    low, high = _mp.mpf(interval.a), _mp.mpf(interval.b)
    if mpmath.isfinite(low):
        low -= abs(low) * part + apart
    if mpmath.isfinite(high):
        high += abs(high) * part + apart
    return _iv.mpf((low, high))


class _Machine:
    """The intervals of what a type may come to that rounds each operation, overflows and underflows.

    `unbounded` says that a number on the way may have had no bound, or no value.
    """

    def __init__(self, rounding: Rounding) -> None:
        self.rounding, self.unbounded = rounding, False

    def number(self, numeral: str) -> Any:
        unit, tiny, _, _ = self.rounding
        if numeral == "nan":
            return self.everything()
        middle = +_iv.pi if numeral == "pi" else _iv.mpf(numeral)
        if numeral == "inf":
            self.unbounded = True
        if numeral.isdigit() and int(numeral) <= 1 / unit:
            return middle
        return _widened(middle, unit / 2, tiny if abs(middle) < tiny else 0)

    def apply(self, name: str, *arguments: Any) -> Any:
        unit, tiny, largest, _ = self.rounding
        if name in _ARITY:
            arguments = tuple(_widened(a, _KERNEL * min(unit, _OF_FLOAT32)) for a in arguments)
        try:
            found = _carry(name, *arguments)
        except UNREADABLE:  # partly where a function has no value
            return self.everything()
        if mpmath.isnan(found.a) or mpmath.isnan(found.b):
            return self.everything()
        # Sums may be added up in another order: what is rounded may be as large as their parts.
        apart = sum(abs(_mp.mpf(end)) for a in arguments for end in (a.a, a.b)) if name in ("+", "-") else 0
        found = _widened(found, unit, tiny + (unit * apart if mpmath.isfinite(apart) else 0))
        low, high = found.a, found.b
        if max(abs(low), abs(high)) < largest:
            return found
        self.unbounded = True
        return _iv.mpf((low if low > -largest else "-inf", high if high < largest else "inf"))

    def everything(self) -> Any:
        self.unbounded = True
        return +_EVERYTHING


@lru_cache(maxsize=4096)
def is_explained(expression: str, value: float, rounding: Rounding, doubt: float = 0.0) -> bool:
    """Says whether a type's rounding, overflow or underflow can make `value` of the digits of an expression.

    `doubt` is how far the rounding of what is not on the page may have moved it.
    """
    machine = _Machine(rounding)
    try:
        reach = _value(parsed(expression), machine)
    except UNREADABLE:
        return False
    if math.isnan(value):
        return machine.unbounded
    if math.isnan(doubt) or math.isinf(doubt):
        return True
    return bool(reach.a - doubt <= value <= reach.b + doubt)
