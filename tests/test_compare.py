"""Two ways to one gradient: what is the same is said to be, what differs is told with its factor, place and line."""

import json
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.comparison.alignment import unmatched
from gradexplain.comparison.differences import Size, meant
from gradexplain.comparison.judging import Judged, Measured, Pair, decide, judge
from gradexplain.comparison.rounding import Rounding, inverse_trigamma, moderated, quantile, trigamma
from gradexplain.receipts.schema import schema
from gradexplain.verification.oracles.patterns import Pattern

TYPES = (torch.float64, torch.float32, torch.bfloat16)


def numbers(*shapes: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def loss(x: Tensor, w: Tensor) -> Tensor:
    return ((x @ w).tanh() ** 2).mean()


def in_chunks(x: Tensor, w: Tensor) -> Tensor:
    return torch.stack([(c @ w).tanh().square().sum() for c in x.split(3)]).sum() / (x.shape[0] * w.shape[1])


def turned(x: Tensor, w: Tensor) -> Tensor:
    return (w.flip(0).T @ x.flip(1).T).tanh().pow(2).mean()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("other", [loss, in_chunks, turned])
def test_what_is_only_rounded_otherwise_is_the_same(dtype: torch.dtype, other: Callable) -> None:
    found = gx.compare(loss, other, numbers((10, 8), (8, 6), dtype=dtype))
    assert found.verdict == "same"
    assert found.place is None


def one_row(x: Tensor, w: Tensor) -> Tensor:
    weight = torch.ones(10, 1, dtype=x.dtype)
    weight[7] = 0.75
    return ((x @ w).tanh() ** 2 * weight).mean()


def one_column(x: Tensor, w: Tensor) -> Tensor:
    return loss(x, torch.cat([w[:, :2], -w[:, 2:3].detach() + 2 * w[:, 2:3], w[:, 3:]], 1))


MISTAKES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "factor": lambda x, w: loss(x, w) * (9 / 10),
    "sign": lambda x, w: -loss(x, w),
    "slice-factor": one_row,
    "zero": lambda x, w: loss(x.detach(), w) + 0 * x.sum(),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_differs_and_is_named(dtype: torch.dtype, kind: str) -> None:
    found = gx.compare(loss, MISTAKES[kind], numbers((10, 8), (8, 6), dtype=dtype))
    assert found.verdict == "differs"
    pattern = found.of("x").pattern
    assert pattern is not None
    assert pattern.kind == kind
    if kind == "factor":
        assert (pattern.data["formula"], pattern.data["n"]) == ("(n − 1)/n", 10)
        assert pattern.data["what"] == "x.shape[0]"
    if kind == "slice-factor":
        assert (pattern.data["dim"], pattern.data["first"], pattern.data["factor"]) == (0, 7, "3/4")
    assert found.place is not None


def test_one_column_that_is_doubled_is_named_although_the_values_are_the_same() -> None:
    found = gx.compare(loss, one_column, numbers((10, 8), (8, 6), dtype=torch.float32))
    assert found.of("output", "value").verdict == "same"
    pattern = found.of("w").pattern
    assert pattern is not None
    assert (pattern.kind, pattern.data["dim"], pattern.data["first"], pattern.data["factor"]) == (
        "slice-factor",
        1,
        2,
        "2",
    )


def test_a_small_term_differs_where_the_type_resolves_it_and_is_told_where_it_does_not() -> None:
    def more(x: Tensor, w: Tensor) -> Tensor:
        return loss(x, w) + 1e-3 * (w**2).mean()

    for dtype in TYPES[:2]:
        assert gx.compare(loss, more, numbers((10, 8), (8, 6), dtype=dtype)).of("w").verdict == "differs"
    hidden = gx.compare(loss, more, numbers((10, 8), (8, 6), dtype=torch.bfloat16)).of("w")
    assert hidden.verdict == "same"
    size = gx.compare(loss, more, numbers((10, 8), (8, 6), dtype=torch.bfloat16), dtype=torch.float64).of("w").relative
    assert hidden.hidden == pytest.approx(size, rel=1e-6)


def test_a_coarse_reference_hides_nothing_in_an_exact_candidate() -> None:
    def coarse(x: Tensor) -> Tensor:  # Var = E x² - (E x)², which cancels
        return (x.square().mean() - x.mean().square()) * x.numel()

    x = torch.randn(64, generator=torch.Generator().manual_seed(0)) + 300.0
    right = gx.compare(coarse, lambda x: ((x - x.mean()) ** 2).sum(), [x])
    assert right.verdict == "same"
    assert right.of("x").nearer == "b"
    wrong = gx.compare(coarse, lambda x: ((x - x.mean()) ** 2).sum() * (63 / 64), [x])
    assert wrong.verdict == "differs"
    assert wrong.of("x").pattern.data["formula"] == "(n − 1)/n"


class Saturating(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return g * (1 - y)


def test_the_place_is_in_the_backward_pass_where_the_values_are_the_same() -> None:
    x, w = numbers((4, 3), (3, 2), dtype=torch.float32)
    place = gx.compare(loss, lambda x, w: (Saturating.apply(x @ w) ** 2).mean(), [x, w]).place
    assert place is not None
    assert place.phase == "backward"
    assert [step.operator for step in place.steps] == ["tanh", "SaturatingBackward"]
    assert place.steps[1].source.code == "Saturating.apply(x @ w)"


def attention(q: Tensor, k: Tensor, v: Tensor, shift: int = 0) -> Tensor:
    mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1 + shift)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(mask, -1e9).softmax(-1) @ v


def test_a_fused_attention_is_the_same_and_a_mask_off_by_one_is_named() -> None:
    given = numbers((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 4), dtype=torch.float32)

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    assert gx.compare(attention, fused, given).verdict == "same"
    place = gx.compare(attention, lambda q, k, v: attention(q, k, v, 1), given).place
    assert place is not None
    assert (place.phase, place.how, place.detail["argument"]) == ("forward", "argument", "mask")
    assert abs(place.detail["by"]) == 1


def test_a_gradient_that_is_missing_is_told_with_the_line_that_stops_it() -> None:
    x, w = numbers((4, 3), (3, 2), dtype=torch.float64)
    found = gx.compare(loss, lambda x, w: loss(x, w.detach()), [x, w])
    assert (found.verdict, found.of("w").reason, found.of("x").verdict) == ("differs", "missing", "same")
    assert found.place is not None
    assert found.place.how == "unsent"
    assert found.place.steps[1].operator == "detach"


@pytest.mark.parametrize(
    ("a", "b", "verdict", "reason"),
    [
        (lambda x: x / x, lambda x: x / x, "cannot say", "nan"),
        (lambda x: x * 1, lambda x: x / x * x, "differs", "nan_in_one"),
        (lambda x: x.sum(), lambda x: x.sum(0, keepdim=True), "differs", "shape"),
    ],
)
def test_what_is_not_a_number_or_of_another_shape(a: Callable, b: Callable, verdict: str, reason: str) -> None:
    found = gx.compare(a, b, [torch.tensor([1.0, 0.0, 2.0])])
    assert found.verdict == verdict
    assert found.of("output", "value").reason == reason


def test_a_gradient_smaller_than_its_rounding_has_tested_nothing() -> None:
    def exact(x: Tensor) -> Tensor:
        return (x * 1e-9).sum()

    def cancelling(x: Tensor) -> Tensor:  # the gradient is the difference of two numbers about 1
        return ((x + 1.0) - (x * (1 - 1e-9) + 1.0)).sum()

    found = gx.compare(exact, cancelling, [torch.full((5,), 3.0)])
    assert (found.verdict, found.of("x").reason) == ("cannot say", "small")
    other_way = gx.compare(cancelling, exact, [torch.full((5,), 3.0)])
    assert other_way.of("x").verdict == "same"  # what is held against the truth is exact


class Block(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu()) * self.scale


class Renamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


RENAME = {"first": "body.0", "norm": "body.1", "last": "body.3"}


def test_modules_are_matched_by_name_and_run_with_the_same_numbers() -> None:
    torch.manual_seed(0)
    one, other = Block(), Renamed()
    x = torch.randn(6, 4)
    kept = {n: t.clone() for n, t in [*other.state_dict().items()]}
    found = gx.compare(one, other, [x], rename=RENAME)
    assert found.verdict == "same"
    assert [f.code for f in found.findings] == ["other-numbers"]
    assert all(torch.equal(t, kept[n]) for n, t in other.state_dict().items())
    assert all(p.grad is None for m in (one, other) for p in m.parameters())
    with pytest.raises(gx.InputError, match=r"first\.weight \(≈ body"):
        gx.compare(one, other, [x])


def test_a_module_in_half_precision_is_the_same_as_in_full() -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    other = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).bfloat16()
    found = gx.compare(one, other, [torch.randn(6, 8)])
    assert found.verdict == "same"
    assert found.of("0.weight").nearer == "a"


