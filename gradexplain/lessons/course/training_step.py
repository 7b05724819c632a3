"""One training step: what the tutorial's function lacks, and one weight followed through the loop."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from gradexplain.api import verify
from gradexplain.figures.parameters import Range
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import SINGLE, grad, trained
from gradexplain.lessons.parts import Parts, Rows, Verified, claim, exercise, section, text

_WRITTEN = """
model = torch.nn.Linear(10, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

def training_step():
    optimizer.zero_grad()
    output = model(input)
    loss = criterion(output, target)
    loss.backward()
    optimizer.step()

training_step()
"""
_RUNNABLE = """
model = torch.nn.Linear(10, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
criterion = torch.nn.MSELoss()

def training_step(batch, target):
    optimizer.zero_grad()
    output = model(batch)
    loss = criterion(output, target)
    loss.backward()
    optimizer.step()
    return loss.item()

for _ in range(3):
    print(training_step(torch.ones(4, 10), torch.zeros(4, 1)))
"""
_SHAPES = """
output = model(batch)
print(output.shape, target.shape)
loss = torch.nn.functional.mse_loss(output, target)
print(loss.item())
"""
_ROWS, _COLUMNS = 4, 10


def lesson(
    *,
    lr: Annotated[float, "The learning rate.", Range(1e-6, 1)] = 0.01,
    steps: Annotated[int, "How many steps.", Range(1, 20)] = 3,
) -> Parts:
    """Yields the lesson."""
    yield from section("written", _as_written())
    yield from section("weight", _followed(lr, steps))
    yield from section("order", _orders(lr))
    yield from section("shapes", _shapes())
    yield exercise("ex-update", 0.5 - 0.1 * -0.2, w=0.5, g=-0.2, lr=0.1, digits=2)
    yield exercise("ex-pairs", (torch.zeros(6, 1) - torch.zeros(6)).numel(), n=6)


def _batch() -> tuple[Tensor, Tensor]:
    """Returns a batch and its targets, whose law has a weight of its own for each column."""
    batch = torch.randn(_ROWS, _COLUMNS, generator=torch.Generator().manual_seed(1))
    return batch, batch @ torch.linspace(-1, 1, _COLUMNS)[:, None] + 0.5


def _model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(_COLUMNS, 1)


def _as_written() -> Parts:
    batch, target = _batch()
    names: dict[str, Any] = {"torch": torch}
    tried = yield from attempt("tutorial", _WRITTEN, names)
    builtins = inspect.getclosurevars(tried.names["training_step"]).builtins
    yield claim("builtin", (tried.fault, [*builtins.values()]), "=", ("TypeError", [input]), "A27")
    rows = []
    for name, value in (("input", batch), ("criterion", nn.MSELoss()), ("target", target)):
        names[name] = value
        tried = run_listing(_WRITTEN, names)
        rows.append((name, tried.fault or text("runs"), tried.message))
    yield text("one-by-one")
    yield Rows(("given", "fault", "says"), rows)
    yield claim("repaired", [str(row[1]) for row in rows[:2]] + [tried.fault], "=", ["NameError"] * 2 + [""], "A27")
    runnable = yield from attempt("parameters", _RUNNABLE)
    losses = list(map(float, runnable.printed.split()))
    yield claim("falls", losses[1:], "<", losses[:-1], "A27", "A28")


def _followed(lr: float, steps: int) -> Parts:
    batch, target = _batch()
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    rows, by_hand = [], []
    for k in range(1, steps + 1):
        by_hand.append(_slope(model, batch, target))
        before = model.weight[0, 0].item()
        (loss,) = trained(optimizer, lambda: nn.functional.mse_loss(model(batch), target), 1)
        g = grad(model.weight)[0, 0].item()
        rows.append((k, loss, before, g, lr * g, model.weight[0, 0].item()))
    slopes, bounds = zip(*by_hand, strict=True)
    yield text("five", lr=lr)
    yield (table := Rows(("step", "loss", "w", "g", "move", "after"), rows))
    yield claim("by-hand", table["g"], "≈", slopes, "A28", within=max(bounds))
    # The rate, the product and the difference are rounded, each by half an eps of what it is.
    within = max(SINGLE * (abs(row[4]) + abs(row[5])) for row in rows)
    moved = [w - move for w, move in zip(table["w"], table["move"], strict=True)]
    yield claim("update", table["after"], "≈", moved, "A28", within=within)
    loss_of = partial(nn.functional.mse_loss, target=target)
    yield Verified(verify(lambda x: loss_of(model(x)), {"x": batch}, target="mse_loss(model(x), target)"))


def _slope(model: nn.Linear, batch: Tensor, target: Tensor) -> tuple[float, float]:
    """Returns ∂loss/∂w of the first weight, 2/n·Σᵢ(pᵢ − tᵢ)·xᵢ, in float64, and what rounding to float32 can change.

    A sum of products of m terms is off by at most m·eps times the sum of their sizes; the prediction has one term a
    column and the bias, the sum over the rows one a row, and the difference, its square's slope and the mean one each.
    """
    x, t, w, b = (v.detach().double().numpy() for v in (batch, target, model.weight, model.bias))
    difference = x @ w.T + b - t
    sizes = np.abs(x) @ np.abs(w.T) + np.abs(b) + np.abs(t)
    slope = 2 / len(x) * float(difference[:, 0] @ x[:, 0])
    terms = _COLUMNS + 1 + _ROWS + 3
    return slope, terms * SINGLE * 2 / len(x) * float(sizes[:, 0] @ np.abs(x[:, 0]))


def _orders(lr: float) -> Parts:
    yield text("orders")
    right = _trained(lr, ("zero", "loss", "backward", "step"))
    orders = {
        "usual": right,
        "zero-last": _trained(lr, ("loss", "backward", "step", "zero")),
        "zero-late": _trained(lr, ("loss", "backward", "zero", "step")),
        "step-early": _trained(lr, ("zero", "loss", "step", "backward")),
        "no-zero": _trained(lr, ("loss", "backward", "step")),
    }
    start = _model().weight.detach()
    rows = [(text(name), (w - start).norm().item(), (w - right).norm().item()) for name, w in orders.items()]
    yield Rows(("order-of", "moved", "apart"), rows)
    yield claim("zero-anywhere", orders["zero-last"], "=", right, "A28")
    yield claim("cleared-too-soon", [orders["zero-late"], orders["step-early"]], "=", [start, start], "A28")
    yield claim("uncleared", (orders["no-zero"] - right).norm().item(), ">", 0.0, "A28")


def _trained(lr: float, order: tuple[str, ...], steps: int = 3) -> Tensor:
    """Returns the weights after a few steps of the training loop with its lines in this order."""
    batch, target = _batch()
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    state: dict[str, Tensor] = {}
    lines: dict[str, Callable[[], object]] = {
        "zero": optimizer.zero_grad,
        "loss": lambda: state.update(loss=nn.functional.mse_loss(model(batch), target)),
        "backward": lambda: state["loss"].backward(),
        "step": optimizer.step,
    }
    for _ in range(steps):
        for line in order:
            lines[line]()
    return model.weight.detach()


def _shapes() -> Parts:
    batch, target = _batch()
    flat, model = target[:, 0], _model()
    tried = yield from attempt("flat", _SHAPES, {"torch": torch, "model": model, "batch": batch, "target": flat})
    yield claim("warns", len(tried.warnings), "=", 1, "A28")
    output = tried.names["output"]
    p, t = output.detach().double().numpy()[:, 0], flat.double().numpy()
    pairs = np.mean([(a - b) ** 2 for a in p for b in t])
    # Sixteen squares are added; each is rounded, and so is every sum.
    within = (len(p) * len(t) + 3) * SINGLE * float(pairs)
    yield claim("all-pairs", tried.names["loss"].item(), "≈", float(pairs), "A28", within=within, pairs=len(p) * len(t))
    (slopes,) = torch.autograd.grad(tried.names["loss"], output)
    expected = [[2 / len(p) * (a - float(t.mean()))] for a in p]
    sizes = float(np.abs(t).max() + np.abs(p).max())
    yield claim("to-the-mean", slopes, "≈", expected, "A28", within=8 * SINGLE * sizes, n=len(p))
    yield from _learnt(batch, flat)
    yield text("cure")
    cured = run_listing(_SHAPES, {"torch": torch, "model": model, "batch": batch, "target": flat.unsqueeze(1)})
    right = float(np.mean((p - t) ** 2))
    yield claim("cured", (cured.warnings, cured.names["target"].shape), "=", ((), output.shape), "A28")
    # As above, with one square for each output; of the prediction's rounding, the square has twice its difference.
    within = (len(p) + 3) * SINGLE * right + 2 * (_COLUMNS + 1) * SINGLE * sizes * right**0.5
    yield claim("cured-loss", cured.names["loss"].item(), "≈", right, "A28", within=within)


def _learnt(batch: Tensor, target: Tensor, steps: int = 200) -> Parts:
    """Yields what a model learns from targets that lack the column: their mean, whatever the batch."""
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the one that the listing has just shown
        losses = trained(optimizer, lambda: nn.functional.mse_loss(model(batch), target), steps)
    mean, spread = float(target.double().mean()), float(target.double().var(correction=0))
    # The steps have ended where float32 ends: the predictions are sums of a product a column and the bias.
    within = 8 * (_COLUMNS + 1) * SINGLE * float(target.abs().max())
    outputs = model(batch).detach()[:, 0]
    yield claim("learns-mean", outputs, "≈", [mean] * len(outputs), "A28", within=within, steps=steps, mean=mean)
    yield claim("stays-wrong", losses[-1], "≈", spread, "A28", within=8 * len(target) ** 2 * SINGLE * spread)
