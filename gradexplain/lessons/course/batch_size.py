"""The mean over a batch, put together from pieces, and how the noise of a gradient falls with the size of the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from gradexplain.figures.parameters import Range
from gradexplain.lessons.computations import explained, pictured
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import EPS, SINGLE, gradient
from gradexplain.lessons.parts import Explained, Parts, Pictured, Rows, claim, exercise, section, text

_PIECES = """
X = torch.arange(1., 2 * pieces + 1)
w = torch.tensor(1., requires_grad=True)
((X * w)**2).mean().backward()
print("whole:", w.grad)
w.grad = None
for x in X.split(2):
    loss = ((x * w)**2).mean()
    loss.backward()
print("pieces:", w.grad)
"""
_DIVIDED = _PIECES.replace(".mean()\n    loss.b", ".mean() / pieces\n    loss.b")
_UNEQUAL = """
X = torch.arange(1., 6.)
w = torch.tensor(1., requires_grad=True)
parts = X.split(2)
for x in parts:
    loss = ((x * w)**2).mean() / len(parts)
    loss.backward()
print([len(x) for x in parts], w.grad)
"""
_WEIGHTED = _UNEQUAL.replace(".mean() / len(parts)", ".sum() / len(X)")

_SIZES = (1, 4, 16, 64, 256)
_EXAMPLES, _FEATURES = 4096, 8
# A mean over random draws lies within this many of its standard deviations.
_SIGMAS = 6


def lesson(
    *,
    pieces: Annotated[int, "Pieces that a batch is cut into.", Range(least=2, most=16)] = 2,
    draws: Annotated[int, "Batches drawn of each size.", Range(least=200, most=2000)] = 1000,
) -> Parts:
    """Yields the lesson."""
    yield from section("pieces", _pieces(pieces))
    yield from section("unequal", _unequal())
    yield from section("noise", _noise(draws))
    sizes = (5, 3)
    yield exercise("ex-weight", sizes[1] / sum(sizes), sizes=sizes)
    yield exercise("ex-noise", math.sqrt(_SIZES[1] / _SIZES[-1]), first=_SIZES[1], second=_SIZES[-1])


# ------------------------------------------------------------------------------------------------------- accumulation


def _pieces(pieces: int) -> Parts:
    names = {"torch": torch, "pieces": pieces}
    # ∂/∂w of the mean of (x w)² is 2 w times the mean of x², here at w = 1.
    whole = 2 * sum(k * k for k in range(1, 2 * pieces + 1)) / (2 * pieces)
    # Some roundings of each term of the sum.
    within = 2 * pieces * SINGLE * whole * pieces
    tried = yield from attempt("often", _PIECES, names, pieces=pieces)
    yield claim("times", tried.names["w"].grad, "≈", pieces * whole, "A36", within=within, pieces=pieces, whole=whole)
    code = "mean((a*w)**2) + mean((b*w)**2)"
    inputs = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0]), "w": torch.tensor(1.0)}
    yield text("why", pieces=2)
    yield Explained(explained(code, inputs, wrt="w"), ("gradients",))
    yield Pictured("picture", pictured(code, inputs, view="backward", show=["values", "gradients"]))
    cured = yield from attempt("divide", _DIVIDED, names)
    yield claim("cured", cured.names["w"].grad, "≈", whole, "A36", within=within)


def _unequal() -> Parts:
    tried = run_listing(_UNEQUAL)
    numbers = tried.names["X"].tolist()
    whole = 2 * sum(x * x for x in numbers) / len(numbers)
    means = [2 * sum(x * x for x in part) / len(part) for part in (p.tolist() for p in tried.names["parts"])]
    within = 8 * SINGLE * sum(means)
    yield text("last-smaller", count=len(numbers))
    yield tried
    yield claim("mean-of-means", tried.names["w"].grad, "≈", sum(means) / len(means), "A36", within=within, whole=whole)
    yield claim("differs", abs(tried.names["w"].grad.item() - whole), ">", within, "A36")
    sizes = [len(p) for p in tried.names["parts"]]
    shares = [1 / (len(sizes) * size) for size in sizes for _ in range(size)]
    # two quotients, each rounded once
    yield claim("counts", _shares(sizes), "≈", shares, "A36", within=SINGLE, last=shares[-1],
                first=shares[0], own=1 / len(numbers))  # fmt: skip
    cured = yield from attempt("by-size", _WEIGHTED)
    yield claim("weighted", cured.names["w"].grad, "≈", whole, "A36", within=within)
    yield text("same-elsewhere")


def _shares(sizes: Sequence[int]) -> Tensor:
    """Returns what each example's own loss counts in the mean of the means: torch's gradient by the losses."""
    losses = torch.ones(sum(sizes))
    return gradient(lambda losses: torch.stack([piece.mean() for piece in losses.split(list(sizes))]).mean(), losses)


# -------------------------------------------------------------------------------------------------------------- noise


@dataclass(frozen=True)
class _Population:
    """A regression: examples (N, d), targets, and the weights at which gradients are compared."""

    x: Tensor
    t: Tensor
    w: Tensor

    def gradients(self, chosen: Tensor) -> Tensor:
        """Returns torch's gradient of the mean loss of each row of `chosen`, which holds numbers of examples."""
        w = self.w.expand(len(chosen), -1).clone().requires_grad_()
        losses = ((self.x[chosen] @ w[:, :, None]).squeeze(2) - self.t[chosen]).pow(2).mean(1)
        return torch.autograd.grad(losses.sum(), w)[0]

    def by_hand(self) -> Tensor:
        """Returns each example's own gradient, 2 (w·x − t) x, by its formula: (N, d)."""
        return 2 * (self.x @ self.w - self.t)[:, None] * self.x


