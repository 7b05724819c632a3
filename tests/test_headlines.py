"""The first sentence of a verdict: what made a gradient another one than the function's, in both verbs alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from test_operations import Function, line_of, normal, planted
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.narration import explanations
from gradexplain.narration.reports import ReportTeller

NOWHERE = "Every operation that can be checked alone is right by itself"


def pages(function: Callable[..., Any], *inputs: Tensor, **options: Any) -> list[str]:
    """Returns what both verbs print, each in one line; the verdict is that the gradient differs."""
    found = [ask(function, list(inputs), **options) for ask in (gx.verify, gx.explain)]
    assert [result.verdict for result in found] == ["differs"] * 2
    return [" ".join(result.render("text", width=400).split()) for result in found]


def here(text: str) -> str:
    return f"test_headlines.py:{line_of(text, __file__)}"


# ----------------------------------------------------------------------------------------------------- estimates

ON, THERE = "on a function whose slope is", "also where the slope of its function is"
# What is computed, what the backward makes of the gradient that arrives, and what is said of that.
ESTIMATES: dict[str, tuple[Function, Function, str]] = {
    "straight through": (lambda x: x.round(), lambda g, x: g, f"passes the gradient on, {ON} 0"),
    "halved": (lambda x: x.sign(), lambda g, x: g / 2, f"passes 1/2 times the gradient on, {ON} 0"),
    "surrogate": (lambda x: (x > 0).to(x), lambda g, x: g / (1 + x * x), f"sends a gradient of its own, {ON} 0"),
    "reversal": (lambda x: x.clone(), lambda g, x: -g, f"passes -1 times the gradient on, {ON} 1"),
    "a factor": (lambda x: 3 * x, lambda g, x: g, f"passes the gradient on, {ON} 3"),
    "clipped": (lambda x: x.clamp(-0.5, 0.5), lambda g, x: g, f"passes the gradient on, {THERE} 0"),
}  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ESTIMATES)
def test_a_backward_that_passes_on_what_arrives_is_named_first(name: str, dtype: torch.dtype) -> None:
    forward, backward, words = ESTIMATES[name]
    function = planted(forward, backward, "Passed")

    def called(x: Tensor) -> Tensor:
        return (function(2 * x).sin() * x).sum()  # in the middle of other things

    for page in pages(called, normal(1, 6).to(dtype)):
        assert f"Passed {words}, {here('in the middle of other things')}" in page
        assert NOWHERE not in page


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (lambda x: x * x, lambda g, x: g),  # a slope at each element
        (lambda x: x.sin(), lambda g, x: g * x),
        (lambda x: x.flip(0), lambda g, x: 2 * g),  # not elementwise
    ],
)
def test_no_slope_is_told_of_a_function_that_has_none(forward: Function, backward: Function) -> None:
    for page in pages(lambda x: planted(forward, backward, "Passed")(x).sum(), normal(1, 6)):
        assert "The gradient of x is wrong." in page
        assert "whose slope" not in page


def test_an_estimate_does_not_stand_for_an_error_in_another_argument() -> None:
    """The learned step of a quantizer: its gradient is no estimate of that of one input."""
    quantized = planted(lambda x, s: (x / s).round() * s, lambda g, x, s: (g, (g * (x / s)).sum() / 7), "Quantized")
    for page in pages(lambda x, s: quantized(x, s).sum(), normal(1, 6), torch.tensor(0.3, dtype=torch.float64)):
        assert "The gradient of x, s is wrong." in page


def test_what_saturates_is_not_called_piecewise_constant() -> None:
    """Far from here it is flat everywhere; here it is not."""
    clipped = planted(lambda x: x.clamp(-1e-2, 1e-2), lambda g, x: g, "Clipped")
    report = gx.verify(lambda x: clipped(x).sum(), [torch.tensor([0.004, 5.0], dtype=torch.float64)])
    assert [o.label for o in report.wrong()] == ["Clipped"]
    assert "piecewise constant" not in str(report)


def test_a_straight_way_by_detach_is_told_with_both_slopes() -> None:
    def rounded(x: Tensor) -> Tensor:
        return ((x + (x.round() - x).detach()) ** 2).sum()  # by detach

    x = torch.tensor([0.7, 1.2, -2.3], dtype=torch.float64)
    told = "The gradient is right for the paths that are left: the function has slope 0 by x[2] and the gradient says"
    report = gx.verify(rounded, [x])
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    for result in (report, gx.explain(rounded, [x])):
        page = " ".join(result.render("text", width=400).split())
        assert told in page
        assert f"what would cancel it is stopped by `(x.round() - x).detach()`, {here('# by detach')}" in page
        assert "finite differences will differ" not in page


# ----------------------------------------------------------------------------------------------------------- hooks


def doubled(gradient: Tensor) -> Tensor:
    return 2 * gradient


def doubled_after(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad *= 2


def doubled_behind(module: object, sent: tuple[Tensor], received: object) -> tuple[Tensor]:
    return (2 * sent[0],)


def doubled_before(module: object, received: tuple[Tensor]) -> tuple[Tensor]:
    return (2 * received[0],)


def on_a_value(net: nn.Sequential) -> Callable[..., Tensor]:
    def called(x: Tensor) -> Tensor:
        hidden = net[0](x)
        hidden.register_hook(doubled)
        return net[1](hidden)  # type: ignore[no-any-return]

    return called


def on_a_node(net: nn.Sequential) -> Callable[..., Tensor]:
    def called(x: Tensor) -> Tensor:
        hidden = net[0](x).exp()
        hidden.grad_fn.register_hook(lambda sent, received: (2 * sent[0],))
        return net[1](hidden)  # type: ignore[no-any-return]

    return called


def hooked(where: str, net: nn.Sequential) -> Callable[..., Tensor]:
    if where == "a leaf":
        net[0].weight.register_hook(doubled)
    elif where == "after":
        net[0].weight.register_post_accumulate_grad_hook(doubled_after)
    elif where == "behind a module":
        net[1].register_full_backward_hook(doubled_behind)
    elif where == "before a module":
        net[0].register_full_backward_pre_hook(doubled_before)
    return {"a value": on_a_value, "a node": on_a_node}.get(where, lambda net: net)(net)


HOOKS = {
    "a leaf": ("a hook (doubled) changed the gradient of 0.weight", "def doubled("),
    "after": ("a hook (doubled_after) changed the gradient of 0.weight", "def doubled_after("),
    "a value": ("a hook (doubled) changed the gradient of net[0](x)", "def doubled("),
    "a node": ("a hook on ExpBackward0 changed what it sent to self", "net[0](x).exp()"),
    "behind a module": ("a hook (doubled_behind) of module 1 changed the gradient", "def doubled_behind("),
    "before a module": ("a hook (doubled_before) of module 0 changed the gradient", "def doubled_before("),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("where", HOOKS)
def test_a_hook_that_changed_a_gradient_is_named_first_with_what_it_would_be(where: str) -> None:
    told, line = HOOKS[where]
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    function = hooked(where, net)
    for page in pages(function, normal(2, 1, 3)):
        assert f"is not that of the function: {told} ({here(line)}); without that, the gradient at" in page
        right, seen = map(float, re.findall(r"would be (\S+) and not (\S+)\.(?: |$)", page)[0])
        assert seen == pytest.approx(2 * right, rel=1e-4)  # the hooks double
        assert NOWHERE not in page


def test_where_a_hook_changed_what_arrives_no_operation_is_said_to_leave_its_rule() -> None:
    def tripled(x: Tensor, hook: Callable[[Tensor], Tensor] | None = doubled) -> Tensor:
        y = x * 3
        if hook is not None:
            y.register_hook(hook)
        return (y**2).sum()

    for page in pages(tripled, normal(2, 3)):
        assert "sent another gradient" not in page
        assert "What arrives at `x * 3` (aten.mul.Tensor) is not the sum of what was sent to it" in page
    changed = "not what was sent to it: something changed it on its way"
    assert str(gx.explain(tripled, [normal(2, 3)])).count(changed) == 1
    for way in (None, torch.clone):  # without a hook, and with one that changes nothing
        assert changed not in str(gx.explain(lambda x, way=way: tripled(x, way), {"x": normal(2, 3)}))


def test_of_several_modules_with_hooks_none_is_accused_at_random() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    net[0].register_full_backward_pre_hook(lambda module, received: None)
    net[1].register_full_backward_pre_hook(doubled_before)
    for page in pages(net, normal(2, 1, 3)):
        assert "a hook on BackwardHookFunctionBackward changed what it sent" in page or "a hook changed" in page
        assert "of module" not in page


def test_a_hook_does_not_stand_for_an_error_beside_it() -> None:
    wrong = planted(lambda x: x.sin(), lambda g, x: g * x.cos() * 1.1, "Wrong")

    def called(x: Tensor) -> Tensor:
        y = wrong(x)
        y.register_hook(doubled)
        return y.sum()

    for page in pages(called, normal(2, 3)):
        assert "The gradient of x is wrong." in page
    assert [o.label for o in gx.verify(called, [normal(2, 3)]).wrong()] == ["Wrong"]


# ------------------------------------------------------------------------------------------------------ not finite


def test_the_first_cause_of_a_nan_is_told_first() -> None:
    for page in pages(lambda x: torch.where(x > 0, x.sqrt(), 0 * x).sum(), torch.tensor([-1.0, 1.0])):
        assert "The gradient of x is not finite (x[0] gets nan), where the function has a slope. The first" in page
        assert "The first value that is not finite is made by `x.sqrt()`" in page
    for ask in (gx.verify, gx.explain):
        result = ask(lambda x: x.log().sum(), [torch.tensor([-1.0, 1.0])])
        page = " ".join(result.render("text", width=400).split())
        assert (result.verdict, result.reason) == ("cannot say", "not_finite")
        assert "there is no gradient to judge. The first value that is not finite is made by `x.log()`" in page


# ---------------------------------------------------------------------------------------------- second derivatives


def cubed(backward: Callable[[Any, Tensor], Tensor]) -> Function:
    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            ctx.kept = x.detach()
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # of the cube
            return backward(ctx, g)

    return cast(Function, Cubed.apply)


class Square(torch.autograd.Function):
    """Returns 3 g x² with a gradient by x that is half of the right one."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(g, x)
        return 3 * g * x**2

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        g, x = ctx.saved_tensors
        return 3 * h * x**2, 3 * h * g * x


