"""What is said about a gradient, as data without words: steps, sums, paths, checks, findings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from gradexplain.documents.shown import Shown
from gradexplain.errors import InputError
from gradexplain.explanation.elements import (
    can_take_apart,
    contribution_term,
    doubt,
    is_complex,
    is_outside,
    is_real,
    measured,
    measured_doubt,
    measured_term,
    number,
    parts_of,
    rounding_at,
    sends_conjugates,
    sent,
    written_out,
)
from gradexplain.explanation.grouping import Group, groups_of, inside
from gradexplain.explanation.selection import Selection, shown_elements
from gradexplain.findings.diagnosis import diagnose
from gradexplain.findings.finding import Finding
from gradexplain.mathematics.digits import rounding_of
from gradexplain.mathematics.equations import EXACT, Equation, equation
from gradexplain.mathematics.indices import Index, indexed, indices, unravelled
from gradexplain.mathematics.terms import names_in, symbolic_text, total
from gradexplain.recording.summaries import TensorSummary
from gradexplain.recording.trace import Cut, Edge, Node, Slice, Trace
from gradexplain.rules.application import variables
from gradexplain.rules.entries import Rule
from gradexplain.rules.registry import rule_of
from gradexplain.targets.request import Request
from gradexplain.targets.sources import Source
from gradexplain.verification.verdicts import Reason, Report

# A trace of more steps than this is shown by module, or as one line a step.
DETAILED = 40
MOST_PATHS = 8
# As many elements of a part are named, of a tensor of as many.
FEW_ELEMENTS, MOST_NUMBERED = 6, 10_000


@dataclass(frozen=True)
class Contribution:
    """What one step sends along one edge to the value `to`; `terms` counts the terms of the longest sum in it.

    `to` is output `output` of node `producer`. `through` tells, for the elements that are shown of it, from which
    elements of the step's cotangent each was made, where that is known.

    `jacobian`, (outputs, inputs), is measured where there is no rule. It is `conjugated` if the numbers are complex and
    the derivative's conjugate is sent.
    """

    to: str
    argument: str
    producer: int
    rule: str | None
    value: TensorSummary | None
    equations: tuple[Equation, ...]
    terms: int
    jacobian: TensorSummary | None = None
    conjugated: bool = False
    output: int = 0
    through: Mapping[Index, tuple[Index, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """The elements of a tensor that `operator` wrote into through a view, or that a step looks at through one ("").

    `written` is the argument that they are of the operator; `elements` is empty where they are many.
    """

    operator: str
    written: str
    count: int
    total: int
    elements: tuple[Index, ...] = ()


@dataclass(frozen=True)
class Output:
    """One of several outputs of a step: its value, the gradient that arrives at it, and the sum that this is.

    Where something changed what was sent to it, as a hook does, it is no such sum: `changed`.
    """

    name: str
    forward: TensorSummary | None
    cotangent: TensorSummary | None
    sums: tuple[Equation, ...]
    changed: bool = False


@dataclass(frozen=True)
class Step:
    """One recorded operator: what it computed, and what it did in the backward pass.

    `label` is f1, f2, … in forward order; `name` is the name of its output; `order` is its place in the backward pass,
    `None` where no gradient reached it. `sums` adds up the contributions where its output is used more than once. Of
    several outputs, the first that a gradient arrives at is shown; `further` has the others that one arrives at, and
    `main` is what that first one is called among them; `changed` is as in `Output`. A write into a view, and a look
    through one, has a `part`.
    """

    index: int
    label: str
    name: str
    operator: str | None
    node: str
    code: str
    source: Source | None
    module: str
    inputs: tuple[str, ...]
    rule: str | None
    moves: bool
    forward: TensorSummary | None
    equations: tuple[Equation, ...]
    kept: Mapping[str, Any]
    order: int | None
    cotangent: TensorSummary | None
    sums: tuple[Equation, ...]
    contributions: tuple[Contribution, ...]
    main: str = ""
    changed: bool = False
    further: tuple[Output, ...] = ()
    part: Part | None = None


@dataclass(frozen=True)
class Route:
    """One path from an input to the output: the labels of the steps on it, and what arrives along it alone."""

    steps: tuple[str, ...]
    value: TensorSummary


@dataclass(frozen=True)
class Gradient:
    """The gradient of one input; `value` is `None` where the output does not depend on it."""

    name: str
    value: TensorSummary | None
    uses: tuple[str, ...]
    sums: tuple[Equation, ...]
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Explanation(Shown):
    """Where every number of a gradient comes from, and whether it is right.

    `gradients` maps each input to its gradient (`None`: no influence). `scalar` is the name of what is differentiated:
    the output, or L = ⟨cotangent, output⟩ where that is not one number. `higher` holds the explanations of the second
    and further derivatives. `request` is what was typed, where that is how the explanation was asked for.

    >>> import torch, gradexplain as gx
    >>> explanation = gx.explain(lambda x: x * x, [torch.tensor(3.0)])
    >>> explanation.output_name, explanation.gradients["x"].item(), explanation.steps[0].operator
    ('y', 6.0, 'aten.mul.Tensor')
    """

    target: str
    torch: str
    dtype: str
    inputs: Mapping[str, TensorSummary]
    output_name: str
    output: TensorSummary
    scalar: str
    cotangent: TensorSummary
    cotangent_given: bool
    gradients: Mapping[str, Tensor | None]
    by_input: tuple[Gradient, ...]
    steps: tuple[Step, ...]
    report: Report
    findings: tuple[Finding, ...]
    groups: tuple[Group, ...]
    names: Mapping[int, str]
    module: str | None = None
    element: str | None = None
    live: bool = False
    outputs: int = 1
    parameters: tuple[str, ...] = ()
    higher: tuple[Explanation, ...] = ()
    order: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)
    request: Request | None = None
    cuts: tuple[Cut, ...] = ()

    @property
    def verdict(self) -> str:
        """`agrees`, `differs` or `cannot say`, over all orders."""
        verdicts = [self.report.verdict, *(e.verdict for e in self.higher)]
        return next((v for v in ("differs", "cannot say") if v in verdicts), "agrees")

    @property
    def reason(self) -> Reason | None:
        """Why the verdict is not that all agrees."""
        return next((e.report.reason for e in (self, *self.higher) if e.report.verdict == self.verdict), None)

    @property
    def equations(self) -> tuple[Equation, ...]:
        """Every equation that is displayed, of this order alone."""
        return tuple(self._equations())

    def _equations(self) -> Iterator[Equation]:
        for step in self.detailed:
            yield from step.equations
            yield from step.sums
            for output in step.further:
                yield from output.sums
            for contribution in step.contributions:
                yield from contribution.equations
        for gradient in self.by_input:
            yield from gradient.sums

    @property
    def detailed(self) -> tuple[Step, ...]:
        """The steps that are shown one by one."""
        scope = [s for s in self.steps if inside(s.module, self.module or "")]
        return tuple(scope) if len(scope) <= DETAILED else ()

    def __repr__(self) -> str:
        return f"<Explanation of {self.target}: {self.verdict}>"


def explain_trace(
    trace: Trace,
    report: Report,
    *,
    target: str,
    cotangent_given: bool = False,
    element: str | None = None,
    module: str | None = None,
    output_name: str | None = None,
    parameters: Sequence[str] = (),
) -> Explanation:
    """Joins a trace with the rules, the verdicts and the findings.

    `element` ("x[1]") follows one element of an input alone; `module` opens one module of a network. Raises
    `InputError` where either does not exist.
    """
    names = _Names(trace, output_name)
    modules = [n.module for n in trace.nodes if n.leaf is None]
    if module is not None and not any(inside(m, module) for m in modules):
        known = ", ".join(sorted({m for m in modules if m}))
        raise InputError("unknown_module" if known else "no_modules", name=module, names=known)
    inner = [n for n in trace.nodes if n.leaf is None]
    opened = [n for n in inner if inside(n.module, module or "")]
    detailed = {n.index for n in opened} if len(opened) <= DETAILED else set()
    shown = shown_elements(trace, element, detailed)
    order = {index: place for place, index in enumerate(trace.order, 1)}
    builder = _Builder(trace, names, shown, detailed, order)
    steps = tuple(builder.step(node) for node in inner)
    kinds = dict(trace.modules)
    by_input = tuple(builder.gradient(name) for name in trace.gradients)
    values = {gradient.name: gradient.value for gradient in by_input}
    return Explanation(
        target=target,
        torch=torch.__version__,
        dtype=str(trace.value.dtype).removeprefix("torch."),
        inputs={name: TensorSummary(tensor) for name, tensor in trace.inputs.items()},
        output_name=names.output,
        output=TensorSummary(trace.value),
        scalar=names.scalar,
        cotangent=TensorSummary(trace.cotangent),
        cotangent_given=cotangent_given,
        gradients=dict(trace.gradients),
        by_input=by_input,
        steps=steps,
        report=report,
        findings=(*filter(report.stands, diagnose(trace, names.of_node, values)), *report.findings),
        groups=groups_of([s.module for s in steps], [s.operator or s.node for s in steps], kinds, module or ""),
        names=names.of_node,
        module=module,
        element=element,
        live=trace.live,
        outputs=trace.outputs,
        parameters=tuple(parameters),
        cuts=trace.cuts,
    )


# --------------------------------------------------------------------------------------------------------- names


class _Names:
    """What the values are called: inputs by name, outputs by the variable they were assigned to, else f1, f2, …"""

    def __init__(self, trace: Trace, output_name: str | None) -> None:
        self.of_node: dict[int, str] = {n.index: n.leaf for n in trace.nodes if n.leaf is not None}
        self.labels: dict[int, str] = {}
        taken = {*trace.inputs, *self.of_node.values()}
        last_of = {n.source: n.index for n in trace.nodes if n.source is not None}
        for position, node in enumerate((n for n in trace.nodes if n.leaf is None), 1):
            self.labels[node.index] = f"f{position}"
            target = node.source.target if node.source and last_of[node.source] == node.index else None
            if node.index == trace.output[0]:
                target = output_name or target or _free("y", taken)
            name = target if target and target not in taken else f"f{position}"
            taken.add(name)
            self.of_node[node.index] = name
        self.output = self.of_node[trace.output[0]]
        one = trace.value.numel() == 1 and bool((trace.cotangent == 1).all())
        self.scalar = self.output if one else _free("L", taken)
        used = {(e.producer, e.output) for n in trace.nodes for e in n.edges} | {trace.output}
        counts = Counter(node for node, _ in used)
        self._many = {node for node, count in counts.items() if count > 1}

    def value(self, node: int, output: int) -> str:
        """Returns the name of one output of a node."""
        return f"{self.of_node[node]}.{output}" if node in self._many else self.of_node[node]

    def gradient(self, node: int, output: int) -> str:
        """Returns the name of the gradient of a value: ∂y/∂x."""
        return f"∂{self.scalar}/∂{self.value(node, output)}"


def _is_sum(whole: Tensor, sent: Sequence[Tensor]) -> bool:
    """Says whether a gradient is the sum of what was sent, but for the rounding of the sum."""
    wide = [c.detach().double() for c in sent]
    away, size = (whole.detach().double() - sum(wide)).abs(), torch.stack([c.abs() for c in wide]).sum(0)
    last = torch.finfo(whole.dtype).eps * (size + torch.finfo(whole.dtype).smallest_normal)
    return not bool(((away > 4 * len(sent) * last) & whole.isfinite()).any())


def _free(name: str, taken: set[str]) -> str:
    """Returns `name`, with as many underscores as it takes to be nobody else's."""
    while name in taken:
        name += "_"
    return name


