"""From a ledger to a report: what was found, the first cause first, and what was watched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from statistics import median

from gradexplain.findings.finding import Finding, Phase, Remedy
from gradexplain.training.criteria import divided_by_nothing, judged, listed, unreached
from gradexplain.training.faults import explained
from gradexplain.training.ledger import Ledger, Steps
from gradexplain.training.reaching import Way
from gradexplain.training.remedies import Change, changes_for
from gradexplain.training.report import Curves, Layer, TrainingReport, thinned
from gradexplain.training.request import PASSES, Ask, Request

_MOST_LAYERS = 12


def report_of(
    ledger: Ledger | None, target: str, *, interrupted: bool, ask: Ask, fault: BaseException | None = None
) -> TrainingReport:
    """Returns the report; without a ledger, torch was never imported.

    `ask` looks into a step by a second run; `fault` is the exception that ended the script.
    """
    if ledger is None:
        return TrainingReport(target, 0, interrupted=interrupted)
    ledger.settle()
    ask = cache(ask)
    cause, examined = _cause(ledger, ask)
    found = [_explained(finding, ledger, ask) for finding in _in_order(ledger, cause, ask)]
    if (told := explained(fault, ledger, ask)) is not None:
        found = [told, *found]
    found = [_tried(finding, ledger, ask) for finding in found[:1]] + found[1:]
    return TrainingReport(
        target,
        _steps(ledger),
        tuple(found),
        watched=tuple(_watched(ledger)),
        curves=_curves(ledger),
        examined=examined,
        interrupted=interrupted,
        broken=ledger.broken,
    )


def _cause(ledger: Ledger, ask: Ask) -> tuple[Finding | None, str]:
    """Returns where the first number that is not finite was made, and how that was found out."""
    flag = ledger.flag
    if flag is None:
        return None, ""
    if ledger.alone and flag.birth is not None:
        return flag.birth, "graph"
    trace = tuple(ledger.trace[: flag.backward + (flag.kind == "loss")])
    answer = ask(Request(flag.kind, flag.backward, flag.after, trace, flag.seconds))
    if not isinstance(answer, Finding) and flag.birth is not None:  # the script acts, or draws what is not seeded
        return flag.birth, "graph"
    return (answer, "replay") if isinstance(answer, Finding) else (None, answer or "nothing")


def _explained(finding: Finding, ledger: Ledger, ask: Ask) -> Finding:
    """Adds to a finding on parameters without a gradient why they get none."""
    if finding.code not in ("no-gradient", "nothing-learns", "nothing-sent"):
        return finding
    for steps in ledger.optimizers:
        apart = [id(t) for t in unreached(ledger, steps) if ledger.names.of(t) in finding.parameters]
        places = tuple(i for i, kept in enumerate(steps.parameters) if id(kept()) in apart)
        if places and len(places) == len(finding.parameters):
            way = ask(Request("way", 0, 0, tuple(ledger.trace[:PASSES]), 0.0, steps.number, places))
            is_of_it = isinstance(way, Way) and (way.why == "silent") == (finding.code == "nothing-sent")
            if isinstance(way, Way) and is_of_it and way.why != "unknown":
                code = way.source.code if way.source else ""
                data = {**finding.data, "why": way.why, "code": code}
                return replace(finding, data=data, source=way.source or finding.source, module=way.module)
    return finding


def _tried(finding: Finding, ledger: Ledger, ask: Ask) -> Finding:
    """Gives a remedy as a change of the user's line, with what came of it where the run is as good with it, or better.

    The run is as long as the one that went wrong, and a few steps longer. Where changes ran there and none helped, the
    remedy is tried and has no change.
    """
    if finding.remedy is None:
        return finding
    remedy = finding.remedy
    for change, losses in _trials(finding, ledger, ask):
        remedy = replace(remedy, tried=True)
        if _helps(finding, losses, ledger.trace):
            result = {"steps": len(losses), "first": losses[0], "last": _end(losses)}
            code = change.words or remedy.code
            return replace(finding, remedy=replace(remedy, code=code, change=change.new, result=result))
    return replace(finding, remedy=remedy)


def _trials(finding: Finding, ledger: Ledger, ask: Ask) -> Iterator[tuple[Change, list[float]]]:
    """Yields the changes that may mend a finding, each with the losses of a run with it; none that cannot run."""
    flag = ledger.flag
    seconds = ledger.seconds() if flag is None else flag.seconds
    if not ledger.trace or seconds > _LONGEST:
        return
    last = (flag.backward if flag is not None else len(ledger.trace)) + _FURTHER - 1
    for change in changes_for(finding):
        losses = ask(Request("try", last, 0, (), seconds, change=change))
        if isinstance(losses, list):
            yield change, losses


def _helps(finding: Finding, losses: Sequence[float], before: Sequence[float]) -> bool:
    """Says whether a run with a change stays finite, and ends no higher where the loss is the same but for that."""
    if len(losses) < 2 or not all(map(math.isfinite, losses)):
        return False
    own = before[: len(losses)]
    if finding.code in ("rate-too-high", "decay-too-strong"):
        return _end(losses) < min(losses[0], _end([loss for loss in own if math.isfinite(loss)]))
    if finding.code == "nothing-learns":
        return _end(losses) < losses[0]
    if "detail" not in finding.data:
        return True
    known = [loss for loss in own if math.isfinite(loss)]
    if len(known) < len(own):  # what it was before it went wrong
        return not known or _end(losses) <= max(known) + max(map(abs, known))
    return _end(losses) <= _end(own) + 0.1 * abs(_end(own))


def _end(losses: Sequence[float]) -> float:
    return median(losses[-max(1, len(losses) // 10) :]) if losses else math.inf


# How many backward passes a remedy is tried beyond what went wrong, and how long a run may have been, in seconds.
_FURTHER, _LONGEST = 20, 60.0


def _in_order(ledger: Ledger, cause: Finding | None, ask: Ask) -> list[Finding]:
    """Returns what was found, the first cause first: what is not finite may follow from a rate that is too high."""
    found = list(judged(ledger))
    flag = ledger.flag
    if flag is None:
        return _under_piles(found)
    names = listed(flag.parameters)
    cause = None if cause is None else _with_remedy(cause)
    code = "loss-not-finite" if flag.kind == "loss" else "gradient-not-finite"
    data = {"value": flag.value, "names": names}
    phase: Phase = "forward" if flag.kind == "loss" else "backward"
    seen = Finding(code, data, flag.source, None, flag.step, phase, parameters=flag.parameters)
    birth = seen if cause is None else replace(cause, step=flag.step, consequences=(*cause.consequences, seen))
    if cause is not None and cause.code == "weight-not-finite" and (made := divided_by_nothing(ledger)) is not None:
        apart = [f for f in found if f.code not in _LARGE]  # its steps are too large by that
        return [replace(made, consequences=(replace(birth, consequences=()), seen)), *apart]
    large = next((f for f in found if f.code in _LARGE), None)
    skips = [f for f in found if f.code == "scaler-skips"]
    falls = next((f for f in found if f.code == "falls-without-bound"), None)
    if falls is not None and (cause is None or cause.data.get("learned", True)) and not _is_of_domain(cause):
        return [replace(falls, consequences=(birth, *skips)), *(f for f in found if f is not falls and f not in skips)]
    rest = [f for f in found if f.code not in _LARGE and f not in skips]
    if large is not None and _leads_to(large, cause, ledger, ask):
        return _under_piles([replace(large, consequences=(birth, *skips)), *rest])
    if large is not None and not large.data["early"]:
        rest = [large, *rest]
    if skips and cause is None:
        return [*skips, *rest]
    return [replace(birth, consequences=(*birth.consequences, *skips)), *rest]


def _under_piles(found: list[Finding]) -> list[Finding]:
    """Returns findings with steps that are too large as what gradients led to that pile up, where they do."""
    piles = next((f for f in found if f.code in ("not-cleared", "not-divided")), None)
    large = next((f for f in found if f.code in _LARGE), None)
    if piles is None or large is None:
        return found
    told = replace(piles, consequences=(*piles.consequences, replace(large, consequences=()), *large.consequences))
    return [told if f is piles else f for f in found if f is not large]


_LARGE = ("rate-too-high", "exploding")


def _leads_to(large: Finding, cause: Finding | None, ledger: Ledger, ask: Ask) -> bool:
    """Says whether what is not finite follows from steps that are too large.

    What is made of data alone does not; of other numbers a run with a smaller rate tells, if it stays finite. Where
    none does, a number that is too large follows if the weights or losses grow, and one where a function has no value
    (log 0) does not; where none can be had, that one follows if they grow, and the large one always.
    """
    if cause is None:
        return True
    if not cause.data.get("learned", True):
        return False
    runs = [all(map(math.isfinite, losses)) for _, losses in _trials(large, ledger, ask)]
    if any(runs):
        return True
    if runs and _is_of_domain(cause):
        return False
    losses = [abs(loss) for loss in ledger.trace if math.isfinite(loss)]
    grows = large.data["ratio"] > 1 or bool(losses and losses[-1] > _GROWN * losses[0])
    return grows or not (runs or _is_of_domain(cause))


_GROWN = 10.0


def _is_of_domain(cause: Finding | None) -> bool:
    """Says whether a number was not made by being too large, but where a function has no value or no slope."""
    return cause is not None and (cause.code.startswith(("data", "weight")) or cause.data.get("remedy") in _DOMAINS)


_DOMAINS = frozenset({
    "logarithm", "root", "quotient", "end", "power", "masked_row", "few", "empty", "ignored", "steep", "no_slope",
    "hidden", "norm",
})  # fmt: skip


def _with_remedy(cause: Finding) -> Finding:
    key = cause.data.get("remedy")
    return cause if key is None else replace(cause, remedy=Remedy(str(key), {"code": cause.data["code"]}))


def _steps(ledger: Ledger) -> int:
    return ledger.taken or len(ledger.trace)


def _watched(ledger: Ledger) -> list[str]:
    kinds = [steps.kind for steps in ledger.optimizers]
    return [*(["losses"] if ledger.trace else []), *(["gradients", "updates"] if kinds else []), "graphs"]


def _curves(ledger: Ledger) -> Curves:
    call = max(ledger.calls.values(), key=lambda c: len(c.losses), default=None)
    steps = max(ledger.optimizers, key=lambda s: s.count, default=None)
    if call is None:
        return Curves()
    layers = [layer for own in ledger.optimizers for layer in _layers(ledger, own)]
    norms = tuple(steps.norms) if steps is not None else ()
    return Curves(tuple(call.steps), tuple(call.losses), norms, tuple(thinned(layers, _MOST_LAYERS)))


def _layers(ledger: Ledger, steps: Steps) -> Iterator[Layer]:
    for place, kept in enumerate(steps.parameters):
        parameter = kept()
        if parameter is None or parameter.dim() < 2:
            continue
        looks = [look for look in steps.looks if place in look.ratio]
        if looks:
            ratios = tuple(look.ratio[place] for look in looks)
            yield Layer(ledger.names.of(parameter), tuple(look.step for look in looks), ratios)
