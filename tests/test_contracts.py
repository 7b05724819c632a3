"""The contract of a backward: each promise × a Function that breaks it, and Functions that keep all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import gradexplain as gx

X = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]], dtype=torch.float64)
Y = torch.tensor([[2.0, -1.0, 0.5], [3.0, 1.5, 1.0]], dtype=torch.float64)


class Squares(Function):
    """Keeps every promise; the others are this with one line changed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * grads[0]


def squares(name: str, backward: Callable[..., Any]) -> Any:
    return type(name, (Squares,), {"backward": staticmethod(backward)})


def from_memory(ctx: Any, g: Tensor) -> Tensor:
    there = g.untyped_storage().nbytes() // g.element_size() - g.storage_offset()
    flat = torch.zeros(g.numel(), dtype=g.dtype)
    count = min(g.numel(), there)
    flat[:count] = torch.as_strided(g, (count,), (1,), g.storage_offset())
    return 2 * ctx.saved_tensors[0] * flat.reshape(g.shape)


def last_moved_first(ctx: Any, g: Tensor) -> Tensor:
    """Takes it that rows lie one after another: wrong after a transpose alone."""
    rows = g if g.stride(0) >= g.stride(-1) else g.flip(0)
    return Squares.backward(ctx, rows)


class Two(Function):
    """x·y and x/y; keeps every promise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y)
        return x * y, x / y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y = ctx.saved_tensors
        a, b = (torch.zeros_like(x) if g is None else g for g in grads)
        return a * y + b / y, a * x - b * x / y**2


def two(name: str, backward: Callable[..., Any]) -> Any:
    return type(name, (Two,), {"backward": staticmethod(backward)})


def none_at_none(ctx: Any, a: Tensor | None, b: Tensor | None) -> Any:
    return (None, None) if a is None or b is None else Two.backward(ctx, a, b)


def drops_the_second(ctx: Any, a: Tensor | None, b: Tensor | None) -> Any:
    return Two.backward(ctx, a, b if a is not None else None)


def by_position(ctx: Any, a: Tensor | None, b: Tensor | None) -> Any:
    """Gives what is needed in the order of what is needed: wrong where the second alone is."""
    x, y = Two.backward(ctx, a, b)
    return (x, y) if all(ctx.needs_input_grad) else (x, x)


# What is broken → the Function that breaks it, its inputs, the finding.
BROKEN: dict[str, tuple[Any, tuple[Tensor, ...], str]] = {
    "clamped": (squares("Clamped", lambda ctx, g: Squares.backward(ctx, g.clamp(-1, 1))), (X,), "not-linear"),
    "clamped at ten": (squares("Ten", lambda ctx, g: Squares.backward(ctx, g.clamp(-10, 10))), (X,), "not-linear"),
    "sign alone": (squares("Sign", lambda ctx, g: Squares.backward(ctx, g.sign())), (X,), "not-linear"),
    "an offset": (squares("Offset", lambda ctx, g: Squares.backward(ctx, g) + 1), (X,), "not-linear"),
    "small ones dropped": (
        squares("Dropped", lambda ctx, g: Squares.backward(ctx, g * (g.abs() > 0.1))), (X,), "not-linear",
    ),
    "normalised": (
        squares("Normal", lambda ctx, g: Squares.backward(ctx, g * g.abs().amax() / g.norm())), (X,), "not-additive",
    ),
    "memory": (squares("Memory", from_memory), (X,), "layout"),
    "memory, a vector": (squares("Vector", from_memory), (X[0],), "layout"),
    "rows presumed": (squares("Rows", last_moved_first), (X,), "layout"),
    "nothing where one is unused": (two("Nothing", none_at_none), (X, Y), "output-unused"),
    "the second without the first": (two("Second", drops_the_second), (X, Y), "output-unused"),
    "by position": (two("Position", by_position), (X, Y), "needs-alone"),
    "by position, of numbers": (two("Numbers", by_position), (X[0, 0], Y[0, 0]), "needs-alone"),
}  # fmt: skip


def found(function: Any, inputs: tuple[Tensor, ...]) -> tuple[gx.Report, list[str]]:
    report = gx.verify(function.apply, list(inputs))
    return report, [finding.code for operation in report.wrong() for finding in operation.findings]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(name: str, dtype: torch.dtype) -> None:
    function, inputs, code = BROKEN[name]
    report, codes = found(function, tuple(t.to(dtype) for t in inputs))
    assert report.verdict == "differs"
    assert code in codes
    (wrong,) = report.wrong()
    assert wrong.label == function.__name__
    page = report.render("text", width=200)
    assert function.__name__ in page
    assert "XX" not in page


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_differs_in_half_precision(name: str) -> None:
    function, inputs, _ = BROKEN[name]
    report, _ = found(function, tuple(t.to(torch.bfloat16) for t in inputs))
    assert report.verdict == "differs"


class Once(Squares):
    """Frees what it saved: it can run once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x
        return x**2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x = ctx.kept
        del ctx.kept
        return 2 * x * grads[0]


