"""Figures of gradients: `figures.descent(lr=(0.1, 1.01))` returns a matplotlib `Figure`; `save` writes one.

Every function here is found in the modules beside this one (`design.py`); `names()` lists them. All take `language`,
`style`, `size` and `ax`. Torch and matplotlib are loaded when a figure is drawn.

>>> import gradexplain as gx
>>> figure = gx.figures.descent("x**2 + 2*x", lr=(0.1, 1.01), steps=20)
>>> len(figure.axes)
2
>>> gx.figures.save(figure, "descent.svg")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradexplain.figures.signatures import *  # noqa: F403  # a stub, made from the figures by a test


def names() -> tuple[str, ...]:
    """Returns the names of all figures, as functions of this module."""
    from gradexplain.figures.design import designs

    return tuple(name.replace("-", "_") for name in designs())


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure as its file's suffix says (.svg, .png, .pdf), whole or not at all; the same bytes each time."""
    from gradexplain.documents.formats import format_of
    from gradexplain.documents.shown import write
    from gradexplain.figures.design import SUFFIXES, rendered

    write(Path(path), rendered(figure, format_of(Path(path), SUFFIXES)))


if not TYPE_CHECKING:  # a checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        from gradexplain.figures.design import designs, public

        design = None if name.startswith("_") else designs().get(name.replace("_", "-"))
        if design is None or "-" in name:
            raise AttributeError(f"module 'gradexplain.figures' has no attribute '{name}'")
        return public(design)


def __dir__() -> list[str]:
    return sorted(["names", "save", *names()])
