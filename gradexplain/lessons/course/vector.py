"""A scalar by a vector: the shape of a gradient, and what a vector output needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import sympy as sp
import torch
from torch import Tensor

from gradexplain.api import explain
from gradexplain.figures.parameters import Count, Range
from gradexplain.lessons.listings import attempt
from gradexplain.lessons.parts import Explained, Parts, Tabulated, claim, exercise, section, text
from gradexplain.targets.expression import parse
from gradexplain.targets.interpreter import Runner

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
    *,
    x: Annotated[tuple[float, ...], "The elements of the vector.", Range(-100, 100), Count(2, 5)] = (1.0, 2.0, 3.0),
) -> Parts:
    """Yields the lesson."""
    point = torch.tensor(x, dtype=torch.float64)
    yield from section("listing-head", _listing())
    yield from section("shapes-head", _shapes(point))
    yield from section("numbers-head", _numbers(point))
    yield from section("cotangent-head", _cotangent(point))
    asked = torch.arange(1, len(x) + 1, dtype=torch.float64)
    weight, vector = torch.ones(4, 2), torch.ones(2, requires_grad=True)
    (gradient,) = torch.autograd.grad((weight @ vector).square().sum(), vector)
    yield exercise("ex-shape", _shape(gradient), weight=_shape(weight))
    yield exercise("ex-weights", asked * 2 * point, weights=asked, x=point)


# ------------------------------------------------------------------------------------------------- the tutorial's code


def _listing() -> Parts:
    alone = yield from attempt("alone", _TUTORIAL, {})
    yield claim("name-missing", [alone.fault, "torch" in alone.message], "=", ["NameError", True], "A15",
                fault=alone.fault)  # fmt: skip
    ran = yield from attempt("in-order", _TUTORIAL)
    x = ran.names["x"].detach()
    yield claim("prints", ran.printed.strip(), "=", f"dy/dx = {_by_sympy(x).float()}", "A15", grad=ran.names["x"].grad)


def _by_sympy(x: Tensor) -> Tensor:
    """Returns the gradient of Σxᵢ² with every partial derivative taken by sympy, each for itself."""
    symbols = sp.symbols(f"x:{len(x)}")
    y = sum(symbol**2 for symbol in symbols)
    here = {symbol: sp.Rational(float(value)) for symbol, value in zip(symbols, x, strict=True)}
    return torch.tensor([float(sp.diff(y, symbol).subs(here)) for symbol in symbols], dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- shapes


def _shapes(x: Tensor) -> Parts:
    s, n = torch.tensor(2.0, dtype=torch.float64), len(x)
    scalar = {"scalar": s, "vector": x, "matrix": torch.outer(x, x)[:2]}
    yield text("reversed", comment="`# 向量对标量的求导`")
    rows, gradients = [], []
    for name, at in scalar.items():
        leaf = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((leaf**2).sum(), leaf)
        rows.append((text("scalar"), text(name), _shape(at), _shape(gradient), text("gradient")))
        gradients.append((list(gradient.shape), list(at.shape)))
    by_scalar, by_vector = (_jacobian(lambda t: t * x, s), _jacobian(lambda v: v**2, x))
    rows += [
        (text("vector"), text("scalar"), _shape(s), _shape(by_scalar), text("tangent")),
        (text("vector"), text("vector"), _shape(x), _shape(by_vector), text("jacobian")),
    ]
    yield Tabulated(("numerator", "denominator", "input-shape", "derivative-shape", "called"), rows)
    yield claim("shape-of-input", [g for g, _ in gradients], "=", [a for _, a in gradients], "A14")
    yield claim("tangent-is", by_scalar, "=", x, "A14")
    yield claim("jacobian-shape", list(by_vector.shape), "=", [n, n], "A14", n=n, count=n * n)


def _jacobian(f: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Returns the derivatives of all outputs by all inputs, in the shape (*outputs, *inputs)."""
    found = torch.autograd.functional.jacobian(f, at)
    assert isinstance(found, Tensor)
    return found


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


# ------------------------------------------------------------------------------------------------------------ numbers


def _numbers(x: Tensor) -> Parts:
    run = Runner(parse("sum(x**2)"))
    found = explain(run, {"x": x}, locate=run.locate)
    yield text("one-each")
    yield Explained(found, ("forward", "backward"))
    yield claim("gradient-is", found.gradients["x"], "=", _by_sympy(x), "A14", "A15")
    moved = x + 2.0**-10 * torch.eye(len(x), dtype=x.dtype)
    behind = x - 2.0**-10 * torch.eye(len(x), dtype=x.dtype)
    slopes = ((moved**2).sum(1) - (behind**2).sum(1)) / 2.0**-9
    # Central differences of a parabola have no truncation error; the rounding of two sums stands over the step.
    slack = 16 * torch.finfo(x.dtype).eps * float((moved**2).sum(1).max()) * 2**9
    yield claim("moved-one-by-one", found.gradients["x"], "≈", slopes, "A14", within=slack, h=2.0**-10)


# ------------------------------------------------------------------------------------------------------- cotangents


def _cotangent(x: Tensor) -> Parts:
    failed = yield from attempt("without-sum", _WITHOUT_SUM)
    yield claim("refused", failed.fault, "=", "RuntimeError", "A14", message=f"`{failed.message}`")
    yield from attempt("weights", _WEIGHED)
    leaf = x.clone().requires_grad_()
    v = torch.tensor([10.0**k for k in range(len(x))], dtype=torch.float64)
    (found,) = torch.autograd.grad(leaf**2, leaf, v)
    jacobian = torch.diag(2 * x)
    yield Tabulated(("jacobian", "weights-v", "weighed-sum"), [(jacobian, v, found)])
    yield claim("weighed", found, "=", v @ jacobian, "A14", v=v)
    (ones,) = torch.autograd.grad(leaf**2, leaf, torch.ones_like(x))
    yield claim("ones-are-sum", ones, "=", _by_sympy(x), "A14")
