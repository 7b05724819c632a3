"""What `verify_trace` says of right gradients, of wrong ones, and of points where nothing can be said."""

import re
import string
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.locale.catalogue import LANGUAGES, say, sentences
from gradexplain.recording.computation import computation_of
from gradexplain.recording.live import trace_live
from gradexplain.recording.tracing import trace
from gradexplain.rules import registry
from gradexplain.rules.entries import Derivative
from gradexplain.rules.registry import rules
from gradexplain.verification.oracles.chain_rule import farthest
from gradexplain.verification.verdicts import Check, Report, verify_trace

Function = Callable[..., Tensor]


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Returns the same random numbers, rounded to `dtype`, for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def verified(function: Function, *inputs: Tensor, **options: Any) -> Report:
    """Verifies a function with a generic cotangent of its output's shape."""
    computation = computation_of(function, list(inputs))
    output = computation.output({})
    cotangent = normal(77, *output.shape, dtype=output.dtype) if output.dim() else None
    return verify_trace(trace(computation, cotangent=cotangent), computation, **options)


def reason(report: Report, oracle: str) -> str | None:
    """Returns the first reason that an oracle gives."""
    return next((c.reason for c in report.checks if c.oracle == oracle and c.reason), None)


# fmt: off
RIGHT: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "sum of squares":     (lambda x: (x**2).sum(), [(3,)]),
    "one number":         (lambda x: x.exp() * x, [()]),
    "tanh":               (lambda x: x.tanh(), [(4,)]),
    "broadcast product":  (lambda x, z: x * z + x, [(3, 2), (2,)]),
    "matrix product":     (lambda a, b: a @ b, [(3, 4), (4, 2)]),
    "batched product":    (lambda a, b: torch.bmm(a, b), [(2, 3, 4), (2, 4, 2)]),
    "einsum":             (lambda a, b: torch.einsum("ij,kj->ik", a, b), [(3, 4), (2, 4)]),
    "softmax":            (lambda x: x.softmax(-1), [(3, 5)]),
    "log softmax":        (lambda x: F.log_softmax(x, 1), [(3, 5)]),
    "cross entropy":      (lambda x: F.cross_entropy(x, torch.tensor([0, 2, 1])), [(3, 5)]),
    "logsumexp":          (lambda x: x.logsumexp(0), [(7,)]),
    "log of abs":         (lambda x: x.abs().log().sum(), [(6,)]),
    "quotient":           (lambda x, y: x / (y * y + 0.1), [(4, 3), (3,)]),
    "norm":               (lambda x: x.norm(), [(5,)]),
    "variance":           (lambda x: x.var(0), [(5, 2)]),
    "layer norm":         (lambda x, w, b: F.layer_norm(x, (5,), w, b), [(3, 5), (5,), (5,)]),
    "group norm":         (lambda x: F.group_norm(x, 2), [(2, 4, 3)]),
    "batch norm":         (lambda x: F.batch_norm(x, None, None, training=True), [(6, 4)]),
    "gelu":               (lambda x: F.gelu(x), [(5,)]),
    "softplus":           (lambda x: F.softplus(x).sum(), [(5,)]),
    "relu":               (lambda x: F.relu(x).sum(), [(9,)]),
    "clamp":              (lambda x: x.clamp(-0.5, 0.5).sum(), [(7,)]),
    "where":              (lambda x: torch.where(x > 0, x * x, x.exp()), [(7,)]),
    "maximum":            (lambda x: x.amax(1), [(3, 9)]),
    "sort":               (lambda x: x.sort()[0], [(9,)]),
    "cumulative product": (lambda x: x.cumprod(0), [(6,)]),
    "product":            (lambda x: x.prod(), [(6,)]),
    "convolution":        (lambda x, w, b: F.conv2d(x, w, b), [(2, 3, 6, 6), (4, 3, 3, 3), (4,)]),
    "max pool":           (lambda x: F.max_pool2d(x, 2), [(1, 2, 6, 6)]),
    "index":              (lambda x: x[[0, 0, 2]] * x[1], [(4,)]),
    "cat":                (lambda a, b: torch.cat([a, b]).sin(), [(3,), (2,)]),
    "embedding":          (lambda w: F.embedding(torch.tensor([0, 2, 2]), w).tanh(), [(4, 3)]),
    "attention":          (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), [(2, 4, 3), (2, 5, 3), (2, 5, 3)]),
    "inverse":            (lambda x: torch.linalg.inv(x @ x.mT + torch.eye(3).to(x)), [(3, 3)]),
    "determinant":        (lambda x: torch.linalg.det(x), [(3, 3)]),
    "huber":              (lambda x, y: F.huber_loss(x, y), [(7,), (7,)]),
    "fixed dropout":      (lambda x: F.dropout(x, 0.5).sin().sum(), [(20,)]),
    "unused input":       (lambda x, y: x.sin().sum(), [(3,), (2,)]),
    "loss of size 1e8":   (lambda x: 1e8 * x.sin().sum(), [(5,)]),
    "loss of size 1e-8":  (lambda x: 1e-8 * x.sin().sum(), [(5,)]),
    "empty input":        (lambda x, y: x.sum() + y.sum(), [(3,), (0,)]),
}
# fmt: on


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_right_gradients_agree(name: str, dtype: torch.dtype) -> None:
    function, shapes = RIGHT[name]
    for seed in (0, 1, 2):
        inputs = [normal(100 * seed + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]
        report = verified(function, *inputs)
        assert report.verdict == "agrees", (seed, [c for c in report.checks if c.verdict != "agrees"])


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.cross_entropy(self.layers(x), torch.arange(x.shape[0]) % 3)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        block = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)]
        self.layers = nn.Sequential(*block)

    def forward(self, x: Tensor) -> Tensor:
        return F.cross_entropy(self.layers(x), torch.arange(x.shape[0]) % 5)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[1], 5)
        for step in x:
            h, c = self.cell(step, (h, c))
        return h.square().sum()


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.attention(x, x, x)[0] + x).square().mean(1).sin().sum()


