"""From two sides to a comparison: bit by bit first, then by what rounding explains.

A difference is held against the rounding of both sides, each measured in its own types. Where the reference run in
float64 is the truth of the reference (its own numbers are as near to that as their rounding allows), the candidate is
held against the truth as well, with its own rounding alone: a coarse reference hides nothing in an exact candidate.

Where both can be run in float64, the two formulas are held against each other there, where neither side rounds to its
own type. What is left between them is no rounding. So it is a difference where the sides' own type can resolve it: more
than a last digit of an element, and more than one standard deviation of what rounding does to it, or more than a last
digit of all elements together. But a constant that was made in a short type is rounded, in float64 as well: where there
are such, the difference has to be more than all that rounding does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from gradexplain.comparison.comparison import Compared, Kind, Reason
from gradexplain.comparison.rounding import STAGES, Rounding, Trials, moderated, quantile
from gradexplain.comparison.sides import Outcome, Side
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.computation import differentiable
from gradexplain.recording.plain import is_slight
from gradexplain.rules.application import wide
from gradexplain.verification.oracles.measures import plain
from gradexplain.verification.oracles.promotion import LOW
from gradexplain.verification.oracles.rounding import Answer, answering, trials

# A tensor of one side: what it is, and its name.
Label = tuple[Kind, str]
Settled = TypeVar("Settled")


@dataclass(frozen=True)
class Pair:
    """One tensor of both sides, of one shape, and the truth, where there is one.

    What is not finite, and the same in both, stands as 0 in it; `nans` says that some of it was no number.
    """

    kind: Kind
    name: str
    one: Tensor
    other: Tensor
    truth: Tensor | None = None  # the reference in float64
    formula: Tensor | None = None  # the candidate in float64
    nans: bool = False
    rounded: bool = False  # a formula has constants of a short type in it

    @property
    def label(self) -> Label:
        """What it is, and its name."""
        return self.kind, self.name

    @property
    def base(self) -> Tensor:
        """The best that is known of what it should be."""
        best: Tensor = wide(self.one if self.truth is None else self.truth)
        return best

    def share(self, value: Tensor) -> Tensor:
        """Returns how many times the base is in a tensor, as a number: ⟨value, base⟩ / ⟨base, base⟩."""
        base = self.base
        scaled = (base / base.abs().max().clamp_min(_LEAST)).conj()
        within, whole = ((t * scaled).real.sum() if t.is_complex() else (t * scaled).sum() for t in (wide(value), base))
        return within / whole if bool(whole != 0) else whole

    def is_equal(self, i: int, value: Tensor) -> bool:
        """Says whether a tensor has the very numbers of a side."""
        own = (self.one, self.other)[i]
        return value.dtype == own.dtype and not value.is_sparse and torch.equal(own, value)

    @property
    def eps(self) -> float:
        """The last digit of the coarser type of the two."""
        return max(torch.finfo(t.dtype).eps for t in (self.one, self.other))


def outcome_tensors(outcome: Outcome) -> dict[Label, Tensor | None]:
    """Returns all tensors of an outcome: the values, then the gradients."""
    values: dict[Label, Tensor | None] = {("value", n): t for n, t in outcome.values.items()}
    return values | {("gradient", n): t for n, t in outcome.gradients.items()}


def settled(
    one: Mapping[Label, Tensor | None], other: Mapping[Label, Tensor | None]
) -> tuple[dict[Label, Compared], list[Pair]]:
    """Returns the tensors that need no measure to be judged, and the pairs that do."""
    done: dict[Label, Compared] = {}
    pairs: list[Pair] = []
    for label, a in one.items():
        if label[0] == "value" and label not in other:  # an output that one side alone has
            continue
        b = other.get(label)
        if a is None or b is None:
            done[label] = _absent(*label, a, b)
        elif a.shape != b.shape:
            done[label] = _plain(*label, a, b, "shape")
        elif not _alike(a, b):
            done[label] = _unlike(*label, a, b)
        else:
            spoilt = ~wide(a).isfinite()
            nans = bool(wide(a).isnan().any())
            ours, theirs = (t.masked_fill(spoilt, 0) if bool(spoilt.any()) else t for t in (a, b))
            if torch.equal(wide(ours), wide(theirs)):
                done[label] = _plain(*label, a, b, "nan" if nans else "bits")
            else:
                pairs.append(Pair(*label, ours, theirs, nans=nans))
    return done, pairs


def _alike(a: Tensor, b: Tensor) -> bool:
    """Says whether two tensors are finite at the same elements, and elsewhere the same: nan, or one infinity."""
    one, other = wide(a), wide(b)
    spoilt = ~one.isfinite()
    if not torch.equal(spoilt, ~other.isfinite()):
        return False
    same = (one == other) | (one.isnan() & other.isnan())
    return bool(same[spoilt].all())


def _unlike(kind: Kind, name: str, a: Tensor, b: Tensor) -> Compared:
    one, other = wide(a), wide(b)
    apart = (one.isfinite() != other.isfinite()) | ((one != other) & ~(one.isnan() & other.isnan()) & ~one.isfinite())
    place = unravelled(int(apart.flatten().int().argmax()), a.shape)
    found = _plain(kind, name, a, b, "nan_in_one")
    return replace(found, place=place, numbers=(plain(a[place]), plain(b[place])), times=math.inf)


def _absent(kind: Kind, name: str, a: Tensor | None, b: Tensor | None) -> Compared:
    there = a if a is not None else b
    if there is None or not bool((there != 0).any()):
        return _plain(kind, name, a, b, "none")
    place = unravelled(int(there.abs().flatten().argmax()), there.shape)
    numbers = [None if t is None else plain(t[place]) for t in (a, b)]
    return replace(_plain(kind, name, a, b, "missing"), place=place, numbers=(numbers[0], numbers[1]), times=math.inf)


_VERDICTS: Mapping[str, Any] = {
    **dict.fromkeys(("bits", "rounding", "none"), "same"),
    **dict.fromkeys(("beyond", "missing", "shape", "nan_in_one"), "differs"),
}


def _plain(kind: Kind, name: str, a: Tensor | None, b: Tensor | None, reason: Reason) -> Compared:
    shapes = tuple(None if t is None else tuple(t.shape) for t in (a, b))
    dtypes = tuple("" if t is None else str(t.dtype).removeprefix("torch.") for t in (a, b))
    count = a.numel() if a is not None else 0
    verdict = _VERDICTS.get(reason, "cannot say")
    return Compared(name, kind, verdict, reason, shapes, dtypes, count=count)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- rounding


def finite(value: Tensor) -> Tensor:
    """Returns a tensor with 0 for what is not finite, as it stands in a pair."""
    return value.masked_fill(~wide(value).isfinite(), 0)


def last_digit(value: Tensor) -> Tensor:
    """Returns what the last rounding of all makes of each element, at most: half a last digit.

    Or half of the smallest number that the type has; nothing of an exact 0.
    """
    finfo, size = torch.finfo(value.dtype), wide(value).abs()
    last: Tensor = size.clamp_min(finfo.smallest_normal).mul_(finfo.eps / 2).mul_(size != 0)
    return last


@dataclass
class Measured:
    """The trials of both sides, and what was decided by them; `failed` says why a side has none."""

    pairs: list[Pair]
    sides: tuple[Side, Side]
    running: list[Iterator[Mapping[Label, Tensor]] | None] = field(default_factory=lambda: [None, None])
    answers: list[list[Answer] | None] = field(default_factory=lambda: [None, None])  # what a side decides by
    failed: list[str | None] = field(default_factory=lambda: [None, None])
    unsteady: dict[Label, int] = field(default_factory=dict)  # the side that gives another tensor when it is run again
    unmoved: list[Mapping[Label, Tensor]] = field(default_factory=lambda: [{}, {}])  # as they are measured
    doubtful: list[Pair] = field(default_factory=list)  # what last digits alone do not explain

    @cached_property
    def trials(self) -> tuple[Trials, Trials]:
        """The trials of both sides, about what they give as they are measured.

        That is another thing than what they gave where they were compiled, or have the user's hooks: how far compiled
        code is from what was written, and what a hook makes of a gradient, is no rounding.
        """
        one, other = ({p.label: self.unmoved[i].get(p.label, (p.one, p.other)[i]) for p in self.pairs} for i in (0, 1))
        all_ = [{of_all(p): p.share(own[p.label]) for p in self.pairs} for own in (one, other)]
        return Trials({**one, **all_[0]}), Trials({**other, **all_[1]})

    @property
    def count(self) -> int:
        """How many numbers are looked at in all."""
        return sum(pair.one.numel() for pair in self.pairs)

    @cached_property
    def scale(self) -> float:
        """The size of the largest number of all."""
        return max((float(p.base.abs().max()) for p in self.pairs if p.one.numel()), default=0.0)

    def repeat(self) -> None:
        """Runs both sides once more, as they are measured; what is unlike, as they are.

        What is not what it was, but for another order of sums, is no rounding.
        """
        for i, side in enumerate(self.sides):
            if side.gave is not None:
                continue
            found = self._as_measured(i, side)
            moved = {p.label: t for p in self.pairs if (t := _alike_in(found, p)) is not None and not p.is_equal(i, t)}
            self.unmoved[i] = {label: finite(t) for label, t in moved.items()}
            if unlike := [p for p in self.pairs if not _is_again(p, i, found)]:
                again = outcome_tensors(side.run())
                self.unsteady |= {p.label: i for p in unlike if not _is_again(p, i, again)}

    def _as_measured(self, i: int, side: Side) -> Mapping[Label, Tensor | None]:
        """Returns what a side gives as it is measured, and keeps what it decides in Python, for the trials."""
        answers: list[Answer] = []
        with suppress(Exception):  # not every function runs under a mode
            outcome = side.measurable().run(answering(answers))
            self.answers[i] = answers
            return outcome_tensors(outcome)
        return {}

    def take(self, count: int) -> None:
        """Makes trials of both sides until there are so many of each."""
        for i, side in enumerate(self.sides):
            if side.gave is not None:
                self.failed[i] = None if side.gave.rounding else "–"
            elif self.failed[i] is None:
                try:
                    running = self.running[i] or trials(partial(self._trial, side.measurable()), self.answers[i])
                    self.running[i] = running
                    self.trials[i].take(running, count)
                except Exception as fault:  # the user's function, or torch's, refuses a number next to its own
                    self.failed[i] = str(fault).split("\n", 1)[0]

    def _trial(self, side: Side, mode: Any) -> Mapping[Label, Tensor]:
        found = outcome_tensors(side.run(mode))
        seen = {pair.label: t for pair in self.pairs if (t := found.get(pair.label)) is not None}
        if any(pair.label not in seen or seen[pair.label].shape != pair.one.shape for pair in self.pairs):
            raise ValueError("another shape")
        return seen | {of_all(pair): pair.share(seen[pair.label]) for pair in self.pairs}

    def shares(self, pair: Pair) -> tuple[Rounding, Rounding] | None:
        """Returns what rounding does to all elements together, as `rounding` does to each."""
        return self._both(of_all(pair), [torch.zeros(())] * 2)

    def rounding(self, pair: Pair) -> tuple[Rounding, Rounding] | None:
        """Returns what rounding does to both sides; where one cannot be run so, the other's; `None` without either."""
        return self._both(pair.label, [last_digit(value) for value in (pair.one, pair.other)])

    def _both(self, label: Label, last: Sequence[Tensor]) -> tuple[Rounding, Rounding] | None:
        one, other = (self._of_side(i, label, last[i]) for i in (0, 1))
        if one is None and other is None:
            return None
        return (one or other, other or one)  # type: ignore[return-value]

    def _of_side(self, i: int, label: Label, last: Tensor) -> Rounding | None:
        if (gave := self.sides[i].gave) is not None:
            return gave.rounding.get(label)
        return self.trials[i].rounding(label, last) if self.trials[i].count > 1 and self.failed[i] is None else None

    def unjudged(self, pair: Pair) -> Compared | None:
        """Returns what is said of a pair that cannot be judged, `None` of any other."""
        if pair.label in self.unsteady:
            reason: Reason = "unsteady"
            data = {"side": "AB"[self.unsteady[pair.label]]}
        elif all(self.failed):
            reason, data = "unmeasured", {"message": str(self.failed[0])}
        else:
            return None
        return replace(_plain(*pair.label, pair.one, pair.other, reason), data=data, relative=_relative(pair))


