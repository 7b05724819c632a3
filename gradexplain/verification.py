"""Judging: every oracle is asked the same question, and their answers make one verdict.

There is no tolerance to choose. A difference is held against the error bounds of the two methods that differ; a method
that cannot judge says so, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from gradexplain.computation import Computation
from gradexplain.oracles import ORACLES
from gradexplain.oracles.question import EFFORT, RESOLUTION, Check, Question, Verdict
from gradexplain.rules import rule_of
from gradexplain.traces import Trace

__all__ = ["EFFORT", "Check", "Report", "Verdict", "verify_trace"]

# Reasons that speak of the function at this point, not of the oracle: they cast doubt on what other oracles say.
DOUBTS = frozenset(
    {
        "jump",
        "singular",
        "noise",
        "cancelled",
        "not_deterministic",
        "not_finite",
        "rounding",
        "tangent_not_finite",
        "rule_not_finite",
    }
)
# Points where the derivative is a matter of convention: torch's own is accepted if the rules confirm it.
CONVENTIONS = frozenset({"kink", "edge"})
RULES = "rules"


@dataclass(frozen=True)
class Report:
    """What all oracles said. `verdict` is over all inputs, `of(name)` for one of them."""

    checks: tuple[Check, ...]

    @property
    def inputs(self) -> Sequence[str]:
        """The names of the inputs that were judged."""
        return tuple(dict.fromkeys(check.input for check in self.checks))

    @cached_property
    def verdict(self) -> Verdict:
        """One that differs decides; without, all must agree."""
        found = [self.of(name) for name in self.inputs]
        if "differs" in found:
            return "differs"
        return "agrees" if found and all(v == "agrees" for v in found) else "cannot say"

    def of(self, name: str) -> Verdict:
        """Returns the verdict on the gradient of one input."""
        checks = [check for check in self.checks if check.input == name]
        if any(check.verdict == "differs" for check in checks):
            return "differs"
        agreeing = [c for c in checks if c.verdict == "agrees" and (c.resolution or 0.0) <= RESOLUTION]
        by_rule = any(c.oracle == RULES for c in agreeing)
        doubt = any(c.reason in DOUBTS or (c.reason in CONVENTIONS and not by_rule) for c in checks)
        return "agrees" if agreeing and not doubt else "cannot say"

    def conventions(self) -> Sequence[Check]:
        """Returns the checks that met a kink or the edge of the domain, where torch's gradient is a convention."""
        return tuple(c for c in self.checks if c.reason in CONVENTIONS)


def verify_trace(
    trace: Trace,
    computation: Computation | None,
    *,
    by_hand: Mapping[str, Callable[..., Tensor]] | None = None,
    effort: float = EFFORT,
) -> Report:
    """Returns what every oracle says about the gradients of `trace`.

    `computation` is what was traced, to be run again, or `None` for a live tensor. `by_hand` has formulas for
    gradients, called with the inputs that they name. `effort` is the time in seconds that an oracle may take in running
    the function.
    """
    question = Question(trace, computation, by_hand or {}, effort)
    return Report(tuple(_numbered(question, check) for check in _asked(question)))


def _asked(question: Question) -> Iterator[Check]:
    for ask in ORACLES.values():
        yield from ask(question)


def _numbered(question: Question, check: Check) -> Check:
    """Returns the check, with the formula's verdict withdrawn where the number itself is lost in rounding.

    An operator that reads its input as a symmetric matrix has the gradient for symmetric changes, by convention: what
    moves one element alone cannot judge it.
    """
    symmetric = [n.operator for n in question.trace.nodes if (rule := rule_of(n.operator)) and rule.symmetric]
    if symmetric and check.verdict == "differs" and check.oracle in ("finite differences", "forward mode"):
        data = {**check.data, "operator": symmetric[0]}
        return replace(check, verdict="cannot say", reason="symmetric", data=data)
    lost = question.lost.get(check.input)
    if lost is None or not (check.verdict == "agrees" or check.reason in ("coarse", "cancelled")):
        return check
    verdict: Verdict = "differs" if lost.reason == "nan" else "cannot say"
    return replace(check, verdict=verdict, reason=lost.reason, data={**check.data, **lost.data})
