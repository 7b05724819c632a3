"""A computation that can be run again and again: a function, the tensors it starts from, and the modules it uses.

Every run starts from the same random state and leaves no trace: random states, grad mode, buffers and parameters of the
user's modules are afterwards what they were.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from gradexplain.errors import GradexplainError, InputError, RunError
from gradexplain.recording.containers import taken_apart
from gradexplain.recording.frames import is_ours_or_torchs
from gradexplain.recording.holdings import held_by, unregistered
from gradexplain.targets.interpreter import Runner
from gradexplain.targets.signatures import custom_function, forward_names, refuse_unknown
from gradexplain.targets.sources import Source
from gradexplain.versions.internals import has_hooks


@dataclass(frozen=True)
class Computation:
    """A function of named tensors.

    `inputs` holds the function's own inputs and the parameters of the modules it uses (`parameters`, by name); `wrt`
    names those whose gradient is asked for. `call` takes the function's own inputs by name. `own` are the inputs that
    are leaves of the user's, with the hooks that wait on them, also where `inputs` has them in another type.
    `unregistered` are those of `modules` that another one holds in a plain list.
    `into_leaves` says that its gradient is asked for with `.backward()`, and not with `torch.autograd.grad`.
    """

    name: str
    call: Callable[[Mapping[str, Any]], object]
    inputs: Mapping[str, Any]
    wrt: tuple[str, ...]
    parameters: Mapping[str, nn.Parameter] = field(default_factory=dict)
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    leaves: Mapping[str, Tensor] = field(default_factory=dict)
    own: Mapping[str, Tensor] = field(default_factory=dict)
    unregistered: tuple[str, ...] = ()
    into_leaves: bool = True
    locate: Callable[[], Source | None] | None = None
    random_states: tuple[Tensor, ...] = field(default_factory=lambda: _random_states())

    def run(self, values: Mapping[str, Tensor]) -> object:
        """Runs the function once with `values` in place of the inputs of these names, in the caller's grad mode."""
        with self.running() as run:
            return run(values)

    @contextmanager
    def running(self) -> Iterator[Callable[[Mapping[str, Tensor]], object]]:
        """Yields `run`; every run starts from the same random state, and all is as it was at the end of the block."""
        with _untouched(self.random_states) as begin:

            def run(values: Mapping[str, Tensor]) -> object:
                begin()
                with self._substituted(values) as given:
                    return self._called(given)

            yield run

    @contextmanager
    def run_for(self, values: Mapping[str, Tensor]) -> Iterator[object]:
        """Runs the function once and yields its result; `values` stay in the modules for the block.

        A backward pass belongs into the block: it may use parameters and buffers again, and draw random numbers.
        """
        with _untouched(self.random_states) as begin, self._substituted(values) as given:
            begin()
            yield self._called(given)

    @contextmanager
    def _substituted(self, values: Mapping[str, Tensor]) -> Iterator[Mapping[str, Any]]:
        """Puts `values` for parameters into the modules for the block, and yields what the function is called with."""
        given = {**self.inputs, **values}
        replacements = {id(own): given[name] for name, own in self.parameters.items()}
        with swapped(self.modules.values(), replacements) if self.modules else nullcontext():
            yield {n: v for n, v in given.items() if n not in self.parameters}

    def _called(self, given: Mapping[str, Any]) -> object:
        try:
            result = self.call(given)
        except GradexplainError:
            raise
        except (Exception, SystemExit) as fault:
            raise self._failure(fault) from fault
        if inspect.iscoroutine(result):
            result.close()  # else Python warns that nobody waited for it
            raise RunError("returned_coroutine", name=self.name)
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise RunError("returned_generator", name=self.name)
        return result

    def _failure(self, fault: BaseException) -> RunError:
        """Returns the error that says how the function failed, and what may be behind it."""
        data = {"name": self.name, **_fault_place(fault)}
        modules = [part for module in self.modules.values() for part in module.modules()]
        if isinstance(fault, ValueError) and any(isinstance(m, _NORMALISING) and m.training for m in modules):
            return RunError("function_failed_training", **data)
        if self.inputs and not self.wrt:
            dtype = _dtype_text(next(iter(self.inputs.values())))
            return RunError("function_failed_integers", **data, names=", ".join(self.inputs), dtype=dtype)
        return RunError("function_failed", **data)

    def output(self, values: Mapping[str, Tensor]) -> Tensor:
        """Runs the function and returns the one output that is explained: see `chosen_output`."""
        return chosen_output(self.run(values), self.name)[0]

    def leaf_values(self, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns leaves for the inputs: those of `given`, and fresh ones, which require grad if they are in `wrt`."""
        known = given or {}
        return {
            name: known[name] if name in known else value.detach().clone().requires_grad_(name in self.wrt)
            for name, value in self.inputs.items()
            if isinstance(value, Tensor)
        }

    def own_leaves(self) -> dict[str, Tensor]:
        """Returns leaves as the user's own run has them: parameters and leaves with hooks are the user's very tensors.

        An input that the function reaches in another way as well, or twice, is a fresh leaf all the same: its gradient
        is that of the one argument.
        """
        users = {n: t for n, t in self.own.items() if n in self.wrt and self.inputs[n] is t}
        elsewhere = [*map(id, self.inputs.values()), *map(id, self.leaves.values())]
        return self.leaf_values(
            {
                name: own
                for name, own in users.items()
                if name in self.parameters or (has_hooks(own) and elsewhere.count(id(own)) == 1)
            }
        )


def computation_of(
    function: Callable[..., object],
    inputs: Mapping[str, Any] | Sequence[Any],
    *,
    wrt: Sequence[str] | None = None,
    name: str | None = None,
    locate: Callable[[], Source | None] | None = None,
) -> Computation:
    """Returns the computation of calling `function` with `inputs`, by name or by position.

    Inputs that hold tensors inside, such as lists and sparse tensors, are taken apart: see `containers`.
    The parameters of an `nn.Module`, and of the modules that a function reaches (see `holdings`), are inputs as well.
    Without `wrt`, the gradient is asked for the inputs that require grad and for all parameters that do; where no input
    requires grad, for every input of floating or complex type.
    """
    whole, call_whole = _calling(function, inputs)
    names, rebuilt = taken_apart(whole)
    modules, leaves = held_by(function)
    parameters = _parameters(modules)
    given = {**names, **parameters}
    own = {n: v for n, v in given.items() if isinstance(v, Tensor) and v.is_leaf and v.requires_grad}
    return Computation(
        name=name or str(getattr(function, "__name__", type(function).__name__)),
        call=lambda values: call_whole(rebuilt(values)),
        inputs=given,
        wrt=_asked(given, parameters, wrt),
        parameters=parameters,
        modules=modules,
        leaves=leaves,
        unregistered=tuple(n for n, m in modules.items() if any(m is own for own in _unregistered(modules))),
        own=own,
        locate=function.locate if locate is None and isinstance(function, Runner) else locate,
    )


def _unregistered(modules: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    for module in modules.values():
        yield from (inner for _, inner in unregistered(module))


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Returns the parameters that require grad, each by the first of its names: modules may share them."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for owner, module in modules.items():
        for path, parameter in nn.Module.named_parameters(module):
            if parameter.requires_grad:
                found.setdefault(id(parameter), (f"{owner}.{path}" if owner else path, parameter))
    return dict(found.values())


def with_dtype(computation: Computation, dtype: torch.dtype) -> Computation:
    """Returns the computation with its floating (or complex) inputs, parameters and buffers in `dtype`."""
    converted = {n: _in_dtype(v, dtype) if isinstance(v, Tensor) else v for n, v in computation.inputs.items()}
    return replace(computation, inputs=converted)


def _in_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.dtype == dtype:
        return value
    if value.is_complex():
        return value.detach().to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return value.detach().to(dtype) if value.is_floating_point() else value


@dataclass(frozen=True)
class Together:
    """All outputs of a run that carry a gradient, in one vector as its `loss`, and what the function `returned`."""

    loss: Tensor
    returned: object


def all_outputs(computation: Computation) -> Computation:
    """Returns the computation with its outputs that carry a gradient joined into one vector, where they are several."""

    def call(given: Mapping[str, Any]) -> object:
        result = computation.call(given)
        found = [t for _, t in named_outputs(result) if t.requires_grad]
        return Together(in_one(found), result) if found else result

    return replace(computation, call=call)


def dropped_outputs(result: object) -> list[tuple[str, Tensor]]:
    """Returns the outputs of a run that are of a type that can carry a gradient and carry none, by name."""
    returned = result.returned if isinstance(result, Together) else result
    return [(name, t) for name, t in named_outputs(returned) if differentiable(t) and not t.requires_grad]


def in_one(tensors: Sequence[Tensor]) -> Tensor:
    """Returns several tensors joined into one vector, a single one as it is."""
    dense = [t if t.layout == torch.strided else t.to_dense() for t in tensors]
    return dense[0] if len(dense) == 1 else torch.cat([t.reshape(-1) for t in dense])


def differentiable(value: object) -> bool:
    """Says whether a value is a tensor of a type that can carry a gradient."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def chosen_output(result: object, name: str) -> tuple[Tensor, int]:
    """Returns the output that is explained and how many tensors there were to choose from.

    That is the tensor itself, `loss` where the result has a key or an attribute of this name, or the first tensor that
    requires grad. Raises `RunError` where there is no tensor at all.
    """
    if isinstance(result, Tensor):
        return result, 1
    loss = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    if isinstance(loss, Tensor):
        return loss, 1
    found = [t for _, t in named_outputs(result)]
    if not found:
        raise RunError("no_tensor", name=name, seen="None" if result is None else type(result).__name__)
    return next((t for t in found if t.requires_grad), found[0]), len(found)


def named_outputs(result: object, name: str = "output") -> list[tuple[str, Tensor]]:
    """Returns the tensors in what a function returned, however nested, each by the way to it: y, y[0], loss."""
    if isinstance(result, Mapping):
        return [found for key, part in result.items() for found in _below(part, str(key))]
    return list(_below(result, name))


def _below(value: object, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _below(part, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _below(part, f"{place}[{i}]")


def _calling(
    function: Callable[..., object], inputs: Mapping[str, Any] | Sequence[Any]
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], object]]:
    owner = getattr(function, "__self__", None)
    if isinstance(inputs, Mapping) and isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        order = forward_names(owner)  # `apply` takes names only from a later torch on
        if {*inputs} == {*order}:
            return {name: inputs[name] for name in order}, lambda given: function(*(given[n] for n in order))
    if isinstance(inputs, Mapping):
        return dict(inputs), partial(_call_by_name, function)
    if isinstance(inputs, Tensor):
        inputs = [inputs]
    names = _positional_names(function, len(inputs))
    return dict(zip(names, inputs, strict=True)), lambda given: function(*(given[n] for n in names))


def _call_by_name(function: Callable[..., object], given: Mapping[str, Any]) -> object:
    custom = custom_function(function)
    try:
        if custom is not None and given.keys() <= {*(names := forward_names(custom))}:
            return function(*(given[name] for name in names if name in given))
        return function(**given)
    except TypeError:
        refuse_unknown(function, given)
        raise


def _positional_names(function: Callable[..., object], count: int) -> list[str]:
    import inspect

    if custom := custom_function(function):
        known = forward_names(custom)
        return [known[i] if i < len(known) else f"input{i}" for i in range(count)]
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        known = [
            p.name
            for p in inspect.signature(called).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        known = []
    return [known[i] if i < len(known) else f"input{i}" for i in range(count)]


def _asked(
    given: Mapping[str, Any], parameters: Mapping[str, nn.Parameter], wrt: Sequence[str] | None
) -> tuple[str, ...]:
    able = [n for n, v in given.items() if differentiable(v)]
    if wrt is not None:
        wrt = [part for name in wrt for part in _parts_of(name, able)]
        for name in wrt:
            if name not in given:
                raise InputError("unknown_wrt", name=name, names=", ".join(able) or "–")
            if name not in able:
                raise InputError("integer_wrt", name=name, dtype=_dtype_text(given[name]))
        return tuple(dict.fromkeys(wrt))
    flagged = [n for n in able if n not in parameters and given[n].requires_grad]
    own = flagged or [n for n in able if n not in parameters]
    return (*own, *parameters)


def _parts_of(name: str, able: Sequence[str]) -> Sequence[str]:
    """Returns the parts of an input that was taken apart, or the name itself."""
    return [part for part in able if part.startswith(f"{name}[")] or [name]


def _dtype_text(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__


def _fault_place(fault: BaseException) -> dict[str, object]:
    """Returns what a sentence about a failure in the user's code needs: type, message, file and line."""
    import traceback

    frames = [f for f in traceback.extract_tb(fault.__traceback__) if not is_ours_or_torchs(f.filename)]
    last = frames[-1] if frames else None
    message = str(fault).strip().split("\n", 1)[0]
    return {
        "kind": type(fault).__name__,
        "message": message,
        "at": f" ({last.filename}:{last.lineno}: {(last.line or '').strip()})" if last else "",
    }


_NORMALISING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _on_gpu() -> bool:
    return bool(torch.cuda.is_initialized())


def _random_states() -> tuple[Tensor, ...]:
    """Returns the states of torch's generators: the CPU's, then those of the GPUs in use."""
    return (torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if _on_gpu() else ()))


@contextmanager
def _untouched(random_states: Sequence[Tensor]) -> Iterator[Callable[[], None]]:
    """Yields `begin`, to be called before each run: it sets every generator to where the first run found it.

    Torch's generators start from `random_states`; all of them are given back as they were.
    """
    shared = _KEPT.get()
    kept = shared or _Kept()

    def begin() -> None:
        torch.set_rng_state(random_states[0])
        for device, state in enumerate(random_states[1:]):
            torch.cuda.set_rng_state(state, device)
        kept.begin()

    with torch.random.fork_rng(devices=range(len(random_states) - 1)):
        try:
            yield begin
        finally:
            if shared is None:
                kept.give_back()


@contextmanager
def one_question() -> Iterator[None]:
    """Lets all runs inside the block start from where Python's and numpy's generators are now, and end there.

    One thread asks at a time: generators, a module's parameters and torch's classes are the whole process's.
    """
    with _ASKING, torch.inference_mode(False):  # in which nothing can be differentiated
        kept = _Kept()
        token = _KEPT.set(kept)
        try:
            yield
        finally:
            _KEPT.reset(token)
            kept.give_back()


_ASKING = RLock()


@dataclass(frozen=True)
class _Generator:
    """Python's or numpy's random generator, and where it was: `state[position:]` moves with every draw."""

    get: Callable[[], Any]
    put: Callable[[Any], None]
    state: Any
    position: int

    def moved(self) -> bool:
        return bool(self.get()[self.position :] != self.state[self.position :])

    def give_back(self) -> None:
        self.put(self.state)


class _Kept:
    """Where Python's generator was, and numpy's if it is loaded; those that a function draws from, by its first run."""

    def __init__(self) -> None:
        self.generators = [_Generator(random.getstate, random.setstate, random.getstate(), 1)]
        if numpy := sys.modules.get("numpy"):
            own = numpy.random
            self.generators.append(_Generator(own.get_state, own.set_state, own.get_state(), 2))
        self.drawn: list[_Generator] = []
        self.runs = 0

    def begin(self) -> None:
        if self.runs == 1:
            self.drawn = [generator for generator in self.generators if generator.moved()]
        self.runs += 1
        for generator in self.drawn:
            generator.give_back()

    def give_back(self) -> None:
        for generator in self.generators:
            generator.give_back()


_KEPT: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def swapped(modules: Any, replacements: Mapping[int, Tensor]) -> Iterator[None]:
    """Puts `replacements` (by the identity of the original) and copies of all buffers into the modules for a while.

    Tied weights stay tied, as one original has one replacement.
    """
    undo: list[tuple[dict[str, Any], str, Any]] = []
    dtype = next((t.dtype for t in replacements.values() if t.is_floating_point()), None)
    try:
        for module in {id(m): m for root in modules for _, m in nn.Module.named_modules(root)}.values():
            for table in (module._parameters, module._buffers):
                for name, own in list(table.items()):
                    if own is not None and (id(own) in replacements or table is module._buffers):
                        undo.append((table, name, own))
                        table[name] = replacements.get(id(own), None) if id(own) in replacements else _copy(own, dtype)
        yield
    finally:
        for table, name, own in reversed(undo):
            table[name] = own


def _copy(buffer: Tensor, dtype: torch.dtype | None) -> Tensor:
    copied = buffer.detach().clone()
    widen = dtype == torch.float64 and copied.is_floating_point()
    return copied.double() if widen else copied
