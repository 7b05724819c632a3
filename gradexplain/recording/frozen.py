"""The function that torch differentiates: what ran, with everything frozen that torch holds constant.

A gradient is the derivative of this function, G, and not always of F, the one that was written: what was detached, ran
under no_grad, left torch as a number or was copied into a new tensor is a constant to torch. G is a replay of the
recorded operators. An argument is *live* where torch's own graph leads from it to an input; every other one is the
recorded value, whatever it was made of. So nothing has to be known of the ways to stop a gradient, and the user's code
does not run again: no branch is taken anew, nothing is drawn, nothing has to be aligned.

Memory is replayed as memory: a live tensor is a view (size, stride, offset) into the storage that it lay in, so that
views and writes come out as they did. A write that torch does not see (under no_grad, through `.data`) adds the
recorded step to a live storage, which is what torch differentiates. A custom Function is one operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.recording.computation import Computation, swapped
from gradexplain.recording.events import Application, Event, Held, held_in, source_of, tensors_in
from gradexplain.recording.holdings import held_by
from gradexplain.recording.join import Run
from gradexplain.recording.lifetime import SAFE, anchor
from gradexplain.recording.nodes import is_leaf
from gradexplain.recording.recorder import Recorder, same
from gradexplain.targets.sources import Source
from gradexplain.versions.internals import is_dual, sequence_of

# What stands in for an operator's output at a kink: a function of (arguments, outputs) that gives other outputs.
Bent = Callable[[Sequence[Any], list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Step:
    """One recorded operator or custom Function, and whether torch differentiates it.

    An output of a custom Function that carries no gradient is a step of its own, after that of the Function: the
    operator that made it inside, with the number of the Function's step, and which of its outputs it is.
    """

    origin: Event | Application
    live: bool
    drawn: bool = False  # what it gave follows nothing, by torch's own definition of its gradient
    left: tuple[int, int] | None = None

    @property
    def made(self) -> list[Held]:
        """The recorded outputs."""
        return list(held_in([self.origin.outputs]))

    def call(self, positional: Sequence[Any], keywords: Mapping[str, Any]) -> object:
        """Runs the operator on other arguments, from the random state that it had; generators are left as they were."""
        run = self.origin.operator if isinstance(self.origin, Event) else self.origin.function.apply
        states = self.origin.random_states
        if not states:
            return run(*positional, **keywords)
        with torch.random.fork_rng(devices=range(len(states) - 1)):
            torch.set_rng_state(states[0])
            for device, state in enumerate(states[1:]):
                torch.cuda.set_rng_state(state, device)
            return run(*positional, **keywords)


@dataclass(frozen=True)
class Frozen:
    """A recorded run whose live operators can be run again; `bent` replaces what steps give, by their number."""

    steps: tuple[Step, ...]
    inputs: Mapping[str, Held]
    output: Held
    reaches: Callable[[Held], bool]
    events: Sequence[Event]  # all that was dispatched, inside of custom Functions as well
    exits: Sequence[tuple[Source | None, str]] = ()  # where numbers left torch, or a new leaf began, unseen by dispatch
    entangled: bool = False  # a custom Function uses what it gives without a gradient: no share of that is its own
    bent: Mapping[int, Bent] = field(default_factory=dict)
    owners: Mapping[int, int] = field(default_factory=dict)  # the user's parameter that a leaf stands for, by identity

    def replayed(self, values: Mapping[str, Tensor], watch: Callable[..., None] | None = None) -> Tensor:
        """Returns the output at other values of the inputs.

        `watch` is called with the number of each live step, its arguments and its outputs. Raises `RunError` where a
        live tensor lies in memory that no recorded operator wrote.
        """
        memory = self._memory(values)
        with torch.no_grad():
            for number, step in enumerate(self.steps):
                self._advance(number, step, memory, watch)
            return self._value(self.output, memory)

    def stopped(self, values: Mapping[str, Tensor]) -> dict[int, list[Any]]:
        """Returns, for each step that stops a gradient, what it would have given at other values of the inputs.

        That is a step that torch does not differentiate and that was given something live: its results, tensors or
        numbers; for one that wrote into live memory, what it would have changed there.
        """
        found: dict[int, list[Any]] = {}
        given: dict[int, list[Tensor]] = {}  # what custom Functions gave, by the numbers of their steps
        asked = {step.left[0] for step in self.steps if step.left is not None}
        memory = self._memory(values)

        def note(number: int, before: Sequence[Any], outputs: list[Tensor]) -> None:
            given[number] = outputs

        with torch.no_grad():
            for number, step in enumerate(self.steps):
                if step.left is not None:
                    function, place = step.left
                    found[number] = [given[function][place]]
                elif not step.live and isinstance(step.origin, Event):
                    writes = any(w.held.storage in memory for w in step.origin.writes)
                    if writes or self._is_given_live(step.origin, memory):
                        found[number] = self._would_give(step, memory, writes)
                self._advance(number, step, memory, note if number in asked else None)
        return found

    def _memory(self, values: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """Returns, by storage, the memory that the replay starts from: that of the live inputs."""
        live = ((values[name], held) for name, held in self.inputs.items() if self.reaches(held))
        with torch.no_grad():
            return {held.storage: _laid_out(value.clone(), held) for value, held in live}

    def _advance(
        self, number: int, step: Step, memory: dict[int, Tensor], watch: Callable[..., None] | None = None
    ) -> None:
        """Runs a live step; of any other, does to live memory what torch takes it to do."""
        if step.live:
            self._run(number, step, memory, watch)
        elif isinstance(step.origin, Event) and step.left is None:
            _rewrite(step.origin, memory)
            _keep(step, memory)

    def _is_given_live(self, event: Event, memory: Mapping[int, Tensor]) -> bool:
        return any(self.reaches(h) and h.storage in memory for h in held_in([event.arguments, event.keywords]))

    def _would_give(self, step: Step, memory: Mapping[int, Tensor], writes: bool) -> list[Any]:
        assert isinstance(step.origin, Event)

        def value(given: Any) -> Any:
            if isinstance(given, Held):
                inside = given.storage in memory and (self.reaches(given) or writes)
                return (self._value(given, memory) if inside else given.tensor.detach()).clone()
            return type(given)(value(v) for v in given) if type(given) in (list, tuple) else given

        positional = [value(a) for a in step.origin.arguments]
        before = positional[0].clone() if writes and isinstance(positional[0], Tensor) else None
        made = step.call(positional, {k: value(v) for k, v in step.origin.keywords.items()})
        if before is not None:
            return [positional[0] - before]
        return list(made) if isinstance(made, (list, tuple)) else [made]

    def _run(self, number: int, step: Step, memory: dict[int, Tensor], watch: Callable[..., None] | None) -> None:
        origin, made = step.origin, step.made
        for write in origin.writes if isinstance(origin, Event) else ():
            memory.setdefault(write.held.storage, write.storage.clone())
        written = {w.held.storage for w in origin.writes} if isinstance(origin, Event) else set()

        def value(given: Any) -> Any:
            if isinstance(given, Held):
                inside = self.reaches(given) or given.storage in written
                return self._value(given, memory) if inside else given.tensor.detach()
            return type(given)(value(v) for v in given) if type(given) in (list, tuple) else given

        positional = [value(a) for a in origin.arguments]
        keywords = {k: value(v) for k, v in origin.keywords.items()}
        before = [_snapshot(a) for a in positional] if watch or number in self.bent else []
        if isinstance(origin, Application):
            outputs = _applied(step, positional, keywords, self.owners)
        else:
            outputs = list(tensors_in(step.call(positional, keywords)))
        if len(outputs) != len(made):
            raise RunError("replay_misaligned", operator=_name(origin))
        if number in self.bent:
            outputs = self.bent[number](before, outputs)
        if watch is not None:
            watch(number, before, [o.clone() for o in outputs])
        used = {h.storage for h in held_in([origin.arguments, origin.keywords]) if h.storage in memory}
        for held, output in zip(made, outputs, strict=True):
            if tuple(held.tensor.shape) != tuple(output.shape):
                raise RunError("replay_misaligned", operator=_name(origin))
            if held.storage not in used:
                memory[held.storage] = _laid_out(output, held)
            elif number in self.bent:
                self._value(held, memory).copy_(output)

    def _value(self, held: Held, memory: Mapping[int, Tensor]) -> Tensor:
        if held.storage not in memory:
            if not self.reaches(held):
                return held.tensor.detach()
            raise RunError("replay_unseen_memory")
        return _viewed(memory[held.storage], held)


def frozen(run: Run, computation: Computation) -> Frozen:
    """Returns the function that torch differentiates, from a run of a computation that was recorded to be run again."""
    wanted = {name: run.inputs[name] for name in computation.wrt}
    recorder = run.recorder
    reaches = _Reaching({id(t) for t in wanted.values()})
    reaches.resolve(recorder.events)
    held = {name: recorder.hold(tensor) for name, tensor in run.inputs.items()}
    output = recorder.hold(run.output)
    if len(recorder.events) > SAFE and reaches(output):
        anchor(sorted(filter(lambda node: not is_leaf(node), reaches.known), key=lambda node: -sequence_of(node)))
    steps: list[Step] = []
    entangled = False
    for origin in _in_order(recorder.events, recorder.applications):
        steps.append(Step(origin, _is_live(origin, reaches), _is_drawn(origin)))
        if isinstance(origin, Application) and steps[-1].live:
            number = len(steps) - 1
            left = dict(_left(origin, recorder.events[origin.inside.start : origin.inside.stop]))
            steps += [Step(e, live=False, left=(number, place)) for place, e in left.items() if e is not None]
            entangled = entangled or None in left.values()
    owners = {id(run.inputs[name]): id(own) for name, own in computation.parameters.items() if name in run.inputs}
    exits = tuple(_exits(recorder, held, reaches))
    return Frozen(tuple(steps), held, output, reaches, recorder.events, exits, entangled, owners=owners)


def _left(function: Application, inside: Sequence[Event]) -> Iterator[tuple[int, Event | None]]:
    """Yields the outputs of a custom Function that carry no gradient, and the operator inside that made each.

    There is none of what other operators of its forward use as well: it cannot be moved alone.
    """
    for place, held in enumerate(held_in([function.outputs])):
        if held.tracked or not (held.tensor.is_floating_point() or held.tensor.is_complex()):
            continue
        makers = [event for event in inside if any(h.storage == held.storage for h in held_in([event.outputs]))]
        own = {id(event) for event in makers}
        used = (h for event in inside for h in held_in([event.arguments, event.keywords]) if id(event) not in own)
        yield place, None if not makers or any(h.storage == held.storage for h in used) else makers[-1]


def _exits(
    recorder: Recorder, inputs: Mapping[str, Held], reaches: Callable[[Held], bool]
) -> Iterator[tuple[Source | None, str]]:
    """Yields the lines where numbers of a live tensor left torch as a list, or a leaf was made of live memory."""
    for held, frame, name in recorder.exits:
        if reaches(held):
            source = source_of(frame)
            yield source, source.code if source and source.code else name
    own = {held.storage for held in inputs.values()}
    live = {h.storage for e in recorder.events for h in held_in([e.arguments]) if h.producer is not None and reaches(h)}
    for event in recorder.events:
        for held in held_in([event.arguments, event.keywords]):
            if held.tracked and held.producer is None and not reaches(held) and held.storage in live | own:
                source = source_of(event.frame)
                yield source, source.code if source and source.code else str(event.operator)


def as_computation(computation: Computation, function: Frozen) -> Computation:
    """Returns the function that torch differentiates as a computation of the same inputs, without the user's code."""
    return replace(
        computation,
        call=lambda given: function.replayed({**computation.inputs, **given}),
        parameters={},
        modules={},
        locate=lambda: None,
    )


