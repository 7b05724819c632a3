"""Torch's own operator database as functions of a few tensors, to try gradient checkers on.

A case is what torch's gradient tests make of a sample: the tensors that require grad are the function's arguments, all
other arguments are captured, and the operator's own `gradcheck_wrapper` is applied. Left out is what those tests skip,
or expect to fail, and what gradcheck slow would take minutes over.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

# The most numbers in the tensors that are differentiated, and in the outputs.
LARGEST = 100
# Only the first samples of an operator are looked at.
LOOKED_AT = 60


@dataclass(frozen=True)
class Case:
    """A function of some of an operator's arguments, the others captured; its outputs are the differentiable ones."""

    operator: str
    number: int
    call: Callable[..., Any]
    leaves: Sequence[Any]
    structure: Any
    moved: Sequence[int]  # the leaves that are the function's arguments
    kept: Sequence[int] | None = None  # the outputs that are differentiable; all outputs until that is known

    @property
    def dtype(self) -> torch.dtype:
        """The type of the function's arguments."""
        found: torch.dtype = self.leaves[self.moved[0]].dtype
        return found

    @property
    def inputs(self) -> list[Tensor]:
        """The arguments at the sample, as fresh leaves that require grad where their type can."""
        given = [self.leaves[i].detach().clone() for i in self.moved]
        return [t.requires_grad_(t.is_floating_point() or t.is_complex()) for t in given]

    def __call__(self, *inputs: Tensor) -> Any:
        """Runs the operator: one tensor, or a tuple of them."""
        placed = dict(zip(self.moved, inputs, strict=True))
        leaves = [placed.get(i, leaf) for i, leaf in enumerate(self.leaves)]
        outputs = pytree.tree_leaves(self.call(*pytree.tree_unflatten(leaves, self.structure)))
        kept = outputs if self.kept is None else [outputs[i] for i in self.kept]
        return kept[0] if len(kept) == 1 else tuple(kept)

    def to(self, dtype: torch.dtype) -> Case:
        """Returns the case with every real tensor, and every type that an argument names, in `dtype`."""
        return self if dtype == self.dtype else replace(self, leaves=[_cast(leaf, dtype) for leaf in self.leaves])


def _cast(leaf: Any, dtype: torch.dtype) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().to(dtype)
    return dtype if isinstance(leaf, torch.dtype) and leaf.is_floating_point else leaf


def outputs_of(case: Case, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Runs a case and returns its outputs as a tuple."""
    found = case(*inputs)
    return found if isinstance(found, tuple) else (found,)


@cache
def all_operators() -> Mapping[str, Any]:
    """Returns every operator of the database, by name."""
    from torch.testing._internal.common_methods_invocations import op_db

    return {op.full_name: op for op in op_db}


@cache
def operators() -> Mapping[str, Any]:
    """Returns the operators that have a float64 backward on the CPU, by name."""
    return {name: op for name, op in all_operators().items() if op.supports_autograd and able_in(op, torch.float64)}


def sample_of(name: str, dtype: torch.dtype, number: int) -> Case | None:
    """Returns one sample of an operator as a function of what torch's tests differentiate it by, else of its numbers.

    It is the same every time. `None` where there is none, because the operator has no such type or no more samples.
    """
    samples = _samples(name, dtype)
    for sample in islice(samples.source, max(0, number + 1 - len(samples.drawn))):
        samples.drawn.append(sample)
    return samples.drawn[number] if number < len(samples.drawn) else None


@dataclass
class _Samples:
    """The samples of an operator in one type: those drawn, and where the others come from."""

    source: Iterator[Case]
    drawn: list[Case]


@lru_cache(maxsize=4)
def _samples(name: str, dtype: torch.dtype) -> _Samples:
    return _Samples(_all_of(name, dtype), [])


def _all_of(name: str, dtype: torch.dtype) -> Iterator[Case]:
    op = all_operators()[name]
    if dtype in op.supported_dtypes("cpu"):
        _seeded(name)
        able = able_in(op, dtype)
        for number, sample in enumerate(op.sample_inputs("cpu", dtype, requires_grad=able)):
            yield _whole(op, name, number, sample, able)


def _whole(op: Any, name: str, number: int, sample: Any, able: bool) -> Case:
    leaves, structure = pytree.tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    numbers = [i for i in tensors if leaves[i].is_floating_point() or leaves[i].is_complex()]
    moved = [i for i in numbers if leaves[i].requires_grad] if able else numbers
    return Case(name, number, _called(op, sample), leaves, structure, moved or numbers or tensors)


def left_out(op: Any) -> bool:
    """Says whether torch's CI skips the operator's gradient test in float64 on the CPU, or expects it to fail."""

    def test() -> None: ...

    for decorate in op.get_decorators("TestBwdGradients", "test_fn_grad", "cpu", torch.float64, {}):
        test = decorate(test)
    return bool(getattr(test, "__unittest_skip__", False) or getattr(test, "__unittest_expecting_failure__", False))


def able_in(op: Any, dtype: torch.dtype) -> bool:
    """Says whether the operator has a backward in `dtype` on the CPU."""
    return dtype in op.supported_backward_dtypes("cpu")


def cases_of(name: str) -> list[Case]:
    """Returns the usable samples of an operator as cases in float64, always the same ones.

    Where all samples are too large, those are taken that torch's CI reserves for gradcheck slow.
    """
    op = operators()[name]
    return _drawn(op, name, small=False) or _drawn(op, name, small=True)


def _drawn(op: Any, name: str, small: bool) -> list[Case]:
    _seeded(name)
    return list(_usable(op, name, op.sample_inputs("cpu", torch.float64, requires_grad=True, small_inputs_only=small)))


def _seeded(name: str) -> None:
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)


def _usable(op: Any, name: str, samples: Iterator[Any]) -> Iterator[Case]:
    for number, sample in enumerate(islice(samples, LOOKED_AT)):
        leaves, structure = pytree.tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
        moved = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if moved and all(_plain(leaf) for leaf in leaves if isinstance(leaf, Tensor)):
            case = Case(name, number, _called(op, sample), leaves, structure, moved)
            if 0 < sum(t.numel() for t in case.inputs) <= LARGEST:
                yield from _differentiable(case)


def _plain(leaf: Tensor) -> bool:
    return leaf.layout == torch.strided and not leaf.is_complex()


def _called(op: Any, sample: Any) -> Callable[..., Any]:
    run, wrapper, processed = op.get_op(), op.gradcheck_wrapper, sample.output_process_fn_grad
    return lambda input, args, kwargs: processed(wrapper(run, input, *args, **kwargs))


def _differentiable(case: Case, largest: float = LARGEST) -> Iterator[Case]:
    """Gives the case with its differentiable outputs, where it has some and not too many."""
    found = outputs_of(case, case.inputs)
    kept = [i for i, y in enumerate(found) if isinstance(y, Tensor) and y.requires_grad and _plain(y)]
    if 0 < sum(found[i].numel() for i in kept) <= largest:
        yield replace(case, kept=kept)


def case_of(name: str, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Case:
    """Returns any function of real tensors as a case."""
    leaves, structure = pytree.tree_flatten(tuple(inputs))
    return next(_differentiable(Case(name, 0, function, leaves, structure, range(len(leaves))), math.inf))
