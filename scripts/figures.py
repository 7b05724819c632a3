"""Makes the figures of README again, in `tests/baseline/`, and those of the course, with the course, in a folder.

.venv/bin/python scripts/figures.py            # README's; a test holds the files against this
.venv/bin/python scripts/figures.py course     # and the course, in the folder `course`

Each of README's is written twice: as SVG, which is shown, and as a small PNG, by which a test compares pictures on a
machine whose FreeType draws letters a little differently.
"""

import io
import json
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import ft2font
from matplotlib.figure import Figure

import gradexplain as gx

FOLDER = Path(__file__).parent.parent / "tests" / "baseline"
# Coarse enough that a letter is some dots wide, fine enough that a mark is.
DOTS = 60

FIGURES: Mapping[str, Callable[[], Figure]] = {
    **{name.replace("_", "-"): getattr(gx.figures, name) for name in gx.figures.names()},
    "dimensions-ones": lambda: gx.figures.dimensions(at="ones"),
    "descent-float32": lambda: gx.figures.descent(dtype="float32", lr=(0.1,), steps=100),
    "curve-poles": lambda: gx.figures.curve("tan(x)", at=1.0),
    "curve-kink": lambda: gx.figures.curve("relu(x)", at=0.0),
    "surface-waves": lambda: gx.figures.surface("sin(x)*cos(y)"),
    "column": lambda: gx.figures.descent(size="column"),
    "surface-descent": lambda: gx.figures.surface("x**2 + 4*y**2", at=(1.5, 1.0), descent=0.2),
    "curve-square": lambda: gx.figures.curve("x**2 + 2*x", at=3.0, order=1, ends=(-4.0, 4.0)),
}


def coarse(figure: Figure) -> bytes:
    """Returns a figure as a small PNG."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=DOTS, metadata={"Software": None})
    return written.getvalue()


def made_with() -> dict[str, str]:
    """Returns what the bytes of a picture depend on."""
    return {
        "matplotlib": mpl.__version__,
        "freetype": ft2font.__freetype_version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }


if __name__ == "__main__":
    for name, make in FIGURES.items():
        figure = make()
        gx.figures.save(figure, FOLDER / f"figure-{name}.svg")
        (FOLDER / f"figure-{name}.png").write_bytes(coarse(figure))
    (FOLDER / "figures.json").write_text(json.dumps(made_with(), indent=1) + "\n", encoding="utf-8")
    for folder in sys.argv[1:]:
        gx.lessons.save_course(folder)
