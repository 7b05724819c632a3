"""A gradient is multiplied once a layer: what grows or shrinks at each becomes infinite, or nothing, over many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor

from gradexplain.api import explain, verify
from gradexplain.figures.layers import RECIPES, Flow, Recipe, flow_of, weights_of
from gradexplain.figures.parameters import Range
from gradexplain.lessons.measures import EPS, double, gradient
from gradexplain.lessons.parts import Drawn, Explained, Parts, Rows, claim, exercise, section, text, verdict

_WIDTH = 128
_BATCH = 32
# A mean that depends on random weights lies within this many of its standard deviations.
_SIGMAS = 6


def lesson(*, depth: Annotated[int, "Layers of the networks compared.", Range(least=5, most=50)] = 20) -> Parts:
    """Yields the lesson."""
    yield from section("chain", _chain())
    yield from section("exploding", _exploding())
    yield from section("vanishing", _vanishing(depth))
    yield exercise("ex-bound", _steepest() ** 4, layers=4)
    yield exercise("ex-spread", 1 / math.sqrt(2 * _WIDTH), digits=3, width=2 * _WIDTH)


def _chain() -> Parts:
    x = double(0.5)
    explanation = explain(lambda x: torch.sigmoid(torch.sigmoid(torch.sigmoid(x))), {"x": x})
    yield text("three")
    yield Explained(explanation, ("backward",))
    slopes, h = [], x.item()
    for _ in range(3):
        h = 1 / (1 + math.exp(-h))
        slopes.append(h * (1 - h))
    # A few roundings in each of the factors and products.
    within = 20 * EPS
    yield claim("product", explanation.gradients["x"], "≈", math.prod(slopes), "A34", within=within, slopes=slopes)
    grid = torch.arange(-800, 801, dtype=torch.float64) / 100
    yield claim("quarter", gradient(torch.sigmoid, grid).max(), "=", _steepest(), "A34")
    yield text("layer")


def _steepest() -> float:
    """Returns the largest slope of 1/(1 + exp(−z)): where the slope of the slope is 0."""
    import sympy

    z = sympy.Symbol("z", real=True)
    slope = sympy.diff(1 / (1 + sympy.exp(-z)), z)
    return max(float(slope.subs(z, at)) for at in sympy.solve(sympy.diff(slope, z), z))


# ----------------------------------------------------------------------------------------------------------- networks

_SCALED = replace(RECIPES["linear"], spread=lambda n: n**-0.5)


def _weights(recipe: Recipe, depth: int) -> list[Tensor]:
    return weights_of(recipe, depth, _WIDTH, torch.Generator().manual_seed(1))


def _inputs() -> Tensor:
    return torch.randn(_BATCH, _WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _flow(recipe: Recipe, depth: int, dtype: torch.dtype) -> Flow:
    weights = [w.to(dtype) for w in _weights(recipe, depth)]
    return flow_of(recipe, weights, _inputs().to(dtype), lambda h: h.pow(2).mean())


def _mean_log(gains: Sequence[float]) -> float:
    return sum(map(math.log, gains)) / len(gains)


def _doubt(depth: int) -> float:
    # The squared gain of a layer is a sum over n weights or rows, times φ′²; relative to its mean it has a variance of
    # 2/n, or 5/n where half of the φ′ are 0, its logarithm half of that spread, and a mean of -1/n at most off.
    return _SIGMAS * math.sqrt(5 / (_WIDTH * depth)) / 2 + 1 / _WIDTH


# ---------------------------------------------------------------------------------------------------------- exploding


def _exploding() -> Parts:
    # With weights of variance 1, ‖W h‖² is ‖h‖² times a sum of n squares of standard normal numbers, n in the mean, and
    # ‖Wᵀ g‖² likewise. So h grows like n^(l/2), and the loss, with h², and its gradient by the input like n^l.
    limit = math.log(torch.finfo(torch.float32).max) / math.log(_WIDTH)
    depths = [round(limit * share) for share in (0.5, 1.2, 3.2)]
    flows = {d: _flow(RECIPES["linear"], d, torch.float32) for d in depths}
    wide = {d: _flow(RECIPES["linear"], d, torch.float64) for d in depths}
    expected = math.log(_WIDTH) / 2
    gain = _mean_log(wide[depths[-1]].backward_gains)
    yield text("linear", width=_WIDTH)
    yield claim("grows", gain, "≈", expected, "A33", within=_doubt(depths[-1]), depth=depths[-1],
                gain=math.exp(gain), root=math.exp(expected))  # fmt: skip
    yield text("limits", limit=limit, half=2 * limit)
    rows = [(d, flows[d].signals[-1], flows[d].loss, flows[d].gradients[0], wide[d].gradients[0]) for d in depths]
    yield Rows(("depth", "signal", "loss", "single", "double"), rows)
    foretold = ["not-a-number" if d > 2 * limit else "infinite" if d > limit else "finite" for d in depths]
    kinds = [_kind(flows[d].loss) for d in depths]
    yield claim("leaves", kinds, "=", foretold, "A33", depths=depths, kinds=list(map(text, kinds)))
    lost = [not math.isfinite(flows[d].gradients[0]) for d in depths]
    yield claim("nan", lost, "=", [d > limit for d in depths], "A33", nan=math.inf - math.inf)
    yield claim("holds", [_kind(wide[d].gradients[0]) for d in depths], "=", ["finite"] * len(depths), "A33")
    scaled = _mean_log(_flow(_SCALED, depths[-1], torch.float32).backward_gains)
    yield claim("scaled", scaled, "≈", 0.0, "A33", within=_doubt(depths[-1]), gain=math.exp(scaled), depth=depths[-1])


def _kind(number: float) -> str:
    """Returns the key of the word for what kind of number it is."""
    return "not-a-number" if math.isnan(number) else "infinite" if math.isinf(number) else "finite"


# ---------------------------------------------------------------------------------------------------------- vanishing


def _vanishing(depth: int) -> Parts:
    flows = {name: _flow(RECIPES[name], depth, torch.float64) for name in ("sigmoid", "relu", "tanh")}
    yield text("networks", depth=depth, width=_WIDTH)
    yield Rows(
        ("layers", "slope", "forward", "backward", "first", "last"),
        [
            (text(name), math.exp(_mean_log(f.squares) / 2), math.exp(_mean_log(f.forward_gains)),
             math.exp(_mean_log(f.backward_gains)), f.weights[0], f.weights[-1])
            for name, f in flows.items()
        ],
    )  # fmt: skip
    gains = [_mean_log(f.backward_gains) for f in flows.values()]
    predicted = [_mean_log(f.squares) / 2 + _log_spread(RECIPES[name]) for name, f in flows.items()]
    yield text("gain")
    yield claim("predicted", gains, "≈", predicted, "A34", within=_doubt(depth), gains=list(map(math.exp, gains)),
                foretold=list(map(math.exp, predicted)))  # fmt: skip
    weights = _weights(RECIPES["sigmoid"], depth)
    yield from _bound(flows["sigmoid"], weights)
    kept = [f.weights[0] / f.weights[-1] for f in (flows["relu"], flows["tanh"])]
    lost = flows["sigmoid"].weights[0] / flows["sigmoid"].weights[-1]
    yield claim("healthy", kept, ">", math.sqrt(lost), "A34", lost=lost)
    names = ("sigmoid", "relu", "tanh", "linear")
    yield Drawn("figure", "gradient-flow", {"networks": names, "depth": depth, "width": _WIDTH})
    yield text("right")
    report = verify(lambda x: _through(weights, x), {"x": _inputs()[:1]})
    yield from verdict("true", report, "agrees", "A34")


def _log_spread(recipe: Recipe) -> float:
    """Returns the logarithm of √(n · variance of the weights)."""
    return math.log(recipe.spread(_WIDTH)) + math.log(_WIDTH) / 2


def _bound(flow: Flow, weights: Sequence[Tensor]) -> Parts:
    # g ← Wᵀ(σ′ ∘ g), and ‖Wᵀ v‖ ≤ ‖W‖₂ ‖v‖.
    slope = _steepest()
    most = [slope * float(torch.linalg.matrix_norm(w, 2)) for w in weights]
    yield claim("bounded", flow.backward_gains, "<", most, "A34", worst=max(flow.backward_gains), most=max(most))
    whole = flow.gradients[0] / flow.gradients[-1]
    yield claim("all-layers", whole, "<", math.prod(most), "A34")


def _through(weights: Sequence[Tensor], h: Tensor) -> Tensor:
    for w in weights:
        h = torch.sigmoid(h @ w.T)
    return h.pow(2).mean()
