"""The gradient of a computation as a computation of its own, to be differentiated again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.computation import Computation, chosen_output
from gradexplain.errors import RunError
from gradexplain.graph import Source
from gradexplain.recording import user_source
from gradexplain.tracing import differentiated

_PRIMES = ("", "′", "″", "‴", "⁗", "⁽⁵⁾", "⁽⁶⁾")
HIGHEST = len(_PRIMES) - 1


def derivative_of(below: Computation, wrt: str, scalar: str, order: int, seed: Tensor | None = None) -> Computation:
    """Returns the gradient of `below` by `wrt` as a computation, the derivative of `order` − 1 of what `scalar` names.

    `seed` is the cotangent of the output of `below`; ones without it. The computation raises `RunError` (with the key
    `constant_derivative`) where the gradient does not depend on its inputs any more.
    """
    call = _Derivative(below, wrt, seed, f"{scalar}{_PRIMES[order - 1]}")
    return replace(below, call=call, locate=call.locate, name=call.name)


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
            (found,) = differentiated(output, [given[self.wrt]], seed, create_graph=True)
        finally:
            self.differentiating = False
        if found is None or not found.requires_grad:
            raise RunError("constant_derivative")
        return found

    def locate(self) -> Source | None:
        if self.differentiating:
            return None
        return self.below.locate() if self.below.locate is not None else user_source()
