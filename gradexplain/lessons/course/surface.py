"""z = x² + y² as a surface and as contours: grid, paraboloid, minimum, level curves, and what is perpendicular."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from gradexplain.figures.parameters import Count, Range
from gradexplain.lessons.listings import attempt, run_plots
from gradexplain.lessons.measures import EPS, curvatures, double, gradient
from gradexplain.lessons.parts import Drawn, Parts, Ran, Rows, claim, columns, exercise, section, text

_GRID = """
x = torch.tensor([1., 2., 3.], requires_grad=True)
y = torch.sum(x**2)
y.backward()
before = (type(x).__name__, type(y).__name__)

x = np.linspace(-2, 2, {points})
y = np.linspace(-2, 2, {points})
X, Y = np.meshgrid(x, y)
Z = X**2 + Y**2
after = (type(x).__name__, type(y).__name__)
print(before, after)
print(x.grad)
"""
_OWN_NAMES = """
x = torch.tensor([1., 2., 3.], requires_grad=True)
torch.sum(x**2).backward()

side = np.linspace(-2, 2, {points})
X, Y = np.meshgrid(side, side)
Z = X**2 + Y**2
print(type(x).__name__, x.grad)
"""
_FIGURE = """
figure = Figure(figsize={size})
FigureCanvasAgg(figure)
ax1 = figure.add_subplot(121, projection='3d')
surf = ax1.plot_surface(X, Y, Z, cmap='viridis')
ax2 = figure.add_subplot(122)
contour = ax2.contour(X, Y, Z)
segments = contour.allsegs
ax2.clabel(contour, inline=True)
figure.colorbar(contour)
{more}figure.tight_layout()
"""
_AS_WRITTEN = 100
_END = 2.0
_DEGREES = tuple(range(10, 370, 45))
_ANGLES = tuple(map(math.radians, _DEGREES))
# Half the angle of a chord: ε^⅓ makes its curvature as small as what rounding leaves of its direction.
_HALF = EPS ** (1 / 3)

Point = tuple[float, float]


def lesson(
    *,
    points: Annotated[int, "Points along each side of the grid.", Range(least=10, most=301)] = _AS_WRITTEN,
    at: Annotated[tuple[float, ...], "Where the tangent plane touches.", Range(-2, 2), Count(2, 2)] = (1.0, -0.5),
    radius: Annotated[float, "The circle along which the gradient is measured.", Range(least=0.1, most=10)] = 1.5,
) -> Parts:
    """Yields the lesson."""
    yield from section("grid", _grid(points))
    yield from section("paraboloid", _paraboloid((at[0], at[1])))
    yield from section("minimum", _minimum())
    yield from section("contours", _contours())
    yield from section("uniform", _uniform(radius))
    yield from section("perpendicular", _perpendicular(radius))
    count = 2 * (points // 4) + 10
    yield exercise("ex-grid", _least(count), digits=3, points=count)
    yield exercise("ex-radius", math.sqrt(radius), digits=3, level=radius)


def _bowl(p: Tensor) -> Tensor:
    return p[..., 0] ** 2 + p[..., 1] ** 2


def _trough(p: Tensor) -> Tensor:
    return p[..., 0] ** 2 + 4 * p[..., 1] ** 2


def _saddle(p: Tensor) -> Tensor:
    return p[..., 0] ** 2 - p[..., 1] ** 2


def _gradient(points: Sequence[Point], f: Callable[[Tensor], Tensor] = _bowl) -> Tensor:
    """Returns torch's gradient at each point."""
    return gradient(f, double(points))


# ----------------------------------------------------------------------------------------------------------- the grid


def _least(points: int) -> float:
    """Returns the least x² + y² on a grid from −2 to 2: an even number of points passes 0 by half a step."""
    return 0.0 if points % 2 else 2 * (_END / (points - 1)) ** 2


