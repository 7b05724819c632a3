"""The arguments of a command, read and checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gradexplain.cli.checks import UsageError

if TYPE_CHECKING:
    from gradexplain.targets.request import Request


def read_request(
    target: str, inputs: Sequence[str] | None, by_hand: Sequence[str] | None = None, **asked: Any
) -> Request:
    """Returns what was typed; `asked` are the other fields of a `Request`."""
    from gradexplain.targets.request import Request
    from gradexplain.targets.values import parse_assignments

    formulas: dict[str, str] = {}
    for text in by_hand or ():
        name, equals, formula = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise UsageError("bad_by_hand", text=text)
        if name in formulas:
            raise UsageError("twice_by_hand", name=name)
        formulas[name] = formula
    values = {name: value.text for name, value in parse_assignments(inputs or ()).items()}
    wrt = tuple(asked.pop("wrt", None) or ())
    return Request(target, values, by_hand=formulas, wrt=wrt, **asked).read()
