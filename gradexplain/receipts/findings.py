"""The findings that a receipt states, looked for again in the trace by means of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradexplain.receipts.claims import Names
from gradexplain.receipts.consistency import restored
from gradexplain.receipts.ledger import Ledger
from gradexplain.recording.kinks import taken
from gradexplain.recording.trace import Node, Trace
from gradexplain.rules.application import evaluated
from gradexplain.rules.entries import Rule
from gradexplain.rules.reductions import axes, spread
from gradexplain.rules.registry import rule_of
from gradexplain.verification.oracles.question import index_of
from gradexplain.versions.releases import minor_text

# What a finding says: its code, its place, its data.
Fact = tuple[str, str, Mapping[str, Any]]
KNOWN = (
    *("cut-detach", "cut-no-grad", "cut-integer", "random", "no-influence", "zero-gradient"),
    *("first-not-finite", "first-gradient-not-finite", "kink", "flat"),
)
# Kinks are looked for in tensors up to this size.
_SEARCHED = 2_000_000
# Operators with these arguments choose more than one element along an axis: what is equal elsewhere is no tie.
_WINDOWED = frozenset({"kernel_size", "output_size", "largest"})


def finding_claims(ledger: Ledger, part: Mapping[str, Any], path: str, trace: Trace, names: Names) -> None:
    """Checks that each finding is a fact, and that no fact of a known kind was left out."""
    remaining = list(facts(trace, names))
    for number, finding in enumerate(part["findings"]):
        own, what, where = f"{path}.findings[{number}]", finding["code"], _where(finding["place"])
        if what not in KNOWN:
            ledger.note(own, "finding_not_checked", what=what)
            continue
        fact = next((f for f in remaining if _states(finding, f)), None)
        if ledger.claim("finding", fact is not None, own, "finding_no_fact", what=what, where=where):
            remaining = [f for f in remaining if f is not fact]
    for what, where, _ in remaining:
        ledger.claim("finding", False, f"{path}.findings", "finding_missing", what=what, where=where)


def _states(finding: Mapping[str, Any], fact: Fact) -> bool:
    code, place, data = fact
    seen = restored(finding["data"])
    same = seen.keys() == data.keys() and all(repr(seen[name]) == repr(value) for name, value in data.items())
    return bool(same and (finding["code"], _where(finding["place"])) == (code, place))


def _where(place: Mapping[str, Any] | None) -> str:
    return f"{place['file']}:{place['line']}" if place else "–"


def facts(trace: Trace, names: Names) -> Iterator[Fact]:
    """Yields what there is to be found in a trace, in no order."""
    for cut in trace.cuts:
        code = cut.source.code if cut.source else cut.operator
        yield f"cut-{cut.reason.replace('_', '-')}", str(cut.source or "–"), {"operator": cut.operator, "code": code}
    for draw in trace.draws:
        code = draw.source.code if draw.source else draw.operator
        yield "random", str(draw.source or "–"), {"operator": draw.operator, "code": code}
    for name, gradient in trace.gradients.items():
        if gradient is None:
            yield "no-influence", "–", {"name": name}
        elif gradient.numel() and bool((gradient.to_dense() == 0).all()):
            yield "zero-gradient", "–", {"name": name}
    results = [trace.value, *(g for g in trace.gradients.values() if g is not None)]
    if not all(_first_broken([t]) is None for t in results):
        yield from _births(trace, names)
    for node in trace.nodes:
        rule = rule_of(node.operator)
        if rule is not None and (rule.kink or rule.tie):
            yield from _kink(node, rule, names)
        if rule is not None and rule.slopes and set(rule.slopes.values()) == {"0"}:
            data = {"operator": node.operator, "name": names.of_node[node.index], "code": _code(node)}
            yield "flat", str(node.source or "–"), data


def _births(trace: Trace, names: Names) -> Iterator[Fact]:
    """Where numbers first stop being finite, forward and backward."""
    fed = [[a for a in n.arguments.values() if isinstance(a, Tensor)] for n in trace.nodes]
    for node, arguments in zip(trace.nodes, fed, strict=True):
        made = _first_broken(node.outputs)
        if made is not None and _first_broken(arguments) is None:
            yield "first-not-finite", str(node.source or "–"), _broken(node, names, made)
            break
    for index in trace.order:
        node = trace.nodes[index]
        sent = _first_broken([e.contribution for e in node.edges])
        if sent is not None and _first_broken(node.cotangents) is None:
            yield "first-gradient-not-finite", str(node.source or "–"), _broken(node, names, sent)
            break


def _first_broken(tensors: Sequence[Tensor | None]) -> tuple[str, Any] | None:
    """Returns the first element that is not finite, as index text and number."""
    for tensor in tensors:
        if tensor is None or tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        broken = ~tensor.to_dense().isfinite()
        if bool(broken.any()):
            at = index_of(int(broken.flatten().int().argmax()), tensor.shape)
            return _index_text(at), tensor.to_dense()[at].item()
    return None


def _index_text(at: Sequence[int]) -> str:
    return f"[{', '.join(map(str, at))}]" if at else ""


def _broken(node: Node, names: Names, at: tuple[str, Any]) -> dict[str, Any]:
    element = names.of_node[node.index] + at[0]
    return {"operator": node.operator or node.name, "element": element, "value": at[1], "code": _code(node)}


def _code(node: Node) -> str:
    return node.source.code if node.source else ""


def _kink(node: Node, rule: Rule, names: Names) -> Iterator[Fact]:
    at = _kinked(node, rule)
    if at is None or not bool(at.any()):
        return
    outputs = [o for o in node.outputs if o is not None]
    first = index_of(int(at.flatten().int().argmax()), at.shape)
    data: dict[str, Any] = {"operator": node.operator, "count": int(at.sum()), "why": rule.why}
    data |= {"code": _code(node), "element": names.of_node[node.index] + _index_text(first)}
    for argument, formulas in rule.sides.items():
        left, right = (float(evaluated(rule, formula, node.arguments, outputs)[first]) for formula in formulas)
        if left != right:
            data |= {"left": left, "right": right, "torch": minor_text(torch.__version__)}
            data["chosen"] = float(taken(rule, argument, node.arguments, outputs)[first])
            break
    yield "kink", str(node.source or "–"), data


def _kinked(node: Node, rule: Rule) -> Tensor | None:
    """Returns which outputs stand at a kink, or are a choice among equals; `None` where that cannot be told."""
    whole, output = node.arguments.get("self"), node.outputs[0]
    known = output is not None and not any(v.is_meta for v in node.arguments.values() if isinstance(v, Tensor))
    if not known or output is None or output.numel() > _SEARCHED:
        return None
    if rule.elementwise and rule.kink:
        kinked = evaluated(rule, rule.kink, node.arguments, [o for o in node.outputs if o is not None])
        if bool(kinked.any()):
            return kinked
    if not rule.tie or not isinstance(whole, Tensor) or _WINDOWED & node.arguments.keys():
        return None
    if not output.numel() < whole.numel() <= _SEARCHED or any(o is None for o in node.outputs):
        return None
    dim, keepdim = node.arguments.get("dim"), bool(node.arguments.get("keepdim"))
    equal = (whole == spread(output, whole, dim, keepdim)).to(torch.int64)
    return equal.sum(axes(dim, whole.ndim), keepdim=keepdim) > 1
