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
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from gradexplain.errors import InputError
from gradexplain.figures.parameters import Count, Range, checked_all, parameters_of
from gradexplain.figures.style import PALETTES, Style, wrapped
from gradexplain.locale.catalogue import LANGUAGES

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
_NOTE = 8.5  # points
_COLUMN = 0.52  # of a letter's size: how wide letters are in the middle


@dataclass(frozen=True)
class Design:
    """One figure: `compute(**options)` gives its numbers, `paint(numbers, axes, style)` puts them on its panels.

    `panels` has a row of projections ("" for a plain one) for each row of panels; `size` is in inches. `examples` are
    options as the command line takes them. `paint` returns what is said below the panels.
    """

    name: str
    compute: Callable[..., Any]
    paint: Callable[[Any, Sequence[Any], Style], Sequence[str]]
    panels: tuple[tuple[str, ...], ...]
    size: tuple[float, float]
    examples: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        """What the figure shows, first in one line."""
        return inspect.getdoc(self.compute) or ""

    @property
    def commands(self) -> tuple[str, ...]:
        """Its examples as whole command lines."""
        lines = (f"gradexplain figure {self.name} {options}".rstrip() for options in self.examples)
        return tuple(f"{line} --output {self.name}{SUFFIXES['svg']}" for line in lines)


def common(
    *,
    language: Annotated[Literal["en", "zh"], "Language of the words."] = "en",
    style: Annotated[Literal["light", "dark"], "For white or for black paper."] = "light",
    size: Annotated[tuple[float, ...] | None, "Width and height in inches.", Range(2, 40), Count(2, 2)] = None,
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
    chosen = checked_all(common, options)
    look = Style(chosen.get("style", "light"), chosen.get("language", "en"))
    given = None if ax is None else _given(design, ax)
    data = computed(design, values)
    with look.applied():
        if given is not None:
            notes = design.paint(data, given, look)
            first = given[0]
            first.set_title("\n".join([first.get_title("left"), *notes]), loc="left")
            figure: Figure = first.figure
            return figure
        return _composed(design, data, look, chosen.get("size") or design.size)


def computed(design: Design, values: Mapping[str, Any]) -> Any:
    """Returns the numbers of a figure; torch's random state and modes are as they were."""
    import torch

    checked = checked_all(design.compute, values)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        return design.compute(**checked)


def rendered(figure: Figure, format: str) -> bytes:
    """Returns a figure as the bytes of a file: of equal figures, equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if format not in SUFFIXES:
        raise InputError("unknown_format", name=format, names=", ".join(SUFFIXES))
    written = io.BytesIO()
    canvas = figure.canvas
    with Style().applied():
        FigureCanvasAgg(figure)
        try:
            figure.savefig(
                written, format=format, dpi=_DOTS, metadata=dict(_METADATA[format]), facecolor=figure.get_facecolor()
            )
        finally:
            figure.set_canvas(canvas)
    return written.getvalue()


def public(design: Design) -> Callable[..., Figure]:
    """Returns a figure as a function of its options, for Python."""

    def figure(*values: Any, ax: Any = None, **options: Any) -> Figure:
        bound = signature.bind(*values, ax=ax, **options).arguments
        shared = {name: bound.pop(name) for name in ("language", "style", "size") if name in bound}
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


def _composed(design: Design, data: Any, style: Style, size: Sequence[float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0], size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    rows, columns = len(design.panels), len(design.panels[0])
    kinds = [kind for row in design.panels for kind in row]
    axes = [figure.add_subplot(rows, columns, k + 1, projection=kind or None) for k, kind in enumerate(kinds)]
    notes = [*design.paint(data, axes, style)]
    if style.spoken != style.language:
        notes.append(style.say("no_font"))
    if notes:
        columns_there = int((size[0] - 0.3) * 72 / (_NOTE * _COLUMN))
        text = "\n".join(wrapped(note, columns_there) for note in notes)
        figure.supxlabel(text, x=0.012, ha="left", fontsize=_NOTE, color=style.palette.soft, linespacing=1.35)
    _settle(figure)
    return figure


def _settle(figure: Figure) -> None:
    """Finds the layout for good: matplotlib would find it again at each drawing, from where it stood."""
    for _ in range(_ROUNDS):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _given(design: Design, ax: Any) -> list[Any]:
    """Returns the Axes that the caller gave, if they are as many as the figure has panels and of its kinds."""
    from matplotlib.axes import Axes

    axes = [ax] if isinstance(ax, Axes) else list(getattr(ax, "flat", ax))
    kinds = [kind or "rectilinear" for row in design.panels for kind in row]
    seen = [getattr(one, "name", type(one).__name__) for one in axes]
    if seen != kinds:
        raise InputError("figure_axes", name=design.name, kinds=", ".join(kinds), seen=", ".join(seen) or "–")
    return axes


assert set(LANGUAGES) == {"en", "zh"}
assert set(PALETTES) == {"light", "dark"}
