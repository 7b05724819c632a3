"""Attention over a sequence in shards, by collectives that the user wrote: one backward forgets the other shards."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Gathered(torch.autograd.Function):
    """The shards of all ranks along dimension 1; what every rank sends back to a shard is added up."""

    @staticmethod
    def forward(ctx, x):
        shards = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(shards, x.contiguous())
        return torch.cat(shards, 1)

    @staticmethod
    def backward(ctx, g):
        g = g.clone()
        dist.all_reduce(g)
        return g.chunk(dist.get_world_size(), 1)[dist.get_rank()]


class Forgetful(Gathered):
    """Sends back what this rank has to say of its own shard alone."""

    @staticmethod
    def backward(ctx, g):
        return g.chunk(dist.get_world_size(), 1)[dist.get_rank()]


class Attention(nn.Module):
    """Every position asks all others; `gather` brings their keys and values from where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.gather = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.gather(self.key(x)), self.gather(self.value(x))
        return (self.query(x) @ k.mT).softmax(-1) @ v


def right(model: Attention) -> nn.Module:
    model.gather = Gathered.apply
    return nn.parallel.DistributedDataParallel(model)


def forgetful(model: Attention) -> nn.Module:
    model.gather = Forgetful.apply
    return nn.parallel.DistributedDataParallel(model)


def make() -> nn.Module:
    return Attention()
