"""Judging: every oracle is asked the same question, and their answers make one verdict.

There is no tolerance to choose. A difference is held against the error bounds of the two methods that differ; a method
that cannot judge says so, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from gradexplain.documents.shown import Shown
from gradexplain.errors import message_of
from gradexplain.findings.diagnosis import edited
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import Computation
from gradexplain.recording.trace import Node, Trace
from gradexplain.targets.request import Request
from gradexplain.targets.sources import Source
from gradexplain.verification.options import Options
from gradexplain.verification.oracles import by_hand as formulas
from gradexplain.verification.oracles import chain_rule as walk
from gradexplain.verification.oracles.answers import Check, Stop, Verdict, unaccused
from gradexplain.verification.oracles.elements import (
    NARROWED_RESOLUTION,
    RESOLUTION,
    coarsest,
    count_seen,
    joined,
    seen,
)
from gradexplain.verification.oracles.measures import plain
from gradexplain.verification.oracles.question import EFFORT, Question
from gradexplain.verification.oracles.registry import ON_REQUEST, ORACLES, REFEREE
from gradexplain.verification.oracles.replays import Replay

__all__ = ["EFFORT", "Check", "Question", "Report", "Verdict", "answered", "verify_trace"]

# Reasons that speak of the function at this point, not of the oracle: they cast doubt on what other oracles say.
DOUBTS = frozenset(
    {
        "jump",
        "steep",
        "singular",
        "noise",
        "cancelled",
        "not_deterministic",
        "not_finite",
        "rounding",
        "another_function",
        "tangent_not_finite",
        "rule_not_finite",
        "gradient_not_finite",
        "exact_not_finite",
        "cut",
        "quantile",
        "replay_differs",
    }
)
# Points where the derivative is a matter of convention.
CONVENTIONS = frozenset({"kink", "edge", "selects", "tie"})
# Why a gradient is not right: the closed list of what a verdict may rest on.
#   wrong        a judge contradicts it by more than both can be off
#   lost         the function has a path that the gradient has not, and nobody saw where it ended
#   stopped      right for the paths that are left; part of the slope ends where torch holds something constant
#   unseen       right where it was seen; some elements are too small for any judge
#   not_finite   the function is not finite here, itself or in the type that it runs in
#   nothing      there is no element to judge
#   doubtful     what a judge met (a jump, noise, a run that failed) leaves room for doubt
Reason = Literal["wrong", "lost", "stopped", "unseen", "not_finite", "nothing", "doubtful"]
INTENDED = "intended"
# Where no check could fail, none is made.
NOTHING = ("nothing-in-input", "nothing-in-inputs", "nothing-in-output", "nothing-leads-back", "saved-edited")
RULES, DIFFERENCES, FORWARD, ANALYTIC = "rules", "finite differences", "forward mode", "complex step"
OPERATIONS, SAVED = "operations", "saved tensors"
# What an operation looks like that sends a straight-through or surrogate gradient.
ESTIMATE = "surrogate"
# Methods that start from what torch recorded, or from its own formulas: differences of the function overrule them.
REFUTABLE = (FORWARD, ANALYTIC, RULES)


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
        """Why there is nothing to check, where that is so: no element of an input or of the output, or no gradient."""
        return next((finding for finding in self.findings if finding.code in NOTHING), None)

    @property
    def inputs(self) -> Sequence[str]:
        """The names of the inputs that were judged."""
        return tuple(dict.fromkeys(check.input for check in self.checks))

    @cached_property
    def verdict(self) -> Verdict:
        """One that differs decides; without, all must agree."""
        verdicts: list[Verdict] = [self.of(name) for name in self.inputs]
        verdicts += [operation.verdict for operation in self.wrong()]
        verdicts += [self.second.verdict] if self.second is not None else []
        if "differs" in verdicts:
            return "differs"
        return "agrees" if verdicts and all(v == "agrees" for v in verdicts) else "cannot say"

    @property
    def reason(self) -> Reason | None:
        """Why the verdict is not that all agrees."""
        if self.verdict == "agrees":
            return None
        reasons = {check.reason for check in self.checks if check.verdict != "agrees"}
        if self.verdict == "differs":
            telling = [c for c in self.checks if c.verdict == "differs"]
            return "lost" if telling and all(c.reason == "lost" for c in telling) and not self.wrong() else "wrong"
        if self.nothing is not None or not self.inputs:
            return "nothing"
        if "not_finite" in reasons:
            return "not_finite"
        if self.second is not None and all(self.of(name) == "agrees" for name in self.inputs):
            return self.second.reason
        allowed = replace(self, options=replace(self.options, stops=(INTENDED,)))
        if allowed.verdict == "agrees":
            return "stopped"
        doubtful = any(self.doubt(name) for name in self.inputs)
        return "doubtful" if doubtful or (self.second is not None and self.second.verdict != "agrees") else "unseen"

    def doubt(self, name: str) -> str | None:
        """Returns the reason of the first check of an input that casts doubt on all the others, `None` without one."""
        checks = [check for check in self.checks if check.input == name and not self.is_refuted(check)]
        agreeing = {check.oracle for check in checks if check.verdict == "agrees"}
        return next((check.reason for check in checks if _doubts(check, agreeing)), None)

    @property
    def stops(self) -> Sequence[Stop]:
        """Where part of a slope ends, the largest share first."""
        found = [stop for check in self.checks for stop in check.stops]
        return tuple(sorted(found, key=lambda stop: -stop.share))

    def is_stopped(self, name: str) -> bool:
        """Says whether part of the slope by an input ends somewhere: it has an influence, also without a gradient."""
        return any(stop.input == name for stop in self.stops)

    def stands(self, finding: Finding) -> bool:
        """Says whether a finding of a trace is true of what was measured as well."""
        return finding.code != "no-influence" or not self.is_stopped(str(finding.data["name"]))

    def undeclared(self) -> Sequence[Stop]:
        """Returns the stops that are not among those that are meant."""
        return tuple(stop for stop in self.stops if not any(is_declared(stop, place) for place in self.options.stops))

    def of(self, name: str) -> Verdict:
        """Returns the verdict on the gradient of one input."""
        return self._verdicts.get(name, "cannot say")

    @cached_property
    def _verdicts(self) -> Mapping[str, Verdict]:
        return {name: self._verdict(name) for name in self.inputs}

    def _verdict(self, name: str) -> Verdict:
        checks = [check for check in self.checks if check.input == name and not self.is_refuted(check)]
        if any(check.verdict == "differs" for check in checks):
            return "differs"
        if self.doubt(name):
            return "cannot say"
        if any(stop.input == name for stop in self.undeclared()):
            return "cannot say"
        bounds = self.bounds(name)
        count = 0 if bounds is None else count_seen(bounds, self.wanted)
        if bounds is None or (bounds.numel() and not count):
            return "cannot say"
        return "agrees" if self.options.allow_unseen or count == bounds.numel() else "cannot say"

    @property
    def wanted(self) -> float:
        """How small a relative error must have been seen in an element for it to count as seen."""
        narrowed = any(finding.code in ("no-float64", "own-type") for finding in self.findings)
        return NARROWED_RESOLUTION if narrowed else RESOLUTION

    def bounds(self, name: str) -> Tensor | None:
        """Returns for each element what relative error the sharpest judge would have seen, `None` if none saw any."""
        return self._bounds.get(name)

    @cached_property
    def _bounds(self) -> Mapping[str, Tensor | None]:
        return {name: self._joined(name) for name in self.inputs}

    def _joined(self, name: str) -> Tensor | None:
        known = [c.bounds for c in self.checks if c.input == name and c.verdict != "differs" and c.bounds is not None]
        return joined([*known, *self._bounds_of_operations(name, known)])

    def _bounds_of_operations(self, name: str, known: Sequence[Tensor]) -> Sequence[Tensor]:
        """Where every operation is right by itself, so are all elements, to what was seen of each."""
        if not self.operations or any(operation.verdict != "agrees" for operation in self.operations):
            return ()
        worst = max(operation.report.worst for operation in self.operations)
        shape = known[0].shape if known else self._shape(name)
        return (torch.full(shape, worst, dtype=torch.float64),)

    def _shape(self, name: str) -> Sequence[int]:
        return self.subject.trace.inputs[name].shape if self.subject is not None else ()

    @cached_property
    def worst(self) -> float:
        """How small a relative error would have been seen in the element of which least is known."""
        return max((r for name in self.inputs if (r := self.resolution(name)) is not None), default=0.0)

    def formula_alone(self, name: str) -> bool:
        """Says whether nothing but the formula by hand contradicts the gradient of an input, and others confirm it."""
        others = replace(self, checks=tuple(c for c in self.checks if c.oracle != formulas.ORACLE))
        return self.of(name) == "differs" and others.of(name) == "agrees"

    def is_refuted(self, check: Check) -> bool:
        """Says whether finite differences, which share nothing but the function, contradict another's difference.

        They do where they agree with the gradient to less than half of it, in every element: then torch's own forward
        mode is wrong, or what others start from is not what ran in the end.
        """
        blurred = check.reason == "cancelled" and _relative(check) > RESOLUTION  # rounding made of it what it is not
        if check.oracle not in REFUTABLE or not (check.verdict == "differs" or blurred):
            return False
        if check.oracle == RULES and not any(_is_edit_alone(operation) for operation in self.operations):
            return False
        judges = (c for c in self.checks if (c.oracle, c.input, c.verdict) == (DIFFERENCES, check.input, "agrees"))
        return any(2 * (c.resolution or 0.0) < _relative(check) for c in judges)

    def resolution(self, name: str) -> float | None:
        """Returns how small a relative error of one gradient would have been seen, in the worst element seen."""
        return self._resolutions.get(name)

    @cached_property
    def _resolutions(self) -> Mapping[str, float | None]:
        return {name: self._resolution(name) for name in self.inputs}

    def _resolution(self, name: str) -> float | None:
        bounds = self.bounds(name)
        own = max((c.number for c in self.checks if c.input == name and c.number is not None), default=0.0)
        worst = max(coarsest(bounds, self.wanted), own)
        return worst if bounds is not None and not math.isnan(worst) else None

    def sees_none(self, name: str) -> bool:
        """Says whether no judge saw any element of the gradient of an input."""
        bounds = self.bounds(name)
        return bounds is None or not count_seen(bounds, self.wanted)

    def unseen(self, name: str) -> Tensor | None:
        """Returns which elements no judge saw, `None` where that is not known of single ones."""
        bounds = self.bounds(name)
        return None if bounds is None else ~seen(bounds, self.wanted)

    def wrong(self) -> tuple[Operation, ...]:
        """Returns the operations that differ, in the order of the forward pass.

        An edit of what was saved is none, where the gradient is that of what ran in the end.
        """
        wrong = (operation for operation in self.operations if operation.verdict == "differs")
        return tuple(operation for operation in wrong if not (self._holds and _is_edit_alone(operation)))

    def estimates(self) -> tuple[Operation, ...]:
        """Returns the operations that send another gradient on purpose, in the order of the forward pass."""
        codes = ((operation, {finding.code for finding in operation.findings}) for operation in self.operations)
        return tuple(operation for operation, found in codes if ESTIMATE in found and operation.verdict != "differs")

    @property
    def _holds(self) -> bool:
        """Whether differences of the function itself agree, in every element of every input."""
        judges = {c.input for c in self.checks if (c.oracle, c.verdict, c.reason) == (DIFFERENCES, "agrees", None)}
        return bool(self.inputs) and judges == set(self.inputs)

    def conventions(self) -> Sequence[Check]:
        """Returns the checks that met a kink or the edge of the domain, where torch's gradient is a convention."""
        return tuple(c for c in self.checks if c.reason in CONVENTIONS)

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}>"