def step_of(model: nn.Module, x: Tensor, parts: int, *, wrong: bool = False) -> Callable[[], dict[str, Tensor | None]]:
    def step() -> dict[str, Tensor | None]:
        model.zero_grad()
        for part in x.chunk(parts):
            (model(part).square().mean() if wrong else model(part).square().sum() / (2 * len(x))).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    return step


def test_a_training_step_is_compared_by_the_gradients_that_it_returns() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(8, 4)
    model[0].weight.grad = torch.ones(5, 4)
    state = torch.get_rng_state()
    assert gx.compare(step_of(model, x, 1), step_of(model, x, 4), []).verdict == "same"
    found = gx.compare(step_of(model, x, 1), step_of(model, x, 4, wrong=True), [])
    assert found.verdict == "differs"
    assert found.telling is not None
    assert found.telling.pattern.data["factor"] == "4"
    assert torch.equal(model[0].weight.grad, torch.ones(5, 4))
    assert torch.equal(torch.get_rng_state(), state)


def test_second_derivatives_are_compared_on_request() -> None:
    def once(x: Tensor) -> Tensor:
        return (x**3).sum()

    def detached(x: Tensor) -> Tensor:
        return Cube.apply(x).sum()

    x = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)
    assert gx.compare(once, detached, [x]).verdict == "same"
    found = gx.compare(once, detached, [x], second=True)
    assert (found.of("x").verdict, found.of("x", "second").verdict) == ("same", "differs")
    assert gx.compare(once, lambda x: (x * x * x).sum(), [x], second=True).verdict == "same"


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * g


def test_assert_same_gradients_says_what_differs_and_where(assert_same_gradients: Callable) -> None:
    x, w = numbers((10, 8), (8, 6), dtype=torch.float32)
    assert assert_same_gradients(loss, in_chunks, [x, w]).verdict == "same"
    with pytest.raises(AssertionError, match=r"9/10 times A's. That is \(n − 1\)/n with n = 10") as failed:
        assert_same_gradients(loss, MISTAKES["factor"], [x, w])
    assert "test_compare.py" in str(failed.value)


# ------------------------------------------------------------------------------------------------------ what rounds


def test_the_bound_goes_over_into_that_of_hoeffding() -> None:
    assert quantile(1e9, 1000) == pytest.approx(quantile(math.inf, 1000), rel=1e-6)
    assert quantile(3, 1000) > quantile(15, 1000) > quantile(math.inf, 1000)
    for freedom in (3, 15, 100):  # the bound itself: 2 (1 + x²/ν)^(-ν/2) is the chance, N of which make the alarm
        chance = 2 * (1 + quantile(freedom, 1000) ** 2 / freedom) ** (-freedom / 2)
        assert chance * 1000 == pytest.approx(1e-6, rel=1e-6)


def test_the_inverse_of_trigamma() -> None:
    for x in (0.01, 0.5, 1.0, 7.0, 300.0):
        assert inverse_trigamma(trigamma(x)) == pytest.approx(x, rel=1e-6)


