"""Which directions are tried: all elements at once, then those that are not seen yet, then single ones.

All elements move at once, each by a part of its own size. What a direction's error bound resolves of an element's own
effect is seen; the others move again without those, until nothing new is seen (*peeling*). So the verdict takes a
number of runs that does not grow with the inputs, and holds for every element. What does not simply agree gets a closer
look.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from gradexplain.mathematics.indices import unravelled
from gradexplain.verification.oracles.answers import Check, Verdict, unaccused
from gradexplain.verification.oracles.bisection import singled_out
from gradexplain.verification.oracles.directions import (
    RANK,
    Direction,
    Directions,
    Output,
    Place,
    Tried,
    gravity,
    magnitude,
)
from gradexplain.verification.oracles.elements import RESOLUTION, coarsest, seen
from gradexplain.verification.oracles.ladders import (
    FINE_RESOLUTION,
    FINE_STEPS,
    STEPS,
    USUAL_STEPS,
    Slope,
    extrapolated,
)
from gradexplain.verification.oracles.measures import MARGIN, common_scale, plain
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay

ORACLE = "finite differences"

# An element of an input, by its position in the flattened tensor.
Spot = tuple[str, int]

# Runs of the function to find the elements of a direction that does not simply agree.
BISECTION_RUNS = 110
# More inputs than this move together.
MOST_ALONE = 8
# An error of relative size e hides from a random direction of resolution r with a probability of about r / e: a
# coarser direction than this needs a second one.
SURE_RESOLUTION = 1e-6
# How sharp a direction must be, beside its largest effect, after the first: what is coarser is peeled once more.
PEELED_RESOLUTION = 1e-5
# How sharp a direction must be, beside its largest effect, to be taken for the best that can be had.
SHARP = 1e-3
# Where a direction shows less than one in so many of the elements that it moves, no sharper than the one before, the
# others are not seen in any number of runs that is worth it.
MANY = 16
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


class Probe(Directions):
    """The directions that judge the gradients of a question, and the check of each input that they come to."""

    def __init__(self, question: Question, replay: Replay, output: Output, runs: int, names: Sequence[str]) -> None:
        super().__init__(question, replay, output, runs, names)
        self.bounds = {n: torch.full(x.shape, math.inf, dtype=torch.float64) for n, x in self.x.items()}
        self.looks = {n: torch.zeros(x.shape, dtype=torch.int8) for n, x in self.x.items()}

    def checks(self) -> Iterator[Check]:
        """Gives one check for each input."""
        moving = [n for n, x in self.x.items() if x.numel()]
        yield from (
            Check(ORACLE, n, "agrees", 0.0, 0.0, 0.0, bounds=self.bounds[n]) for n, x in self.x.items() if not x.numel()
        )
        groups = [[n] for n in moving] if len(moving) <= MOST_ALONE else [moving]
        left = self.runs
        for number, group in enumerate(groups):
            self.runs = share = max(left // (len(groups) - number), 2 * len(STEPS))
            self.sharpens = True
            yield from self.settled(group)
            left -= max(share - self.runs, 0)

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
            for name, count in Counter(name for name, _ in odd).items():
                if len(group) > 1 and count > SAMPLED_BESIDE:  # what is asked of the others is asked without it
                    moving[name][...] = False
            if not odd or everywhere or not any(bool(m.any()) for m in moving.values()):
                break
        if not self.is_blind(moving, tried):
            alone += self.zeros(group, moving)
        for check in unaccused([self.joined(name, tried, alone) for name in group]):
            yield replace(check, bounds=self.bounds[check.input]) if check.reason == "joint" else check

    def joined(self, name: str, tried: Sequence[Tried], alone: Sequence[Tried]) -> Check:
        """Returns the check of one input of a group."""
        own = [t for t in alone if t.at and t.at[0] == name]
        joint = [t for t in tried if name in t.direction]
        return self.check(name, _joined(joint, own, self.x[name]) or joint or own)

    # ------------------------------------------------------------------------------------------------- peeling

    def peeled(self, group: Sequence[str], moving: Mapping[str, Tensor]) -> list[Tried]:
        """Moves what is not seen yet, until all is, or a direction shows nothing new, or one does not agree."""
        tried: list[Tried] = []
        open_ = dict(moving)
        for lengthen in (None, self.lengthen, self.learn):
            if lengthen is not None and self._any(open_):
                if self.is_spent(group, open_, tried[-1]):
                    return tried
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
                shown, moved = self.marked(looked), _count(open_)
                open_ = {n: moving[n] & ~seen(self.bounds[n]) & (self.claim[n] != 0) for n in group}
                slow = len(tried) > 2 and shown < moved / MANY and looked.bound > tried[-2].bound / 2
                if not shown or (slow and self.is_settled(looked, SHARP)):
                    break
        return tried

    def is_spent(self, group: Sequence[str], open_: Mapping[str, Tensor], tried: Tried) -> bool:
        """Says whether a sharp direction leaves most unseen that the common unit of a tensor would not show either."""
        enough = tried.bound / RESOLUTION
        shown = {n: open_[n] & (self.claim[n].abs() * common_scale(self.x[n]) >= enough) for n in group}
        return self.is_settled(tried, SHARP) and 2 * _count(shown) < _count(open_)

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
            draw = {n: self.signed(units[n], self.x[n]) * units[n] / 8 for n in group}
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

    def marked(self, tried: Tried) -> int:
        """Notes what a direction that agrees shows of each element that it moves; returns of how many it shows that."""
        # The direction says |⟨E, u⟩| ≤ b for the error E of each part's gradient. In one element, an error of b / |uᵢ|
        # would have been seen; beside the gradient of the part, or of all parts together, that is
        #     b / max(|gᵢ uᵢ|, |Gᵢ uᵢ|).
        # A claim of exactly 0 in a part that is seen to stand still, to some digits of its own, is right there.
        shown = 0
        for name, u in tried.direction.items():
            size = u.abs()
            total = (self.claim[name].abs() * size).double()
            worst = torch.zeros_like(total)
            for part, finding, still in zip(self.parts, tried.findings, tried.still, strict=True):
                own = (part.gradients[name].abs() * size).double()
                limit = abs(finding.lacking) + finding.bound
                relative = limit / torch.maximum(own, total)
                quiet = still or limit <= STILL_RESOLUTION * magnitude(part.cotangent * self.replay.trace.value)
                worst = torch.maximum(worst, torch.where(own == 0, 0.0, relative) if quiet else relative)
            worst = torch.where((size > 0) & (total > 0), worst, math.inf).cpu()
            self.looks[name] += (worst <= RESOLUTION).to(torch.int8)
            sure = (worst <= SURE_RESOLUTION) | (self.looks[name] > 1) | (self.size([name]) == 1)
            better = (worst < self.bounds[name]) & (sure | (worst > RESOLUTION))
            shown += int((worst <= RESOLUTION).count_nonzero())
            self.bounds[name] = torch.where(better, worst, self.bounds[name])
        return shown

    # --------------------------------------------------------------------------------------------- claims of zero

    def zeros(self, group: Sequence[str], moving: Mapping[str, Tensor]) -> list[Tried]:
        """Looks at the elements with a gradient of exactly 0: their own unit must move nothing, or their slope be 0.

        Returns what was tried of elements whose slope is not.
        """
        masks = {n: moving[n] & (self.claim[n] == 0) & ~seen(self.bounds[n]) for n in group}
        places = [(n, p) for n in group for p in masks[n].flatten().nonzero().flatten().tolist()]
        if not places or not self.wholly(group):
            return []
        still, movers = self.parted(places)
        short = self.short(still)
        for name, positions in _by_name(short).items():
            self.scale[name] = self.scale[name].clone(memory_format=torch.contiguous_format)
            longer = self.own[name].flatten()[positions].clamp_min(self.long(name))
            self.scale[name].view(-1)[positions] = longer
        longer_still, _ = self.parted(short)
        shown = (set(still) - set(short)) | (set(longer_still) - set(self.short(longer_still)))
        for name, positions in _by_name(shown).items():
            self.bounds[name].view(-1)[positions] = 0.0
        looked = [self.zero(n, unravelled(p, self.x[n].shape)) for n, p in movers[:MOST_ZEROS]]
        return [t for t in looked if not t.agrees]

    def parted(self, places: Sequence[Spot]) -> tuple[list[Spot], list[Spot]]:
        """Returns the elements whose unit moves nothing, and a few of those that move the output by themselves."""
        still, movers = list[Spot](), list[Spot]()
        waiting, budget = [list(places)] if places else [], 2 * MOST_ZEROS + 8
        while waiting and budget > 0:
            some = waiting.pop()
            budget -= 1
            if self.is_still(some):
                still += some
            elif len(some) == 1:
                movers += some
            else:
                waiting += [some[: len(some) // 2], some[len(some) // 2 :]]
        return still, movers

    def short(self, places: Sequence[Spot]) -> list[Spot]:
        """Returns the elements whose unit is too short: what it moves would be lost in the output's last digits."""
        masks = {name: self.is_short(name).flatten().tolist() for name in {name for name, _ in places}}
        return [(name, position) for name, position in places if masks[name][position]]

    def is_short(self, name: str) -> Tensor:
        """Says which units do not show a slope that is small beside the least of the tensor, or beside its secant."""
        # Where no output moves by more than its last digits n, a slope is at most Σ |v| n / unit, and the half of a
        # unit is moved at least.
        unit, claims = self.scale[name].abs(), self.claim[name].abs()
        lost = 2 * float((self.question.judged.cotangent.abs() * self.last_digits).sum()) / unit
        if bool((claims > 0).any()) and not bool((short := lost > RESOLUTION * claims[claims > 0].min()).any()):
            return short
        told = claims[claims > MARGIN * self.question.rounding(name)]
        if told.numel():
            return lost > RESOLUTION * told.min()
        return (lost > RESOLUTION * self.secant(name)) & (unit < self.long(name))

    def long(self, name: str) -> float:
        """Returns the unit that shows more than that of an element: the tensor's, or 1 where all of it has no slope."""
        return common_scale(self.x[name]) if bool((self.claim[name] != 0).any()) else 1.0

    def secant(self, name: str) -> float:
        """Returns what the output moves by if all of an input does by its long unit; infinite outside of the domain."""
        long = self.long(name)
        step = (long * self.signed(self.scale[name], self.x[name])).to(self.x[name].dtype)
        far = self.changed({name: self.x[name] + step})
        return math.inf if far is None else float((self.question.judged.cotangent * far).abs().sum()) / long

    def is_blind(self, moving: Mapping[str, Tensor], tried: Sequence[Tried]) -> bool:
        """Says whether sharp directions agree and show hardly any of the gradients that are not 0, nor ever will."""
        there = {n: mask & (self.claim[n] != 0) for n, mask in moving.items()}
        few = 2 * _count({n: mask & seen(self.bounds[n]) for n, mask in there.items()}) < _count(there)
        return few and all(t.agrees and self.is_settled(t, SHARP) for t in tried)

    def wholly(self, group: Sequence[str]) -> bool:
        """Says whether there is room for the runs that claims of zero take."""
        self.runs = max(self.runs, 2 * len(FINE_STEPS) * MOST_ZEROS)
        return all(self.movable[n] for n in group)

    def is_still(self, places: Sequence[Spot]) -> bool:
        """Says whether moving elements by their own unit, both ways, moves no output by more than its last digit."""
        draw = {n: self._drawn(n, positions) for n, positions in _by_name(places).items()}
        changes = (self.changed({n: self.x[n] + sign * d for n, d in draw.items()}) for sign in (1.0, -1.0))
        return all(change is not None and bool((change.abs() <= self.last_digits).all()) for change in changes)

    @cached_property
    def last_digits(self) -> Tensor:
        """What moves no output by more than its last digits."""
        return 2 * self.replay.eps * self.replay.trace.value.abs() + self.replay.jitter

    def _drawn(self, name: str, positions: Sequence[int]) -> Tensor:
        """Returns how elements of one input move: each by [½, 1] of its unit, its sign at random."""
        units = self.scale[name].flatten()[positions]
        moved = torch.zeros_like(self.x[name]).flatten()
        moved[positions] = (self.signed(units, moved) * units).to(moved.dtype)
        return moved.reshape(self.x[name].shape)

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
        moved = self.changed({name: self.x[name] + change})
        if moved is None:
            return math.nan
        noise = torch.maximum(self.last_digits, self.question.roughness)
        return float((moved.abs() / noise.clamp_min(torch.finfo(torch.float64).tiny)).max())

    # ---------------------------------------------------------------------------------------------- a closer look

    def closer(self, group: Sequence[str], moving: Mapping[str, Tensor], tried: Sequence[Tried]) -> list[Tried]:
        """Tries single elements: each of a few, and those of many that a bisection of the worst direction finds."""
        size = self.size(group)
        if size <= MOST_EACH:
            places = [p for p in range(size) if self._moves(group, moving, p)]
        else:
            worst = max((t for t in tried if not t.agrees), key=lambda t: (RANK[t.finding.verdict], gravity(t.finding)))
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

    # ------------------------------------------------------------------------------------------------- the answer

    def check(self, name: str, tried: Sequence[Tried]) -> Check:
        """Joins what the directions said into the check of one input."""
        if not tried:
            return Check(ORACLE, name, "cannot say", reason="immovable")
        bad = [t for t in tried if t.finding.verdict == "differs"]
        mute = [t for t in tried if t.finding.verdict == "cannot say"]
        chosen = max(bad or mute or tried, key=lambda t: (t.at is not None, gravity(t.finding)))
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
        worst = math.nan if reason == "nan" else abs(slope.lacking)
        return Check(ORACLE, name, verdict, worst, slope.bound, resolution, reason, data, place, bounds)

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


def _count(masks: Mapping[str, Tensor]) -> int:
    """Returns how many elements are meant."""
    return sum(int(mask.count_nonzero()) for mask in masks.values())


def _by_name(places: Iterable[Spot]) -> dict[str, list[int]]:
    """Returns the positions of elements by their input."""
    found: dict[str, list[int]] = {}
    for name, position in places:
        found.setdefault(name, []).append(position)
    return found


def _joined(tried: Sequence[Tried], alone: Sequence[Tried], x: Tensor) -> list[Tried]:
    """Returns what counts of all that was tried for one input: single elements speak before random directions.

    Where every element was taken alone, directions that cannot judge add nothing. Where elements have kinks of their
    own, a direction that moves many across their kinks is no contradiction.
    """
    whole = len(alone) >= x.numel()
    bent = any(t.finding.reason in ("kink", "jump", "steep") for t in alone)
    joint = [t for t in tried if not (whole and t.finding.verdict == "cannot say")]
    return [*(t for t in joint if not (bent and t.finding.verdict == "differs")), *alone]


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
