"""What the page's script needs to know: nodes, edges, moments, tensors, lines of code, as plain data for JSON."""

from __future__ import annotations

import base64
import linecache
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradexplain.explanation.explanation import Contribution, Explanation, Step
from gradexplain.findings.finding import Finding
from gradexplain.graphs.formats.html import drawn
from gradexplain.locale.catalogue import formula, table
from gradexplain.mathematics.equations import Equation
from gradexplain.mathematics.indices import indexed
from gradexplain.narration.explanations import MARKS, Teller, error_text, judging
from gradexplain.pages.drawing import graph_of
from gradexplain.pages.moments import Moment, moments_of
from gradexplain.recording.summaries import TensorSummary
from gradexplain.targets.sources import EXPRESSION, Source
from gradexplain.verification.verdicts import Check

# A tensor of more elements than this stands on the page as a map of blocks, and so does one that the page has no room
# left for.
_WHOLE = 4096
_ROOM = 20_000
# The most rows and columns of a map of blocks.
_BLOCKS = 16
# Lines of code around one that ran.
_AROUND = 2


def data_of(e: Explanation, language: str) -> dict[str, Any]:
    """Returns all that the page shows beyond its text."""
    return _Data(e, language).whole()


class _Data:
    def __init__(self, e: Explanation, language: str) -> None:
        self.e, self.language, self.teller = e, language, Teller(language)
        self.tensors: list[dict[str, Any]] = []
        self.known: dict[tuple[Any, ...], int] = {}
        self.kept: list[Tensor] = []  # so that no other tensor comes to lie where one was
        self.room = _ROOM
        self.files: dict[str, set[int]] = {}

    def whole(self) -> dict[str, Any]:
        e = self.e
        gradients = {g.name: g.value for g in e.by_input}
        nodes = {index: self.leaf(name, gradients) for index, name in e.names.items()}
        nodes |= {step.index: self.step(step) for step in e.steps}
        return {
            "words": table("page", self.language),
            "scalar": e.scalar,
            "output": e.output_name,
            "nodes": [nodes[index] for index in sorted(nodes)],
            "moments": [self.moment(m) for m in moments_of(e)],
            "inputs": [self.input(g.name) for g in e.by_input],
            "seed": self.tensor(e.cotangent),
            "tensors": self.tensors,
            "findings": self.findings(),
            "code": list(self.code()),
            "graph": drawn(graph_of(e), self.language),
        }

    # ---------------------------------------------------------------------------------------------------- the parts

    def leaf(self, name: str, gradients: Mapping[str, TensorSummary | None]) -> dict[str, Any]:
        values = {"value": self.tensor(self.e.inputs.get(name)), "gradient": self.tensor(gradients.get(name))}
        return {"name": name, "leaf": True, **values}

    def step(self, step: Step) -> dict[str, Any]:
        return {
            "name": step.name,
            "label": step.label,
            "head": self.teller.head(step, name=True),
            "place": self.teller.place(step),
            "line": self.line(step.source),
            "value": self.tensor(step.forward),
            "gradient": self.tensor(step.cotangent),
            "rule": None if step.rule is None else formula(step.rule, self.language),
            "equations": list(map(_equation, step.equations)),
            "edges": [self.edge(c) for c in step.contributions],
        }

    def edge(self, sent: Contribution) -> dict[str, Any]:
        return {
            "from": sent.producer,
            "to": sent.to,
            "value": self.tensor(sent.value),
            "rule": None if sent.rule is None else formula(sent.rule, self.language),
            "equations": list(map(_equation, sent.equations)),
            "through": self.through(sent),
        }

    def through(self, sent: Contribution) -> dict[str, list[str]]:
        """Returns, by what is written behind a value's name for an element, the same of those that it was made of."""
        return {indexed("", index): [indexed("", part) for part in parts] for index, parts in sent.through.items()}

    def moment(self, m: Moment) -> dict[str, Any]:
        known: dict[str, Any] = {"kind": m.kind, "node": m.node}
        if m.kind == "backward":
            known |= {"slot": m.slot, "place": m.arrival, "count": m.arrivals, "sum": self.tensor(m.sum)}
            known |= {"sums": list(map(_equation, m.sums)), "apart": m.apart}
        return known

    def input(self, name: str) -> dict[str, Any]:
        index = next((i for i, own in self.e.names.items() if own == name), None)
        known = next(g for g in self.e.by_input if g.name == name)
        return {
            "name": name,
            "node": index,
            "value": self.tensor(self.e.inputs.get(name)),
            "gradient": self.tensor(known.value),
            "checks": list(self.checks(name)),
            "wrong": sorted({indexed("", place) for c in self.judged(name) for place, *_ in _wrong(c)}),
        }

    def judged(self, name: str) -> list[Check]:
        return [check for check in judging(self.e.report) if check.input == name]

    def checks(self, name: str) -> Iterator[dict[str, str]]:
        for check in self.judged(name):
            _, _, _, worst, bound = self.teller.check_row([check])
            yield {
                "mark": MARKS[check.verdict],
                "oracle": self.teller.oracle(check),
                "worst": worst,
                "bound": bound or error_text(check.bound),
                "reason": self.teller.reason(check),
            }

    def findings(self) -> list[dict[str, Any]]:
        """Returns what is marked in the graph: what is wrong, and what is unusual."""
        unusual = [f for f in self.e.findings if f != self.e.report.nothing]
        return [*self.wrong(), *({"text": self.teller.finding(f), "nodes": self.found(f)} for f in unusual)]

    def wrong(self) -> Iterator[dict[str, Any]]:
        inputs = {name: index for index, name in self.e.names.items()}
        for check in judging(self.e.report):
            if check.verdict == "differs":
                text = self.teller.of(self.teller.oracle(check), self.teller.reason(check), check.input)
                nodes = {inputs.get(check.input), check.data.get("node")} & self.e.names.keys()
                yield {"text": text, "nodes": sorted(nodes), "wrong": True}
        for operation in self.e.report.wrong():
            own = [index for index in self.e.names if index == operation.node.index]
            yield {"text": " ".join(self.teller.faults(operation)), "nodes": own, "wrong": True}

    def found(self, finding: Finding) -> list[int]:
        """Returns the nodes that a finding is about, or beside which it stands: those of its place in the source."""
        node = finding.data.get("node")
        if isinstance(node, int):
            return [node] if node in self.e.names else []
        element = str(finding.data.get("element", "")).partition("[")[0]
        of_element = [i for i, name in self.e.names.items() if name == element]
        if of_element and finding.source is None:
            return of_element
        at = [s for s in self.e.steps if finding.source is not None and s.source == finding.source]
        named = [s.index for s in at if finding.data.get("operator") == s.operator]
        consumers = [c.consumer for c in self.e.cuts if c.source == finding.source and c.consumer is not None]
        return named or [s.index for s in at] or (consumers if finding.source is not None else [])

    # --------------------------------------------------------------------------------------------------------- code

    def line(self, source: Source | None) -> list[Any] | None:
        if source is None or not 0 < source.line <= len(self.lines(source.file)):
            return None
        self.files.setdefault(source.file, set()).add(source.line)
        return [list(self.files).index(source.file), source.line, source.code]

    def lines(self, file: str) -> list[str]:
        return self.e.target.splitlines() if file == EXPRESSION else linecache.getlines(file)

    def code(self) -> Iterator[dict[str, Any]]:
        """Yields the files that steps ran from: the lines that ran, and a few around them."""
        for file, ran in self.files.items():
            lines = self.lines(file)
            shown = sorted({n for at in ran for n in range(at - _AROUND, at + _AROUND + 1) if 0 < n <= len(lines)})
            named = "" if file.startswith("<") else Path(file).name
            yield {"file": named, "lines": [[n, lines[n - 1].rstrip("\n")] for n in shown]}

    # ------------------------------------------------------------------------------------------------------ tensors

    def tensor(self, value: TensorSummary | None) -> int | None:
        """Returns the number of a tensor on the page, where it stands once however often it is shown."""
        if value is None or value.tensor.is_meta:
            return None
        tensor = value.tensor
        place = tensor.data_ptr() if tensor.layout == torch.strided else 0
        key = (place, tensor.dtype, value.shape, tensor.stride()) if place else (id(tensor),)
        if key not in self.known:
            self.kept.append(tensor)
            self.known[key] = len(self.tensors)
            self.tensors.append(self.packed(value))
        return self.known[key]

    def packed(self, value: TensorSummary) -> dict[str, Any]:
        count = value.tensor.numel()
        low, high = value.range or (None, None)
        packed: dict[str, Any] = {"shape": list(value.shape), "dtype": value.dtype}
        if value.tensor.layout == torch.strided and (value.small or (count <= _WHOLE and count <= self.room)):
            self.room -= 0 if value.small else count
            return packed | {"elements": list(map(_plain, _flat(value.elements)))}
        packed |= {"low": _plain(low), "high": _plain(high), "norm": _plain(value.norm)}
        packed |= {"nan": value.nans, "inf": value.infinities} if not value.finite else {}
        if not value.tensor.is_complex() and value.tensor.layout == torch.strided and count:
            packed["map"] = _blocks(value.tensor)
        return packed


