"""Recording a forward pass: what is dispatched, with which tensors, from which line of which module.

A dispatch mode sees every operator below autograd. Tensors are held, not copied; just before an operator writes into a
storage, what was recorded of it is copied.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn

from gradexplain.computation import is_ours_or_torchs
from gradexplain.internals import internals, sequence_number
from gradexplain.sources import source_at
from gradexplain.traces import Source


@dataclass(slots=True)
class Held:
    """A recorded tensor. It is replaced by a copy just before something writes into its storage."""

    tensor: Tensor
    producer: Any  # the autograd node that made it, None for a leaf or a constant
    number: int
    tracked: bool
    storage: int  # of the tensor as it was recorded


@dataclass(slots=True)
class Event:
    """One dispatched operator."""

    operator: Any
    sequence: int
    recorded: bool  # grad mode was on
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: Any
    frame: tuple[CodeType, int] | Source | None
    module: str


@dataclass
class Recorder:
    locate: Callable[[], Source | None] | None
    events: list[Event] = field(default_factory=list)
    module: list[str] = field(default_factory=lambda: [""])
    held: dict[int, list[Held]] = field(default_factory=dict)

    def recording(self) -> Any:
        """Returns the dispatch mode that writes into this recorder."""
        return _mode_class()(self)

    def hold(self, value: Any) -> Any:
        """Returns `value` with its tensors replaced by records of them."""
        if isinstance(value, Tensor):
            held = Held(value, value.grad_fn, value.output_nr, value.requires_grad, storage_of(value))
            self.held.setdefault(held.storage, []).append(held)
            return held
        if isinstance(value, (list, tuple)):
            return type(value)(self.hold(v) for v in value) if type(value) in (list, tuple) else value
        return value

    def preserve(self, written: Iterator[Tensor]) -> None:
        """Copies what was recorded of the storages that are about to be written into."""
        for tensor in written:
            for held in self.held.pop(storage_of(tensor), ()):
                with torch.no_grad():
                    held.tensor = held.tensor.detach().clone()

    def frame(self) -> tuple[CodeType, int] | Source | None:
        """Returns where the user's code stands now."""
        return self.locate() if self.locate is not None else _user_frame()


def user_source() -> Source | None:
    """Returns the innermost place of the user's code on the stack."""
    frame = _user_frame()
    return source_at(*frame) if frame else None


def _user_frame() -> tuple[CodeType, int] | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _skipped(frame.f_code):
        frame = frame.f_back
    return (frame.f_code, frame.f_lasti) if frame is not None else None


_SKIPPED: dict[CodeType, bool] = {}


def _skipped(code: CodeType) -> bool:
    found = _SKIPPED.get(code)
    if found is None:
        found = _SKIPPED[code] = is_ours_or_torchs(code.co_filename) or code.co_filename.endswith(("/runpy.py",))
    return found


def storage_of(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse and other tensors without a storage
        return id(tensor)


def _mode_class() -> Any:
    """Returns the dispatch mode; its base class is torch's, hence made at first use."""
    global _MODE
    if _MODE is None:
        base: Any = internals().dispatch_mode
        counter = sequence_number()

        class Mode(base):  # type: ignore[misc]  # the base class is not typed
            def __init__(self, recorder: Recorder) -> None:
                super().__init__()
                self.recorder = recorder

            def __torch_dispatch__(
                self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
            ) -> Any:
                recorder, keywords = self.recorder, kwargs or {}
                event = Event(
                    operator,
                    counter() - 1,
                    torch.is_grad_enabled(),
                    (),
                    {},
                    None,
                    recorder.frame(),
                    recorder.module[-1],
                )
                if operator._schema.is_mutable:
                    recorder.preserve(_written(operator, args, keywords))
                event.arguments = tuple(recorder.hold(a) for a in args)
                event.keywords = {k: recorder.hold(v) for k, v in keywords.items()}
                if operator._schema.is_mutable:
                    for held in held_in(event.arguments):
                        held.tensor = _before(held.tensor)
                outputs = operator(*args, **keywords)
                event.outputs = recorder.hold(outputs)
                recorder.events.append(event)
                return outputs

        _MODE = Mode
    return _MODE


_MODE: Any = None


def _before(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.detach().clone()


def _written(operator: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Iterator[Tensor]:
    for position, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else keywords.get(argument.name)
            yield from (v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, Tensor))


def held_in(value: Any) -> Iterator[Held]:
    if isinstance(value, Held):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from held_in(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from held_in(part)


def paths_of(modules: Mapping[str, nn.Module]) -> dict[int, tuple[str, nn.Module]]:
    """Returns, by identity, each module with its path; the root of a function's own module has its variable's name."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for owner, root in modules.items():
        for path, module in root.named_modules():
            found.setdefault(id(module), (".".join(p for p in (owner, path) if p), module))
    return found


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


def source_of(frame: tuple[CodeType, int] | Source | None) -> Source | None:
    return source_at(*frame) if isinstance(frame, tuple) else frame
