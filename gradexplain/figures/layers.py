"""How gradients fare on their way through the layers of a deep network: kept, vanishing, exploding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.parameters import Range
from gradexplain.figures.style import DASHES, MARKS, Style, logarithmic, number, plain

if TYPE_CHECKING:
    from torch import Generator, Tensor

# A gradient that is this many times smaller or larger at the first layer than at the last has vanished or exploded.
_GONE = 1e3


@dataclass(frozen=True)
class Recipe:
    """Layers h ← φ(W h): φ (a name in torch.nn), the weights' standard deviation by their number n, and φ′."""

    activation: str
    spread: Callable[[int], float]
    slope: Callable[[Tensor], Tensor]


RECIPES: Mapping[str, Recipe] = MappingProxyType({
    "sigmoid": Recipe("Sigmoid", lambda n: (1 / n) ** 0.5, lambda z: 0.25 / (z / 2).cosh() ** 2),
    "relu": Recipe("ReLU", lambda n: (2 / n) ** 0.5, lambda z: (z > 0).to(z.dtype)),  # He
    "tanh": Recipe("Tanh", lambda n: (1 / n) ** 0.5, lambda z: 1 / z.cosh() ** 2),  # Xavier
    "linear": Recipe("Identity", lambda n: 1.0, lambda z: z.new_ones(z.shape)),
})  # fmt: skip
Name = Literal["sigmoid", "relu", "tanh", "linear"]


@dataclass(frozen=True)
class Flow:
    """One network: norms by layer, the input first. `weights` has ‖∂L/∂W‖ of layers 1 … n, and so it is with slopes.

    `slopes` are the means of φ′ over a layer, `squares` those of φ′².
    """

    signals: tuple[float, ...]
    gradients: tuple[float, ...]
    weights: tuple[float, ...]
    slopes: tuple[float, ...]
    squares: tuple[float, ...]
    loss: float

    @property
    def forward_gains(self) -> tuple[float, ...]:
        """By how much each layer multiplies the signal's norm."""
        return tuple(b / a for a, b in zip(self.signals, self.signals[1:], strict=False))

    @property
    def backward_gains(self) -> tuple[float, ...]:
        """By how much each layer multiplies the gradient's norm on its way back."""
        return tuple(a / b for a, b in zip(self.gradients, self.gradients[1:], strict=False))

    @property
    def gain(self) -> float:
        """The backward gain of a layer in the (geometric) mean."""
        return float((self.gradients[0] / self.gradients[-1]) ** (1 / len(self.weights)))

    @property
    def verdict(self) -> str:
        """What becomes of the gradient between the last layer and the input."""
        whole = self.gradients[0] / self.gradients[-1]
        return "vanishing" if whole < 1 / _GONE else "exploding" if whole > _GONE else "healthy"


@dataclass(frozen=True)
class GradientFlow:
    """Networks of one depth and width, side by side."""

    depth: int
    width: int
    batch: int
    flows: Mapping[str, Flow]


def gradient_flow(
    *,
    networks: Annotated[tuple[Name, ...], "Which networks."] = ("sigmoid", "relu", "linear"),
    depth: Annotated[int, "Layers of each.", Range(2, 200)] = 20,
    width: Annotated[int, "Neurons of each layer.", Range(1, 1024)] = 64,
    batch: Annotated[int, "Examples.", Range(1, 4096)] = 64,
    seed: Annotated[int, "Seed of weights and examples.", Range(0, 2**31)] = 0,
) -> GradientFlow:
    """Norm and local gain of signal and gradient by layer, for healthy, vanishing and exploding networks.

    The networks are real ones: sigmoid with weights of variance 1/n, ReLU after He, tanh after Xavier, and linear
    layers with weights of variance 1. The gradient that enters at the last layer has norm 1 in all of them.
    """
    if len(set(networks)) < len(networks):
        raise InputError("figure_twice", names=", ".join(networks))
    return GradientFlow(depth, width, batch, {name: _flow(name, depth, width, batch, seed) for name in networks})


def _flow(name: str, depth: int, width: int, batch: int, seed: int) -> Flow:
    import torch

    generator = torch.Generator().manual_seed(seed)
    weights = weights_of(RECIPES[name], depth, width, generator)
    x = torch.randn((batch, width), generator=generator, dtype=torch.float64)
    cotangent = torch.randn((batch, width), generator=generator, dtype=torch.float64)
    cotangent /= cotangent.norm()
    flow = flow_of(RECIPES[name], weights, x, lambda h: (h * cotangent).sum())
    if not all(0 < n < float("inf") for n in (*flow.signals, *flow.gradients, *flow.weights)):
        raise InputError("figure_flow_not_finite", name=name, depth=depth)
    return flow


