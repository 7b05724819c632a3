"""What a gradient costs, counted in runs of the function and in operations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gradexplain.figures.parameters import Range
from gradexplain.lessons.measures import EPS, Counted, double, fastest, forward_differences, gradient
from gradexplain.lessons.parts import Parts, Rows, claim, exercise, section, text
from gradexplain.mathematics.terms import number_text


def lesson(
    *,
    n: Annotated[int, "How many inputs the largest function has.", Range(least=50, most=2000)] = 1000,
    size: Annotated[int, "The width of the layers whose operations are counted.", Range(least=8, most=512)] = 256,
    outputs: Annotated[int, "How many outputs, for the price of a Jacobian.", Range(least=2, most=20)] = 5,
) -> Parts:
    """Yields the lesson."""
    yield from section("counting", _counted(n))
    yield from section("price", _operations(size))
    yield from section("jacobian", _jacobian(outputs))
    yield exercise("ex-network", 2 * _parameters(nn.Linear(28, 10)), inputs=28, outputs=10)
    yield exercise("ex-jacobian", outputs + 2, outputs=outputs + 2)


# ----------------------------------------------------------------------------------------------- runs of the function


def _squares(x: Tensor) -> Tensor:
    return (x**2).sum()


def central_differences(f: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """Returns the gradient by moving one input at a time, both ways."""
    slopes = torch.empty_like(x)
    for i in range(len(x)):
        ahead, behind = x.clone(), x.clone()
        ahead[i] += h
        behind[i] -= h
        slopes[i] = (f(ahead) - f(behind)) / (2 * h)
    return slopes


_WAYS: Mapping[str, Callable[..., Tensor]] = {
    "automatic": gradient, "forward": forward_differences, "central": central_differences,
}  # fmt: skip


def _counted(n: int) -> Parts:
    yield text("one-by-one", n=n)
    rows, runs, seconds = [], {}, {}
    for size in (1, 10, n):
        x = torch.linspace(-1, 1, size, dtype=torch.float64)
        for name, way in _WAYS.items():
            f = Counted(_squares)
            error = float((way(f, x) - 2 * x).abs().max())
            runs[name, size], seconds[name, size] = f.runs, fastest(partial(way, _squares, x), 3)
            taken = number_text(1000 * seconds[name, size], 2)
            rows.append((size, text(name), f.runs, taken, number_text(error, 2)))
    yield Rows(("inputs", "way", "runs", "milliseconds", "error"), rows)
    yield text("as-measured")
    sizes = (1, 10, n)
    yield claim("automatic-runs", [runs["automatic", s] for s in sizes], "=", [1] * len(sizes), "A5")
    yield claim("forward-runs", [runs["forward", s] for s in sizes], "=", [s + 1 for s in sizes], "A5")
    yield claim("central-runs", [runs["central", s] for s in sizes], "=", [2 * s for s in sizes], "A5")
    # There are n + 1 runs against about three: that the one is slower at all is safe on the busiest machine.
    ratio = seconds["forward", n] / seconds["automatic", n]
    yield claim("faster", ratio, ">", 1.0, "A5", n=n, times=round(ratio))
    x = torch.linspace(-1, 1, n, dtype=torch.float64)
    yield claim("same-gradient", gradient(_squares, x), "≈", 2 * x, "A5", within=4 * EPS, n=n, most=2 * float(x[-1]))


# ------------------------------------------------------------------------------------------------------- operations


def _operations(size: int) -> Parts:
    net = nn.Sequential(nn.Linear(size, size, bias=False), nn.Tanh(), nn.Linear(size, size, bias=False))
    x = torch.randn(size, size, requires_grad=True)
    with FlopCounterMode(display=False) as ahead:
        loss = net(x).square().sum()
    with FlopCounterMode(display=False) as back:
        loss.backward()
    one, other, weights = ahead.get_total_flops(), back.get_total_flops(), _parameters(net)
    yield text("matrix-products", size=size)
    yield Rows(("pass", "multiplications"), [(text("ahead"), one), (text("back"), other)])
    # A product of two (n, n) matrices has n³ multiplications, each with an addition; there are two layers.
    yield claim("ahead-is", one, "=", 2 * 2 * size**3, "A5")
    yield claim("back-is", other, "=", 2 * one, "A5")
    # The bound of Baur and Strassen's theorem, as Griewank states it: five times the operations of the function.
    yield claim("whole-price", (one + other) / one, "<", 5.0, "A5", weights=weights)
    times = 2 * weights * one / (one + other)
    # The value counts as one run, value and gradient as three.
    within = weights * EPS
    expected = 2 * weights / 3
    yield claim("differences-price", times, "≈", expected, "A5", within=within, weights=weights, runs=2 * weights)


def _parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# ------------------------------------------------------------------------------------------------- several outputs


def _jacobian(outputs: int) -> Parts:
    x = torch.linspace(0.5, 1.5, 40, dtype=torch.float64, requires_grad=True)
    y = torch.stack([(x**k).sum() for k in range(1, outputs + 1)])
    passes: list[int] = []
    assert y.grad_fn is not None
    y.grad_fn.register_prehook(lambda _: passes.append(1))
    rows = [torch.autograd.grad(y[k], x, retain_graph=True)[0] for k in range(outputs)]
    yield text("several", outputs=outputs, n=len(x))
    yield claim("passes", len(passes), "=", outputs, "A5")
    expected = torch.stack([k * x.detach() ** (k - 1) for k in range(1, outputs + 1)])
    slack = 8 * EPS * float(expected.abs().max())
    yield claim("rows-right", float((torch.stack(rows) - expected).abs().max()), "<", slack, "A5")
    t = 1.5
    true = [k * t ** (k - 1) for k in range(1, outputs + 1)]
    slopes = _carried_along(double(t), outputs)
    yield claim("forward-mode", slopes, "≈", true, "A5", within=8 * EPS * true[-1], outputs=outputs)


def _carried_along(t: Tensor, outputs: int) -> Tensor:
    """Returns the slopes of all powers of `t` by one pass of forward mode."""
    powers = torch.arange(1, outputs + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own use of torch.jit
        slopes = torch.func.jvp(lambda t: t**powers, (t,), (torch.ones_like(t),))[1]
    assert isinstance(slopes, Tensor)
    return slopes
