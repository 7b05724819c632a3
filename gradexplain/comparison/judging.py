"""From two sides to a comparison: bit by bit first, then by what rounding explains.

A difference is held against the rounding of both sides, each measured in its own types. Where the reference run in
float64 is the truth of the reference (its own numbers are as near to that as their rounding allows), the candidate is
held against the truth as well, with its own rounding alone: a coarse reference hides nothing in an exact candidate.

Where both can be run in float64, the two formulas are held against each other there, where neither side rounds to its
own type. What is left between them is no rounding. So it is a difference where the sides' own type can resolve it: more
than a last digit, and more than one standard deviation of what rounding does to an element, or more than a last digit of
all elements together. But a constant that was made in a short type is rounded, in float64 as well: where there are such,
the difference has to be more than all that rounding does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradexplain.comparison.comparison import Compared, Kind, Reason
from gradexplain.comparison.rounding import PLAIN, STAGES, Rounding, Trials, quantile
from gradexplain.comparison.sides import Outcome, Side
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.computation import differentiable
from gradexplain.recording.plain import is_slight
from gradexplain.verification.oracles.measures import plain, wide
from gradexplain.verification.oracles.promotion import LOW
from gradexplain.verification.oracles.rounding import trials

# A tensor of one side: what it is, and its name.
Label = tuple[Kind, str]


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
    def base(self) -> Tensor:
        """The best that is known of what it should be."""
        best: Tensor = wide(self.one if self.truth is None else self.truth)
        return best

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


# ------------------------------------------------------------------------------------------------------------- views


def views(pair: Pair) -> Iterator[int | None]:
    """Yields what is looked at of a pair: its elements, all together, and the slices along each dimension."""
    yield None
    if pair.base.numel() > 1 and bool((pair.base != 0).any()):
        yield -1
        yield from (d for d, size in enumerate(pair.base.shape) if 1 < size < pair.base.numel())


def seen_by(view: int | None, value: Tensor, base: Tensor) -> Tensor:
    """Returns the elements, or how much of `base` is in them: ⟨value, base⟩ / ⟨base, base⟩, over all or each slice."""
    if view is None:
        return wide(value)  # type: ignore[no-any-return]
    others = list(range(base.dim())) if view == -1 else [d for d in range(base.dim()) if d != view]
    scaled = base / base.abs().amax(others, keepdim=True).clamp_min(_LEAST)
    within, whole = (_real(t * scaled.conj()).sum(others) for t in (wide(value), base))
    return torch.where(whole != 0, within / torch.where(whole != 0, whole, 1.0), 0.0)


# Squares of what is smaller vanish in float64.
_LEAST = torch.finfo(torch.float64).smallest_normal


def _real(value: Tensor) -> Tensor:
    return value.real if value.is_complex() else value


def last_digit(view: int | None, value: Tensor, base: Tensor) -> Tensor:
    """Returns what the last rounding of all makes of a view of a tensor, at most.

    Of an element half a last digit, or half of the smallest number of the type. Over many elements these errors are
    independent unless the elements are the same number, rounded to the same side: these stay together.
    """
    finfo = torch.finfo(value.dtype)
    own = (finfo.eps / 2) * wide(value).abs().clamp_min(finfo.smallest_normal)
    own = torch.where(wide(value) == 0, torch.where(base == 0, 0.0, own), own)
    if view is None:
        return own
    others = list(range(base.dim())) if view == -1 else [d for d in range(base.dim()) if d != view]
    scaled = base.abs() / base.abs().amax(others, keepdim=True).clamp_min(_LEAST)
    below, weighed = (scaled * base.abs()).sum(others), own * scaled
    above = weighed.sum(others) if value.numel() > MOST_SORTED else _together(weighed, value, view)
    return torch.where(below != 0, above / torch.where(below != 0, below, 1.0), 0.0)


def _together(weighed: Tensor, value: Tensor, view: int) -> Tensor:
    """Returns the size of a sum of errors over all elements or each slice: those of one number add up, others mix."""
    bits = torch.view_as_real(value.resolve_conj())[..., 0] if value.is_complex() else value
    _, number = torch.unique(bits, return_inverse=True)
    count = value.shape[view] if view >= 0 else 1
    at = torch.arange(count, device=value.device).reshape([-1 if d == view else 1 for d in range(value.dim())])
    keys, group = torch.unique((number * count + (at if view >= 0 else 0)).flatten(), return_inverse=True)
    sums = weighed.new_zeros(len(keys)).scatter_add_(0, group, weighed.flatten())
    squares = weighed.new_zeros(count).scatter_add_(0, keys % count, sums.square())
    return squares.sqrt() if view >= 0 else squares.sqrt()[0]


# Elements are sorted to find those that are one number; of more, all are taken for one.
MOST_SORTED = 1 << 20


# ---------------------------------------------------------------------------------------------------------- rounding


@dataclass
class Measured:
    """The trials of both sides, and what was decided by them; `failed` says why a side has none."""

    pairs: Sequence[Pair]
    sides: tuple[Side, Side]
    trials: tuple[Trials, Trials] = field(default_factory=lambda: (Trials(), Trials()))
    running: list[Iterator[Mapping[Any, Tensor]] | None] = field(default_factory=lambda: [None, None])
    failed: list[str | None] = field(default_factory=lambda: [None, None])
    unsteady: dict[Label, int] = field(default_factory=dict)  # the side that gives another tensor when it is run again

    def repeat(self) -> None:
        """Runs both sides once more: what is not what it was, but for another order of sums, is no rounding."""
        for i, side in enumerate(self.sides):
            known = outcome_tensors(side.run())
            for pair in self.pairs:
                own, found = (pair.one, pair.other)[i], known.get((pair.kind, pair.name))
                if found is None or not is_slight(own, found):
                    self.unsteady[pair.kind, pair.name] = i

    def unjudged(self, pair: Pair) -> Compared | None:
        """Returns what is said of a pair that cannot be judged, `None` of any other."""
        side = self.unsteady.get((pair.kind, pair.name))
        if side is not None:
            found = _plain(pair.kind, pair.name, pair.one, pair.other, "unsteady")
            return replace(found, data={"side": "AB"[side]}, relative=_relative(pair))
        if all(self.failed):
            found = _plain(pair.kind, pair.name, pair.one, pair.other, "unmeasured")
            return replace(found, data={"message": self.failed[0]}, relative=_relative(pair))
        return None

    @property
    def count(self) -> int:
        """How many numbers are looked at in all."""
        return sum(seen_by(v, p.base, p.base).numel() for p in self.pairs for v in views(p))

    def take(self, count: int) -> None:
        """Makes trials of both sides until there are so many of each."""
        for i, side in enumerate(self.sides):
            if self.failed[i] is None:
                try:
                    if self.running[i] is None:
                        self.running[i] = trials(partial(self._trial, side.measurable()), together=True)
                    self.trials[i].take(self.running[i], count)  # type: ignore[arg-type]
                except Exception as fault:  # the user's function, or torch's, refuses a number next to its own
                    self.failed[i] = str(fault).split("\n", 1)[0]

    def _trial(self, side: Side, mode: Any) -> Mapping[Any, Tensor]:
        found = outcome_tensors(side.run(mode))
        own = {(p.kind, p.name): p for p in self.pairs}
        seen: dict[Any, Tensor] = {}
        for label, pair in own.items():
            value = found.get(label)
            if value is None or value.shape != pair.base.shape:
                raise ValueError(f"{label[1]}: another shape")
            for view in views(pair):
                seen[(*label, view)] = seen_by(view, value, pair.base)
        return seen

    def rounding(self, pair: Pair, view: int | None) -> tuple[Rounding, Rounding] | None:
        """Returns what rounding does to both sides; where one cannot be run so, the other's; `None` without either."""
        found: list[Rounding | None] = []
        for i, value in enumerate((pair.one, pair.other)):
            last = last_digit(view, value, pair.base)
            known = self.trials[i].count > 1 and self.failed[i] is None
            size = seen_by(view, value, pair.base)
            found.append(self.trials[i].rounding((pair.kind, pair.name, view), size, last) if known else None)
        one, other = found
        if one is None and other is None:
            return None
        return (one or other, other or one)  # type: ignore[return-value]