def test_elements_of_one_kind_help_each_other_and_others_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    size = torch.rand(2000, generator=generator, dtype=torch.float64) + 1
    draws = torch.randn(4, 2000, generator=generator, dtype=torch.float64)
    alike = moderated((draws * 3.0).var(0), size, 3)
    assert alike.freedom > 20
    assert float(alike.deviation.median()) == pytest.approx(3.0, rel=0.1)
    scale = torch.randn(2000, generator=generator, dtype=torch.float64).mul(3).exp()
    assert moderated((draws * scale).var(0), size, 3).freedom < 5


# ---------------------------------------------------------------------------------------------------------- draws


def two_masks(x: Tensor, w: Tensor) -> Tensor:
    h = nn.functional.dropout(x, 0.5)
    return (h @ nn.functional.dropout(w, 0.5)).tanh().sum()


def two_masks_turned(x: Tensor, w: Tensor) -> Tensor:
    v = nn.functional.dropout(w, 0.5)
    return (nn.functional.dropout(x, 0.5) @ v).tanh().sum()


def by_hand(x: Tensor, w: Tensor) -> Tensor:
    h = x * (torch.rand(x.shape) > 0.5) * 2
    return (h @ nn.functional.dropout(w, 0.5)).tanh().sum()


def test_draws_are_aligned_or_named() -> None:
    x, w = numbers((10, 8), (8, 6), dtype=torch.float32)
    assert not gx.compare(two_masks, two_masks, [x, w]).findings
    turned = gx.compare(two_masks, two_masks_turned, [x, w])
    assert (turned.verdict, [f.code for f in turned.findings]) == ("same", ["draws-aligned"])
    wrong = gx.compare(two_masks, lambda x, w: two_masks_turned(x, w) * 0.9, [x, w])
    assert wrong.verdict == "differs"
    assert wrong.of("x").pattern.data["factor"] == "9/10"
    other = gx.compare(two_masks, by_hand, [x, w])
    assert (other.verdict, other.findings[0].code) == ("cannot say", "draws-differ")
    assert "rand (80)" in str(other)


def test_what_changes_from_run_to_run_cannot_be_judged() -> None:
    calls = []

    def drifting(x: Tensor) -> Tensor:
        calls.append(x)
        return (x * (1 + len(calls))).sum()

    found = gx.compare(lambda x: x.sum(), drifting, [torch.ones(3)])
    assert (found.verdict, found.of("x").reason) == ("cannot say", "unsteady")
    assert "side B" in str(found)


def test_a_compiled_function_is_compared_and_our_own_code_is_not_compiled() -> None:
    compiled = torch.compile(loss, backend="aot_eager")
    x, w = numbers((10, 8), (8, 6), dtype=torch.float32)
    assert gx.compare(in_chunks, compiled, [x, w]).verdict == "same"
    assert gx.compare(MISTAKES["factor"], compiled, [x, w]).of("x").pattern.data["factor"] == "10/9"


# -------------------------------------------------------------------------------------------------------- usual pairs


def classified(x: Tensor, t: Tensor) -> Tensor:
    return nn.functional.cross_entropy(x.tanh() * 2, t)


def test_a_short_type_is_held_against_a_long_one() -> None:
    x, w = numbers((10, 8), (8, 6), dtype=torch.bfloat16)
    found = gx.compare(loss, against="float64", inputs=[x, w])
    assert found.verdict == "same"
    assert found.of("x").dtypes == ("float64", "bfloat16")

    def coarse(x: Tensor, w: Tensor) -> Tensor:
        return loss(x, w) * (1.0 if x.dtype == torch.float64 else 0.9)

    assert gx.compare(coarse, against="float64", inputs=[x, w]).of("x").verdict == "differs"
    assert gx.compare(loss, against="float32", inputs=[x, w]).verdict == "same"


def test_a_batch_in_parts_is_the_batch_where_the_parts_count_alike() -> None:
    (x,) = numbers((12, 3), dtype=torch.float32)
    t = torch.arange(12) % 3
    assert gx.compare(classified, against="batch", parts=4, inputs=[x, t]).verdict == "same"
    uneven = gx.compare(classified, against="batch", parts=5, inputs=[x, t])
    assert (uneven.verdict, uneven.findings[-1].data["what"]) == ("differs", "x.shape[0]")
    ignored = t.clone()
    ignored[[0, 1, 4]] = -100
    found = gx.compare(classified, against="batch", parts=4, inputs=[x, ignored])
    assert (found.verdict, found.findings[-1].code) == ("differs", "weights-of-parts")
    assert found.findings[-1].data["what"] == "(t >= 0).sum()"
    assert found.findings[-1].data["weights"] == "0.111111, 0.222222, 0.333333, 0.333333"
    summed = gx.compare(lambda x, t: classified(x, t) * len(t), against="batch", parts=4, inputs=[x, t])
    assert summed.findings[-1].data["what"] == "1"
    assert summed.of("x").pattern.data["factor"] == "1/4"


def test_the_statistics_of_a_batch_are_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    found = gx.compare(lambda x: model(x).square().mean(), against="batch", inputs=[torch.randn(8, 3)])
    assert (found.verdict, found.findings[-1].code) == ("differs", "batch-statistics")


def test_a_fused_kernel_is_held_against_the_plain_formula() -> None:
    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    found = gx.compare(fused, against="math", inputs=numbers(*[(2, 3, 5, 4)] * 3, dtype=torch.float32))
    assert found.verdict == "same"
    assert found.against == "math"


def test_compiled_is_held_against_eager() -> None:
    x, w = numbers((10, 8), (8, 6), dtype=torch.float32)
    found = gx.compare(loss, against="eager", backend="aot_eager", inputs=[x, w])
    assert (found.verdict, found.names) == ("same", ("loss, eager", "loss, aot_eager"))


def broken_in_two(x: Tensor, w: Tensor) -> Tensor:
    y = (x @ w).tanh()
    torch._dynamo.graph_break()
    z = y * 2
    return z.square().mean()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, where it compiles the rest of a function
