"""A gradient is multiplied once a layer: what grows or shrinks at each becomes infinite, or nothing, over many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from gradexplain.api import explain, verify
from gradexplain.lessons.parts import Drawn, Explained, Part, Table, Verified, claim, exercise, head, text
from gradexplain.parameters import Range

TOPIC = "training"
PLACE = 5

_WIDTH = 128
_BATCH = 32
# A mean that depends on random weights lies within this many of its standard deviations.
_SIGMAS = 6


def lesson(
    *, depth: Annotated[int, "Layers of the networks compared.", Range(least=5, most=50)] = 20
) -> Iterator[Part]:
    """Yields the lesson."""
    yield head("chain")
    yield from _chain()
    yield head("exploding")
    yield from _exploding()
    yield head("vanishing")
    yield from _vanishing(depth)
    yield exercise("ex-bound", _steepest() ** 4, layers=4)
    yield exercise("ex-spread", 1 / math.sqrt(2 * _WIDTH), digits=3, width=2 * _WIDTH)


def _chain() -> Iterator[Part]:
    x = torch.tensor(0.5, dtype=torch.float64)
    found = explain(lambda x: torch.sigmoid(torch.sigmoid(torch.sigmoid(x))), {"x": x})
    yield text("three")
    yield Explained(found, ("backward",))
    slopes, h = [], x.item()
    for _ in range(3):
        h = 1 / (1 + math.exp(-h))
        slopes.append(h * (1 - h))
    # A few roundings in each of the factors and products.
    within = 20 * torch.finfo(torch.float64).eps
    yield claim("product", found.gradients["x"], "≈", math.prod(slopes), "A34", within=within, slopes=slopes)
    grid = torch.arange(-800, 801, dtype=torch.float64) / 100
    yield claim("quarter", _slopes(torch.sigmoid, grid).max(), "=", _steepest(), "A34")
    yield text("layer")


def _steepest() -> float:
    """Returns the largest slope of 1/(1 + exp(−z)): where the slope of the slope is 0."""
    import sympy

    z = sympy.Symbol("z", real=True)
    slope = sympy.diff(1 / (1 + sympy.exp(-z)), z)
    return max(float(slope.subs(z, at)) for at in sympy.solve(sympy.diff(slope, z), z))


# ----------------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class _Recipe:
    """Layers h ← φ(W h) whose weights have the variance `gain` / n; `slope` is φ′ by its formula."""

    name: str
    activation: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    gain: float


_LINEAR = _Recipe("linear, variance 1", lambda z: z, torch.ones_like, _WIDTH)
_SCALED = _Recipe("linear, variance 1/n", lambda z: z, torch.ones_like, 1)
_SIGMOID = _Recipe("sigmoid, variance 1/n", torch.sigmoid, lambda z: 0.25 / (z / 2).cosh() ** 2, 1)
_RELU = _Recipe("ReLU, variance 2/n (He)", torch.relu, lambda z: (z > 0).to(z.dtype), 2)
_TANH = _Recipe("tanh, variance 1/n (Xavier)", torch.tanh, lambda z: 1 / z.cosh() ** 2, 1)


@dataclass(frozen=True)
class _Flow:
    """Norms by layer, the input first: of h, of ∂L/∂h, and from layer 1 on of ∂L/∂W; `squared` is φ′² in the mean."""

    signals: tuple[float, ...]
    gradients: tuple[float, ...]
    weights: tuple[float, ...]
    loss: float
    squared: tuple[float, ...]

    @property
    def forward(self) -> float:
        """By how much a layer multiplies the norm of h, in the geometric mean."""
        return math.exp(math.log(self.signals[-1] / self.signals[0]) / len(self.weights))

    @property
    def backward(self) -> tuple[float, ...]:
        """By how much each layer multiplies the norm of the gradient on its way back."""
        return tuple(a / b for a, b in zip(self.gradients, self.gradients[1:], strict=False))


def _weights(recipe: _Recipe, depth: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    spread = math.sqrt(recipe.gain / _WIDTH)
    return [
        spread * torch.randn(_WIDTH, _WIDTH, generator=generator, dtype=torch.float64).to(dtype) for _ in range(depth)
    ]


def _inputs(dtype: torch.dtype) -> Tensor:
    return torch.randn(_BATCH, _WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def _flow(recipe: _Recipe, depth: int, dtype: torch.dtype) -> _Flow:
    weights = [w.requires_grad_() for w in _weights(recipe, depth, dtype)]
    signals, inner = [_inputs(dtype).requires_grad_()], []
    for w in weights:
        inner.append(signals[-1] @ w.T)
        signals.append(recipe.activation(inner[-1]))
    loss = signals[-1].pow(2).mean()
    found = [_norm(g) for g in torch.autograd.grad(loss, [*signals, *weights])]
    return _Flow(
        tuple(map(_norm, signals)),
        tuple(found[: depth + 1]),
        tuple(found[depth + 1 :]),
        loss.item(),
        tuple(recipe.slope(z.detach()).pow(2).mean().item() for z in inner),
    )


def _norm(tensor: Tensor) -> float:
    # Squares leave float32 long before the elements do.
    return float(tensor.detach().double().norm())


def _slopes(activation: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(activation(z).sum(), z)[0]


def _mean_log(gains: Sequence[float]) -> float:
    return sum(map(math.log, gains)) / len(gains)


def _doubt(depth: int) -> float:
    # The squared gain of a layer is a sum over n weights or rows, times φ′²; relative to its mean it has a variance of
    # 2/n, or 5/n where half of the φ′ are 0, its logarithm half of that spread, and a mean of -1/n at most off.
    return _SIGMAS * math.sqrt(5 / (_WIDTH * depth)) / 2 + 1 / _WIDTH


# ---------------------------------------------------------------------------------------------------------- exploding


def _exploding() -> Iterator[Part]:
    # With weights of variance 1, ‖W h‖² is ‖h‖² times a sum of n squares of standard normal numbers, n in the mean, and
    # ‖Wᵀ g‖² likewise. So h grows like n^(l/2), and the loss, with h², and its gradient by the input like n^l.
    limit = math.log(torch.finfo(torch.float32).max) / math.log(_WIDTH)
    depths = [round(limit * share) for share in (0.5, 1.2, 3.2)]
    flows = {d: _flow(_LINEAR, d, torch.float32) for d in depths}
    wide = {d: _flow(_LINEAR, d, torch.float64) for d in depths}
    expected = math.log(_WIDTH) / 2
    found = _mean_log(wide[depths[-1]].backward)
    yield text("linear", width=_WIDTH)
    yield claim("grows", found, "≈", expected, "A33", within=_doubt(depths[-1]), depth=depths[-1],
                gain=math.exp(found), root=math.exp(expected))  # fmt: skip
    yield text("limits", limit=limit, half=2 * limit)
    rows = [(d, flows[d].signals[-1], flows[d].loss, flows[d].gradients[0], wide[d].gradients[0]) for d in depths]
    yield Table(("depth", "signal", "loss", "single", "double"), rows)
    foretold = ["nan" if d > 2 * limit else "inf" if d > limit else "finite" for d in depths]
    yield claim("leaves", [_kind(flows[d].loss) for d in depths], "=", foretold, "A33", depths=depths)
    lost = [not math.isfinite(flows[d].gradients[0]) for d in depths]
    yield claim("nan", lost, "=", [d > limit for d in depths], "A33", nan=math.inf - math.inf)
    yield claim("holds", [_kind(wide[d].gradients[0]) for d in depths], "=", ["finite"] * len(depths), "A33")
    scaled = _mean_log(_flow(_SCALED, depths[-1], torch.float32).backward)
    yield claim("scaled", scaled, "≈", 0.0, "A33", within=_doubt(depths[-1]), gain=math.exp(scaled), depth=depths[-1])


def _kind(number: float) -> str:
    return "nan" if math.isnan(number) else "inf" if math.isinf(number) else "finite"


# ---------------------------------------------------------------------------------------------------------- vanishing


def _vanishing(depth: int) -> Iterator[Part]:
    flows = {recipe: _flow(recipe, depth, torch.float64) for recipe in (_SIGMOID, _RELU, _TANH)}
    yield text("networks", depth=depth, width=_WIDTH)
    yield Table(
        ("layers", "slope", "forward", "backward", "first", "last"),
        [
            (recipe.name, math.exp(_mean_log(f.squared) / 2), f.forward, math.exp(_mean_log(f.backward)),
             f.weights[0], f.weights[-1])
            for recipe, f in flows.items()
        ],
    )  # fmt: skip
    predicted = [_mean_log([recipe.gain * s for s in f.squared]) / 2 for recipe, f in flows.items()]
    yield text("gain")
    yield claim(
        "predicted", [_mean_log(f.backward) for f in flows.values()], "≈", predicted, "A34", within=_doubt(depth),
        gains=[math.exp(_mean_log(f.backward)) for f in flows.values()], foretold=list(map(math.exp, predicted)),
    )  # fmt: skip
    weights = _weights(_SIGMOID, depth, torch.float64)
    yield from _bound(flows[_SIGMOID], weights)
    kept = [f.weights[0] / f.weights[-1] for f in (flows[_RELU], flows[_TANH])]
    lost = flows[_SIGMOID].weights[0] / flows[_SIGMOID].weights[-1]
    yield claim("healthy", kept, ">", math.sqrt(lost), "A34", lost=lost)
    names = ("sigmoid", "relu", "tanh", "linear")
    yield Drawn("figure", "gradient-flow", {"networks": names, "depth": depth, "width": _WIDTH})
    yield text("right")
    report = verify(lambda x: _through(weights, x), {"x": _inputs(torch.float64)[:1]})
    yield Verified(report)
    yield claim("true", report.verdict, "=", "agrees", "A34")


def _bound(flow: _Flow, weights: Sequence[Tensor]) -> Iterator[Part]:
    # g ← Wᵀ(σ′ ∘ g), and ‖Wᵀ v‖ ≤ ‖W‖₂ ‖v‖.
    slope = _steepest()
    most = [slope * float(torch.linalg.matrix_norm(w, 2)) for w in weights]
    yield claim("bounded", flow.backward, "<", most, "A34", worst=max(flow.backward), most=max(most))
    whole = flow.gradients[0] / flow.gradients[-1]
    yield claim("all-layers", whole, "<", math.prod(most), "A34")


def _through(weights: Sequence[Tensor], h: Tensor) -> Tensor:
    for w in weights:
        h = torch.sigmoid(h @ w.T)
    return h.pow(2).mean()