def _is_edit_alone(operation: Operation) -> bool:
    """Says whether all that is wrong with an operation is that what it had saved was edited."""
    wrong = [check for check in operation.report.checks if check.verdict == "differs"]
    return bool(wrong) and all(check.oracle == SAVED for check in wrong)


def is_declared(stop: Stop, place: str) -> bool:
    """Says whether a place that was declared, `net.py:7` or `intended`, is that of a stop."""
    if place == INTENDED or stop.source is None:
        return place == INTENDED
    whole, part = str(stop.source).replace("\\", "/"), place.replace("\\", "/")
    return whole == part or whole.endswith("/" + part)


def _doubts(check: Check, agreeing: Set[str]) -> bool:
    """Says whether what kept one oracle from judging casts doubt on those that agree."""
    if check.reason in ("cancelled", "noise") and REFEREE in agreeing:  # 50 digits have no noise
        return False
    if check.reason == "cancelled":  # finite differences see what is left after a cancellation
        return DIFFERENCES not in agreeing
    return check.verdict == "cannot say" and check.reason in DOUBTS


def _relative(check: Check) -> float:
    """Returns a difference relative to the gradient, as the resolution is."""
    seen_, right = check.data.get("seen"), check.data.get("right")
    if check.oracle == RULES and isinstance(seen_, float) and isinstance(right, float):
        return abs(seen_ - right) / max(abs(seen_), abs(right))
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
    """Returns what every oracle says, those of `ON_REQUEST` that are named in `also` as well, and the referee on doubt.

    Nothing is said of an input without elements.
    """
    return refereed(question, surveyed(question, also))