class _Reaching:
    """Says of a recorded tensor whether torch's graph leads from it to one of the wanted leaves."""

    def __init__(self, leaves: set[int]) -> None:
        self.leaves = leaves
        self.known: dict[Any, bool] = {}
        self.resolved: set[int] = set()

    def resolve(self, events: Sequence[Event]) -> None:
        """Notes the memory of copies that torch made of views of conjugates, for operators that know no such view.

        It makes them beneath its own graph, so that they are not tracked, and the operator is given them instead.
        """
        for event in events:
            if event.recorded and str(event.operator) == "aten.clone.default":
                (given, *_), (made, *_) = held_in([event.arguments]), held_in([event.outputs])
                if (given.live.is_conj() or given.live.is_neg()) and not made.tracked and self(given):
                    self.resolved.add(made.storage)

    def __call__(self, held: Held) -> bool:
        if held.storage in self.resolved:
            return True
        if not held.tracked:
            return False
        if held.producer is None:
            return id(held.live) in self.leaves
        return self._from(held.producer)

    def _from(self, node: Any) -> bool:
        """Walks without recursion: a graph is as deep as the function is long."""
        waiting = [node]
        while waiting:
            top = waiting[-1]
            below = [child for child, _ in top.next_functions if child is not None]
            missing = [child for child in below if child not in self.known]
            if top not in self.known and is_leaf(top):
                self.known[top] = id(top.variable) in self.leaves
            elif top not in self.known and not missing:
                self.known[top] = any(self.known[child] for child in below)
            elif top not in self.known:
                waiting += missing
                continue
            waiting.pop()
        return self.known[node]


