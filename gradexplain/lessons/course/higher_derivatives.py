"""A gradient can be differentiated again, if the graph of its computation was kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, count
from typing import TYPE_CHECKING, Annotated, Any

import torch

from gradexplain.api import explain, graph
from gradexplain.figures.parameters import Range
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import EPS
from gradexplain.lessons.parts import Drawn, Explained, Parts, Pictured, Rows, claim, exercise, section, text
from gradexplain.targets.expression import parse
from gradexplain.targets.interpreter import Runner

if TYPE_CHECKING:
    import sympy

    from gradexplain.graphs.picture import Picture


_WRITTEN = """
x = torch.tensor([2.0], requires_grad=True)
y = x**3
grad_1 = torch.autograd.grad(y, x, create_graph=True)
grad_2 = torch.autograd.grad(grad_1[0], x)
"""
_SHOWN = """
(first,) = torch.autograd.grad(y, x, create_graph=True)
(second,) = torch.autograd.grad(first, x)
print(first.item(), second.item())
"""
_WITHOUT = """
grad_1 = torch.autograd.grad(y, x)
grad_2 = torch.autograd.grad(grad_1[0], x)
"""
_STRAIGHT = """
x = torch.tensor([2.0], requires_grad=True)
grad_1 = torch.autograd.grad(2 * x, x, create_graph=True)
grad_2 = torch.autograd.grad(grad_1[0], x)
"""
_CUBE: Any = Runner(parse("x**3"))
_ORDERS = ("f", "f′", "f″", "f‴")


def lesson(*, x: Annotated[float, "Where x³ is differentiated.", Range(-1000, 1000)] = 2.0) -> Parts:
    """Yields the lesson."""
    yield from section("written", _as_written())
    yield from section("coincidence", _coincidence(x))
    yield from section("toggle", _toggled())
    yield from section("stacked", _stacked(x))
    yield exercise("ex-fourth", _exactly(_symbols("x**4")[2], 5), at=5)
    yield exercise("ex-type", "tuple")


def _symbols(written: str) -> list[sympy.Expr]:
    """Returns a function of x and its first three derivatives, by sympy."""
    import sympy as sp

    derivatives = [sp.sympify(written)]
    for _ in _ORDERS[1:]:
        derivatives.append(sp.diff(derivatives[-1], sp.Symbol("x")))
    return derivatives


def _exactly(expression: sympy.Expr, at: float) -> float:
    import sympy as sp

    return float(expression.subs(sp.Symbol("x"), sp.Rational(at)))


def _derivatives(at: float) -> list[float]:
    """Returns x³ and its first three derivatives, each by torch from the one before."""
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    derivatives = [_CUBE(x=x)]
    for _ in _ORDERS[1:]:
        derivatives += torch.autograd.grad(derivatives[-1], x, create_graph=True)
    return [f.item() for f in derivatives]


def _as_written() -> Parts:
    written = yield from attempt("tutorial", _WRITTEN)
    yield claim("prints-nothing", (written.printed, written.fault), "=", ("", ""), "A21")
    gradients = [written.names[name] for name in ("grad_1", "grad_2")]
    kinds = [(type(f).__name__, len(f)) for f in gradients]
    yield claim("tuples", kinds, "=", [("tuple", 1)] * 2, "A21")
    yield text("why-tuples")
    shown = run_listing(_SHOWN, written.names)
    yield shown
    _, first, second, _ = _symbols("x**3")
    expected = [_exactly(first, 2), _exactly(second, 2)]
    measured = [shown.names[name].item() for name in ("first", "second")]
    yield claim("right", measured, "=", expected, "A21", first=first, second=second)


def _at_x(picture: Picture) -> float:
    """Returns the gradient that stands at x in a picture."""
    (leaf,) = (node for node in picture.nodes if node.name == "x")
    assert leaf.facts is not None
    assert leaf.facts.gradient is not None
    return float(leaf.facts.gradient.elements)


def _coincidence(x: float) -> Parts:
    import sympy as sp

    formulas = _symbols("x**3")
    roots = [float(r) for r in sp.solve(sp.Eq(formulas[1], formulas[2]))]
    gaps = [first - second for _, first, second, _ in map(_derivatives, roots)]
    yield claim("same", gaps, "=", [0.0] * len(roots), "A22", roots=roots, first=formulas[1], second=formulas[2])
    yield text("bad-example")
    better = _telling_apart(formulas, x)
    here, there = _derivatives(x), _derivatives(better)
    rows = [(name, f, a, b) for name, f, a, b in zip(_ORDERS, formulas, here, there, strict=True)]
    yield Rows(("order", "formula", "at-x", "at-better"), rows)
    yield text("here-alike" if _alike(formulas, x) else "here-apart", x=x)
    last = max(roots)
    yield Drawn("curves", "curve", {"expression": "x**3", "at": last, "order": 2, "ends": (min(roots) - 1, last + 1)})
    # Every value is a product of at most four rounded factors.
    for at, values in ((x, here), (better, there)):
        expected = [_exactly(f, at) for f in formulas]
        within = 4 * EPS * max(map(abs, expected))
        yield claim("all-right", values, "≈", expected, "A21", within=within, x=at)
    yield claim("apart", len(set(there)), "=", len(_ORDERS), "A22", better=better)


def _alike(formulas: Sequence[sympy.Expr], at: float) -> bool:
    """Says whether two of the derivatives have the same value at a point."""
    return any(a == b for a, b in combinations([_exactly(f, at) for f in formulas], 2))


def _telling_apart(formulas: Sequence[sympy.Expr], x: float) -> int:
    """Returns the first whole number from the point on at which all the derivatives are different."""
    return next(at for at in count(max(1, int(x))) if not _alike(formulas, at))


def _toggled() -> Parts:
    rows = []
    for kept in (False, True):
        x = torch.tensor([2.0], requires_grad=True)
        (first,) = torch.autograd.grad(_CUBE(x=x), x, create_graph=kept)
        nodes = len(graph(first).nodes) if first.grad_fn is not None else 0
        rows.append((f"create_graph={kept}", first.detach(), first.requires_grad, nodes))
    yield text("what-it-keeps")
    yield Rows(("call", "value", "requires", "nodes"), rows)
    yield claim("same-value", rows[0][1], "=", rows[1][1], "A23")
    yield claim("needs-graph", [(row[2], row[3] > 0) for row in rows], "=", [(False, False), (True, True)], "A23")
    x = torch.tensor([2.0], requires_grad=True)
    without = yield from attempt("without", _WITHOUT, {"torch": torch, "x": x, "y": _CUBE(x=x)})
    yield claim("fails", without.fault, "=", "RuntimeError", "A23")
    straight = yield from attempt("straight", _STRAIGHT)
    yield claim("straight-fails", (straight.fault, straight.message), "=", (without.fault, without.message), "A23")


def _stacked(x: float) -> Parts:
    point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    values = [_CUBE(x=point)]
    for _ in range(2):
        values += torch.autograd.grad(values[-1], point, create_graph=True)
    shown = ("values", "gradients")
    pictures = [
        graph(v, {"x": point}, title=n, output_name=n, show=shown) for v, n in zip(values, _ORDERS, strict=False)
    ]
    names = [node.name for node in pictures[1].nodes if node.name != "x"]
    yield text("three-graphs", first=", ".join(f"`{name}`" for name in names))
    for key, picture in zip(("graph-0", "graph-1", "graph-2"), pictures, strict=True):
        yield Pictured(key, picture)
    # ∂ at x in the picture of one order is the derivative of the next.
    slopes = [_exactly(f, x) for f in _symbols("x**3")[1:]]
    within = 4 * EPS * max(map(abs, slopes))
    yield claim("next-order", [_at_x(picture) for picture in pictures], "≈", slopes, "A21", within=within)
    explanation = explain(_CUBE, {"x": point.detach()}, order=2, target="x**3", locate=_CUBE.locate)
    yield text("chain-rule-again")
    yield Explained(explanation.higher[0], ("forward", "backward"))
    yield claim("verified", explanation.verdict, "=", "agrees", "A21")
