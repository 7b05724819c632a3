"""Where Σx² overflows, why its gradient survives, and what log-sum-exp is for, which is something else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Literal

import torch
from torch import Tensor

from gradexplain.api import graph
from gradexplain.lessons.computations import explained
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import EPS, SINGLE, double
from gradexplain.lessons.parts import Explained, Parts, Pictured, Rows, claim, exercise, section, text

_TEN = """
x = torch.full((10,), 100., dtype=torch.float16, requires_grad=True)
print(torch.sum(x**2))
y = torch.mean(x**2)
y.backward()
print(y, x.grad)
"""
_NAIVE = """
x = torch.tensor([1000., 1000.], requires_grad=True)
y = torch.log(torch.exp(x).sum())
y.backward()
print(y, x.grad)
"""
_STABLE = _NAIVE.replace("torch.log(torch.exp(x).sum())", "torch.logsumexp(x, 0)")
_TYPES = (torch.float16, torch.bfloat16, torch.float32)
_WIDER = {"float16": "float32", "float32": "float64"}


def lesson(*, precision: Annotated[Literal["float16", "float32"], "The type that overflows."] = "float16") -> Parts:
    """Yields the lesson."""
    dtype = getattr(torch, precision)
    # The least power of two whose square is too large, and a quarter of it: nothing but overflow is inexact.
    largest = 2.0 ** (math.floor(math.log2(torch.finfo(dtype).max) / 2) + 1)
    x = torch.tensor([largest, largest / 4], dtype=dtype)
    yield from section("limit", _limit())
    yield from section("survives", _survives(x))
    yield from section("log-sum-exp", _log_sum_exp())
    yield from section("advice", _advice(x))
    yield from section("helps", _helps(x, _WIDER[precision]))
    yield exercise("ex-largest", 2 ** math.floor(math.log2(torch.finfo(torch.float16).max) / 2))
    yield exercise("ex-equal", 1 / 4, count=4)


def _computed(code: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns value and gradient."""
    explanation = explained(code, {"x": x})
    gradient = explanation.gradients["x"]
    assert gradient is not None
    return explanation.output.tensor, gradient


# -------------------------------------------------------------------------------------------------------------- limit


def _limit() -> Parts:
    rows, kinds, exact = [], [], []
    for dtype in _TYPES:
        info = torch.finfo(dtype)
        root = math.sqrt(info.max)
        rows.append((info.dtype, info.max, root, 2 * root))
        for near in (torch.tensor(root * (1 + k * info.eps), dtype=dtype) for k in (-2, 2)):
            kinds.append(bool((near**2).isinf()))
            # What is half a spacing or more above the largest number rounds to infinity.
            exact.append(Fraction(near.item()) ** 2 >= Fraction(info.max) * (1 + Fraction(info.eps) / 4))
    yield text("roots")
    yield Rows(("type", "largest", "root", "slope"), rows)
    yield claim("edge", kinds, "=", exact, "B32")
    tried = yield from attempt("adds-up", _TEN)
    x, y = tried.names["x"], tried.names["y"]
    squares = [100.0**2] * 10
    summed = torch.sum(x.detach() ** 2)
    yield claim("sum-inf", [summed.isinf(), sum(squares) > torch.finfo(torch.float16).max], "=", [True, True], "B32",
                total=sum(squares), largest=torch.finfo(torch.float16).max)  # fmt: skip
    yield claim("mean", y, "=", sum(squares) / len(squares), "B32")
    # one rounding of float16 in numbers of size 20
    yield claim("mean-grad", x.grad, "≈", [2 * 100 / 10] * 10, "B32",
                within=20 * torch.finfo(torch.float16).eps, each=x.grad[0])  # fmt: skip


def _survives(x: Tensor) -> Parts:
    explanation = explained("sum(x**2)", {"x": x})
    yield text("too-large", x=x)
    yield Explained(explanation, ("forward", "backward"))
    yield claim("value", explanation.output.tensor, "=", math.inf, "B32")
    yield claim("gradient", explanation.gradients["x"], "=", [2 * v for v in x.tolist()], "B32")
    shown = ["values", "gradients", "derivatives"]
    yield Pictured(
        "picture", graph(lambda x: torch.sum(x**2), {"x": x}, view="elements", show=shown, title="sum(x**2)")
    )
    yield text("why")
    _, after = _computed("sqrt(sum(x**2))", x)
    yield claim("norm-lost", after, "=", [v / math.inf for v in x.tolist()], "B32", unit=_unit(x.tolist()))


