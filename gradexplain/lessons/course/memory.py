"""What a graph keeps, how long it keeps it, and what `no_grad` saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from gradexplain.api import graph
from gradexplain.figures.parameters import Range
from gradexplain.lessons.listings import attempt
from gradexplain.lessons.measures import SINGLE, alive, bytes_of, fastest, gradient, operators, watched
from gradexplain.lessons.parts import Parts, Pictured, Rows, claim, exercise, section, text

_FREED = """
x = torch.tensor([1.0, 2.0], requires_grad=True)
y = x.exp()
print(y.grad_fn._saved_result)
y.sum().backward()
print(y.grad_fn._saved_result)
"""
_COLUMNS, _WIDTH = 32, 64
_FLOAT = torch.finfo(torch.float32).bits // 8
_REPEATS = 20


def lesson(
    *,
    rows: Annotated[int, "Rows of the batch.", Range(8, 1024)] = 128,
    steps: Annotated[int, "Steps of the loop that sums losses.", Range(1, 20)] = 3,
) -> Parts:
    """Yields the lesson."""
    batch, weight = torch.randn(rows, _COLUMNS), (torch.randn(_COLUMNS, _WIDTH) / _COLUMNS).requires_grad_()
    yield from section("kept", _kept(batch, weight))
    yield from section("freed", _freed(batch, weight))
    yield from section("total", _summed(batch, weight, steps))
    yield from section("without", _without(batch, weight))
    yield exercise("ex-bytes", _bytes_of_exp(8), n=8)
    yield exercise("ex-nodes", _chain(10), steps=10)


def _loss(batch: Tensor, weight: Tensor) -> Tensor:
    return (torch.tanh(torch.mm(batch, weight)) ** 2).sum()


def _expected(batch: Tensor) -> int:
    """Returns the bytes of what is kept for one loss: the batch, and the result of tanh."""
    return _FLOAT * len(batch) * (_COLUMNS + _WIDTH)


def _kept(batch: Tensor, weight: Tensor) -> Parts:
    with watched() as kept:
        loss = _loss(batch, weight)
    picture = graph(loss, {"W": weight}, show=("shapes", "saved", "bytes"), title="sum(tanh(mm(x, W))**2)")
    yield text("why-keep", rows=len(batch), columns=_COLUMNS, width=_WIDTH)
    yield Pictured("picture", picture)
    rows, total = [], 0
    for node in picture.nodes:
        for saved in (node.facts.saved if node.facts else None) or ():
            own = saved.bytes if saved.shares is None else 0
            total += own
            rows.append((node.name, saved.name, str(saved.shape), own))
    yield Rows(("node", "keeps", "shape", "bytes"), rows)
    yield text("shared")
    expected = _expected(batch)
    yield claim("bytes-kept", total, "=", expected, "A31", rows=len(batch), columns=_COLUMNS, width=_WIDTH)
    yield claim("bytes-watched", bytes_of(alive(kept)), "=", expected, "A31", count=len(alive(kept)))


def _freed(batch: Tensor, weight: Tensor) -> Parts:
    rows = []
    for retained in (False, True):
        with watched() as kept:
            loss = _loss(batch, weight)
        counts = [len(alive(kept))]
        torch.autograd.grad(loss, weight, retain_graph=retained)
        counts.append(len(alive(kept)))
        del loss
        counts.append(len(alive(kept)))
        rows.append((f"retain_graph={retained}", *counts))
    yield text("how-long")
    yield Rows(("call", "forward", "backward", "deleted"), rows)
    count = rows[0][1]
    yield claim("freed-by-backward", rows[0][1:], "=", (count, 0, 0), "A31")
    yield claim("freed-by-deletion", rows[1][1:], "=", (count, count, 0), "A31")
    freed = yield from attempt("asked", _FREED)
    yield claim("gone", freed.fault, "=", "RuntimeError", "A31")


def _summed(batch: Tensor, weight: Tensor, steps: int) -> Parts:
    ways: dict[str, Callable[[Tensor], Tensor | float]] = {
        "total += loss": lambda loss: loss,
        "total += loss.detach()": torch.Tensor.detach,
        "total += loss.item()": torch.Tensor.item,
    }
    rows = []
    for trains in (False, True):
        for way, part in ways.items():
            nodes, left = _alive_after(batch, weight, steps, part, trains=trains)
            rows.append((way, text("trains" if trains else "evaluates"), nodes, len(left), bytes_of(left)))
    yield text("running-total", steps=steps)
    yield Rows(("line", "loop", "nodes", "tensors", "bytes"), rows)
    each = len(graph(_loss(batch, weight)).nodes) - 1  # without W, which all steps share
    expected = steps * (each + 1) + 1
    yield claim("chain", [rows[0][2], rows[3][2]], "=", [expected] * 2, "A31", each=each, steps=steps, count=expected)
    with watched() as kept:
        loss = _loss(batch, weight)
    one = [len(alive(kept)), _FLOAT * len(batch) * _WIDTH]
    held = [rows[0][3], rows[0][4]]
    # The batch is one tensor for all steps; what tanh gave is kept once a step.
    expected_held = [steps * one[0], steps * one[1] + bytes_of([batch])]
    told = {"steps": steps, "count": held[0], "bytes": held[1]}
    yield claim("all-alive", held, "=", expected_held, "A31", **told)
    others = [row[2:] for row in rows if row[0] != "total += loss"]
    yield claim("none-alive", others, "=", [(0, 0, 0)] * len(others), "A31")
    yield text("cure", value=loss.detach())


def _alive_after(
    batch: Tensor, weight: Tensor, steps: int, part: Callable[[Tensor], Tensor | float], *, trains: bool
) -> tuple[int, list[Tensor]]:
    """Returns the nodes that the sum of the losses leads to, and the tensors that are still kept, when it is done."""
    total: Tensor | float = 0.0
    with watched() as kept:
        for _ in range(steps):
            loss = _loss(batch, weight)
            if trains:
                torch.autograd.grad(loss, weight)
            total = total + part(loss)
            del loss
    tracked = isinstance(total, Tensor) and total.requires_grad
    return len(graph(total).nodes) if isinstance(total, Tensor) and tracked else 0, alive(kept)


def _without(batch: Tensor, weight: Tensor) -> Parts:
    modes = {"recorded-as-usual": torch.enable_grad, "no-grad": torch.no_grad, "inference": torch.inference_mode}
    rows, values, counted = [], [], []
    for name, mode in modes.items():
        with mode(), watched() as kept:
            value = _loss(batch, weight)
        with mode():
            seconds = fastest(lambda: _loss(batch, weight), _REPEATS)
            counted.append(operators(lambda: _loss(batch, weight)))
        told = (value.grad_fn is not None, bytes_of(alive(kept)), counted[-1].total(), round(1e6 * seconds))
        rows.append((text(name), *told))
        values.append(value.item())
    yield text("not-recorded")
    yield Rows(("mode", "recorded", "bytes", "operators", "microseconds"), rows)
    yield claim("nothing-kept", [row[2] for row in rows], "=", [rows[0][2], 0, 0], "A32")
    yield claim("something-kept", rows[0][2], "=", _expected(batch), "A32")
    yield claim("same-work", counted[1:], "=", [counted[0]] * 2, "A32", count=counted[0].total())
    yield claim("same-value", values[1:], "=", values[:1] * 2, "A32", value=values[0])
    plain, slopes = weight.detach().double(), gradient(lambda w: _loss(batch, w), weight)
    h = torch.tanh(batch.double() @ plain)
    expected = batch.double().T @ (2 * h * (1 - h**2))
    sizes = batch.double().abs().T @ (2 * h.abs())
    # Sums over the columns and the rows: at most their number of roundings, of terms of at most these sizes.
    within = float((_COLUMNS + len(batch) + 8) * SINGLE * sizes.max())
    yield claim("price", float((slopes - expected).abs().max()), "<", within, "A32")


def _bytes_of_exp(n: int) -> int:
    with watched() as kept:
        y = torch.ones(n, requires_grad=True).exp()
    assert y.requires_grad
    return bytes_of(alive(kept))


def _chain(steps: int) -> int:
    w = torch.ones(1, requires_grad=True)
    total: Tensor | float = 0.0
    for _ in range(steps):
        total = total + w.sum()
    assert isinstance(total, Tensor)
    return len(graph(total).nodes)