# --------------------------------------------------------------------------------------------------------- steps


def _main_output(node: Node) -> int:
    """Returns the first output of a node that a gradient arrives at: of several it is the one that is shown."""
    return next((i for i, c in enumerate(node.cotangents) if c is not None), 0)


def _part(part: Slice) -> Part:
    """Returns which elements a part has."""
    count, total = math.prod(part.size), math.prod(part.whole[0])
    found = Part(part.operator, part.written, count, total)
    if count > FEW_ELEMENTS or total > MOST_NUMBERED:
        return found
    whole = torch.empty_strided(*part.whole, dtype=torch.int64).copy_(torch.arange(total).reshape(part.whole[0]))
    inside = whole.as_strided(part.size, part.stride, part.offset).flatten().tolist()
    return replace(found, elements=tuple(unravelled(i, part.whole[0]) for i in inside))


@dataclass(frozen=True)
class _Builder:
    trace: Trace
    names: _Names
    shown: Selection
    detailed: set[int]
    order: Mapping[int, int]  # of the backward pass

    @cached_property
    def arrivals(self) -> Counter[tuple[int, int]]:
        """How many contributions each value's gradient is the sum of."""
        edges = (edge for node in self.trace.nodes for edge in node.edges if edge.contribution is not None)
        return Counter((edge.producer, edge.output) for edge in edges)

    @cached_property
    def changed(self) -> frozenset[tuple[int, int]]:
        """The values shown at which something else arrives than the sum of what was sent to them."""
        found = set()
        for node in (self.trace.nodes[index] for index in self.detailed):
            for place, whole in enumerate(node.cotangents):
                sent = [c for c in self._sent_to(node.index, place) if is_real(c)]
                alike = whole is not None and sent and all(c.shape == whole.shape for c in sent)
                if alike and whole is not None and not _is_sum(whole, sent):
                    found.add((node.index, place))
        return frozenset(found)

    def _sent_to(self, producer: int, output: int) -> list[Tensor]:
        edges = (edge for node in self.trace.nodes for edge in node.edges)
        arrived = (e.contribution for e in edges if (e.producer, e.output) == (producer, output))
        return [sent for sent in arrived if sent is not None]

    def step(self, node: Node) -> Step:
        rule = rule_of(node.operator)
        main = _main_output(node)
        detailed = node.index in self.detailed
        cotangent = node.cotangents[main] if main < len(node.cotangents) else None
        forward = node.outputs[min(main, len(node.outputs) - 1)] if node.outputs else None
        return Step(
            index=node.index,
            label=self.names.labels[node.index],
            name=self.names.of_node[node.index],
            operator=node.operator or (node.part.operator if node.part else "") or None,
            node=node.name,
            code=node.source.code if node.source else "",
            source=node.source,
            module=node.module,
            inputs=tuple(self.names.value(e.producer, e.output) for e in node.edges),
            rule=self._forward_rule(node, rule),
            moves=bool(rule and rule.moves),
            forward=TensorSummary(forward) if forward is not None else None,
            equations=tuple(self._forward(node, rule)) if detailed else (),
            kept=node.saved,
            order=self.order.get(node.index),
            cotangent=TensorSummary(cotangent) if cotangent is not None else None,
            sums=tuple(self._sums(node.index, main)) if detailed else (),
            contributions=tuple(self._contribution(node, slot, rule) for slot in range(len(node.edges))),
            main=self.names.value(node.index, main),
            changed=(node.index, main) in self.changed,
            further=tuple(self._further(node, main)),
            part=_part(node.part) if node.part else None,
        )

    def _further(self, node: Node, main: int) -> Iterator[Output]:
        for place, cotangent in enumerate(node.cotangents):
            if place == main or cotangent is None:
                continue
            forward = node.outputs[place] if place < len(node.outputs) else None
            yield Output(
                name=self.names.value(node.index, place),
                forward=TensorSummary(forward) if forward is not None else None,
                cotangent=TensorSummary(cotangent),
                sums=tuple(self._sums(node.index, place)) if node.index in self.detailed else (),
                changed=(node.index, place) in self.changed,
            )

    def _symbols(self, node: Node, rule: Rule) -> dict[str, Any]:
        """Returns what an elementwise formula's variables are called here: the user's names, numbers, or torch's names.

        The formula's own letters stand nowhere else on the page, and may be names of other things there.
        """
        used = {e.argument: self.names.value(e.producer, e.output) for e in node.edges}
        found: dict[str, Any] = {"y": self.names.value(node.index, 0)}
        known = variables(rule, node.arguments)
        for argument, variable in rule.names.items():
            value = known.get(variable)
            if argument in used:
                found[variable] = used[argument]
            elif isinstance(value, Tensor) and value.dim() == 0 and is_real(value):
                found[variable] = number(value, ()).value
            elif isinstance(value, (int, float)):
                found[variable] = float(value)
            else:
                found[variable] = argument
        return found

    def _forward_rule(self, node: Node, rule: Rule | None) -> str | None:
        if rule is None:
            return None
        if not rule.elementwise:
            return rule.formula
        return f"{self.names.value(node.index, 0)} = {symbolic_text(rule.formula, self._symbols(node, rule))}"

    def _backward_rule(self, node: Node, edge: Edge, rule: Rule | None) -> str | None:
        argument = edge.argument.partition("[")[0]
        if rule is None or not argument:
            return None
        if rule.elementwise:
            if argument not in rule.slopes:
                return None
            symbols = self._symbols(node, rule)
            slope = symbolic_text(rule.slopes[argument], symbols)
            if sends_conjugates(node, edge, rule):
                arrived, sent = self.names.gradient(node.index, 0), self.names.gradient(edge.producer, edge.output)
                constant = all(isinstance(symbols.get(name), float) for name in names_in(rule.slopes[argument]))
                made = f"{arrived}·{slope}" if constant else f"{arrived}·conj({slope})"
                return f"{sent} = {made}" if is_complex(edge.contribution) else f"{sent} = Re({made})"
            made, used = self.names.value(node.index, 0), self.names.value(edge.producer, edge.output)
            return f"∂{made}/∂{used} = {slope}"
        return rule.derivatives[argument].shown if argument in rule.derivatives else None

    def _forward(self, node: Node, rule: Rule | None) -> Iterator[Equation]:
        if rule is None or rule.moves:
            return
        for output, tensor in enumerate(node.outputs):
            if not is_real(tensor):
                continue
            for index, term in written_out(node, rule, output, self.shown.get((node.index, output), ())):
                label = indexed(self.names.value(node.index, output), index)
                yield equation(label, term, number(tensor, index).value, rounding_at(node, tensor))

    def _contribution(self, node: Node, slot: int, rule: Rule | None) -> Contribution:
        edge, detailed = node.edges[slot], node.index in self.detailed
        equations, terms = self._taken_apart(node, edge, rule) if detailed else ((), 0)
        formula = self._backward_rule(node, edge, rule)
        jacobian = measured(node, slot) if detailed and formula is None and is_real(edge.contribution) else None
        if jacobian is not None and node.cotangents[0] is not None:
            equations = tuple(self._measured(node, edge, jacobian))
        return Contribution(
            to=self.names.value(edge.producer, edge.output),
            argument=node.part.slots[slot] if node.part else edge.argument,
            producer=edge.producer,
            rule=formula,
            value=TensorSummary(edge.contribution) if edge.contribution is not None else None,
            equations=equations,
            terms=terms,
            jacobian=TensorSummary(jacobian) if jacobian is not None else None,
            conjugated=formula is not None and rule is not None and sends_conjugates(node, edge, rule),
            output=edge.output,
            through=dict(self._through(node, edge, rule)) if detailed else {},
        )

    def _through(self, node: Node, edge: Edge, rule: Rule | None) -> Iterator[tuple[Index, tuple[Index, ...]]]:
        """Yields, for each element shown of what an edge leads to, the elements of the cotangent that it came from."""
        if not can_take_apart(node, edge, rule):
            return
        assert rule is not None
        main = _main_output(node)
        for index in self.shown.get((edge.producer, edge.output), ()):
            pieces = parts_of(node, edge.argument, rule, index).parts
            yield index, tuple(part.element for part in pieces if part.output == main)

    def _measured(self, node: Node, edge: Edge, jacobian: Tensor) -> Iterator[Equation]:
        assert edge.contribution is not None
        shape = edge.contribution.shape
        for position, index in enumerate(indices(shape)):
            if index in self.shown.get((edge.producer, edge.output), ()):
                label = f"→ {indexed(self.names.value(edge.producer, edge.output), index)}"
                value, rounding = number(edge.contribution, index).value, rounding_at(node, edge.contribution)
                term = measured_term(node, jacobian, position)
                yield equation(label, term, value, rounding, partial(measured_doubt, node, jacobian))

    def _taken_apart(self, node: Node, edge: Edge, rule: Rule | None) -> tuple[tuple[Equation, ...], int]:
        if not can_take_apart(node, edge, rule) or (rule and rule.moves):
            return (), 0
        assert rule is not None
        assert edge.contribution is not None
        found, most = [], 0
        name = self.names.value(edge.producer, edge.output)
        for index in self.shown.get((edge.producer, edge.output), ()):
            parts = parts_of(node, edge.argument, rule, index)
            term = contribution_term(node, edge.argument, rule, parts)
            value, rounding = number(edge.contribution, index).value, rounding_at(node, edge.contribution)
            most = max(most, parts.count)
            if parts.count or value != 0:
                unknown = partial(doubt, node, edge.argument, rule, index)
                sent = equation(f"→ {indexed(name, index)}", term, value, rounding, unknown)
                if sent.relation == EXACT or not (math.isnan(value) and is_outside(node, parts)):
                    found.append(sent)
        return tuple(found), most

    def _sums(self, producer: int, output: int = 0) -> Iterator[Equation]:
        """Yields, for a value that is used more than once, its gradient as the sum of the contributions."""
        arrived = self._sent_to(producer, output)
        if len(arrived) < 2 or not all(map(is_real, arrived)):
            return
        node = self.trace.nodes[producer]
        whole = node.cotangents[output] if output < len(node.cotangents) else None
        if whole is None:
            return
        for index in self.shown.get((producer, output), ()):
            term = total([number(sent, index) for sent in arrived])
            label = indexed(self.names.gradient(producer, output), index)
            yield equation(label, term, number(whole, index).value, rounding_of(whole.dtype))

    # ----------------------------------------------------------------------------------------------- gradients

    def gradient(self, name: str) -> Gradient:
        leaf = next((n for n in self.trace.nodes if n.leaf == name), None)
        found = self.trace.gradients[name]
        if leaf is None:
            return Gradient(name, TensorSummary(found) if found is not None else None, (), (), ())
        uses = tuple(self.names.labels[n.index] for n in self.trace.nodes for e in n.edges if e.producer == leaf.index)
        sums = tuple(self._sums(leaf.index)) if self.detailed else ()
        return Gradient(
            name, TensorSummary(found) if found is not None else None, uses, sums, tuple(self._routes(leaf))
        )

    def _routes(self, leaf: Node) -> Iterator[Route]:
        """Yields every path from a leaf to the output with what arrives along it, where there are a few."""
        if len(self.trace.nodes) > DETAILED or not self.detailed or self.changed:
            return
        routes = list(_paths(self.trace, leaf.index))
        if not 2 <= len(routes) <= MOST_PATHS:
            return
        arriving = [self._along(route) for route in routes]
        if all(value is not None for value in arriving):
            for route, value in zip(routes, arriving, strict=True):
                assert value is not None
                yield Route(tuple(self.names.labels[node] for node, _ in route), TensorSummary(value))

    def _along(self, route: Sequence[tuple[int, int]]) -> Tensor | None:
        """Returns what arrives at the end of one path alone: the rules' VJPs along it, one after another.

        As long as nothing else arrived where the path goes on, it is what torch sent.
        """
        cotangent, alone = self.trace.cotangent, True
        for index, slot in route:
            node = self.trace.nodes[index]
            edge, rule = node.edges[slot], rule_of(node.operator)
            if rule is None or len(node.cotangents) != 1 or not can_take_apart(node, edge, rule):
                return None
            passed = sent(node, edge, rule, [cotangent])
            if passed is None:
                return None
            cotangent = edge.contribution if alone and edge.contribution is not None else passed
            alone = alone and self.arrivals[edge.producer, edge.output] == 1
        return cotangent.detach()


def _paths(trace: Trace, leaf: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yields the paths from the output down to `leaf` as (node, edge number) pairs, at most one more than are shown."""
    stack: list[tuple[int, tuple[tuple[int, int], ...]]] = [(trace.output[0], ())]
    found = 0
    while stack and found <= MOST_PATHS:
        index, path = stack.pop()
        if index == leaf:
            found += 1
            yield path
            continue
        for slot, edge in reversed(list(enumerate(trace.nodes[index].edges))):
            if edge.contribution is not None:
                stack.append((edge.producer, (*path, (index, slot))))
