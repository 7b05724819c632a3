"""Draws a small graph in text or as SVG: columns by longest path, orthogonal edges in the channels between them.

Every edge keeps an arrowhead of its own, so that a value used twice by one node shows two arrows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Protocol

from rich.cells import cell_len, set_cell_size

from gradexplain.documents.doc import Arrow, Box, Diagram

_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_LINES = {
    _LEFT | _RIGHT: "─", _UP | _DOWN: "│", _DOWN | _RIGHT: "┌", _DOWN | _LEFT: "┐", _UP | _RIGHT: "└",
    _UP | _LEFT: "┘", _UP | _DOWN | _RIGHT: "├", _UP | _DOWN | _LEFT: "┤", _DOWN | _LEFT | _RIGHT: "┬",
    _UP | _LEFT | _RIGHT: "┴", _UP | _DOWN | _LEFT | _RIGHT: "┼", _LEFT: "─", _RIGHT: "─", _UP: "│", _DOWN: "│",
}  # fmt: skip


def drawn(diagram: Diagram, width: int) -> list[str]:
    """Returns the lines of the drawing, or one line an arrow where `width` is too narrow for it."""
    lines = boxed(diagram)
    return lines if max(map(cell_len, lines), default=0) <= width else _listed(diagram, width)


def boxed(diagram: Diagram) -> list[str]:
    """Returns the lines of the drawing, however wide."""
    canvas = _Canvas()
    _Drawing(diagram).paint(canvas)
    return canvas.text()


def sketched(diagram: Diagram) -> str:
    """Returns the drawing as SVG in the colours of the text around it, with all that it says as its description."""
    sketch = _Sketch()
    width = _Drawing(diagram).paint(sketch)
    return sketch.svg(width, "; ".join(_arrows(diagram)))


def _arrows(diagram: Diagram) -> list[str]:
    """Returns one line an arrow, between the titles of its boxes."""
    titles = {box.name: box.title or box.lines[0] for box in diagram.boxes}
    return [f"[{titles[a.tail]}] ─{a.label}─▶ [{titles[a.head]}]" for a in diagram.arrows]


def _listed(diagram: Diagram, width: int) -> list[str]:
    """Returns one line an arrow; what the page has no room for ends in an ellipsis."""
    lines = _arrows(diagram)
    return [line if cell_len(line) <= width else set_cell_size(line, width - 1).rstrip() + "…" for line in lines]


@dataclass
class _Place:
    """Where a box stands; a place without a box is a bend of an edge that spans several columns."""

    column: int
    box: Box | None
    inputs: int = 0
    top: int = 0

    @property
    def height(self) -> int:
        return max(len(self.box.lines), self.inputs) + 2 if self.box else 1

    @property
    def width(self) -> int:
        return max(map(cell_len, self.box.lines)) + 4 if self.box else 1

    def port(self, slot: int = 0) -> int:
        return self.top + 1 + slot if self.box else self.top


@dataclass(frozen=True)
class _Segment:
    """A piece of an arrow between neighbouring columns."""

    tail: _Place
    head: _Place
    slot: int
    label: str

    @property
    def rise(self) -> tuple[int, int]:
        return self.tail.port(), self.head.port(self.slot)


class _Ground(Protocol):
    """What a drawing is painted on, in rows and columns of letters."""

    def horizontal(self, row: int, start: int, end: int) -> None: ...

    def vertical(self, column: int, start: int, end: int) -> None: ...

    def label(self, row: int, column: int, text: str) -> None: ...

    def arrowhead(self, row: int, column: int) -> None: ...

    def box(self, top: int, left: int, size: tuple[int, int], lines: Sequence[str]) -> None: ...


@dataclass
class _Canvas:
    """Letters on a page."""

    lines: dict[tuple[int, int], int] = field(default_factory=dict)
    texts: dict[tuple[int, int], str] = field(default_factory=dict)

    def horizontal(self, row: int, start: int, end: int) -> None:
        for column in range(start, end + 1):
            bits = (_LEFT if column > start else 0) | (_RIGHT if column < end else 0)
            self.lines[row, column] = self.lines.get((row, column), 0) | bits

    def vertical(self, column: int, start: int, end: int) -> None:
        top, bottom = sorted((start, end))
        for row in range(top, bottom + 1):
            bits = (_UP if row > top else 0) | (_DOWN if row < bottom else 0)
            self.lines[row, column] = self.lines.get((row, column), 0) | bits

    def label(self, row: int, column: int, text: str) -> None:
        for character in text:
            self.texts[row, column] = character
            column += max(cell_len(character), 0)

    def arrowhead(self, row: int, column: int) -> None:
        self.label(row, column, "▶")

    def box(self, top: int, left: int, size: tuple[int, int], lines: Sequence[str]) -> None:
        width, height = size
        self.label(top, left, "┌" + "─" * (width - 2) + "┐")
        self.label(top + height - 1, left, "└" + "─" * (width - 2) + "┘")
        for row in range(1, height - 1):
            self.label(top + row, left, "│ " + (lines[row - 1] if row <= len(lines) else ""))
            self.label(top + row, left + width - 1, "│")

    def text(self) -> list[str]:
        cells = {**{at: _LINES.get(bits, " ") for at, bits in self.lines.items()}, **self.texts}
        rows: dict[int, dict[int, str]] = {}
        for (row, column), character in cells.items():
            rows.setdefault(row, {})[column] = character
        return [_joined(rows.get(row, {})) for row in range(max(rows, default=-1) + 1)]


# A letter's cell in pixels, its font's size, and how far a baseline stands below the middle of its row.
_WIDE, _TALL, _FONT, _BASE = 7.5, 20.0, 12.0, 4.0


@dataclass
class _Sketch:
    """The same in pixels: what is a row of letters there is a band here."""

    parts: list[str] = field(default_factory=list)
    bottom: int = 0

    def horizontal(self, row: int, start: int, end: int) -> None:
        self._line(start, row, end, row)

    def vertical(self, column: int, start: int, end: int) -> None:
        self._line(column, start, column, end)

    def _line(self, column: int, row: int, to_column: int, to_row: int) -> None:
        (x, y), (to_x, to_y) = _middle(row, column), _middle(to_row, to_column)
        self.parts.append(f"<path d='M{x:g} {y:g}L{to_x:g} {to_y:g}' opacity='.6'/>")
        self.bottom = max(self.bottom, row + 1, to_row + 1)

    def label(self, row: int, column: int, text: str) -> None:
        x, y = _middle(row, column)
        self._text(x + _WIDE, y - _BASE, text)  # above its line, which would read as a minus beside it

    def _text(self, x: float, y: float, text: str) -> None:
        self.parts.append(
            f"<text x='{x:g}' y='{y:g}' fill='currentColor' stroke='none' xml:space='preserve'>{escape(text)}</text>"
        )

    def arrowhead(self, row: int, column: int) -> None:
        x, y = _middle(row, column + 0.5)
        back = x - _WIDE
        self.parts.append(
            f"<path d='M{x:g} {y:g}L{back:g} {y - 4:g}L{back:g} {y + 4:g}Z' fill='currentColor' opacity='.6'/>"
        )

    def box(self, top: int, left: int, size: tuple[int, int], lines: Sequence[str]) -> None:
        width, height = size
        (x, y), (to_x, to_y) = _middle(top, left - 0.5), _middle(top + height - 1, left + width)
        self.parts.append(f"<rect x='{x:g}' y='{y:g}' width='{to_x - x:g}' height='{to_y - y:g}' rx='5'/>")
        for row, line in enumerate(lines, 1):
            self._text(x + 2 * _WIDE, _middle(top + row, left)[1] + _BASE, line)
        self.bottom = max(self.bottom, top + height)

    def svg(self, width: int, about: str) -> str:
        """Returns the file's text; `about` is what it says in words."""
        wide, tall = (width + 1) * _WIDE, self.bottom * _TALL
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' role='img' width='{wide:g}' height='{tall:g}' "
            f"viewBox='-1 0 {wide:g} {tall:g}' font-size='{_FONT:g}' fill='none' stroke='currentColor'>"
            f"<title>{escape(about)}</title>{''.join(self.parts)}</svg>"
        )


