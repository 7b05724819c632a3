"""Explanations and reports as plain data for JSON: stable keys, numbers at full precision.

Such a record is a receipt: `receipts` reads it in another process and derives every claim in it again. What is written
here and what is read there change together, with `FORMAT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradexplain.documents.doc import Doc
from gradexplain.documents.renderers import RENDERERS
from gradexplain.documents.shown import recorded
from gradexplain.errors import InputError
from gradexplain.explanation.explanation import Contribution, Explanation, Gradient, Step
from gradexplain.findings.finding import Finding
from gradexplain.locale.catalogue import say
from gradexplain.mathematics.equations import Equation, recomputed
from gradexplain.narration.explanations import Teller, reason_key
from gradexplain.narration.jsonable import jsonable, source_record
from gradexplain.narration.reports import ReportTeller
from gradexplain.recording.frames import is_ours_or_torchs
from gradexplain.recording.summaries import TensorSummary
from gradexplain.targets.loading import file_of, parse_target
from gradexplain.targets.provenance import FORMAT, file_digest, machine, tensor_digest
from gradexplain.targets.request import Request
from gradexplain.targets.sources import Source
from gradexplain.verification.options import Options
from gradexplain.verification.oracles.answers import Stop
from gradexplain.verification.oracles.elements import coarsest, count_seen
from gradexplain.verification.verdicts import Check, Operation, Report
from gradexplain.versions.releases import __version__

_Packed = Callable[[TensorSummary | None], Any]


@recorded.register
def record(explanation: Explanation, *, full: bool = False) -> dict[str, Any]:
    """Returns an explanation as plain data; tensors are whole if they are small or `full`, else in a few numbers."""
    e = explanation
    sources = [s.source for part in (e, *e.higher) for s in part.steps]
    return {
        **_header("explanation", e.target, e.request, e.report.options, sources),
        "live": e.live,
        "parameters": list(e.parameters),
        **_body(e, full),
    }


@recorded.register
def verification_record(report: Report, *, full: bool = False) -> dict[str, Any]:
    """Returns what was verified and what was found as plain data; of a part of a report, what was found alone."""
    if report.subject is None:
        return _report(report)
    subject, found, packed = report.subject, report.subject.trace, _packing(full)
    return {
        **_header("verification", subject.target, report.request, report.options, [n.source for n in found.nodes]),
        "live": found.live,
        "parameters": list(subject.parameters),
        "dtype": TensorSummary(found.value).dtype,
        "inputs": _inputs({n: TensorSummary(t) for n, t in found.inputs.items()}, packed),
        "output": _output(None, TensorSummary(found.value), packed),
        "cotangent": {"given": False, "value": packed(TensorSummary(found.cotangent))},
        "gradients": _gradients(found.gradients, packed),
        "findings": [_finding(f, Teller("en").finding) for f in report.findings],
        **_report(report),
    }


# ------------------------------------------------------------------------------------------------------- where from


def _header(
    kind: str, target: str, request: Request | None, options: Options, sources: Sequence[Source | None]
) -> dict[str, Any]:
    return {
        "gradexplain": __version__,
        "format": FORMAT,
        "kind": kind,
        "target": target,
        "asked": None if request is None else {**request.typed(), **asdict(options)},
        "torch": torch.__version__,
        "machine": machine(),
        "files": {str(path): file_digest(path) for path in _files(target, sources)},
    }


def _files(target: str, sources: Iterable[Source | None]) -> Iterator[Path]:
    """Yields the user's own files: that of the target, and those that steps ran from."""
    named = [_target_file(target), *(Path(source.file) for source in sources if source is not None)]
    for path in dict.fromkeys(p for p in named if p is not None):
        if path.is_file() and not is_ours_or_torchs(str(path)):
            yield path


def _target_file(target: str) -> Path | None:
    try:
        return file_of(parse_target(target).place)
    except InputError:  # the title of a callable that came without a target
        return None


# ------------------------------------------------------------------------------------------------------ explanations


def _body(e: Explanation, full: bool) -> dict[str, Any]:
    packed, teller = _packing(full), Teller("en")
    shown = [q for part in (e, *e.higher) for q in part.equations]
    page = RENDERERS["text"](Doc(tuple(b for part in (e, *e.higher) for b in teller.body(part))), 100)
    return {
        "target": e.target,
        "torch": e.torch,
        "dtype": e.dtype,
        "inputs": _inputs(e.inputs, packed),
        "output": _output(e.output_name, e.output, packed),
        "scalar": e.scalar,
        "cotangent": {"given": e.cotangent_given, "value": packed(e.cotangent)},
        "gradients": _gradients(e.gradients, packed),
        "by_input": {g.name: _by_input(g, packed) for g in e.by_input},
        "steps": [_step(s, packed) for s in e.steps],
        "equations": {"shown": len(shown), "recomputed": recomputed(shown, page)},
        "checks": [_check(c) for c in e.report.checks],
        "operations": [_operation(o) for o in e.report.operations],
        "findings": [_finding(f, teller.finding) for f in e.findings],
        "verdict": e.verdict,
        "reason": e.reason,
        "stops": [_stop(s) for s in e.report.stops],
        "higher": [_higher(h, full) for h in e.higher],
    }


