"""The gradient of a computation as a computation of its own, so that it can be traced, explained and verified again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.recording.computation import Computation, chosen_output
from gradexplain.recording.frames import user_source
from gradexplain.recording.plain import differentiated
from gradexplain.targets.sources import Source

COTANGENT = "cotangent"
_PRIMES = ("", "′", "″", "‴", "⁗", "⁽⁵⁾", "⁽⁶⁾")
HIGHEST = len(_PRIMES) - 1


def gradient_of(computation: Computation, cotangent: Tensor) -> Computation:
    """Returns (inputs, cotangent) ↦ the gradients of ⟨cotangent, output⟩ by all inputs, joined into one vector.

    The cotangent is an input as well. It leads through every backward formula, so that a formula whose other paths are
    lost (a detached context, `once_differentiable`) still has a graph, and the loss shows as a wrong second derivative
    instead of an error.
    """
    name = _free_name(computation)

    def call(given: Mapping[str, Any]) -> Tensor:
        values = {n: v for n, v in given.items() if n != name}
        output, _ = chosen_output(computation.call(values), computation.name)
        wanted = {n: values[n] if n in values else _current(computation, n) for n in computation.wrt}
        gradients = _gradients(output, list(wanted.values()), given[name])
        joined = torch.cat([g.reshape(-1) for g in gradients])
        return joined if joined.requires_grad else joined + _nothing([*wanted.values(), given[name]])

    return replace(
        computation,
        name=f"gradient of {computation.name}",
        call=call,
        inputs={**computation.inputs, name: cotangent},
        wrt=(*computation.wrt, name),
        into_leaves=False,
    )


def _free_name(computation: Computation) -> str:
    name = COTANGENT
    while name in computation.inputs:
        name += "_"
    return name


def _gradients(output: Tensor, wanted: list[Tensor], seed: Tensor) -> list[Tensor]:
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in wanted]
    gradients = differentiated(output, wanted, seed.expand(output.shape), create_graph=True)
    return [torch.zeros_like(x) if g is None else g.to_dense() for g, x in zip(gradients, wanted, strict=True)]


def _nothing(inputs: list[Tensor]) -> Tensor:
    """Returns a zero that depends on all inputs: a gradient without a graph claims that its derivative is zero."""
    return torch.stack([torch.where(torch.zeros_like(x, dtype=torch.bool), x, 0).sum() for x in inputs]).sum()


def _current(computation: Computation, name: str) -> Tensor:
    """Returns the tensor that stands for a parameter during a run."""
    for owner, module in computation.modules.items():
        path = name.removeprefix(f"{owner}.") if owner else name
        parent, _, attribute = path.rpartition(".")
        try:
            parameter = module.get_submodule(parent)._parameters.get(attribute)
        except AttributeError:
            continue
        if parameter is not None:
            return parameter
    raise KeyError(name)


def derivative_of(below: Computation, wrt: str, scalar: str, order: int, seed: Tensor | None = None) -> Computation:
    """Returns the gradient of `below` by `wrt` as a computation, the derivative of `order` − 1 of what `scalar` names.

    `seed` is the cotangent of the output of `below`; ones without it. The computation raises `RunError` (with the key
    `constant_derivative`) where the gradient does not depend on its inputs any more.
    """
    call = _Derivative(below, wrt, seed, f"{scalar}{_PRIMES[order - 1]}")
    return replace(below, call=call, locate=call.locate, name=call.name, into_leaves=False)


@dataclass
class _Derivative:
    """The function's gradient by one input, as a function; while it differentiates, no source line is current."""

    below: Computation
    wrt: str
    seed: Tensor | None
    name: str
    differentiating: bool = False

    def __call__(self, given: Mapping[str, Any]) -> Tensor:
        output, _ = chosen_output(self.below.call(given), self.below.name)
        seed = torch.ones_like(output) if self.seed is None else self.seed.to(output).expand(output.shape)
        if not output.requires_grad:
            raise RunError("constant_derivative")
        self.differentiating = True
        try:
            (gradient,) = differentiated(output, [given[self.wrt]], seed, create_graph=True)
        finally:
            self.differentiating = False
        if gradient is None or not gradient.requires_grad:
            raise RunError("constant_derivative")
        return gradient

    def locate(self) -> Source | None:
        if self.differentiating:
            return None
        return self.below.locate() if self.below.locate is not None else user_source()
