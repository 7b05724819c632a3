"""The graph that torch builds while the code runs, and the two passes through it."""

from __future__ import annotations

from typing import Annotated, Any

import sympy as sp
import torch
from torch import Tensor

from gradexplain.api import explain, graph
from gradexplain.explanation.explanation import Explanation
from gradexplain.figures.parameters import Range
from gradexplain.lessons.listings import run_listing
from gradexplain.lessons.measures import EPS, double
from gradexplain.lessons.parts import Explained, Parts, Pictured, Rows, claim, exercise, section, text
from gradexplain.narration.explanations import short_operator
from gradexplain.targets.expression import parse
from gradexplain.targets.interpreter import Runner

_LINES = ("a = x**2", "b = 2*x", "y = a + b")
_UNUSED = "c = torch.sin(b)"


def lesson(*, x: Annotated[float, "The input.", Range(-100, 100)] = 3.0) -> Parts:
    """Yields the lesson."""
    run = Runner(parse("; ".join(_LINES)))
    explanation = explain(run, {"x": double(x)}, locate=run.locate, target="x**2 + 2*x")
    yield from section("while-running", _line_by_line(x))
    yield from section("picture", _picture(run, explanation, x))
    yield from section("forward-head", _forward(explanation, x))
    yield from section("backward-head", _backward(explanation, x))
    yield exercise("ex-nodes", _asked())
    yield exercise("ex-add", 2 * (x + 1) + 2, x=x + 1)


# --------------------------------------------------------------------------------------------------- define by run


def _line_by_line(x: float) -> Parts:
    yield text("before", x=x)
    names: dict[str, Any] = {"torch": torch, "x": torch.tensor(x, dtype=torch.float64, requires_grad=True)}
    start = len(_reached([names["x"]]))
    rows, counts = [], []
    for line in (*_LINES, _UNUSED):
        names = dict(run_listing(line, names).names)
        made = names[line.partition(" ")[0]].grad_fn
        counts.append(len(_reached([v for v in names.values() if isinstance(v, Tensor)])))
        before = [node.name().rpartition("::")[2] for node, _ in made.next_functions if node is not None]
        rows.append((f"`{line}`", made.name(), ", ".join(before), counts[-1]))
    yield Rows(("line", "node", "points-to", "so-far"), rows)
    yield claim("one-a-line", counts, "=", [start + k for k in range(1, len(counts) + 1)], "A8", start=start)
    yield claim("unused", len(_reached([names["y"]])), "=", len(_LINES), "A8", line=f"`{_UNUSED}`")


def _reached(tensors: list[Tensor]) -> set[Any]:
    """Returns all nodes behind tensors, without the leaves'."""
    nodes, waiting = set(), [t.grad_fn for t in tensors]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes and "AccumulateGrad" not in node.name():
            nodes.add(node)
            waiting += [before for before, _ in node.next_functions]
    return nodes


def _asked() -> int:
    x = torch.ones((), requires_grad=True)
    return len(_reached([(x + 1) ** 2 * torch.sin(x)]))


# ------------------------------------------------------------------------------------------------------ the picture


def _picture(run: Runner, explanation: Explanation, x: float) -> Parts:
    yield text("as-drawn", drawn="`[x] → [x²] → [+] → [y]`")
    leaf = double(x)
    shown = graph(run, {"x": leaf}, show=("values", "gradients"), title="x**2 + 2*x", locate=run.locate)
    yield Pictured("as-built", shown)
    nodes = [step.node for step in explanation.steps]
    yield claim(
        "names", nodes, "=", [f"{short_operator(step).capitalize()}Backward0" for step in explanation.steps], "A9"
    )
    arriving = _arriving(explanation, "x")
    symbol = sp.Symbol("x")
    slopes = [float(sp.diff(part, symbol).subs(symbol, sp.Rational(x))) for part in (symbol**2, 2 * symbol)]
    yield claim("two-arrive", arriving, "=", slopes, "A9")
    yield claim("they-add", explanation.gradients["x"], "=", sum(slopes), "A9", first=slopes[0], second=slopes[1])


def _arriving(explanation: Explanation, name: str) -> list[float]:
    """Returns what is sent to a value, in the order of the steps that send it."""
    sent = [c for step in explanation.steps for c in step.contributions if c.to == name]
    return [float(c.value.tensor) for c in sent if c.value is not None]


# ------------------------------------------------------------------------------------------------------ the passes


def _forward(explanation: Explanation, x: float) -> Parts:
    yield text("forward-why")
    yield Explained(explanation, ("forward",))
    values = [float(step.forward.tensor) for step in explanation.steps if step.forward is not None]
    square, double = x * x, 2 * x
    yield claim("forward-values", values, "≈", [square, double, square + double], "A10",
                within=2 * EPS * (square + abs(double)), a=square, b=double, y=values[-1])  # fmt: skip


def _backward(explanation: Explanation, x: float) -> Parts:
    yield text("backward-why")
    yield Explained(explanation, ("backward", "gradients"))
    visited = [step.name for step in sorted(explanation.steps, key=lambda step: step.order or 0)]
    yield claim("reversed", visited, "=", [step.name for step in reversed(explanation.steps)], "A11")
    arrives = [float(step.cotangent.tensor) for step in explanation.steps[:-1] if step.cotangent is not None]
    a, b = sp.symbols("a b")
    yield claim("ones", arrives, "=", [float(sp.diff(a + b, part)) for part in (a, b)], "A11")
    # Two values of about x² + 2x, each rounded, over twice the step.
    h = 2.0**-10
    within = 8 * EPS * (x * x + 2 * abs(x) + 1) / h
    yield claim("whole", explanation.gradients["x"], "≈", _central(x, h), "A11", within=within)


def _central(x: float, h: float) -> float:
    """Returns the slope of x² + 2x by a central difference, which has no truncation error for a parabola."""
    return (((x + h) ** 2 + 2 * (x + h)) - ((x - h) ** 2 + 2 * (x - h))) / (2 * h)
