"""Two records of one question, held against each other, place by place.

On the same machine with the same torch they are the same. Elsewhere the last digits may differ: what rounding explains
is accepted and said, what it cannot explain is refused, and what lies between is left open. How much evidence there is
may depend on time, and then differ in any case.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gradexplain.mathematics.equations import CONTRADICTED, EXACT, ROUNDED, STORED
from gradexplain.receipts.reading import below
from gradexplain.receipts.report import Ledger
from gradexplain.targets.values import shown
from gradexplain.verification.oracles.elements import RESOLUTION
from gradexplain.verification.oracles.measures import MARGIN

Record = Mapping[str, Any]
# What stands under a key counts as a claim of this kind, unless a key further in has a kind of its own.
_KINDS = {
    **dict.fromkeys(("asked", "parameters", "inputs"), "input"),
    **dict.fromkeys(("output", "cotangent"), "output"),
    **dict.fromkeys(("gradients", "hessian"), "gradient"),
    "steps": "step",
    "value": "value",
    "rule": "rule",
    "contributions": "contribution",
    "sums": "sum",
    "equations": "equation",
    "paths": "path",
    "checks": "check",
    "operations": "operation",
    "findings": "finding",
    **dict.fromkeys(("verdict", "reason", "stops"), "verdict"),
}
# Within these all is of one kind.
_WHOLE = ("check", "finding", "path")
# What says where a record was made; `files` are compared before all else.
_SETTINGS = ("gradexplain", "torch", "machine")
# The keys of texts in which numbers stand.
_WITH_DIGITS = {"equations", "sums", "text", "code"}
_DIGITS = re.compile(rf"[-+−]?\d[\d.]*(?:e[-+]?\d+)?|nan|inf|[{EXACT}{ROUNDED}{STORED}{CONTRADICTED}]")
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Numbers of a search that time cut short elsewhere are evidence of the same kind within this factor.
_ALIKE = 10.0
_COSTLY = "too_costly"


def compare(ledger: Ledger, claimed: Record, fresh: Record, *, timeless: bool) -> None:
    """Holds a receipt against a fresh record; `timeless` says that time cannot have decided what an oracle did."""
    elsewhere = _ran(claimed) - _ran(fresh)
    if claimed["asked"]["seed"] is None and elsewhere:  # what Python gave is not what the target names
        ledger.leave_open("$.target", "source_elsewhere", file=min(elsewhere))
        return
    if any(
        check["reason"] == "not_deterministic" for part in (fresh, *fresh.get("higher", ())) for check in part["checks"]
    ):
        ledger.leave_open("$.output.value", "not_deterministic")
        return
    here = {Path(file).name: digest for file, digest in fresh["files"].items()}
    for file, digest in claimed["files"].items():
        name = Path(file).name
        ledger.claim("file", here.get(name) == digest, below("$.files", file), "file_changed", file=name)
    if ledger.refusals:
        return
    for key in _SETTINGS:
        if claimed[key] != fresh[key]:
            ledger.note(f"$.{key}", "other_setting", seen=claimed[key], here=fresh[key])
    exact = all(claimed[key] == fresh[key] for key in ("torch", "machine"))
    formulas = {name: text for name, text in claimed["asked"]["by_hand"].items() if text is not None}
    claimed = {**claimed, "asked": {**claimed["asked"], "by_hand": formulas}}
    comparison = _Comparison(ledger, exact, exact and timeless, formulas, _precision(fresh), _floors(fresh))
    one, other = ({k: v for k, v in r.items() if k not in (*_SETTINGS, "files")} for r in (claimed, fresh))
    comparison.objects(one, other, "$")


def _ran(record: Record) -> set[str]:
    """Returns the names of the files that steps ran from."""
    made = (*record.get("steps", ()), *record.get("operations", ()))
    return {Path(step["source"]["file"]).name for step in made if step["source"] is not None}


@dataclass(frozen=True)
class _Comparison:
    """Compares two records: `exact` asks for the same numbers, `repeated` for the same evidence as well.

    `formulas` are the gradients by hand that the receipt has as text. Rounding is measured by `precision` times the
    largest number of a tensor, or times that of `floors` at a path where larger numbers took part.
    """

    ledger: Ledger
    exact: bool
    repeated: bool
    formulas: Mapping[str, str]
    precision: float
    floors: Mapping[str, float]

    def value(self, claimed: Any, fresh: Any, path: str, key: str, kind: str) -> None:
        """Compares what stands under a key."""
        kind = kind if kind in _WHOLE else _KINDS.get(key, kind)
        if key == "checks":
            self.checks(claimed, fresh, path)
        elif key == "findings" and kind == "operation" and not self.repeated:
            self.ledger.claims[kind] += 1
        elif isinstance(claimed, dict) and isinstance(fresh, dict):
            self.objects(claimed, fresh, path, key, kind)
        elif _is_numeric(claimed) and _is_numeric(fresh):
            self.numbers(claimed, fresh, path, kind)
        elif isinstance(claimed, list) and isinstance(fresh, list):
            self.lists(claimed, fresh, path, key, kind)
        elif key == "verdict" and claimed != fresh and "cannot say" in (claimed, fresh) and not self.repeated:
            self.ledger.leave_open(path, "check_open", seen=claimed, right=fresh)
        else:
            self.claim(self.same_text(claimed, fresh, key), claimed, fresh, path, kind)

    def claim(self, holds: bool, claimed: Any, fresh: Any, path: str, kind: str) -> None:
        """Counts one claim, with what stands there and what should."""
        self.ledger.claim(kind, holds, path, "differs", seen=_brief(claimed), right=_brief(fresh))

    def objects(self, claimed: Record, fresh: Record, path: str, key: str = "", kind: str = "step") -> None:
        """Compares two objects key by key."""
        if not self.exact and "sha256" in fresh and "sha256" in claimed:
            names = ("min", "max", "norm", "nan", "inf", "shape")
            self.numbers([claimed[n] or 0.0 for n in names], [fresh[n] or 0.0 for n in names], path, kind)
            return
        if not self.exact and key == "equations":  # counted by the digits that stand there
            return
        for name in {**claimed, **fresh}:
            if name == "torch" and not self.exact:  # said in a note
                continue
            where = below(path, name)
            if name in claimed and name in fresh:
                self.value(claimed[name], fresh[name], where, name, kind)
            else:
                self.claim(False, claimed.get(name), fresh.get(name), where, _KINDS.get(name, kind))

    def lists(self, claimed: Sequence[Any], fresh: Sequence[Any], path: str, key: str, kind: str) -> None:
        """Compares two lists entry by entry, which keep the key that they stand under."""
        if len(claimed) != len(fresh):
            self.ledger.claim(kind, False, path, "counted", seen=len(claimed), right=len(fresh))
            return
        for place, (one, other) in enumerate(zip(claimed, fresh, strict=True)):
            self.value(one, other, f"{path}[{place}]", key, kind)

    def same_text(self, claimed: Any, fresh: Any, key: str) -> bool:
        """Says whether two texts, flags or nulls are the same; elsewhere the digits in a sentence may be others."""
        if key == "file" and isinstance(claimed, str) and isinstance(fresh, str):
            return Path(claimed).name == Path(fresh).name
        if not self.exact and key in _WITH_DIGITS and isinstance(claimed, str) and isinstance(fresh, str):
            return _DIGITS.sub("", claimed) == _DIGITS.sub("", fresh)
        return type(claimed) is type(fresh) and bool(claimed == fresh)

    # --------------------------------------------------------------------------------------------------- numbers

    def numbers(self, claimed: Any, fresh: Any, path: str, kind: str) -> None:
        """Compares two numbers, or two tensors as nested lists of numbers."""
        ones, others = dict(_leaves(claimed)), dict(_leaves(fresh))
        if ones.keys() != others.keys():
            self.claim(False, claimed, fresh, path, kind)
            return
        different = [at for at in ones if repr(ones[at]) != repr(others[at])]
        if not different:
            self.ledger.claim(kind, True, path, "differs")
            return
        size = max(_largest(fresh), self.floor(path))
        at = max(different, key=lambda at: _apart(ones[at], others[at]))
        apart = _apart(ones[at], others[at])
        if self.exact or not apart <= max(RESOLUTION, MARGIN * self.precision) * size:
            self.claim(False, ones[at], others[at], f"{path}{at}", kind)
        elif apart <= MARGIN * self.precision * size:
            self.ledger.note("$.machine", "within_rounding")
            self.ledger.claim(kind, True, path, "differs")
        else:
            self.ledger.leave_open(path, "beyond_rounding", apart=f"{apart:.2g}")

    def floor(self, path: str) -> float:
        """Returns how large the numbers are that took part in what stands at a path."""
        while path:
            if path in self.floors:
                return self.floors[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return 0.0

    # ---------------------------------------------------------------------------------------------------- checks

    def checks(self, claimed: Sequence[Record], fresh: Sequence[Record], path: str) -> None:
        """Compares checks by what they asked, and finds those that are left out or invented."""
        again = {(check["oracle"], check["input"]): check for check in fresh}
        for place, check in enumerate(claimed):
            own, other = f"{path}[{place}]", again.pop((check["oracle"], check["input"]), None)
            asked = {"oracle": check["oracle"], "input": check["input"]}
            if other is not None:
                self.check(check, other, own)
            elif check["oracle"] == "by hand" and check["input"] not in self.formulas:
                self.ledger.leave_open(own, "formula_not_kept")
            else:
                self.ledger.claim("check", False, own, "check_invented", **asked)
        for oracle, name in again:
            self.ledger.claim("check", False, path, "check_missing", oracle=oracle, input=name)

    def check(self, claimed: Record, fresh: Record, path: str) -> None:
        """Compares one check: all of it, or, where time or another machine decides, its verdict and its kind."""
        if claimed["reason"] == _COSTLY != fresh["reason"]:  # it claims no more than that time was short
            self.ledger.claim("check", True, path, "differs")
            self.ledger.note("$.checks", "time_allows_more")
        elif self.repeated and fresh["reason"] != _COSTLY:
            self.objects(claimed, fresh, path, kind="check")
        elif claimed["verdict"] != fresh["verdict"] and "cannot say" not in (claimed["verdict"], fresh["verdict"]):
            self.claim(False, claimed["verdict"], fresh["verdict"], f"{path}.verdict", "check")
        elif any(claimed[name] != fresh[name] for name in ("verdict", "reason")):
            seen, right = (f"{check['verdict']} ({check['reason']})" for check in (claimed, fresh))
            self.ledger.leave_open(path, "check_open", seen=seen, right=right)
        else:
            self.evidence(claimed, fresh, path)

    def evidence(self, claimed: Record, fresh: Record, path: str) -> None:
        """Compares the numbers of a check with others of the same kind."""
        apart = [name for name in ("bound", "resolution") if not _alike(claimed[name], fresh[name])]
        worst, bound = (float(claimed[name] or 0.0) for name in ("worst", "bound"))
        apart += ["worst"] if claimed["verdict"] == "agrees" and not worst <= bound else []
        for name in apart:
            self.ledger.leave_open(f"{path}.{name}", "evidence_apart", seen=claimed[name], right=fresh[name])
        self.ledger.claims["check"] += 1


# ----------------------------------------------------------------------------------------------------------- numbers


def _precision(record: Record) -> float:
    """Returns the unit of rounding of the coarsest type that a record speaks of."""
    named = (record["dtype"], *(given["dtype"] for given in record["inputs"].values()))
    types = (getattr(torch, name) for name in named)
    return max((torch.finfo(t).eps for t in types if t.is_floating_point or t.is_complex), default=0.0)


def _floors(fresh: Record) -> dict[str, float]:
    """Returns for the path of each step and each gradient the largest number that took part in it."""
    floors = {}
    parts = {"$": fresh, **{f"$.higher[{place}]": part for place, part in enumerate(fresh.get("higher", ()))}}
    for path, part in parts.items():
        arriving: dict[str, float] = defaultdict(float)
        made = {name: _largest(given["value"]) for name, given in part["inputs"].items()}
        for step in part.get("steps", ()):
            made[step["forward"]["name"]] = _largest(step["forward"]["value"])
            for sent in step["contributions"]:
                arriving[sent["to"]] = max(arriving[sent["to"]], _largest(sent["value"]))
        for place, step in enumerate(part.get("steps", ())):
            name = step["forward"]["name"]
            sent = (_largest(c["value"]) for c in step["contributions"])
            used = (made.get(n, 0.0) for n in (name, *step["inputs"]))
            floors[f"{path}.steps[{place}]"] = max(*used, *sent, arriving[name], _largest(step["cotangent"]))
        floors |= {below(f"{path}.gradients", name): arriving[name] for name in part["gradients"]}
    return floors


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_numeric, value))
    return isinstance(value, (int, float)) or (isinstance(value, str) and value in _WORDS)


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the numbers of nested lists, each with its place."""
    for place, part in enumerate(value if isinstance(value, list) else ()):
        yield from _leaves(part, f"{at}[{place}]")
    if not isinstance(value, list):
        yield at, value


def _number(value: Any) -> float:
    return _WORDS[value] if isinstance(value, str) else float(value)


def _largest(value: Any) -> float:
    """Returns the largest finite number in nested lists, or of a tensor that is kept in a few numbers."""
    if isinstance(value, dict):
        value = [value[name] or 0.0 for name in ("min", "max", "norm")]
    sizes = (abs(_number(leaf)) for _, leaf in _leaves(0.0 if value is None else value))
    return max((size for size in sizes if math.isfinite(size)), default=0.0)


def _apart(one: Any, other: Any) -> float:
    """Returns how far two numbers are from each other: no distance where one is nan or both are infinite alike."""
    apart = abs(_number(one) - _number(other))
    return math.inf if math.isnan(apart) else apart


def _alike(seen: Any, right: Any) -> bool:
    if seen is None or right is None:
        return seen is right
    low, high = sorted(abs(_number(v)) for v in (seen, right))
    return high <= _ALIKE * low or high <= 1e-9 or repr(seen) == repr(right)


def _brief(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return f"{'[…]' if isinstance(value, list) else '{…}'} ({len(value)})"
    return "null" if value is None else shown(str(value), 60)
