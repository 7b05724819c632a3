"""Every claim of a receipt, held against a fresh trace and a fresh report of its target.

Nothing here comes from the code that explains: steps, names, sums and paths are found again from the trace alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradexplain.mathematics.digits import shortest
from gradexplain.mathematics.equations import DIGITS, relation_of, rounds
from gradexplain.mathematics.terms import (
    Constant,
    Number,
    Term,
    names_in,
    product,
    symbolic_text,
    terms_of,
    text,
    total,
)
from gradexplain.receipts.consistency import Line, line_of
from gradexplain.receipts.derivation import Derived
from gradexplain.receipts.ledger import Ledger
from gradexplain.receipts.reading import below
from gradexplain.receipts.tensors import Comparison
from gradexplain.recording import kinks
from gradexplain.recording.trace import Edge, Node, Trace
from gradexplain.rules.entries import Rule
from gradexplain.rules.registry import rule_of
from gradexplain.targets.provenance import file_digest
from gradexplain.targets.sources import Source
from gradexplain.verification.oracles.question import MARGIN, wide

Place = tuple[int, ...]
Value = tuple[int, int]  # node, output
# Paths to an input are listed where there are at most as many.
_MOST_PATHS = 8


# -------------------------------------------------------------------------------------------------------------- names


@dataclass(frozen=True)
class Names:
    """What a receipt calls the nodes of a trace: leaves by their own name, steps by the name they claim."""

    of_node: Mapping[int, str]
    used: frozenset[Value]
    several: frozenset[int]  # nodes of which more than one output is used
    scalar: str

    def value(self, node: int, output: int) -> str:
        """Returns the name of one output of a node."""
        return f"{self.of_node[node]}.{output}" if node in self.several else self.of_node[node]

    def gradient(self, node: int, output: int) -> str:
        """Returns what the gradient of a value is called."""
        return f"∂{self.scalar}/∂{self.value(node, output)}"


def names_of(trace: Trace, part: Mapping[str, Any]) -> Names:
    """Returns the names that a receipt of as many steps as the trace has gives to its nodes."""
    inner = [n for n in trace.nodes if n.leaf is None]
    named = {n.index: s["forward"]["name"] for n, s in zip(inner, part["steps"], strict=True)}
    used = frozenset((e.producer, e.output) for n in trace.nodes for e in n.edges) | {trace.output}
    counts = Counter(node for node, _ in used)
    several = frozenset(node for node, count in counts.items() if count > 1)
    leaves = {n.index: n.leaf for n in trace.nodes if n.leaf is not None}
    return Names({**leaves, **named}, used, several, part["scalar"])


def names_by_code(trace: Trace) -> Names:
    """Returns the names in a report, where a value goes by the code that made it."""
    named = {n.index: n.leaf or (n.source.code if n.source else "") or n.name for n in trace.nodes}
    return Names(named, frozenset(), frozenset(), "")


# ------------------------------------------------------------------------------------------------------------ answers


def answer_claims(compared: Comparison, part: Mapping[str, Any], path: str, trace: Trace) -> None:
    """Checks inputs, output, cotangent and gradients."""
    ledger, output = compared.ledger, part["output"]
    _same(ledger, "input", f"{path}.inputs", "input_names", sorted(part["inputs"]), sorted(trace.inputs))
    for name in part["inputs"].keys() & trace.inputs.keys():
        _tensor(compared, "input", below(f"{path}.inputs", name), part["inputs"][name], trace.inputs[name])
    _same(ledger, "output", f"{path}.dtype", "output_type", part["dtype"], _type(trace.value))
    _tensor(compared, "output", f"{path}.output", output, trace.value)
    at, given = f"{path}.cotangent.value", part["cotangent"]["value"]
    compared.tensor("output", at, "cotangent_value", given, trace.cotangent)
    gradients = part["gradients"]
    _same(ledger, "gradient", f"{path}.gradients", "gradient_names", list(gradients), list(trace.gradients))
    leaves = {n.leaf: n.index for n in trace.nodes if n.leaf is not None}
    for name in gradients.keys() & trace.gradients.keys():
        at, arrived = below(f"{path}.gradients", name), _arriving(trace, (leaves.get(name, -1), 0))
        compared.tensor("gradient", at, "gradient_value", gradients[name], trace.gradients[name], *arrived)


def _tensor(compared: Comparison, kind: str, path: str, entry: Mapping[str, Any], fresh: Tensor) -> None:
    _same(compared.ledger, kind, f"{path}.dtype", f"{kind}_type", entry["dtype"], _type(fresh))
    _same(compared.ledger, kind, f"{path}.shape", f"{kind}_type", entry["shape"], list(fresh.shape))
    compared.tensor(kind, f"{path}.value", f"{kind}_value", entry["value"], fresh)


def _same(ledger: Ledger, kind: str, path: str, key: str, seen: Any, right: Any) -> bool:
    return ledger.claim(kind, seen == right, path, key, seen=_listed(seen), right=_listed(right))


def _listed(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "null" if value is None else str(value)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# -------------------------------------------------------------------------------------------------------------- steps


def step_claims(
    compared: Comparison, part: Mapping[str, Any], path: str, trace: Trace, receipt: Mapping[str, Any], name: str | None
) -> Names | None:
    """Checks every step; returns the names it gives, `None` where there are more or fewer steps than were recorded."""
    inner = [n for n in trace.nodes if n.leaf is None]
    counted = {"seen": len(part["steps"]), "right": len(inner)}
    key = "steps_missing" if len(part["steps"]) < len(inner) else "steps_invented"
    if not compared.ledger.claim("step", len(part["steps"]) == len(inner), f"{path}.steps", key, **counted):
        return None
    names = names_of(trace, part)
    steps = _Steps(compared, trace, names, receipt)
    for place, (node, step) in enumerate(zip(inner, part["steps"], strict=True)):
        steps.check(node, step, f"{path}.steps[{place}]")
    steps.output_name(part, path, name)
    return names


@dataclass(frozen=True)
class _Steps:
    compared: Comparison
    trace: Trace
    names: Names
    receipt: Mapping[str, Any]

    def check(self, node: Node, step: Mapping[str, Any], path: str) -> None:
        """Checks one step against its node."""
        for key in ("index", "operator", "module"):
            self._same("step", f"{path}.{key}", f"step_{key}", step[key], getattr(node, key))
        self._same("step", f"{path}.node", "step_node", step["node"], node.name)
        self._source(node.source, step["source"], path)
        order = {index: place for place, index in enumerate(self.trace.order, 1)}
        self._same("step", f"{path}.order", "step_order_backward", step["order"], order.get(node.index))
        used = [self.names.value(e.producer, e.output) for e in node.edges]
        self._same("step", f"{path}.inputs", "step_inputs", step["inputs"], used)
        rule = rule_of(node.operator)
        self._same("rule", f"{path}.rule", "rule_other", step["rule"], self.rule(node, rule))
        self._name(node, step, path)
        self._values(node, step, path)
        self._forward_equations(node, step, path, rule)
        for slot, (edge, sent) in enumerate(zip(node.edges, step["contributions"], strict=False)):
            self._sent(node, edge, sent, f"{path}.contributions[{slot}]", rule)

    def _same(self, kind: str, path: str, key: str, seen: Any, right: Any) -> bool:
        return _same(self.compared.ledger, kind, path, key, seen, right)

    def _source(self, fresh: Source | None, claimed: Mapping[str, Any] | None, path: str) -> None:
        if fresh is None or claimed is None:
            self._same("step", f"{path}.source", "step_source", claimed and claimed["code"], fresh and fresh.code)
            return
        place = (claimed["line"], claimed["code"]) == (fresh.line, fresh.code)
        same = place and self._is_file(claimed["file"], fresh.file)
        seen = f"{claimed['file']}:{claimed['line']} ({claimed['code']})"
        data = {"seen": seen, "right": f"{fresh} ({fresh.code})"}
        self.compared.ledger.claim("step", same, f"{path}.source", "step_source", **data)

    def _is_file(self, claimed: str, fresh: str) -> bool:
        """Says whether a file is the same one, in the same place or in another."""
        if claimed == fresh:
            return True
        digest, here = self.receipt["files"].get(claimed), Path(fresh)
        return Path(claimed).name == here.name and here.is_file() and digest == file_digest(here)

    def _name(self, node: Node, step: Mapping[str, Any], path: str) -> None:
        name = step["forward"]["name"]
        allowed = {step["label"], node.source.target if node.source else None}
        fits = name in allowed or node.index == self.trace.output[0]
        self.compared.ledger.claim("step", fits, f"{path}.forward.name", "step_name", seen=name, right=step["label"])

    def output_name(self, part: Mapping[str, Any], path: str, name: str | None) -> None:
        """Checks that the output is called what its step is called, and what the target calls it."""
        node = self.trace.nodes[self.trace.output[0]]
        right = self.names.of_node[node.index]
        self._same("output", f"{path}.output.name", "output_name", part["output"]["name"], right)
        target = node.source.target if node.source else None
        fits = right in {name, target, node.leaf} or bool(re.fullmatch("y_*", right))
        self.compared.ledger.claim("output", fits, f"{path}.output.name", "output_name", seen=right, right=name or "y")
        one = self.trace.value.numel() == 1 and bool((self.trace.cotangent == 1).all())
        fits = part["scalar"] == right if one else bool(re.fullmatch("L_*", part["scalar"]))
        data = {"seen": part["scalar"], "right": right if one else "L"}
        self.compared.ledger.claim("output", fits, f"{path}.scalar", "output_name", **data)

    # -------------------------------------------------------------------------------------------------- values

    def _values(self, node: Node, step: Mapping[str, Any], path: str) -> None:
        main = _main(node)
        output = node.outputs[min(main, len(node.outputs) - 1)] if node.outputs else None
        cotangent = node.cotangents[main] if main < len(node.cotangents) else None
        operands = [a for a in node.arguments.values() if isinstance(a, Tensor)]
        at = f"{path}.forward.value"
        self.compared.tensor("value", at, "step_value", step["forward"]["value"], output, *operands)
        arrived = _arriving(self.trace, (node.index, main))
        self.compared.tensor("value", f"{path}.cotangent", "step_cotangent", step["cotangent"], cotangent, *arrived)

    def _sent(self, node: Node, edge: Edge, sent: Mapping[str, Any], path: str, rule: Rule | None) -> None:
        """Checks a contribution against what the node sends by itself; its rule's own answer is the oracle's matter."""
        to = self.names.value(edge.producer, edge.output)
        self._same("contribution", f"{path}.to", "sent_elsewhere", sent["to"], to)
        self._same("contribution", f"{path}.argument", "sent_argument", sent["argument"], edge.argument)
        self._same("rule", f"{path}.rule", "rule_other", sent["rule"], self.backward_rule(node, edge, rule))
        sizes = [c for c in node.cotangents if c is not None]
        self.compared.tensor("contribution", f"{path}.value", "sent_value", sent["value"], edge.contribution, *sizes)
        known = {f"→ {to}": edge.contribution}
        for place, line, value, index in self._lines(sent["equations"], f"{path}.equations", known):
            expected = self._sent_term(node, edge, rule, index)
            self._expression(line, place, expected)
            self._result(line, place, value)

    # --------------------------------------------------------------------------------------------------- rules

    def rule(self, node: Node, rule: Rule | None) -> str | None:
        """Returns the operator's rule as the rule book shows it, in the receipt's names."""
        if rule is None or not rule.elementwise:
            return None if rule is None else rule.formula
        return f"{self.names.value(node.index, 0)} = {symbolic_text(rule.formula, self._symbols(node, rule))}"

    def backward_rule(self, node: Node, edge: Edge, rule: Rule | None) -> str | None:
        """Returns the rule's local derivative for an edge, in the receipt's names."""
        argument = edge.argument.partition("[")[0]
        if rule is None or not argument:
            return None
        if not rule.elementwise:
            return rule.derivatives[argument].shown if argument in rule.derivatives else None
        if argument not in rule.slopes:
            return None
        made, used = self.names.value(node.index, 0), self.names.value(edge.producer, edge.output)
        return f"∂{made}/∂{used} = {symbolic_text(rule.slopes[argument], self._symbols(node, rule))}"

    def _symbols(self, node: Node, rule: Rule) -> dict[str, Any]:
        used = {e.argument: self.names.value(e.producer, e.output) for e in node.edges}
        found: dict[str, Any] = {"y": self.names.value(node.index, 0)}
        for argument, variable in rule.names.items():
            value = rule.number_for(argument, node.arguments.get(argument))
            if isinstance(value, Tensor):
                constant = value.dim() == 0 and _is_real(value)
                found[variable] = used.get(argument) or (_shortest(value, ()) if constant else variable)
            elif isinstance(value, (int, float)):
                found[variable] = float(value)
        return found

    # ----------------------------------------------------------------------------------------------- equations

    def _forward_equations(self, node: Node, step: Mapping[str, Any], path: str, rule: Rule | None) -> None:
        used = [(n, output) for n, output in enumerate(node.outputs) if (node.index, n) in self.names.used]
        known = {self.names.value(node.index, n): output for n, output in used}
        for place, line, value, index in self._lines(step["forward"]["equations"], f"{path}.forward.equations", known):
            term = None if rule is None or not rule.elementwise else _written(node, rule, rule.formula, index)
            self._expression(line, place, term)
            self._result(line, place, value)
        self.sums((node.index, 0), step["sums"], f"{path}.sums")

    def sums(self, value: Value, texts: Sequence[str], path: str) -> None:
        """Checks the sums over what arrives at a value: operands, results, and that the whole is its gradient."""
        arrived = _arriving(self.trace, value)
        node = self.trace.nodes[value[0]]
        whole = node.cotangents[value[1]] if value[1] < len(node.cotangents) else None
        for place, line, tensor, index in self._lines(texts, path, {self.names.gradient(*value): whole}):
            self._expression(line, place, total([Number(_shortest(c, index)) for c in arrived]))
            self._result(line, place, tensor)
        if len(arrived) > 1 and whole is not None and not whole.is_sparse:
            summed = sum((wide(c.to_dense()) for c in arrived), torch.zeros(()))
            size = sum((c.to_dense().abs().to(torch.float64) for c in arrived), torch.zeros(()))
            eps = max(torch.finfo(t.dtype).eps for t in (whole, *arrived))
            apart = (summed - wide(whole)).abs().nan_to_num(0.0)
            closed = bool((apart <= MARGIN * eps * size.nan_to_num(0.0)).all())
            self.compared.ledger.claim("sum", closed, path, "sum_open", seen=len(arrived))

    def _lines(
        self, texts: Sequence[str], path: str, known: Mapping[str, Tensor | None]
    ) -> Iterator[tuple[str, Line, float, Place]]:
        """Yields the equations whose labels name an element of a known value, with its number and its place."""
        for number, shown in enumerate(texts):
            place, line = f"{path}[{number}]", line_of(shown)
            found = None if line is None else _labelled(line.label, known)
            ok = self.compared.ledger.claim("equation", found is not None, place, "equation_label", seen=shown)
            if ok and line is not None and found is not None:
                yield place, line, _shortest(*found), found[1]

    def _expression(self, line: Line, path: str, term: Term | None) -> None:
        """Checks that the left side is the term that the trace makes, where it is known how that is written."""
        if term is None or not self.compared.exact:
            return
        written = {text(term, digits) for digits in DIGITS}
        data = {"seen": line.expression, "right": text(term, DIGITS[0])}
        self.compared.ledger.claim("equation", line.expression in written, path, "equation_expression", **data)

    def _result(self, line: Line, path: str, value: float) -> None:
        """Checks that the right side rounds the number of the trace, and that no stronger relation holds."""
        ledger = self.compared.ledger
        if self.compared.exact:
            ledger.claim("equation", rounds(line.result, value), path, "equation_result", seen=line.result, right=value)
        else:
            value = float(line.result)
        right = relation_of(line.expression, line.result, value)
        ledger.claim("equation", right == line.relation, path, "equation_relation", seen=line.relation, right=right)

    def _sent_term(self, node: Node, edge: Edge, rule: Rule | None, index: Place) -> Term | None:
        """Returns g × slope at one element, where an elementwise operator repeats none of its input."""
        cotangent, argument = node.cotangents[0], edge.argument
        if rule is None or not rule.elementwise or argument not in rule.slopes or cotangent is None:
            return None
        value = node.arguments.get(argument)
        if not isinstance(value, Tensor) or value.shape != cotangent.shape or not _is_real(cotangent):
            return None
        local = _written(node, rule, rule.slopes[argument], index)
        return None if local is None else product(Number(_shortest(cotangent, index)), local)


def _main(node: Node) -> int:
    """Returns the output that a step speaks of: the first that a gradient reached."""
    return next((i for i, c in enumerate(node.cotangents) if c is not None), 0)


def _arriving(trace: Trace, value: Value) -> list[Tensor]:
    edges = (e for n in trace.nodes for e in n.edges if (e.producer, e.output) == value)
    return [e.contribution for e in edges if e.contribution is not None]


def _is_real(tensor: Tensor) -> bool:
    return not tensor.is_complex() and tensor.layout == torch.strided and not tensor.is_meta


def _shortest(tensor: Tensor, index: Place) -> float:
    return shortest(tensor[index].item(), tensor.dtype)


def _labelled(label: str, known: Mapping[str, Tensor | None]) -> tuple[Tensor, Place] | None:
    """Returns the tensor and the index that a label such as `h[0, 1]` names."""
    for name, tensor in known.items():
        if tensor is None or not _is_real(tensor) or not label.startswith(name):
            continue
        rest = re.fullmatch(r"|\[(\d+(?:, \d+)*)\]", label.removeprefix(name))
        if rest is None:
            continue
        index = tuple(int(part) for part in (rest[1] or "").split(", ") if part)
        if len(index) == tensor.dim() and all(i < n for i, n in zip(index, tensor.shape, strict=True)):
            return tensor, index
    return None


def _written(node: Node, rule: Rule, formula: str, index: Place) -> Term | None:
    """Returns one of an elementwise rule's formulas with the numbers of one element of the output."""
    found: dict[str, Any] = {}
    values = {variable: rule.number_for(a, node.arguments.get(a)) for a, variable in rule.names.items()}
    for variable, value in {**values, "y": node.outputs[0]}.items():
        if isinstance(value, Tensor) and _is_real(value):
            ahead = len(index) - value.dim()
            at = tuple(0 if size == 1 else i for i, size in zip(index[ahead:], value.shape, strict=True))
            found[variable] = Number(_shortest(value, at))
        elif isinstance(value, (int, float)):
            found[variable] = Constant(float(value))
        elif isinstance(value, str):
            found[variable] = value
    if not names_in(formula) <= found.keys():
        return None
    term = terms_of(formula, found)
    return term if isinstance(term, Term) else Constant(float(term))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- inputs


