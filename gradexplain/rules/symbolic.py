"""The formulas of the rules in sympy, and elementary functions with the derivatives that sympy finds for them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sympy as sp

from gradexplain.mathematics.terms import ARITY, names_in


def sympy_of(formula: str) -> sp.Expr:
    """Returns a formula of ours as a sympy expression in real symbols; `where` becomes `Piecewise`."""
    symbols = {name: sp.Symbol(name, real=True) for name in names_in(formula)}
    choices = {
        "where": lambda condition, yes, no: sp.Piecewise((yes, condition), (no, True)),
        "abs": sp.Abs, "sign": sp.sign, "maximum": sp.Max, "minimum": sp.Min,
        "floor": sp.floor, "ceil": sp.ceiling, "trunc": lambda x: sp.sign(x) * sp.floor(sp.Abs(x)),
        "round": lambda x: sp.Function("round")(x),
    }  # fmt: skip
    return evaluated(formula, {**SMOOTH, **choices, **symbols})


# fmt: off
SMOOTH: Mapping[str, Any] = {
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
    found: Callable[..., Any] | None = SMOOTH.get(name) if callable(SMOOTH.get(name)) else None
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


def evaluated(formula: str, namespace: Mapping[str, Any]) -> Any:
    """Returns a formula of ours with these meanings for its names, in exact numbers."""
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
    return _differentiated({**_ARITHMETIC, **SMOOTH}[name](*variables), variables)


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
