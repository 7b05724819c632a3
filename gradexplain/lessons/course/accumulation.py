"""`.grad` is a ledger: every backward pass adds to it, and a freed graph cannot be walked twice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor

from gradexplain.figures.parameters import Range
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import EPS, alive, grad, watched
from gradexplain.lessons.parts import Parts, Rows, claim, columns, exercise, section, text

_TWICE = """
x = torch.tensor([1.], requires_grad=True)
y = x**2
y.backward()
print(x.grad)
y.backward()
print(x.grad)
"""
_AGAIN = """
x = torch.tensor([1.], requires_grad=True)
for _ in range(2):
    y = x**2
    y.backward()
    print(x.grad)
"""
_RETAINED = _TWICE.replace("y.backward()", "y.backward(retain_graph=True)", 1)
_NOTHING_SAVED = """
x = torch.tensor([1.], requires_grad=True)
y = x + 1
y.backward()
y.backward()
print(x.grad)
"""
_CLEARED = """
x = torch.tensor([1.], requires_grad=True)
optimizer = torch.optim.SGD([x], lr=0.1)
(x**2).backward()
optimizer.zero_grad()
print(x.grad)
print(x.grad.norm())
"""


def lesson(
    *,
    x: Annotated[float, "The input.", Range(-1000, 1000)] = 1.0,
    passes: Annotated[int, "How many backward passes.", Range(least=2, most=20)] = 3,
) -> Parts:
    """Yields the lesson."""
    yield from section("ledger", _ledger(x, passes))
    yield from section("second", _second())
    yield from section("clearing", _clearing(x))
    yield exercise("ex-passes", 2 * x * (passes + 1), x=x, passes=passes + 1)
    yield exercise("ex-none", "None")


def _ledger(x: float, passes: int) -> Parts:
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    held = [0.0]
    for _ in range(passes):
        (leaf**2).backward()
        held.append(grad(leaf).item())
    added = [after - before for before, after in pairwise(held)]
    yield text("adds", x=x)
    yield columns({"pass": range(1, passes + 1), "before": held[:-1], "contribution": added, "after": held[1:]})
    one = 2 * x
    # Each of the sums is rounded, by at most half an eps of the largest.
    within = passes * EPS * passes * abs(one)
    yield claim("contributions", added, "≈", [one] * passes, "A18", "B35", within=within, one=one)
    yield claim("sum", held[-1], "≈", passes * one, "A18", within=within, passes=passes)


def _second() -> Parts:
    tried = yield from attempt("as-written", _TWICE)
    x = tried.names["x"]
    yield claim("fails", tried.fault, "=", "RuntimeError", "A20")
    yield claim("stays", x.grad, "=", 2 * x.detach(), "A20")
    yield text("why-freed", node=tried.names["y"].grad_fn.name())
    yield from _saved()
    yield text("two-cures")
    for key, code in (("cure-forward", _AGAIN), ("cure-retain", _RETAINED)):
        cured = yield from attempt(key, code)
        x = cured.names["x"]
        yield claim("cured", x.grad, "=", 2 * (2 * x.detach()), "A20")
    silent = yield from attempt("silent", _NOTHING_SAVED)
    grad = silent.names["x"].grad
    yield claim("nothing-saved", (silent.fault, grad), "=", ("", 2 * torch.ones(1)), "A20", grad=grad)


def _saved() -> Parts:
    cases: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
        "y = x**2": (lambda x: x**2, False),
        "y = x**2, retain_graph=True": (lambda x: x**2, True),
        "y = x + 1": (lambda x: x + 1, False),
    }
    passes = {name: _second_pass(*case) for name, case in cases.items()}
    rows = [(f"`{name}`", *counts, text("runs" if runs else "stops")) for name, (*counts, runs) in passes.items()]
    yield Rows(("case", "saved-before", "saved-after", "second-pass"), rows)
    # The derivative 2x needs x, the derivative of x + 1 nothing; a pass runs where all that it needs is there.
    kept = [(needed, needed if retain else 0) for needed, (_, retain) in zip((1, 1, 0), cases.values(), strict=True)]
    expected = [(before, after, before == after) for before, after in kept]
    yield claim("saved-decides", list(passes.values()), "=", expected, "A20")


def _second_pass(f: Callable[[Tensor], Tensor], retain: bool) -> tuple[int, int, bool]:
    """Returns how many tensors are saved before and after a backward pass, and whether a second one runs."""
    x = torch.ones((), requires_grad=True)
    with watched() as kept:
        y = f(x)
    before = len(alive(kept))
    y.backward(retain_graph=retain)
    after = len(alive(kept))
    return before, after, not run_listing("y.backward()", {"y": y}).fault


def _clearing(x: float) -> Parts:
    leaf = torch.tensor(x, requires_grad=True)
    optimizer = torch.optim.SGD([leaf], lr=0.1)
    cleared: dict[str, float | None] = {}
    for name, options in (("zero_grad()", {}), ("zero_grad(set_to_none=False)", {"set_to_none": False})):
        (leaf**2).backward()
        optimizer.zero_grad(**options)
        cleared[name] = None if leaf.grad is None else leaf.grad.item()
    yield text("two-ways")
    yield Rows(("call", "grad-after"), list(cleared.items()))
    yield claim("cleared", list(cleared.values()), "=", [None, 0.0], "A19")
    read = yield from attempt("reads", _CLEARED)
    yield claim("none-read", read.fault, "=", "AttributeError", "A19")
    leaf.grad = None
    (leaf**2).backward()
    yield claim("starts-again", leaf.grad, "=", 2 * leaf.detach(), "A19", "B35")
