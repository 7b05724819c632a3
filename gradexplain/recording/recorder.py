"""Recording a forward pass: what is dispatched, with which tensors, from which line of which module.

A dispatch mode sees every operator below autograd. Tensors are held, not copied; just before an operator writes into a
storage, what was recorded of it is copied. A recorder that is `copying` copies at once: it also keeps what is changed
out of torch's sight (through a numpy array), and what is needed to run each operator again.

Custom Functions run above the dispatch: their `apply` is noted where `Function.apply` hands over to torch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, update_wrapper, wraps
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from gradexplain.recording.computation import _random_states as random_states
from gradexplain.recording.computation import differentiable
from gradexplain.recording.containers import refuse_nested
from gradexplain.recording.events import Application, Event, Held, Rewritten, Write, held_in, source_of, tensors_in
from gradexplain.recording.frames import user_frame
from gradexplain.recording.lifetime import SAFE, anchor
from gradexplain.recording.nodes import is_repeatable
from gradexplain.targets.sources import Source
from gradexplain.versions.internals import (
    function_of,
    has_edges,
    internals,
    is_reentrant_checkpoint,
    node_class,
    results_of,
    schema_of,
    sequence_number,
    sequence_of,
    storage_of,
    version_of,
    viewed,
)


@dataclass
class Recorder:
    locate: Callable[[], Source | None] | None
    copying: bool = False
    leaving: bool = False  # notes as well where numbers leave torch unseen by dispatch, as one that copies does
    events: list[Event] = field(default_factory=list)
    applications: list[Application] = field(default_factory=list)
    module: list[str] = field(default_factory=lambda: [""])
    calls: list[Call] = field(default_factory=list)
    inlined: list[Source | None] = field(default_factory=list)
    held: dict[int, list[Held]] = field(default_factory=dict)
    copies: dict[int, Tensor] = field(default_factory=dict)
    numbered: dict[int, Event] = field(default_factory=dict)  # the first that was recorded under each number
    exits: list[tuple[Held, tuple[CodeType, int] | Source | None, str]] = field(default_factory=list)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Writes every operator that is dispatched in the block into this recorder."""
        count = sequence_number()
        before = count()

        def run(operator: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
            number = count() - 1
            # the last number before this recording is that of a node of the user's
            return self.run(operator, args, keywords, number if number >= before else -1)

        try:
            with internals().dispatch_mode(run), _exits()(self) if self.copying or self.leaving else nullcontext():
                yield
        finally:
            if len(self.events) > SAFE:
                seen = {h.producer for e in self.events for h in held_in([e.arguments, e.keywords]) if h.producer}
                anchor(sorted(seen, key=lambda node: -sequence_of(node)))

    def run(self, operator: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], number: int) -> Any:
        """Runs an operator that is dispatched under the number of an autograd node, records it, returns its outputs."""
        self.settle()
        event = Event(operator, number, torch.is_grad_enabled(), (), {}, None, self.frame(), self.module[-1])
        if (node := internals().current_node()) is not None:
            event.backward, event.frame = True, event.frame or self.behind(node)
        if schema_of(operator).is_mutable:
            self.preserve(_written(operator, args, keywords))
        event.arguments = tuple(self.hold(a) for a in args)
        event.keywords = {k: self.hold(v) for k, v in keywords.items()}
        if schema_of(operator).is_mutable and not self.copying:
            for held in held_in(event.arguments):
                held.tensor = copy_of(held.tensor)
        if self.copying:
            _complete(event, operator, args, keywords, self)
        random = torch.Tag.nondeterministic_seeded in operator.tags
        before = _generators(keywords) if random else ()
        outputs = operator(*args, **keywords)
        event.drew = random and not all(map(torch.equal, before, _generators(keywords)))
        if self.copying:
            _look_again(event, self)
        event.outputs = self.hold(outputs)
        self.events.append(event)
        if event.recorded:
            self.numbered.setdefault(number, event)
        return outputs

    def settle(self) -> None:
        """Notes the custom Functions whose node torch has finished since."""
        for call in [call for call in self.calls if _is_finished(call)] if self.calls else ():
            self.calls.remove(call)
            if has_edges(call.node):
                with internals().without_modes():
                    self.applications.append(_application(call, self))

    def hold(self, value: Any) -> Any:
        """Returns `value` with its tensors replaced by records of them."""
        if isinstance(value, Tensor):
            refuse_nested(value)
            kept = self.copied(value) if self.copying else materialised(value)
            held = Held(kept, value.grad_fn, value.output_nr, value.requires_grad, storage_of(value), value)
            if not self.copying:
                self.held.setdefault(held.storage, []).append(held)
            elif value.layout == torch.strided:
                held.stride, held.offset = value.stride(), int(value.storage_offset())
            return held
        if isinstance(value, (list, tuple)):
            return type(value)(self.hold(v) for v in value) if type(value) in (list, tuple) else value
        return value

    def copied(self, value: Tensor) -> Tensor:
        """Returns a copy of `value` as it is now: one for all uses between which it did not change."""
        last = self.copies.get(id(value))
        if last is None or not (is_freed(value) or same(last, value)):
            last = self.copies[id(value)] = copy_of(value)
        return last

    def preserve(self, written: Iterator[Tensor]) -> None:
        """Copies what was recorded of the storages that are about to be written into."""
        for tensor in written:
            for held in self.held.pop(storage_of(tensor), ()):
                held.tensor = copy_of(held.tensor)

    def behind(self, node: Any) -> Source | None:
        """Returns the place of the operator or custom Function whose node runs backward."""
        own = next((a for a in self.applications if a.node == node), None)
        user = own or self.numbered.get(sequence_of(node))
        source = source_of(user.frame) if user is not None else None
        if source is None:
            return None
        return replace(source, code="", target=None, behind=source.behind or source.code)

    def frame(self) -> tuple[CodeType, int] | Source | None:
        """Returns where the user's code stands now."""
        return self.locate() if self.locate is not None else user_frame()


