"""The one question that every oracle is asked, and what all may share: a replay in float64, and what is measured of it.

The question is the gradient of ⟨cotangent, output⟩. It comes apart in two. *Formula*: is the gradient that torch
computes in float64 the derivative? An oracle answers that, with its own error bound. *Number*: is the gradient in the
type the user runs in as near to it as rounding explains? That is measured once for all oracles: see `own_type`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from gradexplain.errors import RunError, message_of
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.branches import (
    hermitian_steps,
    normalised_steps,
    padding_steps,
    quantile_steps,
    selecting_steps,
    symmetric_steps,
    triangular_steps,
    with_branches,
)
from gradexplain.recording.computation import Computation
from gradexplain.recording.events import Event
from gradexplain.recording.frozen import Bent, Frozen, as_computation, frozen
from gradexplain.recording.plain import differentiated
from gradexplain.recording.trace import Trace
from gradexplain.recording.tracing import recorded
from gradexplain.rules.application import wide
from gradexplain.rules.registry import rule_of
from gradexplain.verification.oracles.answers import Check, Unable
from gradexplain.verification.oracles.elements import RESOLUTION, Part, output_parts
from gradexplain.verification.oracles.measures import (
    LARGE_ELEMENTS,
    MARGIN,
    TIMES_HUGE,
    dense,
    epsilon,
    largest,
    plain,
    scales,
    weighed,
)
from gradexplain.verification.oracles.own_type import (
    NUMBER_DIGITS,
    NUMBER_MARGIN,
    NUMBER_RUNS,
    Judged,
    Number,
    number_of,
)
from gradexplain.verification.oracles.replays import NEARBY, Replay, generic_direction, replayed, retraced
from gradexplain.verification.oracles.rounding import jittered, roughness

# The seconds that one oracle may take in running the function; the size that counts as large grows in proportion.
EFFORT = 2.0
# Runs with random rounding where three of them leave a difference unexplained: each may leave an element as it was.
MANY_RUNS = 16
# An operator that cancels inside leaves of zero some hundred last digits of what it summed, and no trial shows them.
CANCELLATION_EPS = 1e3


@dataclass(frozen=True)
class Question:
    """What an oracle is given. `effort` is the time in seconds that one oracle may take in running the function.

    `coarsest` is the rounding error of the type that the user runs in, where the trace does not show it. Where it is
    not `stoppable`, nothing may be held constant: a path that ends is lost.
    """

    trace: Trace
    computation: Computation | None
    by_hand: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    effort: float = EFFORT
    coarsest: float = 0.0
    stoppable: bool = True

    @property
    def precision(self) -> float:
        """The relative error below which a number is as good as the user's own type can hold it; 0 in float64.

        Half of float32's last digit, for shorter types as well: their operators compute in float32.
        """
        own = epsilon(self.trace) if self.judged is not self.trace else 0.0
        return min(max(own, self.coarsest), torch.finfo(torch.float32).eps) / 2

    @property
    def names(self) -> Sequence[str]:
        """The inputs whose gradient is asked for."""
        return tuple(self.trace.gradients)

    @property
    def elements(self) -> int:
        """How many numbers the inputs hold."""
        return sum(t.numel() for t in self.trace.inputs.values())

    @property
    def large(self) -> bool:
        """Whether a run in float64 is too dear for the effort."""
        return self.elements > LARGE_ELEMENTS * self.effort / EFFORT

    @property
    def huge(self) -> bool:
        """Whether even each operation by itself is too dear for the effort."""
        return self.elements > TIMES_HUGE * LARGE_ELEMENTS * self.effort / EFFORT

    @cached_property
    def replay(self) -> Replay | Unable:
        """The computation in float64, or why there is none."""
        if self.computation is None:
            return Unable("live")
        if self.large:
            return Unable("too_costly", {"elements": self.elements})
        return replayed(self.computation, self.trace)

    @cached_property
    def recorded(self) -> Frozen | Unable:
        """The function that torch differentiates, in float64; or why there is none."""
        return _recorded(self.replay) if isinstance(self.replay, Replay) else self.replay

    @cached_property
    def nearby(self) -> Question | None:
        """The same question a little beside the point, where no kink is met by design; `None` if there is none."""
        if isinstance(self.replay, Unable):
            return None
        computation, given = self.replay.computation, self.replay.trace
        moved = {n: given.inputs[n] + NEARBY * u for n, u in generic_direction(given, computation.wrt).items()}
        computation = replace(computation, inputs={**computation.inputs, **moved})
        found = retraced(computation, given)
        return None if isinstance(found, Unable) else replace(self, trace=found, computation=computation)

    @cached_property
    def definitions(self) -> Mapping[str, Mapping[int, Bent]]:
        """The recorded operators whose gradient is by definition another one, by the definition: see `branches`."""
        function = self.recorded
        if isinstance(function, Unable):
            return {}
        found = {
            "symmetric": symmetric_steps(function, _reads_symmetric),
            "hermitian": hermitian_steps(function),
            "triangular": triangular_steps(function),
            "padding": padding_steps(function),
            "normalised": normalised_steps(function),
            "selecting": selecting_steps(function),
            "quantile": quantile_steps(function),
        }
        return {name: bent for name, steps in found.items() if (bent := dict(steps))}

    @property
    def departures(self) -> Mapping[int, Bent]:
        """All of these operators."""
        return {number: bent for steps in self.definitions.values() for number, bent in steps.items()}

    @property
    def departing(self) -> Mapping[str, object]:
        """The names of these operators and of the definitions, for a sentence."""
        if isinstance(self.recorded, Unable):
            return {}
        origins = (self.recorded.steps[number].origin for number in self.departures)
        names = (str(o.operator) if isinstance(o, Event) else o.function.__name__ for o in origins)
        return {"operator": ", ".join(dict.fromkeys(names)), "definitions": tuple(self.definitions)}

    @cached_property
    def frozen(self) -> Replay | Unable | None:
        """The function that torch differentiates as a replay, why it cannot be had, `None` where it is the replay."""
        if isinstance(self.replay, Unable) or isinstance(self.recorded, Unable):
            return self.replay if isinstance(self.replay, Unable) else self.recorded  # type: ignore[return-value]
        unstopped = not self.recorded.entangled and not self.recorded.stopped(self.replay.trace.inputs)
        if not self.departures and not self.recorded.exits and unstopped:
            return None
        function = replace(self.recorded, bent=self.departures)
        return replace(self.replay, computation=as_computation(self.replay.computation, function))

    @cached_property
    def branched(self) -> Replay | Unable:
        """The function that torch differentiates, on torch's own branch at kinks, or why it cannot be had."""
        if isinstance(self.replay, Unable):
            return self.replay
        return (
            self.recorded
            if isinstance(self.recorded, Unable)
            else _branched(self.replay, self.recorded, self.departures)
        )

    @cached_property
    def parts(self) -> Sequence[Part]:
        """The outputs in groups of one size, each with what its cotangent makes of the gradients."""
        whole = Part(self.judged.cotangent, {name: self.gradient(name) for name in self.names})
        return _parts(self.replay, whole) if isinstance(self.replay, Replay) else [whole]

    def gradients_at(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """Returns the gradients of some inputs at other values of them, `None` where the function has none there."""
        assert isinstance(self.replay, Replay)
        computation, given = self.replay.computation, self.replay.trace
        try:
            with torch.enable_grad():
                leaves = computation.leaf_values() | {
                    n: v.detach().clone().requires_grad_(n in computation.wrt) for n, v in values.items()
                }
                output = computation.output(leaves)
            found = differentiated(output, [leaves[n] for n in values], given.cotangent.clone())
        except Exception:  # the user's own code
            return None
        return {n: dense(g, leaves[n].detach()) for n, g in zip(values, found, strict=True)}

    @property
    def judged(self) -> Trace:
        """The trace whose gradient the oracles judge: that of the replay, or the user's own where there is none."""
        return self.replay.trace if isinstance(self.replay, Replay) else self.trace

    @cached_property
    def units(self) -> Mapping[str, Tensor]:
        """The size of a natural step for each element of each input: see `scales`."""
        return {name: scales(self.judged.inputs[name]) for name in self.names}

    def gradient(self, name: str) -> Tensor:
        """Returns the gradient that is judged, dense, and zero where the output does not depend on the input."""
        return dense(self.judged.gradients[name], self.judged.inputs[name])

    @cached_property
    def changes(self) -> Mapping[str, Tensor]:
        """What rounding makes of each element of the judged gradient, where that can be measured at this size."""
        return self._changes()

    @cached_property
    def changes_of_many(self) -> Mapping[str, Tensor]:
        """The same from more trials, for an element that a few of them may have missed."""
        return self._changes(MANY_RUNS)

    def _changes(self, *runs: int) -> Mapping[str, Tensor]:
        if not isinstance(self.replay, Replay):
            return {}
        try:
            return jittered(self.replay, *runs)
        except Exception:  # an operator, or the function, refuses a number next to the one that it was given
            return {}

    @cached_property
    def roughness(self) -> Tensor:
        """What rounding inside the function makes of each output, zeros where that cannot be measured."""
        assert isinstance(self.replay, Replay)
        try:
            return roughness(self.replay)
        except Exception:  # as for `changes`
            return torch.zeros_like(self.replay.trace.value)

    def rounding(self, name: str, *, of_many: bool = False) -> Tensor:
        """Returns `changes` for one input, zeros where it could not be measured."""
        x, changes = self.judged.inputs[name], self.changes_of_many if of_many else self.changes
        return changes.get(name, torch.zeros_like(x, dtype=self.units[name].dtype))

    @cached_property
    def value(self) -> float:
        """The size of the output, as the cotangent weighs it."""
        return weighed(self.judged.cotangent, self.judged.value)

    def below(self, name: str, difference: Tensor, eps: float) -> Tensor:
        """Returns where a difference makes less than the last digits of the output, or of the largest part of it."""
        return difference * self.units[name] <= self.slight(name, eps)

    def slight(self, name: str, eps: float) -> float:
        """Returns what can be made of the output by rounding somewhere on the way, where no number shows it."""
        if self.is_slight(self.effect(name)):
            return CANCELLATION_EPS * eps * self.value
        return MARGIN / 2 * eps * max(self.scale(name), self.value)

    def is_slight(self, effect: float) -> bool:
        """Says whether a gradient as a whole makes no more than what rounding inside an operator can leave of zero."""
        return effect <= CANCELLATION_EPS * epsilon(self.judged) * self.value

    def effect(self, name: str) -> float:
        """Returns what a relative change of the input's own size makes of the output, by the gradient."""
        return largest((self.gradient(name).abs() * self.units[name]).nan_to_num(0.0, 0.0, 0.0))

    @cached_property
    def sizes(self) -> Mapping[str, float]:
        """The size of each gradient, in what a relative change of the input's size makes of the output.

        A gradient that is zero, or nothing but rounding, is measured by the output's own size.
        """
        return {name: self._scale(name) for name in self.names}

    def scale(self, name: str) -> float:
        """Returns one of `sizes`."""
        return self.sizes[name]

    def _scale(self, name: str) -> float:
        own, value = self.effect(name), self.value or 1.0
        if own > 1e-8 * value:  # far above what rounding of the output could make
            return own
        if own == 0.0:
            return value
        # Zero but for rounding is a claim about the last digits of the output: it wants a bound of some of them.
        digits = 1e5 * epsilon(self.judged) / RESOLUTION
        return min(digits, 1.0) * value if self.is_slight(own) or self._is_rounding(name) else own

    def _is_rounding(self, name: str) -> bool:
        """Says whether a gradient is no larger than what rounding makes of it."""
        changes = self.rounding(name)
        return bool(
            (self.gradient(name).abs() <= MARGIN * changes.clamp_min(float(changes.square().mean().sqrt()))).all()
        )

    def blur(self, name: str) -> str:
        """Returns why a method resolves the gradient too coarsely: its own error, or the gradient's own rounding."""
        effect = MARGIN * largest(self.rounding(name) * self.units[name])
        return "coarse" if effect <= RESOLUTION * self.scale(name) else "cancelled"

    @cached_property
    def numbers(self) -> Mapping[str, Number]:
        """The gradients in the user's own type, where that is not the type that is judged."""
        if self.judged is self.trace or not isinstance(self.replay, Replay) or self.computation is None:
            return {}
        return {name: self._number(name) for name in self.names}

    def _number(self, name: str) -> Number:
        judged = Judged(self.gradient(name), lambda: self.rounding(name), self.units[name], self.scale(name))
        number = number_of(self.trace, name, judged, lambda: self.spread[name])
        if number.problem is not None and number.problem.reason == "number" and self.other is not None:
            return replace(number, problem=Unable("another_function", {**number.problem.data, **self.other}))
        return number

    @cached_property
    def other(self) -> Mapping[str, float | complex] | None:
        """The values in the user's type and in float64, where rounding does not explain that they differ: its numbers
        depend on the type, and in float64 the function is another one.
        """
        assert self.computation is not None
        own, right = wide(self.trace.value), wide(self.judged.value)
        allowed = NUMBER_DIGITS * epsilon(self.trace) * right.abs() + torch.finfo(self.trace.value.dtype).tiny
        if own.shape != right.shape or bool(((own - right).abs() <= allowed).all()):
            return None
        try:
            allowed = allowed + NUMBER_MARGIN * roughness(Replay(self.computation, self.trace, 0.0), NUMBER_RUNS)
        except Exception:  # as for `changes`
            return None
        beyond = (own - right).abs() - allowed
        if not bool((beyond > 0).any()):
            return None
        place = unravelled(int(beyond.nan_to_num(torch.inf).argmax()), beyond.shape)
        return {"value": plain(own[place]), "wide": plain(right[place])}

    @cached_property
    def spread(self) -> Mapping[str, Tensor]:
        """How far each gradient spreads in the user's own type, when every operator rounds at random."""
        assert self.computation is not None
        return jittered(Replay(self.computation, self.trace, 0.0), NUMBER_RUNS)


Oracle = Callable[[Question], Iterable[Check]]


# ------------------------------------------------------------------------------------- what torch differentiates


def _recorded(replay: Replay) -> Frozen | Unable:
    try:
        with recorded(replay.computation, replay.trace.cotangent, again=True, backwards=False) as run:
            function = frozen(run, replay.computation)
        again = function.replayed(replay.trace.inputs)
    except RunError as fault:
        if fault.key == "replay_unseen_memory":
            return Unable("replay_differs")
        return Unable("replay_failed", {"message": message_of(fault)})
    except Exception as fault:  # the user's own code
        return Unable("replay_failed", {"message": message_of(fault)})
    apart, value = (again - replay.trace.value).abs(), replay.trace.value
    if again.shape != value.shape or not bool((apart <= MARGIN * replay.eps * largest(value.abs())).all()):
        return Unable("replay_differs")
    return function


def _branched(replay: Replay, function: Frozen, departures: Mapping[int, Bent]) -> Replay | Unable:
    computation, given = replay.computation, replay.trace
    try:
        whole = replace(function, bent=departures)
        whole = with_branches(whole, given.inputs, generic_direction(given, computation.wrt))
    except Exception as fault:  # the user's own code, at a number next to the one that it was given
        return Unable("replay_failed", {"message": message_of(fault)})
    return replace(replay, computation=as_computation(computation, whole))


# torch.cholesky has an operator of its own before torch 2.15.
_TWINS = {"aten.cholesky.default": "aten.linalg_cholesky_ex.default"}


def _reads_symmetric(operator: object) -> bool:
    """Says whether an operator reads its input as a symmetric matrix, whose gradient is that of symmetric changes."""
    rule = rule_of(_TWINS.get(str(operator), str(operator)))
    return rule is not None and bool(rule.symmetric)


def _parts(replay: Replay, whole: Part) -> Sequence[Part]:
    """Returns the parts, or the whole alone where the backward pass does not give their sum."""
    masks = output_parts(replay.trace.value)
    if len(masks) == 1:
        return [whole]
    computation = replay.computation
    try:
        with torch.enable_grad():
            values = computation.leaf_values()
            output = computation.output(values)
        wanted = [values[name] for name in computation.wrt]
        parts = []
        for mask in masks:
            cotangent = torch.where(mask, whole.cotangent, 0.0)
            found = differentiated(output, wanted, cotangent.clone(), retain_graph=True)
            named = zip(computation.wrt, found, wanted, strict=True)
            parts.append(Part(cotangent, {n: dense(g, x.detach()) for n, g, x in named}))
    except Exception:  # the user's own code: a backward that runs once, for one
        return [whole]
    for name in whole.gradients:
        terms = [part.gradients[name] for part in parts]
        size = torch.stack([t.abs() for t in terms]).sum(0)
        if not bool(((torch.stack(terms).sum(0) - whole.gradients[name]).abs() <= MARGIN * replay.eps * size).all()):
            return [whole]
    return parts
