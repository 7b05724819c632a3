"""A recorded graph written out and differentiated: the chain rule over scalars, with as many digits as asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mpmath
import torch
from torch import Tensor

from gradexplain.recording.trace import Node, Trace
from gradexplain.verification.oracles.answers import Unable
from gradexplain.verification.oracles.definitions import written_out
from gradexplain.verification.oracles.measures import MARGIN, epsilon
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.tape import Cell, Tape, Tie, TooLarge, number

__all__ = ["Derived", "TooLarge", "derived"]

# For each input its exact gradient, and how far torch's is from it, both rounded to float64.
Derived = Mapping[str, tuple[Tensor, Tensor]]
# Every value of the graph, by (node, output number), as an array of cells; `None` where it is not written out.
_Values = dict[tuple[int, int], Any]
# The elements of the output, each with that of the cotangent.
_Seeds = Sequence[tuple[Cell, Any]]


def derived(question: Question, digits: int, seconds: float) -> Derived | Unable:
    """Returns the exact gradients, or why there are none; raises `TooLarge` where that takes longer than `seconds`."""
    trace, tape = question.judged, Tape(seconds)
    with mpmath.workdps(digits):
        values = _written(trace, tape)
        if isinstance(values, Unable):
            return values
        output = values[trace.output]
        if output is None:
            return _undefined(trace.nodes[trace.output[0]])
        seeds = list(zip(output.flat, map(number, trace.cotangent.flatten().tolist()), strict=True))
        adjoints = tape.adjoints(seeds)
        if unlike := _unlike(trace, tape, seeds, adjoints):
            return unlike
        leaves = {node.leaf: values[node.index, 0] for node in trace.nodes if node.leaf is not None}
        return {n: _beside(question.gradient(n), leaves.get(n), adjoints) for n in question.names}


def _beside(torchs: Tensor, leaf: Any, adjoints: Mapping[int, Any]) -> tuple[Tensor, Tensor]:
    claimed = torchs.flatten().tolist()
    right = [0] * len(claimed) if leaf is None else [adjoints.get(id(cell), 0) for cell in leaf.flat]
    apart = [abs(exact - number(claim)) for exact, claim in zip(right, claimed, strict=True)]
    exactly, difference = (torch.tensor([float(x) for x in part], dtype=torch.float64) for part in (right, apart))
    return exactly.reshape(torchs.shape), difference.reshape(torchs.shape)


def _unlike(trace: Trace, tape: Tape, seeds: _Seeds, adjoints: Mapping[int, Any]) -> Unable | None:
    """Returns that what was written out is not what ran, if its value is not torch's but for rounding.

    One rounding error of a cell changes ⟨v, f⟩ by eps × its value × the derivative of ⟨v, f⟩ by it.
    """
    written = sum(seed * cell.value for cell, seed in seeds)
    if not mpmath.isfinite(written):
        return Unable("exact_not_finite")
    torchs = [seed * number(y) for (_, seed), y in zip(seeds, trace.value.flatten().tolist(), strict=True)]
    parts = (abs(adjoints.get(id(cell), 0) * cell.value) for cell in tape.cells)
    size = sum(map(abs, torchs)) + sum(part for part in parts if mpmath.isfinite(part))
    smallest = torch.finfo(trace.value.dtype).tiny * sum(abs(seed) for _, seed in seeds)
    if abs(written - sum(torchs)) <= MARGIN * epsilon(trace) * size + smallest:
        return None
    return Unable("other_value", {"seen": float(sum(torchs)), "right": float(written)})


# ------------------------------------------------------------------------------------------------------- writing it out


def _written(trace: Trace, tape: Tape) -> _Values | Unable:
    values: _Values = {}
    for node in trace.nodes:
        made = _made(node, values, tape)
        if isinstance(made, Unable):
            return made
        values |= {(node.index, place): y for place, y in enumerate(made)}
    return values


def _made(node: Node, values: _Values, tape: Tape) -> tuple[Any, ...] | Unable:
    if node.leaf is not None:
        return (tape.leaves(_numbers(node.outputs[0])),)
    try:
        terms = written_out(node.operator or "", _arguments(node, values, tape), node.outputs)
        made = tuple(None if t is None else tape.evaluated(t) for t in terms)
    except TooLarge:
        raise
    except Tie:
        return Unable("tie", {"operator": node.operator})
    except Exception:  # a definition is only knowledge: what it does not cover is no verdict on torch
        return _undefined(node)
    return made if all(map(_fits, made, node.outputs)) else _undefined(node)


def _undefined(node: Node) -> Unable:
    return Unable("no_symbol", {"operator": node.operator or node.name})


def _fits(made: Any, recorded: Tensor | None) -> bool:
    return made is None or recorded is None or bool(made.shape == recorded.shape)


def _arguments(node: Node, values: _Values, tape: Tape) -> dict[str, Any]:
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
