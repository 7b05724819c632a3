"""A ladder of steps along one direction, and what it says: the slope that a claim lacks, with an error bound.

For a direction u and a step h, with the step that the input really made, u_h = ((x+hu) − (x−hu)) / 2h,

    ρ(h) = ⟨v, f(x+hu) − f(x−hu)⟩ / 2h − ⟨G, u_h⟩  =  c + c₂h² + c₄h⁴ + …  ± σ/h,

where c = ⟨∇ − G, u⟩ is what the claimed gradient G lacks, the even powers are the truncation of the central
difference, and σ is the noise of f. Richardson's extrapolation removes c₂ and c₄. Lepski's rule finds the step: from
the smallest step to larger ones, as long as the intervals that the noise alone explains still meet, then one back. It
stops by itself before a kink or a wiggle, so that there is no constant to tune.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from torch import Tensor

from gradexplain.verification.oracles.answers import Verdict
from gradexplain.verification.oracles.measures import MARGIN

# From an eighth of the input's own size down to where float64 has about four digits left.
STEPS = tuple(2.0**-e for e in range(3, 42, 3))
# What settles most directions; where it does not, the whole ladder is climbed.
USUAL_STEPS = STEPS[1:4]
# Steps for a direction that has no ladder of its own to learn from: small enough to miss most kinks nearby.
FINE_STEPS = STEPS[3:7]
# A direction that is resolved to less than this part of the gradient needs no closer steps.
FINE_RESOLUTION = 1e-7


@dataclass(frozen=True)
class Ladder:
    """What the function did along one direction, the coarsest step first. Slopes are of ⟨v, f⟩; `moved` is ⟨G, u_h⟩."""

    steps: Sequence[float]
    right: Sequence[float]
    left: Sequence[float]
    moved: Sequence[float]
    floor: float  # the noise that rounding of the output alone makes
    rounding: float  # what rounding makes of ⟨G, u⟩
    quantum: float = 0.0  # the last digits of ⟨v, f⟩, where f adds numbers of the size of 1, or of its outputs

    @property
    def residuals(self) -> list[float]:
        """ρ(h)."""
        return [(r + s) / 2 - m for r, s, m in zip(self.right, self.left, self.moved, strict=True)]


@dataclass(frozen=True)
class Slope:
    """What one direction says: c, its error bound, and the reason why it cannot judge, if it cannot.

    `chosen` is the order of extrapolation that gave c, and the coarsest of the `STEPS` in it.
    """

    verdict: Verdict
    lacking: float
    bound: float
    reason: str | None = None
    left: float = math.nan
    right: float = math.nan
    claim: float = math.nan
    noise: float = 0.0
    chosen: tuple[int, int] = (0, 0)


def judge(ladder: Ladder, noise: float = 0.0) -> Slope:
    """Says whether the claim holds along one direction; `noise` is what is known of f's noise already."""
    kept = [i for i, r in enumerate(ladder.residuals) if math.isfinite(r)]
    if not kept or kept[-1] != len(ladder.steps) - 1:
        return _edge(ladder)
    special = _special(ladder)
    if special is not None:
        return special
    steps = [ladder.steps[i] for i in kept]
    residuals = [ladder.residuals[i] for i in kept]
    sigma = max(ladder.floor, noise, _noise(steps, residuals) if len(ladder.steps) == len(STEPS) else 0.0)
    sigma = max(sigma, _quantum(ladder))
    candidates = list(_candidates(residuals, [sigma / h for h in steps]))
    best = min(candidates, key=lambda c: c.bound)
    # The best bound of three may be so by luck: what orders of nearly the same bound make of it is part of the error.
    luck = max(abs(c.value - best.value) for c in candidates if c.bound <= MARGIN * best.bound)
    bound = best.bound + luck + ladder.rounding
    finding = Slope("agrees", best.value, bound, None, ladder.left[-1], ladder.right[-1], ladder.moved[0], sigma)
    finding = replace(finding, chosen=(best.order, STEPS.index(steps[best.index])))
    allowed = 4 * (best.bound + luck) + ladder.rounding
    if abs(best.value) <= allowed:  # where that is beyond the bound, what was allowed is the bound
        return finding if abs(best.value) <= bound else replace(finding, bound=allowed)
    if best.persists and not _fits_above(steps, residuals, sigma, best.value):
        return replace(finding, verdict="differs")
    return replace(finding, verdict="cannot say", reason="noise")


