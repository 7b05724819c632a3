"""Whether a model is evaluated as it trains: layers that do something else in training, asked under no_grad.

In a block of the script under `no_grad` the two functions that such layers call note that they were, and do what they
were asked; outside of such a block, and where functions are compiled, torch is as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import nn

from gradexplain.recording.frames import script_source
from gradexplain.targets.sources import Source
from gradexplain.versions.internals import has_compiled

_INNER = ("torch.", "gradexplain.")
_ASKED = ("dropout", "batch_norm")


@dataclass
class Evaluation:
    """A line that computes under `no_grad` with a layer in training mode: at which steps, and the first such layer."""

    source: Source | None
    layer: ref[nn.Module]
    steps: set[int] = field(default_factory=set)


@dataclass
class Switch:
    """The line that set a model to training or to evaluation, at which step, and whether it was then evaluated."""

    training: bool
    step: int
    source: Source | None
    evaluated: bool = False


@dataclass
class Evaluations:
    """What was computed under `no_grad` in blocks of the script, and how models were set for it."""

    step: Callable[[], int]
    switches: WeakKeyDictionary[nn.Module, Switch] = field(default_factory=WeakKeyDictionary)
    found: dict[tuple[int, int], Evaluation] = field(default_factory=dict)
    at_rest: WeakSet[nn.Module] = field(default_factory=WeakSet)  # layers that were in evaluation mode
    _depth: int = 0
    _own: dict[str, Any] = field(default_factory=dict)

    def switch(self, model: nn.Module, training: bool) -> None:
        """A model is set to training or to evaluation; of several settings to evaluation in a row the first counts."""
        last = self.switches.get(model)
        if last is None or training or last.training:
            self.switches[model] = Switch(training, self.step(), script_source())

    def begin(self, frame: FrameType) -> None:
        """A block under `no_grad` begins in a frame."""
        self._depth += 1
        if self._depth > 1 or not self.step() or has_compiled() or _is_torchs(frame):
            return
        for name in _ASKED:
            self._own[name] = getattr(nn.functional, name)
            setattr(nn.functional, name, self._noting(self._own[name], "training"))

    def end(self) -> None:
        """It ends."""
        self._depth = max(0, self._depth - 1)
        if not self._depth:
            self.close()

    def close(self) -> None:
        """Leaves torch as it was."""
        for name, own in self._own.items():
            setattr(nn.functional, name, own)
        self._own.clear()

    def _noting(self, run: Callable[..., Any], flag: str) -> Callable[..., Any]:
        place = run.__code__.co_varnames.index(flag)

        @wraps(run)
        def asked(*args: Any, **keywords: Any) -> Any:
            on = args[place] if len(args) > place else keywords.get(flag, run.__name__ == "dropout")
            if not torch.is_grad_enabled():
                self._note(sys._getframe(1), on)
            return run(*args, **keywords)

        return asked

    def _note(self, frame: FrameType, on: bool) -> None:
        layer = frame.f_locals.get("self")
        if not isinstance(layer, nn.Module) or getattr(layer, "p", 1) == 0:
            return
        now = [(m, s) for m, s in self.switches.items() if s.step == self.step() and not s.evaluated]
        set_now = [switch for model, switch in now if any(layer is m for m in model.modules())]
        if not on:
            self.at_rest.add(layer)
            for switch in set_now:
                switch.evaluated = not switch.training
            return
        if any(switch.training for switch in set_now):  # set to training for what is asked here: it is meant
            return
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INNER):
            frame = frame.f_back
        key = id(frame.f_code), frame.f_lasti
        if key not in self.found:
            self.found[key] = Evaluation(script_source(), ref(layer))
        self.found[key].steps.add(self.step())


def _is_torchs(frame: FrameType) -> bool:
    """Says whether torch itself, or we, began a block: also by a function of theirs that runs under `no_grad`."""
    name = frame.f_globals.get("__name__", "")
    if name == "torch.utils._contextlib" and frame.f_code.co_name == "decorate_context":
        name = getattr(frame.f_locals.get("func"), "__module__", "") or ""
    return str(name).startswith(_INNER)


@contextmanager
def evaluations_watched(begin: Callable[[FrameType], None], end: Callable[[], None]) -> Iterator[None]:
    """Calls `begin` and `end` around every block under `no_grad` and `inference_mode`."""
    kinds = (torch.no_grad, torch.inference_mode)
    own = [(kind, kind.__enter__, kind.__exit__) for kind in kinds]

    def around(enter: Any, leave: Any) -> tuple[Any, Any]:
        @wraps(enter)
        def entering(self: Any) -> Any:
            result = enter(self)
            begin(sys._getframe(1))
            return result

        @wraps(leave)
        def leaving(self: Any, *fault: Any) -> Any:
            end()
            return leave(self, *fault)

        return entering, leaving

    for kind, enter, leave in own:
        kind.__enter__, kind.__exit__ = around(enter, leave)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, enter, leave in own:
            kind.__enter__, kind.__exit__ = enter, leave  # type: ignore[method-assign]
