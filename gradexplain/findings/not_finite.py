"""Numbers that are not finite: which operation made the first one, of what, and what became of it.

Only what was recorded is told: the numbers that an operation was given, those that it gave back, and those that it sent
in the backward pass. Two kinds of numbers are made and not passed on: one that is not finite out of numbers that are,
and nan out of infinities (0 · inf, inf − inf). An infinity that was given, such as the −inf of a mask, is no fault; the
nan that is made of it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.findings.finding import Finding
from gradexplain.findings.rounding import ancestors, given_wide, made_wide, sent_wide
from gradexplain.mathematics.digits import shortest
from gradexplain.mathematics.indices import Index, indexed, unravelled
from gradexplain.mathematics.terms import Number, number_text, symbolic_text
from gradexplain.recording.trace import Edge, Node, Trace
from gradexplain.rules.application import Unrecorded, evaluated, slope, variables
from gradexplain.rules.entries import Rule
from gradexplain.rules.registry import rule_of

# Findings that say what made the first number that is not finite.
FIRST = ("input-not-finite", "first-not-finite", "first-gradient-not-finite")
# Beside an input that is not finite: a value that an operation made of numbers that are.
BESIDES = "besides-not-finite"
_DIGITS = 6

# What helps, by the operator that made the number.
_FAMILIES = {
    "exponential": frozenset({"exp", "exp2", "expm1", "sinh", "cosh"}),
    "logarithm": frozenset({"log", "log2", "log10", "log1p", "logit"}),
    "root": frozenset({"sqrt"}),
    "quotient": frozenset({"div", "reciprocal", "rsqrt"}),
    "end": frozenset({"acos", "asin", "acosh", "atanh", "erfinv"}),
    "power": frozenset({"pow"}),
}
# What helps where there was nothing to divide by, by what is known of it.
_COUNTS = {"row": "masked_row", "few": "few", "empty": "empty", "ignored": "ignored", "frames": "frames"}
_SOFTMAXES = frozenset({"_softmax", "_log_softmax", "_safe_softmax"})
_OF_ROWS = _SOFTMAXES | {"logsumexp"}
# Operators that choose among numbers: of one that they do not choose nothing is used, and it gets 0.
_CHOOSING = frozenset(
    """where masked_fill masked_scatter masked_select clamp clamp_min clamp_max maximum minimum fmax fmin max min amax
    amin relu hardtanh threshold nan_to_num index index_put index_select select slice narrow gather topk""".split()  # noqa: SIM905  # a list to read
)


@dataclass(frozen=True)
class _Made:
    """A number that a node made: the value or the gradient `element`, and the numbers that met (`told`).

    `detail` says which of them are known: it is the key of a sentence's end. `is_alone` says that all of them are
    finite: nothing that was made before is the cause.
    """

    node: Node
    element: str
    at: Index
    value: Any
    detail: str
    told: Mapping[str, Any]
    backward: bool = False
    remedy: str | None = None
    is_alone: bool = False


def births(trace: Trace, names: Mapping[int, str]) -> Iterator[Finding]:
    """Yields what made the first number that is not finite, and then what was made of it; `names` are the values'."""
    sent = list(_sent(trace, names))
    whole = _is_finite(trace.value)
    roots = [trace.nodes[trace.output[0]]] if not whole else [made.node for made in sent[:1]]
    behind = ancestors(trace, roots)
    values = list(_values([n for n in trace.nodes if n.index in behind], names))
    given = next((n for n in trace.nodes if n.leaf is not None and n.index in behind and _bad(n.outputs)), None)
    if given is not None:
        at, value = _first(_bad_numbers(given.outputs))
        yield Finding("input-not-finite", {"element": indexed(names[given.index], at), "value": value})
    first = values[0] if values else None
    if first is not None:
        code = "first-not-finite" if given is None else BESIDES if first.is_alone else "then-not-finite"
        yield _finding(code, _rounded(trace, first))
        yield from (_finding("then-not-finite", made) for made in values[1:])
    start = first.node if first is not None else given
    for made in sent:
        if made is not sent[0] or (start is not None and not made.is_alone and _leads_to(trace, start, made.node)):
            yield _finding("then-gradient-not-finite", made)
        else:
            yield _finding("first-gradient-not-finite" if start is None else "besides-gradient-not-finite", made)


def values_born(nodes: Sequence[Node], names: Mapping[int, str]) -> Iterator[Finding]:
    """Yields where the first value of a chain of nodes was made that is not finite, and what was made of it."""
    for number, made in enumerate(_values(nodes, names)):
        yield _finding("then-not-finite" if number else "first-not-finite", made)


