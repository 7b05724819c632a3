"""Where nan gradients are born, out of which two factors, and which remedies work and which do not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gradexplain.explanation.explanation import Explanation, Step
from gradexplain.lessons.computations import explained, verified
from gradexplain.lessons.listings import attempt
from gradexplain.lessons.measures import EPS, SINGLE, double, gradient
from gradexplain.lessons.parts import Explained, Parts, Rows, claim, exercise, section, text, verdict
from gradexplain.verification.verdicts import Report

_HIDDEN = """
x = torch.tensor([0., 1., 2.], requires_grad=True)
y = torch.where(x == 0, 1., torch.sin(x) / x)
y.sum().backward()
print(y)
print(x.grad)
"""
_REPLACED = """
x = torch.tensor([0., 1., 2.], requires_grad=True)
y = torch.nan_to_num(torch.sin(x) / x, nan=1.)
y.sum().backward()
print(x.grad)
"""
_SAFE = """
x = torch.tensor([0., 1., 2.], requires_grad=True)
safe = torch.where(x == 0, 1., x)
y = torch.where(x == 0, 1., torch.sin(safe) / safe)
y.sum().backward()
print(x.grad)
"""
_ANOMALY = """
x = torch.zeros(3, requires_grad=True)
with torch.autograd.detect_anomaly():
    torch.sqrt((x * x).sum()).backward()
