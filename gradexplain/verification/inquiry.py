"""All that is asked of one computation: every oracle, each operation alone, the second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gradexplain.findings.diagnosis import findings_of
from gradexplain.findings.finding import Finding
from gradexplain.findings.not_finite import FIRST
from gradexplain.mathematics.indices import indexed
from gradexplain.recording.computation import Computation
from gradexplain.recording.trace import Trace, is_custom
from gradexplain.recording.tracing import generic, trace, traced
from gradexplain.verification.contracts import ORACLE as CONTRACT
from gradexplain.verification.contracts import Contracts, contracts_of
from gradexplain.verification.derivatives import gradient_of
from gradexplain.verification.operations import check_again, check_operations
from gradexplain.verification.options import Options
from gradexplain.verification.oracles import by_hand as formulas
from gradexplain.verification.oracles.answers import Check
from gradexplain.verification.oracles.registry import REFEREE
from gradexplain.verification.oracles.replays import Replay
from gradexplain.verification.verdicts import (
    DIFFERENCES,
    OPERATIONS,
    Operation,
    Question,
    Report,
    Subject,
    answered,
    attempting,
    refereed,
    surveyed,
)
from gradexplain.versions.internals import has_hooks

SECOND = "second derivatives"
# Where the gradient has no slope at a point, the function has no second derivative there: what is told of each reason.
NOT_THERE = {
    "kink": "second-kink",
    "edge": "second-edge",
    "jump": "second-jump",
    "selects": "second-jump",
    "singular": "second-steep",
}


def inquire(
    computation: Computation,
    *,
    target: str,
    by_hand: Mapping[str, Callable[..., Tensor]] | None = None,
    options: Options,
) -> Report:
    """Returns the report on the gradients of a computation along a generic cotangent; for the options see `Options`.

    A hook need not be linear: where one waits on a leaf, one number is differentiated as `.backward()` does it, from 1.
    """
    hooked = any(map(has_hooks, computation.own.values()))

    def cotangent(output: Tensor) -> Tensor:
        return torch.ones_like(output) if hooked and output.numel() == 1 else generic(output)

    question = Question(traced(computation, cotangent=cotangent), computation, effort=options.effort)
    report = judged(question, options)
    subject = Subject(target, question.trace, tuple(computation.parameters))
    if report.nothing:
        return replace(report, subject=subject)
    if by_hand:
        checks: list[Check] = []
        with attempting(formulas.ORACLE, tuple(by_hand), checks):
            checks += _by_hand(computation, by_hand, options.effort)
        report = replace(report, checks=(*report.checks, *checks))
    if options.second:
        report = replace(report, second=_second(question, computation, options.effort))
    return replace(report, subject=subject)


def judged(question: Question, options: Options) -> Report:
    """Returns the report on a gradient: the whole by every oracle, where that leaves a doubt each operation alone.

    Each custom Function is asked whether its backward keeps its contract.
    """
    computation, effort = question.computation, options.effort
    assert computation is not None
    wanted = {REFEREE: options.exact, "every element": options.full, "batched gradients": options.batched}
    report = replace(surveyed(question, [name for name, on in wanted.items() if on]), options=options)
    if report.nothing:
        return report
    if report.verdict == "differs":
        report = refereed(question, report)  # who contradicts alone is suspect, and no operation is looked for
    checks: list[Check] = []
    settled = report.reason in (None, "stopped") and not any(map(report.is_refuted, report.checks))
    settled = settled or (question.huge and report.verdict == "cannot say")  # too dear to ask without being told to
    if options.each_operation or not settled:
        with attempting(OPERATIONS, question.names, checks):
            replay = question.replay
            again = replay.computation if isinstance(replay, Replay) else computation
            operations = check_operations(again, effort=effort, coarsest=2 * question.precision)
            report = replace(report, operations=operations)
    report = refereed(question, report)
    contracts = Contracts()
    with attempting(CONTRACT, question.names, checks):
        contracts = contracts_of(computation, question.trace, effort=effort)
    return replace(
        report,
        checks=(*report.checks, *checks),
        operations=_with(report.operations, contracts.broken),
        findings=(*report.findings, *contracts.notes),
    )


def _with(operations: Sequence[Operation], broken: Sequence[Operation]) -> tuple[Operation, ...]:
    """Returns the operations with what was found of those that broke their contract."""
    found = {operation.node.index: operation for operation in operations}
    for one in broken:
        other = found.get(one.node.index)
        if other is not None:
            checks = (*other.report.checks, *one.report.checks)
            # What it sends hangs on how it is asked: no sign of a hook.
            kept = (finding for finding in other.findings if finding.code != "hook-on-node")
            one = replace(other, report=Report(checks), findings=(*kept, *one.findings))
        found[one.node.index] = one
    return tuple(found[index] for index in sorted(found))


def _by_hand(computation: Computation, by_hand: Mapping[str, Callable[..., Tensor]], effort: float) -> Iterable[Check]:
    """Holds formulas against what they are the gradient of: the output itself, or the sum of its elements."""
    return formulas.ask(Question(trace(computation), computation, by_hand, effort))


def _second(question: Question, computation: Computation, effort: float) -> Report:
    """Verifies the gradient's own gradient. A cut that the function itself has none of was lost in a backward."""
    checks: list[Check] = []
    with attempting(SECOND, question.names, checks):
        gradient = gradient_of(computation, question.trace.cotangent)
        recorded = trace(gradient, cotangent=generic)
        cuts = bool(question.trace.cuts)
        recorded = recorded if cuts else replace(recorded, cuts=())
        report = answered(Question(recorded, gradient, effort=effort, stoppable=cuts))
        wrong: tuple[Operation, ...] = ()
        with attempting(OPERATIONS, question.names, checks):
            if report.verdict == "differs":
                wrong = check_again(computation, question.trace.cotangent, effort=effort)
        births = (finding for finding in findings_of(recorded) if finding.code in FIRST)
        findings = (*_whose(report, wrong, question.trace), *report.findings, *births)
        return replace(report, checks=(*report.checks, *checks), operations=wrong, findings=findings)
    return Report(tuple(checks))


def _whose(report: Report, wrong: Sequence[Operation], first: Trace) -> Iterator[Finding]:
    """Says where the function has no second derivative, and of wrong ones whether torch's own formulas are wrong."""
    for check in report.checks:
        if check.oracle == DIFFERENCES and check.reason in NOT_THERE:
            element = indexed(check.input, check.place) if check.place is not None else check.input
            yield Finding(NOT_THERE[check.reason], {"element": element, "input": check.input})
    if report.verdict != "differs":
        return
    users = [operation for operation in wrong if operation.backward is not None]
    for operation in users:
        yield Finding("second-users", {"function": operation.label}, operation.backward)
    if not users and not first.cuts and not any(map(is_custom, first.nodes)):
        yield Finding("second-torchs", {})