def input_claims(
    compared: Comparison, part: Mapping[str, Any], path: str, trace: Trace, names: Names, receipt: Mapping[str, Any]
) -> None:
    """Checks for each input which steps use it, the sum over its uses, and what arrives along each path."""
    labels = {n.index: s["label"] for n, s in zip(_inner(trace), part["steps"], strict=True)}
    steps = _Steps(compared, trace, names, receipt)
    leaves = {n.leaf: n.index for n in trace.nodes if n.leaf is not None}
    for name, found in part["by_input"].items():
        own, leaf = below(f"{path}.by_input", name), leaves.get(name)
        used = [labels[n.index] for n in trace.nodes for e in n.edges if e.producer == leaf]
        _same(compared.ledger, "path", f"{own}.uses", "input_uses", found["uses"], used)
        if leaf is not None:
            steps.sums((leaf, 0), found["sums"], f"{own}.sums")
            _paths(compared, found["paths"], f"{own}.paths", trace, leaf, labels)


def _inner(trace: Trace) -> list[Node]:
    return [n for n in trace.nodes if n.leaf is None]


def _paths(
    compared: Comparison,
    claimed: Sequence[Mapping[str, Any]],
    path: str,
    trace: Trace,
    leaf: int,
    labels: Mapping[int, str],
) -> None:
    """Checks that the listed paths are all there are, and what arrives along each by the rules in float64."""
    if not claimed:
        return
    routes = _routes(trace, leaf)
    left = {place: [labels[node] for node, _ in route] for place, route in enumerate(routes)}
    data = {"seen": len(claimed), "right": len(routes)}
    compared.ledger.claim("path", len(claimed) == len(routes), path, "paths_counted", **data)
    for place, route in enumerate(claimed):
        own = f"{path}[{place}]"
        at = next((n for n, steps in left.items() if steps == route["steps"]), None)
        seen = " → ".join(route["steps"])
        if compared.ledger.claim("path", at is not None, f"{own}.steps", "path_unknown", seen=seen) and at is not None:
            del left[at]  # two uses by one step are two paths
            _along(compared, route["value"], f"{own}.value", trace, routes[at])


