"""Where everything stands: from a picture to boxes and lines in pixels.

The layered layout itself is graphlay's: of the engines that install from a wheel it alone draws without crossings,
overlaps or lines through boxes what can be drawn so, knows the size of every box, and takes frames. Around it stand two
things that make it fast: a leaf used far apart is drawn beside each of its users, and a graph is cut at its waists,
nodes that everything passes, each kind of piece laid out once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.cells import cell_len

from gradexplain.drawing.picture import LEAVES, Edge, Picture
from gradexplain.drawing.words import Caption, Words

# Sizes in pixels. A monospaced font is 0.6 of its size wide on every machine, so text fits its box everywhere.
TITLE, TEXT = 12.0, 10.5
_ADVANCE = 0.602
LINE, HEAD, PAD = 14.0, 16.0, 10.0
LEGEND = 16.0
MARGIN = 16.0
_INNER = 12.0
# The widths of the thinnest edge, and how much wider the thickest is.
_THIN, _MORE = 0.8, 4.2
# Larger pictures have shared leaves drawn beside each of their users.
_SMALL = 60
_OPTIONS: Mapping[str, Any] = {
    "direction": "topbottom",
    "routing": {"port_sides": "facing_only"},
    "labels": {"reservation": "always", "placement": "gap_centre"},
    "spacing": {
        "layer_gap": 26.0, "node_gap": 22.0, "dummy_gap": 16.0, "port_gap": 14.0, "compound_padding": 10.0,
        "compound_header": 0.0, "stub": 10.0,
    },
}  # fmt: skip

_FREE: Mapping[int, str] = MappingProxyType({})

Point = tuple[float, float]


class Place(NamedTuple):
    """A box: its left upper corner and its size. `node` is the picture's node, or -1 - n for its n-th cut."""

    node: int
    x: float
    y: float
    width: float
    height: float


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


class Frame(NamedTuple):
    """A frame around boxes, with its title."""

    title: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Drawing:
    """A picture with its places: everything that a drawing format needs."""

    picture: Picture
    width: float
    height: float
    places: tuple[Place, ...]
    routes: tuple[Route, ...]
    frames: tuple[Frame, ...]
    captions: Mapping[int, Caption]
    heading: str
    notes: tuple[str, ...]


class _Box(NamedTuple):
    node: int
    width: float
    height: float


class _Line(NamedTuple):
    tail: int
    head: int
    edge: Edge | None
    text: tuple[str, ...] = ()
    again: bool = False


def laid_out(picture: Picture, words: Words) -> Drawing:
    """Returns the drawing of a picture."""
    captions = words.captions()
    boxes, lines = _pieces(picture, {i: _size(caption) for i, caption in captions.items()}, words)
    whole = bool(picture.groups or picture.again)
    found = _engine(boxes, lines, picture) if whole else _by_segments(boxes, lines)
    frames = _frames(found, picture, words)
    return _trimmed(picture, found, frames, captions, words.heading(), tuple(words.notes()))


@dataclass
class _Found:
    """What an engine gave back: a centre per box, points per line, frames by group."""

    boxes: Sequence[_Box]
    lines: Sequence[_Line]
    centres: list[Point]
    routes: list[Any]
    groups: dict[int, tuple[float, float, float, float]]
    anchors: list[Point | None]


def text_width(text: str, size: float) -> float:
    """Returns how wide a text is in the monospaced font."""
    return cell_len(text) * size * _ADVANCE


def text_block(lines: Sequence[str]) -> float:
    """Returns how wide several lines are."""
    return max((text_width(line, TEXT) for line in lines), default=0.0)


def _size(caption: Caption) -> tuple[float, float]:
    widest = max([text_width(caption.title, TITLE) * 1.03, *(text_width(line, TEXT) for line in caption.lines)])
    return round(max(widest + 2 * PAD, 48.0), 1), HEAD + LINE * len(caption.lines) + 2 * 6.0


# ---------------------------------------------------------------------------------------------------- the pieces


Sizes = Mapping[int, tuple[float, float]]


