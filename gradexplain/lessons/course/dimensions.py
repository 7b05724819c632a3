"""What a plot of the gradient in several dimensions shows, and what it cannot: ones, proportion, `plt.show()`."""

from __future__ import annotations

import io
import math
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from gradexplain.figures.design import computed, designs
from gradexplain.figures.parameters import Range
from gradexplain.lessons.listings import attempt, run_listing, run_plots
from gradexplain.lessons.measures import EPS, double, gradient
from gradexplain.lessons.parts import Drawn, Parts, Ran, Rows, claim, exercise, section, text

_AS_WRITTEN = """
dimensions = {dimensions}
results = []

for dim in dimensions:
    x = torch.{make}, requires_grad=True)
    y = torch.sum(x**2)
    y.backward()
    results.append(x.grad.numpy())
"""
_PLOT = """
figure = Figure(figsize=(10, 5))
FigureCanvasAgg(figure)
axes = figure.subplots()
for i, grad in enumerate(results):
    axes.plot(range(1, len(grad) + 1), grad, 'o-', label=f'{len(grad)}D')
"""
_SHOW = """
import matplotlib.pyplot as plt
plt.plot([1, 2, 3])
plt.show()
"""
_SAVE = """
file = io.BytesIO()
figure.savefig(file, format="png", dpi=100)
"""
# How every PNG file begins: https://www.w3.org/TR/png-3/#5PNG-file-signature
_SIGNATURE = bytes((137, 80, 78, 71, 13, 10, 26, 10))
_DOTS = 100
_UNIT = (0.6, 0.8)


def lesson(*, n: Annotated[int, "The most dimensions.", Range(least=2, most=8)] = 5) -> Parts:
    """Yields the lesson."""
    results = run_listing(_ones_code(n)).names["results"]
    yield from section("ones", _ones(n))
    yield from section("overlap", _overlap(results))
    yield from section("proportion", _proportion(n))
    yield from section("show", _show(results))
    yield from section("unit", _unit(n))
    yield exercise("ex-component", 2.0 * n, n=n)
    yield exercise("ex-length", 2 * math.sqrt(n), digits=4, n=n)


def _gradient(x: Tensor, power: int = 2) -> Tensor:
    return gradient(lambda x: x**power, x)


def _ones_code(n: int) -> str:
    return _AS_WRITTEN.format(dimensions=list(range(1, n + 1)), make="ones(dim")


def _ones(n: int) -> Parts:
    ran = yield from attempt("as-written", _ones_code(n))
    results = ran.names["results"]
    yield Rows(("dimensions", "gradient"), [(len(grad), grad) for grad in results])
    yield claim("all-two", [grad.tolist() for grad in results], "=", [[2.0] * d for d in range(1, n + 1)], "B8")


# -------------------------------------------------------------------------------------------------- lines on each other


def _identical(results: Sequence[Any]) -> list[tuple[int, int]]:
    """Returns the pairs of series that are one wherever both have a component."""
    pairs = combinations(results, 2)
    return [(len(a), len(b)) for a, b in pairs if all(p == q for p, q in zip(a, b, strict=False))]


def _drawn(results: Sequence[Any]) -> tuple[Ran, Ran]:
    """Returns the runs that draw and that save the plot."""
    plot, saved = run_plots(_PLOT, _SAVE, names={"results": results, "io": io})
    return plot, saved


def _dots(saved: Ran) -> Any:
    """Returns the colour of every dot of the file, as red, green and blue from 0 to 1."""
    from matplotlib.image import imread

    picture = imread(io.BytesIO(saved.names["file"].getvalue()))
    return picture[..., :3].reshape(-1, 3)


def _seen(plot: Ran, saved: Ran) -> list[bool]:
    """Says for each line whether a single dot of the picture has its colour."""
    from matplotlib.colors import to_rgb

    dots = np.round(255 * _dots(saved))
    colours = [np.round(255 * np.array(to_rgb(line.get_color()))) for line in plot.names["axes"].lines]
    return [bool((dots == colour).all(1).any()) for colour in colours]


