"""Finite differences that know their own error: ladders of steps along random directions, and of single elements.

All elements move at once, each by a part of its own size. What a direction's error bound resolves of an element's own
effect is seen; the others move again without those, until nothing new is seen (*peeling*). So the verdict takes a
number of runs that does not grow with the inputs, and holds for every element. What does not simply agree gets a closer
look.

The function is F, as it was written. Where that does not settle a gradient (something is held constant, there is a
kink), the function G is asked that torch differentiates: see `recording.frozen`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.mathematics.indices import unravelled
from gradexplain.verification.oracles.answers import Check, Stop, Unable, Verdict
from gradexplain.verification.oracles.bisection import singled_out
from gradexplain.verification.oracles.elements import RESOLUTION, Part, coarsest, seen
from gradexplain.verification.oracles.ladders import (
    FINE_RESOLUTION,
    FINE_STEPS,
    STEPS,
    USUAL_STEPS,
    Ladder,
    Slope,
    extrapolated,
    judge,
    useful_steps,
)
from gradexplain.verification.oracles.measures import MARGIN, common_scale, pair, plain
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay
from gradexplain.verification.oracles.stops import stops_of

ORACLE = "finite differences"
# Runs of the function for the random directions, and to find the elements of one that does not simply agree.
DIRECTION_RUNS, BISECTION_RUNS = 150, 110
# More inputs than this move together.
MOST_ALONE = 8
# An error of relative size e hides from a random direction of resolution r with a probability of about r / e: a
# coarser direction than this needs a second one.
SURE_RESOLUTION = 1e-6
# How sharp a direction must be, beside its largest effect, after the first: what is coarser is peeled once more.
PEELED_RESOLUTION = 1e-5
# Gradients at points nearby, from which longer units are learned.
MOST_LEARNED = 6
# Up to this many elements, a closer look takes each by itself; of more, a few that bisection finds, and a few others.
MOST_EACH, MOST_BISECTED, SAMPLED_BESIDE = 8, 3, 2
# Elements with a claim of 0 that move the output and are looked at alone.
MOST_ZEROS = 16
# A part of the outputs stands still if it moves by less than this part of its size.
STILL_RESOLUTION = 1e-9
# A slope of 0 is resolved if its bound is this part of what the function changes in an eighth of the element's unit.
ZERO_RESOLUTION = 1e-7
# What is less than e to the minus this is 0 in float64; a bend is sought in so many halvings, of seven eighths to 1e-3.
UNDERFLOW, MOST_HALVINGS = 745.0, 10
# What a stop of less than can be measured makes of a slope.
SLIGHT = 1e-8

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
        return max(self.findings, key=lambda f: (_RANK[f.verdict], _gravity(f)))

    @property
    def agrees(self) -> bool:
        return all(f.verdict == "agrees" for f in self.findings)


# What looks like a jump, down to the finest usual step; steps below those, and how well the slope has to be confirmed
# there: as of a number that is 0, or small beside its scale, differences lose no digits.
JUMPS = ("jump", "step")
CLOSE_STEPS = (2.0**-48, 2.0**-51, 2.0**-54)
CLOSE = 1e-6
_RANK = {"agrees": 0, "cannot say": 1, "differs": 2}


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
    written = _probed(question, replay, question.names, runs)
    open_ = [n for n, check in written.items() if _is_open(question, check)]
    frozen = question.frozen if open_ else None
    if isinstance(frozen, Replay):
        kept = _probed(question, frozen, open_, runs)
        written |= {n: _of_both(question, written[n], kept[n]) for n in open_}
    elif isinstance(frozen, Unable):
        written |= {n: _uncertain(question, written[n], frozen) for n in open_}
    bent = [n for n in open_ if written[n].verdict == "cannot say" and written[n].reason in ("kink", "edge")]
    branched = question.branched if bent else None
    if isinstance(branched, Replay):
        along = _probed(question, branched, bent, runs)
        written |= {n: _at_kink(written[n], along[n]) for n in bent}
    yield from (written[n] for n in question.names)


def _probed(question: Question, replay: Replay, names: Sequence[str], runs: int) -> dict[str, Check]:
    with replay.running() as output:
        return {check.input: check for check in _Probe(question, replay, output, runs, names).checks()}


def _is_open(question: Question, check: Check) -> bool:
    """Says whether what torch holds constant, or takes at a kink, may be behind what F does not settle."""
    if check.verdict == "agrees":
        return False
    return check.reason not in ("unseen", "coarse", "joint", "cancelled", "nan") or bool(question.trace.cuts)


def _of_both(question: Question, written: Check, kept: Check) -> Check:
    """Returns what F and G say: G judges, and what F says beside it is what was stopped, by definition or at a line."""
    if written.reason in ("jump", "steep", "singular"):
        return written
    stops = _stops(question, written)
    if stops and not (question.stoppable and all(stop.seen for stop in stops)):
        lost = tuple(stop for stop in stops if not stop.seen)
        return replace(written, verdict="differs", stops=lost, reason="lost" if lost else "slope")
    if stops:
        reason = "cut" if kept.verdict == "agrees" else kept.reason
        return replace(kept, reason=reason, data={**kept.data, **written.data}, stops=stops)
    if "quantile" in question.definitions and written.verdict == "differs":
        unclear = replace(kept, verdict="cannot say", reason="quantile") if kept.verdict == "agrees" else kept
        return replace(unclear, data={**kept.data, **written.data, **question.departing})
    if question.departures and written.verdict == "differs":
        return replace(kept, reason=kept.reason or "departs", data={**kept.data, **question.departing})
    if kept.verdict == "agrees" and _is_slight(written):  # a share that is too small to be measured
        return replace(kept, reason="cut", data={**kept.data, **written.data})
    return written


def _is_slight(written: Check) -> bool:
    """Says whether F differs in known elements alone, and by next to nothing of each."""
    pairs = [(complex(str(seen)), complex(str(right))) for _, seen, right in _elements(written)]
    return bool(pairs) and all(abs(a - b) <= SLIGHT * max(abs(a), abs(b)) for a, b in pairs)


def _elements(check: Check) -> Sequence[tuple[Place, object, object]]:
    """Returns the elements that were found wrong: place, torch's gradient, the function's slope."""
    wrong = check.data.get("elements")
    return wrong if isinstance(wrong, tuple) else ()


def _stops(question: Question, written: Check) -> tuple[Stop, ...]:
    """Returns what is stopped; near the point where the point itself has a kink, or where a path seems to be lost."""
    places = [place for place, _, _ in _elements(written)]
    if written.reason not in ("kink", "edge"):
        stops = stops_of(question, written.input, places)
        if all(stop.seen for stop in stops):
            return stops
    nearby = question.nearby
    return stops_of(nearby, written.input, places) if nearby is not None else ()


def _at_kink(met: Check, along: Check) -> Check:
    """Returns what the function on torch's own branch says at a kink; torch's choice lies between the slopes there."""
    if along.verdict != "agrees":
        return met if along.verdict == "cannot say" else along
    return replace(along, reason=met.reason, data={**along.data, **met.data}, place=met.place, stops=met.stops)


def _uncertain(question: Question, check: Check, unable: Unable) -> Check:
    """Returns what F alone says where G cannot be had: a difference may be something that torch holds constant."""
    if check.verdict != "differs" or check.reason != "slope":
        return check
    if unable.reason != "replay_failed":
        return replace(check, verdict="cannot say", reason=unable.reason, data=unable.data)
    return replace(check, verdict="cannot say", reason="cut") if question.trace.cuts else check


class _Probe:
    """The directions tried for one question; `runs` are left for it."""

    def __init__(self, question: Question, replay: Replay, output: Output, runs: int, names: Sequence[str]) -> None:
        self.question, self.replay, self.output, self.runs = question, replay, output, runs
        self.x = {n: replay.trace.inputs[n] for n in names}
        self.own = question.units
        self.scale = dict(self.own)
        self.movable = {n: bool(x.isfinite().all()) for n, x in self.x.items()}
        self.claimed = {n: question.gradient(n) for n in names}
        self.claim = {n: _finite(g) for n, g in self.claimed.items()}
        self.parts = [Part(p.cotangent, {n: _finite(p.gradients[n]) for n in names}) for p in question.parts]
        self.bounds = {n: torch.full(x.shape, math.inf, dtype=torch.float64) for n, x in self.x.items()}
        self.looks = {n: torch.zeros(x.shape, dtype=torch.int8) for n, x in self.x.items()}
        self.generator = torch.Generator().manual_seed(20)
        self.steps: Sequence[float] = USUAL_STEPS
        self.noise = [0.0] * len(self.parts)

    def checks(self) -> Iterator[Check]:
        """Gives one check for each input."""
        moving = [n for n, x in self.x.items() if x.numel()]
        yield from (
            Check(ORACLE, n, "agrees", 0.0, 0.0, 0.0, bounds=self.bounds[n]) for n, x in self.x.items() if not x.numel()
        )
        groups = [[n] for n in moving] if len(moving) <= MOST_ALONE else [moving]
        share = self.runs // max(len(groups), 1)
        for group in groups:
            self.runs = max(share, 2 * len(STEPS))
            yield from self.settled(group)

    def settled(self, group: Sequence[str]) -> Iterator[Check]:
        """Gives the checks of a group: its elements are peeled; those that do not agree are found and left out."""
        moving = {n: self.x[n].isfinite() for n in group}
        tried: list[Tried] = []
        alone: list[Tried] = []
        for _ in range(MOST_BISECTED):
            tried = self.peeled(group, moving)
            bad = [t for t in tried if not t.agrees]
            if not bad:
                break
            looked = self.closer(group, moving, tried)
            alone += looked
            odd = [t.at for t in looked if t.at is not None and not t.agrees]
            for name, place in odd:
                moving[name][place] = False
            # Those drawn at random are wrong as well: what remains of the input need not be told apart.
            everywhere = len(group) == 1 and len(odd) == len(looked) > SAMPLED_BESIDE
            if not odd or everywhere or not any(bool(m.any()) for m in moving.values()):
                break
        alone += self.zeros(group, moving)
        for name in group:
            own = [t for t in alone if t.at and t.at[0] == name]
            joint = [t for t in tried if name in t.direction]
            yield self.check(name, _joined(joint, own, self.x[name]) or joint or own)

    # ------------------------------------------------------------------------------------------------- peeling

    def peeled(self, group: Sequence[str], moving: Mapping[str, Tensor]) -> list[Tried]:
        """Moves what is not seen yet, until all is, or a direction shows nothing new, or one does not agree."""
        tried: list[Tried] = []
        open_ = dict(moving)
        for lengthen in (None, self.lengthen, self.learn):
            if lengthen is not None and self._any(open_):
                lengthen(group, open_)
            while True:  # each direction takes of the runs that are left
                if not self._any(open_) or (tried and self.runs < 2 * len(self.steps)):
                    return tried
                looked = self.tried(self.random(open_), within=FINE_RESOLUTION if not tried else PEELED_RESOLUTION)
                if not looked.agrees and lengthen == self.lengthen:  # it may leap over a pole: no evidence
                    break
                tried.append(looked)
                if not looked.agrees:
                    return tried
                new = self.marked(looked)
                open_ = {n: moving[n] & ~seen(self.bounds[n]) & (self.claim[n] != 0) for n in group}
                if not new:
                    break
        return tried

    def lengthen(self, group: Sequence[str], open_: Mapping[str, Tensor]) -> None:
        """Gives elements that their own size did not show the common unit of their tensor."""
        for n in group:
            longer = self.own[n].clamp_min(common_scale(self.x[n]))
            self.scale[n] = torch.where(open_[n], longer, self.scale[n])

    def learn(self, group: Sequence[str], open_: Mapping[str, Tensor]) -> None:
        """Gives elements that their own size did not show a larger unit: as far as the gradient stays about the same.

        Only a scale: a wrong gradient, or a wrong unit, costs resolution and no soundness.
        """
        units = {n: torch.full_like(self.scale[n], common_scale(self.x[n])) for n in group}
        for turn in range(MOST_LEARNED):
            draw = {n: self._signed(units[n], self.x[n]) * units[n] / 8 for n in group}
            moved = {n: self.x[n] + torch.where(open_[n], draw[n], 0.0).to(self.x[n].dtype) for n in group}
            there = self.question.gradients_at(moved)
            rough = {n: self._changed(n, there) & (units[n] > self.own[n]) for n in group}
            if not self._any(rough):
                break
            for n in group:
                units[n] = torch.where(rough[n], torch.maximum(units[n] / 8 ** (turn + 1), self.own[n]), units[n])
        for n in group:
            self.scale[n] = torch.where(open_[n], units[n], self.scale[n])

    def _changed(self, name: str, there: Mapping[str, Tensor] | None) -> Tensor:
        """Says where a gradient is another one, by nearly a third, or where there is none."""
        here = self.claimed[name]
        if there is None:
            return torch.ones_like(here, dtype=torch.bool)
        other = there[name]
        return ~((other - here).abs() <= 0.3 * torch.maximum(here.abs(), other.abs()))

    @staticmethod
    def _any(masks: Mapping[str, Tensor]) -> bool:
        return any(bool(mask.any()) for mask in masks.values())

    def marked(self, tried: Tried) -> bool:
        """Notes what a direction that agrees shows of each element that it moves; says whether that is anything new."""
        # The direction says |⟨E, u⟩| ≤ b for the error E of each part's gradient. In one element, an error of b / |uᵢ|
        # would have been seen; beside the gradient of the part, or of all parts together, that is
        #     b / max(|gᵢ uᵢ|, |Gᵢ uᵢ|).
        # A claim of exactly 0 in a part that is seen to stand still, to some digits of its own, is right there.
        new = False
        for name, u in tried.direction.items():
            size = u.abs()
            total = (self.claim[name].abs() * size).double()
            worst = torch.zeros_like(total)
            for part, finding, still in zip(self.parts, tried.findings, tried.still, strict=True):
                own = (part.gradients[name].abs() * size).double()
                limit = abs(finding.lacking) + finding.bound
                relative = limit / torch.maximum(own, total)
                quiet = still or limit <= STILL_RESOLUTION * _size(part.cotangent * self.replay.trace.value)
                worst = torch.maximum(worst, torch.where(own == 0, 0.0, relative) if quiet else relative)
            worst = torch.where((size > 0) & (total > 0), worst, math.inf).cpu()
            self.looks[name] += (worst <= RESOLUTION).to(torch.int8)
            sure = (worst <= SURE_RESOLUTION) | (self.looks[name] > 1) | (self.size([name]) == 1)
            better = (worst < self.bounds[name]) & (sure | (worst > RESOLUTION))
            new = new or bool((worst <= RESOLUTION).any())
            self.bounds[name] = torch.where(better, worst, self.bounds[name])
        return new

    # --------------------------------------------------------------------------------------------- claims of zero

    def zeros(self, group: Sequence[str], moving: Mapping[str, Tensor]) -> list[Tried]:
        """Looks at the elements with a gradient of exactly 0: their own unit must move nothing, or their slope be 0.

        Returns what was tried of elements whose slope is not.
        """
        masks = {n: moving[n] & (self.claim[n] == 0) & ~seen(self.bounds[n]) for n in group}
        places = [(n, p) for n in group for p in masks[n].flatten().nonzero().flatten().tolist()]
        if not places or not self.wholly(group):
            return []
        waiting, budget, movers = [places], 2 * MOST_ZEROS + 8, list[tuple[str, int]]()
        while waiting and budget > 0:
            some = waiting.pop()
            budget -= 1
            if self.is_still(some):
                for name, position in some:
                    self.bounds[name][unravelled(position, self.x[name].shape)] = 0.0
            elif len(some) == 1:
                movers += some
            else:
                waiting += [some[: len(some) // 2], some[len(some) // 2 :]]
        looked = [self.zero(n, unravelled(p, self.x[n].shape)) for n, p in movers[:MOST_ZEROS]]
        return [t for t in looked if not t.agrees]

    def wholly(self, group: Sequence[str]) -> bool:
        """Says whether there is room for the runs that claims of zero take."""
        self.runs = max(self.runs, 2 * len(FINE_STEPS) * MOST_ZEROS)
        return all(self.movable[n] for n in group)

    def is_still(self, places: Sequence[tuple[str, int]]) -> bool:
        """Says whether moving elements by their own unit, both ways, moves no output by more than its last digit."""
        direction = {n: torch.zeros_like(self.x[n]) for n, _ in places}
        for name, position in places:
            place = unravelled(position, self.x[name].shape)
            direction[name][place] = self.scale[name][place].to(self.x[name].dtype)
        draw = self._spread(direction)
        y = self.replay.trace.value
        noise = 2 * self.replay.eps * y.abs() + self.replay.jitter
        for sign in (1.0, -1.0):
            moved = self.moved({n: self.x[n] + sign * d for n, d in draw.items()})
            if moved is None or not bool(((moved - y).abs() <= noise).all()):
                return False
        return True

    def _spread(self, direction: Mapping[str, Tensor]) -> Direction:
        """Returns a direction with its elements drawn from [½, 1] of what they are, and signs at random."""
        return {n: self._signed(d.abs(), d).to(d.dtype) * d for n, d in direction.items()}

    def zero(self, name: str, place: Place) -> Tried:
        """Looks at one element whose gradient is 0 and which moves the output: its slope must be 0 beside its bend."""
        tried = self.tried(self.unit(name, place), (name, place))
        if not tried.agrees:
            return tried
        coarse = self.ladder(tried.direction, STEPS[:1])
        worst = 0.0
        for (ladder, still), finding in zip(coarse, tried.findings, strict=True):
            reach = max(abs(ladder.right[0]), abs(ladder.left[0]))
            if not still:
                worst = max(worst, (abs(finding.lacking) + finding.bound) / reach if reach else math.inf)
        if all(still for _, still in coarse):  # it moves farther out, behind a bend or as what is too small to be seen
            self.runs -= 2 + 2 * MOST_HALVINGS
            worst = (
                0.0 if all(self.is_behind_a_bend(sign * tried.direction[name], name) for sign in (1, -1)) else math.inf
            )
        if worst <= ZERO_RESOLUTION:
            self.bounds[name][place] = worst
        return tried

    def is_behind_a_bend(self, u: Tensor, name: str) -> bool:
        """Says whether an output that stands still along an eighth of `u` begins to move at a bend, if at all."""
        # Let it stand still, to its noise σ, from 0 to a, and move by M within w more. Had it no bend, it would grow by
        # q = M/σ within w, and no slower on the way to a (as powers, exponentials and the tails of bells do: ln of
        # them is concave). So at 0 it moves by less than σ q^(−a/w), which is 0 in float64 if
        #     ln(q) · a/w  ≥  −ln(5e-324).
        low, high, moved = STEPS[0], 1.0, self.loudness(name, u)
        for _ in range(MOST_HALVINGS):
            if moved <= 1.0 or math.log(moved) * low >= UNDERFLOW * (high - low):
                return True
            middle = (low + high) / 2
            there = self.loudness(name, middle * u)
            if there > 1.0:
                high, moved = middle, there
            else:
                low = middle
        return False

    def loudness(self, name: str, change: Tensor) -> float:
        """Returns by how many times its noise the output moves, in the element of it that moves most; nan outside."""
        moved, y = self.changed({name: self.x[name] + change}), self.replay.trace.value
        if moved is None:
            return math.nan
        noise = torch.maximum(2 * self.replay.eps * y.abs() + self.replay.jitter, self.question.roughness)
        return float((moved.abs() / noise.clamp_min(torch.finfo(torch.float64).tiny)).max())

    # ---------------------------------------------------------------------------------------------- a closer look

    def closer(self, group: Sequence[str], moving: Mapping[str, Tensor], tried: Sequence[Tried]) -> list[Tried]:
        """Tries single elements: each of a few, and those of many that a bisection of the worst direction finds."""
        size = self.size(group)
        if size <= MOST_EACH:
            places = [p for p in range(size) if self._moves(group, moving, p)]
        else:
            worst = max(
                (t for t in tried if not t.agrees), key=lambda t: (_RANK[t.finding.verdict], _gravity(t.finding))
            )
            found = self.bisected(group, size, worst)
            places = list(dict.fromkeys([*found, *self.drawn(group)]))
        self.runs = max(self.runs, 2 * (len(STEPS) + len(USUAL_STEPS)) * len(places))
        looked = [t for position in places for t in self.alone(group, position)]
        for t in looked:
            if t.agrees:
                self.marked(t)
        return looked

    def _moves(self, group: Sequence[str], moving: Mapping[str, Tensor], position: int) -> bool:
        name, place = _element(group, self.x, position)
        return bool(moving[name][place])

    def drawn(self, group: Sequence[str]) -> list[int]:
        """Draws a few elements, of those that have a gradient: where it is zero by convention, an error hides."""
        claims = torch.cat([self.claim[n].flatten() != 0 for n in group])
        able = claims.nonzero().flatten() if bool(claims.any()) else torch.arange(len(claims))
        return able[torch.randint(0, len(able), (SAMPLED_BESIDE,), generator=self.generator).to(able.device)].tolist()

    def bisected(self, group: Sequence[str], size: int, worst: Tried) -> list[int]:
        """Returns elements that make the effect seen along a direction, at the finest step that shows it."""
        found = worst.finding
        number = worst.findings.index(found)
        noise = max(found.noise, self.floors[number])
        order, index = found.chosen
        wrong = found.verdict == "differs"
        steps = STEPS[index : index + order + 1] if wrong else FINE_STEPS[-1:]

        def measure(start: int, stop: int) -> float:
            ladder, _ = self.ladder(_restricted(worst.direction, group, self.x, start, stop), steps)[number]
            return extrapolated(ladder.residuals, order)[0][-1] if wrong else ladder.right[0] - ladder.left[0]

        whole = measure(0, size)
        threshold = max(8 * noise / steps[-1], 1e-2 * abs(whole))
        tries = max(BISECTION_RUNS // (2 * len(steps)), math.ceil(math.log2(size)))
        return singled_out(measure, size, whole, threshold, tries=tries, most=MOST_BISECTED)

    def size(self, group: Sequence[str]) -> int:
        """How many numbers the inputs of a group hold."""
        return sum(self.x[n].numel() for n in group)

    def alone(self, group: Sequence[str], position: int) -> Iterator[Tried]:
        """Tries one element by itself; a complex one moves in its real and its imaginary part."""
        name, place = _element(group, self.x, position)
        for turn in (1.0, 1.0j) if self.x[name].is_complex() else (1.0,):
            yield self.tried(self.unit(name, place, turn), (name, place))

    # --------------------------------------------------------------------------------------------- one direction

    def random(self, masks: Mapping[str, Tensor]) -> Direction:
        """A direction with entries ±U[½, 1] in units of each element's own size, where a mask is set."""
        drawn = {n: self._signed(self.scale[n], self.x[n]) * self.scale[n] for n in masks}
        return {n: torch.where(mask.to(drawn[n].device), drawn[n], 0.0) for n, mask in masks.items() if mask.any()}

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
        short = replace(self.judged(u, self.steps, self.noise), at=at, whole=False)
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
        return tried.agrees and max(f.bound for f in tried.findings) <= within * size

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
        return [max(1.5 * self.replay.eps * _size(p.cotangent * y), self.replay.jitter) for p in self.parts]

    @cached_property
    def quantum(self) -> float:
        """What the outputs may move by at once where they lose digits inside."""
        y = self.replay.trace.value
        return MARGIN * self.replay.eps * max(1.0, float(_finite(y.abs()).max()) if y.numel() else 0.0)

    def inner_noise(self, part: Part) -> float:
        """The noise that rounding makes of ⟨v, y⟩ on the way to y, which may be 0 itself, as in log(1 + e).

        Measured with operators that round at random; and no function is computed more exactly than with a change in the
        last digit of an input.
        """
        effects = [(part.gradients[n].abs() * self.own[n]).max() for n, x in self.x.items() if x.numel()]
        last_digit = 1.5 * self.replay.eps * float(max(effects, default=0.0))
        return max(last_digit, _size(part.cotangent * self.question.roughness))

    def ladder(self, u: Direction, steps: Sequence[float]) -> list[tuple[Ladder, bool]]:
        """Runs the function at both ends of each step; for each part of the outputs, says whether it stood still."""
        self.runs -= 2 * len(steps)
        rows: list[list[tuple[float, float, float]]] = [[] for _ in self.parts]
        still = [True] * len(self.parts)
        for h in steps:
            ahead = {n: self.x[n] + h * d for n, d in u.items()}
            behind = {n: self.x[n] - h * d for n, d in u.items()}
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
            rounding, quantum = MARGIN * self.replay.eps * products, self.quantum * _size(part.cotangent)
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

    # ------------------------------------------------------------------------------------------------- the answer

    def check(self, name: str, tried: Sequence[Tried]) -> Check:
        """Joins what the directions said into the check of one input."""
        if not tried:
            return Check(ORACLE, name, "cannot say", reason="immovable")
        bad = [t for t in tried if t.finding.verdict == "differs"]
        mute = [t for t in tried if t.finding.verdict == "cannot say"]
        chosen = max(bad or mute or tried, key=lambda t: (t.at is not None, _gravity(t.finding)))
        broken = self._broken(name)
        if broken is not None:
            self.runs = max(self.runs, 4 * len(STEPS))
            chosen = self.tried(self.unit(name, broken), (name, broken))
        resolution = self.resolution(name)
        verdict, reason = self._verdict(name, chosen.finding, broken is not None)
        wrong = tuple(self._elements(name, bad))
        if reason == "slope" and self._beneath(wrong):
            verdict, reason = "agrees", "beneath"
        place = chosen.at[1] if chosen.at else None
        unseen = int((~seen(self.bounds[name])).sum())
        data: dict[str, object] = self._numbers(name, chosen.finding, place) | {
            "resolution": resolution,
            "directions": len(tried),
        }
        data |= {"joint": len(chosen.direction), "elements": wrong, "unseen": unseen, "count": self.x[name].numel()}
        data |= {"alone": sum(t.at is not None for t in tried)}
        slope = chosen.finding
        bounds = self.bounds[name] if verdict != "differs" else None
        return Check(ORACLE, name, verdict, abs(slope.lacking), slope.bound, resolution, reason, data, place, bounds)

    def resolution(self, name: str) -> float | None:
        """Returns how small a relative error would have been seen, in the worst element that was seen."""
        bounds = self.bounds[name]
        known = bounds[bounds.isfinite()]
        return coarsest(bounds) if bool(seen(bounds).any()) else float(known.min()) if known.numel() else None

    def _verdict(self, name: str, slope: Slope, broken: bool) -> tuple[Verdict, str | None]:
        if slope.reason == "step":
            path = self.replay.trace.gradients[name] is not None
            return "cannot say", "jump" if path else "selects"
        if slope.verdict == "cannot say":
            return "cannot say", slope.reason
        if broken:
            return "differs", "nan"
        if slope.verdict == "differs":
            return "differs", "slope"
        bounds = self.bounds[name]
        if bool(seen(bounds).all()):
            return "agrees", None
        some = bool(seen(bounds).any()) or not bool(bounds.isfinite().any())
        return "cannot say", "unseen" if some else self.question.blur(name)

    def _broken(self, name: str) -> Place | None:
        """The first element whose claimed gradient is nan or infinite."""
        wrong = (~self.claimed[name].isfinite() & self.x[name].isfinite()).flatten()
        return unravelled(int(wrong.int().argmax()), self.claimed[name].shape) if bool(wrong.any()) else None

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
        claimed: object = slope.claim / unit
        if place is not None and not bool(self.claimed[name][place].isfinite()):
            claimed = plain(self.claimed[name][place])
        return {
            "seen": claimed,
            "right": (slope.claim + slope.lacking) / unit + 0.0,
            "below": slope.left / unit + 0.0,  # no minus before a zero
            "above": slope.right / unit + 0.0,
            "noise": slope.noise,
        }


