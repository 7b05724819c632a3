"""What rounding does: the function run again while every operator rounds at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from gradexplain.recording.computation import chosen_output, differentiable
from gradexplain.recording.events import tensors_in
from gradexplain.recording.nodes import ordered
from gradexplain.recording.plain import left_by_backward, reaches_back
from gradexplain.rules.application import wide
from gradexplain.verification.oracles.measures import dense
from gradexplain.verification.oracles.replays import Replay
from gradexplain.versions.internals import internals, schema_of, sequence_number

Name = TypeVar("Name")

# Operators whose result is one of their inputs, a draw, or a constant: they round nothing.
_EXACT = """
    relu max min amax amin aminmax maximum minimum fmax fmin sort topk kthvalue median mode cummax cummin
    where cat stack gather index index_select take clone copy _to_copy neg abs sgn sign round floor ceil trunc
    masked_fill masked_select constant_pad_nd flip roll repeat tril triu zeros_like ones_like full_like empty_like
    new_zeros new_empty scalar_tensor fill embedding bernoulli multinomial max_pool2d_with_indices
    max_pool3d_with_indices select_scatter slice_scatter diagonal_scatter
"""
_EXACT_NAMES = frozenset(_EXACT.split())


def jittered(replay: Replay, runs: int = 3) -> Mapping[str, Tensor]:
    """Returns how far each gradient spreads when every operator, forward and backward, rounds at random.

    Each floating input of an operator that rounds is moved by up to one rounding error of its type, in `runs` runs
    (Monte Carlo arithmetic): that shows cancellation wherever it is, inside a matrix product as well. What the function
    decides in Python, it decides as it does without: a guard or a branch sees no rounding. The gradients under test
    take no part: an error in them is no excuse for itself, nor is one that changes by itself from run to run.
    """
    spreads = _spreads(partial(_gradients, replay), runs)
    unsteady = {name for name, apart in replay.trace.apart.items() if not apart.slight}
    return {name: torch.zeros_like(spread) if name in unsteady else spread for name, spread in spreads.items()}


def roughness(replay: Replay, runs: int = 3) -> Tensor:
    """Returns how far each output spreads when every operator rounds at random: what is lost inside, as in log(1 + e).

    The last digit of the output tells nothing of that where the output is small, or 0.
    """
    return _spreads(lambda mode: {"": _output(replay, mode)}, runs)[""]


def _spreads(run: Callable[[Any], Mapping[str, Tensor]], runs: int) -> dict[str, Tensor]:
    """Returns how far the results of so many runs are apart, each under a mode that rounds at random."""
    ranges: dict[str, _Range] = {}
    for found in islice(trials(run), runs):
        for name, one in found.items():
            ranges.setdefault(name, _Range(wide(one))).hold(wide(one))
    return {name: held.spread for name, held in ranges.items()}


def trials(
    run: Callable[[Any], Mapping[Name, Tensor]], answers: list[Answer] | None = None
) -> Iterator[Mapping[Name, Tensor]]:
    """Yields without end what `run` gives under modes that round at random, each with numbers of its own.

    Whatever it decides in Python, it decides in each of them as it does without: those are the `answers`, where a run
    under `answering` has noted them.
    """
    seeds = count()
    if answers is None:
        answers, given = [], list[Answer]()
        try:
            first = run(_rounding(0, (), given))
        except Exception:
            if not given:
                raise
        if not given:
            next(seeds)
            yield first
        else:  # the function decided something: what it decides without rounding, it decides again
            run(answering(answers))
    for seed in seeds:
        yield run(_rounding(seed, answers, []))


class _Range:
    """The least and the largest of numbers that come one by one; of complex ones in each part."""

    def __init__(self, value: Tensor) -> None:
        self.least, self.most = (_real(value).clone() for _ in range(2))
        self.is_complex = value.is_complex()

    def hold(self, value: Tensor) -> None:
        """Takes in one more."""
        torch.minimum(self.least, _real(value), out=self.least)
        torch.maximum(self.most, _real(value), out=self.most)

    @property
    def spread(self) -> Tensor:
        """How far any two of them are apart, of complex numbers at most."""
        apart = self.most - self.least
        return torch.hypot(*apart.unbind(-1)) if self.is_complex else apart


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


# What an operator gave Python in place of a tensor: `equal`, `bool`, `int`.
Answer = tuple[Any, int]


# What it answers does not depend on the numbers.
_FIXED = frozenset({"aten::_fused_sdp_choice"})


def answering(answers: list[Answer]) -> Any:
    """Returns a mode under which what operators give Python is added to `answers`."""
    return internals().dispatch_mode(partial(_answered, answers))


def _answered(answers: list[Answer], operator: Any, args: Any, kwargs: Any) -> Any:
    """Runs an operator, and notes what it answers."""
    made = operator(*args, **kwargs)
    if isinstance(made, int) and schema_of(operator).name not in _FIXED:
        answers.append((operator, made))
    return made


def _in_layers(args: Any, made: Tensor) -> Tensor:
    shape: Sequence[int] = args[2]
    grad, rstd, weight = (cast("Tensor", args[i]) for i in (0, 4, 5))
    terms = grad.abs() if weight is None else (grad * weight).abs()
    return terms.amax(tuple(range(-len(shape), 0)), keepdim=True) * rstd


def _in_groups(args: Any, made: Tensor) -> Tensor:
    grad, rstd, weight = (cast("Tensor", args[i]) for i in (0, 3, 4))
    batch, channels, _, groups = args[5:9]
    terms = grad.abs().reshape(batch, channels, -1)
    terms = terms if weight is None else terms * weight.abs()[:, None]
    largest = terms.reshape(batch, groups, -1).amax(-1) * rstd
    return largest.repeat_interleave(channels // groups, 1).reshape(batch, channels, *[1] * (made.dim() - 2))


def _in_batches(args: Any, made: Tensor) -> Tensor:
    grad, weight, rstd = (cast("Tensor", args[i]) for i in (0, 2, 6))
    if not args[7] or rstd is None:
        return torch.zeros_like(made)
    largest = grad.abs().transpose(0, 1).flatten(1).amax(1) * rstd * (1.0 if weight is None else weight.abs())
    return largest.reshape(-1, *[1] * (made.dim() - 2))


# Operators that are several in one: how large the numbers are that are added inside, where no operand shows it. As in
# 1 − softmax(x) of a class that has nearly all of the probability, or in ḡ − mean(ḡ) − x̂ mean(ḡ x̂) of a normalisation.
_INSIDE: Mapping[str, Callable[[Any, Tensor], Tensor]] = {
    "_log_softmax": lambda args, made: made.abs() + 1,
    "_log_softmax_backward_data": lambda args, made: args[0].abs(),
    "_softmax_backward_data": lambda args, made: args[1].abs() * args[0].abs().amax(),
    "gelu_backward": lambda args, made: args[0].abs(),
    "silu_backward": lambda args, made: args[0].abs(),
    "mish_backward": lambda args, made: args[0].abs(),
    "native_layer_norm_backward": _in_layers,
    "native_group_norm_backward": _in_groups,
    "native_batch_norm_backward": _in_batches,
}


class _Noise:
    """Random numbers within ±1 of any shape; of a large one they repeat, at a place drawn anew each time."""

    LENGTH = 65_521  # a prime: no row or column of a matrix repeats another

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.factors: dict[torch.dtype, Tensor] = {}

    def on(self, value: Tensor) -> Tensor:
        """Returns a tensor with each element moved by up to one rounding error of its type."""
        count, dtype, eps = value.numel(), value.dtype, torch.finfo(value.dtype).eps
        if count <= self.LENGTH:
            moved: Tensor = (wide(value) * (1 + eps * self.draw(value))).to(dtype)
            return moved
        start = int(torch.randint(self.LENGTH, (), generator=self.generator))
        if dtype not in self.factors:
            self.factors[dtype] = (1 + eps * self._numbers(self.LENGTH)).to(dtype).to(value.device)
        if len(self.factors[dtype]) < start + count:
            once = self.factors[dtype][: self.LENGTH]
            self.factors[dtype] = once.repeat(1 + -(-count // self.LENGTH))
        return value * self.factors[dtype][start : start + count].reshape(value.shape)

    def draw(self, like: Tensor) -> Tensor:
        """Returns new numbers in float64 for each element of a tensor."""
        return self._numbers(like.numel()).reshape(like.shape).to(like.device)

    def _numbers(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator, dtype=torch.float64) * 2 - 1


def _rounding(seed: int, answers: Sequence[Answer], given: list[Answer]) -> Any:
    """Returns a mode under which operators round at random, and Python gets the `answers` one by one.

    Those that it got are added to `given`.
    """
    left, noise = list(answers), _Noise(seed)

    def moved(value: Any) -> Any:
        if differentiable(value):
            return noise.on(value)
        return type(value)(moved(v) for v in value) if type(value) in (list, tuple) else value

    def run(operator: Any, args: Any, kwargs: Any) -> Any:
        schema = schema_of(operator)
        views = any(r.alias_info is not None for r in schema.returns)
        if views or schema.is_mutable or schema.name.removeprefix("aten::") in _EXACT_NAMES:
            return operator(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in operator.tags and not any(map(differentiable, tensors_in([args]))):
            return operator(*args, **kwargs)  # a draw of nothing: run once more, it would draw others
        made = operator(*moved(args), **kwargs)
        inside = _INSIDE.get(schema.name.removeprefix("aten::"))
        if inside is not None:
            several = isinstance(made, tuple)
            first = made[0] if several else made
            if first is not None and first.numel():
                size = wide(inside(args, first))
                first = first + (torch.finfo(first.dtype).eps * noise.draw(first) * size).to(first.dtype)
            made = (first, *made[1:]) if several else first
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
