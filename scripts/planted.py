"""Wrong backward passes, made on purpose: a custom Function around a case whose gradient is right, then spoiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from operator_database import Case, outputs_of
from torch import Tensor
from torch.autograd.function import once_differentiable

# A spoiled gradient that is the right one up to this many last digits is no error.
DIGITS = 64
# An element smaller than this part of its gradient is not where an error is planted.
NEGLIGIBLE = 1e-3
# How many of an operator's cases are tried for an error that changes something.
FEW = 10


@dataclass(frozen=True)
class Target:
    """Where the error is planted: in the gradient of one input, and in one of its elements where it is about one."""

    input: int
    element: int
    repeated: torch.Size | None = None  # the shape that the operator repeats the input to, where it is about that


Gradient = Callable[[Case, Target, Sequence[Tensor], Sequence[Tensor]], list[Tensor]]


def right(case: Case, inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Returns the gradients by torch's own backward, at detached inputs."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        found = torch.autograd.grad(outputs_of(case, leaves), leaves, list(cotangents), allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def spoiled(change: Callable[[Tensor, int], Tensor]) -> Gradient:
    """Returns the right gradients with `change` applied to that of the target."""

    def gradient(case: Case, target: Target, inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
        found = right(case, inputs, cotangents)
        found[target.input] = change(found[target.input], target.element)
        return found

    return gradient


def not_summed(case: Case, target: Target, inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
    """Returns the right gradients, but of an input that is repeated to the output's shape that of one repetition."""
    found, x = right(case, inputs, cotangents), inputs[target.input]
    if target.repeated is not None:
        each = right(case, _repeating(inputs, target), cotangents)[target.input]
        first = each[(0,) * (each.dim() - x.dim())]
        for axis, length in enumerate(x.shape):
            first = first.narrow(axis, 0, length)
        found[target.input] = first
    return found


def _repeating(inputs: Sequence[Tensor], target: Target) -> list[Tensor]:
    assert target.repeated is not None
    return [x.detach().expand(target.repeated if i == target.input else x.shape) for i, x in enumerate(inputs)]


def _broadcast(case: Case) -> Target | None:
    """Returns the first input that the operator repeats to the shape of its one output."""
    outputs = outputs_of(case, case.inputs)
    for position, x in enumerate(case.inputs):
        if len(outputs) == 1 and x.numel() < outputs[0].numel() and _expands(x, outputs[0].shape):
            target = Target(position, 0, outputs[0].shape)
            if _same(case, target, outputs[0]):
                return target
    return None


def _same(case: Case, target: Target, output: Tensor) -> bool:
    try:
        found = outputs_of(case, _repeating(case.inputs, target))
    except Exception:  # not an operator that repeats this input
        return False
    return torch.equal(found[0], output)


def _expands(x: Tensor, shape: torch.Size) -> bool:
    try:
        return bool(torch.broadcast_shapes(x.shape, shape) == shape)
    except RuntimeError:
        return False


def element(factor: float) -> Callable[[Tensor, int], Tensor]:
    """Returns the change that multiplies one element by `factor`."""

    def change(gradient: Tensor, position: int) -> Tensor:
        flat = gradient.flatten().clone()
        flat[position] *= factor
        return flat.reshape(gradient.shape)

    return change


def _permuted(gradient: Tensor, element: int) -> Tensor:
    square = gradient.dim() >= 2 and gradient.shape[-1] == gradient.shape[-2]
    return gradient.mT if square else gradient.flatten().roll(1).reshape(gradient.shape)


KINDS: Mapping[str, Gradient] = {
    "scaled by 1.01": spoiled(lambda g, _: g * 1.01),
    "scaled by 1.001": spoiled(lambda g, _: g * 1.001),
    "scaled by 1.00001": spoiled(lambda g, _: g * 1.00001),
    "sign flipped": spoiled(lambda g, _: -g),
    "one element zeroed": spoiled(element(0.0)),
    "one element off by 1e-4": spoiled(element(1.0001)),
    "permuted or transposed": spoiled(_permuted),
    "broadcast not summed": not_summed,
}
# How large the error is, relative to what it is in; those not listed are as large as the gradient.
SIZES = {"scaled by 1.01": 1e-2, "scaled by 1.001": 1e-3, "scaled by 1.00001": 1e-5, "one element off by 1e-4": 1e-4}
# Nothing wrong: the wrapping alone must not alarm anybody.
CONTROL = "right, in a custom Function"


