"""Finite differences that know their own error: a ladder of steps along a direction, judged against measured noise.

For a direction u and a step h, with the step that the input really made, u_h = ((x+hu) − (x−hu)) / 2h,

    ρ(h) = ⟨v, f(x+hu) − f(x−hu)⟩ / 2h − ⟨G, u_h⟩  =  c + c₂h² + c₄h⁴ + …  ± σ/h,

where c = ⟨∇ − G, u⟩ is what the claimed gradient G lacks, the even powers are the truncation of the central
difference, and σ is the noise of f. Richardson's extrapolation removes c₂ and c₄. Lepski's rule finds the step: from
the smallest step to larger ones, as long as the intervals that the noise alone explains still meet, then one back. It
stops by itself before a kink or a wiggle, so that there is no constant to tune.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from gradexplain.oracles.question import (
    MARGIN,
    RESOLUTION,
    Check,
    Question,
    Replay,
    Unable,
    Verdict,
    index_of,
    pair,
    plain,
    scales,
    weighed,
)

ORACLE = "finite differences"
# From an eighth of the input's own size down to where float64 has about four digits left.
STEPS = tuple(2.0**-e for e in range(3, 42, 3))
# Steps for a direction that has no ladder of its own to learn from: small enough to miss most kinks nearby.
FINE = STEPS[3:7]
# Up to this many elements, each is moved by itself; then more directions see no more.
EACH = 32
DIRECTIONS = 4
# More inputs than this are moved together.
APART = 16
# Runs of the function in all: more of them where one takes less than a millisecond. Steps, so that the time measured,
# which is never the same twice, seldom decides what is done.
RUNS, MANY, CHEAP = 120, 400, 1e-3
# Directions that a short ladder left open may have a whole one beyond the runs.
GRACE = 3

Direction = Mapping[str, Tensor]


@dataclass(frozen=True)
class Ladder:
    """What the function did along one direction, the coarsest step first. Slopes are of ⟨v, f⟩; `moved` is ⟨G, u_h⟩."""

    steps: Sequence[float]
    right: Sequence[float]
    left: Sequence[float]
    moved: Sequence[float]
    floor: float  # the noise that rounding of the output alone makes
    rounding: float  # what rounding makes of ⟨G, u⟩

    @property
    def residuals(self) -> list[float]:
        """ρ(h)."""
        return [(r + s) / 2 - m for r, s, m in zip(self.right, self.left, self.moved, strict=True)]


@dataclass(frozen=True)
class Finding:
    """What one direction says: c, its error bound, and the reason why it cannot judge, if it cannot."""

    verdict: Verdict
    lacking: float
    bound: float
    reason: str | None = None
    left: float = math.nan
    right: float = math.nan
    claim: float = math.nan
    noise: float = 0.0
    chosen: tuple[int, int] = (0, 0)


def ask(question: Question) -> Iterator[Check]:
    """Compares the gradient of each input with differences of the function, rerun in float64."""
    replay = question.replay
    if isinstance(replay, Unable):
        yield from (Check(ORACLE, n, "cannot say", reason=replay.reason, data=replay.data) for n in question.names)
        return
    runs = int(min(question.effort / max(replay.seconds, 1e-9), MANY if replay.seconds < CHEAP else RUNS))
    if runs < len(STEPS):
        data = {"elements": question.elements}
        yield from (Check(ORACLE, n, "cannot say", reason="too_costly", data=data) for n in question.names)
        return
    names = question.names
    apart = len(names) <= APART and runs >= len(names) * len(STEPS)
    for group in [[n] for n in names] if apart else [list(names)]:
        yield from _Probe(question, replay, group, runs // len(names) if apart else runs).checks()


class _Probe:
    """The directions tried for one group of inputs, with the runs that are left for it."""

    def __init__(self, question: Question, replay: Replay, names: Sequence[str], runs: int) -> None:
        self.question, self.replay, self.names, self.runs = question, replay, names, runs
        self.x = {n: replay.trace.inputs[n] for n in names}
        self.scale = {n: scales(x) for n, x in self.x.items()}
        self.claimed = {n: question.gradient(n) for n in names}
        self.claim = {n: g.nan_to_num(0.0, 0.0, 0.0) for n, g in self.claimed.items()}
        self.generator = torch.Generator().manual_seed(20)
        self.grace = GRACE

    def checks(self) -> Iterator[Check]:
        """Gives one check for each input of the group."""
        elements = sum(x.numel() for x in self.x.values())
        if elements == 0:
            yield from (Check(ORACLE, n, "agrees", 0.0, 0.0, 0.0) for n in self.names)
            return
        found: list[tuple[Finding, tuple[int, ...] | None]] = []
        first = self.tried(self.random(), STEPS)
        steps = _useful(first)
        found.append((first, None))
        if len(self.names) == 1 and elements <= EACH and elements * 2 * len(steps) <= self.runs:
            found += [(self.tried(u, steps, first), place) for place, u in self.elements(self.names[0])]
            if elements > 1 or first.verdict == "agrees":
                found = found if first.verdict != "cannot say" else found[1:]
        else:
            more = min(DIRECTIONS - 1, self.runs // (2 * len(steps)))
            found += [(self.tried(self.random(), steps, first), None) for _ in range(more)]
        yield from (self.check(name, found) for name in self.names)

    def random(self) -> Direction:
        """A direction with entries ±U[½, 1] in units of each element's own size: no element can hide behind others."""
        return {n: self._signed(s, self.x[n]) * s for n, s in self.scale.items()}

    def _signed(self, like: Tensor, x: Tensor) -> Tensor:
        shape = like.shape
        size = torch.rand(shape, generator=self.generator, dtype=torch.float64) / 2 + 0.5
        signs = torch.randint(0, 2, shape, generator=self.generator) * 2 - 1
        if not x.is_complex():
            return (size * signs).to(x.device)
        turn = torch.rand(shape, generator=self.generator, dtype=torch.float64) * (2 * math.pi)
        return torch.polar(size, turn).to(x.device)

    def elements(self, name: str) -> Iterator[tuple[tuple[int, ...], Direction]]:
        """The directions that move one element alone; a complex one moves in its real and its imaginary part."""
        x = self.x[name]
        for position in range(x.numel()):
            place = index_of(position, x.shape)
            for turn in (1.0, 1.0j) if x.is_complex() else (1.0,):
                yield place, self.unit(name, place, turn)

    def unit(self, name: str, place: tuple[int, ...], turn: complex = 1.0) -> Direction:
        """The direction that moves one element by its own size."""
        u = torch.zeros_like(self.x[name])
        u[place] = self.scale[name][place] * turn
        return {name: u}

    def tried(self, u: Direction, steps: Sequence[float], known: Finding | None = None) -> Finding:
        """Judges one direction; one that a short ladder cannot settle is tried again with the whole one."""
        finding = judge(self.ladder(u, steps), known.noise if known else 0.0)
        settled = finding.verdict == "agrees" and finding.bound <= RESOLUTION * min(map(self.question.scale, u))
        if settled or len(steps) == len(STEPS):
            return finding
        if self.runs < 2 * len(STEPS):
            if self.grace == 0:
                return finding
            self.grace -= 1
        return judge(self.ladder(u, STEPS))

    def ladder(self, u: Direction, steps: Sequence[float]) -> Ladder:
        """Runs the function at both ends of each step."""
        self.runs -= 2 * len(steps)
        v, y = self.replay.trace.cotangent, self.replay.trace.value
        right, left, moved = [], [], []
        for h in steps:
            ahead = {n: self.x[n] + h * d for n, d in u.items()}
            behind = {n: self.x[n] - h * d for n, d in u.items()}
            right.append(self.slope(ahead, h))
            left.append(-self.slope(behind, h))
            moved.append(sum(pair(self.claim[n], (ahead[n] - behind[n]) / (2 * h)) for n in u))
        # A sum of m rounded terms, each wrong by eps/2 of its size, with a margin of three.
        return Ladder(steps, right, left, moved, 1.5 * self.replay.eps * weighed(v, y), self.rounding(u))

    def rounding(self, u: Direction) -> float:
        """What rounding makes of the claim ⟨G, u⟩: of its products, and of G itself."""
        products = sum(float((self.claim[n] * d).abs().sum()) for n, d in u.items())
        own = sum(float((self.question.rounding(n).nan_to_num(0.0) * d.abs()).square().sum()) for n, d in u.items())
        return MARGIN * (self.replay.eps * products + math.sqrt(own))

    def slope(self, values: Mapping[str, Tensor], h: float) -> float:
        """(⟨v, f(values)⟩ − ⟨v, f(x)⟩) / h, nan where the step leaves the domain."""
        y = self.replay.output(values)
        if y.shape != self.replay.trace.value.shape:
            return math.nan
        return pair(self.replay.trace.cotangent, y - self.replay.trace.value) / h

    def check(self, name: str, found: Sequence[tuple[Finding, tuple[int, ...] | None]]) -> Check:
        """Joins what the directions said into the check of one input."""
        scale = self.question.scale(name)
        data: dict[str, object] = {"directions": len(found), "joint": len(self.names)}
        bad = [f for f in found if f[0].verdict == "differs"]
        mute = [f for f in found if f[0].verdict == "cannot say"]
        worst, place = max(bad or mute or found, key=lambda f: abs(f[0].lacking))
        resolution = max(f.bound for f, _ in found) / scale
        broken = self._broken(name)
        if broken is not None:
            worst, place = self.tried(self.unit(name, broken), STEPS), broken
        verdict, reason = worst.verdict, worst.reason
        if verdict != "cannot say" and broken is not None:
            verdict, reason = "differs", "nan"
        elif verdict == "differs":
            reason = "cut" if self.question.trace.cuts else "slope"
            verdict = "cannot say" if reason == "cut" else "differs"
        elif verdict == "agrees" and not resolution <= RESOLUTION:
            verdict, reason = "cannot say", self.question.blur(name)
        data |= self._numbers(name, worst, place, resolution)
        return Check(ORACLE, name, verdict, abs(worst.lacking), worst.bound, resolution, reason, data, place)

    def _broken(self, name: str) -> tuple[int, ...] | None:
        """The first element whose claimed gradient is nan or infinite."""
        wrong = ~self.claimed[name].isfinite().flatten()
        return index_of(int(wrong.int().argmax()), self.claimed[name].shape) if bool(wrong.any()) else None

    def _numbers(
        self, name: str, worst: Finding, place: tuple[int, ...] | None, resolution: float
    ) -> dict[str, object]:
        """The slopes for a reader: of one element, or along the direction where there is none."""
        unit = float(self.scale[name][place]) if place is not None else 1.0
        seen: object = worst.claim / unit
        if place is not None and not bool(self.claimed[name][place].isfinite()):
            seen = plain(self.claimed[name][place])
        return {
            "seen": seen,
            "right": (worst.claim + worst.lacking) / unit + 0.0,
            "below": worst.left / unit + 0.0,  # no minus before a zero
            "above": worst.right / unit + 0.0,
            "resolution": resolution,
            "noise": worst.noise,
        }


