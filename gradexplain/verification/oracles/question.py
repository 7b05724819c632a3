"""The one question that every oracle is asked, the answer it gives, and what all may share: a replay in float64.

The question is the gradient of ⟨cotangent, output⟩. It comes apart in two. *Formula*: is the gradient that torch
computes in float64 the derivative? An oracle answers that, with its own error bound. *Number*: is the gradient in the
type the user runs in as near to it as rounding explains? That is measured here, once for all oracles.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from gradexplain.errors import RunError, message_of
from gradexplain.recording.branches import padding_steps, symmetric_steps, with_branches
from gradexplain.recording.computation import Computation, chosen_output, differentiable, with_dtype
from gradexplain.recording.events import tensors_in
from gradexplain.recording.frozen import Bent, Frozen, as_computation, frozen
from gradexplain.recording.nodes import ordered
from gradexplain.recording.plain import differentiated, left_by_backward, reaches_back
from gradexplain.recording.trace import Trace
from gradexplain.recording.tracing import generic, record, trace
from gradexplain.rules.registry import rule_of
from gradexplain.targets.sources import Source
from gradexplain.verification.oracles.elements import RESOLUTION, Part, output_parts
from gradexplain.verification.oracles.narrowing import narrowing
from gradexplain.versions.internals import internals, schema_of, sequence_number

Verdict = Literal["agrees", "differs", "cannot say"]

# One evaluation in float64 of a larger problem costs seconds; `effort` raises it in proportion.
LARGE_ELEMENTS = 5_000_000
EFFORT = 2.0
# Rounding errors add up like a random walk; a measured change stands for their size, and this is our margin over it.
MARGIN = 32
# An operator that cancels inside leaves of zero some hundred last digits of what it summed, and no trial shows them.
CANCELLATION_EPS = 1e3


@dataclass(frozen=True)
class Stop:
    """A place where part of the slope of an input ends: the share of the larger of both slopes, and these slopes.

    `whole` is the slope of the function as it was written, `left` as torch differentiates it (norms over the directions
    that were tried). Without `code`, the path was lost where nobody looked.
    """

    input: str
    share: float
    source: Source | None
    code: str
    whole: float
    left: float

    @property
    def seen(self) -> bool:
        """Whether the stop was seen, so that it may be meant."""
        return bool(self.code)


@dataclass(frozen=True)
class Check:
    """One oracle's answer for one input.

    `worst` is the largest difference and `bound` what the error bounds explain of it; `resolution` is the bound
    relative to the gradient. `reason` is the key of a sentence in `verdicts.toml`, whose numbers are in `data`; `place`
    is the element with the worst difference. `bounds` says of each element what error, relative to its own gradient,
    would have been seen (infinite: none); an oracle without it saw none. `stops` are the places where paths end that
    the function has and the gradient has not. `number` is what rounding may hide in the user's own type, if that is
    another than the one that was judged.
    """

    oracle: str
    input: str
    verdict: Verdict
    worst: float | None = None
    bound: float | None = None
    resolution: float | None = None
    reason: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    place: tuple[int, ...] | None = None
    bounds: Tensor | None = field(default=None, compare=False, repr=False)
    stops: tuple[Stop, ...] = ()
    number: float | None = None


@dataclass(frozen=True)
class Unable:
    """Why something cannot be had: the key of a sentence and its data."""

    reason: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Replay:
    """A computation that has been run again in float64, with one result but for rounding.

    `jitter` is by how much ⟨cotangent, output⟩ differed from run to run: a library may add in another order each time.
    `narrowed` names the operators that torch has no kernel for in float64: they ran in a shorter type.
    """

    computation: Computation
    trace: Trace
    seconds: float
    jitter: float = 0.0
    narrowed: tuple[str, ...] = ()

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
            fixed = {n: v.clone() for n, v in own.items() if n not in values}
            given = {n: v.detach().requires_grad_(n in wanted) for n, v in {**fixed, **values}.items()}
            with torch.enable_grad():  # the output that is explained may be chosen by `requires_grad`
                return chosen_output(run(given), self.computation.name)[0].detach()

        with self.computation.running() as run:
            yield output


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

    @cached_property
    def replay(self) -> Replay | Unable:
        """The computation in float64, or why there is none."""
        if self.computation is None:
            return Unable("live")
        if self.large:
            return Unable("too_costly", {"elements": self.elements})
        return _replay(self.computation, self.trace)

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
        found = _traced(computation, given)
        return None if isinstance(found, Unable) else replace(self, trace=found, computation=computation)

    @cached_property
    def departures(self) -> Mapping[int, Bent]:
        """The recorded operators whose gradient is not that of their function, by definition: symmetric, padded."""
        if isinstance(self.recorded, Unable):
            return {}
        return dict([*symmetric_steps(self.recorded, _reads_symmetric), *padding_steps(self.recorded)])

    @cached_property
    def frozen(self) -> Replay | Unable | None:
        """The function that torch differentiates as a replay, why it cannot be had, `None` where it is the replay."""
        if isinstance(self.replay, Unable) or isinstance(self.recorded, Unable):
            return self.replay if isinstance(self.replay, Unable) else self.recorded  # type: ignore[return-value]
        if not self.departures and not self.recorded.exits and not self.recorded.stopped(self.replay.trace.inputs):
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
        """Returns the gradients at other values of the inputs, `None` where the function has none there."""
        assert isinstance(self.replay, Replay)
        computation, given = self.replay.computation, self.replay.trace
        try:
            with torch.enable_grad():
                leaves = computation.leaf_values() | {
                    n: v.detach().clone().requires_grad_(n in computation.wrt) for n, v in values.items()
                }
                output = computation.output(leaves)
            found = differentiated(output, [leaves[n] for n in computation.wrt], given.cotangent.clone())
        except Exception:  # the user's own code
            return None
        return {n: dense(g, leaves[n].detach()) for n, g in zip(computation.wrt, found, strict=True)}

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
        if not isinstance(self.replay, Replay):
            return {}
        try:
            return jittered(self.replay)
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

    def rounding(self, name: str) -> Tensor:
        """Returns `changes` for one input, zeros where it could not be measured."""
        x = self.judged.inputs[name]
        return self.changes.get(name, torch.zeros_like(x, dtype=self.units[name].dtype))

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
        own = Replay(self.computation, self.trace, 0.0)
        return {name: _number(self, own, name) for name in self.names}

    @cached_property
    def spread(self) -> Mapping[str, Tensor]:
        """How far each gradient spreads in the user's own type, when every operator rounds at random."""
        assert self.computation is not None
        return jittered(Replay(self.computation, self.trace, 0.0), NUMBER_RUNS)


