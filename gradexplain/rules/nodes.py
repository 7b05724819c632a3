"""Which operator an autograd node was made for, by the node's name: learned from the rules' own examples."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from gradexplain.rules.application import call
from gradexplain.rules.entries import Rule
from gradexplain.rules.registry import rules
from gradexplain.rules.samples import examples


@cache
def operators_by_node() -> Mapping[str, str]:
    """Returns `{"PowBackward0": "aten.pow.Tensor_Scalar", …}` for every operator that has a rule."""
    found: dict[str, str] = {}
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), _silent():
        for rule in rules().values():
            found.setdefault(_node_name(rule), rule.operator)
    return found


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps off standard error what torch itself writes there of operators that it gives up, past Python."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _node_name(rule: Rule) -> str:
    known = {**rule.slopes, **rule.derivatives}
    arguments = {n: _requiring_grad(v) if n in known else v for n, v in examples(rule)[0].items()}
    try:
        made = [t for t in call(rule.operator, arguments) if isinstance(t, Tensor)]
    except (NotImplementedError, RuntimeError, TypeError):  # this torch has no kernel for the CPU, or another schema
        return ""
    return next((t.grad_fn.name() for t in made if t.grad_fn is not None), "")


def _requiring_grad(value: object) -> object:
    if isinstance(value, Tensor):
        return (
            value.clone().requires_grad_().clone() if value.is_floating_point() else value
        )  # operators may write in place
    return [_requiring_grad(v) for v in value] if isinstance(value, list) else value
