"""Curves over the steps of a run: an SVG that takes the page's colours, and bars in a table where there are letters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from gradexplain.documents.doc import Curve, Panel, Plot, Table
from gradexplain.mathematics.terms import number_text

_BARS = "▁▂▃▄▅▆▇█"
_NO_NUMBER = "×"

# Of a panel, in pixels: the plot itself, what stands on its left and right, what lies between two panels.
_WIDE, _TALL, _LEFT, _RIGHT, _GAP = 480.0, 120.0, 70.0, 230.0, 24.0
_FONT, _LETTER, _LINE = 12.0, 7.0, 16.0
# Larger ratios of the largest to the smallest number are drawn on a logarithmic scale.
_LOGARITHMIC = 30.0
_COLUMNS = 240
# From the first curve of a panel to its last, in depth; each stands out from light and from dark paper.
_SHALLOW, _DEEP = "#0a84d8", "#d8590a"
_EXPONENT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def tabled(plot: Plot, width: int) -> Table:
    """Returns the plot in letters: each curve's first number, bars from its least to its largest, and its last."""
    curves = [curve for panel in plot.panels for curve in panel.curves]
    return Table(plot.header, tuple((c.name, *_barred(c.numbers, max(10, width - 60))) for c in curves))


def _barred(numbers: Sequence[float], most: int) -> tuple[str, str, str]:
    if not numbers:
        return "", "", ""
    shown = [numbers[i] for i in _spread(len(numbers), most)]
    finite = [n for n in shown if math.isfinite(n)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)

    def bar(number: float) -> str:
        if not math.isfinite(number):
            return _NO_NUMBER
        return _BARS[round((number - low) / (high - low) * (len(_BARS) - 1))] if high > low else _BARS[0]

    return number_text(numbers[0], 3), "".join(map(bar, shown)), number_text(numbers[-1], 3)


def _spread(count: int, most: int) -> Iterable[int]:
    return range(count) if count <= most else (round(i * (count - 1) / (most - 1)) for i in range(most))


def plotted(plot: Plot) -> str:
    """Returns the plot as an SVG: a panel below the other, all of them over the same steps."""
    panels = [panel for panel in plot.panels if any(curve.numbers for curve in panel.curves)]
    last = max((c.places[-1] for p in panels for c in p.curves if c.places), default=0)
    parts: list[str] = []
    top = 0.0
    for panel in panels:
        drawn = _Drawn(panel, top + _LINE + 6, plot.across, max(last, 1), plot.mark)
        parts.extend(drawn.parts())
        top = drawn.bottom
    wide, tall = _LEFT + _WIDE + _RIGHT, top
    about = "; ".join(panel.title for panel in panels)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' role='img' viewBox='0 0 {wide:g} {tall:g}' width='{wide:g}' "
        f"height='{tall:g}' font-size='{_FONT:g}' fill='none' stroke='currentColor' "
        f"stroke-width='1.5' stroke-linejoin='round'><title>{escape(about)}</title>{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class _Axis:
    """The numbers that a panel's height stands for, and those that are written beside it."""

    low: float
    high: float
    ticks: Mapping[float, str]
    logarithmic: bool = False

    @classmethod
    def of(cls, numbers: Sequence[float]) -> _Axis:
        finite = [n for n in numbers if math.isfinite(n)]
        positive = [n for n in finite if n > 0]
        if positive and min(finite) >= 0 and max(positive) / min(positive) >= _LOGARITHMIC:
            least, most = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
            places = range(least, most + 1, max(1, math.ceil((most - least) / 4)))
            return cls(least, most, {n: f"10{str(n).translate(_EXPONENT)}" for n in places}, True)
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        step = _round_step((high - low) or abs(high) or 1.0)
        first, last = math.floor(low / step), math.ceil(high / step)
        last += first == last
        ticks = [float(f"{i * step:.9g}") for i in range(first, last + 1)]
        return cls(ticks[0], ticks[-1], {tick: number_text(tick, 3) for tick in ticks})

    def share(self, number: float) -> float:
        """Returns how high a number stands, from 0 to 1; what has no logarithm stands at the foot."""
        height = (math.log10(number) if number > 0 else self.low) if self.logarithmic else number
        return (height - self.low) / (self.high - self.low)