"""


@dataclass(frozen=True)
class _Family:
    """A computation that is nan at a point, the operator whose backward breaks, what does not help, what does.

    `gradient` is that of the last by hand.
    """

    point: tuple[float, ...]
    broken: str
    culprit: str
    useless: str
    cured: str
    gradient: tuple[float, ...]


_TINY = 0.001
_FAMILIES = (
    # the slope of a root at 0 is infinite
    _Family((0, 0), "sqrt(sum(x**2))", "aten.sqrt", "sqrt(sum(x**2)) + 0.001", "sqrt(sum(x**2) + 0.001)", (0, 0)),
    _Family((1, 1, 1), "sqrt(var(x))", "aten.sqrt", "clamp(sqrt(var(x)), min=0.001)", "sqrt(var(x) + 0.001)",
            (0, 0, 0)),
    # ln 0 is infinite, and so is its slope; by hand: ln of the smallest value allowed, and ln x + 1
    _Family((0, 0.5), "sum(x*log(x))", "aten.mul", "sum(xlogy(x, x))", "sum(x*log(clamp(x, min=0.001)))",
            (math.log(_TINY), math.log(0.5) + 1)),
    # the slope of arccos at 1 is infinite; by hand: 0 where clamp is flat, 2·arccos x·(−1/√(1 − x²))
    _Family((1, 0.5), "sum(acos(x)**2)", "aten.acos", "sum(clamp(acos(x), min=0.001)**2)",
            "sum(acos(clamp(x, max=0.999))**2)", (0, -2 * math.acos(0.5) / math.sqrt(1 - 0.5**2))),
    # 0/0; by hand: the slope of x / 0.001
    _Family((0, 0), "sum(x / norm(x))", "aten.div", "sum(nan_to_num(x / norm(x)))",
            "sum(x / clamp(norm(x), min=0.001))", (1 / _TINY, 1 / _TINY)),
    # exp overflows; by hand: the logistic function, which is 1 there to the last digit
    _Family((1000, 0), "sum(log(1 + exp(x)))", "aten.exp", "sum(log1p(exp(x)))", "sum(softplus(x))", (1, 0.5)),
    # ∞/∞; by hand: 1 where the element is itself, less the softmax, which is (1, 0) there
    _Family((1000, 0), "log(exp(x) / sum(exp(x)))[1]", "aten.log", "log(exp(x) / sum(exp(x)) + 0.001)[1]",
            "log_softmax(x, 0)[1]", (-1, 1)),
)  # fmt: skip


def lesson() -> Parts:
    """Yields the lesson."""
    yield from section("arithmetic", _arithmetic())
    yield from section("birth", _birth())
    yield from section("hidden", _hidden())
    yield from section("families", _families())
    code = "sqrt(sum(x**4))"
    yield exercise("ex-operation", _function(_born(_explained(code, (0.0, 0.0)))), code=code)
    yield exercise("ex-inside", _by_hand(3.0), digits=3, code=_SAFE.strip().splitlines()[2], x=3)


def _explained(code: str, point: tuple[float, ...]) -> Explanation:
    return explained(code, {"x": double(point)})


def _verified(code: str, point: tuple[float, ...]) -> Report:
    return verified(code, {"x": double(point)})


def _born(explanation: Explanation) -> Mapping[str, Any]:
    """Returns what is known of the backward step that made the first number that is not finite."""
    return next(f.data for f in explanation.findings if f.code.endswith("gradient-not-finite"))


def _step(explanation: Explanation, operator: str) -> Step:
    return next(s for s in explanation.steps if s.operator == operator)


# ----------------------------------------------------------------------------------------------------- how it is born


def _arithmetic() -> Parts:
    zero, inf = torch.tensor(0.0), torch.tensor(math.inf)
    made = {"0 · inf": zero * inf, "inf - inf": inf - inf, "0 / 0": zero / zero, "inf / inf": inf / inf}
    yield text("unknown")
    yield Rows(("operation", "result"), list(made.items()))
    yield claim("all-nan", list(made.values()), "=", [math.nan] * len(made), "A35")
    yield text("factors")


def _birth() -> Parts:
    import sympy

    norm = _FAMILIES[0]
    explanation = _explained(norm.broken, norm.point)
    born = _born(explanation)
    yield text("norm", code=norm.broken)
    yield Explained(explanation, ("backward",))
    u = sympy.Symbol("u", positive=True)
    infinite = float(sympy.limit(sympy.diff(sympy.sqrt(u), u), u, 0))
    yield claim("infinite", born["value"], "=", infinite, "A35", code=born["code"], element=born["element"])
    yield claim("grad-nan", explanation.gradients["x"], "=", [infinite * 2 * x for x in norm.point], "A35")
    tried = yield from attempt("anomaly", _ANOMALY)
    blamed = re.findall("'(.*?)'", tried.message)[:1]
    yield claim("blamed", blamed, "≠", [_step(explanation, born["operator"]).node], "A35", blamed=blamed[0],
                born=_step(explanation, born["operator"]).node)  # fmt: skip
    yield claim("convention", gradient(torch.linalg.vector_norm, torch.zeros(3)), "=", torch.zeros(3), "A35")


# ----------------------------------------------------------------------------------------------- the branch not taken


def _hidden() -> Parts:
    tried = yield from attempt("outside", _HIDDEN)
    x, y = tried.names["x"], tried.names["y"]
    yield claim("looks-right", y.isfinite(), "=", [True] * 3, "A35")
    yield claim("still-nan", x.grad.isnan(), "=", x.detach() == 0, "A35")
    explanation = _explained("sum(where(x == 0, 1, sin(x) / x))", (0, 1, 2))
    yield text("by-element")
    yield Rows(("step", "arrives", "sends"), list(_first_element(explanation)))
    replaced = yield from attempt("replaced", _REPLACED)
    yield claim("no-help", replaced.names["x"].grad.isnan(), "=", x.detach() == 0, "A35")
    safe = yield from attempt("inside", _SAFE)
    # a few roundings of float32 in numbers of size 1
    within = 8 * SINGLE
    by_hand = [_by_hand(at) for at in x.tolist()]
    yield claim("double-where", safe.names["x"].grad, "≈", by_hand, "A35", within=within, by_hand=by_hand)
    code = "safe = where(x == 0, 1, x); sum(where(x == 0, 1, sin(safe) / safe))"
    report = _verified(code, (0, 1, 2))
    yield from verdict("verified", report, "agrees", "A35")


def _by_hand(x: float) -> float:
    """Returns the derivative of sin x / x, which goes on to 0 at 0."""
    return math.cos(x) / x - math.sin(x) / x**2 if x else 0.0


def _first_element(explanation: Explanation) -> Iterator[tuple[Any, ...]]:
    """Yields, in backward order, what every step sends for the first element."""
    for step in sorted((s for s in explanation.steps if s.order is not None), key=lambda s: s.order or 0):
        arrives = step.cotangent.tensor.flatten()[0].item() if step.cotangent else ""
        for sent in step.contributions:
            e = sent.equations[0]
            yield step.code, arrives, f"{e.label}: {e.expression} {e.relation} {e.result}"


# -------------------------------------------------------------------------------------------------------- the families


def _families() -> Parts:
    broken = [_explained(f.broken, f.point) for f in _FAMILIES]
    born = [_born(e) for e in broken]
    yield text("births")
    yield Rows(
        ("computation", "at", "operation", "made-of", "gradient"),
        [
            (f.broken, f.point, _function(b), _factors(e, b), e.gradients["x"])
            for f, b, e in zip(_FAMILIES, born, broken, strict=True)
        ],
    )
    operators = [b["operator"].rsplit(".", 1)[0] for b in born]
    yield claim("operators", operators, "=", [f.culprit for f in _FAMILIES], "A35")
    yield claim("lost", [_has_nan(e) for e in broken], "=", [True] * len(broken), "A35")
    yield from _remedies()


def _function(born: Mapping[str, Any]) -> str:
    """Returns the name of the function that an operator such as `aten.sqrt.default` belongs to."""
    return str(born["operator"].split(".")[1])


def _factors(explanation: Explanation, born: Mapping[str, Any]) -> str:
    """Returns the product, with its numbers, that was the first not to be finite."""
    sent = (e for c in _step(explanation, born["operator"]).contributions for e in c.equations)
    first = next(e for e in sent if not math.isfinite(float(e.result)))
    return f"{first.expression} {first.relation} {first.result}"


def _remedies() -> Parts:
    useless = [_explained(f.useless, f.point) for f in _FAMILIES]
    cured = [_explained(f.cured, f.point) for f in _FAMILIES]
    yield text("remedies")
    yield Rows(
        ("no-remedy", "gives", "remedy", "gradient"),
        [
            (f.useless, u.gradients["x"], f.cured, c.gradients["x"])
            for f, u, c in zip(_FAMILIES, useless, cured, strict=True)
        ],
    )
    yield claim("useless", [_has_nan(u) for u in useless], "=", [True] * len(useless), "A35")
    # some roundings of float64, relative to the largest number in the table
    within = 16 * EPS / _TINY
    by_hand = [f.gradient for f in _FAMILIES]
    yield claim("cured", [c.gradients["x"] for c in cured], "≈", by_hand, "A35", within=within)
    verdicts = {_verified(f.cured, f.point).verdict for f in _FAMILIES}
    yield claim("all-verified", sorted(verdicts), "=", ["agrees"], "A35", count=len(_FAMILIES))
    yield text("inside-rule")


def _has_nan(explanation: Explanation) -> bool:
    gradient = explanation.gradients["x"]
    return gradient is not None and bool(gradient.isnan().any())
