"""Findings: what is unusual about a gradient, each with its code, evidence and place."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from gradexplain.findings.finding import Finding
from gradexplain.findings.not_finite import births
from gradexplain.mathematics.indices import Index, indexed, unravelled
from gradexplain.recording import kinks
from gradexplain.recording.summaries import TensorSummary
from gradexplain.recording.trace import Node, Trace
from gradexplain.rules.application import Unrecorded
from gradexplain.rules.entries import Rule, overload
from gradexplain.rules.reductions import axes, spread
from gradexplain.rules.registry import rule_of
from gradexplain.targets.sources import Source
from gradexplain.versions.internals import schema_of
from gradexplain.versions.releases import minor_text

# The common mistakes that a stopped gradient may be a case of.
_CUTS = {"detach": "P07", "no_grad": "P06", "integer": "P08"}
# Kinks are looked for in tensors up to this size.
_SEARCHED = 2_000_000
# Operators with these arguments choose more than one element along an axis: what is equal elsewhere is no tie.
_WINDOWED = frozenset({"kernel_size", "output_size", "largest"})


def diagnose(
    trace: Trace, names: Mapping[int, str], gradients: Mapping[str, TensorSummary | None]
) -> tuple[Finding, ...]:
    """Returns the findings of a trace; `names` gives each node's value its name, `gradients` sums up the gradients."""
    finite = TensorSummary(trace.value).finite and all(g is None or g.finite for g in gradients.values())
    return (
        *_hooked(trace),
        *_apart(trace),
        *_cut(trace),
        *_dropped(trace),
        *_unregistered(trace),
        *_unasked(trace),
        *_random(trace),
        *(_without_influence(gradients) if trace.lost is None else ()),
        *(() if finite else births(trace, names)),
        *_kinks(trace, names),
        *_flat(trace, names),
    )


def findings_of(trace: Trace) -> tuple[Finding, ...]:
    """Returns the findings of a trace whose values go by the code that made them."""
    names = {n.index: n.leaf or (_whole(n.source.code) if n.source else "") or n.name for n in trace.nodes}
    return diagnose(trace, names, {n: None if g is None else TensorSummary(g) for n, g in trace.gradients.items()})


def edited(trace: Trace) -> Finding | None:
    """Returns the first value of a live tensor that was written into behind torch's back: there is nothing to judge."""
    if not trace.edited:
        return None
    first = trace.edited[0]
    node = trace.nodes[first.node]
    element = indexed(_whole(_code(node.source, node.name)), first.place)
    data = {"element": element, "operator": node.operator, "kept": first.kept, "made": first.made}
    return Finding("saved-edited", data, node.source, "P15")


def _whole(code: str) -> str:
    """Returns code that an index may stand behind: in brackets where the index would be that of a part."""
    try:
        parsed: ast.AST = ast.parse(code, mode="eval").body
    except SyntaxError:  # a statement, or a part of one
        return code
    return f"({code})" if isinstance(parsed, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)) else code


def _hooked(trace: Trace) -> Iterator[Finding]:
    for hooked in trace.hooked:
        yield Finding("leaf-hook", {"value": hooked.leaf, "hook": hooked.hook}, hooked.source)


def _apart(trace: Trace) -> Iterator[Finding]:
    """What was not as in the plain run, whose gradient this is."""
    if trace.unwatched is not None:
        yield Finding("unwatched", {"message": trace.unwatched})
    if trace.hidden:
        yield Finding("backward-inside", {"names": ", ".join(n for n in trace.gradients if n in trace.hidden)})
    for source in trace.inlined:
        yield Finding("checkpoint-in-line", {"code": _code(source, "checkpoint")}, source)
    for name, apart in trace.apart.items():
        data = {"element": indexed(name, apart.place), "plain": apart.plain, "other": apart.other}
        if apart.cause == "draws":
            draw = trace.drawn_again
            code = _code(draw.source, draw.operator) if draw else ""
            label = draw.operator if draw else ""
            yield Finding("drawn-again", {**data, "code": code, "label": label}, draw.source if draw else None)
        else:
            yield Finding("changed-by-watching" if apart.cause == "watching" else "changes-from-run-to-run", data)


def _unregistered(trace: Trace) -> Iterator[Finding]:
    """Modules in a plain list or dict: an optimizer that is given `parameters()` does not train them."""
    if trace.unregistered:
        yield Finding("unregistered", {"names": ", ".join(trace.unregistered)})


def _cut(trace: Trace) -> Iterator[Finding]:
    for cut in trace.cuts:
        data = {"code": _code(cut.source, cut.operator), "operator": cut.operator}
        yield Finding(f"cut-{cut.reason.replace('_', '-')}", data, cut.source, _CUTS.get(cut.reason))


def _dropped(trace: Trace) -> Iterator[Finding]:
    for name, cut in ((dropped.name, dropped.cut) for dropped in trace.dropped):
        data = {"output": name, "reason": cut.reason, "code": _code(cut.source, cut.operator)}
        yield Finding("output-dropped", data, cut.source, _CUTS.get(cut.reason))


def _unasked(trace: Trace) -> Iterator[Finding]:
    """Tensors that the function reads from elsewhere, and that receive a gradient as well: it is not judged."""
    users = trace.consumers()
    for node in trace.nodes:
        if node.leaf is not None and node.leaf not in trace.gradients and node.index in users:
            user = trace.nodes[users[node.index][0][0]]
            data = {"shape": tuple(node.outputs[0].shape) if node.outputs[0] is not None else (), "user": _used(user)}
            yield Finding("unasked", data, user.source)


