"""*Number*: is the gradient in the type that the user runs in as near to the one in float64 as rounding explains?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.trace import Trace
from gradexplain.rules.application import wide
from gradexplain.verification.oracles.answers import Unable
from gradexplain.verification.oracles.measures import MARGIN, dense, epsilon, largest, plain

# Rounding at random, in so many runs, spreads a number about as far as torch's own rounding moves it: what lies beyond
# some times that, and some last digits, is no rounding.
NUMBER_RUNS, NUMBER_MARGIN, NUMBER_DIGITS = 6, 6, 4
# A number of which rounding has left not even the first binary digit is none.
LOST_PART = 0.5
# Last digits of the largest element that a small one may be off by.
SLIGHT_DIGITS = 16
# All elements whose digits rounding has taken weigh so little in their tensor that no step along it would notice.
FAINT = 1e-3


@dataclass(frozen=True)
class Number:
    """The gradient in the user's own type: how far rounding can move it, and where it is off by more, or lost in it.

    `resolution` is the largest relative error that rounding may hide in an element; `problem` says what is wrong.
    """

    resolution: float
    problem: Unable | None = None


@dataclass(frozen=True)
class Judged:
    """What a gradient in float64 is known by: its elements, what rounding makes of each in float64, and their sizes.

    `rounding` is measured when it is asked for. `units` is how far an element of the input moves by its own size,
    `scale` what the largest effect of that is.
    """

    gradient: Tensor
    rounding: Callable[[], Tensor]
    units: Tensor
    scale: float


def number_of(own: Trace, name: str, judged: Judged, spread: Callable[[], Tensor]) -> Number:
    """Holds the gradient in the user's type (`own`) against the one in float64, element by element.

    `spread` gives how far the former spreads when every operator rounds at random; it is asked only if that matters.
    """
    right = judged.gradient
    seen_ = wide(dense(own.gradients[name], own.inputs[name]))
    if right.numel() == 0:
        return Number(0.0)
    difference = (seen_ - right).abs()
    difference = torch.where((seen_ == right) | (seen_.isnan() & right.isnan()), 0.0, difference)
    eps, least = epsilon(own), torch.finfo(own.inputs[name].dtype).tiny
    if bool((difference <= NUMBER_DIGITS * eps * right.abs()).all()):
        return Number(NUMBER_DIGITS * eps)
    allowed = NUMBER_DIGITS * eps * right.abs() + least
    if not bool((difference <= allowed).all()):
        allowed = (allowed + NUMBER_MARGIN * wide(spread())).nan_to_num(torch.inf)  # rounding can make nan: or anything
    noise = judged.rounding()  # a few trials may leave one element alone by chance, and not all
    resolved = right.abs() > MARGIN * torch.maximum(noise, noise.square().mean().sqrt()) + least
    beyond = ~(difference <= allowed)
    # What is small beside the rest of the tensor may be a sum whose terms cancel, inside of an operator as well, where
    # no trial shows it: rounding of these is all that is left. It is no error, and not seen if it is no number either.
    slight = difference * judged.units <= SLIGHT_DIGITS * eps * judged.scale
    gone = resolved & ~(difference < torch.where(beyond, LOST_PART / 5, LOST_PART) * right.abs())
    faint = gone & ~beyond & ~slight
    weighs = torch.linalg.vector_norm((difference * judged.units)[faint])
    if bool(weighs <= FAINT * torch.linalg.vector_norm((right * judged.units).nan_to_num(0.0, 0.0, 0.0))):
        slight = slight | faint
    lost = gone & (beyond | ~slight)
    relative = torch.where(resolved & ~gone, difference / right.abs(), 0.0)  # of slight ones too: the worst is quoted
    beyond = beyond & ~slight
    resolution = max(NUMBER_DIGITS * eps, largest(relative.nan_to_num(1.0, 1.0, 1.0)))
    if not bool((beyond | lost).any()):
        return Number(resolution)
    doubtful = beyond if bool(beyond.any()) else lost
    place = unravelled(int(torch.where(doubtful, difference, -1.0).nan_to_num(torch.inf).argmax()), right.shape)
    data = {
        "place": place,
        "seen": plain(seen_[place]),
        "right": plain(right[place]),
        "allowed": float(allowed[place]),
        "dtype": str(own.inputs[name].dtype).removeprefix("torch."),
    }
    return Number(resolution, _problem(own, name, data, beyond=bool(beyond.any())))


def _problem(trace: Trace, name: str, data: Mapping[str, Any], *, beyond: bool) -> Unable:
    """Says why a number is not what its formula gives: a hook, a backward that is not steady, nan, or no reason."""
    hook = next((hooked.hook for hooked in trace.hooked if hooked.leaf == name), None)
    if hook is not None:
        return Unable("hooked", {**data, "hook": hook})
    apart = trace.apart.get(name)
    if apart is not None and apart.cause == "backward" and not apart.slight:
        return Unable("unsteady", data)
    if not math.isfinite(abs(data["seen"])):
        return Unable("nan", data)
    return Unable("number" if beyond else "rounding", data)