Oracle = Callable[[Question], Iterable[Check]]


# ------------------------------------------------------------------------------------------------------- replaying


def _low(trace: Trace) -> bool:
    tensors = [trace.value, *trace.inputs.values()]
    return any(t.dtype in _LOW for t in tensors)


_LOW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)


def _replay(computation: Computation, own: Trace) -> Replay | Unable:
    """Returns the replay in float64, with casts to shorter types and captured numbers of such widened as well.

    Where it does not run so, what refuses float64 runs in a shorter type.
    """
    base = replace(with_dtype(computation, torch.float64), own={}) if _low(own) else computation
    widened = replace(base, call=_promoting(base.call), own={})  # without hooks: they are no part of the formula
    plain = own if base is computation else _traced(base, own)
    if isinstance(plain, Trace) and _alike(base, widened, plain):
        return _measured(base, plain)
    narrowed, failed = set[str](), plain
    narrow = replace(widened, call=narrowing(widened.call, narrowed))
    for candidate in (widened, narrow):
        found = _traced(candidate, own)
        if isinstance(found, Trace):
            replay = _measured(candidate, found)
            return replace(replay, narrowed=tuple(sorted(narrowed))) if isinstance(replay, Replay) else replay
        failed = failed if isinstance(failed, Trace) else found
    return _measured(base, failed) if isinstance(failed, Trace) else failed


def _traced(computation: Computation, own: Trace) -> Trace | Unable:
    """Returns the trace of a computation like the one that was traced, in float64."""
    try:
        found = trace(computation, cotangent=_wide(own.cotangent), plain=own.plain)
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
        return Unable("not_finite", {"value": float(trace.value[~trace.value.isfinite()].abs()[0])})
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


