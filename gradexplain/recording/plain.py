"""One plain run: forward and backward as the user calls them, with nobody watching.

The gradient of this run is the one that is shown and judged; nothing of the user's was called before it. It ends in
`.backward()` into leaves, with the user's own parameters and the hooks on them: `.grad()` is refused by re-entrant
checkpoints, and asks a backward for other gradients than it is asked for in training. Whatever the pass changed of the
user's is put back: the numbers, `.grad` and hooks of every leaf, and the state of an optimizer that a hook steps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradexplain.errors import InputError
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.computation import Computation, chosen_output
from gradexplain.recording.holdings import held_by
from gradexplain.recording.lifetime import SAFE
from gradexplain.recording.nodes import is_leaf, nodes_below, ordered
from gradexplain.recording.recorder import copy_of, materialised, same
from gradexplain.recording.trace import Apart, Cause
from gradexplain.versions.internals import (
    function_of,
    has_hooks,
    hook_tables,
    hooks_after,
    hooks_of,
    put_hook_tables,
    sequence_number,
    sequence_of,
    storage_of,
)

# What a backward pass starts from: a tensor, a function of the output that makes one, or ones.
Cotangent = Tensor | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Plain:
    """What a plain run gave; `fault` is what its backward pass raised.

    `changed` are the inputs whose `.grad` a hook changed after it was written; `drew` says that the backward pass drew
    random numbers.
    """

    value: Tensor
    seed: Tensor
    gradients: Mapping[str, Tensor | None]
    changed: tuple[str, ...] = ()
    fault: Exception | None = None
    drew: bool = False


def run_plainly(computation: Computation, cotangent: Cotangent = None, *, skipping: int = 0) -> Plain | None:
    """Runs a computation forward and backward once; returns `None` where its output carries no gradient.

    So many random numbers as `skipping` says are drawn between the two passes: what draws in the second gets others.
    """
    before = sequence_number()()
    leaves = computation.own_leaves()
    wanted = {name: leaves[name] for name in computation.wrt}
    users = [own for name, own in computation.own.items() if own is wanted.get(name) or has_hooks(own)]
    for name, own in computation.own.items():
        if name in wanted and wanted[name] is not own:
            _carry(own, wanted[name])
    with kept_as_found(users, numbers=True), torch.enable_grad(), computation.run_for(leaves) as result:
        output, _ = chosen_output(result, computation.name)
        if not output.requires_grad:
            return None
        seed, value = seed_for(output, cotangent), copy_of(output)  # a backward may free what its output lies in
        nodes = nodes_below(output.grad_fn)
        if len(nodes) > SAFE:
            ordered(output.grad_fn)
        keep = reaches_back(nodes, before)
        asked = list(wanted.values())
        if skipping:
            torch.rand(skipping)
        state = torch.get_rng_state()
        try:
            if computation.into_leaves:
                passed = backpropagated(output, asked, seed, nodes, keep=keep)
            else:
                passed = Backpropagated(differentiated(output, asked, seed.clone(), retain_graph=keep))
        except Exception as fault:  # torch's own refusal, or an error in the user's code
            return Plain(value, seed, {}, fault=fault)
        drew = not torch.equal(state, torch.get_rng_state())
    gradients = dict(zip(wanted, passed.gradients, strict=True))
    changed = tuple(name for name, leaf in wanted.items() if id(leaf) in passed.changed)
    return Plain(value, seed, gradients, changed, drew=drew)


def _carry(own: Tensor, leaf: Tensor) -> None:
    """Puts the hooks on a leaf of the user's on the one that stands for it."""
    for hook in hooks_of(own):
        leaf.register_hook(hook)
    for after in hooks_after(own):

        def run(tensor: Tensor, after: Callable[..., object] = after) -> None:
            with suppress(Exception):  # one that knows the user's very tensor has nothing to do here
                after(tensor)

        leaf.register_post_accumulate_grad_hook(run)


