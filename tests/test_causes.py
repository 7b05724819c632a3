"""Sentences that assert a cause: each is printed where its event happened, and not where it would be false."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import gradexplain as gx


def told(f: Callable[..., Any], *inputs: Tensor, language: str = "en", **options: Any) -> str:
    """Returns a verification's page as one line."""
    return " ".join(gx.verify(f, list(inputs), **options).render("text", language=language, width=2000).split())


def codes(f: Callable[..., Any], *inputs: Tensor) -> list[str]:
    return [finding.code for finding in gx.verify(f, list(inputs)).findings]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------- random numbers


class Again(Function):
    """Runs the function again in its backward, from whatever random state it finds there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        with torch.no_grad():
            return dropout(torch.tanh(x), 0.5)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.x.requires_grad_()
            return torch.autograd.grad(dropout(torch.tanh(x), 0.5), x, g)[0]


def kept(x: Tensor) -> Tensor:
    return cast(Tensor, checkpoint(lambda x: dropout(torch.tanh(x), 0.5), x, use_reentrant=False)).square().sum()


def lost(x: Tensor) -> Tensor:
    block = checkpoint(lambda x: dropout(torch.tanh(x), 0.5), x, use_reentrant=False, preserve_rng_state=False)
    return cast(Tensor, block).square().sum()


@pytest.mark.parametrize("seed", range(3))
def test_random_numbers_that_a_backward_draws_again_are_named_and_never_right(seed: int) -> None:
    """Two masks of 8 elements are the same once in 256 times: by chance a draw may drop nothing that the value kept."""
    x = torch.linspace(-1, 1, 8)
    for f in (lambda x: cast(Tensor, Again.apply(x)).square().sum(), lost):
        torch.manual_seed(seed)
        report = gx.verify(f, [x])
        page = " ".join(report.render("text", width=2000).split())
        assert report.verdict == "differs"
        assert "The gradient of x is wrong: random numbers are drawn again in the backward pass of" in page
        assert "A hook" not in page
        assert "is rounding" not in page
    torch.manual_seed(seed)
    page = told(kept, x)
    assert "The gradient is right" in page
    assert "drawn again" not in page


def test_what_may_draw_and_does_not_is_not_called_random() -> None:
    q = normal(1, 1, 3, 4)
    assert "random" not in codes(lambda q: scaled_dot_product_attention(q, q, q), q)
    assert "random" not in codes(lambda q: dropout(q, 0.5, training=False), q)
    assert "random" in codes(lambda q: dropout(q, 0.5), q)
    assert "random" in codes(lambda q: q * torch.rand(4, dtype=q.dtype), q)
    own = torch.Generator().manual_seed(3)
    assert "random" in codes(lambda q: q * torch.rand(4, dtype=q.dtype, generator=own.manual_seed(3)), q)