def gradients_born(trace: Trace, names: Mapping[int, str]) -> Iterator[Finding]:
    """Yields where the first gradient was made that is not finite, and what was made of it."""
    for number, made in enumerate(_sent(trace, names)):
        yield _finding("then-gradient-not-finite" if number else "first-gradient-not-finite", made)


def _leads_to(trace: Trace, start: Node, node: Node) -> bool:
    """Says whether what a node made reaches another one, or is that one's own."""
    return start.index in ancestors(trace, [node])


def _finding(code: str, made: _Made) -> Finding:
    node = made.node
    data = {
        "value": made.value,
        "element": made.element,
        "operator": node.operator or node.name,
        "code": _code(node),
        "node": node.index,
        "detail": made.detail,
        **made.told,
    }
    if node.source is not None and node.source.behind:
        data["behind"] = node.source.behind  # torch's own formula, which nobody can mend there
    elif made.remedy and (code in FIRST or made.remedy == "hidden"):
        data["remedy"] = made.remedy
    return Finding(code, data, node.source, phase="backward" if made.backward else "forward", module=node.module)


def _code(node: Node) -> str:
    return (node.source.code if node.source else "") or node.name


# ----------------------------------------------------------------------------------------------- which are not finite


def _is_numeric(tensor: Any) -> bool:
    if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.layout != torch.strided:
        return False
    return tensor.is_floating_point() or tensor.is_complex()


def _is_finite(tensor: Tensor) -> bool:
    return not _is_numeric(tensor) or bool(tensor.isfinite().all())


def _bad(tensors: Sequence[Any]) -> bool:
    return any(not _is_finite(tensor) for tensor in tensors if isinstance(tensor, Tensor))


def _bad_numbers(tensors: Sequence[Any]) -> Iterator[tuple[Index, Any]]:
    for tensor in tensors:
        if _is_numeric(tensor) and not _is_finite(tensor):
            at = unravelled(int((~tensor.isfinite()).flatten().int().argmax()), tensor.shape)
            yield at, tensor[at].item()


def _first(found: Iterator[tuple[Index, Any]]) -> tuple[Index, Any]:
    return next(found)


def _operands(node: Node) -> list[Any]:
    """Returns the tensors and numbers that an operator was given, those in lists too."""
    flat: list[Any] = []
    for value in node.arguments.values():
        flat += value if isinstance(value, (list, tuple)) else [value]
    numbers = [torch.tensor(v) for v in flat if isinstance(v, float)]
    return [v for v in flat if _is_numeric(v)] + numbers


# -------------------------------------------------------------------------------------------------------- the values


def _values(nodes: Sequence[Node], names: Mapping[int, str]) -> Iterator[_Made]:
    """Yields the first value that is not finite, and the first nan that is made later of what is infinite."""
    wanted = "any"
    for node in nodes:
        if node.leaf is not None:
            continue
        for number, output in enumerate(node.outputs):
            if output is None or not _is_numeric(output) or _is_finite(output):
                continue
            where, alone = _made_here(node, output, wanted)
            if bool(where.any()):
                at = unravelled(int((alone if alone.any() else where).flatten().int().argmax()), output.shape)
                yield replace(_value(node, number, at, names), is_alone=bool(alone[at]))
                if bool(output[where].isnan().any()):
                    return
                wanted = "nan"
                break


def _made_here(node: Node, output: Tensor, wanted: str) -> tuple[Tensor, Tensor]:
    """Returns which elements of an output are not finite although the operator was given better numbers for them.

    And which of these it made of numbers that are finite.
    """
    operands = _operands(node)
    rule = rule_of(node.operator)
    apart = rule is not None and rule.elementwise and all(_fits(v, output) for v in operands)
    if apart:
        given_bad = sum((~v.isfinite() for v in operands), torch.zeros(output.shape, dtype=torch.int)) > 0
        given_nan = sum((v.isnan() for v in operands), torch.zeros(output.shape, dtype=torch.int)) > 0
    else:
        given_bad = torch.tensor(any(not _is_finite(v) for v in operands))
        given_nan = torch.tensor(any(bool(v.isnan().any()) for v in operands))
    if _short(node) == "logsumexp" and (rows := _rows_of_nothing(node, output)) is not None:
        given_bad = ~rows  # no mask wrote its −inf
    out_of_infinite, alone = output.isnan() & ~given_nan, ~output.isfinite() & ~given_bad
    return (out_of_infinite, alone & output.isnan()) if wanted == "nan" else (alone | out_of_infinite, alone)


