"""A function of two variables: its surface, its contours, and its gradient, which stands perpendicular on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.expressions import OF_TWO, Formula, at_points, finite, formula, interval, values
from gradexplain.figures.extremes import Ends, Point, Stationary, stationary_points
from gradexplain.figures.parameters import Count, Range
from gradexplain.figures.style import Style, below, number, plain, tick
from gradexplain.figures.typesetting import titled

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# How many stationary points a sentence names.
_NAMED = 6
# Arrows along each side, at most.
_ARROWS = 7
_STEPS = 30
# Where the tangent plane touches, as a part of the range: on the side that faces the reader.
_TOUCH = (0.75, 0.25)

# The part of every scale that is dark, from its lower end.
_DARK = 0.6
# How far from the frame, and from all that is drawn, a label of a level stands at least, in parts of the range; where
# there is no such place, the bar of colours has the level.
_INSIDE, _FREE = 0.09, 0.04
# The views from which the tangent plane is looked for: heights, and steps of the angle about it, in degrees. The usual
# one is the first, and is kept where no other shows much more of the plane.
_HEIGHTS, _TURN, _USUAL, _MORE = (28, 45, 15), 15, (28, -58), 0.8
# The box that matplotlib draws a surface in, and how finely a line of sight is followed.
_BOX = (4.0, 4.0, 3.0)
_SIGHT = 40
# How far the tangent plane reaches on either side of its point, in parts of the range.
_REACH = 0.16
# Colours on the scale of heights, the same on any paper, and so no palette's own to the last digit (`dark_rules`); the
# point that is on both panels; what marks a kind.
_WHITE, _INK = "#fffffe", "#1f2329"
_POINT = MappingProxyType({"color": "#D55E01", "markeredgecolor": _WHITE})
_KINDS = MappingProxyType({"minimum": "*", "maximum": "^", "saddle": "X", "flat": "D"})


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
    """Values on a grid: `heights[j][i]` at (`x[i]`, `y[j]`), which goes through the stationary points.

    `at` is the point of the tangent plane z = `height` + `gradient`·(p − at); `path` are the points of a gradient
    descent, if one was asked for.
    """

    expression: str
    variables: tuple[str, str]
    x: tuple[float, ...]
    y: tuple[float, ...]
    heights: np.ndarray[Any, Any]
    stationary: tuple[Stationary, ...]
    at: Point
    height: float
    gradient: Point
    arrows: tuple[Arrow, ...]
    path: tuple[Point, ...]
    lr: float | None


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

    The grid goes through the stationary points. The arrows are autograd's gradient; the contours' tangents are found by
    following their levels, without any derivative, and |g·t| is measured: the gradient is perpendicular to the contour.
    """
    f = formula(expression, 2)
    ends = (interval("x_ends", x_ends), interval("y_ends", y_ends))
    stationary = stationary_points(f, ends)
    count = points + 1 - points % 2
    x, y = (_through(e, [s.at[k] for s in stationary], count) for k, e in enumerate(ends))
    heights = _grid(f, x, y)
    touch = (
        _inside(at, ends) if at else [low + part * (high - low) for part, (low, high) in zip(_TOUCH, ends, strict=True)]
    )
    (height,), gradient = _at(f, touch)
    return Surface(
        f.text, (f.variables[0], f.variables[1]), tuple(x.tolist()), tuple(y.tolist()), heights, stationary,
        (touch[0], touch[1]), height, gradient[0], _arrows(f, ends),
        _descended(f, (touch[0], touch[1]), descent, steps) if descent else (), descent,
    )  # fmt: skip


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


def _through(ends: tuple[float, float], middles: Sequence[float], count: int) -> Tensor:
    """Returns points from end to end, the first at `middles` where there is room: evenly spaced between those."""
    import numpy as np
    import torch

    low, high = ends
    knots = {0: low, count - 1: high}
    for middle in middles:
        place = min(max(round((middle - low) / (high - low) * (count - 1)), 1), count - 2)
        if low < middle < high and all(place == k or (place < k) == (middle < m) for k, m in knots.items()):
            knots.setdefault(place, middle)
    places = sorted(knots)
    return torch.from_numpy(np.interp(range(count), places, [knots[k] for k in places]))


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
    reach = [_REACH * (side[-1] - side[0]) for side in (data.x, data.y)]
    px, py = np.meshgrid([a - reach[0], a + reach[0]], [b - reach[1], b + reach[1]])
    plane = data.height + gx * (px - a) + gy * (py - b)
    axes.plot_surface(px, py, plane, color=style.colour(1), alpha=0.7, edgecolor=style.colour(1), shade=False, zorder=3)
    axes.plot([a], [b], [data.height], "o", markersize=6.5, zorder=7, **_POINT)
    if data.path:
        inside = [p for p in data.path if _in(p, data)]
        heights = [_height(p, data) for p in inside]
        axes.plot(
            *zip(*inside, strict=True), heights, "o-", markersize=4, zorder=6, **_path_look()
        )  # fmt: skip
    axes.set_xlabel(data.variables[0])
    axes.set_ylabel(data.variables[1])
    axes.zaxis.set_rotate_label(False)
    axes.set_zlabel("z", rotation=0)
    style.head(axes, f"z = {titled(data.expression, 36)}")
    elevation, azimuth = _view(data, plane)
    axes.view_init(elev=elevation, azim=azimuth)
    axes.set_box_aspect(None, zoom=1.02)
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


