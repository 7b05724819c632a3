"""No excuse hides an error, at any size and in any type, and what is right at a hard point gets no alarm.

Tables of kinds: each row has a function whose gradient is known from mathematics, and each error is planted in a custom
Function of which the rest of the function knows nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gradexplain as gx
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import trace
from gradexplain.verification.oracles.elements import MOST_PARTS, output_parts
from gradexplain.verification.oracles.own_type import Judged, number_of
from gradexplain.verification.verdicts import Report

Function = Callable[..., Tensor]
FLOATS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def at(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(dtype)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def verified(function: Function, *inputs: Tensor, **options: Any) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own: a tensor that requires grad becomes a number
        return gx.verify(function, list(inputs), **options)


def told(report: Report) -> list[tuple[object, ...]]:
    """What to read where a test fails."""
    return [(c.oracle, c.input, c.verdict, c.reason, c.place) for c in report.checks if c.verdict != "agrees"]


def planted(wrong: Callable[[Tensor], Tensor]) -> Function:
    """Returns exp, with a backward whose right gradient goes through `wrong`."""

    class Planted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return wrong(g * ctx.saved_tensors[0])

    return cast(Function, Planted.apply)


def summed(wrong: Callable[[Tensor], Tensor]) -> Function:
    """Returns Σ exp, with a backward whose right gradient goes through `wrong`."""

    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.exp().sum()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return wrong(g * ctx.saved_tensors[0].exp())

    return cast(Function, Summed.apply)


class Tail(torch.autograd.Function):
    """The normal distribution, as torch computes it: (1 + erf(x / √2)) / 2 moves by the last digits of 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.special.ndtr(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (-x.square() / 2).exp() / math.sqrt(2 * math.pi)


def element(position: int, factor: float) -> Callable[[Tensor], Tensor]:
    """Returns what multiplies one element, counted from the first or from the last, by a factor."""

    def wrong(gradient: Tensor) -> Tensor:
        found = gradient.clone().contiguous()
        found.view(-1)[position] *= factor
        return found

    return wrong


# ---------------------------------------------------------------------------- every excuse beside an unrelated error


class Right(torch.autograd.Function):
    """sin, right, and without a rule."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0].cos()


def by_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        weight = 2 * x
    return (x * weight).sum()


VECTOR, POSITIVE = at(0.0, 0.5, -0.7, 1.3), at(2.0, 0.4, 0.3, 0.4, 3.0, 0.2, 0.3, 0.2, 1.5).reshape(3, 3)
# The first element is where the excuse holds.
# fmt: off
EXCUSES: dict[str, tuple[Function, Tensor]] = {
    "a kink of relu":   (lambda x: F.relu(x).sum(), VECTOR),
    "a kink of abs":    (lambda x: x.abs().sum(), VECTOR),
    "a tie of max":     (lambda x: x.max(), at(0.5, 0.5, -0.7, 0.1)),
    "an edge of clamp": (lambda x: x.clamp(0.0, 1.0).sum(), VECTOR),
    "detach":           (lambda x: (x * x.detach()).sum(), at(1.2, 0.5, -0.7, 1.3)),
    "no_grad":          (by_no_grad, at(1.2, 0.5, -0.7, 1.3)),
    "item":             (lambda x: (x * x[0].item()).sum(), at(1.2, 0.5, -0.7, 1.3)),
    "cholesky":         (lambda x: torch.linalg.cholesky(x).sum(), POSITIVE),
    "eigvalsh":         (lambda x: torch.linalg.eigvalsh(x).square().sum(), POSITIVE),
    "a padding row":    (lambda x: F.embedding(torch.tensor([0, 1, 1]), x, padding_idx=0).sin().sum(), normal(0, 2, 3)),
    "dropout":          (lambda x: F.dropout(x, 0.5).sin().sum(), VECTOR),
    "a missing rule":   (lambda x: Right.apply(x).sum(), VECTOR),  # type: ignore[no-untyped-call]
}
ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "a factor of 1.01":                 lambda g: 1.01 * g,
    "the wrong sign":                   lambda g: -g,
    "zero in the last element":         element(-1, 0.0),
    "zero in the first element":        element(0, 0.0),
    "1.01 times in the first element":  element(0, 1.01),
}
# fmt: on


@pytest.mark.sampled(3)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("excuse", EXCUSES)
def test_an_excuse_hides_no_error_in_the_same_input(excuse: str, error: str) -> None:
    function, x = EXCUSES[excuse]
    wrong = planted(ERRORS[error])
    report = verified(lambda x: function(x) + wrong(x).sum(), x, stops="intended")
    assert report.verdict == "differs", told(report)
    assert [o.label for o in report.wrong()] == ["Planted"]


@pytest.mark.thorough
@pytest.mark.parametrize("error", ["a factor of 1.01", "the wrong sign", "zero in the first element"])
@pytest.mark.parametrize("excuse", EXCUSES)
def test_an_excuse_of_one_input_hides_no_error_in_another(excuse: str, error: str) -> None:
    function, x = EXCUSES[excuse]
    wrong = planted(ERRORS[error])
    report = verified(lambda x, y: function(x) + wrong(y).sum(), x, at(0.3, -1.1, 0.7), stops="intended")
    assert report.verdict == "differs", told(report)
    assert (report.of("x"), report.of("y")) == ("agrees", "differs"), told(report)
    assert [o.label for o in report.wrong()] == ["Planted"]


@pytest.mark.parametrize("excuse", EXCUSES)
def test_the_excuses_themselves_are_no_errors(excuse: str) -> None:
    function, x = EXCUSES[excuse]
    right = planted(lambda g: g)
    report = verified(lambda x: function(x) + right(x).sum(), x, stops="intended")
    assert report.verdict == "agrees", told(report)


# ------------------------------------------------------------------------------- one wrong element among many sizes

# The sizes that a type has, with room for a product: float16 has 6e-5 … 6e4.
SIZES = {"float64": (-30, 30), "float32": (-30, 30), "bfloat16": (-30, 30), "float16": (-3, 3)}
COUNT = 11


def sizes(dtype: str, part: float = 1.0) -> Tensor:
    low, high = SIZES[dtype]
    return 10.0 ** torch.linspace(part * low, part * high, COUNT, dtype=torch.float64)


def weighted(scale: Tensor, wrong: Callable[[Tensor], Tensor]) -> Function:
    """Returns s sin x, element by element, with a backward whose right gradient goes through `wrong`."""

    class Weighted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return scale.to(x.dtype) * x.sin()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return wrong(g * scale.to(x.dtype) * x.cos())

    return cast(Function, Weighted.apply)


def squared(wrong: Callable[[Tensor], Tensor]) -> Function:
    """Returns x², with a backward whose right gradient goes through `wrong`."""

    class Squared(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return wrong(g * 2 * ctx.saved_tensors[0])

    return cast(Function, Squared.apply)


def of_sizes(kind: str, dtype: str, wrong: Callable[[Tensor], Tensor]) -> tuple[Function, Tensor]:
    """Returns a function with effects of all sizes, and where to ask it: the sizes are those of weights or of x."""
    if kind == "weights":
        return weighted(sizes(dtype), wrong), (normal(3, COUNT).abs() / 2 + 0.3).to(FLOATS[dtype])
    return squared(wrong), (sizes(dtype, 0.5) * (1 + normal(3, COUNT).abs() / 2)).to(FLOATS[dtype])


FACTORS = {"twice": 2.0, "zero": 0.0, "sign": -1.0, "1.01": 1.01}
POSITIONS = (0, 4, 10)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", ["weights", "inputs"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_wrong_element_of_any_size_is_named(dtype: str, kind: str, factor: str) -> None:
    for position in POSITIONS:
        function, x = of_sizes(kind, dtype, element(position, FACTORS[factor]))
        report = verified(function, x)
        assert report.verdict == "differs", (position, told(report))
        places = {c.place for c in report.checks if c.verdict == "differs"}
        assert places == {(position,)}, position


@pytest.mark.sampled(3)
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", ["weights", "inputs"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_wrong_element_of_a_sum_is_never_right(dtype: str, kind: str, factor: str) -> None:
    for position in POSITIONS:
        function, x = of_sizes(kind, dtype, element(position, FACTORS[factor]))
        report = verified(lambda x, function=function: function(x).sum(), x)
        assert report.verdict != "agrees", position


@pytest.mark.parametrize("kind", ["weights", "inputs"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_without_an_error_all_sizes_are_right(dtype: str, kind: str) -> None:
    function, x = of_sizes(kind, dtype, lambda g: g)
    report = verified(function, x)
    assert report.verdict == "agrees", told(report)
    report = verified(lambda x: function(x).sum(), x)
    assert report.verdict != "differs", told(report)


@pytest.mark.parametrize("decades", [0, 2, 24, 60, 600])
def test_outputs_of_any_sizes_make_a_few_parts_and_each_is_in_one(decades: int) -> None:
    value = torch.cat([10.0 ** torch.linspace(-decades / 2, decades / 2, 500, dtype=torch.float64), at(0.0, -1.0)])
    masks = output_parts(value)
    assert len(masks) <= MOST_PARTS
    assert torch.stack(masks).sum(0).tolist() == [1] * len(value)
    within = [value[mask & (value != 0)].abs().log10() for mask in masks]
    assert max(float(w.max() - w.min()) for w in within) <= max(3, decades / (MOST_PARTS - 1))


# --------------------------------------------------------------------------------------- an error in the number only


def in_short_types(kind: Callable[..., Function], wrong: Callable[[Tensor], Tensor]) -> Function:
    """Returns a Function with a backward that is right in float64 and goes through `wrong` in every other type."""
    return kind(lambda g: g if g.dtype == torch.float64 else wrong(g))


# Errors above what rounding may do, and half of them: 40, and 20, last digits in float16.
VISIBLE = {"float32": 1e-4, "float16": 0.04, "bfloat16": 0.25}
# fmt: off
MISTAKES: dict[str, tuple[float, Callable[[float], Callable[[Tensor], Tensor]]]] = {
    "all":          (1, lambda e: lambda g: (g.double() * (1 + e)).to(g.dtype)),
    "one element":  (1, lambda e: lambda g: element(1, 1 + e)(g.double()).to(g.dtype)),
    "twice, one":   (2, lambda e: lambda g: element(1, 1 + e)(g.double()).to(g.dtype)),
    "sign":         (0, lambda e: lambda g: -g),
    "zero, one":    (0, lambda e: element(1, 0.0)),
}
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("dtype", VISIBLE)
def test_an_error_in_the_users_own_type_differs(dtype: str, mistake: str) -> None:
    times, wrong = MISTAKES[mistake]
    function, x = in_short_types(squared, wrong(times * VISIBLE[dtype])), at(2.0, 4.0, 3.0, -1.0, dtype=FLOATS[dtype])
    for report in (verified(function, x), verified(lambda x: function(x).sum(), x)):
        assert report.verdict == "differs", told(report)
        found = [c for c in report.checks if c.verdict == "differs"]
        assert {c.reason for c in found} == {"number"}
        if "one" in mistake:
            assert {c.data["place"] for c in found} == {(1,)}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("dtype", VISIBLE)
def test_what_is_called_right_in_the_users_own_type_is_off_by_no_more_than_is_said(dtype: str, mistake: str) -> None:
    """Where rounding may hide an error of this size, the report says so: never that a smaller one would be seen."""
    times, wrong = MISTAKES[mistake]
    error = times * VISIBLE[dtype] / 2
    function = in_short_types(planted, wrong(error))
    for count, composed in ((3, function), (100, lambda x: (function(x) * x).sum()), (300, function)):
        report = verified(composed, normal(5, count, dtype=FLOATS[dtype]))
        if report.verdict == "agrees":
            said, eps = report.resolution("x"), torch.finfo(FLOATS[dtype]).eps
            assert error, told(report)
            assert said is not None
            assert said >= error - eps  # a last digit is lost where g (1 + e) is rounded to the type


@pytest.mark.parametrize("dtype", VISIBLE)
def test_what_is_right_in_the_users_own_type_agrees(dtype: str) -> None:
    for count in (3, 300):
        report = verified(in_short_types(planted, lambda g: g), normal(5, count, dtype=FLOATS[dtype]))
        assert report.verdict == "agrees", told(report)


# ------------------------------------------------------------------------------------- right functions at hard points


def spread(low: int, high: int, count: int = 9) -> Tensor:
    return 10.0 ** torch.linspace(low, high, count, dtype=torch.float64)


# fmt: off
HARD: dict[str, tuple[Function, Tensor]] = {
    "1/x beside its pole":          (lambda x: (1 / x).sum(), at(1e-8, 0.7)),
    "1/x, each output":             (lambda x: 1 / x, at(1e-8, 0.7, -1e-5)),
    "x**-2 beside its pole":        (lambda x: x**-2, at(1e-6, 0.7)),
    "1/(x + 1e-9)":                 (lambda x: 1 / (x + 1e-9), at(1e-9, 0.7)),
    "lgamma beside its pole":       (lambda x: torch.lgamma(x), at(1e-6, -0.999, 0.7)),
    "digamma beside its pole":      (lambda x: torch.digamma(x), at(1e-6, -0.999, 0.7)),
    "log at 1e-7":                  (lambda x: x.log(), at(1e-7, 2.0)),
    "log summed at 1e-7":           (lambda x: x.log().sum(), at(1e-7, 2.0)),
    "the cube of 1e8":              (lambda x: (x**3).sum(), at(1e8, 3e7)),
    "the cube, each output":        (lambda x: x**3, at(1e8, 2.0, 1e-6)),
    "squares over 24 decades":      (lambda x: x**2, spread(-12, 12)),
    "roots over 24 decades":        (lambda x: x.sqrt(), spread(-12, 12)),
    "logs over 24 decades":         (lambda x: x.log().sum(), spread(-12, 12)),
    "weights over 24 decades":      (lambda x: spread(-12, 12) * x.sin(), normal(1, 9)),
    "a sum that cancels":           (lambda x: (1e8 + x.sin()) - 1e8, at(1.1, 2.0)),
    "a sum of opposite terms":      (lambda x: (1e6 * x - 1e6 * x.flip(0) + x.sin()).sum(), at(1.1, 2.0, 0.4)),
    "a large offset":               (lambda x: x.sin().sum() + 1e8, at(1.1, 2.0)),
    "fast oscillation":             (lambda x: (1e5 * x).sin().sum(), at(1.1, 2.0)),
    "sin(1e-3/x)":                  (lambda x: (1e-3 / x).sin(), at(1e-5, 0.7)),
    "variance near 1000":           (lambda x: x.var(), at(1000.1, 1000.2, 999.7, 1000.4)),
    "the tail of a softmax":        (lambda x: x.softmax(0), at(0.0, -20.0, 3.0)),
    "a log of softmax":             (lambda x: x.log_softmax(0), at(0.0, -20.0, 3.0)),
    "logsumexp of large numbers":   (lambda x: x.logsumexp(0), at(1000.0, 999.0, 998.5)),
    "expm1 at 1e-9":                (lambda x: x.expm1(), at(1e-9, 0.7)),
    "log1p at 1e-9":                (lambda x: x.log1p(), at(1e-9, 0.7)),
    "asin near its edge":           (lambda x: x.asin(), at(1 - 1e-6, 0.2)),
    "atanh near its edge":          (lambda x: x.atanh(), at(1 - 1e-6, 0.2)),
    "hypot beside 0":               (lambda x: (x * x).sum().sqrt(), at(1e-8, 2e-8)),
    "a transposed input":           (lambda x: (x @ x.mT).sin(), normal(1, 4, 3).mT),
    "an expanded input":            (lambda x: x.sin() * x, normal(1, 3, 1).expand(3, 4)),
    "a strided input":              (lambda x: x.exp(), normal(1, 6, 4)[::2, ::3]),
    "flipped and permuted":         (lambda x: x.flip(0).permute(2, 0, 1).cumsum(0).tanh(), normal(1, 2, 3, 2)),
    "float16":                      (lambda x: (x.sin() * x).sum(), normal(1, 7, dtype=torch.float16)),
    "float16, small and large":     (lambda x: x * x, at(1e-2, 1.0, 100.0, dtype=torch.float16)),
    "bfloat16 layer norm":          (lambda x: F.layer_norm(x, (7,)), normal(1, 2, 7, dtype=torch.bfloat16)),
    "float32 over 24 decades":      (lambda x: x**2, spread(-12, 12).float()),
    "erf at 7":                     (lambda x: x.erf(), at(7.0, 0.3)),
    "a softmax tail in a sum":      (lambda x: (x.softmax(0) * at(1.0, 2.0, 3.0)).sum(), at(0.0, -60.0, 3.0)),
    "exp in a sum":                 (lambda x: x.exp().sum(), at(40.0, 0.0)),
    "a logsumexp tail, value 0":    (lambda x: x.logsumexp(0), at(0.0, -60.0)),
    "a log of softmax tail":        (lambda x: x.log_softmax(0), at(0.0, -35.0, -60.0)),
    "log(1 + e), value 0":          (lambda x: (1 + x[0].exp()).log() + x[1] ** 2, at(-50.0, 0.0)),
    "a Function's tail in a sum":   (lambda x: planted(lambda g: g)(x).sum(), at(-40.0, 0.3, 1.0)),
    "float32 beside a pole":        (lambda x: 1 / x, at(1e-8, 0.7, dtype=torch.float32)),
}
# At the twelfth, (1 + erf(x / √2)) / 2 stands still for small steps, not for large ones, beside outputs of all sizes.
TAILS = at(
    -4.8270, -7.5824, -0.6047, -1.5412, -1.9719, -4.1460, -5.4215, -4.7842, -4.1508, 7.3808,
    5.5761, -8.3157, 4.1776, 2.0474, -4.0760, -3.0637, -3.3422, -5.4398, 4.4805, 2.6850,
)  # fmt: skip
# Torch's own formula (1 − y², y (1 − y)) has lost all digits in the first element; or a Function has no rule, and what
# its first element does is less than the last digit of its sum.
SATURATED: dict[str, tuple[Function, Tensor]] = {
    "sigmoid at 40":                (lambda x: x.sigmoid(), at(40.0, 0.3)),
    "sigmoid summed at 40":         (lambda x: x.sigmoid().sum(), at(40.0, 0.3)),
    "tanh at 20":                   (lambda x: x.tanh(), at(20.0, 0.3)),
    "tanh summed at 20":            (lambda x: x.tanh().sum(), at(20.0, 0.3)),
    "what moves in quanta":         (lambda x: Tail.apply(x), TAILS),  # type: ignore[no-untyped-call]
    "a tail within a Function":     (lambda x: summed(lambda g: g)(x), at(-40.0, 0.3, 1.0)),
}
# fmt: on


@pytest.mark.parametrize("name", HARD)
def test_what_is_right_at_a_hard_point_agrees(name: str) -> None:
    function, x = HARD[name]
    report = verified(function, x)
    assert report.verdict == "agrees", (report.reason, told(report))


@pytest.mark.parametrize("name", SATURATED)
def test_what_is_too_small_to_be_seen_is_unseen(name: str) -> None:
    function, x = SATURATED[name]
    report = verified(function, x)
    assert (report.verdict, report.reason) == ("cannot say", "unseen"), told(report)


# At these points the wrong element is too small for differences of the whole; alone, its Function shows it.
# fmt: off
WRONG_TAILS: dict[str, tuple[Function, Tensor, str]] = {
    "beside the rest of a sum":     (lambda x: planted(element(0, 2.0))(x).sum(), at(-40.0, 0.3, 1.0), "differs"),
    "within a sum of its own":      (lambda x: summed(element(0, 2.0))(x), at(-40.0, 0.3, 1.0), "cannot say"),
    "of a logarithm that is 0":     (lambda x: (1 + planted(element(0, -1.0))(x)).log(), at(-50.0, 0.3), "differs"),
    "of a constant far larger":     (lambda x: planted(element(0, 0.0))(x).sum() + 1e15, at(0.1, 0.3), "differs"),
}
# fmt: on


@pytest.mark.parametrize("name", WRONG_TAILS)
def test_an_error_in_what_is_hard_to_see_is_never_right(name: str) -> None:
    function, x, verdict = WRONG_TAILS[name]
    report = verified(function, x)
    assert report.verdict == verdict, told(report)


# ----------------------------------------------------------------------------------------------- what is not finite


# fmt: off
INFINITE: dict[str, tuple[Function, Tensor]] = {
    "1/x at 0":             (lambda x: (1 / x).sum(), at(0.0, 1.2)),
    "log of 0":             (lambda x: x.log().sum(), at(0.0, 1.2)),
    "exp that overflows":   (lambda x: x.exp().sum(), at(1000.0, 1.2)),
    "log of a negative":    (lambda x: x.log().sum(), at(-1.0, 1.2)),
}
# Each function is smooth where it is asked, with a finite slope.
FINITE: dict[str, tuple[Function, Tensor]] = {
    "where beside a root":  (lambda x: torch.where(x > 0, x.sqrt(), 0 * x).sum(), at(-1.0, 1.2)),
    "where over exp":       (lambda x: torch.where(x > 50, x, x.exp()).sum(), at(800.0, 1.2)),
    "where over log":       (lambda x: torch.where(x > 0.5, x.log(), x - 1).sum(), at(0.0, 1.2)),
    "nan":                  (planted(element(0, math.nan)), at(0.3, 1.2)),
    "infinite":             (planted(element(1, math.inf)), at(0.3, 1.2)),
}
# fmt: on


@pytest.mark.parametrize("name", INFINITE)
def test_of_a_loss_that_is_not_finite_nothing_is_said(name: str) -> None:
    function, x = INFINITE[name]
    report = verified(function, x)
    assert (report.verdict, report.reason) == ("cannot say", "not_finite"), told(report)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FINITE)
def test_a_gradient_that_is_no_number_differs_where_the_slope_is_finite(name: str, dtype: str) -> None:
    function, x = FINITE[name]
    report = verified(function, x.to(FLOATS[dtype]))
    assert report.verdict == "differs", told(report)


class Squared(torch.autograd.Function):
    """x², whose backward passes through `wrong`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wrong: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return ctx.wrong(2 * ctx.saved_tensors[0] * g), None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_agrees(dtype: str) -> None:
    """ "Agrees" means that every element of the gradient that your own run produced was seen, to 1e-4 of itself or
    better, by a judge that shares no code with it, and that none is off by more than is said.
    """
    x = torch.logspace(-9, 9, 7, dtype=torch.float64).to(FLOATS[dtype])
    right = verified(lambda x: Squared.apply(x, lambda g: g), x)
    assert (right.verdict, right.unseen("x").sum()) == ("agrees", 0), told(right)
    assert right.worst <= 1e-4
    assert {c.oracle for c in right.checks if c.verdict == "agrees"} >= {"finite differences"}
    for place in range(x.numel()):
        wrong = verified(lambda x, place=place: Squared.apply(x, element(place, 1 + 2e-4)), x)
        assert wrong.verdict == "differs", f"{place}: {told(wrong)}"


def test_differences_that_leap_over_a_pole_are_no_judge_alone() -> None:
    """−1 + 1e-9 lies beside a pole of digamma; its rule, its exact derivative and forward mode agree with torch."""
    report = gx.verify(lambda x: torch.digamma(x).sum(), [torch.tensor([-1 + 1e-9, 0.5], dtype=torch.float64)])
    assert report.verdict == "agrees"
    assert [c.reason for c in report.checks if c.oracle == "finite differences"] == ["suspect"]


# Waves that no step of differences is shorter than; the slope is w cos(w x).
WAVES: dict[str, tuple[Function, Tensor]] = {
    "sin of 1e9 x": (lambda x: (x * 1e9).sin().sum(), at(0.3, 1.1)),
    "sin of 1e12 x": (lambda x: (x * 1e12).sin().sum(), at(0.3, 1.1)),
    "sin at 1e12": (lambda x: x.sin().sum(), at(1.3e12, 2e12)),
}


@pytest.mark.parametrize("name", WAVES)
def test_differences_that_leap_over_waves_are_no_judge_alone(name: str) -> None:
    function, x = WAVES[name]
    report = verified(function, x)
    assert report.verdict != "differs", told(report)
    assert not report.wrong()


def test_a_path_that_is_lost_is_seen_by_differences_alone() -> None:
    """x · float(x): rules, exact derivative and forward mode follow torch's graph, which lacks the path."""

    def lost(x: Tensor) -> Tensor:
        return x.digamma().sum() * float(x.detach()[0])

    assert gx.verify(lost, [torch.tensor([0.7, 0.5], dtype=torch.float64)]).verdict != "agrees"


# ------------------------------------------------------------------- memory and draws of the function's own making


def _made(write: Callable[[Tensor], object], start: Callable[[], Tensor] = lambda: torch.zeros(3)) -> Function:
    """Returns x · m, where m is made in torch's default type and written into."""

    def function(x: Tensor) -> Tensor:
        m = start()
        write(m)
        return (x * m).sum()

    return function


def _positions(x: Tensor) -> Tensor:
    p, t = torch.zeros(3, 4), torch.arange(3.0)[:, None]
    p[:, 0::2] = torch.sin(t)
    p[:, 1::2].copy_(torch.cos(t).expand(3, 2))
    return (x[:, None] * p).sum()


def _causal(x: Tensor) -> Tensor:
    mask = torch.zeros(3, 3).masked_fill_(torch.ones(3, 3).triu(1).bool(), -math.inf)
    return ((x + mask).softmax(-1) ** 2).sum()


def _normalised(x: Tensor) -> Tensor:
    return (torch.nn.BatchNorm1d(3)(x * torch.tensor([[1.0, 2, 3], [3, 1, 2], [1, -1, 0.5]])).float() ** 3).sum()


class Averaged(torch.nn.Module):
    """x over a buffer that shrinks at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.mul_(0.9)
        return (x / self.scale).sum()


def _bernoulli(x: Tensor) -> Tensor:
    drawn = torch.distributions.Bernoulli(probs=x / 4)
    return drawn.log_prob(drawn.sample()).sum()


def _relaxed(x: Tensor) -> Tensor:
    return torch.distributions.RelaxedBernoulli(torch.tensor(0.5), probs=x / 4).rsample().sum()


# fmt: off
OWN_MEMORY: dict[str, Function] = {
    "an element":           _made(lambda m: m.__setitem__(1, 1.0)),
    "mul_":                 _made(lambda m: m.mul_(3.0), lambda: torch.ones(3)),
    "fill_":                _made(lambda m: m.fill_(3.0)),
    "a view of it":         _made(lambda m: m[1:].add_(2.0)),
    "the diagonal":         lambda x: (_diagonal() * x).sum(),
    "numpy's memory":       _made(lambda m: m.numpy().__setitem__(1, 2.0)),
    "out=":                 _made(lambda m: torch.mul(torch.ones(3), 2.0, out=m)),
    "positions":            _positions,
    "a causal mask":        _causal,
    "a buffer":             Averaged(),
    "uniform_":             _made(lambda m: m.uniform_(-1, 1)),
    "normal_ of a view":    _made(lambda m: m[1:].normal_()),
    "rand_like":            lambda x: (torch.rand_like(x) * x).sum(),
    "randn_like, and more": lambda x: ((x + torch.randn_like(x) * (x / 2).exp()) ** 2).sum(),
    "bernoulli":            lambda x: (torch.bernoulli(torch.full((3,), 0.5)) * x).sum(),
    "a sample":             _bernoulli,
    "a normal's rsample":   lambda x: (torch.distributions.Normal(x, 1.0).rsample() ** 2).sum(),
    "a relaxed rsample":    _relaxed,
    "a drop of paths":      lambda x: (x * (0.8 + torch.rand(3)).floor_() / 0.8).sum(),
}
# In float64 each of these is another function: its numbers depend on the type.
OF_THE_TYPE: dict[str, tuple[Function, Tensor]] = {
    "an epsilon of the type":   (lambda x: (x * x + torch.finfo(x.dtype).eps).sqrt().sum(), at(1e-4, 2e-4)),
    "a clamp at it":            (lambda x: x.clamp(min=torch.finfo(x.dtype).eps).log().sum(), at(1e-9, 1.0)),
    "RMSNorm":                  (torch.nn.RMSNorm(3, elementwise_affine=False), at(0.01, -0.02, 0.015)),
}
# fmt: on


def _diagonal() -> Tensor:
    return torch.zeros(3, 3).fill_diagonal_(2.0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OWN_MEMORY)
def test_what_a_function_writes_and_draws_by_itself_is_part_of_it(name: str, dtype: str) -> None:
    """The same function beside an error is wrong, so that nothing of it was left out."""
    function, x = OWN_MEMORY[name], at(1.0, 2.0, 3.0, dtype=FLOATS[dtype])
    torch.manual_seed(1)  # draws of which the second is not 0
    report = verified(function, x)
    assert report.verdict == "agrees", told(report)
    wrong = verified(lambda x: function(Squared.apply(x, element(1, 1.01)) / x), x)
    assert wrong.verdict == "differs", told(wrong)


@pytest.mark.parametrize("name", OF_THE_TYPE)
def test_a_function_that_depends_on_its_type_is_not_called_wrong(name: str) -> None:
    function, x = OF_THE_TYPE[name]
    report = verified(function, x.float())
    assert report.verdict == "cannot say", told(report)
    assert "another_function" in {c.reason for c in report.checks}
    assert verified(function, x).verdict == "agrees"


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_custom_function_of_complex_numbers(factor: float) -> None:
    """The gradient of |z²| by z; torch's convention makes the backward of z² multiply by 2 z̄."""

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            ctx.save_for_backward(z)
            return z * z

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return factor * g * 2 * ctx.saved_tensors[0].conj()

    report = verified(lambda z: Square.apply(z).abs().sum(), torch.tensor([1 + 2j, 0.5 - 1j]))
    assert report.verdict == ("agrees" if factor == 1 else "differs"), told(report)


# ------------------------------------------------------------------------------------- draws that move by a quantile


# fmt: off
DRAWS: dict[str, Function] = {
    "gamma":        lambda a: torch.distributions.Gamma(a, 2 * a).rsample(),
    "beta":         lambda a: torch.distributions.Beta(a, 2 * a).rsample(),
    "dirichlet":    lambda a: torch.distributions.Dirichlet(a).rsample(),
    "student":      lambda a: torch.distributions.StudentT(a).rsample(),
}
# fmt: on


@pytest.mark.parametrize("error", [None, 1.01])
@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("name", DRAWS)
def test_a_gradient_of_a_quantile_is_not_called_wrong_and_hides_no_error(
    name: str, seeded: bool, error: float | None
) -> None:
    """Implicit reparametrization: ∂x/∂a = −(∂F/∂a) / f, which is not how a draw from one random state changes."""

    def function(a: Tensor) -> Tensor:
        if seeded:
            torch.manual_seed(3)
        drawn = DRAWS[name](a)
        return drawn if error is None else cast(Tensor, planted(lambda g: error * g)(drawn))

    report = verified(function, at(1.5, 2.5, 0.7))
    if error is None:
        assert (report.verdict, report.reason, report.doubt("a")) == ("cannot say", "doubtful", "quantile")
    else:
        assert (report.verdict, [o.label for o in report.wrong()]) == ("differs", ["Planted"])


# ------------------------------------------------------------------------------------------------ many equal numbers


EQUAL = at(1.0, 1.0, 1.0, 2.0, 1.0, 0.0)
WEIGHTS = at(1.0, -3.0, 0.5, 2.0, 5.0, -1.0)
# fmt: off
SELECTIONS: dict[str, Function] = {
    "sort":       lambda x: (x.sort().values * WEIGHTS).sum(),
    "descending": lambda x: (x.sort(descending=True, stable=True).values * WEIGHTS).sum(),
    "topk":       lambda x: (x.topk(4).values * WEIGHTS[:4]).sum(),
    "columns":    lambda x: (x[:, None].expand(6, 2).sort(0).values * WEIGHTS[:, None]).sum(),
}
# fmt: on


@pytest.mark.parametrize("error", [None, 1.01])
@pytest.mark.parametrize("name", SELECTIONS)
def test_of_many_equal_numbers_any_may_be_selected_and_that_hides_no_error(name: str, error: float | None) -> None:
    """Beside four equal numbers, one that moves alone takes the first place or the last; torch may give it another."""

    def function(x: Tensor) -> Tensor:
        return SELECTIONS[name](x if error is None else planted(lambda g: error * g)(x).log())

    report = verified(function, EQUAL)
    if error is None:
        assert report.verdict == "agrees", told(report)
    else:
        assert (report.verdict, [o.label for o in report.wrong()]) == ("differs", ["Planted"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [1, 2])
def test_forward_mode_that_alone_is_off_makes_no_gradient_wrong(seed: int, parts: int) -> None:
    """Torch's forward formula of logcumsumexp loses digits: of it, not of the gradient Σₘ v exp(x − log-sum)."""
    torch.manual_seed(seed)
    x = 18 * torch.rand(5, 5, parts, dtype=torch.float64) - 9
    x = torch.view_as_complex(x) if parts == 2 else x[..., 0]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.logcumsumexp(leaf, 1).real.sum(), leaf)
    sums = x.exp().cumsum(1)
    right = x.exp() * (1 / sums).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(gradient, right.conj().resolve_conj())
    report = gx.verify(
        lambda x: torch.logcumsumexp(x, 1), {"x": x.to(torch.complex64 if parts == 2 else torch.float32)}
    )
    assert report.verdict != "differs"
    assert report.verdict == "agrees" or (report.reason, parts) == ("unseen", 2)
    assert not report.wrong()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "normalise",
    [
        lambda x, w: torch.nn.functional.layer_norm(x, (1,), w),
        lambda x, w: torch.nn.functional.group_norm(x, 1, w),
        lambda x, w: torch.nn.functional.batch_norm(x[:1].expand(2, 1) + 0, None, None, w, training=True),
    ],
)
def test_what_rounding_leaves_of_no_slope_is_not_wrong(normalise: Callable, seed: int) -> None:
    """What is normalised by itself alone is always 0, and so is its slope; torch's backward is off by last digits."""
    torch.manual_seed(seed)
    x, w = 10 * torch.randn(4, 1), 10 * torch.randn(1)
    report = gx.verify(lambda x: normalise(x, w), {"x": x})
    assert report.verdict != "differs"


class ScaledLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        made, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, 1e-5)
        ctx.save_for_backward(x, mean, rstd)
        ctx.factor = factor
        return made

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, mean, rstd = ctx.saved_tensors
        back = torch.ops.aten.native_layer_norm_backward
        made = back(g.contiguous(), x, list(x.shape[-1:]), mean, rstd, None, None, [True, False, False])[0]
        return ctx.factor * made, None


def test_a_normalisation_that_is_wrong_is_told_beside_its_rounding() -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert verified(lambda x: ScaledLayerNorm.apply(x, 1.0), x).verdict == "agrees"
    assert verified(lambda x: ScaledLayerNorm.apply(x, 1.001), x).verdict == "differs"


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: x.to(torch.complex64),
        lambda x: x.cfloat(),
        lambda x: x.type(torch.complex64),
        lambda x: x.to(torch.zeros(1, dtype=torch.complex64)),
    ],
)
def test_a_cast_to_complex_numbers_stays_in_double_precision(cast: Callable[[Tensor], Tensor]) -> None:
    x = at(0.3, -1.2, 2.5).float()
    right = gx.verify(lambda x: cast(x).mul(1 + 2j).abs().sum(), {"x": x})
    assert right.verdict == "agrees"
    assert right.worst < 1e-6
    wrong = gx.verify(lambda x: cast(Squared.apply(x, lambda g: g * (1 + 1e-4))).abs().sum(), {"x": x})
    assert wrong.verdict == "differs"