def _is_live(origin: Event | Application, reaches: Callable[[Held], bool]) -> bool:
    """Says whether torch differentiates an operator: one of its arguments is live, and it made something tracked."""
    if not any(reaches(held) for held in held_in([origin.arguments, origin.keywords])):
        return False
    if isinstance(origin, Application):
        return True
    tracked = any(held.live.requires_grad or reaches(held) for held in held_in([origin.outputs]))
    return origin.recorded and tracked and not _is_drawn(origin)


def _is_drawn(origin: Event | Application) -> bool:
    return isinstance(origin, Event) and str(origin.operator).split(".")[1].rstrip("_") in _DRAWN


# Draws: what they give does not follow what they are given, by torch's own definition of their gradient.
_DRAWN = frozenset({"bernoulli", "binomial", "poisson", "multinomial", "normal"})


def _in_order(events: Sequence[Event], applications: Sequence[Application]) -> Iterator[Event | Application]:
    """Yields what ran in its order, a custom Function in place of what ran inside it."""
    position = 0
    for own in _outermost(applications):
        yield from events[position : own.inside.start]
        yield own
        position = own.inside.stop
    yield from events[position:]


def _outermost(applications: Sequence[Application]) -> Iterator[Application]:
    """Yields the applications that ran inside no other, in the order in which they ran."""
    reached = 0
    for own in sorted(applications, key=lambda a: (a.inside.start, -a.inside.stop)):
        if own.inside.start >= reached:
            yield own
            reached = own.inside.stop


