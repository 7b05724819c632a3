"""Figures: each is a module here with a `DESIGN`, how its numbers are computed and how they are painted.

A new figure is one module: it is listed, offered on the command line and tested without another line.
"""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from gradexplain.errors import InputError
from gradexplain.figures.parameters import Checked, Count, Range, checked_all, parameters_of
from gradexplain.figures.style import PALETTES, Style, dark_rules, wrapped
from gradexplain.figures.typesetting import spoken
from gradexplain.locale.catalogue import LANGUAGES
from gradexplain.targets.values import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Every format, and the suffix of its files.
SUFFIXES: Mapping[str, str] = MappingProxyType({"svg": ".svg", "png": ".png", "pdf": ".pdf"})
_METADATA: Mapping[str, Mapping[str, None]] = MappingProxyType({
    "svg": {"Date": None, "Creator": None}, "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
})  # fmt: skip
# Twice a screen's usual density.
_DOTS = 192
_ROUNDS = 2
_APART = 0.06  # between panels, in parts of one
_LETTER = 0.52  # of a letter's size: how wide letters are in the middle
# In a column of a paper, in inches: its width, how high a panel, a panel of many, and a line below it are.
_COLUMN, _PANEL, _OF_MANY, _LINE = 3.4, 2.3, 1.7, 0.145


@dataclass(frozen=True)
class Design:
    """One figure: `compute(**options)` gives its numbers, `paint(numbers, axes, style)` puts them on its panels.

    `panels` has a row of projections ("" for a plain one) for each row of panels; `size` is in inches. `examples` are
    options as the command line takes them. `paint` returns what is said below the panels; `advise` returns keys of
    sentences that are for who made the figure, not for who looks at it, with their data. `split` says over how many
    panels, one above the other, these numbers are spread.
    """

    name: str
    compute: Callable[..., Any]
    paint: Callable[[Any, Sequence[Any], Style], Sequence[str]]
    panels: tuple[tuple[str, ...], ...]
    size: tuple[float, float]
    examples: tuple[str, ...] = ()
    advise: Callable[[Any], Sequence[tuple[str, Mapping[str, object]]]] = lambda data: ()
    split: Callable[[Any], int] = lambda data: 1

    @property
    def help(self) -> str:
        """What the figure shows, first in one line."""
        return inspect.getdoc(self.compute) or ""

    @property
    def commands(self) -> tuple[str, ...]:
        """Its examples as whole command lines."""
        lines = (f"gradexplain figure {self.name} {options}".rstrip() for options in self.examples)
        return tuple(f"{line} --output {self.name}{SUFFIXES['svg']}" for line in lines)


def _sound(title: str) -> None:
    """Raises `InputError` for a title with a formula that cannot be typeset."""
    if title.count("$") < 2:
        return
    from matplotlib.mathtext import MathTextParser

    try:
        MathTextParser("path").parse(title)
    except ValueError as fault:
        raise InputError("figure_title", title=shown(title)) from fault


def common(
    *,
    language: Annotated[Literal["en", "zh"], "Language of the words."] = "en",
    style: Annotated[Literal["light", "dark"], "For white or for black paper."] = "light",
    size: Annotated[
        Literal["column"] | tuple[float, ...] | None,
        "Width and height in inches, or column: as wide as a column of a paper, with letters of 6.5 to 8 points.",
        Range(2, 40),
        Count(2, 2),
    ] = None,
    title: Annotated[str | None, "A title of your own; formulas stand between dollars.", Checked(_sound)] = None,
) -> None:
    """The options of every figure."""


@cache
def designs() -> Mapping[str, Design]:
    """Returns every figure by name, such as `step-error`."""
    folder = importlib.import_module("gradexplain.figures").__path__
    modules = (importlib.import_module(f"gradexplain.figures.{m.name}") for m in pkgutil.iter_modules(folder))
    every = [module.DESIGN for module in modules if hasattr(module, "DESIGN")]
    names = [design.name for design in every]
    assert len(set(names)) == len(names), f"two figures have one name: {sorted(names)}"
    return MappingProxyType({design.name: design for design in sorted(every, key=lambda d: d.name)})


def drawn(design: Design, values: Mapping[str, Any], ax: Any = None, **options: Any) -> Figure:
    """Returns the figure for values of the design's own options; on `ax`, one Axes or several, where they are given."""
    checked_all(common, options)
    return painted(design, computed(design, values), ax, **options)


def computed(design: Design, values: Mapping[str, Any]) -> Any:
    """Returns the numbers of a figure; torch's random state and modes are as they were."""
    import torch

    checked = checked_all(design.compute, values)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        return design.compute(**checked)


def painted(design: Design, data: Any, ax: Any = None, **options: Any) -> Figure:
    """Returns the figure of numbers that are computed; on `ax`, one Axes or several, where they are given."""
    chosen = checked_all(common, options)
    size, title = chosen.get("size"), chosen.get("title")
    look = Style(chosen.get("style", "light"), chosen.get("language", "en"), column=size == "column")
    with look.applied():
        if ax is None:
            return _composed(design, data, look, size, title)
        axes = _given(design, data, ax)
        notes = design.paint(data, axes, look)
        first = axes[0]
        look.head(first, "\n".join([first.get_title("left") if title is None else title, *notes]))
        figure: Figure = first.figure
        return figure


