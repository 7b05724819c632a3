"""Stopping a gradient: what `detach`, `no_grad` and `inference_mode` cut, share and allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from gradexplain.figures.parameters import Range
from gradexplain.graphs.picture import Picture
from gradexplain.lessons.computations import explained, pictured
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import EPS, SINGLE, central, double, gradient, watched
from gradexplain.lessons.parts import Explained, Parts, Pictured, Rows, Said, claim, exercise, section, text

_WRITTEN = """
x = torch.tensor([2.0], requires_grad=True)
y = x**2
z = y.detach()
print(z.requires_grad, z.grad_fn)
"""
_WHOLE = "y = x**2; y * x"
_STOPPED = _WHOLE.replace("y *", "y.detach() *")
_SHARED = """
x = torch.tensor([2.0], requires_grad=True)
y = x**2
z = y.detach()
z.add_(100)
print(y.item())
y.backward()
print(x.grad.item())
"""
_CAUGHT = _SHARED.replace("x**2", "x.exp()")
_CLONED = _CAUGHT.replace("y.detach()", "y.detach().clone()")
_DATA = _CAUGHT.replace("y.detach()", "y.data")
_WAYS = {
    "detach": "z = (x**2).detach()",
    "no-grad": "with torch.no_grad():\n    z = x**2",
    "inference": "with torch.inference_mode():\n    z = x**2",
}
_UPDATES = {
    "detach": "x.detach().add_(1)",
    "no-grad": "with torch.no_grad():\n    x.add_(1)",
    "inference": "with torch.inference_mode():\n    x.add_(1)",
}


def lesson(*, x: Annotated[float, "Where the functions are differentiated.", Range(0.1, 10)] = 2.0) -> Parts:
    """Yields the lesson."""
    yield from section("cut", _as_written())
    yield from _cut(x)
    yield from section("memory", _shared())
    yield from section("ways", _three_ways())
    yield exercise("ex-half", _half_stopped(x), digits=5, x=x)
    yield exercise("ex-error", run_listing(_CAUGHT).fault)


def _as_written() -> Parts:
    written = yield from attempt("tutorial", _WRITTEN)
    z = written.names["z"]
    cut = (z.requires_grad, z.grad_fn)
    yield claim("stops", cut, "=", (False, None), "A24", requires_grad=cut[0], grad_fn=cut[1])


def _cut(x: float) -> Parts:
    point = {"x": double(x)}
    explanation = explained(_STOPPED, point, output_name="L")
    yield text("product", x=x)
    yield Pictured("whole", _picture(_WHOLE, point))
    yield Pictured("picture", _picture(_STOPPED, point))
    yield Explained(explanation, ("backward", "findings"))
    slope = explanation.gradients["x"]
    assert slope is not None
    # x³ and x₀²x have the third derivatives 6 and 0: h² and 0 are what is cut off; the rest is rounding of f over h.
    h = EPS ** (1 / 3) * x
    within = h**2 + 8 * EPS * (x + h) ** 3 / h
    total, intended = (central(f, x, h) for f in (lambda t: t**2 * t, lambda t: x**2 * t))
    yield Rows(("what", "slope"), [(text("of-torch"), slope.item()), (text("of-total"), total),
                                    (text("of-intended"), intended)])  # fmt: skip
    yield claim("torch-intended", slope.item(), "≈", intended, "A24", within=within)
    yield claim("total", total, "≈", 3 * x**2, "A24", within=within)
    yield claim("lost", total - slope.item(), "≈", 2 * x * x, "A24", within=within)


def _picture(code: str, point: Mapping[str, Tensor]) -> Picture:
    return pictured(code, point, show=("values", "gradients"), output_name="L")


def _shared() -> Parts:
    shared = yield from attempt("no-copy", _SHARED)
    x, y, z = (shared.names[name] for name in "xyz")
    changed = y.detach()
    yield claim("same-memory", (y.data_ptr(), changed), "=", (z.data_ptr(), z), "A25", changed=changed.item())
    yield claim("pow-right", x.grad, "=", 2 * x.detach(), "A25")
    yield text("pow-saved", node=y.grad_fn.name())
    caught = yield from attempt("exp-saved", _CAUGHT)
    fault, version = caught.fault, caught.names["y"]._version
    yield claim("counted", (fault, version), "=", ("RuntimeError", 1), "A25", fault=fault, version=version)
    cloned = yield from attempt("copy", _CLONED)
    true = math.exp(2.0)
    within = 2 * SINGLE * true  # exp is right to one unit in the last place, and is stored
    yield claim("copied", cloned.names["x"].grad.item(), "≈", true, "A25", within=within)
    silent = yield from attempt("data", _DATA)
    wrong = silent.names["x"].grad.item()
    yield claim("data-wrong", wrong, "≈", true + 100, "A25", within=50 * within, true=true)


def _three_ways() -> Parts:
    yield text("one-table")
    allowed = [_allowed(way) for way in _WAYS]
    by = {what: [ways[what] for ways in allowed] for what in allowed[0]}
    yield Rows(("what", *_WAYS), [(text(what), *map(_word, ways)) for what, ways in by.items()])
    yield claim("none-carries", by["carries"], "=", [False] * 3, "A26")
    yield claim("who-records", by["recorded"], "=", [1, 0, 0], "A26", "A32")
    later = [by[what] for what in ("later-grad", "later-saved", "later-changed")]
    yield claim("inference-refuses", later, "=", [[True, True, False]] * 3, "A26")
    yield claim("inference-adds", by["later-added"], "=", [True] * 3, "A26")
    yield claim("leaf-update", [*by["leaf-changed"], _runs("x.add_(1)")], "=", [True, True, True, False], "A26")
    yield text("which")
    x = _leaf()
    with torch.inference_mode():
        z = x**2
    (x * z.clone()).backward()
    yield claim("clone-works", x.grad, "=", x.detach() ** 2, "A26")


def _allowed(way: str) -> Mapping[str, bool | int]:
    """Returns what can be done with the `z` that was made of x in this way, and how many tensors were saved for it."""
    code = _WAYS[way]
    with watched() as kept:
        made = run_listing(code, {"torch": torch, "x": _leaf()})
    return {
        "carries": made.names["z"].requires_grad,
        "recorded": len(kept),
        "later-grad": _runs(code, "z.requires_grad_()"),
        "later-saved": _runs(code, "(x * z).backward()"),
        "later-added": _runs(code, "(x + z).backward()"),
        "later-changed": _runs(code, "z.add_(1)"),
        "leaf-changed": _runs(_UPDATES[way]),
    }


def _leaf() -> Tensor:
    return torch.tensor([2.0], requires_grad=True)


def _runs(code: str, then: str = "") -> bool:
    return run_listing(f"{code}\n{then}", {"torch": torch, "x": _leaf()}).fault == ""


def _word(value: bool | int) -> Said | int:
    return text("yes" if value else "no") if isinstance(value, bool) else value


def _half_stopped(x: float) -> float:
    return gradient(lambda x: (x**2).detach() * x**2, double(x)).item()