class Undifferentiable(Squares):
    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class Softmax(Function):
    """Sums that cancel: the rounding of one question is another's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.softmax(-1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (y,) = ctx.saved_tensors
        return y * (grads[0] - (grads[0] * y).sum(-1, keepdim=True))


class Noise(Function):
    """Draws in its forward, and keeps what it drew."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mask = torch.rand_like(x)
        return x * ctx.mask

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.mask


class Refusing(Squares):
    """Says that it wants its gradient in a row: torch hears that."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * grads[0].view(-1).view(grads[0].shape)


class Constant(Function):
    """A second output that carries no gradient, an argument that is no tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, power: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.power = power
        order = x.argsort(-1)
        ctx.mark_non_differentiable(order)
        return x**power, order

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.power * ctx.saved_tensors[0] ** (ctx.power - 1), None


KEPT: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "squares": (Squares.apply, (X,)),
    "two outputs": (Two.apply, (X, Y)),
    "one of two outputs": (lambda x, y: Two.apply(x, y)[0], (X, Y)),
    "once": (Once.apply, (X,)),
    "once differentiable": (Undifferentiable.apply, (X,)),
    "cancelling sums": (Softmax.apply, (100 * X,)),
    "noise": (Noise.apply, (X,)),
    "refusing a layout": (Refusing.apply, (X,)),
    "constant output": (lambda x: Constant.apply(x, 3)[0], (X,)),
    "scalar": (Squares.apply, (torch.tensor(3.0),)),
    "wide": (Squares.apply, (torch.logspace(-6, 6, 13, dtype=torch.float64),)),
    "infinite slope": (lambda x: Squares.apply(x.sqrt()), (torch.tensor([0.0, 1.0]),)),
    "twice applied": (lambda x: Squares.apply(Squares.apply(x)), (X,)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("name", KEPT)
def test_a_kept_promise_is_no_alarm(name: str, dtype: torch.dtype) -> None:
    function, inputs = KEPT[name]
    report = gx.verify(function, [t.to(dtype) for t in inputs])
    assert [f.code for o in report.wrong() for f in o.findings] == []
    assert "contract" not in [c.oracle for o in report.operations for c in o.report.checks]
    assert "contract-unasked" not in [finding.code for finding in report.findings]


class Exponential(Function):
    """Its backward takes another algorithm where what arrives is larger, and so rounds in other places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.linalg.matrix_exp(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        zero = torch.zeros_like(x)
        whole = torch.cat([torch.cat([x.mT, grads[0]], 1), torch.cat([zero, x.mT], 1)])
        return torch.linalg.matrix_exp(whole)[: len(x), len(x) :]


@pytest.mark.parametrize("seed", range(4))
def test_another_algorithm_for_another_scale_breaks_no_promise(seed: int) -> None:
    x = 3 * torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    report = gx.verify(Exponential.apply, [x])
    assert (report.verdict, report.wrong()) == ("agrees", ())


def test_a_class_is_asked_once_for_each_signature() -> None:
    calls: list[tuple[int, ...]] = []

    def counted(ctx: Any, g: Tensor) -> Tensor:
        calls.append(tuple(g.shape))
        return Squares.backward(ctx, g)

    function = squares("Counted", counted)
    gx.verify(lambda x: function.apply(x), [X])
    once = len(calls)
    calls.clear()
    gx.verify(lambda x: function.apply(function.apply(function.apply(x))), [X])
    assert len(calls) < 3 * once


@pytest.mark.parametrize(
    ("backward", "code"),
    [
        (lambda ctx, g: Squares.backward(ctx, g.mul_(1.5) / 1.5), "backward-writes"),
        (lambda ctx, g: [setattr(ctx, "n", getattr(ctx, "n", 0) + 1), ctx.n * Squares.backward(ctx, g)][1],
         "backward-not-reentrant"),
        (lambda ctx, g: Squares.backward(ctx, g) * (1 + 0 * torch.rand(())), ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [12, 13])
def test_a_surprise_is_a_note_and_no_verdict(backward: Callable[..., Any], code: str, count: int) -> None:
    function = squares("Surprising", backward)
    report = gx.verify(function.apply, [torch.linspace(1, 2, count, dtype=torch.float64)])
    assert report.verdict == "agrees"
    assert [f.code for f in report.findings] == ([code] if code else [])
    assert "Surprising" in report.render("text", language="zh") or not code


def test_nothing_of_the_callers_is_changed() -> None:
    x = X.clone().requires_grad_()
    state = torch.get_rng_state()
    gx.verify(Noise.apply, [x])
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("cut", [0.0, 1e-7])
def test_a_backward_that_drops_what_is_small_is_asked_with_what_arrived(cut: float) -> None:
    class Copy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return torch.where(g.abs() < cut, 0.0, g)

    report = gx.verify(lambda x: (Copy.apply(x) ** 2).sum(), {"x": torch.tensor([1e3, 1.0, -1e-9]).double()})
    assert report.verdict == ("differs" if cut else "agrees")


def test_a_backward_that_takes_every_gradient_for_positive_is_asked_with_another_sign() -> None:
    class Size(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g.abs()

    report = gx.verify(lambda x: Size.apply(x).sum(), {"x": X})
    assert report.verdict == "differs"  # although 1 arrives everywhere, and it sends 1
    assert [f.code for o in report.wrong() for f in o.findings] == ["not-linear"]
