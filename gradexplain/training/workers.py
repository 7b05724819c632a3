"""Whether the workers of a data loader draw the same random numbers, as far as the code of its data set tells.

Each worker is a copy of the process that started it. Torch seeds its own generator, Python's and numpy's anew in each;
a generator that the data set keeps, and one that a function of the user's seeds by a number, are the same in all.
"""

from __future__ import annotations

import dis
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import unwrap
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch

from gradexplain.recording.frames import is_installed, is_ours_or_torchs
from gradexplain.targets.sources import Source, source_at

_SEEDING = frozenset({"seed", "manual_seed", "set_seed", "seed_everything", "seed_all"})
_TELLING = frozenset({"get_worker_info", "initial_seed", "getpid", "worker_id", "urandom", "time"})
_DRAWING = frozenset({
    "rand", "randn", "randint", "random", "uniform", "normal", "choice", "choices", "shuffle", "permutation", "sample",
    "standard_normal", "integers", "gauss", "bernoulli", "rand_like", "randn_like", "randperm", "randrange",
})  # fmt: skip
_MOST_PARTS = 64


@dataclass(frozen=True)
class SameDraws:
    """What starts the workers of a loader from the same state: an expression of the script, its place, how many."""

    code: str
    source: Source
    workers: int


def same_draws(loader: Any) -> SameDraws | None:
    """Returns why the workers of a loader draw the same numbers; `None` where that cannot be told from the code."""
    count, begin = loader.num_workers, loader.worker_init_fn
    if count < 2:
        return None
    functions = [(owner, f) for part in _parts(loader) for owner, f in _functions(part)]
    names = {name for _, function in functions for name in _names(function.__code__)}
    if names & (_TELLING | _SEEDING):
        return None
    if begin is not None:
        source = _seeded_alike(begin) if names & _DRAWING else None
        return SameDraws(source.code, source, count) if source is not None else None
    found = next((kept for owner, function in functions for kept in _kept(owner, function)), None)
    return SameDraws(*found, count) if found is not None else None


def _parts(loader: Any) -> Iterator[Any]:
    """Yields a data set, those that it is made of, and the transforms that they keep."""
    waiting, seen = [loader.dataset, loader.collate_fn], set[int]()
    while waiting and len(seen) < _MOST_PARTS:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        for value in getattr(part, "__dict__", {}).values():
            inner = value if type(value) in (list, tuple) and len(value) < _MOST_PARTS else [value]
            waiting += [v for v in inner if callable(v) or isinstance(v, torch.utils.data.Dataset)]


def _functions(part: Any) -> Iterator[tuple[Any, FunctionType]]:
    """Yields the functions of the script's own that give a sample, each with what it is a method of."""
    if isinstance(part, MethodType):
        part, own = part.__self__, [part.__func__]
    elif isinstance(part, FunctionType):
        own = [part]
    else:
        kinds = [kind for kind in type(part).__mro__ if kind is not object]
        own = [v for kind in kinds for name, v in vars(kind).items() if name not in ("__init__", "__len__")]
    for function in own:
        function = unwrap(function) if isinstance(function, FunctionType) else function
        if isinstance(function, FunctionType):
            file = function.__code__.co_filename
            if not is_installed(file) and not is_ours_or_torchs(file):
                yield part, function


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _kept(owner: Any, function: FunctionType) -> Iterator[tuple[str, Source]]:
    """Yields the generators that a function draws from, of its object or of its module, each with its place."""
    attributes = getattr(owner, "__dict__", {})
    for instruction in dis.get_instructions(function):
        name, of_object = instruction.argval, instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if instruction.opname == "LOAD_GLOBAL" or of_object:
            value = (attributes if of_object else function.__globals__).get(name)
            if _is_generator(value):
                text = f"self.{name}" if of_object else name
                yield text, source_at(function.__code__, instruction.offset)


def _is_generator(thing: Any) -> bool:
    numpy = sys.modules.get("numpy")
    numpys = (numpy.random.Generator, numpy.random.RandomState) if numpy is not None else ()
    return isinstance(thing, (random.Random, torch.Generator, *numpys))


def _seeded_alike(begin: Any) -> Source | None:
    """Returns the line of a worker's first function that seeds, where it does not ask which worker this is."""
    if not isinstance(begin, FunctionType) or not begin.__code__.co_argcount:
        return None
    code, worker = begin.__code__, begin.__code__.co_varnames[0]
    instructions = list(dis.get_instructions(begin))
    if {*_names(code)} & _TELLING or worker in code.co_cellvars:
        return None
    if any(i.opname.startswith("LOAD_") and worker in (i.argval, *_several(i.argval)) for i in instructions):
        return None
    seeding = next((i for i in instructions if i.argval in _SEEDING), None)
    if seeding is None:
        return None
    calls = (i for i in instructions if i.offset > seeding.offset and i.opname.startswith("CALL"))
    call = next(calls, seeding)
    return source_at(code, call.offset)


def _several(names: Any) -> tuple[Any, ...]:
    return names if isinstance(names, tuple) else ()
