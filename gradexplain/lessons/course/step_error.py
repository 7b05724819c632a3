"""What remains of error: truncation and rounding in differences, rounding and conventions in automatic gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import mpmath
import torch
from torch import Tensor

from gradexplain.api import graph, verify
from gradexplain.figures.parameters import Range
from gradexplain.lessons.measures import EPS, SINGLE, gradient
from gradexplain.lessons.parts import Drawn, Parts, Pictured, Rows, Verified, claim, exercise, section, text

_DIGITS = 50
_DECADES = range(-14, 0)
Function = Literal["exp", "sin", "log"]


def lesson(
    *,
    function: Annotated[Function, "What is differentiated."] = "exp",
    x: Annotated[float, "Where.", Range(0.5, 1.25)] = 1.0,
    h: Annotated[float, "The step of the differences.", Range(1e-14, 0.25)] = 0.001,
    near: Annotated[float, "How near to zero the cancelling function is differentiated.", Range(3e-5, 3e-4)] = 1e-4,
) -> Parts:
    """Yields the lesson."""
    yield from section("tutorial", _tutorial())
    yield from section("valley", _valley(function, x))
    yield from _one_step(function, x, h)
    yield from section("exact", _cancelling(near))
    yield from section("kinks", _kink())
    yield exercise("ex-forward", _forward(_square, 3.0, 0.25), digits=3, x=3.0, h=0.25)
    yield exercise("ex-kink", _gradient(_even_odd, 0.0, torch.float64))


def _forward(f: Callable[[Tensor], Tensor], x: float, h: float, dtype: torch.dtype = torch.float64) -> float:
    point = torch.tensor(x, dtype=dtype)
    return float((f(point + h) - f(point)) / h)


def _central(f: Callable[[Tensor], Tensor], x: float, h: float, dtype: torch.dtype = torch.float64) -> float:
    point = torch.tensor(x, dtype=dtype)
    return float((f(point + h) - f(point - h)) / (2 * h))


def _gradient(f: Callable[[Tensor], Tensor], x: float, dtype: torch.dtype) -> float:
    return float(gradient(f, torch.tensor(x, dtype=dtype)))


# ----------------------------------------------------------------------------------------------- x² + 2x, at first


def _square(x: Tensor) -> Tensor:
    return x**2 + 2 * x


def _tutorial() -> Parts:
    x, steps = 3.0, (1e-1, 1e-5, 1e-8, 1e-12)
    true = float(mpmath.diff(lambda x: x**2 + 2 * x, x))
    yield text("two-quotients", x=x)
    rows = [(h, _forward(_square, x, h) - true, _central(_square, x, h) - true) for h in steps]
    yield Rows(("step", "forward-off", "central-off"), rows)
    # (f(x + h) − f(x))/h = f′ + h·f″/2 exactly, for f is a polynomial of second degree; f″ is 2.
    yield claim("forward-exact", _forward(_square, x, steps[0]), "≈", true + steps[0], "A3",
                within=8 * EPS * 15 / steps[0], h=steps[0])  # fmt: skip
    rounded = [abs(row[2]) for row in rows]
    yield claim("rounding-alone", rounded[-1], ">", rounded[0], "A3", first=rounded[0], h=steps[-1])
    yield claim("ad-here", _gradient(_square, x, torch.float64), "=", true, "A3", x=x)


# ------------------------------------------------------------------------------------------------------- the valley


def _valley(name: Function, x: float) -> Parts:
    f: Callable[[Tensor], Tensor] = getattr(torch, name)
    with mpmath.workdps(_DIGITS):
        value, true, second, third = (abs(float(mpmath.diff(getattr(mpmath, name), x, k))) for k in range(4))
        exact = mpmath.diff(getattr(mpmath, name), x)
    yield text("against-step", f=f"{name}(x)", x=x, digits=_DIGITS)
    forward, central = (_worst_by_decade(way, f, x, exact) for way in (_forward, _central))
    automatic = abs(float(_gradient(f, x, torch.float64) - exact))
    rows = [(f"1e{d}", a, b) for d, a, b in zip(_DECADES, forward, central, strict=True)]
    yield Rows(("decade", "forward", "central"), rows)
    yield Drawn("figure", "step-error", {"expression": f"{name}(x)", "at": x})
    yield text("two-errors", second=second / 2, third=third / 6)
    rounding = EPS * (value + x * true)
    yield from _bottom("bottom-forward", forward, (2 * rounding / second) ** (1 / 2), "1/2")
    yield from _bottom("bottom-central", central, (3 * rounding / third) ** (1 / 3), "1/3")
    # One operation, and its derivative is one more: their results are within a few units in the last place.
    yield claim("flat", automatic, "<", 4 * EPS * true, "A3", "A4", times=automatic / (EPS * true))
    yield claim("below-all", [min(forward), min(central)], ">", automatic, "A3")


def _worst_by_decade(
    way: Callable[..., float], f: Callable[[Tensor], Tensor], x: float, exact: Any
) -> list[float]:  # fmt: skip
    """Returns the largest error among steps of each decade: a single step may be right by luck."""
    steps = [[10 ** (decade + k / 12) for k in range(12)] for decade in _DECADES]
    return [max(abs(float(way(f, x, h) - exact)) for h in decade) for decade in steps]


def _bottom(key: str, errors: Sequence[float], theory: float, power: str) -> Parts:
    lowest = min(range(len(errors)), key=errors.__getitem__)
    middle = _DECADES[lowest] + 0.5
    # The error is flat around its least value; a decade in the step is what the table resolves.
    yield claim(key, middle, "≈", math.log10(theory), "A3", within=1.0, step=theory, power=power, least=errors[lowest])


def _one_step(name: Function, x: float, h: float) -> Parts:
    """Yields the errors with the reader's step, beside what Taylor's series says of them."""
    f: Callable[[Tensor], Tensor] = getattr(torch, name)
    g = getattr(mpmath, name)
    with mpmath.workdps(_DIGITS):
        exact, second, third = (mpmath.diff(g, x, k) for k in (1, 2, 3))
        ends = (x - h, x, x + h)
        value, slope, beyond, far = (max(abs(float(mpmath.diff(g, at, k))) for at in ends) for k in (0, 1, 3, 5))
    # Two values are rounded, and so are the points at which they are taken; their difference stands over the step.
    rounding = 4 * EPS * (value + (x + h) * slope) / h
    yield text("your-step", h=h, f=f"{name}(x)", x=x)
    rows = [
        ("forward-is", _forward(f, x, h), h / 2 * second, h**2 / 6 * beyond),
        ("central-is", _central(f, x, h), h**2 / 6 * third, h**4 / 120 * far),
    ]
    # What the series has after its first term is at most its next one, with the largest derivative on the way.
    for key, quotient, truncation, rest in rows:
        left = {"truncation": float(truncation), "rounding": rounding}
        yield claim(key, float(quotient - exact), "≈", float(truncation), "A3", within=rest + rounding, **left)


# ------------------------------------------------------------------------------------------------ where AD rounds


def _cosine(x: Tensor) -> Tensor:
    return (1 - torch.cos(x)) / x**2


def _series(x: Tensor) -> Tensor:
    return 0.5 - x**2 / 24


def _cancelling(near: float) -> Parts:
    held = float(torch.tensor(near, dtype=torch.float32))
    with mpmath.workdps(_DIGITS):
        true = mpmath.diff(lambda x: (1 - mpmath.cos(x)) / x**2, held)
        slope, bend = float(true), float(mpmath.diff(lambda x: (1 - mpmath.cos(x)) / x**2, held, 2))
        inner = float(mpmath.cos(held) / (1 - mpmath.cos(held)))
    single, double = (_gradient(_cosine, held, dtype) for dtype in (torch.float32, torch.float64))
    yield text("overstated", x=near)
    kink = (_gradient(_even_odd, 0.0, torch.float64), _central(_even_odd, 0.0, 1e-5))
    rows = [
        (text("row-single"), slope, single, _central(_cosine, held, 1e-5, torch.float32), abs(inner)),
        (text("row-double"), slope, double, _central(_cosine, held, 1e-5), abs(inner)),
        (text("row-kink"), float(mpmath.diff(lambda x: x, 0)), *kink, text("kink")),
    ]
    yield Rows(("function", "true", "automatic", "central", "worst-step"), rows)
    yield claim("single-wrong", abs(single - slope), ">", 100 * abs(slope), "A4", ad=single, true=slope)
    whole, inside = abs(held * bend / slope), abs(inner)
    yield claim("condition-whole", whole, "≈", 1.0, "A4", within=0.01)
    yield claim("condition-inside", inside, ">", 1 / SINGLE, "A4")
    yield text("verdict")
    yield Verified(verify(_cosine, {"x": torch.tensor(near)}))
    yield claim("undecided", verify(_cosine, {"x": torch.tensor(near)}).verdict, "=", "cannot say", "A4")
    repaired = _gradient(_series, held, torch.float32)
    # The next term of the slope −x/12 is x³/180, below a millionth of a millionth; float32's own rounding is left.
    yield claim("repaired", repaired, "≈", slope, "A4", within=8 * SINGLE * abs(slope))


# ------------------------------------------------------------------------------------------------------- conventions


def _even_odd(x: Tensor) -> Tensor:
    return torch.relu(x) - torch.relu(-x)


def _kink() -> Parts:
    points = torch.linspace(-2, 2, 9, dtype=torch.float64)
    first, last = float(points[0]), float(points[-1])
    yield claim("is-identity", _even_odd(points), "=", points, "A4", count=len(points), first=first, last=last)
    at_zero = {"x": torch.tensor(0.0)}
    report = verify(_even_odd, at_zero)
    yield text("kink-why")
    yield Pictured("kink-graph", graph(_even_odd, at_zero, show=("values", "gradients"), title="relu(x) - relu(-x)"))
    slope, one = (_gradient(f, 0.0, torch.float64) for f in (_even_odd, torch.relu))
    yield claim("convention", slope, "=", one + one, "A4", one=one)
    yield claim("not-true", slope, "≠", _central(_even_odd, 0.0, 2.0**-10), "A4")
    yield Verified(report)
    yield claim("seen", [report.verdict, len(report.wrong())], "=", ["differs", 0], "A4", verdict=report.verdict)
    away = [_gradient(_even_odd, x, torch.float64) for x in points.tolist() if x != 0]
    yield claim("elsewhere", away, "=", [1.0] * len(away), "A4", count=len(away))
    yield text("summary")
