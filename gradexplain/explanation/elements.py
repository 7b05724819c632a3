"""Single elements: which terms one element of a value, or of a gradient, is made of.

For one node and one edge, the contribution to element j is Σᵢ gᵢ · Jᵢⱼ, with g the cotangent of the node's output and J
the operator's own Jacobian. Here stand the terms of that sum, with the user's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product as cartesian
from typing import Any, TypeGuard

import torch
from torch import Tensor

from gradexplain.mathematics.digits import Rounding, coarsest, rounding_of, shortest
from gradexplain.mathematics.indices import Index, all_unravelled, broadcast_source
from gradexplain.mathematics.terms import Constant, Number, Term, names_in, product, terms_of, total
from gradexplain.recording import kinks
from gradexplain.recording.trace import Edge, Node
from gradexplain.rules.application import call, is_repeatable, variables, wide, written
from gradexplain.rules.entries import Rule

# Operators on tensors up to this size are written out.
WRITTEN = 64
# Sums longer than this are shown as their largest terms and the rest.
LONGEST = 8
LARGEST = 3
# A black box with at most this many elements is measured on every one of them.
LARGEST_MEASURED = 12


@dataclass(frozen=True)
class Part:
    """One term of a contribution: the output element it comes through, and the local derivative there."""

    output: int
    element: Index
    cotangent: float
    slope: Term
    value: float


@dataclass(frozen=True)
class Parts:
    """What makes one element of a contribution: of `count` terms those worth showing, and the sum of the others."""

    parts: tuple[Part, ...]
    rest: float
    count: int


def number(tensor: Tensor, index: Index) -> Number:
    """Returns one element as the shortest decimal that names it in its own dtype (0.1, not 0.10000000149)."""
    return Number(shortest(tensor[index].item(), tensor.dtype))


def rounding_at(node: Node, made: Tensor) -> Rounding:
    """Returns how what a node made of its numbers is rounded, which may be of several types."""
    values = [made, *node.arguments.values(), *node.outputs, *node.cotangents]
    types = {v.dtype for v in values if isinstance(v, Tensor) and v.is_floating_point()}
    return coarsest(rounding_of(dtype) for dtype in sorted(types or {made.dtype}, key=str))


def is_real(tensor: Tensor | None) -> TypeGuard[Tensor]:
    """Says whether a recorded value is there and can be written as real numbers."""
    return tensor is not None and not tensor.is_complex() and tensor.layout == torch.strided and not tensor.is_meta


def is_complex(tensor: Tensor | None) -> bool:
    """Says whether a recorded value is there and of complex numbers."""
    return tensor is not None and tensor.is_complex()


def sends_conjugates(node: Node, edge: Edge, rule: Rule) -> bool:
    """Says whether what a node sent is a product with the conjugate of its rule's derivative."""
    return rule.over == "analytic" and any(map(is_complex, (edge.contribution, *node.cotangents)))


def can_take_apart(node: Node, edge: Edge, rule: Rule | None) -> bool:
    """Says whether what a node sent along an edge can be written out with the rule and the recorded numbers."""
    argument = edge.argument.partition("[")[0]
    if rule is None or not argument or not is_real(edge.contribution):
        return False
    if argument not in (rule.slopes if rule.elementwise else rule.derivatives):
        return False
    values = [v for v in (*node.arguments.values(), *node.outputs) if isinstance(v, Tensor)]
    if any(not is_real(v) and not v.is_meta for v in values):
        return False
    return sent(node, edge, rule, node.cotangents) is not None


def sent(node: Node, edge: Edge, rule: Rule, cotangents: Sequence[Tensor | None]) -> Tensor | None:
    """Returns what the rule sends along an edge; `None` where it does not cover the case, or needs what is missing."""
    name, _, place = edge.argument.partition("[")
    try:
        made = kinks.sent(rule, name, cotangents, node.arguments, node.outputs)
        return made[int(place[:-1])] if place else made  # type: ignore[no-any-return]
    except Exception:  # a rule is only knowledge: where it fails, what torch sent is shown as it is
        return None


# ------------------------------------------------------------------------------------------------------- forward