def _fits(operand: Tensor, output: Tensor) -> bool:
    try:
        return tuple(torch.broadcast_shapes(operand.shape, output.shape)) == tuple(output.shape)
    except RuntimeError:
        return False


def _value(node: Node, number: int, at: Index, names: Mapping[int, str]) -> _Made:
    output = node.outputs[number]
    assert output is not None
    value, rule = output[at].item(), rule_of(node.operator)
    element = indexed(names[node.index], at)
    detail, told = _met(node, rule, output, at)
    wide = made_wide(node, node.arguments) if detail == "plain" and _has_wider(output) else ()
    if wide and bool(wide[number][at].isfinite()):
        detail = "plain_narrow" if _is_in_reach(wide[number][at], output) else "plain_overflow"
        told = {"wide": f"{wide[number][at].item():.4g}", **_end_of(output)}
    return _Made(node, element, at, value, detail, told, remedy=_remedy(node, value, detail))


def _rounded(trace: Trace, made: _Made) -> _Made:
    """Returns what was made, with what would have met in double precision, where that is no fault."""
    narrow, rule = made.node.outputs[0], rule_of(made.node.operator)
    if made.detail != "met" or narrow is None or not _has_wider(narrow) or trace.live:
        return made
    arguments = given_wide(trace, made.node)
    wide = () if arguments is None else made_wide(made.node, arguments)
    if arguments is None or not wide or not bool(wide[0][made.at].isfinite()):
        return made
    detail, told = _met(replace(made.node, arguments=arguments), rule, wide[0], made.at)
    if detail != "met" or told["values"] == made.told["values"]:
        return made
    ends = {"dtype": _type_name(narrow), "wide": f"{wide[0][made.at].item():.4g}", "wide_met": told["met"]}
    return replace(made, detail="met_rounded", told={**made.told, **ends})


def _is_in_reach(number: Tensor, narrow: Tensor) -> bool:
    """Says whether a number of double precision is one that a narrower tensor could hold."""
    return bool(number.abs() <= torch.finfo(narrow.dtype).max)


def _has_wider(tensor: Tensor) -> bool:
    return tensor.dtype not in (torch.float64, torch.complex128)


def _type_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _end_of(output: Tensor) -> dict[str, str]:
    """Returns the type of an output, and its largest number."""
    return {"dtype": _type_name(output), "largest": f"{torch.finfo(output.dtype).max:.2g}"}


def _met(node: Node, rule: Rule | None, output: Tensor, at: Index) -> tuple[str, Mapping[str, Any]]:
    """Returns the numbers that met in one element of an output, as far as they can be told."""
    if _short(node) in _OF_ROWS and (rows := _rows_of_nothing(node, output)) is not None and bool(rows[at]):
        whole = node.arguments["self"]
        count = math.prod(whole.shape[axis] for axis in _axes(node, whole))
        return "row", {"count": count, "values": {"x": -math.inf}}
    if _short(node) == "_ctc_loss" and (few := _too_short(node, at)):
        return few
    if math.isnan(abs(output[at].item())) and (few := _too_few(node)):
        return few
    if rule is None or not rule.elementwise or output.is_complex() or rule.moves:
        return "plain", {}
    known = variables(rule, node.arguments)
    numbers = {name: number for name, value in known.items() if (number := _at(value, output, at)) is not None}
    if numbers.keys() != known.keys() or len(numbers) != len(rule.names):
        return "plain", {}
    tensors = {name: Number(number) for name, number in numbers.items() if isinstance(known[name], Tensor)}
    text = symbolic_text(rule.formula, {**numbers, **tensors})
    given = {v: numbers[v] for argument, v in rule.names.items() if node.arguments.get(argument) is not None}
    told: dict[str, Any] = {"met": text, "values": given}
    wide = _in_float64(rule, numbers)
    if output[at].isinf() and wide is not None and torch.finfo(output.dtype).max < abs(wide) < float("inf"):
        return "overflow", {**told, "wide": f"{wide:.4g}", **_end_of(output)}
    return "met", told


def _at(value: Any, output: Tensor, at: Index) -> float | None:
    """Returns the number of an argument that meets an element of the output."""
    if isinstance(value, Tensor):
        if value.is_meta or value.is_complex() or not _fits(value, output):
            return None
        return float(shortest(value.expand(output.shape)[at].item(), value.dtype))
    return float(value) if isinstance(value, (bool, int, float)) else None