# Formulas that are so many times apart what a type resolves are so after more trials as well.
CLEAR = 100


@dataclass(frozen=True)
class Judged:
    """A view of a pair that was judged: how many times its rounding the difference is, and what rounding explains.

    `formulas` is how many times what the type can resolve the two are apart in float64, 0 where that is not known.
    """

    pair: Pair
    view: int | None
    times: Tensor  # over 1 is a difference
    allowed: Tensor  # what would not have been seen in the candidate, after as many trials as may be
    plain: bool  # nothing is over `PLAIN` deviations
    formulas: float = 0.0
    resolved: Tensor | None = None  # what the formulas would have been seen to be apart

    @property
    def worst(self) -> float:
        numbers = float(self.times.max()) if self.times.numel() else 0.0
        return max(numbers, self.formulas)


def judge(pair: Pair, view: int | None, rounding: tuple[Rounding, Rounding], count: int) -> Judged:
    """Holds a view of a pair against the rounding of both sides, and the candidate against the truth."""
    one, other = (seen_by(view, t, pair.base) for t in (pair.one, pair.other))
    first, second = rounding
    both = torch.hypot(first.deviation, second.deviation)
    x = quantile(min(first.freedom, second.freedom), count)
    apart = (one - other).abs()
    deviations = _over(apart, both)
    times = deviations / x
    if pair.truth is not None:
        truth = seen_by(view, pair.truth, pair.base)
        faithful = (one - truth).abs() <= first.explained(count)
        off = torch.where(faithful, _over((other - truth).abs(), second.deviation), 0.0)
        deviations = torch.maximum(deviations, off)
        times = torch.maximum(times, off / quantile(second.freedom, count))
    unseen = replace(second, freedom=max(second.freedom, STAGES[-1] - 1)).explained(count)
    formulas, resolved = _formulas_apart(pair, view, rounding, count)
    settled = formulas <= 1 and bool((deviations <= PLAIN).all())
    return Judged(pair, view, times, unseen, settled, formulas, resolved)


