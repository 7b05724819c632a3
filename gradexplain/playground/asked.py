"""What a page asks, as its reader typed it, and what of it is allowed: the closed language, and the files named before.

Nothing is known here of torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gradexplain.errors import GradexplainError, InputError
from gradexplain.targets.expression import parse, published_path
from gradexplain.targets.loading import FILE_TARGET, MODULE_TARGET
from gradexplain.targets.request import Request
from gradexplain.targets.values import INTEGERS, ITEMSIZE, File, parse_value, shown

# What a page may send, in bytes: an expression of some pages.
MOST_BYTES = 2**16
MOST_STEPS = 1000
# A range that ends beyond it cannot be drawn with the digits of a double.
_FAR = 1e12
DTYPES = tuple(name for name in ITEMSIZE if name not in INTEGERS and not name.startswith("complex"))
# The fields of a page beside the target and its inputs, and what they hold at first.
OPTIONS: Mapping[str, str] = {
    "dtype": "", "cotangent": "", "wrt": "", "order": "1", "lr": "", "steps": "20", "ends": "",
    "lesson": "",
}  # fmt: skip


# What stands in the field of an input that is not to be typed, such as a notebook's large tensor: it stays as given.
GIVEN = "given"


class FieldError(Exception):
    """A fault with the field of the page where it stands: `target`, `inputs.x`, or the name of an option."""

    def __init__(self, field: str, fault: GradexplainError) -> None:
        super().__init__(field)
        self.field = field
        self.fault = fault


@contextmanager
def at(field: str) -> Iterator[None]:
    """Says of a fault that it stands at a field."""
    try:
        yield
    except GradexplainError as fault:
        raise FieldError(field, fault) from fault


@dataclass(frozen=True)
class Asked:
    """The texts of a page's fields; `options` are those of `OPTIONS`."""

    target: str
    inputs: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=lambda: dict(OPTIONS))

    @classmethod
    def read(cls, data: bytes) -> Asked:
        """Reads what a page sent; raises `InputError` for what no page of ours sends."""
        try:
            sent = json.loads(data)
            asked = cls(sent["target"], sent["inputs"], {**OPTIONS, **sent["options"]})
            texts = [asked.target, *asked.inputs, *asked.inputs.values(), *asked.options.values()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            raise InputError("play_malformed") from fault
        if not all(isinstance(text, str) for text in texts) or asked.options.keys() != OPTIONS.keys():
            raise InputError("play_malformed")
        return asked

    def plain(self) -> dict[str, Any]:
        """Returns it as what a page sends."""
        return {"target": self.target, "inputs": dict(self.inputs), "options": dict(self.options)}

    def request(self, named: Asked) -> Request:
        """Returns the question, each field read; `named` are the target and the values that the server began with.

        Raises `FieldError` for a field that cannot be used. An expression's further inputs are left out.
        """
        with at("target"):
            names = self.names(named)
        kept = {name for name, text in named.inputs.items() if text == GIVEN == self.inputs.get(name, "").strip()}
        inputs = {name: None if name in kept else text for name, text in self.inputs.items() if name in names}
        for name, text in inputs.items():
            with at(f"inputs.{name}"):
                if text is not None:
                    _allow_value(text, named)
        with at("dtype"):
            dtype = self.options["dtype"] or None
            if dtype not in (None, *DTYPES):
                raise InputError("play_dtype", seen=shown(str(dtype)), names=", ".join(DTYPES))
        with at("cotangent"):
            cotangent = self.options["cotangent"].strip() or None
            if cotangent is not None:
                _allow_value(cotangent, named)
        with at("order"):
            order = int(_number(self.options["order"], 1, 9, whole=True))
        wrt = tuple(self.options["wrt"].replace(",", " ").split())
        with at("target"):
            return Request(self.target, inputs, dtype=dtype, wrt=wrt, order=order, cotangent=cotangent).read()

    def names(self, named: Asked) -> tuple[str, ...]:
        """Returns the inputs of an expression in order of their use; of another target those that were given.

        Raises `InputError` for a target that is neither the one that was named nor an expression: nothing else is
        looked at.
        """
        text = self.target.strip()
        led = FILE_TARGET.fullmatch(text) or MODULE_TARGET.fullmatch(text)
        if led and self.target != named.target:
            raise InputError("play_only_named", text=shown(text), named=shown(named.target))
        return tuple(self.inputs) if led or published_path(text) else parse(self.target).inputs

    def descent(self) -> tuple[float, int] | None:
        """Returns the learning rate and the number of steps, `None` where no rate was given."""
        text = self.options["lr"].strip()
        if not text:
            return None
        with at("lr"):
            rate = _number(text, 0, math.inf)
        with at("steps"):
            return rate, int(_number(self.options["steps"], 1, MOST_STEPS, whole=True))

    def ends(self, point: Sequence[float]) -> list[list[float]]:
        """Returns the range of each variable in which a function is drawn: as asked for, if the point lies in them.

        Else they are about 0, of one length, so that a gradient stands perpendicular on contours.
        """
        try:
            given = [float(end) for end in self.options["ends"].split(",")]
        except ValueError:
            given = []
        pairs = [[low, high] for low, high in zip(given[::2], given[1::2], strict=False)]
        if len(pairs) == len(point) and all(
            -_FAR < low < high < _FAR and low <= p <= high for (low, high), p in zip(pairs, point, strict=True)
        ):
            return pairs
        wanted = max(2.0, *(2 * abs(p) for p in point))
        power = 10.0 ** math.floor(math.log10(wanted))
        reach = next(k * power for k in (1, 2, 5, 10) if k * power >= wanted)
        return [[-reach, reach] for _ in point]


def _allow_value(text: str, named: Asked) -> None:
    """Raises `InputError` for a value that cannot be read, or is a file that was not named."""
    if isinstance(parse_value(text).source, File) and text not in named.inputs.values():
        raise InputError("play_file_value", text=shown(text))


def _number(text: str, low: float, high: float, *, whole: bool = False) -> float:
    try:
        value = float(int(text) if whole else float(text))
    except ValueError:
        value = math.nan
    if not (low <= value <= high and math.isfinite(value)) or (value == low == 0):
        raise InputError("play_number", text=shown(text), low=f"{low:g}", high="∞" if high == math.inf else f"{high:g}")
    return value