def _population(generator: torch.Generator) -> _Population:
    x, slopes = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((_EXAMPLES, _FEATURES), _FEATURES))
    t = x @ slopes + torch.randn(_EXAMPLES, generator=generator, dtype=torch.float64)
    return _Population(x, t, torch.zeros(_FEATURES, dtype=torch.float64))


def _noise(draws: int) -> Parts:
    generator = torch.Generator().manual_seed(0)
    population = _population(generator)
    alone = population.by_hand()
    mean = alone.mean(0)
    apart = alone - mean
    variance = float(apart.pow(2).sum(1).mean())
    errors = {n: _squared_errors(population, mean, n, draws, generator) for n in _SIZES}
    yield text("sample", examples=_EXAMPLES, draws=draws)
    rows = [(n, math.sqrt(f), math.sqrt(variance / n), math.sqrt(f) / float(mean.norm())) for n, f in errors.items()]
    yield Rows(("batch", "measured", "foretold", "relative"), rows)
    yield text("reason", spread=math.sqrt(variance))
    within = _SIGMAS * max(_doubt(apart, n) for n in _SIZES) / math.sqrt(draws)
    yield claim("root", [n * f / variance for n, f in errors.items()], "≈", [1.0] * len(errors), "A36", within=within,
                sizes=list(errors))  # fmt: skip
    yield claim("all", population.gradients(torch.randperm(_EXAMPLES, generator=generator)[None])[0], "≈", mean, "A36",
                within=_EXAMPLES * EPS * float(alone.abs().max()))  # fmt: skip
    yield text("price", length=float(mean.norm()))
    size = round(variance / float(mean.pow(2).sum()))
    equal = _squared_errors(population, mean, size, draws, generator) / float(mean.pow(2).sum())
    # as above, and the size is rounded to a whole number
    within = _SIGMAS * _doubt(apart, size) / math.sqrt(draws) + 1 / size
    yield claim("equal", equal, "≈", 1.0, "A36", within=within, size=size)
    yield text("worth")


def _squared_errors(population: _Population, mean: Tensor, n: int, draws: int, generator: torch.Generator) -> float:
    chosen = torch.randint(_EXAMPLES, (draws, n), generator=generator)
    return float((population.gradients(chosen) - mean).pow(2).sum(1).mean())


def _doubt(apart: Tensor, n: int) -> float:
    # e = the mean of n independent draws of a, a row of `apart`, whose mean is 0. With C = E[a aᵀ],
    #   E‖e‖² = tr C / n,   n⁴ E‖e‖⁴ = n E‖a‖⁴ + n (n − 1) ((tr C)² + 2 tr C²).
    # Returned: the standard deviation of ‖e‖², relative to its mean.
    c = apart.T @ apart / len(apart)
    trace, fourth = float(c.trace()), float(apart.pow(2).sum(1).pow(2).mean())
    raised = (n * fourth + n * (n - 1) * (trace**2 + 2 * float((c @ c).trace()))) / n**4
    return math.sqrt(raised / (trace / n) ** 2 - 1)