def _overlap(results: Sequence[Any]) -> Parts:
    n = len(results)
    ran, saved = _drawn(results)
    yield text("plotted", n=n)
    yield ran
    seen = _seen(ran, saved)
    yield claim("one-colour", seen, "=", [False] * (n - 1) + [True], "B9", n=n, seen=sum(seen))
    pairs = _identical(results)
    yield claim("pairs", len(pairs), "=", n * (n - 1) // 2, "B9", "B17", n=n)
    low, high = ran.names["axes"].get_ylim()
    flat = [float(np.ptp(line.get_ydata())) for line in ran.names["axes"].lines]
    yield claim("flat", flat, "=", [0.0] * n, "B9", "B17", most=max(flat))
    yield text("axis", low=low, high=high)
    yield Drawn("figure-ones", "dimensions", {"n": n, "at": "ones"})
    (group,) = computed(designs()["dimensions"], {"n": n, "at": "ones"}).identical
    yield claim("figure-says", group, "=", sorted({d for pair in pairs for d in pair}), "B9", count=len(group))


# ---------------------------------------------------------------------------------------------------------- proportion


def _proportion(n: int) -> Parts:
    ones = torch.ones(n, dtype=torch.float64)
    of_ones = _gradient(ones)
    laws = {"g = 2x": 2 * ones, "g = x + 1": ones + 1, "g = 3 − x": 3 - ones, "g = 2": 2 * ones**0}
    arange = torch.arange(1.0, n + 1, dtype=torch.float64)
    other = {"g = 2x": 2 * arange, "g = x + 1": arange + 1, "g = 3 − x": 3 - arange, "g = 2": 2 * arange**0}
    away = [(_far(of_ones, laws[law]), _far(_gradient(arange), other[law])) for law in laws]
    yield text("no-proportion")
    yield Rows(("law", "away-ones", "away-arange"), [(law, *far) for law, far in zip(laws, away, strict=True)])
    yield claim("ones-fit-all", [far for far, _ in away], "=", [0.0] * len(laws), "B18", "B9", laws=len(laws))
    yield claim("arange-fits-one", [far == 0 for _, far in away], "=", [True, False, False, False], "B18")
    ran = yield from attempt("arange", _AS_WRITTEN.format(dimensions=[n], make="arange(1., dim + 1"))
    (gradients,) = ran.names["results"]
    yield claim("twice", gradients, "=", [2.0 * i for i in range(1, n + 1)], "B18", "B17")
    yield Drawn("figure-arange", "dimensions", {"n": n, "at": "arange"})
    yield from _fitted()
    yield Drawn("figure-proportional", "proportional")


def _far(slopes: Tensor, law: Tensor) -> float:
    return float((slopes - law).abs().max())


def _fitted() -> Parts:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    rows = []
    for power in (2, 3):
        slopes = _gradient(x, power)
        slope, intercept = map(float, np.polyfit(x.numpy(), slopes.numpy(), 1))
        rows.append((f"sum(x**{power})", slope, intercept, _far(slopes, slope * x + intercept)))
    yield text("fit")
    yield Rows(("function", "slope", "intercept", "residual"), rows)
    # polyfit solves a least squares problem of nine points of size 2 with condition near 1: some tens of roundings.
    yield claim("fitted", list(rows[0][1:]), "≈", [2.0, 0.0, 0.0], "B18", within=64 * EPS, slope=rows[0][1])
    # Of 3x² the best line is level, at the mean; the ends are the mean away from the largest value.
    squares = [3 * Fraction(e) ** 2 for e in x.tolist()]
    worst = float(max(squares) - sum(squares) / len(squares))
    yield claim("not-fitted", rows[1][3], "≈", worst, "B18", within=1000 * EPS)


# ---------------------------------------------------------------------------------------------------------- plt.show()


def _show(results: Sequence[Any]) -> Parts:
    code, left = _headless()
    yield text("show-nothing")
    yield Rows(("what-ran", "exit-code", "files-left"), [("plt.show(), MPLBACKEND=agg", code, left)])
    yield claim("show-leaves", (code, left), "=", (0, 0), "B10", left=left)
    drawn, saved = _drawn(results)
    yield text("save")
    yield saved
    written = saved.names["file"].getvalue()
    yield claim("signature", list(written[:8]), "=", list(_SIGNATURE), "B10")
    size = [int(inch * _DOTS) for inch in drawn.names["figure"].get_size_inches()]
    yield claim("size", list(struct.unpack(">II", written[16:24])), "=", size, "B10", bytes=len(written), dots=_DOTS)
    yield claim("not-empty", len(np.unique(_dots(saved), axis=0)), ">", 1, "B10")
    _, again = _drawn(results)
    yield claim("same-bytes", again.names["file"].getvalue() == written, "=", True, "B10")


def _headless() -> tuple[int, int]:
    """Runs `plt.show()` in a process of its own without a screen: its exit code, and how many files it left."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {**os.environ, "MPLBACKEND": "agg"}
        code = [sys.executable, "-c", _SHOW]
        ran = subprocess.run(code, cwd=folder, env=settings, capture_output=True, check=False, timeout=60)
        return ran.returncode, len(list(Path(folder).iterdir()))


# -------------------------------------------------------------------------------------------------------- unit input


def _unit(n: int) -> Parts:
    ones = torch.ones(n, dtype=torch.float64)
    points = {
        "all-ones": ones,
        "unit-norm": double(_UNIT),
        "normed-ones": ones / math.sqrt(n),
        "axis-vector": torch.eye(n, dtype=torch.float64)[0],
    }
    rows = [(text(key), x, x.norm(), _gradient(x), _gradient(x).norm()) for key, x in points.items()]
    yield text("ambiguous")
    yield Rows(("input", "x", "length", "gradient", "gradient-length"), rows)
    yield claim("ones-two", _gradient(ones), "=", [2.0] * n, "B19")
    unit = points["unit-norm"]
    yield claim("unit-not-two", _gradient(unit), "=", [2 * e for e in _UNIT], "B19", x=unit)
    # A length takes n squares, n sums and a root: fewer than 2n + 2 roundings of a number of size 2.
    lengths = [float(_gradient(points[key]).norm()) for key in ("unit-norm", "normed-ones", "axis-vector")]
    yield claim("length-two", lengths, "≈", [2.0] * 3, "B19", within=(2 * n + 2) * EPS)
    length = float(_gradient(ones).norm())
    yield claim("ones-length", length, "≈", 2 * math.sqrt(n), "B19", within=(2 * n + 2) * EPS * math.sqrt(n), n=n)
