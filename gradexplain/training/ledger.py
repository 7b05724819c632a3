"""What is kept of a training: a few numbers of every step, and more of a few of them.

Every step: the loss, the norm of the gradient, whether old gradients were cleared. At steps 0, 1, 2, 4, 8, … and at
every 64th: the gradient and the update of each matrix (of a thousand of its elements), and the graph of the loss. What
lies on a device is not asked for its numbers before such a step, so that nothing waits for it.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from types import CodeType, FrameType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from gradexplain.findings.finding import Finding
from gradexplain.recording.frames import asking_frame, user_frame
from gradexplain.recording.naming import visible
from gradexplain.targets.sources import Source, source_at
from gradexplain.training.losses import Lines, LossGraph, Pattern, born_in, bridge_of, graph_of, lines_of
from gradexplain.training.naming import Names
from gradexplain.versions.internals import sequence_number

_SAMPLED = 1024
_COLUMNS = 256
_FEW = 12  # so many numbers are read one by one in less time than it takes to stack them
_EVERY = 64
# Steps that are looked at as well, so that a run of a few dozen steps can be judged.
_EARLY = frozenset({3, 6, 12, 20, 24, 40, 48})
_GRAPHS = 64
# So many steps skipped in a row, down to a scale of less than 1, are no start that was too high.
SKIPS = 20
# Seconds after which the lines of what is computed are no longer noted, if no optimizer has stepped until then.
_PATIENCE = 30.0
_INNER = ("torch.", "gradexplain.training.")
_KEY = "gradexplain: of a loss"


def is_looked_at(step: int) -> bool:
    """Says whether more than a few numbers of this step are kept."""
    return step < 3 or step & (step - 1) == 0 or step in _EARLY or step % _EVERY == 0


@dataclass
class Call:
    """One line that starts backward passes, and what it started them from."""

    source: Source | None
    code: CodeType | None  # held, so that its identity stays its own
    losses: array[float] = field(default_factory=lambda: array("d"))
    steps: array[int] = field(default_factory=lambda: array("q"))
    graphs: list[tuple[int, LossGraph]] = field(default_factory=list)
    lines: Lines = ()
    last: int = 0  # which backward pass of all was its last


@dataclass
class Look:
    """One step of one optimizer, looked at: by place of the parameter, `None` where it had no gradient."""

    step: int
    rate: float
    rms: list[float | None]
    ratio: dict[int, float] = field(default_factory=dict)
    moved: float | None = None  # of the elements with a gradient, the share that the step changed


@dataclass
class Steps:
    """One optimizer over its steps."""

    kind: str
    own: ref[Optimizer]
    after: int  # how many modules had been made before it
    source: Source | None
    count: int = 0
    norms: array[float] = field(default_factory=lambda: array("d"))
    parameters: list[ref[Tensor]] = field(default_factory=list)
    missing: Counter[int] = field(default_factory=Counter)
    looks: list[Look] = field(default_factory=list)
    alive: dict[int, Tensor] = field(default_factory=dict)  # of a matrix, the rows that ever had a gradient in a look
    stale: int = 0
    backwards: list[Call] = field(default_factory=list)  # since its last step
    repeated: Counter[tuple[int, int]] = field(default_factory=Counter)  # (call, passes before a step): steps
    rates: array[float] = field(default_factory=lambda: array("d"))
    skipped: int = 0
    skipped_in_a_row: int = 0
    most_skipped: int = 0
    is_clear: bool = True
    witness: tuple[int, int] | None = None
    before: dict[int, Tensor] | None = None  # a sample of each parameter, while the step is taken


@dataclass(frozen=True)
class Flag:
    """The first number that was not finite: a loss as its backward pass began, or gradients before a step."""

    kind: str
    step: int
    backward: int  # how many backward passes had begun before this one, or before the step
    after: int  # how often an optimizer had stepped one round before
    seconds: float  # since the watch began
    parameters: tuple[str, ...]
    source: Source | None
    value: float  # of the loss
    birth: Finding | None = None  # as the graph of the loss tells it


@dataclass
class Ledger:
    """An observer that keeps what criteria need.

    It ends the run at what is not finite (`halt`), or after so many steps (`most`). Where no second run can look into a
    step (`alone`), it looks into the graph of a loss that is not finite itself.
    """

    halt: bool = False
    most: int | None = None
    alone: bool = False
    names: Names = field(default_factory=Names)
    calls: dict[tuple[int, int], Call] = field(default_factory=dict)
    optimizers: dict[int, Steps] = field(default_factory=dict)
    trace: array[float] = field(default_factory=lambda: array("d"))  # every loss, to know the run again
    flag: Flag | None = None
    signs: list[tuple[int, ref[Any]]] = field(default_factory=list)
    kept_graphs: list[tuple[int, int]] = field(default_factory=list)  # step, and graphs of steps before still alive
    leaves: dict[int, tuple[ref[Tensor], int]] = field(default_factory=dict)  # of losses, and how often they were seen
    schedulers: dict[int, tuple[str, int, Source | None]] = field(default_factory=dict)  # kind, steps, where
    epochs: int = 0
    since: int = 0
    passes: int = 0  # backward passes that have ended
    taken: int = 0  # steps of the optimizer that has stepped most
    looked: int = -1
    started: float = field(default_factory=monotonic)
    noting: bool = False
    modes: list[tuple[int, dict[str, bool]]] = field(default_factory=list)
    modules: list[ref[nn.Module]] = field(default_factory=list)  # that were made under watch, in order
    is_scaling: bool = False
    broken: str = ""  # how the watch itself failed, if it did
    bridge: Pattern | None = None  # what hangs on a graph of before, where a backward pass failed by that
    freed: Source | None = None  # the line whose backward pass freed the graph that failed

    @property
    def step(self) -> int:
        """The number of the step that goes on; without an optimizer, every backward pass counts as a step."""
        return self.taken if self.optimizers else self.passes

    def begin(self) -> None:
        """Lets torch note the lines of what is computed until the first steps are done."""
        self.noting = not torch.is_anomaly_enabled()
        self._note()

    def end(self) -> None:
        """Leaves torch as it was."""
        self._stop_noting()
        self.noting = False

    def _note(self) -> None:
        if self.noting:
            torch.set_anomaly_enabled(True, False)

    def _stop_noting(self) -> None:
        if self.noting:
            torch.set_anomaly_enabled(False)

    # ------------------------------------------------------------------------------------------------ backward

    def backward_begins(self, roots: Sequence[Tensor]) -> None:
        self._stop_noting()
        call = self._call()
        loss = roots[0] if len(roots) == 1 and roots[0].numel() == 1 else None
        step = self.step
        value = _number(loss)
        self.trace.append(value)
        call.losses.append(value)
        call.steps.append(step)
        call.last = len(self.trace)
        for steps in self.optimizers.values():
            steps.backwards.append(call)
            if not steps.is_clear:
                steps.is_clear = self._was_cleared(steps)
        new = not call.graphs or call.graphs[-1][0] != step
        if loss is not None and loss.grad_fn is not None and new and is_looked_at(step) and len(call.graphs) < _GRAPHS:
            self._look_at_graph(call, loss, step)
        if loss is not None and loss.is_cpu and not math.isfinite(value) and not self.is_scaling:
            self._raise("loss", len(self.trace) - 1, (), call.source, value, self._birth(loss, call))

    def _call(self) -> Call:
        """Returns the line of the script that asked for the backward pass; cheap, as every step asks."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").startswith(_INNER):
            frame = frame.f_back
        key = (id(frame.f_code), frame.f_lasti) if frame is not None else (0, 0)
        if key not in self.calls:
            place = user_frame()
            self.calls[key] = Call(source_at(*place) if place else None, frame.f_code if frame is not None else None)
        return self.calls[key]

    @torch.no_grad()
    def _look_at_graph(self, call: Call, loss: Tensor, step: int) -> None:
        if not call.graphs:
            self._name()
            self.names.see(visible(asking_frame()))
        graph = graph_of(loss, self.since)
        if graph is None:
            return
        if self.alone and self.noting and not call.lines:
            call.lines = lines_of(loss)
        call.graphs.append((step, replace(graph, leaves=())))
        for leaf in graph.leaves:
            seen = self.leaves.get(id(leaf), (ref(leaf), 0))
            self.leaves[id(leaf)] = (seen[0], seen[1] + 1)
        self.kept_graphs.append((step, sum(sign() is not None for made, sign in self.signs if made < step - 1)))
        sign = _Sign()
        node: Any = loss.grad_fn
        node.metadata[_KEY] = sign
        self.signs.append((step, ref(sign)))

    def backward_ended(self, roots: Sequence[Tensor]) -> None:
        if self.noting and self.step < 1 and monotonic() - self.started < _PATIENCE:
            self._note()
        if not self.optimizers and self.flag is None:
            self._look_without_optimizer()
        self.passes += 1

    def backward_failed(self, roots: Sequence[Tensor], fault: Exception) -> None:
        if len(roots) == 1 and roots[0].grad_fn is not None and "second time" in str(fault):
            self.bridge = bridge_of(roots[0], self.since)
            calls = [call for call in self.calls.values() if call.losses]
            self.freed = calls[-2].source if len(calls) > 1 else None

    def last_call(self) -> Call | None:
        """Returns the line that started the last backward pass."""
        return max(self.calls.values(), key=lambda call: call.last, default=None)

    def round_before(self) -> int:
        """Returns how often an optimizer had stepped one round ago: all that a loss hangs on was made since."""
        taken = sum(steps.count for steps in self.optimizers.values())
        return max(0, taken - max(len(self.optimizers) - 1, 0))

    def seconds(self) -> float:
        """Returns how long the run has been watched."""
        return monotonic() - self.started

    def _look_without_optimizer(self) -> None:
        """Of a loop that changes its parameters itself, the gradients are looked at when they are there."""
        call = self.last_call()
        seen = [leaf for kept, _ in self.leaves.values() if (leaf := kept()) is not None and leaf.grad is not None]
        bad = [leaf for leaf in seen if leaf.device.type == "cpu" and not bool(torch.isfinite(leaf.grad).all())]  # type: ignore[arg-type]
        if bad and call is not None:
            named = tuple(self.names.of(leaf) for leaf in bad)
            self._raise("gradient", len(self.trace), named, call.source, self.trace[-1])

    @torch.no_grad()
    def _birth(self, loss: Tensor, call: Call) -> Finding | None:
        if not self.alone or self.flag is not None or loss.grad_fn is None:
            return None
        self.names.look()
        return born_in(loss, self.names.known, call.lines)

    def _raise(
        self,
        kind: str,
        backward: int,
        parameters: tuple[str, ...],
        source: Source | None,
        value: float,
        birth: Finding | None = None,
    ) -> None:
        if self.flag is None:
            after = self.round_before()
            self.flag = Flag(kind, self.step, backward, after, self.seconds(), parameters, source, value, birth)
            if self.halt:
                raise _ended()

    # --------------------------------------------------------------------------------------------------- steps

    def made(self, optimizer: Optimizer) -> None:
        if id(optimizer) in self.optimizers:
            return
        self._name()
        self.names.see(visible(asking_frame()))
        frame = user_frame()
        source = source_at(*frame) if frame else None
        self.optimizers[id(optimizer)] = Steps(type(optimizer).__name__, ref(optimizer), len(self.modules), source)

    def module_made(self, module: nn.Module) -> None:
        self.modules.append(ref(module))

    def _name(self) -> None:
        """Finds the names in the modules that were made under watch, which is cheap."""
        self.names.look(
            [module for kept in self.modules if (module := kept()) is not None and "_modules" in vars(module)]
        )

    @torch.no_grad()
    def step_begins(self, optimizer: Optimizer) -> None:
        steps = self.optimizers.get(id(optimizer))
        if steps is None:
            self.made(optimizer)
            steps = self.optimizers[id(optimizer)]
        parameters = parameters_of(optimizer)
        if len(steps.parameters) != len(parameters):
            steps.parameters = [ref(p) for p in parameters]
        with_gradient = [p for p in parameters if p.grad is not None]
        norms = _norms([p.grad for p in with_gradient])  # type: ignore[misc]
        total = math.hypot(*norms) if norms else math.nan
        steps.norms.append(total)
        steps.rates.append(float(optimizer.param_groups[0].get("lr", math.nan)))
        if steps.backwards and not steps.is_clear and steps.count:
            steps.stale += 1
        if steps.backwards:
            first = steps.backwards[0]
            same = sum(call is first for call in steps.backwards)
            steps.repeated[id(first), same if same == len(steps.backwards) else 1] += 1
        if norms and not math.isfinite(total):
            self._check_finite(with_gradient, norms)
        if is_looked_at(steps.count):
            gradients = {id(p): norm for p, norm in zip(with_gradient, norms, strict=False)}
            steps.looks.append(_look(steps.count, steps.rates[-1], parameters, gradients))
            steps.before = {i: _sample(p) for i, p in enumerate(parameters) if _is_sampled(p)}
            for place, parameter in enumerate(parameters):
                if steps.count and (alive := _alive(parameter)) is not None:
                    before = steps.alive.get(place)
                    steps.alive[place] = alive if before is None or before.shape != alive.shape else before | alive
                if parameter.grad is None and parameter.requires_grad:
                    steps.missing[place] += 1

    def _check_finite(self, parameters: Sequence[Tensor], norms: Sequence[float]) -> None:
        """Raises the flag unless it is the norm alone that overflowed."""
        doubtful = [p for p, norm in zip(parameters, norms, strict=True) if not math.isfinite(norm)]
        bad = [p for p in doubtful if not bool(torch.isfinite(p.grad).all())]  # type: ignore[arg-type]
        if bad:
            named = tuple(self.names.of(p) for p in bad)
            call = self.last_call()
            value = self.trace[-1] if self.trace else math.nan
            self._raise("gradient", len(self.trace), named, call.source if call else None, value)

    def step_ended(self, optimizer: Optimizer) -> None:
        steps = self.optimizers[id(optimizer)]
        parameters = parameters_of(optimizer)
        if steps.before is not None:
            with torch.no_grad():
                _measure(steps.looks[-1], steps.before, parameters)
            steps.before = None
        first = next((p for p in parameters if p.grad is not None), None)
        steps.witness = None if first is None else (id(first.grad), first.grad._version)  # type: ignore[union-attr]
        steps.is_clear = first is None
        steps.count += 1
        self.taken = max(self.taken, steps.count + steps.skipped)
        steps.skipped_in_a_row = 0
        steps.backwards.clear()
        self.since = sequence_number()()
        if self.noting:
            self._stop_noting()
            self.noting = False
        if steps.count in (1, 2) or is_looked_at(steps.count):
            self._look_at_modes(steps.count)
        if self.most is not None and self.step >= self.most:
            raise _ended()

    def _was_cleared(self, steps: Steps) -> bool:
        """Says whether the gradients that an optimizer has used up are gone: none, other tensors, or zeros."""
        optimizer = steps.own()
        first = next((p for p in parameters_of(optimizer) if p.grad is not None), None) if optimizer else None
        if first is None or first.grad is None:
            return True
        if steps.witness == (id(first.grad), first.grad._version):
            return False
        if steps.witness is not None and steps.witness[0] != id(first.grad):
            return True
        return not bool(first.grad.any())

    def _look_at_modes(self, step: int) -> None:
        modes = {}
        for name, root in self.names.roots.items():
            module = root()
            if module is not None:
                modes[name] = module.training
        self.modes.append((step, modes))

    def cleared(self, optimizer: Optimizer) -> None:
        steps = self.optimizers.get(id(optimizer))
        if steps is not None:
            steps.is_clear = True

    def scaled(self, scaler: Any, optimizer: Optimizer, stepped: bool) -> None:
        steps = self.optimizers.get(id(optimizer))
        if steps is not None and scaler.is_enabled():
            if stepped:
                steps.skipped_in_a_row = 0
            else:
                steps.skipped += 1
                steps.skipped_in_a_row += 1
                if steps.skipped_in_a_row >= SKIPS and self.trace and scaler.get_scale() < 1:
                    steps.most_skipped = steps.skipped_in_a_row
                    self._raise_skipped()
                self.taken = max(self.taken, steps.count + steps.skipped)

    def _raise_skipped(self) -> None:
        """A scaler that skips on and on: its loss, or a gradient, is not finite at any scale."""
        call = self.last_call()
        assert call is not None
        finite = math.isfinite(self.trace[-1])
        self._raise("gradient" if finite else "loss", len(self.trace) - (not finite), (), call.source, self.trace[-1])

    def scaling(self, scaler: Any) -> None:
        self.is_scaling = self.is_scaling or scaler.is_enabled()

    def scheduled(self, scheduler: Any) -> None:
        kind, count, source = self.schedulers.get(id(scheduler), (type(scheduler).__name__, 0, None))
        if count == 1:  # the first step is the scheduler's own, while it is made
            frame = user_frame()
            source = source_at(*frame) if frame else None
        self.schedulers[id(scheduler)] = kind, count + 1, source

    def batch(self, loader: Any, given: Any) -> None:
        pass

    def epoch(self, loader: Any) -> None:
        self.epochs += 1

    def broke(self, fault: Exception) -> None:
        self.end()
        self.broken = f"{type(fault).__name__}: {fault}".partition("\n")[0]