class Planted(torch.autograd.Function):
    """Runs a mutant's case; its backward is the mutant's gradient."""

    @staticmethod
    def forward(ctx: Any, mutant: Mutant, *inputs: Tensor) -> Any:
        ctx.mutant = mutant
        ctx.save_for_backward(*inputs)
        outputs = tuple(y.clone() for y in outputs_of(mutant.case.to(inputs[0].dtype), inputs))
        return outputs[0] if len(outputs) == 1 else outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        inputs, mutant = ctx.saved_tensors, ctx.mutant
        return (None, *mutant.gradient(mutant.case.to(inputs[0].dtype), mutant.target, inputs, cotangents))


@dataclass(frozen=True, eq=False)
class Mutant:
    """A case whose backward is wrong. It runs on tensors of any real type."""

    case: Case
    kind: str
    gradient: Gradient
    target: Target

    def __call__(self, *inputs: Tensor) -> Any:
        return Planted.apply(self, *inputs)

    def to(self, dtype: torch.dtype) -> Mutant:
        """Returns the mutant of the case in `dtype`."""
        return Mutant(self.case.to(dtype), self.kind, self.gradient, self.target)

    @property
    def inputs(self) -> list[Tensor]:
        """The arguments at the sample, as fresh leaves that require grad."""
        return self.case.inputs

    @property
    def number(self) -> int:
        """The number of the sample."""
        return self.case.number


def wrapped(case: Case) -> Mutant:
    """Returns the case in the same custom Function, with nothing wrong."""
    return Mutant(case, CONTROL, spoiled(lambda g, _: g), Target(0, 0))


def seen_in(kind: str, dtype: torch.dtype) -> bool:
    """Says whether an error of this kind is larger than what rounding to `dtype` makes of a number."""
    return SIZES.get(kind, 1.0) > torch.finfo(dtype).eps


def mutants_of(cases: Sequence[Case]) -> Iterator[tuple[str, Mutant | None]]:
    """Gives a mutant of each kind, `None` where it would leave the Jacobian as it is.

    It is made of the first case whose Jacobian it changes, of an operator's first few; a broadcast that goes wrong, of
    the first in which there is one.
    """
    few = [(case, _target(right(case, case.inputs, cotangents_of(case, 0)))) for case in cases[:FEW]]
    repeated = [(case, where) for case in cases if (where := _broadcast(case)) is not None]
    for kind, gradient in KINDS.items():
        tried = repeated if gradient is not_summed else few
        mutants = (Mutant(case, kind, gradient, where) for case, where in tried)
        yield kind, next((mutant for mutant in mutants if _changes(mutant)), None)


def _changes(mutant: Mutant) -> bool:
    """Says whether the mutant's gradient is another than the right one, for one of two random cotangents."""
    return any(_differs(mutant, cotangents_of(mutant.case, seed)) for seed in (1, 2))


def _differs(mutant: Mutant, v: Sequence[Tensor]) -> bool:
    """Says whether an error is more than the last digits of the gradient, and than those of the output make of it."""
    case, inputs = mutant.case, mutant.case.inputs
    digits = DIGITS * torch.finfo(case.dtype).eps
    weighed = [(a * b).detach().flatten() for a, b in zip(v, outputs_of(case, inputs), strict=True)]
    output = torch.cat(weighed).abs().max()
    triples = zip(inputs, mutant.gradient(case, mutant.target, inputs, v), right(case, inputs, v), strict=True)
    return any(
        bool((wrong - good).abs().max() > digits * good.abs().max())
        and bool(((wrong - good) * x).abs().max() > digits * output)
        for x, wrong, good in triples
        if x.numel()
    )


def cotangents_of(case: Case, seed: int) -> list[Tensor]:
    """Returns random cotangents of the shapes of a case's outputs."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs_of(case, case.inputs)]


def _target(gradients: Sequence[Tensor]) -> Target:
    """Chooses the input with the largest gradient, and there the element of median size among those that matter."""
    sizes = [float(g.abs().max()) if g.numel() else 0.0 for g in gradients]
    position = max(range(len(sizes)), key=sizes.__getitem__)
    flat = gradients[position].abs().flatten()
    ordered = [i for i in flat.argsort().tolist() if flat[i] > NEGLIGIBLE * sizes[position]]
    return Target(position, ordered[len(ordered) // 2] if ordered else 0)