def _routes(trace: Trace, leaf: int) -> list[tuple[tuple[int, int], ...]]:
    """Returns the paths from the output down to a leaf, as (node, edge number), at most one more than are listed."""
    found: list[tuple[tuple[int, int], ...]] = []
    stack: list[tuple[int, tuple[tuple[int, int], ...]]] = [(trace.output[0], ())]
    while stack and len(found) <= _MOST_PATHS:
        index, route = stack.pop()
        if index == leaf:
            found.append(route)
            continue
        edges = [(slot, e) for slot, e in enumerate(trace.nodes[index].edges) if e.contribution is not None]
        stack += [(e.producer, (*route, (index, slot))) for slot, e in reversed(edges)]
    return found


def _along(compared: Comparison, claimed: Any, path: str, trace: Trace, route: Sequence[tuple[int, int]]) -> None:
    """Checks what arrives along one path: the rules one after another, in float64, held within rounding."""
    cotangent, sizes = wide(trace.cotangent), [trace.cotangent]
    for index, slot in route:
        node = trace.nodes[index]
        rule, argument = rule_of(node.operator), node.edges[slot].argument
        name, _, item = argument.partition("[")
        if rule is None:
            compared.ledger.leave_open(path, "path_without_rule", operator=node.operator or node.name)
            return
        arguments = {n: wide(a) for n, a in node.arguments.items()}
        found = kinks.sent(rule, name, [cotangent], arguments, tuple(wide(y) for y in node.outputs))
        cotangent = found[int(item.rstrip("]"))] if item else found
        sizes.append(cotangent)
    like = trace.nodes[trace.nodes[route[-1][0]].edges[route[-1][1]].producer].outputs[0]
    rounded = cotangent.to(trace.value.dtype if like is None else like.dtype)
    rounding = Comparison(compared.ledger, exact=False, elsewhere=False)
    rounding.tensor("path", path, "path_value", claimed, rounded, *sizes)


# -------------------------------------------------------------------------------------------------------------- files


def foreign_source(receipt: Mapping[str, Any], trace: Trace) -> str | None:
    """Returns a file that steps are said to have run from, and that is not among those that run now."""
    claimed = [*receipt.get("steps", ()), *receipt.get("operations", ())]
    files = [step["source"]["file"] for step in claimed if step["source"] is not None]
    here = {Path(node.source.file).name for node in trace.nodes if node.source is not None}
    return next((file for file in files if Path(file).name not in here), None)


def file_claims(ledger: Ledger, files: Mapping[str, str], derived: Derived, target: Path | None) -> bool:
    """Checks that the files that ran are those that the receipt was made from."""
    sources = {Path(n.source.file) for n in derived.trace.nodes if n.source is not None}
    fresh = {p.name: p for p in (*sources, *([target] if target else ())) if p.is_file()}
    holds = True
    for file, digest in files.items():
        found = fresh.get(Path(file).name, Path(file))
        if not found.is_file():
            ledger.leave_open(below("$.files", file), "file_missing", file=file)
            continue
        same = file_digest(found) == digest
        holds &= ledger.claim("file", same, below("$.files", file), "file_changed", file=Path(file).name)
    return holds
