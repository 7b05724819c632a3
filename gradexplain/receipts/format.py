"""The format of a receipt, as data: which keys it has, and what may stand under each.

A shape is a function from a value and its place to what is wrong with it. Every key must be there, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from gradexplain.locale.catalogue import sentences
from gradexplain.receipts.ledger import Remark
from gradexplain.receipts.reading import below
from gradexplain.targets.provenance import FORMAT
from gradexplain.targets.values import shown

Shape = Callable[[Any, str], Iterator[Remark]]
WORDS = ("nan", "inf", "-inf")
VERDICTS = ("agrees", "differs", "cannot say")
FLOATING = ("float16", "bfloat16", "float32", "float64")


# ------------------------------------------------------------------------------------------------------------ shapes


def scalar(expected: str, fits: Callable[[Any], bool]) -> Shape:
    """A value that `fits`; `expected` names it, as the key of a word."""

    def check(value: Any, path: str) -> Iterator[Remark]:
        if not fits(value):
            yield Remark(path, f"expected_{expected}", {"seen": _brief(value)})

    return check


def one_of(*words: str) -> Shape:
    """One of some words."""

    def check(value: Any, path: str) -> Iterator[Remark]:
        if value not in words or isinstance(value, bool):
            yield Remark(path, "expected_one_of", {"seen": _brief(value), "words": ", ".join(words)})

    return check


def nullable(shape: Shape) -> Shape:
    """`shape`, or null."""
    return lambda value, path: iter(()) if value is None else shape(value, path)


def listing(shape: Shape) -> Shape:
    """A list of `shape`."""

    def check(value: Any, path: str) -> Iterator[Remark]:
        if not isinstance(value, list):
            yield Remark(path, "expected_list", {"seen": _brief(value)})
            return
        for place, part in enumerate(value):
            yield from shape(part, f"{path}[{place}]")

    return check


def mapping(shape: Shape) -> Shape:
    """An object with any keys, `shape` under each."""

    def check(value: Any, path: str) -> Iterator[Remark]:
        if not isinstance(value, dict):
            yield Remark(path, "expected_object", {"seen": _brief(value)})
            return
        for key, part in value.items():
            yield from shape(part, below(path, key))

    return check


def entries(**shapes: Shape) -> Shape:
    """An object with exactly these keys."""

    def check(value: Any, path: str) -> Iterator[Remark]:
        if not isinstance(value, dict):
            yield Remark(path, "expected_object", {"seen": _brief(value)})
            return
        for key in shapes:
            if key not in value:
                yield Remark(path, "missing_key", {"name": key})
        for key, part in value.items():
            if key not in shapes:
                yield Remark(path, "unknown_key", {"name": shown(key)})
            else:
                yield from shapes[key](part, below(path, key))

    return check


def _brief(value: Any) -> str:
    return shown(repr(value) if not isinstance(value, (dict, list)) else type(value).__name__, 40)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, float)


def anything(value: Any, path: str) -> Iterator[Remark]:
    """Whatever JSON has."""
    return iter(())


TEXT = scalar("text", lambda v: isinstance(v, str))
FLAG = scalar("flag", lambda v: isinstance(v, bool))
COUNT = scalar("count", lambda v: _is_integer(v) and v >= 0)
REAL = scalar("number", lambda v: _is_number(v) or v in WORDS)
SECONDS = scalar("number", lambda v: _is_number(v) and v > 0)
DIGEST = scalar("digest", lambda v: isinstance(v, str) and bool(re.fullmatch("[0-9a-f]{64}", v)))
VERSION = scalar("version", lambda v: isinstance(v, str) and bool(re.match(r"\d+\.\d+", v)))
REASON = scalar("reason", lambda v: isinstance(v, str) and f"verdicts.{v}" in sentences("en"))
VERDICT = one_of(*VERDICTS)


def found(table: str) -> Shape:
    """A finding whose sentence stands in a table of the catalogue."""
    code = scalar("finding", lambda v: isinstance(v, str) and f"{table}.{v}" in sentences("en"))
    return entries(code=code, pitfall=nullable(TEXT), place=nullable(SOURCE), data=mapping(anything), text=TEXT)


SUMMARY = entries(
    shape=listing(COUNT), min=nullable(REAL), max=nullable(REAL), norm=REAL, nan=COUNT, inf=COUNT, sha256=DIGEST
)


def numbers(value: Any, path: str) -> Iterator[Remark]:
    """A tensor: its numbers in nested lists, or its summary."""
    if isinstance(value, dict):
        yield from SUMMARY(value, path)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from (SUMMARY if isinstance(part, dict) else numbers)(part, f"{path}[{place}]")
    elif not (_is_number(value) or isinstance(value, bool) or value in WORDS):
        yield Remark(path, "expected_number", {"seen": _brief(value)})


# ---------------------------------------------------------------------------------------------------------- receipts

Fields = dict[str, Shape]
TYPE = scalar("dtype", lambda v: isinstance(v, str) and bool(re.fullmatch(r"(b?float|complex|u?int)\d+\w*|bool", v)))
KIND = one_of("explanation", "verification")


def _higher(value: Any, path: str) -> Iterator[Remark]:
    yield from HIGHER(value, path)


def _operation(value: Any, path: str) -> Iterator[Remark]:
    yield from entries(**OPERATION)(value, path)


def _second(value: Any, path: str) -> Iterator[Remark]:
    yield from nullable(entries(**REPORT))(value, path)


# fmt: off
ASKED = entries(
    inputs=mapping(TEXT), seed=COUNT, dtype=nullable(one_of(*FLOATING)), wrt=listing(TEXT), order=COUNT,
    cotangent=nullable(TEXT), by_hand=mapping(TEXT), element=nullable(TEXT), module=nullable(TEXT), effort=SECONDS,
    each_operation=FLAG, full=FLAG, second=FLAG, batched=FLAG, exact=FLAG,
)
SOURCE = entries(file=TEXT, line=COUNT, code=TEXT)
INPUT = entries(shape=listing(COUNT), dtype=TYPE, value=numbers)
OUTPUT = entries(name=nullable(TEXT), shape=listing(COUNT), dtype=TYPE, value=numbers)
CHECK = entries(
    oracle=TEXT, input=TEXT, verdict=VERDICT, worst=nullable(REAL), bound=nullable(REAL), resolution=nullable(REAL),
    element=nullable(listing(COUNT)), reason=nullable(REASON), data=mapping(anything), text=nullable(TEXT),
)
CONTRIBUTION = entries(to=TEXT, argument=TEXT, rule=nullable(TEXT), value=nullable(numbers), equations=listing(TEXT))
STEP = entries(
    index=COUNT, label=TEXT, operator=nullable(TEXT), node=TEXT, module=TEXT, inputs=listing(TEXT),
    source=nullable(SOURCE),
    forward=entries(name=TEXT, value=nullable(numbers), equations=listing(TEXT)),
    rule=nullable(TEXT), order=nullable(COUNT), cotangent=nullable(numbers), sums=listing(TEXT),
    contributions=listing(CONTRIBUTION),
)
PATH = entries(steps=listing(TEXT), value=numbers)
BY_INPUT = entries(uses=listing(TEXT), sums=listing(TEXT), paths=listing(PATH))

HEADER: Fields = {
    "gradexplain": VERSION, "format": COUNT, "kind": KIND, "target": TEXT, "asked": nullable(ASKED), "torch": VERSION,
    "machine": TEXT, "files": mapping(DIGEST), "live": FLAG, "parameters": listing(TEXT),
}
ANSWER: Fields = {
    "dtype": TYPE, "inputs": mapping(INPUT), "output": OUTPUT, "cotangent": entries(given=FLAG, value=numbers),
    "gradients": mapping(nullable(numbers)), "checks": listing(CHECK), "verdict": VERDICT,
}
EXPLANATION: Fields = ANSWER | {
    "target": TEXT, "torch": VERSION, "scalar": TEXT, "by_input": mapping(BY_INPUT), "steps": listing(STEP),
    "equations": entries(shown=COUNT, recomputed=COUNT), "findings": listing(found("findings")),
    "higher": listing(_higher),
}
HIGHER = entries(order=COUNT, wrt=TEXT, constant=FLAG, hessian=nullable(listing(listing(REAL))), **EXPLANATION)
REPORT: Fields = {
    "checks": listing(CHECK), "operations": listing(_operation), "second": _second, "verdict": VERDICT,
}
OPERATION: Fields = REPORT | {
    "index": COUNT, "operator": nullable(TEXT), "node": TEXT, "label": TEXT, "source": nullable(SOURCE),
    "backward": nullable(SOURCE), "findings": listing(found("operations")),
}
KINDS = {
    "explanation": entries(**(HEADER | EXPLANATION)),
    "verification": entries(**(HEADER | ANSWER | REPORT | {"findings": listing(found("findings"))})),
}
# fmt: on


def misfits(tree: Any) -> Iterator[Remark]:
    """Yields what keeps a JSON value from being a receipt."""
    if not isinstance(tree, dict):
        yield Remark("$", "expected_object", {"seen": _brief(tree)})
    elif "gradexplain" not in tree or str(tree.get("kind")) not in KINDS:
        yield Remark("$", "no_receipt", {"names": ", ".join(KINDS)})
    elif tree.get("format") != FORMAT:
        yield Remark("$.format", "other_format", {"seen": _brief(tree.get("format")), "known": FORMAT})
    else:
        yield from KINDS[tree["kind"]](tree, "$")
