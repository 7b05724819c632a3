"""A scalar by a vector: the shape of a gradient, and what a vector output needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import sympy as sp
import torch
from torch import Tensor

from gradexplain.figures.parameters import Count, Range
from gradexplain.lessons.computations import explained
from gradexplain.lessons.listings import attempt
from gradexplain.lessons.measures import double, gradient
from gradexplain.lessons.parts import Explained, Parts, Rows, claim, exercise, section, text

_TUTORIAL = """
x = torch.tensor([1., 2., 3.], requires_grad=True)
y = torch.sum(x**2)
y.backward()
print(f"dy/dx = {x.grad}")
"""
_WITHOUT_SUM = """
x = torch.tensor([1., 2., 3.], requires_grad=True)
y = x**2
y.backward()
"""
_WEIGHED = """
x = torch.tensor([1., 2., 3.], requires_grad=True)
y = x**2
y.backward(torch.tensor([1., 10., 100.]))
print(x.grad)
"""


def lesson(
    *, x: Annotated[tuple[float, ...], "The elements of the vector.", Range(-100, 100), Count(2, 5)] = (1.0, 2.0, 3.0)
) -> Parts:
    """Yields the lesson."""
    point = double(x)
    yield from section("listing-head", _listing())
    yield from section("shapes-head", _shapes(point))
    yield from section("numbers-head", _numbers(point))
    yield from section("cotangent-head", _cotangent(point))
    asked = torch.arange(1, len(x) + 1, dtype=torch.float64)
    weight = torch.ones(4, 2)
    of_vector = gradient(lambda v: (weight @ v).square(), torch.ones(2))
    yield exercise("ex-shape", _shape(of_vector), weight=_shape(weight))
    yield exercise("ex-weights", asked * 2 * point, weights=asked, x=point)


# ------------------------------------------------------------------------------------------------- the tutorial's code


def _listing() -> Parts:
    alone = yield from attempt("alone", _TUTORIAL, {})
    missing = [alone.fault, "torch" in alone.message]
    yield claim("name-missing", missing, "=", ["NameError", True], "A15", fault=alone.fault)
    ran = yield from attempt("in-order", _TUTORIAL)
    x = ran.names["x"].detach()
    yield claim("prints", ran.printed.strip(), "=", f"dy/dx = {_by_sympy(x).float()}", "A15", grad=ran.names["x"].grad)


def _by_sympy(x: Tensor) -> Tensor:
    """Returns the gradient of Σxᵢ² with every partial derivative taken by sympy, each for itself."""
    symbols = sp.symbols(f"x:{len(x)}")
    y = sum(symbol**2 for symbol in symbols)
    here = {symbol: sp.Rational(float(value)) for symbol, value in zip(symbols, x, strict=True)}
    return double([float(sp.diff(y, symbol).subs(here)) for symbol in symbols])


# ------------------------------------------------------------------------------------------------------------- shapes


def _shapes(x: Tensor) -> Parts:
    s, n = double(2.0), len(x)
    scalar = {"scalar": s, "vector": x, "matrix": torch.outer(x, x)[:2]}
    yield text("reversed", comment="`# 向量对标量的求导`")
    rows, gradients = [], []
    for name, at in scalar.items():
        slopes = gradient(torch.square, at)
        rows.append((text("scalar"), text(name), _shape(at), _shape(slopes), text("gradient")))
        gradients.append((list(slopes.shape), list(at.shape)))
    by_scalar, by_vector = (_jacobian(lambda t: t * x, s), _jacobian(lambda v: v**2, x))
    rows += [
        (text("vector"), text("scalar"), _shape(s), _shape(by_scalar), text("tangent")),
        (text("vector"), text("vector"), _shape(x), _shape(by_vector), text("jacobian")),
    ]
    yield Rows(("numerator", "denominator", "input-shape", "derivative-shape", "called"), rows)
    yield claim("shape-of-input", [g for g, _ in gradients], "=", [a for _, a in gradients], "A14")
    yield claim("tangent-is", by_scalar, "=", x, "A14")
    yield claim("jacobian-shape", list(by_vector.shape), "=", [n, n], "A14", n=n, count=n * n)


def _jacobian(f: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Returns the derivatives of all outputs by all inputs, in the shape (*outputs, *inputs)."""
    return torch.autograd.functional.jacobian(f, at)  # type: ignore[no-any-return]


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


# ------------------------------------------------------------------------------------------------------------ numbers


def _numbers(x: Tensor) -> Parts:
    explanation = explained("sum(x**2)", {"x": x})
    yield text("one-each")
    yield Explained(explanation, ("forward", "backward"))
    yield claim("gradient-is", explanation.gradients["x"], "=", _by_sympy(x), "A14", "A15")
    moved, behind = (x + h * torch.eye(len(x), dtype=x.dtype) for h in (2.0**-10, -(2.0**-10)))
    slopes = ((moved**2).sum(1) - (behind**2).sum(1)) / 2.0**-9
    # Central differences of a parabola have no truncation error; the rounding of two sums stands over the step.
    slack = 16 * torch.finfo(x.dtype).eps * float((moved**2).sum(1).max()) * 2**9
    yield claim("moved-one-by-one", explanation.gradients["x"], "≈", slopes, "A14", within=slack, h=2.0**-10)


# ------------------------------------------------------------------------------------------------------- cotangents


def _cotangent(x: Tensor) -> Parts:
    failed = yield from attempt("without-sum", _WITHOUT_SUM)
    yield claim("refused", failed.fault, "=", "RuntimeError", "A14", message=f"`{failed.message}`")
    yield from attempt("weights", _WEIGHED)
    v = double([10.0**k for k in range(len(x))])
    weighed = gradient(torch.square, x, v)
    jacobian = torch.diag(2 * x)
    yield Rows(("jacobian", "weights-v", "weighed-sum"), [(jacobian, v, weighed)])
    yield claim("weighed", weighed, "=", v @ jacobian, "A14", v=v)
    yield claim("ones-are-sum", gradient(torch.square, x), "=", _by_sympy(x), "A14")
