"""Where a function of two variables has the gradient 0: its minima, maxima and saddle points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradexplain.figures.expressions import Formula, at_points, finite, slopes, values

if TYPE_CHECKING:
    from torch import Tensor

# Newton's steps; near a minimum each doubles the digits, and what has not arrived by then does not. They start where
# the gradient is smaller than around, on a grid of so many points a side, from so many places at most.
_NEWTON, _SIDE, _STARTS = 60, 21, 64
# Two stationary points are one within this part of the range; a curvature is 0 within this part of how much the
# gradient changes over the range.
_ONE, _NONE = 1e-6, 1e-12

Point = tuple[float, float]
Ends = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Stationary:
    """A point where the gradient is 0, with the eigenvalues of the Hessian there, the smaller first."""

    at: Point
    curvature: Point

    @property
    def kind(self) -> str:
        """What the point is, by the Hessian."""
        low, high = self.curvature
        return "minimum" if low > 0 else "maximum" if high < 0 else "saddle" if low < 0 < high else "flat"


def stationary_points(f: Formula, ends: Ends) -> tuple[Stationary, ...]:
    """Returns the points in the range where the gradient is 0, by Newton's method from where it is least around.

    Where the Hessian has an eigenvalue 0, such points may fill a line: of those, there is one.
    """
    import torch

    points, scale = _starts(f, ends)
    for _ in range(_NEWTON):
        g, hessian = _second(f, points)
        known = g.isfinite().all(1) & hessian.isfinite().all((1, 2))
        steps = torch.zeros_like(points)
        steps[known] = torch.linalg.lstsq(hessian[known], g[known, :, None]).solution[..., 0]
        points = points - steps
        if not bool((steps.norm(dim=1) > 1e-16 * (1 + points.norm(dim=1))).any()):
            break
    g, hessian = _second(f, points)
    span = max(high - low for low, high in ends)
    none = _NONE * scale / span
    stationary: list[Stationary] = []
    for point, slope, bend in zip(points.tolist(), g.norm(dim=1).tolist(), hessian, strict=True):
        inside = all(low <= p <= high for p, (low, high) in zip(point, ends, strict=True))
        # A gradient of 0, but for what rounding the coordinates makes of it.
        if inside and slope <= 1e-12 * (scale or 1.0) and bool(bend.isfinite().all()):
            low, high = (c if abs(c) > none else 0.0 for c in torch.linalg.eigvalsh(bend).tolist())
            stationary.append(Stationary((_round(point[0]), _round(point[1])), (low, high)))
    return _distinct(stationary, span)


def _starts(f: Formula, ends: Ends) -> tuple[Tensor, float]:
    """Returns the points of a grid where the gradient is shorter than around, the least first, and how long it gets."""
    import torch

    sides = [torch.linspace(low, high, _SIDE, dtype=torch.float64) for low, high in ends]
    places = [p.reshape(-1) for p in torch.meshgrid(*sides, indexing="ij")]
    heights, gradient = at_points(f, places)
    finite(f, heights, places)
    norms = torch.hypot(*gradient)
    longest = float(norms[norms.isfinite()].max()) if bool(norms.isfinite().any()) else 0.0
    norms = norms.where(norms.isfinite(), math.inf)
    square = norms.reshape(1, 1, _SIDE, _SIDE)
    least = -torch.nn.functional.max_pool2d(-square, 3, 1, 1).reshape(-1)
    chosen = (norms <= least).nonzero()[:, 0]
    chosen = chosen[norms[chosen].argsort(stable=True)][:_STARTS]
    return torch.stack([p[chosen] for p in places], 1), longest


def _distinct(points: Sequence[Stationary], span: float) -> tuple[Stationary, ...]:
    """Returns points without those that are one but for rounding, and one of those whose curvature is 0 in a way."""
    distinct: list[Stationary] = []
    for one in points:
        even = 0.0 in one.curvature
        if not any(math.dist(one.at, p.at) <= _ONE * span or (even and 0.0 in p.curvature) for p in distinct):
            distinct.append(one)
    return tuple(distinct)


def _round(x: float) -> float:
    """Returns the number of few digits that a coordinate is within rounding, as 0 is for 1e-17."""
    near = round(x, 12)
    return near + 0.0 if abs(near - x) <= 1e-14 * (1 + abs(x)) else x


def _second(f: Formula, points: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients and the Hessians at points, by backward through backward."""
    import torch

    leaves = [p.clone().requires_grad_() for p in points.detach().unbind(1)]
    first = slopes(f, values(f, leaves), leaves, again=True)
    flat = [torch.zeros(len(points), dtype=points.dtype)] * 2
    rows = [torch.stack(list(slopes(f, g, leaves, again=True) if g.requires_grad else flat), 1) for g in first]
    return torch.stack(list(first), 1).detach(), torch.stack(rows, 1).detach()
