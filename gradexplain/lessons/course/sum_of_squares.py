"""y = sum(x**2) from its definition to the printed gradient: steps, both graphs, the derivation, and `.data`."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
from typing import Annotated, Any

import torch
from torch import Tensor

from gradexplain.api import explain, graph, verify
from gradexplain.figures.parameters import Count, Range
from gradexplain.graphs.picture import Picture
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import double, gradient
from gradexplain.lessons.parts import (
    Explained,
    Parts,
    Pictured,
    Ran,
    Rows,
    claim,
    columns,
    exercise,
    section,
    text,
    verdict,
)
from gradexplain.narration.explanations import elements_text

_IMPORTS = """
import torch
import matplotlib.pyplot as plt
import numpy as np
"""
_PART_1 = """
x = torch.tensor([1., 2., 3.], requires_grad=True)
y = torch.sum(x**2)
y.backward()
print(f"x = {x.data}")
print(f"y = {y.data}")
print(f"dy/dx = {x.grad}\\n")
"""
_WITHOUT_DATA = _PART_1.replace("x.data", "x.detach()").replace("y.data", "y.item()")
_EDIT = """
x = torch.tensor([1., 2., 3.], requires_grad=True)
y = torch.sum(x**2)
x{through}.fill_(10.)
print(x._version)
y.backward()
print(x.grad)
"""
_SYMBOLIC = """
x = sympy.IndexedBase("x")
i, j, n = sympy.symbols("i j n", integer=True)
y = sympy.Sum(x[j]**2, (j, 1, n))
print(sympy.diff(y, x[i]))
"""
# What the tutorial says of its own output, line by line.
_SUM = "1² + 2² + 3² = 14.0"
_LINES = ("dy/dx₁ = 2x₁ = 2(1) = 2", "dy/dx₂ = 2x₂ = 2(2) = 4", "dy/dx₃ = 2x₃ = 2(3) = 6")
_LARGE = 1000
_HUGE = 100_000
_Numbers = tuple[float, ...]


def lesson(
    *,
    x: Annotated[_Numbers, "The elements of x.", Range(least=-1000, most=1000), Count(most=6)] = (1.0, 2.0, 3.0),
) -> Parts:
    """Yields the lesson."""
    point = double(x)
    yield from section("definition", _definition(x))
    yield from section("steps", _steps(x, point))
    yield from section("graphs", _graphs(x, point))
    yield from section("derivation", _derivation(x, point))
    yield from section("as-written", _as_written())
    yield from section("data", _data())
    other = [e + 0.5 for e in x]
    yield exercise("ex-gradient", [2 * e for e in other], x=other)
    yield exercise("ex-nodes", len(_recorded(torch.ones(_HUGE))), n=_HUGE)


def _squares(x: Tensor) -> Tensor:
    return torch.sum(x**2)


def _sum(x: Sequence[float]) -> Fraction:
    """Returns Σ xᵢ², exact."""
    return sum((Fraction(e) ** 2 for e in x), Fraction(0))


def _rounding(x: Sequence[float]) -> float:
    """Returns what adding n squares may round by: each of at most n roundings is ε/2 of at most the whole sum."""
    return len(x) * 2.0**-53 * float(_sum(x))


# ---------------------------------------------------------------------------------------------------------- the value


def _definition(x: Sequence[float]) -> Parts:
    counts = range(1, len(x) + 1)
    values = [_squares(double(x[:n])).item() for n in counts]
    yield text("n-terms", n=len(x))
    yield columns({"n": counts, "x": [list(x[:n]) for n in counts], "y": values})
    yield claim("sums", values, "≈", [float(_sum(x[:n])) for n in counts], "B1", within=_rounding(x))


def _steps(x: Sequence[float], point: Tensor) -> Parts:
    explanation = explain(_squares, {"x": point}, target="sum(x**2)")
    square, total = (step.forward.tensor for step in explanation.steps if step.forward is not None)
    squares = [float(Fraction(e) ** 2) for e in x]
    yield text("two-steps")
    yield Explained(explanation, ("forward",))
    yield claim("squared", square, "=", squares, "B3")
    yield claim("summed", total, "≈", float(_sum(x)), "B4", within=_rounding(x))


# ---------------------------------------------------------------------------------------------------------- the graph


def _recorded(x: Tensor) -> list[Any]:
    """Returns the nodes that torch recorded for sum(x**2), from the output back to the leaf, without that."""
    node, nodes = _squares(x.requires_grad_()).grad_fn, []
    while node is not None and node.next_functions:
        nodes.append(node)
        ((node, _),) = node.next_functions
    return nodes


def _graphs(x: Sequence[float], point: Tensor) -> Parts:
    shown = ["values", "gradients", "derivatives"]
    elements = graph(_squares, {"x": point}, view="elements", show=shown, title="sum(x**2)")
    tensors = graph(_squares, {"x": point}, view="backward", show=["shapes", "saved"], title="sum(x**2)")
    n = len(x)
    assert elements.tensors is not None
    yield text("one-each")
    yield Pictured("elements", elements)
    yield Pictured("tensors", tensors)
    names = [node.name for node in elements.tensors.nodes]
    own = [_stands_for(elements, k) for k in range(len(names))]
    yield text("linked")
    yield columns({"torch-node": names, "its-elements": map(", ".join, own)})
    linked = sorted(chain.from_iterable(own))
    yield claim("linked-all", linked, "=", sorted(node.name for node in elements.nodes), "B2", count=len(linked))
    drawn = [len([node for node in elements.nodes if node.kind == kind]) for kind in ("input", "element")]
    yield claim("element-nodes", drawn, "=", [n, n + 1], "B2", n=n, inputs=drawn[0], others=drawn[1])
    sent = [e.passed.contribution.elements for e in elements.edges if e.passed and e.passed.contribution]
    yield claim("element-edges", sent, "=", [2 * e for e in x] + [1.0] * n, "B2")
    total, square = _recorded(point.clone())
    yield claim("torch-nodes", [total.name(), square.name()], "=", ["SumBackward0", "PowBackward0"], "B2")
    saved = {"self": square._saved_self.detach(), "exponent": square._saved_exponent}
    yield claim("pow-saves", saved, "=", {"self": list(x), "exponent": 2}, "B2", x=list(x))
    yield claim("sum-saves", total._saved_self_sym_sizes, "=", [n], "B2")
    yield text("why-saves")
    counts = [(m, 2 * m + 1, len(_recorded(torch.ones(m)))) for m in (n, _LARGE)]
    yield text("grows")
    yield (table := Rows(("n", "drawn-nodes", "recorded"), counts))
    yield claim("two-nodes", table["recorded"], "=", [2, 2], "B2")


def _stands_for(elements: Picture, node: int) -> list[str]:
    """Returns the elements that one of torch's nodes stands for."""
    return [e.name for e in elements.nodes if e.facts is not None and e.facts.link == node]


