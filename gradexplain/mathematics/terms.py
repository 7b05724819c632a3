"""Scalar mathematics as data: a term is a number, a symbol, or an operation on terms.

The same formula text runs on terms of symbols (to print the rule), on terms of numbers (to print the rule with the
user's numbers put in) and on tensors (to compute it); here stands the first half of that.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from types import CodeType
from typing import Any

import numpy as np


def _both_ways(operator: str) -> tuple[Callable[[Any, object], Any], Callable[[Any, object], Any]]:
    return (
        lambda term, other: _fold(operator, term, _term(other)),
        lambda term, other: _fold(operator, _term(other), term),
    )


def _comparison(operator: str) -> Callable[[Any, object], Any]:
    return lambda term, other: _compare(operator, term, _term(other))


class Term:
    """A scalar expression; arithmetic on terms builds larger terms."""

    __add__, __radd__ = _both_ways("+")
    __sub__, __rsub__ = _both_ways("-")
    __mul__, __rmul__ = _both_ways("*")
    __truediv__, __rtruediv__ = _both_ways("/")
    __pow__, __rpow__ = _both_ways("^")

    def __neg__(self) -> Any:
        return _fold("neg", self)

    __gt__, __lt__, __ge__, __le__ = map(_comparison, "><≥≤")
    __eq__ = _comparison("=")  # an equation, not identity
    __hash__ = object.__hash__


@dataclass(frozen=True, eq=False)
class Number(Term):
    """A number of the run: shown with rounded digits, never folded away."""

    value: float


@dataclass(frozen=True, eq=False)
class Constant(Term):
    """A number of the formula itself, such as the 2 of 2·x; operations among constants are carried out."""

    value: float


@dataclass(frozen=True, eq=False)
class Symbol(Term):
    """A name in a rule."""

    name: str


@dataclass(frozen=True, eq=False)
class Apply(Term):
    """An operator ("+", "*", "neg", …) or a named function, applied."""

    operator: str
    arguments: tuple[Term, ...]


def _term(value: Any) -> Any:
    if isinstance(value, Term):
        return value
    if isinstance(value, (int, float, bool, np.number, np.bool_)):
        return Constant(float(value))
    return NotImplemented


_ARITHMETIC: Mapping[str, Callable[..., float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
    "neg": operator.neg,
    "abs": abs,
}


def _fold(operator: str, *arguments: Any) -> Any:
    if any(a is NotImplemented for a in arguments):
        return NotImplemented
    if all(isinstance(a, Constant) for a in arguments):
        folded = _carried_out(operator, *(a.value for a in arguments if isinstance(a, Constant)))
        if folded is not None:
            return folded
    first, last = arguments[0], arguments[-1]
    if operator == "*" and _is(first, 1):
        return last
    if operator in ("*", "/") and _is(last, 1):
        return first
    if operator == "^" and _is(last, 1):
        return first
    if operator == "^" and _is(last, 0):
        return Constant(1.0)
    if operator == "*" and isinstance(last, Constant) and not isinstance(first, Constant):
        return Apply(operator, (last, first))
    if operator in ("+", "-") and _is(last, 0):
        return first
    if operator == "+" and _is(first, 0):
        return last
    return Apply(operator, arguments)


def _carried_out(operator: str, *values: float) -> Constant | None:
    """Folds constants only where the result is exact enough to print: an integer or a short decimal."""
    try:
        result = _ARITHMETIC[operator](*values)
    except (ZeroDivisionError, OverflowError):
        return None
    short = isinstance(result, float) and math.isfinite(result) and len(f"{result:.12g}".replace("-", "")) <= 6
    return Constant(result) if short and float(f"{result:.6g}") == result else None


def _is(term: Term, value: float) -> bool:
    return isinstance(term, Constant) and term.value == value


def product(*factors: Term) -> Term:
    """Returns the product as written, with no factor folded away: 1 × 2 stays 1 × 2."""
    result = factors[0]
    for factor in factors[1:]:
        result = Apply("*", (result, factor))
    return result


def total(summands: list[Term]) -> Term:
    """Returns the sum as written; the empty sum is 0."""
    if not summands:
        return Constant(0.0)
    result = summands[0]
    for summand in summands[1:]:
        result = Apply("+", (result, summand))
    return result


_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    "≥": operator.ge,
    "≤": operator.le,
    "=": operator.eq,
}


def _compare(operator: str, left: Term, right: Term) -> "Term | bool":
    one, other = _value(left), _value(right)
    if one is None or other is None:
        unbounded = _is(right, math.inf if operator == "≤" else -math.inf) and operator in ("≤", "≥")
        return unbounded or Apply(operator, (left, right))
    return _COMPARISONS[operator](one, other)


def _value(term: Term) -> float | None:
    """Returns the number that a term is, where it has no symbols and only arithmetic, to decide a condition."""
    if isinstance(term, (Number, Constant)):
        return term.value
    if not isinstance(term, Apply) or term.operator not in _ARITHMETIC:
        return None
    values = [value for argument in term.arguments if (value := _value(argument)) is not None]
    return _ARITHMETIC[term.operator](*values) if len(values) == len(term.arguments) else None


def _where(condition: object, yes: object, no: object) -> Any:
    if isinstance(condition, Apply):
        return Apply("where", (condition, _term(yes), _term(no)))
    return _term(yes) if condition else _term(no)


# A bound that binds nothing, and is not shown.
_UNBOUNDED = {"maximum": -math.inf, "minimum": math.inf}


def _function(name: str) -> Callable[..., object]:
    def apply(*arguments: object) -> Term:
        terms = tuple(_term(a) for a in arguments)
        bound = _UNBOUNDED.get(name)
        return terms[0] if bound is not None and _is(terms[1], bound) else Apply(name, terms)

    return apply


# What a formula may call, by the number of arguments. How each is computed: `equations.FUNCTIONS` (digits),
# `rules.application.FUNCTIONS` (tensors), `symbolic` (sympy).
# fmt: off
ARITY = {
    "exp": 1, "log": 1, "log2": 1, "log10": 1, "log1p": 1, "expm1": 1, "sqrt": 1, "rsqrt": 1, "abs": 1, "sign": 1,
    "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1, "sinc": 1, "sinh": 1, "cosh": 1, "tanh": 1,
    "asinh": 1, "acosh": 1, "atanh": 1, "sigmoid": 1, "erf": 1, "erfc": 1, "erfinv": 1, "lgamma": 1, "digamma": 1,
    "trigamma": 1, "i0": 1, "i1": 1, "floor": 1, "ceil": 1, "round": 1, "trunc": 1,
    "atan2": 2, "maximum": 2, "minimum": 2, "where": 3,
}
# fmt: on
NAMESPACE: dict[str, object] = {
    name: np.frompyfunc(_where if name == "where" else _function(name), count, 1) for name, count in ARITY.items()
} | {"pi": Apply("π", ())}


@cache
def compiled(formula: str) -> CodeType:
    """Returns the code of one of our own formulas (never of a user's text)."""
    return compile(ast.parse(formula, mode="eval"), formula, "eval")


def names_in(formula: str) -> frozenset[str]:
    """Returns the variables of a formula."""
    found = {node.id for node in ast.walk(ast.parse(formula, mode="eval")) if isinstance(node, ast.Name)}
    return frozenset(found - NAMESPACE.keys())


def functions_in(formula: str) -> frozenset[str]:
    """Returns the functions that a formula calls."""
    called = {node.func for node in ast.walk(ast.parse(formula, mode="eval")) if isinstance(node, ast.Call)}
    return frozenset(name.id for name in called if isinstance(name, ast.Name))


def terms_of(formula: str, variables: Mapping[str, object]) -> object:
    """Evaluates `formula` on terms or on object arrays of terms; arrays broadcast as tensors do."""
    return eval(compiled(formula), {"__builtins__": {}}, {**NAMESPACE, **variables})


def symbolic_text(formula: str, variables: Mapping[str, object] | None = None) -> str:
    """Returns `formula` typeset for a terminal; `variables` gives a variable another name, or a number.

    `n*x**(n-1)` with n=2 and x="h" is `2·h`.
    """
    known: dict[str, object] = {name: Symbol(name) for name in names_in(formula)}
    known |= {name: Symbol(v) if isinstance(v, str) else _term(v) for name, v in (variables or {}).items()}
    result = terms_of(formula, known)
    return text(result if isinstance(result, Term) else _term(result), digits=6)


# ---------------------------------------------------------------------------------------------------------- text

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "^": 4}
_COMPARING = (">", "<", "≥", "≤", "=")
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
SHOWN_NAME = {"log": "ln"}
_ATOM = 9


