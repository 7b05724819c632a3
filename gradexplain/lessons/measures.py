"""What lessons measure with torch: slopes, steps of training, operators and seconds, and what a graph keeps."""

from __future__ import annotations

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# The spacing of the numbers of float64 at 1, and of float32.
EPS = torch.finfo(torch.float64).eps
SINGLE = torch.finfo(torch.float32).eps


def double(numbers: float | Sequence[Any]) -> Tensor:
    """Returns numbers as a tensor of float64."""
    return torch.tensor(numbers, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------- gradients and training


def gradient(f: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor | None = None) -> Tensor:
    """Returns the gradient by torch of the sum of f(x), weighed by `cotangent` where there is one; x stays as it is."""
    leaf = x.detach().clone().requires_grad_()
    y = f(leaf)
    return torch.autograd.grad(y, leaf, torch.ones_like(y) if cotangent is None else cotangent)[0]


def grad(x: Tensor) -> Tensor:
    """Returns what stands in `x.grad` after a backward pass."""
    assert x.grad is not None
    return x.grad


def curvatures(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns the eigenvalues of the Hessian by torch, the smallest first."""
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(f, x))  # type: ignore[no-any-return]


def forward_differences(f: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-7) -> Tensor:
    """Returns the gradient by moving one input at a time."""
    start, slopes = f(x), torch.empty_like(x)
    for i in range(len(x)):
        moved = x.clone()
        moved[i] += h
        slopes[i] = (f(moved) - start) / h
    return slopes


def central(f: Callable[[float], float], x: float, h: float) -> float:
    """Returns the central difference of `f`, by values alone."""
    return (f(x + h) - f(x - h)) / ((x + h) - (x - h))


def stepped(optimiser: Callable[[Any], torch.optim.Optimizer], w: Tensor, slopes: Tensor) -> Tensor:
    """Returns where one step of an optimiser leads from `w` with these slopes."""
    leaf = w.detach().clone().requires_grad_()
    optimizer = optimiser([leaf])
    leaf.grad = slopes.clone()
    optimizer.step()
    return leaf.detach()


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


# ---------------------------------------------------------------------------------------- how much is computed


@dataclass
class Counted:
    """A function that counts how often it is run."""

    function: Callable[[Tensor], Tensor]
    runs: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.function(x)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def operators(run: Callable[[], object]) -> Counter[str]:
    """Returns how often each ATen operator ran while `run` ran, but for `detach`, which computes nothing.

    The same on every machine, as seconds are not.
    """
    counting = _Counting()
    with counting:
        run()
    del counting.counts["detach"]
    return counting.counts


def fastest(run: Callable[[], object], repeats: int) -> float:
    """Returns the least time of some runs, in seconds: what else the machine does only adds to it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


# ------------------------------------------------------------------------------- what is kept for a backward pass


@dataclass(eq=False)
class Kept:
    """A tensor in a box that the graph alone holds: it lives exactly as long as the graph keeps it."""

    tensor: Tensor


@contextmanager
def watched() -> Iterator[list[weakref.ref[Kept]]]:
    """Gives a list of weak references to all that is saved for a backward pass in the block."""
    kept: list[weakref.ref[Kept]] = []

    def pack(tensor: Tensor) -> Kept:
        box = Kept(tensor.detach())  # the tensor itself leads back to the node that keeps it, and both would stay
        kept.append(weakref.ref(box))
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        yield kept


def alive(kept: Sequence[weakref.ref[Kept]]) -> list[Tensor]:
    """Returns the tensors that are still kept."""
    boxes = [reference() for reference in kept]
    return [box.tensor for box in boxes if box is not None]


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """Returns the memory of tensors, each storage counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