def written_out(node: Node, rule: Rule, output: int, elements: Sequence[Index]) -> Iterator[tuple[Index, Term]]:
    """Yields, for `elements` of an output, the term that makes each; none where the rule does not write them out."""
    if rule.elementwise:
        for index in elements:
            if (term := _formula_term(node, rule, rule.formula, index)) is not None:
                yield index, term
        return
    made = written(rule, node.arguments, node.outputs) if _small(node) else None
    array: Any = made[output] if made is not None and output < len(made) else None
    for index in elements if array is not None else ():
        if isinstance(term := array[index], Term):
            yield index, term


def _formula_term(node: Node, rule: Rule, formula: str, element: Index) -> Term | None:
    """Returns one of an elementwise rule's formulas at one element of the output; `None` if a number is missing."""
    numbers = _element_variables(node, rule, element)
    if not names_in(formula) <= numbers.keys():
        return None
    found = terms_of(formula, numbers)
    return found if isinstance(found, Term) else Constant(float(found))  # type: ignore[arg-type]


def _element_variables(node: Node, rule: Rule, index: Index) -> dict[str, Term]:
    numbers: dict[str, Term] = {}
    for variable, value in variables(rule, node.arguments, node.outputs).items():
        if isinstance(value, (int, float)):
            numbers[variable] = Constant(float(value))
        elif isinstance(value, Tensor) and is_real(value):
            numbers[variable] = number(value, broadcast_source(index, value.shape))
    return numbers


def _small(node: Node) -> bool:
    tensors = [v for v in (*node.arguments.values(), *node.outputs) if isinstance(v, Tensor)]
    return all(t.numel() <= WRITTEN and is_real(t) for t in tensors)


# ------------------------------------------------------------------------------------------------------ backward


def parts_of(node: Node, argument: str, rule: Rule, index: Index) -> Parts:
    """Returns what `node` sends to element `index` of `argument`, taken apart."""
    pieces = pieces_of(node, argument, rule, index)
    sent = [(number_, element, g * slope) for number_, element, g, slope in pieces]
    ranked = sorted(range(len(sent)), key=lambda i: -abs(sent[i][2]))
    count = len(ranked)
    kept = ranked if count <= LONGEST else ranked[:LARGEST]
    rest = _summed([sent[i][2] for i in ranked[len(kept) :]])
    return Parts(tuple(_part(pieces[i]) for i in sorted(kept)), rest, count)


def is_outside(node: Node, parts: Parts) -> bool:
    """Says whether an operator has no value where it was asked: there its rule says nothing."""
    made = [(node.outputs[part.output], part.element) for part in parts.parts]
    return bool(made) and all(output is not None and bool(output[element].isnan()) for output, element in made)


def _summed(values: Sequence[float]) -> float:
    """Returns the sum, rounded once; in the machine's arithmetic where that has no number: inf - inf is nan."""
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):
        return sum(values)


# One term before it is written out: output number, element, cotangent there, slope there.
_Piece = tuple[int, Index, float, float]


def pieces_of(node: Node, argument: str, rule: Rule, index: Index) -> list[_Piece]:
    """Returns every term of what `node` sends to element `index` of `argument`."""
    return (_elementwise_pieces if rule.elementwise else _general_pieces)(node, argument, rule, index)


def _part(piece: _Piece) -> Part:
    output, element, g, slope = piece
    return Part(output, element, g, Number(slope), g * slope)


def _elementwise_pieces(node: Node, argument: str, rule: Rule, index: Index) -> list[_Piece]:
    value, cotangent = node.arguments[argument], node.cotangents[0]
    if cotangent is None:
        return []
    local = kinks.local_slope(rule, argument, node.arguments, node.outputs).expand(cotangent.shape)
    fed = _fed_by(index, value.shape, cotangent.shape)
    return [
        (0, element, number(cotangent, element).value, shortest(local[element].item(), local.dtype)) for element in fed
    ]


def _fed_by(index: Index, shape: Sequence[int], output: Sequence[int]) -> list[Index]:
    """Returns the output elements that one element of a broadcast input goes into."""
    ahead = len(output) - len(shape)
    ranges: list[Iterable[int]] = [range(n) for n in output[:ahead]]
    ranges += [range(n) if size == 1 else [i] for n, size, i in zip(output[ahead:], shape, index, strict=True)]
    return list(cartesian(*ranges))


