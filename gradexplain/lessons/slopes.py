"""Gradients by torch and slopes by values, and training loops, as many lessons measure them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(f: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor | None = None) -> Tensor:
    """Returns the gradient by torch of the sum of f(x), weighed by `cotangent` where there is one; x stays as it is."""
    leaf = x.detach().clone().requires_grad_()
    y = f(leaf)
    return torch.autograd.grad(y, leaf, torch.ones_like(y) if cotangent is None else cotangent)[0]


def central(f: Callable[[float], float], x: float, h: float) -> float:
    """Returns the central difference of `f`, by values alone."""
    return (f(x + h) - f(x - h)) / ((x + h) - (x - h))


def trained(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int) -> list[float]:
    """Takes so many steps of the usual training loop, and returns the loss before each."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses
