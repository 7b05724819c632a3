"""The gradient by its components, for tensors of one, two and more dimensions, and which of these series are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from gradexplain.errors import InputError
from gradexplain.figures.design import Design
from gradexplain.figures.expressions import OF_ONE, formula, gradient
from gradexplain.figures.fitting import Line, fitted
from gradexplain.figures.inputs import equation, vector
from gradexplain.figures.parameters import Range
from gradexplain.figures.style import Style, number, plain
from gradexplain.figures.typesetting import titled
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from torch import Tensor

MOST = 12
# Each series has a ring of its own about its points, so that all are seen where they lie on one another: how wide the
# first is and the last at most, and how much wider each is than the one before, in points.
_RING, _WIDEST, _WIDER = 6.0, 30.0, 5.0


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

    @property
    def flat(self) -> float | None:
        """What every gradient is, where all are one number."""
        every = {g for s in self.series for g in s.gradients}
        return every.pop() if len(every) == 1 else None


def dimensions(
    expression: Annotated[str, "A function of one tensor that gives one number.", OF_ONE] = "sum(x**2)",
    *,
    n: Annotated[int, "The most dimensions.", Range(1, MOST)] = 5,
    at: Annotated[str, "The inputs: ones, arange (1, 2, …), or a VALUE of at least n numbers."] = "arange",
) -> Dimensions:
    """Gradient against component, for tensors of 1 to n dimensions.

    Series that lie on one another are recognised and said, and stand in rings about one point, so that each one is
    seen. Inputs that differ show how the gradient depends on them; ones cannot.
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
    """Paints every series by component, each in rings of its size; returns what is to be said below."""
    (panel,) = axes
    panel.axhline(0, color=style.palette.soft, linewidth=0.8)
    n = len(data.series)
    if data.line and data.line.straight and data.at == "arange":
        line = [data.line.at(i) for i in (1, n)]
        label = style.say("line", formula=equation(data.line, "i"))
        panel.plot((1, n), line, color=style.palette.soft, linewidth=1.2, linestyle=(0, (4, 2)), label=label, zorder=1)
    wider = min(_WIDER, (_WIDEST - _RING) / max(n - 1, 1))
    for d, series in enumerate(data.series, 1):
        look = {"markeredgecolor": style.colour(d - 1), "markerfacecolor": style.colour(d - 1) if d == 1 else "none"}
        panel.plot(
            range(1, d + 1), series.gradients, "o", markersize=_RING + (d - 1) * wider, markeredgewidth=0.4 * wider,
            label=f"n = {d}", zorder=3, **look,
        )  # fmt: skip
    points = {(i, g) for s in data.series for i, g in enumerate(s.gradients, 1)}
    panel.plot(*zip(*sorted(points), strict=True), ".", color=style.palette.ink, markersize=4, zorder=4)
    panel.set_ylim(*_heights(data))
    panel.set_xlim(0.5, n + 0.5)
    panel.set_xticks(range(1, n + 1))
    panel.set_xlabel(style.say("component"))
    panel.set_ylabel(style.say("gradient_by", name=f"∂f/∂{data.variable}ᵢ"))
    style.head(panel, style.say("dimensions_title", expression=titled(data.expression, 30), at=shown(data.at, 20)))
    plain(panel.yaxis)
    style.legend(panel, markerscale=0.6, labelspacing=0.8, handlelength=2.4)
    return [*_said(data, style)]


def _heights(data: Dimensions) -> tuple[float, float]:
    """Returns the ends of the axis: with 0 in it, so that a flat series is seen to be flat."""
    heights = [0.0, *(g for s in data.series for g in s.gradients)]
    margin = 0.12 * ((max(heights) - min(heights)) or 1.0)
    return min(heights) - margin, max(heights) + margin


def _said(data: Dimensions, style: Style) -> Any:
    for group in data.identical:
        text = style.say("comma").join(map(str, group))
        yield style.say("dimensions_identical", count=len(group), which=text)
    if data.flat is not None:
        yield style.say("dimensions_flat", value=number(data.flat))
    if data.line is not None and data.line.straight:
        yield style.say("dimensions_line", formula=equation(data.line, f"{data.variable}ᵢ"))


def advise(data: Dimensions) -> list[tuple[str, Mapping[str, object]]]:
    """Returns the advice to take inputs that differ, where all are equal."""
    return (
        [("dimensions_equal", {})]
        if len({x for s in data.series for x in s.inputs}) == 1 and len(data.series) > 1
        else []
    )


DESIGN = Design(
    "dimensions", dimensions, paint, (("",),), (7.4, 4.2),
    ("", '"mean(x**2)" --n 4', '"sum(x**3)" --n 4 --at 0.5,1,2,3 --language zh'), advise=advise,
)  # fmt: skip
