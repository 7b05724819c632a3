"""The answer of an oracle for one input, and what goes with it: why something cannot be had, where a path ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from gradexplain.targets.sources import Source

Verdict = Literal["agrees", "differs", "cannot say"]


@dataclass(frozen=True)
class Flat:
    """The slopes by one element of an input, of the function as it was written and as torch differentiates it."""

    element: tuple[int, ...]
    whole: float
    left: float


@dataclass(frozen=True)
class Stop:
    """A place where part of the slope of an input ends, and what share that is of the slope of the function.

    Where that is 0, or the slope as torch differentiates it is, `flat` has both, by one element, and the share is of
    the other one. Without `code`, the path was lost where nobody looked.
    """

    input: str
    share: float
    source: Source | None
    code: str
    flat: Flat | None = None

    @property
    def seen(self) -> bool:
        """Whether the stop was seen, so that it may be meant."""
        return bool(self.code)


@dataclass(frozen=True)
class Check:
    """One oracle's answer for one input.

    `worst` is the largest difference and `bound` what the error bounds explain of it; `resolution` is the bound
    relative to the gradient. `reason` is the key of a sentence in `verdicts.toml`, whose numbers are in `data`; `place`
    is the element with the worst difference. `bounds` says of each element what error, relative to its own gradient,
    would have been seen (infinite: none); an oracle without it saw none. `stops` are the places where paths end that
    the function has and the gradient has not. `number` is what rounding may hide in the user's own type, if that is
    another than the one that was judged.
    """

    oracle: str
    input: str
    verdict: Verdict
    worst: float | None = None
    bound: float | None = None
    resolution: float | None = None
    reason: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    place: tuple[int, ...] | None = None
    bounds: Tensor | None = field(default=None, compare=False, repr=False)
    stops: tuple[Stop, ...] = ()
    number: float | None = None


def unaccused(checks: Sequence[Check]) -> list[Check]:
    """Returns checks that accuse and doubt no input for a slope along several, where elements of others are wrong."""
    known = {c.input for c in checks if c.verdict == "differs" and c.place is not None}
    contradicting = (c for c in checks if c.verdict == "differs" or c.reason == "cut")
    mute = {id(c) for c in contradicting if known and c.input not in known and c.data.get("joint", 1) != 1}
    return [replace(c, verdict="cannot say", reason="joint") if id(c) in mute else c for c in checks]


@dataclass(frozen=True)
class Unable:
    """Why something cannot be had: the key of a sentence and its data."""

    reason: str
    data: Mapping[str, object] = field(default_factory=dict)
