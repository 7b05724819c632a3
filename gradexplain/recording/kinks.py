"""Kinks and ties: where an operator has no single derivative, and what torch takes there.

A rule states where a kink is and the slopes on its two sides. Which number between them torch takes is a convention
that a release may change: it is measured at the very point, from the operator's own backward called alone. A number
that is not between the sides, or shares that are no convex split among equal candidates, are no convention: there the
rule stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradexplain.rules.application import Unrecorded, call, evaluated, meets_complex, slope, told, vjp
from gradexplain.rules.entries import Rule

# Shares of a whole are sums of a few quotients: some last digits of 1.
_DIGITS = 64


def at_kinks(rule: Rule, arguments: Mapping[str, Any], outputs: Sequence[Any]) -> Tensor | None:
    """Returns which elements of the output lie at a kink of an elementwise rule; `None` where none does.

    Complex numbers have no left and right.
    """
    if not rule.kink or outputs[0] is None or meets_complex(arguments, outputs):
        return None
    try:
        kinks = evaluated(rule, rule.kink, arguments, outputs)
    except Unrecorded:
        return None
    return kinks if bool(kinks.any()) else None


def sides(rule: Rule, argument: str, arguments: Mapping[str, Any], outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the slopes on the left and on the right, in the output's shape; they mean something at kinks only."""
    left, right = (evaluated(rule, formula, arguments, outputs) for formula in rule.sides[argument])
    return left, right


def taken(rule: Rule, argument: str, arguments: Mapping[str, Any], outputs: Sequence[Tensor]) -> Tensor:
    """Returns the local derivative by the operator's own backward, for one argument in the shape of the output."""
    repeated = arguments[argument].detach().expand(outputs[0].shape)
    return own_gradients(rule, argument, {**arguments, argument: repeated})[0]


def own_gradients(rule: Rule, argument: str, arguments: Mapping[str, Any]) -> dict[int, Tensor]:
    """Returns the gradient of the sum of each differentiable output, by its number, of the operator run alone."""
    plain = {n: v.detach() if isinstance(v, Tensor) else v for n, v in arguments.items()}
    with torch.enable_grad():
        leaf = plain[argument].clone().requires_grad_()
        outputs = call(rule.operator, {**plain, argument: leaf})
        return {
            number: torch.autograd.grad(output.sum(), leaf, retain_graph=True)[0]
            for number, output in enumerate(outputs)
            if output.requires_grad
        }


def local_slope(rule: Rule, argument: str, arguments: Mapping[str, Any], outputs: Sequence[Any]) -> Tensor:
    """Returns the local derivative of an elementwise rule; at a kink what torch takes, if that is a convention.

    Where there is no slope on either side, whatever number torch takes is one.
    """
    own = slope(rule, argument, arguments, outputs)
    kinks = at_kinks(rule, arguments, outputs) if argument in rule.sides else None
    if kinks is None:
        return own
    left, right = sides(rule, argument, arguments, outputs)
    torchs = taken(rule, argument, arguments, outputs).to(own)
    nearest = torch.fmin(torch.fmax(torchs, torch.minimum(left, right)), torch.maximum(left, right))
    known = kinks & ~torchs.isnan() & _are_whole(rule, arguments, outputs, argument, torchs)
    return torch.where(known, nearest, own)


def _are_whole(
    rule: Rule, arguments: Mapping[str, Any], outputs: Sequence[Tensor], argument: str, torchs: Tensor
) -> Tensor:
    """Says where torch's shares add up to 1, for a rule whose output is one of several arguments."""
    rivals = _rivals(rule, argument, arguments)
    if rule.tie != "shared" or not all(arguments[a].is_floating_point() for a in rivals):
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
    if rule.elementwise:
        return vjp(rule, argument, cotangents, arguments, outputs, local_slope)
    if not rule.derivatives[argument].has_kinks:
        return vjp(rule, argument, cotangents, arguments, outputs)
    left, right = (vjp(rule, argument, cotangents, arguments, outputs, side=side) for side in (-1, 1))
    if left.is_meta or (torch.equal(left, right) and not left.requires_grad):
        return left
    arrived = {number: g for number, g in enumerate(cotangents) if g is not None}
    kinked = {n: k for n in arrived if (k := kinks_of(rule, argument, n, arguments, outputs)) is not None}
    total = torch.zeros_like(arguments[argument])
    for number, g in arrived.items():
        alone = [g if i == number else None for i in range(len(cotangents))]
        kinks = kinked.get(number)
        total = total + vjp(rule, argument, alone, arguments, outputs, side=kinks.side if kinks else 0)
        if kinks and bool((kinks.steep != 0).any()):
            total = total + g * kinks.steep
    return total