def _higher(e: Explanation, full: bool) -> dict[str, Any]:
    rows = jsonable(e.extra.get("hessian"))
    own = {"order": e.order, "wrt": e.extra["wrt"], "constant": "constant" in e.extra, "hessian": rows}
    return {**own, **_body(e, full)}


def _inputs(inputs: Mapping[str, TensorSummary], packed: _Packed) -> dict[str, Any]:
    return {n: {"shape": list(v.shape), "dtype": v.dtype, "value": packed(v)} for n, v in inputs.items()}


def _output(name: str | None, output: TensorSummary, packed: _Packed) -> dict[str, Any]:
    return {"name": name, "shape": list(output.shape), "dtype": output.dtype, "value": packed(output)}


def _gradients(gradients: Mapping[str, Tensor | None], packed: _Packed) -> dict[str, Any]:
    return {n: None if g is None else packed(TensorSummary(g)) for n, g in gradients.items()}


def _by_input(gradient: Gradient, packed: _Packed) -> dict[str, Any]:
    paths = [{"steps": list(route.steps), "value": packed(route.value)} for route in gradient.routes]
    return {"uses": list(gradient.uses), "sums": _lines(gradient.sums), "paths": paths}


def _step(step: Step, packed: _Packed) -> dict[str, Any]:
    return {
        "index": step.index,
        "label": step.label,
        "operator": step.operator,
        "node": step.node,
        "module": step.module,
        "inputs": list(step.inputs),
        "source": source_record(step.source),
        "forward": {"name": step.name, "value": packed(step.forward), "equations": _lines(step.equations)},
        "rule": step.rule,
        "order": step.order,
        "cotangent": packed(step.cotangent),
        "sums": _lines(step.sums),
        "contributions": [_contribution(c, packed) for c in step.contributions],
    }


def _contribution(sent: Contribution, packed: _Packed) -> dict[str, Any]:
    return {
        "to": sent.to,
        "argument": sent.argument,
        "rule": sent.rule,
        "value": packed(sent.value),
        "equations": _lines(sent.equations),
    }


def _finding(finding: Finding, said: Callable[[Finding], str]) -> dict[str, Any]:
    data = jsonable(finding.data)
    place = source_record(finding.source)
    return {"code": finding.code, "pitfall": finding.pitfall, "place": place, "data": data, "text": said(finding)}


def _lines(equations: Sequence[Equation]) -> list[str]:
    return [str(e) for e in equations]


# ----------------------------------------------------------------------------------------------------------- reports


def _report(report: Report) -> dict[str, Any]:
    return {
        "checks": [_check(c) for c in report.checks],
        "operations": [_operation(o) for o in report.operations],
        "second": None if report.second is None else _report(report.second),
        "verdict": report.verdict,
        "reason": report.reason,
        "stops": [_stop(s) for s in report.stops],
    }


def _stop(stop: Stop) -> dict[str, Any]:
    return {"source": source_record(stop.source), "input": stop.input, "share": jsonable(stop.share)}


def _operation(operation: Operation) -> dict[str, Any]:
    node, said = operation.node, ReportTeller("en").incident
    named = {"index": node.index, "operator": node.operator, "node": node.name, "label": operation.label}
    places = {"source": source_record(node.source), "backward": source_record(operation.backward)}
    return {**named, **places, "findings": [_finding(f, said) for f in operation.findings], **_report(operation.report)}


def _check(check: Check) -> dict[str, Any]:
    return {
        "oracle": check.oracle,
        "input": check.input,
        "verdict": check.verdict,
        "worst": jsonable(check.worst),
        "bound": jsonable(check.bound),
        "resolution": jsonable(check.resolution),
        "element": None if check.place is None else list(check.place),
        "elements": _elements(check),
        "reason": check.reason,
        "data": jsonable(check.data),
        "text": None if check.reason is None else say(reason_key(check), "en", **check.data),
    }


def _elements(check: Check) -> dict[str, Any] | None:
    """Returns how many elements an oracle saw and did not see, and the coarsest bound among those that it saw."""
    if check.bounds is None:
        return None
    count = count_seen(check.bounds)
    return {"seen": count, "unseen": check.bounds.numel() - count, "worst": jsonable(coarsest(check.bounds))}


# ----------------------------------------------------------------------------------------------------------- numbers


def _packing(full: bool) -> _Packed:
    return lambda value: None if value is None else _packed(value, full)


def _packed(value: TensorSummary, full: bool) -> Any:
    """Returns nested lists of a small tensor, or of any if `full`; else a summary."""
    if full or value.small:
        return jsonable(value.tensor.to_dense().tolist(), pairs=True)
    low, high = value.range or (None, None)
    summary = {"shape": list(value.shape), "min": low, "max": high, "norm": value.norm}
    counts = {"nan": value.nans, "inf": value.infinities, "sha256": tensor_digest(value.tensor)}
    return jsonable({**summary, **counts})