def _formulas_apart(
    pair: Pair, view: int | None, rounding: tuple[Rounding, Rounding], count: int
) -> tuple[float, Tensor | None]:
    """Returns how many times what the type can resolve the two formulas are apart, where each is its side's own.

    And what it can resolve of each element, without end where a formula is not its side's.
    """
    if pair.truth is None or pair.formula is None:
        return 0.0, None
    first, second = rounding
    one, other, truth, formula = (seen_by(view, t, pair.base) for t in (pair.one, pair.other, pair.truth, pair.formula))
    faithful = (one - truth).abs() <= first.explained(count)
    faithful &= (other - formula).abs() <= second.explained(count)
    size = torch.maximum(truth.abs(), formula.abs())
    deviation = torch.maximum(first.deviation, second.deviation)
    constants = quantile(math.inf, count) if pair.rounded else 1.0
    resolved = torch.maximum(pair.eps * size, constants * deviation)
    apart = (formula - truth).abs()
    times = torch.where(faithful, _over(apart, resolved), 0.0)
    found = float(times.max()) if times.numel() else 0.0
    if view is None and not pair.rounded:
        # All that rounding cannot make another number of, together: no constant is rounded, so a last digit is enough.
        tested = faithful & (quantile(math.inf, count) * deviation < size)
        norm = float(torch.linalg.vector_norm(size[tested]))
        found = max(found, float(torch.linalg.vector_norm(apart[tested])) / (pair.eps * norm) if norm else 0.0)
    return found, torch.where(faithful, resolved, torch.inf)


def _over(difference: Tensor, deviation: Tensor) -> Tensor:
    """Returns a difference in deviations: 0 where there is none, without end where nothing explains it."""
    over = difference / torch.where(deviation > 0, deviation, 1.0)
    return torch.where(difference == 0, 0.0, torch.where(deviation > 0, over, torch.inf))


def decide(measured: Measured) -> tuple[list[Judged], int]:
    """Returns every view as it was judged in the end, and how many trials that took.

    More trials are made until nothing is above what can never be told from rounding, or there are as many as may be.
    """
    count = measured.count
    by_digits = [judge(p, v, _last_alone(p, v), count) for p in measured.pairs for v in views(p)]
    if all(j.plain for j in by_digits):
        return by_digits, 0
    found: list[Judged] = []
    measured.repeat()
    for stage in STAGES:
        measured.take(stage)
        found = []
        for pair in measured.pairs:
            for view in views(pair):
                rounding = measured.rounding(pair, view)
                if rounding is None:
                    return [], 0
                found.append(judge(pair, view, rounding, count))
        if all(j.plain for j in found) or any(j.formulas > CLEAR for j in found):
            return found, stage
    return found, STAGES[-1]


def _last_alone(pair: Pair, view: int | None) -> tuple[Rounding, Rounding]:
    one, other = (Rounding(last_digit(view, t, pair.base), math.inf) for t in (pair.one, pair.other))
    return one, other


# ------------------------------------------------------------------------------------------------------------ verdicts


def verdict_of(pair: Pair, judged: Sequence[Judged]) -> Compared:
    """Returns the verdict on one tensor from all its views."""
    elements = next(j for j in judged if j.view is None)
    found = _plain(pair.kind, pair.name, pair.one, pair.other, "nan" if pair.nans else "rounding")
    found = replace(found, ulps=_ulps(pair), relative=_relative(pair), **_numbers(pair, elements.times))
    beyond = [j for j in judged if j.worst > 1]
    if beyond:
        telling = elements if elements in beyond else max(beyond, key=lambda j: j.worst)
        found = replace(found, verdict="differs", reason="beyond", times=max(j.worst for j in beyond))
        return (
            found
            if telling is elements
            else replace(found, whole=True, dim=telling.view if telling.view != -1 else None)
        )
    size = pair.base.abs()
    some = size > 0
    relative = (elements.allowed / torch.where(some, size, 1.0))[some]
    untested = int((relative > 1).sum())
    if elements.resolved is not None:
        relative = torch.minimum(relative, (elements.resolved / torch.where(some, size, 1.0))[some])
    resolution = float(relative.median()) if relative.numel() else 0.0
    hidden = _hidden(pair, elements.allowed)
    found = replace(found, times=elements.worst, untested=untested, resolution=resolution, hidden=hidden)
    if pair.kind != "value" and pair.truth is not None and untested and untested == int(some.sum()):
        # Rounding is in proportion to the last digit: in float64 it is so much less, and what it leaves of 0 as well.
        exact = elements.allowed * (torch.finfo(torch.float64).eps / pair.eps)
        if bool((size > exact).any()):
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


def _relative(pair: Pair) -> float:
    size = float(torch.linalg.vector_norm(pair.base))
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
