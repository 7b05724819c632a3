"""What is recorded of a forward pass: the operators and custom Functions that ran, with the tensors that they met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from torch import Tensor

from gradexplain.targets.sources import Source, source_at
from gradexplain.versions.internals import schema_of


@dataclass(slots=True)
class Held:
    """A recorded tensor. It is replaced by a copy just before something writes into its storage."""

    tensor: Tensor
    producer: Any  # the autograd node that made it, None for a leaf or a constant
    number: int
    tracked: bool
    storage: int  # of the tensor as it was recorded
    live: Tensor  # the tensor itself, whatever was written into it since
    used_up: bool = False  # changed by the operator that it was an argument of
    stride: tuple[int, ...] = ()  # where it lay in its storage, of what is copied
    offset: int = 0


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
    random_states: tuple[Tensor, ...] = ()  # before an operator that may draw
    drew: bool = False  # a generator moved
    backward: bool = False  # it ran in a backward pass
    rewritten: Rewritten | None = None
    writes: tuple[Write, ...] = ()
    packed: bool = False  # what it saves goes through hooks


@dataclass(slots=True)
class Rewritten:
    """The tensor behind the view that an operator writes into, before and after, and where the view lies in it."""

    before: Held
    after: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(slots=True)
class Write:
    """What an operator wrote: the argument that it wrote into, its numbers before and after, and its storage before."""

    held: Held
    storage: Tensor  # all numbers of the storage, before
    after: Tensor


@dataclass(slots=True)
class Application:
    """One call of a custom Function's `apply`, as far as it made a node."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: Any
    node: Any
    kept: Mapping[str, Held]  # what forward left on its context: saved tensors and attributes
    dirty: frozenset[int]  # positions of the arguments that forward wrote into
    silent: frozenset[int]  # those of them that it did not mark
    frame: tuple[CodeType, int] | Source | None
    module: str
    inside: range  # which of the recorded events ran inside it
    random_states: tuple[Tensor, ...]


def written_by(event: Event) -> Iterator[Held]:
    """Yields the recorded tensors that an operator wrote into."""
    if schema_of(event.operator).is_mutable:
        for position, argument in enumerate(schema_of(event.operator).arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = event.arguments[position:][:1] or [event.keywords.get(argument.name)]
                yield from held_in(list(given))


def held_in(value: Any) -> Iterator[Held]:
    if isinstance(value, Held):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from held_in(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from held_in(part)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in a value of nested lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)


def source_of(frame: tuple[CodeType, int] | Source | None) -> Source | None:
    return source_at(*frame) if isinstance(frame, tuple) else frame
