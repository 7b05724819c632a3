"""A receipt's checks and verdicts, held against those of every oracle asked again."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gradexplain.receipts.consistency import report_of, restored
from gradexplain.receipts.derivation import Derived
from gradexplain.receipts.ledger import Ledger
from gradexplain.receipts.reading import below
from gradexplain.targets.sources import Source
from gradexplain.verification.oracles.question import Check
from gradexplain.verification.verdicts import Operation, Report

# Numbers of a search that time cut short elsewhere are evidence of the same kind within this factor.
_ALIKE = 10.0
# A function of which this many runs fit into the effort is never cut short by time.
_MANY = 1000
_COSTLY = "too_costly"


@dataclass(frozen=True)
class Judging:
    """Holds checks against fresh ones; `repeated` says that the same numbers must come out.

    `formulas` are the gradients by hand that the receipt has as text.
    """

    ledger: Ledger
    repeated: bool
    formulas: Mapping[str, str]

    def report(self, record: Mapping[str, Any], path: str, fresh: Report) -> None:
        """Checks every check, and that none was left out."""
        derived = {(c.oracle, c.input): c for c in fresh.checks}
        for place, claimed in enumerate(record["checks"]):
            self.check(claimed, f"{path}.checks[{place}]", derived.pop((claimed["oracle"], claimed["input"]), None))
        for oracle, name in derived:
            self.ledger.claim("check", False, f"{path}.checks", "check_missing", oracle=oracle, input=name)
        self.operations(record, path, fresh)
        self._verdict(f"{path}.verdict", report_of(record).verdict, fresh.verdict)

    def _verdict(self, path: str, seen: str, right: str) -> None:
        """Two verdicts that exclude each other are a contradiction; one that says less may be a matter of time."""
        if seen != right and "cannot say" in (seen, right) and not self.repeated:
            self.ledger.leave_open(path, "check_open", seen=seen, right=right)
        else:
            self.ledger.claim("verdict", seen == right, path, "verdict_other", seen=seen, right=right)

    def operations(self, record: Mapping[str, Any], path: str, fresh: Report) -> None:
        """Checks the operations that were checked alone, and the second derivatives."""
        if "operations" not in record:  # an explanation
            return
        claimed, derived = record["operations"], fresh.operations
        same = [o["index"] for o in claimed] == [o.node.index for o in derived]
        data = {"seen": len(claimed), "right": len(derived)}
        if self.ledger.claim("operation", same, f"{path}.operations", "operations_counted", **data):
            for place, (one, other) in enumerate(zip(claimed, derived, strict=True)):
                self.operation(one, f"{path}.operations[{place}]", other)
        second = record["second"]
        stated = str(second is not None).lower()
        same = (second is None) == (fresh.second is None)
        if self.ledger.claim("operation", same, f"{path}.second", "second_missing", seen=stated) and fresh.second:
            self.report(second, f"{path}.second", fresh.second)

    def operation(self, claimed: Mapping[str, Any], path: str, fresh: Operation) -> None:
        """Checks one operation: which it is, what the oracles say of it, and what it looks like."""
        node = fresh.node
        right = {"operator": node.operator, "node": node.name, "label": fresh.label}
        right |= {"source": _place(node.source), "backward": _place(fresh.backward)}
        for name, value in right.items():
            seen = _place_of(claimed[name]) if name in ("source", "backward") else claimed[name]
            data = {"seen": seen, "right": value}
            self.ledger.claim("operation", seen == value, f"{path}.{name}", "operation_other", **data)
        self.report(claimed, path, fresh.report)
        if self.repeated:
            found = [
                (f["code"], _place_of(f["place"]), repr(_sorted(restored(f["data"])))) for f in claimed["findings"]
            ]
            expected = [(f.code, _place(f.source), repr(_sorted(_plain(f.data)))) for f in fresh.findings]
            data = {"seen": ", ".join(f[0] for f in found) or "–", "right": ", ".join(f[0] for f in expected) or "–"}
            self.ledger.claim("finding", found == expected, f"{path}.findings", "operation_findings", **data)

    def check(self, claimed: Mapping[str, Any], path: str, fresh: Check | None) -> None:
        """Checks one check: its verdict, its reason, its numbers."""
        if fresh is None and claimed["oracle"] == "by hand" and claimed["input"] not in self.formulas:
            self.ledger.leave_open(path, "formula_not_kept")
        elif fresh is None:
            data = {"oracle": claimed["oracle"], "input": claimed["input"]}
            self.ledger.claim("check", False, path, "check_invented", **data)
        elif claimed["reason"] == _COSTLY:  # it claims no more than that time was short
            self.ledger.claims["check"] += 1
            if fresh.reason != _COSTLY:
                self.ledger.note("$.checks", "time_allows_more")
        elif claimed["verdict"] != fresh.verdict:
            self._other_verdict(claimed, path, fresh)
        elif self._reason(claimed, path, fresh):
            self._numbers(claimed, path, fresh)

    def _other_verdict(self, claimed: Mapping[str, Any], path: str, fresh: Check) -> None:
        data = {"seen": claimed["verdict"], "right": fresh.verdict}
        mute = "cannot say" in (claimed["verdict"], fresh.verdict)
        if mute and (not self.repeated or fresh.reason == _COSTLY):
            self.ledger.leave_open(path, "check_open", **data)
        else:
            self.ledger.claim("check", False, f"{path}.verdict", "check_verdict", **data)

    def _reason(self, claimed: Mapping[str, Any], path: str, fresh: Check) -> bool:
        data = {"seen": claimed["reason"] or "null", "right": fresh.reason or "null"}
        if claimed["reason"] != fresh.reason and not self.repeated:
            self.ledger.leave_open(f"{path}.reason", "check_open", **data)
            return False
        return self.ledger.claim("check", claimed["reason"] == fresh.reason, f"{path}.reason", "check_reason", **data)

    def _numbers(self, claimed: Mapping[str, Any], path: str, fresh: Check) -> None:
        """The same numbers, or, where time or another machine decides, numbers of the same kind."""
        pairs = {name: (restored(claimed[name]), getattr(fresh, name)) for name in ("worst", "bound", "resolution")}
        if not self.repeated:
            apart = [name for name in ("bound", "resolution") if not _alike(*pairs[name])]
            worst, bound = pairs["worst"][0], pairs["bound"][0]
            apart += ["worst"] if claimed["verdict"] == "agrees" and not (worst or 0.0) <= (bound or 0.0) else []
            for name in apart:
                self.ledger.leave_open(f"{path}.{name}", "evidence_apart", seen=pairs[name][0], right=pairs[name][1])
            self.ledger.claims["check"] += 1
            return
        for name, (seen, right) in pairs.items():
            data = {"seen": seen, "right": right}
            self.ledger.claim("check", repr(seen) == repr(right), f"{path}.{name}", "check_numbers", **data)
        place = None if fresh.place is None else list(fresh.place)
        data = {"seen": claimed["element"], "right": place}
        self.ledger.claim("check", claimed["element"] == place, f"{path}.element", "check_numbers", **data)
        seen, right = restored(claimed["data"]), _plain(fresh.data)
        for name in seen.keys() | right.keys():
            data = {"seen": seen.get(name, "–"), "right": right.get(name, "–")}
            same = name in seen and name in right and repr(seen[name]) == repr(right[name])
            self.ledger.claim("check", same, below(f"{path}.data", name), "check_numbers", **data)


def _place(source: Source | None) -> str | None:
    return None if source is None else f"{Path(source.file).name}:{source.line} ({source.code})"


def _place_of(claimed: Mapping[str, Any] | None) -> str | None:
    return None if claimed is None else f"{Path(claimed['file']).name}:{claimed['line']} ({claimed['code']})"


def _sorted(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(data.items())


def _alike(seen: Any, right: Any) -> bool:
    if seen is None or right is None or not (math.isfinite(seen) and math.isfinite(right)):
        return seen is right or repr(seen) == repr(right)
    return bool(max(abs(seen), abs(right)) <= _ALIKE * min(abs(seen), abs(right))) or max(seen, right) <= 1e-9


def _plain(value: Any) -> Any:
    """Returns data as they are after a way through JSON."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    if isinstance(value, Tensor) or not isinstance(value, (str, int, float, complex, bool, type(None))):
        return str(value)
    return restored(value)


def is_cheap(derived: Derived, effort: float) -> bool:
    """Says whether so many runs of the function fit into the effort that time never decides what an oracle does."""
    return min(_seconds(derived) for _ in range(3)) * _MANY < effort


def _seconds(derived: Derived) -> float:
    start = time.perf_counter()
    derived.computation.output(derived.computation.leaf_values())
    return time.perf_counter() - start