def test_the_region_where_compiled_code_parts_is_named_by_its_lines() -> None:
    def halving(module: torch.fx.GraphModule, inputs: object) -> Callable:  # of squares, it forgets a factor
        wrong = any("square" in str(node.target) for node in module.graph.nodes)
        return lambda *x: [y * 0.5 if wrong else y for y in module.forward(*x)]

    from torch._dynamo.backends.registry import _BACKENDS, register_backend

    register_backend(halving, name="halving")
    kept: list[int] = []
    counting = torch.compile(in_chunks, backend=lambda module, _: kept.append(1) or module.forward)
    given = numbers((10, 8), (8, 6), dtype=torch.float32)
    counting(*given)
    try:
        found = gx.compare(broken_in_two, against="eager", backend="halving", inputs=given)
        assert gx.compare(loss, against="eager", backend="halving", inputs=given).verdict == "same"
    finally:
        del _BACKENDS["halving"]
    assert (found.verdict, found.of("x").pattern.data["factor"]) == ("differs", "1/2")
    (region,) = (f for f in found.findings if f.code.startswith("compiled"))
    start = broken_in_two.__code__.co_firstlineno
    assert (region.code, region.data["number"], region.data["count"]) == ("compiled-after-break", 2, 2)
    assert [region.data[k].rpartition(":")[2] for k in ("before", "first", "last")] == [
        str(start + k) for k in (1, 3, 4)
    ]
    assert "graph break behind" in " ".join(str(found).split())
    counting(*given)
    assert kept == [1]  # what the user compiled is not compiled again


def test_what_vanishes_beside_the_rest_of_a_tensor_has_its_own_rounding() -> None:
    def saturated(x: Tensor) -> Tensor:
        return x[0] + (-(x[1] ** 2)).exp()

    found = gx.compare(saturated, lambda x: saturated(x / 10 * 10), [torch.tensor([1.0, 20.3], dtype=torch.float64)])
    assert (found.verdict, found.of("x").reason) == ("same", "rounding")
    assert 0 < abs(found.of("x").numbers[0]) < 1e-170
    wrong = gx.compare(
        saturated, lambda x: saturated(x * (1 + 1e-10)), [torch.tensor([1.0, 20.3], dtype=torch.float64)]
    )
    assert wrong.of("x").verdict == "differs"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"against": "nonsense"}, "nonsense is no pair"),
        ({"against": "batch", "parts": 99}, "x has 10 rows; they cannot be divided into 99 parts"),
        ({}, "Give a second function"),
    ],
)
def test_a_pair_that_cannot_be_made_is_refused(options: dict, said: str) -> None:
    with pytest.raises(gx.InputError, match=said):
        gx.compare(loss, inputs=numbers((10, 8), (8, 6), dtype=torch.float32), **options)


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command_says_it_with_its_exit_code(command: Callable) -> None:
    same = command("compare", "mean(x**2)", "sum(x * x) / 9", "x=randn(9):float32")
    assert (same.code, "bit by bit" in same.out) == (0, True)
    wrong = command("compare", "mean(x**2)", "sum(x * x) / 8", "x=randn(9):float32", "--language", "zh")
    assert (wrong.code, "B 的是 A 的 9/8 倍" in wrong.out, "n = 9，即 x.shape[0]" in wrong.out) == (1, True, True)
    assert command("compare", "log(x)", "log(x)", "x=-1").code == 3
    usage = command("compare", "mean(x**2)")
    assert (usage.code, "--against" in usage.err) == (2, True)
    batch = command("compare", "mean(x**2)", "x=randn(10)", "--against", "batch", "--parts", "4")
    assert (batch.code, "weigh as x.shape[0]" in " ".join(batch.out.split())) == (1, True)


def test_whole_numbers_that_are_drawn_are_the_same_where_operators_round_at_random() -> None:
    from gradexplain.verification.oracles.rounding import trials

    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

    def drawn(mode: object) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(3)
        with mode:
            return {"y": x * torch.randint(1, 100, (3,), generator=generator)}

    plain = x * torch.randint(1, 100, (3,), generator=torch.Generator().manual_seed(3))
    found = trials(drawn)
    for _ in range(3):
        assert torch.allclose(next(found)["y"], plain, rtol=1e-14)


def test_many_outputs_are_weighed_alike_in_every_run() -> None:
    (x,) = numbers((6, 5), dtype=torch.float64)
    found = gx.compare(lambda x: x.exp(), lambda x: x.exp() * (1 + 1e-9), [x])
    assert found.verdict == "differs"
    assert found.of("x").times > 1e4


def test_a_function_that_jumps_wherever_it_is_rounded_has_tested_nothing() -> None:
    def jumping(x: Tensor) -> Tensor:  # the last digits decide the sign
        sign = ((x.detach() * 2.0**40).cos() > 0).to(x.dtype) * 2 - 1
        return (sign * x).sum()

    (x,) = numbers((5,), dtype=torch.float64)
    found = gx.compare(jumping, lambda x: -jumping(x), [x + 300])
    assert (found.verdict != "same", found.of("x").verdict != "same") == (True, True)


def test_what_rounding_leaves_of_zero_is_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)).double()
    x = torch.randn(8, 4, dtype=torch.float64)
    turned = lambda x: model(x.flip(0)).square().mean()  # noqa: E731  # a local shorthand
    found = gx.compare(lambda x: model(x).square().mean(), turned, [x])
    assert found.verdict == "same"
    assert float(abs(found.of("model.0.bias").numbers[0])) < 1e-15


def test_inputs_without_a_second_target_say_that_one_is_missing(command: Callable) -> None:
    run = command("compare", "x**2", "x=1,2")
    assert run.code == 2
    assert "name a second target, or a pair by --against" in run.err


# ----------------------------------------------------------------------------------------------------- hostile pairs