def apart(
    own: Plain, watched: Mapping[str, Tensor | None], again: Callable[[], Plain | None], *, inlined: bool
) -> dict[str, Apart]:
    """Returns where watched gradients are not bit by bit the plain ones, and by further plain runs (`again`), why.

    There are two of them, as a backward may do the same every second time. What is run in line sums in another order:
    then last digits are no difference.
    """
    unlike = [n for n, g in own.gradients.items() if n not in own.changed and not is_same(g, watched[n])]
    further = [run for _ in range(2) if (run := again()) is not None] if unlike else []
    found: dict[str, Apart] = {}
    for name in unlike:
        plain = own.gradients[name]
        second = next((run for run in further if not is_same(plain, run.gradients.get(name))), None)
        if second is None:
            difference = _difference(plain, watched[name], "watching")
        else:
            cause: Cause = "backward" if is_same(own.value, second.value) else "function"
            difference = _difference(plain, second.gradients.get(name), cause)
        if difference is not None and not (difference.slight and inlined):
            found[name] = difference
    return found


# A few draws of a mask may be alike where it matters.
_DRAWS = 8


def drawn(own: Plain, again: Callable[[int], Plain | None]) -> dict[str, Apart]:
    """Returns where a run whose backward pass drew other random numbers has another gradient of the same value."""
    found: dict[str, Apart] = {}
    for skipping in range(1, _DRAWS + 1 if own.drew else 1):
        other = again(skipping)
        if other is None or other.fault is not None or not is_same(own.value, other.value):
            return {}
        for name in own.gradients.keys() - found.keys():
            apart = _difference(own.gradients[name], other.gradients[name], "draws")
            if apart is not None and not apart.slight:
                found[name] = apart
        if found:
            break
    return found


def is_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Says whether two gradients are the same bit by bit, in whatever layout."""
    if one is None or other is None:
        return one is other
    return same(one.to_dense(), other.to_dense())


# What another order of summation may change, in last digits of the largest element.
_SLIGHT = 64


def adds_up(gradient: Tensor, parts: Sequence[Tensor]) -> bool:
    """Says whether a gradient is the sum of its parts, but for the order of the sum."""
    total, size = torch.zeros_like(gradient).to_dense(), torch.zeros_like(gradient).to_dense()
    for part in parts:
        total, size = total + part.to_dense(), size + part.to_dense().abs()
    if not bool(total.isfinite().all()):
        return True
    off = (gradient.to_dense() - total).abs()
    return bool((off <= _SLIGHT * torch.finfo(gradient.dtype).eps * size.abs()).all())


def is_slight(one: Tensor, other: Tensor) -> bool:
    """Says whether two numbers of one run are apart by no more than another order of summation makes."""
    difference = _difference(one, other, "function")
    return difference is None or difference.slight


def _difference(plain: Tensor | None, other: Tensor | None, cause: Cause) -> Apart | None:
    like = plain if plain is not None else other
    if like is None:
        return None
    one, two = (torch.zeros_like(like).to_dense() if g is None else g.to_dense() for g in (plain, other))
    if one.shape != two.shape:
        return Apart((), tuple(one.shape), tuple(two.shape), cause, slight=False)
    distance = torch.where((one == two) | (one.isnan() & two.isnan()), 0.0, (one - two).abs())
    place = unravelled(int(distance.flatten().nan_to_num(torch.inf).argmax()), one.shape)
    size = torch.where(one.isfinite(), one.abs(), 0.0).max()
    slight = bool((distance <= _SLIGHT * torch.finfo(one.dtype).eps * size).all())
    return Apart(place, one[place].item(), two[place].item(), cause, slight)


def reaches_back(nodes: Sequence[Any], before: int) -> bool:
    """Says whether a graph reaches into what was computed before the node of this number: it must not be freed."""
    return any(not is_leaf(node) and sequence_of(node) < before for node in nodes)


def seed_for(output: Tensor, cotangent: Cotangent) -> Tensor:
    """Returns the cotangent that the backward pass starts from: ones where none is given.

    Raises `InputError` where the given one cannot take the output's shape, and for an output in a sparse layout.
    """
    if cotangent is not None and not isinstance(cotangent, Tensor):
        return cotangent(output.detach())
    if output.layout != torch.strided:
        raise InputError("sparse_output", layout=str(output.layout).removeprefix("torch."))
    if cotangent is None:
        return torch.ones_like(output)
    try:
        return cotangent.detach().to(output.dtype).to(output.device).expand(output.shape).clone()
    except RuntimeError as fault:
        raise InputError("cotangent_shape", seen=_shape_text(cotangent), needed=_shape_text(output)) from fault


def _shape_text(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def differentiated(output: Tensor, wanted: Sequence[Tensor], seed: Tensor, **options: bool) -> list[Tensor | None]:
    """Returns `torch.autograd.grad`'s gradients, `None` for an input that the output does not depend on."""
    given = None if is_plain_one(output, seed) else seed
    found = torch.autograd.grad(output, wanted, given, allow_unused=True, **options)
    return [None if gradient is None else materialised(gradient) for gradient in found]


