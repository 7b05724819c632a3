"""Where everything stands: from a picture to boxes and lines in pixels.

A leaf used far apart is drawn beside each of its users, and a large graph is laid out in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

from gradexplain.graphs.engine import (
    HEAD,
    LINE,
    PAD,
    TEXT,
    TITLE,
    Box,
    Found,
    Line,
    Point,
    around,
    bounds,
    engine,
    text_block,
    text_width,
)  # fmt: skip
from gradexplain.graphs.graph import LEAVES, Edge, Graph
from gradexplain.graphs.segments import by_segments
from gradexplain.graphs.words import Caption, Words

LEGEND = 16.0
MARGIN = 16.0
_INNER = 12.0
# How far a line ends beside its text.
_AROUND = 4.0
# The widths of the thinnest edge, and how much wider the thickest is.
_THIN, _MORE = 0.8, 4.2
# Larger pictures have shared leaves drawn beside each of their users.
_SMALL = 60


class Place(NamedTuple):
    """A box: its left upper corner and its size. `node` is the picture's node, or -1 - n for its n-th cut."""

    node: int
    x: float
    y: float
    width: float
    height: float

    def corners(self) -> tuple[Point, Point]:
        return (self.x, self.y), (self.x + self.width, self.y + self.height)

    def moved(self, move: Callable[[Point], Point]) -> Place:
        x, y = move((self.x, self.y))
        return self._replace(x=x, y=y)


@dataclass(frozen=True)
class Route:
    """The line of an edge, from its producer's border to its consumer's, and where its text stands.

    `again` marks one by which a block feeds the next; `edge` is `None` for the line of a cut; `width` tells the norm of
    the gradient that comes back, 0 where that is not asked for.
    """

    edge: Edge | None
    points: tuple[Point, ...]
    text: tuple[str, ...] = ()
    at: Point = (0.0, 0.0)
    again: bool = False
    width: float = 0.0

    def texts(self) -> Iterator[tuple[str, float, float]]:
        """Yields the lines of text, each with the middle of its baseline."""
        x, y = self.at
        first = y + 4 - LINE * (len(self.text) - 1) / 2
        yield from ((text, x, first + LINE * k) for k, text in enumerate(self.text))

    def ground(self) -> tuple[Point, Point]:
        """Returns the corners of what is kept free behind the text: a line that meets it would read as a minus."""
        (x, y), half, tall = self.at, text_block(self.text) / 2 + _AROUND, LINE * len(self.text) / 2
        return (x - half, y - tall), (x + half, y + tall)

    def moved(self, move: Callable[[Point], Point]) -> Route:
        return replace(self, points=tuple(map(move, self.points)), at=move(self.at))


class Frame(NamedTuple):
    """A frame around boxes, with its title."""

    title: str
    x: float
    y: float
    width: float
    height: float

    def corners(self) -> tuple[Point, Point]:
        return (self.x, self.y), (self.x + self.width, self.y + self.height)

    def ground(self) -> tuple[Point, Point]:
        """Returns the corners of what is kept free behind the title."""
        return (self.x + 6, self.y + 3), (self.x + 10 + text_width(self.title, TEXT), self.y + 3 + LINE)

    def moved(self, move: Callable[[Point], Point]) -> Frame:
        x, y = move((self.x, self.y))
        return self._replace(x=x, y=y)


@dataclass(frozen=True)
class Drawing:
    """A picture with its places: everything that a drawing format needs."""

    picture: Graph
    width: float
    height: float
    places: Sequence[Place]
    routes: Sequence[Route]
    frames: Sequence[Frame]
    captions: Mapping[int, Caption]
    heading: str
    notes: tuple[str, ...]


def laid_out(picture: Graph, words: Words) -> Drawing:
    """Returns the drawing of a picture."""
    captions = words.captions()
    boxes, lines = pieces(picture, {i: size_of(caption) for i, caption in captions.items()}, words)
    whole = bool(picture.groups or picture.again)
    found = engine(boxes, lines, picture) if whole else by_segments(boxes, lines)
    width = widths(picture)
    routes = [
        Route(line.edge, tuple(points), line.text, at or _middle(points), line.again, width(line.edge))
        for line, points, at in zip(found.lines, found.routes, found.anchors, strict=True)
    ]
    places = [
        Place(b.node, *around(c, b)[0], b.width, b.height) for b, c in zip(found.boxes, found.centres, strict=True)
    ]
    frames, heading, notes = frames_of(found, picture, words), words.heading(), tuple(words.notes())
    return _trimmed(Drawing(picture, 0.0, 0.0, places, routes, frames, captions, heading, notes))


def size_of(caption: Caption) -> tuple[float, float]:
    widest = max([text_width(caption.title, TITLE) * 1.03, *(text_width(line, TEXT) for line in caption.lines)])
    return round(max(widest + 2 * PAD, 48.0), 1), HEAD + LINE * len(caption.lines) + 2 * 6.0


# ---------------------------------------------------------------------------------------------------- the pieces


Sizes = Mapping[int, tuple[float, float]]


