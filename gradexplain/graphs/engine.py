"""The layered layout itself, which is graphlay's: boxes and lines in, places out, all in pixels.

Of the engines that install from a wheel it alone draws without crossings, overlaps or lines through boxes what can be
drawn so, knows the size of every box, and takes frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.cells import cell_len

from gradexplain.graphs.graph import Edge, Graph

Point = tuple[float, float]

# Sizes in pixels. A monospaced font is 0.6 of its size wide on every machine, so text fits its box everywhere.
TITLE, TEXT = 12.0, 10.5
_ADVANCE = 0.602
LINE, HEAD, PAD = 14.0, 16.0, 10.0
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


class Box(NamedTuple):
    node: int
    width: float
    height: float


class Line(NamedTuple):
    tail: int
    head: int
    edge: Edge | None
    text: tuple[str, ...] = ()
    again: bool = False

    def moved(self, by: int) -> Line:
        """Returns the line between the boxes that stand `by` places further."""
        return self._replace(tail=self.tail + by, head=self.head + by)


@dataclass
class Found:
    """What an engine gave back: a centre per box, points per line, frames by group."""

    boxes: Sequence[Box]
    lines: Sequence[Line]
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


def engine(
    boxes: Sequence[Box], lines: Sequence[Line], picture: Graph | None = None, ranks: Mapping[int, str] = _FREE
) -> Found:
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
    return Found(
        boxes,
        lines,
        [(n["center"]["x"], n["center"]["y"]) for n in layout.nodes[: len(boxes)]],
        [_points(e["points"]) for e in layout.edges],
        corners,
        [_anchor(e, line) for e, line in zip(layout.edges, lines, strict=True)],
    )


def _request(line: Line) -> dict[str, Any]:
    if not line.text:
        return {"source": line.tail, "target": line.head, "weight": 1.0}
    size = {"width": text_block(line.text) + 8, "height": LINE * len(line.text) + 2 * _lifted(line)}
    return {"source": line.tail, "target": line.head, "weight": 1.0, "label_size": size}


def _points(points: Sequence[Mapping[str, float]]) -> list[Point]:
    return [(p["x"], p["y"]) for p in points]


def _anchor(edge: Mapping[str, Any], line: Line) -> Point | None:
    anchor = edge.get("label_anchor")
    return None if not anchor else (anchor["x"], anchor["y"] - _lifted(line))


def _lifted(line: Line) -> float:
    """Returns how far a text stands above the middle of its gap, where lines run across: beside a text, a line would
    read as a minus."""
    return LINE * len(line.text) / 2 + 2 if line.text else 0.0


def _corner(centre: Mapping[str, float], size: Mapping[str, float]) -> tuple[float, float, float, float]:
    width, height = size["width"], size["height"]
    return centre["x"] - width / 2, centre["y"] - height / 2, width, height


def bounds(points: Iterable[Point]) -> tuple[float, float, float, float]:
    """Returns where points end at the left, at the top, at the right and at the bottom."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def around(centre: Point, box: Box) -> tuple[Point, Point]:
    (x, y), (_, width, height) = centre, box
    return (x - width / 2, y - height / 2), (x + width / 2, y + height / 2)
