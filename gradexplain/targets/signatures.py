"""The names by which a callable takes its inputs: from Python, a custom Function's forward, or torch's docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from gradexplain.errors import InputError

if TYPE_CHECKING:
    import torch

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Of a function that does not tell its names: inputs go by position, in order.
ANY = inspect.Signature([inspect.Parameter("values", inspect.Parameter.VAR_POSITIONAL)])
Inputs: TypeAlias = tuple[list[object], dict[str, object]]


def signature_of(function: Callable[..., object]) -> inspect.Signature | None:
    """Returns the signature of any callable, `None` for one written in C that does not tell it."""
    import torch

    if custom := custom_function(function):
        names = forward_names(custom)
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names])
    called: Any = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return inspect.signature(called)
    except (TypeError, ValueError):  # written in C
        return _documented(called) if is_torchs(called) else None


def custom_function(function: object) -> type[torch.autograd.Function] | None:
    """Returns the `torch.autograd.Function` whose `apply` a callable is."""
    import torch

    owner = getattr(function, "__self__", None)
    is_apply = isinstance(owner, type) and issubclass(owner, torch.autograd.Function)
    return owner if is_apply and getattr(function, "__name__", "") == "apply" else None


def forward_names(function: type[torch.autograd.Function]) -> list[str]:
    """Returns the names of the arguments of a custom Function, as its forward has them; the context is none."""
    from gradexplain.versions.internals import internals

    parameters = list(inspect.signature(function.forward).parameters.values())
    if function.setup_context is internals().single_level_function.setup_context:
        parameters = parameters[1:]
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def is_torchs(function: object) -> bool:
    """Says whether a callable is a function of torch itself."""
    import torch

    home = getattr(function, "__module__", None) or getattr(getattr(function, "__objclass__", None), "__module__", "")
    return callable(function) and (
        str(home).partition(".")[0] == "torch" or getattr(torch, getattr(function, "__name__", ""), None) is function
    )


def _documented(function: Callable[..., object]) -> inspect.Signature | None:
    """Returns the signature in the first line of a docstring, such as `gelu(input, approximate='none') -> Tensor`."""
    line = (function.__doc__ or "").strip().partition("\n")[0]
    written = re.match(r"[\w.]+\((.*)\)", line)
    if written is None:
        return None
    by_position = written[1].partition("*")[0]
    pieces = [piece.strip() for piece in re.split(r",(?![^(\[]*[)\]])", by_position) if piece.strip()]
    named = [(re.match(r"[^\W\d]\w*", piece), "=" in piece) for piece in pieces]
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    parameters = [inspect.Parameter(n[0], kind, default=None if has else empty) for n, has in named if n]
    try:
        return inspect.Signature(parameters)
    except ValueError:  # two of one name, or one without default after one with
        return None


def by_name(function: Callable[..., object], signature: inspect.Signature) -> Callable[..., object]:
    """Returns `function` taking all inputs by name, where `(x, /)` or `*args` would take them by position only."""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.POSITIONAL_ONLY not in kinds and (
        inspect.Parameter.VAR_POSITIONAL not in kinds or inspect.Parameter.VAR_KEYWORD in kinds
    ):
        return function

    def call(**inputs: object) -> object:
        positional, named = _split_inputs(signature, inputs)
        return function(*positional, **named)

    return call


def _split_inputs(signature: inspect.Signature, inputs: Mapping[str, object]) -> Inputs:
    """Splits inputs into those that go by position, in order, and those that go by name."""
    parameters = signature.parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    extra = [name for name in inputs if name not in parameters]
    first = [name for name, item in parameters.items() if name in inputs and item.kind is item.POSITIONAL_ONLY]
    if extra and inspect.Parameter.VAR_KEYWORD not in kinds:  # they go to *args, so all before them go by position
        by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        first = [name for name, item in parameters.items() if name in inputs and item.kind in by_position] + extra
    return [inputs[name] for name in first], {name: inputs[name] for name in inputs if name not in first}


def by_any_name(function: Callable[..., object], signature: inspect.Signature) -> Callable[..., object]:
    """Returns a function of torch taking inputs by any names: those that it lacks fill its free places in order."""
    places = tuple(signature.parameters)

    def call(**inputs: object) -> object:
        free = iter([place for place in places if place not in inputs])
        return function(**{name if name in places else next(free, name): value for name, value in inputs.items()})

    return call


def refuse_unknown(function: Callable[..., object], given: Iterable[str]) -> None:
    """Raises `InputError` where `function` lacks an argument of a name that was given; says its place and its names."""
    signature = signature_of(function)
    if signature is None or any(parameter.kind in VARIADIC for parameter in signature.parameters.values()):
        return
    unknown = [name for name in given if name not in signature.parameters]
    if unknown:
        custom = custom_function(function)
        forward: Any = inspect.getattr_static(custom or function, "forward", function)
        code = getattr(getattr(forward, "__func__", forward), "__code__", None)
        name = f"{custom.__name__}.forward" if custom else getattr(function, "__name__", type(function).__name__)
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
        names = ", ".join(signature.parameters) or "–"
        raise InputError("unknown_argument", function=name, place=place, unknown=", ".join(unknown), names=names)