def pieces(picture: Graph, sizes: Sizes, words: Words) -> tuple[list[Box], list[Line]]:
    """Returns the boxes, each leaf just before what uses it, and the lines between them."""
    split = len(picture.nodes) > _SMALL and not picture.groups
    boxes: list[Box] = []
    lines: list[Line] = []
    at: dict[int, int] = {}
    by_consumer: dict[int, list[Edge]] = {}
    for edge in picture.edges:
        by_consumer.setdefault(edge.consumer, []).append(edge)
    cuts: dict[int, list[int]] = {}
    for k, cut in enumerate(picture.cuts):
        cuts.setdefault(cut.consumer, []).append(k)

    def place(node: int) -> int:
        boxes.append(Box(node, *sizes[node]))
        return len(boxes) - 1

    for number, node in enumerate(picture.nodes):
        if node.kind in LEAVES and number not in at:
            continue
        own = by_consumer.get(number, [])
        beside: dict[int, int] = {}
        for leaf in dict.fromkeys(e.producer for e in own if picture.nodes[e.producer].kind in LEAVES):
            if split or leaf not in at:
                beside[leaf] = at[leaf] = place(leaf)
        for k in cuts.get(number, []):
            beside[-1 - k] = place(-1 - k)
        at[number] = place(number)
        lines += [Line(beside.get(e.producer, at[e.producer]), at[number], e, words.edge(e)) for e in own]
        lines += [Line(beside[-1 - k], at[number], None) for k in cuts.get(number, [])]
    for number in range(len(picture.nodes)):
        if number not in at:
            at[number] = place(number)
    lines += [Line(at[e.producer], at[e.consumer], e, (), True) for e in picture.again]
    return boxes, lines


# --------------------------------------------------------------------------------------------------- the drawing


def frames_of(found: Found, picture: Graph, words: Words) -> list[Frame]:
    """Returns the frames, drawn close around what stands in them: the engine leaves more room."""
    boxes = [(b.node, *around(c, b)) for b, c in zip(found.boxes, found.centres, strict=True)]
    frames: list[Frame] = []
    for k, group in enumerate(picture.groups):
        spots = [(x, y) for node, *corners in boxes if node in group.members for x, y in corners]
        spots += [
            p
            for line, points in zip(found.lines, found.routes, strict=True)
            if found.boxes[line.tail].node in group.members and found.boxes[line.head].node in group.members
            for p in points
        ]
        left, top, right, bottom = bounds(spots)
        title, own = words.group(group), found.groups[k]
        left, right = max(left - _INNER, own[0]), min(right + _INNER, own[0] + own[2])
        top, bottom = max(top - _INNER - HEAD, own[1]), min(bottom + _INNER, own[1] + own[3])
        width = max(right - left, min(text_width(title, TEXT) + 2 * _INNER, own[2]))
        frames.append(Frame(title, left, top, width, bottom - top))
    return frames


def _trimmed(drawing: Drawing) -> Drawing:
    """Returns a drawing with its left upper corner at the margin."""
    spots = [p for place in drawing.places for p in place.corners()]
    spots += [p for frame in drawing.frames for p in frame.corners()]
    spots += [p for route in drawing.routes for p in (*route.points, *(route.ground() if route.text else ()))]
    left, top, right, bottom = bounds(spots)
    left, top = left - MARGIN, top - MARGIN - 20
    said = max([text_width(t, TEXT) for t in drawing.notes] + [text_width(drawing.heading, TITLE)], default=0.0)
    moved: Callable[[Point], Point] = lambda p: (round(p[0] - left, 2), round(p[1] - top, 2))  # noqa: E731
    return replace(
        drawing,
        width=round(max(right - left, said + MARGIN) + MARGIN, 1),
        height=round(bottom - top + MARGIN + LEGEND * len(drawing.notes), 1),
        places=tuple(place.moved(moved) for place in drawing.places),
        routes=tuple(route.moved(moved) for route in drawing.routes),
        frames=tuple(frame.moved(moved) for frame in drawing.frames),
    )


def widths(picture: Graph) -> Callable[[Edge | None], float]:
    """Returns how wide an edge is drawn: by the norm of what comes back, where norms are shown."""
    norms = [_norm(edge) for edge in picture.edges] if "norms" in picture.shown else []
    largest = max(norms, default=0.0)
    return lambda edge: _THIN + _MORE * _norm(edge) / largest if edge is not None and largest else 0.0


def _norm(edge: Edge) -> float:
    sent = edge.passed.contribution if edge.passed is not None else None
    norm = sent.norm if sent is not None else None
    return norm if norm is not None and isfinite(norm) else 0.0


def _middle(points: Sequence[Point]) -> Point:
    """Returns the middle of the longest stretch of a line."""
    stretches = list(pairwise(points))
    (x, y), (to_x, to_y) = max(stretches, key=lambda s: abs(s[0][0] - s[1][0]) + abs(s[0][1] - s[1][1]))
    return (x + to_x) / 2, (y + to_y) / 2
