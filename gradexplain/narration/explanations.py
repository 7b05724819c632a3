"""From data to a document in words. With the catalogues, the only place that knows what is said and in which order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_UP, Context, Decimal
from typing import Any

import torch
from torch import Tensor

from gradexplain.documents.doc import (
    Arrow,
    Block,
    Box,
    Diagram,
    Doc,
    Entry,
    Heading,
    Notes,
    Paragraph,
    Row,
    Table,
    Title,
    Tone,
)
from gradexplain.documents.renderers import RENDERERS
from gradexplain.documents.shown import told
from gradexplain.explanation.elements import LONGEST
from gradexplain.explanation.explanation import Contribution, Explanation, Gradient, Output, Part, Step
from gradexplain.explanation.grouping import Group
from gradexplain.findings.finding import Finding
from gradexplain.findings.not_finite import BESIDES, FIRST
from gradexplain.locale.catalogue import formula, say
from gradexplain.mathematics.equations import CONTRADICTED, STORED, Equation, has_value, recomputed
from gradexplain.mathematics.indices import indexed, unravelled
from gradexplain.mathematics.terms import number_text
from gradexplain.recording.summaries import TensorSummary
from gradexplain.rules.registry import is_sparse
from gradexplain.targets.sources import Source, cell_of
from gradexplain.verification.inquiry import NOT_THERE
from gradexplain.verification.oracles.answers import Stop
from gradexplain.verification.verdicts import CONVENTIONS, ESTIMATE, FORWARD, Check, Operation, Report

_DIGITS = 5
# A diagram of more boxes than this is no longer small.
_MOST_BOXES = 12
_LONGEST_BRIEF = 16
# Inputs of which only a part was seen, that a verdict names.
_MOST_UNSEEN = 3
# What is not finite is worth more room.
_LONGEST_SPOILT = 24
_LONGEST_KEPT = 40
_LONGEST_CODE = 24
# More inputs than this share a line a check.
_MOST_ROWS = 6
_MOST_LISTED = 24
# What an oracle says where it does not apply: no doubt about the gradient.
NOT_APPLICABLE = frozenset(
    {
        "no_forward",
        "no_own_forward",
        "own_jvp",
        "not_analytic",
        "no_symbol",
        "too_large_to_write_out",
        "no_rule",
        "rule_unable",
    }
)
# What is said of the computation as a whole, and of no input alone.
_OF_THE_WHOLE = frozenset(
    {"live", "not_finite", "replay_failed", "not_deterministic", "forward_failed", "complex_failed"}
)
# Findings that a hook changed a gradient.
_HOOKS = ("leaf-hook", "hook", "hook-unseen", "hook-on-node", "hook-of-module")
# No number in float64 is known better than this.
_FINEST = torch.finfo(torch.float64).eps


def _rounded_up(bound: float) -> str:
    """Returns a bound with one digit, and never less than it is."""
    return f"{float(Decimal(repr(bound)).normalize(Context(prec=1, rounding=ROUND_UP))):.0e}"


TONES: Mapping[str, Tone] = {"agrees": "good", "differs": "bad", "cannot say": "unsure"}
MARKS = {"agrees": "✓", "differs": "✗", "cannot say": "?"}


@told.register
def narrate(explanation: Explanation, language: str = "en", *, width: int = 100, format: str = "text") -> Doc:
    """Returns the whole document; its count of recomputed equations is read back from the rendered page."""
    teller = Teller(language)
    body = [*teller.title(explanation), *teller.nothing(explanation.report), *teller.body(explanation)]
    parts = [explanation, *explanation.higher]
    for part in parts[1:]:
        body += teller.higher(part)
    shown = [e for part in parts for e in part.equations]
    # A page in HTML has its equations whole, as one in Markdown has them.
    page = RENDERERS["markdown" if format in ("markdown", "html") else "text"](Doc(tuple(body)), width)
    closing = tuple(teller.closing(explanation, shown, page))
    outcome = tuple(teller.outcome(explanation, shown))
    if format == "html":  # a page is read from its top, a terminal from its last line
        title = len(tuple(teller.title(explanation)))
        return Doc((*body[:title], *outcome, *body[title:], *closing), language)
    return Doc((*body, *closing, *([Heading("")] if outcome else []), *outcome), language)


@dataclass(frozen=True)
class Teller:
    """Tells an explanation in one language: every method turns a part of it into blocks or words."""

    language: str

    def say(self, key: str, **data: object) -> str:
        return say(key if "." in key else f"explanation.{key}", self.language, **data)

    # ------------------------------------------------------------------------------------------------- numbers

    def value(self, value: TensorSummary | None, digits: int = _DIGITS) -> str:
        """Returns a small tensor whole and a larger one in one line."""
        if value is None:
            return self.say("not_recorded")
        if value.small:
            return elements_text(value.elements, digits)
        return self._summary(value)

    def _summary(self, value: TensorSummary) -> str:
        shape = shape_text(value.shape)
        if not value.tensor.numel():
            return self.say("empty", dtype=value.dtype, shape=shape)
        norm, span = number_text(value.norm, _DIGITS), value.range
        if span is None:
            text = self.say("large_plain", dtype=value.dtype, shape=shape, norm=norm)
        else:
            low, high = (number_text(end, _DIGITS) for end in span)
            text = self.say("large", dtype=value.dtype, shape=shape, low=low, high=high, norm=norm)
        return text if value.finite else self.say("more", text=text, nan=value.nans, inf=value.infinities)

    # ------------------------------------------------------------------------------------------------ sections

    def title(self, e: Explanation) -> Iterator[Block]:
        own = [(n, v) for n, v in e.inputs.items() if "." not in n and v.tensor.numel()]
        values = "   ".join(f"{n} = {self.value(v)}" for n, v in own[:_MOST_ROWS])
        lines = [e.target, *([self.say("at", inputs=values)] if values else [])]
        lines.append(self.say("setting", dtype=types_text(e.dtype, e.inputs.values()), torch=e.torch))
        if e.live:
            lines.append(self.say("live"))
        yield Title("gradexplain", tuple(lines))

    def body(self, e: Explanation) -> Iterator[Block]:
        yield from self.result(e)
        if not e.steps:
            return
        if e.detailed:
            yield from self.forward(e)
            yield from self.graph(e)
            yield from self.backward(e)
            yield from self.gradients(e)
        elif any(path for group in e.groups for path in group.paths):
            yield from self.modules(e)
        else:
            yield from self.lines(e)
        yield from self.checks(e)

    def higher(self, e: Explanation) -> Iterator[Block]:
        yield Heading(self.say("order", order=e.order))
        if e.extra.get("constant"):
            yield Paragraph(self.say("order_constant", order=e.order))
            return
        wrt = e.extra.get("wrt", "")
        yield Paragraph(self.say("order_of", name=e.output_name, below=e.order - 1, wrt=wrt))
        yield from self.body(e)
        if "hessian" in e.extra:
            rows = elements_text(e.extra["hessian"], _DIGITS)
            yield Paragraph(self.say("hessian", wrt=wrt, rows=rows))

    def result(self, e: Explanation) -> Iterator[Block]:
        yield Heading(self.say("result"))
        rows = [(e.output_name, shape_text(e.output.shape), self.value(e.output), self.say("not_asked"))]
        listed = e.by_input if e.detailed else [g for g in e.by_input if g.name not in e.parameters]
        rows += [self.gradient_row(e, found) for found in listed[:_MOST_LISTED]]
        others = [g for g in e.by_input if g not in listed[:_MOST_LISTED]]
        if others:
            norm = math.hypot(*(g.value.norm for g in others if g.value is not None))
            size = sum(math.prod(e.inputs[g.name].shape) for g in others)
            count = self.say("parameters_count", count=len(others), size=f"{size:,}")
            rows.append((count, "", "", self.say("norm", norm=number_text(norm, _DIGITS))))
        header = tuple(self.say(k) for k in ("name", "shape", "value", "gradient"))
        yield Table(header, tuple(rows))
        if e.steps and e.scalar != e.output_name:
            yield Paragraph(self.say("seed_vector", scalar=e.scalar, name=e.output_name))
            chosen = "seed_given" if e.cotangent_given else "seed_chosen"
            yield Paragraph(self.say(chosen, value=self.value(e.cotangent)))

    def gradient_row(self, e: Explanation, found: Gradient) -> tuple[str, str, str, str]:
        value = e.inputs.get(found.name)
        none = "no_gradient" if e.steps and not e.report.is_stopped(found.name) else "no_way"
        gradient = self.value(found.value) if found.value is not None else self.say(none)
        shown = self.value(value) if value and value.small else "…"
        shape = shape_text(value.shape) if value else ""
        return found.name, shape, shown, f"∂{e.scalar}/∂{found.name} = {gradient}"

    def forward(self, e: Explanation) -> Iterator[Block]:
        yield Heading(self.say("forward"))
        for step in e.detailed:
            yield Entry(step.label, self.head(step, name=True), self.place(step), tuple(self.forward_rows(step)))

    def head(self, step: Step, *, name: bool) -> str:
        code = step.code or f"{short_operator(step)}({', '.join(step.inputs)})"
        named = name and step.name != step.label and not step.code.startswith(f"{step.name} ")
        return f"{step.name} = {code}" if named else code

    def place(self, step: Step) -> str:
        made = f"{step.operator} → {step.node}" if step.operator else step.node
        parts = [step.module, made, short_place(step.source, self.language)]
        return " · ".join(p for p in parts if p)

    def black_box(self, step: Step) -> str:
        """Returns that a step has no rule; of an operator for sparse layouts, that rules are of dense tensors."""
        key = "black_box_sparse" if step.operator and is_sparse(step.operator) else "black_box"
        return self.say(key, operator=step.operator or step.node)

    def elements(self, part: Part) -> str:
        """Returns which elements a part has, or how many where they are many."""
        if not part.elements:
            return self.say("part_count", count=part.count, total=part.total)
        return self.say("listed").join(map(str, map(list, part.elements)))

    def in_part(self, part: Part, sent: Contribution | None = None) -> str:
        """Returns what a step does to a part of a tensor, or what it sends to one argument."""
        data = {"operator": part.operator, "elements": self.elements(part)}
        if not part.operator:
            return self.say("part_looked" if sent is None else "part_looked_sent", **data)
        if sent is None:
            return self.say("part_written", **data)
        return self.say("part_kept_sent" if sent.argument == part.written else "part_written_sent", **data)

    def forward_rows(self, step: Step) -> Iterator[Row]:
        if step.part is not None:
            yield Row(self.say("rule"), self.in_part(step.part))
        elif step.rule is not None:
            yield Row(self.say("rule"), formula(step.rule, self.language))
        else:
            yield Row(self.say("rule"), self.black_box(step))
        if step.equations:
            yield Row(self.say("numbers"), equations=tuple(map(str, step.equations)))
        if not step.equations or (step.forward is not None and not step.forward.small):
            named = f"{step.main} = " if step.further else ""
            yield Row(self.say("value"), named + self.value(step.forward))
            yield from (Row("", f"{o.name} = {self.value(o.forward)}") for o in step.further)
        kept = "   ".join(self.kept(step.kept))
        if kept:
            yield Row(self.say("keeps"), kept)

    def kept(self, saved: Mapping[str, Any]) -> Iterator[str]:
        tensors = {name for name, value in saved.items() if isinstance(value, Tensor)}
        for name, value in saved.items():
            origin = name.removesuffix("_sym_sizes")
            if name.endswith("_sym_strides") or value is None or value == ():
                continue
            if origin != name:
                if origin not in tensors and isinstance(value, (tuple, list)):
                    yield self.say("shape_of", name=origin, shape=shape_text(value))
            elif isinstance(value, Tensor):
                name = f"saved_tensors[{name}]" if name.isdigit() else name  # of a custom Function
                text = self.value(kept) if (kept := TensorSummary(value)).small else ""
                yield f"{name} = {text}" if 0 < len(text) <= _LONGEST_KEPT else f"{name} {shape_text(kept.shape)}"
            elif not isinstance(value, (tuple, list)) or not any(isinstance(v, Tensor) for v in value):
                yield f"{name} = {value}"

    def graph(self, e: Explanation) -> Iterator[Block]:
        leaves = {c.producer: c.to for s in e.steps for c in s.contributions}
        boxes = len(e.steps) + len(set(leaves) - {s.index for s in e.steps})
        if boxes <= _MOST_BOXES and not e.module:
            yield Heading(self.say("graph"))
            yield self.diagram(e)

    def diagram(self, e: Explanation) -> Diagram:
        steps = {step.index: step for step in e.steps}
        boxes = [self.box(e, index, name, steps.get(index)) for index, name in e.names.items()]
        arrows = [
            Arrow(str(c.producer), str(step.index), self._brief(c.value))
            for step in e.steps
            for c in step.contributions
        ]
        return Diagram(tuple(boxes), tuple(arrows))

    def box(self, e: Explanation, index: int, name: str, step: Step | None) -> Box:
        gradients = {g.name: g.value for g in e.by_input}
        value, cotangent = (step.forward, step.cotangent) if step else (e.inputs.get(name), gradients.get(name))
        title, received = f"{name} = {self._brief(value)}", f"∂ {self._brief(cotangent)}"
        if step is not None:
            code = step.code if 0 < len(step.code) <= _LONGEST_CODE else short_operator(step)
            return Box(str(index), (code, title, received), title)
        return Box(str(index), (title, received) if name in gradients else (title,), title)

    def _brief(self, value: TensorSummary | None) -> str:
        if value is None:
            return "–"
        whole = elements_text(value.elements, _DIGITS) if value.small else ""
        if whole and len(whole) <= (_LONGEST_BRIEF if value.finite else _LONGEST_SPOILT):
            return whole
        spoilt = "" if value.finite else " nan" if value.nans else " inf"
        return f"{shape_text(value.shape)}{spoilt}"

    def backward(self, e: Explanation) -> Iterator[Block]:
        yield Heading(self.say("backward"))
        if e.scalar == e.output_name:
            yield Paragraph(self.say("seed_scalar", scalar=e.scalar, name=e.output_name))
        reached = sorted((s for s in e.detailed if s.order is not None), key=lambda s: s.order or 0)
        if any(sent.conjugated for step in reached for sent in step.contributions):
            yield Paragraph(self.say("conjugated"))
        for place, step in enumerate(reached, 1):
            head = f"{step.label}: {self.head(step, name=False)}"
            yield Entry(f"b{place}", head, step.node, tuple(self.backward_rows(e, step)))

    def backward_rows(self, e: Explanation, step: Step) -> Iterator[Row]:
        main = Output(step.main, step.forward, step.cotangent, step.sums, step.changed)
        for output in (main, *step.further):
            if output.sums:
                yield Row(self.say("sum"), equations=tuple(map(str, output.sums)))
            yield Row(self.say("arrives"), f"∂{e.scalar}/∂{output.name} = {self.value(output.cotangent)}")
            if output.changed:
                yield Row("", self.say("arrives_changed"))
        for sent in step.contributions:
            yield from self.contribution_rows(step, sent)

    def contribution_rows(self, step: Step, sent: Contribution) -> Iterator[Row]:
        if sent.value is None:
            return
        if step.part is not None:
            yield Row(self.say("rule"), self.in_part(step.part, sent))
        elif sent.rule is not None:
            told = formula(sent.rule, self.language)
            apart = sent.conjugated and not (step.moves or "conj(" in told or told.startswith("∂"))
            yield Row(self.say("rule"), self.say("of_conjugates", rule=told) if apart else told)
        else:
            unruled = step.rule is None
            yield Row(self.say("rule"), self.black_box(step) if unruled else self.say("no_rule_argument"))
        if sent.jacobian is not None:
            way = "jacobian_own" if step.operator is None else "jacobian_measured"
            yield Row("", self.say(way, value=self.value(sent.jacobian)))
        whole = not sent.equations or not sent.value.small
        if whole:
            yield Row(self.say("sends"), f"→ {sent.to}: {self.value(sent.value)}")
        if sent.equations:
            yield Row("" if whole else self.say("sends"), equations=tuple(map(str, sent.equations)))
            if whole and sent.terms > LONGEST:
                yield Row("", self.say("largest", count=sent.terms))

    def gradients(self, e: Explanation) -> Iterator[Block]:
        several = [g for g in e.by_input if len(g.uses) > 1 or g.routes]
        if not several:
            return
        yield Heading(self.say("gradients"))
        for gradient in several:
            yield from self.gradient(e, gradient)

    def gradient(self, e: Explanation, gradient: Gradient) -> Iterator[Block]:
        rows = []
        if len(gradient.uses) > 1:
            text = self.say("uses", name=gradient.name, count=len(gradient.uses), steps=", ".join(gradient.uses))
            rows.append(Row("", text))
        for route in gradient.routes:
            steps = " → ".join(route.steps)
            text = self.say("route", output=e.scalar, steps=steps, name=gradient.name, value=self.value(route.value))
            rows.append(Row("", text))
        if gradient.sums:
            rows.append(Row(self.say("sum"), equations=tuple(map(str, gradient.sums))))
        head = f"∂{e.scalar}/∂{gradient.name} = {self.value(gradient.value)}"
        yield Entry("", head, "", tuple(rows))

    # ------------------------------------------------------------------------------------------------ networks

    def modules(self, e: Explanation) -> Iterator[Block]:
        yield Heading(self.say("modules"))
        header = tuple(self.say(k) for k in ("module", "kind", "steps", "output", "arriving", "weights"))
        yield Table(header, tuple(self.group(e, group) for group in e.groups))
        example = next((p for g in e.groups for p in g.paths if p), "")
        yield Paragraph(self.say("open_module", steps=len(e.steps), example=example))

    def group(self, e: Explanation, group: Group) -> tuple[str, ...]:
        first, last = group.paths[0], group.paths[-1]
        path = first or "·" if first == last else f"{first} … {last.rpartition('.')[2]} ({len(group.paths)}×)"
        ends = [e.steps[steps[-1]] for steps in group.steps]
        shape = ends[-1].forward.shape if ends[-1].forward is not None else ()
        arriving = [s.cotangent.norm for s in ends if s.cotangent is not None]
        weights = (
            [
                math.hypot(*(g.norm for n, g in gradients if n.startswith(f"{p}.")))
                for p in group.paths
                if p and any(n.startswith(f"{p}.") for n, _ in gradients)
            ]
            if (gradients := [(g.name, g.value) for g in e.by_input if g.value is not None])
            else []
        )
        return (path, group.kind, str(len(group.steps[0])), shape_text(shape), _span(arriving), _span(weights))

    def lines(self, e: Explanation) -> Iterator[Block]:
        yield Heading(self.say("forward"))
        yield Paragraph(self.say("too_many", steps=len(e.steps)))
        header = tuple(self.say(k) for k in ("step", "name", "shape", "arriving"))
        rows = [
            (
                s.label,
                self.head(s, name=True),
                shape_text(s.forward.shape) if s.forward is not None else "",
                number_text(s.cotangent.norm, _DIGITS) if s.cotangent is not None else "",
            )
            for s in e.steps
        ]
        yield Table(header, tuple(rows))

    # -------------------------------------------------------------------------------------------------- checks

    def nothing(self, report: Report) -> Iterator[Block]:
        """Yields why there is nothing to check, where that is so."""
        if report.nothing is not None:
            yield Paragraph(f"{MARKS[report.verdict]} {self.finding(report.nothing)}", TONES[report.verdict])

    def checks(self, e: Explanation) -> Iterator[Block]:
        if e.report.nothing is not None:
            return
        yield Heading(self.say("checks"))
        header = ("", *(self.say(k) for k in ("oracle", "input", "worst", "bound")))
        groups = list(self.grouped(judging(e.report)))
        rows = tuple(self.check_row(checks) for checks in groups)
        yield Table(header, rows, tuple(TONES[checks[0].verdict] for checks in groups))
        remarks = [*self.said(groups), *self.aside(e.report.checks), *self.refuted(e.report)]
        if remarks:
            yield Notes(tuple(remarks))

    def said(self, groups: Sequence[Sequence[Check]]) -> Iterator[str]:
        """Yields why the checks in the table differ or cannot judge."""
        alike: dict[str, dict[str, list[str]]] = {}  # what several methods say of one input is said once
        for check, name in self.remarks(groups):
            alike.setdefault(self.reason(check), {}).setdefault(name, []).append(self.oracle(check))
        for reason, methods in alike.items():
            for oracles in dict.fromkeys(map(tuple, methods.values())):
                names = ", ".join(name for name, own in methods.items() if tuple(own) == oracles)
                yield self.of(self.say("verification.separator").join(oracles), reason, names)

    def aside(self, found: Sequence[Check]) -> Iterator[str]:
        """Yields, one a line, the oracles that do not apply here, and why."""
        for check in {(c.oracle, c.reason): c for c in found if c.reason in NOT_APPLICABLE}.values():
            yield self.say("not_applicable", oracle=self.oracle(check), reason=self.reason(check))

    def refuted(self, report: Report) -> Iterator[str]:
        """Yields what others say that finite differences contradict."""
        edited = any(f.code.startswith("saved-changed") for operation in report.operations for f in operation.findings)
        for check in report.checks:
            if report.is_refuted(check):
                seen, right = (number_text(float(str(check.data[key])), 6) for key in ("seen", "right"))
                key = "refuted" if check.oracle == FORWARD and not edited else "outdated"
                said = {"oracle": self.oracle(check), "name": check.input, "seen": seen, "right": right}
                yield self.say(f"verification.{key}", **said)

    def grouped(self, found: Sequence[Check]) -> Iterator[list[Check]]:
        """Yields the checks that share a line: all of an oracle with the same verdict if they are many, else one each.

        Those that could not judge, all for one reason, say nothing of single inputs either.
        """
        for oracle in dict.fromkeys(check.oracle for check in found):
            for verdict in MARKS:
                checks = [c for c in found if c.oracle == oracle and c.verdict == verdict]
                alike = checks and checks[0].reason in _OF_THE_WHOLE and len({c.reason for c in checks}) == 1
                yield from [checks] if alike or len(checks) > _MOST_ROWS else ([c] for c in checks)

    def check_row(self, checks: Sequence[Check]) -> tuple[str, ...]:
        apart = [_apart(check) for check in checks]
        worst = max((worst for worst, _ in apart if worst is not None), default=None)
        bound = max((bound for _, bound in apart if bound is not None), default=None)
        return (
            MARKS[checks[0].verdict],
            self.oracle(checks[0]),
            self.inputs(checks),
            error_text(worst),
            error_text(bound),
        )

    def inputs(self, checks: Sequence[Check]) -> str:
        return checks[0].input if len(checks) == 1 else self.say("inputs_count", count=len(checks))

    def remarks(self, groups: Sequence[Sequence[Check]]) -> Iterator[tuple[Check, str]]:
        for checks in groups:
            for reason in dict.fromkeys(c.reason for c in checks if c.reason is not None):
                same = [c for c in checks if c.reason == reason]
                one = indexed(same[0].input, same[0].place or ()) if len(checks) == 1 else self.inputs(same)
                yield same[0], one

    def oracle(self, check: Check) -> str:
        return self.say(f"oracles.{check.oracle.replace(' ', '_')}", dtype=check.data.get("dtype", "float64"))

    def reason(self, check: Check) -> str:
        if check.reason is None:
            return ""
        definitions = check.data.get("definitions")
        if not isinstance(definitions, tuple):
            return self.say(reason_key(check), **check.data)
        told = self.say("verification.separator").join(self.say(f"verdicts.by_definition_{d}") for d in definitions)
        return self.say(reason_key(check), **{**check.data, "definitions": told})

    def finding(self, finding: Finding) -> str:
        data: dict[str, Any] = {
            k: number_text(v + 0.0, _DIGITS) if isinstance(v, float) else v for k, v in finding.data.items()
        }
        key = _kink_key(data) if finding.code == "kink" else finding.code
        if "because" in data:
            data["because"] = self.say(f"errors.{data['because']}", **data)
        if "detail" in data:
            place = data.get("place")
            data["place"] = "" if str(place) == str(finding.source) else self.found_at(place)  # said at the end
            data["made"] = self.say(f"born.{data['detail']}", **data)
        told = [self.say(f"findings.{key}", **data)]
        told += [self.say("born.behind", **data)] if "behind" in data else []
        told += [self.say("rules." + str(data["why"]))] if data.get("why") else []
        told[-1] += self.where_found(finding)
        return self.say("gap").join([*told, *self.remedy(data)])

    def remedy(self, data: Mapping[str, Any]) -> Iterator[str]:
        """Yields what helps against a number that is not finite, and the lesson on it."""
        if "remedy" in data:
            yield self.say("remedies." + str(data["remedy"]), **data)
            lesson = "overflow" if data["remedy"] in ("exponential", "overflow") else "nan"
            yield self.say("remedies.lesson", lesson=lesson)

    def where_found(self, finding: Finding) -> str:
        return self.found_at(finding.source)

    def found_at(self, source: Source | None) -> str:
        """Returns a place in brackets, nothing where there is none."""
        place = short_place(source, self.language)
        return self.say("found_at", place=place) if place else ""

    def of(self, what: str, said: str, *further: str) -> str:
        """Returns a sentence behind what it is said of."""
        return self.say("said_of", what=self.say("listed").join((what, *further)), said=said)

    def findings(self, e: Explanation) -> Iterator[Block]:
        if notes := self._found(e):
            yield Heading(self.say("notes"))
            yield Notes(tuple(dict.fromkeys(notes)))

    def _found(self, e: Explanation) -> list[str]:
        return [self.finding(f) for part in (e, *e.higher) for f in part.findings if f != part.report.nothing]

    def verdict(self, report: Report, findings: Sequence[Finding]) -> str:
        """Returns the verdict as a sentence; `findings` are what is unusual about what was judged."""
        if report.nothing is not None:
            return self.finding(report.nothing)
        first = any(report.of(name) != "agrees" for name in report.inputs)  # not the second derivatives alone
        if (first and report.reason in ("stopped", "unseen")) or (report.verdict == "agrees" and report.stops):
            return self.partly(report)
        if report.reason == "not_finite":
            telling = next(c for c in report.checks if c.reason == "not_finite")
            key = "not_finite_in" if "dtype" in telling.data else "not_finite"
            right = f"{telling.data.get('right', math.nan):.6g}"
            data = {"value": "nan", **telling.data, "right": right}
            return self.say(f"verification.{key}", **data) + self.first(findings)
        names = ", ".join(n for n in report.inputs if report.of(n) == report.verdict)
        if report.verdict == "agrees":
            resolution = max((r for name in report.inputs if (r := report.resolution(name)) is not None), default=0.0)
            zero = {finding.data["name"] for finding in findings if finding.code == "zero-gradient"}
            key = "agrees_zero" if zero >= set(report.inputs) else "agrees"
            key = "agrees_of" if any(finding.code == "unasked" for finding in findings) else key
            return self.say(f"verification.{key}", names=names, resolution=_rounded_up(max(resolution, _FINEST)))
        if report.verdict == "cannot say":
            return self.undecided(report, names) + self.first(findings)
        if not names and report.second is not None and not report.wrong():
            wrong = ", ".join(n for n in report.second.inputs if report.second.of(n) == "differs")
            labels = ", ".join(dict.fromkeys(operation.label for operation in report.second.wrong()))
            inside = self.say("verification.inside", labels=labels) if labels else ""
            told = self.say("verification.differs_second", names=wrong, inside=inside)
            return told + self.first(report.second.findings)
        if names:
            return self.difference(report, names, findings)
        agrees = all(report.of(name) == "agrees" for name in report.inputs)
        return self.say("verification.differs_inside" if agrees else "verification.differs_unseen")

    def undecided(self, report: Report, names: str) -> str:
        """Returns that of `names` nothing can be said, and why, where it is the same of all; without, of the second."""
        if not names:
            return self.undecided_again(report.second or Report(()))
        reasons = {_doubt(report, name) for name in report.inputs if report.of(name) == "cannot say"}
        if len(reasons) > 1 or None in reasons:
            return self.say("verification.cannot_say", names=names)
        because = self.say(f"verification.doubt_{reasons.pop()}")
        return self.say("verification.cannot_say_because", names=names, because=because)

    def undecided_again(self, second: Report) -> str:
        """Returns why nothing can be said of second derivatives, where that is the same of all."""
        absent = {f.data["input"] for f in second.findings if f.code in NOT_THERE.values()}
        undecided = {n for n in second.inputs if second.of(n) == "cannot say"}
        if undecided and undecided <= absent:
            return self.say("verification.no_second")
        failed = {c.data["message"] if c.reason == "method_failed" else None for c in second.checks}
        if len(failed) == 1 and None not in failed:
            return self.say("verification.failed_second", message=failed.pop())
        return self.say("verification.cannot_say_second")

    def difference(self, report: Report, names: str, findings: Sequence[Finding]) -> str:
        """Returns what is wrong with the gradient of `names`, and what made it so where that is known."""
        if formulas_alone(report):
            return self.say("verification.formula", names=names)
        names = ", ".join(n for n in report.inputs if report.of(n) == "differs" and not report.formula_alone(n))
        causes = self.say("verification.separator").join(self.causes(report, findings))
        if not causes and report.verdict == "differs" and (place := self.not_finite(report)):
            return self.say("verification.differs_not_finite", names=names, **place) + self.first(findings)
        if not causes:
            return self.say("verification.differs", names=names) + self.first(findings)
        key = "differs_by" if report.wrong() else "departs_by"
        return self.say(f"verification.{key}", names=names, causes=causes)

    def not_finite(self, report: Report) -> Mapping[str, Any]:
        """Returns an element that is not finite, and what it is, where all that differs is so; nothing elsewhere."""
        apart = [check for check in report.checks if check.verdict == "differs"]
        if not apart or report.wrong() or any(check.reason != "nan" for check in apart):
            return {}
        first = apart[0]
        place = first.place or first.data.get("place")
        element = indexed(first.input, place if isinstance(place, tuple) else ())
        return {"element": element, "value": first.data["seen"]}

    def causes(self, report: Report, findings: Sequence[Finding]) -> Iterator[str]:
        """Yields what made a gradient another one than the function's, where every wrong operation is told by it.

        That is a backward that passes on what arrives, or a surrogate's, and a hook.
        """
        again = [f for f in findings if f.code == "drawn-again"]
        if again:
            yield self.say("verification.drawn_again", **again[0].data) + self.where_found(again[0])
            return
        wrong = report.wrong()
        for operation in wrong:
            looks = [finding.data for finding in operation.findings if "size" in finding.data]
            if not looks or any("slope" not in data for data in looks):
                return
        told = [self.passing(o, f) for o in report.operations for f in o.findings if "slope" in f.data]
        yield from dict.fromkeys(told)
        hooks = [f for f in (*findings, *(f for o in report.operations for f in o.findings)) if f.code in _HOOKS]
        leaves = [f for f in hooks if f.code == "leaf-hook"]
        apart = {n for n in report.inputs if report.of(n) == "differs"} - {f.data["value"] for f in leaves}
        if wrong or not hooks or (apart and leaves == hooks):
            return
        for hook, source in dict.fromkeys((f.data["hook"], f.source) for f in leaves):
            own = ", ".join(str(f.data["value"]) for f in leaves if (f.data["hook"], f.source) == (hook, source))
            hooks.append(Finding("hook", {"hook": hook, "value": own}, source))
        yield from dict.fromkeys(
            self.say(f"verification.{f.code.replace('-', '_')}", **f.data) + self.where_found(f)
            for f in hooks
            if f.code != "leaf-hook"
        )
        if not told:
            yield from self.without(report)

    def without(self, report: Report) -> Iterator[str]:
        """Yields what the gradient would be that hooks have changed, at one element."""
        for check in report.checks:
            place = check.place or check.data.get("place")
            if check.verdict == "differs" and isinstance(place, tuple) and {"seen", "right"} <= check.data.keys():
                numbers = {key: float(str(check.data[key])) for key in ("seen", "right")}
                yield self.say("verification.without", element=indexed(check.input, place), **numbers)
                return

    def passing(self, operation: Operation, finding: Finding) -> str:
        """Returns what a backward passes on, and on what function."""
        data = {"label": operation.label, "passes": finding.data.get("passes"), "slope": finding.data["slope"]}
        way = {None: "sends_own", "1": "passes_on"}.get(data["passes"], "passes_times")
        part = "_there" if finding.data.get("count") != finding.data.get("total") else ""
        place = short_place(operation.node.source or operation.backward, self.language)
        why = self.say("verification.on_purpose") if finding.code == ESTIMATE else ""
        return self.say(f"verification.{way}{part}", **data) + (self.say("listed") + place if place else "") + why

    def first(self, findings: Sequence[Finding]) -> str:
        """Returns what made the first number that is not finite, as a further sentence."""
        first = [f for f in findings if f.code in FIRST][:1]
        beside = [f for f in findings if f.code == BESIDES]
        return "".join(self.say("gap") + self.finding(f) for f in (*first, *beside))

    def partly(self, report: Report) -> str:
        """Returns what a gradient is right for, where that is not all: the paths that are left, or what was seen."""
        if report.stops:
            whole = {name: sum(s.share for s in report.stops if s.input == name) for name in report.inputs}
            told = (self.stop(stop, _unit(report), parts=whole[stop.input] <= 1) for stop in report.stops)
            return self.say("verification.stopped", stops=self.say("verification.separator").join(told))
        if all(report.sees_none(name) for name in report.inputs):
            judged = any(report.bounds(name) is not None for name in report.inputs)
            key = "unseen_all" if judged else "unjudged"
            return self.say(f"verification.{key}", names=", ".join(report.inputs))
        lines = []
        for name in report.inputs:
            missing = report.unseen(name)
            if missing is not None and bool(missing.any()):
                place = unravelled(int(missing.flatten().int().argmax()), missing.shape)
                own = [c for c in report.checks if c.input == name and c.place is not None and c.reason in CONVENTIONS]
                kink = next((c.place for c in own if bool(missing[c.place])), None)
                data = {"seen": int((~missing).sum()), "count": missing.numel(), "name": name}
                key = "unseen_of" if kink is None else "unseen_kink"
                lines.append(self.say(f"verification.{key}", **data, element=indexed(name, kink or place)))
        if len(lines) > _MOST_UNSEEN + 1:
            lines[_MOST_UNSEEN:] = [self.say("verification.unseen_more", count=len(lines) - _MOST_UNSEEN)]
        return self.say("verification.unseen", elements=self.say("verification.separator").join(lines))

    def stop(self, stop: Stop, unit: float, *, parts: bool) -> str:
        """Returns how much of a slope ends where; two slopes are told in `unit`.

        What ends at several lines may be more than the whole, as far as it cancels: then it is no part of the slope.
        """
        place = short_place(stop.source, self.language)
        data = {"share": f"{100 * stop.share:.2g} %", "name": stop.input, "code": stop.code}
        if stop.flat is not None:
            element = indexed(stop.input, stop.flat.element)
            whole, left = (number_text(slope / unit, 4) for slope in (stop.flat.whole, stop.flat.left))
            data |= {"name": element, "whole": whole, "left": left}
            key = "straight_through" if stop.flat.whole == 0 else "replaced_by"
            return self.say(f"verification.{key}", **data) + (self.say("listed") + place if place else "")
        key = "stopped_by" if parts else "stopped_size"
        data["times"] = number_text(float(f"{stop.share:.2g}"), 2)
        return self.say(f"verification.{key}", **data) + (self.say("listed") + place if place else "")

    # ---------------------------------------------------------------------------------------------------- where

    def blamed(self, report: Report, findings: Sequence[Finding]) -> Iterator[Block]:
        wrong = report.wrong() or estimates(report)
        if wrong:
            yield Heading(self.say("verification.where" if report.wrong() else "verification.where_estimated"))
            for operation in wrong:
                rows = tuple(Row("", line) for line in self.faults(operation))
                yield Entry(MARKS[operation.verdict], self.heading(operation), self.site(operation), rows)
        elif report.verdict == "differs" and report.operations and not formulas_alone(report):
            if any(finding.code == "changes-from-run-to-run" for finding in findings):  # said in the notes
                return
            if any(self.causes(report, findings)) or self.first(findings):  # said in the first sentence
                return
            unjudged = dict.fromkeys(o.label for o in report.operations if o.verdict != "agrees")
            key = "nowhere_judged" if unjudged else "nowhere"
            yield Paragraph(self.say(f"verification.{key}", labels=", ".join(unjudged)))

    def heading(self, operation: Operation) -> str:
        source = operation.node.source
        return f"{operation.label}: {source.code}" if source and source.code else operation.label

    def site(self, operation: Operation) -> str:
        """Returns file and line, module, node, and the place of a custom Function's backward."""
        node = operation.node
        parts = [short_place(node.source, self.language), node.module, node.name]
        if operation.backward is not None:
            parts.append(self.say("verification.backward_at", place=short_place(operation.backward, self.language)))
        return " · ".join(p for p in parts if p)

    def faults(self, operation: Operation) -> Iterator[str]:
        """Yields what is wrong with an operation, and what only looks like it."""
        said = [self.incident(f) for f in operation.findings]
        yield from said or [self.of(c.input, self.reason(c)) for c in operation.report.checks if c.verdict == "differs"]

    def incident(self, finding: Finding) -> str:
        number = finding.code not in ("kink", "edge") or math.isfinite(finding.data.get("seen", 0.0))
        beside = "" if number else "_beside"
        said = self.say(f"operations.{finding.code}{beside}", **finding.data)
        again = self.say("operations.again") if finding.data.get("order") == 2 else ""
        return again + said + self.where_found(finding)

    # ------------------------------------------------------------------------------------------------ the end

    def counted(self, equations: Sequence[Equation], page: str) -> Paragraph:
        """Returns how many equations of a page are true when read back from it, and what the others are."""
        held = recomputed(equations, page)
        parts = [self.say("equations", recomputed=held, shown=len(equations))]
        stored = [e for e in equations if e.relation == STORED]
        if rounded := [e for e in stored if has_value(e.expression)]:
            names = ", ".join(dict.fromkeys(e.rounding.name for e in rounded))
            parts.append(self.say("equations_rounded", count=len(rounded), dtype=names))
        if len(stored) > len(rounded):
            parts.append(self.say("equations_without_value", count=len(stored) - len(rounded)))
        if contradicted := sum(e.relation == CONTRADICTED for e in equations):
            parts.append(self.say("equations_contradicted", count=contradicted))
        mark, tone = ("✓", TONES["agrees"]) if held == len(equations) else ("✗", TONES["differs"])
        return Paragraph(f"{mark} {self.say('verification.separator').join(parts)}", tone)

    def closing(self, e: Explanation, equations: Sequence[Equation], page: str) -> Iterator[Block]:
        contradicted = any(equation.relation == CONTRADICTED for equation in equations)
        if equations and (e.report.nothing is None or contradicted):
            yield self.counted(equations, page)
        notes = self._found(e)
        if e.element:
            notes.append(self.say("element_only", element=e.element))
        if e.outputs > 1:
            notes.append(self.say("outputs_many", count=e.outputs))
        if notes:
            yield Heading(self.say("notes"))
            yield Notes(tuple(dict.fromkeys(notes)))

    def outcome(self, e: Explanation, equations: Sequence[Equation]) -> Iterator[Block]:
        """Yields the verdict, where there is something to judge."""
        if e.report.nothing is not None:
            return
        said = {"agrees": "all_agrees", "differs": "some_differs", "cannot say": "undecided"}
        if e.verdict != "agrees" and e.report.verdict == e.verdict:
            yield Paragraph(f"{MARKS[e.verdict]} {self.verdict(e.report, e.findings)}", TONES[e.verdict])
            yield from self.blamed(e.report, e.findings)
            return
        key = said[e.verdict]
        if e.verdict == "agrees" and any(c.verdict != "agrees" for part in (e, *e.higher) for c in part.report.checks):
            key = "judges_agree"
        if e.verdict == "agrees" and any(equation.relation == CONTRADICTED for equation in equations):
            yield Paragraph(f"{MARKS['cannot say']} {self.say('numbers_contradict')}", TONES["cannot say"])
            return
        yield Paragraph(f"{MARKS[e.verdict]} {self.say(key)}", TONES[e.verdict])


