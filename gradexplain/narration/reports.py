"""From a report to a document in words: the verdict first, then the evidence, and the place of an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradexplain.documents.doc import Block, Doc, Heading, Notes, Paragraph, Table, Title
from gradexplain.documents.shown import told
from gradexplain.findings.not_finite import FIRST
from gradexplain.mathematics.indices import indexed
from gradexplain.narration.explanations import (
    MARKS,
    NOT_APPLICABLE,
    TONES,
    Teller,
    error_text,
    estimates,
    judging,
    shape_text,
    short_place,
    types_text,
)
from gradexplain.recording.plain import is_plain_one
from gradexplain.recording.summaries import TensorSummary
from gradexplain.verification.verdicts import Check, Operation, Report, Verdict

# Operations that are listed one by one; more of them are counted.
_MOST_LISTED = 40
_MOST_INPUTS = 8
# What a failing test says: so many lines, and so many of them why.
_MOST_LINES, _MOST_REASONS = 20, 6


@told.register
def report_page(report: Report, language: str = "en", *, format: str = "text", width: int = 100) -> Doc:
    """Returns the whole document."""
    return Doc(tuple(ReportTeller(language).page(report)), language)


def summary(report: Report, language: str = "en") -> str:
    """Returns what a failing test has to say: the verdict, why, and the operation that is wrong."""
    teller = ReportTeller(language)
    said = report.reason == "not_finite"  # by the verdict itself
    reasons = [] if said else [f"  {line}" for line in teller.why(report)]
    lines = [teller.headline(report), *teller.shortened(reasons, _MOST_REASONS)]
    blocks = [
        (f"  {teller.heading(o)} {teller.site(o)}", *(f"    {line}" for line in teller.faults(o)))
        for part in _parts(report)
        for o in part.wrong() or estimates(part)
    ]
    lines += [line for block in dict.fromkeys(blocks) for line in block]
    lines += [f"  {line}" for line in teller.weights(report) if reasons]
    return "\n".join(teller.shortened(lines, _MOST_LINES))


def _parts(report: Report) -> Sequence[Report]:
    """Returns the report on the gradient, and that on the second derivatives where they were asked for."""
    return (report,) if report.second is None else (report, report.second)


@dataclass(frozen=True)
class ReportTeller(Teller):
    """Tells a verification report in one language."""

    def page(self, report: Report) -> Iterator[Block]:
        """Yields the whole page."""
        yield from self.header(report)
        yield Paragraph(f"{MARKS[report.verdict]} {self.headline(report)}", TONES[report.verdict])
        if report.nothing is not None:
            return
        yield from self.blamed(report, report.findings)
        yield from self.evidence(report)
        if report.second is not None:
            yield Heading(self.say("verification.second"))
            yield from self.blamed(report.second, report.second.findings)
            yield from self.evidence(report.second)
            if told := [self.finding(f) for f in report.second.findings]:
                yield Notes(tuple(dict.fromkeys(told)))
        yield from self.each(report)
        notes = [self.finding(f) for f in report.findings] + list(self.refuted(report))
        if notes:
            yield Heading(self.say("notes"))
            yield Notes(tuple(dict.fromkeys(notes)))

    def headline(self, report: Report) -> str:
        """Returns the verdict as a sentence, and of which function the gradient is judged, where that is another."""
        text = self.verdict(report, report.findings)
        meant = next((f.data["meant"] for f in report.findings if f.code == "verified-as"), None)
        return text if meant is None else self.say("verification.as_if", meant=meant, text=text)

    def header(self, report: Report) -> Iterator[Block]:
        subject = report.subject
        if subject is None:
            return
        own = [(n, t) for n, t in subject.trace.inputs.items() if n not in subject.parameters]
        lines = [subject.target]
        if own:
            lines.append(self.say("at", inputs="   ".join(f"{n} = {self.brief(t)}" for n, t in own[:_MOST_INPUTS])))
        if subject.parameters:
            size = sum(subject.trace.inputs[n].numel() for n in subject.parameters)
            lines.append(self.say("parameters_count", count=len(subject.parameters), size=f"{size:,}"))
        dtype = str(subject.trace.value.dtype).removeprefix("torch.")
        types = types_text(dtype, map(TensorSummary, subject.trace.inputs.values()))
        lines.append(self.say("setting", dtype=types, torch=torch.__version__))
        if subject.trace.live:
            lines.append(self.say("live"))
        yield Title("gradexplain verify", tuple(lines))

    def brief(self, tensor: Any) -> str:
        """Returns a small tensor whole, and type and shape of another."""
        value = TensorSummary(tensor)
        whole = self.value(value) if value.small else ""
        return whole if whole and len(whole) <= 40 else f"{value.dtype} {shape_text(value.shape)}"

    # -------------------------------------------------------------------------------------------------- verdict

    def why(self, report: Report) -> Iterator[str]:
        """Yields the reasons of what does not agree, the most telling first."""
        for part in _parts(report):
            for name in part.inputs if part.verdict != "agrees" and part.reason not in ("stopped", "unseen") else ():
                if part.of(name) != part.verdict:
                    continue
                said = [c for c in part.checks if c.input == name and c.reason and c.verdict == part.verdict]
                telling = [c for c in said if c.reason not in NOT_APPLICABLE] or said
                for check in telling[:2]:
                    element = indexed(name, check.place) if check.place else name
                    yield self.of(element, self.reason(check), self.oracle(check))

    def shortened(self, lines: Sequence[str], most: int) -> Sequence[str]:
        """Returns at most so many lines, the last of them how many are left out."""
        if len(lines) <= most:
            return lines
        return [*lines[: most - 1], f"  {self.say('verification.more', count=len(lines) - most + 1)}"]

    # ------------------------------------------------------------------------------------------------- evidence

    def evidence(self, report: Report) -> Iterator[Block]:
        yield Heading(self.say("checks"))
        keys = ("oracle", "input", "worst", "bound", "verification.resolution", "verification.element")
        groups = list(self.grouped(judging(report)))
        rows = tuple((*self.check_row(checks), _resolution(checks), self.element(checks)) for checks in groups)
        yield Table(("", *(self.say(k) for k in keys)), rows, tuple(TONES[checks[0].verdict] for checks in groups))
        yield Notes((*self.said(groups), *self.aside(report.checks), *self.weights(report)))

    def weights(self, report: Report) -> Iterator[str]:
        """What the slopes are slopes of."""
        if report.subject is not None and not is_plain_one(report.subject.trace.value, report.subject.trace.cotangent):
            cotangent = report.subject.trace.cotangent
            key = "weighted" if cotangent.numel() > 1 else "weighted_number"
            yield self.say(f"verification.{key}", value=self.brief(cotangent))

    def element(self, checks: Sequence[Check]) -> str:
        if len(checks) > 1:
            return ""
        (check,) = checks
        place = check.data.get("place") if check.verdict == "differs" and "allowed" in check.data else check.place
        return indexed(check.input, place) if isinstance(place, tuple) and place else ""

    def each(self, report: Report) -> Iterator[Block]:
        """Every operation that was checked alone, one a line."""
        if not report.operations:
            return
        yield Heading(self.say("verification.each"))
        wrong = {o.node.index for o in report.wrong()}
        made = {f.data.get("node") for f in report.findings if f.code in FIRST}  # right by itself, and not in this type
        said = {
            o.node.index: o.verdict if o.node.index in wrong else _mildly(o.verdict, o.node.index in made)
            for o in report.operations
        }
        listed = sorted(report.operations, key=lambda o: o.verdict == "agrees")
        keys = ("verification.operation", "verification.code", "verification.line", "module")
        rows = [
            (
                MARKS[said[o.node.index]],
                o.label,
                (o.node.source.code if o.node.source else "")[:60],
                short_place(o.node.source, self.language),
                o.node.module,
            )
            for o in listed[:_MOST_LISTED]
        ]
        header = ("", *(self.say(k) for k in keys))
        yield Table(header, tuple(rows), tuple(TONES[said[o.node.index]] for o in listed[:_MOST_LISTED]))
        others = listed[_MOST_LISTED:]
        if others:
            agreeing = sum(o.verdict == "agrees" for o in others)
            yield Paragraph(self.say("verification.others", count=len(others), agreeing=agreeing))
        remarks = [self.of(o.label, line) for o in listed if said[o.node.index] != "differs" for line in self.told(o)]
        if remarks:
            yield Notes(tuple(dict.fromkeys(remarks)))

    def told(self, operation: Operation) -> Iterator[str]:
        """Yields what is to be said of an operation that is not wrong."""
        yield from map(self.incident, operation.findings)
        if operation.verdict == "cannot say" and not operation.findings:
            reasons = [c for c in operation.report.checks if c.verdict == "cannot say" and c.reason]
            yield from (self.of(c.input, self.reason(c), self.oracle(c)) for c in reasons[:1])


def _mildly(verdict: Verdict, made: bool) -> Verdict:
    """Returns the verdict on an operation that is not wrong.

    Where others overrule a difference, and where it made the first number that is not finite, it is a doubt.
    """
    return "cannot say" if verdict == "differs" or made else verdict


def _resolution(checks: Sequence[Check]) -> str:
    return error_text(max((c.resolution for c in checks if c.resolution is not None), default=None))
