"""The two sides of a comparison: what each is called with, and what it gives, under the names of the reference.

A side is a function or a module, whose outputs are differentiated here, or a callable that returns gradients by name
(a training step, the part of a rank), which is taken at its word. Both start from the same numbers: the inputs, the
reference's parameters in the candidate's own types, and the same random state.
"""

from __future__ import annotations

import difflib
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradexplain.comparison.draws import Draw
from gradexplain.comparison.outlines import Outline
from gradexplain.comparison.rounding import Label, Rounding
from gradexplain.errors import InputError
from gradexplain.recording.computation import (
    Computation,
    Together,
    computation_of,
    differentiable,
    in_one,
    named_outputs,
    with_dtype,
)
from gradexplain.recording.cuts import not_differentiable
from gradexplain.recording.plain import run_plainly
from gradexplain.recording.recorder import copy_of, same
from gradexplain.recording.tracing import generic, record
from gradexplain.verification.derivatives import gradient_of
from gradexplain.verification.oracles.measures import dense
from gradexplain.verification.oracles.promotion import LOW
from gradexplain.verification.oracles.replays import in_float64


@dataclass(frozen=True)
class Outcome:
    """What a side gave: the number of every output and the gradient of every input and parameter, by name.

    `reached` names the outputs that a gradient leads back from, `drew` says that random numbers were drawn.
    """

    values: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None]
    reached: tuple[str, ...] = ()
    drew: bool = False


@dataclass(frozen=True)
class Given:
    """What a side gave elsewhere, or at another time: the tensors, and of these what else is known.

    That is its `truth` in float64, what `rounding` does to each of them, in which order it `draws` random numbers, an
    `outline` of its steps, and whether it has `rounded` constants of a short type.
    """

    outcome: Outcome
    truth: Mapping[Label, Tensor | None] | None = None
    rounding: Mapping[Label, Rounding] = field(default_factory=dict)
    draws: tuple[Draw, ...] = ()
    outline: Outline | None = None
    rounded: bool = False


