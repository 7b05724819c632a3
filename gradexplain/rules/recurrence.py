"""Recurrent layers that torch runs as one operator: the steps written out, and walked back through time.

The long short-term memory, by step (Hochreiter and Schmidhuber 1997; the forget gate: Gers et al. 2000):

    i, f, o = σ(…),  g = tanh(…)  of the four parts of  W x + U h + b,      c′ = f c + i g,      h′ = o tanh c′

What arrives at h′ and c′ goes on to  ō = h̄′ tanh c′,  c̄ = c̄′ + h̄′ o (1 − tanh² c′),  f̄ = c̄ c,  ī = c̄ g,  ḡ = c̄ i,
and to the c before it, f c̄; through σ and tanh to the sums z, and from there

    W̄ += z̄ xᵀ,    Ū += z̄ hᵀ,    b̄ += z̄,    x̄ = Wᵀ z̄,    h̄ = Uᵀ z̄
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.entries import rule

LSTM = 2


@dataclass(frozen=True)
class _Step:
    """A step of the layer: what it started from, its gates i, f, g, o, and tanh of the cell that it made."""

    x: Tensor
    h: Tensor
    c: Tensor
    gates: tuple[Tensor, ...]
    lifted: Tensor


def _steps(xs: Tensor, W: Tensor, U: Tensor, b: Tensor, h: Tensor, c: Tensor) -> list[_Step]:
    made = []
    for x in xs:
        i, f, g, o = (x @ W.mT + h @ U.mT + b).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        after = f * c + i * g
        made.append(_Step(x, h, c, (i, f, g, o), after.tanh()))
        h, c = o * after.tanh(), after
    return made


def _in_order(steps: Tensor, reverse: bool) -> Tensor:
    """Returns the steps in the order of the layer, or of the sequence again."""
    return steps.flip(0) if reverse else steps


def _lstm_back(g: Any, arguments: tuple[Any, ...], wanted: int) -> Tensor:
    """Returns the gradient of one of x, W, U, the two halves of b, h and c, in the order of the operator."""
    xs, W, U, b, c_bias, h, c, reverse, mode = arguments
    if mode != LSTM:
        raise NotImplementedError(mode)
    total = 0 if b is None or not b.numel() else b + c_bias
    h, c = h.reshape(xs.shape[1], -1), c.reshape(xs.shape[1], -1)
    steps = _steps(_in_order(xs, reverse), W, U, W.new_zeros(len(W)) + total, h, c)
    outputs = [None] * len(steps) if g[0] is None else list(_in_order(g[0], reverse))
    h_bar = torch.zeros_like(h) if g[1] is None else g[1].reshape(h.shape)
    c_bar = torch.zeros_like(c) if g[2] is None else g[2].reshape(c.shape)
    W_bar, U_bar, b_bar, x_bars = torch.zeros_like(W), torch.zeros_like(U), W.new_zeros(len(W)), []
    for step, arrived in zip(reversed(steps), reversed(outputs), strict=True):
        h_bar = h_bar if arrived is None else h_bar + arrived
        i, f, gate, o = step.gates
        c_bar = c_bar + h_bar * o * (1 - step.lifted**2)
        parts = (
            c_bar * gate * i * (1 - i),
            c_bar * step.c * f * (1 - f),
            c_bar * i * (1 - gate**2),
            h_bar * step.lifted * o * (1 - o),
        )
        z_bar = torch.cat(parts, -1)
        W_bar, U_bar, b_bar = W_bar + z_bar.mT @ step.x, U_bar + z_bar.mT @ step.h, b_bar + z_bar.sum(0)
        x_bars.append(z_bar @ W)
        h_bar, c_bar = z_bar @ U, c_bar * f
    x_bar = _in_order(torch.stack(x_bars[::-1]), reverse)
    return (x_bar, W_bar, U_bar, b_bar, b_bar, h_bar, c_bar)[wanted]


def _derivative(shown: str, wanted: int) -> Any:
    """Returns the derivative by one argument of the layer, in that argument's shape."""

    def run(
        g: Any, input: Tensor, weight0: Tensor, weight1: Tensor, weight2: Any, weight3: Any, hx_: Tensor, cx_: Tensor,
        reverse: bool, mode: int,
    ) -> Tensor:  # fmt: skip
        arguments = (input, weight0, weight1, weight2, weight3, hx_, cx_)
        found = _lstm_back(g, (*arguments, reverse, mode), wanted)
        return found.reshape(arguments[wanted].shape)

    return shown, run


def _drawn(r: Any, steps: int, batch: int, inputs: int, size: int, *, reverse: bool) -> tuple[Any, ...]:
    weights = (r(4 * size, inputs), r(4 * size, size), r(4 * size), r(4 * size))
    drawn = (r(steps, batch, inputs), *weights, r(1, batch, size), r(1, batch, size))
    # there is no kernel for float64
    return (*(t.float() for t in drawn), reverse, [], LSTM, size, 1, True, False, False, True)


rule(
    "aten.mkldnn_rnn_layer",
    "c′ = f c + i g,  h′ = o tanh c′,  i, f, o = σ and g = tanh of the parts of W x + U h + b, step by step",
    input=_derivative("x̄ = Wᵀ z̄ with z the sums before σ and tanh", 0),
    weight0=_derivative("W̄ = Σ z̄ xᵀ over the steps", 1),
    weight1=_derivative("Ū = Σ z̄ hᵀ over the steps", 2),
    weight2=_derivative("b̄ = Σ z̄ over the steps", 3),
    weight3=_derivative("b̄ = Σ z̄ over the steps", 4),
    hx_=_derivative("h̄ = Uᵀ z̄ of the first step", 5),
    cx_=_derivative("c̄ = f c̄′ of the first step", 6),
    example=(
        lambda r: _drawn(r, 3, 2, 1, 2, reverse=False),
        lambda r: _drawn(r, 2, 1, 3, 2, reverse=True),
    ),
)
