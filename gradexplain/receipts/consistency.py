"""What a receipt claims about itself: whatever can be checked without its target, from its own words and digits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gradexplain.locale.catalogue import say
from gradexplain.mathematics.equations import CONTRADICTED, EXACT, ROUNDED, STORED, holds
from gradexplain.mathematics.terms import number_text
from gradexplain.receipts.ledger import Ledger
from gradexplain.receipts.reading import below
from gradexplain.verification.oracles.question import RESOLUTION, Check
from gradexplain.verification.verdicts import Operation, Report

_LINE = re.compile(
    rf"(?P<label>.+?): (?P<expression>.+) (?P<relation>[{EXACT}{ROUNDED}{STORED}{CONTRADICTED}]) (?P<result>\S+)"
)
_REAL = r"[-+]?(?:\d[\d.]*(?:e[-+]?\d+)?|nan|inf)"
_COMPLEX = re.compile(rf"\({_REAL}{_REAL}j\)|{_REAL}j")


class Line(NamedTuple):
    """A displayed equation, apart."""

    label: str
    expression: str
    relation: str
    result: str


def line_of(text: str) -> Line | None:
    """Returns the parts of `label: expression = result`, `None` where the text is no equation."""
    found = _LINE.fullmatch(text)
    return None if found is None else Line(*found.group("label", "expression", "relation", "result"))


def own_claims(ledger: Ledger, receipt: Mapping[str, Any]) -> None:
    """Checks a receipt of either kind against itself."""
    asked = receipt["asked"]
    ledger.claim("input", asked is None or not receipt["live"], "$.live", "live_typed")
    given = receipt["cotangent"]["given"]
    fits = asked is None or given == (asked["cotangent"] is not None)
    ledger.claim("input", fits, "$.cotangent.given", "cotangent_not_asked", seen=str(given).lower())
    _asked(ledger, receipt)
    if receipt["kind"] == "verification":
        _same(ledger, "output", "$.output.name", "output_name", receipt["output"]["name"], None)
        report_claims(ledger, receipt, "$", receipt["gradients"])
        _findings(ledger, receipt, "$")
        return
    below_: Mapping[str, Any] = receipt
    for part, path in parts(receipt):
        if path != "$":
            _higher(ledger, receipt, part, path, below_)
        report_claims(ledger, part, path, part["gradients"], total=False)
        _equations(ledger, part, path)
        _findings(ledger, part, path)
        if not part.get("constant"):
            _steps(ledger, part, path)
        below_ = part
    _total(ledger, receipt)


# What is asked of an explanation alone, and of a verification alone, where nothing is asked.
_OTHERS: Mapping[str, Mapping[str, Any]] = {
    "verification": {"order": 1, "cotangent": None, "element": None, "module": None},
    "explanation": dict.fromkeys(("each_operation", "full", "second", "batched", "exact"), False),
}


def _asked(ledger: Ledger, receipt: Mapping[str, Any]) -> None:
    """Nothing is asked of one kind that belongs to the other."""
    for name, value in _OTHERS[receipt["kind"]].items() if receipt["asked"] is not None else ():
        same = receipt["asked"][name] == value
        ledger.claim("input", same, f"$.asked.{name}", "asked_of_another", kind_=receipt["kind"])


def _higher(
    ledger: Ledger, receipt: Mapping[str, Any], part: Mapping[str, Any], path: str, lower: Mapping[str, Any]
) -> None:
    """A derivative goes by the name of its output, is of the same torch, and starts from ones.

    One that is constant has nothing of its own: it repeats what it is the derivative of, without the steps.
    """
    if not part["constant"]:
        _same(ledger, "step", f"{path}.target", "higher_title", part["target"], part["output"]["name"])
        _same(ledger, "step", f"{path}.torch", "higher_title", part["torch"], receipt["torch"])
        _same(ledger, "step", f"{path}.cotangent.given", "higher_title", part["cotangent"]["given"], False)
        return
    empty: dict[str, Any] = {"steps": [], "by_input": {}, "findings": [], "higher": [], "hessian": None}
    for name, value in part.items():
        if name not in ("order", "wrt", "constant", "equations", "verdict"):
            holds_ = value == (empty[name] if name in empty else lower[name])
            ledger.claim("step", holds_, below(path, name), "constant_repeats")


def parts(receipt: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yields the explanation and those of its higher derivatives, each with its path."""
    yield receipt, "$"
    for place, part in enumerate(receipt["higher"]):
        yield part, f"$.higher[{place}]"


# ----------------------------------------------------------------------------------------------------------- verdicts


