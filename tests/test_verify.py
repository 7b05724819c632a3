"""`gx.verify` as it is used: what may be given, the place, the whole Jacobian, second derivatives, words and pytest."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from test_verification import at, changed, normal, planted
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

import gradexplain as gx
from gradexplain.locale.catalogue import LANGUAGES
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import trace
from gradexplain.verification import inquiry
from gradexplain.verification.oracles import batched, jacobian
from gradexplain.verification.oracles.bisection import singled_out
from gradexplain.verification.oracles.narrowing import narrowing
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.registry import ON_REQUEST, ORACLES
from gradexplain.verification.oracles.replays import Replay
from gradexplain.verification.oracles.rounding import jittered
from gradexplain.verification.verdicts import Check, Report

# Each on a line of its own, so that the line of the wrong operation can be told.
scaled = planted(lambda g: 1.001 * g)


def wrong_loss(x: Tensor) -> Tensor:
    h = torch.tanh(x)
    h = scaled(h)
    return (h**2).sum()


def of(report: Report, oracle: str) -> dict[str, str]:
    """Returns the verdicts of one oracle by input."""
    return {c.input: c.verdict for c in report.checks if c.oracle == oracle}


# ------------------------------------------------------------------------------------------------ what may be given


def test_all_outputs_that_carry_a_gradient_are_verified_together() -> None:
    report = gx.verify(lambda x: (x.sin(), x > 0, {"more": x.exp().sum()}), [normal(0, 3)])
    assert report.verdict == "agrees"
    assert report.subject is not None
    assert report.subject.trace.value.shape == (4,)


def test_a_wrong_second_output_is_found() -> None:
    assert gx.verify(lambda x: (x.sin(), scaled(x)), [normal(0, 3)]).verdict == "differs"


def test_inputs_may_hold_tensors_inside() -> None:
    batch = {"a": normal(0, 3), "pair": (normal(1, 3), normal(2, 2)), "kind": "plain"}

    def function(batch: Mapping[str, Any]) -> Tensor:
        assert batch["kind"] == "plain"
        assert isinstance(batch["pair"], tuple)
        return (batch["a"] * batch["pair"][0]).sum() + batch["pair"][1].exp().sum()

    report = gx.verify(function, {"batch": batch})
    assert report.verdict == "agrees"
    assert list(report.inputs) == ["batch['a']", "batch['pair'][0]", "batch['pair'][1]"]
    assert list(gx.verify(function, {"batch": batch}, wrt="batch").inputs) == list(report.inputs)


SPARSE: dict[str, Callable[[Tensor], Tensor]] = {
    "coo": lambda t: t.to_sparse(),
    "csr": lambda t: t.to_sparse_csr(),
    "csc": lambda t: t.to_sparse_csc(),
}


@pytest.mark.parametrize("layout", SPARSE)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_of_a_sparse_input_the_values_are_verified(layout: str) -> None:
    matrix = SPARSE[layout](torch.tensor([[1.0, 0, 2], [0, 3, 0]], dtype=torch.float64))
    report = gx.verify(lambda S, x: (S @ x).sin(), {"S": matrix, "x": normal(0, 3, 2)})
    assert report.verdict == "agrees"
    assert report.subject is not None
    assert report.subject.trace.inputs["S"].shape == (3,)


def test_a_module_is_verified_by_all_its_parameters() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    report = gx.verify(net, [normal(0, 5, 3, dtype=torch.float32)])
    assert report.verdict == "agrees"
    assert set(report.inputs) == {"input", "0.weight", "0.bias", "2.weight", "2.bias"}


def test_the_number_of_runs_does_not_grow_with_the_inputs() -> None:
    """At most 160 runs and 17 backward passes, those of its contract included, for 2 elements or 7 times 10,000."""
    for count, size in ((1, 2), (1, 10_000), (3, 50), (7, 10_000), (20, 5)):
        runs, backwards = [0], [0]

        class Counting(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                runs[0] += 1  # noqa: B023  # used in this turn of the loop alone
                ctx.save_for_backward(x)
                return x.sin()

            @staticmethod
            def backward(ctx: Any, g: Tensor) -> Tensor:
                backwards[0] += 1  # noqa: B023
                return g * ctx.saved_tensors[0].cos()

        names = [f"x{i}" for i in range(count)]
        function = eval(f"lambda {', '.join(names)}: f(sum(({', '.join(names)},)))", {"f": Counting.apply})
        assert gx.verify(function, [normal(i, size) for i in range(count)]).verdict == "agrees"
        assert runs[0] <= 160
        assert backwards[0] <= 17


# ------------------------------------------------------------------------------------------------------- the place


def test_where_the_whole_differs_the_operation_is_named_with_its_line() -> None:
    report = gx.verify(wrong_loss, [normal(0, 4)])
    (operation,) = report.wrong()
    assert operation.label == "Planted"
    assert operation.node.source is not None
    assert operation.node.source.line == wrong_loss.__code__.co_firstlineno + 2
    assert operation.findings[0].data["factor"] == "1.001"


def test_in_float32_the_same_is_named() -> None:
    (operation,) = gx.verify(wrong_loss, [normal(0, 4, dtype=torch.float32)]).wrong()
    assert operation.label == "Planted"
    assert operation.findings[0].data["factor"] == "1.001"


def test_each_operation_is_listed_on_request() -> None:
    report = gx.verify(lambda x: (x.sin() * x).sum(), [normal(0, 4)], each_operation=True)
    assert [o.verdict for o in report.operations] == ["agrees"] * 3
    assert not gx.verify(lambda x: (x.sin() * x).sum(), [normal(0, 4)]).operations


def test_a_detach_beside_a_right_custom_function_agrees_as_every_operation_does() -> None:
    right = planted(lambda g: g)
    report = gx.verify(lambda x: (right(x) * x.detach()).sum(), [normal(0, 4)])
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    assert gx.verify(lambda x: (right(x) * x.detach()).sum(), [normal(0, 4)], stops="intended").verdict == "agrees"
    assert {f.code for f in report.findings} == {"cut-detach"}


def test_a_detach_does_not_hide_a_wrong_custom_function() -> None:
    report = gx.verify(lambda x: (scaled(x) * x.detach()).sum(), [normal(0, 4)])
    assert report.verdict == "differs"
    assert [o.label for o in report.wrong()] == ["Planted"]


@pytest.mark.parametrize(
    ("function", "x", "kind"),
    [
        (lambda x: F.relu(x).sum(), at(0.0, 1.0), "kink"),
        (lambda x: F.dropout(x, 0.5).sin().sum(), at(0.3, 1.0, 2.0), "random"),
        (lambda x: (x * x.detach()).sum(), at(0.3, 1.0), "cut-detach"),
        (lambda x: F.embedding(torch.tensor([0, 1]), x, padding_idx=0).sum(), normal(0, 2, 2), "cut-padding"),
    ],
)
def test_what_only_looks_like_an_error_has_a_name_of_its_own(
    function: Callable[[Tensor], Tensor], x: Tensor, kind: str
) -> None:
    report = gx.verify(function, [x], stops="intended")
    assert report.verdict == "agrees"
    assert kind in {f.code for f in report.findings}


def test_an_error_of_one_element_in_ten_thousand_is_seen_and_placed() -> None:
    for position in (0, 17, 4321, 9999):

        def wrong(g: Tensor, position: int = position) -> Tensor:
            return g.index_put((torch.tensor([position]),), g[position] * 1.01)

        report = gx.verify(planted(wrong), [normal(3, 10_000)])
        assert report.checks[0].place == (position,)
        assert report.wrong()[0].findings[0].data["place"] == (position,)


# -------------------------------------------------------------------------------------------------- every element


def test_every_element_of_the_jacobian_agrees() -> None:
    report = gx.verify(lambda x, A: (A @ x).tanh(), [normal(0, 3), normal(1, 4, 3)], full=True)
    assert of(report, "every element") == {"x": "agrees", "A": "agrees"}


def test_every_element_of_a_complex_jacobian_agrees() -> None:
    x = torch.complex(normal(0, 3), normal(1, 3))
    assert of(gx.verify(lambda z: z.exp() * z, [x], full=True), "every element") == {"z": "agrees"}


def test_a_wrong_element_of_the_jacobian_is_named_by_output_and_input() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * torch.arange(1.0, 5.0, dtype=x.dtype)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            sent = g * torch.arange(1.0, 5.0, dtype=g.dtype)
            return sent + 1e-3 * torch.tensor([0.0, 0, 1, 0], dtype=g.dtype) * g[1]

    report = gx.verify(cast(Any, Wrong.apply), [normal(0, 4)], full=True)
    check = next(c for c in report.checks if c.oracle == "every element")
    assert (check.verdict, check.place, check.data["output"], check.data["count"]) == ("differs", (2,), (1,), 1)
    assert check.data["seen"] == pytest.approx(1e-3)
    assert check.data["right"] == pytest.approx(0.0, abs=1e-9)


def test_without_batched_rows_the_jacobian_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jacobian, "BATCH_ROWS", 1)
    assert of(gx.verify(lambda x: x.cumprod(0), [normal(0, 4)], full=True), "every element") == {"x": "agrees"}


def test_batched_gradients_agree_and_a_backward_that_mixes_the_batch_differs() -> None:
    assert of(gx.verify(lambda x: x.sin() * x, [normal(0, 4)], batched=True), "batched gradients") == {"x": "agrees"}

    class Mixing(torch.autograd.Function):
        generate_vmap_rule = False

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.sin()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return Cosine.apply(g, ctx.saved_tensors[0])

    class Cosine(torch.autograd.Function):
        """g cos x, whose rule for a batch of g gives every member what the first gets."""

        @staticmethod
        def forward(g: Tensor, x: Tensor) -> Tensor:
            return g * x.cos()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def vmap(info: Any, dims: Any, g: Tensor, x: Tensor) -> tuple[Tensor, int]:
            return (g[:1] * x.cos()).expand(g.shape).clone(), 0

    report = gx.verify(cast(Any, Mixing.apply), [normal(0, 4)], batched=True)
    assert of(report, "batched gradients") == {"x": "differs"}
    assert of(report, "finite differences") == {"x": "agrees"}


def test_where_nothing_can_be_batched_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> Any:
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(batched, "_both", fail)
    report = gx.verify(lambda x: x.sin(), [normal(0, 4)], batched=True)
    assert of(report, "batched gradients") == {"x": "cannot say"}
    assert report.verdict == "agrees"


def test_the_exact_derivative_is_asked_on_request_and_where_the_others_do_not_agree() -> None:
    assert of(gx.verify(lambda x: x.sin(), [at(0.3)], exact=True), "symbolic") == {"x": "agrees"}
    assert not of(gx.verify(lambda x: x.sin(), [at(0.3)]), "symbolic")
    assert of(gx.verify(lambda x: x.round() * x, [at(0.5)]), "symbolic")


# ------------------------------------------------------------------------------------------------ second derivatives


class Square(torch.autograd.Function):
    """x², whose backward cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