def estimates(report: Report) -> Sequence[Operation]:
    """Returns the estimates that explain why the whole gradient differs: where no operation is wrong."""
    return report.estimates() if report.verdict == "differs" and not report.wrong() else ()


def formulas_alone(report: Report) -> bool:
    """Says whether it is formulas given by hand that are wrong, and no gradient."""
    wrong = [name for name in report.inputs if report.of(name) == "differs"]
    return bool(wrong) and all(map(report.formula_alone, wrong)) and not report.wrong()


def _apart(check: Check) -> tuple[float | None, float | None]:
    """Returns what a check found, and what rounding explains: of the formula, or of the number where that is wrong."""
    data = check.data
    if check.verdict != "differs" or "allowed" not in data:
        return _in_units(check)
    return abs(complex(str(data["seen"])) - complex(str(data["right"]))), float(str(data["allowed"]))


def _in_units(check: Check) -> tuple[float | None, float | None]:
    """Returns what a check found and what is allowed: of one element in the units of its gradient, as it is told."""
    seen, right = check.data.get("seen"), check.data.get("right")
    numbers = isinstance(seen, (int, float)) and isinstance(right, (int, float)) and math.isfinite(seen - right)
    if check.verdict != "differs" or not check.place or not numbers or not check.worst or check.bound is None:
        return check.worst, check.bound
    assert isinstance(seen, (int, float))
    assert isinstance(right, (int, float))
    return abs(seen - right), check.bound * abs(seen - right) / check.worst


