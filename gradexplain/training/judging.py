"""From a ledger to a report: what was found, the first cause first, and what was watched."""

from __future__ import annotations

from dataclasses import replace

from gradexplain.findings.finding import Finding, Phase
from gradexplain.training.criteria import judged, listed
from gradexplain.training.ledger import Ledger, Steps
from gradexplain.training.report import Curves, Layer, TrainingReport

_MOST_LAYERS = 12


def report_of(
    ledger: Ledger | None, target: str, *, interrupted: bool, cause: Finding | None = None, examined: str = ""
) -> TrainingReport:
    """Returns the report; without a ledger, torch was never imported.

    `cause` is where the first number that is not finite was made, as far as it was `examined`.
    """
    if ledger is None:
        return TrainingReport(target, 0, interrupted=interrupted)
    return TrainingReport(
        target,
        _steps(ledger),
        tuple(_in_order(ledger, cause)),
        watched=tuple(_watched(ledger)),
        curves=_curves(ledger),
        examined=examined,
        interrupted=interrupted,
    )


def _in_order(ledger: Ledger, cause: Finding | None) -> list[Finding]:
    """Returns what was found, the first cause first: what is not finite follows from a rate that is too high."""
    found = list(judged(ledger))
    flag = ledger.flag
    if flag is None:
        return found
    names = listed(flag.parameters)
    code = "loss-not-finite" if flag.kind == "loss" else "gradient-not-finite"
    data = {"value": flag.value, "names": names}
    phase: Phase = "forward" if flag.kind == "loss" else "backward"
    seen = Finding(code, data, flag.source, None, flag.step, phase, parameters=flag.parameters)
    birth = seen if cause is None else replace(cause, step=flag.step, consequences=(*cause.consequences, seen))
    before = [f for f in found if f.code == "rate-too-high"]
    rest = [f for f in found if f not in before]
    if before:
        return [replace(before[0], consequences=(birth,)), *rest]
    return [birth, *rest]


def _steps(ledger: Ledger) -> int:
    return max((s.count for s in ledger.optimizers.values()), default=0) or len(ledger.trace)


def _watched(ledger: Ledger) -> list[str]:
    kinds = [steps.kind for steps in ledger.optimizers.values()]
    return [*(["losses"] if ledger.trace else []), *(["gradients", "updates"] if kinds else []), "graphs"]


def _curves(ledger: Ledger) -> Curves:
    call = max(ledger.calls.values(), key=lambda c: len(c.losses), default=None)
    steps = max(ledger.optimizers.values(), key=lambda s: s.count, default=None)
    if call is None:
        return Curves()
    layers = tuple(_layers(ledger, steps)) if steps is not None else ()
    return Curves(tuple(call.losses), tuple(steps.norms) if steps is not None else (), layers)


def _layers(ledger: Ledger, steps: Steps) -> list[Layer]:
    found = []
    for place, kept in enumerate(steps.parameters):
        parameter = kept()
        if parameter is None or parameter.dim() < 2:
            continue
        looks = [look for look in steps.looks if place < len(look.ratio)]
        ratios = tuple(ratio for look in looks if (ratio := look.ratio[place]) is not None)
        sizes = tuple(size for look in looks if (size := look.rms[place]) is not None)
        if ratios or sizes:
            found.append(Layer(ledger.names.of(parameter), ratios, sizes))
    return found[:_MOST_LAYERS]