# ----------------------------------------------------------------------------------------------------- the derivation


def _derivation(x: Sequence[float], point: Tensor) -> Parts:
    import sympy

    n = len(x)
    yield from attempt("shortcut", _SYMBOLIC, {"sympy": sympy})
    yield text("delta")
    jacobian = torch.autograd.functional.jacobian(lambda x: x**2, point)
    yield Rows(
        ("i", "row", "total", "twice"),
        [(i + 1, _crossed_out(jacobian[:, i], i), jacobian[:, i].sum(), 2 * e) for i, e in enumerate(x)],
    )
    apart = [jacobian[j, i].item() for i in range(n) for j in range(n) if i != j]
    if apart:
        yield claim("crossed-out", apart, "=", [0.0] * len(apart), "B5", count=len(apart))
    yield claim("diagonal", jacobian, "=", _by_sympy(x), "B5")
    yield claim("columns", jacobian.sum(0), "=", gradient(_squares, point), "B5")
    report = verify(_squares, {"x": point}, full=True, target="sum(x**2)")
    yield text("every-element")
    yield from verdict("agrees", report, "agrees", "B5")


def _crossed_out(terms: Tensor, own: int) -> str:
    """Returns a sum with each term but `own` that is exactly zero in brackets."""
    return " + ".join("(0)" if t == 0 and j != own else elements_text(t, 5) for j, t in enumerate(terms.tolist()))