def report_claims(
    ledger: Ledger, record: Mapping[str, Any], path: str, gradients: Mapping[str, Any] | None, *, total: bool = True
) -> None:
    """Checks that each check's verdict is one that its numbers allow, and that the whole follows from them."""
    seen: set[tuple[str, str]] = set()
    for place, check in enumerate(record["checks"]):
        _check(ledger, check, f"{path}.checks[{place}]", gradients)
        key = (check["oracle"], check["input"])
        data = {"oracle": check["oracle"], "input": check["input"]}
        ledger.claim("check", key not in seen, f"{path}.checks[{place}]", "check_twice", **data)
        seen.add(key)
    for place, operation in enumerate(record.get("operations", ())):
        report_claims(ledger, operation, f"{path}.operations[{place}]", None)
        _findings(ledger, operation, f"{path}.operations[{place}]", "operations")
    if record.get("second") is not None:
        report_claims(ledger, record["second"], f"{path}.second", None)
    if total:
        derived = report_of(record).verdict
        holds_ = record["verdict"] == derived
        ledger.claim("verdict", holds_, f"{path}.verdict", "verdict_unfounded", seen=record["verdict"], right=derived)


def _check(ledger: Ledger, check: Mapping[str, Any], path: str, gradients: Mapping[str, Any] | None) -> None:
    names = ", ".join(gradients or ())
    known = gradients is None or check["input"] in gradients
    ledger.claim("check", known, f"{path}.input", "check_of_nothing", seen=check["input"], names=names)
    fine = check["resolution"] is not None and float(check["resolution"]) <= RESOLUTION
    fine = fine or check["verdict"] != "agrees"
    data = {"seen": check["resolution"], "right": RESOLUTION}
    ledger.claim("check", fine, f"{path}.resolution", "check_coarse", **data)
    needs = check["verdict"] != "cannot say" or check["reason"] is not None
    ledger.claim("check", needs, f"{path}.reason", "check_without_reason")
    ledger.claim("check", _is_said(check), f"{path}.text", "reason_differs", seen=check["text"] or "null")


def _is_said(check: Mapping[str, Any]) -> bool:
    """Says whether a check's sentence is the one that its key and its data make."""
    if check["reason"] is None:
        return check["text"] is None
    return check["text"] is not None and check["text"] == _said(f"verdicts.{check['reason']}", restored(check["data"]))


