"""The function's own slope at single elements: what the gradient should be there, with its error bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.mathematics.indices import unravelled
from gradexplain.verification.oracles.ladders import FINE_RESOLUTION, STEPS, USUAL_STEPS, Ladder, Slope, judge
from gradexplain.verification.oracles.measures import MARGIN, pair, scales, weighed
from gradexplain.verification.oracles.replays import Replay


@dataclass(frozen=True)
class Slopes:
    """Slopes of ⟨cotangent, f⟩ at `positions` of one flattened input, and the bound of each.

    `differs` says at which the gradient under test differs. Positions where f has no slope are left out.
    """

    positions: Tensor
    right: Tensor
    bound: Tensor
    differs: Tensor


def slopes(replay: Replay, name: str, claimed: Tensor, positions: Sequence[int]) -> Slopes | None:
    """Returns the slopes of a real input by differences with the whole ladder of steps; `None` where there are none.

    `claimed` is the gradient under test, whole.
    """
    with replay.running() as output:
        slopes = list(_along(replay, output, name, claimed, positions))
    kept = [(p, f) for p, f in slopes if f.verdict != "cannot say"]
    if not kept:
        return None
    x = replay.trace.inputs[name]
    units = scales(x).flatten()[torch.tensor([p for p, _ in kept], device=x.device)]
    numbers = torch.tensor([(f.claim + f.lacking, f.bound) for _, f in kept], dtype=torch.float64, device=x.device)
    return Slopes(
        torch.tensor([p for p, _ in kept], device=x.device),
        numbers[:, 0] / units,
        numbers[:, 1] / units,
        torch.tensor([f.verdict == "differs" for _, f in kept], device=x.device),
    )


def fits_kinks(replay: Replay, name: str, claimed: Tensor, directions: int = 4) -> bool:
    """Says whether f has kinks here that leave room for the gradient under test.

    At a kink an output y has two slopes along u, on the right r and on the left l, and any convention lies between. So
    ⟨G, u⟩ lies between Σ min(v r, v l) and Σ max(v r, v l) over all outputs; their sums alone, ⟨v, r⟩ and ⟨v, l⟩, say
    nothing, as kinks weighted with different signs cancel.
    """
    # r = (y(x + hu) − y) / h and l = (y − y(x − hu)) / h, an output y at a time. Where y is smooth r = l + O(h), so
    # that |v r − v l| is truncation and no kink: `slack` in `_has_room` is MARGIN · h of the slopes' size, and the room
    # of real kinks has to exceed it. Every direction u has to leave room: one that does not refutes the excuse.
    generator = torch.Generator().manual_seed(13)
    with replay.running() as output:
        try:
            return all(_has_room(replay, output, name, claimed, generator) for _ in range(directions))
        except RunError:  # outside of what the function accepts
            return False


def _has_room(
    replay: Replay,
    output: Callable[[Mapping[str, Tensor]], Tensor],
    name: str,
    claimed: Tensor,
    generator: torch.Generator,
) -> bool:
    x, y, v = replay.trace.inputs[name], replay.trace.value, replay.trace.cotangent
    u = (torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1).to(x) * scales(x)
    h = STEPS[len(STEPS) // 2]  # truncation is about h, noise about eps / h
    right, left = v * (output({name: x + h * u}) - y) / h, v * (y - output({name: x - h * u})) / h
    low, high = float(torch.minimum(right, left).sum()), float(torch.maximum(right, left).sum())
    slack = MARGIN * h * float(torch.maximum(right.abs(), left.abs()).sum())
    return high - low > slack and low - slack <= pair(claimed, u) <= high + slack


def _along(
    replay: Replay,
    output: Callable[[Mapping[str, Tensor]], Tensor],
    name: str,
    claimed: Tensor,
    positions: Sequence[int],
) -> Iterator[tuple[int, Slope]]:
    trace, x = replay.trace, replay.trace.inputs[name]
    sizes = scales(x)
    floor = 1.5 * replay.eps * weighed(trace.cotangent, trace.value)

    def slope(values: Tensor, h: float) -> float:
        try:
            return pair(trace.cotangent, output({name: values}) - trace.value) / h
        except RunError:  # outside of what the function accepts
            return math.nan

    def ladder(u: Tensor, place: tuple[int, ...], claim: float, steps: Sequence[float]) -> Ladder:
        ends = [(x + h * u, x - h * u, h) for h in steps]
        right = [slope(ahead, h) for ahead, _, h in ends]
        left = [-slope(behind, h) for _, behind, h in ends]
        # The claim is ⟨G, u_h⟩ with the step that was really made, as x + hu is rounded.
        moved = [claim * float((a - b)[place] / (2 * h * u[place])) for a, b, h in ends]
        return Ladder(steps, right, left, moved, floor, MARGIN * replay.eps * abs(claim))

    for position in positions:
        place = unravelled(position, x.shape)
        u = torch.zeros_like(x)
        u[place] = sizes[place]
        claim = float(claimed[place] * sizes[place])
        claim = claim if math.isfinite(claim) else 0.0
        finding = judge(ladder(u, place, claim, USUAL_STEPS))
        if finding.verdict != "agrees" or finding.bound > FINE_RESOLUTION * abs(claim):
            finding = judge(ladder(u, place, claim, STEPS))
        yield position, finding