def _pieces(picture: Picture, sizes: Sizes, words: Words) -> tuple[list[_Box], list[_Line]]:
    """Returns the boxes, each leaf just before what uses it, and the lines between them."""
    split = len(picture.nodes) > _SMALL and not picture.groups
    boxes: list[_Box] = []
    lines: list[_Line] = []
    at: dict[int, int] = {}
    by_consumer: dict[int, list[Edge]] = {}
    for edge in picture.edges:
        by_consumer.setdefault(edge.consumer, []).append(edge)
    cuts: dict[int, list[int]] = {}
    for k, cut in enumerate(picture.cuts):
        cuts.setdefault(cut.consumer, []).append(k)

    def place(node: int) -> int:
        boxes.append(_Box(node, *sizes[node]))
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
        lines += [_Line(beside.get(e.producer, at[e.producer]), at[number], e, words.edge(e)) for e in own]
        lines += [_Line(beside[-1 - k], at[number], None) for k in cuts.get(number, [])]
    for number in range(len(picture.nodes)):
        if number not in at:
            at[number] = place(number)
    lines += [_Line(at[e.producer], at[e.consumer], e, (), True) for e in picture.again]
    return boxes, lines


# ---------------------------------------------------------------------------------------------------- the engine


def _engine(
    boxes: Sequence[_Box], lines: Sequence[_Line], picture: Picture | None = None, ranks: Mapping[int, str] = _FREE
) -> _Found:
    """Lays out boxes and lines in one piece, in the frames of `picture` if there are any; `ranks` says of a node that
    it stands in the first row or in the last."""
    import graphlay

    groups = picture.groups if picture is not None else ()
    nodes: list[dict[str, Any]] = [
        {"size": {"width": b.width, "height": b.height}, "shape": "box", "rank": ranks.get(b.node, "free")}
        for b in boxes
    ]
    nodes += [{"size": {"width": 10.0, "height": 10.0}, "shape": "box"} for _ in groups]
    for k, group in enumerate(groups):
        if group.inside is not None:
            nodes[len(boxes) + k]["parent"] = len(boxes) + group.inside
    for i, box in enumerate(boxes):
        inside = [k for k, group in enumerate(groups) if box.node in group.members]
        if inside:
            nodes[i]["parent"] = len(boxes) + inside[-1]
    edges = [_request(line) for line in lines]
    layout = graphlay.layout({"nodes": nodes, "edges": edges}, options=dict(_OPTIONS))
    corners = {k: _corner(n["center"], n["size"]) for k, n in enumerate(layout.nodes[len(boxes) :])}
    return _Found(
        boxes,
        lines,
        [(n["center"]["x"], n["center"]["y"]) for n in layout.nodes[: len(boxes)]],
        [_points(e["points"]) for e in layout.edges],
        corners,
        [_anchor(e) for e in layout.edges],
    )


def _request(line: _Line) -> dict[str, Any]:
    if not line.text:
        return {"source": line.tail, "target": line.head, "weight": 1.0}
    size = {"width": text_block(line.text) + 8, "height": LINE * len(line.text)}
    return {"source": line.tail, "target": line.head, "weight": 1.0, "label_size": size}


def _points(points: Sequence[Mapping[str, float]]) -> list[Point]:
    return [(p["x"], p["y"]) for p in points]


def _anchor(edge: Mapping[str, Any]) -> Point | None:
    anchor = edge.get("label_anchor")
    return None if not anchor else (anchor["x"], anchor["y"])


def _corner(centre: Mapping[str, float], size: Mapping[str, float]) -> tuple[float, float, float, float]:
    width, height = size["width"], size["height"]
    return centre["x"] - width / 2, centre["y"] - height / 2, width, height


# -------------------------------------------------------------------------------------------------- the segments


def _by_segments(boxes: Sequence[_Box], lines: Sequence[_Line]) -> _Found:
    """Lays out each piece between two waists, equal pieces once, and puts the pieces below each other."""
    stack = _Stack(boxes, lines)
    known: dict[Any, _Found] = {}
    for start, stop, own in _segments(len(boxes), lines):
        piece = boxes[start : stop + 1]
        local = [line._replace(tail=line.tail - start, head=line.head - start) for line in (lines[k] for k in own)]
        key = (tuple(b[1:] for b in piece), tuple((line.tail, line.head, line.text) for line in local))
        if key not in known:
            known[key] = _engine(piece, local)
        stack.add(start, stop, own, known[key])
    return _Found(boxes, lines, stack.centres, stack.routes, {}, stack.anchors)


