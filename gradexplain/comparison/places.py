"""Where two runs part: the first step that one side takes and the other does not, forward first, then backward.

Steps are aligned by what they give: two nodes are one step where their outputs have the same numbers, or, in another
layout, the same sums. What is unlike on the way, and alike again after it, was only written otherwise. The runs part at
the first of the unlike steps that lead to the output. Where the outputs are alike, the same is asked of what the
backward pass sends: a gradient of one value that is unlike, while those that it was made from are alike.

Numbers are alike that are nearer to each other than half way (of the digits) between the last digit of their type and
the difference that is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradexplain.comparison.alignment import leading, paired, unmatched
from gradexplain.comparison.comparison import Place, Step
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.trace import Node, Trace
from gradexplain.rules.application import wide
from gradexplain.verification.oracles.measures import plain


def parting(one: Trace, other: Trace, names: Mapping[str, str], eps: float, difference: float) -> Place | None:
    """Returns the first place where two runs part; `None` where every step is alike.

    `names` are the reference's names of the candidate's leaves, `difference` the relative size of what is looked for.
    """
    aligned = _Aligned(one, other, names, math.sqrt(eps * min(max(difference, eps), 1.0)))
    return aligned.backward() if aligned.values_alike else aligned.forward()


@dataclass
class _Aligned:
    """Two traces, and which of their nodes are one step."""

    one: Trace
    other: Trace
    names: Mapping[str, str]
    tolerance: float
    ours: Mapping[int, int] = field(init=False)  # of the reference, to the candidate's
    theirs: Mapping[int, int] = field(init=False)
    known: dict[int, tuple[Tensor, Tensor, Tensor | None, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The same operator first, then the same numbers in one shape, then in any layout.
        nearness = (_is_operator_alike, _is_shape_alike, lambda *_: True)
        self.ours, self.theirs = paired(self.one.nodes, self.other.nodes, self._is_like, nearness)

    def _is_like(self, ours: Node, theirs: Node) -> bool:
        if ours.leaf is not None or theirs.leaf is not None:
            return ours.leaf == self.names.get(theirs.leaf or "", theirs.leaf)
        return self.are_alike(output_of(ours), output_of(theirs))

    def are_alike(self, a: Tensor | None, b: Tensor | None) -> bool:
        """Says whether two tensors have the same numbers, in whatever layout."""
        if a is None or b is None or a.numel() != b.numel():
            return a is b
        if not a.numel() or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)):
            return True
        (one, spoilt, largest), (other, also, most) = self._numbers(a), self._numbers(b)
        if abs(largest - most) > self.tolerance * largest:
            return False
        if spoilt is not None or also is not None:
            there, beside = (
                torch.zeros(t.shape, dtype=torch.bool) if s is None else s for t, s in ((a, spoilt), (b, also))
            )
            lost = numbers_of(a)[there], numbers_of(b)[beside]
            if (a.shape == b.shape and not torch.equal(there, beside)) or len(lost[0]) != len(lost[1]):
                return False
            if not torch.equal(*(t.nan_to_num(0.0).abs().sort()[0] for t in lost)):
                return False
        if a.shape != b.shape:
            return all(
                abs(x - y) <= self.tolerance * size
                for (x, size), (y, _) in zip(sums_of(one), sums_of(other), strict=True)
            )
        return bool((one - other).abs().max() <= self.tolerance * largest)

    def _numbers(self, value: Tensor) -> tuple[Tensor, Tensor | None, float]:
        """Returns the numbers of a tensor with 0 for what is not finite, where that is, and the largest size."""
        if id(value) not in self.known:
            numbers = numbers_of(value)
            largest, spoilt = float(numbers.abs().max()), None
            if not math.isfinite(largest):
                spoilt = ~numbers.isfinite()
                numbers = numbers.masked_fill(spoilt, 0)
                largest = float(numbers.abs().max())
            self.known[id(value)] = value, numbers, spoilt, largest
        return self.known[id(value)][1:]

    # --------------------------------------------------------------------------------------------------------- forward

    @property
    def values_alike(self) -> bool:
        """Whether the forward passes give the same, at the end of every step that leads there."""
        ends = output_of(self.one.nodes[self.one.output[0]]), output_of(self.other.nodes[self.other.output[0]])
        if self.are_alike(self.one.value, self.other.value) and self.are_alike(*ends):
            return True
        return not _leading(self.one, self.ours) and not _leading(self.other, self.theirs)

    def forward(self) -> Place | None:
        """Returns the first step that is unlike; `None` where all are alike, and the outputs stand in another order."""
        ours, theirs = (
            [node for node in _leading(trace, known) if not _is_joint(trace, node)]
            for trace, known in ((self.one, self.ours), (self.other, self.theirs))
        )
        if not ours and not theirs:
            return None
        first, second = (nodes[0] if nodes else None for nodes in (ours, theirs))
        return self._place("forward", first, second)

    def _place(self, phase: str, first: Node | None, second: Node | None, **detail: Any) -> Place:
        a, b = (output_of(n) if n is not None else None for n in (first, second))
        element, numbers, relative = _apart(a, b)
        steps = tuple(
            None if n is None else Step(name_of(n), n.source, n.module, number)
            for n, number in zip((first, second), numbers, strict=True)
        )
        how, more = _how(first, second, self)
        return Place(phase, how, steps, element, relative, {**more, **detail})  # type: ignore[arg-type]

    # -------------------------------------------------------------------------------------------------------- backward

    def backward(self) -> Place | None:
        """Returns the last step of the forward pass, which is the first of the backward pass, that sends otherwise."""
        pairs = [(n, self.one.nodes[self.theirs[n.index]]) for n in self.other.nodes if n.index in self.theirs]
        pairs = [(t, o) for t, o in pairs if self.ours.get(o.index) == t.index]
        for ours in self.one.nodes:  # a leaf that nothing leads to on the other side
            if ours.leaf is not None and ours.index not in self.ours and cotangent_of(ours) is not None:
                return self._sent(ours, None)
        for theirs, ours in reversed(pairs):
            a, b = cotangent_of(ours), cotangent_of(theirs)
            if not self.are_alike(a, b) and (place := self._sent(ours, theirs)) is not None:
                return place
        return None

    def _sent(self, ours: Node, theirs: Node | None) -> Place | None:
        """Returns the place of a value whose gradient is unlike: the step that sends it, or sends nothing.

        `None` where all that is sent is alike, in another order.
        """
        sent = _contributions(self.one, ours), _contributions(self.other, theirs) if theirs is not None else ()
        mine, others = unmatched(*sent, lambda one, other: self.are_alike(one[1], other[1]))
        if not mine and not others:
            return None
        first, second = (found[0][0] if found else None for found in (mine, others))
        a, b = (_sum_of(found) for found in (mine, others))
        element, numbers, relative = _apart(a, b)
        steps = tuple(
            None if n is None else Step(name_of(n), n.source, n.module, number)
            for n, number in zip((first, second), numbers, strict=True)
        )
        how = "unsent" if second is None else "superfluous" if first is None else "sends"
        known = {(cut.reason, cut.operator) for cut in self.one.cuts}
        cut = next((c for c in self.other.cuts if (c.reason, c.operator) not in known), None)
        if how == "unsent" and cut is not None:
            steps = (steps[0], Step(cut.operator.removeprefix("aten.").partition(".")[0], cut.source, cut.module))
        return Place("backward", how, steps, element, relative, {"to": ours.leaf or name_of(ours)})  # type: ignore[arg-type]


def _is_operator_alike(one: Node, other: Node) -> bool:
    return one.operator == other.operator and one.name == other.name and _is_shape_alike(one, other)


def _is_shape_alike(one: Node, other: Node) -> bool:
    a, b = output_of(one), output_of(other)
    return a is not None and b is not None and a.shape == b.shape


def output_of(node: Node) -> Tensor | None:
    for output in node.outputs:  # no generator: it is asked for every pair of steps
        if output is not None:
            return output
    return None


def cotangent_of(node: Node) -> Tensor | None:
    return next((c for c in node.cotangents if c is not None), None)


def name_of(node: Node) -> str:
    return node.leaf or (node.operator or node.name).removeprefix("aten.").partition(".")[0]


def numbers_of(value: Tensor) -> Tensor:
    """Returns a tensor of any type in float64, or complex128."""
    found: Tensor = wide(value)
    return found if found.is_complex() else found.double()


def sums_of(value: Tensor) -> list[tuple[float, float]]:
    """Returns what does not change with the layout, each with the size that its rounding goes by."""
    size = value.abs()
    total, norm, most = (float(t) for t in (size.sum(), torch.linalg.vector_norm(size), size.max()))
    found = [(total, total), (norm, norm), (most, most)]
    if not value.is_complex():
        found += [(float(value.sum()), total), (float(value.max()), most), (float(value.min()), most)]
    return found


def _leading(trace: Trace, known: Mapping[int, int]) -> list[Node]:
    """Returns the steps that have no like and lead to the output by such alone, in the order in which they ran."""
    nodes = trace.nodes
    found = leading(
        trace.output[0],
        lambda index: [edge.producer for edge in nodes[index].edges],
        lambda index: index in known or nodes[index].leaf is not None,
    )
    return [nodes[index] for index in found]


def _contributions(trace: Trace, node: Node) -> Iterator[tuple[Node, Tensor | None]]:
    for user, number in trace.consumers().get(node.index, ()):
        yield trace.nodes[user], trace.nodes[user].edges[number].contribution


def _is_joint(trace: Trace, node: Node) -> bool:
    """Says whether a step is none of the user's: the one that joins several outputs in a vector."""
    return node.index == trace.output[0] and node.source is None and node.operator == "aten.cat.default"


