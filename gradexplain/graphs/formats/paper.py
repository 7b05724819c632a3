"""PNG and PDF: the same drawing as in SVG, painted by matplotlib, which brings its own fonts to every machine."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import Any

from gradexplain.documents.fonts import chinese
from gradexplain.errors import InputError
from gradexplain.graphs.colours import INKS, PAPER
from gradexplain.graphs.engine import HEAD, LINE, PAD, TEXT, TITLE, Point
from gradexplain.graphs.formats.svg import kind_of, line_of
from gradexplain.graphs.graph import Note
from gradexplain.graphs.layout import LEGEND, MARGIN, Drawing, Place, Route
from gradexplain.graphs.words import Words

_INK, _SOFT, _LINE, _BACK = (INKS[name][0] for name in ("ink", "soft", "line", "back"))
_DOTS = 192
# matplotlib's painter holds at most 2**16 dots a side, and a PDF page at most 200 inches.
_MOST_DOTS = 65000
_MOST_INCHES = 199.0
_PIXEL = 1 / 96
# matplotlib paints its lines as the second layer and texts as the third.
_ABOVE_LINES = 2.5


def printable(words: Words) -> Words:
    """Returns the words of a page: English, and a remark, where the machine has no font for another language."""
    if words.language == "en" or chinese():
        return words
    picture = words.picture
    return Words(replace(picture, notes=(*picture.notes, Note("no_font"))), "en")


def png(drawing: Drawing) -> bytes:
    """Returns the drawing as PNG, at twice the usual density where that is not too large."""
    tallest = max(drawing.width, drawing.height) * _PIXEL
    dots = min(_DOTS, _MOST_DOTS / tallest)
    if dots < 24:
        raise InputError("picture_too_large", width=int(drawing.width), height=int(drawing.height))
    return _painted(drawing, 1.0, format="png", dpi=dots, metadata={"Software": None})


def pdf(drawing: Drawing) -> bytes:
    """Returns the drawing as a PDF of one page."""
    scale = min(1.0, _MOST_INCHES / (max(drawing.width, drawing.height) * _PIXEL))
    return _painted(drawing, scale, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})


def _painted(drawing: Drawing, scale: float, **options: Any) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (drawing.width * _PIXEL * scale, drawing.height * _PIXEL * scale)
    with mpl.rc_context(
        {"font.family": list(_fonts()), "pdf.fonttype": 3, "text.usetex": False, "text.hinting": "none"}
    ):
        figure = Figure(figsize=size, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, drawing.width), ylim=(drawing.height, 0))
        axes.set_axis_off()
        _Painter(axes, scale).paint(drawing)
        written = io.BytesIO()
        with warnings.catch_warnings():  # a machine without a Chinese font draws boxes for the letters it lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(written, **options)
    return written.getvalue()


def _fonts() -> tuple[str, ...]:
    """Returns what a page is set in; letters of one width come first, as a page is laid out in columns."""
    return ("DejaVu Sans Mono", *sorted(chinese(), key=lambda name: "Mono" not in name))


Area = tuple[float, float, float, float]


class _Painter:
    def __init__(self, axes: Any, scale: float) -> None:
        self.axes, self.scale = axes, scale

    def paint(self, drawing: Drawing) -> None:
        self.text(MARGIN, 22, drawing.heading, TITLE, _INK, weight="bold")
        for frame in drawing.frames:
            self.box((frame.x, frame.y, frame.width, frame.height), "none", _LINE, dashed=True)
        for route in drawing.routes:
            self.route(route, drawing)
        for frame in drawing.frames:
            if frame.title:
                self.ground(*frame.ground())
            self.text(frame.x + 8, frame.y + 14, frame.title, TEXT, _SOFT, weight="bold")
        outputs = {output.node for output in drawing.picture.outputs}
        for place in drawing.places:
            self.place(place, drawing, place.node in outputs)
        for route in drawing.routes:
            if route.text:
                self.ground(*route.ground())
            for text, x, y in route.texts():
                self.text(x, y, text, TEXT, _BACK, ha="center")
        below = drawing.height - LEGEND * len(drawing.notes)
        for k, note in enumerate(drawing.notes):
            self.text(MARGIN, below + LEGEND * k, note, TEXT, _SOFT)

    def place(self, place: Place, drawing: Drawing, output: bool) -> None:
        caption = drawing.captions[place.node]
        kinds = kind_of(place.node, drawing.picture, output).split()
        shown = "bad" if "bad" in kinds else "outside" if kinds[0] == "cut" else kinds[0]
        fill, border = PAPER[shown]
        width = 2.0 if output or shown == "bad" else 1.1
        border = _INK if output else border
        self.box((place.x, place.y, place.width, place.height), fill, border, dashed=shown == "outside", line=width)
        middle = place.x + place.width / 2
        self.text(middle, place.y + HEAD, caption.title, TITLE, _INK, weight="bold", ha="center")
        for k, line in enumerate(caption.lines):
            self.text(place.x + PAD, place.y + HEAD + LINE * (k + 1), line, TEXT, _SOFT)

    def route(self, route: Route, drawing: Drawing) -> None:
        kind = line_of(route.edge, route.again, drawing.picture)
        colour = _BACK if kind == "back" else _LINE
        style = (0, (4, 3)) if kind in ("again", "keeps") else "solid"
        xs, ys = zip(*route.points, strict=True)
        width = (route.width or 1.3) * 0.75 * self.scale
        self.axes.plot(xs, ys, color=colour, linewidth=width, linestyle=style, solid_joinstyle="round")
        arrow = {"arrowstyle": "-|>,head_width=0.26,head_length=0.52", "color": colour, "lw": 0, "shrinkA": 0}
        before = next((p for p in reversed(route.points[:-1]) if p != route.points[-1]), route.points[0])
        self.axes.annotate("", route.points[-1], before, arrowprops={**arrow, "shrinkB": 0})

    def box(self, area: Area, fill: str, border: str, *, dashed: bool, line: float = 1.0) -> None:
        from matplotlib.patches import FancyBboxPatch

        x, y, width, height = area
        self.axes.add_patch(
            FancyBboxPatch(
                (x + 4, y + 4), width - 8, height - 8, boxstyle="round,pad=4,rounding_size=5", facecolor=fill,
                edgecolor=border, linewidth=line * self.scale, linestyle=(0, (4, 3)) if dashed else "solid",
            )
        )  # fmt: skip

    def ground(self, corner: Point, opposite: Point) -> None:
        """Paints over the lines behind a text."""
        from matplotlib.patches import Rectangle

        (x, y), (to_x, to_y) = corner, opposite
        self.axes.add_patch(Rectangle(corner, to_x - x, to_y - y, facecolor="white", zorder=_ABOVE_LINES))

    def text(self, x: float, y: float, text: str, size: float, colour: str, **more: Any) -> None:
        points = size * 0.75 * self.scale
        self.axes.text(x, y, text, fontsize=points, color=colour, va="baseline", parse_math=False, **more)