def _in_float64(rule: Rule, numbers: Mapping[str, float]) -> float | None:
    arguments = {argument: torch.tensor(numbers[v], dtype=torch.float64) for argument, v in rule.names.items()}
    try:
        return float(evaluated(rule, rule.formula, arguments))
    except (Unrecorded, RuntimeError, OverflowError, ZeroDivisionError):
        return None


def _rows_of_nothing(node: Node, output: Tensor) -> Tensor | None:
    """Returns which elements of an output are made of a row whose numbers are all −inf, `None` where there are none."""
    whole = node.arguments.get("self")
    if not isinstance(whole, Tensor) or whole.is_meta or not whole.numel():
        return None
    rows: Tensor = whole.amax(_axes(node, whole), keepdim=True) == -torch.inf
    return rows.expand(output.shape) if _short(node) in _SOFTMAXES else rows.reshape(output.shape)


def _axes(node: Node, whole: Tensor) -> list[int]:
    """Returns the axes along which an operator takes numbers together."""
    dims = node.arguments.get("dim")
    return [dims] if isinstance(dims, int) else list(dims or range(whole.ndim))


def _too_few(node: Node) -> tuple[str, Mapping[str, Any]] | None:
    """Returns why an operator that divides by a count had nothing to divide by, `None` of any other."""
    short, whole = _short(node), node.arguments.get("self")
    if not isinstance(whole, Tensor) or whole.is_meta:
        return None
    count = math.prod(whole.shape[axis] for axis in _axes(node, whole))
    if short in ("std", "var", "std_mean", "var_mean"):
        given = node.arguments.get("correction")
        correction = int(given) if isinstance(given, (int, float)) else 1
        told = {"count": count, "correction": correction}
        return ("few", {**told, "values": told}) if 0 < count <= correction else None
    if short in ("nll_loss_forward", "nll_loss2d_forward"):
        target, ignored = node.arguments.get("target"), int(node.arguments.get("ignore_index") or 0)
        if isinstance(target, Tensor) and not target.is_meta and target.numel() and bool(target.eq(ignored).all()):
            return "ignored", {"count": target.numel(), "ignored": ignored}
    return ("empty", {}) if short == "mean" and count == 0 else None


def _too_short(node: Node, at: Index) -> tuple[str, Mapping[str, Any]] | None:
    """Returns why a sequence cannot be its labels: each takes a frame, and one more where it is as the one before."""
    targets, row = node.arguments.get("targets"), at[0] if at else 0
    if not isinstance(targets, Tensor) or targets.is_meta:
        return None
    frames, lengths = (torch.as_tensor(node.arguments[f"{of}_lengths"]).reshape(-1) for of in ("input", "target"))
    count, given = int(lengths[row]), int(frames[row])
    labels = targets[row] if targets.dim() == 2 else targets[int(lengths[:row].sum()) :]
    needed = count + int((labels[1:count] == labels[: count - 1]).sum()) if count else 0
    told = {"needed": needed, "frames": given}
    return ("frames", {**told, "count": count, "values": told}) if needed > given else None


# ----------------------------------------------------------------------------------------------------- the gradients


def _sent(trace: Trace, names: Mapping[int, str]) -> Iterator[_Made]:
    """Yields the first gradient that is not finite, and the first nan that is made later of what is infinite."""
    wanted = "any"
    for index in trace.order:
        node = trace.nodes[index]
        arrived = [g for g in node.cotangents if g is not None]
        if _bad(arrived) and (wanted == "any" or any(bool(g.isnan().any()) for g in arrived)):
            continue
        for slot, edge in enumerate(node.edges):
            sent = edge.contribution
            if sent is None or not _is_numeric(sent) or _is_finite(sent):
                continue
            where = ~sent.isfinite() if wanted == "any" else sent.isnan()
            if bool(where.any()):
                made = _gradient(trace, node, slot, where, names)
                yield made
                if bool(sent.isnan().any()):
                    return
                wanted = "nan"
                break


def _gradient(trace: Trace, node: Node, slot: int, where: Tensor, names: Mapping[int, str]) -> _Made:
    edge = node.edges[slot]
    assert edge.contribution is not None
    at = unravelled(int(where.flatten().int().argmax()), where.shape)
    value = edge.contribution[at].item()
    element = indexed(names[edge.producer], at)
    detail, told, place = _product(node, edge, at, value)
    hider = _hider(trace, node, place) if place is not None and told.get("arrives") == 0 else None
    chosen = hider is not None and _short(hider) in _CHOOSING
    if hider is not None:
        told = {**told, "hider": _code(hider), "place": hider.source, "result": _code(node)}
        detail = "sent_hidden" if chosen else "sent_zero"
    remedy = "hidden" if chosen else _remedy_of_slope(node, detail, told)
    wide = sent_wide(node, slot) if detail == "sent" and _has_wider(edge.contribution) else None
    if wide is not None and _is_in_reach(wide[at], edge.contribution):
        detail, told = "sent_narrow", {"wide": f"{wide[at].item():.4g}", "dtype": _type_name(edge.contribution)}
    alone = place is not None and _is_finite_at(node, place, told)
    return _Made(node, element, at, value, detail, told, backward=True, remedy=remedy, is_alone=alone)


