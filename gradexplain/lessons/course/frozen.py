"""`requires_grad` set sensibly: what disappears when parameters are frozen, and where freezing saves nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from gradexplain.api import graph, verify
from gradexplain.figures.parameters import Range
from gradexplain.graphs.picture import Picture
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import SINGLE, alive, bytes_of, operators, watched
from gradexplain.lessons.parts import Parts, Pictured, Rows, claim, exercise, section, text, verdict

_FROZEN = """
net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
net[0].requires_grad_(False)
net(torch.ones(4, 2)).sum().backward()
for name, parameter in net.named_parameters():
    print(name, None if parameter.grad is None else tuple(parameter.grad.shape))
"""
_STALE = """
layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
layer(torch.ones(1, 2)).sum().backward()
layer.requires_grad_(False)
before = layer.weight.clone()
optimizer.step()
print(torch.equal(before, layer.weight))
"""
_ROWS, _WIDTH = 16, 8


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of the network with some of its layers frozen."""

    picture: Picture
    gradients: dict[str, Tensor | None]
    products: int
    bytes: int


def lesson(
    *,
    layers: Annotated[int, "Layers of the network.", Range(3, 8)] = 4,
    frozen: Annotated[int, "How many of them are frozen.", Range(1, 2)] = 2,
) -> Parts:
    """Yields the lesson."""
    yield from section("none", _none())
    passes = {
        "all-trained": _passed(layers, ()),
        "first-frozen": _passed(layers, range(frozen)),
        "last-frozen": _passed(layers, range(layers - frozen, layers)),
    }
    yield from section("nodes", _nodes(passes, layers, frozen))
    yield from section("saves", _saved(passes, layers, frozen))
    yield from section("same", _same(passes, layers, frozen))
    yield from section("stale", _stale())
    yield exercise("ex-products", _passed(6, range(5)).products, layers=6, frozen=5)
    yield exercise("ex-grad", "None")


def _none() -> Parts:
    tried = yield from attempt("freeze", _FROZEN)
    net = tried.names["net"]
    without = [name for name, p in net.named_parameters() if p.grad is None]
    yield claim("frozen-none", without, "=", [n for n in dict(net.named_parameters()) if n.startswith("0.")], "A37")
    yield text("looks-like")


def _network(layers: int, frozen: Collection[int]) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(_WIDTH, _WIDTH, bias=False), nn.Tanh())))
    for layer in frozen:
        net[2 * layer].requires_grad_(False)
    return net


def _passed(layers: int, frozen: Collection[int]) -> Pass:
    net, batch = _network(layers, frozen), torch.linspace(-1, 1, _ROWS * _WIDTH).reshape(_ROWS, _WIDTH)
    with watched() as kept:
        loss = net(batch).square().sum()
    picture, size = graph(loss, title="sum(net(x)**2)", output_name="loss"), bytes_of(alive(kept))
    counted = operators(loss.backward)
    return Pass(picture, {name: p.grad for name, p in net.named_parameters()}, counted["mm"], size)


def _nodes(passes: dict[str, Pass], layers: int, frozen: int) -> Parts:
    yield text("rule", layers=layers, frozen=frozen)
    for name, run in passes.items():
        yield Pictured(name, run.picture)
    trained = range(layers)
    expected = {
        "all-trained": _recorded(layers, trained),
        "first-frozen": _recorded(layers, trained[frozen:]),
        "last-frozen": _recorded(layers, trained[: layers - frozen]),
    }
    nodes = {name: len(run.picture.nodes) for name, run in passes.items()}
    yield claim("count", list(nodes.values()), "=", list(expected.values()), "A37", gone=_gone(nodes))


def _gone(nodes: dict[str, int]) -> list[int]:
    return [nodes["all-trained"] - nodes[name] for name in ("first-frozen", "last-frozen")]


def _recorded(layers: int, trained: Collection[int]) -> int:
    """Returns how many nodes there are by the rule alone: an operation has one if something before it is trained.

    A layer is a transposed weight, a product and tanh; the loss is a square and a sum.
    """
    first = min(trained)
    transposes = leaves = len(trained)
    return leaves + transposes + 2 * (layers - first) + 2


def _saved(passes: dict[str, Pass], layers: int, frozen: int) -> Parts:
    rows = [(text(name), len(run.picture.nodes), run.products, run.bytes) for name, run in passes.items()]
    yield text("two-products")
    yield Rows(("network", "nodes-of", "products", "bytes"), rows)
    # Each trained weight takes one product; so does each value behind the first trained weight.
    expected = [2 * layers - 1, 2 * (layers - frozen) - 1, 2 * layers - 1 - frozen]
    yield claim("products-counted", [run.products for run in passes.values()], "=", expected, "A37")
    sizes = [run.bytes for run in passes.values()]
    yield claim("first-lighter", sizes[1], "<", sizes[0], "A37", everything=sizes[0])
    yield claim("last-heavy", sizes[2], "=", sizes[0], "A37", frozen=frozen)
    yield text("moral")


def _same(passes: dict[str, Pass], layers: int, frozen: int) -> Parts:
    everything = passes["all-trained"].gradients
    for key, network in (("first-same", "first-frozen"), ("last-same", "last-frozen")):
        own = {name: g for name, g in passes[network].gradients.items() if g is not None}
        yield claim(key, own, "=", {name: everything[name] for name in own}, "A37", count=len(own), of=layers)
    net = _network(layers, range(frozen))
    batch = torch.linspace(-1, 1, _ROWS * _WIDTH).reshape(_ROWS, _WIDTH)
    report = verify(lambda x: net(x).square().sum(), {"x": batch}, target="sum(net(x)**2)")
    yield text("verified")
    yield from verdict("right", report, "agrees", "A37")


def _stale() -> Parts:
    tried = yield from attempt("too-late", _STALE)
    layer, before = tried.names["layer"], tried.names["before"]
    # The gradient of Σ(w·x + b) by w is x, all ones here.
    yield claim("still-moves", layer.weight, "≈", before - 0.1, "A37", within=_rounding(before), before=before)
    yield text("clear-first")
    cured = run_listing(_STALE.replace("optimizer.step()", "optimizer.zero_grad()\noptimizer.step()"))
    yield claim("stays", cured.names["layer"].weight, "=", cured.names["before"], "A37")


def _rounding(before: Tensor) -> float:
    """Returns what rounding the rate and the difference to float32 can change."""
    return float(SINGLE * (before.abs().max() + 0.2))
