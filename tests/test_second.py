"""Second derivatives: a wrong one of torch's, a wrong one of the user's, and one that the function cannot have."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradexplain as gx
from gradexplain.verification.verdicts import Report


def at(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


class Square(torch.autograd.Function):
    """Right once; its backward uses an intermediate that carries no gradient, so that 9x² has the second slope 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.h = 3 * x
        return ctx.h**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 6 * ctx.h * g


class Doubled(torch.autograd.Function):
    """Right however often it is differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


def report_on(function: Callable[[Tensor], Tensor], x: Tensor) -> Report:
    return gx.verify(function, {"x": x}, second=True)


def told(report: Report) -> list[tuple[str, Any]]:
    """The findings on whose error a second derivative is, or that there is none, each with what it names."""
    assert report.second is not None
    found = [f for f in report.second.findings if f.code.startswith("second-")]
    return [(f.code, f.data.get("element") or f.data.get("function")) for f in found]


# The slope of |x| x is 2|x|: a kink at 0. That of x^1.5 is 1.5 √x: infinitely steep there. That of relu jumps there.
# The second derivative of sin(πx)/(πx) is −π²/3 at 0, and torch's formula divides 0 by 0.
CASES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, list[tuple[str, Any]]]] = {
    "kink": (lambda x: (x * x.abs()).sum(), at(1.0, 0.0), [("second-kink", "x[1]")]),
    "steep": (lambda x: (x**1.5).sum(), at(0.0, 1.0), [("second-steep", "x[0]")]),
    "jump": (lambda x: torch.relu(x).sum(), at(0.0, 1.0), [("second-jump", "x[0]")]),
    "torch's": (lambda x: torch.sinc(x).sum(), at(0.0, 0.5), [("second-torchs", None)]),
    "user's": (lambda x: Square.apply(x).sum(), at(0.5, 2.0), [("second-users", "Square")]),
    "torch's, beside a custom Function": (lambda x: (torch.sinc(x) + Doubled.apply(x)).sum(), at(0.0), []),
    "right": (lambda x: (x.sin() * x.exp()).sum(), at(0.5, 2.0), []),
    "right, with a custom Function": (lambda x: Square.apply(x).sum() * 0 + x.exp().sum(), at(0.5), []),
}


@pytest.mark.parametrize("name", CASES)
def test_whose_error_a_second_derivative_is_and_that_there_is_none_is_told(name: str) -> None:
    function, x, expected = CASES[name]
    assert told(report_on(function, x)) == expected


def test_what_the_user_cut_is_not_called_torchs_own() -> None:
    report = report_on(lambda x: (x.detach() * x).sum(), at(0.5, 2.0))
    assert "second-torchs" not in [code for code, _ in told(report)]


def test_a_second_derivative_that_is_not_there_is_the_headline_where_nothing_else_is_in_doubt() -> None:
    steep, right = (report_on(CASES[name][0], CASES[name][1]) for name in ("steep", "right"))
    assert (steep.verdict, right.verdict) == ("cannot say", "agrees")
    page = " ".join(str(steep).split())
    assert "? The gradient is right; the function has no second derivative here." in page
    assert "At x[0] the gradient is infinitely steep: the function has no second derivative there" in page
    assert "没有二阶导数" in steep.render("text", language="zh")
    assert "no second derivative" not in str(right)
