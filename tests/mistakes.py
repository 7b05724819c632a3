"""A loss with a custom Function whose backward is wrong in one element: README's example."""

import torch
from torch import Tensor


class Weighted(torch.autograd.Function):
    """w · x"""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return w * x

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        slope = w.clone()
        slope[1] *= 1.001
        return g * slope, g * x


def loss(x: Tensor, w: Tensor) -> Tensor:
    h = torch.tanh(x)
    return (Weighted.apply(h, w) ** 2).sum()
