"""What a receipt shows to be wrong by itself, before anything of its target is run: its equations and its verdict.

Each equation is read back from its own digits, by means that share nothing with what wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from gradexplain.findings.finding import Finding
from gradexplain.mathematics.equations import CONTRADICTED, EXACT, ROUNDED, STORED, holds, strongest
from gradexplain.receipts.reading import below
from gradexplain.receipts.report import Ledger
from gradexplain.targets.sources import Source
from gradexplain.verification.options import Options
from gradexplain.verification.oracles.answers import Stop
from gradexplain.verification.verdicts import Check, Operation, Report

_LINE = re.compile(
    rf"(?P<label>.+?): (?P<expression>.+) (?P<relation>[{EXACT}{ROUNDED}{STORED}{CONTRADICTED}]) (?P<result>\S+)"
)
_LISTS = ("equations", "sums")


def own_claims(ledger: Ledger, receipt: Mapping[str, Any]) -> None:
    """Checks a receipt of either kind against itself."""
    if receipt["kind"] == "verification":
        _verdict(ledger, receipt, "$", _report(receipt, _options(receipt)).verdict)
        return
    parts = {"$": receipt, **{f"$.higher[{place}]": part for place, part in enumerate(receipt["higher"])}}
    verdicts = {path: _report(part, Options()).verdict for path, part in parts.items()}
    verdicts["$"] = next((v for v in ("differs", "cannot say") if v in verdicts.values()), "agrees")
    for path, part in parts.items():
        _verdict(ledger, part, path, verdicts[path])
        _equations(ledger, part, path)


def _verdict(ledger: Ledger, part: Mapping[str, Any], path: str, right: str) -> None:
    """The verdict is the one that follows from the checks beside it.

    They say how many elements each saw, and not which: that some were seen by none is believed.
    """
    blind = part["reason"] == "unseen" and any(c["elements"] and c["elements"]["unseen"] for c in part["checks"])
    same = part["verdict"] == right or (blind and (part["verdict"], right) == ("cannot say", "agrees"))
    ledger.claim("verdict", same, f"{path}.verdict", "verdict_unfounded", seen=part["verdict"], right=right)


def _options(record: Mapping[str, Any]) -> Options:
    """Returns what decides, of what was asked, how the checks make a verdict."""
    asked = record["asked"] or {"stops": [], "allow_unseen": False}
    return Options(stops=tuple(asked["stops"]), allow_unseen=asked["allow_unseen"])


def _report(record: Mapping[str, Any], options: Options) -> Report:
    """Returns the report that a record's checks make: its verdict follows by the rule that all reports share."""
    plain = Options()
    operations: Any = tuple(Operation(None, _report(o, plain)) for o in record["operations"])  # type: ignore[arg-type]
    second = record.get("second")
    checks = [_check(check, first=not place) for place, check in enumerate(record["checks"])]
    stops = tuple(map(_stop, record["stops"]))
    for place, check in enumerate(checks):
        checks[place] = replace(check, stops=tuple(s for s in stops if s.input == check.input))
        stops = tuple(s for s in stops if s.input != check.input)
    findings = tuple(Finding(found["code"], found["data"]) for found in record.get("findings", ()))
    return Report(
        tuple(checks),
        operations,
        None if second is None else _report(second, plain),
        findings=findings,
        options=options,
    )


def _check(check: Mapping[str, Any], *, first: bool) -> Check:
    """Returns a check that saw as many elements: the first of them from the front, others from the end."""
    worst, bound, resolution = (None if check[k] is None else float(check[k]) for k in ("worst", "bound", "resolution"))
    bounds = None
    if check["elements"] is not None:
        count, missing = check["elements"]["seen"], check["elements"]["unseen"]
        parts = [torch.zeros(count), torch.full((missing,), torch.inf)]
        bounds = torch.cat(parts if first else parts[::-1])
    return Check(
        check["oracle"],
        check["input"],
        check["verdict"],
        worst,
        bound,
        resolution,
        check["reason"],
        check["data"],
        bounds=bounds,
    )


def _stop(stop: Mapping[str, Any]) -> Stop:
    place = stop["source"]
    source = None if place is None else Source(place["file"], place["line"], place["code"])
    return Stop(stop["input"], float(stop["share"]), source, source.code if source else "")


def _equations(ledger: Ledger, part: Mapping[str, Any], path: str) -> None:
    """Recomputes each equation from its own digits, and counts them."""
    shown = held = 0
    for text, place in lines({name: value for name, value in part.items() if name != "equations"}, path):
        found = _LINE.fullmatch(text)
        ledger.claim("equation", found is not None, place, "equation_unreadable", seen=text)
        if found is None:
            continue
        expression, relation, result = found.group("expression", "relation", "result")
        if relation in (STORED, CONTRADICTED):  # no digits give it
            true = strongest(expression, result) is None
        else:
            true = holds(expression, relation, result)
        ledger.claim("equation", true, place, "equation_false", seen=text)
        shown, held = shown + 1, held + (true and relation != CONTRADICTED)
    for name, count in (("shown", shown), ("recomputed", held)):
        seen = part["equations"][name]
        ledger.claim("equation", seen == count, f"{path}.equations.{name}", "equation_count", seen=seen, right=count)


def lines(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yields every displayed equation of a part with its path."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key in _LISTS and isinstance(inner, list):
            yield from ((text, f"{path}.{key}[{place}]") for place, text in enumerate(inner))
        else:
            yield from lines(inner, below(path, key))
    for place, inner in enumerate(value if isinstance(value, list) else ()):
        if isinstance(inner, dict):
            yield from lines(inner, f"{path}[{place}]")