def _doubt(report: Report, name: str) -> str | None:
    """Returns why nothing can be said of an input: first a kink between whose slopes torch's number does not lie."""
    seen = [c.data.get("seen") for c in report.checks if c.input == name and c.reason == "kink"]
    return "kink" if any(isinstance(s, float) and not math.isfinite(s) for s in seen) else report.doubt(name)


def _unit(report: Report) -> float:
    """Returns the weight of an output that is one number: what is told of its slopes is told of the output itself."""
    if report.subject is None or report.subject.trace.value.numel() != 1 or report.subject.trace.value.is_complex():
        return 1.0
    return float(report.subject.trace.cotangent)


def short_operator(step: Step) -> str:
    """Returns `mm` for aten.mm.default, and the node's name where no operator is known."""
    return step.operator.removeprefix("aten.").split(".")[0] if step.operator else step.node


def types_text(output: str, inputs: Iterable[TensorSummary]) -> str:
    """Returns the types that can carry a gradient, of the inputs and of the output, each once."""
    own = (v.dtype for v in inputs if v.tensor.is_floating_point() or v.tensor.is_complex())
    return ", ".join(dict.fromkeys((*own, output)))


def elements_text(elements: Any, digits: int) -> str:
    """Returns nested lists of numbers as `[[1, 2], [3, 4]]`."""
    if isinstance(elements, list):
        return "[" + ", ".join(elements_text(e, digits) for e in elements) + "]"
    if isinstance(elements, complex):
        real, imaginary = (number_text(part, digits) for part in (elements.real, elements.imag))
        return f"{real}{'' if imaginary.startswith('-') else '+'}{imaginary}j"
    if isinstance(elements, (bool, str)):
        return str(elements)
    return number_text(float(elements), digits)