@dataclass(frozen=True)
class Side:
    """One way to the gradient. `names` are the reference's names of inputs that are called otherwise here.

    `results` are those of outputs. `outputs` are those to differentiate, by name; all that can be, where it is `None`.
    `exact` are the reference's own numbers, of inputs that are rounded to a shorter type here; `around` makes what
    every run takes place in. What a side `gave` elsewhere is taken as it is: then it is not run at all.
    """

    computation: Computation
    names: Mapping[str, str]
    outputs: tuple[str, ...] | None = None
    results: Mapping[str, str] = field(default_factory=dict)
    exact: Mapping[str, Tensor] = field(default_factory=dict)
    around: tuple[Callable[[], Any], ...] = ()
    gave: Given | None = None
    seeds: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)

    @contextmanager
    def running(self, mode: Any = None) -> Iterator[None]:
        """Makes a block one that the side runs in."""
        with ExitStack() as stack:
            for make in self.around:
                stack.enter_context(make())
            if mode is not None:
                stack.enter_context(mode)
            yield

    def run(self, mode: Any = None) -> Outcome:
        """Runs the side once, in a mode if one is given; raises `RunError` where it fails or gives no gradient."""
        if self.gave is not None:
            return replace(self.gave.outcome, gradients=self._renamed(self.gave.outcome.gradients))
        returned: list[Returned] = []
        joined = self.joined(returned)
        with self.running(mode):
            plain = run_plainly(joined, lambda output: self.seed(output, returned[-1]))
        found = returned[-1]
        if plain is not None:
            if plain.fault is not None:
                record(
                    joined, lambda output: self.seed(output, returned[-1])
                )  # fails as well, and says who is at fault
                raise plain.fault
            inputs = self.computation.inputs
            gradients = {n: None if g is None else dense(g, inputs[n]) for n, g in plain.gradients.items()}
            values = {self.results.get(n, n): t for n, t in found.values.items()}
            return Outcome(values, self._renamed(gradients), found.reached, found.drew or plain.drew)
        if found.gradients is None:
            raise not_differentiable(record(joined).recorder, self.computation.leaf_values())
        return Outcome({}, self._renamed(found.gradients), drew=found.drew)

    def seed(self, output: Tensor, returned: Returned) -> Tensor:
        """Returns the cotangent of the joined outputs, which is the same in every run of the side.

        Under a mode, torch draws other numbers from a generator: the first run, under none, keeps them.
        """
        names = [self.results.get(n, n) for n in returned.reached]
        shapes = [shape for shape, _ in returned.shapes]
        key = (tuple(output.shape), output.is_complex(), *zip(names, shapes, strict=True))
        if key not in self.seeds:
            self.seeds[key] = seed_of(output, dict(zip(names, shapes, strict=True)))
        return self.seeds[key].to(output.dtype).to(output.device)

    def joined(self, returned: list[Returned]) -> Computation:
        """Returns the computation with its outputs in one vector; every run adds what it `returned` to the list."""

        def call(given: Mapping[str, Any]) -> object:
            state = torch.get_rng_state()
            result = self.computation.call(given)
            drew = not torch.equal(state, torch.get_rng_state())
            outputs = [(n, t) for n, t in named_outputs(result) if differentiable(t)]
            reached = [(n, t) for n, t in outputs if t.requires_grad and self._is_wanted(n)]
            given_back = _gradients_in(result) if not reached else None
            values = {} if given_back is not None else {n: copy_of(t.detach()) for n, t in outputs}
            shapes = tuple((tuple(t.shape), t.dtype) for _, t in reached)
            returned.append(Returned(values, tuple(n for n, _ in reached), shapes, given_back, drew))
            return Together(in_one([t for _, t in reached]), result) if reached else _anything(result)

        return replace(self.computation, call=call)

    def _is_wanted(self, name: str) -> bool:
        return self.outputs is None or name in self.outputs

    def _renamed(self, found: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
        return {self.names.get(name, name): value for name, value in found.items()}

    def measurable(self) -> Side:
        """Returns the side as it is run to be measured: with fresh leaves, so without the user's hooks, and uncompiled.

        The compiler would compile what watches a run, for each run anew.
        """
        return replace(self.uncompiled(), computation=replace(self.computation, own={}))

    def uncompiled(self) -> Side:
        """Returns the side with what it compiles as it was written."""
        return replace(self, around=(*self.around, _uncompiled))

    def widened(self, constants: list[Tensor]) -> Iterator[Side]:
        """Yields the side in float64; then with the operators that refuse float64 in a shorter type.

        The numbers that it holds in a shorter type, other than its inputs, are added to `constants`.
        """
        if self.gave is not None:
            return
        inputs = self.computation.inputs
        own = next((t.dtype for t in inputs.values() if differentiable(t)), torch.get_default_dtype())
        exact = with_dtype(replace(self.computation, inputs={**inputs, **self.exact}), torch.float64)
        constants += [b for m in self.computation.modules.values() for b in nn.Module.buffers(m) if b.dtype in LOW]
        for computation in in_float64(exact, own, constants=constants):
            yield replace(self.measurable(), computation=computation)

    def by_names(self) -> Computation:
        """Returns the computation with the reference's names of its inputs."""
        own = self.computation
        called = {n: self.names.get(n, n) for n in own.inputs}

        def call(given: Mapping[str, Any]) -> object:
            return own.call({n: given[called[n]] for n in own.inputs if n not in own.parameters})

        inputs = {called[n]: v for n, v in own.inputs.items()}
        parameters = {called[n]: p for n, p in own.parameters.items()}
        wrt = tuple(called[n] for n in own.wrt)
        return replace(own, call=call, inputs=inputs, parameters=parameters, wrt=wrt, own={})

    def second(self) -> Side:
        """Returns the side whose value is the first gradient, and whose gradients are the second."""
        returned: list[Returned] = []
        joined = self.joined(returned)
        first = joined.output(joined.leaf_values()).detach()
        seed = self.seed(first, returned[-1])
        return replace(self, computation=gradient_of(joined, seed), outputs=None, results={}, seeds={})


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Lets compiled functions run as they were written; where none was compiled, the compiler is not even loaded."""
    with torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext():
        yield


@dataclass(frozen=True)
class Returned:
    """What a run returned: its outputs, those that are differentiated with their shapes, or gradients by name."""

    values: Mapping[str, Tensor]
    reached: tuple[str, ...]
    shapes: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    gradients: Mapping[str, Tensor | None] | None
    drew: bool


def seed_of(output: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Returns the cotangent of the joined outputs: 1 for a single number, so that the gradient is the user's own.

    Else each output has generic numbers of its own, which follow from its name: two that are mixed up are seen.
    """
    if output.numel() == 1 or len(shapes) == 0:
        return torch.ones_like(output)
    if len(shapes) == 1:
        return generic(output)
    like = partial(torch.empty, dtype=output.dtype, device=output.device)
    return torch.cat([generic(like(s), zlib.crc32(n.encode())).reshape(-1) for n, s in shapes.items()])


def _gradients_in(result: object) -> Mapping[str, Tensor | None] | None:
    """Returns the gradients by name that a side returned in place of outputs, `None` where it returned none."""
    if not isinstance(result, Mapping) or not result:
        return None
    if not all(isinstance(name, str) and (t is None or isinstance(t, Tensor)) for name, t in result.items()):
        return None
    return {name: None if t is None else copy_of(t.detach()) for name, t in result.items()}


def _anything(result: object) -> object:
    """Returns a result with a tensor in it, where all gradients that were returned by name are `None`."""
    return result if named_outputs(result) else torch.zeros(())


# ---------------------------------------------------------------------------------------------------------- matching


def sides_of(
    a: Callable[..., object],
    b: Callable[..., object],
    inputs: Mapping[str, Any] | Sequence[Any],
    *,
    rename: Mapping[str, str],
    wrt: Sequence[str] | None = None,
    names: tuple[str | None, str | None] = (None, None),
    dtype: torch.dtype | None = None,
) -> tuple[Side, Side, tuple[str, ...]]:
    """Returns both sides, and the parameters that had other numbers in the candidate: it runs with the reference's.

    Raises `InputError` where parameters do not match, or where one has another shape.
    """
    one = computation_of(a, inputs, wrt=wrt, name=names[0])
    given = {_renamed(n, rename): v for n, v in inputs.items()} if isinstance(inputs, Mapping) else inputs
    other = computation_of(b, given, name=names[1])
    if dtype is not None:
        one, other = with_dtype(one, dtype), with_dtype(other, dtype)
    own, candidates = ([n for n in c.inputs if n not in c.parameters] for c in (one, other))
    called = dict(zip(candidates, own, strict=True))
    called |= matched(one.parameters, other.parameters, rename)
    short = _type_of(other.parameters)
    values = {n: _given(n, other, one.inputs[called[n]], one, short) for n in other.inputs}
    changed = tuple(
        called[n]
        for n, p in other.parameters.items()
        if not same(p.detach(), values[n].detach()) and p.device.type != "meta"
    )
    inverse = {reference: name for name, reference in called.items()}
    asked = tuple(inverse[n] for n in one.wrt if n in inverse)
    other = replace(other, inputs=values, wrt=asked, random_states=one.random_states)
    exact = {
        n: one.inputs[called[n]].detach()
        for n, v in values.items()
        if isinstance(v, Tensor) and v.dtype != one.inputs[called[n]].dtype
    }
    return Side(one, {}), Side(other, called, exact=exact), changed


def _given(name: str, other: Computation, value: Any, one: Computation, short: torch.dtype | None) -> Any:
    """Returns what the candidate is given in place of an input: the reference's number, in the candidate's type."""
    own = other.inputs[name]
    if not isinstance(own, Tensor) or not isinstance(value, Tensor):
        return own
    if name in other.parameters:
        if own.shape != value.shape:
            raise InputError("compare_shape", name=name, one=tuple(value.shape), other=tuple(own.shape))
        given = value.detach().to(own.dtype).to(own.device)
        return own if same(own.detach(), given) else given
    fits = short is None or not differentiable(own) or own.dtype != _type_of(one.parameters) or own.is_complex()
    return own if fits else own.detach().to(short).requires_grad_(own.requires_grad)


def _type_of(parameters: Mapping[str, nn.Parameter]) -> torch.dtype | None:
    """Returns the one type that all parameters have, `None` where there are none or several."""
    types = {parameter.dtype for parameter in parameters.values()}
    return types.pop() if len(types) == 1 else None


def matched(
    reference: Mapping[str, object] | Collection[str],
    candidate: Mapping[str, object] | Collection[str],
    rename: Mapping[str, str],
) -> dict[str, str]:
    """Returns the reference's name of each of the candidate's: the same thing, a renamed, the same or a longer name.

    `rename` maps a name, or the path of a module, to what it is called in the candidate. Raises `InputError` that
    lists what has no counterpart, each with the nearest name that is left.
    """
    found: dict[str, str] = {}
    left = dict.fromkeys(reference)

    def take(pairs: Iterator[tuple[str, str]]) -> None:
        for name, own in list(pairs):
            if name not in found and own in left:
                found[name] = own
                del left[own]

    things = {id(t): n for n, t in reference.items()} if isinstance(reference, Mapping) else {}
    if isinstance(candidate, Mapping):
        take((n, things[id(t)]) for n, t in candidate.items() if t is not None and id(t) in things)
    take((_renamed(own, rename), own) for own in list(left) if _renamed(own, rename) in candidate)
    for name in [n for n in candidate if n not in found]:
        ends = [own for own in left if own.endswith(f".{name}") or name.endswith(f".{own}")]
        take(iter([(name, ends[0])] if len(ends) == 1 else []))
    lacking = [n for n in candidate if n not in found]
    if left or lacking:
        raise InputError("compare_unmatched", ours=_listed(left, lacking), theirs=_listed(lacking, left))
    return found


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    for old, new in sorted(rename.items(), key=lambda pair: -len(pair[0])):
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


# So many names are listed, with what is nearest to each.
_MOST_NAMED = 12


def _listed(names: Collection[str], others: Collection[str]) -> str:
    """Returns names, each with the nearest of the others."""
    said = []
    for name in list(names)[:_MOST_NAMED]:
        near = difflib.get_close_matches(name, list(others), n=1, cutoff=0.4)
        said.append(f"{name} (≈ {near[0]})" if near else name)
    more = f" … +{len(names) - _MOST_NAMED}" if len(names) > _MOST_NAMED else ""
    return (", ".join(said) or "–") + more
