"""Batched gradients: several vector-Jacobian products at once, as `vmap` and `jacrev` ask for, against one by one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.computation import chosen_output
from gradexplain.recording.plain import differentiated
from gradexplain.verification.oracles.answers import Check, Unable
from gradexplain.verification.oracles.elements import RESOLUTION
from gradexplain.verification.oracles.measures import allowance, dense, largest, plain, unexplained
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay

ORACLE = "batched gradients"


def ask(question: Question) -> Iterator[Check]:
    """Compares the gradients for two cotangents computed at once with the same two computed alone."""
    replay = question.replay
    if isinstance(replay, Unable):
        yield from (Check(ORACLE, n, "cannot say", reason=replay.reason, data=replay.data) for n in question.names)
        return
    try:
        alone, batched = _both(replay)
    except RuntimeError as fault:
        data = {"message": str(fault).split("\n", 1)[0]}
        yield from (Check(ORACLE, n, "cannot say", reason="not_batched", data=data) for n in question.names)
        return
    for number, name in enumerate(question.names):
        yield _check(question, replay, name, alone[number], batched[number])


def _both(replay: Replay) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the gradients for two cotangents, by input: computed alone and stacked, and computed at once."""
    values = replay.computation.leaf_values()
    wanted = [values[n] for n in replay.computation.wrt]
    with torch.enable_grad(), replay.computation.run_for(values) as result:
        output = chosen_output(result, replay.computation.name)[0]
        axes = tuple(range(output.dim()))
        cotangents = torch.stack([replay.trace.cotangent, replay.trace.cotangent.flip(axes) * 0.75])
        alone = [differentiated(output, wanted, v, retain_graph=True) for v in cotangents]

        def at_once(cotangent: Tensor) -> tuple[Tensor, ...]:
            gradients = torch.autograd.grad(output, wanted, cotangent, retain_graph=True, allow_unused=True)
            return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(gradients, wanted, strict=True))

        batched = list(torch.func.vmap(at_once)(cotangents))
    parts = zip(zip(*alone, strict=True), wanted, strict=True)
    return [torch.stack([dense(g, x) for g in gradients]) for gradients, x in parts], batched


def _check(question: Question, replay: Replay, name: str, alone: Tensor, batched: Tensor) -> Check:
    difference, size = (batched - alone).abs(), alone.abs()
    bound = allowance(question.rounding(name) if bool((difference > 0).any()) else 0.0, size, replay.eps)
    beyond = unexplained(difference, 0.0, bound / replay.eps, replay.eps) & ~(difference <= bound)
    resolution = largest((bound * question.units[name]).flatten()) / question.scale(name)
    if not bool(beyond.any()):
        good = resolution <= RESOLUTION
        return Check(
            ORACLE, name, "agrees" if good else "cannot say", largest(difference.flatten()), largest(bound.flatten()),
            resolution, None if good else "coarse", {"resolution": resolution},
        )  # fmt: skip
    place = unravelled(int(beyond.flatten().int().argmax()), beyond.shape)
    data = {"seen": plain(batched[place]), "right": plain(alone[place]), "place": place[1:], "resolution": resolution}
    worst, most = largest(difference.flatten()), largest(bound.flatten())
    return Check(ORACLE, name, "differs", worst, most, resolution, "batched", data, place[1:])