def _is_finite_at(node: Node, place: Index, told: Mapping[str, Any]) -> bool:
    """Says whether the numbers of an elementwise operator and what arrived are finite in one element of its output."""
    output = node.outputs[0]
    numbers = [told["arrives"], *told["values"].values()]
    return output is not None and bool(output[place].isfinite()) and all(map(math.isfinite, numbers))


def _product(node: Node, edge: Edge, at: Index, value: Any) -> tuple[str, dict[str, Any], Index | None]:
    """Returns the factors of what an elementwise operator sent to one element, and where they met in its output."""
    rule, output = rule_of(node.operator), node.outputs[0] if node.outputs else None
    cotangent = node.cotangents[0] if node.cotangents else None
    known = rule is not None and rule.elementwise and edge.argument in rule.slopes
    if not known or output is None or cotangent is None or output.is_complex() or not _is_numeric(output):
        return "sent", {}, None
    assert rule is not None
    assert edge.contribution is not None
    try:
        local = slope(rule, edge.argument, node.arguments, node.outputs)
    except (Unrecorded, RuntimeError):
        return "sent", {}, None
    met = _reaching(cotangent * local, at, edge.contribution.shape)
    if met is None:  # the rule has a number where torch's kernel has none
        return "sent", {}, None
    g, factor = cotangent[met].item(), local[met].item()
    text = f"{_shown(g)} × {_shown(factor)}"
    given = {name: n for name, v in variables(rule, node.arguments).items() if (n := _at(v, output, met)) is not None}
    return "sent_met", {"met": text, "arrives": g, "slope": factor, "values": given}, met


def _shown(number: float) -> str:
    text = number_text(number, _DIGITS)
    return f"({text})" if text.startswith("-") else text


def _places(shape: Sequence[int], at: Index, own: Sequence[int]) -> list[Index]:
    """Returns the elements of an output that one element of an argument takes part in."""
    grid = torch.arange(torch.Size(own).numel()).reshape(tuple(own)).expand(tuple(shape))
    flat = int(torch.arange(torch.Size(own).numel()).reshape(tuple(own))[at])
    return [tuple(place) for place in (grid == flat).nonzero().tolist()]


def _reaching(products: Tensor, at: Index, own: Sequence[int]) -> Index | None:
    return next((p for p in _places(products.shape, at, own) if not bool(products[p].isfinite())), None)


def _hider(trace: Trace, node: Node, at: Index) -> Node | None:
    """Returns the operation that sends 0 to one element of a node's output, while what arrives at it is not 0.

    That is one which chose another value (where, a mask, a clamp), did not read this one, or multiplied it by 0.
    """
    users = trace.consumers()
    while len(uses := users.get(node.index, ())) == 1:
        index, number = uses[0]
        user = trace.nodes[index]
        sent, arrived = user.edges[number].contribution, user.cotangents[0] if user.cotangents else None
        if sent is None or arrived is None or not _is_numeric(sent) or bool(sent[at] != 0):
            return None
        if arrived.shape != sent.shape or bool(arrived[at] != 0):
            return user if bool((arrived != 0).any()) else None
        node = user
    return None


# ------------------------------------------------------------------------------------------------------ what helps


def _short(node: Node) -> str:
    return (node.operator or "").removeprefix("aten.").split(".")[0].rstrip("_")


def _remedy(node: Node, value: Any, detail: str) -> str | None:
    """Returns the key of what helps against a value that is not finite."""
    short = _short(node)
    if detail in _COUNTS:
        return _COUNTS[detail]
    known = next((key for key, names in _FAMILIES.items() if short in names), None)
    return "overflow" if detail in ("overflow", "plain_overflow") and known in (None, "power") else known


def _remedy_of_slope(node: Node, detail: str, told: Mapping[str, Any]) -> str | None:
    """Returns the key of what helps against a slope that is not finite."""
    if detail in ("sent_met", "sent_zero") and not math.isfinite(told["slope"]):
        return "no_slope" if math.isnan(told["slope"]) else "steep"
    return "norm" if _short(node) in ("linalg_vector_norm", "norm") else None
