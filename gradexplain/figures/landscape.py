"""A function of two variables: its surface, its contours, and its gradient, which stands perpendicular on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.expressions import OF_TWO, Formula, at_points, finite, formula, interval, slopes, values
from gradexplain.figures.parameters import Count, Range
from gradexplain.figures.style import Style, below, number, plain, titled

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Newton's steps; near a minimum each doubles the digits, and what has not arrived by then does not.
_NEWTON = 60
# Arrows along each side, at most.
_ARROWS = 7
_STEPS = 30
# Where the tangent plane touches, as a part of the range: on the side that faces the reader.
_TOUCH = (0.75, 0.25)

# Of ten levels, the first that are dark in every scale.
_DARK = 6

Point = tuple[float, float]


@dataclass(frozen=True)
class Arrow:
    """The gradient at a point by autograd, and the unit tangent of the contour there by following its level.

    `dot` is |g·t|, and `t` is `None` where the level could not be followed: it is a point, or leaves the domain.
    """

    at: Point
    gradient: Point
    tangent: Point | None

    @property
    def norm(self) -> float:
        """The length of the gradient."""
        return math.hypot(*self.gradient)

    @property
    def dot(self) -> float | None:
        """|g·t|: 0, but for rounding, if the gradient is perpendicular to the contour."""
        if self.tangent is None:
            return None
        return abs(sum(g * t for g, t in zip(self.gradient, self.tangent, strict=True)))


@dataclass(frozen=True)
class Surface:
    """Values on a grid: `heights[j][i]` at (`x[i]`, `y[j]`), of which one is the stationary point where there is one.

    `curvature` has the eigenvalues of the Hessian at the stationary point, the smaller first; `at` is the point of the
    tangent plane z = `height` + `gradient`·(p − at); `path` are the points of gradient descent, if it was asked for.
    """

    expression: str
    variables: tuple[str, str]
    x: tuple[float, ...]
    y: tuple[float, ...]
    heights: np.ndarray[Any, Any]
    stationary: Point | None
    curvature: Point | None
    at: Point
    height: float
    gradient: Point
    arrows: tuple[Arrow, ...]
    path: tuple[Point, ...]
    lr: float | None

    @property
    def kind(self) -> str:
        """What the stationary point is, by the Hessian."""
        if self.curvature is None:
            return "none"
        low, high = self.curvature
        return "minimum" if low > 0 else "maximum" if high < 0 else "saddle" if low < 0 < high else "flat"


def surface(
    expression: Annotated[str, "A function of two variables.", OF_TWO] = "x**2 + y**2",
    *,
    x_ends: Annotated[tuple[float, ...], "The range of the first variable.", Count(2, 2)] = (-2.0, 2.0),
    y_ends: Annotated[tuple[float, ...], "The range of the second.", Count(2, 2)] = (-2.0, 2.0),
    points: Annotated[int, "Points along each side; an even number is made odd.", Range(11, 501)] = 101,
    at: Annotated[tuple[float, ...] | None, "Where the tangent plane touches, and descent starts.", Count(2, 2)] = None,
    descent: Annotated[float | None, "Draw a path of gradient descent with this learning rate.", Range(above=0)] = None,
    steps: Annotated[int, "Steps of that path.", Range(1, 2000)] = _STEPS,
) -> Surface:
    """Surface and contours of a function of two variables, with gradient arrows.

    The grid goes through the stationary point. The arrows are autograd's gradient; the contours' tangents are found by
    following their levels, without any derivative, and |g·t| is measured: the gradient is perpendicular to the contour.
    """
    f = formula(expression, 2)
    ends = (interval("x_ends", x_ends), interval("y_ends", y_ends))
    stationary = _stationary(f, ends)
    count = points + 1 - points % 2
    middle = stationary or (None, None)
    x, y = (_through(e, m, count) for e, m in zip(ends, middle, strict=True))
    heights = _grid(f, x, y)
    touch = (
        _inside(at, ends) if at else [low + part * (high - low) for part, (low, high) in zip(_TOUCH, ends, strict=True)]
    )
    (height,), gradient = _at(f, touch)
    return Surface(
        f.text, (f.variables[0], f.variables[1]), tuple(x.tolist()), tuple(y.tolist()), heights, stationary,
        None if stationary is None else _curvature(f, stationary),
        (touch[0], touch[1]), height, gradient[0], _arrows(f, ends),
        _descended(f, (touch[0], touch[1]), descent, steps) if descent else (), descent,
    )  # fmt: skip


Ends = tuple[tuple[float, float], tuple[float, float]]


def _inside(point: Sequence[float], ends: Ends) -> Sequence[float]:
    for p, (low, high) in zip(point, ends, strict=True):
        if not low <= p <= high:
            raise InputError("figure_point_outside", name="at", point=number(p), low=number(low), high=number(high))
    return point


def _tensors(points: Sequence[Sequence[float]]) -> list[Tensor]:
    import torch

    return list(torch.tensor(points, dtype=torch.float64).reshape(-1, 2).unbind(1))


def _at(f: Formula, *points: Sequence[float]) -> tuple[list[float], list[Point]]:
    """Returns values and gradients at points; raises `InputError` where one is not finite."""
    places = _tensors(points)
    heights, gradient = at_points(f, places)
    for part in (heights, *gradient):
        finite(f, part, places)
    return heights.tolist(), [(a, b) for a, b in zip(gradient[0].tolist(), gradient[1].tolist(), strict=True)]


def _grid(f: Formula, x: Tensor, y: Tensor) -> np.ndarray[Any, Any]:
    import torch

    places = [p.reshape(-1) for p in torch.meshgrid(x, y, indexing="xy")]
    heights = finite(f, values(f, places).detach(), places).reshape(len(y), len(x))
    return heights.double().numpy()


def _through(ends: tuple[float, float], middle: float | None, count: int) -> Tensor:
    """Returns points from end to end, one of them `middle`: evenly spaced on either side of it."""
    import torch

    low, high = ends
    if middle is None or not low < middle < high:
        return torch.linspace(low, high, count, dtype=torch.float64)
    before = min(max(round((middle - low) / (high - low) * (count - 1)), 1), count - 2)
    left = torch.linspace(low, middle, before + 1, dtype=torch.float64)
    right = torch.linspace(middle, high, count - before, dtype=torch.float64)
    return torch.cat([left, right[1:]])


# ---------------------------------------------------------------------------------------------------- stationary point


def _stationary(f: Formula, ends: Ends) -> Point | None:
    """Returns the point in the range where the gradient is 0, by Newton's method from where it is least; or `None`."""
    import torch

    sides = [torch.linspace(low, high, 21, dtype=torch.float64) for low, high in ends]
    places = [p.reshape(-1) for p in torch.meshgrid(*sides, indexing="ij")]
    heights, gradient = at_points(f, places)
    finite(f, heights, places)
    norms = torch.hypot(*gradient)
    norms[~norms.isfinite()] = math.inf
    scale = float(norms[norms.isfinite()].max()) if bool(norms.isfinite().any()) else 0.0
    point = torch.stack([p[norms.argmin()] for p in places])
    for _ in range(_NEWTON):
        g, hessian = _second(f, point)
        if not bool(g.isfinite().all() & hessian.isfinite().all()):
            return None
        if not bool(g.any()):
            break
        step = torch.linalg.lstsq(hessian, g).solution if bool(hessian.any()) else g * 0
        point = point - step
        if float(step.norm()) <= 1e-16 * (1 + float(point.norm())):
            break
    inside = all(low <= p <= high for p, (low, high) in zip(point.tolist(), ends, strict=True))
    # A gradient of 0, but for what rounding the coordinates makes of it.
    if not inside or not float(_second(f, point)[0].norm()) <= 1e-12 * (scale or 1.0):
        return None
    return (_round(float(point[0])), _round(float(point[1])))