# Functions that make tensors of Python numbers, in torch's default type unless another is asked for.
_MAKING = frozenset({"tensor", "as_tensor", "asarray", "scalar_tensor", "full", "arange", "linspace", "logspace"})
_NARROWING = frozenset({"float", "half", "bfloat16"})


def _promoting(call: Callable[[Mapping[str, Any]], object]) -> Callable[[Mapping[str, Any]], object]:
    from torch.overrides import TorchFunctionMode

    class Promotion(TorchFunctionMode):
        """Lets torch's functions take and give float64: captured constants and casts to a shorter type as well."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, keywords = getattr(function, "__name__", ""), kwargs or {}
            if name.startswith(("__get__", "__set__", "__delete__")):
                return function(*args, **keywords)  # an attribute, not an operator
            if name in _NARROWING and args and isinstance(args[0], Tensor):
                return args[0].double() if not args[0].is_complex() else args[0]
            made = function(*_wide(args), **_wide(keywords))
            if name in _MAKING and isinstance(made, Tensor) and made.dtype in _LOW and "dtype" not in keywords:
                return function(*_wide(args), **_wide(keywords), dtype=torch.float64)
            return made

    def promoted(given: Mapping[str, Any]) -> object:
        with Promotion():
            return call(given)

    return promoted


def _wide(value: Any) -> Any:
    """Returns a value with its floating tensors, and the floating types named in it, in float64 (or complex128)."""
    if isinstance(value, Tensor):
        if value.dtype == torch.complex64:
            return value.to(torch.complex128)
        return value.to(torch.float64) if value.is_floating_point() and value.dtype != torch.float64 else value
    if value in (torch.float32, torch.float16, torch.bfloat16) if isinstance(value, torch.dtype) else False:
        return torch.float64
    if type(value) in (list, tuple):
        return type(value)(_wide(v) for v in value)
    return {k: _wide(v) for k, v in value.items()} if type(value) is dict else value


def wide(value: Any) -> Any:
    """Returns a value with its floating tensors in float64."""
    return _wide(value)


# ------------------------------------------------------------------------------------- what torch differentiates


def _recorded(replay: Replay) -> Frozen | Unable:
    try:
        run = record(replay.computation, replay.trace.cotangent, again=True)
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


def _reads_symmetric(operator: object) -> bool:
    """Says whether an operator reads its input as a symmetric matrix, whose gradient is that of symmetric changes."""
    rule = rule_of(str(operator))
    return rule is not None and bool(rule.symmetric)


def generic_direction(given: Trace, names: Sequence[str]) -> Mapping[str, Tensor]:
    """Returns a direction in which no two elements move alike: ±[½, 1] of their own size."""
    directions = {}
    for name in names:
        x = given.inputs[name]
        size = generic(torch.zeros(x.shape, dtype=torch.float64)).to(x.device)
        directions[name] = (size * scales(x)).to(x.dtype)
    return directions


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


# -------------------------------------------------------------------------------------------------------- measures


def epsilon(trace: Trace) -> float:
    """Returns the largest relative rounding error among the floating types that a trace went through."""
    tensors = [trace.value, *trace.inputs.values(), *(y for node in trace.nodes for y in node.outputs)]
    types = {t.dtype for t in tensors if t is not None and (t.is_floating_point() or t.is_complex())}
    return max(torch.finfo(dtype).eps for dtype in types)


def pair(a: Tensor, b: Tensor) -> float:
    """Returns ⟨a, b⟩ = Re Σ conj(a) b, torch's own pairing of a cotangent with a tangent."""
    if not (a.is_complex() or b.is_complex()):
        return float((a * b).sum())
    return float((a.conj() * b).real.sum())


def weighed(cotangent: Tensor, value: Tensor) -> float:
    """Returns |v∘y|₂, the size that the rounding error of ⟨v, y⟩ is relative to."""
    return float(
        torch.linalg.vector_norm((cotangent * value).double() if not value.is_complex() else cotangent * value)
    )


def scales(x: Tensor) -> Tensor:
    """Returns the size of a natural step for each element: its own, or for zeros that of its tensor, up to 1.

    An element that is infinite or nan cannot be moved: its step is 0.
    """
    size = _magnitude(x)
    return torch.where(size > 0, size, common_scale(x)).nan_to_num(0.0, 0.0, 0.0)