def surveyed(question: Question, also: Collection[str] = ()) -> Report:
    """Returns what the oracles say that are always asked, and those of `ON_REQUEST` that are named in `also`."""
    nothing = _nothing(question)
    if nothing is not None:
        return Report((), findings=(nothing,))
    checks: list[Check] = []
    for name, ask in {**ORACLES, **{name: ON_REQUEST[name] for name in also}}.items():
        with attempting(name, question.names, checks):
            checks += [_numbered(question, check) for check in ask(question)]
    findings = tuple(_blind_spots(question))
    report = Report(tuple(checks), findings=findings)
    with attempting(RULES, question.names, checks):
        checks = [_sharpened(question, report, check) for check in checks]
        report = replace(report, checks=tuple(checks))
        checks = unaccused([_following(report, check) for check in checks])
        checks = [_blind(report, check) for check in checks]
    filled = (check for check in checks if question.trace.inputs[check.input].numel())
    return Report(tuple(filled), findings=findings)


def refereed(question: Question, report: Report) -> Report:
    """Returns a report with the exact derivative's word, where it leaves a doubt and that was not asked for.

    It is exact and slow, so that it is asked last.
    """
    if report.nothing or report.reason in (None, "stopped"):
        return report
    checks = list(report.checks)
    if not any(check.oracle == REFEREE for check in checks):
        with attempting(REFEREE, report.inputs, checks):
            asked = [_unasked(_numbered(question, check)) for check in ON_REQUEST[REFEREE](question)]
            checks += [check for check in asked if check.input in report.inputs]
    report = replace(report, checks=tuple(checks))
    checks = [_suspected(question, report, check) for check in checks]
    return replace(report, checks=tuple(_tangent_alone(replace(report, checks=tuple(checks)), c) for c in checks))