def _alike_in(found: Mapping[Label, Tensor | None], pair: Pair) -> Tensor | None:
    """Returns the tensor of a pair, `None` where there is none of its shape."""
    value = found.get(pair.label)
    return value if value is not None and value.shape == pair.one.shape else None


def _is_again(pair: Pair, i: int, found: Mapping[Label, Tensor | None]) -> bool:
    """Says whether a side gave a tensor once more, but for another order of sums."""
    value = _alike_in(found, pair)
    if value is None:
        return False
    return pair.is_equal(i, value) or is_slight((pair.one, pair.other)[i], finite(value))


# What is so many times apart what explains it, or what a type resolves, is so after more trials as well.
CLEAR = 100
# The same of two formulas in float64, of which trials say only how much of that a type resolves.
FAR = 4


@dataclass(frozen=True)
class Judged:
    """A pair that was judged: how many times its rounding the difference is, and what rounding explains.

    `formulas` is how many times what the type can resolve the two are apart in float64, 0 where that is not known;
    `whole` says that no element of them tells, but all together, or the slices along `dim`. `together` is how many
    times what rounding does to all elements together these are apart.
    """

    pair: Pair
    times: Tensor  # over 1 is a difference
    allowed: Tensor  # what would not have been seen in the candidate, after as many trials as may be
    plain: bool  # rounding explains all, were it known exactly
    formulas: float = 0.0
    together: float = 0.0
    whole: bool = False
    dim: int | None = None
    astray: bool = False  # the reference is off its own truth, and the candidate is not
    vanishes: bool = False  # the reference is nothing but what rounding leaves of 0
    resolved: Tensor | None = None  # what the formulas would have been seen to be apart

    @property
    def numbers(self) -> float:
        """How many times its rounding the largest difference is, of an element."""
        return float(self.times.nan_to_num(0.0, torch.inf).max()) if self.times.numel() else 0.0

    @property
    def unknown(self) -> bool:
        """Whether there is an element of which the rounding could not be measured."""
        return bool(self.times.isnan().any())

    @property
    def worst(self) -> float:
        """The largest of all."""
        return max(self.numbers, self.formulas, self.together)


