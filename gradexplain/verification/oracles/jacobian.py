"""Every element: the whole Jacobian by finite differences, against torch's, one vector-Jacobian product an output.

Each element ∂yᵢ/∂xⱼ has an error bound of its own. Those that a short ladder does not explain are judged like any other
direction, with the whole ladder. Complex numbers count twice, by their real and imaginary parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradexplain.documents.progress import followed
from gradexplain.errors import RunError
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.computation import chosen_output
from gradexplain.recording.nodes import ordered
from gradexplain.recording.plain import left_by_backward
from gradexplain.verification.oracles.answers import Check, Unable
from gradexplain.verification.oracles.elements import RESOLUTION
from gradexplain.verification.oracles.ladders import STEPS, USUAL_STEPS, Ladder, Slope, extrapolated, judge
from gradexplain.verification.oracles.measures import MARGIN, scales
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay

ORACLE = "every element"
# Rows of the Jacobian that one batched backward pass computes.
BATCH_ROWS = 64

Output = Callable[[Mapping[str, Tensor]], Tensor]


def ask(question: Question) -> Iterator[Check]:
    """Compares every element of the Jacobian of the output by each input."""
    replay = question.replay
    if isinstance(replay, Unable):
        yield from (Check(ORACLE, n, "cannot say", reason=replay.reason, data=replay.data) for n in question.names)
        return
    torchs = _rows(replay)
    with replay.running() as output:
        checks = [_Columns(replay, output, name, torchs[name]).check() for name in question.names]
    yield from checks


# ------------------------------------------------------------------------------------------------- torch's Jacobian


def _rows(replay: Replay) -> dict[str, Tensor]:
    """Returns torch's Jacobian by each input: (elements of the output, elements of the input), in real numbers."""
    names, values = replay.computation.wrt, replay.computation.leaf_values()
    wanted = [values[n] for n in names]
    with torch.enable_grad(), replay.computation.run_for(values) as result:
        output = chosen_output(result, replay.computation.name)[0]
        batches = list(torch.split(_basis(output), BATCH_ROWS))
        products = [_products(output, wanted, batch) for batch in followed(batches, "rows")]
    return {n: torch.cat([_real(batch[i]) for batch in products]) for i, n in enumerate(names)}


def _basis(output: Tensor) -> Tensor:
    """Returns the unit cotangents of an output; a complex one has those of its imaginary parts as well."""
    unit = torch.eye(output.numel(), dtype=output.dtype, device=output.device)
    if output.is_complex():
        unit = torch.stack([unit, 1j * unit], 1).flatten(0, 1)
    return unit.reshape(-1, *output.shape)


def _products(output: Tensor, wanted: Sequence[Tensor], cotangents: Tensor) -> list[Tensor]:
    """Returns the gradients for a batch of cotangents: at once where every operator can, else one by one."""
    try:
        gradients = torch.autograd.grad(
            output, wanted, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except RuntimeError:
        nodes = ordered(output.grad_fn)
        singles = [left_by_backward(output, wanted, v, nodes, keep=True) for v in cotangents]
        gradients = tuple(_stacked(parts, x) for parts, x in zip(zip(*singles, strict=True), wanted, strict=True))
    return [_dense(g, x, len(cotangents)) for g, x in zip(gradients, wanted, strict=True)]


def _stacked(parts: Sequence[Tensor | None], x: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(x) if g is None else g.to_dense() for g in parts])


def _dense(gradient: Tensor | None, x: Tensor, count: int) -> Tensor:
    return x.new_zeros(count, *x.shape) if gradient is None else gradient


def _real(rows: Tensor) -> Tensor:
    rows = rows.detach().reshape(len(rows), -1)
    return torch.view_as_real(rows.resolve_conj()).flatten(1) if rows.is_complex() else rows


# ------------------------------------------------------------------------------------------------------ differences


@dataclass(frozen=True)
class _Wrong:
    """An element of the Jacobian that does not agree; `finding` is of a step of size `unit`."""

    row: int
    column: int
    unit: float
    finding: Slope


