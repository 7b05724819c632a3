"""`play` in a notebook: a function of the kernel's own and its inputs, as a page that asks the kernel."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradexplain.api import explained
from gradexplain.documents.shown import celled, told
from gradexplain.errors import InputError, RunError
from gradexplain.playground.asked import GIVEN, OPTIONS, Asked, FieldError
from gradexplain.playground.computing import EFFORT, answer, answered
from gradexplain.playground.page import shell
from gradexplain.recording.computation import computation_of, differentiable
from gradexplain.targets.loading import Target, load, match_inputs, parse_target, target_of
from gradexplain.targets.request import Request
from gradexplain.targets.values import first_line

if TYPE_CHECKING:
    from gradexplain.playground.widget import Board

# A tensor with more elements stands as `given` in its field.
_WRITTEN = 24


def play(
    function: Callable[..., object] | str,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    language: str = "en",
) -> Board:
    """Shows a live page in a notebook: the explanation follows every edit and drag, computed in the kernel.

    `function` is a callable or an `nn.Module`, or a text as the command line takes it; `inputs` are by name or by
    position. Small tensors stand on the page as numbers to be edited; what is larger, or no tensor, is `given`, and
    stays what it is. Expressions can be typed in place of the function. In a notebook that was saved, the page stays as
    it was first shown. `language` is "en" or "zh".

    Questions are computed between the cells, and what they print is not shown; interrupting the kernel ends one.
    Raises `InputError` for arguments that cannot be used or where anywidget is missing, `RunError` where the function
    fails. From a terminal, `gradexplain play` serves the same page.
    """
    try:
        from gradexplain.playground.widget import Board
    except ModuleNotFoundError as fault:
        missing = (fault.name or "").partition(".")[0]
        if missing not in ("anywidget", "ipywidgets", "traitlets"):
            raise
        raise InputError("play_widget", missing=missing) from None
    target = load(parse_target(function)) if isinstance(function, str) else _own(function)
    given = _named(target, inputs)
    texts = {name: _text(value) for name, value in given.items()}
    match_inputs(target, given)
    named = Asked(target.text, texts, {**OPTIONS, "wrt": _wrt(target, given)})
    loading = partial(_loaded, target=target, given=given)
    try:
        with _unheard():
            first = answer(named, named, language, loading)
            request = named.request(named)
            explanation = explained(request, effort=EFFORT, loaded=loading(request))
    except FieldError as fault:
        raise fault.fault from None
    page = shell(named, language, watches=False, first=first)
    still = celled(explanation, told(explanation, language, format="html", width=100))
    return Board(page, still, partial(_answered, named=named, language=language, loading=loading))


def _own(function: Callable[..., object]) -> Target:
    """Returns a function of the notebook as a target, called by its name."""
    name = str(getattr(function, "__name__", type(function).__name__))
    name = name if name.isidentifier() else "function"
    return target_of(function, name, f"notebook:{name}")


def _named(target: Target, inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return dict(inputs)
    values = [inputs] if isinstance(inputs, Tensor) else list(inputs or ())
    names = [*target.parameters, *(f"input{i}" for i in range(len(target.parameters), len(values)))]
    return dict(zip(names, values, strict=False))


def _text(value: object) -> str:
    """Returns a value as it is typed, exactly; `given` for what is not to be typed."""
    if isinstance(value, float):
        return _number(value, torch.float64)
    if (
        not isinstance(value, Tensor)
        or value.layout != torch.strided
        or not 0 < value.numel() <= _WRITTEN
        or value.is_complex()
        or value.device.type != "cpu"
    ):
        return GIVEN
    numbers = _nested(value.tolist(), value.dtype)
    body = numbers[1:-1] if value.dim() == 1 and value.numel() > 1 else numbers
    suffix = "" if value.dtype in (torch.float32, torch.bool) else f":{value.dtype}".replace("torch.", "")
    return body + suffix


def _nested(numbers: Any, dtype: torch.dtype) -> str:
    if isinstance(numbers, list):
        return f"[{', '.join(_nested(one, dtype) for one in numbers)}]"
    return _number(numbers, dtype) if isinstance(numbers, float) else str(numbers).lower()


def _number(value: float, dtype: torch.dtype) -> str:
    """Returns the shortest digits that are the number in its type."""
    tries = (f"{value:.{digits}g}" for digits in range(1, 17))
    exact = (text for text in tries if torch.tensor(float(text), dtype=dtype).item() == value)
    return next(exact, repr(value))


def _wrt(target: Target, given: Mapping[str, Any]) -> str:
    """Returns what the gradient is asked for, where some inputs require it and others do not."""
    able = {name: value.requires_grad for name, value in given.items() if differentiable(value)}
    return ", ".join(computation_of(target.called, given).wrt) if len({*able.values()}) > 1 else ""


def _loaded(request: Request, target: Target, given: Mapping[str, Any]) -> tuple[Target, dict[str, Any]]:
    """Returns the function and the inputs of a question: those that are `given`, and others as they are typed."""
    found = target if request.target == target.text else load(request.spec)
    made = request.tensors(found)
    return found, {name: made[name] if name in made else given[name] for name in request.inputs}


def _answered(
    question: bytes, named: Asked, language: str, loading: Callable[[Request], tuple[Target, dict[str, Any]]]
) -> bytes:
    """Returns the answer, whatever happens: a page that asks a kernel waits for it."""
    try:
        with _unheard():
            return answered(question, named, language, loading)
    except (Exception, KeyboardInterrupt) as fault:
        said = RunError("play_kernel", kind=type(fault).__name__, reason=first_line(fault))
        return json.dumps({"field": "target", "fault": said.sentence(language)}).encode()


@contextmanager
def _unheard() -> Iterator[None]:
    """Lets a function that runs many times print nothing into the notebook."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