def _general_pieces(node: Node, argument: str, rule: Rule, index: Index) -> list[_Piece]:
    pieces: list[_Piece] = []
    columns = _column(node, argument, rule, index, node.arguments)
    patterns = _column(node, argument, rule, index, _generic(node)) if _is_structural(node, argument, rule) else columns
    for output, (cotangent, column, pattern) in enumerate(zip(node.cotangents, columns, patterns, strict=True)):
        if cotangent is not None and column is not None and pattern is not None:
            at = (pattern.flatten() != 0).logical_or(column.flatten() != 0).nonzero().flatten()
            numbers = zip(_shortest_at(cotangent, at), _shortest_at(column, at), strict=True)
            elements = all_unravelled(at.tolist(), column.shape)
            pieces += [(output, element, g, slope) for element, (g, slope) in zip(elements, numbers, strict=True)]
    return pieces


def _shortest_at(tensor: Tensor, positions: Tensor) -> list[float]:
    return [shortest(value, tensor.dtype) for value in tensor.flatten()[positions].tolist()]


def _is_structural(node: Node, argument: str, rule: Rule) -> bool:
    """Says whether the zeros of a small Jacobian can be told from those that the numbers happen to give."""
    needs = rule.derivatives[argument.partition("[")[0]].needs
    return _small(node) and all(name in node.arguments or name == "side" for name in needs)


def _generic(node: Node) -> dict[str, Any]:
    """Returns a node's arguments with other numbers in their place."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(value.shape, generator=generator).to(value) + 1
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in node.arguments.items()
    }


def _column(node: Node, argument: str, rule: Rule, index: Index, arguments: Mapping[str, Any]) -> list[Tensor | None]:
    """Returns ∂(outputs)/∂(one element): the rule's VJP is linear in the cotangent, and its transpose gives it."""
    cotangents = [torch.zeros_like(c).requires_grad_() if c is not None else None for c in node.cotangents]
    with torch.enable_grad():
        sent = kinks.sent(rule, argument.partition("[")[0], cotangents, arguments, node.outputs)
        element = (sent[int(argument.partition("[")[2][:-1])] if "[" in argument else sent)[index]
        given = [c for c in cotangents if c is not None]
        found = iter(torch.autograd.grad(element, given, allow_unused=True) if element.requires_grad else ())
    columns = [None if c is None else next(found, None) for c in cotangents]
    for output, column in enumerate(columns):
        if column is not None:
            for place in column.isnan().nonzero().tolist():
                column[tuple(place)] = _alone(node, argument, rule, index, arguments, output, tuple(place))
    return columns


def _alone(
    node: Node, argument: str, rule: Rule, index: Index, arguments: Mapping[str, Any], output: int, place: Index
) -> Tensor:
    """Returns ∂(one element of an output)/∂(one element of an argument), where others may be nan.

    In a transpose these meet it times 0, which is nan.
    """
    cotangents = [torch.zeros_like(c) if c is not None else None for c in node.cotangents]
    unit = cotangents[output]
    assert unit is not None
    unit[place] = 1
    name, _, part = argument.partition("[")
    sent = kinks.sent(rule, name, cotangents, arguments, node.outputs)
    found: Tensor = (sent[int(part[:-1])] if part else sent)[index]
    return found


# A kernel comes to a slope in so many steps, or roundings of what is as large as the slopes beside it.
_STEPS = 8


# By so much are numbers of float64 moved to see what rounding does: their own is too small to be told from it.
_MOVED = 2.0**-30


def doubt(node: Node, argument: str, rule: Rule, index: Index) -> float:
    """Returns how far rounding may have moved one element of what a node sent, by what stands on no page.

    Torch may come to a slope by other steps than the rule, and adds the terms up in another order. What rounding does
    to a slope is seen from the rule, given numbers that are moved by as much.
    """
    pieces = pieces_of(node, argument, rule, index)
    cotangent = next(c for c in node.cotangents if c is not None)
    unit = rounding_at(node, cotangent).unit
    step = max(unit, _MOVED)
    second = pieces_of(_moved(node, step), argument, rule, index)
    again = {(output, element): slope for output, element, _, slope in second}
    moved = [abs(slope - again.get((output, element), slope)) for output, element, _, slope in pieces]
    each = _STEPS * unit * (max(abs(slope) for *_, slope in pieces) + max(moved) / step) if pieces else 0.0
    return sum(abs(g) * (each + len(pieces) * unit * abs(slope)) for *_, g, slope in pieces)


