"""From a file to a receipt that has the right shape, or to the places where it has not.

Stricter than Python's own reader of JSON: a key may stand once, nan and infinity are texts, numbers are finite and
integers fit into 64 bits. What breaks these rules is put into the tree as a `Flaw`, so that its place can be named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradexplain.errors import InputError
from gradexplain.receipts.report import Remark
from gradexplain.targets.values import LIMIT, shown, size_text

# Tensors of more dimensions than torch has, on top of the receipt's own lists.
_DEEPEST = 80


@dataclass(frozen=True)
class Flaw:
    """Something in the tree that JSON of ours does not have: the key of a refusal, and what was seen."""

    key: str
    seen: str


def text_of(source: str | Path) -> str:
    """Returns the text of a receipt, given as a path or as the text itself, which starts with a brace.

    Raises `InputError` where the file cannot be read, is too large, or is not UTF-8.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return source
    path = Path(source)
    try:
        if path.stat().st_size > LIMIT:
            size, limit = size_text(path.stat().st_size), size_text(LIMIT)
            raise InputError("receipt_too_large", file=path, size=size, limit=limit)
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError("receipt_encoding", file=path, position=fault.start + 1) from fault
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or type(fault).__name__
        raise InputError("receipt_unreadable", file=shown(str(path), 200), reason=reason) from fault


def tree_of(text: str) -> Any:
    """Returns the JSON value of `text`; raises `InputError` where it is not JSON at all."""
    try:
        return json.loads(
            text, parse_float=_float, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_object
        )
    except json.JSONDecodeError as fault:
        raise InputError("receipt_not_json", line=fault.lineno, column=fault.colno, reason=fault.msg) from fault
    except RecursionError as fault:
        raise InputError("receipt_too_deep") from fault


def _float(token: str) -> float | Flaw:
    number = float(token)
    return number if math.isfinite(number) else Flaw("huge_number", shown(token, 30))


def _integer(token: str) -> int | Flaw:
    number = int(token) if len(token) < 25 else 2**64
    return number if -(2**63) <= number < 2**63 else Flaw("huge_number", shown(token, 30))


def _constant(token: str) -> Flaw:
    return Flaw("no_number", token)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Flaw:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            return Flaw("duplicate_key", shown(key))
        found[key] = value
    return found


def flaws(value: Any, path: str = "$", depth: int = 0) -> Iterator[Remark]:
    """Yields the flaws in a tree with their places."""
    if depth > _DEEPEST:
        yield Remark(path[:80], "nested_deeply", {"limit": _DEEPEST})
    elif isinstance(value, Flaw):
        yield Remark(path, value.key, {"seen": value.seen})
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from flaws(part, below(path, key), depth + 1)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from flaws(part, f"{path}[{place}]", depth + 1)


def below(path: str, key: str) -> str:
    """Returns the path of a key: `$.inputs.x`, `$.files["/a/b.py"]`."""
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{json.dumps(shown(key), ensure_ascii=False)}]"