def _useful(first: Finding) -> Sequence[float]:
    """The steps that settled the first direction: those of the chosen estimate and one more, to see that it holds."""
    if first.verdict == "cannot say":
        return FINE
    order, index = first.chosen
    start = max(min(index, len(STEPS) - order - 2), 0)
    return STEPS[start : start + order + 2]


# -------------------------------------------------------------------------------------------------------- judging


def judge(ladder: Ladder, noise: float = 0.0) -> Finding:
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
    candidates = list(_candidates(residuals, [sigma / h for h in steps]))
    best = min(candidates, key=lambda c: c.bound)
    # The best bound of three may be so by luck: what orders of nearly the same bound make of it is part of the error.
    luck = max(abs(c.value - best.value) for c in candidates if c.bound <= MARGIN * best.bound or c is best)
    bound = best.bound + luck + ladder.rounding
    finding = Finding("agrees", best.value, bound, None, ladder.left[-1], ladder.right[-1], ladder.moved[0], sigma)
    finding = replace(finding, chosen=(best.order, kept[best.index]))
    if abs(best.value) <= 4 * bound:
        return finding
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
    levels = [residuals, *(_extrapolated(residuals, order)[0] for order in (1, 2))]
    found = [[abs(a - b) for a, b in pairwise(level)] for level in levels]
    count = min(5, len(residuals) - 1)
    return max((2 * min(d[-k] for d in found if len(d) >= k) * steps[-k] for k in range(1, count + 1)), default=0.0)


