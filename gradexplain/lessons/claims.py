"""Claims: sentences of a lesson that are held against what was measured while it ran."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Relation = Literal["=", "≠", "≈", "<", ">"]


@dataclass(frozen=True)
class Claim:
    """What was `measured` stands in a relation to what is `expected`, which comes from elsewhere.

    `key` names the sentence; in it, `{measured}`, `{expected}`, `{within}` and `{off}` are those of the claim, and
    `data` gives what else it mentions. `=` is exact, also in shape; `≈` means within `within`, element by element. nan
    is in no relation to anything but `=` to itself. `rows` names the rows of the tutorials that the claim settles.
    """

    key: str
    measured: Any
    relation: Relation
    expected: Any
    within: float = 0.0
    rows: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it is true."""
        measured, expected = plain(self.measured), plain(self.expected)
        match self.relation:
            case "=":
                return _same(measured, expected)
            case "≠":
                return not _same(measured, expected)
            case "≈":
                alike = _alike(measured, expected)
                return alike and all(abs(m - e) <= self.within for m, e in _pairs(measured, expected))
            case "<":
                return all(m < e for m, e in _pairs(measured, expected))
            case ">":
                return all(m > e for m, e in _pairs(measured, expected))

    @property
    def off(self) -> float:
        """How far what was measured is at most from what is expected, where both are numbers in one shape; or nan."""
        measured, expected = plain(self.measured), plain(self.expected)
        if self.relation != "≈" or not _alike(measured, expected):
            return math.nan
        return float(max(abs(m - e) for m, e in _pairs(measured, expected)))


def plain(value: Any) -> Any:
    """Returns tensors and arrays as nested lists and numbers, types by their name, all else as it is."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, complex, str, type(None))) else str(value)


def _same(measured: Any, expected: Any) -> bool:
    if isinstance(measured, list) and isinstance(expected, list):
        return len(measured) == len(expected) and all(map(_same, measured, expected))
    if isinstance(measured, dict) and isinstance(expected, dict):
        return measured.keys() == expected.keys() and all(_same(v, expected[k]) for k, v in measured.items())
    nan = [isinstance(v, float) and math.isnan(v) for v in (measured, expected)]
    return all(nan) or bool(measured == expected)


def _alike(measured: Any, expected: Any) -> bool:
    """Says whether two values are nested alike."""
    if isinstance(measured, list) and isinstance(expected, list):
        return len(measured) == len(expected) and all(map(_alike, measured, expected))
    return not isinstance(measured, list) and not isinstance(expected, list)


def numbers_in(value: Any) -> Iterator[Any]:
    """Yields the numbers of nested lists, or the one number."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from numbers_in(item)
    else:
        yield value


def _pairs(measured: Any, expected: Any) -> list[tuple[Any, Any]]:
    """Pairs the numbers of both, or all of the first with the one number of the second."""
    first, second = list(numbers_in(measured)), list(numbers_in(expected))
    assert first, "a claim about no number at all is always true"
    return list(zip(first, second * len(first) if len(second) == 1 else second, strict=True))
