"""Every element is seen, or said to be unseen: errors in one element of many sizes, one at a time."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import gradexplain as gx
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import trace
from gradexplain.verification.oracles.chain_rule import coincides
from gradexplain.verification.oracles.elements import coarsest, joined, output_parts, seen
from gradexplain.verification.oracles.measures import scales
from gradexplain.verification.verdicts import Report


def at(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def spoiled(function: Callable[[Tensor], Tensor], change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns a function whose gradient by x is changed, by a custom Function that is right but for that."""

    class Spoiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return change(g)

    return lambda x: function(Spoiled.apply(x))  # type: ignore[no-untyped-call]


def differences(report: Report, name: str = "x") -> Any:
    (found,) = [c for c in report.checks if (c.oracle, c.input) == ("finite differences", name)]
    return found


WIDE = (1e-6, -3e-4, 0.7, 20.0, -4e3)
# Right functions in which each element is seen: in its own output, or where its effect is no less than the last digits
# of the others'.
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...]]] = {
    "squares": (lambda x: (x**2).sum(), (1e-2, -0.3, 0.7, 2.0, -40.0)),
    "one by one": (lambda x: x * x.abs(), WIDE),
    "a product": (lambda x: x.prod(), WIDE),
    "logarithms": (lambda x: x.abs().log().sum(), WIDE),
    "outputs of unlike size": (lambda x: x * at(1e-8, 1e-3, 1.0, 1e4, 1e9).to(x), (0.3, -1.2, 0.7, 2.0, -0.4)),
    "inputs and effects of unlike size": (lambda x: (x / x.detach().new_tensor(WIDE)).sin().sum(), WIDE),
}
DTYPES = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_ones_agree_in_every_element(name: str, dtype: torch.dtype) -> None:
    function, x = FUNCTIONS[name]
    report = gx.verify(function, {"x": at(*x, dtype=dtype)})
    assert report.verdict == "agrees", (report.reason, report.checks)
    assert not bool(report.unseen("x").any())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("element", range(5))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_error_of_a_thousandth_in_any_one_element_is_found_there(
    name: str, element: int, dtype: torch.dtype
) -> None:
    function, x = FUNCTIONS[name]
    factor = torch.ones(5)
    factor[element] = 1.001
    report = gx.verify(spoiled(function, lambda g: g * factor.to(g)), {"x": at(*x, dtype=dtype)})
    assert report.verdict == "differs"
    found = differences(report)
    assert (found.verdict, found.place) == ("differs", (element,))


def test_an_element_lost_beside_another_is_said_to_be_unseen() -> None:
    """e⁴⁰ is 2e17: in float64 the sum with e⁻¹ does not move."""
    function, x = lambda x: x.exp().sum(), {"x": at(40.0, -1.0)}
    one = gx.verify(spoiled(function, lambda g: g * at(1.0, 3.0)), x)
    assert differences(one).verdict != "agrees" or differences(one).data["unseen"] == 1
    factor = gx.verify(spoiled(function, lambda g: g * at(1.001, 1.0)), x, allow_unseen=True)
    assert factor.verdict == "differs"


