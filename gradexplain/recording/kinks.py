"""Kinks and ties: where an operator has no single derivative, and what torch takes there.

A rule states where a kink is and the slopes on its two sides. Which number between them torch takes is a convention
that a release may change: it is measured at the very point, from the operator's own backward called alone. A number
that is not between the sides, or shares that are no convex split among equal candidates, are no convention: there the
rule stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.application import call, evaluated, slope, vjp
from gradexplain.rules.entries import Rule
from gradexplain.rules.reductions import axes

# Shares of a whole are sums of a few quotients: some last digits of 1.
_DIGITS = 64


def at_kinks(rule: Rule, arguments: Mapping[str, Any], outputs: Sequence[Any]) -> Tensor | None:
    """Returns which elements of the output lie at a kink of an elementwise rule; `None` where none does."""
    present = [o for o in outputs if o is not None]
    if not rule.kink or not present or any(isinstance(v, Tensor) and v.is_meta for v in arguments.values()):
        return None
    kinks = evaluated(rule, rule.kink, arguments, present)
    return kinks if bool(kinks.any()) else None


def sides(rule: Rule, argument: str, arguments: Mapping[str, Any], outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the slopes on the left and on the right, in the output's shape; they mean something at kinks only."""
    left, right = (evaluated(rule, formula, arguments, outputs) for formula in rule.sides[argument])
    return left, right


def taken(rule: Rule, argument: str, arguments: Mapping[str, Any], outputs: Sequence[Tensor]) -> Tensor:
    """Returns the local derivative by the operator's own backward, for one argument in the shape of the output."""
    repeated = arguments[argument].detach().expand(outputs[0].shape)
    return next(_own_gradients(rule, argument, {**arguments, argument: repeated}))[1]


def _own_gradients(rule: Rule, argument: str, arguments: Mapping[str, Any]) -> Iterator[tuple[int, Tensor]]:
    """Yields, for each differentiable output of the operator run alone, its number and the gradient of its sum."""
    plain = {n: v.detach() if isinstance(v, Tensor) else v for n, v in arguments.items()}
    with torch.enable_grad():
        leaf = plain[argument].clone().requires_grad_()
        outputs = call(rule.operator, {**plain, argument: leaf})
        for number, output in enumerate(outputs):
            if output.requires_grad:
                yield number, torch.autograd.grad(output.sum(), leaf, retain_graph=True)[0]


def local_slope(rule: Rule, argument: str, arguments: Mapping[str, Any], outputs: Sequence[Tensor]) -> Tensor:
    """Returns the local derivative of an elementwise rule; at a kink what torch takes, if that is a convention."""
    own = slope(rule, argument, arguments, outputs)
    kinks = at_kinks(rule, arguments, outputs) if argument in rule.sides else None
    if kinks is None:
        return own
    left, right = sides(rule, argument, arguments, outputs)
    low, high = torch.minimum(left, right), torch.maximum(left, right)
    torchs = taken(rule, argument, arguments, outputs).to(own)
    between = torch.where(torchs >= low, torch.minimum(torchs, high), low)  # the nearest; nan is nowhere near
    return torch.where(kinks & _are_whole(rule, arguments, outputs, argument, torchs), between, own)


def _are_whole(
    rule: Rule, arguments: Mapping[str, Any], outputs: Sequence[Tensor], argument: str, torchs: Tensor
) -> Tensor:
    """Says where torch's shares add up to 1, for a rule whose output is one of several arguments."""
    rivals = [a for a in rule.sides if a != argument and isinstance(arguments[a], Tensor)]
    if len(rule.sides) == 1 or not all(arguments[a].is_floating_point() for a in rivals):
        return torch.ones_like(torchs, dtype=torch.bool)
    total = sum((taken(rule, a, arguments, outputs).to(torchs) for a in rivals), torchs)
    return (total - 1).abs() <= _DIGITS * torch.finfo(torchs.dtype).eps


def sent(
    rule: Rule,
    argument: str,
    cotangents: Sequence[Tensor | None],
    arguments: Mapping[str, Any],
    outputs: Sequence[Any],
) -> Any:
    """Returns the gradient of `argument` by the rule, as `vjp` does, with torch's conventions at kinks and ties."""
    if rule.tie == "shared":
        return _divided(rule, argument, cotangents, arguments, outputs)
    return vjp(rule, argument, cotangents, arguments, outputs, local_slope)


def _divided(
    rule: Rule,
    argument: str,
    cotangents: Sequence[Tensor | None],
    arguments: Mapping[str, Any],
    outputs: Sequence[Tensor],
) -> Tensor:
    """Returns the gradient of a reduction that picks elements: among equal ones, divided as torch divides it.

    The rule gives equal shares w = 1/m to the m candidates, torch shares t. Where the t are a convex split among the
    same candidates, the rule's gradient g·w becomes g·t.
    """
    equal: Tensor = vjp(rule, argument, cotangents, arguments, outputs)
    if equal.is_meta or all(c is None for c in cotangents):
        return equal
    ones = [None if c is None else torch.ones_like(c) for c in cotangents]
    parts = torch.zeros_like(equal)
    torchs: dict[int, Tensor] | None = None
    for number, one in enumerate(ones):
        if one is None:
            continue
        only = [c if i == number else None for i, c in enumerate(cotangents)]
        part = equal if len(ones) == 1 else vjp(rule, argument, only, arguments, outputs)
        shares = vjp(rule, argument, [o if i == number else None for i, o in enumerate(ones)], arguments, outputs)
        groups = _ties(shares, arguments)
        if bool(groups.any()):
            torchs = dict(_own_gradients(rule, argument, arguments)) if torchs is None else torchs
            split = groups & _splits(torchs[number].to(shares), shares, arguments) & (shares != 0)
            part = part * torch.where(split, torchs[number].to(shares) / shares, 1)
        parts = parts + part
    return parts


def _within(values: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Sums over what an output is chosen from, and keeps the axes."""
    return values.sum(axes(arguments.get("dim"), values.ndim), keepdim=True)


def _ties(shares: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Returns where one of several equal candidates is chosen: m > 1 shares, each of size 1/m."""
    candidates = shares != 0
    count, size = _within(candidates.to(shares.dtype), arguments), shares.abs()
    even = (size * count - 1).abs() <= _DIGITS * torch.finfo(shares.dtype).eps
    return (count > 1) & (_within((candidates & ~even).to(shares.dtype), arguments) == 0)


def _splits(torchs: Tensor, shares: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Returns where torch's shares are a convex split: to candidates alone, none negative, 1 in all."""
    stray = (torchs * shares.sign() < 0) | ((shares == 0) & (torchs != 0)) | torchs.isnan()
    whole = (_within(torchs.abs(), arguments) - 1).abs() <= _DIGITS * torch.finfo(shares.dtype).eps
    return whole & (_within(stray.to(shares.dtype), arguments) == 0)