def _round(x: float) -> float:
    """Returns the number of few digits that a coordinate is within rounding, as 0 is for 1e-17."""
    near = round(x, 12)
    return near + 0.0 if abs(near - x) <= 1e-14 * (1 + abs(x)) else x


def _second(f: Formula, point: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradient and the Hessian at a point, by backward through backward."""
    import torch

    leaves = [p.reshape(1).clone().requires_grad_() for p in point.detach()]
    first = slopes(f, values(f, leaves), leaves, again=True)
    rows = [slopes(f, g, leaves, again=True) if g.requires_grad else [torch.zeros(1, dtype=g.dtype)] * 2 for g in first]
    return torch.cat(first).detach(), torch.stack([torch.cat(list(row)) for row in rows]).detach()


def _curvature(f: Formula, point: Point) -> Point:
    import torch

    low, high = torch.linalg.eigvalsh(_second(f, torch.tensor(point, dtype=torch.float64))[1]).tolist()
    return (low, high)


# ------------------------------------------------------------------------------------------------- arrows and contours


def _arrows(f: Formula, ends: Ends) -> tuple[Arrow, ...]:
    spans = [high - low for low, high in ends]
    most = max(spans)
    counts = [max(2, round(_ARROWS * span / most)) for span in spans]
    xs, ys = (
        [low + k * (high - low) / (n + 1) for k in range(1, n + 1)] for (low, high), n in zip(ends, counts, strict=True)
    )
    points = [(x, y) for y in ys for x in xs]
    _, gradients = _at(f, *points)
    tangents = _tangents(f, points, most)
    return tuple(Arrow(p, g, t) for p, g, t in zip(points, gradients, tangents, strict=True) if math.hypot(*g) > 0)


def _tangents(f: Formula, points: Sequence[Point], span: float) -> list[Point | None]:
    """Returns the unit tangent of the contour through each point, found from values of the function alone.

    A small circle about a point cuts its contour twice; the chord between the cuts is parallel to the tangent, but for
    the square of the radius r. With r = ε^⅓ of the range that is as small as what rounding leaves, ε·|f|/(r·|g|).
    """
    import torch

    radius = span * 2.0 ** (-52 / 3)
    centres = torch.stack(_tensors(points))
    level = values(f, list(centres)).detach()

    def above(angles: Tensor) -> Tensor:
        x, y = (centres[k][:, None] + radius * part for k, part in enumerate((angles.cos(), angles.sin())))
        return values(f, [x.reshape(-1), y.reshape(-1)]).detach().reshape(angles.shape) - level[:, None]

    corners = torch.linspace(0, 2 * math.pi, 33, dtype=torch.float64).expand(len(points), -1) + 0.1
    signs = above(corners) > 0
    crosses = signs[:, 1:] != signs[:, :-1]
    low = torch.stack([corners[k, :-1][c][:2] if int(c.sum()) == 2 else corners[k, :2] for k, c in enumerate(crosses)])
    high = low + (corners[0, 1] - corners[0, 0])
    rising = above(high) > 0
    for _ in range(60):
        middle = (low + high) / 2
        right = (above(middle) > 0) == rising
        low, high = torch.where(right, low, middle), torch.where(right, middle, high)
    ends = torch.stack([low.cos(), low.sin()], -1)
    chords = ends[:, 1] - ends[:, 0]
    chords = chords / chords.norm(dim=1, keepdim=True)
    twice = crosses.sum(1) == 2
    return [(x, y) if there else None for there, (x, y) in zip(twice.tolist(), chords.tolist(), strict=True)]


def _descended(f: Formula, start: Point, lr: float, steps: int) -> tuple[Point, ...]:
    """Returns the points of gradient descent until they are no more finite."""
    path = [start]
    for _ in range(steps):
        _, (gx, gy) = at_points(f, _tensors([path[-1]]))
        following = (path[-1][0] - lr * float(gx), path[-1][1] - lr * float(gy))
        if not all(map(math.isfinite, following)):
            break
        path.append(following)
    return tuple(path)


# ----------------------------------------------------------------------------------------------------------- painting


def paint(data: Surface, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints the surface with its tangent plane, and the contours with arrows; returns what is to be said below."""
    solid, flat = axes
    _paint_surface(data, solid, style)
    _paint_contours(data, flat, style)
    return [*_said(data, style)]


def _paint_surface(data: Surface, axes: Any, style: Style) -> None:
    import numpy as np

    x, y = np.meshgrid(data.x, data.y)
    axes.computed_zorder = False  # the plane and the point are drawn over the surface that they touch
    every = max(1, (len(data.x) - 1) // 25)
    axes.plot_surface(
        x, y, data.heights, cmap=style.palette.scale, rstride=every, cstride=every, linewidth=0.2,
        edgecolor=style.palette.paper, alpha=0.88, zorder=1,
    )  # fmt: skip
    (a, b), (gx, gy) = data.at, data.gradient
    reach = [0.16 * (side[-1] - side[0]) for side in (data.x, data.y)]
    px, py = np.meshgrid([a - reach[0], a + reach[0]], [b - reach[1], b + reach[1]])
    plane = data.height + gx * (px - a) + gy * (py - b)
    axes.plot_surface(
        px, py, plane, color=style.colour(1), alpha=0.55, edgecolor=style.colour(1), shade=False, zorder=3
    )
    axes.plot([a], [b], [data.height], "o", color=style.palette.ink, markersize=5, zorder=5)
    if data.path:
        inside = [p for p in data.path if _in(p, data)]
        heights = [_height(p, data) for p in inside]
        axes.plot(
            *zip(*inside, strict=True), heights, "o-", color=style.colour(1), markersize=3, linewidth=1.2, zorder=6
        )
    axes.set_xlabel(data.variables[0])
    axes.set_ylabel(data.variables[1])
    axes.set_title(f"z = {titled(data.expression, 36)}")
    axes.view_init(elev=28, azim=-58)
    axes.set_box_aspect(None, zoom=1.12)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        plain(axis)
        axis.set_pane_color(style.palette.paper)
        axis.pane.set_edgecolor(style.palette.grid)


def _in(point: Point, data: Surface) -> bool:
    return all(side[0] <= p <= side[-1] for p, side in zip(point, (data.x, data.y), strict=True))


def _height(point: Point, data: Surface) -> float:
    """Returns the height of the drawn surface at a point, between its grid points."""
    import numpy as np

    column = [float(np.interp(point[0], data.x, row)) for row in data.heights]
    return float(np.interp(point[1], data.y, column))


def _paint_contours(data: Surface, axes: Any, style: Style) -> None:
    import numpy as np

    low, high = float(data.heights.min()), float(data.heights.max())
    if low < high:
        levels = np.linspace(low, high, 11)
        axes.contourf(data.x, data.y, data.heights, levels=levels, cmap=style.palette.scale, alpha=0.9, zorder=0)
        colours = ["#ffffff" if k < _DARK else "#1f2328" for k in range(1, 10)]
        lines = axes.contour(data.x, data.y, data.heights, levels=levels[1:-1], colors=colours, linewidths=0.7)
        axes.clabel(lines, levels[1:-2:2], fmt=lambda v: number(v, 3), fontsize=7.5)
    longest = max((a.norm for a in data.arrows), default=0.0)
    room = 0.9 * max(data.x[-1] - data.x[0], data.y[-1] - data.y[0]) / (_ARROWS + 1)
    if longest:
        px, py = zip(*(a.at for a in data.arrows), strict=True)
        gx, gy = zip(*(tuple(g * room / longest for g in a.gradient) for a in data.arrows), strict=True)
        axes.quiver(
            px, py, gx, gy, angles="xy", scale_units="xy", scale=1, width=0.006, color="#ffffff",
            edgecolor="#1f2328", linewidth=0.5, zorder=3,
        )  # fmt: skip
    if data.path:
        axes.plot(
            *zip(*data.path, strict=True), "o-", color="#F0824A", markeredgecolor="#1f2328", markersize=4.5,
            markeredgewidth=0.5, linewidth=1.4, zorder=4, label=style.say("descent_rate", lr=number(data.lr or 0)),
        )  # fmt: skip
    axes.plot(*data.at, "o", color="#D55E00", markeredgecolor="white", markersize=6.5, zorder=5,
              label=style.say("surface_point"))  # fmt: skip
    if data.stationary:
        axes.plot(*data.stationary, "*", color="#F0E442", markeredgecolor="#1f2328", markersize=12, zorder=5,
                  label=style.say(f"surface_{data.kind}"))  # fmt: skip
    axes.grid(visible=False)
    axes.set_aspect("equal")
    axes.set_xlim(data.x[0], data.x[-1])
    axes.set_ylim(data.y[0], data.y[-1])
    axes.set_xlabel(data.variables[0])
    axes.set_ylabel(data.variables[1])
    axes.set_title(style.say("surface_contours"))
    plain(axes.xaxis, axes.yaxis)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False, columnspacing=1.2)


def _said(data: Surface, style: Style) -> Any:
    u, v = data.variables
    (a, b), (gx, gy) = data.at, data.gradient
    at = f"({number(a)}, {number(b)})"
    plane = f"z = {number(data.height)} {_term(gx, u, a)} {_term(gy, v, b)}"
    yield style.say("surface_plane", at=at, gradient=f"({number(gx)}, {number(gy)})", plane=plane)
    dots = [a.dot for a in data.arrows if a.dot is not None]
    if dots:
        longest = max(a.norm for a in data.arrows)
        yield style.say("surface_dot", count=len(dots), most=below(max(dots)), longest=number(longest, 3))
    if data.stationary and data.curvature:
        place = ", ".join(f"{n} = {number(p)}" for n, p in zip(data.variables, data.stationary, strict=True))
        low, high = (number(c) for c in data.curvature)
        yield style.say("surface_stationary", kind=style.say(f"surface_{data.kind}"), at=place, low=low, high=high)
    else:
        yield style.say("surface_no_stationary")
    if data.lr:
        yield style.say("surface_path", lr=number(data.lr), steps=len(data.path) - 1,
                        end=f"({number(data.path[-1][0])}, {number(data.path[-1][1])})")  # fmt: skip


def _term(slope: float, name: str, at: float) -> str:
    return f"{'−' if slope < 0 else '+'} {number(abs(slope))}·({name} {'+' if at < 0 else '−'} {number(abs(at))})"


DESIGN = Design(
    "surface", surface, paint, (("3d", ""),),
    (9.8, 5.2),
    (
        "",
        '"x**2 + 4*y**2" --at 1.5,1 --descent 0.1',
        '"sin(x)*cos(y)" --x-ends 0,6 --y-ends -3,3 --style dark --language zh',
    ),
)  # fmt: skip
