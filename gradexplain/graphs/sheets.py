"""Levels laid out so that their boxes can grow, for pages on which folds open in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from gradexplain.graphs.engine import Found, Line, Point, around, bounds, engine
from gradexplain.graphs.graph import Edge, Graph
from gradexplain.graphs.layout import Frame, Place, frames_of, pieces, size_of
from gradexplain.graphs.words import Words


class Strand(NamedTuple):
    """A line between two boxes of a sheet.

    `turns` are in turn the place of an upright stretch and of a level one; `ends` are
    the heights at which it begins and ends, `at` is where its text stands.
    """

    tail: int
    head: int
    turns: tuple[float, ...]
    ends: Point
    at: Point | None
    again: bool


@dataclass(frozen=True)
class Sheet:
    """A level laid out so that its boxes can grow: boxes stand in rows, and between rows lines turn.

    `rows` are the upper and lower borders of the rows, `row` says in which one each box stands.
    """

    size: Point
    rows: tuple[Point, ...]
    places: tuple[Place, ...]
    row: tuple[int, ...]
    strands: tuple[Strand, ...]
    frames: tuple[Frame, ...]


_PORT = 4.0


def spread(
    picture: Graph, words: Words, first: Collection[int], last: Collection[int], known: dict[Any, Sheet]
) -> tuple[Sheet, list[Edge | None]]:
    """Returns the sheet of a level, and the edges of its lines; levels of one form share a sheet in `known`.

    The nodes `first` and `last` are the ports at the upper and the lower border.
    """
    sizes = {i: size_of(caption) for i, caption in words.captions().items()}
    sizes |= dict.fromkeys((*first, *last), (_PORT, _PORT))
    boxes, lines = pieces(picture, sizes, words)
    ranks = {**dict.fromkeys(first, "first"), **dict.fromkeys(last, "last")}
    key = (tuple(boxes), tuple((*line[:2], *line[3:]) for line in lines), tuple(ranks.items()), picture.groups)
    if key not in known:
        found = engine(boxes, lines, picture, ranks)
        known[key] = _sheet(found, frames_of(found, picture, words))
    return known[key], [line.edge for line in lines]


def _sheet(found: Found, frames: Sequence[Frame]) -> Sheet:
    corners = [around(c, b) for c, b in zip(found.centres, found.boxes, strict=True)]
    spots = [p for pair in corners for p in pair] + [p for points in found.routes for p in points]
    spots += [p for frame in frames for p in frame.corners()]
    left, top, right, bottom = bounds(spots)
    moved: Callable[[Point], Point] = lambda p: (round(p[0] - left, 1), round(p[1] - top, 1))  # noqa: E731
    rows, row = _rows([(moved(a)[1], moved(b)[1]) for a, b in corners])
    places = [
        Place(b.node, *moved(corner), b.width, b.height) for b, (corner, _) in zip(found.boxes, corners, strict=True)
    ]
    strands = [
        _strand(line, [moved(p) for p in points], moved(at) if at and line.text else None)
        for line, points, at in zip(found.lines, found.routes, found.anchors, strict=True)
    ]
    size = (round(right - left, 1), round(bottom - top, 1))
    return Sheet(size, rows, tuple(places), row, tuple(strands), tuple(frame.moved(moved) for frame in frames))


def _strand(line: Line, points: Sequence[Point], at: Point | None) -> Strand:
    return Strand(line.tail, line.head, _turns(points), (points[0][1], points[-1][1]), at, line.again)


def _rows(spans: Sequence[Point]) -> tuple[tuple[Point, ...], tuple[int, ...]]:
    """Returns the rows that spans of height fall into, those that overlap into one, and the row of each."""
    rows: list[Point] = []
    row = [0] * len(spans)
    for i in sorted(range(len(spans)), key=spans.__getitem__):
        top, bottom = spans[i]
        if rows and top < rows[-1][1]:
            rows[-1] = (rows[-1][0], max(rows[-1][1], bottom))
        else:
            rows.append((top, bottom))
        row[i] = len(rows) - 1
    return tuple(rows), tuple(row)


def _turns(points: Sequence[Point]) -> tuple[float, ...]:
    """Returns where a line's stretches lie, upright and level in turn, from a first and to a last that are upright."""
    turns = [points[0][0]]
    for (x, y), (to_x, to_y) in pairwise(points):
        if x == to_x and y != to_y and len(turns) % 2 == 0:
            turns.append(x)
        elif y == to_y and x != to_x and len(turns) % 2 == 1:
            turns.append(y)
    return (*turns, points[-1][0]) if len(turns) % 2 == 0 else tuple(turns)
