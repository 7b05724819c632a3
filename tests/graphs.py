"""The computations that the graph tests draw, and the bare walk that every picture is held against."""

from collections import Counter
from collections.abc import Callable
from threading import Thread
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Square(torch.autograd.Function):
    """A custom Function with two uses of one input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * g


def leaf(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).requires_grad_()


def square() -> Tensor:
    x = leaf(3)
    return (x * x).sum()


def pieces() -> Tensor:
    a, b, c = leaf(6).split(2)
    return (a * c + b).sum()


def decomposition() -> Tensor:
    u, s, v = torch.linalg.svd(leaf(3, 2), full_matrices=False)
    return s.sum() + (u @ v).sum()


def in_place() -> Tensor:
    y = leaf(4).clone()
    y[1:].mul_(3)
    return (y * y).sum()


def custom_at_the_end() -> Tensor:
    return Square.apply(leaf(3))


def checkpointed() -> Tensor:
    return checkpoint(lambda x: torch.tanh(x) * x, leaf(3), use_reentrant=False).sum()


def twice_differentiated() -> Tensor:
    x = leaf(3)
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    return (g * x).sum()


def branching() -> Tensor:
    x = leaf(3)
    return (x.exp() if x.sum() > 0 else x.sin()).sum()


def recurrent() -> Tensor:
    torch.manual_seed(0)
    return nn.GRU(3, 2)(torch.randn(3, 1, 3))[0].sum()


def normalised() -> Tensor:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True))(torch.randn(1, 2, 5, 5)).sum()


def joined() -> Tensor:
    x, y = leaf(2), leaf(3)
    return torch.cat([x, y, x]).prod()


def classified() -> Tensor:
    return F.cross_entropy(leaf(3, 4), torch.tensor([0, 1, 2]))


def complex_numbers() -> Tensor:
    z = torch.complex(leaf(3), leaf(2)[:1])
    return (z * z.conj()).abs().sum()


def on_several_threads() -> Tensor:
    """Each thread numbers what it records from 0, so that what is used may have a higher number than its user."""
    made = [leaf(3)]
    for _ in range(3):
        worker = Thread(target=lambda: made.append((made[-1].exp() * made[0]).sin().cos()))
        worker.start()
        worker.join()
    return (made[-1] * made[0].tanh()).sum()


PROGRAMS: list[Callable[[], Tensor]] = [
    square, pieces, decomposition, in_place, custom_at_the_end, checkpointed, twice_differentiated, branching,
    recurrent, normalised, joined, classified, complex_numbers, on_several_threads,
]  # fmt: skip


def chain(length: int) -> Tensor:
    x = torch.ones((), requires_grad=True)
    y = x
    for _ in range(length):
        y = y * 1.0001 + 0.1
    return y


def unrolled(steps: int) -> Tensor:
    """A recurrent network with shared weights and a loss at every step: two strands."""
    torch.manual_seed(0)
    shapes = [(4, 8), (8, 8), (8,), (8, 3), (3,)]
    to_state, state, shift, to_output, output = ((torch.randn(s) / 4).requires_grad_() for s in shapes)
    h, loss = torch.zeros(2, 8), torch.zeros(())
    for _ in range(steps):
        h = torch.tanh(torch.randn(2, 4) @ to_state + h @ state + shift)
        loss = loss + F.cross_entropy(h @ to_output + output, torch.tensor([0, 1]))
    return loss


def bare_walk(*roots: Tensor) -> tuple[Counter[str], Counter[tuple[str, int, str, int]], int]:
    """Returns node names, edges as (producer's name, output, consumer's name, slot), and the number of nodes."""
    nodes: dict[Any, None] = dict.fromkeys(root.grad_fn for root in roots)
    edges: Counter[tuple[str, int, str, int]] = Counter()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        for slot, (child, output) in enumerate(node.next_functions):
            if child is None:
                continue
            edges[_name(child), output, _name(node), slot] += 1
            if child not in nodes:
                nodes[child] = None
                waiting.append(child)
    return Counter(map(_name, nodes)), edges, len(nodes)


def _name(node: Any) -> str:
    return "leaf" if hasattr(node, "variable") else node.name()


def drawn_walk(picture: Any) -> tuple[Counter[str], Counter[tuple[str, int, str, int]], int]:
    """Returns the same of a picture."""
    names = ["leaf" if n.kind in ("input", "parameter") else n.name for n in picture.nodes]
    edges = Counter((names[e.producer], e.output, names[e.consumer], e.slot) for e in picture.edges)
    return Counter(names), edges, len(picture.nodes)