@dataclass(frozen=True)
class _Estimate:
    """One order of extrapolation over all steps, its noise at each, and the step that Lepski's rule chose."""

    order: int
    values: Sequence[float]
    noises: Sequence[float]
    index: int

    @property
    def value(self) -> float:
        return self.values[self.index]

    @property
    def bound(self) -> float:
        """Noise at the chosen step, and the truncation that a neighbouring step shows: the finer one if there is."""
        if len(self.values) == 1:
            return math.inf
        neighbour = self.values[self.index + 1 if self.index + 1 < len(self.values) else self.index - 1]
        return 2 * self.noises[self.index] + abs(self.value - neighbour)

    @property
    def persists(self) -> bool:
        """Whether every finer step that can resolve the estimate shows it, too."""
        size = abs(self.value)
        finer = zip(self.values[self.index + 1 :], self.noises[self.index + 1 :], strict=True)
        return all(abs(value - self.value) <= size / 2 for value, noise in finer if noise <= size / 4)


def _noise(steps: Sequence[float], residuals: Sequence[float]) -> float:
    """Noise of f, from how estimates at neighbouring small steps disagree, in the order that hides it least from us.

    Truncation is removed by extrapolation, noise is not: the smallest disagreement of the three orders is noise.
    """
    # R(h) = c + a h² + O(h⁴) + n / h, where |n| ≤ σ is the noise of f. Neighbours differ, each step being an eighth of
    # the one before, by
    #     |R(8h) − R(h)| ≈ |63 a h² + n / h|,
    # which is n / h once a is gone: in the order of extrapolation where the difference is least. So σ ≈ h · difference;
    # twice that, as two draws of noise may by chance be alike, and the largest over the five finest steps.
    levels = [residuals, *(extrapolated(residuals, order)[0] for order in (1, 2))]
    differences = [[abs(a - b) for a, b in pairwise(level)] for level in levels]
    count = min(5, len(residuals) - 1)
    return max(
        (2 * min(d[-k] for d in differences if len(d) >= k) * steps[-k] for k in range(1, count + 1)), default=0.0
    )


def _quantum(ladder: Ladder) -> float:
    """The least change that f made, where finer steps change nothing: it moves in quanta, as (1 + erf x) / 2 at −8.

    A function that is made of steps does so as well, and has slope 0; but its steps are not the last digits of 1, or of
    what it gives.
    """
    changes = [max(abs(r), abs(s)) * h for r, s, h in zip(ladder.right, ladder.left, ladder.steps, strict=True)]
    quantum = min((c for c in changes if c > 0), default=0.0)
    return quantum if changes[-1] == 0 and quantum <= ladder.quantum else 0.0


Number = TypeVar("Number", float, Tensor)


def extrapolated(estimates: Sequence[Number], order: int) -> tuple[list[Number], list[float]]:
    """Returns `estimates` with `order` even powers of the step removed, and by how much that raises their noise.

    R(h) = (w R(h/r) − R(h)) / (w − 1) with w = r^2k removes the power 2k, where r is the ratio of the ladder.
    """
    values, gains = list(estimates), [1.0] * len(estimates)
    for k in range(1, order + 1):
        w = (STEPS[0] / STEPS[1]) ** (2 * k)
        values = [(w * b - a) / (w - 1) for a, b in pairwise(values)]
        gains = [(w * b + a) / (w - 1) for a, b in pairwise(gains)]
    return values, gains


def _candidates(residuals: Sequence[float], noises: Sequence[float]) -> Iterator[_Estimate]:
    """Gives the estimate of each order of extrapolation that the ladder is long enough for."""
    for order in range(min(3, len(residuals))):
        values, gains = extrapolated(residuals, order)
        # The noise of an extrapolated value is that of its finest step, nearly.
        raised = [gain * noise for gain, noise in zip(gains, noises[order:], strict=True)]
        yield _Estimate(order, values, raised, _lepski(values, raised))


def _lepski(estimates: Sequence[float], noises: Sequence[float]) -> int:
    """Returns the coarsest step whose interval meets all finer ones; one back if it is not the coarsest of all."""
    # Estimates  c_i = c + t_i + n_i  at steps h_0 > h_1 > …, the noise |n_i| ≤ σ_i growing and the truncation t_i
    # shrinking with i. While |t_i| ≤ σ_i,  |c_i − c| ≤ 2 σ_i,  so that c lies in every interval
    #     [c_i − 2 σ_i, c_i + 2 σ_i],
    # and they meet. The first from the fine end that misses the others is where truncation has outgrown noise; the
    # coarsest that meets them is the best balance without knowing t. (O. Lepski, Theory Probab. Appl. 35, 1991.)
    low, high = -math.inf, math.inf
    for index in reversed(range(len(estimates))):
        low = max(low, estimates[index] - 2 * noises[index])
        high = min(high, estimates[index] + 2 * noises[index])
        if not low <= high:
            return min(index + 2, len(estimates) - 1)
    return 0


def _fits_above(steps: Sequence[float], residuals: Sequence[float], sigma: float, estimate: float) -> bool:
    """Says whether three steps in a row fit the claim while finer ones do not: f is quantised below them."""
    near = abs(estimate) / 4
    fits = [abs(r) <= near and sigma / h <= near for h, r in zip(steps, residuals, strict=True)]
    return any(all(fits[i : i + 3]) for i in range(len(fits) - 3))


