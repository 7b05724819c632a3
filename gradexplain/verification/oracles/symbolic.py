"""The symbolic derivative: sympy differentiates what each operator is defined as, with 50 digits.

The recorded graph is written out, element by element, in elementary functions of the inputs, which are taken as exact.
Sympy differentiates each elementary function; the chain rule joins them with 50 digits, so that no expression grows.
There is no step, and no rounding to speak of: all that a difference may be is the rounding of torch's own gradient.

It takes from torch the graph and the inputs, from the rules what an operator computes, and from neither any derivative.
A mask that was computed before is a constant to it, as to torch: a kink behind a comparison is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.trace import Trace
from gradexplain.rules.application import wide
from gradexplain.verification.oracles.answers import Check, Unable
from gradexplain.verification.oracles.elements import RESOLUTION
from gradexplain.verification.oracles.measures import allowance, epsilon, first_not_finite, largest, plain, unexplained
from gradexplain.verification.oracles.question import Question

if TYPE_CHECKING:
    from gradexplain.verification.oracles.derivation import Derived

ORACLE = "symbolic"
DIGITS = 50
# Before a gradient is contradicted: numbers that 50 digits may have lost, such as the 1e-60 in log(1 + 1e-60).
MORE_DIGITS = 200
# Values of more elements than this are not written out.
MOST_ELEMENTS = 1024
# Some times what `tape.MOST_CELLS` take at 40 μs each: it decides only on a machine that is busy or slow.
SECONDS = 5.0


def ask(question: Question) -> Iterator[Check]:
    """Compares each gradient, element by element, with its exact value."""
    derived = _obstacle(question.judged) or _derived(question, DIGITS)
    checks = _checks(question, derived)
    if any(check.verdict == "differs" for check in checks):
        again = _derived(question, MORE_DIGITS)
        checks = [_settled(check, derived, again) for check in _checks(question, again)]
    yield from checks


def _checks(question: Question, derived: Derived | Unable) -> list[Check]:
    if isinstance(derived, Unable):
        return [Check(ORACLE, n, "cannot say", reason=derived.reason, data=derived.data) for n in question.names]
    return [_compared(question, name, *derived[name]) for name in question.names]


def _settled(check: Check, first: Derived | Unable, second: Derived | Unable) -> Check:
    """Returns the check, withdrawn if the exact derivative moved with the digits: cancellation has eaten them."""
    if check.verdict != "differs" or isinstance(first, Unable) or isinstance(second, Unable):
        return check
    before, after = (derived[check.input][0][check.place] for derived in (first, second))
    if abs(float(before) - float(after)) <= (check.worst or 0.0) / 4:
        return check
    return replace(check, verdict="cannot say", reason="digits_lost", data={"digits": MORE_DIGITS})


def _obstacle(trace: Trace) -> Unable | None:
    made = [y for node in trace.nodes for y in node.outputs if y is not None]
    tensors = [trace.value, *trace.inputs.values(), *made]
    if any(t.is_complex() for t in tensors):
        return Unable("complex")
    if not bool(trace.value.isfinite().all()):
        return Unable("not_finite", {"value": first_not_finite(trace.value)})
    return _too_large(trace) if any(t.numel() > MOST_ELEMENTS for t in tensors if t.is_floating_point()) else None


def _too_large(trace: Trace) -> Unable:
    elements = sum(y.numel() for node in trace.nodes for y in node.outputs if y is not None)
    return Unable("too_large_to_write_out", {"nodes": len(trace.nodes), "elements": elements})


def _derived(question: Question, digits: int) -> Derived | Unable:
    from gradexplain.verification.oracles.derivation import TooLarge, derived  # sympy loads only where it is asked

    try:
        return derived(question, digits, SECONDS)
    except TooLarge:
        return _too_large(question.judged)


# --------------------------------------------------------------------------------------------------------- the verdict


def _compared(question: Question, name: str, right: Tensor, difference: Tensor) -> Check:
    torchs = wide(question.gradient(name))
    for gradient, reason in ((torchs, "gradient_not_finite"), (right, "exact_not_finite")):
        if not bool(gradient.isfinite().all()):
            return Check(ORACLE, name, "cannot say", reason=reason)
    beyond, bound = _judged(question, name, difference, right.abs())
    resolution = largest(bound * question.units[name]) / question.scale(name)
    worst, most = largest(difference), largest(bound)
    beyond = beyond & bound.isfinite()  # where rounding can make anything, nothing is said
    vanished = (torchs == 0) & (right.abs() > torch.finfo(question.gradient(name).dtype).tiny)
    if bool(vanished.any()) and not bool(beyond.any()):
        place = unravelled(int(torch.where(vanished, difference, -1.0).argmax()), right.shape)
        data = {"place": place, "seen": plain(torchs[place]), "right": plain(right[place])}
        return Check(ORACLE, name, "differs", worst, most, 1.0, "vanished", data, place)
    if bool(beyond.any()):
        place = unravelled(int(torch.where(beyond, difference, -1.0).argmax()), right.shape)
        data = {"place": place, "seen": plain(torchs[place]), "right": plain(right[place])}
        return Check(ORACLE, name, "differs", worst, most, resolution, "exact", data, place)
    data = {"resolution": resolution}
    if not resolution <= RESOLUTION:
        return Check(ORACLE, name, "cannot say", worst, most, resolution, question.blur(name), data)
    return Check(ORACLE, name, "agrees", worst, most, resolution, None, data, bounds=_bounds(torchs, difference, bound))


def _bounds(torchs: Tensor, difference: Tensor, bound: Tensor) -> Tensor:
    """Returns how far off each element is at most, beside itself."""
    return torch.where(difference == 0, 0.0, torch.maximum(difference, bound) / torchs.abs()).cpu()


def _judged(question: Question, name: str, difference: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Returns which elements of torch's gradient are further off than its rounding explains, and what that explains."""
    eps = epsilon(question.judged)
    changes = torch.zeros_like(difference)
    if bool(unexplained(difference, changes, magnitude, eps).any()):
        # Where nothing can be run again, the largest element's last digits stand for what rounding does.
        changes = question.rounding(name) if question.changes else changes + eps * largest(magnitude)
    beyond = unexplained(difference, changes, magnitude, eps) & ~question.below(name, difference, eps)
    if bool(beyond.any()) and question.changes:
        changes = question.rounding(name, of_many=True)
        beyond &= unexplained(difference, changes, magnitude, eps)
    beyond &= difference > torch.finfo(question.gradient(name).dtype).tiny  # below this, torch has fewer digits or none
    return beyond, allowance(changes, magnitude, eps)