def _view(data: Surface, plane: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Returns the height and the angle, in degrees, from which the tangent plane is seen, as far as one shows it."""
    angles = (_USUAL[1] + _TURN * k for k in sorted(range(-11, 13), key=abs))
    views = [(height, angle) for angle in angles for height in _HEIGHTS]
    shares = {view: _seen(data, plane, *view) for view in views}
    most = max(shares.values())
    return next(view for view in (_USUAL, *views) if shares[view] >= _MORE * most)


def _seen(data: Surface, plane: np.ndarray[Any, Any], elevation: float, azimuth: float) -> float:
    """Returns how much of the tangent plane is seen: the part that the surface does not hide, as large as it looks."""
    import numpy as np

    e, a = math.radians(elevation), math.radians(azimuth)
    sight = np.array((math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)))
    low = np.array((data.x[0], data.y[0], min(data.heights.min(), plane.min())))
    high = np.array((data.x[-1], data.y[-1], max(data.heights.max(), plane.max())))
    unit = np.where(high > low, high - low, 1.0) / _BOX  # of each axis, what is one in the box
    u, v = (t.reshape(-1) for t in np.meshgrid(*[np.linspace(-_REACH, _REACH, 7)] * 2))
    gx, gy = data.gradient
    x, y = data.at[0] + u * (high[0] - low[0]), data.at[1] + v * (high[1] - low[1])
    start = np.stack([x, y, data.height + gx * (x - data.at[0]) + gy * (y - data.at[1])], -1)
    lines = start + np.linspace(0.06, 6.0, _SIGHT)[:, None, None] * sight * unit
    column = np.clip(np.searchsorted(data.x, lines[..., 0]), 0, len(data.x) - 1)
    row = np.clip(np.searchsorted(data.y, lines[..., 1]), 0, len(data.y) - 1)
    above = lines[..., 2] > data.heights[row, column]
    outside = ((lines[..., :2] < low[:2]) | (lines[..., :2] > high[:2])).any(-1)
    free = ((above == above[0]) | outside).all(0).mean()
    normal = np.array((-gx * unit[0], -gy * unit[1], unit[2]))
    return float(free * abs(normal @ sight) / np.linalg.norm(normal))


def _paint_contours(data: Surface, axes: Any, style: Style) -> None:
    from matplotlib.ticker import FuncFormatter

    low, high = float(data.heights.min()), float(data.heights.max())
    if low < high:
        levels = _levels(low, high)
        filled = axes.contourf(
            data.x, data.y, data.heights, levels=levels, cmap=style.palette.scale, alpha=0.9, zorder=0
        )
        inner = [level for level in levels if low < level < high]
        dark = [level - levels[0] < _DARK * (levels[-1] - levels[0]) for level in inner]
        colours = [_WHITE if one else _INK for one in dark]
        lines = axes.contour(data.x, data.y, data.heights, levels=inner, colors=colours, linewidths=0.7)
        places = _label_places(lines, data)
        labels = axes.clabel(lines, fmt=lambda v: number(v, 3), fontsize=7.5, colors=style.palette.ink, manual=places)
        for label in labels:  # in boxes: a line that ends at a number reads as its minus
            label.set_bbox({"boxstyle": "round,pad=0.2", "facecolor": style.palette.paper, "edgecolor": "none"})
        bar = axes.figure.colorbar(filled, cax=axes.inset_axes((1.03, 0, 0.045, 1)), ticks=levels)
        bar.set_label("z", rotation=0)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, low, high)))
    longest = max((a.norm for a in data.arrows), default=0.0)
    room = _room(data)
    if longest:
        px, py = zip(*(a.at for a in data.arrows), strict=True)
        gx, gy = zip(*(tuple(g * room / longest for g in a.gradient) for a in data.arrows), strict=True)
        axes.quiver(
            px, py, gx, gy, angles="xy", scale_units="xy", scale=1, width=0.006, color=_WHITE,
            edgecolor=_INK, linewidth=0.5, zorder=3,
        )  # fmt: skip
    if data.path:
        axes.plot(
            *zip(*data.path, strict=True), "o-", markersize=4.5, zorder=4,
            label=style.say("descent_rate", lr=number(data.lr or 0)), **_path_look(),
        )  # fmt: skip
    axes.plot(*data.at, "o", markersize=6.5, zorder=5, label=style.say("surface_point"), **_POINT)
    for kind, mark in _KINDS.items():
        if there := [point.at for point in data.stationary if point.kind == kind]:
            size, label = 12 if mark == "*" else 8, style.say(f"surface_{kind}")
            look = {"color": "#F0E442", "markeredgecolor": _INK, "linestyle": "none", "zorder": 5}
            axes.plot(*zip(*there, strict=True), mark, markersize=size, label=label, **look)
    axes.grid(visible=False)
    axes.set_aspect("equal")
    axes.set_xlim(data.x[0], data.x[-1])
    axes.set_ylim(data.y[0], data.y[-1])
    axes.set_xlabel(data.variables[0])
    axes.set_ylabel(data.variables[1])
    style.head(axes, style.say("surface_contours"))
    plain(axes.xaxis, axes.yaxis)
    if style.column:
        style.legend(axes, frameon=False, ncols=2)
    else:
        columns = 2 if len(axes.get_legend_handles_labels()[0]) == 4 else 3
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False, ncols=columns, columnspacing=1.2)


def _path_look() -> dict[str, Any]:
    """Returns how a path looks, on any height and on the tangent plane."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=2.6, foreground=_INK)]
    return {"color": "#F0E442", "markeredgecolor": _INK, "markeredgewidth": 0.5, "linewidth": 1.4, "path_effects": edge}


def _levels(low: float, high: float) -> list[float]:
    """Returns about ten round levels from below `low` to above `high`, 0 itself among them where it lies between."""
    from matplotlib.ticker import MaxNLocator

    levels = list(MaxNLocator(nbins=10, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    step = levels[1] - levels[0]
    return [0.0 if abs(level) < step / 2 else float(level) for level in levels]


def _label_places(lines: Any, data: Surface) -> list[Point]:
    """Returns where labels of levels stand: inside of the frame, and far from arrows, points and each other."""
    import numpy as np

    low, high = np.array((data.x[0], data.y[0])), np.array((data.x[-1], data.y[-1]))
    longest, room = max((a.norm for a in data.arrows), default=1.0), _room(data)
    along = np.linspace(0, room / longest, 5)[:, None]
    taken = [np.array(a.at) + along * np.array(a.gradient) for a in data.arrows]
    parts = np.linspace(0, 1, 9)[:, None]
    taken += [np.array(a) * (1 - parts) + np.array(b) * parts for a, b in pairwise(data.path[:_STEPS])]
    taken += [np.array([data.at, *(point.at for point in data.stationary)])]
    places: list[Point] = []
    for segments in lines.allsegs:
        points = np.concatenate(segments) if segments else np.empty((0, 2))
        place = (points - low) / (high - low)
        points = points[((place > _INSIDE) & (place < 1 - _INSIDE)).all(1)]
        if len(points):
            away = np.linalg.norm((points[:, None] - np.concatenate(taken)) / (high - low), axis=-1).min(1)
            best = points[away.argmax()]
            if away.max() >= _FREE:
                places.append((float(best[0]), float(best[1])))
                taken.append(best[None])
    return places


def _room(data: Surface) -> float:
    """Returns how long the longest arrow is."""
    return 0.9 * max(data.x[-1] - data.x[0], data.y[-1] - data.y[0]) / (_ARROWS + 1)


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
    places = [f"({', '.join(map(number, point.at))})" for point in data.stationary]
    if len(places) > 1:
        each = [f"{style.say(f'surface_{p.kind}')} {at}" for p, at in zip(data.stationary, places, strict=True)]
        more = ["…"] if len(each) > _NAMED else []
        told = style.say("semicolon").join(each[:_NAMED] + more)
        yield style.say("surface_stationaries", count=len(places), each=told)
    elif places:
        (point,) = data.stationary
        place = ", ".join(f"{n} = {number(p)}" for n, p in zip(data.variables, point.at, strict=True))
        low, high = map(number, point.curvature)
        yield style.say("surface_stationary", kind=style.say(f"surface_{point.kind}"), at=place, low=low, high=high)
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
