"""Functions of points: their values and derivatives by torch, and the same by sympy for comparison."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gradexplain.errors import InputError, RunError
from gradexplain.figures.parameters import Checked
from gradexplain.figures.style import number
from gradexplain.targets.expression import Program, function_path, parse
from gradexplain.targets.interpreter import Runner
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from sympy import Expr, Symbol
    from torch import Tensor


@dataclass(frozen=True)
class Formula:
    """A function of so many variables, which `run` takes by name; `program` is the expression, where it is one."""

    text: str
    variables: tuple[str, ...]
    run: Callable[..., object]
    program: Program | None = None


def formula(text: str, variables: int) -> Formula:
    """Returns an expression of so many variables; raises `InputError` for one that has more or fewer."""
    program = parse(text)
    if len(program.inputs) != variables:
        names = ", ".join(program.inputs) or "–"
        raise InputError("figure_variables", text=shown(text), names=names, seen=len(program.inputs), needed=variables)
    return Formula(program.text, program.inputs, Runner(program), program)


OF_ONE, OF_TWO = (Checked(partial(formula, variables=n)) for n in (1, 2))


def values(of: Formula, points: Sequence[Tensor]) -> Tensor:
    """Returns the values at points, of which `points` has one tensor of coordinates a variable: each by itself.

    What reduces, such as sum, therefore reduces within a point.
    """
    import torch

    def at(*coordinates: Tensor) -> Tensor:
        return _number(of, of.run(**dict(zip(of.variables, coordinates, strict=True))), "figure_not_a_number")

    try:
        return torch.func.vmap(at)(*points)
    except (InputError, RunError):  # not for many at once, or not at all: one by one tells
        return torch.stack([at(*coordinates) for coordinates in zip(*points, strict=True)])


def slopes(of: Formula, heights: Tensor, points: Sequence[Tensor], *, again: bool = False) -> tuple[Tensor, ...]:
    """Returns the derivative of values by each coordinate, with torch's backward; `again` keeps the way open."""
    import torch

    if not heights.requires_grad:
        raise RunError("output_constant", names=", ".join(of.variables))
    gradients = torch.autograd.grad(
        heights.sum(), list(points), create_graph=again, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    # Torch returns a derivative that is 0 everywhere as a tensor without numbers in memory; a copy has them.
    return tuple(gradient.clone() for gradient in gradients)


def at_points(of: Formula, points: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Returns the values and the gradient at points, detached."""
    leaves = [p.detach().clone().requires_grad_() for p in points]
    heights = values(of, leaves)
    return heights.detach(), tuple(g.detach() for g in slopes(of, heights, leaves))


def gradient(of: Formula, x: Tensor) -> Tensor:
    """Returns the gradient of one number by a whole tensor, detached; raises `InputError` where it is not finite."""
    leaf = x.detach().clone().requires_grad_()
    value = _number(of, of.run(**{of.variables[0]: leaf}), "figure_not_one_number")
    (slope,) = slopes(of, value, [leaf])
    if not bool(slope.isfinite().all() & value.detach().isfinite()):
        raise InputError("figure_gradient_not_finite", text=shown(of.text), x=of.variables[0])
    return slope.detach()


def _number(of: Formula, value: Any, fault: str) -> Tensor:
    """Returns a value that is one real number, without dimensions; raises `InputError` for what is none."""
    import torch

    if not isinstance(value, torch.Tensor) or value.numel() != 1 or value.is_complex():
        shape = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(fault, text=shown(of.text), shape=shape)
    return value.reshape(())


def finite(of: Formula, numbers: Tensor, points: Sequence[Tensor]) -> Tensor:
    """Returns values that are all finite; raises `InputError` that names the first point where one is not."""
    bad = ~numbers.isfinite()
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        place = ", ".join(f"{name} = {number(float(p[first]))}" for name, p in zip(of.variables, points, strict=True))
        count, value = int(bad.sum()), number(float(numbers[first]))
        raise InputError(
            "figure_not_finite", text=shown(of.text), value=value, place=place, count=count, total=len(numbers)
        )
    return numbers


def interval(name: str, ends: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of a range; raises `InputError` for an empty one."""
    low, high = ends
    if not low < high:
        raise InputError("figure_empty_range", name=name, low=number(low), high=number(high))
    return low, high


def spaced(low: float, high: float, count: int) -> Tensor:
    """Returns evenly spaced points without the rounding errors of their sums: 0 is 0, and a pole is met."""
    import torch

    points = torch.linspace(low, high, count, dtype=torch.float64)
    return points.round(decimals=12 - math.ceil(math.log10(high - low)))


# -------------------------------------------------------------------------------------------------------------- sympy


def symbolic(of: Formula) -> tuple[Expr, tuple[Symbol, ...]] | None:
    """Returns an expression in sympy, its numbers exact, with its symbols; `None` where a part is unknown there."""
    import sympy as sp

    if of.program is None:
        return None
    symbols = {name: sp.Symbol(name, real=True) for name in of.variables}
    names: dict[str, Any] = {**symbols, "pi": sp.pi, "e": sp.E}
    try:
        for statement in of.program.statements:
            value = _symbolic(statement.value, names)
            if len(statement.targets) > 1:
                return None
            names |= dict.fromkeys(statement.targets, value)
    except _Unknown:
        return None
    return sp.sympify(value), tuple(symbols.values())


class _Unknown(Exception):
    """A part of an expression that has no counterpart here."""


_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}  # fmt: skip
_UNARY: Mapping[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


def _symbolic(node: ast.expr, names: Mapping[str, Any]) -> Any:
    import sympy as sp

    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return sp.Rational(value)
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            return _BINARY[type(op)](_symbolic(left, names), _symbolic(right, names))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_symbolic(operand, names))
        case ast.Call(func=func, args=args, keywords=[]):
            path = function_path(func)
            if path is None and isinstance(func, ast.Attribute):  # x.sin()
                path, args = func.attr, [func.value, *args]
            return _applied((path or "").rpartition(".")[2], [_symbolic(arg, names) for arg in args])
    raise _Unknown


def _applied(name: str, arguments: Sequence[Any]) -> Any:
    """Returns a function of torch at numbers of sympy; of one number, what sums or averages gives that number."""
    import sympy as sp

    from gradexplain.rules.symbolic import smooth

    own: Mapping[str, Callable[..., Any]] = {
        "sum": lambda x: x, "mean": lambda x: x, "square": lambda x: x**2, "pow": lambda x, n: x**n, "abs": sp.Abs,
        "reciprocal": lambda x: 1 / x, "neg": lambda x: -x, "exp2": lambda x: 2**x,
        "relu": lambda x: sp.Max(x, 0), "softplus": lambda x: sp.log(1 + sp.exp(x)),
        "silu": lambda x: x / (1 + sp.exp(-x)),
        "maximum": sp.Max, "minimum": sp.Min,
    }  # fmt: skip
    function = own.get(name) or smooth(name)
    if function is None:
        raise _Unknown
    try:
        return function(*arguments)
    except TypeError:
        raise _Unknown from None
