"""The steps of a run in a few numbers each, to be kept in a file; and where two runs part of which one is kept so.

Of a tensor is kept its digest, and what does not change with the layout: sums, norms and extremes. Two steps are alike
where these are, within the digits between the last one and the difference that is looked for, as in `places`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gradexplain.comparison.alignment import leading, paired, unmatched
from gradexplain.comparison.comparison import Place, Step
from gradexplain.comparison.places import cotangent_of, name_of, numbers_of, output_of, sums_of
from gradexplain.recording.trace import Node, Trace
from gradexplain.targets.provenance import tensor_digest
from gradexplain.targets.sources import Source


@dataclass(frozen=True)
class Numbers:
    """A tensor in a few numbers: each has the size that its rounding goes by."""

    digest: str
    count: int
    sums: tuple[tuple[float, float], ...]

    def is_like(self, other: Numbers | None, tolerance: float) -> bool:
        """Says whether another tensor may have the same numbers, in whatever layout."""
        if other is None or self.count != other.count:
            return False
        if self.digest == other.digest:
            return True
        pairs = zip(self.sums, other.sums, strict=False)
        return len(self.sums) == len(other.sums) and all(abs(x - y) <= tolerance * size for (x, size), (y, _) in pairs)


@dataclass(frozen=True)
class Sketch:
    """One step: what it is, what it gives, the gradient that it gets, and what it sends to the steps before it."""

    step: Step
    leaf: str | None
    given: Numbers | None
    got: Numbers | None
    sent: tuple[tuple[int, Numbers | None], ...]


@dataclass(frozen=True)
class Outline:
    """All steps of a run, in order; `output` is the index of the last."""

    steps: tuple[Sketch, ...]
    output: int


def outlined(trace: Trace) -> Outline:
    """Returns a run in outline."""
    return Outline(tuple(map(_sketch, trace.nodes)), trace.output[0])


def _sketch(node: Node) -> Sketch:
    sent = tuple((edge.producer, _numbers(edge.contribution)) for edge in node.edges)
    step = Step(name_of(node), node.source, node.module)
    return Sketch(step, node.leaf, _numbers(output_of(node)), _numbers(cotangent_of(node)), sent)


def _numbers(tensor: Tensor | None) -> Numbers | None:
    if tensor is None:
        return None
    numbers = numbers_of(tensor)
    spoilt = ~numbers.isfinite()
    sums = [(float(spoilt.sum()), 0.0), *(sums_of(numbers.masked_fill(spoilt, 0)) if tensor.numel() else ())]
    return Numbers(tensor_digest(tensor), tensor.numel(), tuple(sums))


# ------------------------------------------------------------------------------------------------------ where they part


def parted(one: Outline, other: Outline, names: Mapping[str, str], eps: float, difference: float) -> Place | None:
    """Returns the first place where two runs part: see `places.parting`."""
    tolerance = math.sqrt(eps * min(max(difference, eps), 1.0))

    def is_like(a: Sketch, b: Sketch) -> bool:
        if a.leaf is not None or b.leaf is not None:
            return a.leaf == names.get(b.leaf or "", b.leaf)
        return a.given is not None and a.given.is_like(b.given, tolerance)

    nearness = (lambda a, b: a.step.operator == b.step.operator, lambda *_: True)
    ours, theirs = paired(one.steps, other.steps, is_like, nearness)
    first, second = (next(iter(_leading(*found)), None) for found in ((one, ours), (other, theirs)))
    if first is not None or second is not None:
        how = "alone" if first is None or second is None else "result"
        if first is not None and second is not None and first.step.operator != second.step.operator:
            how = "operator"
        return Place("forward", how, (_step(first), _step(second)))
    pairs = {i: j for i, j in ours.items() if theirs.get(j) == i}
    return next(_sent(one, other, pairs, tolerance), None)


def _leading(outline: Outline, known: Mapping[int, int]) -> Sequence[Sketch]:
    """Returns the steps that have no like and lead to the output by such alone, in the order in which they ran."""
    steps = outline.steps
    found = leading(
        outline.output,
        lambda index: [producer for producer, _ in steps[index].sent],
        lambda index: index in known or steps[index].leaf is not None,
    )
    return [steps[index] for index in found]


def _sent(one: Outline, other: Outline, pairs: Mapping[int, int], tolerance: float) -> Iterator[Place]:
    """Yields the values, the last first, to which the runs send gradients that are unlike."""
    for i, j in sorted(pairs.items(), reverse=True):
        got, other_got = one.steps[i].got, other.steps[j].got
        if (got is None and other_got is None) or (got is not None and got.is_like(other_got, tolerance)):
            continue
        users = _users(one, i), _users(other, j)
        mine, others = unmatched(*users, lambda a, b: a[1].is_like(b[1], tolerance))
        if mine or others:
            first, second = (found[0][0] if found else None for found in (mine, others))
            how = "unsent" if second is None else "superfluous" if first is None else "sends"
            to = one.steps[i].leaf or one.steps[i].step.operator
            yield Place("backward", how, (_step(first), _step(second)), detail={"to": to})


def _users(outline: Outline, index: int) -> Iterator[tuple[Sketch, Numbers]]:
    for step in outline.steps:
        for producer, numbers in step.sent:
            if producer == index and numbers is not None:
                yield step, numbers


def _step(sketch: Sketch | None) -> Step | None:
    return None if sketch is None else sketch.step


# ------------------------------------------------------------------------------------------------------------ as data


def outline_record(outline: Outline) -> dict[str, Any]:
    """Returns an outline as plain data; `outline_from` reads it."""
    return {"output": outline.output, "steps": [_sketch_record(s) for s in outline.steps]}


def _sketch_record(sketch: Sketch) -> list[Any]:
    step, source = sketch.step, sketch.step.source
    place = None if source is None else [_below(source.file), source.line, source.code]
    sent = [[producer, _record(numbers)] for producer, numbers in sketch.sent]
    return [step.operator, step.module, place, sketch.leaf, _record(sketch.given), _record(sketch.got), sent]


def _below(file: str) -> str:
    """Returns a path as seen from here, where it is below: elsewhere, nothing else leads there."""
    path, here = Path(file), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else file


def _record(numbers: Numbers | None) -> list[Any] | None:
    return None if numbers is None else [numbers.digest, numbers.count, numbers.sums]


def outline_from(tree: Mapping[str, Any]) -> Outline:
    """Returns the outline of plain data; raises `TypeError`, `ValueError` or `KeyError` where it is none."""
    steps = tuple(map(_sketch_from, tree["steps"]))
    output = tree["output"]
    indices = [output, *(producer for step in steps for producer, _ in step.sent)]
    if not all(isinstance(i, int) and 0 <= i < len(steps) for i in indices):
        raise ValueError("a step that there is not")
    return Outline(steps, output)


def _sketch_from(row: Sequence[Any]) -> Sketch:
    operator, module, place, leaf, given, got, sent = row
    source = None if place is None else Source(str(place[0]), int(place[1]), str(place[2]))
    step = Step(str(operator), source, str(module))
    return Sketch(step, leaf, _from(given), _from(got), tuple((producer, _from(numbers)) for producer, numbers in sent))


def _from(row: Sequence[Any] | None) -> Numbers | None:
    if row is None:
        return None
    digest, count, sums = row
    return Numbers(str(digest), int(count), tuple((float(x), float(size)) for x, size in sums))
