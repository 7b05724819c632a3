"""Findings: what is unusual about a gradient, each with its kind, place and evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from gradexplain.findings.finding import Finding
from gradexplain.mathematics.indices import Index, unravelled
from gradexplain.recording import kinks
from gradexplain.recording.summaries import Value
from gradexplain.recording.trace import Node, Trace
from gradexplain.rules.entries import Rule
from gradexplain.rules.reductions import axes, spread
from gradexplain.rules.registry import rule_of

# Kinks are looked for in tensors up to this size.
_SEARCHED = 2_000_000
# Operators with these arguments choose more than one element along an axis: what is equal elsewhere is no tie.
_WINDOWED = frozenset({"kernel_size", "output_size", "largest"})


def diagnose(trace: Trace, names: Mapping[int, str], gradients: Mapping[str, Value | None]) -> tuple[Finding, ...]:
    """Returns the findings of a trace; `names` gives each node's value its name, `gradients` sums up the gradients."""
    finite = Value(trace.value).finite and all(g is None or g.finite for g in gradients.values())
    return (
        *_cut(trace),
        *_random(trace),
        *_without_influence(gradients),
        *(() if finite else _non_finite(trace, names)),
        *_kinks(trace, names),
        *_flat(trace, names),
    )


def findings_of(trace: Trace) -> tuple[Finding, ...]:
    """Returns the findings of a trace whose values go by the code that made them."""
    names = {n.index: n.leaf or (n.source.code if n.source else "") or n.name for n in trace.nodes}
    return diagnose(trace, names, {n: None if g is None else Value(g) for n, g in trace.gradients.items()})


def _cut(trace: Trace) -> Iterator[Finding]:
    for cut in trace.cuts:
        code = cut.source.code if cut.source else cut.operator
        yield Finding(f"cut_{cut.reason}", {"code": code, "operator": cut.operator}, str(cut.source or ""))


def _random(trace: Trace) -> Iterator[Finding]:
    for draw in trace.draws:
        code = draw.source.code if draw.source else draw.operator
        yield Finding("random", {"code": code, "operator": draw.operator}, str(draw.source or ""))


def _without_influence(gradients: Mapping[str, Value | None]) -> Iterator[Finding]:
    for name, gradient in gradients.items():
        if gradient is None:
            yield Finding("no_influence", {"name": name})
        elif gradient.tensor.numel() and gradient.norm == 0:
            yield Finding("zero_gradient", {"name": name})


def _non_finite(trace: Trace, names: Mapping[int, str]) -> Iterator[Finding]:
    """Names where the first value that is not finite was made, forward and backward."""
    for node in trace.nodes:
        made = _first_non_finite(node.outputs)
        fed = any(_first_non_finite([v]) for v in node.arguments.values() if isinstance(v, Tensor))
        if made and not fed:
            yield _birth("non_finite_forward", node, names, *made)
            break
    for index in trace.order:
        node = trace.nodes[index]
        sent = next((f for e in node.edges if (f := _first_non_finite([e.contribution]))), None)
        if sent and not _first_non_finite(node.cotangents):
            yield _birth("non_finite_backward", node, names, *sent)
            break


def _first_non_finite(tensors: Any) -> tuple[Index, float] | None:
    for tensor in tensors:
        numbers = tensor is not None and not tensor.is_meta and (tensor.is_floating_point() or tensor.is_complex())
        if numbers and not Value(tensor).finite:
            at = unravelled(int((~tensor.isfinite()).flatten().int().argmax()), tensor.shape)
            return at, tensor[at].item()
    return None


def _birth(kind: str, node: Node, names: Mapping[int, str], at: Index, value: Any) -> Finding:
    data = {
        "value": value,
        "element": _element(names[node.index], at),
        "operator": node.operator or node.name,
        "code": node.source.code if node.source else "",
    }
    return Finding(kind, data, str(node.source or ""))


def _element(name: str, at: Index) -> str:
    return f"{name}[{', '.join(map(str, at))}]" if at else name


def _kinks(trace: Trace, names: Mapping[int, str]) -> Iterator[Finding]:
    for node in trace.nodes:
        rule = rule_of(node.operator)
        if rule is None or not (rule.kink or rule.tie):
            continue
        at = _kink_elements(node, rule) or _tied_elements(node, rule)
        if at:
            data = {
                "why": rule.why,
                "operator": node.operator,
                "count": len(at),
                "element": _element(names[node.index], at[0]),
                "code": node.source.code if node.source else "",
                **_sides(node, rule, at[0]),
            }
            yield Finding("kink", data, str(node.source or ""))


def _kink_elements(node: Node, rule: Rule) -> list[Index]:
    output = node.outputs[0]
    if output is None or output.numel() > _SEARCHED:
        return []
    where = kinks.at_kinks(rule, node.arguments, node.outputs)
    return [] if where is None else [unravelled(i, output.shape) for i in where.flatten().nonzero().flatten().tolist()]


def _tied_elements(node: Node, rule: Rule) -> list[Index]:
    """Returns the outputs of a reduction that more than one element of its input attains."""
    whole, output = node.arguments.get("self"), node.outputs[0]
    if not rule.tie or not node.is_complete or not isinstance(whole, Tensor) or output is None:
        return []
    if _WINDOWED & node.arguments.keys() or not output.numel() < whole.numel() <= _SEARCHED:
        return []
    dim, keepdim = node.arguments.get("dim"), bool(node.arguments.get("keepdim"))
    tied = (whole == spread(output, whole, dim, keepdim)).sum(axes(dim, whole.ndim), keepdim=keepdim) > 1
    return [unravelled(i, output.shape) for i in tied.flatten().nonzero().flatten().tolist()]


def _sides(node: Node, rule: Rule, at: Index) -> dict[str, Any]:
    """Returns left, right and torch's derivative, at one element, of the first argument whose sides differ there."""
    outputs = [o for o in node.outputs if o is not None]
    for argument in rule.sides:
        left, right = (float(side[at]) for side in kinks.sides(rule, argument, node.arguments, outputs))
        if left != right:
            chosen = float(kinks.taken(rule, argument, node.arguments, outputs)[at])
            return {"left": left, "right": right, "chosen": chosen}
    return {}


def _flat(trace: Trace, names: Mapping[int, str]) -> Iterator[Finding]:
    """Operators that are flat almost everywhere: their gradient is 0 and nothing behind them learns."""
    for node in trace.nodes:
        rule = rule_of(node.operator)
        if rule is not None and rule.slopes and set(rule.slopes.values()) == {"0"}:
            code = node.source.code if node.source else ""
            yield Finding(
                "flat", {"operator": node.operator, "name": names[node.index], "code": code}, str(node.source or "")
            )