# A backward that is right once, what is wrong with it when it is differentiated again, and of which operation.
AGAIN: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, str]] = {
    "detached": (lambda ctx, g: 3 * g * ctx.saved_tensors[0].detach() ** 2, "zero", "Cubed"),
    "half of it": (lambda ctx, g: 3 * g * ctx.saved_tensors[0] * ctx.saved_tensors[0].detach(), "factor", "Cubed"),
    "kept aside": (lambda ctx, g: 3 * g * ctx.kept**2, "zero", "Cubed"),
    "no grad": (torch.no_grad()(lambda ctx, g: 3 * g * ctx.saved_tensors[0] ** 2), "zero", "Cubed"),
    "a Function inside": (lambda ctx, g: Square.apply(g, *ctx.saved_tensors), "factor", "Square"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", AGAIN)
def test_the_operation_whose_second_derivative_is_wrong_is_named_as_for_the_first(case: str) -> None:
    backward, kind, label = AGAIN[case]
    function = cubed(backward)

    def called(x: Tensor) -> Tensor:
        return (function(x).sin() * x).sum()  # differentiated twice

    assert gx.verify(called, [normal(1, 4)]).verdict == "agrees"
    report = gx.verify(called, [normal(1, 4)], second=True)
    assert (report.verdict, report.reason) == ("differs", "wrong")
    assert report.second is not None
    (operation,) = report.second.wrong()
    assert operation.label == label
    finding = operation.findings[0]
    assert (finding.code, finding.data["argument"]) == (kind, "x")
    if kind == "factor":
        assert finding.data["factor"] == "1/2"  # d/dx of x² where one x is held is x, and of half of it too
    page = " ".join(report.render("text", width=400).split())
    assert f"The second derivatives by x are wrong, in {label};" in page or "x, cotangent are wrong" in page
    with pytest.raises(AssertionError) as failure:
        gx.assert_gradients(called, [normal(1, 4)], second=True)
    if label == "Cubed":
        assert operation.node.source is not None
        assert operation.node.source.line == line_of("# differentiated twice", __file__)
        assert here("# differentiated twice") in str(failure.value)
        assert operation.backward is not None
        assert operation.backward.line == line_of("# of the cube", __file__) - 1  # with its decorator


def test_a_second_derivative_that_torch_does_not_have_is_said_to_be_missing_and_not_unseen() -> None:
    """Torch has no derivative of the backward of its fused attention on a CPU."""
    parts = [normal(seed, 1, 1, 3, 4) for seed in range(3)]
    report = gx.verify(lambda q, k, v: nn.functional.scaled_dot_product_attention(q, k, v).sum(), parts, second=True)
    assert report.verdict == "cannot say"
    page = " ".join(str(report).split())
    assert "? The gradient is right; its second derivatives cannot be had: RuntimeError: derivative for" in page
    assert "could be seen" not in page


def test_the_first_nan_of_a_second_derivative_is_told_first() -> None:
    """That of sin(πt)/(πt) at 0 is −π²/3, and torch's nan."""
    report = gx.verify(torch.sinc, [torch.tensor([0.0, 0.5], dtype=torch.float64)], second=True)
    assert report.verdict == "differs"
    page = " ".join(report.render("text", width=400).split())
    assert "The second derivatives by input" in page
    assert "nothing contradicts the gradient itself. The first value that is not finite is made by" in page


def test_where_a_nan_begins_is_not_said_to_be_how_operations_were_put_together() -> None:
    report = gx.verify(lambda x: (1 + x.exp()).log().sum(), [torch.tensor([100.0])])
    page = " ".join(report.render("text", width=400).split())
    assert "The first value that is not finite is made by `x.exp()`" in page
    assert "put together" not in page


def test_the_line_that_is_not_differentiated_again_is_named() -> None:
    def backward(ctx: Any, g: Tensor) -> Tensor:
        x = ctx.saved_tensors[0].detach()  # held here
        return 3 * g * x**2  # type: ignore[no-any-return]

    report = gx.verify(lambda x: cubed(backward)(x).sum(), [normal(1, 4)], second=True)
    assert report.second is not None
    (held,) = [f for o in report.second.wrong() for f in o.findings if f.code == "held"]
    assert held.source is not None
    assert held.source.line == line_of("# held here", __file__)


def test_no_operation_is_accused_of_second_derivatives_that_are_right() -> None:
    right = cubed(lambda ctx, g: 3 * g * ctx.saved_tensors[0] ** 2)
    report = gx.verify(lambda x: right(x).sin().sum(), [normal(1, 4)], second=True)
    assert report.verdict == "agrees"
    assert report.second is not None
    assert report.second.operations == ()


# ---------------------------------------------------------------------------------------------- no contradictions


def edited_as_a_whole(x: Tensor) -> Tensor:
    """Returns 6x: a factor and what it went into are doubled behind torch's back, so that backward is right."""
    factor = torch.full_like(x, 3.0)
    product = x * factor
    factor.data.mul_(2)
    product.data.mul_(2)
    return product.sum()


@pytest.mark.parametrize("ask", [gx.verify, gx.explain])
def test_what_is_overruled_is_marked_as_wrong_nowhere_and_said_why(ask: Callable[..., Any]) -> None:
    x = normal(1, 3)
    result = ask(edited_as_a_whole, [x])
    assert result.verdict == "agrees"
    lines = result.render("text", width=200).splitlines()
    assert not [line for line in lines if line.startswith(" ✗")]
    page = " ".join(" ".join(lines).split())
    assert "Finite differences side with backward" in page
    if ask is gx.verify:
        assert (
            "mul: factor was changed after it was saved" in page or "mul: other was changed after it was saved" in page
        )


QUESTIONS: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any]]] = {
    "right": (lambda x: (x * x.sin()).sum(), {}),
    "a vector": (lambda x: x.exp(), {}),
    "wrong": (lambda x: planted(lambda x: x.sin(), lambda g, x: g)(x).sum(), {}),
    "straight through": (lambda x: planted(lambda x: x.round(), lambda g, x: g)(x).sum(), {}),
    "stopped": (lambda x: (x * x.detach()).sum(), {}),
    "nowhere": (lambda x: x.detach().sum(), {}),
    "nan": (lambda x: x.log().sum(), {}),
    "a jump": (lambda x: ((x - x.detach()).sign() * x).sum(), {}),
    "a kink": (lambda x: (x - 1 - x.detach()).abs().sum() + (x - x).abs().sum(), {}),
    "by hand": (lambda x: (x**2).sum(), {"by_hand": {"x": lambda x: 3 * x}}),
    "edited": (edited_as_a_whole, {}),
    "drawn": (lambda x: (x * torch.rand(3, dtype=torch.float64)).sum(), {}),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_both_verbs_give_one_verdict_in_the_same_words(case: str) -> None:
    function, options = QUESTIONS[case]
    report, explained = (ask(function, [normal(2, 3)], **options) for ask in (gx.verify, gx.explain))
    told = [json.loads(result.to_json()) for result in (report, explained)]
    for key in ("verdict", "reason"):
        assert told[0][key] == told[1][key]
    stops = [[(s["input"], s["source"]["line"], pytest.approx(s["share"])) for s in one["stops"]] for one in told]
    assert stops[0] == stops[1]
    if report.verdict == "agrees":
        return
    first, last = (" ".join(r.render("text", width=400).split("╯")[1].split()) for r in (report, explained))
    sentence = first.split(" Checked, not asserted")[0].split(" Where: ")[0].split(" Every operation that")[0]
    if "without that" not in sentence:  # its numbers are those of another cotangent
        assert re.sub(r"f\d|\w\.\w+\(\)", "·", sentence) in re.sub(r"f\d|\w\.\w+\(\)", "·", last)


def off_in_float32(x: Tensor) -> Tensor:
    return planted(lambda x: x.sin(), lambda g, x: g * x.cos() * (1 + 1e-3 * (x.dtype == torch.float32)), "Off")(
        x
    ).sum()


@pytest.mark.parametrize("where", ["a leaf", "after", "the number"])
def test_a_row_that_is_marked_as_wrong_shows_more_than_rounding_explains(where: str) -> None:
    torch.manual_seed(1)
    function = off_in_float32 if where == "the number" else hooked(where, nn.Sequential(nn.Linear(3, 2)))
    report = gx.verify(function, [torch.tensor([[0.5, 1.5, -0.7]])])
    wrong = [check for check in report.checks if check.verdict == "differs"]
    assert len(wrong) > (where != "the number")
    for check in wrong:
        mark, _, _, worst, bound = ReportTeller("en").check_row([check])
        assert mark == "✗"
        assert float(worst) > float(bound)


@pytest.mark.parametrize("ask", [gx.verify, gx.explain])
def test_of_a_loss_that_overflows_in_its_own_type_that_is_said_first(ask: Callable[..., Any]) -> None:
    """log(1 + exp(x)) at 100 is 100 but for 4e-44; exp(100) is beyond float32."""
    result = ask(lambda x: (1 + x.exp()).log().sum(), [torch.tensor([100.0])])
    report = result if isinstance(result, gx.Report) else result.report
    assert (report.verdict, report.reason) == ("cannot say", "not_finite")
    page = " ".join(result.render("text", width=300).split())
    assert "The output is inf in float32, where the function itself is 100: there is no gradient to judge." in page


def test_a_gradient_that_nobody_asked_for_is_said_not_to_be_judged() -> None:
    """backward() leaves 3 x in w, and 2 x is right; of x it is right."""
    w = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    spoiled = planted(lambda w: 2 * w, lambda g, _: 3 * g)
    report = gx.verify(lambda x: (spoiled(w) * x).sum(), [torch.tensor([0.5, -1.0, 2.0])])
    page = " ".join(report.render("text", width=300).split())
    assert "The gradient of x is right" in page
    assert "Another tensor receives a gradient as well, which was not judged." in page
    assert [finding.data["shape"] for finding in report.findings if finding.code == "unasked"] == [(3,)]
    asked = gx.verify(lambda x, w: (spoiled(w) * x).sum(), [torch.tensor([0.5, -1.0, 2.0]), w.detach()])
    assert "unasked" not in {finding.code for finding in asked.findings}
    assert asked.of("w") == "differs"


@pytest.mark.parametrize(("bound", "shown"), [(0.011, "2e-02"), (9.6e-5, "1e-04"), (5e-7, "5e-07"), (3e-3, "3e-03")])
def test_a_bound_is_never_told_smaller_than_it_is(bound: float, shown: str) -> None:
    assert explanations._rounded_up(bound) == shown


def test_a_wrong_operation_is_told_beside_what_is_known_of_the_whole() -> None:
    """What is wrong sends 3 instead of 2, times 0: the whole agrees; where that is not known, it is not said."""
    spoiled = planted(lambda x: 2 * x, lambda g, _: 3 * g)
    x = torch.tensor([0.5, 1.5], dtype=torch.float64)
    report = gx.verify(lambda x: (spoiled(x) * 0 + x).sum(), [x], each_operation=True)
    assert report.of("x") == "agrees"
    assert "An operation is wrong, although the gradient as a whole agrees here." in report.render("text", width=200)
    open_ = tuple(
        replace(c, verdict="cannot say", reason="too_costly", bounds=None, data={"elements": 2}) for c in report.checks
    )
    page = replace(report, checks=open_).render("text", width=200)
    assert "although the gradient as a whole agrees" not in page
    assert "An operation is wrong, and of the gradient as a whole nothing can be said here." in page


def test_an_operation_that_could_not_be_judged_is_not_called_right() -> None:
    """numpy's float32 keeps seven digits, which hides 1.0001 from differences of the operation alone."""

    class Numpy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return torch.from_numpy(np.sin(x.detach().numpy().astype(np.float32)).astype(np.float64))

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 1.0001 * g * ctx.saved_tensors[0].cos()

    report = gx.verify(lambda x: Numpy.apply(x).sum(), [torch.tensor([0.3, 1.0], dtype=torch.float64)])
    page = " ".join(report.render("text", width=300).split())
    (own,) = [o for o in report.operations if o.label == "Numpy"]
    assert own.verdict == "cannot say"
    assert "is right by itself: the error" not in page
    assert "Numpy could not be judged alone" in page


def test_an_element_that_is_not_seen_for_a_kink_is_not_called_small() -> None:
    class Largest(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.max()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return g * (x == x.max())  # both of two that tie: each between its slopes, and too much together

    page = " ".join(str(gx.verify(Largest.apply, {"x": torch.tensor([1.0, 3.0, 3.0]).double()})).split())
    assert "in 1 of 3 elements of x (x[1] is at a kink)" in page
    assert "too small" not in page


@pytest.mark.parametrize(("language", "size"), [("en", "of its size"), ("zh", "梯度大小的")])
def test_of_a_gradient_that_is_0_no_share_of_its_size_is_told(language: str, size: str) -> None:
    def flat(x: Tensor) -> Tensor:
        return (x - 3).relu().sum()

    pages = [gx.verify(flat, [x]).render("text", language=language) for x in (torch.ones(2), torch.tensor([1.0, 4.0]))]
    assert [size in page for page in pages] == [False, True]


@pytest.mark.parametrize(
    ("language", "wrong"), [("en", "is wrong in one element of x, (1,)"), ("zh", "x 的一个元素 (1,)")]
)
def test_explain_names_the_wrong_operation_and_the_difference_that_its_numbers_make(language: str, wrong: str) -> None:
    """The slope of x³ at 2 is 12, and 1 is sent: that is 11 too little, whatever was the step."""
    clipped = planted(lambda a: a**3, lambda g, a: (g * 3 * a * a).clamp(-1, 1), "Clipped")
    explanation = gx.explain(lambda x: clipped(x).sum(), [torch.tensor([0.125, 2.0, -0.25])])
    page = explanation.render("text", language=language)
    outcome = page.rpartition("✓")[2]
    assert "Clipped: clipped(x)" in outcome
    assert wrong in outcome
    (row,) = (line.split() for line in page.splitlines() if line.startswith(" ✗") and "float64" in line)
    assert float(row[-2]) == 11
    assert any(" 12" in line and "x[1]" in line for line in page.splitlines() if "•" in line)