def _special(ladder: Ladder) -> Slope | None:
    """Recognises a kink, a jump or a singularity at the point itself, by the one-sided slopes at the finest steps."""
    # With slopes r(h) = (f(x + h) − f(x)) / h and l(h) = (f(x) − f(x − h)) / h, the bend b(h) = r(h) − l(h) is
    #     h f″ + O(h³)      where f is smooth: an eighth of the step, an eighth of the bend;
    #     r − l + O(h)      at a kink: the same at every step, down to where noise σ / h covers it;
    #     like 1 / h        at a jump, like hᵖ⁻¹ at |x|ᵖ with p < 1: the slopes themselves grow (`_grows`).
    # A kink has to show at three steps in a row, level within a quarter, and be lost in noise below them. The finest of
    # the three is resolved; so are the two above it where they are level, as their noise is an eighth and a 64th.
    bends = [r - s for r, s in zip(ladder.right, ladder.left, strict=True)]
    sigma = 4 * max(ladder.floor, _quiet(ladder))
    resolved = [abs(b) > 8 * sigma / h for b, h in zip(bends, ladder.steps, strict=True)]
    finest = max((i for i, r in enumerate(resolved) if r), default=-1)
    if _grows(ladder):
        return _grown(ladder)
    if finest < 2:
        return None
    bend = bends[finest]
    level = all(abs(bends[i] - bend) <= abs(bend) / 4 for i in (finest - 1, finest - 2))
    below = finest + 1 == len(bends) or 8 * sigma / ladder.steps[finest + 1] > abs(bend)
    return _kink(ladder, finest) if level and below else None


def _quiet(ladder: Ladder) -> float:
    return _noise(ladder.steps, ladder.residuals) if len(ladder.steps) == len(STEPS) else 0.0


def _kink(ladder: Ladder, index: int) -> Slope:
    """A kink says nothing about a gradient between its slopes, and refutes one outside."""
    left, right, claim = ladder.left[index - 1], ladder.right[index - 1], ladder.moved[0]
    low, high = min(left, right), max(left, right)
    outside = max(low - claim, claim - high, 0.0)
    slack = (high - low) / 100 + 1e-3 * max(abs(low), abs(high))
    lacking = (left + right) / 2 - claim
    if outside > slack:
        return Slope("differs", lacking, slack, "slope", left, right, claim)
    return Slope("cannot say", lacking, high - low, "kink", left, right, claim)


def _grows(ladder: Ladder) -> bool:
    """Says whether the slopes grow without end towards the point: f jumps there, or is infinitely steep."""
    ends, steps = _ends(ladder)[-4:], ladder.steps[-4:]
    if not all(e > 64 * ladder.floor / h for e, h in zip(ends, steps, strict=True)):
        return False
    ratios = [b / a for a, b in pairwise(ends)]
    return min(ratios) >= 1.3 and max(ratios) <= 1.3 * min(ratios)


def _ends(ladder: Ladder) -> list[float]:
    """The larger of the two one-sided slopes at each step, nan (where f is not defined) left out."""
    sides = zip(ladder.right, ladder.left, strict=True)
    return [max((abs(slope) for slope in side if math.isfinite(slope)), default=0.0) for side in sides]


def _grown(ladder: Ladder) -> Slope:
    ends = _ends(ladder)
    jumps = ends[-1] / ends[-2] > 0.9 * ladder.steps[-2] / ladder.steps[-1]
    size, reason = ends[-1] * ladder.steps[-1], "singular"
    if jumps:
        reason = "step" if _is_flat(ladder, ladder.right) and _is_flat(ladder, ladder.left) else "jump"
    return Slope("cannot say", size, size, reason, ladder.left[-1], ladder.right[-1], ladder.moved[0], size)


def _is_flat(ladder: Ladder, slopes: Sequence[float]) -> bool:
    """Says whether f is constant on one side of the point, up to a step that is not small: it is all in the jump."""
    changes = [slope * h for slope, h in zip(slopes, ladder.steps, strict=True)][-8:]
    return max(changes) - min(changes) <= 8 * ladder.floor


def _edge(ladder: Ladder) -> Slope:
    """The function is not defined on both sides: one side alone has a slope, or none has."""
    if _grows(ladder):
        return _grown(ladder)
    left, right, claim = ladder.left[-1], ladder.right[-1], ladder.moved[0]
    return Slope("cannot say", 0.0, math.inf, "edge", left, right, claim)


def useful_steps(settled: Slope) -> Sequence[float]:
    """The steps that settled a direction: those of the chosen estimate and one more, to see that it holds."""
    if settled.verdict == "cannot say":
        return FINE_STEPS
    order, index = settled.chosen
    start = max(min(index, len(STEPS) - order - 2), 0)
    return STEPS[start : start + order + 2]
