"""The formulas of the rules in sympy, and sympy's proof that each slope is the derivative of its formula.

A formula with kinks is proved region by region. Near a point every condition is decided and every step function is a
constant, so what is left is smooth: sympy differentiates that and shows that the slope, taken near the same point, is
equal to it. Where sympy cannot simplify the difference to 0, it is evaluated with 50 digits instead, and the proof says
so.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import sympy as sp

from gradexplain.mathematics.terms import ARITY, names_in
from gradexplain.rules.entries import Rule

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


def sympy_of(formula: str) -> sp.Expr:
    """Returns a formula of ours as a sympy expression in real symbols; `where` becomes `Piecewise`."""
    symbols = {name: sp.Symbol(name, real=True) for name in names_in(formula)}
    choices = {
        "where": lambda condition, yes, no: sp.Piecewise((yes, condition), (no, True)),
        "abs": sp.Abs, "sign": sp.sign, "maximum": sp.Max, "minimum": sp.Min,
        "floor": sp.floor, "ceil": sp.ceiling, "trunc": lambda x: sp.sign(x) * sp.floor(sp.Abs(x)),
        "round": lambda x: sp.Function("round")(x),
    }  # fmt: skip
    return _evaluated(formula, {**_SMOOTH, **choices, **symbols})


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
    y = _evaluated(formula, {**_SMOOTH, **near, **symbols})
    value = _value(y, point)
    if not value.is_real or not value.is_finite:
        return None
    symbol = _symbol(variable)
    inner = 1 if point[variable] > 0 else -1
    derivative = sp.diff(y, symbol) * inner
    return sp.sympify(derivative - _evaluated(slope, {**_SMOOTH, **near, **symbols, "y": y}))


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


# --------------------------------------------------------------------------------------------------------- namespaces


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


# fmt: off
_SMOOTH: Mapping[str, Any] = {
    "exp": sp.exp, "log": sp.log, "sqrt": sp.sqrt, "rsqrt": lambda x: 1 / sp.sqrt(x),
    "log2": lambda x: sp.log(x) / sp.log(2), "log10": lambda x: sp.log(x) / sp.log(10),
    "log1p": lambda x: sp.log(1 + x), "expm1": lambda x: sp.exp(x) - 1,
    "sin": sp.sin, "cos": sp.cos, "tan": sp.tan, "asin": sp.asin, "acos": sp.acos, "atan": sp.atan, "atan2": sp.atan2,
    "sinh": sp.sinh, "cosh": sp.cosh, "tanh": sp.tanh, "asinh": sp.asinh, "acosh": sp.acosh, "atanh": sp.atanh,
    "sigmoid": lambda x: 1 / (1 + sp.exp(-x)), "sinc": lambda x: sp.sin(sp.pi * x) / (sp.pi * x),
    "erf": sp.erf, "erfc": sp.erfc, "erfinv": sp.erfinv,
    "lgamma": sp.loggamma, "digamma": sp.digamma, "trigamma": lambda x: sp.polygamma(1, x),
    "i0": lambda x: sp.besseli(0, x), "i1": lambda x: sp.besseli(1, x), "pi": sp.pi,
}
# fmt: on


def smooth(name: str) -> Callable[..., Any] | None:
    """Returns sympy's counterpart of a smooth function of torch's, or `None`."""
    found: Callable[..., Any] | None = _SMOOTH.get(name) if callable(_SMOOTH.get(name)) else None
    return found


class _Exact(ast.NodeTransformer):
    """Numbers become exact (1/2 is not 0.5), and `==` an equation (sympy's own compares the writing)."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Call(ast.Name("_exact", ast.Load()), [ast.Constant(str(node.value))], [])

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.ops[0], ast.Eq):
            return node
        return ast.Call(ast.Name("_equal", ast.Load()), [node.left, *node.comparators], [])


@cache
def _code(formula: str) -> Any:
    tree = _Exact().visit(ast.parse(formula, mode="eval"))
    return compile(ast.fix_missing_locations(tree), formula, "eval")


def _evaluated(formula: str, namespace: Mapping[str, Any]) -> Any:
    return eval(_code(formula), {"__builtins__": {}}, {**namespace, "_exact": sp.Rational, "_equal": sp.Eq})


# ------------------------------------------------------------------------------------------------ elementary functions


@dataclass(frozen=True)
class Elementary:
    """An elementary function and its partial derivatives, all of them functions of mpmath's numbers."""

    value: Callable[..., Any]
    partials: tuple[Callable[..., Any], ...]


@cache
def elementary(name: str) -> Elementary:
    """Returns an operator ("+", "^", …) or a smooth function of `terms.ARITY`, differentiated by sympy."""
    arity = ARITY.get(name, 1 if name == "neg" else 2)
    variables = sp.symbols(f"x:{arity}")
    return _differentiated({**_ARITHMETIC, **_SMOOTH}[name](*variables), variables)


@cache
def power(exponent: float) -> Elementary:
    """Returns x ↦ xⁿ for one exponent: unlike that of x^y, its derivative has a value where x ≤ 0."""
    variable = sp.Symbol("x")
    return _differentiated(variable ** sp.Rational(exponent), (variable,))


def _differentiated(expression: sp.Expr, variables: Sequence[sp.Symbol]) -> Elementary:
    partials = (sp.powsimp(sp.diff(expression, variable)) for variable in variables)
    value, *slopes = (sp.lambdify(variables, e, "mpmath") for e in (expression, *partials))
    return Elementary(value, tuple(slopes))


_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y, "/": lambda x, y: x / y,
    "^": lambda x, y: x**y, "neg": lambda x: -x,
}  # fmt: skip
