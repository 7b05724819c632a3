"""The lines of what is computed: torch notes at each node where it was made, as it does to find anomalies.

It is asked for the one line of the user's own and for the function of torch.nn.functional that it came to, not for the
whole stack, which takes as long as to compute. Where the script itself looks for anomalies, all is noted as torch does
it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from traceback import FrameSummary, format_list
from types import FrameType

import torch

from gradexplain.recording.frames import is_installed, is_ours_or_torchs
from gradexplain.versions.internals import node_stacks


@dataclass
class Noting:
    """Lets torch note the lines of what is computed between `start` and `pause`, until `end`."""

    is_on: bool = False
    _own: Callable[[], list[str]] | None = None  # torch's function for the stack, while ours is in its place

    def begin(self) -> None:
        """Starts, unless the script itself looks for anomalies."""
        self.is_on = not torch.is_anomaly_enabled()
        self.start()

    def start(self) -> None:
        """Goes on, also where someone has turned it off."""
        if self.is_on and not torch.is_anomaly_enabled():
            torch.set_anomaly_enabled(True, False)
            self._own = self._own or node_stacks().format_stack
            node_stacks().format_stack = partial(_line_alone, self._own)

    def pause(self) -> None:
        """Leaves torch as it was."""
        if self._own is not None:
            node_stacks().format_stack, self._own = self._own, None
        if self.is_on and not torch.is_anomaly_check_nan_enabled():  # what the script turned on stays on
            torch.set_anomaly_enabled(False)

    def end(self) -> None:
        """Leaves torch as it was, for good."""
        self.pause()
        self.is_on = False


def _line_alone(whole: Callable[[], list[str]]) -> list[str]:
    """Returns what torch's own stack has of the user's line and its function; the whole where the script wants it."""
    if torch.is_anomaly_check_nan_enabled():
        return whole()
    frame: FrameType | None = sys._getframe(1)
    inner: list[str] = []
    while frame is not None and _is_inner(frame.f_code.co_filename):
        if frame.f_code.co_filename == torch.nn.functional.__file__:
            inner = _entry(frame)
        frame = frame.f_back
    return [*_entry(frame), *inner] if frame is not None else inner


def _entry(frame: FrameType) -> list[str]:
    return list(_written(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))


@cache
def _is_inner(file: str) -> bool:
    return is_ours_or_torchs(file) or is_installed(file)


@cache
def _written(file: str, line: int, function: str) -> tuple[str, ...]:
    return tuple(format_list([FrameSummary(file, line, function)]))