def _applied(
    step: Step, positional: Sequence[Any], keywords: Mapping[str, Any], owners: Mapping[int, int]
) -> list[Tensor]:
    """Runs a custom Function as torch did: with arguments that require grad where they did, unless they are dual."""
    given = list(zip(step.origin.arguments, positional, strict=True))
    modules = [m for value in step.origin.arguments if callable(value) for m in held_by(value)[0].values()]
    # An argument may be a parameter of a module that forward runs: then the module has to have the same.
    moved = {owners.get(id(h.live), id(h.live)): v for h, v in given if isinstance(h, Held)} if modules else {}
    with swapped(modules, moved):
        if any(isinstance(value, Tensor) and is_dual(value) for value in positional):
            return list(tensors_in(step.call(positional, keywords)))
        with torch.enable_grad():
            tracked = [_tracked(value, held) for held, value in given]
            outputs = list(tensors_in(step.call(tracked, keywords)))
    return [output.detach() for output in outputs]


def _tracked(value: Any, held: Any) -> Any:
    if isinstance(held, Held) and held.tracked and (value.is_floating_point() or value.is_complex()):
        return value.detach().requires_grad_()
    return value


def _keep(step: Step, memory: dict[int, Tensor]) -> None:
    """Puts what a draw gave into memory as it was: torch's graph leads through it, with a gradient of 0."""
    for held in step.made if step.drawn else ():
        memory[held.storage] = _laid_out(held.tensor.detach().clone(), held)


def _rewrite(event: Event, memory: Mapping[int, Tensor]) -> None:
    """Adds what a write that torch does not see changed, where it wrote into live memory."""
    for write in event.writes:
        whole = memory.get(write.held.storage)
        if whole is None:
            continue
        before, after = write.held.tensor.detach(), write.after
        view = _viewed(whole, write.held)
        if not (before.is_floating_point() or before.is_complex()):
            view.copy_(after)
        elif not same(before, after):
            moved = view + (after - before)
            view.copy_(torch.where(before == after, view, torch.where(before.isfinite(), moved, after)))


def _viewed(whole: Tensor, held: Held) -> Tensor:
    """Returns what a recorded tensor shows of the memory that it lies in, where a complex number is two real ones."""
    if whole.is_complex() and not held.tensor.is_complex():
        whole = torch.view_as_real(whole)
    elif held.tensor.is_complex() and not whole.is_complex():
        count = whole.untyped_storage().nbytes() // whole.element_size()
        whole = torch.view_as_complex(whole.as_strided((count // 2, 2), (2, 1), 0))
    geometry = tuple(held.tensor.shape), held.stride, held.offset
    if (tuple(whole.shape), whole.stride(), whole.storage_offset()) != geometry:
        whole = whole.as_strided(*geometry)
    return _turned(whole, held)


def _turned(value: Tensor, held: Held) -> Tensor:
    """Returns what lies in memory as the tensor shows it, or the other way round: it may be a view of conjugates."""
    value = value.conj() if held.live.is_conj() else value
    return -value if held.live.is_neg() else value


def _laid_out(value: Tensor, held: Held) -> Tensor:
    """Returns a value in memory of its own, in the layout in which it was recorded."""
    value = _turned(value, held).resolve_conj()
    if (value.stride(), value.storage_offset()) == (held.stride, held.offset):
        return value
    spans = [(n - 1) * s for n, s in zip(held.tensor.shape, held.stride, strict=True)]
    extent = held.offset + 1 + sum(spans) if held.tensor.numel() else held.offset
    whole = value.new_zeros((extent,))
    whole.as_strided(tuple(value.shape), held.stride, held.offset).copy_(value)
    return whole


def _snapshot(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(_snapshot(v) for v in value) if type(value) in (list, tuple) else value


def _name(origin: Event | Application) -> str:
    return str(origin.operator) if isinstance(origin, Event) else str(origin.function.__name__)
