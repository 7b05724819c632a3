"""Runs the code that a lesson shows, as it stands, and keeps what it did."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Generator, Mapping
from contextlib import redirect_stdout
from typing import Any

import torch

from gradexplain.lessons.parts import Part, Ran, text

TORCH: Mapping[str, Any] = {"torch": torch}


def run_listing(code: str, names: Mapping[str, Any] = TORCH) -> Ran:
    """Runs `code`, which is the lesson's own, with `names` as its globals; a fault ends it and is kept."""
    code = textwrap.dedent(code).strip()
    scope: dict[str, Any] = {"__name__": "lesson", **names}
    fault, printed = None, io.StringIO()
    with redirect_stdout(printed), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            exec(compile(code, "<lesson>", "exec"), scope)
        except Exception as raised:
            fault = raised
    return Ran(
        code=code,
        printed=printed.getvalue(),
        fault="" if fault is None else type(fault).__name__,
        message="" if fault is None else str(fault).strip().split("\n", 1)[0],
        warnings=tuple(str(w.message).strip().split("\n", 1)[0] for w in warned),
        names=scope,
    )


def attempt(key: str, code: str, names: Mapping[str, Any] = TORCH, **data: Any) -> Generator[Part, None, Ran]:
    """Yields the sentence that leads to some code, and the code with what it did; returns the latter."""
    yield text(key, **data)
    ran = run_listing(code, names)
    yield ran
    return ran


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
