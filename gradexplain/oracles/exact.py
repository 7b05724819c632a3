"""The symbolic derivative: sympy differentiates what each operator is defined as, with 50 digits.

The recorded graph is written out, element by element, in elementary functions of the inputs, which are taken as exact.
Sympy differentiates each elementary function; the chain rule joins them with 50 digits, so that no expression grows.
There is no step, and no rounding to speak of: all that a difference may be is the rounding of torch's own gradient.

It takes from torch the graph and the inputs, from the rules what an operator computes, and from neither any derivative.
A mask that was computed before is a constant to it, as to torch: a kink behind a comparison is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradexplain.graph import Node, Trace
from gradexplain.oracles.question import (
    MARGIN,
    RESOLUTION,
    Check,
    Question,
    Unable,
    allowance,
    epsilon,
    index_of,
    largest,
    plain,
    scales,
    unexplained,
    wide,
)

if TYPE_CHECKING:
    from gradexplain.oracles.tape import Tape

# For each input its exact gradient, and how far torch's is from it, both rounded to float64.
_Derived = Mapping[str, tuple[Tensor, Tensor]]

ORACLE = "symbolic"
DIGITS = 50
# Before a gradient is contradicted: numbers that 50 digits may have lost, such as the 1e-60 in log(1 + 1e-60).
MORE_DIGITS = 200
# Values of more elements than this are not written out.
ELEMENTS = 4096
# The most that `tape.CELLS` take, at some 40 μs each, on a slow machine.
SECONDS = 10.0


def ask(question: Question) -> Iterator[Check]:
    """Compares each gradient, element by element, with its exact value."""
    derived = _obstacle(question.judged) or _derived(question, DIGITS)
    checks = _checks(question, derived)
    if any(check.verdict == "differs" for check in checks):
        again = _derived(question, MORE_DIGITS)
        checks = [_settled(check, derived, again) for check in _checks(question, again)]
    yield from checks


def _checks(question: Question, derived: _Derived | Unable) -> list[Check]:
    if isinstance(derived, Unable):
        return [Check(ORACLE, n, "cannot say", reason=derived.reason, data=derived.data) for n in question.names]
    return [_compared(question, name, *derived[name]) for name in question.names]


def _settled(check: Check, first: _Derived | Unable, second: _Derived | Unable) -> Check:
    """Returns the check, withdrawn if the exact derivative moved with the digits: cancellation has eaten them."""
    if check.verdict != "differs" or isinstance(first, Unable) or isinstance(second, Unable):
        return check
    before, after = (derived[check.input][0][check.place] for derived in (first, second))
    if abs(float(before) - float(after)) <= (check.worst or 0.0) / 4:
        return check
    return replace(check, verdict="cannot say", reason="digits_lost", data={"digits": MORE_DIGITS})


def _obstacle(found: Trace) -> Unable | None:
    tensors = [
        t for t in (found.value, *found.inputs.values(), *(y for n in found.nodes for y in n.outputs)) if t is not None
    ]
    if any(t.is_complex() for t in tensors):
        return Unable("complex")
    if not bool(found.value.isfinite().all()):
        return Unable("not_finite", {"value": float(found.value[~found.value.isfinite()].abs()[0])})
    return _too_large(found) if any(t.numel() > ELEMENTS for t in tensors) else None


def _too_large(found: Trace) -> Unable:
    elements = sum(y.numel() for node in found.nodes for y in node.outputs if y is not None)
    return Unable("too_large_to_write_out", {"nodes": len(found.nodes), "elements": elements})


# ------------------------------------------------------------------------------------------------------- writing it out


def _derived(question: Question, digits: int) -> _Derived | Unable:
    """Writes the graph out and differentiates it."""
    import mpmath

    from gradexplain.oracles.tape import Tape, number

    found, tape = question.judged, Tape(SECONDS)
    with mpmath.workdps(digits):
        values = _written(found, tape)
        if isinstance(values, Unable):
            return values
        output = values[found.output]
        if output is None:
            return Unable("no_symbol", {"operator": found.nodes[found.output[0]].operator})
        seeds = list(zip(output.flat, map(number, found.cotangent.flatten().tolist()), strict=True))
        adjoints = tape.adjoints(seeds)
        if unlike := _unlike(found, tape, seeds, adjoints):
            return unlike
        leaves = {node.leaf: values[node.index, 0] for node in found.nodes if node.leaf is not None}
        return {n: _beside(question.gradient(n), leaves.get(n), adjoints) for n in question.names}


def _beside(torchs: Tensor, leaf: Any, adjoints: Mapping[int, Any]) -> tuple[Tensor, Tensor]:
    from gradexplain.oracles.tape import number

    claimed = torchs.flatten().tolist()
    right = [0] * len(claimed) if leaf is None else [adjoints.get(id(cell), 0) for cell in leaf.flat]
    apart = [abs(exact - number(claim)) for exact, claim in zip(right, claimed, strict=True)]
    exactly, difference = (torch.tensor([float(x) for x in part], dtype=torch.float64) for part in (right, apart))
    return exactly.reshape(torchs.shape), difference.reshape(torchs.shape)


def _written(found: Trace, tape: Tape) -> dict[tuple[int, int], Any] | Unable:
    """Returns every value of the graph as an array of cells."""
    from gradexplain.oracles.tape import TooLarge

    values: dict[tuple[int, int], Any] = {}
    try:
        for node in found.nodes:
            made = _made(node, values, tape)
            if isinstance(made, Unable):
                return made
            values |= {(node.index, number): y for number, y in enumerate(made)}
    except TooLarge:
        return _too_large(found)
    return values


def _made(node: Node, values: Mapping[tuple[int, int], Any], tape: Tape) -> tuple[Any, ...] | Unable:
    from gradexplain.oracles.definitions import written_out
    from gradexplain.oracles.tape import Tie, TooLarge

    if node.leaf is not None:
        return (tape.leaves(_numbers(node.outputs[0])),)
    operator = node.operator or node.name
    try:
        terms = written_out(operator, _arguments(node, values, tape), node.outputs)
        made = tuple(None if t is None else tape.evaluated(t) for t in terms)
        if any(
            y is not None and like is not None and y.shape != like.shape
            for y, like in zip(made, node.outputs, strict=False)
        ):
            return Unable("no_symbol", {"operator": operator})
    except TooLarge:
        raise
    except Tie:
        return Unable("tie", {"operator": operator})
    except Exception:  # a definition is only knowledge: what it does not cover is no verdict on torch
        return Unable("no_symbol", {"operator": operator})
    return made


def _arguments(node: Node, values: Mapping[tuple[int, int], Any], tape: Tape) -> dict[str, Any]:
    """Returns the arguments with floating tensors as arrays of cells: those that made them, else constants."""
    sources = {edge.argument: values[edge.producer, edge.output] for edge in node.edges}

    def given(name: str, value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return sources.pop(name) if name in sources else tape.constants(_numbers(value))
        if isinstance(value, (list, tuple)):
            return [given(f"{name}[{place}]", part) for place, part in enumerate(value)]
        return value

    arguments = {name: given(name, value) for name, value in node.arguments.items()}
    assert not sources  # every edge is one of the arguments
    return arguments


def _numbers(tensor: Any) -> Any:
    return tensor.detach().double().cpu().numpy()


def _unlike(found: Trace, tape: Tape, seeds: Any, adjoints: Mapping[int, Any]) -> Unable | None:
    """Returns that what was written out is not what ran, if its value is not torch's but for rounding.

    One rounding error of a cell changes ⟨v, f⟩ by eps × its value × the derivative of ⟨v, f⟩ by it.
    """
    import mpmath

    from gradexplain.oracles.tape import number

    written = sum(seed * cell.value for cell, seed in seeds)
    if not mpmath.isfinite(written):
        return Unable("exact_not_finite")
    torchs = [seed * number(y) for (_, seed), y in zip(seeds, found.value.flatten().tolist(), strict=True)]
    parts = (abs(adjoints.get(id(cell), 0) * cell.value) for cell in tape.cells)
    size = sum(map(abs, torchs)) + sum(part for part in parts if mpmath.isfinite(part))
    smallest = torch.finfo(found.value.dtype).tiny * sum(abs(seed) for _, seed in seeds)
    if abs(written - sum(torchs)) <= MARGIN * epsilon(found) * size + smallest:
        return None
    return Unable("other_value", {"seen": float(sum(torchs)), "right": float(written)})


# --------------------------------------------------------------------------------------------------------- the verdict


def _compared(question: Question, name: str, right: Tensor, difference: Tensor) -> Check:
    torchs = wide(question.gradient(name))
    for gradient, reason in ((torchs, "gradient_not_finite"), (right, "exact_not_finite")):
        if not bool(gradient.isfinite().all()):
            return Check(ORACLE, name, "cannot say", reason=reason)
    beyond, bound = _judged(question, name, difference, right.abs())
    resolution = largest(bound * scales(question.judged.inputs[name])) / question.scale(name)
    worst, most = largest(difference), largest(bound)
    beyond = beyond & bound.isfinite()  # where rounding can make anything, nothing is said
    if bool(beyond.any()):
        place = index_of(int(torch.where(beyond, difference, -1.0).argmax()), right.shape)
        data = {"place": place, "seen": plain(torchs[place]), "right": plain(right[place])}
        return Check(ORACLE, name, "differs", worst, most, resolution, "exact", data, place)
    data = {"resolution": resolution}
    if not resolution <= RESOLUTION:
        return Check(ORACLE, name, "cannot say", worst, most, resolution, question.blur(name), data)
    return Check(ORACLE, name, "agrees", worst, most, resolution, None, data)


def _judged(question: Question, name: str, difference: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Returns which elements of torch's gradient are further off than its rounding explains, and what that explains."""
    eps = epsilon(question.judged)
    changes = torch.zeros_like(difference)
    if bool(unexplained(difference, changes, magnitude, eps).any()):
        # Where nothing can be run again, the largest element's last digits stand for what rounding does.
        changes = question.rounding(name) if question.changes else changes + eps * largest(magnitude)
    beyond = unexplained(difference, changes, magnitude, eps) & ~question.below(name, difference, eps)
    return beyond, allowance(changes, magnitude, eps)