@pytest.mark.parametrize(("operator", "most"), [(torch.exp, 80), (torch.sin, 160)])
def test_ten_thousand_elements_are_seen_in_few_runs(operator: Callable[[Tensor], Tensor], most: int) -> None:
    """Those of e^x are of about one size; those of sin x are small beside the others where cos x is nearly 0."""
    runs = 0

    def function(x: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        return operator(x).sum()

    x = torch.linspace(0.1, 2, 10_000, dtype=torch.float64)
    assert gx.verify(function, {"x": x}).verdict == "agrees"
    assert runs <= most


def network(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
    return ((x @ a + b).relu() @ c + d).relu() @ e


def test_a_small_error_in_one_of_many_inputs_is_found_between_the_kinks_of_a_network() -> None:
    """Each of 8192 kinks lies near: usual steps cross so many that they cannot tell an error of a thousandth."""
    torch.manual_seed(0)
    n = 64
    x, a, c = torch.randn(n, n), torch.randn(n, n) / 8, torch.randn(n, n) / 8
    inputs = {"x": x, "a": a, "b": torch.randn(n) / 8, "c": c, "d": torch.randn(n) / 8, "e": torch.randn(n) / 8}

    def mean(change: float) -> Callable[..., Tensor]:
        return lambda **given: spoiled(
            lambda w: network(**{**given, "a": w}).square().mean(), lambda g: g * (1 + change)
        )(given["a"])

    assert differences(gx.verify(mean(1e-5), inputs), "a").verdict == "differs"
    right = gx.verify(mean(0.0), inputs)
    assert right.verdict == "agrees"
    assert {differences(right, name).verdict for name in inputs} <= {"agrees", "cannot say"}
    assert all(differences(right, name).bound < 1e-6 for name in inputs)


# fmt: off
ZEROS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, ...], tuple[int, ...]]] = {
    # functions with gradients that are exactly 0, and where
    "cut off":          (lambda x: x.relu().sum(),                     (-1.0, 2.0, -3.0), (0, 2)),
    "a square at 0":    (lambda x: (x**2).sum(),                       (0.0, 2.0, 0.0),   (0, 2)),
    "a cosine at 0":    (lambda x: x.cos().prod(),                     (0.0, 2.0, 0.3),   (0,)),
    "not used":         (lambda x: x[1:2].exp(),                       (1.0, 2.0, 3.0),   (0, 2)),
    "a cube at 0":      (lambda x: (x**3).sum(),                       (0.0, 2.0, -1.0),  (0,)),
}
# fmt: on


@pytest.mark.parametrize("name", ZEROS)
def test_a_right_gradient_of_exactly_0_is_seen(name: str) -> None:
    function, x, _ = ZEROS[name]
    report = gx.verify(function, {"x": at(*x)})
    assert report.verdict == "agrees", (report.reason, report.checks)


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("name", ZEROS)
def test_a_gradient_that_should_be_0_and_is_not_is_found(name: str, size: float) -> None:
    function, x, places = ZEROS[name]
    for place in places:
        wrong = torch.zeros(3, dtype=torch.float64)
        wrong[place] = size
        report = gx.verify(spoiled(function, lambda g, wrong=wrong: g + wrong), {"x": at(*x)})
        assert differences(report).verdict == "differs"
        assert differences(report).place == (place,)


@pytest.mark.parametrize("element", range(4))
@pytest.mark.parametrize("large", [1.0, 1e3])
def test_a_gradient_of_0_that_should_not_be_is_found(element: int, large: float) -> None:
    kept = torch.ones(4, dtype=torch.float64)
    kept[element] = 0
    weight = at(large, 1.0, 1e-2, 1e-3)
    report = gx.verify(spoiled(lambda x: (weight * x).sin().sum(), lambda g: g * kept), {"x": at(0.3, -1.0, 2.0, 0.7)})
    assert (report.verdict, differences(report).place) == ("differs", (element,))