def _grid(points: int) -> Parts:
    names = {"torch": torch, "np": np}
    ran = yield from attempt("as-written", _GRID.format(points=_AS_WRITTEN), names)
    yield claim("before", ran.names["before"], "=", ("Tensor", "Tensor"), "B11")
    yield claim("after", ran.names["after"], "=", ("ndarray", "ndarray"), "B11")
    yield claim("no-grad", ran.fault, "=", "AttributeError", "B11")
    better = yield from attempt("own-names", _OWN_NAMES.format(points=_AS_WRITTEN + 1), names)
    x = better.names["x"]
    yield claim("keeps", (type(x).__name__, x.grad), "=", ("Tensor", [2.0, 4.0, 6.0]), "B11", gradient=x.grad)
    yield text("misses")
    rows = []
    for count in dict.fromkeys((_AS_WRITTEN, _AS_WRITTEN + 1, points)):
        side = np.linspace(-_END, _END, count)
        heights = side[:, None] ** 2 + side**2
        j, i = np.unravel_index(heights.argmin(), heights.shape)
        there = text("yes" if (side == 0).any() else "no")
        rows.append((count, there, heights.min(), [side[i], side[j]], _least(count)))
    yield Rows(("points", "has-zero", "least-z", "least-at", "by-formula"), rows)
    # linspace rounds each point by an ε of 2 at most, and the square of a small point so much less.
    yield claim("least", [row[2] for row in rows], "≈", [row[4] for row in rows], "B12", within=8 * EPS)
    yield claim("not-zero", rows[0][2], ">", 0.0, "B12", points=_AS_WRITTEN, at=rows[0][3])
    yield claim("zero", rows[1][2], "=", 0.0, "B12", points=_AS_WRITTEN + 1)
    yield claim("most", float(ran.names["Z"].max()), "=", 2 * _END**2, "B13")


# --------------------------------------------------------------------------------------------------------- the surface


def _paraboloid(at: Point) -> Parts:
    p = double(at)
    (g,) = _gradient([at])
    height = float(_bowl(p))
    rows = []
    for d in ((1.0, 0.0), (0.0, 1.0), (-0.5, 0.25), (0.125, 0.125)):
        step = double(d)
        surface, plane = float(_bowl(p + step)), height + float(g @ step)
        rows.append((d, surface, plane, surface - plane, d[0] ** 2 + d[1] ** 2))
    yield text("plane", x=at[0], y=at[1], z=height, g=g)
    yield Drawn("figure", "surface", {"at": at})
    yield Rows(("step", "surface-there", "plane-there", "above", "length-squared"), rows)
    # A dozen operations on numbers of at most (2 + 1)² + 2² = 13.
    yield claim("above-plane", [row[3] for row in rows], "≈", [row[4] for row in rows], "B13", "B20", within=128 * EPS)
    yield claim("plane-slope", g, "=", [2 * e for e in at], "B13")
    places = [at, (0.0, 0.0), (-1.0, 2.0)]
    hessians = [torch.autograd.functional.hessian(_bowl, double(q)) for q in places]
    yield text("hessian")
    yield columns({"point": places, "hessian-there": hessians})
    yield claim("hessian-sympy", torch.stack(hessians), "=", [_by_sympy()] * len(places), "B20", h=_by_sympy())
    turned = [_turned(at, 2 * math.pi * k / 8) for k in range(8)]
    heights = _bowl(double(turned))
    # The turn rounds each coordinate a few times, and the squares twice more.
    within = 16 * EPS * max(height, 1.0)
    yield claim("revolution", heights, "≈", [height] * 8, "B20", within=within, height=height)
    yield claim("not-every-bowl", curvatures(_trough, p), "≈", [2.0, 8.0], "B20", within=16 * EPS * 8)


def _turned(p: Point, angle: float) -> Point:
    c, s = math.cos(angle), math.sin(angle)
    return (c * p[0] - s * p[1], s * p[0] + c * p[1])


def _by_sympy() -> list[list[float]]:
    import sympy

    x, y = sympy.symbols("x y")
    return [[float(e) for e in row] for row in sympy.hessian(x**2 + y**2, (x, y)).tolist()]