def _unit(x: Sequence[float]) -> list[float]:
    return [v / math.hypot(*x) for v in x]


# -------------------------------------------------------------------------------------------------------- log-sum-exp


def _log_sum_exp() -> Parts:
    naive = yield from attempt("made-for", _NAIVE)
    yield claim("naive", [naive.names["y"].isinf(), naive.names["x"].grad.isnan().all()], "=", [True, True], "B33")
    stable = run_listing(_STABLE)
    yield stable
    # log Σ e^x = m + log Σ e^(x − m), with m the largest; a few roundings of float32 in numbers of that size
    within = 2 * 1000 * SINGLE
    yield claim("stable", stable.names["y"], "≈", 1000 + math.log(2), "B33", within=within)
    # Rounding once, relative to 1000, in an exponent is a relative error of that size.
    yield claim("softmax", stable.names["x"].grad, "≈", [1 / 2] * 2, "B33", within=within)


def _advice(x: Tensor) -> Parts:
    small = double([1.0, 2.0, 3.0])
    squares = [v**2 for v in small.tolist()]
    value, gradient = _computed("logsumexp(x**2, 0)", small)
    eps = EPS
    yield text("applied", x=small)
    yield claim("other", value, "≈", math.log(sum(map(math.exp, squares))), "B33", within=16 * eps * max(squares))
    yield claim("not-it", abs(value.item() - sum(squares)), ">", 1.0, "B33", value=value, sum=sum(squares))
    value, gradient = _computed("logsumexp(x**2, 0)", x)
    worse = [value.isinf(), gradient.isnan().any()]
    yield claim("worse", worse, "=", [True, True], "B33", value=value, gradient=gradient)
    value, _ = _computed("exp(logsumexp(2*log(abs(x)), 0))", x)
    yield text("by-logs")
    yield claim("back", value, "=", math.inf, "B33")
    value, gradient = _computed("logsumexp(2*log(abs(x)), 0)", x)
    total = sum(v**2 for v in x.tolist())
    # Some roundings: in the logarithm, of its own size, which is an exponent on the way back.
    within = 4 * torch.finfo(x.dtype).eps * math.log(total)
    yield claim("logarithm", value, "≈", math.log(total), "B33", within=within)
    _, at_zero = _computed("logsumexp(2*log(abs(x)), 0)", double([0.0, 1.0]))
    yield claim("zero", at_zero.isnan(), "=", [True, False], "B33", gradient=at_zero)


# --------------------------------------------------------------------------------------------------------- what helps


def _helps(x: Tensor, wider: str) -> Parts:
    scaled, cast, late = (
        "max(abs(x)) * sqrt(sum((x / max(abs(x)))**2))", f"sum(x.to({wider})**2)", f"sum(x**2, dtype={wider})",
    )  # fmt: skip
    whole = "max(abs(x))**2 * sum((x / max(abs(x)))**2)"
    codes = ("sum(x**2)", "mean(x**2)", whole, late, cast, scaled)
    both = {code: _computed(code, x) for code in codes}
    numbers = x.tolist()
    total = sum(v**2 for v in numbers)
    yield text("no-room", total=total, largest=torch.finfo(x.dtype).max)
    yield Rows(("computation", "gives", "gradient-of"), [(code, *pair) for code, pair in both.items()])
    yield claim("no-form", [both[c][0].isinf() for c in codes[:4]], "=", [True] * 4, "B33", whole=whole, late=late)
    yield claim("wider", both[cast][0], "=", total, "B33", wider=wider)
    yield claim("wider-gradient", both[cast][1], "=", [2 * v for v in numbers], "B33")
    within = 4 * torch.finfo(x.dtype).eps
    value, slopes = both[scaled]
    yield claim("scaled", value.item() / math.hypot(*numbers), "≈", 1.0, "B33", within=within, value=value)
    yield claim("scaled-gradient", slopes, "≈", _unit(numbers), "B33", within=within)
    yield text("choose")