NETWORKS = {Perceptron: (9, 6), Convolutional: (10, 3, 8, 8), Recurrent: (6, 3, 4), Attentive: (2, 5, 8)}


@pytest.mark.thorough
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_networks_agree(network: type[nn.Module], dtype: torch.dtype) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = network().to(dtype)
    # A bias before a normalisation has the gradient 0 but for rounding: no difference of the function can show that
    # to a part of itself, and each operation alone does.
    assert gx.verify(module, [normal(1, *NETWORKS[network], dtype=dtype)]).verdict == "agrees"


def test_many_inputs_are_judged_together_and_each_has_its_check() -> None:
    values = [normal(i, 2, 3) for i in range(40)]
    names = ", ".join(f"x{i}" for i in range(40))
    function = eval(f"lambda {names}: sum(x.sin().sum() for x in ({names}))")
    found = [c for c in verified(function, *values).checks if c.oracle == "finite differences"]
    assert [c.verdict for c in found] == ["agrees"] * 40
    assert {c.data["joint"] for c in found} == {40}


# -------------------------------------------------------------------------------------------------- planted errors


def planted(wrong: Callable[[Tensor], Tensor]) -> Function:
    """Returns x sin x with a backward whose right gradient goes through `wrong`."""

    class Planted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.sin() * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return wrong(g * (x.cos() * x + x.sin()))

    return cast(Function, Planted.apply)


