"""A loop over elements against one vectorised sum: nodes, time, and rounding errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from gradexplain.api import graph
from gradexplain.figures.parameters import Range
from gradexplain.lessons.measures import SINGLE, double, fastest, gradient
from gradexplain.lessons.parts import Parts, Pictured, Rows, claim, exercise, section, text

_REPEATS = 5
_LENGTHS = (500, 2000, 8000)


def lesson(
    *,
    n: Annotated[int, "Elements that are added up.", Range(least=500, most=2000)] = 1000,
    seeds: Annotated[int, "Random vectors whose sums are compared.", Range(least=20, most=200)] = 100,
) -> Parts:
    """Yields the lesson."""
    yield from section("nodes", _nodes(n))
    yield from section("time", _times(n))
    yield from section("accuracy", _accuracy(seeds))
    yield exercise("ex-nodes", _counts(10)[1], count=10, code=_CODE[1])
    yield exercise("ex-pairs", _depth(1024), count=1024)


def _by_index(x: Tensor) -> Tensor:
    y = torch.zeros(())
    for i in range(len(x)):
        y = y + x[i] ** 2
    return y


def _by_element(x: Tensor) -> Tensor:
    y = torch.zeros(())
    for element in x:
        y = y + element**2
    return y


def _vectorised(x: Tensor) -> Tensor:
    return torch.sum(x**2)


_WAYS: tuple[Callable[[Tensor], Tensor], ...] = (_by_index, _by_element, _vectorised)
_CODE = ("for i in range(n): y = y + x[i]**2", "for element in x: y = y + element**2", "y = torch.sum(x**2)")


def _vector(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(n)).requires_grad_()


# -------------------------------------------------------------------------------------------------------------- nodes


def _nodes(n: int) -> Parts:
    x = _vector(n)
    sums = [way(x) for way in _WAYS]
    gradients = [torch.autograd.grad(y, x, retain_graph=True)[0] for y in sums]
    counts = [len(graph(y).nodes) for y in sums]
    yield text("three", n=n)
    yield Rows(("code", "graph-nodes"), list(zip(_CODE, counts, strict=True)))
    yield claim("same", gradients, "=", [2 * x.detach()] * len(_WAYS), "B34")
    yield claim("counted", counts, "=", _counts(n), "B34", n=n)
    yield text("small")
    x = _vector(3)
    yield Pictured("loop-graph", graph(_by_element(x)))
    yield Pictured("sum-graph", graph(_vectorised(x)))


def _counts(n: int) -> list[int]:
    """Returns the nodes of each way: the leaf, and what each element or the whole needs."""
    # an index, a power and an addition for each; the loop over elements takes x apart once; a power and a sum
    return [1 + 3 * n, 1 + 1 + 2 * n, 1 + 2]


# --------------------------------------------------------------------------------------------------------------- time


def _times(n: int) -> Parts:
    x = _vector(n)
    best = [fastest(partial(gradient, way, x), _REPEATS) for way in _WAYS]
    yield text("measured", repeats=_REPEATS)
    rows = [(code, 1e3 * t, t / best[-1]) for code, t in zip(_CODE, best, strict=True)]
    yield Rows(("code", "milliseconds", "times-slower"), rows)
    # Hundreds of times on an idle machine; a tenth of that is left as room for a busy one.
    yield claim("faster", min(best[:2]) / best[-1], ">", 10.0, "B34")
    yield text("why", zeros=n * n, n=n)


# ----------------------------------------------------------------------------------------------------------- accuracy


def _accuracy(seeds: int) -> Parts:
    by_length = {n: _errors(n, seeds) for n in _LENGTHS}
    middle = {n: [float(e.median()) for e in errors] for n, errors in by_length.items()}
    yield text("exact", seeds=seeds)
    yield Rows(("length", "one-by-one", "pairwise", "vectorised"), [(n, *m) for n, m in middle.items()])
    yield claim("closer", [m[2] for m in middle.values()], "<", [m[0] for m in middle.values()], "B34",
                ratio=[m[0] / m[2] for m in middle.values()])  # fmt: skip
    wins = [float((errors[2] < errors[0]).double().mean()) for errors in by_length.values()]
    yield claim("wins", wins, ">", 0.5, "B34")
    yield text("pairs")
    # Rounding to nearest is off by half an eps at most, once for the square and once for each addition on the way of a
    # term to the sum; all terms are positive, so relative errors do not grow. A little more for their products.
    half = SINGLE / 2
    bounds = [1.01 * half * (1 + additions) for n in _LENGTHS for additions in (n - 1, _depth(n))]
    worst = [float(e.max()) for errors in by_length.values() for e in errors[:2]]
    yield claim("bounded", worst, "<", bounds, "B34", depths=[_depth(n) for n in _LENGTHS], lengths=list(_LENGTHS))
    yield text("gradient")


def _depth(n: int) -> int:
    """Returns through how many additions a term passes at most where n numbers are added in pairs."""
    return math.ceil(math.log2(n))


def _errors(n: int, seeds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns relative errors, by vector, of adding one by one, in pairs, and of torch's sum, all in float32."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(seeds, n, generator=generator)
    # The square of a float32 is exact in float64, and fsum adds without error.
    exact = double([math.fsum(v * v for v in row) for row in x.tolist()])
    squares = (x**2).T.contiguous()
    one_by_one = torch.zeros(seeds)
    for term in squares:
        one_by_one = one_by_one + term
    vectorised = torch.stack([_vectorised(row) for row in x])
    sums = (one_by_one, _in_pairs(squares), vectorised)
    return tuple(((s.double() - exact) / exact).abs() for s in sums)  # type: ignore[return-value]


def _in_pairs(terms: Tensor) -> Tensor:
    while len(terms) > 1:
        if len(terms) % 2:
            terms = torch.cat([terms, torch.zeros_like(terms[:1])])
        terms = terms[::2] + terms[1::2]
    return terms[0]
