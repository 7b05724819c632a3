"""Generic tensors for the examples of the rules: float64, reproducible, without special structure unless asked for."""

import math
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.application import bind
from gradexplain.rules.entries import Rule, overload
from gradexplain.versions.internals import schema_of


class Samples:
    """A source of random arguments with a generator of its own: `r(3, 4)` is a normal tensor, away from 0."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return drawn + 0.1 * torch.where(drawn < 0, -1.0, 1.0)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in (low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def complex(self, *shape: int) -> Tensor:
        """Complex numbers away from 0 and from both axes."""
        return torch.complex(self(*shape), self(*shape))

    def positive(self, *shape: int) -> Tensor:
        return self.between(0.3, 2.3, *shape)

    def number(self) -> float:
        """A positive number that is no round one."""
        return float(self.between(0.4, 1.6))

    def ints(self, high: int, *shape: int) -> Tensor:
        """Integers in 0 … high−1."""
        return torch.randint(high, shape, generator=self.generator)

    def places(self, high: int, *shape: int) -> Tensor:
        """Integers in 0 … high−1, all different."""
        return torch.randperm(high, generator=self.generator)[: math.prod(shape)].reshape(shape)

    def mask(self, *shape: int) -> Tensor:
        """True and False, both present where there is room for both."""
        drawn = torch.rand(shape, generator=self.generator) < 0.5
        drawn.view(-1)[:1], drawn.view(-1)[1:2] = True, False
        return drawn

    def spd(self, size: int, *batch: int) -> Tensor:
        """Symmetric positive definite matrices with eigenvalues well apart."""
        root = self(*batch, size, size)
        return root @ root.mT + torch.diag(torch.arange(1, size + 1, dtype=torch.float64))

    def triangular(self, size: int) -> Tensor:
        """A lower triangular matrix with a positive diagonal."""
        return self(size, size).tril(-1) + torch.diag(self.positive(size))


def examples(rule: Rule, seed: int = 0) -> list[dict[str, Any]]:
    """Returns the arguments of each example of `rule`, by their names in the operator's schema."""
    if not rule.examples:
        return [_generic(rule, Samples(seed))]
    return [_bound(rule, example(Samples(seed + place))) for place, example in enumerate(rule.examples)]


def _bound(rule: Rule, drawn: tuple[Any, ...]) -> dict[str, Any]:
    if isinstance(drawn[-1], dict):
        return bind(rule.operator, drawn[:-1], drawn[-1])
    return bind(rule.operator, drawn, {})


def _generic(rule: Rule, r: Samples) -> dict[str, Any]:
    """The first tensor is (4, 3), further ones (3,), so that they broadcast; numbers are positive and not round."""
    drawn: dict[str, Any] = {}
    shape: tuple[int, ...] = (4, 3)
    for argument in schema_of(overload(rule.operator)).arguments:
        kind = str(argument.type)
        if kind in ("Tensor", "Optional[Tensor]"):
            drawn[argument.name] = _away_from_0(r.between(*rule.domain, *shape))
            shape = (3,)
        elif kind in ("number", "float"):
            drawn[argument.name] = r.number()
    return bind(rule.operator, (), drawn)


def _away_from_0(drawn: Tensor) -> Tensor:
    return torch.where(drawn.abs() < 0.05, 0.3, drawn)