def restored(value: Any) -> Any:
    """Returns data as they were before JSON: tuples, nan and infinity, complex numbers."""
    if isinstance(value, dict):
        return {k: restored(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(restored(v) for v in value)
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    return complex(value) if isinstance(value, str) and _COMPLEX.fullmatch(value) else value


def report_of(record: Mapping[str, Any]) -> Report:
    """Returns the report that a record's checks make: its verdict follows by the rule that all reports share."""
    checks = tuple(_restored_check(check) for check in record["checks"])
    operations: Any = tuple(Operation(None, report_of(o)) for o in record.get("operations", ()))  # type: ignore[arg-type]
    second = record.get("second")
    return Report(checks, operations, None if second is None else report_of(second))


def _restored_check(check: Mapping[str, Any]) -> Check:
    worst, bound, resolution = (restored(check[k]) for k in ("worst", "bound", "resolution"))
    data = restored(check["data"])
    return Check(check["oracle"], check["input"], check["verdict"], worst, bound, resolution, check["reason"], data)


def _total(ledger: Ledger, receipt: Mapping[str, Any]) -> None:
    """The verdict of an explanation is over all orders."""
    verdicts = [report_of(part).verdict for part, _ in parts(receipt)]
    derived = next((v for v in ("differs", "cannot say") if v in verdicts), "agrees")
    data = {"seen": receipt["verdict"], "right": derived}
    ledger.claim("verdict", receipt["verdict"] == derived, "$.verdict", "verdict_unfounded", **data)
    for (part, path), verdict in list(zip(parts(receipt), verdicts, strict=True))[1:]:
        data = {"seen": part["verdict"], "right": verdict}
        ledger.claim("verdict", part["verdict"] == verdict, f"{path}.verdict", "verdict_unfounded", **data)


# ---------------------------------------------------------------------------------------------------------- equations


def lines(part: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yields every displayed equation of one order with its path."""
    for i, step in enumerate(part["steps"]):
        own = f"{path}.steps[{i}]"
        yield from _numbered(step["forward"]["equations"], f"{own}.forward.equations")
        yield from _numbered(step["sums"], f"{own}.sums")
        for j, sent in enumerate(step["contributions"]):
            yield from _numbered(sent["equations"], f"{own}.contributions[{j}].equations")
    for name, found in part["by_input"].items():
        yield from _numbered(found["sums"], f"{below(f'{path}.by_input', name)}.sums")


def _numbered(texts: Sequence[str], path: str) -> Iterator[tuple[str, str]]:
    yield from ((text, f"{path}[{place}]") for place, text in enumerate(texts))


def _equations(ledger: Ledger, part: Mapping[str, Any], path: str) -> None:
    """Recomputes each equation from its own digits, and counts them."""
    for text, place in lines(part, path):
        line = line_of(text)
        if not ledger.claim("equation", line is not None, place, "equation_unreadable", seen=text) or line is None:
            continue
        true = line.relation in (STORED, CONTRADICTED) or holds(*line[1:])
        ledger.claim("equation", true, place, "equation_false", seen=text)
    orders = list(parts(part)) if path == "$" else [(part, path)]
    read = [line for p, own in orders for text, _ in lines(p, own) if (line := line_of(text)) is not None]
    shown = [line for line in read if line.relation != STORED]
    held = [line for line in shown if line.relation != CONTRADICTED and holds(*line[1:])]
    for name, count in (("shown", len(shown)), ("recomputed", len(held))):
        seen = part["equations"][name]
        ledger.claim("equation", seen == count, f"{path}.equations.{name}", "equation_count", seen=seen, right=count)


# -------------------------------------------------------------------------------------------------------------- steps


def _steps(ledger: Ledger, part: Mapping[str, Any], path: str) -> None:
    """Checks that the steps stand in an order in which each uses only what was made before."""
    made = [step["forward"]["name"] for step in part["steps"]]
    counts, later, before = Counter([*part["inputs"], *made]), set(made), -1
    for i, step in enumerate(part["steps"]):
        own, name, index = f"{path}.steps[{i}]", step["forward"]["name"], step["index"]
        _same(ledger, "step", f"{own}.label", "step_label", step["label"], f"f{i + 1}")
        ledger.claim("step", index > before, f"{own}.index", "step_order", seen=index, before=before)
        ledger.claim("step", counts[name] == 1, f"{own}.forward.name", "step_name_twice", seen=name)
        early = [n for n in step["inputs"] if {n, n.rpartition(".")[0]} & later]
        ledger.claim("step", not early, f"{own}.inputs", "step_uses_later", names=", ".join(early))
        to = [c["to"] for c in step["contributions"]]
        _same(ledger, "contribution", f"{own}.contributions", "sent_elsewhere", to, step["inputs"])
        later.discard(name)
        before = index
    _same(ledger, "gradient", f"{path}.by_input", "gradient_names", list(part["by_input"]), list(part["gradients"]))


def _same(ledger: Ledger, kind: str, path: str, key: str, seen: Any, right: Any) -> None:
    shown = {"seen": _listed(seen), "right": _listed(right)}
    ledger.claim(kind, seen == right, path, key, **shown)


def _listed(value: Any) -> Any:
    return (", ".join(map(str, value)) or "–") if isinstance(value, list) else value


def _findings(ledger: Ledger, part: Mapping[str, Any], path: str, table: str = "findings") -> None:
    for place, finding in enumerate(part["findings"]):
        data = restored(finding["data"])
        said = _finding_text(finding, data) if table == "findings" else _said(f"{table}.{finding['code']}", data)
        file = _short(finding["place"])
        said = None if said is None else said + (f" ({file})" if file else "")
        own, seen = f"{path}.findings[{place}].text", finding["text"]
        ledger.claim("finding", finding["text"] == said, own, "reason_differs", seen=seen)


def _short(place: Mapping[str, Any] | None) -> str:
    return f"{place['file']}:{place['line']}".replace("\\", "/").rpartition("/")[2] if place else ""


def _finding_text(finding: Mapping[str, Any], data: Mapping[str, Any]) -> str | None:
    shown = {k: number_text(v + 0.0, 5) if isinstance(v, float) else v for k, v in data.items()}
    key = "kink-plain" if finding["code"] == "kink" and "left" not in data else finding["code"]
    said, why = _said(f"findings.{key}", shown), _said(f"rules.{data['why']}", {}) if data.get("why") else ""
    return None if said is None or why is None else f"{said} {why}".rstrip()


def _said(key: str, data: Mapping[str, Any]) -> str | None:
    """Returns the sentence, `None` where there is no such one or the data do not fit it."""
    try:
        return say(key, "en", **data)
    except (KeyError, ValueError, TypeError, IndexError):
        return None
