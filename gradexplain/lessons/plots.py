"""Runs plotting code that a lesson shows, without a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradexplain.lessons.listings import run_listing
from gradexplain.lessons.parts import Ran


def run_plots(*codes: str, names: Mapping[str, Any]) -> tuple[Ran, ...]:
    """Runs codes that make figures of `Figure` and `FigureCanvasAgg`, each with the names of those before.

    They run in matplotlib's own settings; the caller's settings, and pyplot's figures, are as before.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ran: list[Ran] = []
    known: Mapping[str, Any] = {"Figure": Figure, "FigureCanvasAgg": FigureCanvasAgg, **names}
    with mpl.rc_context():
        mpl.rcdefaults()
        for code in codes:
            ran.append(run_listing(code, known))
            known = ran[-1].names
    return tuple(ran)