def _minimum() -> Parts:
    (g,) = _gradient([(0.0, 0.0)])
    yield text("two-conditions")
    yield claim("stationary", g, "=", [0.0, 0.0], "B21")
    yield claim("definite", curvatures(_bowl, double([0, 0])), ">", 0.0, "B21")
    yield text("why-both")
    (flat,) = _gradient([(0.0, 0.0)], _saddle)
    yield claim("saddle-flat", flat, "=", [0.0, 0.0], "B21")
    yield claim("saddle-not", curvatures(_saddle, double([0, 0]))[0], "<", 0.0, "B21")


# -------------------------------------------------------------------------------------------------------- the contours


def _plotted(size: tuple[int, int], more: str = "") -> Ran:
    """Returns the run of the plot, its axes laid out."""
    side = np.linspace(-_END, _END, _AS_WRITTEN)
    x, y = np.meshgrid(side, side)
    (ran,) = run_plots(_FIGURE.format(size=size, more=more), names={"X": x, "Y": y, "Z": x**2 + y**2})
    ran.names["ax2"].apply_aspect()
    return ran


def _shape(ran: Ran) -> float:
    """Returns how wide a circle is drawn, for a height of one."""
    box = ran.names["ax2"].bbox
    return float(box.width / box.height)  # both sides of the axes are as long in x as in y


def _contours() -> Parts:
    ran = _plotted((12, 5))
    segments, levels = ran.names["segments"], ran.names["contour"].levels
    joined = (np.concatenate([np.empty((0, 2)), *parts]) for parts in segments)
    drawn = {float(level): line for level, line in zip(levels, joined, strict=True) if len(line)}
    yield text("level-curves")
    yield ran
    step = 2 * _END / (_AS_WRITTEN - 1)
    rows = []
    for level, vertices in drawn.items():
        heights = (vertices**2).sum(1)
        rows.append((level, len(vertices), heights.min(), heights.max(), float(np.sqrt(heights).mean())))
    yield Rows(("level", "vertices", "lowest", "highest", "mean-radius"), rows)
    away = max(max(abs(row[2] - row[0]), abs(row[3] - row[0])) for row in rows)
    # Between two grid points the plotter takes x² for a straight line, which errs by at most (step/2)².
    yield claim("constant", away, "<", (step / 2) ** 2 + 64 * EPS, "B22", step=step)
    radius = 1.5
    exact = _bowl(double(_circle(radius)))
    yield claim("exactly", exact, "≈", [radius**2] * len(_ANGLES), "B22", within=4 * radius**2 * EPS, radius=radius)
    missing = [float(level) for level in levels if float(level) not in drawn]
    yield claim("empty-level", 0.0 in missing, "=", True, "B14", "B12", missing=missing)
    widths = [_shape(ran), _shape(_plotted((8, 5)))]
    equal = _plotted((8, 5), "ax2.set_aspect('equal')\n")
    yield text("aspect")
    yield claim("auto", ran.names["ax2"].get_aspect(), "=", "auto", "B14")
    yield claim("by-luck", widths[1], "≠", widths[0], "B14", wide=widths[0], narrow=widths[1])
    yield claim("equal", _shape(equal), "≈", 1.0, "B14", within=1e-9)
    radii = [row[4] for row in rows]
    yield claim("radii", radii, "≈", [math.sqrt(row[0]) for row in rows], "B23", within=(step / 2) ** 2)
    gaps = np.diff(radii)
    yield claim("shrink", gaps[1:], "<", gaps[:-1], "B23", gaps=gaps)


def _circle(radius: float) -> list[Point]:
    return [(radius * math.cos(a), radius * math.sin(a)) for a in _ANGLES]


