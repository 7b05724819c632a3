"""What automatic differentiation is, beside the symbolic and the numerical way."""

from __future__ import annotations

from typing import Annotated, Any

import sympy as sp
import torch
from torch import Tensor

from gradexplain.api import verify
from gradexplain.errors import InputError
from gradexplain.figures.parameters import Range, written
from gradexplain.lessons.measures import EPS, double, gradient
from gradexplain.lessons.parts import Drawn, Parts, Rows, claim, exercise, section, text
from gradexplain.lessons.symbols import Straight, gathered, straight, walked_back
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import trace
from gradexplain.targets.values import shown

_DIGITS = 50


def lesson(
    *,
    expression: Annotated[str, "A smooth function of one variable."] = "x**2 + 2*x",
    x: Annotated[float, "Where it is differentiated.", Range(-100, 100)] = 3.0,
    depth: Annotated[int, "How deep sin(x·…) is nested.", Range(least=3, most=7)] = 6,
) -> Parts:
    """Yields the lesson."""
    point = double(x)
    program = straight(expression, point)
    slope = _gradient(program, point)
    yield from section("two-programs", _programs(program, slope))
    yield from section("side-by-side", _side_by_side(program, point, slope))
    yield from section("swell", _swell(depth))
    asked = _elsewhere(program)
    yield exercise("ex-number", gathered(walked_back(asked), asked.variable), digits=4, f=expression, x=asked.at)
    yield exercise("ex-nodes", _nodes(depth + 4), depth=depth + 4)


def _gradient(program: Straight, point: Tensor) -> float:
    leaf = point.clone().requires_grad_()
    value = program(leaf)
    (slope,) = torch.autograd.grad(value, leaf)
    if not (value.isfinite() and slope.isfinite()):
        told = {"value": written(value.item()), "slope": written(float(slope))}
        raise InputError("no_slope", text=shown(program.text), x=written(program.at), **told)
    return float(slope)


def _elsewhere(program: Straight) -> Straight:
    """Returns the same program at another point, where value and derivative are finite, if one is at hand."""
    for at in (program.at + 1, program.at / 2):
        point = double(at)
        try:
            _gradient(program, point)
        except InputError:
            continue
        return straight(program.text, point)
    return program


def _rounding(program: Straight, point: Tensor) -> float:
    """Returns what the rounding of torch's own arithmetic may leave in the gradient, as `verify` bounds it."""
    report = verify(program.run, {program.variable: point}, exact=True)
    return max(check.bound for check in report.checks if check.bound is not None)


# ------------------------------------------------------------------------------------------------- the two programs


def _programs(program: Straight, slope: float) -> Parts:
    sent = walked_back(program)
    ours = gathered(sent, program.variable)
    yield text("program", f=program.text, x=program.at)
    yield Rows(("line", "computes", "value"), [(p.name, f"{p.name} = {p.formula}", p.value) for p in program.lines])
    yield text("derivative-program", out=program.lines[-1].name)
    rows = [
        (f"{s.line} → {s.operand}", s.arrives, f"∂{s.line}/∂{s.operand} = {s.slope}", s.value) for s in sent
    ]  # fmt: skip
    yield Rows(("back", "arrives", "own", "sends"), rows)
    parts = [s.value for s in sent if s.operand == program.variable]
    # Both walk the same lines in float64; what may differ is the rounding of each product and sum.
    within = 8 * EPS * len(sent) * sum(map(abs, parts))
    yield claim("walked", slope, "≈", ours, "A1", within=within, count=len(sent), f=program.text)
    around = (program.at - 3, program.at + 3)
    yield Drawn("tangent", "curve", {"expression": program.text, "at": program.at, "order": 1, "ends": around})


# --------------------------------------------------------------------------------------------------- the three ways


def _side_by_side(program: Straight, point: Tensor, slope: float) -> Parts:
    symbol = sp.Symbol(program.variable, real=True)
    derivative = sp.diff(program.expression, symbol)
    here = {symbol: sp.Rational(program.at)}
    true = float(sp.N(derivative.subs(here), _DIGITS))
    h = EPS**0.5 * max(1.0, abs(program.at))
    numerical = _difference(program, point, h)
    yield text("ways", f=program.text)
    rows = [
        (text("symbolic"), str(derivative), text("an-expression"), "–"),
        (text("numerical"), f"(f({program.variable} + h) - f({program.variable})) / h", numerical,
         abs(numerical - true)),
        (text("automatic"), text("derivative-run"), slope, abs(slope - true)),
    ]  # fmt: skip
    yield Rows(("way", "how", "gives", "error"), rows)
    told = {"f": derivative, "x": program.at, "digits": _DIGITS}
    yield claim("automatic-is", slope, "≈", true, "A2", within=_rounding(program, point), **told)
    # Taylor: the error is h·f″/2 (twice that, since f″ moves within the step), and that of two values over the step.
    bend = max(abs(float(sp.N(sp.diff(derivative, symbol).subs(symbol, at)))) for at in (program.at, program.at + h))
    noise = 4 * len(program.lines) * EPS * (max(abs(p.value) for p in program.lines) + abs(program.at * true)) / h
    yield claim("numerical-is", numerical, "≈", true, "A2", within=h * bend + noise, h=h)


def _difference(program: Straight, point: Tensor, h: float) -> float:
    return (float(program(point + h)) - float(program(point))) / h


# ---------------------------------------------------------------------------------------------------------- swell


def _swell(depth: int) -> Parts:
    x = sp.Symbol("x")
    depths = range(1, depth + 1)
    derivatives = [sp.diff(_nested(x, k, sp.sin), x) for k in depths]
    operations = [int(sp.count_ops(d)) for d in derivatives]
    nodes = [_nodes(k) for k in depths]
    shared = [_shared(d) for d in derivatives]
    yield text("nested", second=_nested(x, 2, sp.sin), derivative=derivatives[1])
    rows = list(zip(depths, operations, shared, nodes, strict=True))
    yield Rows(("depth", "operations", "operations-shared", "nodes"), rows)
    yield claim("nodes-count", nodes, "=", [2 * k for k in depths], "A2")
    ratios = [o / n for o, n in zip(operations, nodes, strict=True)]
    yield claim("swells", ratios[1:], ">", ratios[:-1], "A2", first=ratios[0], last=ratios[-1])
    yield claim("sharing", shared[1:], "<", operations[1:], "A2", count=shared[-1], all=operations[-1])
    leaf = double(0.7)
    number = gradient(lambda x: _nested(x, depth, torch.sin), leaf)
    true = sp.N(derivatives[-1].subs(x, sp.Rational(leaf.item())), 30)
    # Each of the nested functions multiplies by a factor below 2, so that each adds few roundings.
    yield claim("swollen-same", number, "≈", float(true), "A2", within=64 * depth * EPS, depth=depth)


def _nested(x: Any, depth: int, sin: Any) -> Any:
    """Returns sin(x·sin(x·… x)), `depth` times."""
    inner = x
    for _ in range(depth):
        inner = sin(x * inner)
    return inner


def _nodes(depth: int) -> int:
    recorded = trace(computation_of(lambda x: _nested(x, depth, torch.sin), {"x": torch.tensor(0.7)}))
    return sum(node.leaf is None for node in recorded.nodes)


def _shared(expression: sp.Expr) -> int:
    """Returns the operations of an expression in which no part is computed twice."""
    parts, left = sp.cse(expression)
    return int(sp.count_ops([value for _, value in parts]) + sp.count_ops(left))
