"""Proofs: sympy shows that each slope is the derivative of its formula.

A formula with kinks is proved region by region. Near a point every condition is decided and every step function is a
constant, so what is left is smooth: sympy differentiates that and shows that the slope, taken near the same point, is
equal to it. Where sympy cannot simplify the difference to 0, it is evaluated with 50 digits instead, and the proof says
so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sympy as sp

from gradexplain.rules.entries import Rule
from gradexplain.rules.symbolic import SMOOTH, evaluated

Point = Mapping[str, sp.Rational]

_DIGITS = 50
# Evaluated with 50 digits, equal formulas differ by the rounding of some ten operations; unequal ones by their size.
_ALMOST_0 = sp.Float(10) ** -40
_POINTS = 20
# Larger differences are not worth sympy's time: 50 digits decide them at once.
_LARGEST_SIMPLIFIED = 40


@dataclass(frozen=True)
class Proof:
    """Whether a slope is the derivative of its formula: by sympy for every point of the regions, or at points only."""

    holds: bool | None
    way: Literal["simplified", "50 digits", "no point in the domain"]


def proved(rule: Rule) -> dict[str, Proof]:
    """Returns, for each argument of an elementwise rule that has a slope, whether sympy finds the slope right."""
    return {argument: _proof(rule, rule.names[argument], slope) for argument, slope in rule.slopes.items()}


def _proof(rule: Rule, variable: str, slope: str) -> Proof:
    decided: set[sp.Expr] = set()
    met, way = 0, "simplified"
    for point in _points(rule):
        difference = _difference(rule.formula, slope, variable, point)
        if difference is None:
            continue
        met += 1
        if difference in decided:
            continue
        decided.add(difference)
        if not _simplifies_to_0(difference):
            way = "50 digits"
            if not _evaluates_to_0(difference, point):
                return Proof(False, "50 digits")
    if not met:
        return Proof(None, "no point in the domain")
    return Proof(True, "simplified" if way == "simplified" else "50 digits")


def _points(rule: Rule) -> Iterator[Point]:
    """Yields rational points of the rule's domain; other variables also take the special values 0 and 1."""
    source = random.Random(0)
    low, high = rule.domain
    differentiated = {rule.names[argument] for argument in rule.slopes}
    special = [number for table in rule.numbers.values() for number in table.values() if abs(number) < 10]
    for _ in range(_POINTS):
        point = {}
        for name in rule.names.values():
            generic = sp.Rational(source.randint(int(low * 1009), int(high * 1009)), 1009) + sp.Rational(1, 2027)
            others = [sp.Integer(0), sp.Integer(1), *map(sp.Rational, special)]
            point[name] = generic if name in differentiated or source.random() < 0.5 else source.choice(others)
        yield point


def _difference(formula: str, slope: str, variable: str, point: Point) -> sp.Expr | None:
    """Returns (derivative of the formula) − (slope) near the point; `None` where the formula has no real value."""
    symbols = {name: _with_sign(name, value) for name, value in point.items()}
    near = _choices_at(point)
    y = evaluated(formula, {**SMOOTH, **near, **symbols})
    value = _value(y, point)
    if not value.is_real or not value.is_finite:
        return None
    symbol = _symbol(variable)
    inner = 1 if point[variable] > 0 else -1
    derivative = sp.diff(y, symbol) * inner
    return sp.sympify(derivative - evaluated(slope, {**SMOOTH, **near, **symbols, "y": y}))


def _symbol(name: str) -> sp.Symbol:
    return sp.Symbol(name, positive=True)


def _with_sign(name: str, value: sp.Rational) -> sp.Expr:
    """A positive symbol, with the sign that the point has there: sympy then knows its roots and logarithms."""
    return value if value == 0 else _symbol(name) * (1 if value > 0 else -1)


def _value(expression: sp.Expr, point: Point) -> sp.Expr:
    """Decimal numbers, not fractions: sympy would look for the roots of a fraction's numerator."""
    numbers = {_symbol(name): sp.Float(abs(number), 2 * _DIGITS) for name, number in point.items() if number != 0}
    return sp.N(sp.sympify(expression).xreplace(numbers), _DIGITS)


def _simplifies_to_0(difference: sp.Expr) -> bool:
    if difference == 0 or sp.expand(difference) == 0:
        return True
    return bool(difference.count_ops() < _LARGEST_SIMPLIFIED and sp.simplify(difference) == 0)


def _evaluates_to_0(difference: sp.Expr, point: Point) -> bool:
    return bool(abs(_value(difference, point)) <= _ALMOST_0)


def _choices_at(point: Point) -> dict[str, Callable[..., Any]]:
    """Returns the functions that choose or jump, decided as they are at `point` and all about it."""

    def value(expression: Any) -> sp.Expr:
        return _value(sp.sympify(expression), point)

    def holds(condition: Any) -> bool:
        relation = sp.sympify(condition)
        return bool(relation.func(*map(value, relation.args)) if relation.args else relation)

    return {
        "where": lambda condition, yes, no: yes if holds(condition) else no,
        "abs": lambda x: x if value(x) >= 0 else -x,
        "sign": lambda x: sp.sign(value(x)),
        "maximum": lambda x, z: x if value(x) >= value(z) else z,
        "minimum": lambda x, z: x if value(x) <= value(z) else z,
        "floor": lambda x: sp.floor(value(x)),
        "ceil": lambda x: sp.ceiling(value(x)),
        "trunc": lambda x: sp.sign(value(x)) * sp.floor(abs(value(x))),
        "round": lambda x: sp.floor(value(x) + sp.Rational(1, 2)),
    }
