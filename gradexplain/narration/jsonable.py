"""How data is written as JSON: numbers that it has no word for, and places in a source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gradexplain.targets.sources import Source


def jsonable(value: Any, *, pairs: bool = False) -> Any:
    """JSON has no nan and no infinity: they become texts, as complex numbers do, which are two numbers if `pairs`."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v, pairs=pairs) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v, pairs=pairs) for v in value]
    if isinstance(value, complex) and pairs:
        return [jsonable(value.real), jsonable(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def source_record(source: Source | None) -> dict[str, Any] | None:
    """Returns a place in a source as plain data."""
    return None if source is None else {"file": source.file, "line": source.line, "code": source.code}