def _unsure(finding: Slope) -> Slope:
    return replace(finding, verdict="cannot say", reason="joint") if finding.verdict == "differs" else finding


def _finite(gradient: Tensor) -> Tensor:
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def _reals(value: Tensor) -> Tensor:
    return torch.view_as_real(value) if value.is_complex() else value


def _size(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value if value.is_complex() else value.double()))


def _joined(tried: Sequence[Tried], alone: Sequence[Tried], x: Tensor) -> list[Tried]:
    """Returns what counts of all that was tried for one input: single elements speak before random directions.

    Where every element was taken alone, directions that cannot judge add nothing. Where elements have kinks of their
    own, a direction that moves many across their kinks is no contradiction.
    """
    whole = len(alone) >= x.numel()
    bent = any(t.finding.reason in ("kink", "jump", "steep") for t in alone)
    joint = [t for t in tried if not (whole and t.finding.verdict == "cannot say")]
    return [*(t for t in joint if not (bent and t.finding.verdict == "differs")), *alone]


def _next(x: Tensor, towards: Tensor) -> Tensor:
    """Returns the numbers next to those of a tensor, in a direction; those that it does not move stay."""
    if x.is_complex():
        return torch.complex(_next(x.real, towards.real), _next(x.imag, towards.imag))
    return torch.where(towards == 0, x, torch.nextafter(x, torch.where(towards > 0, math.inf, -math.inf).to(x)))


def _gravity(finding: Slope) -> float:
    return math.inf if math.isnan(finding.lacking) else abs(finding.lacking)


def _element(names: Sequence[str], x: Mapping[str, Tensor], position: int) -> tuple[str, Place]:
    """Returns the element at `position` of all the elements of `names`, one input after the other."""
    for name in names:
        if position < x[name].numel():
            return name, unravelled(position, x[name].shape)
        position -= x[name].numel()
    raise IndexError(position)


def _restricted(u: Direction, names: Sequence[str], x: Mapping[str, Tensor], start: int, stop: int) -> Direction:
    """Returns the direction with the elements outside start … stop − 1 (of all, one input after the other) at rest."""
    kept: dict[str, Tensor] = {}
    for name in names:
        size = x[name].numel()
        if start < size and stop > 0 and name in u:
            flat = torch.zeros_like(u[name]).flatten()
            flat[max(start, 0) : stop] = u[name].flatten()[max(start, 0) : stop]
            kept[name] = flat.reshape(u[name].shape)
        start, stop = start - size, stop - size
    return kept
