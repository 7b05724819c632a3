"""Large graphs in pieces below each other, each kind of piece laid out once: what makes drawing them fast."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, combinations, pairwise
from typing import Any

from gradexplain.graphs.engine import Box, Found, Line, Point, around, bounds, engine

# Pieces with more boxes than this are cut again, where few lines pass, into parts of no fewer boxes than that.
_LONG, _PART, _FEW = 120, 60, 4
# How far apart the stretches are with which lines go on from one part to the next, and how high ports are.
_TRACK, _PORT = 8.0, 4.0


def by_segments(boxes: Sequence[Box], lines: Sequence[Line]) -> Found:
    """Lays out each piece between two waists, boxes that everything passes, and puts the pieces below each other."""
    stack, known = _Stack(boxes, lines), _Known()
    for start, stop, own in _segments(len(boxes), lines):
        local = [lines[k].moved(-start) for k in own]
        stack.add(start, stop, own, _piece(boxes[start : stop + 1], local, known))
    return Found(boxes, lines, stack.centres, stack.routes, {}, stack.anchors)


class _Known(dict[Any, Found]):
    """The pieces that were laid out, by their form: equal pieces are laid out once."""

    def laid_out(self, boxes: Sequence[Box], lines: Sequence[Line], ranks: Mapping[int, str]) -> Found:
        key = (
            tuple(b[1:] for b in boxes),
            tuple((line.tail, line.head, line.text) for line in lines),
            tuple(ranks.get(b.node, "") for b in boxes) if ranks else (),
        )
        if key not in self:
            self[key] = engine(boxes, lines, None, ranks)
        return self[key]


def _piece(boxes: Sequence[Box], lines: Sequence[Line], known: _Known) -> Found:
    """Lays out one piece, a long one in parts between which few lines pass: parallel strands."""
    cuts = _thin(len(boxes), lines) if len(boxes) > _LONG else []
    if not cuts:
        return known.laid_out(boxes, lines, {})
    strip = _Strip(boxes, lines)
    for first, stop in pairwise([0, *cuts, len(boxes)]):
        strip.add(first, stop, known)
    return strip.found()


def _thin(count: int, lines: Sequence[Line]) -> list[int]:
    """Returns the boxes before which a piece is cut: the thinnest place within each stretch of some boxes."""
    change = [0] * (count + 1)
    for line in lines:
        change[line.tail + 1] += 1
        change[line.head + 1] -= 1
    past = list(accumulate(change))
    cuts, start = [], _PART
    while start <= count - _PART:
        cut = min(range(start, min(start + _PART, count - _PART // 2)), key=past.__getitem__)
        cuts += [cut] if past[cut] <= _FEW else []
        start = cut + _PART
    return cuts


class _Strip:
    """Parts below each other; a line from one to another goes through ports at the borders between.

    A part whose upper ports stand the other way round than the lower ones above it is turned over, left to right.
    """

    def __init__(self, boxes: Sequence[Box], lines: Sequence[Line]) -> None:
        self.boxes, self.lines = boxes, lines
        self.centres: list[Point] = []
        self.routes: list[list[Point]] = [[] for _ in lines]
        self.anchors: list[Point | None] = [None] * len(lines)
        self.open: list[int] = []  # the lines that pass the lower border
        self.by_tail = sorted(range(len(lines)), key=lambda k: lines[k].tail)
        self.bottom = self.middle = 0.0

    def add(self, first: int, stop: int, known: _Known) -> None:
        """Adds the part of the boxes from `first` up to `stop`."""
        entering, own = self.open, self.of(first, stop)
        leaving = [k for k in (*entering, *own) if self.lines[k].head >= stop]
        ports = [
            Box(_port(side, k), _PORT, _PORT) for side, keys in enumerate((entering, leaving)) for k in range(len(keys))
        ]
        at = {(0, k): stop - first + i for i, k in enumerate(entering)}
        at |= {(1, k): stop - first + len(entering) + i for i, k in enumerate(leaving)}
        local = [self.within(k, first, stop, at) for k in (*entering, *own)]
        ranks = {port.node: ("first", "last")[i >= len(entering)] for i, port in enumerate(ports)}
        part = known.laid_out([*self.boxes[first:stop], *ports], local, ranks)
        self.join(part, [*entering, *own], {k: at[0, k] for k in entering}, stop - first)
        self.open = leaving

    def of(self, first: int, stop: int) -> list[int]:
        """Returns the lines that begin at the boxes from `first` up to `stop`."""
        tails = lambda k: self.lines[k].tail  # noqa: E731
        return self.by_tail[bisect_left(self.by_tail, first, key=tails) : bisect_left(self.by_tail, stop, key=tails)]

    def within(self, k: int, first: int, stop: int, at: Mapping[tuple[int, int], int]) -> Line:
        """Returns the stretch of a line in one part; its text stands in the part where it ends."""
        line = self.lines[k]
        tail = line.tail - first if line.tail >= first else at[0, k]
        if line.head >= stop:
            return line._replace(tail=tail, head=at[1, k], text=())
        return line._replace(tail=tail, head=line.head - first)

    def join(self, part: Found, keys: Sequence[int], ports: Mapping[int, int], count: int) -> None:
        """Puts a part below what there is, and leads the lines that pass the border on from port to port."""
        above = {k: self.routes[k][-1][0] for k in ports}
        below = {k: part.centres[port][0] for k, port in ports.items()}
        crossed = [(above[j] < above[k]) != (below[j] < below[k]) for j, k in combinations(ports, 2)]
        sign = -1.0 if 2 * sum(crossed) > len(crossed) else 1.0
        left, top, right, bottom = bounds(_corners(part))
        dx = self.middle - sign * (left + right) / 2
        dy = self.bottom + _TRACK * (len(ports) + 1) - top
        moved: Callable[[Point], Point] = lambda p: (sign * p[0] + dx, p[1] + dy)  # noqa: E731
        self.lead(above, {k: moved((x, 0.0))[0] for k, x in below.items()})
        for k, points, anchor in zip(keys, part.routes, part.anchors, strict=True):
            self.routes[k] += map(moved, points)
            self.anchors[k] = None if anchor is None else moved(anchor)
        self.centres += map(moved, part.centres[:count])
        self.bottom = bottom + dy

    def lead(self, above: Mapping[int, float], below: Mapping[int, float]) -> None:
        """Leads lines from the lower ports of one part to the upper ports of the next, so that they do not cross."""
        leftward = sorted((k for k in above if below[k] < above[k]), key=lambda k: above[k])
        rightward = sorted((k for k in above if below[k] >= above[k]), key=lambda k: -above[k])
        for track, k in enumerate([*leftward, *rightward], 1):
            y = self.bottom + _TRACK * track
            self.routes[k] += [(above[k], y), (below[k], y)]

    def found(self) -> Found:
        return Found(self.boxes, self.lines, self.centres, [_straight(r) for r in self.routes], {}, self.anchors)


def _port(side: int, k: int) -> int:
    """Returns the number of a port, as which no box of a picture goes."""
    return -(10**9) - 2 * k - side


def _corners(part: Found) -> Iterator[Point]:
    for centre, box in zip(part.centres, part.boxes, strict=True):
        yield from around(centre, box)
    for route in part.routes:
        yield from route


def _straight(points: Sequence[Point]) -> list[Point]:
    """Returns a line without the points at which it does not turn."""
    found: list[Point] = []
    for point in points:
        if found and found[-1] == point:
            continue
        if len(found) > 1 and any(found[-2][i] == found[-1][i] == point[i] for i in (0, 1)):
            found.pop()
        found.append(point)
    return found


class _Stack:
    """Pieces below each other, neighbours sharing the waist between them."""

    def __init__(self, boxes: Sequence[Box], lines: Sequence[Line]) -> None:
        self.boxes, self.lines = boxes, lines
        self.centres: list[Point] = [(0.0, 0.0)] * len(boxes)
        self.routes: list[Any] = [None] * len(lines)
        self.anchors: list[Point | None] = [None] * len(lines)
        self.entering: list[int] = []

    def add(self, start: int, stop: int, own: Sequence[int], found: Found) -> None:
        """Adds the piece of the boxes from `start` to `stop` and the lines `own`."""
        dx, dy = self.joined(start, found) if start else (0.0, 0.0)
        for i, (x, y) in enumerate(found.centres, start):
            self.centres[i] = (x + dx, y + dy)
        for k, points, anchor in zip(own, found.routes, found.anchors, strict=True):
            self.routes[k] = [(x + dx, y + dy) for x, y in points]
            self.anchors[k] = None if anchor is None else (anchor[0] + dx, anchor[1] + dy)
        self.entering = [k for k in own if self.lines[k].head == stop]

    def joined(self, start: int, found: Found) -> Point:
        """Returns how far a piece is moved to join the one above at its waist.

        A box beside the waist that is taller reaches above it; then the waist sinks, and the lines into it are longer.
        """
        x, y = found.centres[0]
        boxes = self.boxes[start : start + len(found.centres)]
        top = min(c[1] - b.height / 2 for c, b in zip(found.centres, boxes, strict=True))
        sunk = y - self.boxes[start].height / 2 - top
        for k in self.entering:
            *points, (end_x, end_y) = self.routes[k]
            self.routes[k] = [*points, (end_x, end_y + sunk)]
        return self.centres[start][0] - x, self.centres[start][1] - y + sunk


def _segments(count: int, lines: Sequence[Line]) -> Iterator[tuple[int, int, list[int]]]:
    """Yields (first, last, lines within) between neighbouring waists; a waist ends one piece and starts the next."""
    bounds = sorted({0, *_waists(count, lines), count - 1})
    own: list[list[int]] = [[] for _ in bounds]
    for n, line in enumerate(lines):
        own[bisect_right(bounds, line.tail) - 1].append(n)
    yield from zip(bounds, bounds[1:] or bounds, own, strict=False)


def _waists(count: int, lines: Sequence[Line]) -> Iterator[int]:
    """Yields the boxes that no line goes past, in the order of the boxes."""
    change = [0] * (count + 1)
    linked = [False] * count
    for line in lines:
        change[line.tail + 1] += 1
        change[line.head] -= 1
        linked[line.tail] = linked[line.head] = True
    over = accumulate(change)
    return (i for i, (past, on) in enumerate(zip(over, linked, strict=False)) if past == 0 and on)
