"""The gradient by its components, for tensors of one, two and more dimensions, and which of these series are one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.expressions import OF_ONE, formula, gradient
from gradexplain.figures.fitting import Line, fitted
from gradexplain.figures.inputs import equation, vector
from gradexplain.figures.parameters import Range
from gradexplain.figures.style import MARKS, Style, beside, number, plain, titled
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from torch import Tensor

MOST = 12
# How much of the room of one component the marks of all series take, and how far apart they are at most.
_ROOM, _APART = 0.72, 0.13


@dataclass(frozen=True)
class Series:
    """The input and the gradient in one number of dimensions."""

    inputs: tuple[float, ...]
    gradients: tuple[float, ...]

    def agrees(self, other: Series) -> bool:
        """Says whether two series are one as far as both go."""
        return all(a == b for a, b in zip(self.gradients, other.gradients, strict=False))


@dataclass(frozen=True)
class Dimensions:
    """The gradients of an expression in 1 … n dimensions.

    `identical` has groups of dimensions whose series lie on one another wherever both have a component; `line` is the
    one through all gradients against their inputs, where there are two inputs that differ.
    """

    expression: str
    variable: str
    at: str
    series: tuple[Series, ...]
    identical: tuple[tuple[int, ...], ...]
    line: Line | None


def dimensions(
    expression: Annotated[str, "A function of one tensor that gives one number.", OF_ONE] = "sum(x**2)",
    *,
    n: Annotated[int, "The most dimensions.", Range(1, MOST)] = 5,
    at: Annotated[str, "The inputs: ones, arange (1, 2, …), or a VALUE of at least n numbers."] = "ones",
) -> Dimensions:
    """Gradient against component, for tensors of 1 to n dimensions.

    Series that lie on one another are recognised and said, and set side by side, so that each one is seen. With
    `--at arange` the inputs differ, and the gradient's dependence on them shows.
    """
    f = formula(expression, 1)
    inputs = _inputs(at, n)
    series = []
    for d in range(1, n + 1):
        x = inputs[:d]
        series.append(Series(tuple(x.tolist()), tuple(gradient(f, x).tolist())))
    points = [pair for s in series for pair in zip(s.inputs, s.gradients, strict=True)]
    line = fitted([x for x, _ in points], [g for _, g in points])
    return Dimensions(f.text, f.variables[0], at.strip(), tuple(series), _identical(series), line)


def _inputs(at: str, n: int) -> Tensor:
    import torch

    if at.strip() == "ones":
        return torch.ones(n, dtype=torch.float64)
    if at.strip() == "arange":
        return torch.arange(1.0, n + 1, dtype=torch.float64)
    numbers = vector(at)
    if numbers.numel() < n:
        raise InputError("figure_too_few", text=shown(at), seen=numbers.numel(), needed=n)
    return numbers[:n]


def _identical(series: Sequence[Series]) -> tuple[tuple[int, ...], ...]:
    """Returns the groups of more than one series that agree with the longest of them, by their dimensions."""
    groups: list[list[int]] = []
    for d in range(len(series), 0, -1):
        home = next((g for g in groups if series[d - 1].agrees(series[g[0] - 1])), None)
        if home is None:
            groups.append([d])
        else:
            home.append(d)
    return tuple(tuple(sorted(g)) for g in groups if len(g) > 1)


def paint(data: Dimensions, axes: Sequence[Any], style: Style) -> list[str]:
    """Paints every series by component, those of one component side by side; returns what is to be said below."""
    (panel,) = axes
    n = len(data.series)
    apart = min(_APART, _ROOM / n)
    if data.line and data.line.straight and data.at == "arange":
        line = [data.line.at(i) for i in (1, n)]
        label = style.say("line", formula=equation(data.line, "i"))
        panel.plot((1, n), line, color=style.palette.soft, linewidth=1.2, linestyle=(0, (4, 2)), label=label, zorder=1)
    for d, series in enumerate(data.series, 1):
        at = [i + (d - (n + i) / 2) * apart for i in range(1, d + 1)]  # at i stand the series of i to n, about i
        panel.plot(
            at, series.gradients, MARKS[(d - 1) % len(MARKS)], color=style.colour(d - 1), markersize=7,
            label=f"n = {d}", zorder=3,
        )  # fmt: skip
    for edge in range(1, n):
        panel.axvline(edge + 0.5, color=style.palette.grid, linewidth=0.8, zorder=0)
    panel.grid(visible=False, axis="x")
    low, high = _heights(data)
    panel.set_ylim(low, high)
    panel.set_xlim(0.5, n + 0.5)
    panel.set_xticks(range(1, n + 1))
    panel.set_xlabel(style.say("component"))
    panel.set_ylabel(style.say("gradient_by", name=f"∂f/∂{data.variable}ᵢ"))
    panel.set_title(style.say("dimensions_title", expression=titled(data.expression, 30), at=titled(data.at, 20)))
    plain(panel.yaxis)
    beside(panel)
    return [*_said(data, style)]


def _heights(data: Dimensions) -> tuple[float, float]:
    """Returns the ends of the axis: with 0 in it, so that a flat series is seen to be flat."""
    heights = [0.0, *(g for s in data.series for g in s.gradients)]
    margin = 0.12 * ((max(heights) - min(heights)) or 1.0)
    return (min(heights) - (margin if min(heights) < 0 else 0.0), max(heights) + margin)


def _said(data: Dimensions, style: Style) -> Any:
    for group in data.identical:
        text = style.say("comma").join(map(str, group))
        yield style.say("dimensions_identical", count=len(group), which=text)
    values = {g for s in data.series for g in s.gradients}
    if len(values) == 1:
        yield style.say("dimensions_flat", value=number(values.pop()))
    if data.line is not None and data.line.straight:
        yield style.say("dimensions_line", formula=equation(data.line, f"{data.variable}ᵢ"))


DESIGN = Design(
    "dimensions", dimensions, paint, (("",),), (7.4, 4.2),
    ("", "--at arange", '"sum(x**3)" --n 4 --at 0.5,1,2,3 --language zh'),
)  # fmt: skip