def of_all(pair: Pair) -> Label:
    """Returns under which label trials keep the share of a pair, that of all its elements together."""
    return pair.kind, f"{pair.name} *"


# Half last digits that a number which many elements share may be off by, where no trial moves it as one.
SHARED = 4


def judge(
    pair: Pair,
    rounding: tuple[Rounding, Rounding],
    count: int,
    shares: tuple[Rounding, Rounding] | None = None,
    tensors: int = 1,
) -> Judged:
    """Holds a pair against the rounding of both sides, and the candidate against the truth.

    So are all its elements together, of so many `tensors`; without `shares`, what rounding does to them is that of
    `SHARED` roundings.
    """
    first, second = rounding
    astray = False
    one, other, sure = wide(pair.one), wide(pair.other), min(first.plain(count), second.plain(count))
    deviations = _over((one - other).abs(), torch.hypot(first.deviation, second.deviation))
    times = deviations / quantile(min(first.freedom, second.freedom), count)
    if pair.truth is not None:
        unfaithful = (one - pair.truth).abs() > first.explained(count)
        # Where the candidate is 0, and no trial moved it, it is as uncertain as the reference.
        unmoved = second.deviation == 0
        off = _over((other - pair.truth).abs(), torch.where(unmoved, first.deviation, second.deviation))
        # Where the reference is not at its own truth, and the candidate is, it is the reference that is off.
        astray = bool((unfaithful & (times > 1) & (off <= quantile(second.freedom, count))).any())
        times = times.masked_fill(unfaithful & (off <= quantile(second.freedom, count)), 0.0)
        off = off.masked_fill_(unfaithful, 0.0)
        deviations = torch.maximum(deviations, off)
        times = torch.maximum(times, off / quantile(second.freedom, count))
    unseen = replace(second, freedom=max(second.freedom, STAGES[-1] - 1)).explained(count)
    settled = (
        not astray
        and bool((deviations <= sure).all())
        and _shares_apart(pair, shares, quantile(math.inf, tensors)) <= 1
    )
    together = 0.0 if shares is None else _shares_apart(pair, shares, quantile(shares[1].freedom, tensors))
    together = 0.0 if astray else together
    judged = Judged(
        pair, times, unseen, settled, together=together, astray=astray, vanishes=_vanishes(pair, first, count)
    )
    if pair.truth is None or pair.formula is None:
        return judged
    judged = _with_formulas(judged, pair.truth, pair.formula, rounding, count)
    return replace(judged, plain=judged.plain and judged.formulas <= 1)


