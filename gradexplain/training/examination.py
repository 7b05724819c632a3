"""An observer of a run that is a second one: it checks that it is the same run, and records one step of it in full."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from gradexplain.findings.births import born_backward, born_forward
from gradexplain.findings.finding import Finding
from gradexplain.findings.rewritten import rewritten
from gradexplain.recording.computation import Computation
from gradexplain.recording.frames import script_source
from gradexplain.recording.join import Run, joined
from gradexplain.recording.nodes import is_leaf, nodes_below
from gradexplain.recording.recorder import Recorder, watching_functions
from gradexplain.recording.trace import Trace
from gradexplain.recording.tracing import observed
from gradexplain.training.ledger import parameters_of
from gradexplain.training.naming import Names
from gradexplain.training.reaching import Way, silent_in, way_to
from gradexplain.training.request import PASSES, UNTOLD, Request
from gradexplain.versions.internals import internals

PARTED = "parted"
_UNTOLD = ("unknown", "unused_in_step")


class Idle:
    """An observer that looks at nothing."""

    def begin(self) -> None: ...
    def finish(self) -> None: ...
    def backward_begins(self, roots: Sequence[Tensor]) -> None: ...
    def backward_ended(self, roots: Sequence[Tensor]) -> None: ...
    def backward_failed(self, roots: Sequence[Tensor], fault: Exception) -> None: ...
    def step_begins(self, optimizer: Optimizer) -> None: ...
    def step_ended(self, optimizer: Optimizer) -> None: ...
    def made(self, optimizer: Optimizer) -> None: ...
    def module_made(self, module: nn.Module) -> None: ...
    def cleared(self, optimizer: Optimizer) -> None: ...
    def scaled(self, scaler: Any, optimizer: Optimizer, stepped: bool) -> None: ...
    def scaling(self, scaler: Any) -> None: ...
    def scheduled(self, scheduler: Any) -> None: ...
    def clipped(self, bound: float, norm: Tensor) -> None: ...
    def batch(self, iterator: Any, given: Any) -> None: ...
    def epoch(self, loader: Any) -> None: ...
    def gradients_off(self, frame: FrameType) -> None: ...
    def gradients_on(self) -> None: ...
    def switched(self, module: nn.Module, training: bool) -> None: ...
    def broke(self, fault: Exception) -> None: ...


@dataclass
class Trial(Idle):
    """Says how the losses of a run go that has a change, up to the backward pass that is asked about."""

    request: Request
    say: Callable[[Any], None]
    losses: list[float] = field(default_factory=list)

    @torch.no_grad()
    def backward_begins(self, roots: Sequence[Tensor]) -> None:
        self.losses.append(_value(roots[0]) if len(roots) == 1 and roots[0].numel() == 1 else 0.0)
        if len(self.losses) > self.request.backward:
            self.say(self.losses)

    def finish(self) -> None:
        """Says how they went in a run that ends before."""
        self.say(self.losses)


@dataclass
class Examination(Idle):
    """Says what it found of the step that was asked about, or `PARTED` where this is not the same run."""

    request: Request
    say: Callable[[Any], None]
    recorder: Recorder = field(default_factory=lambda: Recorder(None))
    recording: ExitStack = field(default_factory=ExitStack)
    observing: ExitStack = field(default_factory=ExitStack)
    sent: dict[Any, Any] = field(default_factory=dict)
    optimizers: list[Optimizer] = field(default_factory=list)
    backwards: int = 0
    ended: int = 0
    way: Way | None = None
    is_anothers: bool = False  # another optimizer has stepped since the backward pass that told of the way

    def begin(self) -> None:
        """Begins to record, if the step is the first."""
        if self.request.kind == "way":
            self.recorder.leaving, self.recorder.locate = True, script_source
        if self.ended == self.request.after:
            self.recording.enter_context(_modules(self.recorder))
            self.recording.enter_context(watching_functions(self.recorder))
            self.recording.enter_context(self.recorder.recording())

    @torch.no_grad()
    def backward_begins(self, roots: Sequence[Tensor]) -> None:
        loss = roots[0] if len(roots) == 1 and roots[0].numel() == 1 else None
        trace, place = self.request.trace, self.backwards
        if place < len(trace) and _bits(_value(loss)) != _bits(trace[place]):
            self.say(PARTED)
        if self.request.kind == "loss" and place == self.request.backward and loss is not None:
            self.recording.close()
            self.say(self._named(born_forward(self.recorder.events, loss)) or UNTOLD)
        if place == self.request.backward and loss is not None and self.request.kind == "changed":
            self.recording.close()
            self.say(self._named(rewritten(self.recorder.events, loss)) or UNTOLD)
        if place >= self.request.backward and self.request.kind == "way":
            self._see_way(loss)  # it stays open: a mode that sees `backward` called cannot end within that call
        self.backwards += 1
        if self.request.kind == "gradient" and self.ended >= self.request.after and loss is not None:
            self.sent = self.observing.enter_context(observed(nodes_below(loss.grad_fn)))

    @torch.no_grad()
    def backward_ended(self, roots: Sequence[Tensor]) -> None:
        if self.sent:
            self.observing.close()
            with internals().without_modes():
                trace = self._trace(roots[0])
                if self.request.kind == "way":
                    self.say(silent_in(trace))
                found = born_backward(trace)
            self.sent = {}
            if found is not None:
                self.say(self._named(found))
        if self.request.kind == "gradient" and self.backwards >= self.request.backward:
            self.say(UNTOLD)

    def _see_way(self, loss: Tensor | None) -> None:
        """Notes how this backward pass leaves out what is asked about, and says it where no other may tell more.

        Those of an optimizer may be reached by each pass before its first step; what another has stepped by is its own.
        """
        if self.is_anothers:
            self.way, self.is_anothers = None, False
        if self.way is None or self.way.why in _UNTOLD:
            self.way = Way("unknown") if loss is None else self._way(loss)
        if self.way is not None and (self.request.optimizer is None or self.backwards + 1 >= PASSES):
            self._say_way(self.request.optimizer is None)

    def _say_way(self, is_complete: bool) -> None:
        if self.way is not None:
            told = is_complete or self.way.why not in _UNTOLD
            self.say(self.way if told else Way("unknown"))

    def step_begins(self, optimizer: Optimizer) -> None:
        if self.request.kind != "way" or self.request.optimizer is None:
            return
        if self.optimizers[self.request.optimizer] is optimizer:
            self._say_way(is_complete=True)
        self.is_anothers = True

    def finish(self) -> None:
        """Says what was seen in a run that ends before."""
        self._say_way(is_complete=True)

    def _way(self, loss: Tensor) -> Way | None:
        """Returns how what is asked about does not reach a loss; `None` where it does, and the backward pass tells."""
        names = Names()
        names.look()
        frozen = [p for p in names.parameters() if not p.requires_grad]
        if self.request.optimizer is None:
            asked, unused = [p for p in names.parameters() if p.requires_grad], "unused"
        else:
            own = parameters_of(self.optimizers[self.request.optimizer])
            asked, unused = [own[place] for place in self.request.places], "unused_in_step"
        below = nodes_below(loss.grad_fn) if loss.grad_fn is not None else []
        if asked and {*map(id, asked)} <= {id(node.variable) for node in below if is_leaf(node)}:
            self.sent = self.observing.enter_context(observed(below))
            return None
        way = way_to(loss, asked, self.recorder)
        if way.why != "unused":
            return replace(way, module=names.path_of(way.module))
        is_frozen = loss.grad_fn is None and way_to(loss, frozen, self.recorder).why != "unused"
        return Way("frozen" if is_frozen else unused)

    def _trace(self, loss: Tensor) -> Trace:
        """Returns the step as a trace, with what its backward pass sent."""
        leaves = {f"leaf{i}": n.variable for i, n in enumerate(filter(is_leaf, nodes_below(loss.grad_fn)))}
        names = Names()
        names.look()
        given = {names.of(leaf): leaf for leaf in leaves.values()}
        run = Run(
            output=loss,
            outputs=1,
            seed=torch.ones_like(loss),
            recorder=self.recorder,
            inputs=given,
            names={id(leaf): name for name, leaf in given.items()},
            gradients={},
            saved={},
            jacobians={},
            sent=self.sent,
            hooked=(),
            dropped=(),
        )
        return joined(run, Computation("", lambda _: None, given, ()))

    def _named(self, finding: Finding | None) -> Finding | None:
        """Gives a finding the path of its module in place of the identity that was noted."""
        if finding is None:
            return None
        names = Names()
        names.look()
        return replace(
            finding,
            module=names.path_of(finding.module),
            consequences=tuple(replace(c, module=names.path_of(c.module)) for c in finding.consequences),
        )

    def step_ended(self, optimizer: Optimizer) -> None:
        self.ended += 1
        self.begin()

    def made(self, optimizer: Optimizer) -> None:
        self.optimizers.append(optimizer)


def _value(loss: Tensor | None) -> float:
    return float("nan") if loss is None or loss.is_complex() else float(loss.detach())


def _bits(number: float) -> bytes:
    return b"nan" if number != number else struct.pack("<d", number)


def _modules(recorder: Recorder) -> ExitStack:
    """Keeps `recorder.module` at the identity of the module that is running, until its path can be told."""
    stack = recorder.module

    def enter(module: nn.Module, args: object) -> None:
        stack.append(str(id(module)))

    def leave(module: nn.Module, args: object, result: object) -> None:
        stack.pop()

    kept = ExitStack()
    kept.callback(internals().before_forward(enter).remove)
    kept.callback(internals().after_forward(leave, always_call=True).remove)
    return kept
