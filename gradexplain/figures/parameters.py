"""The options of a function, read from its signature: whatever is annotated with a help text can be asked for by name.

    def run(expression: Annotated[str, "A function of x."] = "x**2",
            *, lr: Annotated[tuple[float, ...], "Learning rates.", Range(above=0), Count(most=8)] = (0.1,)): ...

The command line shows and reads them; a call from Python is checked by the same rules. Nothing heavy is needed for it.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from gradexplain.errors import InputError
from gradexplain.locale.spelling import as_typed

KINDS = (int, float, str, bool)


@dataclass(frozen=True)
class Range:
    """Metadata: the numbers from `least` to `most`, and greater than `above`."""

    least: float | None = None
    most: float | None = None
    above: float | None = None

    def holds(self, number: float) -> bool:
        """Says whether a number lies in the range."""
        return (
            (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
        )

    def __str__(self) -> str:
        bounds = (("≥", self.least), (">", self.above), ("≤", self.most))
        return ", ".join(f"{sign} {_text(bound)}" for sign, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Count:
    """Metadata: how many items a tuple may have."""

    least: int = 1
    most: int | None = None


@dataclass(frozen=True)
class Checked:
    """Metadata: what else a value must pass, a function that raises `InputError`; before anything heavy is loaded."""

    check: Callable[[Any], object]


@dataclass(frozen=True)
class Parameter:
    """One parameter that can be asked for.

    `kind` is the type of the value, or of each item where there are `many`; `choices` are all the texts that it may be,
    `words` those that it may be besides; an `optional` one may be `None`, and a `positional` one is given without its
    name.
    """

    name: str
    kind: type
    help: str
    default: Any
    many: bool = False
    choices: tuple[str, ...] = ()
    range: Range = Range()
    count: Count = Count()
    checks: tuple[Checked, ...] = ()
    optional: bool = False
    positional: bool = False
    words: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """How the command line writes its name."""
        return self.name.upper() if self.positional else as_typed(self.name)

    @property
    def metavar(self) -> str:
        """What stands for its value in a help text."""
        word = "|".join(self.choices) or {int: "N", float: "NUMBER"}.get(self.kind, "TEXT")
        return "|".join([*self.words, f"{word},..." if self.many else word])

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def parameters_of(function: Callable[..., object]) -> tuple[Parameter, ...]:
    """Returns the parameters of `function` that have a help text, in order."""
    hints = get_type_hints(function, include_extras=True)
    found = (_parameter(p, hints.get(p.name)) for p in inspect.signature(function).parameters.values())
    return tuple(p for p in found if p is not None)


def read(parameter: Parameter, text: str) -> Any:
    """Returns the value that a text such as `0.1,0.5` gives; raises `InputError` for one that gives none."""
    if text.strip() in parameter.words:
        return text.strip()
    items = [part.strip() for part in text.split(",")] if parameter.many else [text.strip()]
    values = [_item(parameter, item, text) for item in items]
    return _within(parameter, tuple(values) if parameter.many else values[0])


def checked(parameter: Parameter, value: Any) -> Any:
    """Returns a value given in Python as the parameter takes it; raises `InputError` for one that it does not take."""
    if (value is None and parameter.optional) or (isinstance(value, str) and value in parameter.words):
        return value
    if not parameter.many:
        return _within(parameter, _converted(parameter, value))
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _fault(parameter, value)
    return _within(parameter, tuple(_converted(parameter, item) for item in value))


def checked_all(function: Callable[..., object], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values given in Python by name, checked; raises `InputError` for a name that there is not."""
    known = {p.name: p for p in parameters_of(function)}
    for name in values:
        if name not in known:
            raise InputError("unknown_parameter", name=name, names=", ".join(known))
    return {name: checked(known[name], value) for name, value in values.items()}


def written(value: Any) -> str:
    """Returns a value as the command line would take it."""
    return ",".join(map(_text, value)) if isinstance(value, tuple) else _text(value)