def left_by_backward(
    output: Tensor,
    wanted: Sequence[Tensor],
    seed: Tensor,
    nodes: Sequence[Any],
    *,
    keep: bool,
    into_leaves: bool = True,
) -> list[Tensor | None]:
    """Returns the gradients that `output.backward` leaves in leaves, without a write where there is no difference.

    Only a custom Function sees one: in what it is asked for, and in a backward pass inside its own. Without
    `into_leaves` the gradients are those of `torch.autograd.grad`.
    """
    if into_leaves and any(map(function_of, nodes)):
        return list(backpropagated(output, wanted, seed, nodes, keep=keep).gradients)
    return differentiated(output, wanted, seed.clone(), retain_graph=keep)


def is_plain_one(output: Tensor, seed: Tensor) -> bool:
    """Says whether a seed is the 1 that torch starts from by itself.

    It is left out then: torch loads sympy, half a second, to compare the shape of one that is given.
    """
    return output.numel() == 1 and not output.is_complex() and bool((seed == 1).all())


# ------------------------------------------------------------------------------------------------- backward into leaves


@dataclass(frozen=True)
class Backpropagated:
    """The gradients that a backward pass left, and the leaves (by identity) where a hook changed what was written."""

    gradients: Sequence[Tensor | None]
    changed: frozenset[int] = frozenset()


def backpropagated(
    output: Tensor, wanted: Sequence[Tensor], seed: Tensor, nodes: Sequence[Any], *, keep: bool
) -> Backpropagated:
    """Calls `output.backward` and returns the gradients of the leaves `wanted`; every leaf ends as it was found.

    `nodes` are those of the graph, which can be run again if `keep`.
    """
    others = [*(n.variable for n in nodes if is_leaf(n)), *(leaf for n in nodes for leaf in _hidden_leaves(n))]
    leaves = list({id(leaf): leaf for leaf in (*wanted, *others)}.values())
    stepping = any(map(hooks_after, leaves))
    # A custom Function may have kept what it gave back, and write into it when it is called again.
    shared, stepping = any(map(function_of, nodes)), any(map(hooks_after, leaves))
    with kept_as_found(leaves, numbers=stepping):
        arrivals = {id(leaf): _Arrival(leaf) for leaf in wanted} if stepping else {}
        # A copy: a backward may write into what arrives.
        output.backward(None if is_plain_one(output, seed) else seed.clone(), retain_graph=keep)
        left = [arrivals[id(leaf)].left() if stepping else leaf.grad for leaf in wanted]
        gradients = [None if g is None else _own(g, copied=shared) for g in left]
    return Backpropagated(gradients, frozenset(leaf for leaf, arrival in arrivals.items() if arrival.changed))