def _used(node: Node) -> str:
    return node.source.code if node.source and node.source.code else node.operator or node.name


def _random(trace: Trace) -> Iterator[Finding]:
    for draw in trace.draws:
        yield Finding("random", {"code": _code(draw.source, draw.operator), "operator": draw.operator}, draw.source)


def _without_influence(gradients: Mapping[str, TensorSummary | None]) -> Iterator[Finding]:
    for name, gradient in gradients.items():
        if gradient is None:
            yield Finding("no-influence", {"name": name})
        elif gradient.tensor.numel() and gradient.norm == 0:
            yield Finding("zero-gradient", {"name": name})


def _kinks(trace: Trace, names: Mapping[int, str]) -> Iterator[Finding]:
    for node in trace.nodes:
        rule = rule_of(node.operator)
        if rule is None or (told := _kink(node, rule, names)) is None:
            continue
        data = {"why": rule.why, "operator": node.operator, "code": _code(node.source, node.name), **told}
        yield Finding("kink", data, node.source, "P23")


def _kink(node: Node, rule: Rule, names: Mapping[int, str]) -> dict[str, Any] | None:
    """Returns what there is to say of a node's kinks or ties: how many, the first, and its slopes where it has two."""
    asked = [edge.argument for edge in node.edges]
    if rule.elementwise:
        at = _kink_elements(node, rule) if any(not a or a in rule.sides for a in asked) else []
    elif rule.tie:
        at = _tied_elements(node, rule)
    else:
        return _kinks_of_inputs(node, rule, names)
    if not at:
        return None
    return {"count": len(at), "element": indexed(names[node.index], at[0]), **_sides(node, rule, at[0])}


def _kink_elements(node: Node, rule: Rule) -> list[Index]:
    output = node.outputs[0]
    if output is None or output.numel() > _SEARCHED:
        return []
    where = kinks.at_kinks(rule, node.arguments, node.outputs)
    return [] if where is None else [unravelled(i, output.shape) for i in where.flatten().nonzero().flatten().tolist()]


def _tied_elements(node: Node, rule: Rule) -> list[Index]:
    """Returns the outputs of a reduction that more than one element of its input attains."""
    whole, output = node.arguments.get("self"), node.outputs[0]
    if node.operator is None or not node.is_complete or not isinstance(whole, Tensor) or output is None:
        return []
    takes = {argument.name for argument in schema_of(overload(node.operator)).arguments}
    if _WINDOWED & takes or not output.numel() < whole.numel() <= _SEARCHED:
        return []
    dim, keepdim = node.arguments.get("dim"), bool(node.arguments.get("keepdim"))
    tied = (whole == spread(output, whole, dim, keepdim)).sum(axes(dim, whole.ndim), keepdim=keepdim) > 1
    return [unravelled(i, output.shape) for i in tied.flatten().nonzero().flatten().tolist()]


def _sides(node: Node, rule: Rule, at: Index) -> dict[str, Any]:
    """Returns left, right and torch's derivative, at one element, of the first argument whose sides differ there."""
    outputs = [o for o in node.outputs if o is not None]
    for argument in rule.sides if node.is_complete else ():
        left, right = (float(side[at]) for side in kinks.sides(rule, argument, node.arguments, outputs))
        if left < right or left > right:
            return _measured(left, right, float(kinks.taken(rule, argument, node.arguments, outputs)[at]))
    return {}


def _measured(left: float, right: float, chosen: float) -> dict[str, Any]:
    return {"left": left, "right": right, "chosen": chosen, "torch": minor_text(torch.__version__)}


def _kinks_of_inputs(node: Node, rule: Rule, names: Mapping[int, str]) -> dict[str, Any] | None:
    """Returns what there is to say of the kinks of a node whose rule is not elementwise, by its first argument."""
    sizes = [v.numel() for v in (*node.arguments.values(), *node.outputs) if isinstance(v, Tensor)]
    if not node.is_complete or max(sizes, default=0) > _SEARCHED:
        return None
    for edge in node.edges:
        found = _first_kinks(node, rule, edge.argument) if edge.argument in rule.derivatives else None
        if found is not None:
            at = found.here.flatten().nonzero()[0, 0]
            left, right, chosen = (float(t.flatten()[at]) for t in (found.left, found.right, found.taken))
            source = unravelled(int(found.source.flatten()[at]), node.arguments[edge.argument].shape)
            element = indexed(names[edge.producer], source)
            count = len(found.source[found.here].unique())
            return {"count": count, "element": element, "input": edge.argument, **_measured(left, right, chosen)}
    return None


def _first_kinks(node: Node, rule: Rule, argument: str) -> kinks.Kinks | None:
    with suppress(Unrecorded):  # what torch takes there cannot be asked
        for number, cotangent in enumerate(node.cotangents):
            found = None if cotangent is None else kinks.kinks_of(rule, argument, number, node.arguments, node.outputs)
            if found is not None:
                return found
    return None


def _flat(trace: Trace, names: Mapping[int, str]) -> Iterator[Finding]:
    """Operators that are flat almost everywhere: their gradient is 0 and nothing behind them learns."""
    for node in trace.nodes:
        rule = rule_of(node.operator)
        if rule is not None and rule.slopes and set(rule.slopes.values()) == {"0"}:
            data = {"operator": node.operator, "name": names[node.index], "code": _code(node.source, node.name)}
            yield Finding("flat", data, node.source, "P08")


def _code(source: Source | None, otherwise: str) -> str:
    """Returns the code at a place; of what has none, as a live tensor's steps and what was typed in, `otherwise`."""
    return (source.code if source else "") or otherwise
