"""`verification.tangents`: a custom Function's own jvp is asked by itself, and is no judge of its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import gradexplain as gx
from gradexplain.findings.finding import Finding

Carry = Callable[[Tensor, Tensor, Tensor], Tensor]
X, Y = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64), torch.tensor([1.5, 0.0, -0.4], dtype=torch.float64)


def product(jvp: Carry | None, back: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns (x, y) ↦ x² y with a jvp of (dx, dy, x) at y = 1, and the right backward times `back`."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
            ctx.save_for_backward(x, y)
            ctx.save_for_forward(x, y)
            return x * x * y

        @staticmethod
        def backward(ctx: Any, *g: Any) -> Any:
            x, y = ctx.saved_tensors
            return back * 2 * x * y * g[0], back * x * x * g[0]

    def own(ctx: Any, dx: Tensor | None, dy: Tensor | None) -> Tensor:
        x, y = ctx.saved_tensors
        assert jvp is not None
        zeros = torch.zeros_like(x)
        return jvp((zeros if dx is None else dx) * y, zeros if dy is None else dy, x)

    if jvp is not None:
        Product.jvp = staticmethod(own)  # type: ignore[method-assign]
    return cast(Any, Product.apply)


def right(dx: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    return 2 * x * dx + x * x * dy


_JVPS: dict[str, tuple[Carry, str]] = {
    "right": (right, ""),
    "right, in another order": (lambda dx, dy, x: x * (dx + dx + x * dy), ""),
    "ignores": (lambda dx, dy, x: 2 * x, "own-jvp-ignores"),
    "absolute": (lambda dx, dy, x: right(dx, dy, x).abs(), "own-jvp-not-linear"),
    "shifted": (lambda dx, dy, x: right(dx, dy, x) + 1, "own-jvp-not-linear"),
    "bent": (lambda dx, dy, x: right(dx, dy, x) * (1 + 1e-3 * dx), "own-jvp-not-linear"),
    "couples": (lambda dx, dy, x: right(dx, dy, x).norm() * torch.ones_like(x), "own-jvp-not-linear"),
    "factor": (lambda dx, dy, x: 2 * right(dx, dy, x), "own-jvp-wrong"),
    "a little": (lambda dx, dy, x: (1 + 1e-6) * right(dx, dy, x), "own-jvp-wrong"),
    "sign": (lambda dx, dy, x: -right(dx, dy, x), "own-jvp-wrong"),
    "zero": (lambda dx, dy, x: 0 * dx, "own-jvp-wrong"),
    "one input alone": (lambda dx, dy, x: 2 * x * dx, "own-jvp-wrong"),
    "one element": (lambda dx, dy, x: right(dx, dy, x) * torch.tensor([1, 1, 1.01]), "own-jvp-wrong"),
    "shuffled": (lambda dx, dy, x: right(dx, dy, x).flip(0), "own-jvp-wrong"),
    "no number": (lambda dx, dy, x: right(dx, dy, x) / 0, "own-jvp-wrong"),
    "fails": (lambda dx, dy, x: x[7], "own-jvp-failed"),
}


def of_jvp(report: gx.Report) -> list[Finding]:
    return [f for f in report.findings if f.code.startswith("own-jvp")]


@pytest.mark.parametrize("name", _JVPS)
def test_a_wrong_jvp_is_named_and_is_no_error_of_the_gradient(name: str) -> None:
    jvp, code = _JVPS[name]
    report = gx.verify(product(jvp), {"x": X, "y": Y})
    assert report.verdict == "agrees"
    assert [f.code for f in of_jvp(report)] == ([code] if code else [])
    for found in of_jvp(report):
        assert found.data["function"] == "Product"
        assert found.source is not None
        assert (found.source.file, found.source.function) == (__file__, "own")
    assert ("jvp of Product is wrong" in str(report)) == (code not in ("", "own-jvp-failed"))
    assert "error in torch's forward mode" not in str(report)


def test_the_numbers_are_those_of_the_jvp_and_of_the_function() -> None:
    (found,) = of_jvp(gx.verify(product(_JVPS["factor"][0]), {"x": X, "y": Y}))
    seen, slope, back = (float(found.data[key]) for key in ("seen", "right", "back"))
    assert seen == pytest.approx(2 * slope, rel=1e-6)
    assert back == pytest.approx(slope, rel=1e-6)


def test_where_the_function_gives_no_number_nothing_is_said_of_its_jvp() -> None:
    assert not of_jvp(gx.verify(product(right), {"x": torch.tensor([1.0, torch.inf]), "y": torch.tensor([1.0, 1.0])}))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["right", "factor"])
def test_a_jvp_is_asked_at_any_size_and_in_any_type(scale: float, dtype: torch.dtype, name: str) -> None:
    jvp, code = _JVPS[name]
    point = {"x": (X * scale**0.25).to(dtype), "y": (Y * scale**0.25).to(dtype)}
    assert [f.code for f in of_jvp(gx.verify(product(jvp), point))] == ([code] if code else [])


def test_a_backward_that_a_right_jvp_contradicts_is_the_wrong_one() -> None:
    report = gx.verify(product(right, back=1.5), {"x": X, "y": Y})
    assert report.verdict == "differs"
    assert [f.code for f in of_jvp(report)] == ["own-jvp-right"]
    assert [f.code for f in of_jvp(gx.verify(product(lambda *t: 1.5 * right(*t), 1.5), {"x": X, "y": Y}))] == [
        "own-jvp-wrong"
    ]


@pytest.mark.parametrize("after", ["sum", "cut"])
def test_a_jvp_with_the_error_of_its_backward_confirms_nothing(after: str) -> None:
    """Beside a detached value, nothing but forward mode seemed to judge: it was asked of the same hand."""
    function = product(lambda *t: 1.5 * right(*t), back=1.5)

    def loss(x: Tensor) -> Tensor:
        h = function(x, torch.ones_like(x))
        return h.sum() if after == "sum" else torch.softmax(h - h.max().detach(), 0)[0]

    report = gx.verify(loss, {"x": X})
    assert report.verdict != "agrees"
    assert [(c.verdict, c.reason) for c in report.checks if c.oracle == "forward mode"] == [("cannot say", "own_jvp")]


def test_a_jvp_at_a_kink_may_follow_another_convention() -> None:
    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx: Any, *g: Any) -> Any:
            return g[0] * (ctx.saved_tensors[0] > 0)

        @staticmethod
        def jvp(ctx: Any, *t: Any) -> Any:
            return t[0] * (ctx.saved_tensors[0] >= 0)

    report = gx.verify(cast(Any, Relu.apply), {"x": torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)})
    assert not of_jvp(report)
    assert report.verdict != "differs"


def test_a_function_without_a_jvp_is_not_asked() -> None:
    report = gx.verify(product(None), {"x": X, "y": Y})
    assert (report.verdict, of_jvp(report)) == ("agrees", [])


def test_a_jvp_of_two_outputs_and_of_a_kernel_for_one_type() -> None:
    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            assert x.dtype == torch.float32
            ctx.save_for_backward(x)
            ctx.save_for_forward(x)
            return x.sin(), x.exp()

        @staticmethod
        def backward(ctx: Any, *g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g[0] * x.cos() + g[1] * x.exp()

        @staticmethod
        def jvp(ctx: Any, *t: Any) -> Any:
            (x,) = ctx.saved_tensors
            return t[0] * x.cos(), t[0] * x.sin()

    report = gx.verify(cast(Any, Both.apply), {"x": X.float()})
    assert [f.code for f in of_jvp(report)] == ["own-jvp-wrong"]
