"""The rules, walked backwards: the chain rule done again from the recorded values, by formulas that share nothing with
torch's backward. It shares the forward pass: what torch recorded there is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradexplain.graph import Edge, Node, Trace
from gradexplain.oracles.question import (
    RESOLUTION,
    Check,
    Question,
    dense,
    epsilon,
    index_of,
    plain,
    scales,
    unexplained,
    wide,
)

ORACLE = "rules"


@dataclass
class _Walk:
    """What one walk found: gradients by leaf, the size of what was summed, and where it left torch's own path."""

    received: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    magnitude: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    missing: dict[tuple[int, int], frozenset[str]] = field(default_factory=dict)
    first: tuple[Node, Edge] | None = None


def ask(question: Question) -> Iterator[Check]:
    """Compares the gradient of each input, and what every node sent, with the rules of the operators."""
    found = question.judged
    if any(t.is_complex() for t in (found.value, *found.inputs.values())):
        yield from (Check(ORACLE, n, "cannot say", reason="complex") for n in question.names)
        return
    walked = walk(found, exact=not question.large)
    leaves = {node.leaf: node.index for node in found.nodes if node.leaf is not None}
    for name in question.names:
        yield _check(question, found, walked, name, leaves.get(name))


def _check(question: Question, found: Trace, walked: _Walk, name: str, leaf: int | None) -> Check:
    torchs = wide(question.gradient(name))
    key = (-1 if leaf is None else leaf, 0)
    ours = walked.received.get(key, torch.zeros_like(torchs)).to(torchs.dtype)
    missing = sorted(walked.missing.get(key, ()))
    if ours.shape != torchs.shape:
        return Check(ORACLE, name, "differs", reason="node_shape", data=_where(walked))
    difference = (ours - torchs).abs()
    magnitude = walked.magnitude.get(key, torch.zeros_like(torchs))
    eps = epsilon(found)
    beyond = unexplained(difference, 0.0, magnitude, eps)
    changes: Tensor | float = 0.0
    if bool(beyond.any()):
        changes = _rounding(question, found, name, key, ours)
        beyond = unexplained(difference, changes, magnitude, eps)
    size = scales(found.inputs[name])
    bound = 32 * changes + 16 * eps * magnitude
    worst, most, resolution = (
        (float(difference.max()), float(bound.max()), float((bound * size).max()) / (question.scale(name) or 1.0))
        if difference.numel()
        else (0.0, 0.0, 0.0)
    )
    data: dict[str, object] = {"resolution": resolution}
    if not bool(ours.isfinite().all()) and not missing:
        return Check(ORACLE, name, "cannot say", worst, most, resolution, "rule_not_finite", data)
    if missing:
        data["operators"] = ", ".join(missing)
        return Check(ORACLE, name, "cannot say", worst, most, resolution, "no_rule", data)
    if bool(beyond.any()):
        position = int(torch.where(beyond, difference, -1.0).nan_to_num(torch.inf).argmax())
        data |= _where(walked) | {
            "seen": plain(torchs.flatten()[position]),
            "right": plain(ours.flatten()[position]),
        }
        place = index_of(position, torchs.shape)
        reason = "node" if walked.first is not None else "total"
        return Check(ORACLE, name, "differs", worst, most, resolution, reason, data, place)
    if not resolution <= RESOLUTION:
        return Check(ORACLE, name, "cannot say", worst, most, resolution, "coarse", data)
    return Check(ORACLE, name, "agrees", worst, most, resolution, None, data)


def _where(walked: _Walk) -> dict[str, object]:
    """Names the first node, in the order of the backward pass, that sent something else than its rule."""
    if walked.first is None:
        return {}
    node, edge = walked.first
    source = node.source
    return {
        "node": node.index,
        "operator": node.operator or node.name,
        "argument": edge.argument,
        "code": source.code if source else "",
        "line": source.line if source else 0,
    }


def _rounding(question: Question, found: Trace, name: str, key: tuple[int, int], ours: Tensor) -> Tensor:
    """Returns what rounding makes of the gradient: in each step of the walk, in the recorded values, in the inputs.

    The recorded values of a node move together, up and down, and the smaller effect counts: ties within a node and the
    kinks at 0 stay where they are, and a kink elsewhere is passed on one side only.
    """

    def change(**how: Any) -> Tensor:
        return (walk(found, **how).received.get(key, ours) - ours).abs()

    steps = torch.maximum(change(jitter=1), change(jitter=2))
    values = torch.minimum(change(factor=1.0), change(factor=-1.0))
    inputs = question.changes.get(name)
    return steps + values + (inputs if inputs is not None else 0.0)


