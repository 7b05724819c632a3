"""Kinks and ties: a convention of torch's is taken as it is measured, what is no convention is not."""

import pytest
import torch
from torch import Tensor

import gradexplain as gx
from gradexplain.recording import kinks
from gradexplain.rules.application import bind, call
from gradexplain.rules.registry import rule_of

G = torch.tensor([0.7, -1.3, 0.9], dtype=torch.float64)


def sent(operator: str, argument: str, *args: object) -> Tensor:
    """Returns what is accepted as sent for the cotangent `G`, or its sum for a single output."""
    rule, arguments = rule_of(operator), bind(operator, args, {})
    assert rule is not None
    outputs = call(operator, arguments)
    g = G if outputs[0].ndim else torch.tensor(2.0, dtype=torch.float64)
    return kinks.sent(rule, argument, [g], arguments, outputs)


def at(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize(("torchs", "accepted"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (1.5, 1.0), (-0.1, 0.0)])
def test_at_a_kink_a_number_between_the_sides_is_taken_and_no_other(monkeypatch, torchs: float, accepted: float):
    monkeypatch.setattr(kinks, "taken", lambda *a: torch.full((3,), torchs, dtype=torch.float64))
    assert torch.equal(sent("aten.relu.default", "self", at(0, 2, -1)), G * at(accepted, 1, 0))


def test_nan_is_no_convention(monkeypatch):
    monkeypatch.setattr(kinks, "taken", lambda *a: torch.full((3,), torch.nan, dtype=torch.float64))
    assert torch.equal(sent("aten.relu.default", "self", at(0, 2, -1)), G * at(0, 1, 0))


@pytest.mark.parametrize(("x", "z", "accepted"), [(0.3, 0.7, 0.3), (1.0, 0.0, 1.0), (1.0, 1.0, 0.5), (0.0, 0.0, 0.5)])
def test_two_equal_arguments_get_one_whole_between_them(monkeypatch, x: float, z: float, accepted: float):
    shares = {"self": x, "other": z}
    monkeypatch.setattr(kinks, "taken", lambda r, name, *a: torch.full((3,), shares[name], dtype=torch.float64))
    assert torch.equal(sent("aten.maximum.default", "self", at(1, 2, 3), at(1, 0, 9)), G * at(accepted, 1, 0))


@pytest.mark.parametrize(
    ("shares", "accepted"),
    [
        ((0.5, 0.5, 0.0), True),
        ((0.2, 0.8, 0.0), True),
        ((1.0, 0.0, 0.0), True),
        ((1.0, 1.0, 0.0), False),
        ((1.5, -0.5, 0.0), False),
        ((0.4, 0.4, 0.2), False),
        ((0.0, 0.0, 0.0), False),
        ((torch.nan, 0.5, 0.0), False),
    ],
)
@pytest.mark.parametrize("operator", ["aten.max.default", "aten.amax.default", "aten.linalg_vector_norm.default"])
def test_equal_candidates_are_divided_in_any_convex_way(monkeypatch, operator, shares, accepted):
    monkeypatch.setattr(kinks, "own_gradients", lambda *a: {0: at(*shares)})
    extra = [torch.inf] if "norm" in operator else []
    expected = 2 * (at(*shares) if accepted else at(0.5, 0.5, 0))
    assert torch.equal(sent(operator, "self", at(4, 4, 1), *extra), expected)


NORM, STD, MARGIN = "aten.linalg_vector_norm.default", "aten.std.correction", "aten.multi_margin_loss.default"
BCE = "aten.binary_cross_entropy.default"
FIRST = torch.tensor(0)


@pytest.mark.parametrize(
    ("operator", "arguments", "possible", "impossible"),
    [
        # ‖x‖₂ near 0 grows by 1 in every direction: any slopes of length 1 or less
        (NORM, (at(0, 0, 0),), [(0, 0, 0), (0.6, -0.8, 0)], [(0.8, 0.8, 0), (1.5, 0, 0), (torch.nan, 0, 0)]),
        # ‖x‖₁ bends along each axis by itself
        (NORM, (at(0, 0, -2), 1), [(0.3, -1, -1)], [(0, 1.2, -1)]),
        # max |x|: a convex split between the two that attain it
        (NORM, (at(2, -2, 1), torch.inf), [(0.7, -0.3, 0), (1, 0, 0)], [(1, -1, 0), (0.4, -0.4, 0), (0.5, 0.5, 0)]),
        # s = ‖x − μ‖/√2: slopes of length 1/√2 or less, which do not change when all x move
        (STD, (at(2, 2, 2),), [(0, 0, 0), (0.5, -0.5, 0)], [(0.5, 0.5, 0), (0.55, -0.55, 0)]),
        # −log x at 0: nothing on the left, −∞ on the right; −log (1 − x) at 1: +∞ on the left, nothing on the right
        (BCE, (at(0, 1, 0.5), at(1, 0, 0.5), None, 2), [(-7, 1e12, 0), (0, 0, 0)], [(7, 3, 0), (-7, -3, 0)]),
        # (max(0, x₁) + max(0, 0.5))/3 with x₁ = 0 the first margin, and x₀ in both of them with a minus
        (MARGIN, (at(1, 0, 0.5), FIRST), [(-0.5, 1 / 6, 1 / 3), (-1 / 3, 0, 1 / 3)], [(-1 / 3, 1 / 6, 1 / 3)]),
    ],
)
def test_slopes_that_are_possible_together_are_taken_and_no_others(
    monkeypatch, operator, arguments, possible, impossible
):
    plain = sent(operator, "self", *arguments)
    for torchs, is_possible in [*((p, True) for p in possible), *((i, False) for i in impossible)]:
        monkeypatch.setattr(kinks, "own_gradients", lambda *a, torchs=torchs: {0: at(*torchs)})
        taken = sent(operator, "self", *arguments)
        assert torch.allclose(taken, 2 * at(*torchs), rtol=1e-14, atol=1e-15) is is_possible, torchs
    monkeypatch.undo()
    assert torch.equal(sent(operator, "self", *arguments), plain)


@pytest.mark.parametrize("operator", ["aten.max.default", "aten.amax.default", "aten.linalg_vector_norm.default"])
@pytest.mark.parametrize(("x", "are"), [((2.0, 2.0, -1.0), True), ((0.0, 0.0, 0.0), True), ((2.0, 3.0, -1.0), False)])
def test_kinks_are_where_the_slopes_on_both_sides_differ(operator, x, are):
    """The largest of numbers has a kink where two are the largest, and their length where all are 0."""
    rule, arguments = rule_of(operator), bind(operator, [at(*x)], {})
    found = kinks.kinks_of(rule, "self", 0, arguments, call(operator, arguments))
    assert (found is not None) == (are and (operator != "aten.linalg_vector_norm.default" or x == (0.0, 0.0, 0.0)))


def test_where_there_is_no_tie_torch_is_not_asked(monkeypatch):
    monkeypatch.setattr(kinks, "own_gradients", lambda *a: {0: at(0.5, 0.5, 0.0)})
    assert torch.equal(sent("aten.max.default", "self", at(4, 5, 1)), at(0, 2, 0))
    assert not torch.equal(sent("aten.linalg_vector_norm.default", "self", at(3, 4, 0)), at(1, 1, 0))


POINTS = {
    "clamp": (lambda x: torch.clamp(x, 0, 1), at(0, 0.5, 1)),
    "clamp by tensors": (lambda x: torch.clamp(x, at(0), at(1)), at(0, 0.5, 1)),
    "clamp_min": (lambda x: x.clamp_min(0.25), at(0.25, 2, 0)),
    "clamp_max": (lambda x: x.clamp_max(0.25), at(0.25, 2, 0)),
    "fmax": (lambda x: torch.fmax(x, at(1, 2, 3)), at(1, 0, 9)),
    "fmin": (lambda x: torch.fmin(x, at(1, 2, 3)), at(1, 0, 9)),
    "both arguments": (lambda x: torch.fmax(x, x.flip(0)), at(1, 3, 1)),
    "amax": (lambda x: x.amax(0), at(1, 1, 0)),
}


@pytest.mark.parametrize("name", POINTS)
def test_torchs_gradient_at_a_kink_or_a_tie_is_not_called_wrong(name):
    function, x = POINTS[name]
    report = gx.verify(lambda x: (function(x) ** 2).sum(), {"x": x})
    # Before 2.14 torch's own forward mode took another convention for fmax than its backward.
    assert {c.verdict for c in report.checks if c.oracle != "forward mode"} <= {"agrees", "cannot say"}
    assert [c.verdict for c in report.checks if c.oracle == "rules"] == ["agrees"]
    assert report.verdict == "agrees" or name == "fmax"


class Beyond(torch.autograd.Function):
    """A relu whose backward takes 2 at the kink: more than either side."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.where(x == 0, 2.0, (x > 0).to(x)) * g


def test_a_number_beyond_both_sides_is_wrong():
    assert gx.verify(lambda x: Beyond.apply(x).sum(), {"x": at(0, 1)}).verdict == "differs"


def test_the_page_says_what_torch_takes_and_the_slopes_on_both_sides():
    x = at(0.25, 2, 0).requires_grad_()
    (theirs,) = torch.autograd.grad(x.clamp_min(0.25).sum(), x)
    page = " ".join(str(gx.explain(lambda x: x.clamp_min(0.25).sum(), {"x": x.detach()})).split())
    version = ".".join(torch.__version__.split(".")[:2])
    taken = f"torch {version} takes {theirs[0].item():g} here; the slope is 0 on the left and 1 on the right."
    assert taken in page


@pytest.mark.parametrize("code", ["x.relu()", "x.floor()", "x.log()", "torch.linalg.vector_norm(x)", "x.detach() * x"])
def test_a_finding_in_code_without_a_file_has_a_name_all_the_same(code: str):
    typed = eval(f"lambda x: ({code}).sum()", {"torch": torch})
    page = gx.explain(typed, {"x": at(0, 0)})
    assert page.findings
    assert all(finding.data.get("code") != "" for finding in page.findings)
    assert "``" not in str(page)
