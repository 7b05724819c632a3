"""Whether the error bound that finite differences state covers their true error, for functions of one number.

Truth is mpmath's. The right gradient is claimed, to the last digit, by a custom Function; what the check finds lacking
is then its own error.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import torch
from mpmath import mp
from rich.console import Console
from rich.progress import track
from sheets import Sheet, share
from torch import Tensor

import gradexplain as gx

ORACLE = "finite differences"
Real = Callable[[Tensor], Tensor]
Exact = Callable[[Any], Any]

# fmt: off
SMOOTH: Mapping[str, tuple[Real, Exact, Sequence[float]]] = {
    "sin x":          (torch.sin,                         mp.sin,                           (0.3, 1.0, 20.0, 1e5)),
    "exp x":          (torch.exp,                         mp.exp,                           (-3.0, 0.1, 1.0, 10.0)),
    "tanh x":         (torch.tanh,                        mp.tanh,                          (1e-3, 0.5, 2.0, 6.0)),
    "log x":          (torch.log,                         mp.log,                           (1e-7, 0.01, 1.0, 1e6)),
    "√x":             (torch.sqrt,                        mp.sqrt,                          (1e-7, 0.01, 2.0, 1e6)),
    "x³":             (lambda x: x**3,                    lambda x: x**3,                   (1e-3, 1.0, 30.0, 1e8)),
    "1/x":            (lambda x: 1 / x,                   lambda x: 1 / x,                  (1e-5, 0.1, 3.0, 1e5)),
    "atan x":         (torch.atan,                        mp.atan,                          (0.01, 1.0, 10.0, 1e3)),
    "erf x":          (torch.erf,                         mp.erf,                           (0.01, 0.7, 2.0, 4.0)),
    "exp(−x²)":       (lambda x: (-x * x).exp(),          lambda x: mp.exp(-x * x),         (0.1, 1.0, 3.0, 5.0)),
    "sin 50x":        (lambda x: (50 * x).sin(),          lambda x: mp.sin(50 * x),         (0.01, 0.3, 1.0, 3.0)),
    "1/(1 + 25x²)":   (lambda x: 1 / (1 + 25 * x * x),    lambda x: 1 / (1 + 25 * x * x),   (0.05, 0.2, 1.0, 4.0)),
    "log(1 + x)":     (torch.log1p,                       mp.log1p,                         (1e-8, 0.1, 3.0, 1e3)),
    "exp x − 1":      (torch.expm1,                       mp.expm1,                         (1e-8, 0.1, 2.0, 20.0)),
    "sigmoid x":      (torch.sigmoid,                     lambda x: 1 / (1 + mp.exp(-x)),   (-20.0, -2.0, 0.3, 5.0)),
    "log(1 + exp x)": (lambda x: x.exp().log1p(),         lambda x: mp.log1p(mp.exp(x)),    (-10.0, -1.0, 0.5, 8.0)),
    "1e8 + sin x":    (lambda x: 1e8 + x.sin(),           lambda x: 10**8 + mp.sin(x),      (0.3, 1.0, 4.0, 20.0)),
    "x sin(1/x)":     (lambda x: x * (1 / x).sin(),       lambda x: x * mp.sin(1 / x),      (0.05, 0.1, 0.5, 2.0)),
    "log Γ(x)":       (torch.lgamma,                      mp.loggamma,                      (0.1, 1.3, 5.0, 50.0)),
}
BASE: Sequence[tuple[str, float]] = (
    ("sin x", 1.0), ("exp x", 0.5), ("x³", 2.0), ("log x", 3.0), ("tanh x", 0.7), ("1/x", 0.4), ("√x", 2.0),
)
NOISES: Mapping[str, Callable[[Real], Real]] = {
    "float32 inside":     lambda f: lambda x: f(x.float()).double(),
    "jitter of 1e-9":     lambda f: lambda x: f(x) + 1e-9 * (1e13 * x).sin(),
    "eight decimals":     lambda f: lambda x: (1e8 * f(x)).round() / 1e8,
}
KINKS: Mapping[str, tuple[Real, Exact, Sequence[float]]] = {
    "|x|":            (torch.abs,                         abs,                              (0.1, 1e-3, 1e-5, 1e-7)),
    "max(x, 0) + x²": (lambda x: x.relu() + x * x,        lambda x: max(x, 0) + x * x,      (0.01, 1e-4, 1e-6)),
    "max(x, 2 − x)":  (lambda x: torch.maximum(x, 2 - x), lambda x: max(x, 2 - x),          (1 + 1e-3, 1 + 1e-6)),
    "|sin x|":        (lambda x: x.sin().abs(),           lambda x: abs(mp.sin(x)),         (math.pi + 1e-4,)),
    "√(x² + 1e-8)":   (lambda x: (x * x + 1e-8).sqrt(),   lambda x: mp.sqrt(x * x + 1e-8),  (1e-3,)),
}
# fmt: on


@dataclass(frozen=True)
class Point:
    """A function as the machine runs it, as mathematics has it, and where."""

    name: str
    function: Real
    exact: Exact
    x: float

    @property
    def slope(self) -> float:
        """The derivative of the exact function, at 50 digits and then rounded."""
        with mpmath.workdps(50):
            return float(mpmath.diff(self.exact, mpmath.mpf(self.x)))


def _points(table: Mapping[str, tuple[Real, Exact, Sequence[float]]]) -> list[Point]:
    return [Point(name, function, exact, x) for name, (function, exact, xs) in table.items() for x in xs]


def _noisy() -> list[Point]:
    return [
        Point(f"{name}, {kind}", noisy(SMOOTH[name][0]), SMOOTH[name][1], x)
        for kind, noisy in NOISES.items()
        for name, x in BASE
    ]


POINTS: Mapping[str, Sequence[Point]] = {"smooth": _points(SMOOTH), "noisy": _noisy(), "near a kink": _points(KINKS)}


class Known(torch.autograd.Function):
    """Runs a point's function; its backward is the derivative that mathematics gives."""

    @staticmethod
    def forward(ctx: Any, point: Point, x: Tensor) -> Tensor:
        ctx.slope = point.slope
        return point.function(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return None, cotangent * ctx.slope


@dataclass(frozen=True)
class Stated:
    """What the oracle said of a right gradient: its verdict, its error and its bound, both relative to the gradient."""

    point: Point
    verdict: str
    reason: str | None
    error: float
    bound: float

    @property
    def judged(self) -> bool:
        """Whether it claims to know."""
        return self.verdict != "cannot say"

    def covers(self, margin: float = 1.0) -> bool:
        """Whether the bound covers the error, four last digits of the gradient aside."""
        return self.error <= margin * self.bound + 4 * torch.finfo(torch.float64).eps

    @property
    def confidently_wrong(self) -> bool:
        """Whether it is wrong in the fourth digit and claims less than a tenth of that."""
        return self.judged and self.error > 1e-4 and self.bound < self.error / 10


def stated(point: Point) -> Stated:
    """Asks for a verdict on the right gradient, and returns what finite differences said."""
    x = torch.tensor([point.x], dtype=torch.float64, requires_grad=True)
    report = gx.verify(lambda x: Known.apply(point, x), [x])
    check = next(c for c in report.checks if c.oracle == ORACLE)
    if check.worst is None or check.bound is None:
        return Stated(point, check.verdict, check.reason, math.nan, math.inf)
    # `worst` and `bound` are along a direction, of a length that the claim tells: they are told relative to it.
    seen, right = (float(str(check.data[key])) for key in ("seen", "right"))
    error = abs(right - seen) / abs(seen)
    length = check.worst / error if error else abs(seen)
    return Stated(point, check.verdict, check.reason, error, check.bound / length)


def part(quick: bool, workers: int) -> Iterator[Sheet]:
    """Gives the table of coverage, and names what is not judged or not covered; quick takes every fifth point."""
    every = [(kind, point) for kind, points in POINTS.items() for point in (points[::5] if quick else points)]
    shown = track(every, "bounds", console=Console(stderr=True), transient=True)
    found = [(kind, stated(point)) for kind, point in shown]
    columns = [
        "",
        "of",
        "declined",
        "false alarms",
        "covered",
        "covered within 10 times",
        "confidently wrong",
        "bound / error, median",
    ]
    yield Sheet(
        "The error bound of finite differences, truth by mpmath",
        columns,
        [_row(kind, [s for k, s in found if k == kind]) for kind in POINTS],
    )
    worse = [s for _, s in found if not (s.judged and s.covers()) or s.verdict == "differs"]
    rows = [
        [s.point.name, f"{s.point.x:g}", s.verdict, s.reason or "", f"{s.error:.1e}", f"{s.bound:.1e}"] for s in worse
    ]
    yield Sheet(
        f"Declined, not covered, or called wrong: {len(rows)}",
        ["function", "at", "verdict", "reason", "error", "bound"],
        rows,
    )


def _row(kind: str, found: Sequence[Stated]) -> list[str]:
    judged = [s for s in found if s.judged]
    ratios = [s.bound / s.error for s in judged if s.error]
    return [
        kind,
        str(len(found)),
        share(len(found) - len(judged), len(found)),
        share(sum(s.verdict == "differs" for s in found), len(found)),
        share(sum(s.covers() for s in judged), len(judged)),
        share(sum(s.covers(10) for s in judged), len(judged)),
        share(sum(s.confidently_wrong for s in found), len(found)),
        f"{statistics.median(ratios):.0f}" if ratios else "",
    ]
