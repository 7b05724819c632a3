"""An explanation as plain data for JSON: stable keys, numbers at full precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradexplain.doc import Doc
from gradexplain.equations import STORED, Equation, recomputed
from gradexplain.narration import Teller
from gradexplain.renderers import RENDERERS
from gradexplain.summaries import Value

if TYPE_CHECKING:
    from gradexplain.explanation import Explanation, Step
    from gradexplain.verification import Check


def record(explanation: Explanation, *, full: bool = False) -> dict[str, Any]:
    """Returns the explanation as plain data for JSON, numbers at full precision."""
    e = explanation
    packed: Callable[[Value | None], Any] = lambda v: _packed(v, full)  # noqa: E731  # a local shorthand
    shown = [q for part in (e, *e.higher) for q in part.equations if q.relation != STORED]
    teller = Teller("en")
    page = RENDERERS["text"](Doc(tuple(b for part in (e, *e.higher) for b in teller.body(part))), 100)
    return {
        "target": e.target,
        "torch": e.torch,
        "dtype": e.dtype,
        "inputs": {n: {"shape": list(v.shape), "dtype": v.dtype, "value": packed(v)} for n, v in e.inputs.items()},
        "output": {"name": e.output_name, "shape": list(e.output.shape), "value": packed(e.output)},
        "cotangent": {"given": e.cotangent_given, "value": packed(e.cotangent)},
        "gradients": {n: None if g is None else packed(Value(g)) for n, g in e.gradients.items()},
        "steps": [_step_record(s, packed) for s in e.steps],
        "equations": {"shown": len(shown), "recomputed": recomputed(shown, page)},
        "checks": [_check_record(c, teller) for c in e.report.checks],
        "findings": [
            {"kind": f.kind, "place": f.place, "data": _jsonable(f.data), "text": teller.finding(f)} for f in e.findings
        ],
        "verdict": e.verdict,
        "higher": [{"order": h.order, **_jsonable(h.extra), **record(h, full=full)} for h in e.higher],
    }


def _step_record(step: Step, packed: Callable[[Value | None], Any]) -> dict[str, Any]:
    return {
        "index": step.index,
        "label": step.label,
        "operator": step.operator,
        "node": step.node,
        "module": step.module,
        "inputs": list(step.inputs),
        "source": None
        if step.source is None
        else {"file": step.source.file, "line": step.source.line, "code": step.source.code},
        "forward": {"name": step.name, "value": packed(step.forward), "equations": _lines(step.equations)},
        "rule": step.rule,
        "cotangent": packed(step.cotangent),
        "contributions": [
            {
                "to": c.to,
                "argument": c.argument,
                "rule": c.rule,
                "value": packed(c.value),
                "equations": _lines(c.equations),
            }
            for c in step.contributions
        ],
    }


def _check_record(check: Check, teller: Teller) -> dict[str, Any]:
    return {
        "oracle": check.oracle,
        "input": check.input,
        "verdict": check.verdict,
        "worst": _jsonable(check.worst),
        "bound": _jsonable(check.bound),
        "reason": teller.reason(check) or None,
    }


def _lines(equations: Sequence[Equation]) -> list[str]:
    return [str(e) for e in equations]


def _packed(value: Value | None, full: bool) -> Any:
    """Returns nested lists of a small tensor, or of any with `full`; else a summary."""
    if value is None:
        return None
    if full or value.small:
        return _jsonable(value.tensor.to_dense().tolist())
    low, high = value.range or (None, None)
    summary = {"shape": list(value.shape), "min": low, "max": high, "norm": value.norm}
    return _jsonable({**summary, "nan": value.nans, "inf": value.infinities})


def _jsonable(value: Any) -> Any:
    """JSON has no nan and no infinity: they become strings; complex numbers become pairs."""
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if isinstance(value, complex):
        return [_jsonable(value.real), _jsonable(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
