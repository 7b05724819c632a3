"""How a sentence spells the options that it names: as its reader gives them, in Python or on the command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SPELLING: ContextVar[Callable[[str], str]] = ContextVar("spelling", default=str)


class Option:
    """What a template names as `{option:order=2}`: `order=2` in Python, `--order 2` for who typed a command."""

    def __format__(self, given: str) -> str:
        return _SPELLING.get()(given)


def as_typed(given: str) -> str:
    """Returns an option that is given as in Python, such as `max_nodes=3`, as the command line takes it."""
    name, _, value = given.partition("=")
    words = ("--" + name.replace("_", "-"), value.strip("'()").replace(", ", ","))
    return " ".join(word for word in words if word not in ("", "True"))


@contextmanager
def options_spelled(spelling: Callable[[str], str]) -> Iterator[None]:
    """Lets sentences spell options in another way: `as_typed`, or as Python has them with `str`."""
    token = _SPELLING.set(spelling)
    try:
        yield
    finally:
        _SPELLING.reset(token)
