"""Displayed equations, and the reader that recomputes them from their own digits.

An equation is `label: expression = result`. `=` stands only where the displayed digits give the result exactly, `≈`
only where they give it within rounding: where the interval of the displayed operands (half a unit of the last digit
either way) meets the interval of the displayed result, and is narrow enough to say something about it. `↦` marks what
is not an equation: the machine's own number where its arithmetic rounds, overflows or underflows. `≠` is a
contradiction: no rounding makes this number of these operands, so that either the rule or torch is wrong.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mpmath
from mpmath import mpf

from gradexplain.mathematics.terms import Term, number_text, text

DIGITS = (5, 6, 7, 9, 12, 17)
EXACT, ROUNDED, STORED, CONTRADICTED = "=", "≈", "↦", "≠"
_WORKING = mpmath.mp.clone() if hasattr(mpmath.mp, "clone") else mpmath.MPContext()
_WORKING.dps = 50
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
    for digits in DIGITS:
        expression, result = text(term, digits), number_text(value, digits)
        for relation in (EXACT, ROUNDED):
            if holds(expression, relation, result):
                return Equation(label, expression, relation, result, value)
    expression, result = text(term, DIGITS[2]), number_text(value, DIGITS[2])
    return Equation(label, expression, relation_of(expression, result, value), result, value)


def relation_of(expression: str, result: str, value: float) -> str:
    """Returns the strongest relation that may stand between the digits of both sides; `value` is what was captured."""
    for relation in (EXACT, ROUNDED):
        if holds(expression, relation, result):
            return relation
    return STORED if _explained(expression, value) else CONTRADICTED


# Rounding in the coarsest type, bfloat16, is a 256th of what is rounded; a few such errors may add up.
_COARSEST = 0.05
# The largest number of the narrowest type, float16.
_NARROWEST = 65504


# Rounded digits cannot tell on which side of a step these stand.
_STEPS = ("floor(", "ceil(", "round(", "trunc(")


def _explained(expression: str, value: float) -> bool:
    """Says whether rounding or overflow of a machine type can make `value` of `expression`."""
    try:
        reader = _Reader(expression)
        right = reader.whole().middle
    except (SyntaxError, ArithmeticError, ValueError):
        return False
    if any(step in expression for step in _STEPS):
        return True
    if not math.isfinite(value) or not _finite(right):
        return bool(reader.largest >= _NARROWEST)
    return bool(abs(right - value) <= _COARSEST * reader.largest)


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
    found = []
    for cell in _GAP.split(line):
        match = _EQUATION.match(cell.strip(" `"))
        if match and _parses(match["expression"]):
            found.append(Read(match["label"], match["expression"], match["relation"], match["result"]))
    return found


def _parses(expression: str) -> bool:
    try:
        _Reader(expression).whole()
    except (SyntaxError, ArithmeticError, ValueError):
        return False
    return True


def holds(expression: str, relation: str, result: str) -> bool:
    """Says whether `expression relation result` is true of the digits that stand there."""
    try:
        left, right = _Reader(expression).whole(), _Reader(result).whole()
    except (SyntaxError, ArithmeticError, ValueError):
        return False
    if not (_finite(left.middle) and _finite(right.middle)):
        return relation == EXACT and _same(left.middle, right.middle)
    if relation == EXACT:
        return bool(abs(left.middle - right.middle) <= mpf(10) ** -40 * max(abs(right.middle), mpf(10) ** -300))
    meets = left.low <= right.high and right.low <= left.high
    narrow = left.high - left.low <= _NARROW * abs(right.middle)
    return bool(meets and narrow)


def _finite(value: mpf) -> bool:
    return bool(mpmath.isfinite(value))


def _same(left: mpf, right: mpf) -> bool:
    return bool(left == right) or bool(mpmath.isnan(left) and mpmath.isnan(right))


class _Interval(NamedTuple):
    """What digits stand for: the number itself, and the interval of the numbers that round to it."""

    low: mpf
    middle: mpf
    high: mpf


def _number(token: str) -> _Interval:
    middle = _WORKING.mpf(token)
    if not _finite(middle):
        return _Interval(middle, middle, middle)
    half = _half_unit(token) if _significant(token) >= _ROUNDED_FROM and not token.isdigit() else mpf(0)
    return _Interval(middle - half, middle, middle + half)


def _significant(token: str) -> int:
    digits = re.sub(r"e.*|[.\-]", "", token).lstrip("0")
    return len(digits)


def _half_unit(token: str) -> mpf:
    mantissa, _, exponent = token.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return _WORKING.mpf(10) ** (int(exponent or 0) - decimals) / 2


_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:e[+-]?\d+)?|inf|nan)(?![a-z_.\d])|(?P<name>[a-z]\w*|π)"
    r"|(?P<raised>⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)|(?P<sign>[-+×·/^(),]))"
)


class _Reader:
    """Recursive descent over one displayed expression."""

    def __init__(self, expression: str) -> None:
        self.largest = _WORKING.mpf(0)  # of the numbers and the intermediate results
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(expression):
            match = _TOKEN.match(expression, position)
            if not match:
                raise SyntaxError(expression[position:])
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind]))
            position = match.end()
        self.at = 0

    def whole(self) -> _Interval:
        result = self._sum()
        if self.at != len(self.tokens):
            raise SyntaxError("more than one expression")
        return result

    def _next(self, *signs: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at][1] in signs and self.tokens[self.at][0] == "sign":
            self.at += 1
            return self.tokens[self.at - 1][1]
        return None

    def _expect(self, sign: str) -> None:
        if not self._next(sign):
            raise SyntaxError(f"{sign} expected")

    def _seen(self, result: _Interval) -> _Interval:
        if not mpmath.isnan(result.middle):
            self.largest = max(self.largest, abs(result.middle))
        return result

    def _sum(self) -> _Interval:
        result = self._seen(self._product())
        while sign := self._next("+", "-"):
            result = _apply(_add if sign == "+" else _subtract, result, self._seen(self._product()))
        return result

    def _product(self) -> _Interval:
        result = self._seen(self._signed())
        while sign := self._next("×", "·", "/"):
            result = _apply(_divide if sign == "/" else _multiply, result, self._signed())
        return result

    def _signed(self) -> _Interval:
        if self._next("-"):
            low, middle, high = self._signed()
            return _Interval(-high, -middle, -low)
        return self._power()

    def _power(self) -> _Interval:
        base = self._atom()
        if self.at < len(self.tokens) and self.tokens[self.at][0] == "raised":
            self.at += 1
            return _apply(_raise, base, _number_exact(self.tokens[self.at - 1][1].translate(_SUPERSCRIPT)))
        return _apply(_raise, base, self._atom()) if self._next("^") else base

    def _atom(self) -> _Interval:
        if self._next("("):
            inner = self._sum()
            self._expect(")")
            return inner
        if self.at == len(self.tokens):
            raise SyntaxError("an operand is missing")
        kind, token = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return _number(token)
        if kind == "name":
            return self._call(token)
        raise SyntaxError(token)

    def _call(self, name: str) -> _Interval:
        if name == "π":
            return _Interval(_WORKING.pi, _WORKING.pi, _WORKING.pi)
        if name not in FUNCTIONS:
            raise SyntaxError(f"{name} is not a function")
        self._expect("(")
        arguments = [self._sum()]
        while self._next(","):
            arguments.append(self._sum())
        self._expect(")")
        return _apply(FUNCTIONS[name], *arguments)


def _number_exact(token: str) -> _Interval:
    value = _WORKING.mpf(token)
    return _Interval(value, value, value)


def _apply(function: Callable[..., mpf], *arguments: _Interval) -> _Interval:
    """Carries intervals through `function` by their corners and their middle.

    The intervals are about 1e-5 of their number wide, where every function here is all but straight; the hull of the
    corners is widened by a tenth for what is not.
    """
    middle = function(*(a.middle for a in arguments))
    if all(a.low == a.high for a in arguments):
        return _Interval(middle, middle, middle)
    corners = [function(*corner) for corner in _corners(arguments)] + [middle]
    low, high = min(corners), max(corners)
    slack = (high - low) / 20
    return _Interval(low - slack, middle, high + slack)


def _corners(arguments: Sequence[_Interval]) -> list[tuple[mpf, ...]]:
    found: list[tuple[mpf, ...]] = [()]
    for low, _, high in arguments:
        found = [(*corner, end) for corner in found for end in ((low, high) if low != high else (low,))]
    return found


# IEEE arithmetic where mathematics has none: the equations show what the machine computes at poles.
def _add(a: mpf, b: mpf) -> mpf:
    return a + b


def _subtract(a: mpf, b: mpf) -> mpf:
    return a - b


def _multiply(a: mpf, b: mpf) -> mpf:
    return a * b


def _divide(a: mpf, b: mpf) -> mpf:
    if b != 0:
        return a / b
    return _WORKING.nan if a == 0 or mpmath.isnan(a) else (_WORKING.inf if a > 0 else -_WORKING.inf)


def _raise(a: mpf, b: mpf) -> mpf:
    if a == 0 and b < 0:
        return _WORKING.inf
    if a < 0 and _finite(b) and b != int(b):
        return _WORKING.nan
    if _finite(b) and abs(b) > 10**6:
        raise ValueError("an exponent beyond display")
    return _WORKING.power(a, b)


def _real(function: Callable[[mpf], object], domain: Callable[[mpf], bool]) -> Callable[[mpf], mpf]:
    """Returns nan outside the real domain, as the machine does."""

    def apply(a: mpf) -> mpf:
        if mpmath.isnan(a) or not domain(a):
            return _WORKING.nan
        return _WORKING.mpf(function(a))

    return apply


def _logarithm(base: int | None) -> Callable[[mpf], mpf]:
    def apply(a: mpf) -> mpf:
        if a == 0:
            return -_WORKING.inf
        if mpmath.isnan(a) or a < 0:
            return _WORKING.nan
        return _WORKING.log(a) if base is None else _WORKING.log(a, base)

    return apply


def _sigmoid(a: mpf) -> mpf:
    return 1 / (1 + _WORKING.exp(-a))


def _rsqrt(a: mpf) -> mpf:
    return _divide(_WORKING.mpf(1), _real(_WORKING.sqrt, lambda a: a >= 0)(a))


def _everywhere(a: mpf) -> bool:
    return True


def _in_unit(a: mpf) -> bool:
    return bool(-1 <= a <= 1)


def _inside_unit(a: mpf) -> bool:
    return bool(-1 < a < 1)


_ln = _logarithm(None)
# fmt: off
FUNCTIONS: Mapping[str, Callable[..., mpf]] = {
    "exp":   _real(_WORKING.exp, _everywhere),     "expm1": _real(_WORKING.expm1, _everywhere),
    "ln":    _ln,                                  "log1p": lambda a: _ln(1 + a),
    "log2":  _logarithm(2),                        "log10": _logarithm(10),
    "sqrt":  _real(_WORKING.sqrt, lambda a: a >= 0), "rsqrt": _rsqrt,
    "sin":   _real(_WORKING.sin, _everywhere),     "cos":   _real(_WORKING.cos, _everywhere),
    "tan":   _real(_WORKING.tan, _everywhere),     "asin":  _real(_WORKING.asin, _in_unit),
    "acos":  _real(_WORKING.acos, _in_unit),       "atan":  _real(_WORKING.atan, _everywhere),
    "sinh":  _real(_WORKING.sinh, _everywhere),    "cosh":  _real(_WORKING.cosh, _everywhere),
    "tanh":  _real(_WORKING.tanh, _everywhere),    "asinh": _real(_WORKING.asinh, _everywhere),
    "acosh": _real(_WORKING.acosh, lambda a: a >= 1), "atanh": _real(_WORKING.atanh, _inside_unit),
    "sigmoid": _real(_sigmoid, _everywhere),
    "erf":   _real(_WORKING.erf, _everywhere),     "erfc":  _real(_WORKING.erfc, _everywhere),
    "erfinv": _real(_WORKING.erfinv, _inside_unit),
    "lgamma": _real(lambda a: _WORKING.log(abs(_WORKING.gamma(a))), lambda a: a > 0 or a != int(a)),
    "digamma": _real(_WORKING.digamma, lambda a: a > 0 or a != int(a)),
    "trigamma": _real(lambda a: _WORKING.psi(1, a), lambda a: a > 0 or a != int(a)),
    "abs":   abs,                                  "sign":  _WORKING.sign,
    "floor": _WORKING.floor,                       "ceil":  _WORKING.ceil,
    "round": _WORKING.nint,
    "trunc": lambda a: _WORKING.floor(a) if a > 0 else _WORKING.ceil(a),
    "sinc":  lambda a: _WORKING.sincpi(a),
    "i0":    lambda a: _WORKING.besseli(0, a),     "i1": lambda a: _WORKING.besseli(1, a),
    "atan2": _WORKING.atan2,                       "maximum": max,   "minimum": min,
}
# fmt: on