class _Sign:
    """Dies with the graph that it was put into."""


def _ended() -> BaseException:
    from gradexplain.training.launching import Ended

    return Ended()


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Returns what an optimizer changes, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _number(loss: Tensor | None) -> float:
    if loss is None or not loss.is_cpu or not loss.dtype.is_floating_point:
        return math.nan
    return float(loss.item())


def _norms(gradients: list[Tensor]) -> list[float]:
    """Returns the norm of each gradient; of what is sparse, complex or on a device, by itself."""
    if not gradients:
        return []
    try:
        norms = torch._foreach_norm(gradients)
        return [norm.item() for norm in norms] if len(norms) < _FEW else torch.stack(norms).tolist()
    except (RuntimeError, NotImplementedError):
        dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        return [float(torch.linalg.vector_norm(g.float() if not g.is_complex() else g)) for g in dense]


def _is_sampled(parameter: Tensor) -> bool:
    gradient = parameter.grad
    return gradient is not None and gradient.layout == torch.strided and parameter.is_floating_point()


def _sample(tensor: Tensor) -> Tensor:
    """Returns every n-th element, at most a thousand or two."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)].clone()


def _look(step: int, rate: float, parameters: Sequence[Tensor], norms: Mapping[int, float]) -> Look:
    rms = [norms[id(p)] / math.sqrt(max(p.numel(), 1)) if id(p) in norms else None for p in parameters]
    return Look(step, rate, rms)


def _alive(parameter: Tensor) -> Tensor | None:
    """Returns which rows of a matrix (the units that it leads to) have a gradient."""
    gradient = parameter.grad
    if gradient is None or gradient.layout != torch.strided or gradient.dim() < 2 or not gradient.numel():
        return None
    rows = gradient.flatten(1)
    return rows[:, :: max(1, rows.shape[1] // _COLUMNS)].any(1).cpu()


def _measure(look: Look, before: Mapping[int, Tensor], parameters: Sequence[Tensor]) -> None:
    """Adds to a look what the step did to the elements that were sampled before it."""
    if not before:
        return
    places, old = [*before], [*before.values()]
    updates = torch._foreach_sub([_sample(parameters[i]) for i in places], old)
    sizes, distances = _norms(old), _norms([*updates])
    look.ratio = {i: d / size for i, d, size in zip(places, distances, sizes, strict=True) if size}
    driven = torch.cat([_sample(parameters[i].grad).bool() for i in places if parameters[i].grad is not None])  # type: ignore[arg-type]
    changed = torch.cat([update.bool() for update in updates])
    count = int(driven.sum())
    if count and len(driven) == len(changed):
        look.moved = int((changed & driven).sum()) / count
