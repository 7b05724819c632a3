"""Progress of long work: whoever does it says how far it is, whoever wants to show it listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

# Called with what is being done (a key of the catalogue), how many parts are done, and how many there are.
Listener = Callable[[str, int, int], None]
Item = TypeVar("Item")
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def followed(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yields the items, and tells the listener after each how many are done."""
    listener = _LISTENER.get()
    for number, item in enumerate(items, 1):
        yield item
        if listener is not None:
            listener(what, number, len(items))


@contextmanager
def followed_by(listener: Listener) -> Iterator[None]:
    """Lets `listener` follow what is done inside the block."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
