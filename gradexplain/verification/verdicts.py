"""Judging: every oracle is asked the same question, and their answers make one verdict.

There is no tolerance to choose. A difference is held against the error bounds of the two methods that differ; a method
that cannot judge says so, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from gradexplain.documents.shown import Shown
from gradexplain.errors import message_of
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import Computation
from gradexplain.recording.trace import Node, Trace
from gradexplain.rules.registry import rule_of
from gradexplain.targets.request import Request
from gradexplain.targets.sources import Source
from gradexplain.verification.options import Options
from gradexplain.verification.oracles import by_hand as formulas
from gradexplain.verification.oracles.question import EFFORT, RESOLUTION, Check, Question, Replay, Verdict
from gradexplain.verification.oracles.registry import ON_REQUEST, ORACLES, REFEREE

__all__ = ["EFFORT", "Check", "Question", "Report", "Verdict", "answered", "verify_trace"]

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
        "gradient_not_finite",
        "exact_not_finite",
    }
)
# Points where the derivative is a matter of convention: torch's own is accepted if the rules confirm it.
CONVENTIONS = frozenset({"kink", "edge", "selects", "tie"})
# Where no check could fail, none is made.
NOTHING = ("nothing-in-input", "nothing-in-inputs", "nothing-in-output")
RULES, DIFFERENCES, FORWARD, OPERATIONS = "rules", "finite differences", "forward mode", "operations"


@dataclass(frozen=True)
class Operation:
    """One node of the graph checked alone: its own backward against its own operator, at its recorded inputs.

    The inputs of `report` are the operator's arguments. `label` is the operator's name, or the custom Function's, whose
    backward is written at `backward`. `findings` say what an error looks like, and what only looks like one.
    """

    node: Node
    report: Report
    label: str = ""
    backward: Source | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict on all gradients that the node sends."""
        return self.report.verdict


@dataclass(frozen=True)
class Subject:
    """What was verified: its name, what torch did for it, and which of its inputs are parameters of modules."""

    target: str
    trace: Trace
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report(Shown):
    """What all oracles said. `verdict` is over all inputs, `of(name)` for one of them.

    `operations` has the nodes that were checked alone, in the order of the forward pass; `second` is the report on the
    second derivatives, where they were asked for; `subject` is what was verified, and `findings` what is unusual about
    it. A report that is part of another has neither. `request` is what was typed, where that is how it was asked
    for, `options` what was asked besides the usual.

    >>> import torch, gradexplain as gx
    >>> report = gx.verify(lambda x: x.exp().sum(), [torch.tensor([0.0, 1.0])])
    >>> report.verdict, report.of("x"), report.wrong()
    ('agrees', 'agrees', ())
    """

    checks: tuple[Check, ...]
    operations: tuple[Operation, ...] = ()
    second: Report | None = None
    subject: Subject | None = None
    findings: tuple[Finding, ...] = ()
    request: Request | None = None
    options: Options = field(default_factory=Options)

    @property
    def nothing(self) -> Finding | None:
        """Why there is nothing to check, where that is so: no element of an input, or of the output."""
        return next((finding for finding in self.findings if finding.code in NOTHING), None)

    @property
    def inputs(self) -> Sequence[str]:
        """The names of the inputs that were judged."""
        return tuple(dict.fromkeys(check.input for check in self.checks))

    @cached_property
    def verdict(self) -> Verdict:
        """One that differs decides; without, all must agree."""
        verdicts: list[Verdict] = [self.of(name) for name in self.inputs]
        verdicts += [operation.verdict for operation in self.operations if operation.verdict == "differs"]
        verdicts += [self.second.verdict] if self.second is not None else []
        if "differs" in verdicts:
            return "differs"
        return "agrees" if verdicts and all(v == "agrees" for v in verdicts) else "cannot say"

    def of(self, name: str) -> Verdict:
        """Returns the verdict on the gradient of one input."""
        checks = [check for check in self.checks if check.input == name and not self.is_refuted(check)]
        if any(check.verdict == "differs" for check in checks):
            return "differs"
        agreeing = {c.oracle for c in checks if c.verdict == "agrees" and (c.resolution or 0.0) <= RESOLUTION}
        if self.operations and all(operation.verdict == "agrees" for operation in self.operations):
            agreeing.add(OPERATIONS)
        doubt = any(_doubts(check, agreeing) for check in checks)
        return "agrees" if agreeing and not doubt else "cannot say"

    def formula_alone(self, name: str) -> bool:
        """Says whether nothing but the formula by hand contradicts the gradient of an input, and others confirm it."""
        others = replace(self, checks=tuple(c for c in self.checks if c.oracle != formulas.ORACLE))
        return self.of(name) == "differs" and others.of(name) == "agrees"

    def is_refuted(self, check: Check) -> bool:
        """Says whether finite differences, which share nothing but the function, contradict forward mode's difference.

        They do where they agree with the gradient to less than half of it: then torch's own forward mode is wrong.
        """
        if (check.oracle, check.verdict) != (FORWARD, "differs"):
            return False
        judges = (c for c in self.checks if (c.oracle, c.input, c.verdict) == (DIFFERENCES, check.input, "agrees"))
        return any(2 * (c.resolution or 0.0) < _relative(check) for c in judges)

    def resolution(self, name: str) -> float | None:
        """Returns how small a relative error of one gradient would have been seen, by the sharpest agreeing oracle."""
        resolutions = [c.resolution for c in self.checks if c.input == name and c.verdict == "agrees"]
        return min((r for r in resolutions if r is not None), default=None)

    def wrong(self) -> tuple[Operation, ...]:
        """Returns the operations that differ, in the order of the forward pass."""
        return tuple(operation for operation in self.operations if operation.verdict == "differs")

    def conventions(self) -> Sequence[Check]:
        """Returns the checks that met a kink or the edge of the domain, where torch's gradient is a convention."""
        return tuple(c for c in self.checks if c.reason in CONVENTIONS)

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}>"