def _by_sympy(x: Sequence[float]) -> list[list[float]]:
    """Returns ∂(x_j²)/∂x_i for row j and column i, by sympy, at exactly these numbers."""
    import sympy

    names = sympy.symbols(f"x1:{len(x) + 1}")
    at = {name: sympy.Rational(*e.as_integer_ratio()) for name, e in zip(names, x, strict=True)}
    return [[float(sympy.diff(row**2, column).subs(at)) for column in names] for row in names]


# ------------------------------------------------------------------------------------------------- the tutorial's code


def _as_written() -> Parts:
    imports = yield from attempt("imports", _IMPORTS)
    names = {name: imports.names[name] for name in ("torch", "plt", "np")}
    modules = [module.__name__ for module in names.values()]
    yield claim("imported", modules, "=", ["torch", "matplotlib.pyplot", "numpy"], "B6")
    used = {node.id for node in ast.walk(ast.parse(_PART_1)) if isinstance(node, ast.Name)} & names.keys()
    yield claim("used", sorted(used), "=", ["torch"], "B6", unused=", ".join(sorted(names.keys() - used)))
    ran = yield from attempt("part-1", _PART_1, names)
    x, y, slopes = _printed(ran)
    yield claim("prints-y", y, "=", [float(_sum(x))], "B7", "B15", x=x)
    yield claim("prints-gradient", slopes, "=", [2 * e for e in x], "B7", "B16", x=x)
    yield text("lines")
    rows = [(line, *_read(line), printed) for line, printed in zip(_LINES, slopes, strict=True)]
    yield (table := Rows(("line", "said", "recomputed", "printed"), rows))
    yield claim("three-lines", table["said"], "=", table["recomputed"], "B16")
    yield claim("three-prints", table["printed"], "=", table["recomputed"], "B16")
    terms, _, said = _SUM.partition("=")
    again = _sum([float(term) for term in re.findall(r"(\d+)²", terms)])
    yield claim("sum-line", y, "=", [float(again)], "B15", line=_SUM)
    yield claim("sum-said", float(said), "=", float(again), "B15", line=_SUM)


def _printed(ran: Ran) -> list[list[float]]:
    """Returns the numbers of each line that was printed."""
    lines = [line.partition("=")[2] for line in ran.printed.splitlines() if "=" in line]
    return [[float(number) for number in re.findall(r"-?\d+\.?\d*", line)] for line in lines]


def _read(line: str) -> tuple[float, float]:
    """Returns what a line such as `dy/dx₃ = 2x₃ = 2(3) = 6` says, and its product multiplied out again."""
    numbers = re.search(r"(\d+)\((\d+)\) = (\d+)", line)
    assert numbers is not None
    factor, element, said = map(float, numbers.groups())
    return said, factor * element


def _data() -> Parts:
    silent = yield from attempt("data-reads", _EDIT.format(through=".data"))
    x = silent.names["x"]
    yield claim("silent", (silent.fault, len(silent.warnings)), "=", ("", 0), "B7")
    yield claim("wrong", x.grad, "=", 2 * x.detach(), "B7", now=x.detach()[0])
    yield claim("not-right", x.grad, "≠", [2 * e for e in (1.0, 2.0, 3.0)], "B7")
    caught = yield from attempt("detach-counts", _EDIT.format(through=".detach()"))
    counted = [int(listing.printed.split()[0]) for listing in (silent, caught)]
    yield claim("counted", counted, "=", [0, 1], "B7", silent=counted[0], caught=counted[1])
    yield claim("caught", caught.fault, "=", "RuntimeError", "B7")
    report = verify(_edited, {"x": torch.tensor([1.0, 2.0, 3.0])})
    yield text("verify-sees")
    yield from verdict("verify-differs", report, "differs", "B7")
    better = yield from attempt("without-data", _WITHOUT_DATA)
    yield claim("prints-the-same", better.printed, "=", run_listing(_PART_1).printed, "B7")


def _edited(x: Tensor) -> Tensor:
    y = torch.sum(x**2)
    x.data.fill_(10.0)
    return y