def common_scale(x: Tensor) -> float:
    """Returns the typical size of a tensor's elements, 1 at most, and 1 where all are 0."""
    size = _magnitude(x)
    known = size[(size > 0) & size.isfinite()]
    return min(_typical(known), 1.0) if known.numel() else 1.0


def _magnitude(x: Tensor) -> Tensor:
    size = x.detach().abs()
    return size.double() if size.numel() <= LARGE_ELEMENTS else size


def _typical(size: Tensor) -> float:
    return float(size.square().mean().sqrt())


def dense(gradient: Tensor | None, like: Tensor) -> Tensor:
    """Returns a gradient as a plain tensor: zero where there is none."""
    if gradient is None:
        return torch.zeros_like(like)
    return gradient.to_dense() if gradient.layout != torch.strided else gradient


# Operators whose result is one of their inputs, a draw, or a constant: they round nothing.
_EXACT = """
    relu max min amax amin aminmax maximum minimum fmax fmin sort topk kthvalue median mode cummax cummin
    where cat stack gather index index_select take clone copy _to_copy neg abs sgn sign round floor ceil trunc
    masked_fill masked_select constant_pad_nd flip roll repeat tril triu zeros_like ones_like full_like empty_like
    new_zeros new_empty scalar_tensor fill embedding bernoulli multinomial max_pool2d_with_indices
    max_pool3d_with_indices select_scatter slice_scatter diagonal_scatter
"""
_EXACT_NAMES = frozenset(_EXACT.split())


def jittered(replay: Replay, count: int = 3) -> Mapping[str, Tensor]:
    """Returns how far each gradient spreads when every operator, forward and backward, rounds at random.

    Each floating input of an operator that rounds is moved by up to one rounding error of its type, in `count` runs
    (Monte Carlo arithmetic): that shows cancellation wherever it is, inside a matrix product as well. What the function
    decides in Python, it decides as it does without: a guard or a branch sees no rounding. The gradients under test
    take no part: an error in them is no excuse for itself, nor is one that changes by itself from run to run.
    """
    spreads = _spreads(partial(_gradients, replay), count)
    unsteady = {name for name, apart in replay.trace.apart.items() if not apart.slight}
    return {name: torch.zeros_like(spread) if name in unsteady else spread for name, spread in spreads.items()}


def roughness(replay: Replay, count: int = 3) -> Tensor:
    """Returns how far each output spreads when every operator rounds at random: what is lost inside, as in log(1 + e).

    The last digit of the output tells nothing of that where the output is small, or 0.
    """
    return _spreads(lambda mode: {"": _output(replay, mode)}, count)[""]


def _spreads(run: Callable[[Any], Mapping[str, Tensor]], count: int) -> dict[str, Tensor]:
    """Returns how far the results of `count` runs are apart, each under a mode that rounds at random."""
    given: list[Answer] = []
    answers: list[Answer] = []
    try:
        runs = [run(_rounding(0, (), given))]
    except Exception:
        if not given:
            raise
    if given:  # the function decided something: what it decides without rounding, it decides again
        run(internals().dispatch_mode(partial(_answered, answers)))
        runs = [run(_rounding(0, answers, []))]
    runs += [run(_rounding(seed, answers, [])) for seed in range(1, count)]
    return {name: _spread([wide(one[name]) for one in runs]) for name in runs[0]}


def _spread(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([(one - other).abs() for one, other in combinations(values, 2)]).amax(0)


# What an operator gave Python in place of a tensor: `equal`, `bool`, `int`.
Answer = tuple[Any, int]


def _answered(answers: list[Answer], operator: Any, args: Any, kwargs: Any) -> Any:
    """Runs an operator, and notes what it answers."""
    made = operator(*args, **kwargs)
    if isinstance(made, int):
        answers.append((operator, made))
    return made


# Operators that are several in one: how large the numbers are that are added inside, where no operand shows it. As in
# 1 − softmax(x) of a class that has nearly all of the probability.
_INSIDE: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "_log_softmax": lambda args, made: made.abs() + 1,
    "_log_softmax_backward_data": lambda args, made: args[0].abs(),
    "_softmax_backward_data": lambda args, made: args[1].abs() * args[0].abs().amax(),
    "gelu_backward": lambda args, made: args[0].abs(),
    "silu_backward": lambda args, made: args[0].abs(),
    "mish_backward": lambda args, made: args[0].abs(),
}