def _generators(keywords: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Returns where an operator's generator stands: its own, or torch's."""
    own = keywords.get("generator")
    return (own.get_state(),) if isinstance(own, torch.Generator) else random_states()


# Functions that take the numbers of tensors out of torch without an operator that would be dispatched.
_LEAVING = ("tolist", "numpy", "__array__", "tensor", "as_tensor", "asarray")


@cache
def _exits() -> Any:
    """Returns the class of modes that note where numbers leave torch unseen by dispatch."""
    from torch.overrides import TorchFunctionMode

    class Exits(TorchFunctionMode):
        def __init__(self, recorder: Recorder) -> None:
            super().__init__()
            self.recorder = recorder

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(function, "__name__", "")
            if name in _LEAVING:
                for tensor in tensors_in(args):
                    with internals().without_modes():
                        self.recorder.exits.append((self.recorder.hold(tensor), self.recorder.frame(), name))
            return function(*args, **(kwargs or {}))

    return Exits


def copy_of(tensor: Tensor) -> Tensor:
    """Returns the numbers of a tensor in a storage of their own."""
    with torch.no_grad():
        return materialised(tensor).detach().clone()


def storage_copy(tensor: Tensor) -> Tensor:
    """Returns all numbers of the storage that a plain tensor lies in, as a vector of the tensor's type."""
    if tensor.layout != torch.strided or tensor.is_meta or internals().is_zero_tensor(tensor):
        return copy_of(tensor)
    with torch.no_grad():
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor.detach().as_strided((size,), (1,), 0).clone()


def materialised(tensor: Tensor) -> Tensor:
    """Returns a tensor that can be read: to read one that has a shape and no storage would end the interpreter.

    Torch's zero tensor is zeros; of one whose memory was freed (by `resize_` of its storage) nothing is known: nan.
    """
    if internals().is_zero_tensor(tensor):
        return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    if is_freed(tensor):
        return torch.full(tensor.shape, math.nan, device=tensor.device).to(tensor.dtype)
    return tensor


def is_freed(tensor: Tensor) -> bool:
    """Says whether the memory of a tensor was freed under it, as reversible networks do with what they recompute."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel() or internals().is_zero_tensor(tensor):
        return False
    try:
        return tensor.untyped_storage().nbytes() == 0
    except NotImplementedError:  # a tensor of torch.func's transforms has no memory of its own
        return False


def same(one: Tensor, other: Tensor) -> bool:
    """Says whether two plain tensors hold the same numbers in the same type; nan is the same as nan."""
    if one.layout != torch.strided or (one.shape, one.dtype, one.layout) != (other.shape, other.dtype, other.layout):
        return False
    if one.is_meta or other.is_meta:  # shapes without numbers, as torch asks for in its forward mode
        return one.is_meta and other.is_meta
    with torch.no_grad():
        one, other = materialised(one).detach(), materialised(other).detach()
        return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _complete(event: Event, operator: Any, args: Any, keywords: Mapping[str, Any], recorder: Recorder) -> None:
    """Adds what running the operator again needs besides its arguments."""
    event.packed = is_packed()
    if torch.Tag.nondeterministic_seeded in operator.tags:
        event.random_states = random_states()
    for written in _written(operator, args, keywords):
        event.writes += (Write(recorder.hold(written), storage_copy(written), written),)
        if event.recorded and (base := viewed(written)) is not None:
            before = recorder.hold(base)
            offset = int(written.storage_offset())
            event.rewritten = Rewritten(before, before.tensor, tuple(written.shape), written.stride(), offset)


def _look_again(event: Event, recorder: Recorder) -> None:
    """Notes what an operator did to its arguments: to running averages without saying so in its schema, for one."""
    if event.rewritten is not None:
        event.rewritten.after = recorder.copied(event.rewritten.before.live)
    for write in event.writes:
        write.after = recorder.copied(write.held.live)
    for held in held_in([event.arguments, event.keywords]):
        held.used_up = not held.tracked and not same(held.tensor, held.live)


def _written(operator: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Iterator[Tensor]:
    for position, argument in enumerate(schema_of(operator).arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else keywords.get(argument.name)
            yield from (v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, Tensor))


def tensors_of(recorder: Recorder) -> list[Tensor]:
    """Returns the tensors that the recorded operators and Functions took and gave back, each once."""
    users: list[Event | Application] = [*recorder.events, *recorder.applications]
    return list({id(h.live): h.live for u in users for h in held_in([u.arguments, u.keywords, u.outputs])}.values())


def paths_of(modules: Mapping[str, nn.Module]) -> dict[int, tuple[str, nn.Module]]:
    """Returns, by identity, each module with its path; the root of a function's own module has its variable's name."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for owner, root in modules.items():
        for path, module in nn.Module.named_modules(root):
            found.setdefault(id(module), (".".join(p for p in (owner, path) if p), module))
    return found


@dataclass(slots=True)
class Call:
    """A custom Function's forward that has run, whose node torch may not have finished yet."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    given: tuple[Any, ...]
    versions: tuple[int, ...]
    frame: tuple[CodeType, int] | Source | None
    module: str
    start: int
    random_states: tuple[Tensor, ...]
    node: Any = None
    outputs: Any = None
    constants: Any = ()  # the outputs that it says carry no gradient
    marked: Any = ()  # the arguments that it says it wrote into


@contextmanager
def watching_functions(recorder: Recorder) -> Iterator[None]:
    """Notes every call of a custom Function's `apply` on this thread, also of one that was bound before.

    However `apply` was reached, torch asks the class for its `forward` (and `setup_context`): that is where we look.
    """
    kind: Any = type(torch.autograd.Function)
    own, found = kind.__dict__.get("__getattribute__"), kind.__getattribute__
    thread, watchers = threading.get_ident(), {"forward": _forward, "setup_context": _setup, "apply": _apply}

    def look_up(cls: Any, name: str) -> Any:
        attribute = found(cls, name)
        if name not in watchers or threading.get_ident() != thread or internals().transforms_active():
            return attribute
        return attribute if _is_torchs(attribute) and name != "apply" else watchers[name](recorder, cls, attribute)

    kind.__getattribute__ = look_up
    try:
        yield
    finally:
        if own is not None:
            kind.__getattribute__ = own
        else:
            del kind.__getattribute__
        recorder.settle()


def _is_torchs(function: Any) -> bool:
    """Says whether this is what every Function inherits: torch compares it by identity."""
    base = internals().single_level_function.__dict__
    return any(function is base[name].__func__ for name in ("forward", "setup_context"))


def _apply(recorder: Recorder, function: Any, apply: Any) -> Any:
    def applied(*args: Any, **keywords: Any) -> Any:
        if is_reentrant_checkpoint(function) and any(t.requires_grad for t in args if isinstance(t, Tensor)):
            # Its steps run in its backward pass, in a graph of their own: in line they are seen, and do the same.
            recorder.inlined.append(source_of(recorder.frame()))
            run, _, *given = args
            return run(*given)
        outputs = apply(*args, **keywords)
        recorder.settle()
        return outputs

    return applied


class _Watched:
    """A forward that does something more: torch binds names by the code of the forward that was written."""

    def __init__(self, forward: Any, run: Callable[..., Any]) -> None:
        update_wrapper(self, forward)
        self.run = run
        if hasattr(forward, "__code__"):
            self.__code__ = forward.__code__

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.run(*args, **keywords)


def _forward(recorder: Recorder, function: Any, forward: Any) -> Any:
    def run(*args: Any, **keywords: Any) -> Any:
        node = args[0] if args and type(args[0]) is node_class(function) else None
        given = args if node is None else args[1:]
        recorder.settle()
        with internals().without_modes():
            states = random_states() if recorder.copying else ()
            held = tuple(recorder.hold(a) for a in given), {k: recorder.hold(v) for k, v in keywords.items()}
            recorder.preserve(tensors_in([*given, *keywords.values()]))  # a Function may free what it is given
        versions, start = tuple(map(_version, given)), len(recorder.events)
        call = Call(function, *held, given, versions, recorder.frame(), recorder.module[-1], start, states, node)
        call.outputs = forward(*args, **keywords)
        if node is not None:
            call.constants, call.marked = node.non_differentiable or (), node.dirty_tensors or ()
        recorder.calls.append(call)
        return call.outputs

    return _Watched(forward, run)


def _setup(recorder: Recorder, function: Any, setup_context: Any) -> Any:
    @wraps(setup_context)
    def run(context: Any, *args: Any, **keywords: Any) -> None:
        setup_context(context, *args, **keywords)
        if recorder.calls and recorder.calls[-1].function is function:
            call = recorder.calls[-1]
            call.node, call.constants, call.marked = (
                context,
                context.non_differentiable or (),
                context.dirty_tensors or (),
            )

    return run


def _is_finished(call: Call) -> bool:
    """Says whether torch has made a forward's outputs those of its node; a node without edges never gets any."""
    if call.node is None:  # `setup_context` has not run yet
        return False
    count = len(call.outputs) if isinstance(call.outputs, tuple) else 1
    return not has_edges(call.node) or len(results_of(call.node)) == count


def _application(call: Call, recorder: Recorder) -> Application:
    """Returns the record of a call whose node is finished."""
    dirty = frozenset(i for i, a in enumerate(call.given) if _version(a) != call.versions[i])
    silent = frozenset(i for i in dirty if not any(call.given[i] is marked for marked in call.marked))
    kept = {k: recorder.hold(t) for k, t in kept_on(call.node).items()} if recorder.copying else {}
    several = call.outputs if isinstance(call.outputs, tuple) else (call.outputs,)
    outputs = tuple(_made(output, call, number, recorder) for number, output in enumerate(several))
    return Application(
        call.function,
        call.arguments,
        call.keywords,
        outputs if isinstance(call.outputs, tuple) else outputs[0],
        call.node,
        kept,
        dirty,
        silent,
        call.frame,
        call.module,
        range(call.start, len(recorder.events)),
        call.random_states,
    )


def _made(output: Any, call: Call, number: int, recorder: Recorder) -> Any:
    """Returns the record of an output; of an argument that is given back as it is, torch makes a view with the node."""
    held = recorder.hold(output)
    recorder.preserve(tensors_in([output]))  # its backward may free what it gave
    constant = not differentiable(output) or any(output is tensor for tensor in call.constants)
    if isinstance(held, Held) and held.producer != call.node and not constant:
        held.producer, held.number, held.tracked = call.node, number, True
    return held


def _version(value: Any) -> int:
    return version_of(value) if isinstance(value, Tensor) else 0


def kept_on(context: Any) -> dict[str, Tensor]:
    """Returns the tensors that a custom Function keeps for its backward: saved ones by position, attributes by name.

    Nothing that can be looked at only once, or that is computed again at every look (by a checkpoint).
    """
    attributes = {f"ctx.{name}": value for name, value in vars(context).items() if isinstance(value, Tensor)}
    if not is_repeatable(function_of(context)) or is_packed():
        return attributes
    saved = {f"saved_tensors[{i}]": t for i, t in enumerate(context.saved_tensors) if t is not None}
    return saved | attributes


def is_packed() -> bool:
    """Says whether hooks of the user's now decide what is saved for the backward pass (as in a checkpoint)."""
    return internals().saved_tensors_hooks(False) is not None


@contextmanager
def watching_modules(modules: Mapping[str, nn.Module], recorder: Recorder) -> Iterator[None]:
    """Keeps `recorder.module` at the path of the module that is running."""
    if not modules:
        yield
        return
    paths = {identity: path for identity, (path, _) in paths_of(modules).items()}
    stack = recorder.module

    def enter(module: nn.Module, args: object) -> None:
        stack.append(paths.get(id(module), stack[-1]))

    def leave(module: nn.Module, args: object, result: object) -> None:
        stack.pop()

    before = internals().before_forward(enter)
    after = internals().after_forward(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