def text(term: Term, digits: int) -> str:
    """Returns `term` for a reader, its numbers rounded to `digits` significant digits."""
    return _text(term, digits)[0]


def _text(term: Term, digits: int) -> tuple[str, int]:
    match term:
        case Number(value) | Constant(value):
            shown = number_text(value, digits)
            return (f"({shown})", _ATOM) if shown.startswith("-") else (shown, _ATOM)
        case Symbol(name):
            return name, _ATOM
        case Apply("where", (condition, yes, no)):
            return f"{_wrapped(yes, digits, 1)} if {text(condition, digits)} else {text(no, digits)}", 0
        case Apply(operator, (left, right)) if operator in _COMPARING:
            return f"{text(left, digits)} {operator} {text(right, digits)}", 0
        case Apply("neg", (Apply("^", (Number() | Constant(), _)) as inner,)):  # -1² would be read as (-1)²
            return f"-({text(inner, digits)})", 3
        case Apply("neg", (inner,)):
            return f"-{_wrapped(inner, digits, 3)}", 3
        case Apply("^", (base, exponent)):
            return _power_text(base, exponent, digits), 4
        case Apply(operator, (left, right)) if operator in _PRECEDENCE:
            level = _PRECEDENCE[operator]
            sign = _product_sign(left, right) if operator == "*" else {"/": " / "}.get(operator, f" {operator} ")
            loose = level + (operator == "*" and isinstance(left, Apply) and left.operator == "/")
            tight = level + (operator in ("-", "/") or (isinstance(right, Apply) and right.operator == "/"))
            tight = _ATOM if isinstance(right, Apply) and right.operator == "neg" else tight
            return f"{_wrapped(left, digits, loose)}{sign}{_wrapped(right, digits, tight)}", level
        case Apply(name, ()):
            return name, _ATOM
        case Apply(name, arguments):
            inside = ", ".join(_bare(a, digits) for a in arguments)
            return f"{SHOWN_NAME.get(name, name)}({inside})", _ATOM
    raise AssertionError(term)


