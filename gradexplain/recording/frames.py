"""Whose code runs: the places of the user's own code among the frames of the stack."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

import torch

from gradexplain.targets.sources import Source, source_at

_INSIDE = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parent.parent, Path(torch.__file__).parent))
_PYTHON = f"{sysconfig.get_path('stdlib')}{os.sep}"
# Where the user's function is called.
_CALLER = str(Path(__file__).with_name("computation.py"))


def is_ours_or_torchs(file: str) -> bool:
    """Says whether a file belongs to this package, to torch, or to Python's own start-up code."""
    return file.startswith(_INSIDE) or file.startswith("<frozen")


def user_frame() -> tuple[CodeType, int] | None:
    """Returns the innermost frame of the function that runs; what called us is no part of it."""
    return next(((f.f_code, f.f_lasti) for f, place in _frames(sys._getframe(1)) if place == "user"), None)


def script_frame() -> tuple[CodeType, int] | None:
    """Returns the innermost frame that is not of an installed package either; where all are, the innermost."""
    own = [(f.f_code, f.f_lasti) for f, place in _frames(sys._getframe(1)) if place == "user"]
    return next((frame for frame in own if not is_installed(frame[0].co_filename)), own[0] if own else None)


def script_source() -> Source | None:
    """Returns the place of `script_frame`."""
    frame = script_frame()
    return source_at(*frame) if frame else None


def is_installed(file: str) -> bool:
    """Says whether a file belongs to an installed package."""
    return "site-packages" in file


def _frames(frame: FrameType | None) -> Iterator[tuple[FrameType, str]]:
    """Yields the frames up to where the user's function is called, from the innermost, with whose code they are."""
    while frame is not None and (place := _place(frame.f_code)) != "caller":
        yield frame, place
        frame = frame.f_back


def user_source() -> Source | None:
    """Returns the innermost place of the user's code on the stack."""
    frame = user_frame()
    return source_at(*frame) if frame else None


def place_text(source: Source | None, otherwise: str) -> str:
    """Returns a place as a text.

    What torch runs without code of the user's in between has none: of that, the line that asked us is the place, and
    `otherwise` where no line did, on the command line.
    """
    return str(source or _asking_source() or otherwise)


def _asking_source() -> Source | None:
    frame = asking_frame()
    return source_at(frame.f_code, frame.f_lasti) if frame is not None else None


def asking_frame() -> FrameType | None:
    """Returns the innermost frame of the user's own code: the one that asked us, where none of it runs below us."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _place(frame.f_code) != "user":
        frame = frame.f_back
    return frame


@cache
def _place(code: CodeType) -> str:
    """Says whose code this is: `user`'s, `inner` (torch's, Python's or ours), or where we call the user's function."""
    file = code.co_filename
    if file == _CALLER:
        return "caller"
    pythons = file.startswith(_PYTHON) and not is_installed(file)
    script = Path(file).stem == "gradexplain"  # what the command line starts from
    return "inner" if is_ours_or_torchs(file) or pythons or script else "user"