def shape_text(shape: Sequence[int]) -> str:
    """Returns a shape as torch users write it: (3, 4), (3,), ()."""
    return str(tuple(int(n) for n in shape))


def short_place(source: Source | None, language: str) -> str:
    """Returns file:line with the file's name alone, in a notebook the cell's number and the line."""
    if source is None or not source.file:
        return ""
    cell = cell_of(source.file)
    if cell is not None:
        return say("explanation.cell", language, cell=cell, line=source.line)
    return str(source).replace("\\", "/").rpartition("/")[2]


def _span(numbers: Sequence[float]) -> str:
    if not numbers:
        return ""
    low, high = number_text(min(numbers), 3), number_text(max(numbers), 3)
    return low if low == high else f"{low} … {high}"


def judging(report: Report) -> list[Check]:
    """Returns the checks of the oracles that apply; one that is overruled contradicts nothing, and a note says why."""
    apply = (c for c in report.checks if c.reason not in NOT_APPLICABLE)
    return [replace(c, verdict="cannot say", reason=None) if report.is_refuted(c) else c for c in apply]


def reason_key(check: Check) -> str:
    """Returns the key of the sentence on a check's reason: a gradient that is not finite is no convention."""
    seen = check.data.get("seen")
    beside = check.reason in ("kink", "edge") and isinstance(seen, (int, float)) and not math.isfinite(seen)
    return f"verdicts.{check.reason}{'_beside' if beside else ''}"


def error_text(value: float | None) -> str:
    """Returns an error in two digits, nothing where there is none."""
    return "" if value is None else ("0" if value == 0 else f"{value:.1e}")


def _kink_key(data: Mapping[str, Any]) -> str:
    if "left" not in data:
        return "kink-plain"
    return "kink-input" if "input" in data else "kink"