class Changed(torch.autograd.Function):
    """The identity, with a backward that is changed."""

    @staticmethod
    def forward(ctx: object, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> tuple[Tensor, None]:
        return ctx.change(g), None


def conv_by_hand(x: Tensor, w: Tensor) -> Tensor:
    return torch.einsum("nclk,ock->nol", x.unfold(2, 3, 1), w).tanh().sum()


ROWS = torch.cat([torch.ones(9), torch.tensor([1.005])])[:, None]
HOSTILE: dict[str, tuple[str, Callable, Callable, list[tuple[int, ...]], torch.dtype]] = {
    "a sum in another order": ("same", lambda x: x.sum(), lambda x: x.sort()[0].cumsum(0)[-1], [(500,)], TYPES[1]),
    "a kernel in bfloat16": (
        "same", lambda x: x.exp().sum(-1).log().sum(), lambda x: x.logsumexp(-1).sum(), [(20, 30)], TYPES[2],
    ),
    "a convolution by hand": (
        "same", lambda x, w: nn.functional.conv1d(x, w).tanh().sum(), conv_by_hand, [(2, 3, 9), (4, 3, 3)], TYPES[1],
    ),
    "a longer type inside": (
        "same", lambda x: x.square().mean(), lambda x: x.float().square().mean().half(), [(300,)], torch.float16,
    ),
    "complex": (
        "same", lambda x: (x * x.conj()).real.sum(), lambda x: x.abs().square().sum(), [(6,)], torch.complex64,
    ),
    "complex turned": (
        "differs", lambda x: x.real.sum(), lambda x: Changed.apply(x, lambda g: g * 1j).real.sum(), [(6,)],
        torch.complex64,
    ),
    "nothing in it": ("same", lambda x: x.sum(), lambda x: (x * 1).sum(), [(0, 3)], TYPES[1]),
    "half a percent of a row": (
        "differs", lambda x: x.square().sum(), lambda x: Changed.apply(x, lambda g: g * ROWS).square().sum(), [(10, 4)],
        TYPES[1],
    ),
    "1e-12": (
        "differs", lambda x: x.square().sum(), lambda x: Changed.apply(x, lambda g: g * (1 + 1e-12)).square().sum(),
        [(10,)], TYPES[0],
    ),
    "tiny": (
        "differs", lambda x: (x * 1e-30).sum(), lambda x: Changed.apply(x * 1e-30, lambda g: g * 1.01).sum(), [(6,)],
        TYPES[1],
    ),
    "nan in one gradient": (
        "differs", lambda x: x.abs().sum(), lambda x: Changed.apply(x.abs(), lambda g: g * torch.nan).sum(), [(4,)],
        TYPES[1],
    ),
    "another size": ("differs", lambda x: x * 1, lambda x: x[:-1], [(4,)], TYPES[1]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pair_that_is_hard_to_tell_is_told(name: str) -> None:
    verdict, a, b, shapes, dtype = HOSTILE[name]
    assert gx.compare(a, b, numbers(*shapes, dtype=dtype)).verdict == verdict


def test_whole_numbers_alone_are_refused_with_a_sentence() -> None:
    with pytest.raises(gx.GradexplainError, match="integer"):
        gx.compare(lambda x: (x > 0).sum(), lambda x: (x >= 0).sum(), [torch.ones(3)])


# ------------------------------------------------------------------------------------------------------------ as data

RECORDS = jsonschema.Draft202012Validator({"$ref": "#/$defs/comparison", "$defs": schema()["$defs"]})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (loss, loss),
        (loss, in_chunks),
        (loss, MISTAKES["factor"]),
        (loss, one_row),
        (loss, lambda x, w: loss(x, w.detach())),
        (loss, lambda x, w: loss(x, w) / (x[0, 0] - x[0, 0])),
        (lambda x, w: x * 0 / 0, lambda x, w: x * 0 / 0),
        (lambda x, w: x @ w, lambda x, w: (x @ w).T),
        (lambda x, w: (x * 1j).exp(), lambda x, w: (x * 1j).exp() * 2),
        (two_masks, by_hand),
        (lambda x, w: {"w": w}, lambda x, w: {"w": w * 2}),
    ],
)
def test_the_record_of_a_comparison_is_valid_by_the_published_schema(a: Callable, b: Callable) -> None:
    record = json.loads(gx.compare(a, b, numbers((10, 8), (8, 6), dtype=torch.float32)).to_json())
    assert [f"{e.json_path}: {e.message}" for e in RECORDS.iter_errors(record)] == []
    for tree in (record, *record["tensors"], record["place"] or record):
        tree["planted"] = 3
        assert not RECORDS.is_valid(record)
        del tree["planted"]


def test_each_like_takes_one_other_away() -> None:
    assert unmatched([1, 1, 2], [2, 1, 3], int.__eq__) == ([1], [3])


class Lucky(Measured):
    """The first two trials move next to nothing."""

    tried = 0

    def repeat(self) -> None:
        pass

    def take(self, count: int) -> None:
        self.tried = count

    def rounding(self, pair: Pair) -> tuple[Rounding, Rounding]:
        seen = Rounding(torch.full_like(pair.one, 1e-17 if self.tried < 4 else 1e-12), self.tried)
        return seen, seen

    def shares(self, pair: Pair) -> None:
        return None


def test_what_is_not_far_beyond_rounding_is_tried_further() -> None:
    one = torch.ones(10, dtype=torch.float64)
    turns = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(5)
    lucky = Lucky([Pair("gradient", "x", one, one + 1e-12 * turns)], (None, None))  # type: ignore[arg-type]
    settled, runs = decide(lucky, lambda judged: judged)
    (found,) = settled.values()
    assert runs == 4
    assert found.plain
    assert found.numbers < 1


def test_what_a_pair_was_judged_by_is_given_back_as_soon_as_it_is_judged() -> None:
    given = [numbers((10,), dtype=torch.float32, seed=i)[0] for i in range(6)]
    pairs = [Pair("gradient", str(i), t, t, t.double(), t.double()) for i, t in enumerate(given)]
    pairs[3:] = [replace(p, other=2 * p.other, formula=2 * p.formula) for p in pairs[3:]]
    pairs = [replace(p, other=p.other.clone(), truth=p.truth.clone()) for p in pairs]
    kept: list[weakref.ref] = []

    def settle(judged: Judged) -> bool:
        kept.extend((weakref.ref(judged.times), weakref.ref(judged.pair.truth)))
        assert sum(ref() is not None for ref in kept) == 2
        return judged.worst > 1

    class Still(Measured):
        def repeat(self) -> None:
            pass

    measured = Still(pairs, (None, None))  # type: ignore[arg-type]
    del pairs
    settled, runs = decide(measured, settle)
    assert ([*settled.values()], runs) == ([False] * 3 + [True] * 3, 0)


def test_what_is_far_apart_in_float64_needs_no_trials() -> None:
    x = torch.linspace(-2, 2, 40)
    found = gx.compare(lambda x: x.sigmoid().sum(), lambda x: x.sigmoid().sum() * (39 / 40), [x])
    assert (found.verdict, found.runs) == ("differs", 0)
    short = gx.compare(
        lambda x: x.double().sigmoid().sum(), lambda x: x.double().sigmoid().sum() * (39 / 40), [x.double()]
    )
    assert (short.verdict, short.runs) == ("differs", 2)


class MixedUp(torch.autograd.Function):
    """2x and 3y, whose gradients have changed places."""

    @staticmethod
    def forward(ctx: object, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, 3 * y

    @staticmethod
    def backward(ctx: object, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * h, 3 * g


def test_gradients_of_two_outputs_that_are_mixed_up_are_seen() -> None:
    given = numbers((5,), (5,), dtype=torch.float64)
    assert gx.compare(lambda x, y: (2 * x, 3 * y), MixedUp.apply, given).verdict == "differs"
    # By their names, whatever their order is.
    named = gx.compare(lambda x, y: {"a": 2 * x, "b": 3 * y}, lambda x, y: {"b": 3 * y, "a": 2 * x}, given, second=True)
    assert named.verdict == "same"
    renamed = gx.compare(lambda x, y: {"a": 2 * x, "b": 3 * y}, lambda x, y: (2 * x, 3 * y), given, second=True)
    assert renamed.verdict == "same"


def test_outputs_in_another_order_have_no_step_where_they_part() -> None:
    given = numbers((5,), dtype=torch.float32)
    found = gx.compare(lambda x: (x.sin(), x.cos()), lambda x: (x.cos(), x.sin()), given)
    assert found.of("output[0]", "value").verdict == "differs"
    assert found.place is None


@pytest.mark.parametrize("after", [False, True])
def test_what_a_hook_makes_of_a_gradient_is_no_rounding(after: bool) -> None:
    def halved(parameter: Tensor) -> None:
        parameter.grad[2] *= 0.5

    def hooked() -> nn.Module:
        model = nn.Linear(6, 4)
        if after:
            model.weight.register_post_accumulate_grad_hook(halved)
        else:
            model.weight.register_hook(lambda g: torch.where(torch.arange(4)[:, None] == 2, 0.5 * g, g))
        return model

    found = gx.compare(nn.Linear(6, 4), hooked(), numbers((5, 6), dtype=torch.float32))
    assert found.of("weight").verdict == "differs"
    assert found.of("weight").pattern.kind == "slice-factor"
    assert found.of("bias").verdict == "same"
    assert gx.compare(hooked(), hooked(), numbers((5, 6), dtype=torch.float32)).verdict == "same"


def test_numbers_beside_a_nan_of_both_sides_are_compared() -> None:
    given = [torch.tensor([1.0, -1.0, 4.0])]
    found = gx.compare(lambda x: x.sqrt(), lambda x: 1.01 * x**0.5, given)
    assert found.of("x").verdict == "differs"
    assert gx.compare(lambda x: x.sqrt(), lambda x: (x * 3 / 3) ** 0.5, given).of("x").reason == "nan"


def test_a_small_element_beside_large_ones_has_its_own_factor() -> None:
    size = torch.tensor([1e6] * 10 + [1e-6])

    def last(x: Tensor) -> Tensor:
        return torch.cat([x[:10], 1.5 * x[10:] - 0.5 * x[10:].detach()])

    given = numbers((11,), dtype=torch.float32)
    pattern = gx.compare(lambda x: x.sin() * size, lambda x: last(x).sin() * size, given).of("x").pattern
    assert (pattern.kind, pattern.place, pattern.data["factor"]) == ("one-factor", (10,), "3/2")


def test_of_what_rounding_leaves_of_0_no_factor_is_told() -> None:
    layers = nn.Linear(6, 4), nn.BatchNorm1d(4)
    given = numbers((9, 6), dtype=torch.float32)
    found = gx.compare(nn.Sequential(*layers), nn.Sequential(layers[0], nn.BatchNorm1d(4).eval()), given)
    bias = found.of("0.bias")
    assert (bias.verdict, bias.pattern.kind, bias.ulps) == ("differs", "nothing", None)
    assert bias.relative == pytest.approx(1.0)


def test_what_would_have_been_seen_is_not_less_than_the_rounding_of_either() -> None:
    model = nn.Linear(6, 4)

    def cast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float().tanh()

    found = gx.compare(lambda x: model(x).tanh(), cast, numbers((9, 6), dtype=torch.float32)).of("x")
    assert found.verdict == "same"
    assert found.resolution > torch.finfo(torch.bfloat16).eps / 2


def test_numbers_that_differ_look_different() -> None:
    found = gx.compare(lambda x: x.sin(), lambda x: x.sin() * (1 + 1e-11), numbers((5,), dtype=torch.float64))
    line = next(line for line in found.render("text", width=120).splitlines() if "output[" in line)
    one, other = line.split("A = ")[1].split(", B = ")
    assert one != other


def test_two_sizes_explain_no_small_fraction() -> None:
    given = numbers((16, 8), dtype=torch.float64)
    assert "formula" not in gx.compare(lambda x: x.sin(), lambda x: x.sin() * 2, given).of("x").pattern.data


@pytest.mark.parametrize("dtype", TYPES)
def test_a_factor_is_made_of_a_size_only_where_that_size_is_there(dtype: torch.dtype) -> None:
    def found(count: int) -> Mapping:
        x = numbers((count,), dtype=dtype)
        return gx.compare(lambda x: x.sin().sum(), lambda x: 1.01 * x.sin().sum(), x).of("x").pattern.data

    assert found(60)["factor"] == "1.01"
    assert "formula" not in found(60)
    data = {"formula": "n/(n − 1)", "n": 101, "what": "x.shape[0]", "factor": "101/100"}
    assert {name: found(101)[name] for name in data} == data


def test_a_size_that_is_only_that_of_a_step_is_told_with_the_step() -> None:
    x, w = numbers((24, 7), (7, 4), dtype=torch.float32)
    told = gx.compare(lambda x, w: (x @ w).exp().mean(), lambda x, w: (x @ w).exp().sum() / 95, [x, w])
    assert "B's is 96/95 times A's. That is n/(n − 1) with n = 96, the number of elements that mm gives." in " ".join(
        told.render(width=500).split()
    )
    assert "即 mm 给出的元素个数。" in told.render(language="zh", width=500)


def test_a_factor_that_two_sizes_may_give_is_made_of_none() -> None:
    sizes = [Size(50, "x.shape[0]"), Size(60, "y.shape[0]"), Size(97, "exp", "elements")]
    for known, ratio, formula in (
        (1e-9, 49 / 50, "(n − 1)/n"),
        (1e-3, 0.98, "(n − 1)/n"),
        (1e-2, 0.98, None),  # 49/50 and 59/60 alike
        (1e-9, 96 / 97, "(n − 1)/n"),
        (1e-3, 96 / 97, None),  # steps have many sizes
    ):
        found = meant(Pattern("factor", {"ratio": ratio, "known": known}), sizes)
        assert found.data.get("formula") == formula


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ([17], "one-factor", "Only the element (17,) differs: B's is 3/2 times A's."),
        ([3, 4, 5], "range-factor", "Only elements 3 to 5 differ, of 40: there B's is 3/2 times A's."),
    ],
)
def test_elements_of_a_vector_are_told_as_elements(wrong: list[int], kind: str, said: str) -> None:
    weight = torch.ones(40)
    weight[wrong] = 1.5
    found = gx.compare(lambda x: x.sin().sum(), lambda x: (x.sin() * weight).sum(), numbers((40,), dtype=torch.float32))
    assert found.of("x").pattern.kind == kind
    assert said in found.render(width=500)


def test_an_exact_0_of_the_candidate_is_as_uncertain_as_what_is_left_of_0_in_the_reference() -> None:
    one = torch.tensor([-(2.0**-32), 1.0])
    pair = Pair("gradient", "x", one, torch.tensor([0.0, 1.0]), truth=torch.tensor([-2e-18, 1.0], dtype=torch.float64))
    deviations = torch.tensor([[1e-10, 1e-7], [0.0, 1e-7]], dtype=torch.float64)
    assert judge(pair, (Rounding(deviations[0], 9.0), Rounding(deviations[1], 9.0)), 2).numbers < 1
    wrong = Pair("gradient", "x", one, torch.tensor([0.0, 0.0]), truth=pair.truth)
    assert judge(wrong, (Rounding(deviations[0], 9.0), Rounding(deviations[1] * 0, 9.0)), 2).numbers > 1


def test_tensors_that_are_not_listed_are_said_to_be_in_the_json() -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(14)))
    page = gx.compare(model, lambda x: model(x.flip(0)).flip(0), numbers((4, 3), dtype=torch.float32)).render("text")
    assert "6 more tensors, which the JSON lists" in " ".join(page.split())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("x**2", "x*x", "x=1,2", "--against", "eager"), "leave x*x out, or the option"),
        (("x**2", "x*x", "x=1,2", "--as-if", "x"), "leave x*x out, or the option"),
        (("x**2", "x*x", "x=1,2", "--rename", "a=b"), "has no parameter, module or input a; it has x"),
        (("x**2", "x=1,2", "--against", "batch"), "it returned shape (2,)"),
        (("x**2", "x=1,2", "--against", "single", "--model", "tests/pairs.py:make"), "x**2 is no step"),
        (("x**2", "x=1,2", "--against", "eager", "--backend", "foo"), "no backend foo; it has "),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_way_out(
    typed: tuple[str, ...], said: str, command: Callable
) -> None:
    for language in ("en", "zh"):
        run = command("compare", *typed, "--language", language)
        assert run.code == 2
        assert language == "zh" or said in run.err