def _wrong(check: Check) -> Iterable[tuple[Any, ...]]:
    """Returns the elements that a check found to be wrong: their places, what torch has there, what is right."""
    wrong = check.data.get("elements")
    return wrong if check.verdict == "differs" and isinstance(wrong, tuple) else ()


def _flat(elements: Any) -> Iterator[Any]:
    if isinstance(elements, list):
        for part in elements:
            yield from _flat(part)
    else:
        yield elements


def _plain(value: Any) -> Any:
    """Returns a number for JSON; what JSON has no number for, as it is written."""
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _equation(e: Equation) -> list[Any]:
    return [e.label, e.expression, e.relation, e.result, _plain(e.value)]


def _blocks(tensor: Tensor) -> dict[str, Any]:
    """Returns a map of a large tensor: of each block of rows and columns the element of largest magnitude.

    A byte a block: 127 more than its share of the largest magnitude of all, which goes from -127 to 127; 255 for a
    block with an element that is not finite.
    """
    columns = tensor.shape[-1] if tensor.dim() else 1
    rows = tensor.detach().reshape(-1, columns).to(torch.float32)
    size = [-(-n // _BLOCKS) for n in rows.shape]
    spare = [(-n) % s for n, s in zip(rows.shape, size, strict=True)]
    padded = torch.nn.functional.pad(rows, (0, spare[1], 0, spare[0])) if any(spare) else rows
    across = (padded.shape[0] // size[0], padded.shape[1] // size[1])
    cells = padded.reshape(across[0], size[0], across[1], size[1])
    high, low = cells.amax((1, 3)), cells.amin((1, 3))
    extreme = torch.where(high >= -low, high, low)
    finite = torch.isfinite(high) & torch.isfinite(low)
    limit = float(extreme[finite].abs().max()) if bool(finite.any()) else 0.0
    scaled = (extreme / (limit or 1.0) * 127).round().nan_to_num(0, 0, 0).to(torch.int16)
    codes = torch.where(finite, scaled, torch.full_like(scaled, 128)) + 127
    return {
        "rows": across[0],
        "columns": across[1],
        "block": size,
        "limit": limit,
        "cells": base64.b64encode(bytes(codes.flatten().tolist())).decode(),
    }