def weights_of(recipe: Recipe, depth: int, width: int, generator: Generator) -> list[Tensor]:
    """Returns the weights of a network as the recipe draws them, in double precision."""
    import torch

    weights = [torch.empty(width, width, dtype=torch.float64) for _ in range(depth)]
    return [torch.nn.init.normal_(w, std=recipe.spread(width), generator=generator) for w in weights]


def flow_of(recipe: Recipe, weights: Sequence[Tensor], x: Tensor, loss: Callable[[Tensor], Tensor]) -> Flow:
    """Returns how signal and gradient fare from the input x to a loss of the last layer's signal, and back."""
    import torch

    activation = getattr(torch.nn, recipe.activation)()
    leaves = [w.detach().requires_grad_() for w in weights]
    signals, slopes = [x.detach().requires_grad_()], []
    for w in leaves:
        z = torch.nn.functional.linear(signals[-1], w)
        signals.append(activation(z))
        slopes.append(recipe.slope(z.detach()))
    value = loss(signals[-1])
    gradients = list(map(_norm, torch.autograd.grad(value, [*signals, *leaves])))
    return Flow(
        signals=tuple(map(_norm, signals)),
        gradients=tuple(gradients[: len(signals)]),
        weights=tuple(gradients[len(signals) :]),
        slopes=tuple(float(s.mean()) for s in slopes),
        squares=tuple(float(s.pow(2).mean()) for s in slopes),
        loss=value.item(),
    )


def _norm(tensor: Tensor) -> float:
    # Squares leave float32 long before the elements do.
    return float(tensor.detach().double().norm())


# ----------------------------------------------------------------------------------------------------------- painting


def paint(data: GradientFlow, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints norms above and gains below, the signal on the left, the gradient on the right."""
    layers = range(data.depth + 1)
    for k, (name, flow) in enumerate(data.flows.items()):
        every = max(1, data.depth // 20)
        look = {
            "color": style.colour(k), "marker": MARKS[k % len(MARKS)], "linestyle": DASHES[k % len(DASHES)],
            "markevery": every, "markersize": 4.0, "linewidth": 1.4,
        }  # fmt: skip
        told = style.say(f"flow_{flow.verdict}")
        label = style.say("flow", name=style.say(f"network_{name}"), gain=number(flow.gain, 3), verdict=told)
        axes[0].plot(layers, flow.signals, **look)
        axes[1].plot(layers, flow.gradients, label=label, **look)
        axes[2].plot(layers[1:], flow.forward_gains, **look)
        axes[3].plot(layers[1:], flow.backward_gains, **look)
    keys = ("flow_signal", "flow_gradient", "flow_forward_gain", "flow_backward_gain")
    h, g = r"\|h_{%s}\|", r"\|\partial L/\partial h_{%s}\|"
    here, before = r"\ell", r"\ell-1"
    heights = (h % here, g % here, f"{h % here}/{h % before}", f"{g % before}/{g % here}")
    for panel, key, height in zip(axes, keys, heights, strict=True):
        logarithmic(panel)
        plain(panel.xaxis)
        style.head(panel, style.say(key))
        panel.set_ylabel(f"${height}$")
    for panel in axes[2:]:
        panel.axhline(1.0, color=style.palette.soft, linewidth=1.0)
        panel.set_xlabel(style.say("layer"))
        _room(panel)
    style.legend(axes[-1] if style.column else axes[1], of=(axes[1],), labelspacing=1.0)
    bends = (f"{name} {number(sum(f.slopes) / data.depth, 3)}" for name, f in data.flows.items())
    weights = (f"{name} {number(f.weights[0], 2)} … {number(f.weights[-1], 2)}" for name, f in data.flows.items())
    return [
        style.say("flow_setting", depth=data.depth, width=data.width, batch=data.batch),
        style.say("flow_slopes", each=style.say("semicolon").join(bends)),
        style.say("flow_weights", each=style.say("semicolon").join(weights)),
    ]


def _room(panel: Any) -> None:
    """Gives gains at least a power of ten up and down, so that a steady one looks steady."""
    low, high = panel.get_ylim()
    panel.set_ylim(min(low, 0.1), max(high, 10.0))


DESIGN = Design(
    "gradient-flow", gradient_flow, paint, (("", ""), ("", "")), (11.0, 6.4),
    ("", "--networks relu,tanh --depth 40", "--networks sigmoid --depth 10 --language zh"),
)  # fmt: skip