def rendered(figure: Figure, format: str) -> bytes:
    """Returns a figure as the bytes of a file: of equal figures, equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if format not in SUFFIXES:
        raise InputError("unknown_format", name=format, names=", ".join(SUFFIXES))
    written = io.BytesIO()
    canvas, metadata = figure.canvas, dict[str, str | None](_METADATA[format])
    if format == "svg" and (name := _name(figure)):
        metadata["Title"] = name
    with Style().applied():
        FigureCanvasAgg(figure)
        try:
            figure.savefig(written, format=format, dpi=_DOTS, metadata=metadata, facecolor=figure.get_facecolor())
        finally:
            figure.set_canvas(canvas)
    return written.getvalue().replace(b"<svg ", b'<svg role="img" ', 1) if format == "svg" else written.getvalue()


def adapting(figure: Figure) -> bytes:
    """Returns a figure for white paper as SVG that is dark on a page that is."""
    sheet = b'<style type="text/css">'
    return rendered(figure, "svg").replace(sheet, sheet + dark_rules().encode(), 1)


def _name(figure: Figure) -> str:
    """Returns what a figure is called for one who does not see it: its title, or those of its panels."""
    titles = [axes.get_title(side) for axes in figure.axes for side in ("left", "center")]
    return spoken(figure.get_suptitle() or " · ".join(filter(None, titles)))


def public(design: Design) -> Callable[..., Figure]:
    """Returns a figure as a function of its options, for Python."""

    def figure(*values: Any, ax: Any = None, **options: Any) -> Figure:
        bound = signature.bind(*values, ax=ax, **options).arguments
        shared = {name: bound.pop(name) for name in inspect.signature(common).parameters if name in bound}
        bound.pop("ax", None)
        return drawn(design, bound, ax, **shared)

    place = inspect.Parameter(
        "ax", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Axes | Sequence[Axes] | None"
    )
    signature = inspect.Signature([*_plain(design.compute), place, *_plain(common)], return_annotation="Figure")
    figure.__name__ = figure.__qualname__ = design.name.replace("-", "_")
    figure.__doc__ = _described(design)
    figure.__signature__ = signature  # type: ignore[attr-defined]
    return figure


def _plain(function: Callable[..., object]) -> list[inspect.Parameter]:
    """Returns the parameters of a function, annotated with their types and no more."""
    types = get_type_hints(function)
    return [p.replace(annotation=types[p.name]) for p in inspect.signature(function).parameters.values()]


def _described(design: Design) -> str:
    """Returns the docstring of a figure's function: what it shows, and what each option is."""
    options = [
        f"`{parameter.name}`: {parameter.help}" + (f" ({parameter.range})" if str(parameter.range) else "")
        for parameter in (*parameters_of(design.compute), *parameters_of(common))
    ]
    return "\n\n".join([
        inspect.getdoc(design.compute) or "", "\n".join(options),
        "`ax`: Axes of your own to draw on, one for each panel. Returns the matplotlib `Figure`; pyplot is not used.\n"
        "Raises `InputError` for an option out of its range and for an expression that cannot be used.",
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- panels


def _composed(design: Design, data: Any, style: Style, size: Any, title: str | None) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = _panels(design, data)
    rows, columns = (sum(map(len, panels)), 1) if style.column else (len(panels), len(panels[0]))
    width, height = _inches(design, rows, size)
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=_APART, hspace=_APART))
    FigureCanvasAgg(figure)
    kinds = [kind for row in panels for kind in row]
    axes = [figure.add_subplot(rows, columns, k + 1, projection=kind or None) for k, kind in enumerate(kinds)]
    notes = [*design.paint(data, axes, style)]
    if style.spoken != style.language:
        notes.append(style.say("no_font"))
    if title is not None and len(axes) == 1:
        style.head(axes[0], title)
    elif title:
        figure.suptitle(title, x=0.012, ha="left")
    columns_there = int((width - 0.3) * 72 / (style.note * _LETTER))
    text = "\n".join(wrapped(note, columns_there) for note in notes)
    if text:
        figure.supxlabel(text, x=0.012, ha="left", fontsize=style.note, color=style.palette.soft, linespacing=1.35)
    if style.column:
        legends = [text.get_text() for panel in axes if (box := panel.get_legend()) for text in box.get_texts()]
        lines = "\n".join([text, *legends]).count("\n")
        figure.set_size_inches(width, height + _LINE * lines)
    _settle(figure)
    # A notebook asks every object for this; matplotlib's own picture appears only once pyplot is loaded.
    figure._repr_svg_ = partial(_svg, figure)  # type: ignore[attr-defined]
    return figure


def _panels(design: Design, data: Any) -> tuple[tuple[str, ...], ...]:
    return design.panels * design.split(data)


def _inches(design: Design, rows: int, size: Any) -> tuple[float, float]:
    """Returns width and height of a figure of so many rows: as it was asked for, or as its panels need."""
    if size == "column":
        return _COLUMN, rows * (_PANEL if rows < 3 else _OF_MANY)
    width, height = size or design.size
    more = 1 if size else max(1.0, 0.5 * rows / len(design.panels))
    return width, height * more


def _svg(figure: Figure) -> str:
    return rendered(figure, "svg").decode()


def _settle(figure: Figure) -> None:
    """Finds the layout for good: matplotlib would find it again at each drawing, from where it stood."""
    for _ in range(_ROUNDS):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _given(design: Design, data: Any, ax: Any) -> list[Any]:
    """Returns the Axes that the caller gave, if they are as many as the figure has panels and of its kinds.

    What would be spread over panels one above the other may stand on one as well.
    """
    from matplotlib.axes import Axes

    axes = [ax] if isinstance(ax, Axes) else list(getattr(ax, "flat", ax))
    seen = [getattr(one, "name", type(one).__name__) for one in axes]
    for panels in (_panels(design, data), design.panels):
        kinds = [kind or "rectilinear" for row in panels for kind in row]
        if seen == kinds:
            return axes
    raise InputError("figure_axes", name=design.name, kinds=", ".join(kinds), seen=", ".join(seen) or "–")


assert set(LANGUAGES) == {"en", "zh"}
assert set(PALETTES) == {"light", "dark"}