def _extrapolated(estimates: Sequence[float], order: int) -> tuple[list[float], list[float]]:
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
        values, gains = _extrapolated(residuals, order)
        # The noise of an extrapolated value is that of its finest step, nearly.
        raised = [gain * noise for gain, noise in zip(gains, noises[order:], strict=True)]
        yield _Estimate(order, values, raised, _lepski(values, raised))


def _lepski(estimates: Sequence[float], noises: Sequence[float]) -> int:
    """Returns the coarsest step whose interval meets all finer ones; one back if it is not the coarsest of all."""
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


def _special(ladder: Ladder) -> Finding | None:
    """Recognises a kink, a jump or a singularity at the point itself, by the one-sided slopes at the finest steps."""
    bends = [r - s for r, s in zip(ladder.right, ladder.left, strict=True)]
    sigma = 4 * max(ladder.floor, _quiet(ladder))
    resolved = [abs(b) >= 8 * sigma / h for b, h in zip(bends, ladder.steps, strict=True)]
    finest = max((i for i, r in enumerate(resolved) if r), default=-1)
    if _grows(ladder):
        return _grown(ladder)
    if finest < 2 or not all(resolved[finest - 2 : finest]):
        return None
    bend = bends[finest]
    level = all(abs(bends[i] - bend) <= abs(bend) / 4 for i in (finest - 1, finest - 2))
    below = finest + 1 == len(bends) or 8 * sigma / ladder.steps[finest + 1] > abs(bend)
    return _kink(ladder, finest) if level and below else None


