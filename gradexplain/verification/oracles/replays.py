"""A computation run again in float64: the one run that finite differences, forward mode and formulas by hand share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradexplain.errors import message_of
from gradexplain.recording.computation import Computation, chosen_output, with_dtype
from gradexplain.recording.trace import Trace, is_custom
from gradexplain.recording.tracing import generic, trace
from gradexplain.rules.application import wide
from gradexplain.verification.oracles.answers import Unable
from gradexplain.verification.oracles.measures import MARGIN, epsilon, first_not_finite, largest, scales, weighed
from gradexplain.verification.oracles.narrowing import narrowing
from gradexplain.verification.oracles.promotion import LOW, promoting


@dataclass(frozen=True)
class Replay:
    """A computation that has been run again in float64, with one result but for rounding.

    `jitter` is by how much ⟨cotangent, output⟩ differed from run to run: a library may add in another order each time.
    `narrowed` names the operators that torch has no kernel for in float64, and ran in a shorter type; or the custom
    Functions that refuse it, so that all ran in its own.
    """

    computation: Computation
    trace: Trace
    seconds: float
    jitter: float = 0.0
    narrowed: tuple[str, ...] = ()

    @property
    def dtype(self) -> str:
        """The type that it ran in."""
        return str(self.trace.value.dtype).removeprefix("torch.")

    @property
    def eps(self) -> float:
        """The relative rounding error of the replay's type."""
        return epsilon(self.trace)

    @contextmanager
    def running(self) -> Iterator[Callable[[Mapping[str, Tensor]], Tensor]]:
        """Yields a function that runs the computation with some of its inputs replaced and returns its output."""
        own = {n: v.detach() for n, v in self.computation.inputs.items() if isinstance(v, Tensor)}
        wanted = frozenset(self.computation.wrt)

        def output(values: Mapping[str, Tensor]) -> Tensor:
            given = {n: v.detach().clone().requires_grad_(n in wanted) for n, v in {**own, **values}.items()}
            with torch.enable_grad():  # the output that is explained may be chosen by `requires_grad`
                return chosen_output(run(given), self.computation.name)[0].detach()

        with self.computation.running() as run:
            yield output


def _low(trace: Trace) -> bool:
    tensors = [trace.value, *trace.inputs.values()]
    return any(t.dtype in LOW for t in tensors)


def replayed(computation: Computation, own: Trace) -> Replay | Unable:
    """Returns the replay in float64, with casts to shorter types and captured numbers of such widened as well.

    Where it does not run so, operators that refuse float64 run in a shorter type; where custom Functions do, all does.
    """
    base = replace(with_dtype(computation, torch.float64), own={}) if _low(own) else computation
    narrowed = set[str]()
    widened, narrow = in_float64(base, own.value.dtype, narrowed)
    plain = own if base is computation else retraced(base, own)
    if isinstance(plain, Trace) and _alike(base, widened, plain):
        return _measured(base, plain)
    failed = plain
    for candidate in (widened, narrow):
        found = retraced(candidate, own)
        if isinstance(found, Trace):
            replay = _measured(candidate, found)
            return replace(replay, narrowed=tuple(sorted(narrowed))) if isinstance(replay, Replay) else replay
        failed = failed if isinstance(failed, Trace) else found
    if isinstance(failed, Unable) and own.value.dtype == torch.float32:
        replay = _measured(computation, own)
        kernels = tuple(sorted({node.name.removesuffix("Backward") for node in own.nodes if is_custom(node)}))
        return replace(replay, narrowed=kernels) if isinstance(replay, Replay) and kernels else failed
    return _measured(base, failed) if isinstance(failed, Trace) else failed


def in_float64(
    computation: Computation,
    own: torch.dtype,
    narrowed: set[str] | None = None,
    constants: list[Tensor] | None = None,
) -> tuple[Computation, Computation]:
    """Returns the computation with everything in float64, and so with what refuses that in a shorter type.

    What is drawn is drawn in the `own` type. The names of what refuses are added to `narrowed`, and what was made in a
    shorter type to `constants`. Hooks are no part of the formula.
    """
    widened = replace(computation, call=promoting(computation.call, own, constants), own={})
    return widened, replace(widened, call=narrowing(widened.call, set() if narrowed is None else narrowed))


def retraced(computation: Computation, own: Trace) -> Trace | Unable:
    """Returns the trace of a computation like the one that was traced, in float64."""
    try:
        found = trace(computation, cotangent=wide(own.cotangent), plain=own.plain)
    except Exception as fault:  # the user's function, or torch's, is not made for these types
        return Unable("replay_failed", {"message": message_of(fault)})
    if found.value.shape != own.value.shape or _low(found):
        return Unable("replay_failed", {"message": "–"})
    return found


# Near the point, by no power of 2: what is copied in a shorter type shows there the digits that it lacks.
NEARBY = 1e-3


def _alike(base: Computation, widened: Computation, trace: Trace) -> bool:
    """Says whether nothing is in a shorter type: widened, the function is the same near the point."""
    direction = generic_direction(trace, base.wrt)
    moved = {name: trace.inputs[name] + NEARBY * u for name, u in direction.items()}
    found = []
    for computation in (base, widened):
        for values in (moved, {}):  # the second, where a step leaves what the function accepts
            try:
                with Replay(computation, trace, 0.0).running() as output:
                    found.append(output(values))
                break
            except Exception:  # the user's own code
                continue
    if len(found) < 2 or found[0].shape != found[1].shape:
        return len(found) < 2
    eps = torch.finfo(torch.float64).eps
    apart, size = (found[0] - found[1]).abs(), largest(found[0].abs())
    return not bool((apart > MARGIN * eps * size).any())


def _measured(computation: Computation, trace: Trace) -> Replay | Unable:
    """Returns the replay with the time of a run, and how far two runs are apart."""
    replay = Replay(computation, trace, 0.0)
    if not bool(torch.isfinite(trace.value).all()):
        return Unable("not_finite", {"value": first_not_finite(trace.value)})
    try:
        with replay.running() as output:
            again, seconds = _timed(output)
    except Exception as fault:
        return Unable("replay_failed", {"message": message_of(fault)})
    if again.shape != trace.value.shape:
        return Unable("not_deterministic", {"amplitude": math.inf})
    apart = again - trace.value
    if not bool((apart.abs() <= MARGIN * replay.eps * largest(trace.value.abs())).all()):
        return Unable("not_deterministic", {"amplitude": largest(apart.abs())})
    return replace(replay, seconds=seconds, jitter=weighed(trace.cotangent, apart))


def _timed(output: Callable[[Mapping[str, Tensor]], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    return output({}), time.perf_counter() - start


def generic_direction(given: Trace, names: Sequence[str]) -> Mapping[str, Tensor]:
    """Returns a direction in which no two elements move alike: ±[½, 1] of their own size."""
    directions = {}
    for name in names:
        x = given.inputs[name]
        size = generic(torch.zeros(x.shape, dtype=torch.float64)).to(x.device)
        directions[name] = (size * scales(x)).to(x.dtype)
    return directions
