"""What is stopped: the share of the slope, at its line, and what becomes of the verdict. Shares are from calculus."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.errors import InputError
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import trace
from gradexplain.verification.oracles import stops as ends
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import generic_direction


def at(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def line_of(function: Callable[..., Any], offset: int) -> str:
    return f"test_stops.py:{function.__code__.co_firstlineno + offset}"


def by_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        weight = 2 * x
    return (x * weight).sum()


def by_item(x: Tensor) -> Tensor:
    return (x * x.sum().item()).sum()


def by_float(x: Tensor) -> Tensor:
    return (x**2).sum() / float(x[0])


def by_list(x: Tensor) -> Tensor:
    numbers = x.tolist()
    return (x * torch.tensor(numbers, dtype=x.dtype)).sum()


def by_numpy(x: Tensor) -> Tensor:
    squares = x.detach().numpy() ** 2
    return (x * torch.from_numpy(squares)).sum()


def by_leaf(x: Tensor) -> Tensor:
    leaf = nn.Parameter(x)
    return (leaf * x).sum()


def by_copy(x: Tensor) -> Tensor:
    total = torch.tensor(x.sum().item())
    return (x * total).sum()


def by_pair(x: Tensor) -> Tensor:
    with torch.no_grad():
        ordered, _ = x.sort()
    return (x * ordered).sum()


def by_mean(x: Tensor) -> Tensor:
    with torch.no_grad():
        mean = x.nanmean()  # it asks which are nan, counts the others and adds them: truth, a whole number and a number
    return (x * mean).sum()


def by_complex(x: Tensor) -> Tensor:
    with torch.no_grad():
        turned = x * (1 + 1j)
    return (x * turned).imag.sum()


def by_mask(x: Tensor) -> Tensor:
    return (x * x.detach() * (x > 1)).sum()  # truth and numbers end in one line


def by_data(x: Tensor) -> Tensor:
    y = x * 1
    y.data.mul_(y.data)
    return y.sum()


def by_mark(x: Tensor) -> Tensor:
    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            same, doubled = x + 0, 2 * x
            ctx.mark_non_differentiable(doubled)
            return same, doubled

        @staticmethod
        def backward(ctx: Any, of_same: Tensor, of_doubled: Tensor) -> Tensor:
            return of_same

    same, doubled = Marked.apply(x)  # type: ignore[no-untyped-call]
    return (same * doubled).sum()  # type: ignore[no-any-return]


# Each function with the line where its slope ends, and the share that ends there: of the slope of F, as it was written;
# G is what torch differentiates. At x = (2, 3), moved in each element by its own size:
#   x · 2x          F' = 4x, G' = 2x                              share 1/2
#   x · Σx          F' = 2 Σx, G' = Σx                            share 1/2
#   Σx² / x₀        F' = (1 − x₁²/x₀², 2x₁/x₀), G' = 2x/x₀        left out 1 + x₁²/x₀² = 13/4, times 2; F' x = −5/2, 9
#   x · x           as the first
#   x · x²          F' = 3x², G' = x²                             share 2/3
#   x · sort(x) and x · mean(x): as the first and the second
#   x · Im (1 + i) x, x · x where x > 1, and x · 2x out of one Function: as the first
#   y ← y²          F' = 2x, G' = 1                               F' x = 8, 18; left out (2x − 1) x = 6, 15
STOPS = [
    (by_no_grad, 2, 1 / 2),
    (by_item, 1, 1 / 2),
    (by_float, 1, (13 / 4 * 2) / ((5 / 2) ** 2 + 9**2) ** 0.5),
    (by_list, 1, 1 / 2),
    (by_numpy, 1, 2 / 3),
    (by_leaf, 2, 1 / 2),
    (by_copy, 1, 1 / 2),
    (by_pair, 2, 1 / 2),
    (by_mean, 2, 1 / 2),
    (by_complex, 2, 1 / 2),
    (by_mask, 1, 1 / 2),
    (by_mark, 4, 1 / 2),
    (by_data, 2, (6**2 + 15**2) ** 0.5 / (8**2 + 18**2) ** 0.5),
]


def verified(function: Callable[..., Any], x: Tensor, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's own: a tensor that requires grad becomes a number
        return gx.verify(function, {"x": x}, **options)


@pytest.mark.parametrize(("function", "offset", "share"), STOPS)
def test_a_stop_is_named_with_its_line_and_its_share(function: Any, offset: int, share: float) -> None:
    report = verified(function, at(2.0, 3.0))
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    (stop,) = report.stops
    assert str(stop.source).endswith(line_of(function, offset))
    assert stop.share == pytest.approx(share, rel=1e-5)
    assert f"{100 * share:.2g} % of the slope of x is stopped" in str(report).replace("\n  ", " ")


@pytest.mark.parametrize(("function", "offset", "share"), STOPS)
def test_a_declared_stop_agrees_and_keeps_its_headline(function: Any, offset: int, share: float) -> None:
    place = line_of(function, offset)
    for stops in ("intended", place, ["intended"], [place]):
        report = verified(function, at(2.0, 3.0), stops=stops)
        assert (report.verdict, report.reason) == ("agrees", None)
        assert "is stopped by" in str(report)


def by_short_numbers(x: Tensor) -> Tensor:
    short = torch.from_numpy(x.detach().numpy().astype("float32")).double()
    return (x * short).sum()


def test_a_stop_that_is_quantised_is_told_to_its_digits() -> None:
    report = verified(by_short_numbers, at(0.3, 0.7))
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    (stop,) = report.stops
    assert str(stop.source).endswith(line_of(by_short_numbers, 1))
    assert stop.share == pytest.approx(1 / 2, rel=1e-3)


def test_a_declared_place_where_nothing_is_stopped_is_an_error() -> None:
    for function in (by_item, torch.exp):
        with pytest.raises(InputError, match=r"Nothing is stopped at net\.py:7"):
            verified(function, at(2.0, 3.0), stops="net.py:7")


def test_another_stop_than_the_declared_one_is_not_let_pass() -> None:
    def two(x: Tensor) -> Tensor:
        kept = x.detach()
        return (x * kept).sum() + (x * x.sum().item()).sum()

    report = verified(two, at(2.0, 3.0), stops=line_of(two, 1))
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    assert len(report.stops) == 2
    assert [str(s.source).endswith(line_of(two, 2)) for s in report.undeclared()] == [True]


def test_shares_of_several_lines_add_up_to_what_is_left_out() -> None:
    def three(x: Tensor) -> Tensor:
        one = x * x.detach()
        two = one * x.prod().item()
        with torch.no_grad():
            three = x.sum()
        return (two * three).sum()

    # L = Σx² · p · s with p = Πx, s = Σx. Times xᵢ: through detach xᵢ² p s, through item Σx² p s, through no_grad
    # Σx² p xᵢ; what torch keeps is xᵢ² p s.
    x = at(2.0, 3.0)
    p, s, q = 6.0, 5.0, 13.0
    paths = [
        [x[i].item() * p * s * x[i].item() for i in range(2)],
        [q * s * p for _ in range(2)],
        [q * p * x[i].item() for i in range(2)],
    ]
    whole = [2 * paths[0][i] + paths[1][i] + paths[2][i] for i in range(2)]
    size = (whole[0] ** 2 + whole[1] ** 2) ** 0.5
    expected = sorted((a**2 + b**2) ** 0.5 / size for a, b in paths)
    found = sorted(stop.share for stop in verified(three, x).stops)
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_several_lines_stop_is_no_part_of_the_slope_where_it_is_more_than_the_whole() -> None:
    def cancels(x: Tensor) -> Tensor:
        more = 3 * x.detach()
        less = (x * x).detach()
        return (x * more - x * less).sum()

    # F' x = 6x² − 3x³; the first line stops 3x² of it and the second −2x³. At 1: 3, 3 and −2.
    said = str(verified(cancels, at(1.0)))
    assert "%" not in said
    sizes = re.findall(r"stops is ([\d.]+) times the size of the slope of x", said.replace("\n  ", " "))
    assert sizes == ["1", "0.67"]


@pytest.mark.parametrize("size", [2, 30])
def test_where_one_slope_is_0_both_are_told_by_one_element(size: int) -> None:
    """round(x), with the slope of 2x put in its place: F' = 0 and G' = 2, times what the output is weighed by."""
    x = torch.linspace(0.1, 0.4, size, dtype=torch.float64)
    report = verified(lambda x: (2 * x + (x.round() - 2 * x).detach()).sum(), x)
    (stop,) = report.stops
    assert stop.flat.whole == 0
    assert stop.flat.left == pytest.approx(2 * float(report.subject.trace.cotangent), rel=1e-6)
    explanation = gx.explain(lambda x: (x.detach() * 3).sum() + 0 * x.sum(), {"x": x})
    assert [(s.flat.whole, s.flat.left) for s in explanation.report.stops] == [(pytest.approx(3, rel=1e-6), 0)]


@pytest.mark.parametrize(("part", "is_flat"), [(3e-9, False), (3e-10, True)])
def test_a_slope_of_less_than_a_billionth_of_the_other_is_0(part: float, is_flat: bool) -> None:
    """2 p x, with the slope of 2x put in its place: F' is the part p of G'."""
    (stop,) = verified(lambda x: (2 * x + (2 * part * x - 2 * x).detach()).sum(), at(0.3)).stops
    assert (stop.flat is not None) == is_flat
    assert stop.flat is None or stop.flat.whole == 0


@pytest.mark.parametrize(("share", "lines"), [(3e-9, 2), (1e-10, 1)])
def test_a_line_with_less_than_a_billionth_is_not_told_beside_another(share: float, lines: int) -> None:
    """x · x̄ + 2 s x · x̄ has the slope (2 + 4 s) x, and about the part s of it ends in the second line."""

    def two(x: Tensor) -> Tensor:
        kept = x.detach()
        slight = 2 * share * x.detach()
        return (x * kept + x * slight).sum()

    assert len(verified(two, at(2.0, 3.0)).stops) == lines


def test_three_powers_of_the_step_are_removed_from_a_slope() -> None:
    """Along u, (1 + s u)⁷ has the slope 7 u, and differences 7 u + 35 u³ h² + 21 u⁵ h⁴ + u⁷ h⁶."""
    computation = computation_of(torch.exp, [at(1.0)])
    asked = Question(trace(computation), computation)
    (name,) = asked.names
    measured = ends._Measured(asked.replay, asked.recorded, torch.exp, name)
    (slope,) = measured.slopes(lambda moved: moved**7 / asked.trace.cotangent, [at(1e4)])
    assert slope == pytest.approx(7e4, rel=1e-9)


def test_a_stop_of_an_element_that_is_small_beside_others_is_told_at_that_element() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.cat([x[1:] * 1e12, x[:1] * x[:1].detach()])

    report = verified(function, at(0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0))
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    (stop,) = report.stops
    assert stop.share == pytest.approx(0.5, rel=1e-6)


def test_a_stop_that_one_direction_does_not_see_is_seen_by_another() -> None:
    """x · w · detach(x) has the stopped slope Σ w x u along u: with w chosen so that it is 0 along the first."""
    x = at(0.3, -1.0, 2.0, 0.7, 1.1, -0.4)
    computation = computation_of(torch.exp, [x])
    recorded = trace(computation)
    (name,) = recorded.inputs
    u = generic_direction(recorded, [name])[name]
    w = torch.zeros_like(x)
    w[0], w[1] = 1 / (x[0] * u[0]), -1 / (x[1] * u[1])
    report = verified(lambda x: (w * x * x.detach()).sum() + x.exp().sum(), x)
    assert (report.verdict, report.reason) == ("cannot say", "stopped")


@pytest.mark.parametrize("share", [1e-3, 3e-6, 3e-8, 3e-10, 3e-12])
def test_a_stop_is_told_from_a_billionth_of_the_slope_and_beneath_it_is_a_note(share: float) -> None:
    """x² + 2 s x · detach(x) has the slope 2x + 4 s x, of which torch keeps 2x + 2 s x: the share is s / (1 + 2 s)."""
    report = verified(lambda x: (x**2 + 2 * share * x * x.detach()).sum(), at(2.0, 3.0))
    if share > 1e-9:
        assert (report.verdict, report.reason) == ("cannot say", "stopped")
        assert [s.share for s in report.stops] == pytest.approx([share / (1 + 2 * share)], rel=1e-3)
    else:
        assert (report.verdict, report.stops) == ("agrees", ())
        assert {finding.code for finding in report.findings} == {"cut-detach"}


@pytest.mark.parametrize("error", [3e-7, 1e-5])
def test_a_stop_that_changes_no_slope_excuses_no_error_of_its_size(error: float) -> None:
    class Close(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g * (1 + error)

    def function(x: Tensor) -> Tensor:
        shares = (x - x.max().detach()).softmax(0)
        return (shares * at(1.0, 3.0)).sum() + Close.apply(x).exp().sum()  # type: ignore[no-any-return, no-untyped-call]

    report = verified(function, at(2.0, 3.0))
    assert report.verdict == "differs"


def test_a_stop_through_a_copy_of_few_digits_is_measured_by_longer_steps() -> None:
    """Seven decimals round by 5e-8: of a slope by steps of 2⁻¹⁴ that is a thousandth, by steps of 2⁻⁸ some 1e-5."""

    def short(x: Tensor) -> Tensor:
        numbers = x.detach().numpy().round(7)
        return (x * torch.from_numpy(numbers)).sum()

    report = verified(short, at(2.1, 3.3))
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    (found,) = report.stops
    assert found.share == pytest.approx(1 / 2, rel=1e-3)
    assert str(found.source).endswith(line_of(short, 1))


def after_many_lines(x: Tensor) -> Tensor:
    assert bool((x > -1).all())
    assert bool((x > -2).all())
    assert bool((x > -3).all())
    assert bool((x > -4).all())
    assert bool((x > -5).all())
    assert bool((x > -6).all())
    assert bool((x > -7).all())
    h = x - 0 * x.detach()
    h = h - 0 * x.detach()
    h = h - 0 * x.detach()
    h = h - 0 * x.detach()
    h = h - 0 * x.detach()
    h = h - 0 * x.detach()
    return (h + 1e-6 * h * x.detach()).sum()


def test_a_small_stop_is_found_behind_many_lines_that_stop_nothing() -> None:
    # (x + εx²)′ = 1 + 2εx, of which εx goes through the second factor.
    report = gx.verify(after_many_lines, [at(0.5)])
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    (stop,) = report.stops
    assert str(stop.source).endswith(line_of(after_many_lines, 14))
    assert stop.share == pytest.approx(0.5e-6 / (1 + 1e-6), rel=1e-3)


def test_a_stop_that_changes_no_slope_is_a_note() -> None:
    def stable(x: Tensor) -> Tensor:
        shifted = (x - x.max().detach()).exp()
        return shifted / shifted.sum()

    report = verified(stable, at(0.3, -1.0, 2.0))
    assert (report.verdict, report.stops) == ("agrees", ())
    assert {finding.code for finding in report.findings} == {"cut-detach"}


def test_a_straight_through_estimate_shows_both_slopes() -> None:
    def quantised(x: Tensor) -> Tensor:
        return (x + (x.round() - x).detach()).sum()

    report = verified(quantised, at(0.3, 1.2))
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    assert "the function has slope 0 by x[1] and the gradient says" in " ".join(str(report).split())


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 7 * g * ctx.saved_tensors[0]


@pytest.mark.parametrize(("function", "offset", "share"), STOPS)
def test_a_stop_excuses_no_error_beside_it(function: Any, offset: int, share: float) -> None:
    report = verified(lambda x: function(x) + Wrong.apply(x).sum(), at(2.0, 3.0))  # type: ignore[no-untyped-call]
    assert report.verdict == "differs"
    assert [operation.label for operation in report.wrong()] == ["Wrong"]


def written_by_numpy(x: Tensor) -> Tensor:
    y = 2 * x
    y.detach().numpy()[0] = 7.0
    return (y * x).sum()


def replaced(x: Tensor) -> Tensor:
    y = 2 * x
    y.data = torch.ones_like(x)
    return (y * x).sum()


@pytest.mark.parametrize("function", [written_by_numpy, replaced])
def test_memory_that_changed_out_of_sight_is_never_called_right(function: Callable[[Tensor], Tensor]) -> None:
    """As written, the slope by x₀ is 7, or 1; torch gives 7 + 2 x₀ or 1 + 2 x₀, and no replay tells what it means."""
    report = verified(function, at(1.0, 2.0))
    assert (report.verdict, report.reason) == ("cannot say", "doubtful")


def test_a_stop_of_one_input_excuses_nothing_of_another() -> None:
    report = gx.verify(lambda x, y: by_no_grad(x) + Wrong.apply(y).sum(), {"x": at(2.0, 3.0), "y": at(1.0)})  # type: ignore[no-untyped-call]
    assert report.of("x") == "cannot say"
    assert report.of("y") == "differs"


def test_a_kink_beside_a_stop_is_neither_excuse_nor_alarm() -> None:
    def both(x: Tensor) -> Tensor:
        return x.relu().sum() + (x * x.detach()).sum()

    report = verified(both, at(0.0, 2.0, -1.0))
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    (stop,) = report.stops
    assert str(stop.source).endswith(line_of(both, 1))


def test_a_path_that_nobody_saw_end_is_lost() -> None:
    def through(x: Tensor) -> Tensor:
        class Captured(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, y: Tensor) -> Tensor:
                return y * x.detach()

            @staticmethod
            def backward(ctx: Any, g: Tensor) -> Tensor:
                return g * x

        return Captured.apply(x).sum()  # type: ignore[no-untyped-call, no-any-return]

    report = verified(through, at(2.0, 3.0))
    assert report.verdict == "differs"


def test_what_a_function_marks_is_told_from_what_an_operator_of_the_same_name_makes() -> None:
    """Of xy · y², whose second factor is marked, ∂F/∂y = 3xy² and ∂G/∂y = xy²; by x nothing is stopped."""

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            ctx.save_for_backward(x, y)
            product, square = x * y, y * y
            ctx.mark_non_differentiable(square)
            return product, square

        @staticmethod
        def backward(ctx: Any, of_product: Tensor, of_square: Tensor) -> tuple[Tensor, Tensor]:
            x, y = ctx.saved_tensors
            return of_product * y, of_product * x

    parts = {"x": at(2.0, 3.0), "y": at(1.0, 5.0)}
    report = gx.verify(lambda x, y: torch.mul(*Marked.apply(x, y)).sum(), parts)  # type: ignore[no-untyped-call]
    assert (report.verdict, report.reason) == ("cannot say", "stopped")
    assert [(stop.input, stop.code) for stop in report.stops] == [("y", "y * y")]
    assert report.stops[0].share == pytest.approx(2 / 3, rel=1e-5)


def test_no_share_is_told_of_what_a_function_marks_and_goes_on_to_use() -> None:
    """Of 2x² · 2x, whose second factor is marked, F' = 12x² and G' = 8x²: moved inside, it would move both factors."""

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            ctx.save_for_backward(x)
            doubled = 2 * x
            ctx.mark_non_differentiable(doubled)
            return doubled * x, doubled

        @staticmethod
        def backward(ctx: Any, of_product: Tensor, of_doubled: Tensor) -> Tensor:
            return 4 * ctx.saved_tensors[0] * of_product

    report = verified(lambda x: torch.mul(*Marked.apply(x)).sum(), at(2.0, 3.0))  # type: ignore[no-untyped-call]
    assert (report.verdict, report.stops) == ("cannot say", ())


def test_assert_gradients_fails_at_a_stop_unless_it_is_declared() -> None:
    with pytest.raises(AssertionError, match="50 % of the slope of x is stopped by `2 \\* x`"):
        gx.assert_gradients(by_no_grad, {"x": at(2.0, 3.0)})
    assert gx.assert_gradients(by_no_grad, {"x": at(2.0, 3.0)}, stops="intended").verdict == "agrees"


def test_explain_says_the_same_in_the_same_words() -> None:
    explanation = gx.explain(by_no_grad, {"x": at(2.0, 3.0)})
    assert (explanation.verdict, explanation.reason) == ("cannot say", "stopped")
    sentence = "50 % of the slope of x is stopped by `2 * x`"
    assert sentence in str(explanation).replace("\n  ", " ")


@pytest.mark.parametrize(("factor", "size"), [(1.0, 3), (1.0, 40), (1.01, 3), (1.01, 40)])
def test_of_many_inputs_a_stop_is_told_of_those_that_it_stops_alone(factor: float, size: int) -> None:
    names = [f"x{i}" for i in range(9)]  # so many move together

    def function(**x: Tensor) -> Tensor:
        x["x5"].register_hook(lambda g: factor * g)
        return sum((t**2).sum() for t in x.values()) + (x["x0"].detach() * x["x1"]).sum()  # type: ignore[return-value]

    taken = eval(f"lambda {', '.join(names)}: f({', '.join(f'{n}={n}' for n in names)})", {"f": function})
    generator = torch.Generator().manual_seed(0)
    inputs = {
        n: torch.randn(size, generator=generator, dtype=torch.float64) for n in names
    }  # 40: more than are found singly
    report = gx.verify(taken, inputs)
    assert {name for name in names if report.of(name) == "differs"} == ({"x5"} if factor != 1 else set())
    assert {name for name in names if report.of(name) == "cannot say"} == {"x0"}
    assert {stop.input for stop in report.stops} == {"x0"}