def _sum_of(sent: Sequence[tuple[Node, Tensor | None]]) -> Tensor | None:
    """Returns what one step sends in all; `None` where several do, of which no number is to be named."""
    tensors = [t for _, t in sent if t is not None]
    if len({node.index for node, _ in sent}) != 1 or not tensors:
        return None
    return sum(tensors[1:], start=tensors[0])


def _apart(a: Tensor | None, b: Tensor | None) -> tuple[tuple[int, ...] | None, tuple[Any, Any], float]:
    """Returns the element where two tensors are furthest apart, both numbers, and how far, of the size of the first."""
    if a is None or b is None or a.shape != b.shape or not a.numel():
        return None, (None, None), 0.0
    one, other = numbers_of(a), numbers_of(b)
    apart = torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, (one - other).abs())
    place = unravelled(int(apart.flatten().nan_to_num(torch.inf).argmax()), a.shape)
    size = float(one.abs().max())
    return place, (plain(a[place]), plain(b[place])), float(apart.max()) / size if size else math.inf


def _how(first: Node | None, second: Node | None, aligned: _Aligned) -> tuple[str, Mapping[str, Any]]:
    """Returns what is different about two steps, and the argument that it is."""
    if first is None or second is None:
        return "alone", {}
    if first.operator != second.operator:
        return "operator", {}
    for name, value in first.arguments.items():
        other = second.arguments.get(name)
        if isinstance(value, Tensor) and isinstance(other, Tensor):
            if not aligned.are_alike(value, other) and not _is_made(first, name) and not _is_made(second, name):
                return "argument", {"argument": name, **_looks(value, other)}
        elif not isinstance(value, Tensor | list | tuple) and not isinstance(other, Tensor) and value != other:
            reached = (_reached(n, name, v) for n, v in ((first, value), (second, other)))
            return "argument", {"argument": name, **dict(zip(("one", "other"), reached, strict=True))}
    return "result", {}


def _reached(node: Node, argument: str, value: Any) -> Any:
    """Returns the value of an argument; where a slice ends, as torch has a huge number for an end that is left out."""
    given = node.arguments.get("self")
    if node.operator != "aten.slice.Tensor" or argument != "end" or not isinstance(given, Tensor):
        return value
    return min(value, given.shape[node.arguments.get("dim", 0)])


def _is_made(node: Node, argument: str) -> bool:
    return any(edge.argument == argument for edge in node.edges)


def _looks(one: Tensor, other: Tensor) -> Mapping[str, Any]:
    """Returns what is different about a constant: a mask, say, that stands one place further."""
    if one.shape == other.shape:
        for dim in range(one.dim()):
            for by in (1, -1):
                moved = one.roll(by, dim)
                size = one.shape[dim] - 1
                inside = [t.narrow(dim, 1 if by > 0 else 0, size) for t in (moved, other)] if size > 1 else []
                if inside and torch.equal(*inside) and not torch.equal(one, other):
                    return {"shifted": dim, "by": by}
    return {}