def positive(dtype: torch.dtype) -> Tensor:
    a = torch.randn(4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    whole = a @ a.mH + torch.eye(4, dtype=dtype)
    return (whole + whole.mH) / 2


@pytest.mark.filterwarnings("ignore:torch.cholesky is deprecated")
@pytest.mark.parametrize(
    "dtype",
    [torch.float64, *(pytest.param(d, marks=pytest.mark.thorough) for d in (torch.float32, torch.complex64))],
)
@pytest.mark.parametrize(
    "read",
    [
        lambda a: torch.linalg.eigvalsh(a),
        lambda a: torch.linalg.eigh(a).eigenvectors.abs(),
        lambda a: torch.linalg.pinv(a, hermitian=True),
        lambda a: torch.cholesky_inverse(torch.linalg.cholesky(a)),
        lambda a: torch.cholesky(a).abs(),
        lambda a: torch.linalg.cholesky(a).abs(),  # of complex numbers the diagonal is real, and its gradient has to be
    ],
)
def test_a_gradient_for_symmetric_changes_is_no_error_and_an_error_beside_it_is(
    read: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """Of a symmetric or Hermitian matrix torch reads one triangle, and its gradient is that of changes of both."""
    a = positive(dtype)
    assert gx.verify(lambda a: read(a), {"a": a}).verdict == "agrees"
    wrong = gx.verify(lambda a: read(Scaled.apply(a)), {"a": a})
    assert wrong.verdict == "differs"


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 1.001 * g


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.thorough)])
def test_log_probabilities_that_were_rounded_are_normalised(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(12, 2, 5, dtype=dtype, generator=generator).log_softmax(-1)
    targets = torch.randint(1, 5, (2, 4), generator=generator)

    def loss(given: Tensor) -> Tensor:
        return F.ctc_loss(given, targets, [12, 12], [4, 4])

    assert gx.verify(loss, {"given": given}).verdict == "agrees"
    assert gx.verify(lambda given: loss(Scaled.apply(given)), {"given": given}).verdict == "differs"
    assert gx.verify(loss, {"given": given + 0.1}).verdict == "differs"


def test_what_rounding_can_make_nan_of_is_not_called_wrong() -> None:
    """Rounding at random that ends in nan explains any difference: that is no error of the gradient, and no number."""
    own = trace(computation_of(lambda x: (x * x).sum(), {"x": torch.tensor([3.0])}))
    judged = Judged(torch.tensor([20.0], dtype=torch.float64), lambda: torch.zeros(1), torch.ones(1), 20.0)
    spreads = {"number": torch.zeros(1), "rounding": torch.tensor([math.nan])}
    for reason, spread in spreads.items():
        problem = number_of(own, "x", judged, lambda spread=spread: spread).problem
        assert problem is not None
        assert problem.reason == reason


@pytest.mark.parametrize("upper", [False, True])
def test_the_gradient_by_a_triangular_factor_holds_for_changes_that_keep_it_triangular(upper: bool) -> None:
    factor = torch.linalg.cholesky(positive(torch.float64), upper=upper)
    assert gx.verify(lambda L: torch.cholesky_inverse(L, upper=upper), {"L": factor}).verdict == "agrees"
    wrong = gx.verify(lambda L: torch.cholesky_inverse(Scaled.apply(L), upper=upper), {"L": factor})
    assert wrong.verdict == "differs"
    full = factor + 0.25 * torch.ones(4, 4)  # which it was not told to be
    assert gx.verify(lambda L: torch.cholesky_inverse(L, upper=upper), {"L": full}).verdict == "differs"