# --------------------------------------------------------------------------------------------------------- signatures


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter | None:
    if get_origin(hint) is not Annotated:
        return None
    type_, *extra = get_args(hint)
    words = [e for e in extra if isinstance(e, str)]
    if not words:
        return None
    type_, words_besides, optional = _parts(type_)
    many = get_origin(type_) is tuple
    inner = get_args(type_)[0] if many else type_
    choices = get_args(inner) if get_origin(inner) is Literal else ()
    kind = str if choices else inner
    assert kind in KINDS, f"{parameter.name}: options of type {kind} cannot be read from text"
    return Parameter(
        parameter.name,
        kind,
        words[0],
        parameter.default,
        many,
        choices,
        next((e for e in extra if isinstance(e, Range)), Range()),
        next((e for e in extra if isinstance(e, Count)), Count()),
        tuple(e for e in extra if isinstance(e, Checked)),
        optional,
        parameter.kind is not inspect.Parameter.KEYWORD_ONLY,
        words_besides,
    )


def _parts(type_: Any) -> tuple[Any, tuple[str, ...], bool]:
    """Returns the type of a value, the words that may stand in its place, and whether it may be `None`."""
    if get_origin(type_) not in (Union, types.UnionType):
        return type_, (), False
    every: list[Any] = [*get_args(type_)]
    of = [t for t in every if t is not types.NoneType]
    if len(of) > 1:
        besides, kind = of  # a Literal, and what it may stand for
        return kind, get_args(besides), len(of) < len(every)
    return of[0], (), True


# ------------------------------------------------------------------------------------------------------------- values


def _item(parameter: Parameter, item: str, text: str) -> Any:
    """Returns one item that was written."""
    if parameter.kind is str:
        if parameter.choices and item not in parameter.choices:
            raise _fault(parameter, item)
        return item
    try:
        value = parameter.kind(item) if parameter.kind is not bool else {"true": True, "false": False}[item.lower()]
    except (ValueError, KeyError):
        raise _fault(parameter, text) from None
    return _finite(parameter, value)


def _converted(parameter: Parameter, value: Any) -> Any:
    """Returns one value that was given in Python: whole numbers are floats as well, truth values are no numbers."""
    fits = isinstance(value, parameter.kind) or (parameter.kind is float and isinstance(value, int))
    if not fits or (isinstance(value, bool) and parameter.kind is not bool):
        raise _fault(parameter, value)
    if parameter.choices and value not in parameter.choices:
        raise _fault(parameter, value)
    return _finite(parameter, parameter.kind(value))


def _finite(parameter: Parameter, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise _fault(parameter, value)
    return value


def _within(parameter: Parameter, value: Any) -> Any:
    """Returns a value that lies in the parameter's range, has as many items as it may, and passes all else."""
    items = value if parameter.many else (value,)
    for item in items:
        if parameter.kind in (int, float) and not parameter.range.holds(item):
            raise InputError("parameter_range", name=parameter.name, seen=_text(item), range=str(parameter.range))
    count = parameter.count
    if parameter.many and (len(items) < count.least or (count.most is not None and len(items) > count.most)):
        most = "…" if count.most is None else count.most
        raise InputError("parameter_count", name=parameter.name, seen=len(items), least=count.least, most=most)
    for further in parameter.checks:
        further.check(value)
    return value


def _fault(parameter: Parameter, seen: object) -> InputError:
    if parameter.choices:
        return InputError("parameter_choice", name=parameter.name, seen=seen, names=", ".join(parameter.choices))
    if parameter.words:
        return InputError("parameter_words", name=parameter.name, seen=seen, names=", ".join(parameter.words))
    key = {int: "whole", float: "number", bool: "truth", str: "text"}[parameter.kind]
    return InputError(f"parameter_{key}s" if parameter.many else f"parameter_{key}", name=parameter.name, seen=seen)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