def _round_step(span: float) -> float:
    """Returns 1, 2 or 5 of a power of ten, three to six of which make the span."""
    ten: float = 10.0 ** math.floor(math.log10(span))
    return next(step for step in (ten / 5, ten / 2, ten, 2 * ten) if span / step <= 5)


@dataclass(frozen=True)
class _Drawn:
    """A panel in pixels."""

    panel: Panel
    top: float
    across: str
    last: int
    mark: int | None

    @property
    def bottom(self) -> float:
        legend = _LINE * len(self.panel.curves)
        return self.top + max(_TALL + _LINE, legend) + _GAP / 2

    def parts(self) -> Iterator[str]:
        axis = _Axis.of([n for curve in self.panel.curves for n in curve.numbers])
        yield _text(_LEFT, self.top - 8, self.panel.title, "font-weight='600'")
        for tick, said in axis.ticks.items():
            y = self._height((tick - axis.low) / (axis.high - axis.low))
            yield _line(_LEFT, y, _LEFT + _WIDE, y, "opacity='.2'")
            yield _text(_LEFT - 8, y + 4, said, "text-anchor='end'")
        for place in range(0, self.last + 1, max(1, round(_round_step(self.last)))):
            yield _text(self._across(place), self.top + _TALL + _LINE, str(place), "text-anchor='middle'")
        yield _text(_LEFT - 14, self.top + _TALL + _LINE, self.across, "text-anchor='end' opacity='.8'")
        if self.mark is not None:
            x = self._across(self.mark)
            yield _line(x, self.top, x, self.top + _TALL, "opacity='.6' stroke-dasharray='3 3'")
        for number, curve in enumerate(self.panel.curves):
            yield from self._curve(curve, axis, _colour(number, len(self.panel.curves)))
            if len(self.panel.curves) > 1:
                yield from self._legend(curve, number)

    def _across(self, place: float) -> float:
        return _LEFT + _WIDE * place / self.last

    def _height(self, share: float) -> float:
        return self.top + _TALL * (1 - share)

    def _curve(self, curve: Curve, axis: _Axis, colour: str) -> Iterator[str]:
        path, pen, crosses = [], "M", {}
        for place, number in _outline(curve):
            x = self._across(place)
            if math.isfinite(number):
                path.append(f"{pen}{x:.1f} {self._height(axis.share(number)):.1f}")
                pen = "L"
            else:
                pen = "M"
                crosses[round(x / 6)] = x
        about = f"<title>{escape(curve.name)}</title>"
        yield f"<path style='stroke:{colour}' stroke-linecap='round' d='{''.join(path)}'>{about}</path>"
        y = self.top + 6
        marks = "".join(f"M{x - 3:.1f} {y - 3:g}l6 6m0 -6l-6 6" for x in crosses.values())
        if marks:
            yield f"<path class='bad' stroke='currentColor' d='{marks}'><title>nan, inf</title></path>"

    def _legend(self, curve: Curve, number: int) -> Iterator[str]:
        x, y = _LEFT + _WIDE + 16, self.top + _LINE * (number + 0.5)
        yield _line(x, y, x + 16, y, f"style='stroke:{_colour(number, len(self.panel.curves))}' stroke-width='3'")
        most = int((_RIGHT - 44) / _LETTER)
        name = curve.short or curve.name
        yield _text(x + 24, y + 4, name if len(name) <= most else f"…{name[1 - most :]}")


def _outline(curve: Curve) -> Iterator[tuple[float, float]]:
    """Yields the points of a curve; of one with more than can be seen, the least and the largest of each column."""
    points = [*zip(curve.places, curve.numbers, strict=True)]
    size = max(1, math.ceil(len(points) / _COLUMNS))
    for first in range(0, len(points), size):
        column = points[first : first + size]
        finite = [p for p in column if math.isfinite(p[1])]
        kept = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])} if finite else set()
        kept |= set(column) - set(finite)
        yield from sorted(kept) if size > 1 else column


def _colour(number: int, count: int) -> str:
    share = 100 * number / (count - 1) if count > 1 else 0
    return f"color-mix(in oklch,{_SHALLOW},{_DEEP} {share:.0f}%)"


def _line(x: float, y: float, to_x: float, to_y: float, more: str) -> str:
    return f"<path d='M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}' {more}/>"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' fill='currentColor' stroke='none' {more}>{escape(text)}</text>"