def walk(found: Trace, *, exact: bool = True, jitter: int = 0, factor: float = 0.0) -> _Walk:
    """Carries the cotangent from the output to the leaves by rules.

    Where an operator has no rule, what torch sent is taken and the operator noted in `missing`. `jitter` seeds a random
    rounding error in everything that is sent; `factor` moves the recorded values of each node, in rounding errors.
    """
    walked = _Walk()
    walked.received[found.output] = wide(found.cotangent) if exact else found.cotangent
    walked.magnitude[found.output] = walked.received[found.output].abs()
    generator = torch.Generator().manual_seed(jitter) if jitter else None
    eps = epsilon(found)
    for node in reversed(found.nodes):
        if node.leaf is None:
            _step(walked, node, exact, generator, eps, 1 + 2 * factor * eps)
    return walked


def _step(
    walked: _Walk, node: Node, exact: bool, generator: torch.Generator | None, eps: float, factor: float
) -> None:
    count = max(len(node.outputs), len(node.cotangents), 1)
    cotangents = tuple(walked.received.get((node.index, n)) for n in range(count))
    missing = frozenset[str]().union(*(walked.missing.get((node.index, n), ()) for n in range(count)))
    if all(c is None for c in cotangents) and not missing:
        _silent(walked, node)
        return
    sent, lacking = _sent(node, cotangents, exact, factor)
    for edge, contribution in zip(node.edges, sent, strict=True):
        key = (edge.producer, edge.output)
        if missing | lacking:
            walked.missing[key] = walked.missing.get(key, frozenset()) | missing | lacking
        if contribution is None:
            continue
        if walked.first is None and not lacking and not _same(contribution, edge.contribution, eps):
            walked.first = (node, edge)
        if generator is not None:
            noise = torch.rand(contribution.shape, generator=generator, dtype=torch.float64) * 2 - 1
            contribution = contribution * (1 + eps * noise.to(contribution.device, contribution.dtype))
        before, size = walked.received.get(key), walked.magnitude.get(key)
        walked.received[key] = contribution if before is None else before + contribution
        walked.magnitude[key] = contribution.abs() if size is None else size + contribution.abs()


def _silent(walked: _Walk, node: Node) -> None:
    """Nothing reached the node by our rules; that torch sent something all the same is a difference."""
    for edge in node.edges:
        if walked.first is None and edge.contribution is not None and bool((dense(edge.contribution, edge.contribution) != 0).any()):
            walked.first = (node, edge)


def _sent(
    node: Node, cotangents: tuple[Tensor | None, ...], exact: bool, factor: float
) -> tuple[list[Tensor | None], frozenset[str]]:
    """Returns what the node sends along each edge by its rule, or by torch's own record if it has none."""
    from gradexplain.rules import rule_of
    from gradexplain.rules.application import vjp

    rule = rule_of(node.operator)
    arguments = _cast(dict(node.arguments), exact, factor)
    outputs = tuple(_cast(y, exact, factor) for y in node.outputs)
    found: dict[str, Any] = {}
    sent: list[Tensor | None] = []
    try:
        for edge in node.edges:
            argument, _, item = edge.argument.partition("[")
            if rule is None or not argument:
                raise NotImplementedError
            if argument not in found:
                found[argument] = vjp(rule, argument, cotangents, arguments, outputs)
            value = found[argument]
            sent.append(value[int(item.rstrip("]"))] if item else value)
    except Exception:  # a rule is only knowledge: what it cannot do is no verdict on torch
        recorded = [None if e.contribution is None else _dense_wide(e.contribution, exact) for e in node.edges]
        return recorded, frozenset({node.operator or node.name})
    return sent, frozenset()


def _dense_wide(contribution: Tensor, exact: bool) -> Tensor:
    plainly = dense(contribution, contribution)
    return wide(plainly) if exact else plainly  # type: ignore[no-any-return]


def _cast(value: Any, exact: bool, factor: float) -> Any:
    """Returns recorded values in float64, moved by `factor`; integer tensors and everything else stay."""
    if isinstance(value, Tensor):
        value = wide(value) if exact else value
        return value * factor if factor != 1.0 and value.is_floating_point() else value
    if isinstance(value, torch.dtype):
        return wide(value) if exact else value
    if type(value) in (list, tuple):
        return type(value)(_cast(v, exact, factor) for v in value)
    return {k: _cast(v, exact, factor) for k, v in value.items()} if isinstance(value, Mapping) else value


def _same(ours: Tensor, torchs: Tensor | None, eps: float) -> bool:
    """Says whether a contribution is torch's but for rounding; only names the place of a difference found otherwise."""
    theirs = torch.zeros_like(ours) if torchs is None else dense(torchs, torchs).to(ours.dtype)
    if theirs.shape != ours.shape:
        return False
    if ours.numel() == 0:
        return True
    return bool((ours - theirs).abs().max() <= 1e4 * eps * theirs.abs().max())