# ------------------------------------------------------------------------------------------ rules of whole tensors


@dataclass(frozen=True)
class Kinks:
    """Where an argument lies at kinks of one output, in its shape, or in that of the argument that was taken apart.

    `left`, `right` and `taken` are the slopes of the output's sum: those on both sides and torch's own. `side` is the
    rule's: where torch's slope lies between the others. On the way to an infinite one no number is at any side: there
    the rule's is 0 in the middle, and torch's slope, if that is finite, stands in `steep`, which is 0 elsewhere.
    `source` is each element's place in the argument, flattened.
    """

    here: Tensor
    left: Tensor
    right: Tensor
    taken: Tensor
    side: Tensor
    steep: Tensor
    source: Tensor


def kinks_of(
    rule: Rule, argument: str, number: int, arguments: Mapping[str, Any], outputs: Sequence[Any]
) -> Kinks | None:
    """Returns the kinks of the output `number` by one argument; `None` where the rule has none at this point."""
    if not rule.derivatives[argument].has_kinks or meets_complex(arguments, outputs):
        return None
    left, right = (_slopes(rule, argument, number, arguments, outputs, side) for side in (-1, 1))
    if left.is_meta or not bool(_differ(left, right).any()):
        return None
    source = torch.arange(left.numel(), device=left.device).reshape(left.shape)
    if rule.apart is not None:
        source = told(rule, rule.apart, {**arguments, argument: source}, ())[argument]
        arguments = {**arguments, **told(rule, rule.apart, arguments, ())}
        outputs = call(rule.operator, arguments)
        left, right = (_slopes(rule, argument, number, arguments, outputs, side) for side in (-1, 1))
    middle, here = _slopes(rule, argument, number, arguments, outputs, 0), _differ(left, right)
    torchs = own_gradients(rule, argument, arguments)[number].to(middle)
    low, high = torch.minimum(left, right), torch.maximum(left, right)
    slack = _DIGITS * torch.finfo(middle.dtype).eps
    allowed = here & (torchs >= low - slack * low.abs()) & (torchs <= high + slack * high.abs())
    if rule.together is not None:
        known = {"slopes": torch.where(here, torchs, middle), "argument": argument}
        for other in _rivals(rule, argument, arguments):
            known["opposite"] = own_gradients(rule, other, arguments)[number].to(middle)
        allowed = allowed & told(rule, rule.together, arguments, outputs, **known)
    endless = allowed & (left.isinf() | right.isinf()) & torchs.isfinite()
    side = torch.where(allowed & ~endless, _between(torchs, left, middle, right), 0)
    return Kinks(here, left, right, torchs, side, torch.where(endless, torchs, 0), source)


def _rivals(rule: Rule, argument: str, arguments: Mapping[str, Any]) -> list[str]:
    """Returns the other arguments that have kinks where this one has."""
    others = [*rule.sides, *(a for a, derivative in rule.derivatives.items() if derivative.has_kinks)]
    return [a for a in others if a != argument and isinstance(arguments[a], Tensor)]


def _slopes(
    rule: Rule, argument: str, number: int, arguments: Mapping[str, Any], outputs: Sequence[Any], side: int
) -> Tensor:
    """Returns the gradient of the sum of one output, at one side of all kinks."""
    ones = [torch.ones_like(output) if i == number else None for i, output in enumerate(outputs)]
    slopes: Tensor = vjp(rule, argument, ones, arguments, outputs, side=side)
    return slopes


def _differ(left: Tensor, right: Tensor) -> Tensor:
    return (left != right) & ~(left.isnan() | right.isnan())


def _between(x: Tensor, left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """Returns where x lies on the way from `left` (−1) over `middle` (0) to `right` (1), in two straight parts."""
    on, back = (x - middle) / (right - middle), (x - middle) / (middle - left)
    return torch.where(x == middle, 0, torch.where(on > 0, on, back)).clamp(-1, 1)