@pytest.mark.parametrize("seed", range(6))
def test_a_small_element_beside_large_ones_is_seen_by_whatever_trials_there_are(seed: int) -> None:
    size = torch.tensor([1e6] * 10 + [1e-6] * 3)

    def last(x: Tensor) -> Tensor:
        return torch.cat([x[:12], 1.01 * x[12:] - 0.01 * x[12:].detach()])

    given = numbers((13,), dtype=torch.float32, seed=seed)
    found = gx.compare(lambda x: (x.sin() * size).sum(), lambda x: (last(x).sin() * size).sum(), given)
    assert found.of("x").verdict == "differs"


@pytest.mark.parametrize("letter", "AB")
def test_a_side_without_a_gradient_is_named(letter: str) -> None:
    stopped, whole = (lambda x: x.detach().sum()), (lambda x: x.sum())
    pair = (stopped, whole) if letter == "A" else (whole, stopped)
    with pytest.raises(gx.GradexplainError) as caught:
        gx.compare(*pair, numbers((6,), dtype=torch.float32))
    assert str(caught.value).startswith(f"{letter} gives no gradient. ")
    assert caught.value.sentence("zh").startswith(f"{letter} 不给出梯度。")


def test_the_end_of_a_slice_is_where_it_ends() -> None:
    found = gx.compare(lambda x: x[:, 2:].sin().sum(), lambda x: x[:, 2:5].sin().sum(), numbers((3, 6), dtype=TYPES[0]))
    assert found.place is not None
    assert found.place.detail == {"argument": "end", "one": 6, "other": 5}