def silent(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Returns x₀ + f(x₁) as a custom Function that sends x₁ nothing."""

    class Silent(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x[0] + function(x[1])

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return torch.stack([g, torch.zeros_like(g)])

    return lambda x: Silent.apply(x)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("cut", [1e-6, 1e-4])
def test_a_slope_lost_in_the_last_digits_of_the_output_is_not_taken_for_0(cut: float) -> None:
    # The squares of the others make 1e6: moved by its own size, a small x moves nothing of the sum, whatever its slope.
    x = at(1e3, 1.0, 1e-3, 1e-5 if cut > 1e-5 else 1e-7, -1e-9)
    squares = spoiled(lambda x: (x**2).sum(), lambda g: torch.where(g.abs() < 2 * cut, 0.0, g))
    report = gx.verify(squares, {"x": x})
    assert report.verdict != "agrees"
    assert [bool(b) for b in differences(report).bounds <= 1e-4] == [True, True, True, False, False]


def test_a_small_input_without_a_slope_is_seen_where_it_moves_nothing_by_1_as_well() -> None:
    def both(used: float) -> Callable[[Tensor, Tensor], Tensor]:
        class Sum(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor, small: Tensor) -> Tensor:
                ctx.save_for_backward(x)
                return (x**2).sum() + used * (small**2).sum()

            @staticmethod
            def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
                return g * 2 * ctx.saved_tensors[0], torch.zeros(2, dtype=g.dtype)

        return Sum.apply  # type: ignore[no-any-return]

    inputs = {"x": at(1e3, 2e3), "small": at(1e-7, -2e-7)}
    assert gx.verify(both(0.0), inputs).verdict == "agrees"
    report = gx.verify(both(1.0), inputs)
    assert report.verdict != "agrees"
    assert not bool((differences(report, "small").bounds <= 1e-4).any())


# fmt: off
# Of x at 1: still for an eighth of it and more, and not for all of it. The slope is 0 …
FLAT: dict[str, Callable[[Tensor], Tensor]] = {
    "a bend":           lambda x: (x - 1.3).relu(),
    "on both sides":    lambda x: 5 * (x - 1.9).relu() - (0.7 - x).relu(),
    "a parabola":       lambda x: (x - 1.3).relu() ** 2,
    "a root":           lambda x: (x - 1.3).relu().sqrt(),
    "a cube and a bit": lambda x: (x - 1.3).relu() ** 3.7,
    "a step":           lambda x: (x / 1.7).floor(),
}
# … or small, and not 0: beside x₀ it is in no digit.
SMALL: dict[str, Callable[[Tensor], Tensor]] = {
    "a power":          lambda x: 1e-20 * x**40,
    "a high power":     lambda x: 1e-130 * x**900,
    "an exponential":   lambda x: 1e-20 * (60 * (x - 1)).exp(),
    "a steep one":      lambda x: 1e-160 * (705 * (x - 1)).exp(),
    "a sigmoid":        lambda x: (90 * (x - 1.5)).sigmoid(),
    "a bell":           lambda x: (-((x - 2) * 15) ** 2).exp(),
    "digits lost":      lambda x: (x + 2.0**53) - 2.0**53 - 1 + 0 * x,
}
# fmt: on


@pytest.mark.parametrize("name", FLAT)
def test_a_slope_of_0_is_seen_before_a_bend_that_its_own_size_leaps_over(name: str) -> None:
    report = gx.verify(silent(FLAT[name]), {"x": at(0.7, 1.0)})
    assert report.verdict == "agrees", (report.reason, report.checks)


@pytest.mark.parametrize("name", SMALL)
def test_a_slope_that_is_small_and_grows_is_not_taken_for_0(name: str) -> None:
    report = gx.verify(silent(SMALL[name]), {"x": at(0.7, 1.0)})
    assert report.verdict != "agrees", report.checks


# ------------------------------------------------------------------------------------------------- one by one


def test_elements_whose_effects_span_many_decades_are_seen_one_after_another() -> None:
    """Σ cᵢ (xᵢ − aᵢ) is 0 at a, so that nothing hides an effect of 1e-88 but those beside it."""
    c, a = 10.0 ** (-8 * torch.arange(12, dtype=torch.float64)), torch.linspace(1, 2, 12, dtype=torch.float64)
    found = differences(gx.verify(lambda x: (c * (x - a)).sum(), {"x": a.clone()}))
    assert (found.verdict, found.data["unseen"]) == ("agrees", 0)


def test_an_element_is_moved_as_far_as_its_gradient_stays_about_the_same() -> None:
    """1e-6 tanh(1e16 x) is straight up to 1e-17 or so, and flat from there: 1e-25 moves no output, 1 leaps over all."""
    found = differences(gx.verify(lambda x: 1e-6 * (x[0] / 1e-16).tanh() + x[1], {"x": at(1e-25, 1.0)}))
    assert (found.verdict, found.data["unseen"]) == ("agrees", 0)


def test_a_natural_step_is_an_elements_own_size_and_for_a_zero_that_of_its_tensor_up_to_1() -> None:
    assert scales(at(3e-5, -40.0)).tolist() == [3e-5, 40]
    assert scales(at(0.0, 0.0)).tolist() == [1, 1]
    assert scales(at(0.0, 0.3, -0.4))[0] == pytest.approx(0.125**0.5)
    assert scales(at(0.0, 30.0)).tolist() == [1, 30]
    assert scales(at(math.inf, math.nan, 2.0)).tolist() == [0, 0, 2]


def test_an_error_in_one_input_is_none_of_another() -> None:
    wrong = spoiled(torch.sin, lambda g: 2 * g)
    given = {name: torch.linspace(0.2, 1.3, 20, dtype=torch.float64) for name in ("x", "y")}
    report = gx.verify(lambda x, y: wrong(x).sum() + y.cos().sum(), given)
    assert (differences(report, "x").verdict, differences(report, "y").verdict) == ("differs", "agrees")


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("slopes", [(1, 1), (1, -1), (-2, 1), (-2, -1)])
def test_kinks_of_single_outputs_leave_room_for_what_torch_takes_and_for_no_more(
    slopes: tuple[float, float], complex_: bool
) -> None:
    """At 0 the slopes of 1 + 3x + a relu(x) are 3 and 3 + a, those of 1 + b relu(−x) are −b and 0: torch takes 3 and 0.

    In the sum weighed by v the two may change together, so that 3 v₁ is between neither side's slope.
    """
    a, b = slopes

    def function(x: Tensor) -> Tensor:
        y = torch.cat([1 + 3 * x + a * x.relu(), 1 + b * (-x).relu()])
        return torch.complex(y, y.flip(0)) if complex_ else y

    report = gx.verify(function, {"x": at(0.0)})
    assert (report.verdict, differences(report).reason) == ("agrees", "kink")
    for error in (-5.0, 5.0):
        report = gx.verify(spoiled(function, lambda g, error=error: g + error), {"x": at(0.0)})
        assert (report.verdict, differences(report).verdict) == ("differs", "differs")


def test_what_cannot_be_moved_is_said_to_be_so() -> None:
    for values in ([math.inf], [math.inf, -math.inf]):
        found = differences(gx.verify(lambda x: (1 / x).sum(), {"x": at(*values)}))
        assert (found.verdict, found.reason) == ("cannot say", "immovable")


# ------------------------------------------------------------------------------------------------------ the parts


def test_outputs_of_one_size_are_judged_together() -> None:
    parts = output_parts(at(5.0, -2e3, 0.0, 3e-7, 7e-9, 1.5e4, 40.0))
    # decades of three: 1 … 1e3, 1e3 … 1e6, 1e-9 … 1e-6; a zero is with the smallest
    assert [p.tolist() for p in parts] == [
        [False, True, False, False, False, True, False],
        [True, False, False, False, False, False, True],
        [False, False, True, True, True, False, False],
    ]
    assert [p.tolist() for p in output_parts(at(1.0, 0.0, 999.0))] == [[True, True, True]]
    assert [p.tolist() for p in output_parts(at(0.0, math.nan))] == [[True, True]]


def test_outputs_are_all_judged_and_each_once() -> None:
    values = torch.cat([10.0 ** torch.arange(-60.0, 60.0, 2, dtype=torch.float64), at(0.0, math.nan)])
    parts = output_parts(values)
    assert len(parts) == 9
    assert torch.stack(parts).sum(0).tolist() == [1] * len(values)


def test_an_element_is_seen_to_a_ten_thousandth_by_the_sharpest() -> None:
    one, other = at(1e-9, math.inf, 1e-4, math.nan), at(1e-3, 1e-5, 1.0, 1e-9)
    assert seen(one).tolist() == [True, False, True, False]
    assert seen(other, 1e-2).tolist() == [True, True, False, True]
    assert joined([one, other])[:3].tolist() == [1e-9, 1e-5, 1e-4]
    assert joined([]) is None
    assert coarsest(one) == 1e-4
    assert coarsest(other, 1e-2) == 1e-3
    assert math.isnan(coarsest(at(1.0)))
    assert coarsest(None) == coarsest(at()) == 0


# ------------------------------------------------------------------------------------- what is large for its effort


class Tilted(torch.autograd.Function):
    """Twice the matrix; its backward is 1 % off in the element that matters least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        sent = 2 * cotangent
        sent.view(-1)[sent.abs().argmin()] *= 1.01
        return sent


def _squares(x: Tensor, a: Tensor) -> Tensor:
    return ((a @ x).softmax(-1) ** 2).sum()


def _matrices(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(n, n, generator=generator) for _ in range(2)]


def test_of_what_is_huge_for_the_effort_elements_lost_in_the_type_are_told() -> None:
    """The rules' softmax rounds otherwise than torch's: in float32 they share no four digits of some elements."""
    report = gx.verify(_squares, _matrices(200), effort=0.004)
    unseen = report.unseen("x")
    assert (report.verdict, report.reason) == ("cannot say", "unseen")
    assert unseen is not None
    assert 0 < int(unseen.sum()) < 0.05 * unseen.numel()
    assert not report.operations


def test_of_what_is_large_each_operation_is_judged_in_float64() -> None:
    report = gx.verify(_squares, _matrices(200), effort=0.03)
    assert report.verdict == "agrees"
    assert [operation.verdict for operation in report.operations] == ["agrees"] * len(report.operations) != []
    assert report.worst > torch.finfo(torch.float32).eps  # the number is quoted, and not the formula


def test_a_wrong_element_of_a_large_operation_is_not_agreed_with() -> None:
    report = gx.verify(lambda x, a: _squares(Tilted.apply(x), a), _matrices(200), effort=0.03)
    assert report.verdict != "agrees"


def test_zeros_of_a_gradient_are_looked_at_in_any_layout() -> None:
    """A transposed input has no flat view; the gradient of its triangle is 0 outside of it."""
    x = torch.arange(1.0, 10.0, dtype=torch.float64).reshape(3, 3).T
    report = gx.verify(lambda x: (Straight.apply(x).tril() ** 2).sum(), [x])
    assert report.verdict == "agrees"


class Straight(torch.autograd.Function):
    """The identity, so that no rule judges."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


@pytest.mark.parametrize(("off", "coincident"), [(0.0, True), (1e-9, True), (1e-5, False), (math.nan, False)])
def test_the_rules_give_every_number_of_an_operation_or_not(off: float, coincident: bool) -> None:
    """One element of 2 x cos(x²) is off by a part of itself, the smallest of the three."""
    x = torch.tensor([1e-3, 0.7, 1.1], dtype=torch.float64)
    found = trace(computation_of(lambda x: (x**2).sin().sum(), [x]))
    right = 2 * x * (x**2).cos()
    assert coincides(replace(found, gradients={"x": right * (1 + off * torch.tensor([1.0, 0.0, 0.0]))})) == coincident


def test_the_jacobian_of_an_operator_that_draws_is_not_measured() -> None:
    """Each run of it draws other numbers, whose differences are no slope; and it would move torch's generator."""
    x, before = torch.tensor(0.25), torch.get_rng_state()
    page = gx.explain(lambda x: torch.normal(x, torch.tensor(3.0)), {"x": x}).render("text")
    assert "no rule for aten.normal" in page
    assert "measured by differences" not in page
    assert "≠" not in page
    assert torch.equal(torch.get_rng_state(), before)
