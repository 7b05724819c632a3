"""One direction: how the function changes along it, by a ladder of steps, and what that says of the gradient.

A direction moves many elements at once, each by a part of its own size, or one element alone. What it says is said of
each part of the outputs, with the error bound that the ladder gives of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.verification.oracles.answers import Verdict
from gradexplain.verification.oracles.elements import RESOLUTION, Part
from gradexplain.verification.oracles.ladders import (
    FINE_STEPS,
    STEPS,
    USUAL_STEPS,
    Ladder,
    Slope,
    judge,
    useful_steps,
)
from gradexplain.verification.oracles.measures import MARGIN, pair
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay

# What looks like a jump, down to the finest usual step; steps below those, and how well the slope has to be confirmed
# there: as of a number that is 0, or small beside its scale, differences lose no digits.
JUMPS = ("jump", "step")
CLOSE_STEPS = (2.0**-48, 2.0**-51, 2.0**-54)
CLOSE = 1e-6
RANK = {"agrees": 0, "cannot say": 1, "differs": 2}

Direction = Mapping[str, Tensor]
Place = tuple[int, ...]
Output = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Tried:
    """A direction and what it says of each part of the outputs, the gravest as `finding`.

    `at` is the element that it moves alone; `still` says which parts did not move at all, `whole` that no step was left
    out.
    """

    direction: Direction
    findings: tuple[Slope, ...]
    still: tuple[bool, ...] = ()
    at: tuple[str, Place] | None = None
    whole: bool = True

    @property
    def finding(self) -> Slope:
        return max(self.findings, key=lambda f: (RANK[f.verdict], gravity(f)))

    @property
    def bound(self) -> float:
        return max(f.bound for f in self.findings)

    @property
    def agrees(self) -> bool:
        return all(f.verdict == "agrees" for f in self.findings)


class Directions:
    """The directions of one question, as they are tried one after another; `runs` are left for them.

    What settled the last one, its steps and its noise, is tried first for the next.
    """

    def __init__(self, question: Question, replay: Replay, output: Output, runs: int, names: Sequence[str]) -> None:
        self.question, self.replay, self.output, self.runs = question, replay, output, runs
        self.x = {n: replay.trace.inputs[n] for n in names}
        self.own = question.units
        self.scale = dict(self.own)
        self.movable = {n: bool(x.isfinite().all()) for n, x in self.x.items()}
        self.claimed = {n: question.gradient(n) for n in names}
        self.claim = {n: finite(g) for n, g in self.claimed.items()}
        self.parts = [Part(p.cotangent, {n: finite(p.gradients[n]) for n in names}) for p in question.parts]
        self.generator = torch.Generator().manual_seed(20)
        self.steps: Sequence[float] = USUAL_STEPS
        self.sharpens = True  # whether other steps did resolve more, when they were last tried
        self.noise = [0.0] * len(self.parts)

    def random(self, masks: Mapping[str, Tensor]) -> Direction:
        """A direction with entries ±U[½, 1] in units of each element's own size, where a mask is set."""
        drawn = {n: (self.signed(self.scale[n], self.x[n]) * self.scale[n]).to(self.x[n].dtype) for n in masks}
        return {n: torch.where(mask.to(drawn[n].device), drawn[n], 0.0) for n, mask in masks.items() if mask.any()}

    def signed(self, like: Tensor, x: Tensor) -> Tensor:
        drawn = torch.rand(like.shape, generator=self.generator, dtype=torch.float64)
        if not x.is_complex():
            drawn = drawn.mul_(2).sub_(1)
            return torch.copysign(drawn.abs().add_(1).div_(2), drawn).to(x.device)
        size, turn = (
            drawn / 2 + 0.5,
            2 * math.pi * torch.rand(like.shape, generator=self.generator, dtype=torch.float64),
        )
        return torch.polar(size, turn).to(x.device)

    def unit(self, name: str, place: Place, turn: complex = 1.0) -> Direction:
        """The direction that moves one element by its own size."""
        u = torch.zeros_like(self.x[name])
        u[place] = self.scale[name][place] * turn
        return {name: u}

    def tried(self, u: Direction, at: tuple[str, Place] | None = None, within: float = RESOLUTION) -> Tried:
        """Judges one direction, by the steps that settled the one before, or by all where these cannot settle it."""
        short = replace(self.judged(u, self.steps, self.noise), at=at, whole=False)
        if short.agrees and self.sharpens and not self.is_settled(short, within):
            short = self.sharper(short)
        if self.is_settled(short, within):
            return short
        if self.runs < 2 * len(STEPS):  # what only a few steps show is no evidence against a gradient
            return replace(short, findings=tuple(map(_unsure, short.findings)))
        whole = replace(self.judged(u, STEPS, [0.0] * len(self.parts)), at=at)
        if any(f.reason in JUMPS for f in whole.findings):
            whole = replace(whole, findings=tuple(self.looked_closer(u, whole.findings)))
        self.noise = [max(n, f.noise) for n, f in zip(self.noise, whole.findings, strict=True)]
        self.steps = useful_steps(whole.finding)
        return whole

    def sharper(self, tried: Tried) -> Tried:
        """Returns what other steps say where they resolve more: closer ones, between kinks, or wider ones."""
        steps = FINE_STEPS if self.steps[-1] >= USUAL_STEPS[-1] else USUAL_STEPS
        if self.runs < 2 * len(steps):
            return tried
        other = replace(self.judged(tried.direction, steps, self.noise), at=tried.at, whole=False)
        self.sharpens = other.agrees and other.bound < tried.bound
        if not self.sharpens:
            return tried
        self.steps = useful_steps(other.finding)
        return other

    def looked_closer(self, u: Direction, findings: Sequence[Slope]) -> Iterator[Slope]:
        """Yields findings of which no jump is left that the next numbers do not show.

        Where the closest steps lie on a line, that is the slope; where they rise by less than the jump, there is none.
        """
        rows = self.ladder(u, CLOSE_STEPS)
        jumps = self.next_changes(u)
        for finding, (ladder, _), jump in zip(findings, rows, jumps, strict=True):
            claim, slope = ladder.moved[-1], ladder.right[-1]
            uneven = max(abs(side - slope) for side in (*ladder.right, *ladder.left))
            bound = uneven + 8 * ladder.floor / ladder.steps[-1] + ladder.rounding
            if finding.reason not in JUMPS:
                yield finding
            elif math.isfinite(claim) and bound <= CLOSE * abs(slope):  # a line through the point, on both sides
                verdict: Verdict = "agrees" if abs(slope - claim) <= bound else "differs"
                reason = None if verdict == "agrees" else "slope"
                yield Slope(verdict, slope - claim, bound, reason, ladder.left[-1], slope, claim)
            else:
                yield finding if jump > finding.noise / 2 else replace(finding, reason="steep")

    def next_changes(self, u: Direction) -> list[float]:
        """Returns how far each part of the outputs moves from the point to the numbers next to it."""
        self.runs -= 2
        ends = [self.changed({n: _next(self.x[n], sign * d) for n, d in u.items()}) for sign in (1, -1)]
        if any(end is None for end in ends):
            return [math.inf] * len(self.parts)
        after, before = (end for end in ends if end is not None)
        return [max(abs(pair(p.cotangent, after)), abs(pair(p.cotangent, before))) for p in self.parts]

    def is_settled(self, tried: Tried, within: float) -> bool:
        """Says whether a direction agrees, to a part of the largest effect of its elements."""
        size = max((float((self.claim[n] * d).abs().max()) for n, d in tried.direction.items()), default=0.0)
        size = size or min(map(self.question.scale, tried.direction))
        return tried.agrees and tried.bound <= within * size

    def judged(self, u: Direction, steps: Sequence[float], noise: Sequence[float]) -> Tried:
        """Judges a direction; what rounding makes of the gradient under test is measured only if that matters."""
        findings, still = [], []
        for part, (ladder, rests), own in zip(self.parts, self.ladder(u, steps), noise, strict=True):
            still.append(rests)
            findings.append(self.part_judged(u, part, ladder, own))
        return Tried(u, tuple(findings), tuple(still))

    def part_judged(self, u: Direction, part: Part, ladder: Ladder, noise: float) -> Slope:
        finding = judge(ladder, noise)
        if finding.reason == "slope" and self.encloses(u, part):
            return replace(finding, verdict="cannot say", reason="kink")
        if finding.verdict == "agrees" or finding.reason not in (None, "noise"):
            return finding
        floor, rounding = max(ladder.floor, self.inner_noise(part)), ladder.rounding + self.own_rounding(u, part)
        return judge(replace(ladder, floor=floor, rounding=rounding), noise)

    def encloses(self, u: Direction, part: Part) -> bool:
        """Says whether kinks of single outputs leave room for the claim.

        Along u, an output y has a slope r on the right and l on the left, and a convention takes any number between. So
        ⟨G, u⟩ is between Σ min(v r, v l) and Σ max(v r, v l), which the sums of all, ⟨v, r⟩ and ⟨v, l⟩, need not show.
        A complex output is two: its real and its imaginary part.
        """
        h, v, y = FINE_STEPS[-1], _reals(part.cotangent), _reals(self.replay.trace.value)
        if y.numel() == 1:
            return False
        self.runs -= 2
        ahead = self.moved({n: self.x[n] + h * d for n, d in u.items()})
        behind = self.moved({n: self.x[n] - h * d for n, d in u.items()})
        if ahead is None or behind is None:  # outside of what the function accepts
            return False
        right, left = v * (_reals(ahead) - y) / h, v * (y - _reals(behind)) / h
        low, high = float(torch.minimum(right, left).sum()), float(torch.maximum(right, left).sum())
        slack = MARGIN * h * float(torch.maximum(right.abs(), left.abs()).sum())  # the truncation of one-sided slopes
        return low - slack <= sum(pair(part.gradients[n], d) for n, d in u.items()) <= high + slack

    @cached_property
    def floors(self) -> list[float]:
        """The noise that rounding makes of ⟨v, y⟩: m rounded terms, each wrong by eps/2, with a margin of three."""
        y = self.replay.trace.value
        return [max(1.5 * self.replay.eps * magnitude(p.cotangent * y), self.replay.jitter) for p in self.parts]

    @cached_property
    def quantum(self) -> float:
        """What the outputs may move by at once where they lose digits inside."""
        y = self.replay.trace.value
        return MARGIN * self.replay.eps * max(1.0, float(finite(y.abs()).max()) if y.numel() else 0.0)

    def inner_noise(self, part: Part) -> float:
        """The noise that rounding makes of ⟨v, y⟩ on the way to y, which may be 0 itself, as in log(1 + e).

        Measured with operators that round at random; and no function is computed more exactly than with a change in the
        last digit of an input.
        """
        effects = [(part.gradients[n].abs() * self.own[n]).max() for n, x in self.x.items() if x.numel()]
        last_digit = 1.5 * self.replay.eps * float(max(effects, default=0.0))
        return max(last_digit, magnitude(part.cotangent * self.question.roughness))

    def ladder(self, u: Direction, steps: Sequence[float]) -> list[tuple[Ladder, bool]]:
        """Runs the function at both ends of each step; for each part of the outputs, says whether it stood still."""
        self.runs -= 2 * len(steps)
        rows: list[list[tuple[float, float, float]]] = [[] for _ in self.parts]
        still = [True] * len(self.parts)
        for h in steps:
            ahead = {n: torch.add(self.x[n], d, alpha=h) for n, d in u.items()}
            behind = {n: torch.sub(self.x[n], d, alpha=h) for n, d in u.items()}
            changes = [self.changed(ahead), self.changed(behind)]
            made = {n: self.made(n, ahead[n] - behind[n]) for n in u}
            for k, part in enumerate(self.parts):
                after, before = (math.nan if c is None else pair(part.cotangent, c) / h for c in changes)
                still[k] &= all(c is not None and not bool((c * part.cotangent).any()) for c in changes)
                rows[k].append((after, -before, sum(pair(part.gradients[n], d) for n, d in made.items()) / (2 * h)))
        ladders = []
        for part, row, floor, rests in zip(self.parts, rows, self.floors, still, strict=True):
            products = sum(float((part.gradients[n] * d).abs().sum()) for n, d in u.items())
            right, left, moved = ([line[i] for line in row] for i in range(3))
            rounding, quantum = MARGIN * self.replay.eps * products, self.quantum * magnitude(part.cotangent)
            ladders.append((Ladder(steps, right, left, moved, floor, rounding, quantum), rests))
        return ladders

    def made(self, name: str, change: Tensor) -> Tensor:
        """Returns the change that was really made; what is infinite stays where it is."""
        return change if self.movable[name] else change.nan_to_num(0.0)

    def own_rounding(self, u: Direction, part: Part) -> float:
        """What rounding makes of ⟨G, u⟩ by way of G itself: nothing, where a part of the outputs has no gradient."""
        changes = {n: self.question.rounding(n).nan_to_num(0.0) * (part.gradients[n] != 0) for n in u}
        return MARGIN * math.sqrt(sum(float((changes[n] * d.abs()).square().sum()) for n, d in u.items()))

    def moved(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """Returns the output at other values, `None` outside of what the function accepts."""
        try:
            y = self.output(values)
        except RunError:
            return None
        return y if y.shape == self.replay.trace.value.shape else None

    def changed(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """Returns how far the output moved."""
        y = self.moved(values)
        return None if y is None else y - self.replay.trace.value


def _unsure(finding: Slope) -> Slope:
    return replace(finding, verdict="cannot say", reason="joint") if finding.verdict == "differs" else finding


def finite(gradient: Tensor) -> Tensor:
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def _reals(value: Tensor) -> Tensor:
    return torch.view_as_real(value) if value.is_complex() else value


def magnitude(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value if value.is_complex() else value.double()))


def _next(x: Tensor, towards: Tensor) -> Tensor:
    """Returns the numbers next to those of a tensor, in a direction; those that it does not move stay."""
    if x.is_complex():
        return torch.complex(_next(x.real, towards.real), _next(x.imag, towards.imag))
    return torch.where(towards == 0, x, torch.nextafter(x, torch.where(towards > 0, math.inf, -math.inf).to(x)))


def gravity(finding: Slope) -> float:
    return math.inf if math.isnan(finding.lacking) else abs(finding.lacking)
