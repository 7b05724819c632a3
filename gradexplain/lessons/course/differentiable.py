"""What can be differentiated, what only looks like it, and what happens to a formula written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor

from gradexplain.api import explain, verify
from gradexplain.explanation.explanation import Step
from gradexplain.figures.parameters import Range
from gradexplain.lessons.computations import explained
from gradexplain.lessons.listings import attempt, run_listing
from gradexplain.lessons.measures import double, gradient
from gradexplain.lessons.parts import Explained, Parts, Rows, Verified, claim, exercise, section, text
from gradexplain.rules.registry import rule_of
from gradexplain.targets.expression import parse
from gradexplain.targets.interpreter import Runner

Kind = Literal["smooth", "kink", "flat", "none"]
# A step in binary, so that the slopes of piecewise linear functions come out exactly.
_H = 2.0**-20


def lesson(
    *,
    start: Annotated[int, "Where the loop starts.", Range(1, 9)] = 3,
    factor: Annotated[float, "The wrong factor of the derivative written by hand.", Range(2, 9)] = 2.0,
) -> Parts:
    """Yields the lesson."""
    yield from section("operations", _operations())
    yield from section("flat-head", _flat())
    yield from section("path", _path())
    yield from section("control", _control(start))
    yield from section("by-hand", _by_hand(factor))
    yield exercise("ex-largest", _share(4), n=4)
    yield exercise("ex-loop", float(2 ** (_passes(3 * start))), start=3 * start)


# ------------------------------------------------------------------------------------------- one operation at a time

OPERATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sin(x)": torch.sin,
    "exp(x)": torch.exp,
    "relu(x)": torch.relu,
    "abs(x)": torch.abs,
    "maximum(x, 1)": lambda x: torch.maximum(x, torch.ones_like(x)),
    "clamp(x, 0, 1)": lambda x: torch.clamp(x, 0, 1),
    "round(x)": torch.round,
    "sign(x)": torch.sign,
    "floor(x)": torch.floor,
    "argmax([x, 1])": lambda x: torch.argmax(torch.stack([x, torch.ones_like(x)])),
    "x > 0": lambda x: x > 0,
}
PLACES = {"maximum(x, 1)": 1.0, "clamp(x, 0, 1)": 1.0, "relu(x)": 0.0, "abs(x)": 0.0}
ELSEWHERE = 0.7


def _slopes(f: Callable[[Tensor], Tensor], at: float) -> tuple[float, float, float | None]:
    """Returns the slope of the values on the left and on the right, and torch's derivative; `None` without any."""
    x = double(at)
    here, left, right = (float(f(x + step)) for step in (0, -_H, _H))
    leaf = x.clone().requires_grad_()
    y = f(leaf)
    slope = float(torch.autograd.grad(y, leaf)[0]) if y.requires_grad else None
    return (here - left) / _H, (right - here) / _H, slope


def _share(count: int) -> float:
    """Returns the derivative, by one of them, of the largest of some equal numbers."""
    return float(gradient(torch.amax, torch.ones(count))[0])


def _kind(left: float, right: float, slope: float | None) -> Kind:
    """Returns the kind of an operation at a point by what was measured there."""
    if slope is None:
        return "none"
    if left == right == slope == 0:
        return "flat"
    # Of a smooth function, the slopes on both sides differ by its curvature times the step.
    return "smooth" if abs(left - right) < 16 * _H else "kink"


def _operations() -> Parts:
    measured = {name: (PLACES.get(name, ELSEWHERE), *_slopes(f, PLACES.get(name, ELSEWHERE)))
             for name, f in OPERATIONS.items()}  # fmt: skip
    yield text("measured")
    rows = [
        (f"`{name}`", at, left, right, text("no-number") if slope is None else slope, text(_kind(left, right, slope)))
        for name, (at, left, right, slope) in measured.items()
    ]
    yield Rows(("operation", "at", "left", "right", "torch", "kind"), rows)
    kinks = {name: row[1:] for name, row in measured.items() if _kind(*row[1:]) == "kink"}
    yield claim("kinks-are", sorted(kinks), "=", sorted(PLACES), "A6", names=", ".join(f"`{n}`" for n in kinks))
    between = [
        min(left, right) <= slope <= max(left, right) for left, right, slope in kinks.values() if slope is not None
    ]
    yield claim("between", between, "=", [True] * len(PLACES), "A6")
    yield claim("relu-is", kinks["relu(x)"][2], "=", kinks["relu(x)"][0], "A6")
    yield claim("middle", [kinks[n][2] for n in ("abs(x)", "maximum(x, 1)")], "=",
                [sum(kinks[n][:2]) / 2 for n in ("abs(x)", "maximum(x, 1)")], "A6")  # fmt: skip
    *beside, taken = kinks["clamp(x, 0, 1)"]
    yield claim("clamp-is", taken in beside, "=", True, "A6", taken=taken)
    smooth = [_slopes(torch.relu, x)[2] for x in (-ELSEWHERE, ELSEWHERE)]
    yield claim("away", smooth, "=", [_slopes(torch.relu, x)[0] for x in (-ELSEWHERE, ELSEWHERE)], "A6", at=ELSEWHERE)


