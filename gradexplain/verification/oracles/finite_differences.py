"""Finite differences that know their own error: ladders of steps along random directions, and of single elements.

A verdict takes a number of runs that does not grow with the inputs; what does not simply agree gets a closer look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.verification.oracles.bisection import singled_out
from gradexplain.verification.oracles.ladders import (
    FINE_RESOLUTION,
    FINE_STEPS,
    STEPS,
    USUAL_STEPS,
    Ladder,
    Slope,
    judge,
    useful_steps,
)
from gradexplain.verification.oracles.question import (
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
)

ORACLE = "finite differences"
# Runs of the function for the random directions, and for a closer look where they do not simply agree.
DIRECTION_RUNS, CLOSER_RUNS = 104, 86
# An error of relative size e is missed by a random direction with resolution r with a probability of about r / e: one
# direction that is resolved to FINEST_RESOLUTION is enough, of those resolved to FINE_RESOLUTION two, of others four.
# More inputs than MOST_ALONE move together.
FINEST_RESOLUTION, DIRECTIONS, MOST_ALONE = 1e-11, 4, 8
# Up to this many elements, a closer look takes each by itself; of more, a few that bisection finds, and a few others.
MOST_EACH, MOST_BISECTED, SAMPLED_BESIDE = 8, 3, 2

Direction = Mapping[str, Tensor]
Place = tuple[int, ...]


@dataclass(frozen=True)
class Tried:
    """A direction and what it says; `at` is the element that it moves alone, `whole` says that no step was left out."""

    direction: Direction
    finding: Slope
    at: tuple[str, Place] | None = None
    whole: bool = True


def ask(question: Question) -> Iterator[Check]:
    """Compares the gradient of each input with differences of the function, rerun in float64."""
    replay = question.replay
    if isinstance(replay, Unable):
        yield from (Check(ORACLE, n, "cannot say", reason=replay.reason, data=replay.data) for n in question.names)
        return
    runs = int(min(question.effort / max(replay.seconds, 1e-9), DIRECTION_RUNS))
    if runs < len(STEPS):
        data = {"elements": question.elements}
        yield from (Check(ORACLE, n, "cannot say", reason="too_costly", data=data) for n in question.names)
        return
    with replay.running() as output:
        checks = list(_Probe(question, replay, output, runs).checks())
    yield from checks


class _Probe:
    """The directions tried for one question; `runs` are left for it."""

    def __init__(
        self, question: Question, replay: Replay, output: Callable[[Mapping[str, Tensor]], Tensor], runs: int
    ) -> None:
        self.question, self.replay, self.output, self.runs = question, replay, output, runs
        self.x = {n: replay.trace.inputs[n] for n in question.names}
        self.scale = question.units
        self.movable = {n: bool(x.isfinite().all()) for n, x in self.x.items()}
        self.claimed = {n: question.gradient(n) for n in question.names}
        self.claim = {n: g.nan_to_num(0.0, 0.0, 0.0) for n, g in self.claimed.items()}
        self.generator = torch.Generator().manual_seed(20)
        self.steps: Sequence[float] = USUAL_STEPS
        self.noise = 0.0

    def checks(self) -> Iterator[Check]:
        """Gives one check for each input."""
        moving = [n for n, x in self.x.items() if x.numel()]
        yield from (Check(ORACLE, n, "agrees", 0.0, 0.0, 0.0) for n, x in self.x.items() if not x.numel())
        groups = [[n] for n in moving] if len(moving) <= MOST_ALONE else [moving]
        for group, tried in zip(groups, self.directions(groups), strict=True):
            yield from self.settled(group, tried)

    def directions(self, groups: Sequence[Sequence[str]]) -> list[list[Tried]]:
        """Tries random directions for every group in turn, while there are runs left."""
        trials: list[list[Tried]] = [[] for _ in groups]
        for number in range(DIRECTIONS):
            for group, tried in zip(groups, trials, strict=True):
                if not tried or (self.runs >= 2 * len(self.steps) and self.wants_more(group, tried, number)):
                    hasty = number == 0 and len(groups) > 1  # each has its turn before any is made sharper
                    tried.append(self.tried(self.random(group), within=RESOLUTION if hasty else FINE_RESOLUTION))
        return trials

    def wants_more(self, group: Sequence[str], tried: Sequence[Tried], number: int) -> bool:
        """Says whether a group needs one more direction; one that does not agree is enough to look closer."""
        if any(t.whole and t.finding.verdict != "agrees" for t in tried):
            return False
        resolution = max(t.finding.bound for t in tried) / min(map(self.question.scale, group))
        wanted = 1 if resolution <= FINEST_RESOLUTION else 2 if resolution <= FINE_RESOLUTION else DIRECTIONS
        return number < min(self.size(group), wanted)

    def settled(self, group: Sequence[str], tried: list[Tried]) -> Iterator[Check]:
        """Gives the checks of a group, after a closer look where its directions do not simply agree."""
        if not all(self.is_settled(t, RESOLUTION) for t in tried):
            self.runs = CLOSER_RUNS
            tried = [t if t.whole or self.is_settled(t, RESOLUTION) else self.tried(t.direction) for t in tried]
        if all(t.finding.verdict == "agrees" for t in tried):
            yield from (self.check(name, self.apart(name, tried)) for name in group)
            return
        closer = self.closer(group, tried)
        suspects = {t.at[0] for t in closer if t.at and t.finding.verdict == "differs"}
        others = [name for name in group if name not in suspects]
        cleared = self.cleared(others) if suspects and others else tried
        for name in group:
            alone = [t for t in closer if t.at and t.at[0] == name]
            yield self.check(name, _joined(tried if name in suspects or not suspects else cleared, alone, self.x[name]))

    def apart(self, name: str, tried: list[Tried]) -> list[Tried]:
        """Tries an input by itself where, moved with others, it is seen too coarsely."""
        coarse = max(t.finding.bound for t in tried) > RESOLUTION * self.question.scale(name)
        if not coarse or len(tried[0].direction) == 1 or self.runs < 2 * len(self.steps):
            return tried
        return [self.tried(self.random([name]))]

    def cleared(self, names: Sequence[str]) -> list[Tried]:
        """Tries the inputs of a group again without those that are wrong."""
        return [self.tried(self.random(names))]

    def closer(self, group: Sequence[str], tried: Sequence[Tried]) -> list[Tried]:
        """Tries single elements: each of a few, and those of many that a bisection of the worst direction finds."""
        size = self.size(group)
        if size <= MOST_EACH:
            return [t for position in range(size) for t in self.alone(group, position)]
        worst = max((t for t in tried if t.finding.verdict != "agrees"), key=lambda t: _gravity(t.finding))
        largest = self.bisected(group, size, worst)
        first, *others = self.drawn(group)
        return [t for position in dict.fromkeys([first, *largest, *others]) for t in self.alone(group, position)]

    def drawn(self, group: Sequence[str]) -> list[int]:
        """Draws a few elements, of those that have a gradient: where it is zero by convention, an error hides."""
        claims = torch.cat([self.claim[n].flatten() != 0 for n in group])
        able = claims.nonzero().flatten() if bool(claims.any()) else torch.arange(len(claims))
        return able[torch.randint(0, len(able), (SAMPLED_BESIDE,), generator=self.generator).to(able.device)].tolist()

    def bisected(self, group: Sequence[str], size: int, worst: Tried) -> list[int]:
        """Returns elements that make the effect seen along a direction, at the finest step that shows it."""
        seen = worst.finding
        noise = max(seen.noise, self.floor)
        shows = [h for h in STEPS if 1e3 * noise / h <= abs(seen.lacking)]
        h = min(shows, default=FINE_STEPS[-1]) if seen.verdict == "differs" else FINE_STEPS[-1]

        def measure(start: int, stop: int) -> float:
            ladder = self.ladder(_restricted(worst.direction, group, self.x, start, stop), [h])
            return ladder.residuals[0] if seen.verdict == "differs" else ladder.right[0] - ladder.left[0]

        whole = measure(0, size)
        threshold = max(8 * noise / h, 1e-2 * abs(whole))
        return singled_out(measure, size, whole, threshold, tries=(self.runs - 52) // 2, most=MOST_BISECTED)

    def size(self, group: Sequence[str]) -> int:
        """How many numbers the inputs of a group hold."""
        return sum(self.x[n].numel() for n in group)

    def alone(self, group: Sequence[str], position: int) -> Iterator[Tried]:
        """Tries one element by itself; a complex one moves in its real and its imaginary part."""
        name, place = _element(group, self.x, position)
        for turn in (1.0, 1.0j) if self.x[name].is_complex() else (1.0,):
            if self.runs >= 2 * len(FINE_STEPS):
                yield self.tried(self.unit(name, place, turn), (name, place))

    def random(self, names: Sequence[str]) -> Direction:
        """A direction with entries ±U[½, 1] in units of each element's own size: no element can hide behind others."""
        return {n: self._signed(self.scale[n], self.x[n]) * self.scale[n] for n in names}

    def _signed(self, like: Tensor, x: Tensor) -> Tensor:
        shape = like.shape
        size = torch.rand(shape, generator=self.generator, dtype=torch.float64) / 2 + 0.5
        signs = torch.randint(0, 2, shape, generator=self.generator) * 2 - 1
        if not x.is_complex():
            return (size * signs).to(x.device)
        turn = torch.rand(shape, generator=self.generator, dtype=torch.float64) * (2 * math.pi)
        return torch.polar(size, turn).to(x.device)

    def unit(self, name: str, place: Place, turn: complex = 1.0) -> Direction:
        """The direction that moves one element by its own size."""
        u = torch.zeros_like(self.x[name])
        u[place] = self.scale[name][place] * turn
        return {name: u}

    def tried(self, u: Direction, at: tuple[str, Place] | None = None, within: float = RESOLUTION) -> Tried:
        """Judges one direction, by the steps that settled the one before, or by all where these cannot settle it."""
        short = Tried(u, self.judged(u, self.steps, self.noise), at, whole=False)
        if self.is_settled(short, within):
            return short
        if self.runs < 2 * len(STEPS):  # what only a few steps show is no evidence against a gradient
            unsure = replace(short.finding, verdict="cannot say", reason="coarse")
            return replace(short, finding=unsure) if short.finding.verdict == "differs" else short
        finding = self.judged(u, STEPS, 0.0)
        self.noise, self.steps = max(self.noise, finding.noise), useful_steps(finding)
        return Tried(u, finding, at)

    def is_settled(self, tried: Tried, within: float) -> bool:
        """Says whether a direction agrees, to a part of the gradient's size."""
        size = min(map(self.question.scale, tried.direction))
        return tried.finding.verdict == "agrees" and tried.finding.bound <= within * size

    def judged(self, u: Direction, steps: Sequence[float], noise: float) -> Slope:
        """Judges a direction; what rounding makes of the gradient under test is measured only if that matters."""
        ladder = self.ladder(u, steps)
        finding = judge(ladder, noise)
        if finding.reason == "slope" and self.encloses(u):
            return replace(finding, verdict="cannot say", reason="kink")
        if finding.verdict == "agrees" or finding.reason not in (None, "noise"):
            return finding
        return judge(replace(ladder, rounding=ladder.rounding + self.own_rounding(u)), noise)

    def encloses(self, u: Direction) -> bool:
        """Says whether kinks of single outputs leave room for the claim.

        Along u, an output y has a slope r on the right and l on the left, and a convention takes any number between. So
        ⟨G, u⟩ is between Σ min(v r, v l) and Σ max(v r, v l), which the sums of all, ⟨v, r⟩ and ⟨v, l⟩, need not show.
        """
        h, v, y = FINE_STEPS[-1], self.replay.trace.cotangent, self.replay.trace.value
        if y.numel() == 1 or y.is_complex():
            return False
        self.runs -= 2
        try:
            right = v * (self.output({n: self.x[n] + h * d for n, d in u.items()}) - y) / h
            left = v * (y - self.output({n: self.x[n] - h * d for n, d in u.items()})) / h
        except RunError:  # outside of what the function accepts
            return False
        low, high = float(torch.minimum(right, left).sum()), float(torch.maximum(right, left).sum())
        slack = MARGIN * h * float(torch.maximum(right.abs(), left.abs()).sum())  # the truncation of one-sided slopes
        return low - slack <= sum(pair(self.claim[n], d) for n, d in u.items()) <= high + slack

    @cached_property
    def floor(self) -> float:
        """The noise that rounding makes of ⟨v, y⟩: m rounded terms, each wrong by eps/2, with a margin of three."""
        return max(1.5 * self.replay.eps * self.question.value, self.replay.jitter)

    def ladder(self, u: Direction, steps: Sequence[float]) -> Ladder:
        """Runs the function at both ends of each step."""
        self.runs -= 2 * len(steps)
        right, left, moved = [], [], []
        for h in steps:
            ahead = {n: self.x[n] + h * d for n, d in u.items()}
            behind = {n: self.x[n] - h * d for n, d in u.items()}
            right.append(self.slope(ahead, h))
            left.append(-self.slope(behind, h))
            moved.append(sum(pair(self.claim[n], self.made(n, ahead[n] - behind[n])) for n in u) / (2 * h))
        products = sum(float((self.claim[n] * d).abs().sum()) for n, d in u.items())
        return Ladder(steps, right, left, moved, self.floor, MARGIN * self.replay.eps * products)

    def made(self, name: str, change: Tensor) -> Tensor:
        """Returns the change that was really made; what is infinite stays where it is."""
        return change if self.movable[name] else change.nan_to_num(0.0)

    def own_rounding(self, u: Direction) -> float:
        """What rounding makes of ⟨G, u⟩ by way of G itself."""
        own = sum(float((self.question.rounding(n).nan_to_num(0.0) * d.abs()).square().sum()) for n, d in u.items())
        return MARGIN * math.sqrt(own)

    def slope(self, values: Mapping[str, Tensor], h: float) -> float:
        """(⟨v, f(values)⟩ − ⟨v, f(x)⟩) / h, nan where the step leaves the domain."""
        try:
            y = self.output(values)
        except RunError:
            return math.nan
        if y.shape != self.replay.trace.value.shape:
            return math.nan
        return pair(self.replay.trace.cotangent, y - self.replay.trace.value) / h

    def check(self, name: str, tried: Sequence[Tried]) -> Check:
        """Joins what the directions said into the check of one input."""
        scale = self.question.scale(name)
        bad = [t for t in tried if t.finding.verdict == "differs"]
        mute = [t for t in tried if t.finding.verdict == "cannot say"]
        chosen = max(bad or mute or tried, key=lambda t: (t.at is not None, _gravity(t.finding)))
        resolution = max(t.finding.bound for t in tried) / scale
        broken = self._broken(name)
        if broken is not None:
            self.runs = max(self.runs, 4 * len(STEPS))
            chosen = self.tried(self.unit(name, broken), (name, broken))
        verdict, reason = self._verdict(name, chosen.finding, resolution, broken is not None)
        wrong = tuple(self._elements(name, bad))
        if reason == "slope" and self._beneath(wrong):
            verdict, reason = "agrees", "beneath"
        place = chosen.at[1] if chosen.at else None
        data = self._numbers(name, chosen.finding, place) | {"resolution": resolution, "directions": len(tried)}
        data |= {"joint": len(chosen.direction), "elements": wrong}
        data |= {"alone": sum(t.at is not None for t in tried)}
        slope = chosen.finding
        return Check(ORACLE, name, verdict, abs(slope.lacking), slope.bound, resolution, reason, data, place)

    def _verdict(self, name: str, slope: Slope, resolution: float, broken: bool) -> tuple[Verdict, str | None]:
        if slope.reason == "step":
            path = self.replay.trace.gradients[name] is not None
            return "cannot say", "jump" if path else "selects"
        if slope.verdict == "cannot say":
            return "cannot say", slope.reason
        if broken:
            return "differs", "nan"
        if slope.verdict == "differs":
            return ("cannot say", "cut") if self.question.trace.cuts else ("differs", "slope")
        return ("agrees", None) if resolution <= RESOLUTION else ("cannot say", self.question.blur(name))

    def _broken(self, name: str) -> Place | None:
        """The first element whose claimed gradient is nan or infinite."""
        wrong = (~self.claimed[name].isfinite() & self.x[name].isfinite()).flatten()
        return index_of(int(wrong.int().argmax()), self.claimed[name].shape) if bool(wrong.any()) else None

    def _elements(self, name: str, bad: Sequence[Tried]) -> Iterator[tuple[Place, object, object]]:
        """The elements found wrong: place, torch's gradient, the function's slope."""
        for t in bad:
            if t.at is not None:
                numbers = self._numbers(name, t.finding, t.at[1])
                yield t.at[1], numbers["seen"], numbers["right"]

    def _beneath(self, wrong: Sequence[tuple[Place, object, object]]) -> bool:
        """Says whether all that is wrong is less than the last digit of the type that the user runs in."""
        pairs = [(complex(str(seen)), complex(str(right))) for _, seen, right in wrong]
        return bool(pairs) and all(abs(a - b) <= self.question.precision * abs(b) for a, b in pairs)

    def _numbers(self, name: str, slope: Slope, place: Place | None) -> dict[str, object]:
        """The slopes for a reader: of one element, or along the direction where there is none."""
        unit = float(self.scale[name][place]) if place is not None else 1.0
        seen: object = slope.claim / unit
        if place is not None and not bool(self.claimed[name][place].isfinite()):
            seen = plain(self.claimed[name][place])
        return {
            "seen": seen,
            "right": (slope.claim + slope.lacking) / unit + 0.0,
            "below": slope.left / unit + 0.0,  # no minus before a zero
            "above": slope.right / unit + 0.0,
            "noise": slope.noise,
        }