def _suspected(question: Question, report: Report, check: Check) -> Check:
    """Returns differences as no judge where they alone contradict: a step may have leapt over a pole, or over waves.

    That takes forward mode, and the rules with the exact derivative, each in all elements, or with the complex step,
    which makes no step and shares nothing either; and that nothing was held constant, as the former follow torch's own
    graph: where a path is lost, differences are the only judge.
    """
    if (check.oracle, check.verdict, check.reason) != (DIFFERENCES, "differs", "slope"):
        return check
    others = {c.oracle: c for c in report.checks if c.input == check.input and c.verdict == "agrees"}
    if FORWARD not in others or RULES not in others or question.frozen is not None:
        return check
    exact = (others[oracle] for oracle in (RULES, REFEREE) if oracle in others)
    sharp = [check for check in exact if _is_whole(check, report.wanted)]
    analytic = others[ANALYTIC].bound if ANALYTIC in others else None
    contradicted = analytic is not None and check.worst is not None and 2 * analytic < check.worst
    return replace(check, verdict="cannot say", reason="suspect") if len(sharp) == 2 or contradicted else check


def _tangent_alone(report: Report, check: Check) -> Check:
    """Returns forward mode as no judge where it alone contradicts, or fails, and others see the gradient to be right.

    It goes by torch's own table of forward formulas, as the gradient does by that of backward ones: each of the two may
    be the one that is off. Who sees it are differences, the complex step, or the rules and the exact derivative
    together. Differences need not see every element: which they did not remains unsaid, and is said to.
    """
    if check.oracle != FORWARD or check.reason not in ("tangent", "tangent_not_finite"):
        return check
    others = [c for c in report.checks if c.input == check.input and c.oracle != FORWARD]
    whole = {c.oracle for c in others if c.verdict == "agrees" and _is_whole(c, report.wanted)}
    steps = (c.bound for c in others if (c.oracle, c.verdict) == (ANALYTIC, "agrees"))
    analytic = any(bound is not None and check.worst is not None and 2 * bound < check.worst for bound in steps)
    steps_see = any(
        c.oracle == DIFFERENCES and c.reason in (None, "unseen") and _is_mostly(c, report.wanted) for c in others
    )
    confirmed = steps_see or {RULES, REFEREE} <= whole or analytic
    if not confirmed or any(c.verdict == "differs" for c in others):
        return check
    return replace(check, verdict="cannot say", reason=f"{check.reason}_alone")


def _is_whole(check: Check, wanted: float) -> bool:
    """Says whether an oracle saw every element."""
    return check.bounds is not None and count_seen(check.bounds, wanted) == check.bounds.numel()


def _is_mostly(check: Check, wanted: float) -> bool:
    """Says whether an oracle saw most elements."""
    return check.bounds is not None and 2 * count_seen(check.bounds, wanted) > check.bounds.numel()


