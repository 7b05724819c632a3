"""What came of a comparison, as data: a verdict for every tensor, where the two part, and what the difference is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from gradexplain.documents.shown import Shown
from gradexplain.findings.finding import Finding
from gradexplain.targets.sources import Source
from gradexplain.verification.oracles.patterns import Pattern

Verdict = Literal["same", "differs", "cannot say"]
Kind = Literal["value", "gradient", "second"]
# Why a tensor has its verdict: the closed list.
#   bits        the same numbers, bit by bit
#   rounding    explained by the rounding of both sides
#   none        neither side has a gradient, or one has none and the other's is exactly 0
#   beyond      more than rounding explains
#   missing     one side has no gradient where the other's is not 0
#   shape       another shape
#   nan_in_one  not a number on one side alone, or another infinity
#   nan         not a number on both sides
#   small       the gradient is smaller than what rounding makes of it: nothing was tested
#   unsteady    a side gives other numbers from run to run
#   draws       the sides draw random numbers that cannot be aligned
#   reference   the candidate is at the truth of the reference, which itself is not: it jumps here, or is wrong
#   unmeasured  the rounding could not be measured
Reason = Literal[
    "bits",
    "rounding",
    "none",
    "beyond",
    "missing",
    "shape",
    "nan_in_one",
    "nan",
    "small",
    "unsteady",
    "draws",
    "reference",
    "unmeasured",
]


@dataclass(frozen=True)
class Compared:
    """One tensor of both sides. `times` is how many times the rounding that explains it the largest difference is.

    Of a `formula` that is another one in float64, it is how many times what the type resolves.

    `place` is the element where that is so, with both numbers and the `truth` there; `whole` says that no element tells
    by itself, but all of them together (`dim` is then along which dimension, if any). `ulps` are how far the sides are
    from the truth, in units in the last place of the coarser type; `resolution` what relative error of a typical
    element would have been seen, `untested` the number of elements that are smaller than their own rounding. `hidden`
    is how far the two are apart in float64 where their own type does not resolve it; `data` is what else a sentence
    about the reason needs.
    """

    name: str
    kind: Kind
    verdict: Verdict
    reason: Reason
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    dtypes: tuple[str, str]
    times: float = 0.0
    place: tuple[int, ...] | None = None
    numbers: tuple[Any, Any] | None = None
    truth: Any = None
    relative: float = 0.0
    formula: bool = False
    whole: bool = False
    dim: int | None = None
    ulps: tuple[float, float] | None = None
    resolution: float | None = None
    untested: int = 0
    hidden: float = 0.0
    count: int = 0
    pattern: Pattern | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nearer(self) -> Literal["a", "b"] | None:
        """Which side is nearer to the truth, `None` where neither is by so much that it means something."""
        if self.ulps is None or not max(self.ulps) > 1.5 * min(self.ulps):
            return None
        return "a" if self.ulps[0] < self.ulps[1] else "b"


@dataclass(frozen=True)
class Step:
    """What one side does where the two part: the operator, its line and module, and the number that it has there."""

    operator: str
    source: Source | None
    module: str
    number: Any = None


@dataclass(frozen=True)
class Place:
    """The first place where the two runs part. `phase` is that of the pass; a side without a step here has none.

    `how` says in a word what is different: the "operator", its "result" on the same arguments, a constant "argument",
    or a "cotangent" that is sent on; `detail` is the argument's name or what it looks like.
    """

    phase: Literal["forward", "backward"]
    how: str
    steps: tuple[Step | None, Step | None]
    element: tuple[int, ...] | None = None
    relative: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison(Shown):
    """Two ways to one gradient. `names` are what the sides are called, `tensors` what was compared, the values first.

    `place` is the first place where the two runs part, where they differ; `findings` are remarks on the whole, and
    `against` what was asked for, where that was one of the usual pairs. `runs` counts the trials of rounding.

    >>> import torch, gradexplain as gx
    >>> x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    >>> gx.compare(lambda x: (x * x).mean(), lambda x: (x / 50 * x).sum(), [x]).verdict
    'same'
    >>> gx.compare(lambda x: (x * x).mean(), lambda x: (x * x).sum() / 49, [x]).verdict
    'differs'
    """

    names: tuple[str, str]
    tensors: tuple[Compared, ...]
    place: Place | None = None
    findings: tuple[Finding, ...] = ()
    against: str = ""
    truth: str = ""
    runs: int = 0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0

    @cached_property
    def verdict(self) -> Verdict:
        """One tensor that differs decides; without, all must be the same."""
        verdicts = {one.verdict for one in self.tensors}
        if "differs" in verdicts:
            return "differs"
        return "same" if verdicts == {"same"} else "cannot say"

    def of(self, name: str, kind: Kind = "gradient") -> Compared:
        """Returns what came of one tensor; raises `KeyError` where there is none of this name."""
        for one in self.tensors:
            if (one.name, one.kind) == (name, kind):
                return one
        raise KeyError(name)

    @property
    def telling(self) -> Compared | None:
        """The tensor that says most: of those that differ the one that is beyond rounding by most, gradients first."""
        found = [one for one in self.tensors if one.verdict == "differs"]
        return max(found, key=lambda one: (one.kind != "value", one.times)) if found else None