def _vanishes(pair: Pair, rounding: Rounding | None, count: int) -> bool:
    """Says whether the reference is nothing but what its rounding leaves of 0, and in float64 what float64 leaves."""
    one = wide(pair.one)
    if pair.truth is None:
        return rounding is not None and bool((one.abs() <= rounding.explained(count)).all())
    error, left = (float(torch.linalg.vector_norm(t)) for t in (one - pair.truth, pair.truth))
    finer = torch.finfo(torch.float64).eps / torch.finfo(pair.one.dtype).eps
    return left <= quantile(math.inf, count) * finer * error


def _shares_apart(pair: Pair, shares: tuple[Rounding, Rounding] | None, most: float) -> float:
    """Returns how many times what rounding does to all elements together the two are apart.

    That is so many of its deviations at `most`.
    """
    if pair.one.numel() < 2:
        return 0.0
    one, other = (float(pair.share(t)) for t in (pair.one, pair.other))
    deviations = [0.0, 0.0] if shares is None else [float(r.deviation) * most for r in shares]
    eps = [SHARED / 2 * torch.finfo(t.dtype).eps for t in (pair.one, pair.other)]
    first, second = (math.hypot(d, e) for d, e in zip(deviations, eps, strict=True))
    apart = abs(one - other) / math.hypot(first, second)
    if pair.truth is None or abs(one - 1) > first:
        return apart
    return max(apart, abs(other - 1) / second)


