"""What an exception of the script says of autograd: the line that is to blame, which torch does not name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Any

from torch import Tensor

from gradexplain.findings.finding import Finding, Remedy
from gradexplain.recording.frames import is_ours_or_torchs
from gradexplain.targets.sources import Source, source_at
from gradexplain.training.ledger import Ledger
from gradexplain.training.reaching import Way
from gradexplain.training.request import Ask, Request

_CHANGED = "modified by an inplace operation"
_TWICE = "backward through the graph a second time"
_NO_GRAPH = "does not require grad and does not have a grad_fn"


def explained(fault: BaseException | None, ledger: Ledger, ask: Ask) -> Finding | None:
    """Returns what there is to say of an exception that ended the script; `None` of one that is not of gradients."""
    message = str(fault)
    if isinstance(fault, RuntimeError) and _CHANGED in message:
        return _changed(message, ledger, ask)
    if isinstance(fault, RuntimeError) and _TWICE in message:
        return _twice(ledger)
    if isinstance(fault, RuntimeError) and _NO_GRAPH in message:
        return _without_graph(ledger, ask)
    if isinstance(fault, (IndexError, RuntimeError)):
        return _out_of_range(fault, ledger)
    return None


def _asked(kind: str, ledger: Ledger, ask: Ask) -> Any:
    last = len(ledger.trace) - 1
    return ask(Request(kind, last, ledger.round_before(), tuple(ledger.trace), ledger.seconds()))


def _changed(message: str, ledger: Ledger, ask: Ask) -> Finding:
    answer = _asked("changed", ledger, ask)
    call = ledger.last_call
    if isinstance(answer, Finding):
        return replace(answer, step=ledger.step)
    told = re.search(r"output \d+ of (\w+?)(?:Backward\d*)?,", message)
    data = {"operator": told[1] if told else "?", "code": "?", "writer": "?"}
    source = call.source if call else None
    return Finding("saved-changed", data, source, "P13", ledger.step, "backward", remedy=Remedy("saved-changed"))


def _twice(ledger: Ledger) -> Finding:
    call, bridge = ledger.last_call, ledger.bridge
    if bridge is not None:
        data: dict[str, Any] = {
            "code": bridge.source.code if bridge.source else bridge.operator,
            "operator": bridge.operator,
        }
        source = bridge.source or (call.source if call else None)
        return Finding("graph-of-before", data, source, "P04", ledger.step, "backward", remedy=Remedy("graph-carried"))
    data = {"freed": ledger.freed}
    source = call.source if call else None
    return Finding("graph-freed", data, source, "P02", ledger.step, "backward", remedy=Remedy("graph-freed"))


def _without_graph(ledger: Ledger, ask: Ask) -> Finding:
    call = ledger.last_call
    way = _asked("way", ledger, ask)
    data: dict[str, Any] = {"count": ledger.step}
    cure = "nothing-learns"
    source = call.source if call else None
    if isinstance(way, Way) and way.why != "unknown":
        data |= {"why": way.why, "code": way.source.code if way.source else ""}
        source = way.source or source
        cure = "frozen" if way.why == "frozen" else cure
    return Finding("loss-without-graph", data, source, "P05", ledger.step, "forward", remedy=Remedy(cure))


# ----------------------------------------------------------------------------------------------- indices out of range


def _out_of_range(fault: BaseException, ledger: Ledger) -> Finding | None:
    frames = list(_frames(fault.__traceback__))
    user = next((f for f, _ in reversed(frames) if not is_ours_or_torchs(f.f_code.co_filename)), None)
    inner = frames[-1][0].f_locals if frames else {}
    message, source = str(fault), None
    for frame, instruction in reversed(frames):
        if frame is user:
            source = source_at(frame.f_code, instruction)
            break
    if re.search(r"Target -?\d+ is out of bounds", message):
        given, target = inner.get("input"), inner.get("target")
        if isinstance(given, Tensor) and isinstance(target, Tensor):
            classes = given.shape[1] if given.dim() > 1 else given.shape[0]
            bad = next((int(t) for t in target.flatten().tolist() if not 0 <= t < classes and t != -100), 0)
            data = {"label": bad, "classes": classes, "last": classes - 1, "values": {"label": bad}}
            return _of_data("label-out-of-range", data, source, ledger)
    if "index out of range in self" in message:
        given, weight = inner.get("input"), inner.get("weight")
        if isinstance(given, Tensor) and isinstance(weight, Tensor):
            rows = weight.shape[0]
            bad = next((int(t) for t in given.flatten().tolist() if not 0 <= t < rows), 0)
            data = {"index": bad, "rows": rows, "last": rows - 1, "values": {"index": bad}}
            return _of_data("index-out-of-range", data, source, ledger)
    if "between 0 and 1" in message:
        given = inner.get("input")
        if isinstance(given, Tensor):
            low, high = float(given.min()), float(given.max())
            data = {"low": low, "high": high, "values": {"low": low, "high": high}}
            return Finding(
                "not-probabilities", data, source, "P49", ledger.step, "forward", remedy=Remedy("not-probabilities")
            )
    return None


def _of_data(code: str, data: dict[str, Any], source: Source | None, ledger: Ledger) -> Finding:
    return Finding(code, data, source, None, ledger.step, "data", remedy=Remedy(code))


def _frames(trace: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lasti
        trace = trace.tb_next
