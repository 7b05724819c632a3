"""SVG of our own: one file without scripts, light and dark, with tooltips, and the same bytes each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from types import MappingProxyType

from gradexplain.graphs.colours import DARK, INKS, LIGHT, shade
from gradexplain.graphs.engine import HEAD, LINE, PAD, TEXT, Point, text_width
from gradexplain.graphs.graph import Edge, Graph
from gradexplain.graphs.layout import LEGEND, MARGIN, Drawing, Frame, Place, Route, laid_out
from gradexplain.graphs.words import Words

_FONT = '"DejaVu Sans Mono",ui-monospace,Menlo,Consolas,"Noto Sans Mono CJK SC",monospace'
_SIZE = "10.5px"
# What is drawn how, as in a style sheet; colours by their names.
_RULES: Mapping[str, Mapping[str, str]] = {
    ".page": {"fill": "page"},
    "text": {"fill": "soft"},
    ".t,.g .h": {"fill": "ink", "font-size": "12px", "font-weight": "600"},
    ".f": {"font-weight": "600"},
    ".l": {"fill": "back"},
    ".b": {"stroke-width": "1.2"},
    **{f".{kind} .b": {"fill": kind, "stroke": f"{kind}-b"} for kind in LIGHT if kind != "bad"},
    ".element .b": {"fill": "operation", "stroke": "operation-b"},
    ".cut .b,.g .outside .b": {"fill": "none", "stroke": "line", "stroke-dasharray": "2 3"},
    ".output .b": {"stroke": "ink", "stroke-width": "2.2"},
    ".bad .b": {"fill": "bad", "stroke": "bad-b", "stroke-width": "2.2"},
    ".frame": {"fill": "none", "stroke": "line", "stroke-dasharray": "6 4"},
    "path": {"fill": "none", "stroke": "line", "stroke-width": "1.3"},
    ".again": {"stroke-dasharray": "5 4"},
    ".keeps": {"stroke-dasharray": "2 3"},
    ".back": {"stroke": "back"},
    ".a": {"fill": "line", "stroke": "none"},
    ".back+.a": {"fill": "back"},
}
_TARGET = ".g :target .b{stroke-width:4}"


def _colours(dark: bool) -> Mapping[str, str]:
    """Returns every colour by its name."""
    fills = {kind: pair[0] for kind, pair in (DARK if dark else LIGHT).items()}
    borders = {f"{kind}-b": pair[1] for kind, pair in (DARK if dark else LIGHT).items()}
    return {name: pair[dark] for name, pair in INKS.items()} | fills | borders


def _variables(dark: bool) -> str:
    return ";".join(f"--{name}:{colour}" for name, colour in _colours(dark).items())


def _sheet(rules: Mapping[str, Mapping[str, str]], root: str = ".g") -> str:
    declared = {selector: ";".join(f"{k}:{v}" for k, v in rule.items()) for selector, rule in rules.items()}
    return "".join(
        f"{root} {selector}{{{text}}}".replace(",.g ", f",{root} ") for selector, text in declared.items() if text
    )


def _by_variables(rule: Mapping[str, str]) -> Mapping[str, str]:
    return {k: f"var(--{v})" if v in _colours(False) else v for k, v in rule.items()}


# A page's style, where a browser reads it.
STYLE = (
    f".g{{{_variables(False)};font-family:{_FONT};font-size:{_SIZE}}}"
    f"@media screen and (prefers-color-scheme:dark){{.g{{{_variables(True)}}}}}.g text{{white-space:pre}}"
    + _sheet({selector: _by_variables(rule) for selector, rule in _RULES.items()})
    + _TARGET
)
# A file's style only makes it dark and marks what was linked to: many viewers read no style sheets, or no variables.
# LibreOffice reads some selectors of any ground; `:is` is none of them.
_DARK_COLOURS = {**_colours(True), "none": "none"}
_DARK = {s: {k: _DARK_COLOURS[v] for k, v in rule.items() if v in _DARK_COLOURS} for s, rule in _RULES.items()}
_FILE_STYLE = f"@media (prefers-color-scheme:dark){{{_sheet(_DARK, ':is(.g)')}}}{_TARGET}"


@cache
def _look(*selectors: str) -> str:
    """Returns the presentation attributes of what the rules of `selectors` paint, on light ground."""
    merged = {k: v for selector in selectors for k, v in _RULES[selector].items()}
    return "".join(f' {k}="{_colours(False).get(v, v)}"' for k, v in merged.items())


@cache
def _box_look(classes: str) -> str:
    """Returns the presentation attributes of the box in a group of some classes."""
    names = {f".{name}" for name in classes.split()}
    return _look(".b", *(s for s in _RULES if s.endswith(" .b") and names & set(s.replace(",", " ").split())))


_NONE: Mapping[int, str] = MappingProxyType({})
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"})
_TITLE = _look("text", ".t,.g .h")
_ARROW = 7.0
_BEND = 6.0


def svg(picture: Graph, words: Words) -> str:
    """Returns the picture as one SVG file; elements stand beside their tensors, each a link to the other."""
    drawn = [(laid_out(picture, words), words)]
    if picture.tensors is not None:
        tensors = replace(picture.tensors, shown=picture.shown)
        beside = Words(tensors, words.language)
        drawn.append((laid_out(tensors, beside), beside))
    return "\n".join(_file(drawn, _links(picture))) + "\n"


def _file(drawn: Sequence[tuple[Drawing, Words]], links: Sequence[Mapping[int, str]]) -> Iterator[str]:
    width, height = number(sum(d.width for d, _ in drawn)), number(max(d.height for d, _ in drawn))
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="g" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{escaped(_FONT)}" font-size="{_SIZE}" xml:space="preserve">'
    )
    yield f"<title>{escaped(drawn[0][0].heading)}</title>"
    yield f"<style>{_FILE_STYLE}</style>"
    yield f'<rect class="page"{_look(".page")} width="{width}" height="{height}"/>'
    x = 0.0
    for k, (drawing, words) in enumerate(drawn):
        yield f'<g transform="translate({number(x)} 0)">' if x else "<g>"
        yield from _page(drawing, words, "et"[k], links[k] if links else {})
        yield "</g>"
        x += drawing.width
    yield "</svg>"


def _links(picture: Graph) -> Sequence[Mapping[int, str]]:
    """Returns where each element leads, its tensor, and where each tensor leads, its first element."""
    if picture.tensors is None:
        return ()
    tensors = {i: n.facts.link for i, n in enumerate(picture.nodes) if n.facts is not None and n.facts.link >= 0}
    elements = {tensor: element for element, tensor in reversed(tensors.items())}
    return {i: f"t{tensor}" for i, tensor in tensors.items()}, {i: f"e{element}" for i, element in elements.items()}


def _page(drawing: Drawing, words: Words, own: str, links: Mapping[int, str]) -> Iterator[str]:
    yield f'<text class="h"{_TITLE} x="{number(MARGIN)}" y="22">{escaped(drawing.heading)}</text>'
    yield from body(drawing, words, own, links)
    below = drawing.height - LEGEND * len(drawing.notes)
    for k, note in enumerate(drawing.notes):
        yield f'<text{_look("text")} x="{number(MARGIN)}" y="{number(below + LEGEND * k)}">{escaped(note)}</text>'


def body(drawing: Drawing, words: Words, own: str = "", links: Mapping[int, str] = _NONE) -> Iterator[str]:
    """Yields frames, lines and boxes, in the order in which they are painted.

    A box in `links` leads to the box of that name; its own name is `own` with its number.
    """
    for frame in drawing.frames:
        yield _frame(frame)
    for route in drawing.routes:
        yield _route(route, drawing, words)
    outputs = {output.node for output in drawing.picture.outputs}
    yield from map(_frame_title, drawing.frames)
    for place in drawing.places:
        box = _box(place, drawing, place.node in outputs)
        goal = links.get(place.node)
        yield box if goal is None else f'<a id="{own}{place.node}" href="#{goal}">{box}</a>'
    for route in drawing.routes:
        if route.text:
            yield f'<rect class="page"{_look(".page")} {_area(route.ground())}/>'
        for text, x, y in route.texts():
            left = number(x - text_width(text, TEXT) / 2)  # LibreOffice takes the middle elsewhere
            yield f'<text class="l"{_look("text", ".l")} x="{left}" y="{number(y)}">{escaped(text)}</text>'


def _area(corners: tuple[Point, Point]) -> str:
    (x, y), (to_x, to_y) = corners
    return f'x="{number(x)}" y="{number(y)}" width="{number(to_x - x)}" height="{number(to_y - y)}"'


def _frame(frame: Frame) -> str:
    return f'<rect class="frame"{_look(".frame")} rx="8" {_area(frame.corners())}/>'


def _frame_title(frame: Frame) -> str:
    place = f'x="{number(frame.x + 8)}" y="{number(frame.y + 14)}"'
    text = f'<text class="f"{_look("text", ".f")} {place}>{escaped(frame.title)}</text>'
    return f'<rect class="page"{_look(".page")} {_area(frame.ground())}/>{text}' if frame.title else text


def _box(place: Place, drawing: Drawing, output: bool) -> str:
    caption = drawing.captions[place.node]
    x, y, middle = place.x, place.y, number(place.x + place.width / 2)
    classes = kind_of(place.node, drawing.picture, output)
    title = f'x="{middle}" y="{number(y + HEAD)}">{escaped(caption.title)}</text>'
    parts = [
        f'<g class="{classes}" data-n="{place.node}">',
        f"<title>{escaped(chr(10).join(caption.details))}</title>",
        f'<rect class="b"{_box_look(classes)} rx="5" {_area(place.corners())}/>',
        f'<text class="t"{_TITLE} text-anchor="middle" {title}',
    ]
    for k, line in enumerate(caption.lines):
        parts.append(
            f'<text{_look("text")} x="{number(x + PAD)}" y="{number(y + HEAD + LINE * (k + 1))}">{escaped(line)}</text>'
        )
    return "".join([*parts, "</g>"])


def kind_of(number: int, picture: Graph, output: bool) -> str:
    """Returns the classes of a node's box, or of a cut's."""
    if number < 0:
        return "cut"
    node = picture.nodes[number]
    return node.kind + (" output" if output else "") + (" bad" if shade(node) == "bad" else "")


def _route(route: Route, drawing: Drawing, words: Words) -> str:
    edge = route.edge
    kind = line_of(edge, route.again, drawing.picture)
    classes = f' class="{kind}"' if kind else ""
    look = _look("path", *([f".{kind}"] if kind else []))
    if route.width:
        look += f' style="stroke-width:{number(route.width)}"'
    tip = f"<title>{escaped(words.edge_details(edge))}</title>" if edge is not None else ""
    head = _look(".a", *([".back+.a"] if kind == "back" else []))
    return f'<path{classes}{look} d="{path_of(route.points)}">{tip}</path>{_arrow(route.points, head)}'


def line_of(edge: Edge | None, again: bool, picture: Graph) -> str:
    """Returns the class of a line: whether a block feeds the next, something is kept, or a gradient goes back."""
    if again or edge is None:
        return "again" if again else "keeps"
    if picture.view != "both":
        return ""
    return "keeps" if edge.slot == -1 else "back" if picture.nodes[edge.producer].kind == "gradient" else ""


def path_of(points: tuple[Point, ...]) -> str:
    """Returns the path of a line, its bends rounded; it ends where its arrowhead starts."""
    ends = _shortened(points)
    steps = [f"M{_at(ends[0])}"]
    for before, bend, after in zip(ends, ends[1:], ends[2:], strict=False):
        room = min(_BEND, _distance(before, bend) / 2, _distance(bend, after) / 2)
        steps.append(f"L{_at(_towards(bend, before, room))}Q{_at(bend)} {_at(_towards(bend, after, room))}")
    steps.append(f"L{_at(ends[-1])}")
    return "".join(steps)


def _shortened(points: tuple[Point, ...]) -> list[Point]:
    distinct = [points[0], *(q for p, q in pairwise(points) if p != q)]
    if len(distinct) < 2:
        return [points[0], points[0]]
    room = min(_ARROW - 1, _distance(distinct[-2], distinct[-1]))
    return [*distinct[:-1], _towards(distinct[-1], distinct[-2], room)]


def _arrow(points: tuple[Point, ...], look: str) -> str:
    """Returns the arrowhead at a line's end."""
    tip = points[-1]
    before = next((p for p in reversed(points[:-1]) if p != tip), (tip[0], tip[1] - 1))
    length = _distance(before, tip) or 1.0
    dx, dy = (tip[0] - before[0]) / length, (tip[1] - before[1]) / length
    base = (tip[0] - dx * _ARROW, tip[1] - dy * _ARROW)
    left, right = (base[0] - dy * 3.5, base[1] + dx * 3.5), (base[0] + dy * 3.5, base[1] - dx * 3.5)
    return f'<path class="a"{look} d="M{_at(tip)}L{_at(left)}L{_at(right)}Z"/>'


def _distance(p: Point, q: Point) -> float:
    return float(((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) ** 0.5)


def _towards(start: Point, goal: Point, room: float) -> Point:
    length = _distance(start, goal) or 1.0
    return start[0] + (goal[0] - start[0]) * room / length, start[1] + (goal[1] - start[1]) * room / length


def _at(point: Point) -> str:
    return f"{number(point[0])} {number(point[1])}"


def number(value: float) -> str:
    """Returns a coordinate with at most one decimal."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


def escaped(text: str) -> str:
    """Returns text that is safe in XML, as content and as an attribute."""
    return text.translate(_ENTITIES)