def _with_formulas(
    judged: Judged, truth: Tensor, formula: Tensor, rounding: tuple[Rounding, Rounding], count: int
) -> Judged:
    """Adds how many times what the type can resolve the two formulas are apart, where each is its side's own."""
    pair = judged.pair
    first, second = (
        replace(r, deviation=torch.where(r.deviation.isnan(), last_digit(t), r.deviation))
        for r, t in zip(rounding, (pair.one, pair.other), strict=True)
    )
    size, apart = torch.maximum(truth.abs(), formula.abs()), (formula - truth).abs()
    resolved = pair.eps * size
    deviation = torch.maximum(first.deviation, second.deviation).nan_to_num(0.0, torch.inf)
    if bool((apart <= resolved).all()):
        return replace(judged, resolved=torch.maximum(resolved, deviation))
    faithful = (wide(pair.one) - truth).abs() <= first.explained(count)
    faithful &= (wide(pair.other) - formula).abs() <= second.explained(count)
    sure = quantile(math.inf, count)
    resolved = torch.maximum(resolved, deviation * (sure if pair.rounded else 1.0))
    times = torch.where(faithful, _over(apart, resolved), 0.0)
    found = float(times.max()) if times.numel() else 0.0
    judged = replace(judged, formulas=found, resolved=torch.where(faithful, resolved, torch.inf))
    if found > 1 or pair.rounded or not bool(apart.any()):
        return judged
    # What rounding cannot make another number of, together: no constant is rounded, so that a last digit is enough.
    tested = faithful & (sure * deviation < size)
    for dim in (None, *(d for d, n in enumerate(size.shape) if 1 < n < size.numel())):
        others = [d for d in range(size.dim()) if dim is not None and d != dim]
        far, whole = ((t * tested).square().sum(others if others else None).sqrt() for t in (apart, size))
        found = float(torch.where(whole > 0, far / (pair.eps * whole.clamp_min(_LEAST)), 0.0).max())
        if found > max(1.0, judged.formulas):
            judged = replace(judged, formulas=found, whole=True, dim=dim)
    return judged