class _Columns:
    """The Jacobian by one input, column by column."""

    def __init__(self, replay: Replay, output: Output, name: str, torchs: Tensor) -> None:
        self.replay, self.output, self.name, self.torchs = replay, output, name, torchs
        self.x = replay.trace.inputs[name]
        self.size = scales(self.x).flatten()
        self.parts = 2 if self.x.is_complex() else 1
        self.value = _flat(replay.trace.value)

    def check(self) -> Check:
        """Gives the check of this input: its worst element, and those that differ."""
        if not self.torchs.numel():
            return Check(ORACLE, self.name, "agrees", 0.0, 0.0, 0.0)
        sizes = self.size.repeat_interleave(self.parts)
        scale = float((self.torchs.abs() * sizes).max()) or float(self.value.abs().max()) or 1.0
        worst = bound = coarsest = 0.0
        wrong: list[_Wrong] = []
        for column in followed(range(self.torchs.shape[1]), "columns"):
            apart, allowed = self.column(column)
            wrong += self.closer(column, ~(apart <= 4 * allowed))
            worst, bound = max(worst, float(apart.max())), max(bound, float(allowed.max()))
            coarsest = max(coarsest, float((allowed * sizes[column]).max()))
        return self.joined(wrong, worst, bound, coarsest / scale)

    def column(self, column: int) -> tuple[Tensor, Tensor]:
        """Returns by how much each element of a column differs, and its error bound."""
        right, left, made = self.ends(column, USUAL_STEPS)
        central = [(r - s) / (2 * h) for r, s, h in zip(right, left, made, strict=True)]
        best, other = reversed(extrapolated(central, 1)[0])
        noise = (1.5 * self.replay.eps * self.value.abs() + self.replay.jitter) / made[-1]
        products = MARGIN * self.replay.eps * self.torchs[:, column].abs()
        return (best - self.torchs[:, column]).abs(), 2 * noise + (best - other).abs() + products

    def ends(self, column: int, steps: Sequence[float]) -> tuple[list[Tensor], list[Tensor], list[float]]:
        """Returns the output at both ends of each step along one element, and the steps as they were really made."""
        right, left, made = [], [], []
        for h in steps:
            ahead, behind = self.moved(column, h), self.moved(column, -h)
            right.append(self.run(ahead))
            left.append(self.run(behind))
            made.append(float(_flat(ahead - behind)[column]) / 2)
        return right, left, made

    def moved(self, column: int, h: float) -> Tensor:
        position, part = divmod(column, self.parts)
        x = self.x.clone()
        x[unravelled(position, x.shape)] += h * float(self.size[position]) * (1.0j if part else 1.0)
        return x

    def run(self, x: Tensor) -> Tensor:
        try:
            return _flat(self.output({self.name: x}))
        except RunError:  # outside of what the function accepts
            return torch.full_like(self.value, math.nan)

    def closer(self, column: int, doubtful: Tensor) -> Iterator[_Wrong]:
        """Judges the elements of a column that a short ladder does not explain, with the whole one."""
        rows = doubtful.flatten().nonzero().flatten().tolist()
        if not rows:
            return
        right, left, made = self.ends(column, STEPS)
        unit = float(self.size[column // self.parts])  # slopes for a step of the element's own size
        for row in rows:
            y, seen = float(self.value[row]), float(self.torchs[row, column]) * unit
            ahead = [(float(r[row]) - y) / h * unit for r, h in zip(right, made, strict=True)]
            behind = [(y - float(s[row])) / h * unit for s, h in zip(left, made, strict=True)]
            floor = 1.5 * self.replay.eps * abs(y) + self.replay.jitter
            ladder = Ladder(STEPS, ahead, behind, [seen] * len(STEPS), floor, MARGIN * self.replay.eps * abs(seen))
            finding = judge(ladder)
            if finding.verdict != "agrees":
                yield _Wrong(row, column, unit, finding)

    def joined(self, wrong: Sequence[_Wrong], worst: float, bound: float, resolution: float) -> Check:
        """Makes one check of what all elements said."""
        differing = [w for w in wrong if w.finding.verdict == "differs"]
        data: dict[str, object] = {"resolution": resolution, "count": len(differing), "total": self.torchs.numel()}
        if not wrong:
            if resolution <= RESOLUTION:
                return Check(ORACLE, self.name, "agrees", worst, bound, resolution, None, data)
            return Check(ORACLE, self.name, "cannot say", worst, bound, resolution, "coarse", data)
        first = (differing or wrong)[0]
        slope, place = first.finding, unravelled(first.column // self.parts, self.x.shape)
        data |= {"output": self.row_place(first.row), "place": place, "noise": slope.noise}
        data |= {"seen": slope.claim / first.unit, "right": (slope.claim + slope.lacking) / first.unit + 0.0}
        data |= {"below": slope.left / first.unit + 0.0, "above": slope.right / first.unit + 0.0}
        reason = "jacobian" if differing else slope.reason
        apart, allowed = abs(slope.lacking) / first.unit, slope.bound / first.unit
        return Check(ORACLE, self.name, slope.verdict, apart, allowed, resolution, reason, data, place)

    def row_place(self, row: int) -> tuple[int, ...]:
        value = self.replay.trace.value
        return unravelled(row // (2 if value.is_complex() else 1), value.shape)


def _flat(value: Tensor) -> Tensor:
    """Returns a tensor as a vector of real numbers."""
    return torch.view_as_real(value.resolve_conj()).flatten() if value.is_complex() else value.flatten()