def _uniform(radius: float) -> Parts:
    around = _bowl(double(_circle(radius)))
    slopes = _gradient(_circle(radius)).norm(dim=1)
    yield text("two-meanings", radius=radius)
    yield columns({"direction": _DEGREES, "height": around - radius**2, "steepness": slopes - 2 * radius})
    yield claim("isotropic", around, "≈", [radius**2] * len(_ANGLES), "B23", within=4 * EPS * radius**2)
    yield claim("steep", slopes, "≈", [2 * radius] * len(_ANGLES), "B23", within=8 * EPS * radius)
    out = [(radius * k, 0.0) for k in (1, 2, 3, 4)]
    heights, steepness = _bowl(double(out)), _gradient(out).norm(dim=1)
    yield text("outwards")
    yield columns({"radius": [p[0] for p in out], "heights": heights, "length": steepness})
    ratios = heights / heights[0]
    yield claim("quadratic", ratios, "≈", [1.0, 4.0, 9.0, 16.0], "B23", within=64 * EPS)
    yield claim("linear-slope", steepness, "≈", [2 * p[0] for p in out], "B23", within=8 * EPS * 4 * radius)


# ------------------------------------------------------------------------------------------------------- perpendicular


def _perpendicular(radius: float) -> Parts:
    points = _circle(radius)
    gradients = _gradient(points)
    tangents = _tangents(_bowl, radius**2)
    products = (gradients * tangents).sum(1).abs()
    yield text("independent")
    yield columns({"point": points, "gradient": gradients, "tangent": tangents, "product": products})
    # A chord differs from the tangent by the square of its half angle at most, and its ends are known to an ε or two.
    bound = 2 * radius * (_HALF**2 + 4 * EPS / _HALF)
    yield claim("at-right-angles", products, "≈", [0.0] * len(_ANGLES), "B24", within=bound)
    turned = double([_turned((gx, gy), math.radians(1)) for gx, gy in gradients.tolist()])
    wrong = (turned * tangents).sum(1).abs()
    yield claim("would-show", wrong, ">", bound, "B24", least=wrong.min(), bound=bound)
    yield claim("outward", _across(gradients, points), "≈", [0.0] * len(_ANGLES), "B24", within=8 * EPS * radius**2)
    yield from _stretched(radius, bound)
    yield text("why-perpendicular")


def _stretched(radius: float, bound: float) -> Parts:
    points = [_on_level(_trough, radius**2, a) for a in _ANGLES]
    gradients, tangents = _gradient(points, _trough), _tangents(_trough, radius**2)
    products = (gradients * tangents).sum(1).abs()
    # The gradient is at most twice as long as on the circle. As it is followed by the angle, this ellipse's third
    # derivative, by which a chord errs, is fewer than 32 times its first.
    yield claim("ellipse", products, "≈", [0.0] * len(_ANGLES), "B24", within=64 * bound)
    yield claim("ellipse-askew", max(_across(gradients, points)), ">", 64 * bound, "B24")
    yield Drawn("stretched", "surface", {"expression": "x**2 + 4*y**2"})


def _across(gradients: Tensor, points: Sequence[Point]) -> list[float]:
    """Returns |g × p|: 0 where the gradient points straight away from the centre."""
    return [abs(gx * y - gy * x) for (gx, gy), (x, y) in zip(gradients.tolist(), points, strict=True)]


def _tangents(f: Callable[[Tensor], Tensor], level: float) -> Tensor:
    """Returns the directions of the contour of `level` at all angles, from values of the function alone."""
    before, after = (double([_on_level(f, level, angle + turn) for angle in _ANGLES]) for turn in (-_HALF, _HALF))
    return torch.nn.functional.normalize(after - before)


def _on_level(f: Callable[[Tensor], Tensor], level: float, angle: float) -> Point:
    """Returns the point where a ray from the origin reaches the level, by bisection."""
    ray = double((math.cos(angle), math.sin(angle)))
    low, high = 0.0, 2 * math.sqrt(level)
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if float(f(middle * ray)) < level else (low, middle)
    return (low * float(ray[0]), low * float(ray[1]))
