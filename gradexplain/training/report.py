"""What is said of a training, as data without words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from gradexplain.documents.shown import Shown
from gradexplain.findings.finding import Finding
from gradexplain.training.ranks import Rank, Seen

T = TypeVar("T")
Verdict = Literal["found", "nothing unusual", "no training seen"]


@dataclass(frozen=True)
class Layer:
    """A matrix of weights: update over weight, by the steps at which it was looked at."""

    name: str
    steps: tuple[int, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """A few numbers of every step: the losses by `steps`, the norm of the gradient, and each layer."""

    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class TrainingReport(Shown):
    """What was seen of a training.

    `verdict` is "found", "nothing unusual" or "no training seen"; `steps` counts the steps that were watched,
    `findings` has what is wrong, the first cause first, `watched` names what was looked at, and `examined` how a
    step that went wrong was looked into: "replay" (the script was run again), "rerun" (the same, and it acted again),
    "graph" (of its loss), "parted" (another run was not the same), "unguarded" (another run would have acted again),
    "stopped" (another run did not come as far), "untold" (it did, and does not tell more), "nothing". `acted` says that
    another run acted again, `interrupted` that the script was ended before its end, and `broken` how the watch itself
    failed, if it did. Of a training of several processes `rank` is which of them this is, and `others` what the others
    of this machine saw, as far as this is the first.
    """

    target: str
    steps: int
    findings: tuple[Finding, ...] = ()
    watched: tuple[str, ...] = ()
    curves: Curves = Curves()
    examined: str = ""
    acted: bool = False
    interrupted: bool = False
    broken: str = ""
    rank: Rank | None = None
    others: tuple[Seen, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What there is to say in a word."""
        if self.findings or any(other.finding for other in self.others):
            return "found"
        return "nothing unusual" if self.steps else "no training seen"

    @property
    def elsewhere(self) -> Seen | None:
        """The process that saw the cause of what this one saw, `None` where this one did, or none."""
        own = _distance(self.findings[0]) if self.findings else len(_EFFECTS) + 1
        seen = [(_distance(other.finding), other) for other in self.others if other.finding is not None]
        nearest, other = min(seen, key=lambda found: found[0], default=(own, None))
        return other if nearest < own else None


# What follows from a number that is not finite, the nearest first.
_EFFECTS = ("loss-not-finite", "gradient-not-finite")


def _distance(finding: Finding) -> int:
    """Returns how far a finding is from its cause: a process that has the cause has no more than that."""
    return _EFFECTS.index(finding.code) + 1 if finding.code in _EFFECTS else 0


def thinned(things: Sequence[T], most: int) -> list[T]:
    """Returns at most so many of some things, evenly spaced, the last one among them."""
    if len(things) <= most:
        return list(things)
    return [things[round(i * (len(things) - 1) / (most - 1))] for i in range(most)]
