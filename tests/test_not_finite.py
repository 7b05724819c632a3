"""What is said of numbers that are not finite: the first cause, the numbers that met, what follows, and what helps.

What is expected is arithmetic of IEEE 754 (0 · inf = nan, exp(100) > 3.4·10³⁸), and each sentence has a case beside it
in which it would be false.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.findings.finding import Finding
from gradexplain.findings.not_finite import FIRST, _too_short


def born(f: Callable[..., Tensor], *inputs: Tensor) -> list[Finding]:
    """Returns the findings on numbers that are not finite, in the order in which they are told."""
    return [finding for finding in gx.verify(f, list(inputs)).findings if finding.code.endswith("not-finite")]


def page(f: Callable[..., Tensor], *inputs: Tensor, language: str = "en") -> str:
    return " ".join(gx.verify(f, list(inputs)).render("text", language=language, width=2000).split())


def one(*numbers: float) -> Tensor:
    return torch.tensor(numbers)


# A function, its input, and of each finding: its code, operator, the numbers that met, and what they made.
# fmt: off
CASES: dict[str, tuple[Callable[..., Any], Tensor, list[tuple[str, str, str | None, str]]]] = {
    "overflow": (lambda x: torch.log(1 + x.exp()).sum(), one(100.0), [
        ("first-not-finite", "exp", "exp(100)", "inf"), ("then-gradient-not-finite", "exp", "0 × inf", "nan")]),
    "a pole": (lambda x: (0 * x.log()).sum(), one(0.0), [
        ("first-not-finite", "log", "ln(0)", "-inf"), ("then-not-finite", "mul", "0 × (-inf)", "nan"),
        ("then-gradient-not-finite", "log", "0 × inf", "nan")]),
    "outside": (lambda x: x.sqrt().sum(), one(-1.0), [
        ("first-not-finite", "sqrt", "sqrt(-1)", "nan"), ("then-gradient-not-finite", "sqrt", None, "nan")]),
    "a slope": (lambda x: x.sqrt().sum(), one(0.0), [
        ("first-gradient-not-finite", "sqrt", None, "inf")]),
    "a norm": (lambda x: (x * x).sum().sqrt(), one(0.0, 0.0), [
        ("first-gradient-not-finite", "sqrt", None, "inf"), ("then-gradient-not-finite", "mul", "inf × 0", "nan")]),
    "hidden": (lambda x: torch.where(x > 0, x.sqrt(), 2 * x).sum(), one(0.0), [
        ("first-gradient-not-finite", "sqrt", "0 × inf", "nan")]),
    "an infinite constant": (lambda x: torch.where(x > 9, one(float("inf")) * x, x).sum(), one(2.0), [
        ("first-gradient-not-finite", "mul", "0 × inf", "nan")]),
}
# fmt: on


@pytest.mark.parametrize("name", CASES)
def test_the_first_cause_is_told_first_with_the_numbers_that_met(name: str) -> None:
    f, x, expected = CASES[name]
    findings = born(f, x)
    assert [(finding.code, _short(finding)) for finding in findings] == [
        (code, short) for code, short, _, _ in expected
    ]
    for finding, (_, _, met, value) in zip(findings, expected, strict=True):
        assert str(finding.data["value"]) == value
        assert met is None or finding.data["met"] == met


def _short(finding: Finding) -> str:
    return str(finding.data["operator"]).removeprefix("aten.").split(".")[0]


def test_an_overflow_is_told_with_the_number_and_the_end_of_the_type() -> None:
    """e^100 = 2.688·10⁴³, and float32 ends at 3.4·10³⁸; in float64 nothing overflows and nothing is said."""
    text = page(lambda x: torch.log(1 + x.exp()).sum(), one(100.0))
    assert "exp(100) is 2.688e+43, and float32 ends at 3.4e+38: inf." in text
    assert not born(lambda x: torch.log(1 + x.exp()).sum(), one(100.0).double())


def test_a_pole_is_no_overflow() -> None:
    text = page(lambda x: (1 / x).sum(), one(0.0))
    assert "ends at" not in text
    assert "1 / 0 = inf" in text or "0⁻¹ = inf" in text


def test_what_hides_a_number_is_named_only_where_it_does() -> None:
    hidden = page(lambda x: torch.where(x > 0, x.sqrt(), 2 * x).sum(), one(0.0))
    assert "x[0] gets 0 × inf = nan; the 0 comes from `torch.where(x > 0, x.sqrt(), 2 * x)`" in hidden
    assert "which does not use the value of `x.sqrt()` there" in hidden
    assert "torch.where(condition, x, 1.0)" in hidden
    squared = page(lambda x: x.sqrt().square().sum(), one(0.0))  # 2·0 is a product and no choice
    assert "x[0] gets 0 × inf = nan; the 0 comes from `x.sqrt().square()`" in squared
    assert "does not use" not in squared
    assert "torch.where(condition" not in squared
    given = page(lambda x: x.sqrt().sum() * 0, one(0.0))  # nobody chose: the 0 is the user's own factor
    assert "does not use" not in given


def test_the_minus_infinity_of_a_mask_is_no_cause_and_a_row_of_them_is() -> None:
    """softmax of a row that is all −inf is 0/0."""
    mask = torch.tensor([[0.0, -torch.inf], [-torch.inf, -torch.inf]])
    (first, *_) = born(lambda x: torch.softmax(x + mask, 1)[0].sum(), torch.zeros(2, 2))
    assert (first.code, _short(first), first.data["count"]) == ("first-not-finite", "_softmax", 2)
    assert first.data["element"].endswith("[1, 0]")
    assert not born(lambda x: torch.softmax(x + mask[:1], 1)[0].sum(), torch.zeros(1, 2))


def test_what_follows_is_told_as_what_follows_and_another_cause_is_not() -> None:
    def chain(z: Tensor) -> Tensor:
        e = z.exp()
        return -(e / e.sum())[1].log()

    first, *rest = born(chain, one(1000.0, 0.0))
    assert (first.code, _short(first)) == ("first-not-finite", "exp")
    assert {finding.code for finding in rest} == {"then-not-finite", "then-gradient-not-finite"}
    assert sum("remedy" in finding.data for finding in rest) == 0
    apart = born(lambda x, y: x.exp().sum() + y.sqrt().sum(), one(1000.0), one(0.0))
    assert [(f.code, _short(f)) for f in apart] == [
        ("first-not-finite", "exp"),
        ("besides-gradient-not-finite", "sqrt"),
    ]


def test_what_one_element_makes_of_finite_numbers_does_not_follow_from_another_that_is_not_finite() -> None:
    """√ at 0 and at −1 in one tensor: 0 × inf at the first comes of 0 alone, and not of √−1 = nan at the second."""
    first, beside = born(lambda x: torch.where(x > 0, x.sqrt(), 0).sum(), one(0.0, 4.0, -1.0))
    assert (first.code, first.data["met"]) == ("first-not-finite", "sqrt(-1)")
    assert (beside.code, beside.data["element"], beside.data["met"]) == (
        "besides-gradient-not-finite",
        "x[0]",
        "0 × inf",
    )


def test_an_input_that_is_not_finite_is_the_cause() -> None:
    findings = born(lambda x: (x - x).sum(), one(float("inf"), 1.0))
    assert [f.code for f in findings][:2] == ["input-not-finite", "then-not-finite"]
    assert findings[0].data["element"] == "x[0]"
    assert findings[1].data["met"] == "inf - inf"


def test_what_an_operation_makes_of_finite_numbers_does_not_follow_from_an_input_that_is_not() -> None:
    """1 / 0 has nothing to do with the infinity beside it; 0 · inf is made of it."""

    def quotients(x: Tensor) -> Tensor:
        return (1 / x).sum()

    beside = one(1.0, float("inf"), 0.0)
    assert [f.code for f in born(quotients, beside)][:2] == ["input-not-finite", "besides-not-finite"]
    told = page(quotients, beside)
    assert "Downstream" not in told
    assert told.index("x[1] is inf. Apart from that, `1 / x`") < told.index("Checked")
    follows = born(lambda x: (0 * x).sum(), one(1.0, float("inf")))
    assert [f.code for f in follows][:2] == ["input-not-finite", "then-not-finite"]


def test_a_place_is_told_once() -> None:
    """What hides a number on the same line has the same place; elsewhere it has its own."""

    def beside(x: Tensor) -> Tensor:
        return (x.sign() * x.abs().sqrt()).sum()

    def below(x: Tensor) -> Tensor:
        root = x.abs().sqrt()
        return (x.sign() * root).sum()

    cause, apart = (page(f, one(2.0, 0.0)).split("Checked")[0] for f in (beside, below))
    assert (cause.count("test_not_finite.py:"), apart.count("test_not_finite.py:")) == (1, 2)


def test_nan_lies_between_no_slopes() -> None:
    """√(x²) has slopes −1 and 1 at 0, and torch makes it nan; |x| has the same slopes, and 0 lies between them."""
    for f in (lambda x: (x * x).sqrt().sum(), lambda x: (x * x).sum().sqrt()):
        text = page(f, one(0.0))
        assert "cannot be said here: the function has a kink exactly here" in text.split("Checked")[0]
        assert "Torch's nan is no number between them" in text
        assert "nan lies between" not in text
        assert "it is a convention" not in text
        assert "介于两者之间" not in page(f, one(0.0), language="zh")
    assert "Torch's 0 lies between them; it is a convention." in page(lambda x: x.abs().sum(), one(0.0))


def test_a_loss_that_is_nan_is_the_headline_of_a_failing_test() -> None:
    """Of 1000, 1000.1 and 1000.2 float32 makes a variance of −1/16; the lesson and a remedy are named."""

    def spread(x: Tensor) -> Tensor:
        return ((x * x).mean() - x.mean() ** 2).sqrt()

    with pytest.raises(AssertionError) as failure:
        gx.assert_gradients(spread, [torch.tensor([1000.0, 1000.1, 1000.2])])
    headline, *rest = str(failure.value).splitlines()
    assert headline.startswith("The output is nan in float32, where the function itself is 0.0816546")
    assert "= sqrt(-0.0625) = nan, where rounding to float32 led to it" in headline
    x = torch.tensor([1000.0, 1000.1, 1000.2])
    assert f"≈ {x.double().std(correction=0).item():.4g}." in headline  # by the formula that does not subtract
    assert "x.std()" in headline
    assert "gradexplain lesson nan" in headline
    assert not rest


def test_a_network_whose_loss_is_nan_says_so_once() -> None:
    """Entropy by p·log p: where p underflows to 0 that is 0 · −inf."""
    torch.manual_seed(0)
    net = nn.Linear(2, 3)

    def entropy(x: Tensor) -> Tensor:
        p = torch.softmax(200 * net(x), 1)
        return -(p * torch.log(p)).sum()

    text = page(entropy, torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    head = text[: text.index("Checked")]
    assert "The output is nan in float32" in head
    assert "made by `torch.log(p)`" in head
    assert "log_softmax" in head
    assert text.count("The output is nan: there is no derivative to compare with.") == 1
    assert text.count("3 inputs") >= 3  # one line a method, not one an input
    assert "net.bias" not in text.partition("Checked")[2].partition("Every operation")[0]


def test_an_operation_that_made_the_first_nan_is_not_called_right() -> None:
    report = gx.verify(lambda x: torch.where(x > 0, x.sqrt(), 2 * x).sum(), [one(0.0)])
    rows = [line.split() for line in report.render("text", width=200).splitlines() if " x.sqrt() " in line]
    assert [row[0] for row in rows if "sqrt" in row[:2]] == ["?"]


@pytest.mark.parametrize("name", CASES)
def test_every_cause_is_one_of_the_first(name: str) -> None:
    f, x, _ = CASES[name]
    assert sum(finding.code in FIRST for finding in born(f, x)) == 1


def test_a_gradient_that_a_wider_type_has_is_told_with_it() -> None:
    """The gradient of the angle is i z/|z|², here along v = 0.59765625; in complex64 |z|² is 0."""
    z = torch.tensor(5.6843e-24 + 1.0e-23j)
    wide = complex(z)
    right = 0.59765625 * 1j * wide / abs(wide) ** 2
    page = gx.verify(lambda z: torch.angle(z), {"z": z}).render("text", width=400)
    assert f"in float64 the same operation sends {right:.4g}, which complex64 could hold" in page


def test_what_is_not_finite_in_every_type_is_not_laid_to_rounding() -> None:
    page = gx.verify(lambda x: (x - 1).sqrt(), {"x": torch.tensor(0.5)}).render("text", width=400)
    assert "= sqrt(-0.5) = nan." in page
    assert "rounding" not in page.partition("Checked")[0]


@pytest.mark.parametrize("padded", [True, False])
def test_labels_that_do_not_fit_in_their_frames_are_told_where_torch_has_no_loss_for_them(padded: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    frames, lengths = torch.randint(2, 7, (24,), generator=draw), torch.randint(0, 6, (24,), generator=draw)
    lengths[0] = 5
    rows = torch.randint(1, 3, (24, 5), generator=draw)
    targets = rows if padded else torch.cat([row[:count] for row, count in zip(rows, lengths, strict=True)])
    x = torch.randn(6, 24, 3, generator=draw, dtype=torch.float64)
    losses = F.ctc_loss(x.log_softmax(2), targets, frames, lengths, reduction="none")
    given = {"targets": targets, "input_lengths": frames.tolist(), "target_lengths": lengths}
    told = [_too_short(SimpleNamespace(arguments=given), (row,)) for row in range(24)]
    assert [found is not None for found in told] == losses.isinf().tolist()
    assert 3 < losses.isinf().sum() < 21
    said = page(lambda z: F.ctc_loss(z.log_softmax(2), targets, frames, lengths), x)
    assert "frames, one each and one more" in said