def _doubts(check: Check, agreeing: Set[str]) -> bool:
    """Says whether what kept one oracle from judging casts doubt on those that agree."""
    if check.reason in ("cancelled", "noise") and REFEREE in agreeing:  # 50 digits have no noise
        return False
    if check.reason == "cancelled":  # finite differences see what is left after a cancellation
        return DIFFERENCES not in agreeing
    return check.reason in DOUBTS or (check.reason in CONVENTIONS and not agreeing & {RULES, OPERATIONS})


def _relative(check: Check) -> float:
    """Returns a difference relative to the gradient, as the resolution is."""
    if check.worst is None or not check.bound or check.resolution is None:
        return 0.0
    return check.worst / check.bound * check.resolution


def verify_trace(
    trace: Trace,
    computation: Computation | None,
    *,
    by_hand: Mapping[str, Callable[..., Tensor]] | None = None,
    effort: float = EFFORT,
    coarsest: float = 0.0,
) -> Report:
    """Returns what every oracle says about the gradients of `trace`.

    `computation` is what was traced, to be run again, or `None` for a live tensor. `by_hand` has formulas for
    gradients, called with the inputs that they name. `effort` is the time in seconds that an oracle may take in running
    the function; `coarsest` the rounding error of the type that the user runs in, if it is not that of the trace.
    """
    return answered(Question(trace, computation, by_hand or {}, effort, coarsest))


def answered(question: Question, also: Collection[str] = ()) -> Report:
    """Returns what every oracle says, those of `ON_REQUEST` that are named in `also` as well.

    Nothing is said of an input without elements.
    """
    nothing = _nothing(question)
    if nothing is not None:
        return Report((), findings=(nothing,))
    checks: list[Check] = []
    for name, ask in {**ORACLES, **{name: ON_REQUEST[name] for name in also}}.items():
        with attempting(name, question.names, checks):
            checks += [_numbered(question, check) for check in ask(question)]
    if Report(tuple(checks)).verdict != "agrees" and REFEREE not in also:
        with attempting(REFEREE, question.names, checks):
            checks += [_numbered(question, check) for check in ON_REQUEST[REFEREE](question)]
    filled = (check for check in checks if question.trace.inputs[check.input].numel())
    return Report(tuple(filled), findings=tuple(_blind_spots(question)))


def _nothing(question: Question) -> Finding | None:
    """Returns why there is nothing to check, `None` where there is something."""
    names = question.names
    if not any(question.trace.inputs[name].numel() for name in names):
        return Finding("nothing-in-inputs" if len(names) > 1 else "nothing-in-input", {"names": ", ".join(names)})
    return None if question.trace.value.numel() else Finding("nothing-in-output")


def _blind_spots(question: Question) -> Iterator[Finding]:
    """Yields what keeps all oracles that run the function again from seeing sharply."""
    replay = question.replay
    if isinstance(replay, Replay) and replay.narrowed:
        yield Finding("no-float64", {"operators": ", ".join(replay.narrowed), "resolution": f"{replay.eps:.0e}"})


@contextmanager
def attempting(method: str, names: Sequence[str], checks: list[Check]) -> Iterator[None]:
    """Lets a method fail: whatever is raised in the block is the reason why it cannot say, added to `checks`.

    The function that is verified is the user's, and so are its backwards: they may raise in any of their calls.
    """
    try:
        yield
    except (Exception, SystemExit) as fault:
        data = {"message": message_of(fault)}
        checks += [Check(method, name, "cannot say", reason="method_failed", data=data) for name in names]


def _numbered(question: Question, check: Check) -> Check:
    """Returns the check, with the formula's verdict withdrawn where the number itself is lost in rounding.

    An operator that reads its input as a symmetric matrix has the gradient for symmetric changes, by convention: what
    moves one element alone cannot judge it.
    """
    if check.verdict == "differs" and check.oracle in ("finite differences", "forward mode"):
        operators = (n.operator for n in question.trace.nodes)
        symmetric = next((o for o in operators if (rule := rule_of(o)) and rule.symmetric), None)
        if symmetric is not None:
            data = {**check.data, "operator": symmetric}
            return replace(check, verdict="cannot say", reason="symmetric", data=data)
    lost = question.lost.get(check.input)
    if lost is None or not (check.verdict == "agrees" or check.reason in ("coarse", "cancelled")):
        return check
    verdict: Verdict = "cannot say" if lost.reason == "rounding" else "differs"
    return replace(check, verdict=verdict, reason=lost.reason, data={**check.data, **lost.data})
