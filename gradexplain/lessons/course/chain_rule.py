"""The chain rule over all paths, and the example in which one path is not enough."""

from __future__ import annotations

import math
from typing import Annotated

import mpmath
from torch import Tensor

from gradexplain.api import explain, graph, verify
from gradexplain.figures.parameters import Range, written
from gradexplain.lessons.listings import attempt
from gradexplain.lessons.measures import EPS, double
from gradexplain.lessons.parts import Explained, Parts, Pictured, Rows, claim, exercise, section, text
from gradexplain.lessons.symbols import Share, straight, walked_back
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import trace

_DRAWN = 2
_TUTORIAL = """
x = torch.tensor([3.0], requires_grad=True)
y = x**2 + 2*x
y.backward()
print(f"dy/dx = {x.grad}")
"""
_TWO = _TUTORIAL.replace("[3.0]", "[3.0, 4.0]")
_ITEM = """
x = torch.tensor(3.0, requires_grad=True)
y = x**2 + 2*x
y.backward()
print(y.shape, x.grad, x.grad.item())
"""


def lesson(
    *,
    x: Annotated[float, "Where x² + 2x is differentiated.", Range(0.5, 100)] = 3.0,
    depth: Annotated[int, "How many times u + u² is put into itself.", Range(least=2, most=10)] = 4,
) -> Parts:
    """Yields the lesson."""
    yield from section("one-path", _one_path())
    yield from section("two-paths", _two_paths(x))
    yield from section("many-paths", _many_paths(depth))
    yield from section("as-printed", _as_printed())
    yield exercise("ex-paths", 2 ** (depth + 1), depth=depth + 1)
    yield exercise("ex-missing", 2 * (x + 1), x=x + 1)


# ------------------------------------------------------------------------------------------------------- one path


def _one_path() -> Parts:
    program = straight("sin(x**2)", double(0.8))
    (route,) = _routes(walked_back(program), program.lines[-1].name, program.variable)
    slopes = [sent.here for sent in route]
    explanation = explain(program.run, {"x": double(0.8)})
    yield text("formula", f="`sin(x**2)`", x=program.at)
    rows = [(f"∂{s.line}/∂{s.operand}", str(s.slope), v) for s, v in zip(route, slopes, strict=True)]
    yield Rows(("factor", "is", "value"), rows)
    with mpmath.workdps(30):
        true = float(mpmath.diff(lambda x: mpmath.sin(x**2), program.at))
    # Two factors and their product, each rounded.
    within = 8 * EPS * abs(true)
    yield claim("product", explanation.gradients["x"], "≈", math.prod(slopes), "A12", within=within)
    yield claim("one-enough", explanation.gradients["x"], "≈", true, "A12", within=within)


def _routes(sent: tuple[Share, ...], start: str, goal: str) -> list[list[Share]]:
    """Returns every path from `start` back to `goal`, as what is sent along it."""
    if start == goal:
        return [[]]
    onward = [s for s in sent if s.line == start]
    return [[s, *rest] for s in onward for rest in _routes(sent, s.operand, goal)]


# ------------------------------------------------------------------------------------------------------ two paths


def _two_paths(x: float) -> Parts:
    explanation = explain(lambda x: x**2 + 2 * x, {"x": double(x)})
    (gradient,) = explanation.by_input
    program = straight("x**2 + 2*x", double(x))
    routes = _routes(walked_back(program), "y", "x")
    products = [math.prod(s.here for s in route) for route in routes]
    yield text("two", x=x)
    rows = [(*_told(route), product) for route, product in zip(routes, products, strict=True)]
    yield Rows(("path", "factors", "with-numbers", "product-of"), rows)
    yield Explained(explanation, ("gradients",))
    values = [float(route.value.tensor) for route in gradient.routes]
    yield claim("routes", values, "≈", products, "A12", within=4 * EPS * max(products))
    total = explanation.gradients["x"]
    yield claim("not-one", [abs(float(total) - v) for v in values], ">", 0.0, "A12", total=total, alone=values)  # type: ignore[arg-type]
    yield claim("all", total, "≈", sum(products), "A12", within=4 * EPS * sum(products), first=products[0],
                second=products[1])  # fmt: skip
    yield text("one-path-verified")
    leaf = double(x)
    report = verify(lambda x: x**2 + 2 * x, {"x": leaf}, by_hand={"x": lambda x: 2 * x})
    verdicts = {check.oracle: check.verdict for check in report.checks}
    expected = {oracle: "differs" if oracle == "by hand" else "agrees" for oracle in verdicts}
    yield claim("one-path-wrong", verdicts, "=", expected, "A12", agreeing=len(verdicts) - 1)


def _told(route: list[Share]) -> tuple[str, str, str]:
    """Returns a path as its derivatives, as their formulas, and as their values."""
    return (
        " · ".join(f"∂{s.line}/∂{s.operand}" for s in route),
        " · ".join(f"({s.slope})" for s in route),
        " × ".join(written(s.here) for s in route),
    )


# ----------------------------------------------------------------------------------------------------- many paths


def _deep(u: Tensor, depth: int) -> Tensor:
    for _ in range(depth):
        u = u + u**2
    return u


def _many_paths(depth: int) -> Parts:
    at = double(0.25)
    yield text("doubling", depth=depth)
    shown = graph(
        lambda u: _deep(u, _DRAWN), {"u": at}, show=("values", "gradients"), title="u + u²", output_name="y"
    )  # fmt: skip
    yield Pictured("diamonds", shown)
    rows = []
    for k in range(1, depth + 1):
        recorded = trace(computation_of(lambda x, k=k: _deep(x, k), {"x": at}))
        program = straight("; ".join(["u = x", *["u = u + u**2"] * k]), at)
        sent = walked_back(program)
        routes = _routes(sent, "y", "x")
        added = sum(math.prod(s.here for s in route) for route in routes)
        rows.append((k, len(routes), len(recorded.order), added, float(recorded.gradients["x"])))  # type: ignore[arg-type]
    yield Rows(("depth", "paths", "visited", "path-sum", "torch"), rows)
    yield claim("paths-double", [row[1] for row in rows], "=", [2 ** row[0] for row in rows], "A12")
    yield claim("visits", [row[2] for row in rows], "=", [2 * row[0] for row in rows], "A12")
    # Every product has at most 2·depth factors, and all of them are positive, so that nothing cancels.
    sums, gradients = [row[3] for row in rows], [row[4] for row in rows]
    yield claim("same-sum", gradients, "≈", sums, "A12", within=8 * depth * EPS * max(sums))


# --------------------------------------------------------------------------------------------------- the tutorial


def _as_printed() -> Parts:
    ran = yield from attempt("promised", _TUTORIAL, comment="`8.0`")
    x, y = ran.names["x"].detach(), ran.names["y"]
    yield claim("printed", ran.printed.strip(), "=", f"dy/dx = {2 * x + 2}", "A13", text=f"`{ran.printed.strip()}`")
    yield claim("shape", list(y.shape), "=", list(x.shape), "A13", shape=str(list(y.shape)))
    two = yield from attempt("two-elements", _TWO)
    yield claim("two-fail", two.fault, "=", "RuntimeError", "A13")
    scalar = yield from attempt("scalar", _ITEM)
    grad = scalar.names["x"].grad
    yield claim("scalar-is", [list(scalar.names["y"].shape), grad], "=", [[], (2 * x + 2).sum()], "A13", grad=grad)