class _Stack:
    """Pieces below each other, neighbours sharing the waist between them."""

    def __init__(self, boxes: Sequence[_Box], lines: Sequence[_Line]) -> None:
        self.boxes, self.lines = boxes, lines
        self.centres: list[Point] = [(0.0, 0.0)] * len(boxes)
        self.routes: list[Any] = [None] * len(lines)
        self.anchors: list[Point | None] = [None] * len(lines)
        self.entering: list[int] = []

    def add(self, start: int, stop: int, own: Sequence[int], found: _Found) -> None:
        """Adds the piece of the boxes from `start` to `stop` and the lines `own`."""
        dx, dy = self.joined(start, found) if start else (0.0, 0.0)
        for i, (x, y) in enumerate(found.centres, start):
            self.centres[i] = (x + dx, y + dy)
        for k, points, anchor in zip(own, found.routes, found.anchors, strict=True):
            self.routes[k] = [(x + dx, y + dy) for x, y in points]
            self.anchors[k] = None if anchor is None else (anchor[0] + dx, anchor[1] + dy)
        self.entering = [k for k in own if self.lines[k].head == stop]

    def joined(self, start: int, found: _Found) -> Point:
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


def _segments(count: int, lines: Sequence[_Line]) -> Iterator[tuple[int, int, list[int]]]:
    """Yields (first, last, lines within) between neighbouring waists; a waist ends one piece and starts the next."""
    bounds = sorted({0, *_waists(count, lines), count - 1})
    own: list[list[int]] = [[] for _ in bounds]
    for n, line in enumerate(lines):
        own[bisect_right(bounds, line.tail) - 1].append(n)
    yield from zip(bounds, bounds[1:] or bounds, own, strict=False)


def _waists(count: int, lines: Sequence[_Line]) -> Iterator[int]:
    """Yields the boxes that no line goes past, in the order of the boxes."""
    change = [0] * (count + 1)
    linked = [False] * count
    for line in lines:
        change[line.tail + 1] += 1
        change[line.head] -= 1
        linked[line.tail] = linked[line.head] = True
    over = accumulate(change)
    return (i for i, (past, on) in enumerate(zip(over, linked, strict=False)) if past == 0 and on)


# ------------------------------------------------------------------------------------------------------- a sheet


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
    picture: Picture, words: Words, first: Collection[int], last: Collection[int], known: dict[Any, Sheet]
) -> tuple[Sheet, list[Edge | None]]:
    """Returns the sheet of a level, and the edges of its lines; levels of one form share a sheet in `known`.

    The nodes `first` and `last` are the ports at the upper and the lower border.
    """
    sizes = {i: _size(caption) for i, caption in words.captions().items()}
    sizes |= dict.fromkeys((*first, *last), (_PORT, _PORT))
    boxes, lines = _pieces(picture, sizes, words)
    ranks = {**dict.fromkeys(first, "first"), **dict.fromkeys(last, "last")}
    key = (tuple(boxes), tuple((*line[:2], *line[3:]) for line in lines), tuple(ranks.items()), picture.groups)
    if key not in known:
        found = _engine(boxes, lines, picture, ranks)
        known[key] = _sheet(found, _frames(found, picture, words))
    return known[key], [line.edge for line in lines]


def _sheet(found: _Found, frames: Sequence[Frame]) -> Sheet:
    around = [_around(c, b) for c, b in zip(found.centres, found.boxes, strict=True)]
    spots = [p for corners in around for p in corners] + [p for points in found.routes for p in points]
    spots += [p for f in frames for p in ((f.x, f.y), (f.x + f.width, f.y + f.height))]
    left, top = min(x for x, _ in spots), min(y for _, y in spots)
    right, bottom = max(x for x, _ in spots), max(y for _, y in spots)
    moved: Callable[[Point], Point] = lambda p: (round(p[0] - left, 1), round(p[1] - top, 1))  # noqa: E731
    rows, row = _rows([(moved(a)[1], moved(b)[1]) for a, b in around])
    places = [
        Place(b.node, *moved(corner), b.width, b.height) for b, (corner, _) in zip(found.boxes, around, strict=True)
    ]
    strands = [
        _strand(line, [moved(p) for p in points], moved(at) if at and line.text else None)
        for line, points, at in zip(found.lines, found.routes, found.anchors, strict=True)
    ]
    framed = [f._replace(x=moved((f.x, f.y))[0], y=moved((f.x, f.y))[1]) for f in frames]
    size = (round(right - left, 1), round(bottom - top, 1))
    return Sheet(size, rows, tuple(places), row, tuple(strands), tuple(framed))


