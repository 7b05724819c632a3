"""Two ways to one gradient: the examples of the guide on comparing."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, by its formula."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
    return scores.masked_fill(mask, -torch.inf).softmax(-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by torch's kernel."""
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def shifted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The mask is one place off."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(2)
    return scores.masked_fill(mask, -torch.inf).softmax(-1) @ v


def variance(x: Tensor) -> Tensor:
    """The mean square of the distances, over n."""
    return ((x - x.mean()) ** 2).mean()


def unbiased(x: Tensor) -> Tensor:
    """Over n − 1: another thing."""
    return x.var()


def labelled(x: Tensor, t: Tensor) -> Tensor:
    """A loss that leaves out what has no label."""
    return cross_entropy(x, t)


class Clipped(torch.autograd.Function):
    """exp x, with a backward that drops what it added to the forward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp() + 0.001 * x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.exp()


def grown(x: Tensor) -> Tensor:
    return (x.exp() + 0.001 * x**2).sum()


def dropped(x: Tensor) -> Tensor:
    return Clipped.apply(x).sum()


def make() -> torch.nn.Module:
    """The model of the steps below."""
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))


def sharded(model: torch.nn.Module) -> torch.nn.Module:
    """The model by FSDP2."""
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model)


def alone(model: torch.nn.Module) -> torch.nn.Module:
    """The model as it is: no rank hears of the others."""
    return model


def mean_step(model: torch.nn.Module, x: Tensor) -> Tensor:
    """A mean over the part of a rank; over ranks that is the mean of the whole, where the parts are alike."""
    return model(x).square().mean()


def sum_step(model: torch.nn.Module, x: Tensor) -> Tensor:
    """A sum over the part of a rank, of which the ranks then take the mean."""
    return model(x).square().sum()


class Straight(torch.autograd.Function):
    """Rounds; its backward is that of the identity: straight through."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


def rounded(x: Tensor) -> Tensor:
    return Straight.apply(x * 4) / 4


def identity(x: Tensor) -> Tensor:
    return x


class Spike(torch.autograd.Function):
    """A step, whose backward is that of arctan(πx)/π: a surrogate."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g / (1 + (torch.pi * x) ** 2)


class WrongSpike(Spike):
    """The same, and π was forgotten."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g / (1 + x**2)


def spikes(x: Tensor) -> Tensor:
    return Spike.apply(x)


def wrong_spikes(x: Tensor) -> Tensor:
    return WrongSpike.apply(x)


def smooth(x: Tensor) -> Tensor:
    """What spikes are differentiated as."""
    return (torch.pi * x).atan() / torch.pi


def tensor_parallel(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its first map divided by columns and its last by rows, by DTensor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def hanging_step(model: torch.nn.Module, x: Tensor) -> Tensor:
    """A step in which one rank never comes back."""
    import time

    if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
        time.sleep(600)
    return model(x).square().mean()


def failing_step(model: torch.nn.Module, x: Tensor) -> Tensor:
    """A step that one rank cannot take."""
    if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
        raise RuntimeError("no such shard")
    return model(x).square().mean()
