"""The straight line through points, by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What rounding alone may leave of a residual, in units of the largest number: some operations, and the fit's own.
_ROUNDING = 64 * 2.0**-52


@dataclass(frozen=True)
class Line:
    """y = slope·x + intercept; `residual` is the largest distance of a point from it, `size` the largest |y|."""

    slope: float
    intercept: float
    residual: float
    size: float

    @property
    def straight(self) -> bool:
        """Whether the points lie on the line, but for rounding."""
        return self.residual <= _ROUNDING * self.size

    @property
    def proportional(self) -> bool:
        """Whether the points lie on a line through the origin, but for rounding."""
        return self.straight and abs(self.intercept) <= _ROUNDING * self.size

    def at(self, x: float) -> float:
        """Returns the line's height at `x`."""
        return self.slope * x + self.intercept


def fitted(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """Returns the line with the least sum of squares; `None` where all x are one."""
    import numpy as np

    if len(set(xs)) < 2:
        return None
    x, y = np.array(xs), np.array(ys)
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    intercept = float(y.mean() - slope * x.mean())
    residual = float(np.abs(y - slope * x - intercept).max())
    return Line(slope, intercept, residual, float(np.abs(y).max()))
