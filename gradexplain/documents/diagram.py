"""Draws a small graph in text: columns by longest path, orthogonal edges in the channels between them.

Every edge keeps an arrowhead of its own, so that a value used twice by one node shows two arrows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    return _Drawing(diagram).lines()


def _listed(diagram: Diagram, width: int) -> list[str]:
    """Returns one line an arrow, between the titles of its boxes; what the page has no room for ends in an ellipsis."""
    titles = {box.name: box.title or box.lines[0] for box in diagram.boxes}
    lines = [f"[{titles[a.tail]}] ─{a.label}─▶ [{titles[a.head]}]" for a in diagram.arrows]
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


@dataclass
class _Canvas:
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

    def write(self, row: int, column: int, text: str) -> None:
        for character in text:
            self.texts[row, column] = character
            column += max(cell_len(character), 0)

    def text(self) -> list[str]:
        cells = {**{at: _LINES.get(bits, " ") for at, bits in self.lines.items()}, **self.texts}
        rows: dict[int, dict[int, str]] = {}
        for (row, column), character in cells.items():
            rows.setdefault(row, {})[column] = character
        return [_joined(rows.get(row, {})) for row in range(max(rows, default=-1) + 1)]


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

    def lines(self) -> list[str]:
        canvas, left = _Canvas(), 0
        for number, column in enumerate(self.columns):
            width = max(p.width for p in column)
            for place in column:
                _draw_place(canvas, place, left, width)
            left = self._draw_channel(canvas, [s for s in self.segments if s.head.column == number + 1], left + width)
        return canvas.text()

    def _draw_channel(self, canvas: _Canvas, segments: Sequence[_Segment], left: int) -> int:
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
                canvas.write(goal, bend, segment.label)
            if segment.head.box:
                canvas.write(goal, end, "▶")
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


def _draw_place(canvas: _Canvas, place: _Place, left: int, width: int) -> None:
    if place.box is None:
        canvas.horizontal(place.top, left, left + width)
        return
    bottom = place.top + place.height - 1
    canvas.write(place.top, left, "┌" + "─" * (width - 2) + "┐")
    canvas.write(bottom, left, "└" + "─" * (width - 2) + "┘")
    for row in range(place.top + 1, bottom):
        line = place.box.lines[row - place.top - 1] if row - place.top - 1 < len(place.box.lines) else ""
        canvas.write(row, left, "│ " + line)
        canvas.write(row, left + width - 1, "│")


def _columns(diagram: Diagram) -> dict[str, int]:
    """Returns each box's column: the length of the longest path to it. The boxes come producers first."""
    column = {box.name: 0 for box in diagram.boxes}
    for box in diagram.boxes:
        for arrow in diagram.arrows:
            if arrow.tail == box.name:
                column[arrow.head] = max(column[arrow.head], column[box.name] + 1)
    return column