# Squares of what is smaller vanish in float64.
_LEAST = math.sqrt(torch.finfo(torch.float64).smallest_normal)


def _over(difference: Tensor, deviation: Tensor) -> Tensor:
    """Returns a difference in deviations: 0 where there is none, without end where nothing explains it."""
    return (difference / deviation).masked_fill_(difference == 0, 0.0)


def decide(measured: Measured, settle: Callable[[Judged], Settled]) -> tuple[dict[Label, Settled], int]:
    """Returns what `settle` makes of every pair as it was judged in the end, and how many trials that took.

    First by the errors that the reference itself makes, which the truth shows, or by the last digits alone. What these
    do not explain is measured: trials are made until they explain it, or there are as many as may be. Each pair is
    settled as soon as it is judged for good: what it was judged by is as large as several gradients.
    """
    count, scale, tensors = measured.count, measured.scale, len(measured.pairs)
    settled: dict[Label, Settled] = {}
    found: dict[Label, Judged] = {}
    asked, waiting = list(measured.pairs), list[Pair]()
    measured.pairs.clear()
    while asked:
        pair = asked.pop(0)
        if (judged := _evident(pair, scale)) is not None:
            settled[pair.label] = settle(judged)
            measured.pairs.append(replace(pair, truth=None, formula=None))
            continue
        judged = judge(pair, _own_error(pair) or _last_alone(pair), count)
        if judged.plain:
            settled[pair.label] = settle(judged)
        else:
            found[pair.label] = judged
            waiting.append(pair)
            measured.pairs.append(pair)
    if not measured.pairs:
        return settled, 0
    measured.repeat()
    measured.doubtful = measured.pairs
    sure = {pair.label for pair in measured.pairs if pair.label not in found}
    sure |= {p.label for p in waiting if _is_clear(found[p.label], count, scale)}
    measured.pairs = waiting = [pair for pair in waiting if pair.label not in sure]
    stage = 0
    for stage in STAGES if waiting else ():
        measured.take(stage)
        for pair in waiting:
            if (rounding := measured.rounding(pair)) is not None:
                judged = judge(pair, rounding, count, measured.shares(pair), tensors)
                found[pair.label] = judged
                if judged.numbers > CLEAR or _are_far(judged, rounding, count):
                    sure.add(pair.label)
        waiting = [pair for pair in waiting if pair.label not in sure]
        known = bool(sure) and not any(found[pair.label].unknown for pair in waiting)
        if known or all(found[pair.label].plain for pair in waiting):
            break
    return settled | {label: settle(judged) for label, judged in found.items()}, stage


