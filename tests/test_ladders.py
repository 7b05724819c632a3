"""Ladders of steps: what they say of functions of one number whose slope, noise, kink or jump is known."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from gradexplain.verification.oracles import ladders
from gradexplain.verification.oracles.ladders import FINE_STEPS, STEPS, Ladder, Slope


def ladder(f: Callable[[float], float], claim: float, floor: float = 1e-16, **parts: Any) -> Ladder:
    """Returns the ladder of a function of one number about 0."""
    steps = parts.get("steps", STEPS)
    right, left = [(f(h) - f(0)) / h for h in steps], [(f(0) - f(-h)) / h for h in steps]
    return Ladder(steps, right, left, [claim] * len(steps), floor, parts.get("rounding", 1e-16))


def wobble(x: float) -> float:
    """Pseudo-random numbers in [−1, 1] by position."""
    return math.sin(1e15 * x) if x else 0.0


# fmt: off
LADDERS: dict[str, tuple[Callable[[float], float], float, str, str | None]] = {
    "a sine":                (math.sin, 1.0, "agrees", None),
    "a wrong sine":          (math.sin, 1.0 + 1e-9, "differs", None),
    "a fast sine":           (lambda x: math.sin(1e4 * x) / 1e4, 1.0, "agrees", None),
    "a noisy sine":          (lambda x: math.sin(x) + 1e-10 * wobble(x), 1.0, "agrees", None),
    "a wrong noisy sine":    (lambda x: math.sin(x) + 1e-10 * wobble(x), 1.001, "differs", None),
    "quantised":             (lambda x: round(x * 2**20) / 2**20, 1.0, "cannot say", "noise"),
    "a kink":                (lambda x: max(x, 0.0), 0.5, "cannot say", "kink"),
    "outside a kink":        (lambda x: max(x, 0.0), 1.5, "differs", "slope"),
    "a kink nearby":         (lambda x: max(x + 1e-6, 0.0), 1.0, "agrees", None),
    "wrong near a kink":     (lambda x: max(x + 1e-6, 0.0), 0.9, "differs", None),
    "a jump":                (lambda x: float(x >= 0), 0.0, "cannot say", "step"),
    "a lonely point":        (lambda x: float(x == 0), 0.0, "cannot say", "step"),
    "a root":                (lambda x: math.copysign(abs(x) ** 0.5, x), 0.0, "cannot say", "singular"),
    "an edge":               (lambda x: x**1.5 if x >= 0 else math.nan, 0.0, "cannot say", "edge"),
    "a constant":            (lambda x: 3.0, 0.0, "agrees", None),
    "not a constant":        (lambda x: 3.0, 0.1, "differs", None),
}
# fmt: on


@pytest.mark.parametrize("name", LADDERS)
def test_a_ladder_is_judged(name: str) -> None:
    f, claim, verdict, why = LADDERS[name]
    found = ladders.judge(ladder(f, claim))
    assert (found.verdict, found.reason) == (verdict, why)


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-9, 1e-6])
@pytest.mark.parametrize("speed", [0.1, 1.0, 30.0, 1e3])
def test_the_claimed_bound_covers_the_true_error(noise: float, speed: float) -> None:
    """The derivative of sin(kx + 1)/k at 0 is cos 1, whatever the noise."""

    def f(x: float) -> float:
        return math.sin(speed * x + 1) / speed + noise * wobble(x)

    found = ladders.judge(ladder(f, 0.0, 1e-16 / min(speed, 1.0)))
    assert abs(found.lacking - math.cos(1)) <= 4 * found.bound


def test_a_rule_that_stays_behind_the_noise_chooses_a_fine_step_near_a_kink() -> None:
    far = ladders.judge(ladder(lambda x: abs(x + 1), 1.0))
    near = ladders.judge(ladder(lambda x: abs(x + 1e-5), 1.0))
    assert far.bound < near.bound < 1e-8


# ------------------------------------------------------------------------------------------------------ at the edges

# fmt: off
EDGES: dict[str, tuple[Callable[[float], float], float, str, str | None]] = {
    # d/dx √(x + 1/100) at 0 is 5; the two coarsest steps leave the domain.
    "defined nearby":        (lambda x: math.sqrt(x + 0.01) if x > -0.01 else math.nan, 5.0, "agrees", None),
    "wrong, defined nearby": (lambda x: math.sqrt(x + 0.01) if x > -0.01 else math.nan, 5.01, "differs", None),
    "defined far away":      (lambda x: x if abs(x) > 1e-9 or x == 0 else math.nan, 1.0, "cannot say", "edge"),
    # A jump on top of a slope: not flat on either side.
    "a jump and a slope":    (lambda x: x + (x >= 0), 1.0, "cannot say", "jump"),
    "flat on one side":      (lambda x: x + 1 if x >= 0 else 0.0, 0.0, "cannot say", "jump"),
    "flat on the other":     (lambda x: 1.0 if x >= 0 else x, 0.0, "cannot say", "jump"),
    # A kink at less than a step's distance: what it shows from afar, finer steps resolve.
    "beside a kink":         (lambda x: max(x + 6.5e-8, 0.0), 1.0, "agrees", None),
    "wrong beside a kink":   (lambda x: max(x + 6.5e-8, 0.0), 0.9, "differs", None),
    # Flat for a while on both sides, whatever comes farther out; and flat to eight times the noise of 1e-16.
    "a step, then a slope":  (lambda x: (x >= 0) + max(abs(x) - 1e-3, 0.0), 0.0, "cannot say", "step"),
    "a step and another":    (lambda x: (x >= 0) + 2e-15 * (x > 1e-9), 0.0, "cannot say", "jump"),
    # |x|ᵖ: slopes grow by 8^(1 − p) from step to step.
    "a steep root":          (lambda x: math.copysign(abs(x) ** 0.1, x), 0.0, "cannot say", "singular"),
    "a gentle root":         (lambda x: math.copysign(abs(x) ** 0.8, x), 0.0, "cannot say", "singular"),
    "a root on one side":    (lambda x: math.sqrt(x) if x >= 0 else math.nan, 0.0, "cannot say", "singular"),
    # A kink between −1 and 2: what is between says nothing, what is outside is wrong, to a hundredth of their distance.
    "at the right slope":    (lambda x: max(2 * x, -x), 2.0, "cannot say", "kink"),
    "at the left slope":     (lambda x: max(2 * x, -x), -1.0, "cannot say", "kink"),
    "above a kink":          (lambda x: max(2 * x, -x), 2.04, "differs", "slope"),
    "below a kink":          (lambda x: max(2 * x, -x), -1.04, "differs", "slope"),
    # 1e-14 |x| bends less than eight times the noise of 4e-16 at all steps but one: no kink, the slope is 1.
    "a kink beneath noise":  (lambda x: x + 1e-14 * abs(x), 1.0, "agrees", None),
    "a bend":                (lambda x: x + x * x, 1.0, "agrees", None),
    "a wrong bend":          (lambda x: x + x * x, 1.0 + 1e-8, "differs", None),
}
# fmt: on


@pytest.mark.parametrize("name", EDGES)
def test_what_happens_at_the_point_itself_is_recognised(name: str) -> None:
    f, claim, verdict, why = EDGES[name]
    found = ladders.judge(ladder(f, claim))
    assert (found.verdict, found.reason) == (verdict, why)


def test_a_kink_is_told_with_its_slopes_and_with_how_far_a_claim_is_from_the_middle() -> None:
    found = ladders.judge(ladder(lambda x: max(2 * x, -x), 1.0))
    assert (found.left, found.right, found.claim, found.lacking, found.bound) == (-1, 2, 1, -0.5, 3)
    outside = ladders.judge(ladder(lambda x: max(2 * x, -x), 4.0))
    assert (outside.left, outside.right, outside.claim, outside.lacking) == (-1, 2, 4, -3.5)
    assert outside.bound == pytest.approx(3 / 100 + 2e-3)


@pytest.mark.parametrize(("floor", "kink"), [(1e-8, False), (3e-8, True)])
def test_a_kink_that_a_finer_step_does_not_show_is_none_unless_noise_may_hide_it(floor: float, kink: bool) -> None:
    """Flat to 5e-7: of the slopes ∓1 farther out, a step of 2⁻¹⁸ shows a bend of 1.74, and one of 2⁻²¹ none.

    Noise of 4 · floor makes a bend of eight times that over the step: 0.7 and 2.
    """
    found = ladders.judge(ladder(lambda x: max(abs(x) - 5e-7, 0.0), 0.0, floor=floor))
    assert (found.reason == "kink") == kink


def test_the_slopes_of_a_kink_are_those_of_steps_above_the_noise() -> None:
    found = ladders.judge(ladder(lambda x: max(2 * x, -x) + 1e-10 * wobble(x), 1.0))
    assert found.reason == "kink"
    assert (found.left, found.right) == (pytest.approx(-1, abs=0.01), pytest.approx(2, abs=0.01))


def test_a_slope_is_told_with_its_sides_and_its_claim() -> None:
    found = ladders.judge(ladder(lambda x: 3 * x, 2.0))
    assert (found.left, found.right, found.claim, found.lacking) == (3, 3, 2, 1)


def test_an_edge_is_told_with_the_slope_of_the_side_that_there_is() -> None:
    found = ladders.judge(ladder(lambda x: x + x * x if x >= 0 else math.nan, 2.0))
    assert (found.reason, found.right, found.claim) == ("edge", pytest.approx(1, abs=1e-9), 2)
    assert math.isnan(found.left)
    found = ladders.judge(ladder(lambda x: math.nan if x > 0 else x + x * x, 2.0))
    assert (found.left, found.bound) == (pytest.approx(1, abs=1e-9), math.inf)


def test_a_jump_is_told_with_its_height() -> None:
    found = ladders.judge(ladder(lambda x: 5.0 * (x >= 0), 0.0))
    assert found.lacking == found.bound == 5


@pytest.mark.parametrize(("rounding", "verdict"), [(1e-6, "agrees"), (1e-12, "differs")])
def test_what_rounding_makes_of_the_claim_is_allowed_and_stated(rounding: float, verdict: str) -> None:
    found = ladders.judge(ladder(math.sin, 1 + 1e-7, rounding=rounding))
    assert found.verdict == verdict
    assert found.bound >= rounding


def test_what_agrees_is_within_the_bound_that_is_told() -> None:
    """Claims that are wrong by more and more, until one is seen: none passes beyond its bound."""
    last = None
    for error in (1e-13 * 1.2**k for k in range(80)):
        found = ladders.judge(ladder(lambda x: math.sin(x) + 1e-12 * wobble(x), 1.0 + error))
        if found.verdict == "agrees":
            assert abs(found.lacking) <= found.bound
            last = error
    assert last is not None
    assert ladders.judge(ladder(lambda x: math.sin(x) + 1e-12 * wobble(x), 1.0 + 1.5 * last)).verdict == "differs"


def test_noise_that_is_known_already_is_counted_on_a_short_ladder() -> None:
    """f = x, and 1e-6 more at positive x: noise of 1e-6 may be behind what its slopes are more than 1."""
    short = ladder(lambda x: x + 1e-6 * (x > 0), 1.0, steps=STEPS[:3])
    assert ladders.judge(short, 1e-6).verdict == "agrees"
    assert ladders.judge(short, 1e-6).noise == 1e-6
    assert ladders.judge(short).noise == short.floor


def test_what_orders_of_nearly_the_same_bound_make_of_it_is_part_of_the_bound() -> None:
    """By hand for residuals 0, x, 1 on three steps without noise.

    Order 0 says 1, to |1 − x|. Order 1 says (64 − x)/63, to |(64 − x) − 64 x| / 63: the two are (1 − x)/63 apart. Order
    2 has no neighbour to be held against, and counts for nothing.
    """
    for x, best in ((0.9, (64 - 65 * 0.9) / 63), (1.1, 0.1)):
        found = ladders.judge(Ladder(STEPS[:3], [0.0, x, 1.0], [0.0, x, 1.0], [0.0] * 3, 0.0, 0.25))
        assert found.bound == pytest.approx(best + 0.1 / 63 + 0.25)
        assert found.lacking == pytest.approx(1.0 if x > 1 else (64 - x) / 63)
    # Order 0 counts while it is at most 32 times as coarse as order 1: 10 times it is at 0.986, 38 times at 0.985.
    for x, apart in ((0.986, 0.014 / 63), (0.985, 0.0)):
        found = ladders.judge(Ladder(STEPS[:3], [0.0, x, 1.0], [0.0, x, 1.0], [0.0] * 3, 0.0, 0.0))
        assert found.bound == pytest.approx((65 * x - 64) / 63 + apart)


@pytest.mark.parametrize(("finest", "verdict"), [(0.493, "cannot say"), (0.507, "differs")])
def test_what_a_finer_step_that_could_show_it_does_not_show_is_no_evidence(finest: float, verdict: str) -> None:
    """1, 1 and then about half, where noise is a quarter: all meet, but less than half is no longer the same."""
    row = [1.0, 1.0, finest]
    assert ladders.judge(Ladder(STEPS[:3], row, row, [0.0] * 3, 0.0, 0.0), 0.2499 * STEPS[2]).verdict == verdict


# -------------------------------------------------------------------------------------------------------- the parts

POWERS = [[7.0], [7.0, 5.0], [7.0, 5.0, -3.0], [7.0, 5.0, -3.0, 2.0]]  # c, c₂, c₄, c₆ of c + c₂h² + c₄h⁴ + c₆h⁶


@pytest.mark.parametrize("order", [0, 1, 2])
def test_extrapolation_removes_as_many_even_powers_as_its_order(order: int) -> None:
    for powers in POWERS:
        row = [sum(c * h ** (2 * k) for k, c in enumerate(powers)) for h in STEPS]
        values, gains = ladders.extrapolated(row, order)
        assert len(values) == len(gains) == len(STEPS) - order
        if len(powers) <= order + 1:
            assert values == pytest.approx([7.0] * len(values), abs=1e-14)
        else:  # the next power is left
            assert abs(values[0] - 7) > 1e-12
        # (64 + 1) / 63 and (4096 + 1) / 4095: how much noise of both neighbours adds up to
        expected = math.prod([65 / 63, 4097 / 4095][:order])
        assert gains == pytest.approx([expected] * len(gains))


@pytest.mark.parametrize("size", [1e-3, 1e-9])
@pytest.mark.parametrize("places", [range(13), range(7, 13), [12], [8]])
def test_noise_is_measured_at_the_five_finest_steps(size: float, places: Sequence[int]) -> None:
    """Noise ±σ/h at each step, signs in turn, moves neighbours apart by (1 + 1/8) σ/h: twice that, times h."""
    row = [7 + 5 * h**2 + (-1) ** i * size / h * (i in places) for i, h in enumerate(STEPS)]
    whole = {i for i in places if i - 1 in places and i >= 8}
    expected = 2.25 * size if whole else 2 * size
    assert ladders._noise(STEPS, row) == pytest.approx(expected, rel=0.02)


def test_noise_of_coarse_steps_alone_or_of_powers_is_none() -> None:
    coarse = [7 + 1e-3 / h * (i < 6) for i, h in enumerate(STEPS)]
    assert ladders._noise(STEPS, coarse) == 0
    for powers in POWERS[:3]:
        row = [sum(c * h ** (2 * k) for k, c in enumerate(powers)) for h in STEPS]
        assert ladders._noise(STEPS, row) <= 1e-15
    assert ladders._noise(STEPS[:1], [1.0]) == 0


def test_noise_is_measured_on_a_ladder_that_is_defined_at_few_steps() -> None:
    row = [(-1) ** i * 1e-9 / h for i, h in enumerate(STEPS)]
    for count in (2, 3, 4):
        assert ladders._noise(STEPS[-count:], row[-count:]) == pytest.approx(2.25e-9)


# fmt: off
LEPSKI = [  # estimates, their noise, the step that is chosen
    ([1.0, 1.0, 1.0, 1.0],     [0.1, 0.1, 0.1, 0.1],   0),  # all meet: the coarsest
    ([9.0, 1.0, 1.0, 1.0],     [0.1, 0.1, 0.1, 0.1],   2),  # the first misses: the one after its neighbour
    ([9.0, 9.0, 1.0, 1.0],     [0.1, 0.1, 0.1, 0.1],   3),
    ([1.0, 1.0, 9.0, 1.0],     [0.1, 0.1, 0.1, 0.1],   3),  # never past the finest
    ([-9.0, 1.0, 1.0, 1.0],    [0.1, 0.1, 0.1, 0.1],   2),  # from below as from above
    ([1.3, 1.0, 1.0, 1.0],     [0.1, 0.1, 0.1, 0.1],   0),  # [1.1, 1.5] and [0.8, 1.2] meet
    ([1.5, 1.0, 1.0, 1.0],     [0.1, 0.1, 0.1, 0.1],   2),  # [1.3, 1.7] and [0.8, 1.2] do not
    ([0.5, 1.0, 1.0, 1.0],     [0.1, 0.1, 0.1, 0.1],   2),
    ([0.7, 1.0, 1.3, 1.0],     [0.1, 0.1, 0.1, 0.1],   2),  # it meets its neighbour, not the one after
    ([1.4, 1.0, 1.0, 1.0],     [0.2, 0.1, 0.1, 9.0],   0),  # the noise of each is its own
    ([3.0],                    [0.1],                  0),
]
# fmt: on


@pytest.mark.parametrize(("estimates", "noises", "index"), LEPSKI)
def test_the_coarsest_step_is_chosen_whose_interval_meets_all_finer(
    estimates: Sequence[float], noises: Sequence[float], index: int
) -> None:
    assert ladders._lepski(estimates, noises) == index


def test_an_estimate_is_bounded_by_its_noise_and_by_the_neighbour_that_is_finer() -> None:
    def bound(index: int) -> float:
        return ladders._Estimate(0, [4.0, 1.0, 1.5], [0.1, 0.2, 0.4], index).bound

    assert [bound(0), bound(1), bound(2)] == pytest.approx([0.2 + 3, 0.4 + 0.5, 0.8 + 0.5])
    assert ladders._Estimate(0, [4.0], [0.1], 0).bound == math.inf


# fmt: off
PERSISTING = [  # values, noises, whether the first is shown by all finer ones that can resolve it
    ([4.0, 4.0, 4.0],   [0.0, 0.0, 0.0],   True),
    ([4.0, 6.0, 2.0],   [0.0, 0.0, 0.0],   True),   # within a half
    ([4.0, 6.1, 4.0],   [0.0, 0.0, 0.0],   False),
    ([4.0, 4.0, 1.9],   [0.0, 0.0, 0.0],   False),
    ([-4.0, 4.0, -4.0], [0.0, 0.0, 0.0],   False),
    ([4.0, 4.0, 0.0],   [0.0, 0.0, 1.1],   True),   # too noisy to contradict
    ([4.0, 4.0, 0.0],   [0.0, 0.0, 0.9],   False),
    ([4.0, 0.0, 4.0],   [9.0, 0.9, 0.0],   False),  # its own noise is no excuse for others
    ([4.0],             [0.0],             True),
]
# fmt: on


@pytest.mark.parametrize(("values", "noises", "persists"), PERSISTING)
def test_an_estimate_persists_if_every_finer_step_that_can_resolve_it_shows_it(
    values: Sequence[float], noises: Sequence[float], persists: bool
) -> None:
    assert ladders._Estimate(0, values, noises, 0).persists == persists


# fmt: off
FITTING = [  # residuals at steps 1/8, 1/64, …, the noise, whether three in a row fit a claim that lacks 4 further down
    ([0.0, 0.0, 0.0, 4.0, 4.0],    0.0,    True),
    ([4.0, 0.0, 0.0, 0.0, 4.0],    0.0,    True),
    ([0.0, 0.0, 4.0, 4.0, 4.0],    0.0,    False),
    ([0.0, 0.0, 4.0, 0.0, 4.0],    0.0,    False),
    ([4.0, 4.0, 0.0, 0.0, 0.0],    0.0,    False),  # the finest fit: nothing is quantised below them
    ([1.0, -1.0, 1.0, 4.0, 4.0],   0.0,    True),   # within a quarter
    ([1.0, -1.1, 1.0, 4.0, 4.0],   0.0,    False),
    ([0.0, 0.0, 0.0, 4.0, 4.0],    1.9e-3, True),   # noise of 1.9e-3 · 512 < 1 resolves the third
    ([0.0, 0.0, 0.0, 4.0, 4.0],    2.0e-3, False),
]
# fmt: on


@pytest.mark.parametrize(("residuals", "sigma", "fits"), FITTING)
def test_what_is_quantised_below_fits_above(residuals: Sequence[float], sigma: float, fits: bool) -> None:
    assert ladders._fits_above(STEPS[:5], residuals, sigma, 4.0) == fits


# fmt: off
GROWING = [  # by how much slopes grow over the four finest steps, whether that is growth without end
    ((8.0, 8.0, 8.0),   True),    # a jump
    ((1.4, 1.4, 1.4),   True),    # |x|^0.84
    ((1.2, 1.2, 1.2),   False),
    ((1.4, 1.2, 1.4),   False),
    ((2.0, 2.5, 2.0),   True),    # steady within three tenths
    ((2.0, 2.7, 2.0),   False),   # noise
    ((2.0, 8.0, 2.0),   False),
    ((1.0, 1.0, 8.0),   False),
]
# fmt: on


@pytest.mark.parametrize(("factors", "grows"), GROWING)
@pytest.mark.parametrize("side", ["right", "left"])
def test_slopes_that_grow_steadily_have_no_end(factors: Sequence[float], grows: bool, side: str) -> None:
    slopes = [1.0] * (len(STEPS) - 3)
    for factor in factors:
        slopes.append(-slopes[-1] * factor)  # whatever their signs
    for other in ([0.0] * len(STEPS), [math.nan] * len(STEPS)):
        sides = {"right": other, "left": other} | {side: slopes}
        given = Ladder(STEPS, sides["right"], sides["left"], [0.0] * len(STEPS), 1e-16, 0.0)
        assert ladders._grows(given) == grows


@pytest.mark.parametrize(("height", "told"), [(8e-15, True), (5e-15, False)])
def test_a_jump_is_one_from_64_times_the_noise(height: float, told: bool) -> None:
    assert ladders._grows(ladder(lambda x: height * (x >= 0), 0.0, floor=1e-16)) == told


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("index", [0, 4, 12])
def test_the_steps_that_settled_a_direction_and_one_more_are_useful(order: int, index: int) -> None:
    steps = ladders.useful_steps(Slope("agrees", 0.0, 0.0, chosen=(order, index)))
    assert len(steps) == order + 2
    assert set(STEPS[index : index + order + 2]) <= set(steps)
    assert all(b == a / 8 for a, b in pairwise(steps))
    assert ladders.useful_steps(Slope("cannot say", 0.0, 0.0, chosen=(order, index))) == FINE_STEPS


def test_the_steps_go_by_eighths_to_where_four_digits_are_left() -> None:
    assert STEPS[0] == 1 / 8
    assert all(b == a / 8 for a, b in pairwise(STEPS))
    assert 2.0**-52 / STEPS[-1] == pytest.approx(1e-4, rel=0.5)