def _joined(tried: Sequence[Tried], alone: Sequence[Tried], x: Tensor) -> list[Tried]:
    """Returns what counts of all that was tried for one input: single elements speak before random directions.

    Where every element was taken alone, directions that cannot judge add nothing. Where elements have kinks of their
    own and none of them contradicts, a direction that moves many across their kinks is no contradiction either.
    """
    whole = len(alone) >= x.numel()
    bent = any(t.finding.reason in ("kink", "jump") for t in alone)
    clear = not any(t.finding.verdict == "differs" for t in alone)
    joint = [t for t in tried if not (whole and t.finding.verdict == "cannot say")]
    return [*(t for t in joint if not (bent and clear and t.finding.verdict == "differs")), *alone]


def _gravity(finding: Slope) -> float:
    return math.inf if math.isnan(finding.lacking) else abs(finding.lacking)


def _element(names: Sequence[str], x: Mapping[str, Tensor], position: int) -> tuple[str, Place]:
    """Returns the element at `position` of all the elements of `names`, one input after the other."""
    for name in names:
        if position < x[name].numel():
            return name, index_of(position, x[name].shape)
        position -= x[name].numel()
    raise IndexError(position)


def _restricted(u: Direction, names: Sequence[str], x: Mapping[str, Tensor], start: int, stop: int) -> Direction:
    """Returns the direction with the elements outside start … stop − 1 (of all, one input after the other) at rest."""
    kept: dict[str, Tensor] = {}
    for name in names:
        size = x[name].numel()
        if start < size and stop > 0:
            flat = torch.zeros_like(u[name]).flatten()
            flat[max(start, 0) : stop] = u[name].flatten()[max(start, 0) : stop]
            kept[name] = flat.reshape(u[name].shape)
        start, stop = start - size, stop - size
    return kept