def _evident(pair: Pair, scale: float) -> Judged | None:
    """Returns how far two formulas are apart in float64 where nothing has to be measured to see it, else `None`.

    That is far more than the largest error that either side makes of its own formula, more than the type's last digit,
    and more than what float64 itself leaves of 0, of numbers as large as `scale`.
    """
    if pair.truth is None or pair.formula is None or pair.rounded or not pair.one.numel():
        return None
    apart = (pair.formula - pair.truth).abs()
    most = float(apart.max())
    if not most > math.sqrt(torch.finfo(torch.float64).eps) * scale:
        return None
    sides = (pair.one, pair.truth), (pair.other, pair.formula)
    error = max(float((wide(own) - exact).abs().max()) for own, exact in sides)
    enough = FAR if pair.one.numel() >= _MANY else CLEAR
    if not most > enough * error:
        return None
    resolved = torch.maximum(pair.truth.abs(), pair.formula.abs()).mul_(pair.eps).clamp_min_(error)
    times = apart.div_(resolved)
    worst = float(times.max())
    if not worst > enough:
        return None
    return Judged(pair, times, resolved, False, worst, vanishes=_vanishes(pair, None, 1), resolved=resolved)


def _is_clear(judged: Judged, count: int, scale: float) -> bool:
    """Says whether two formulas are so far apart in float64 that no trial of rounding is needed to tell them apart.

    That has to be far from what float64 itself leaves of 0, of numbers as large as `scale`; and of what each side is
    off its own formula, where elements enough show that.
    """
    pair = judged.pair
    if judged.formulas <= 1 or pair.rounded or pair.truth is None or pair.formula is None:
        return False
    if float((pair.formula - pair.truth).abs().max()) <= math.sqrt(torch.finfo(torch.float64).eps) * scale:
        return False
    errors = _error_of(pair.one, pair.truth), _error_of(pair.other, pair.formula)
    return judged.formulas > CLEAR if None in errors else _are_far(judged, errors, count)


def _are_far(judged: Judged, rounding: tuple[Rounding | None, Rounding | None], count: int) -> bool:
    """Says whether the type resolves how far two formulas are apart, were the rounding `FAR` times as large."""
    pair, (first, second) = judged.pair, rounding
    if judged.formulas <= 1 or pair.truth is None or pair.formula is None or first is None or second is None:
        return False
    more = replace(first, deviation=first.deviation * FAR), replace(second, deviation=second.deviation * FAR)
    return _with_formulas(judged, pair.truth, pair.formula, more, count).formulas > 1


def _last_alone(pair: Pair) -> tuple[Rounding, Rounding]:
    one, other = (Rounding(last_digit(t), math.inf) for t in (pair.one, pair.other))
    return one, other


def _own_error(pair: Pair) -> tuple[Rounding, Rounding] | None:
    """Returns the rounding of both sides by what the reference is off the truth: a trial that was made for nothing.

    The candidate's is in proportion to its own last digit. Without a truth there is none, nor for a few elements.
    """
    own = None if pair.truth is None else _error_of(pair.one, pair.truth)
    if own is None:
        return None
    finer = torch.finfo(pair.other.dtype).eps / torch.finfo(pair.one.dtype).eps
    return own, own if finer == 1 else replace(own, deviation=own.deviation * finer)


def _error_of(value: Tensor, exact: Tensor) -> Rounding | None:
    """Returns the rounding of a side by how far it is off its own formula; `None` of too few elements."""
    if value.dtype not in LOW or value.numel() < _MANY:
        return None
    return moderated((wide(value) - exact).abs().square(), exact.abs(), 1).beside(last_digit(value))


# So many elements are enough for a typical one.
_SAMPLE = 10_000
# So many elements show among themselves how large the errors are.
_MANY = 8


# ------------------------------------------------------------------------------------------------------------ verdicts