def changed(gradient: Tensor, factor: float) -> Tensor:
    """Returns a gradient with one element multiplied by `factor`."""
    found = gradient.clone()
    found.flatten()[gradient.numel() // 2 + 1] *= factor
    return found


ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "a factor of 1.001": lambda g: 1.001 * g,
    "the wrong sign": lambda g: -g,
    "one element zeroed": lambda g: changed(g, 0.0),
    "one element off by 1e-4": lambda g: changed(g, 1.0001),
    "transposed": lambda g: g.mT,
    "all off by 1e-6": lambda g: (1 + 1e-6) * g,
    "nan": lambda g: changed(g, float("nan")),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("side", [3, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_planted_errors_differ(error: str, side: int, dtype: torch.dtype) -> None:
    for seed in (0, 1):
        report = verified(planted(ERRORS[error]), normal(seed, side, side, dtype=dtype))
        assert report.verdict == "differs"
        assert reason(report, "rules") == "no_rule"


def test_without_an_error_the_same_function_agrees() -> None:
    assert verified(planted(lambda g: g), normal(0, 3, 3)).verdict == "agrees"


def test_a_single_wrong_element_is_named() -> None:
    for error in ("one element zeroed", "one element off by 1e-4"):
        report = verified(planted(ERRORS[error]), normal(0, 3, 3))
        assert report.checks[0].place == (1, 2)


def test_a_missing_broadcast_sum_differs() -> None:
    class Missing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, b: Tensor) -> Tensor:
            return x + b

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
            return g, g[0]  # the other rows of g are lost

    report = verified(cast(Function, Missing.apply), normal(0, 4, 3), normal(1, 3))
    assert [report.of(name) for name in report.inputs] == ["agrees", "differs"]


def test_a_wrong_input_is_found_among_many() -> None:
    wrong = planted(ERRORS["a factor of 1.001"])
    names = [f"x{i}" for i in range(30)]
    function = eval(f"lambda {', '.join(names)}: sum(({', '.join(names)})).cos().sum() + w(x7).sum()", {"w": wrong})
    assert verified(function, *[normal(i, 4) for i in range(30)]).verdict == "differs"


# -------------------------------------------------------------------------------------------------- special points


def at(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("function", "x", "slopes"),
    [
        (lambda x: x.relu().sum(), at(0.0, 1.0, -1.0), (0.0, 1.0)),
        (lambda x: x.abs().sum(), at(0.0, 1.0), (-1.0, 1.0)),
        (lambda x: x.max(), at(1.0, 1.0, -1.0), (0.0, 1.0)),
        (lambda x: x.norm(), at(0.0, 0.0), (-1.0, 1.0)),
    ],
)
def test_a_kink_is_named_with_both_slopes_and_torchs_convention_accepted(
    function: Function, x: Tensor, slopes: tuple[float, float]
) -> None:
    report = verified(function, x)
    kink = report.conventions()[0]
    assert (kink.reason, kink.place) == ("kink", (0,))
    assert (kink.data["below"], kink.data["above"]) == pytest.approx(slopes, abs=1e-5)
    assert report.verdict == "agrees"


def test_two_conventions_that_contradict_the_function_differ() -> None:
    """relu(x) − relu(−x) is x; torch says 0 at 0."""
    assert verified(lambda x: (x.relu() - (-x).relu()).sum(), at(0.0, 1.0, -1.0)).verdict == "differs"


KINKS: dict[str, tuple[Function, Tensor]] = {
    "several zeros of relu": (lambda x: x.relu(), at(0.0, 0.0, 1.0, 0.0, -1.0, 0.0)),
    "a difference of relus": (lambda x: x[0].relu() - x[1].relu(), at(0.0, 0.0)),
    "both signs of one element": (lambda x: torch.stack([x.relu(), (-x).relu()]), at(0.0, 1.0)),
    "max pool after relu": (lambda x: F.max_pool1d(x.relu()[None], 2), at(-1.0, -2.0, 0.5, 1.0, -0.3, -0.7)),
    "many zeros": (lambda x: x.relu() * x.cos(), torch.zeros(40, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_that_move_together_are_no_mismatch(name: str) -> None:
    function, x = KINKS[name]
    assert verified(function, x).verdict == "agrees"


def test_kinks_do_not_hide_a_wrong_element() -> None:
    wrong = planted(lambda g: changed(g, 1.01))
    assert verified(lambda x: wrong(x).relu(), at(0.3, 0.0, 2.0, 1.1)).verdict == "differs"


def test_near_a_kink_the_right_gradient_agrees() -> None:
    assert verified(lambda x: x.relu().sum(), at(1e-7, 1.2, -1e-9)).verdict == "agrees"


# fmt: off
MUTE: dict[str, tuple[Function, Tensor, str]] = {
    "a jump of round":    (lambda x: (x.round() * x).sum(), at(0.5, 1.2), "jump"),
    "a jump of sign":     (lambda x: (x.sign() + x).sum(), at(0.0, 1.2), "jump"),
    "an infinite slope":  (lambda x: x.sqrt().sum(), at(0.0, 1.2), "singular"),
    "nan at the edge":    (lambda x: torch.where(x > 0, x.sqrt(), 0 * x).sum(), at(0.0, 1.2), "singular"),
    "an infinite output": (lambda x: (1 / x).sum(), at(0.0, 1.2), "not_finite"),
    "cancellation":       (lambda x: ((1 - x.cos()) / x**2).sum(), at(1e-4), "cancelled"),
    "cancelling float32": (lambda x: ((1 - x.cos()) / x**2).sum(), at(1e-4, dtype=torch.float32), "cancelled"),
}
# fmt: on


@pytest.mark.parametrize("name", MUTE)
def test_where_there_is_no_derivative_nothing_is_said(name: str) -> None:
    function, x, why = MUTE[name]
    report = verified(function, x)
    assert report.verdict == "cannot say"
    assert reason(report, "finite differences") == why


def test_nan_where_the_function_is_smooth_differs() -> None:
    report = verified(lambda x: torch.where(x > 0, x.sqrt(), 0 * x).sum(), at(-1.0, 1.2))
    assert report.verdict == "differs"
    assert (report.checks[0].reason, report.checks[0].place) == ("nan", (0,))


def test_nan_in_the_users_type_alone_differs() -> None:
    """In float32, exp(100) is infinite and its slope nan, while the function is smooth."""
    function = lambda x: torch.where(x > 50, x, x.exp().log1p()).sum()  # noqa: E731
    assert verified(function, at(100.0, 1.0, dtype=torch.float32)).verdict == "differs"


def test_a_function_with_hidden_state_cannot_be_judged() -> None:
    count = [0]

    def function(x: Tensor) -> Tensor:
        count[0] += 1
        return (x * (1 + 1e-3 * count[0])).sum()

    report = verified(function, at(0.5, 1.2))
    assert report.verdict == "cannot say"
    assert report.checks[0].reason == "not_deterministic"
    assert report.checks[0].data["amplitude"] == pytest.approx(4 * 1.7e-3)  # the fifth run against the first


def test_float32_inside_is_no_false_alarm() -> None:
    assert verified(lambda x: (x.float().sin() * 3).double().sum(), at(0.5, 1.2)).verdict == "agrees"


def centred(x: Tensor) -> Tensor:
    with torch.no_grad():
        top = x.max()
    return (x - top).exp().sum()


@pytest.mark.parametrize(
    "function",
    [lambda x: (x * x.detach()).sum(), lambda x: ((x.round() - x).detach() + x).square().sum(), centred],
)
def test_a_cut_gradient_is_explained_not_called_wrong(function: Function) -> None:
    report = verified(function, at(0.3, 1.2))
    found = report.checks[0]
    assert (found.verdict, found.reason) == ("agrees", "cut")  # with the derivative of what torch differentiates
    assert found.data["seen"] != pytest.approx(found.data["right"])
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    assert {stop.code for stop in report.stops} < {"x.detach()", "(x.round() - x).detach()", "x.max()"}


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: (x**3).sum(), at(1e8, 2.0)),
        (lambda x: (x**2).sum(), at(1e6, 1e-6)),
        (lambda x: x.log().sum(), at(1e-7, 2.0)),
        (lambda x: (1 / x).sum(), at(1e-5, 2.0)),
        (lambda x: (1e5 * x).sin().sum(), at(1.1, 2.0)),
        (lambda x: (1e8 + x.sin()).sum(), at(1.1, 2.0)),
        (lambda x: ((1e8 + x.sin()) - 1e8).sum(), at(1.1, 2.0)),
        (lambda x: (x * x.abs()).sum(), at(0.0, 1.0)),
    ],
)
def test_scales_that_defeat_a_fixed_step_agree(function: Function, x: Tensor) -> None:
    assert verified(function, x).verdict == "agrees"


def test_complex_inputs_agree() -> None:
    x = torch.complex(at(1.1, 2.0), at(3.0, 1.0))
    report = verify_complex(lambda x: x * x.exp(), x)
    assert report.verdict == "agrees"
    assert reason(report, "rules") == "complex"


def verify_complex(function: Function, x: Tensor) -> Report:
    computation = computation_of(function, [x])
    return verify_trace(trace(computation, cotangent=torch.complex(at(0.3, 2.0), at(0.7, 1.0))), computation)


def test_a_constant_of_another_type_is_promoted_with_the_rest() -> None:
    weight = normal(3, 3, 2, dtype=torch.float32)
    report = verified(lambda x: (x @ weight).tanh().sum(), at(1.0, 2.0, 3.0, dtype=torch.float32))
    assert {c.verdict for c in report.checks} == {"agrees"}


def test_bfloat16_agrees() -> None:
    assert verified(lambda x: x.softmax(0)[0], at(1.0, 2.0, 0.5, dtype=torch.bfloat16)).verdict == "agrees"


def test_a_live_tensor_is_judged_by_rules_alone() -> None:
    x = normal(0, 3).requires_grad_()
    report = verify_trace(trace_live((x.sin() * x).sum(), names={id(x): "x"}), None)
    assert reason(report, "finite differences") == "live"


def test_a_large_problem_is_judged_by_the_rules_alone_unless_more_effort_is_asked_for() -> None:
    x = normal(0, 60, dtype=torch.float32)
    report = verified(lambda x: x.sin().sum(), x, effort=1e-5)
    assert [reason(report, o) for o in ("finite differences", "forward mode")] == ["too_costly"] * 2
    assert reason(report, "rules") is None
    assert report.verdict == "agrees"


def test_nothing_is_said_of_what_has_no_elements() -> None:
    beside = verified(lambda x, y: x.sin().sum() + y.sum(), at(1.0, 2.0), at())
    assert (beside.verdict, beside.inputs) == ("agrees", ("x",))
    for function, x, code in ((torch.exp, at(), "nothing-in-input"), (lambda x: x[:0], at(1.0), "nothing-in-output")):
        report = verified(function, x)
        assert (report.verdict, report.inputs) == ("cannot say", ())
        assert [finding.code for finding in report.findings] == [code]


def test_a_function_that_takes_long_is_not_run_so_often_unless_more_effort_is_asked_for() -> None:
    def slow(x: Tensor) -> Tensor:
        time.sleep(0.004)
        return x.sin().sum()

    assert reason(verified(slow, at(1.0, 2.0), effort=0.02), "finite differences") == "too_costly"
    assert reason(verified(slow, at(1.0, 2.0)), "finite differences") is None


@pytest.mark.parametrize("factor", [1.001, -1.0, 0.0])
def test_a_wrong_gradient_of_a_large_problem_is_found_and_placed(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error is one element of what the rule of mm gives; torch and the rule then differ by it."""
    rule = rules()["aten.mm.default"]

    def wrong(g: Tensor, mat2: Tensor) -> Tensor:
        sent = (g @ mat2.mT).contiguous()
        sent[3, 2] *= factor
        return sent

    planted = replace(rule, derivatives={**rule.derivatives, "self": Derivative("", wrong)})
    monkeypatch.setitem(registry.RULES, "aten.mm.default", planted)
    A, B = normal(0, 7, 5, dtype=torch.float32), normal(1, 5, 3, dtype=torch.float32)
    report = verified(lambda A, B: (A @ B).sin().sum(), A, B, effort=1e-5)
    checks = {c.input: c for c in report.checks if c.oracle == "rules"}
    assert checks["A"].verdict == "differs"
    assert checks["A"].place == (3, 2)
    assert checks["B"].verdict == "agrees"


@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (5, 3), (300, 700), (4, 3, 2), (200_000,)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_largest_difference_of_two_tensors_is_found_in_pieces(shape: tuple[int, ...], turned: bool) -> None:
    if turned and len(shape) != 2:
        return
    a, b = (normal(seed, *shape[::-1]).mT if turned else normal(seed, *shape) for seed in (0, 1))
    worst, size, place, apart = farthest(a, b, 0.0)
    assert torch.equal(apart.double().nan_to_num(), ((a - b).abs() / b.abs()).float().double().nan_to_num())
    if a.numel():
        assert worst == (a - b).abs().max()
        assert size == b.abs().max()
        assert (a - b).abs()[place] == worst


# ------------------------------------------------------------------------------------------------ the rest of the world


def test_nothing_is_left_behind() -> None:
    module = nn.Linear(3, 2)
    x = torch.ones(4, 3, requires_grad=True)
    before, state = {n: p.detach().clone() for n, p in module.named_parameters()}, torch.get_rng_state()
    verified(lambda x: F.dropout(module(x), 0.5).tanh(), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_the_report_is_the_same_each_time() -> None:
    first, second = (verified(lambda x: x.tanh().prod(), normal(0, 5)) for _ in range(2))
    assert first == second


# --------------------------------------------------------------------------------------------------------- verdicts


def check(oracle: str, verdict: Any, why: str | None = None, resolution: float = 1e-12) -> Check:
    bounds = None if verdict == "differs" else torch.full((2,), resolution if verdict == "agrees" else torch.inf)
    return Check(oracle, "x", verdict, 0.0, 0.0, resolution, why, bounds=bounds)


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([check("a", "agrees"), check("b", "differs", "slope")], "differs"),
        ([check("a", "agrees"), check("b", "cannot say", "no_rule")], "agrees"),
        ([check("a", "agrees"), check("b", "cannot say", "noise")], "cannot say"),
        ([check("a", "agrees"), check("b", "cannot say", "kink")], "agrees"),
        ([check("a", "agrees"), check("b", "cannot say", "cut")], "cannot say"),
        ([check("rules", "agrees"), check("b", "cannot say", "jump")], "cannot say"),
        ([check("a", "agrees", resolution=1e-3)], "cannot say"),
        ([check("a", "agrees", resolution=float("nan"))], "cannot say"),
        ([check("a", "cannot say", "no_rule")], "cannot say"),
        ([], "cannot say"),
    ],
)
def test_answers_make_one_verdict(checks: list[Check], verdict: str) -> None:
    assert Report(tuple(checks)).verdict == verdict


def test_every_reason_has_a_sentence_in_every_language_with_the_same_numbers() -> None:
    fields = {
        language: {
            key: {name.partition(".")[0] for _, name, _, _ in string.Formatter().parse(text) if name}
            for key, text in sentences(language).items()
            if key.startswith("verdicts.")
        }
        for language in LANGUAGES
    }
    assert len(fields["en"]) > 20
    assert all(found == fields["en"] for found in fields.values())


def test_every_reason_that_is_met_can_be_said() -> None:
    reports = [verified(function, x) for function, x, _ in MUTE.values()]
    reports += [verified(planted(error), normal(0, 3, 3)) for error in ERRORS.values()]
    for found in (c for report in reports for c in report.checks if c.reason):
        assert not re.search(r"[{}]", say(f"verdicts.{found.reason}", "en", **found.data))
        assert say(f"verdicts.{found.reason}", "zh", **found.data)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("gap", [5.0, 10.0, 20.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_confident_class_is_no_error(gap: float, dtype: torch.dtype) -> None:
    """1 − p for p near 1 is subtracted inside one operator: what it loses no operand shows."""
    logits, targets = gap * torch.eye(4, 6, dtype=dtype), torch.arange(4)
    assert gx.verify(lambda x: F.cross_entropy(x, targets), [logits]).verdict != "differs"
    wrong = planted(lambda g: 1.01 * g)
    assert gx.verify(lambda x: F.cross_entropy(wrong(x), targets), [logits]).verdict == "differs"