def _moved(node: Node, step: float) -> Node:
    """Returns a node with its numbers in float64, each a step of its own size larger or smaller."""
    generator = torch.Generator().manual_seed(0)

    def moved(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(moved, value))
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        signs = 2 * torch.randint(2, value.shape, generator=generator).to(value.device) - 1
        return value.double() * (1 + step * signs)

    return replace(
        node,
        arguments={name: moved(value) for name, value in node.arguments.items()},
        outputs=moved(node.outputs),
        cotangents=tuple(None if c is None else c.double() for c in node.cotangents),
    )


# Differences in float64 leave a slope open by about as much, of the largest beside it.
_OF_DIFFERENCES = 1e-6


def measured_doubt(node: Node, jacobian: Tensor) -> float:
    """Returns how far an element of what a node sent may be from what a measured Jacobian makes of it."""
    cotangent = node.cotangents[0]
    assert cotangent is not None
    unit = max(_STEPS * rounding_at(node, cotangent).unit, _OF_DIFFERENCES)
    return unit * float(jacobian.abs().max()) * float(cotangent.abs().sum())


def measured(node: Node, slot: int) -> Tensor | None:
    """Returns the measured Jacobian of a black box for one of its edges, (outputs, inputs).

    `None` where it is large, and of an operator that draws: another run of it is another function.

    A custom Function's is what its own backward gives; an operator's comes from central differences in float64, with
    a step of about eps^(1/3), in which truncation and rounding are equally small.
    """
    if slot in node.jacobians:
        return node.jacobians[slot]
    name, output = node.edges[slot].argument, node.outputs[0] if node.outputs else None
    value = node.arguments.get(name)
    if node.operator is None or not is_repeatable(node.operator):
        return None
    if not isinstance(value, Tensor) or not is_real(value) or not is_real(output):
        return None
    if len(node.outputs) != 1 or max(value.numel(), output.numel()) > LARGEST_MEASURED or not value.numel():
        return None
    exact = wide(dict(node.arguments))
    columns = []
    with torch.no_grad():
        for unit in torch.eye(value.numel(), dtype=torch.float64).reshape(-1, *value.shape):
            step = 6e-6 * max(1.0, float((exact[name] * unit).abs().sum()))
            above, below = (call(node.operator, {**exact, name: exact[name] + s * unit})[0] for s in (step, -step))
            columns.append((above - below).flatten() / (2 * step))
    return torch.stack(columns, 1)


def measured_term(node: Node, jacobian: Tensor, position: int) -> Term:
    """Returns Σᵢ gᵢ Jᵢⱼ for element j of an input, as written; terms with Jᵢⱼ = 0 are left out."""
    cotangent = node.cotangents[0]
    assert cotangent is not None
    places = jacobian[:, position].nonzero().flatten().tolist()
    g, column = cotangent.flatten(), jacobian[:, position]
    return total(
        [
            product(Number(shortest(g[i].item(), g.dtype)), Number(shortest(column[i].item(), column.dtype)))
            for i in places
        ]
    )


def _slope_term(node: Node, argument: str, rule: Rule, part: Part) -> Term:
    """Returns the local derivative of an elementwise rule written out; at a kink, the number that torch takes."""
    term = _formula_term(node, rule, rule.slopes[argument], part.element) if rule.elementwise else None
    if term is None:
        return part.slope
    convention = argument in rule.sides and isinstance(term, Constant) and Number(term.value) != part.slope
    return part.slope if convention else term


def contribution_term(node: Node, argument: str, rule: Rule, parts: Parts) -> Term:
    """Returns Σ g × slope as written; of a long sum its largest terms, and the rest as one number."""
    written = [product(Number(p.cotangent), _slope_term(node, argument, rule, p)) for p in parts.parts]
    return total([*written, Number(parts.rest)] if parts.count > len(parts.parts) else written)
