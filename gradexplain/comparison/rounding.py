"""What rounding explains of a number: measured by runs that round at random, with a bound that follows from them.

**Model.** To first order, the number that a run gives is off by e = Σ cₖ rₖ, one term for each rounding on the way,
with |rₖ| ≤ eps/2 (half a last digit). A trial moves every operand by a uniform δₖ within ±eps instead, so that the
trials have the variance σ² = Σ cₖ² eps²/3, more than Σ cₖ² (eps/2)². By Hoeffding, P(|e| > x σ) ≤ 2 exp(-x²/2).

**Estimated from few trials.** σ² is not known, but s² with ν degrees of freedom, σ² χ²_ν / ν. The mean of Hoeffding's
bound over it is exact: P(|e| > x s) ≤ 2 E exp(-x² χ²_ν / 2ν) = 2 (1 + x²/ν)^(-ν/2). So, for N numbers that are looked
at and a chance of `ALARM` that rounding alone raises one of them:

    x = sqrt(ν ((2N / ALARM)^(2/ν) - 1)),        for ν → ∞ Hoeffding's sqrt(2 log(2N / ALARM)).

**Elements help each other.** The elements of a tensor do not differ in kind: log s² follows log |value|² by a straight
line (slope 0 for sums of the same terms, 1 where each element has its own), one for each row that is long enough, and
with a height of its own for each column; and scatters about it. What the scatter of
s² itself explains, trigamma(ν/2), is taken off; the rest says how much an element is like the others, in degrees of
freedom ν₀ (Smyth 2004). An element has the larger of its own s² and of (ν₀ line + ν s²)/(ν₀ + ν), with ν₀ + ν degrees.

What the last rounding of all does, that of the number itself, no trial moves: its square is added to s².
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.application import wide

# A tensor by what it is, and its name.
Label = tuple[Any, str]

# The chance that rounding alone makes a difference in a whole comparison.
ALARM = 1e-6
# So many trials are made at first, and so many more, where they do not decide.
STAGES = (2, 4, 8, 16)


@dataclass(frozen=True)
class Rounding:
    """What rounding does to each element of a tensor: its standard deviation, known with `freedom` degrees.

    `prior` is how much the elements are like each other, in degrees as well: what more trials will not change.
    """

    deviation: Tensor
    freedom: float
    prior: float = math.inf

    def beside(self, last: Tensor) -> Rounding:
        """Returns the rounding with that of the number itself, which no trial moves."""
        return Rounding(torch.hypot(self.deviation, last), self.freedom, self.prior)

    def plain(self, count: int) -> float:
        """Returns how many deviations rounding explains although it was measured but once.

        Those that it would explain if it were known, where that is at most twice what it is for elements alike.
        """
        return min(quantile(self.prior, count), 2 * quantile(math.inf, count))

    def explained(self, count: int) -> Tensor:
        """Returns how far rounding moves an element at most, where so many numbers are looked at in all."""
        return self.deviation * quantile(self.freedom, count)


def quantile(freedom: float, count: int) -> float:
    """Returns the x of the module's docstring."""
    rare = math.log(2 * max(count, 1) / ALARM)
    if not math.isfinite(freedom):
        return math.sqrt(2 * rare)
    exponent = 2 * rare / freedom
    return math.sqrt(freedom * math.expm1(exponent)) if exponent < 600 else math.inf


class Trials:
    """What random rounding makes of tensors by name, gathered trial by trial: how far it moves each of their numbers.

    That is taken about the number that the side gave itself, not about the mean of the trials: where rounding goes to
    one side alone, as beside a kink, it counts in full. Distances are kept in units half way between the
    size of the element and that of the tensor, as squares of what is small would vanish, and of what is large overflow.
    """

    def __init__(self, own: Mapping[Label, Tensor]) -> None:
        self.count = 0
        self.own = own
        self.scales: dict[Label, float] = {}
        self.squares: dict[Label, Tensor] = {}
        self.lost: dict[Label, Any] = {}  # how many trials gave no number, where some did not

    def add(self, found: Mapping[Label, Tensor]) -> None:
        """Takes in one more trial."""
        for name, value in found.items():
            if name not in self.scales:
                sizes = [wide(t).abs().nan_to_num(0.0, 0.0) for t in (value, self.own[name])]
                self.scales[name] = max(_LEAST, *(float(t.max()) for t in sizes if t.numel()), 0.0)
            apart = (wide(value) - wide(self.own[name])).abs() / self._units(name)
            spoilt = ~apart.isfinite()
            if bool(spoilt.any()):  # an operator that met a number next to its own and gave none
                apart = apart.masked_fill(spoilt, 0)
                self.lost[name] = self.lost.get(name, 0) + spoilt.to(torch.float64)
            square = apart.square()
            self.squares[name] = self.squares[name] + square if name in self.squares else square
        self.count += 1

    def _units(self, name: Label) -> Tensor:
        scale = self.scales[name]
        least = max(_LEAST, scale * 1e-290)
        sizes: Tensor = wide(self.own[name]).abs().nan_to_num(0.0, 0.0).clamp_min(least)
        return (sizes / scale).sqrt_() * scale

    def take(self, trials: Iterator[Mapping[Label, Tensor]], count: int) -> None:
        """Makes trials until there are so many."""
        while self.count < count:
            self.add(next(trials))

    def rounding(self, name: Label, last: Tensor) -> Rounding:
        """Returns what rounding does to a tensor whose `last` rounding does that to it.

        That is nan of an element that was no number in nearly all trials.
        """
        scale, count = self.scales[name], self.count - self.lost.get(name, 0)
        units, mean = self._units(name), self.squares[name] / count
        known = moderated(mean * (units / scale).square(), wide(self.own[name]).abs() / scale, self.count)
        # What vanished against the size of the tensor is as large as it was measured.
        deviation = torch.maximum(known.deviation * scale, mean.sqrt_() * units)
        known = replace(known, deviation=deviation).beside(last)
        if name not in self.lost:
            return known
        return replace(known, deviation=known.deviation.masked_fill(count < 3, torch.nan))


