"""The format of a record, published as a JSON Schema, and what keeps a JSON value from being such a record.

The schema is data, in `format.json`; which reasons and findings there are is known by the catalogue of sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from gradexplain.locale.catalogue import sentences
from gradexplain.receipts.reading import below
from gradexplain.receipts.report import Remark
from gradexplain.targets.provenance import FORMAT
from gradexplain.targets.values import shown

# Where the sentences of each kind of word stand in the catalogue.
_WORDS = {
    "reason": "verdicts.",
    "finding_code": "findings.",
    "incident_code": "operations.",
    "examined": "training.examined_",
    "watched": "training.watched_",
    "difference": "differences.",
}
_KINDS = ("explanation", "verification")


@cache
def schema() -> dict[str, Any]:
    """Returns the JSON Schema of the records that `to_json` and `--format json` write."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("format.json").read_text(encoding="utf-8"))
    for name, start in _WORDS.items():
        known = sorted(key.removeprefix(start) for key in sentences("en") if key.startswith(start))
        found["$defs"][name]["enum"] = known
    return found


@cache
def _validator(kind: str) -> Any:
    from jsonschema import Draft202012Validator

    whole = schema()
    return Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": whole["$defs"]})


def misfits(tree: Any) -> Iterator[Remark]:
    """Yields what keeps a JSON value from being a receipt."""
    if not isinstance(tree, dict):
        yield Remark("$", "expected_object", {"seen": _brief(tree)})
    elif "gradexplain" not in tree or str(tree.get("kind")) not in _KINDS:
        yield Remark("$", "no_receipt", {"names": ", ".join(_KINDS)})
    elif tree.get("format") != FORMAT:
        yield Remark("$.format", "other_format", {"seen": _brief(tree.get("format")), "known": FORMAT})
    else:
        for error in _validator(tree["kind"]).iter_errors(tree):
            yield from _remarks(error)


def _remarks(error: Any) -> Iterator[Remark]:
    path = "$"
    for key in error.absolute_path:
        path = f"{path}[{key}]" if isinstance(key, int) else below(path, key)
    inner = [e for e in error.context if e.relative_path or e.validator in ("required", "additionalProperties")]
    if error.validator == "required":
        missing = next(name for name in error.validator_value if f"'{name}' is a required" in error.message)
        yield Remark(path, "missing_key", {"name": missing})
    elif error.validator == "additionalProperties":
        for key in error.instance.keys() - error.schema["properties"].keys():
            yield Remark(path, "unknown_key", {"name": shown(key)})
    elif inner:  # of the shapes that are allowed, the one that this was meant to be
        for one in inner:
            yield from _remarks(one)
    else:
        words = {"words": ", ".join(map(str, error.schema.get("enum", ())))}
        yield Remark(path, f"expected_{error.schema['title']}", {"seen": _brief(error.instance), **words})


def _brief(value: Any) -> str:
    return shown(repr(value) if not isinstance(value, (dict, list)) else type(value).__name__, 40)