def _product_sign(left: Term, right: Term) -> str:
    return "·" if _has_symbol(left) or _has_symbol(right) else " × "


def _has_symbol(term: Term) -> bool:
    return isinstance(term, Symbol) or (isinstance(term, Apply) and any(map(_has_symbol, term.arguments)))


def _wrapped(term: Term, digits: int, level: int) -> str:
    shown, own = _text(term, digits)
    return f"({shown})" if own < level else shown


def _bare(term: Term, digits: int) -> str:
    """Inside a function's parentheses a negative number needs none of its own."""
    return number_text(term.value, digits) if isinstance(term, (Number, Constant)) else text(term, digits)


def _power_text(base: Term, exponent: Term, digits: int) -> str:
    below = _wrapped(base, digits, _ATOM)
    below = f"({below})" if "e" in below and isinstance(base, (Number, Constant)) and below[0] != "(" else below
    if isinstance(exponent, (Number, Constant)) and abs(exponent.value) < 1e4 and exponent.value == int(exponent.value):
        return below + str(int(exponent.value)).translate(_SUPERSCRIPT)
    return f"{below}^{_wrapped(exponent, digits, _ATOM)}"


# So many digits name any number of float64.
_ALL = 17


def number_text(value: float, digits: int) -> str:
    """Returns `value` in `digits` significant digits. A number shown with fewer digits than that is exact.

    Integers below 1e9 are shown whole; trailing zeros stay where the last digit is rounded (0.78560).
    """
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    if digits >= _ALL:  # 17 digits of 0.334 would be those of the nearest double
        return _plain(repr(float(value)), value)
    if float(f"{value:.{digits}g}") == value:
        return _plain(f"{value:.{digits}g}", value)
    shown = f"{value:#.{digits}g}"
    return f"{value:.1f}" if shown.endswith(".") else shown


def _plain(shown: str, value: float) -> str:
    """Undoes the exponent that %g gives to numbers of everyday size."""
    return f"{Decimal(shown):f}" if "e" in shown and 1e-5 <= abs(value) < 1e9 else shown