def _rounding(seed: int, answers: Sequence[Answer], given: list[Answer]) -> Any:
    """Returns a mode under which operators round at random, and Python gets the `answers` one by one.

    Those that it got are added to `given`.
    """
    left = list(answers)
    generator = torch.Generator().manual_seed(seed)

    def moved(value: Any) -> Any:
        if differentiable(value):
            draw = torch.rand(value.shape, generator=generator, dtype=torch.float64) * 2 - 1
            eps = torch.finfo(value.dtype).eps
            return (wide(value) * (1 + eps * draw.to(value.device))).to(value.dtype)
        return type(value)(moved(v) for v in value) if type(value) in (list, tuple) else value

    def run(operator: Any, args: Any, kwargs: Any) -> Any:
        schema = schema_of(operator)
        views = any(r.alias_info is not None for r in schema.returns)
        if views or schema.is_mutable or schema.name.removeprefix("aten::") in _EXACT_NAMES:
            return operator(*args, **kwargs)
        made = operator(*moved(args), **kwargs)
        inside = _INSIDE.get(schema.name.removeprefix("aten::"))
        if inside is not None:
            draw = torch.rand(made.shape, generator=generator, dtype=torch.float64) * 2 - 1
            made = made + (torch.finfo(made.dtype).eps * draw.to(made.device) * wide(inside(args, made))).to(made.dtype)
        if any(map(differentiable, tensors_in([made]))):
            return made
        made = _answered(given, operator, args, kwargs)  # `lt`, `item`, `argmax`: what is no real tensor is not rounded
        return left.pop(0)[1] if isinstance(made, int) and left and left[0][0] is operator else made

    return internals().dispatch_mode(run)


def _gradients(replay: Replay, mode: Any) -> dict[str, Tensor]:
    names, values, before = replay.computation.wrt, replay.computation.leaf_values(), sequence_number()()
    with torch.enable_grad(), mode, replay.computation.run_for(values) as result:
        output = chosen_output(result, replay.computation.name)[0]
        wanted, nodes = [values[n] for n in names], ordered(output.grad_fn)
        keep, into_leaves = reaches_back(nodes, before), replay.computation.into_leaves
        gradients = left_by_backward(output, wanted, replay.trace.cotangent, nodes, keep=keep, into_leaves=into_leaves)
    return {n: dense(g, values[n].detach()) for n, g in zip(names, gradients, strict=True)}


def _output(replay: Replay, mode: Any) -> Tensor:
    with torch.enable_grad(), mode, replay.computation.run_for(replay.computation.leaf_values()) as result:
        return chosen_output(result, replay.computation.name)[0].detach()


def allowance(changes: Tensor | float, magnitude: Tensor, eps: float) -> Tensor:
    """Returns what rounding explains of a difference: a margin over what it was seen to do, and over the last digit."""
    # A gradient is a sum of n products, each rounded by eps at most: errors that add up like a random walk make about
    # √n eps of the size of a summand. `changes` is such an error, measured in a few trials, and a margin over it covers
    # a trial that came out small by chance. The second term holds where no trial happened to move anything.
    return MARGIN * changes + MARGIN / 2 * eps * magnitude


def largest(values: Tensor) -> float:
    """Returns the largest element, 0 for an empty tensor; nan wins."""
    return float(values.max()) if values.numel() else 0.0


def unexplained(difference: Tensor, changes: Tensor | float, magnitude: Tensor, eps: float) -> Tensor:
    """Returns which elements differ by more than rounding explains.

    `changes` is what one rounding error made of each element, in a few trials; `magnitude` the size of what was summed.
    A trial can miss an element by chance: where one in a thousand is beyond, the typical change of the tensor counts.
    """
    # |difference| ≤ m · changes + m / 2 · eps · magnitude with m = MARGIN, element by element (`allowance`). Of many
    # elements a few draw so small a change that this is too little. The root of the mean square over the tensor is no
    # such draw; what is beyond it, too, stays unexplained.
    beyond = ~(difference <= allowance(changes, magnitude, eps))
    if isinstance(changes, Tensor) and 0 < int(beyond.sum()) <= difference.numel() // 1000:
        typical = MARGIN * changes.square().mean().sqrt()
        beyond = beyond & ~(difference <= typical)
    return beyond