class Normalised(nn.Module):
    def __init__(self, correction: int = 0, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
        self.correction, self.eps = correction, eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        apart = x - mean
        variance = x.var(0, correction=self.correction)
        return apart / (variance + self.eps).sqrt() * self.weight + self.bias


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (Normalised(correction=1), "x.var(0, correction=self.correction)"),
        (Normalised(eps=1e-3), "variance + self.eps"),
    ],
)
def test_what_a_fused_kernel_does_by_steps_is_taken_apart_to_the_step_that_is_unlike(
    other: nn.Module, code: str
) -> None:
    for swapped in (False, True):
        sides = [nn.BatchNorm1d(4), other]
        found = gx.compare(*(reversed(sides) if swapped else sides), numbers((10, 4), dtype=torch.float32))
        steps = found.place.steps[:: -1 if swapped else 1]
        assert (steps[0].operator, steps[1].source.code) == ("native_batch_norm", code)
    assert gx.compare(nn.BatchNorm1d(4), Normalised(), numbers((10, 4), dtype=torch.float32)).verdict == "same"


def test_a_softmax_over_another_dimension_parts_at_the_sum_and_not_before() -> None:
    def by_hand(x: Tensor) -> Tensor:
        powers = (x - x.amax(1, keepdim=True)).exp()
        total = powers.sum(0)
        return powers / total

    place = gx.compare(lambda x: x.softmax(1), by_hand, numbers((5, 5), dtype=torch.float32)).place
    assert place.steps[1].source.code == "powers.sum(0)"