class Cube(torch.autograd.Function):
    """x³, whose backward uses a detached copy of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.x**2 * g


@pytest.mark.parametrize(
    "function",
    [Square.apply, lambda x: Square.apply(x) * x, Cube.apply, lambda x: Cube.apply(x) * x],
    ids=["once", "once, second path", "detached", "detached, second path"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_second_derivative_that_is_lost_without_a_word_is_caught(
    function: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    report = gx.verify(function, [at(2.0, -0.7, dtype=dtype)], second=True)
    assert Report(report.checks).verdict == "agrees"
    assert report.second is not None
    assert report.second.verdict == "differs"
    assert report.verdict == "differs"


@pytest.mark.parametrize(
    "function", [lambda x: x.sin() * x, lambda x: (3 * x).sum(), lambda x: x.softmax(0), lambda x: x.prod()]
)
def test_right_second_derivatives_agree_in_forward_over_reverse_as_well(function: Callable[..., Tensor]) -> None:
    report = gx.verify(function, [normal(0, 3)], second=True)
    assert report.second is not None
    assert report.verdict == "agrees"
    assert set(of(report.second, "forward mode").values()) == {"agrees"}


def test_second_derivatives_by_the_parameters_of_a_module() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    report = gx.verify(net, [normal(0, 3, dtype=torch.float32)], second=True)
    assert report.second is not None
    assert {report.second.of(n) for n in ("0.weight", "0.bias", "input", "cotangent")} == {"agrees"}


# -------------------------------------------------------------------------------------------------------- searching


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10_000])
def test_bisection_finds_the_elements_that_have_an_effect(size: int) -> None:
    for wrong in ({size // 3}, {0, size - 1}, {size // 2, size - 1, 0}):
        asked = itertools.count()

        def measure(start: int, stop: int, wrong: set[int] = wrong, asked: Any = asked) -> float:
            next(asked)
            return sum(1.0 + 0.1 * w / size for w in wrong if start <= w < stop)

        found = singled_out(measure, size, measure(0, size), 1e-3, tries=200, most=3)
        assert set(found) == wrong
        assert next(asked) <= 1 + len(wrong) * (size.bit_length() + 1)


def test_a_search_ends_when_its_tries_do() -> None:
    assert singled_out(lambda start, stop: 1.0, 1000, 1.0, 1e-3, tries=3, most=2) == []


def test_a_search_follows_what_is_not_a_number() -> None:
    found = singled_out(lambda a, b: float("nan") if a <= 5 < b else 0.0, 8, float("nan"), 1e-3, tries=20, most=1)
    assert found == [5]


# -------------------------------------------------------------------------------------------------- words and pytest


@pytest.mark.parametrize("format", ["text", "terminal", "markdown", "html"])
def test_a_report_is_rendered_in_every_format_and_language(format: str) -> None:
    report = gx.verify(wrong_loss, [normal(0, 4)], second=True, full=True, batched=True, exact=True)
    pages = {language: report.render(format, language=language) for language in LANGUAGES}
    assert len(set(pages.values())) == len(LANGUAGES)
    for page in pages.values():
        assert "1.001" in page
        assert "test_verify.py" in page


def test_a_report_shows_itself() -> None:
    report = gx.verify(lambda x: x.sin().sum(), [normal(0, 3)])
    assert str(report) == report.render("text")
    assert repr(report) == "<Report: agrees>"
    assert "<table" in report._repr_html_()
    assert "<!doctype" not in report._repr_html_()
    with pytest.raises(gx.InputError, match="no format papyrus"):
        report.render("papyrus")


def test_a_report_says_how_small_an_error_would_have_been_seen() -> None:
    report = gx.verify(planted(lambda g: g), [normal(0, 4)])
    resolution = report.resolution("x")
    assert resolution is not None
    assert 0 < resolution < 1e-7
    (told,) = re.findall(r"an error of (\S+) of its size", str(report))
    assert resolution <= float(told) <= 2 * resolution  # in one digit, and rounded up
    seen = planted(lambda g: (1 + 1e3 * resolution) * g)
    assert gx.verify(seen, [normal(0, 4)]).verdict == "differs"


def test_assert_gradients_says_what_can_be_acted_on() -> None:
    with pytest.raises(AssertionError) as failure:
        gx.assert_gradients(wrong_loss, [normal(0, 4)])
    text = str(failure.value)
    line = wrong_loss.__code__.co_firstlineno + 2
    for part in ("The gradient of x is wrong", "Planted", f"test_verify.py:{line}", "1.001 times"):
        assert part in text


def test_assert_gradients_lets_the_undecided_pass_only_if_asked_to() -> None:
    jump: Callable[[Tensor], Tensor] = lambda x: (x.round() * x).sum()  # noqa: E731
    with pytest.raises(AssertionError, match="cannot be said"):
        gx.assert_gradients(jump, [at(0.5)])
    assert gx.assert_gradients(jump, [at(0.5)], undecided=True).verdict == "cannot say"


def sending(returned: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Returns 2x, with a backward that returns what `returned` makes of the gradient that arrives."""

    class Sending(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return returned(g)

    return cast(Callable[[Tensor], Tensor], Sending.apply)


BREACHES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "shape": (lambda g: 2 * g[:2], "returned a gradient (2,) float64 for x, which is (3,) float64"),
    "too many": (lambda g: (2 * g, g), "returned 2 where 1 are needed"),
    "none": (lambda g: (), "returned 0 where 1 are needed"),
    "a list": (lambda g: [2 * g], "returned list as the gradient of x"),
    "a number": (lambda g: 2.0, "returned 2.0 as the gradient of x"),
    "numpy": (lambda g: g.numpy(), "returned ndarray as the gradient of x"),
    "complex": (lambda g: 2j * g, "returned a complex gradient"),
    "raises": (lambda g: 1 // 0, "failed: ZeroDivisionError"),
}


@pytest.mark.parametrize("case", BREACHES)
@pytest.mark.parametrize("second", [False, True])
def test_a_breach_of_a_backwards_contract_is_an_assertion_in_one_sentence(case: str, second: bool) -> None:
    returned, words = BREACHES[case]
    with pytest.raises(AssertionError) as failure:
        gx.assert_gradients(lambda x: sending(returned)(x.sin()).sum(), [normal(0, 3)], second=second)
    assert words in str(failure.value)
    assert "Sending" in str(failure.value)
    assert "test_verify.py:" in str(failure.value)
    assert len(str(failure.value).splitlines()) == 1
    assert failure.value.__cause__ is failure.value.__context__ is None  # no frames of ours nor of torch's


def test_what_assert_gradients_says_of_much_that_is_wrong_is_short() -> None:
    """Twelve Functions that are wrong in ways of their own, in front of 30 parameters."""
    layers = nn.Sequential(*[nn.Linear(2, 2).double() for _ in range(15)])
    wrong = [planted(lambda g, factor=1.5 + i: factor * g) for i in range(12)]
    with pytest.raises(AssertionError) as failure:
        gx.assert_gradients(lambda x: sum(f(layers(i * x)).sum() for i, f in enumerate(wrong, 1)), [normal(0, 1, 2)])
    lines = str(failure.value).splitlines()
    assert len(lines) == 20
    assert lines[-1].endswith("more lines, which the whole report has (gx.verify).")
    assert sum(line.startswith("  Planted") for line in lines) >= 6
    assert any(re.search(r"\[\d(, \d)?\], finite differences", line) for line in lines)  # the element


def test_what_assert_gradients_says_of_a_nan_has_its_first_cause() -> None:
    masked: Callable[[Tensor], Tensor] = lambda x: torch.where(x > 0, x.sqrt(), 0 * x).sum()  # noqa: E731
    with pytest.raises(AssertionError) as failure:
        gx.assert_gradients(masked, [at(0.5, -1.0)])
    line = masked.__code__.co_firstlineno
    for part in ("made by `x.sqrt()`", f"test_verify.py:{line}", "x[1], finite differences"):
        assert part in str(failure.value)


@pytest.mark.parametrize(
    ("verb", "name", "close"),
    [
        (gx.assert_gradients, "stop", "stops"),
        (gx.assert_gradients, "undecidd", "undecided"),
        (gx.verify, "efort", "effort"),
        (gx.explain, "ordr", "order"),
        (gx.graph, "vieww", "view"),
    ],
)
@pytest.mark.parametrize("kind", [gx.InputError, TypeError])
def test_a_misspelt_option_is_refused_by_name(
    verb: Callable[..., Any], name: str, close: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=rf"{verb.__name__} has no option {name}. Did you mean {close}\?"):
        verb(lambda x: x.sum(), [normal(0, 3)], **{name: 1})


def test_an_option_unlike_all_others_is_refused_without_a_guess() -> None:
    with pytest.raises(TypeError, match=r"explain has no option second. There are: function, .*order"):
        gx.explain(lambda x: x.sum(), [normal(0, 3)], second=True)  # type: ignore[call-arg]


def test_a_slope_along_many_inputs_is_no_reason_to_say_that_nothing_contradicts() -> None:
    """Of 30 parameters in front of a wrong Function, few are taken alone; the others stand in one direction."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(*[nn.Linear(3, 3).double() for _ in range(15)])
    for p in layers.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2
    report = gx.verify(lambda x: planted(lambda g: 2 * g)(layers(x)).sum(), [normal(0, 2, 3)])
    assert report.verdict == "differs"
    joint = [c for c in report.checks if c.reason == "joint"]
    for check in joint:
        assert check.data["seen"] == pytest.approx(2 * check.data["right"], rel=1e-3)
    assert joint
    assert "Nothing contradicts" not in report.to_json()


def test_of_many_inputs_those_behind_a_wrong_function_are_not_called_wrong() -> None:
    torch.manual_seed(0)
    before = nn.Sequential(*[nn.Linear(3, 3).double() for _ in range(4)])
    beside = nn.Sequential(*[nn.Linear(3, 3).double() for _ in range(4)])
    report = gx.verify(lambda x: (planted(lambda g: 1.01 * g)(before(x)) + beside(x)).square().sum(), [normal(0, 2, 3)])
    wrong = {name for name in report.inputs if report.of(name) == "differs"}
    assert wrong
    assert not any(name.startswith("beside") for name in wrong)


def test_of_many_inputs_those_beside_one_that_is_wrong_throughout_are_judged_without_it() -> None:
    """Differences are the only judge of these Functions, and move all nine inputs together."""
    right, wrong = planted(lambda g: g), planted(lambda g: 1.01 * g)
    report = gx.verify(
        lambda *inputs: sum((wrong if place == 5 else right)(x).sum() for place, x in enumerate(inputs)),
        [normal(seed, 40) for seed in range(9)],
    )
    assert [report.of(name) for name in report.inputs] == ["agrees"] * 5 + ["differs"] + ["agrees"] * 3


def test_the_plugin_gives_the_fixture(assert_gradients: Callable[..., Report]) -> None:
    assert assert_gradients is gx.assert_gradients
    assert assert_gradients(lambda x: x.sin(), [normal(0, 3)]).verdict == "agrees"


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(gx.InputError, match="no gradient of w"):
        gx.verify(lambda x: x.sin(), [normal(0, 3)], by_hand={"w": lambda x: x})
    with pytest.raises(gx.InputError, match="no input w"):
        gx.verify(lambda x: x.sin(), [normal(0, 3)], wrt="w")


def test_one_element_alone_wrong_is_told_from_all() -> None:
    report = gx.verify(planted(lambda g: changed(g, 1.001)), [normal(0, 40)])
    (operation,) = report.wrong()
    assert operation.findings[0].code == "one-factor"
    assert operation.findings[0].kind == operation.findings[0].code
    assert operation.findings[0].data["place"] == (21,)


def test_an_operation_that_refuses_numbers_nearby_is_judged_all_the_same() -> None:
    """Steps of an element beyond 1 are outside of what the function accepts."""

    class Bounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, p: Tensor) -> Tensor:
            if not bool(((p >= 0) & (p <= 1)).all()):
                raise ValueError("probabilities are between 0 and 1")
            ctx.save_for_backward(p)
            return p**2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2.02 * g * ctx.saved_tensors[0]

    report = gx.verify(cast(Any, Bounded.apply), [at(0.999999, 0.5, 1e-7)])
    assert report.verdict == "differs"
    assert [o.label for o in report.wrong()] == ["Bounded"]


@pytest.mark.parametrize(("formula", "verdict"), [(lambda x: 2 * x, "agrees"), (lambda x: 3 * x, "differs")])
def test_a_formula_by_hand_is_that_of_the_output_without_weights(
    formula: Callable[[Tensor], Tensor], verdict: str
) -> None:
    for function in (lambda x: (x**2).sum(), lambda x: x**2):
        report = gx.verify(function, [normal(0, 3, dtype=torch.float32)], by_hand={"x": formula})
        assert report.verdict == verdict
        assert of(report, "by hand") == {"x": verdict}
        assert report.formula_alone("x") == (verdict == "differs")
        assert ("Your formula for x is wrong" in str(report)) == (verdict == "differs")
        assert "is in how they were put" not in str(report)


def test_a_formula_does_not_hide_that_the_gradient_is_wrong_as_well() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * 3

    report = gx.verify(cast(Any, Wrong.apply), [normal(0, 3)], by_hand={"x": lambda x: 5 + 0 * x})
    assert not report.formula_alone("x")
    assert "The gradient of x is wrong" in str(report)


def test_a_number_outside_both_slopes_of_a_kink_is_no_convention() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return g * torch.where(x == 0, 3.0, (x > 0).to(g.dtype))

    assert of(gx.verify(cast(Any, Steep.apply), [at(0.0, 1.0)]), "finite differences") == {"x": "differs"}


@pytest.mark.parametrize(("apart", "verdict"), [(1e-3, "agrees"), (1e-9, "differs")])
def test_forward_mode_is_refuted_only_by_differences_that_resolve_what_it_says(apart: float, verdict: str) -> None:
    differences = Check("finite differences", "x", "agrees", 0.0, 1e-8, 1e-8, bounds=torch.full((1,), 1e-8))
    forward = Check("forward mode", "x", "differs", apart, 1e-12, 1e-12, "tangent", {"seen": 1.0, "right": 2.0})
    assert Report((differences, forward)).verdict == verdict


def test_torchs_own_wrong_forward_mode_is_told_from_a_wrong_gradient() -> None:
    """x₀ · s₀ moves along both, and torch's forward mode of scatter_reduce says that it does not."""
    function = lambda x, s: x.scatter_reduce(0, torch.tensor([0]), s, "prod")  # noqa: E731
    report = gx.verify(function, [at(2.0), at(3.0)])
    assert report.verdict == "agrees"
    assert "forward mode gives 0" in " ".join(str(report).split())


# ------------------------------------------------------------------------------------------------ what fails


def failing(factor: float, call: int, *, backward: bool) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """Returns x ↦ Σ x³ + eˣ, whose cube has the backward `factor`·x² and which raises in one call, and its calls."""
    calls = [0]

    def counted(of_backward: bool) -> None:
        calls[0] += backward == of_backward
        if backward == of_backward and calls[0] == call:
            raise ValueError("this call failed")

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            counted(True)
            (x,) = ctx.saved_tensors
            return factor * x * x * g

    def function(x: Tensor) -> Tensor:
        counted(False)
        return (cast(Any, Cube.apply)(x) + x.exp()).sum()

    return function, calls


@pytest.mark.parametrize(("factor", "never", "most"), [(3, "differs", 60), (6, "agrees", 20)])
@pytest.mark.parametrize("backward", [False, True])
def test_a_call_that_fails_ends_no_verdict(factor: float, never: str, most: int, backward: bool) -> None:
    options = {"second": True, "each_operation": True, "batched": True} if factor == 3 else {}
    function, calls = failing(factor, 0, backward=backward)
    gx.verify(function, [at(0.3, 0.7)], **cast(Any, options))
    for call in range(2, min(calls[0], most) + 1):
        function, _ = failing(factor, call, backward=backward)
        report = gx.verify(function, [at(0.3, 0.7)], **cast(Any, options))
        assert report.verdict != never, f"call {call} of {calls[0]}"
        str(report)


def test_explain_answers_whichever_call_fails() -> None:
    function, calls = failing(3, 0, backward=False)
    gx.explain(function, [at(0.3, 0.7)])
    for call in range(2, calls[0] + 1):
        explanation = gx.explain(failing(3, call, backward=False)[0], [at(0.3, 0.7)])
        assert explanation.verdict != "differs"
        assert torch.equal(explanation.gradients["x"], 3 * at(0.3, 0.7) ** 2 + at(0.3, 0.7).exp())


@pytest.mark.parametrize("method", [*ORACLES, *ON_REQUEST])
def test_each_method_may_fail_and_says_so(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One input is right and one is wrong: whichever method fails, the others judge, and its message is told."""

    def broken(question: Question) -> Iterator[Check]:
        yield Check(method, "x", "agrees", 0.0, 0.0, 0.0)
        raise LookupError("nothing there")

    for methods in (ORACLES, ON_REQUEST):
        if method in methods:
            monkeypatch.setitem(cast(Any, methods), method, broken)
    report = gx.verify(
        lambda x, y: (x.sin() + scaled(y)).sum(), [at(0.3), at(0.7)], full=True, batched=True, exact=True
    )
    assert (report.of("x"), report.of("y")) == ("agrees", "differs")
    assert [(c.verdict, c.reason) for c in report.checks if c.oracle == method] == 2 * [("cannot say", "method_failed")]
    assert "LookupError: nothing there" in str(report)


@pytest.mark.parametrize("part", ["contracts_of", "check_operations", "gradient_of"])
def test_operations_contracts_and_second_derivatives_may_fail(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(inquiry, part, broken)
    report = gx.verify(lambda x: x.sin(), [at(0.3)], each_operation=True, second=True)
    assert report.of("x") == "agrees"
    assert report.verdict == ("cannot say" if part == "gradient_of" else "agrees")
    assert "This method failed: SystemExit: 3" in str(report)


def test_an_interruption_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(question: Question) -> Iterator[Check]:
        raise KeyboardInterrupt

    monkeypatch.setitem(cast(Any, ORACLES), "rules", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gx.verify(torch.sin, [at(0.3)])


_GUARDS: dict[str, Callable[[Tensor], object]] = {
    "equal": lambda p: torch.equal(p, p + 0),
    "comparison": lambda p: bool((p == p + 0).all()),
    "number": lambda p: p[1].item() == float(torch.linspace(0, 1, 5)[1]),
    "order": lambda p: p.argmax() == 4 and not (p > 1).any(),
    "search": lambda p: int(torch.searchsorted(p, p)[2]) == 2,
}


@pytest.mark.parametrize("guard", _GUARDS)
def test_a_comparison_in_the_function_sees_exact_numbers(guard: str) -> None:
    """While operators round at random, a function that refuses any points but its own must still see them."""
    points = torch.linspace(0, 1, 5)

    def loss(w: Tensor) -> Tensor:
        if not _GUARDS[guard](points):
            raise RuntimeError("these are not the training inputs")
        e = torch.exp(w * points)
        return (e / (e + 1e-3)).sum()

    e = (0.7 * points.double()).exp()
    assert gx.verify(loss, {"w": torch.tensor(0.7)}).verdict == "agrees"
    explanation = gx.explain(loss, {"w": torch.tensor(0.7)})
    assert explanation.verdict == "agrees"
    # d/dw e/(e + c) = c p e / (e + c)², what is left of two terms that cancel to a thousandth of their size
    found = explanation.gradients["w"].item()
    assert found == pytest.approx(float((1e-3 * points * e / (e + 1e-3) ** 2).sum()), rel=1e-4)
    computation = computation_of(loss, {"w": torch.tensor(0.7)})
    noise = jittered(Replay(computation, trace(computation), 0.0))
    assert 0 < float(noise["w"]) < 1e-6


# ------------------------------------------------------------------------------------------------ no float64


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="an older torch has no such function")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_an_operator_without_float64_runs_in_a_shorter_type_and_is_judged(dtype: torch.dtype, factor: float) -> None:
    a, w = normal(0, 6, 8).to(dtype), normal(1, 2, 8, 8).to(dtype)
    ends = torch.tensor([2, 6], dtype=torch.int32)

    def function(a: Tensor, w: Tensor) -> Tensor:
        product = F.grouped_mm(a, w, offs=ends).sin()
        product.register_hook(lambda g: factor * g)  # at 1.01, what arrives at both inputs is wrong
        return product.sum()

    report = gx.verify(function, [a, w])
    assert report.verdict == ("agrees" if factor == 1 else "differs")
    assert [f.data["operators"] for f in report.findings if f.code == "no-float64"] == ["_grouped_mm"]
    assert "Torch has no kernel in float64 for _grouped_mm" in str(gx.explain(function, [a, w]))


@pytest.mark.parametrize("refuses", ["forward", "backward"])
@pytest.mark.parametrize("factor", [1.0, 1.03])
def test_a_kernel_for_float32_alone_is_judged_in_float32(refuses: str, factor: float) -> None:
    def needs_float32(where: str, x: Tensor) -> None:
        if where == refuses and x.dtype != torch.float32:
            raise RuntimeError("this kernel is for float32")

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            needs_float32("forward", x)
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            needs_float32("backward", g)
            return factor * g * ctx.saved_tensors[0].exp()

    report = gx.verify(lambda x: Kernel.apply(x).sum(), {"x": torch.tensor([0.3, -1.2, 0.8])})
    assert report.verdict == ("agrees" if factor == 1 else "differs")
    assert [f.data["operators"] for f in report.findings if f.code == "own-type"] == ["Kernel"]
    page = " ".join(str(report).split())
    assert "The function, which applies Kernel, does not run in float64: it was run again in float32" in page
    assert "finite differences (float32)" in page
    assert "(float64)" not in page


def test_the_widest_type_that_an_operator_has_is_taken() -> None:
    """It takes nothing wider than bfloat16: the replay goes on from there, with what it rounds."""

    def bfloat16_only(x: Tensor) -> Tensor:
        return torch.addmm(torch.zeros(2, 2, dtype=x.dtype), x, x)

    def refusing(function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.addmm and args[1].dtype != torch.bfloat16:
            raise RuntimeError('"addmm" not implemented')
        return function(*args, **(kwargs or {}))

    class Refusing(TorchFunctionMode):
        def __torch_function__(self, *call: Any) -> Any:
            return refusing(*call)

    narrowed: set[str] = set()
    with Refusing():
        made = narrowing(lambda given: bfloat16_only(given["x"]), narrowed)({"x": at(1.0, 3.0, 0.5, 1 / 3).view(2, 2)})
    assert isinstance(made, Tensor)
    assert made.dtype == torch.float64
    assert made.tolist() == [[2.5, 4], [0.66796875, 1.609375]]  # 1/3 is 0.33398 in its 8 bits
    assert narrowed == {"torch.addmm"}


# ------------------------------------------------------------------------------------------------ nothing to check


_EMPTY = torch.zeros(0, 3, dtype=torch.float64)
_NOTHING: dict[str, tuple[Callable[..., Tensor], dict[str, Tensor], str]] = {
    "an empty input": (lambda x: (x * x).sum(), {"x": _EMPTY}, "x has no elements."),
    "empty inputs": (lambda x, y: (x * y).sum(), {"x": _EMPTY, "y": _EMPTY}, "none of x, y has elements."),
    "an empty output": (lambda x: x[x > 5].exp(), {"x": at(1, 2)}, "the output has no elements."),
    "whole numbers": (lambda x: x.sum(), {"x": torch.tensor([1, 2])}, "(x: int64) can carry a gradient"),
    "whole numbers, scaled": (lambda x: 0.5 * x, {"x": torch.tensor([1, 2])}, "for example 1.0 instead of 1"),
    "no input": (lambda: torch.ones(2), {}, "no input to differentiate by"),
    "a constant": (lambda x: torch.ones(2), {"x": at(1, 2)}, "No recorded operation leads from x"),
    "a detach": (lambda x: x.detach(), {"x": at(1, 2)}, "Remove the detach"),
    "no grad": (lambda x: without_grad(x), {"x": at(1, 2)}, "Remove the no_grad"),
    "numbers": (lambda x: torch.tensor(x.tolist()), {"x": at(1, 2)}, "No recorded operation leads from x"),
    "a choice": (lambda x: x.argmax(), {"x": at(1, 2)}, "Use a smooth function instead"),
    "one called y": (lambda y: y > 1, {"y": at(1, 2)}, "truth values"),
}  # fmt: skip


@pytest.mark.parametrize("case", _NOTHING)
@pytest.mark.parametrize("ask", [gx.verify, gx.explain])
def test_where_there_is_nothing_to_check_that_is_said_first(case: str, ask: Callable[..., Any]) -> None:
    function, inputs, why = _NOTHING[case]
    result = ask(function, inputs)
    assert result.verdict == "cannot say"
    page = str(result)
    assert "✓" not in page
    lines = page.split("╯")[1].split("\n\n")[0].splitlines()
    told = " ".join(line.strip() for line in lines).strip()
    assert told.startswith("? There is nothing to check")
    assert why in told
    assert page.count("nothing to check") == 1
    assert result.reason == "nothing"
    assert f'"text": {json.dumps(told.removeprefix("? "))}' in json.dumps(json.loads(result.to_json()))
    assert "nothing to check" not in result.render("text", language="zh")
    report = result if isinstance(result, Report) else result.report
    assert not report.checks
    assert [f.code for f in result.findings if f.code.startswith("nothing")] == [report.nothing.code]
    with pytest.raises(AssertionError, match="nothing to check"):
        gx.assert_gradients(function, inputs)


@pytest.mark.parametrize("error", [1.0, 1.001])
def test_an_empty_input_is_no_matter_beside_others(error: float) -> None:
    """Its parameters of size 0 keep no model from being judged."""
    function = planted(lambda g: error * g)
    report = gx.verify(lambda x, y: torch.cat([x, function(y)]).sum(), [_EMPTY, normal(0, 2, 3)], each_operation=True)
    assert report.verdict == ("agrees" if error == 1 else "differs")
    assert {check.input for check in report.checks} == {"y"}
    assert [o.label for o in report.operations if o.verdict != "agrees"] == ["Planted"] * (error != 1)


# ------------------------------------------------------------------------------------------------ dropped outputs


def without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.exp()


_DROPPED: dict[str, tuple[Callable[[Tensor], object], dict[str, str]]] = {
    "detached": (lambda x: (x**2, (x**3).detach()), {"output[1]": "(x**3).detach()"}),
    "three of four": (
        lambda x: (x.detach(), x**2, without_grad(x), (x > 0).double()),
        {"output[0]": "x.detach()", "output[2]": "x.exp()", "output[3]": "x > 0"},
    ),
    "by key, nested": (
        lambda x: {"loss_a": x.sum(), "more": [x.sin(), {"z": x.detach() * 2 + 1}]},
        {"more[1].z": "x.detach()"},
    ),
    "beside the input itself": (lambda x: (x, x.detach()), {"output[1]": "x.detach()"}),
    "nothing": (lambda x: (x.sin(), x > 0, x.argmax(), torch.ones(2), {"more": x.cos()}), {}),
    "one that is no float": (lambda x: (x.sin(), x.detach().long()), {}),
}


@pytest.mark.parametrize("case", _DROPPED)
def test_outputs_whose_gradient_was_dropped_are_named(case: str) -> None:
    function, expected = _DROPPED[case]
    report = gx.verify(cast(Any, function), [at(0.3, 1.7)])
    found = [f for f in report.findings if f.code == "output-dropped"]
    assert {f.data["output"]: f.data["code"] for f in found} == expected
    assert [f.data["output"] for f in found] == list(expected)
    assert all(f.source is not None and f.source.file == __file__ for f in found)
    assert report.verdict == "agrees"
    for name in expected:
        assert f"{name} depends on an input and carries no gradient" in " ".join(str(report).split())


def test_explain_names_dropped_outputs_as_verify_does() -> None:
    function, _ = _DROPPED["three of four"]
    named = [
        [(f.data["output"], f.source) for f in ask(cast(Any, function), [at(0.3)]).findings if "output" in f.data]
        for ask in (gx.verify, gx.explain)
    ]
    assert named[0] == named[1] != []


_SYMMETRIC = torch.tensor([[4.0, 1.0, -0.5], [1.0, 3.0, 0.7], [-0.5, 0.7, 2.0]], dtype=torch.float64)
_BY_DEFINITION: dict[str, Callable[[Tensor], Tensor]] = {
    # of a matrix that is taken to be symmetric, a change of one element is no change that the gradient speaks of
    "cholesky": torch.linalg.cholesky,
    "eigenvalues": lambda x: torch.linalg.eigh(x)[0].exp(),
    "with others": lambda x: torch.linalg.solve_triangular(torch.linalg.cholesky(x), x, upper=False).sin(),
}


@pytest.mark.parametrize("name", _BY_DEFINITION)
def test_forward_mode_does_not_call_wrong_what_holds_by_definition(name: str) -> None:
    report = gx.verify(_BY_DEFINITION[name], {"x": _SYMMETRIC}, each_operation=True)
    assert report.verdict == "agrees"
    inside = [check for operation in report.operations for check in operation.report.checks]
    assert [c for c in (*report.checks, *inside) if c.oracle == "forward mode" and c.verdict == "differs"] == []
    assert "error in torch's forward mode" not in " ".join(str(report).split())
