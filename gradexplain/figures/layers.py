"""How gradients fare on their way through the layers of a deep network: kept, vanishing, exploding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.style import DASHES, MARKS, Style, logarithmic, number, plain
from gradexplain.parameters import Range

if TYPE_CHECKING:
    from torch import Tensor

# A gradient that is this many times smaller or larger at the first layer than at the last has vanished or exploded.
_GONE = 1e3


@dataclass(frozen=True)
class Recipe:
    """A network's activation (a name in torch.nn) and the standard deviation of its weights, by their number n."""

    activation: str
    spread: Callable[[int], float]


RECIPES: Mapping[str, Recipe] = MappingProxyType({
    "sigmoid": Recipe("Sigmoid", lambda n: (1 / n) ** 0.5),
    "relu": Recipe("ReLU", lambda n: (2 / n) ** 0.5),  # He
    "tanh": Recipe("Tanh", lambda n: (1 / n) ** 0.5),  # Xavier
    "linear": Recipe("Identity", lambda n: 1.0),
})  # fmt: skip
Name = Literal["sigmoid", "relu", "tanh", "linear"]


@dataclass(frozen=True)
class Flow:
    """One network: norms by layer, the input first. `weights` has ‖∂L/∂W‖ of layers 1 … n, `bend` the mean |φ′|."""

    name: str
    signals: tuple[float, ...]
    gradients: tuple[float, ...]
    weights: tuple[float, ...]
    bend: float

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
    flows: tuple[Flow, ...]


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
    return GradientFlow(depth, width, batch, tuple(_flow(name, depth, width, batch, seed) for name in networks))


def _flow(name: str, depth: int, width: int, batch: int, seed: int) -> Flow:
    import torch
    from torch import nn

    recipe, generator = RECIPES[name], torch.Generator().manual_seed(seed)
    linears = [nn.utils.skip_init(nn.Linear, width, width, bias=False, dtype=torch.float64) for _ in range(depth)]
    for layer in linears:
        nn.init.normal_(layer.weight, std=recipe.spread(width), generator=generator)
    activation = getattr(nn, recipe.activation)()
    h = torch.randn((batch, width), generator=generator, dtype=torch.float64).requires_grad_()
    cotangent = torch.randn((batch, width), generator=generator, dtype=torch.float64)
    cotangent /= cotangent.norm()
    signals, bends = [h], []
    for layer in linears:
        z = layer(signals[-1])
        signals.append(activation(z))
        bends.append(_bend(activation, z))
    weights = [layer.weight for layer in linears]
    loss = (signals[-1] * cotangent).sum()
    found = torch.autograd.grad(loss, [*signals, *weights])
    norms = [float(g.norm()) for g in found]
    sizes = [float(s.detach().norm()) for s in signals]
    if not all(0 < n < float("inf") for n in (*norms, *sizes)):
        raise InputError("figure_flow_not_finite", name=name, depth=depth)
    return Flow(name, tuple(sizes), tuple(norms[: depth + 1]), tuple(norms[depth + 1 :]), sum(bends) / depth)


def _bend(activation: Callable[[Tensor], Tensor], z: Tensor) -> float:
    """Returns the mean of |φ′| over a layer."""
    import torch

    leaf = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(activation(leaf).sum(), leaf)
    return float(slope.abs().mean())


# ----------------------------------------------------------------------------------------------------------- painting


def paint(data: GradientFlow, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints norms above and gains below, the signal on the left, the gradient on the right."""
    layers = range(data.depth + 1)
    for k, flow in enumerate(data.flows):
        every = max(1, data.depth // 20)
        look = {
            "color": style.colour(k), "marker": MARKS[k % len(MARKS)], "linestyle": DASHES[k % len(DASHES)],
            "markevery": every, "markersize": 4.0, "linewidth": 1.4,
        }  # fmt: skip
        label = style.say("flow", name=style.say(f"network_{flow.name}"), gain=number(flow.gain, 3))
        axes[0].plot(layers, flow.signals, **look)
        axes[1].plot(layers, flow.gradients, label=f"{label}\n{style.say(f'flow_{flow.verdict}')}", **look)
        axes[2].plot(layers[1:], flow.forward_gains, **look)
        axes[3].plot(layers[1:], flow.backward_gains, **look)
    keys = ("flow_signal", "flow_gradient", "flow_forward_gain", "flow_backward_gain")
    heights = ("‖hₗ‖", "‖∂L/∂hₗ‖", "‖hₗ‖ / ‖hₗ₋₁‖", "‖∂L/∂hₗ₋₁‖ / ‖∂L/∂hₗ‖")
    for panel, key, height in zip(axes, keys, heights, strict=True):
        panel.set_yscale("log")
        logarithmic(panel.yaxis)
        plain(panel.xaxis)
        panel.set_title(style.say(key))
        panel.set_ylabel(height)
    for panel in axes[2:]:
        panel.axhline(1.0, color=style.palette.soft, linewidth=1.0)
        panel.set_xlabel(style.say("layer"))
        _room(panel)
    handles, labels = axes[1].get_legend_handles_labels()
    axes[1].legend(handles, labels, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, labelspacing=1.0)
    return [
        style.say("flow_setting", depth=data.depth, width=data.width, batch=data.batch),
        *(
            style.say("flow_weights", name=style.say(f"network_{f.name}"), bend=number(f.bend, 3),
                      first=number(f.weights[0], 2), last=number(f.weights[-1], 2))
            for f in data.flows
        ),
    ]  # fmt: skip


def _room(panel: Any) -> None:
    """Gives gains at least a power of ten up and down, so that a steady one looks steady."""
    low, high = panel.get_ylim()
    panel.set_ylim(min(low, 0.1), max(high, 10.0))


DESIGN = Design(
    "gradient-flow", gradient_flow, paint, (("", ""), ("", "")), (11.0, 6.4),
    ("", "--networks relu,tanh --depth 40", "--networks sigmoid --depth 10 --language zh"),
)  # fmt: skip