# -------------------------------------------------------------------------------------------- zero and no gradient


_ARGMAX = """
x = torch.tensor([0.7, 1.0], requires_grad=True)
y = torch.argmax(x)
print(y.dtype, y.requires_grad)
y.backward()
"""


def _flat() -> Parts:
    x = torch.linspace(0.0, 3.0, 301, dtype=torch.float64, requires_grad=True)
    y = torch.round(x)
    (slopes,) = torch.autograd.grad(y.sum(), x)
    rise = float((y[-1] - y[0]).detach())
    yield text("silent")
    yield claim("flat-all", slopes.abs().max(), "=", 0.0, "A6", count=len(x))
    yield claim("rises", rise, "≠", float(torch.trapezoid(slopes, x.detach())), "A6")
    tried = yield from attempt("whole-numbers", _ARGMAX)
    yield claim("argmax-fails", tried.fault, "=", "RuntimeError", "A6")


# --------------------------------------------------------------------------------------------------------- a path

_THROUGH = "exp(x) * relu(x - 1) + round(3 * exp(x))"


def _path() -> Parts:
    run, at = Runner(parse(_THROUGH)), 1.0
    explanation = explained(_THROUGH, {"x": double(at)})
    at_kink = {finding.data["code"] for finding in explanation.findings if finding.code == "kink"}
    kinds = [_step_kind(step, at_kink) for step in explanation.steps]
    yield text("each-step", x=at, f=_THROUGH)
    values = [step.forward.tensor if step.forward else None for step in explanation.steps]
    rows = [(f"`{s.code}`", v, text(k)) for s, v, k in zip(explanation.steps, values, kinds, strict=True)]
    yield Rows(("operation", "value", "kind"), rows)
    yield claim("path-kinds", [kinds.count(k) for k in ("kink", "flat")], "=", [1, 1], "A6", count=len(kinds))
    yield Explained(explanation, ("findings",))
    left, right, slope = _slopes(lambda x: run(x=x), at)  # type: ignore[arg-type, return-value]
    yield claim("whole-path", slope, "≈", left, "A6", within=16 * _H, right=right)


def _step_kind(step: Step, at_kink: set[str]) -> Kind:
    """Returns the kind of a recorded operation: by its rule, and by whether it stands at a kink here."""
    rule = rule_of(step.operator)
    if rule is not None and rule.slopes and set(rule.slopes.values()) == {"0"}:
        return "flat"
    return "kink" if step.code in at_kink else "smooth"


# ----------------------------------------------------------------------------------------------- loops and branches


def _passes(x: float) -> int:
    count = 0
    while x < 100:
        x, count = 2 * x, count + 1
    return count


def _control(start: int) -> Parts:
    code = """
def f(x):
    while x < 100:
        x = 2 * x if x > 0 else -x
    return x
"""
    ran = yield from attempt("any-python", code)
    f = ran.names["f"]
    rows = []
    for x in (start, start * 8, -start):
        steps = explain(f, {"x": double(float(x))}).steps
        left, _, slope = _slopes(f, x)
        rows.append((x, len(steps), left, slope))
    yield Rows(("x", "recorded", "left", "torch"), rows)
    yield claim("loops", [row[3] for row in rows], "=", [row[2] for row in rows], "A6")
    # One operation for each doubling, and one for the change of sign.
    expected = [_passes(start), _passes(start * 8), _passes(start) + 1]
    yield claim("lengths", [row[1] for row in rows], "=", expected, "A6")
    # Where the number of passes jumps, the function jumps, and the derivative of one branch cannot know.
    edge = 100 / 2.0**4
    jump = float(f(torch.tensor(edge - _H)) - f(torch.tensor(edge)))
    _, right, slope = _slopes(f, edge)
    yield claim("jumps", jump, "≈", 100.0, "A6", within=32 * _H, edge=edge)
    yield claim("edge-slope", slope, "=", right, "A6")


# ------------------------------------------------------------------------------------------------------- by hand


def _by_hand(factor: float) -> Parts:
    code = f"""
class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 2 * x / {factor:g}

x = torch.tensor([1., 2., 3.], requires_grad=True)
Square.apply(x).sum().backward()
print(x.grad)
"""
    ran = yield from attempt("written", code)
    x = ran.names["x"].detach()
    yield claim("accepted", (ran.fault, list(ran.warnings)), "=", ("", []), "A7")
    yield claim("wrong", ran.names["x"].grad, "≠", 2 * x, "A7", true=2 * x)
    report = verify(lambda x: ran.names["Square"].apply(x).sum(), {"x": x}, target="sum(Square(x))")
    yield text("verified")
    yield Verified(report)
    named = ", ".join(operation.label for operation in report.wrong())
    yield claim("named", [report.verdict, named], "=", ["differs", "Square"], "A7", verdict=report.verdict,
                named=f"`{named}`")  # fmt: skip
    fixed = run_listing(code.replace(f" / {factor:g}", ""))
    again = verify(lambda x: fixed.names["Square"].apply(x).sum(), {"x": x})
    grad = fixed.names["x"].grad
    yield claim("righted", [again.verdict, grad], "=", ["agrees", 2 * x], "A7", grad=grad)
