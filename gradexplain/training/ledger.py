"""What is kept of a training: a few numbers of every step, and more of a few of them.

Every step: the loss, the norm of the gradient, whether old gradients were cleared. At steps 0, 1, 2, 4, 8, … and at
every 64th: the gradient and the update of each matrix (of a thousand of its elements), and the graph of the loss. What
lies on a device is asked for its numbers at such a step and not before, so that nothing waits for it.
"""

from __future__ import annotations

import gc
import math
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from types import CodeType, FrameType
from typing import Any
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from gradexplain.findings.finding import Finding
from gradexplain.recording.frames import asking_frame, is_installed, script_source
from gradexplain.recording.naming import visible
from gradexplain.targets.sources import Source
from gradexplain.training.data import Loaded
from gradexplain.training.evaluations import Evaluations
from gradexplain.training.freezing import Frozen, frozen_in
from gradexplain.training.keeping import kept_by
from gradexplain.training.looks import (
    MOVING,
    TAKING_PART,
    Look,
    Sample,
    Units,
    is_followed,
    is_looked_at,
    look_at,
    sampled,
)
from gradexplain.training.losses import Lines, LossGraph, Pattern, any_below, born_in, bridge_of, graph_of, lines_of
from gradexplain.training.naming import Names
from gradexplain.training.noting import Noting
from gradexplain.training.readings import Readings, is_waited_for, norms, numbers
from gradexplain.training.workers import SameDraws, same_draws
from gradexplain.versions.internals import sequence_number

_GRAPHS = 64
_GONE = 16  # optimizers that are gone, of which it is still known what they did
_IDLE = 3  # steps in a row without any gradient are no accident
_SETTLED = 2  # from this step on, who changes parameters that have no gradient does so on purpose
# So many graphs of earlier losses, of those that were looked for, are no accident of when one is let go.
KEPT = 4
# So many steps skipped in a row, down to a scale of less than 1, are no start that was too high.
SKIPS = 20
# Seconds after which the lines of what is computed are no longer noted, if no optimizer has stepped until then.
_PATIENCE = 30.0
_INNER = ("torch.", "gradexplain.training.")
_KEY = "gradexplain: of a loss"


@dataclass
class Call:
    """One line that starts backward passes, and what it started them from."""

    source: Source | None
    code: CodeType | None  # held, so that its identity stays its own
    losses: array[float] = field(default_factory=lambda: array("d"))
    steps: array[int] = field(default_factory=lambda: array("q"))
    graphs: list[tuple[int, LossGraph]] = field(default_factory=list)
    lines: Lines = ()


@dataclass
class Steps:
    """One optimizer over its steps."""

    kind: str
    own: ref[Optimizer]
    number: int  # of the optimizers in the order they were made
    after: int  # how many modules had been made before it
    source: Source | None
    count: int = 0
    norms: array[float] = field(default_factory=lambda: array("d"))
    parameters: list[ref[Tensor]] = field(default_factory=list)
    missing: dict[int, int] = field(default_factory=dict)  # of those that never had a gradient, at how many steps
    looks: list[Look] = field(default_factory=list)
    resting: dict[int, Tensor] = field(default_factory=dict)  # a sample of those that have none
    units: dict[int, Units] = field(default_factory=dict)  # of the matrices behind a gate
    sizes: list[float] = field(default_factory=list)  # the norm of each gradient that there was, as last read
    is_moving: bool = False  # a step has been seen that is larger than what rounding takes away
    zeros: int = 0  # looks at which every gradient was exactly 0
    idle: int = 0  # steps in a row before which nothing had a gradient
    replaced: tuple[int, tuple[str, ...]] | None = None  # since which step, and what has the gradients in its place
    stale: int = 0
    backwards: list[Call] = field(default_factory=list)  # since its last step
    repeated: Counter[tuple[int, int]] = field(default_factory=Counter)  # (call, passes before a step): steps
    rates: array[float] = field(default_factory=lambda: array("d"))
    decay: float = 0.0  # of the weights, as last looked at
    skipped: int = 0
    skipped_in_a_row: int = 0
    most_skipped: int = 0
    is_clear: bool = True
    witness: tuple[int, int] | None = None
    samples: list[Sample] | None = None  # of the parameters, while a step is taken that is looked at


