"""Figures of a lesson that answer when they are touched: torch computes every position before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradexplain.figures.derivatives import curve
from gradexplain.figures.expressions import at_points, formula, spaced
from gradexplain.figures.paths import descent
from gradexplain.figures.steps import step_error
from gradexplain.lessons.parts import Drawn

# Points of a curve, rates of a descent with their steps, and points along each side of a surface.
_POINTS, _RATES, _STEPS, _SIDE = 121, 110, 15, 41


def live(part: Drawn) -> dict[str, Any] | None:
    """Returns the numbers of all positions of a figure; `None` of one that has no control."""
    make = _LIVE.get(part.figure)
    return None if make is None else {"kind": part.figure, **make(**part.options)}


def _curve(expression: str, at: float, ends: tuple[float, float], **_: Any) -> dict[str, Any]:
    """Returns a function and its slope on a grid, and where on it the point begins."""
    data = curve(expression, at=at, order=1, ends=ends, points=_POINTS)
    y, slopes = (_finite(row) for row in data.rows)
    return {"expression": data.expression, "variable": data.variable, "x": data.x, "y": y, "slopes": slopes,
            "start": _nearest(data.x, at), "window": data.windows[0]}  # fmt: skip


def _descent(lr: Sequence[float], start: float, **_: Any) -> dict[str, Any]:
    """Returns the descents of many rates, side by side, and of each point what the closed form says."""
    import torch

    whole = descent(lr=(1.0,), start=start, steps=1)
    factor, minimum = whole.paths[0].factor, whole.minimum
    assert factor is not None
    assert minimum is not None, "a quadratic, of which the closed form is known"
    of, rates = formula(whole.expression, 1), [k / 100 for k in range(1, _RATES + 1)]
    factors = [1 - rate * (1 - factor) for rate in rates]
    x, points, losses = torch.full((_RATES,), start, dtype=torch.float64), [], []
    for _step in range(_STEPS + 1):
        loss, (gradient,) = at_points(of, [x])
        points.append(x.tolist())
        losses.append(loss.tolist())
        x = x - torch.tensor(rates, dtype=torch.float64) * gradient
    exact = [[minimum[0] + (start - minimum[0]) * f**k for k in range(_STEPS + 1)] for f in factors]
    around = curve(whole.expression, at=minimum[0], order=1, ends=(minimum[0] - 3, minimum[0] + 3), points=_POINTS)
    return {"expression": whole.expression, "variable": whole.variable, "rates": rates, "factors": factors,
            "start": _nearest(rates, lr[0]), "points": list(zip(*points, strict=True)), "exact": exact,
            "losses": list(zip(*losses, strict=True)), "x": around.x, "y": around.rows[0]}  # fmt: skip


def _step_error(expression: str, at: float) -> dict[str, Any]:
    """Returns the errors by step, in each type, and the step at which each way is best."""
    data = step_error(expression, at=at)
    types = [
        {"dtype": p.dtype, "automatic": p.automatic, **{s.method: _finite(s.errors) for s in p.slopes},
         "best": {s.method: s.best for s in p.slopes}}
        for p in data.precisions
    ]  # fmt: skip
    return {"expression": data.expression, "variable": data.variable, "at": data.at, "steps": data.steps,
            "types": types, "start": data.precisions[0].slopes[0].best}  # fmt: skip


def _surface(expression: str = "x**2 + y**2", at: Sequence[float] = (1.0, 0.5)) -> dict[str, Any]:
    """Returns heights and gradients on a grid, row by row of the second variable."""
    import torch

    of, side = formula(expression, 2), spaced(-2.0, 2.0, _SIDE)
    heights, gradient = at_points(of, [p.reshape(-1) for p in torch.meshgrid(side, side, indexing="xy")])
    grids = [_grid(numbers.tolist()) for numbers in (heights, *gradient)]
    return {"expression": of.text, "variables": of.variables, "x": side.tolist(), "y": side.tolist(),
            "heights": grids[0], "gradient": grids[1:], "start": [_nearest(side.tolist(), p) for p in at]}  # fmt: skip


def _grid(numbers: Sequence[float]) -> list[list[float | None]]:
    return [_finite(numbers[k : k + _SIDE]) for k in range(0, len(numbers), _SIDE)]


def _finite(numbers: Sequence[float]) -> list[float | None]:
    return [n if math.isfinite(n) else None for n in numbers]


def _nearest(numbers: Sequence[float], wanted: float) -> int:
    return min(range(len(numbers)), key=lambda k: abs(numbers[k] - wanted))


_LIVE: Mapping[str, Callable[..., dict[str, Any]]] = {
    "curve": _curve, "descent": _descent, "step-error": _step_error, "surface": _surface,
}  # fmt: skip