def _strand(line: _Line, points: Sequence[Point], at: Point | None) -> Strand:
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


# --------------------------------------------------------------------------------------------------- the drawing


def _frames(found: _Found, picture: Picture, words: Words) -> list[Frame]:
    """Returns the frames, drawn close around what stands in them: the engine leaves more room."""
    boxes = [(b.node, *_around(c, b)) for b, c in zip(found.boxes, found.centres, strict=True)]
    frames: list[Frame] = []
    for k, group in enumerate(picture.groups):
        spots = [(x, y) for node, *corners in boxes if node in group.members for x, y in corners]
        spots += [
            p
            for line, points in zip(found.lines, found.routes, strict=True)
            if found.boxes[line.tail].node in group.members and found.boxes[line.head].node in group.members
            for p in points
        ]
        left, top = min(x for x, _ in spots), min(y for _, y in spots)
        right, bottom = max(x for x, _ in spots), max(y for _, y in spots)
        title, own = words.group(group), found.groups[k]
        left, right = max(left - _INNER, own[0]), min(right + _INNER, own[0] + own[2])
        top, bottom = max(top - _INNER - HEAD, own[1]), min(bottom + _INNER, own[1] + own[3])
        width = max(right - left, min(text_width(title, TEXT) + 2 * _INNER, own[2]))
        frames.append(Frame(title, left, top, width, bottom - top))
    return frames


def _around(centre: Point, box: _Box) -> tuple[Point, Point]:
    (x, y), (_, width, height) = centre, box
    return (x - width / 2, y - height / 2), (x + width / 2, y + height / 2)


def _trimmed(
    picture: Picture,
    found: _Found,
    frames: Sequence[Frame],
    captions: Mapping[int, Caption],
    heading: str,
    notes: tuple[str, ...],
) -> Drawing:
    """Returns the drawing with its left upper corner at the margin."""
    places = [
        Place(b.node, x - b.width / 2, y - b.height / 2, b.width, b.height)
        for b, (x, y) in zip(found.boxes, found.centres, strict=True)
    ]
    middles = [a or _middle(points) for a, points in zip(found.anchors, found.routes, strict=True)]
    spots = [p for route in found.routes for p in route]
    spots += [p for place in places for p in ((place.x, place.y), (place.x + place.width, place.y + place.height))]
    spots += [p for f in frames for p in ((f.x, f.y), (f.x + f.width, f.y + f.height))]
    for line, (x, y) in zip(found.lines, middles, strict=True):
        half, tall = text_block(line.text) / 2 + 2, LINE * len(line.text) / 2
        spots += [(x - half, y - tall), (x + half, y + tall)] if line.text else []
    left, top = min(x for x, _ in spots) - MARGIN, min(y for _, y in spots) - MARGIN - 20
    right, bottom = max(x for x, _ in spots), max(y for _, y in spots)
    said = max([text_width(t, TEXT) for t in notes] + [text_width(heading, TITLE)], default=0.0)
    moved: Callable[[Point], Point] = lambda p: (round(p[0] - left, 2), round(p[1] - top, 2))  # noqa: E731
    width = widths(picture)
    routes = tuple(
        Route(line.edge, tuple(moved(p) for p in points), line.text, moved(middle), line.again, width(line.edge))
        for line, points, middle in zip(found.lines, found.routes, middles, strict=True)
    )
    return Drawing(
        picture,
        round(max(right - left, said + MARGIN) + MARGIN, 1),
        round(bottom - top + MARGIN + LEGEND * len(notes), 1),
        tuple(Place(p.node, *moved((p.x, p.y)), p.width, p.height) for p in places),
        routes,
        tuple(f._replace(x=moved((f.x, f.y))[0], y=moved((f.x, f.y))[1]) for f in frames),
        captions,
        heading,
        notes,
    )


def widths(picture: Picture) -> Callable[[Edge | None], float]:
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