# The least size of a tensor that is told from 0.
_LEAST = torch.finfo(torch.float64).smallest_normal


def moderated(variance: Tensor, size: Tensor, freedom: int) -> Rounding:
    """Returns the deviation of each element, where elements of one tensor help each other to be known."""
    shape = variance.shape
    long = variance.dim() > 1 and variance.numel() >= _ALIKE * shape[0]
    variance, size = (t.reshape(shape[0] if long else 1, -1) for t in (variance, size))
    known = (variance > 0) & variance.isfinite() & size.isfinite() & (size > 0)
    if int(known.sum()) < 3:
        return Rounding(variance.reshape(shape).sqrt(), freedom)
    count = known.sum(1, keepdim=True).clamp_min(1)
    level = torch.where(known, variance.log() - (digamma(freedom / 2) - math.log(freedom / 2)), 0.0)
    log_size = torch.where(known, 2 * size.log(), 0.0)
    apart = (log_size - log_size.sum(1, keepdim=True) / count).mul_(known)
    spread = apart.square().sum(1, keepdim=True).clamp_min(1e-300)
    slope, height = (apart * level).sum(1, keepdim=True) / spread, level.sum(1, keepdim=True) / count
    rest, left = (level - slope.clamp(0.0, 1.0) * apart - height).mul_(known), int(known.sum()) - 2 * len(count)
    unsure = 2 * (trigamma(freedom / 2) / spread).sqrt()  # the slope is as well known as the scatter of s² lets it be
    low, high = ((slope + side * unsure).clamp(0.0, 1.0) for side in (-1, 1))
    line = torch.maximum(low * apart, high * apart).add_(height)
    if len(count) >= _ALIKE:
        column = rest.sum(0) / known.sum(0).clamp_min(1)
        line, rest, left = line.add_(column), (rest - column).mul_(known), left - len(column)
    scatter = float(rest.square().sum()) / max(left, 1) - trigamma(freedom / 2)
    prior = 2 * inverse_trigamma(scatter) if scatter > 0 else math.inf
    usual = line.add_(digamma(prior / 2) - math.log(prior / 2) if math.isfinite(prior) else 0.0).exp_()
    weight = freedom / (prior + freedom)
    usual = usual.mul_(1 - weight).add_(weight * variance)
    moved = (variance > 0) | (size > 0)  # what no trial happened to move is moved as the others
    deviation = torch.maximum(variance, usual).mul_(moved).sqrt_()
    return Rounding(deviation.reshape(shape), prior + freedom, prior)


# So many elements of a row or a column show how large the errors are in it.
_ALIKE = 32


def digamma(x: float) -> float:
    return float(torch.special.digamma(torch.tensor(x, dtype=torch.float64)))


def trigamma(x: float) -> float:
    return float(torch.special.polygamma(1, torch.tensor(x, dtype=torch.float64)))


def inverse_trigamma(y: float) -> float:
    """Returns the x > 0 with trigamma(x) = y, by Newton's method for 1/trigamma, which is convex and nearly linear."""
    if y > 1e7:
        return 1 / math.sqrt(y)
    if y < 1e-6:
        return 1 / y
    x = 0.5 + 1 / y
    for _ in range(50):
        tri = trigamma(x)
        step = tri * (1 - tri / y) / float(torch.special.polygamma(2, torch.tensor(x, dtype=torch.float64)))
        x += step
        if abs(step) < 1e-8 * x:
            break
    return x