@dataclass
class Schedule:
    """A scheduler of rates over its steps."""

    kind: str
    own: ref[Any]
    count: int = 0
    source: Source | None = None


@dataclass(frozen=True)
class Flag:
    """The first number that was not finite: a loss as its backward pass began, or gradients before a step."""

    kind: str
    step: int
    backward: int  # how many backward passes had begun before this one, or before the step
    after: int  # how often an optimizer had stepped one round before
    seconds: float  # since the watch began
    source: Source | None
    parameters: tuple[str, ...] = ()
    value: float = math.nan  # of the loss
    birth: Finding | None = None  # as the graph of the loss tells it


@dataclass(frozen=True)
class Modes:
    """At a step, whether each module at the top was in training mode."""

    step: int
    stage: tuple[int, int]  # how many optimizers there were, and gradients at this step: what learns
    training: Mapping[str, bool]


@dataclass
class Clipping:
    """How often gradients were cut down to a bound, and their norms before in times of it."""

    source: Source | None = None
    bound: float = math.nan
    ratios: array[float] = field(default_factory=lambda: array("d"))


@dataclass
class Ledger:
    """An observer that keeps what criteria need.

    It ends the run at what is not finite (`halt`), or after so many steps (`most`). It looks into the graph of a loss
    that is not finite itself, which counts where no second run can look into the step (`alone`), or none does.
    """

    halt: bool = False
    most: int | None = None
    alone: bool = False
    each_pass: Callable[[], None] | None = None  # is called at the end of every backward pass
    names: Names = field(default_factory=Names)
    calls: dict[tuple[int, int], Call] = field(default_factory=dict)
    last_call: Call | None = None  # the line that started the last backward pass
    optimizers: list[Steps] = field(default_factory=list)
    newest: dict[int, Steps] = field(default_factory=dict)  # by an optimizer's identity, which another may have had
    stepped: int = 0  # steps of all optimizers
    trace: array[float] = field(default_factory=lambda: array("d"))  # every loss, to know the run again
    flag: Flag | None = None
    signs: list[tuple[int, ref[_Sign]]] = field(default_factory=list)
    kept_graphs: list[tuple[int, int]] = field(default_factory=list)  # step, and graphs of steps before still alive
    keeper: Source | None = None  # the line that keeps them
    gated: MutableMapping[Tensor, bool] = field(  # the weights of units that may be switched off
        default_factory=WeakTensorKeyDictionary
    )
    readings: Readings = field(default_factory=Readings)
    leaves: MutableMapping[Tensor, int] = field(  # of losses, and how often they were seen
        default_factory=WeakTensorKeyDictionary
    )
    schedulers: list[Schedule] = field(default_factory=list)
    epochs: int = 0
    loaders: WeakSet[Any] = field(default_factory=WeakSet)  # that were started
    same_draws: SameDraws | None = None
    frozen: list[Frozen] = field(default_factory=list)
    loaded: Loaded = field(default_factory=Loaded)
    made_so_far: Callable[[], int] = field(default_factory=sequence_number)  # autograd nodes
    since: int = 0
    passes: int = 0  # backward passes that have ended
    taken: int = 0  # steps of the optimizer that has stepped most
    looked: int = -1
    started: float = field(default_factory=monotonic)
    noting: Noting = field(default_factory=Noting)
    modes: list[Modes] = field(default_factory=list)
    clipping: Clipping = field(default_factory=Clipping)
    modules: list[ref[nn.Module]] = field(default_factory=list)  # that were made under watch, in order
    held: list[object] = field(default_factory=list)  # what is trained, beyond the function that trains it
    is_scaling: bool = False
    broken: str = ""  # how the watch itself failed, if it did
    bridge: Pattern | None = None  # what hangs on a graph of before, where a backward pass failed by that
    freed: Source | None = None  # the line whose backward pass freed the graph that failed

    def __post_init__(self) -> None:
        self.evaluations = Evaluations(lambda: self.step)

    @property
    def step(self) -> int:
        """The number of the step that goes on; without an optimizer, every backward pass counts as a step."""
        return self.taken if self.optimizers else self.passes

    def begin(self) -> None:
        """Lets torch note the lines of what is computed until the first steps are done."""
        self.noting.begin()

    def end(self) -> None:
        """Leaves torch as it was."""
        self.evaluations.close()
        self.noting.end()

    def _hold(self) -> None:
        """Keeps alive what learns, to be judged when the function that made it has ended; one training at a time."""
        parameters = [p for steps in self.optimizers for kept in steps.parameters if (p := kept()) is not None]
        leaves = [leaf for leaf in self.leaves if isinstance(leaf, nn.Parameter)]
        modules = [module for kept in self.names.roots.values() if (module := kept()) is not None]
        self.held = [*parameters, *leaves, *modules]

    def let_go(self) -> None:
        """Keeps nothing alive any more."""
        self.held = []

    # ------------------------------------------------------------------------------------------------ backward

    def backward_begins(self, roots: Sequence[Tensor]) -> None:
        self.noting.pause()
        call, step = self._call(), self.step
        loss = roots[0] if len(roots) == 1 and roots[0].numel() == 1 and roots[0].is_floating_point() else None
        later = loss is not None and is_waited_for(loss)
        value = math.nan if loss is None or later else loss.item()
        self.trace.append(value)
        call.losses.append(value)
        call.steps.append(step)
        self.last_call = call
        for steps in self.optimizers:
            if steps.own() is None:
                continue
            steps.backwards.append(call)
            if not steps.is_clear:
                steps.is_clear = self._was_cleared(steps)
        if loss is None:
            return
        if is_followed(step) and self._is_new(call, loss, step):
            self._look_at_graph(call, loss, step)
        if later:
            self._read_loss_later(loss, call)
        elif not math.isfinite(value) and not self.is_scaling:
            flag = self._flag("loss", len(self.trace) - 1, call.source)
            self._raise(replace(flag, value=value, birth=self._birth(loss, call)))

    def _is_new(self, call: Call, loss: Tensor, step: int) -> bool:
        """Says whether the graph of a loss may be walked, and none of this line at this step was."""
        last = call.graphs[-1][0] if call.graphs else -1
        return loss.grad_fn is not None and last != step and len(call.graphs) < _GRAPHS

    def _read_loss_later(self, loss: Tensor, call: Call) -> None:
        place, own = len(self.trace) - 1, len(call.losses) - 1
        flag, scaled = self._flag("loss", place, call.source), self.is_scaling

        def read(values: Sequence[float]) -> None:
            self.trace[place] = call.losses[own] = values[0]
            if not math.isfinite(values[0]) and not scaled:
                self._raise(replace(flag, value=values[0]))

        self.readings.keep([loss.detach().reshape(())], read)
        if self.halt or (not self.optimizers and is_looked_at(self.step)):
            self.readings.read()

    def _call(self) -> Call:
        """Returns the line of the script that asked for the backward pass; cheap, as every step asks."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_globals.get("__name__", "").startswith(_INNER):
            frame = frame.f_back
        inner = frame
        while frame is not None and is_installed(frame.f_code.co_filename):
            frame = frame.f_back
        frame = frame or inner
        key = (id(frame.f_code), frame.f_lasti) if frame is not None else (0, 0)
        if key not in self.calls:
            self.calls[key] = Call(script_source(), frame.f_code if frame is not None else None)
        return self.calls[key]

    @torch.set_grad_enabled(False)  # is not noticed as a block of the script under `no_grad`
    def _look_at_graph(self, call: Call, loss: Tensor, step: int) -> None:
        if not call.graphs:
            self._name()
            self.names.see(visible(asking_frame()))
        graph = graph_of(loss, self.since, self.loaded)
        if graph is None:
            return
        if self.noting.is_on and not call.lines:
            call.lines = lines_of(loss)
        call.graphs.append((step, replace(graph, leaves=(), ends=())))
        for leaf in graph.leaves:
            self.leaves[leaf] = self.leaves.get(leaf, 0) + 1
            if id(leaf) in graph.gated:
                self.gated[leaf] = True
        for steps in self.optimizers:
            if steps.idle >= _IDLE and steps.replaced is None:
                steps.replaced = self._in_place_of(steps, graph.leaves)
        self.kept_graphs.append((step, self._count_kept(step)))
        sign = _Sign(step)
        for node in graph.ends:  # whatever part of the graph is kept, it hangs on one of them
            node.metadata.setdefault(_KEY, sign)
        self.signs.append((step, ref(sign)))

    def _count_kept(self, step: int) -> int:
        """Returns of how many graphs of earlier steps something is still there, and looks for what keeps them."""
        alive = _alive(self.signs, step)
        if alive < KEPT:
            return alive
        if self.kept_graphs[-1][1] < KEPT and gc.isenabled():  # what only holds itself is no more kept
            gc.collect()
            alive = _alive(self.signs, step)
        if alive >= KEPT and self.keeper is None:
            passed: set[Any] = set()

            def is_kept(tensor: Tensor) -> bool:
                node = tensor.grad_fn
                return node is not None and any_below(node, lambda n: _is_before(n, step), passed)

            self.keeper = kept_by(asking_frame(), is_kept)
        return alive

    def _in_place_of(self, steps: Steps, leaves: Sequence[Tensor]) -> tuple[int, tuple[str, ...]] | None:
        """Returns the parameters that a loss reaches in place of an optimizer's: no optimizer has them, made later."""
        had = {id(p) for own in self.optimizers for kept in own.parameters if (p := kept()) is not None}
        apart = [leaf for leaf in leaves if isinstance(leaf, nn.Parameter) and id(leaf) not in had]
        self._name()
        later = {id(module) for kept in self.modules[steps.after :] if (module := kept()) is not None}
        found = [self.names.of(leaf) for leaf in apart if id(self.names.module_of(leaf)) in later]
        return (steps.count - steps.idle, tuple(sorted(found))) if found else None

    def backward_ended(self, roots: Sequence[Tensor]) -> None:
        if self.noting.is_on and self.step < 1 and monotonic() - self.started < _PATIENCE:
            self.noting.start()
        if not self.optimizers and self.flag is None:
            self._look_without_optimizer()
        self.passes += 1
        if self.each_pass is not None:
            self.each_pass()

    def backward_failed(self, roots: Sequence[Tensor], fault: Exception) -> None:
        if len(roots) == 1 and roots[0].grad_fn is not None and "second time" in str(fault):
            self.bridge = bridge_of(roots[0], self.since)
            first = self.step if self.optimizers else 0
            passes = [call for call in self.calls.values() for step in call.steps if step >= first]
            others = [call for call in passes if call is not self.last_call] or passes[1:]
            self.freed = others[0].source if all(call is others[0] for call in others[1:]) and others else None

    def round_before(self) -> int:
        """Returns how often an optimizer had stepped one round ago: all that a loss hangs on was made since."""
        living = sum(steps.own() is not None for steps in self.optimizers)
        return max(0, self.stepped - max(living - 1, 0))

    def seconds(self) -> float:
        """Returns how long the run has been watched."""
        return monotonic() - self.started

    def _look_without_optimizer(self) -> None:
        """Of a loop that changes its parameters itself, the gradients are looked at when they are there."""
        seen = [leaf for leaf in self.leaves if leaf.grad is not None]
        if seen:
            self._see_gradients(seen, [leaf.grad for leaf in seen if leaf.grad is not None])

    def _see_gradients(self, given: Sequence[Tensor], gradients: list[Tensor], steps: Steps | None = None) -> None:
        """Notes the norms of the gradients of what is given, now or once they are read; not finite, they are a flag."""
        if gradients[0].requires_grad:
            gradients = [g.detach() for g in gradients]
        sizes, place = norms(gradients), len(steps.norms) - 1 if steps is not None else 0
        if is_waited_for(gradients[0]) or is_waited_for(gradients[-1]):
            self._read_gradients_later(given, [*sizes, *norms(gradients, math.inf)], steps, place)
            return
        read = numbers(sizes)
        total = math.hypot(*read)
        if steps is not None:
            steps.norms[place], steps.sizes = total, read
        if not math.isfinite(total):
            named = [p for p, g, n in zip(given, gradients, read, strict=True) if not _is_finite(g, n)]
            self._raise_gradient(self._flag("gradient", len(self.trace), self._last_source()), named)

    def _read_gradients_later(
        self, given: Sequence[Tensor], sizes: Sequence[Tensor], steps: Steps | None, place: int
    ) -> None:
        owners, flag = [ref(p) for p in given], self._flag("gradient", len(self.trace), self._last_source())

        def read(values: list[float]) -> None:
            own, worst = values[: len(owners)], values[len(owners) :]
            if steps is not None:
                steps.norms[place], steps.sizes = math.hypot(*own), own
            named = [p for o, n in zip(owners, worst, strict=True) if not math.isfinite(n) and (p := o()) is not None]
            self._raise_gradient(flag, named)

        self.readings.keep(sizes, read)
        if self.halt:
            self.readings.read()

    def _last_source(self) -> Source | None:
        return self.last_call.source if self.last_call is not None else None

    def _raise_gradient(self, flag: Flag, parameters: Sequence[Tensor]) -> None:
        """Raises the flag unless it is the norm alone that overflowed."""
        if parameters and self.flag is None:
            value = self.trace[flag.backward - 1] if self.trace else math.nan
            self._raise(replace(flag, parameters=tuple(map(self.names.of, parameters)), value=value))

    @torch.set_grad_enabled(False)  # is not noticed as a block of the script under `no_grad`
    def _birth(self, loss: Tensor, call: Call) -> Finding | None:
        if self.flag is not None or loss.grad_fn is None:
            return None
        self.names.look()
        return born_in(loss, {id(leaf): name for leaf, name in self.names.known.items()}, call.lines)

    def _flag(self, kind: str, backward: int, source: Source | None) -> Flag:
        """Returns what would be raised if what is seen now turned out not to be finite."""
        return Flag(kind, self.step, backward, self.round_before(), self.seconds(), source)

    def _raise(self, flag: Flag) -> None:
        if self.flag is None:
            self.flag = flag
            if self.halt:
                raise _ended()

    def settle(self) -> None:
        """Reads what is still to be read, so that all is known that was seen."""
        try:
            self.readings.read()
        except Exception as fault:
            self.broke(fault)

    # --------------------------------------------------------------------------------------------------- steps

    def made(self, optimizer: Optimizer) -> None:
        if self._steps_of(optimizer) is not None:
            return
        self.let_go()
        self._name()
        self.names.see(visible(asking_frame()))
        source = script_source()
        number = self.optimizers[-1].number + 1 if self.optimizers else 0
        steps = Steps(type(optimizer).__name__, ref(optimizer), number, len(self.modules), source)
        self.newest[id(optimizer)] = steps
        self.optimizers.append(steps)
        gone = [known for known in self.optimizers if known.own() is None]
        if len(gone) > _GONE:
            self.optimizers.remove(min(gone, key=lambda known: known.count))

    def _steps_of(self, optimizer: Optimizer) -> Steps | None:
        steps = self.newest.get(id(optimizer))
        return steps if steps is not None and steps.own() is optimizer else None

    def module_made(self, module: nn.Module) -> None:
        last = self.modules[-1]() if self.held else None
        if last is not None and any(p is not None for p in vars(last).get("_parameters", {}).values()):
            self.let_go()  # another model is being made, and the room may be needed
        self.modules.append(ref(module))

    def _name(self) -> None:
        """Finds the names in the modules that were made under watch, which is cheap."""
        self.names.look(
            [module for kept in self.modules if (module := kept()) is not None and "_modules" in vars(module)]
        )

    def step_begins(self, optimizer: Optimizer) -> None:
        if self._steps_of(optimizer) is None:
            self.made(optimizer)
        steps, parameters = self.newest[id(optimizer)], parameters_of(optimizer)
        if len(steps.parameters) != len(parameters):
            steps.missing |= dict.fromkeys(range(len(steps.parameters), len(parameters)), 0)
            steps.parameters = [ref(p) for p in parameters]
        if steps.missing:
            without = {i: n for i, n in steps.missing.items() if i < len(parameters) and parameters[i].grad is None}
            steps.missing = {i: n + parameters[i].requires_grad for i, n in without.items()}
        looked = is_looked_at(steps.count)
        rate = optimizer.param_groups[0].get("lr", math.nan)
        known = looked or not isinstance(rate, Tensor) or not is_waited_for(rate)
        steps.rates.append(float(rate) if known else steps.rates[-1])
        if steps.backwards:
            if not steps.is_clear and steps.count:
                steps.stale += 1
            first, passes = steps.backwards[0], len(steps.backwards)
            alone = passes == 1 or all(call is first for call in steps.backwards)
            steps.repeated[id(first), passes if alone else 1] += 1
        steps.norms.append(math.nan)
        given = [p for p in parameters if p.grad is not None]
        steps.idle = 0 if given else steps.idle + 1
        if given:
            self._see_gradients(given, [p.grad for p in given], steps)  # type: ignore[misc]
        if looked:
            self._hold()
            self.readings.read()
            self._look(steps, parameters, given)

    @torch.set_grad_enabled(False)  # is not noticed as a block of the script under `no_grad`
    def _look(self, steps: Steps, parameters: Sequence[Tensor], given: Sequence[Tensor]) -> None:
        own = steps.own()
        steps.decay = float(own.param_groups[0].get("weight_decay") or 0) if own is not None else 0.0
        sizes = {id(p): size for p, size in zip(given, steps.sizes, strict=False)}
        steps.looks.append(look_at(steps.count, steps.rates[-1], parameters, sizes))
        steps.samples = Sample.of(parameters, driven=not steps.is_moving)
        if given and not any(steps.sizes) and not any(numbers(norms([p.grad for p in given], math.inf))):  # type: ignore[misc]
            steps.zeros += 1
        if not steps.count:
            return
        if steps.count == _SETTLED:
            models = [module for kept in self.names.roots.values() if (module := kept()) is not None]
            self.frozen += frozen_in(models, self.evaluations)
            steps.resting = {i: sampled(parameters[i]).clone() for i in steps.missing if parameters[i].requires_grad}
        for place, parameter in enumerate(parameters):
            if parameter in self.gated and (gradient := _matrix_of(parameter.grad)) is not None:
                units = steps.units.setdefault(place, Units(torch.zeros(len(gradient), dtype=torch.bool)))
                if units.share < TAKING_PART:
                    units.look(gradient)

    def step_ended(self, optimizer: Optimizer) -> None:
        if self._steps_of(optimizer) is None:  # unseen where a closure was given and not called
            self.made(optimizer)
        steps = self.newest[id(optimizer)]
        if steps.samples is not None:
            self._measure(steps, parameters_of(optimizer))
        gradient = _first_gradient(optimizer)
        steps.witness = None if gradient is None else (id(gradient), gradient._version)
        steps.is_clear = gradient is None
        steps.count += 1
        self.stepped += 1
        self.taken = max(self.taken, steps.count + steps.skipped)
        steps.skipped_in_a_row = 0
        steps.backwards.clear()
        self.since = self.made_so_far()
        if self.noting.is_on:
            self.end()
        if steps.count in (1, 2) or is_looked_at(steps.count):
            self._look_at_modes(steps)
        if self.most is not None and self.step >= self.most:
            raise _ended()

    @torch.set_grad_enabled(False)  # is not noticed as a block of the script under `no_grad`
    def _measure(self, steps: Steps, parameters: Sequence[Tensor]) -> None:
        """Adds to the last look what the step did."""
        counts = [sample.measure(steps.looks[-1], parameters) for sample in steps.samples or ()]
        driven, moved = sum(d for d, _ in counts), sum(m for _, m in counts)
        if driven:
            steps.looks[-1].moved = moved / driven
            steps.is_moving = moved >= MOVING * driven
        steps.samples = None

    def _was_cleared(self, steps: Steps) -> bool:
        """Says whether the gradients that an optimizer has used up are gone: none, other tensors, or zeros."""
        optimizer = steps.own()
        gradient = _first_gradient(optimizer) if optimizer is not None else None
        if gradient is None:
            return True
        if steps.witness == (id(gradient), gradient._version):
            return False
        if steps.witness is not None and steps.witness[0] != id(gradient):
            return True
        if not is_waited_for(gradient):
            return not bool(gradient.any())

        def read(values: Sequence[float]) -> None:
            steps.stale += bool(values[0])

        self.readings.keep([gradient.any()], read)
        return True

    def _look_at_modes(self, steps: Steps) -> None:
        modules = {name: module for name, kept in self.names.roots.items() if (module := kept()) is not None}
        training = {name: module.training for name, module in modules.items()}
        self.modes.append(Modes(steps.count, (len(self.optimizers), len(steps.sizes)), training))

    def clipped(self, bound: float, norm: Tensor) -> None:
        clipping, place = self.clipping, len(self.clipping.ratios)
        if clipping.source is None:
            clipping.source = script_source()
        clipping.bound = bound
        clipping.ratios.append(math.nan)

        def read(values: Sequence[float]) -> None:
            clipping.ratios[place] = values[0] / bound

        if is_waited_for(norm):
            self.readings.keep([norm], read)
        else:
            read([norm.item()])

    def switched(self, module: nn.Module, training: bool) -> None:
        if any(kept() is module for kept in self.names.roots.values()):
            self.evaluations.switch(module, training)

    def cleared(self, optimizer: Optimizer) -> None:
        steps = self._steps_of(optimizer)
        if steps is not None:
            steps.is_clear = True

    def scaled(self, scaler: Any, optimizer: Optimizer, stepped: bool) -> None:
        steps = self._steps_of(optimizer)
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
        call = self.last_call
        assert call is not None
        self.readings.read()
        finite = math.isfinite(self.trace[-1])
        flag = self._flag("gradient" if finite else "loss", len(self.trace) - (not finite), call.source)
        self._raise(replace(flag, value=self.trace[-1]))

    def scaling(self, scaler: Any) -> None:
        self.is_scaling = self.is_scaling or scaler.is_enabled()

    def scheduled(self, scheduler: Any) -> None:
        schedule = next((known for known in reversed(self.schedulers) if known.own() is scheduler), None)
        if schedule is None:
            schedule = Schedule(type(scheduler).__name__, ref(scheduler))
            self.schedulers.append(schedule)
        if schedule.count == 1:  # the first step is the scheduler's own, while it is made
            schedule.source = script_source()
        schedule.count += 1

    def batch(self, iterator: Any, given: Any) -> None:
        if self.noting.is_on and not self.step:
            self.noting.start()  # a trainer may have turned it off
        if is_followed(self.step):
            self.loaded = Loaded.of(iterator, given)

    def epoch(self, loader: Any) -> None:
        self.epochs += 1
        if self.same_draws is None and loader not in self.loaders:
            self.loaders.add(loader)
            self.same_draws = same_draws(loader)

    def gradients_off(self, frame: FrameType) -> None:
        self.evaluations.begin(frame)

    def gradients_on(self) -> None:
        self.evaluations.end()

    def broke(self, fault: Exception) -> None:
        self.end()
        self.broken = f"{type(fault).__name__}: {fault}".partition("\n")[0]


class _Sign:
    """Dies with the last node of a graph that it was put into."""

    def __init__(self, step: int):
        self.step = step


def _alive(signs: Sequence[tuple[int, ref[_Sign]]], step: int) -> int:
    return sum(sign() is not None for made, sign in signs if made < step - 1)


def _is_before(node: Any, step: int) -> bool:
    sign = node.metadata.get(_KEY)
    return sign is not None and sign.step < step - 1


def _ended() -> BaseException:
    from gradexplain.training.launching import Ended

    return Ended()


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Returns what an optimizer changes, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _first_gradient(optimizer: Optimizer) -> Tensor | None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                gradient: Tensor = parameter.grad
                return gradient
    return None


def _is_finite(gradient: Tensor, norm: float) -> bool:
    return math.isfinite(norm) or bool(torch.isfinite(gradient).all())


def _matrix_of(gradient: Tensor | None) -> Tensor | None:
    """Returns a gradient that has rows, `None` of another."""
    rows = gradient is not None and gradient.layout == torch.strided and gradient.dim() >= 2 and gradient.numel()
    return gradient if rows else None
