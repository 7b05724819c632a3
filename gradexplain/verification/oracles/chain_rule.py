"""The rules, walked backwards: the chain rule done again from the recorded values, by formulas that share nothing with
torch's backward. It shares the forward pass: what torch recorded there is believed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradexplain.mathematics.indices import unravelled
from gradexplain.recording import kinks
from gradexplain.recording.trace import Edge, Node, Slice, Trace
from gradexplain.rules import registry
from gradexplain.rules.application import call, wide
from gradexplain.verification.oracles.answers import Check, Verdict
from gradexplain.verification.oracles.elements import RESOLUTION
from gradexplain.verification.oracles.measures import (
    MARGIN,
    allowance,
    dense,
    epsilon,
    first_not_finite,
    largest,
    plain,
    unexplained,
)
from gradexplain.verification.oracles.question import Question

ORACLE = "rules"
# In float64, numbers as near as this to each other, relative to themselves, are one but for what cancels in a sum.
COINCIDENT = 1e-6


@dataclass
class _Walk:
    """What one walk found: gradients by leaf, the size of what was summed, and where it left torch's own path.

    Of other nodes than the `leaves` nothing is kept once the walk has passed them. The `first` place is an edge, or a
    node alone where what arrives is no more what was sent to it.
    """

    leaves: frozenset[int]
    received: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    magnitude: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    missing: dict[tuple[int, int], frozenset[str]] = field(default_factory=dict)
    first: tuple[Node, Edge | None] | None = None


def ask(question: Question) -> Iterator[Check]:
    """Compares the gradient of each input, and what every node sent, with the rules of the operators."""
    trace = question.judged
    if any(t.is_complex() for t in (trace.value, *trace.inputs.values())):
        yield from (Check(ORACLE, n, "cannot say", reason="complex") for n in question.names)
        return
    if not bool(trace.value.isfinite().all()):
        data = {"value": first_not_finite(trace.value)}
        yield from (Check(ORACLE, n, "cannot say", reason="not_finite", data=data) for n in question.names)
        return
    for check in _large(question) if question.large else _each(question, trace):
        why = trace.unfollowed(check.input)
        yield check if why is None else Check(ORACLE, check.input, "cannot say", reason=why)


def _each(question: Question, trace: Trace) -> Iterator[Check]:
    comparison = _Comparison(question, walk(trace))
    yield from map(comparison.check, question.names)


def _large(question: Question) -> Iterator[Check]:
    """Compares a large trace in its own type, by the largest difference in each input's gradient.

    Rounding errors add up like a random walk, one step a node, each relative to the gradient's largest element.
    """
    trace = question.trace
    walked = walk(trace, exact=False)
    leaves = {node.leaf: (node.index, 0) for node in trace.nodes if node.leaf is not None}
    steps = sum(node.leaf is None for node in trace.nodes)
    eps = epsilon(trace)
    resolution = MARGIN * eps * math.sqrt(steps)
    for name in question.names:
        torchs, key = question.gradient(name), leaves.get(name, (-1, 0))
        missing = walked.missing.get(key, frozenset())
        ours = walked.received.get(key)
        ours = torch.zeros_like(torchs) if ours is None else ours
        if ours.shape != torchs.shape:
            yield Check(
                ORACLE, name, "differs", reason="total", data={"place": (), "seen": math.nan, "right": math.nan}
            )
            continue
        worst, size, place, apart = farthest(ours, torchs, eps)
        bound = resolution * size
        data: dict[str, object] = {"resolution": resolution, "operators": ", ".join(sorted(missing))}
        verdict, reason = _large_verdict(missing, worst, size, bound, resolution)
        if verdict == "differs":
            data |= {"place": place, "seen": plain(torchs[place]), "right": plain(ours[place])}
        bounds = apart if verdict == "agrees" else None
        yield Check(ORACLE, name, verdict, worst, bound, resolution, reason, data, place, bounds, number=resolution)


def _large_verdict(
    missing: frozenset[str], worst: float, size: float, bound: float, resolution: float
) -> tuple[Verdict, str | None]:
    if missing:
        return "cannot say", _lacking(missing)
    if not math.isfinite(worst) and not math.isfinite(size):
        return "cannot say", "rule_not_finite"
    if not worst <= bound:
        return "differs", "total"
    return ("agrees", None) if resolution <= RESOLUTION else ("cannot say", "coarse")


def farthest(ours: Tensor, torchs: Tensor, eps: float) -> tuple[float, float, tuple[int, ...], Tensor]:
    """Returns the largest difference, the largest element of `torchs`, the index of the former, and `_apart` of all.

    Works on blocks of rows that stay in the processor's cache: memory is slow to go through for tensors of this size.
    """
    if not ours.numel():
        return 0.0, 0.0, (), torch.zeros(ours.shape)
    turned = ours.ndim == 2 and ours.mT.is_contiguous() and torchs.mT.is_contiguous()
    pair = [t.mT if turned else (t if t.ndim else t[None]) for t in (ours, torchs)]
    made = torch.empty(pair[0].shape, dtype=torch.float32)
    rows = max(1, _PIECE_ELEMENTS * len(pair[0]) // ours.numel())
    blocks = list(zip(*(torch.split(t, rows) for t in (*pair, made)), strict=True))
    apart, sizes = [], []
    for own, torchs_own, relative in blocks:
        difference, size = (own - torchs_own).abs_(), torchs_own.abs()
        least, most = torch.aminmax(size)
        apart.append(difference.max())
        sizes.append(most)
        limit = difference.add_(size, alpha=2 * eps)
        relative.copy_(limit.div_(size) if bool(least > 0) else _relative(limit, size))
    block = int(torch.stack(apart).argmax())
    a, b, _ = blocks[block]
    place = unravelled(int((a - b).abs_().argmax()), a.shape)
    place = (place[0] + block * rows, *place[1:])
    at = (place[::-1] if turned else place) if ours.ndim else ()
    whole = made.mT if turned else made.reshape(ours.shape)
    return float(torch.stack(apart).max()), float(torch.stack(sizes).max()), at, whole


# Elements taken at once: 2 MiB of float64.
_PIECE_ELEMENTS = 1 << 18


class _Comparison:
    """A walk beside torch's gradients; what rounding makes of them is measured once, when a difference asks for it."""

    def __init__(self, question: Question, walked: _Walk) -> None:
        self.question, self.walked, self.trace = question, walked, question.judged
        self.leaves = {node.leaf: (node.index, 0) for node in self.trace.nodes if node.leaf is not None}

    def check(self, name: str) -> Check:
        """Gives the check of one input."""
        torchs, key = wide(self.question.gradient(name)), self.leaves.get(name, (-1, 0))
        ours = self.walked.received.get(key, torch.zeros_like(torchs)).to(torchs.dtype)
        if ours.shape != torchs.shape:
            return Check(ORACLE, name, "differs", reason="node", data=_where(self.walked))
        difference, magnitude = (ours - torchs).abs(), self.walked.magnitude.get(key, torch.zeros_like(torchs))
        difference = torch.where((ours == torchs) & ours.isinf(), 0.0, difference)
        beyond, bound = self.judged(name, difference, magnitude)
        missing = self.walked.missing.get(key, frozenset())
        resolution = largest(bound * self.question.units[name]) / self.question.scale(name)
        beneath = bool(beyond.any()) and bool((difference <= self.question.precision * ours.abs())[beyond].all())
        verdict, reason = _verdict(missing, ours, beyond & (not beneath), resolution)
        reason = "beneath" if beneath and verdict == "agrees" else reason
        reason = self.question.blur(name) if reason == "coarse" else reason
        data: dict[str, object] = {"resolution": resolution, "operators": ", ".join(sorted(missing))}
        place = None
        if verdict == "differs" or beneath:
            position = int(torch.where(beyond, difference, -1.0).nan_to_num(torch.inf).argmax())
            place = unravelled(position, torchs.shape)
            data |= {"place": place, "seen": plain(torchs[place]), "right": plain(ours[place]), **_where(self.walked)}
        if verdict == "differs":
            first = self.walked.first
            reason = "total" if first is None else "node" if first[1] is not None else "arrival"
        apart = _apart(torchs, difference, eps=epsilon(self.trace)) if verdict == "agrees" else None
        return Check(
            ORACLE, name, verdict, largest(difference), largest(bound), resolution, reason, data, place, bounds=apart
        )

    def judged(self, name: str, difference: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Returns which elements differ by more than rounding explains, and what rounding explains of each.

        What rounding does is measured only where the last digits of what was summed do not explain a difference.
        """
        eps = epsilon(self.trace)
        if bool(unexplained(difference, 0.0, magnitude, eps).any()):
            if self.question.changes:
                changes: Tensor | float = self.question.rounding(name)
            else:  # nothing can be run: the largest element's last digits stand for what rounding does
                changes = torch.full_like(difference, eps * largest(magnitude))
        else:
            changes = 0.0
        # The trials may miss an element by chance; what is below the last digits of the output is rounding anyway.
        beyond = unexplained(difference, changes, magnitude, eps)
        if bool(beyond.any()):
            beyond = beyond & ~self.question.below(name, difference, eps)
        if bool(beyond.any()) and self.question.changes:
            changes = self.question.rounding(name, of_many=True)
            beyond = beyond & unexplained(difference, changes, magnitude, eps)
        return beyond, allowance(changes, magnitude, eps)


def coincides(trace: Trace) -> bool:
    """Says whether every element of every gradient is the rules' own number, to `COINCIDENT` of itself."""
    walked = walk(trace)
    leaves = {node.leaf: (node.index, 0) for node in trace.nodes if node.leaf is not None}
    if any(walked.missing.get(key) for key in leaves.values()):
        return False
    for name, gradient in trace.gradients.items():
        torchs, ours = dense(gradient, trace.inputs[name]), walked.received.get(leaves.get(name, (-1, 0)))
        ours = torch.zeros_like(torchs) if ours is None else ours
        if ours.shape != torchs.shape or not bool(((ours - torchs).abs() <= COINCIDENT * torchs.abs()).all()):
            return False
    return True


def _apart(torchs: Tensor, difference: Tensor, eps: float) -> Tensor:
    """Returns how far each element is from the rules' number, relative to itself, and their last digits."""
    return _relative(difference + 2 * eps * torchs.abs(), torchs.abs()).float().cpu()


def _relative(limit: Tensor, size: Tensor) -> Tensor:
    return torch.where(limit == 0, 0.0, limit / size)


def bounds_of(question: Question, name: str, apart: Tensor) -> Tensor:
    """Returns what error of each element, relative to itself, the rules would have seen; `apart` is what they saw.

    The rules start from the recorded values, and these are rounded: what that does to the gradient is measured, where
    the function can be run again.
    """
    if not question.changes:
        return apart
    # `rounding` is how far gradients spread that round twice as much as torch does; four times that leaves little to
    # chance for a bound that is only quoted.
    rounding = 4 * question.rounding(name)
    relative = torch.where(rounding == 0, 0.0, rounding / question.gradient(name).abs())
    return apart + relative.float().cpu()


def _verdict(missing: frozenset[str], ours: Tensor, beyond: Tensor, resolution: float) -> tuple[Verdict, str | None]:
    if missing:
        return "cannot say", _lacking(missing)
    if not bool(ours.isfinite().all()):
        return "cannot say", "rule_not_finite"
    if bool(beyond.any()):
        return "differs", "node"
    return ("agrees", None) if resolution <= RESOLUTION else ("cannot say", "coarse")


def _lacking(operators: frozenset[str]) -> str:
    """Returns why operators were not judged: without a rule, or by one that cannot do it here."""
    return "rule_unable" if all(registry.rule_of(operator) for operator in operators) else "no_rule"


def _where(walked: _Walk) -> dict[str, object]:
    """Names the first node, in the order of the backward pass, that sent something else than its rule."""
    if walked.first is None:
        return {}
    node, edge = walked.first
    source, operator = node.source, node.operator or node.name
    return {
        "node": node.index,
        "operator": operator,
        "argument": edge.argument if edge is not None else "",
        "code": (source.code if source else "") or operator,
        "line": source.line if source else 0,
    }


def walk(trace: Trace, *, exact: bool = True, careful: bool = False) -> _Walk:
    """Carries the cotangent from the output to the leaves by rules, in float64 if `exact`.

    Where an operator has no rule, what torch sent is taken and the operator noted in `missing`. Without `exact`, only
    the gradients are gathered: no sizes of what was summed, no place where the paths part.

    Where numbers that are not finite keep the rules from what torch sends as a number, the walk is done once more, and
    `careful`: see `_without_lost`.
    """
    walked = _Walk(frozenset(node.index for node in _leaves(trace)))
    walked.received[trace.output] = wide(trace.cotangent) if exact else trace.cotangent
    walked.magnitude[trace.output] = walked.received[trace.output].abs()
    eps = epsilon(trace)
    for node in reversed(trace.nodes):
        if node.leaf is None:
            _step(walked, node, exact, eps, careful)
    if not careful and any(
        _lost(walked.received.get((n.index, 0)), c).any() for n in _leaves(trace) for c in n.cotangents[:1]
    ):
        return walk(trace, exact=exact, careful=True)
    return walked


def _leaves(trace: Trace) -> list[Node]:
    return [node for node in trace.nodes if node.leaf is not None]


def _step(walked: _Walk, node: Node, exact: bool, eps: float, careful: bool) -> None:
    count = max(len(node.outputs), len(node.cotangents), 1)
    cotangents = tuple(walked.received.pop((node.index, n), None) for n in range(count))
    missing = frozenset[str]().union(*(walked.missing.get((node.index, n), ()) for n in range(count)))
    if all(c is None for c in cotangents) and not missing:
        _silent(walked, node)
        return
    sent, lacking = _sent(node, cotangents, exact, careful)
    if exact and walked.first is None and not missing and _is_changed(node, cotangents, eps):
        walked.first = (node, None)
    for edge, contribution in zip(node.edges, sent, strict=True):
        key = (edge.producer, edge.output)
        if missing | lacking:
            walked.missing[key] = walked.missing.get(key, frozenset()) | missing | lacking
        if contribution is None:
            continue
        before, size = walked.received.get(key), walked.magnitude.get(key)
        walked.received[key] = contribution if before is None else before + contribution
        if not exact:
            continue
        if walked.first is None and not lacking and not _same(contribution, edge.contribution, eps):
            walked.first = (node, edge)
        if edge.producer in walked.leaves:
            walked.magnitude[key] = contribution.abs() if size is None else size + contribution.abs()


def _is_changed(node: Node, arriving: Sequence[Tensor | None], eps: float) -> bool:
    """Says whether what arrived at a node is something else than the sum of what was sent to it."""
    return any(
        ours is not None and torchs is not None and bool(torchs.isfinite().all()) and not _same(ours, torchs, eps)
        for ours, torchs in zip(arriving, node.cotangents, strict=False)
    )


def _silent(walked: _Walk, node: Node) -> None:
    """Nothing reached the node by our rules; that torch sent something all the same is a difference."""
    for edge in node.edges:
        sent = edge.contribution
        if walked.first is None and sent is not None and bool((dense(sent, sent) != 0).any()):
            walked.first = (node, edge)


def _sent(
    node: Node, cotangents: Sequence[Tensor | None], exact: bool, careful: bool
) -> tuple[list[Tensor | None], frozenset[str]]:
    """Returns what the node sends along each edge by its rule, or by torch's own record if it has none."""
    sent = _by_rule(node, cotangents, exact)
    if sent is not None and careful:
        sent = _without_lost(node, cotangents, exact, sent)
    if sent is not None:
        return sent, frozenset()
    recorded = [None if e.contribution is None else _dense_wide(e.contribution, exact) for e in node.edges]
    return recorded, frozenset({node.operator or node.name})


def _without_lost(
    node: Node, cotangents: Sequence[Tensor | None], exact: bool, sent: list[Tensor | None]
) -> list[Tensor | None] | None:
    """Returns what the node sends where numbers that are not finite take no part in it, `None` where they take part.

    A rule may write 0 · nan for what torch leaves out: the other branch of `where`, what a mask covers. An element that
    is the same for any number in the place of one that is not finite does not depend on it, and that is what it is.
    """
    lost = [_lost(ours, edge.contribution) for ours, edge in zip(sent, node.edges, strict=True)]
    if not any(bool(where.any()) for where in lost):
        return sent
    some, other = (_by_rule(node, [_replaced(g, number) for g in cotangents], exact) for number in (0.0, 1.0))
    settled: list[Tensor | None] = []
    for ours, a, b, where in zip(sent, some or (), other or (), lost, strict=True):
        if ours is None or a is None or b is None:
            settled.append(ours)
        elif bool((where & ~(a == b)).any()):
            return None
        else:
            settled.append(torch.where(where, a, ours))
    return settled


def _lost(ours: Tensor | None, torchs: Tensor | None) -> Tensor:
    """Returns where ours is no finite number and torch's is."""
    if ours is None or bool(ours.sum().isfinite()):  # a sum is finite only where all that is added is
        return torch.tensor(False)
    finite = torch.tensor(True) if torchs is None else dense(torchs, torchs).isfinite()
    return ~ours.isfinite() & finite if finite.shape in ((), ours.shape) else torch.tensor(False)


def _replaced(cotangent: Tensor | None, number: float) -> Tensor | None:
    return None if cotangent is None else torch.where(cotangent.isfinite(), cotangent, number)


def _through_part(part: Slice, g: Tensor, exact: bool) -> list[Tensor | None]:
    """Returns what a write into a view sends: what arrives at the part goes through the operator, the rest goes on.

    Looking through the view sends what arrives to the part, and 0 to the rest.
    """
    shape, strides = part.whole
    if not part.written:
        whole = torch.empty_strided(shape, strides, dtype=g.dtype, device=g.device)
        look = {"self": whole, "size": part.size, "stride": part.stride, "storage_offset": part.offset}
        return [kinks.sent(registry.rules()["aten.as_strided.default"], "self", [g], look, (g,))]
    whole = torch.empty_strided(shape, strides, dtype=g.dtype, device=g.device).copy_(g)
    inside = whole.as_strided(part.size, part.stride, part.offset)
    given, rule = dict(part.arguments), registry.rule_of(part.operator)
    arguments = wide(given) if exact else given
    if rule is None or not all(part.slots):
        raise NotImplementedError
    made = call(part.operator, {n: v.clone() if isinstance(v, Tensor) else v for n, v in arguments.items()})
    arrived = inside.clone()
    sent = [kinks.sent(rule, slot, [arrived], arguments, made) for slot in part.slots]
    if part.slots[0] == part.written:
        inside.copy_(sent[0])
        sent[0] = whole
    return sent


def _by_rule(node: Node, cotangents: Sequence[Tensor | None], exact: bool) -> list[Tensor | None] | None:
    """Returns what the node sends along each edge by its rule, `None` where it has none or that cannot do it."""
    rule = registry.rule_of(node.operator)
    arguments, outputs = dict(node.arguments), tuple(node.outputs)
    if exact:
        arguments, outputs = wide(arguments), wide(outputs)
    by_argument: dict[str, Any] = {}
    sent: list[Tensor | None] = []
    try:
        if node.part is not None and cotangents[0] is not None:
            return _through_part(node.part, cotangents[0], exact)
        for edge in node.edges:
            argument, _, item = edge.argument.partition("[")
            if rule is None or not argument:
                raise NotImplementedError
            if argument not in by_argument:
                by_argument[argument] = kinks.sent(rule, argument, cotangents, arguments, outputs)
            value = by_argument[argument]
            sent.append(value[int(item.rstrip("]"))] if item else value)
    except Exception:  # a rule is only knowledge: what it cannot do is no verdict on torch
        return None
    return sent


def _dense_wide(contribution: Tensor, exact: bool) -> Tensor:
    plainly = dense(contribution, contribution)
    return wide(plainly) if exact else plainly


def _same(ours: Tensor, torchs: Tensor | None, eps: float) -> bool:
    """Says whether a contribution is torch's but for rounding; only names the place of a difference found otherwise."""
    theirs = torch.zeros_like(ours) if torchs is None else dense(torchs, torchs).to(ours.dtype)
    if theirs.shape != ours.shape:
        return False
    if ours.numel() == 0:
        return True
    return bool((ours - theirs).abs().max() <= 1e4 * eps * theirs.abs().max())