def _nothing(question: Question) -> Finding | None:
    """Returns why there is nothing to check, `None` where there is something."""
    names, lost = question.names, question.trace.lost
    if lost is not None:
        return Finding("nothing-leads-back", {"because": lost.key, **lost.data})
    if not any(question.trace.inputs[name].numel() for name in names):
        return Finding("nothing-in-inputs" if len(names) > 1 else "nothing-in-input", {"names": ", ".join(names)})
    return edited(question.trace) if question.trace.value.numel() else Finding("nothing-in-output")


def _unasked(check: Check) -> Check:
    """Returns a check of an oracle that nobody asked for: it does not call a 0 wrong that is too small for the type."""
    return replace(check, verdict="cannot say") if check.reason == "vanished" else check


def _blind_spots(question: Question) -> Iterator[Finding]:
    """Yields what keeps all oracles that run the function again from seeing sharply."""
    replay = question.replay
    if isinstance(replay, Replay) and replay.narrowed:
        data = {"operators": ", ".join(replay.narrowed), "resolution": f"{replay.eps:.0e}", "dtype": replay.dtype}
        yield Finding("own-type" if replay.dtype == "float32" else "no-float64", data)


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


def _sharpened(question: Question, report: Report, check: Check) -> Check:
    """Returns the rules' check without what it saw of each element, where others have seen all; else with rounding."""
    if check.oracle != RULES or check.bounds is None:
        return check
    others = joined([c.bounds for c in report.checks if _sees(c, check.input) and c.bounds is not None])
    if others is not None and count_seen(others, report.wanted) == others.numel():
        return replace(check, bounds=None)
    own = walk.bounds_of(question, check.input, check.bounds)
    if question.computation is None:  # what rounding did was not measured, but estimated
        own = own.clamp_min(check.resolution or 0.0)
    return replace(check, bounds=own)


def _sees(check: Check, name: str) -> bool:
    return check.input == name and check.oracle != RULES and check.verdict != "differs"


def _following(report: Report, check: Check) -> Check:
    """Returns a difference as none of the gradient, where a method follows what torch holds constant: F, and not G."""
    own = [c for c in report.checks if (c.oracle, c.input) == (DIFFERENCES, check.input)]
    apart = any((c.stops and c.verdict == "agrees") or c.reason == "replay_differs" for c in own)
    if not apart or check.verdict != "differs" or check.oracle not in (FORWARD, ANALYTIC):
        return check
    return replace(check, verdict="cannot say", reason="follows")


def _blind(report: Report, check: Check) -> Check:
    """Returns a check that agrees as one that cannot say, where no judge sees any element: it makes the same error."""
    bounds = report.bounds(check.input)
    blind = bounds is None or (bounds.numel() and not count_seen(bounds, report.wanted))
    if check.verdict != "agrees" or not blind or report.of(check.input) != "cannot say":
        return check
    count = bounds.numel() if bounds is not None else 0
    data = {**check.data, "unseen": count, "count": count}
    return replace(check, verdict="cannot say", resolution=None, reason="unseen", data=data)


def _numbered(question: Question, check: Check) -> Check:
    """Returns the check, with the formula's verdict withdrawn where the number itself is lost in rounding.

    A number that hangs on what the backward pass draws is wrong, also where it happens to be the right one.
    """
    apart = question.trace.apart.get(check.input)
    if apart is not None and apart.cause == "draws" and check.verdict != "cannot say":
        data = {**check.data, "place": apart.place, "seen": apart.plain, "other": apart.other}
        return replace(check, verdict="differs", reason="drawn_again", data=data, place=apart.place)
    number = question.numbers.get(check.input)
    if number is None:
        return check
    check = replace(check, number=number.resolution)
    if check.verdict != "agrees" and check.reason not in ("coarse", "joint", "cancelled", "unseen"):
        return check
    value = question.trace.value
    if not bool(value.isfinite().all()):
        place = ~value.isfinite()
        data = {"value": plain(value[place][0]), "right": plain(question.judged.value[place][0])}
        dtype = str(value.dtype).removeprefix("torch.")
        return replace(check, verdict="cannot say", reason="not_finite", data={**data, "dtype": dtype})
    if number.problem is None:
        return check
    verdict: Verdict = "cannot say" if number.problem.reason in ("rounding", "another_function") else "differs"
    return replace(check, verdict=verdict, reason=number.problem.reason, data={**check.data, **number.problem.data})