def _middle(row: float, column: float) -> tuple[float, float]:
    """Returns the middle of a letter's cell."""
    return (column + 0.5) * _WIDE, (row + 0.5) * _TALL


def _joined(cells: Mapping[int, str]) -> str:
    line, at = "", 0
    for column in sorted(cells):
        line += " " * (column - at) + cells[column]
        at = max(column, at) + cell_len(cells[column])
    return line.rstrip()


class _Drawing:
    def __init__(self, diagram: Diagram) -> None:
        column = _columns(diagram)
        self.places = {b.name: _Place(column[b.name], b) for b in diagram.boxes}
        self.columns: list[list[_Place]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
        for place in self.places.values():
            self.columns[place.column].append(place)
        self.segments = [s for arrow in diagram.arrows for s in self._segments(arrow)]
        self._order()
        self._stack()

    def _segments(self, arrow: Arrow) -> list[_Segment]:
        """Cuts an arrow into pieces between neighbouring columns, with a bend in each column that it passes."""
        tail, goal = self.places[arrow.tail], self.places[arrow.head]
        slot, goal.inputs = goal.inputs, goal.inputs + 1
        pieces = []
        for column in range(tail.column + 1, goal.column):
            bend = _Place(column, None)
            self.columns[column].append(bend)
            pieces.append(_Segment(tail, bend, 0, ""))
            tail = bend
        return [*pieces, _Segment(tail, goal, slot, arrow.label)]

    def _order(self) -> None:
        """Sorts each column by the mean position of what its places come from (barycentres, left to right)."""
        for column in self.columns[1:]:
            before = {id(p): i for i, p in enumerate(self.columns[column[0].column - 1])}
            sources = {id(p): [before[id(s.tail)] for s in self.segments if s.head is p] for p in column}
            column.sort(key=lambda p: sum(sources[id(p)]) / len(sources[id(p)]) if sources[id(p)] else len(before))

    def _stack(self) -> None:
        tallest = max(sum(p.height for p in column) for column in self.columns)
        for column in self.columns:
            row = (tallest - sum(p.height for p in column)) // 2
            for place in column:
                place.top = row
                row += place.height

    def paint(self, canvas: _Ground) -> int:
        """Paints all, and returns how wide it is."""
        left = 0
        for number, column in enumerate(self.columns):
            width = max(p.width for p in column)
            for place in column:
                _draw_place(canvas, place, left, width)
            left = self._draw_channel(canvas, [s for s in self.segments if s.head.column == number + 1], left + width)
        return left

    def _draw_channel(self, canvas: _Ground, segments: Sequence[_Segment], left: int) -> int:
        """Draws the edges of one channel and returns where the next column starts."""
        if not segments:
            return left
        tracks = _tracks(segments)
        bend = left + 1 + 2 * max(len(tracks), 1)
        end = bend + max(cell_len(s.label) for s in segments) + 2
        for segment in segments:
            start, goal = segment.rise
            turn = left + 1 + 2 * tracks[start] if start in tracks else bend
            canvas.horizontal(start, left, turn)
            if start != goal:
                canvas.vertical(turn, start, goal)
            canvas.horizontal(goal, turn, end)
            if segment.label:
                canvas.label(goal, bend, segment.label)
            if segment.head.box:
                canvas.arrowhead(goal, end)
        return end + 1


def _tracks(segments: Sequence[_Segment]) -> dict[int, int]:
    """Gives each bent source a vertical track, so that edges going the same way do not cross."""
    rises: dict[int, int] = {}
    for segment in segments:
        start, goal = segment.rise
        if start != goal:
            rises[start] = rises.get(start, 0) + goal - start
    down = sorted((s for s, rise in rises.items() if rise >= 0), reverse=True)
    up = sorted(s for s, rise in rises.items() if rise < 0)
    return {start: track for track, start in enumerate([*up, *down])}


def _draw_place(canvas: _Ground, place: _Place, left: int, width: int) -> None:
    if place.box is None:
        canvas.horizontal(place.top, left - 1, left + width)
    else:
        canvas.box(place.top, left, (width, place.height), place.box.lines)


def _columns(diagram: Diagram) -> dict[str, int]:
    """Returns each box's column: the length of the longest path to it. The boxes come producers first."""
    column = {box.name: 0 for box in diagram.boxes}
    for box in diagram.boxes:
        for arrow in diagram.arrows:
            if arrow.tail == box.name:
                column[arrow.head] = max(column[arrow.head], column[box.name] + 1)
    return column