def _own(gradient: Tensor, *, copied: bool) -> Tensor:
    whole = materialised(gradient).detach()
    return whole.clone() if copied else whole


def _hidden_leaves(node: Any) -> Iterator[Tensor]:
    """Yields the parameters and leaves that a custom Function's context reaches: its backward may run backward itself.

    A re-entrant checkpoint keeps the function that it runs again, and torch's graph does not know what is in it.
    """
    for kept in vars(node).values() if function_of(node) else ():
        if isinstance(kept, nn.Module) or callable(kept):
            modules, leaves = held_by(kept)
            yield from (p for module in modules.values() for p in module.parameters() if p.is_leaf)
            yield from leaves.values()


class _Arrival:
    """What arrives at a leaf in a backward pass, noted before hooks see it that run when it is written."""

    def __init__(self, leaf: Tensor) -> None:
        self.leaf, self.before = leaf, copy_of(leaf)
        self.total: Tensor | None = None
        self.changed = False
        leaf.register_hook(self.note)  # behind the user's own, which change what is written

    def note(self, gradient: Tensor) -> None:
        self.total = copy_of(gradient) if self.total is None else self.total + gradient.detach()

    def left(self) -> Tensor | None:
        """Returns the gradient as hooks left it; of one that a hook has used up, what had arrived."""
        gradient = self.leaf.grad
        if gradient is None or self.total is None or not same(self.leaf, self.before):
            return self.total
        self.changed = not is_same(gradient, self.total)
        return gradient


# ---------------------------------------------------------------------------------------------------- as it was found


class _Leaf:
    """A leaf of the user's, and what a pass may change of it: its gradient, its hooks and, if asked, its numbers."""

    def __init__(self, tensor: Tensor, *, numbers: bool) -> None:
        self.tensor, self.memory, self.gradient = tensor, tensor.data, tensor.grad
        self.hooks = hook_tables(tensor)
        self.numbers = copy_of(tensor) if numbers else None
        tensor.grad = None

    def give_back(self) -> None:
        if self.numbers is not None:
            if storage_of(self.tensor) != storage_of(self.memory):
                self.tensor.data = self.memory
            if not same(self.memory, self.numbers):
                self.memory.copy_(self.numbers)
        self.tensor.grad = self.gradient
        put_hook_tables(self.tensor, self.hooks)


@contextmanager
def kept_as_found(leaves: Collection[Tensor], *, numbers: bool) -> Iterator[None]:
    """Takes the gradients away from leaves and gives all back at the end of the block, optimizers that stepped too."""
    kept = [_Leaf(leaf, numbers=numbers) for leaf in leaves]
    with _kept_optimizers({id(leaf) for leaf in leaves}) if numbers else nullcontext():
        try:
            yield
        finally:
            for leaf in kept:
                leaf.give_back()


@contextmanager
def _kept_optimizers(leaves: Collection[int]) -> Iterator[None]:
    """Gives their state back to the optimizers that step in the block and have one of the leaves, named by identity."""
    kept: dict[int, _Optimizer] = {}

    def keep(optimizer: Optimizer, *_: object) -> None:
        if any(id(p) in leaves for group in optimizer.param_groups for p in group["params"]):
            kept.setdefault(id(optimizer), _Optimizer(optimizer))

    handle = register_optimizer_step_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
        for optimizer in kept.values():
            optimizer.give_back()


class _Optimizer:
    """An optimizer that works on a copy of its state, until it is given back."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.state = optimizer, dict(optimizer.state)
        self.groups = [dict(group) for group in optimizer.param_groups]
        optimizer.state.update({p: deepcopy(state) for p, state in self.state.items()})
        for group in optimizer.param_groups:
            group.update({name: deepcopy(value) for name, value in group.items() if name != "params"})

    def give_back(self) -> None:
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)
        for group, kept in zip(self.optimizer.param_groups, self.groups, strict=True):
            group.clear()
            group.update(kept)