def verdict_of(judged: Judged, scale: float) -> Compared:
    """Returns the verdict on one tensor, where the largest number of all is `scale`."""
    pair = judged.pair
    found = _plain(*pair.label, pair.one, pair.other, "nan" if pair.nans else "rounding")
    ulps = None if judged.vanishes else _ulps(pair)
    found = replace(found, ulps=ulps, relative=_relative(pair, judged.vanishes), **_numbers(pair, judged.times))
    if judged.worst > 1:
        formula = judged.formulas == judged.worst
        whole = judged.whole if formula else judged.numbers <= 1
        found = replace(found, verdict="differs", reason="beyond", times=judged.worst, formula=formula, whole=whole)
        return replace(found, dim=judged.dim if formula else None)
    if judged.astray:
        return replace(found, verdict="cannot say", reason="reference")
    if judged.unknown:
        return replace(found, verdict="cannot say", reason="unmeasured", data={"message": "nan"})
    size = pair.base.abs()
    some = size > 0
    relative = (judged.allowed / torch.where(some, size, 1.0))[some]
    untested = int((relative > 1).sum())
    if judged.resolved is not None:
        relative = torch.minimum(relative, (judged.resolved / torch.where(some, size, 1.0))[some])
    resolution = float(relative[:: max(1, relative.numel() // _SAMPLE)].median()) if relative.numel() else 0.0
    hidden = _hidden(pair, judged.allowed)
    found = replace(found, times=judged.numbers, untested=untested, resolution=resolution, hidden=hidden)
    if pair.kind != "value" and untested and untested == int(some.sum()):
        # Rounding is in proportion to the last digit: in float64 it is so much less, and what it leaves of 0 as well.
        # Without a truth, what is left of 0 is told by its size: its digits are beyond half of those of the largest.
        exact = judged.allowed * (torch.finfo(torch.float64).eps / pair.eps)
        zero = exact if pair.truth is not None else torch.full_like(exact, math.sqrt(pair.eps) * scale)
        if bool((size > zero).any()):
            return replace(found, verdict="cannot say", reason="small")
    return found


def _hidden(pair: Pair, allowed: Tensor) -> float:
    """Returns how far the formulas are apart in float64, of the size of the whole; 0 where rounding explains that."""
    if pair.truth is None or pair.formula is None:
        return 0.0
    size, apart = (float(torch.linalg.vector_norm(t)) for t in (pair.truth, pair.formula - pair.truth))
    explained = float(torch.linalg.vector_norm(allowed)) * torch.finfo(torch.float64).eps / pair.eps
    return apart / size if size and apart > explained else 0.0


def _numbers(pair: Pair, times: Tensor) -> dict[str, Any]:
    """Returns the element where the difference is the largest for its rounding, and the numbers there."""
    flat = times.flatten().nan_to_num(torch.inf)
    place = unravelled(int(flat.argmax()), pair.one.shape)
    truth = None if pair.truth is None else plain(pair.truth[place])
    return {"place": place, "numbers": (plain(pair.one[place]), plain(pair.other[place])), "truth": truth}


def _relative(pair: Pair, vanishes: bool = False) -> float:
    """Returns how far the two are apart, of the size of the reference; of the candidate's, where that vanishes."""
    size = float(torch.linalg.vector_norm(wide(pair.other) if vanishes else pair.base))
    apart = float(torch.linalg.vector_norm(wide(pair.one) - wide(pair.other)))
    return apart / size if size else math.inf if apart else 0.0


def _ulps(pair: Pair) -> tuple[float, float] | None:
    """Returns how far both sides are from the truth, in last digits of the size of the whole, in the coarser type."""
    if pair.truth is None:
        return None
    size = float(torch.linalg.vector_norm(pair.truth))
    if not size:
        return None
    one, other = (
        float(torch.linalg.vector_norm(wide(t) - pair.truth)) / (pair.eps * size) for t in (pair.one, pair.other)
    )
    return one, other


def is_rounded(value: Tensor) -> bool:
    """Says whether a constant looks as if it had been rounded to its type: it uses more than half of the digits."""
    if not value.is_floating_point() or value.dtype == torch.float64:
        return False
    digits = math.log2(1 / torch.finfo(value.dtype).eps) / 2
    part = torch.frexp(value.detach().float())[0] * 2 ** (int(digits) + 1)
    return not bool((part == part.round()).all())


def is_low(outcome: Outcome) -> bool:
    """Says whether a side has numbers in a shorter type than float64."""
    return any(t is not None and t.dtype in LOW for t in outcome_tensors(outcome).values() if differentiable(t))