def _quiet(ladder: Ladder) -> float:
    return _noise(ladder.steps, ladder.residuals) if len(ladder.steps) == len(STEPS) else 0.0


def _kink(ladder: Ladder, index: int) -> Finding:
    """A kink says nothing about a gradient between its slopes, and refutes one outside."""
    left, right, claim = ladder.left[index - 1], ladder.right[index - 1], ladder.moved[0]
    low, high = min(left, right), max(left, right)
    outside = max(low - claim, claim - high, 0.0)
    slack = (high - low) / 100 + 1e-3 * max(abs(low), abs(high))
    lacking = (left + right) / 2 - claim
    if outside > slack:
        return Finding("differs", lacking, slack, "slope", left, right, claim)
    return Finding("cannot say", lacking, high - low, "kink", left, right, claim)


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


def _grown(ladder: Ladder) -> Finding:
    ends = _ends(ladder)
    jump = ends[-1] / ends[-2] > 0.9 * ladder.steps[-2] / ladder.steps[-1]
    size, reason = ends[-1] * ladder.steps[-1], "jump" if jump else "singular"
    return Finding("cannot say", size, size, reason, ladder.left[-1], ladder.right[-1], ladder.moved[0], size)


def _edge(ladder: Ladder) -> Finding:
    """The function is not defined on both sides: one side alone has a slope, or none has."""
    if _grows(ladder):
        return _grown(ladder)
    left, right, claim = ladder.left[-1], ladder.right[-1], ladder.moved[0]
    return Finding("cannot say", 0.0, math.inf, "edge", left, right, claim)
