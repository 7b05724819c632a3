"""What a rule is, and how one is entered: `rule` and `elementwise`."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from gradexplain.mathematics.terms import functions_in
from gradexplain.versions.internals import schema_of

# A rule's example: from a source of random float64 tensors, the arguments of the operator.
Example = Callable[["Any"], tuple[Any, ...]]
# What the formulas hold for: "real" numbers alone; an "analytic" function of complex numbers, which sends the conjugate
# of what the formulas make of the conjugate of what arrives; or they are written for "complex" numbers themselves.
Over = Literal["real", "analytic", "complex"]
# Equal candidates: "shared" may divide the cotangent in any way, "index" gives all to the one whose index is returned.
Tie = Literal["", "shared", "index"]


@dataclass(frozen=True)
class Derivative:
    """The vector-Jacobian product of one operator for one of its arguments.

    `shown` is the formula for a reader. `run(g, ...)` takes the cotangent and, by their names in the operator's schema,
    whichever arguments it needs; the operator's output is `y` (`y0`, `y1`, … where there are several, and then `g`
    is a tuple of cotangents, `None` where nothing arrived). It returns the gradient in the argument's shape.

    One that has kinks or ties takes a `side` as well: at −1 it has the slopes on the left (of equal candidates, none
    gets anything), at 1 those on the right (each gets all), at 0 what lies in the middle of them (equal shares). A
    tensor says it for each element, or for each of those that `Rule.apart` makes of them.
    """

    shown: str
    run: Callable[..., Any]

    @property
    def needs(self) -> tuple[str, ...]:
        """The names that `run` asks for, `g` left out."""
        return parameters(self.run)[1:]

    @property
    def has_kinks(self) -> bool:
        """Whether it has to be told a side."""
        return "side" in self.needs


@dataclass(frozen=True)
class Rule:
    """The mathematics of one operator.

    An elementwise rule has `names` (the formula's variable for each argument of the schema, in order), an evaluable
    `formula` and evaluable local derivatives in `slopes`. Every other rule has a `formula` for the reader alone, and
    `terms`, if its outputs can be written out: the operator on object arrays of terms.

    Where the operator is not differentiable: `kink` is an evaluable condition on the variables, `sides` gives the left
    and right derivative there for an argument; derivatives that are not elementwise take a `side`. `tie` says whether a
    cotangent may be divided among equal candidates, and `why` is the catalogue's key of the sentence. What torch takes
    there is no knowledge of ours (`slopes`, or the middle, stand in where it cannot be measured): see
    `recording.kinks`. `together` says of slopes that each lie between their sides where they are also possible
    together (those of the `opposite` argument too): equal candidates share one whole. `apart` repeats arguments until
    no element is at two kinks.

    `symmetric` names arguments read as symmetric matrices: their gradient is the symmetric one. `numbers` says, by
    argument, which number stands for a value that is none: an absent bound is infinite. `over` says which numbers the
    formulas hold for.
    """

    operator: str
    formula: str
    derivatives: Mapping[str, Derivative] = field(default_factory=dict)
    slopes: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    terms: Callable[..., Any] | None = None
    moves: bool = False
    why: str = ""
    examples: tuple[Example, ...] = ()
    domain: tuple[float, float] = (-2.0, 2.0)
    kink: str = ""
    sides: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    tie: Tie = ""
    together: Callable[..., Any] | None = None
    apart: Callable[..., Mapping[str, Any]] | None = None
    symmetric: tuple[str, ...] = ()
    numbers: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)
    over: Over = "analytic"

    @property
    def elementwise(self) -> bool:
        """Whether the formula is evaluable and applies to each element alone."""
        return bool(self.names)

    def number_for(self, argument: str, value: Any) -> Any:
        """Returns `value`, or the number that stands for it in the formula: an absent bound is infinite."""
        return self.numbers[argument].get(value, value) if argument in self.numbers and _plain(value) else value


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


RULES: dict[str, Rule] = {}


def elementwise(operator: str, names: str, formula: str, **entry: Any) -> None:
    """Enters an elementwise rule: `elementwise("aten.tanh", "x", "tanh(x)", x="1 - y**2")`.

    `names` gives a variable to each argument of the schema in order; local derivatives may use them, and `y` for the
    output. `domain=(low, high)` is where examples are drawn; `example` (one, or several in a tuple) overrides the
    generic one. `sides` is given by variable, as the local derivatives are.
    """
    options: dict[str, Any] = {
        key: entry.pop(key) for key in ("why", "domain", "kink", "tie", "numbers", "over") if key in entry
    }
    examples, sides = _several(entry.pop("example", ())), entry.pop("sides", {})
    variables = dict(zip(schema_names(operator), names.split(), strict=False))
    arguments = {variable: argument for argument, variable in variables.items()}
    options.setdefault("over", "analytic" if all(map(_is_analytic, (formula, *entry.values()))) else "real")
    options |= {"sides": {arguments[variable]: pair for variable, pair in sides.items()}, "examples": examples}
    slopes = {arguments[variable]: slope for variable, slope in entry.items()}
    _enter(Rule(full_name(operator), formula, slopes=slopes, names=variables, **options))


# fmt: off
_ANALYTIC = frozenset({
    "exp", "log", "log2", "log10", "log1p", "expm1", "sqrt", "rsqrt", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "sinc", "where",
})
# fmt: on


def _is_analytic(formula: str) -> bool:
    """Says whether a formula is an analytic function of complex numbers, of those that torch has for them.

    Nothing in it then compares sizes, or takes a modulus or a sign.
    """
    return functions_in(formula) <= _ANALYTIC and not {"<", ">"} & {*formula}


def rule(operator: str, formula: str, *, example: Example | tuple[Example, ...], **entry: Any) -> None:
    """Enters a rule that is not elementwise.

    `rule("aten.mm", "C = A B", example=…, self=("Ā = C̄ Bᵀ", lambda g, mat2: g @ mat2.mT), …)`: for each argument of
    the schema that has a derivative, the formula shown and the code that runs it. `terms` writes the outputs out on
    object arrays of terms (numpy's own operators serve); `moves=True` says that the operator only moves elements.
    `together` takes `slopes`, the name of the `argument`, and whichever arguments and outputs it needs; `apart`
    whichever arguments it repeats.
    """
    options = {key: entry.pop(key) for key in _OPTIONS if key in entry}
    derivatives = {argument: Derivative(*pair) for argument, pair in entry.items()}
    _enter(Rule(full_name(operator), formula, derivatives=derivatives, examples=_several(example), **options))


_OPTIONS = ("why", "terms", "moves", "tie", "together", "apart", "symmetric", "over")


def _several(example: Example | tuple[Example, ...]) -> tuple[Example, ...]:
    return example if isinstance(example, tuple) else (example,)


def _enter(new: Rule) -> None:
    if new.operator in RULES:
        raise ValueError(f"{new.operator} has a rule already")
    RULES[new.operator] = new


def full_name(operator: str) -> str:
    """Returns `aten.mm.default` for `aten.mm`."""
    return operator if operator.count(".") == 2 else f"{operator}.default"


@cache
def schema_names(operator: str) -> tuple[str, ...]:
    """Returns the names of an operator's arguments, in order, from torch's own schema."""
    return tuple(argument.name for argument in schema_of(overload(operator)).arguments)


def overload(operator: str) -> Any:
    """Returns torch's callable for `aten.mm.default`; raises `AttributeError` where this torch has none."""
    import torch

    found: Any = torch.ops
    for part in full_name(operator).split("."):
        found = getattr(found, part)
    return found


@cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names of a function's parameters."""
    return tuple(inspect.signature(function).parameters)