def test_a_step_with_two_outputs_parts_at_the_one_that_is_unlike() -> None:
    def together(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, 0, correction=0)
        return (x - mean) / variance.sqrt()

    def apart(x: Tensor) -> Tensor:
        mean = x.mean(0)
        variance = x.var(0)
        return (x - mean) / variance.sqrt()

    for a, b in ((together, apart), (apart, together)):
        place = gx.compare(a, b, numbers((10, 4), dtype=torch.float32)).place
        assert {step.operator for step in place.steps} == {"var", "var_mean"}


def test_a_hook_that_changes_a_gradient_is_named_with_its_line() -> None:
    def more(g: Tensor) -> Tensor:
        return g * 1.5

    def hooked(x: Tensor) -> Tensor:
        y = x * 1
        if y.requires_grad:
            y.register_hook(more)
        return y.tanh().sum()

    given = numbers((6,), dtype=torch.float32)
    line = more.__code__.co_firstlineno
    for a, b, letter in ((lambda x: (x * 1).tanh().sum(), hooked, 1), (hooked, lambda x: (x * 1).tanh().sum(), 0)):
        found = gx.compare(a, b, given)
        assert (found.place.phase, found.place.how, found.place.detail["side"]) == ("backward", "hooked", "AB"[letter])
        assert found.place.steps[letter].operator.endswith("more")
        assert found.place.steps[letter].source.line == line
        assert f"a hook of {'AB'[letter]} changes it." in found.render()
    plain, own = nn.Linear(4, 3), nn.Linear(4, 3)
    own.weight.register_hook(more)
    place = gx.compare(plain, own, numbers((5, 4), dtype=torch.float32)).place
    assert (place.how, place.detail["to"], place.steps[1].source.line) == ("hooked", "weight", line)

    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    module[0].register_full_backward_hook(lambda _, sent, __: (sent[0] * 0.5,))
    place = gx.compare(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), module, numbers((5, 4), dtype=torch.float32)).place
    assert place.steps[1].operator.endswith("<lambda>")
    assert place.steps[1].source.line == line_of("module[0].register_full_backward_hook")


def line_of(code: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(i for i, text in enumerate(lines, 1) if text.strip().startswith(code))


def test_a_batch_in_parts_parts_from_the_whole_where_a_mean_is_taken_and_not_where_it_is_divided() -> None:
    def loss(x: Tensor, w: Tensor, t: Tensor) -> Tensor:
        scores = x @ w
        return nn.functional.cross_entropy(scores, t)

    x, w = numbers((7, 5), (5, 3), dtype=torch.float32)
    given = {"x": x, "w": w, "t": torch.tensor([0, -100, 1, 2, -100, -100, 1])}
    found = gx.compare(loss, None, given, against="batch", parts=3)
    assert (found.verdict, found.place.steps[1].operator) == ("differs", "nll_loss_forward")


def test_rows_that_are_lost_or_there_twice_part_where_they_are_chosen() -> None:
    def chosen(*ends: tuple[int, int]) -> Callable:
        def parts(x: Tensor) -> Tensor:
            rows = [x[i:j] for i, j in ends]
            return torch.cat([part.tanh() for part in rows]).sum()

        return parts

    (x,) = numbers((9, 3), dtype=torch.float32)
    for ends in ([(0, 5), (4, 9)], [(0, 5), (5, 8)]):
        found = gx.compare(lambda x: x.tanh().sum(), chosen(*ends), [x])
        assert found.place.steps[1].source.code == "x[i:j]"
    assert gx.compare(lambda x: x.tanh().sum(), chosen((0, 5), (5, 9)), [x]).verdict == "same"


def test_compiled_code_that_draws_numbers_of_its_own_is_not_called_another() -> None:
    def noisy(x: Tensor) -> Tensor:
        return (x * torch.rand(6)).sum()

    def other_draws(module: object, inputs: object) -> Callable:
        return lambda *given: (torch.rand(1), module.forward(*given))[1]

    def wrong(module: object, inputs: object) -> Callable:
        return lambda *given: tuple(2 * t for t in module.forward(*given))

    given = numbers((6,), dtype=torch.float32)
    found = gx.compare(noisy, torch.compile(noisy, backend=other_draws), given)
    assert (found.verdict, found.of("x").reason) == ("cannot say", "draws")
    assert [f.code for f in found.findings] == ["draws-compiled"]
    assert gx.compare(torch.sin, torch.compile(torch.sin, backend=wrong), given).verdict == "differs"