# Rounding at random, in so many runs, spreads a number about as far as torch's own rounding moves it: what lies beyond
# some times that, and some last digits, is no rounding.
NUMBER_RUNS, NUMBER_MARGIN, NUMBER_DIGITS = 6, 6, 4
# A number of which rounding has left not even the first binary digit is none.
LOST_PART = 0.5
# Last digits of the largest element that a small one may be off by.
SLIGHT_DIGITS = 16


@dataclass(frozen=True)
class Number:
    """The gradient in the user's own type: how far rounding can move it, and where it is off by more, or lost in it.

    `resolution` is the largest relative error that rounding may hide in an element; `problem` says what is wrong.
    """

    resolution: float
    problem: Unable | None = None


def _number(question: Question, own: Replay, name: str) -> Number:
    """Holds the gradient in the user's type against the one in float64, element by element."""
    right, given = question.gradient(name), own.trace.gradients[name]
    seen_ = _wide(dense(given, own.trace.inputs[name]))
    if right.numel() == 0:
        return Number(0.0)
    difference = (seen_ - right).abs()
    difference = torch.where((seen_ == right) | (seen_.isnan() & right.isnan()), 0.0, difference)
    eps, least = own.eps, torch.finfo(own.trace.inputs[name].dtype).tiny
    allowed = NUMBER_DIGITS * eps * right.abs() + least
    if not bool((difference <= allowed).all()):
        allowed = allowed + NUMBER_MARGIN * _wide(question.spread[name])
    noise = question.rounding(name)  # a few trials may leave one element alone by chance, and not all
    resolved = right.abs() > MARGIN * torch.maximum(noise, noise.square().mean().sqrt()) + least
    beyond = ~(difference <= allowed)
    # What is small beside the rest of the tensor may be a sum whose terms cancel, inside of an operator as well, where
    # no trial shows it: rounding of these is all that is left. It is no error, and not seen if it is no number either.
    slight = difference * question.units[name] <= SLIGHT_DIGITS * eps * question.scale(name)
    gone = resolved & ~(difference < torch.where(beyond, LOST_PART / 5, LOST_PART) * right.abs())
    lost = gone & (beyond | ~slight)
    relative = torch.where(resolved & ~gone, difference / right.abs(), 0.0)  # of slight ones too: the worst is quoted
    beyond = beyond & ~slight
    resolution = max(NUMBER_DIGITS * eps, largest(relative.nan_to_num(1.0, 1.0, 1.0)))
    if not bool((beyond | lost).any()):
        return Number(resolution)
    doubtful = beyond if bool(beyond.any()) else lost
    place = index_of(int(torch.where(doubtful, difference, -1.0).nan_to_num(torch.inf).argmax()), right.shape)
    data = {
        "place": place,
        "seen": plain(seen_[place]),
        "right": plain(right[place]),
        "allowed": float(allowed[place]),
        "dtype": str(own.trace.inputs[name].dtype).removeprefix("torch."),
    }
    return Number(resolution, _problem(own.trace, name, data, beyond=bool(beyond.any())))


def _problem(trace: Trace, name: str, data: Mapping[str, Any], *, beyond: bool) -> Unable:
    """Says why a number is not what its formula gives: a hook, a backward that is not steady, nan, or no reason."""
    hook = next((hooked.hook for hooked in trace.hooked if hooked.leaf == name), None)
    if hook is not None:
        return Unable("hooked", {**data, "hook": hook})
    apart = trace.apart.get(name)
    if apart is not None and apart.cause == "backward" and not apart.slight:
        return Unable("unsteady", data)
    if not math.isfinite(abs(data["seen"])):
        return Unable("nan", data)
    return Unable("number" if beyond else "rounding", data)


def index_of(position: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the index of the element at `position` of a flattened tensor."""
    index: list[int] = []
    for length in reversed(shape):
        index.append(position % length)
        position //= length
    return tuple(reversed(index))


def plain(value: Tensor) -> float | complex:
    """Returns a one-element tensor as a Python number."""
    number: float | complex = value.item()
    return number
