"""From the report on a training to a document in words: the first cause first, then what it led to, then the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gradexplain.documents.doc import Block, Curve, Doc, Heading, Listing, Notes, Panel, Paragraph, Plot, Title
from gradexplain.documents.shown import recorded, told
from gradexplain.findings.finding import Finding, Remedy
from gradexplain.mathematics.terms import number_text
from gradexplain.narration.explanations import MARKS, Teller, short_place
from gradexplain.narration.jsonable import jsonable, source_record
from gradexplain.targets.provenance import FORMAT
from gradexplain.training.ranks import Seen
from gradexplain.training.report import Curves, TrainingReport
from gradexplain.versions.releases import __version__

_DIGITS = 4


@told.register
def training_page(report: TrainingReport, language: str = "en", *, format: str = "text", width: int = 100) -> Doc:
    """Returns the whole document."""
    return Doc(tuple(TrainingTeller(language).page(report)), language)


@dataclass(frozen=True)
class TrainingTeller(Teller):
    """Tells what was seen of a training in one language."""

    def page(self, report: TrainingReport) -> Iterator[Block]:
        """Yields the whole page."""
        setting = self.say("training.setting", steps=report.steps, torch=torch.__version__)
        of = [self.say("training.rank", rank=report.rank.number, count=report.rank.count)] if report.rank else []
        yield Title("gradexplain run", (report.target, " · ".join([*of, setting])))
        yield from self.headline(report)
        for number, finding in enumerate(report.findings):
            if number:
                yield Heading(self.say("training.further"))
                yield Paragraph(f"{MARKS['differs']} {self.sentence(finding)}", "bad")
            yield from self.evidence(finding)
        if report.others:
            yield Heading(self.say("training.others"))
            yield Notes(tuple(map(self.seen, report.others)))
        if report.steps:
            yield from self.run(report)

    def headline(self, report: TrainingReport) -> Iterator[Block]:
        match report.verdict:
            case "found":
                elsewhere = report.elsewhere
                text = self.seen(elsewhere) if elsewhere is not None else self.sentence(report.findings[0])
                yield Paragraph(f"{MARKS['differs']} {text}", "bad")
                if elsewhere is not None and report.findings:
                    yield Paragraph(self.sentence(report.findings[0]))
            case "nothing unusual":
                text = self.say("training.nothing_unusual", steps=report.steps)
                yield Paragraph(f"{MARKS['agrees']} {text}", "good")
            case "no training seen":
                yield Paragraph(f"{MARKS['cannot say']} {self.say('training.no_training')}", "unsure")
        if report.broken:
            yield Paragraph(self.say("training.broken", message=report.broken), "unsure")
        if report.interrupted:
            yield Paragraph(self.say("training.interrupted", steps=report.steps))

    def seen(self, other: Seen) -> str:
        """Returns what another process saw."""
        if not other.heard:
            return self.say("training.unheard", rank=other.rank)
        nothing = self.say("training.nothing_unusual", steps=other.steps)
        text = nothing if other.finding is None else self.sentence(other.finding)
        return self.say("training.other", rank=other.rank, text=text)

    def sentence(self, finding: Finding) -> str:
        """Returns what was found, with its step and place, as one sentence."""
        place = short_place(finding.source, self.language)
        where = [self.say("training.step", step=finding.step)] if finding.step is not None else []
        where += [place] if place else []
        text = self.said_of(finding)
        return self.say("training.at", where=self.say("training.beside").join(where), text=text) if where else text

    def said_of(self, finding: Finding) -> str:
        """Returns what was found, without its place."""
        data = self.numbers(finding.data)
        if "detail" in data:
            data["made"] = self.say(f"born.{data['detail']}", **data)
        text = self.say(f"findings.{finding.code}", **data)
        return self.after(text, self.say(f"unreached.{data['why']}", **data)) if "why" in data else text

    def after(self, text: str, more: str) -> str:
        """Returns two sentences as they follow each other."""
        return self.say("training.after", text=text, more=more)

    def numbers(self, data: Mapping[str, Any]) -> dict[str, Any]:
        numbers = {k: number_text(v + 0.0, _DIGITS) if isinstance(v, float) else v for k, v in data.items()}
        if "detail" in data:
            numbers["place"] = self.found_at(data.get("place"))
        if "freed" in data:
            numbers["freed"] = self.found_at(data["freed"])
        return numbers | {"percent": f"{100 * data['share']:.3g} %"} if "share" in data else numbers

    def evidence(self, finding: Finding) -> Iterator[Block]:
        """Yields the line, what to do, and what it led to."""
        if finding.source is not None and finding.source.code:
            yield Listing(finding.source.code)
        if finding.remedy is not None:
            yield Paragraph(f"→ {self.cure(finding.remedy)}", "good" if finding.remedy.change else "plain")
            if finding.remedy.change:
                yield Listing(finding.remedy.change)
        if finding.consequences:
            yield Heading(self.say("training.consequences"))
            yield Notes(tuple(map(self.sentence, finding.consequences)))

    def cure(self, remedy: Remedy) -> str:
        text = self.say(f"remedies.{remedy.code}", **self.numbers(remedy.data))
        if not remedy.tried:
            return self.after(text, self.say("training.not_tried"))
        if not remedy.change:
            return self.after(text, self.say("training.tried_in_vain"))
        return self.after(text, self.say("training.tried", **self.numbers(remedy.result)))

    def run(self, report: TrainingReport) -> Iterator[Block]:
        """Yields what was watched, and a small picture of it."""
        yield Heading(self.say("training.run"))
        header = ("", self.say("training.first"), self.say("training.course"), self.say("training.last"))
        steps = [f.step for f in report.findings[:1] if f.step is not None]
        across = self.say("training.across")
        yield Plot(header, tuple(self.panels(report.curves)), across, steps[0] if steps else None)
        separator = self.say("figures.comma")
        watched = separator.join(self.say(f"training.watched_{name}") for name in report.watched)
        notes = [self.say("training.watched", names=watched)]
        notes += [self.say(f"training.examined_{report.examined}")] if report.examined else []
        notes += [self.say("training.acted")] if report.acted else []
        yield Notes(tuple(notes))

    def panels(self, curves: Curves) -> Iterator[Panel]:
        """Yields the loss, the norm of the gradient, and update over weight by layer."""
        loss, norm = self.say("training.loss"), self.say("training.norm")
        yield Panel(loss, (Curve(loss, curves.steps, curves.losses),))
        if curves.norms:
            yield Panel(norm, (Curve(norm, tuple(range(len(curves.norms))), curves.norms),))
        ratio = partial(self.say, "training.ratio")
        layers = [Curve(ratio(name=y.name), y.steps, y.ratios, short=y.name) for y in curves.layers]
        if layers:
            yield Panel(self.say("training.ratios"), tuple(layers))


# ------------------------------------------------------------------------------------------------------- as data


@recorded.register
def training_record(report: TrainingReport, *, full: bool = False) -> dict[str, Any]:
    """Returns a report on a training as plain data."""
    teller = TrainingTeller("en")
    return {
        "gradexplain": __version__,
        "format": FORMAT,
        "kind": "training",
        "verdict": report.verdict,
        "steps": report.steps,
        "watched": list(report.watched),
        "findings": [_finding(finding, teller) for finding in report.findings],
        "target": report.target,
        "interrupted": report.interrupted,
        "examined": report.examined or None,
        "broken": report.broken or None,
        "rank": None if report.rank is None else report.rank.number,
        "others": [
            {"rank": o.rank, "heard": o.heard, "steps": o.steps, "finding": o.finding and _finding(o.finding, teller)}
            for o in report.others
        ],
        "torch": torch.__version__,
    }


def _finding(finding: Finding, teller: TrainingTeller) -> dict[str, Any]:
    data = finding.data
    return {
        "code": finding.code,
        "pitfall": finding.pitfall,
        "step": finding.step,
        "phase": finding.phase,
        "operator": data.get("operator"),
        "module": finding.module or None,
        "parameters": list(finding.parameters),
        "source": source_record(finding.source),
        "element": data.get("element"),
        "values": jsonable(data.get("values", {})),
        "reason": _reason(finding, teller),
        "data": jsonable({k: v for k, v in data.items() if k not in ("values", "element", "operator")}),
        "text": teller.sentence(finding),
        "consequences": [_finding(c, teller) for c in finding.consequences],
        "remedy": None if finding.remedy is None else _remedy(finding.remedy, teller),
    }


def _reason(finding: Finding, teller: TrainingTeller) -> str:
    """Returns the code in words; of what was born, what met there."""
    if "detail" in finding.data:
        return teller.say(f"born.{finding.data['detail']}", **teller.numbers(finding.data))
    return finding.code.replace("-", " ")


def _remedy(remedy: Remedy, teller: TrainingTeller) -> dict[str, Any]:
    text = teller.say(f"remedies.{remedy.code}", **teller.numbers(remedy.data))
    result = jsonable(remedy.result) or None
    return {"text": text, "change": remedy.change or None, "tried": remedy.tried, "result": result}
