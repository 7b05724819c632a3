"""Where two runs part: the first step that one side takes and the other does not, forward first, then backward.

Steps are aligned by what they give: two values, each an output of a step, are one where they have the same numbers, or,
in another layout, the same sums. What is unlike on the way, and alike again after it, was only written otherwise. The
runs part at the first of the unlike values that lead to the output. What one side does in one step and the other in
many is taken apart, as torch itself writes it out: what is alike inside it was only written otherwise as well. Where
the outputs are alike, the same is asked of what the backward pass sends: a gradient of one value that is unlike, while
those that it was made from are alike; where these are all alike, a hook changed it.

Numbers are alike that are nearer to each other than half way (of the digits) between the last digit of their type and
the difference that is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradexplain.comparison.alignment import leading, paired, unmatched
from gradexplain.comparison.comparison import Place, Step
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.trace import Hooked, Node, Trace
from gradexplain.rules.application import wide
from gradexplain.rules.entries import overload
from gradexplain.verification.oracles.measures import plain
from gradexplain.versions.internals import written_out


@dataclass(frozen=True)
class Value:
    """One output of a step."""

    node: Node
    number: int
    given: Tensor | None

    @property
    def rows(self) -> int:
        """How many rows it has, 0 of what has none."""
        return len(self.given) if self.given is not None and self.given.dim() else 0

    @property
    def got(self) -> Tensor | None:
        """The gradient that arrived at it."""
        return self.node.cotangents[self.number] if self.number < len(self.node.cotangents) else None


@dataclass(frozen=True)
class Watched:
    """A run that was watched, and the hooks that changed a gradient in it, by the node and its output number.

    And the hooks of modules, by the node that calls them.
    """

    trace: Trace
    hooks: Mapping[tuple[int, int], Hooked] = field(default_factory=dict)
    modules: Mapping[int, Hooked] = field(default_factory=dict)

    @cached_property
    def values(self) -> Sequence[Value]:
        """All outputs of all steps, in order; one that is not known of a step without any."""
        found = []
        for node in self.trace.nodes:
            known = [Value(node, k, t) for k, t in enumerate(node.outputs) if t is not None]
            found += known or [Value(node, 0, None)]
        return found

    @cached_property
    def positions(self) -> Mapping[tuple[int, int], int]:
        """Where each output of each step stands among the values; the first of the step for one that is not known."""
        found: dict[tuple[int, int], int] = {}
        for position, value in enumerate(self.values):
            first = (value.node.index, -1)
            found[value.node.index, value.number] = position
            found.setdefault(first, position)
        return found

    def position(self, node: int, number: int) -> int:
        """Returns where an output of a step stands among the values."""
        return self.positions.get((node, number), self.positions[node, -1])

    @property
    def end(self) -> int:
        """Where the output of the run stands."""
        return self.position(*self.trace.output)

    def before(self, position: int) -> list[int]:
        """Returns where the values stand that one is made of."""
        return [self.position(edge.producer, edge.output) for edge in self.values[position].node.edges]

    @cached_property
    def sent(self) -> Mapping[int, Sequence[tuple[Node, Tensor | None]]]:
        """What each value, by its place, is sent as its gradient, and by which steps."""
        found: dict[int, list[tuple[Node, Tensor | None]]] = {}
        for node in self.trace.nodes:
            for edge in node.edges:
                found.setdefault(self.position(edge.producer, edge.output), []).append((node, edge.contribution))
        return found


def parting(one: Watched, other: Watched, names: Mapping[str, str], eps: float, difference: float) -> Place | None:
    """Returns the first place where two runs part; `None` where every step is alike.

    `names` are the reference's names of the candidate's leaves, `difference` the relative size of what is looked for.
    """
    aligned = _Aligned(one, other, names, math.sqrt(eps * min(max(difference, eps), 1.0)))
    return aligned.backward() if aligned.values_alike else aligned.forward()


@dataclass
class _Aligned:
    """Two runs, and which of their values are one."""

    one: Watched
    other: Watched
    names: Mapping[str, str]
    tolerance: float
    ours: Mapping[int, int] = field(init=False)  # of the reference, to the candidate's
    theirs: Mapping[int, int] = field(init=False)
    known: dict[int, tuple[Tensor, Tensor, Tensor | None, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The same operator first, then the same numbers in one shape, then in any layout.
        nearness = (_is_operator_alike, _is_shape_alike, lambda *_: True)
        self.ours, self.theirs = paired(self.one.values, self.other.values, self._is_like, nearness)

    def _is_like(self, ours: Value, theirs: Value) -> bool:
        if ours.node.leaf is not None or theirs.node.leaf is not None:
            return ours.node.leaf == self.names.get(theirs.node.leaf or "", theirs.node.leaf)
        return self.are_alike(ours.given, theirs.given)

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
        ends = (run.values[run.end].given for run in (self.one, self.other))
        if self.are_alike(self.one.trace.value, self.other.trace.value) and self.are_alike(*ends):
            return True
        return not _unmet(self.one, self.ours) and not _unmet(self.other, self.theirs)

    def forward(self) -> Place | None:
        """Returns the first step that is unlike; `None` where all are alike, and the outputs stand in another order."""
        one, other = ({**known} for known in (self.ours, self.theirs))
        self._meet_blocks(self.one, one, self.other)
        self._meet_blocks(self.other, other, self.one)
        ours, theirs = _leading(self.one, one), _leading(self.other, other)
        if ours and theirs:
            whole = self.one.values[ours[0]]
            self._meet(self.other, other, self._is_inside(whole))
            theirs = _leading(self.other, other) or theirs
            self._meet(self.one, one, self._is_inside(self.other.values[theirs[0]]))
            ours = _leading(self.one, one) or ours
        if not ours and not theirs:
            return None
        first, second = (
            run.values[places[0]] if places else None for run, places in ((self.one, ours), (self.other, theirs))
        )
        return self._place("forward", first, second)

    def _meet(self, run: Watched, known: dict[int, int], is_met: Callable[[Tensor], bool]) -> None:
        """Adds the leading values that were only written otherwise to those that have their like."""
        for i in _leading(run, known):
            given = run.values[i].given
            if given is not None and i != run.end and is_met(given):
                known[i] = -1

    def _is_inside(self, whole: Value) -> Callable[[Tensor], bool]:
        inside = list(_inside(whole.node))
        return lambda given: any(self.are_alike(t, given) for t in inside)

    def _meet_blocks(self, run: Watched, known: dict[int, int], other: Watched) -> None:
        """Adds the leading values that are rows of what the other side has whole.

        Those that only select rows have to be all of them, together: else some are lost, or there twice.
        """
        selected: dict[int, list[tuple[int, int, int]]] = {}
        for i, value in enumerate(run.values):
            for whole in {known[p] for p in run.before(i) if known.get(p, -1) >= 0} if i not in known else ():
                if (start := self._start(value.given, other.values[whole].given)) is not None:
                    selected.setdefault(whole, []).append((start, start + value.rows, i))
        chosen = {i for blocks in selected.values() for _, _, i in blocks}
        computed = [
            i
            for i in _leading(run, known)
            if i not in chosen
            and i != run.end
            and any(self._start(run.values[i].given, v.given) is not None for v in other.values)
        ]
        for whole, blocks in selected.items():
            ends = [0, *(end for _, end, _ in sorted(blocks))]
            if [*(start for start, _, _ in sorted(blocks)), other.values[whole].rows] == ends:
                known.update((i, -1) for _, _, i in blocks)
        for i in computed:
            if all(p in known or run.values[p].node.leaf is not None for p in run.before(i)):
                known[i] = -1

    def _start(self, part: Tensor | None, whole: Tensor | None) -> int | None:
        """Returns at which row of a tensor another stands as a block of its rows, `None` where it does not."""
        if part is None or whole is None or not part.dim() == whole.dim() > 0 or part.shape[1:] != whole.shape[1:]:
            return None
        count = len(part)
        if not 0 < count < len(whole) or part.numel() < 2:
            return None
        rows, block = (numbers_of(t).reshape(len(t), -1) for t in (whole, part))
        near = self.tolerance * float(block.abs().max())
        starts = ((rows[: len(rows) - count + 1] - block[0]).abs().amax(1) <= near).nonzero().flatten().tolist()
        return next((i for i in starts if bool(((rows[i : i + count] - block).abs() <= near).all())), None)

    def _place(self, phase: str, first: Value | None, second: Value | None) -> Place:
        a, b = (None if v is None else v.given for v in (first, second))
        nodes = [None if v is None else v.node for v in (first, second)]
        how, more = _how(nodes[0], nodes[1], self)
        return _placed(phase, how, nodes, a, b, more)

    # -------------------------------------------------------------------------------------------------------- backward

    def backward(self) -> Place | None:
        """Returns the last step of the forward pass, which is the first of the backward pass, that sends otherwise."""
        for i, ours in enumerate(self.one.values):  # a leaf that nothing leads to on the other side
            if ours.node.leaf is not None and i not in self.ours and ours.got is not None:
                return self._sent(i, None)
        for j, i in sorted(self.theirs.items(), reverse=True):
            a, b = self.one.values[i].got, self.other.values[j].got
            if self.ours.get(i) == j and not self.are_alike(a, b) and (place := self._sent(i, j)) is not None:
                return place
        return None

    def _sent(self, i: int, j: int | None) -> Place | None:
        """Returns the place of a value whose gradient is unlike: the step that sends it, or sends nothing.

        Or the hook that changed it, where all that is sent is alike; `None` where there is none, but another order.
        """
        sent = self.one.sent.get(i, ()), self.other.sent.get(j, ()) if j is not None else ()
        mine, others = unmatched(*sent, lambda one, other: self.are_alike(one[1], other[1]))
        if not mine and not others:
            return None if j is None else self._hooked(i, j)
        first, second = (found[0][0] if found else None for found in (mine, others))
        how = "unsent" if second is None else "superfluous" if first is None else "sends"
        node = self.one.values[i].node
        place = _placed("backward", how, (first, second), _sum_of(mine), _sum_of(others), {"to": _value_name(node)})
        hooks = (run.modules.get(n.index) if n else None for run, n in ((self.one, first), (self.other, second)))
        steps = [s and _by_hook(s, hook) for s, hook in zip(place.steps, hooks, strict=True)]
        place = replace(place, steps=(steps[0], steps[1]))
        known = {(cut.reason, cut.operator) for cut in self.one.trace.cuts}
        cut = next((c for c in self.other.trace.cuts if (c.reason, c.operator) not in known), None)
        if how == "unsent" and cut is not None:
            step = Step(cut.operator.removeprefix("aten.").partition(".")[0], cut.source, cut.module)
            return replace(place, steps=(place.steps[0], step))
        return place

    def _hooked(self, i: int, j: int) -> Place | None:
        """Returns the place of a value whose gradient a hook changed, on one side or on both."""
        values = self.one.values[i], self.other.values[j]
        hooks = [run.hooks.get((v.node.index, v.number)) for run, v in zip((self.one, self.other), values, strict=True)]
        if not any(hooks):
            return None
        return hooked_place(hooks, [v.node for v in values], [v.got for v in values], _value_name(values[0].node))


def hooked_place(
    hooks: Sequence[Hooked | None], nodes: Sequence[Node | None], got: Sequence[Tensor | None], to: str
) -> Place:
    """Returns the place of a value `to` which the same is sent, and whose gradient hooks change."""
    place = _placed("backward", "hooked", nodes, got[0], got[1], {"to": to, "side": "AB"[hooks[0] is None]})
    steps = [_by_hook(step or Step(to, None, ""), hook) for hook, step in zip(hooks, place.steps, strict=True)]
    return replace(place, steps=(steps[0], steps[1]))


def _by_hook(step: Step, hook: Hooked | None) -> Step:
    """Returns a step with the name and the line of the hook that takes it, where one does."""
    if hook is None:
        return step
    return replace(step, operator=hook.hook or step.operator, source=hook.source or step.source)


def _placed(
    phase: str,
    how: str,
    nodes: Sequence[Node | None],
    a: Tensor | None,
    b: Tensor | None,
    detail: Mapping[str, Any],
) -> Place:
    element, numbers, relative = _apart(a, b)
    steps = tuple(
        None if n is None else Step(name_of(n), n.source, n.module, number)
        for n, number in zip(nodes, numbers, strict=True)
    )
    return Place(phase, how, steps, element, relative, detail)  # type: ignore[arg-type]


def _inside(node: Node) -> Iterator[Tensor]:
    """Yields what an operator makes on the way, where torch can write it out in others."""
    if node.operator is None:
        return
    with suppress(AttributeError):  # an operator that this torch does not have by its name
        yield from written_out(overload(node.operator), node.arguments)


def _value_name(node: Node) -> str:
    return node.leaf or name_of(node)


def _is_operator_alike(one: Value, other: Value) -> bool:
    alike = (one.node.operator, one.node.name, one.number) == (other.node.operator, other.node.name, other.number)
    return alike and _is_shape_alike(one, other)


def _is_shape_alike(one: Value, other: Value) -> bool:
    return one.given is not None and other.given is not None and one.given.shape == other.given.shape


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


def _unmet(run: Watched, known: Mapping[int, int]) -> list[int]:
    """Returns where the values stand that have no like and lead to the output by such alone, in order."""
    return leading(run.end, run.before, lambda i: i in known or run.values[i].node.leaf is not None)


def _leading(run: Watched, known: Mapping[int, int]) -> list[int]:
    """Returns the same without the step which joins several outputs in a vector, and is none of the user's."""
    end = run.values[run.end].node
    joint = end.source is None and end.operator == "aten.cat.default"
    return [i for i in _unmet(run, known) if not (joint and run.values[i].node is end)]


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
