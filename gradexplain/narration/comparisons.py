"""From a comparison to a document in words: the verdict, what the difference is and where it begins, the table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradexplain.comparison.comparison import Compared, Comparison, Place, Step
from gradexplain.documents.doc import Block, Doc, Entry, Heading, Notes, Paragraph, Row, Table, Title, Tone
from gradexplain.documents.shown import recorded, told
from gradexplain.narration.explanations import Teller, error_text, shape_text, short_place
from gradexplain.narration.jsonable import jsonable, source_record
from gradexplain.recording.summaries import TensorSummary
from gradexplain.targets.provenance import FORMAT
from gradexplain.versions.releases import __version__

TONES: Mapping[str, Tone] = {"same": "good", "differs": "bad", "cannot say": "unsure"}
MARKS = {"same": "✓", "differs": "✗", "cannot say": "?"}
# So many tensors are listed, those that are not the same first.
_MOST_LISTED = 24
_MOST_INPUTS = 8
_MOST_LINES = 20


@told.register
def comparison_page(comparison: Comparison, language: str = "en", *, format: str = "text", width: int = 100) -> Doc:
    """Returns the whole document."""
    return Doc(tuple(ComparisonTeller(language).page(comparison)), language)


def summary(comparison: Comparison, language: str = "en") -> str:
    """Returns what a failing test has to say."""
    teller = ComparisonTeller(language)
    lines = [teller.headline(comparison), *(f"  {line}" for line in teller.reasons(comparison))]
    if comparison.place is not None:
        lines += [f"  {line}" for line in teller.part(comparison.place)]
    return "\n".join(lines[:_MOST_LINES])


@dataclass(frozen=True)
class ComparisonTeller(Teller):
    """Tells what came of a comparison in one language."""

    def page(self, c: Comparison) -> Iterator[Block]:
        """Yields the whole page."""
        yield Title("gradexplain compare", tuple(self.header(c)))
        yield Paragraph(f"{MARKS[c.verdict]} {self.headline(c)}", TONES[c.verdict])
        if reasons := list(self.reasons(c)):
            yield Notes(tuple(reasons))
        if c.place is not None:
            yield from self.where(c.place)
        yield Heading(self.say("checks"))
        yield self.table(c)
        if notes := list(dict.fromkeys(self.notes(c))):
            yield Heading(self.say("notes"))
            yield Notes(tuple(notes))

    def header(self, c: Comparison) -> Iterator[str]:
        yield self.say("comparison.sides", one=c.names[0], other=c.names[1])
        own = [(n, t) for n, t in c.inputs.items() if isinstance(t, Tensor)]
        if own:
            yield self.say("at", inputs="   ".join(f"{n} = {self.brief(t)}" for n, t in own[:_MOST_INPUTS]))
        if c.parameters:
            size = sum(
                math.prod(t.shapes[0] or ()) for t in c.tensors if t.kind == "gradient" and t.name not in c.inputs
            )
            yield self.say("parameters_count", count=c.parameters, size=f"{size:,}")
        types = [dict.fromkeys(t.dtypes[side] for t in c.tensors if t.dtypes[side]) for side in (0, 1)]
        one, other = (", ".join(found) for found in types)
        dtype = one if one == other else self.say("comparison.types", one=one, other=other)
        key = "truth" if c.truth else "setting"
        yield self.say(f"comparison.{key}", dtype=dtype, torch=torch.__version__, truth=c.truth)

    def brief(self, tensor: Tensor) -> str:
        value = TensorSummary(tensor.detach())
        whole = self.value(value) if value.small else ""
        return whole if whole and len(whole) <= 40 else f"{value.dtype} {shape_text(value.shape)}"

    # -------------------------------------------------------------------------------------------------------- verdict

    def headline(self, c: Comparison) -> str:
        """Returns the verdict as a sentence."""
        if c.verdict == "same":
            bits = all(t.reason in ("bits", "none") for t in c.tensors)
            return self.say("comparison.same_bits" if bits else "comparison.same")
        worst = c.telling
        if worst is None:
            return self.say("comparison.cannot_say")
        name = self.called(worst)
        if not math.isfinite(worst.times):
            return self.say("comparison.differs_endless", name=name)
        times, relative = _times(worst.times), error_text(worst.relative)
        key = "differs_formula" if worst.formula else "differs"
        return self.say(f"comparison.{key}", name=name, times=times, relative=relative, dtype=worst.dtypes[1])

    def called(self, t: Compared) -> str:
        return self.say(f"comparison.kind_{t.kind}") + f" {t.name}"

    def reasons(self, c: Comparison) -> Iterator[str]:
        """Yields what the differences are, each kind once, and why something cannot be said."""
        said: dict[str, list[Compared]] = {}
        for t in c.tensors:
            if t.verdict != "same":
                said.setdefault(self.why(t, ""), []).append(t)
        for alike in list(said.values())[:_MOST_LINES]:
            names = self.say("listed").join(self.called(t) for t in alike[:4]) + (" …" if len(alike) > 4 else "")
            yield self.why(alike[0], names)
            if alike[0].verdict == "differs" and alike[0].numbers is not None and alike[0].reason == "beyond":
                yield self.numbers(alike[0])

    def why(self, t: Compared, names: str) -> str:
        """Returns why one tensor is not the same, said of tensors of these names."""
        place = shape_text(t.place) if t.place is not None else ""
        match t.reason:
            case "missing":
                assert t.numbers is not None
                key, seen = ("missing_b", t.numbers[0]) if t.numbers[1] is None else ("missing_a", t.numbers[1])
                return self.say(f"comparison.{key}", name=names, seen=seen, place=place)
            case "shape":
                one, other = (shape_text(s or ()) for s in t.shapes)
                return self.say("comparison.shape", name=names, one=one, other=other)
            case "nan_in_one":
                assert t.numbers is not None
                one, other = _numbers(*t.numbers)
                return self.say("comparison.nan_in_one", name=names, place=place, one=one, other=other)
            case "nan" | "small" | "unsteady" | "draws" | "reference" | "unmeasured":
                return self.say(f"comparison.{t.reason}", **{**t.data, "name": names, "dtype": t.dtypes[1]})
            case _:
                return self.of(names, self.pattern(t))

    def pattern(self, t: Compared) -> str:
        """Returns what the difference of one tensor looks like."""
        if t.pattern is None:
            return ""
        data = {**t.pattern.data, "place": shape_text(t.pattern.place or ())}
        said = self.say(f"differences.{t.pattern.kind}", **data)
        if "formula" in data:
            if data["kind"] != "code":
                data["what"] = self.say(f"comparison.size_{data['kind']}", what=data["what"])
            said += self.say("comparison.meaning_two" if "m" in data else "comparison.meaning", **data)
        return said

    def numbers(self, t: Compared) -> str:
        assert t.numbers is not None
        place = str(list(t.place)) if t.place else ""
        one, other = _numbers(*t.numbers)
        data = {"name": t.name, "place": place, "one": one, "other": other}
        if t.truth is None or isinstance(t.truth, complex):
            return self.say("comparison.number", **data)
        return self.say("comparison.number_truth", **data, truth=_numbers(t.truth)[0])

    # ---------------------------------------------------------------------------------------------------------- where

    def where(self, place: Place) -> Iterator[Block]:
        yield Heading(self.say("comparison.where"))
        yield Paragraph(self.say(f"comparison.{place.phase}", **place.detail))
        yield from self.steps(place)
        yield Paragraph(self.how(place))

    def steps(self, place: Place) -> Iterator[Entry]:
        numbers = _numbers(*(None if step is None else step.number for step in place.steps))
        for letter, step, number in zip("AB", place.steps, numbers, strict=True):
            yield self.step(letter, step, number, place)

    def step(self, letter: str, step: Step | None, number: str, place: Place) -> Entry:
        if step is None:
            key = "no_step" if place.phase == "forward" else "sends_nothing"
            return Entry(letter, self.say(f"comparison.{key}"), "", ())
        code = step.source.code if step.source is not None and step.source.code else step.operator
        parts = step.module, step.operator if step.operator != code else "", short_place(step.source, self.language)
        detail = " · ".join(part for part in parts if part)
        element = str(list(place.element)) if place.element else ""
        rows = (Row("", self.say("comparison.here", number=f"{number} {element}".strip())),) if number else ()
        return Entry(letter, code, detail, rows)

    def how(self, place: Place) -> str:
        detail = place.detail
        if place.how == "argument" and "shifted" in detail:
            return self.say(
                "comparison.how_shifted", argument=detail["argument"], by=detail["by"], dim=detail["shifted"]
            )
        if place.how == "argument" and "one" in detail:
            return self.say("comparison.how_values", **detail)
        return self.say(f"comparison.how_{place.how}", **detail)

    def part(self, place: Place) -> Iterator[str]:
        """Yields the place in lines."""
        yield self.say(f"comparison.{place.phase}", **place.detail)
        for entry in self.steps(place):
            yield "  ".join(
                p for p in (f"  {entry.label}:", entry.head, entry.detail, *(r.text for r in entry.rows)) if p
            )
        yield f"  {self.how(place)}"

    # ---------------------------------------------------------------------------------------------------------- table

    def table(self, c: Comparison) -> Table:
        order = {"differs": 0, "cannot say": 1, "same": 2}
        listed = sorted(c.tensors, key=lambda t: order[t.verdict])[:_MOST_LISTED]
        keys = ("name", "what", "apart", "times", "ulps", "resolution")
        header = ("", *(self.say(f"comparison.{key}") for key in keys))
        rows = [self.row(t) for t in listed]
        if len(c.tensors) > len(listed):
            more = self.say("comparison.more", count=len(c.tensors) - len(listed))
            rows.append(("", more, "", "", "", "", ""))
        return Table(header, tuple(rows), tuple(TONES[t.verdict] for t in listed))

    def row(self, t: Compared) -> tuple[str, ...]:
        kind = self.say(f"comparison.kind_{t.kind}")
        if t.reason in ("bits", "none"):
            return (MARKS[t.verdict], t.name, kind, self.say(f"comparison.verdict_{t.reason}"), "", "", "")
        ulps = "" if t.ulps is None else f"{t.ulps[0]:.2g}, {t.ulps[1]:.2g}"
        measured = t.reason in ("rounding", "beyond", "small")
        apart = error_text(t.relative) if measured else ""
        resolution = error_text(t.resolution) if t.verdict == "same" else ""
        return (MARKS[t.verdict], t.name, kind, apart, _times(t.times) if measured else "", ulps, resolution)

    def notes(self, c: Comparison) -> Iterator[str]:
        yield from (self.finding(f) for f in c.findings)
        yield from self.nearest(c)
        for t in c.tensors:
            if t.verdict != "differs" and t.hidden:
                yield self.say("comparison.hidden", name=self.called(t), hidden=t.hidden, dtype=t.dtypes[1])
            if t.verdict == "same" and t.untested:
                yield self.say("comparison.untested", name=self.called(t), untested=t.untested, count=t.count)
            if t.whole:
                key = "whole" if t.dim is None else "whole_dim"
                yield self.say(f"comparison.{key}", name=self.called(t), dim=t.dim)
        if c.runs:
            yield self.say("comparison.detail_runs", runs=c.runs)

    def nearest(self, c: Comparison) -> Iterator[str]:
        """Yields which side is nearer to the truth, for the gradient where that is most so."""
        for side, letter in (("a", "A"), ("b", "B")):
            near = [t for t in c.tensors if t.nearer == side and t.kind == "gradient" and t.ulps is not None]
            if near:
                most = max(near, key=lambda t: max(t.ulps or (0, 0)) / max(min(t.ulps or (1, 1)), 1e-30))
                assert most.ulps is not None
                names = self.say("listed").join(t.name for t in near[:4]) + (" …" if len(near) > 4 else "")
                far, close = max(most.ulps), min(most.ulps)
                said = self.say("comparison.nearer", names=names, side=letter, near=close, far=far)
                yield said + (self.say("comparison.better") if side == "b" and c.verdict == "same" else "")


def _times(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.2g}" if 1e-3 <= value < 1e4 else f"{value:.1e}"


def _numbers(*values: Any) -> list[str]:
    """Returns numbers with as many digits as they need to look different, "" for none."""
    short, long = (["" if v is None else f"{v:.{digits}g}" for v in values] for digits in (9, 17))
    return long if len({*short}) < len({*long}) else short


@recorded.register
def comparison_record(comparison: Comparison, *, full: bool = False) -> dict[str, Any]:
    """Returns a comparison as plain data."""
    teller = ComparisonTeller("en")
    return {
        "gradexplain": __version__,
        "format": FORMAT,
        "kind": "comparison",
        "verdict": comparison.verdict,
        "text": teller.headline(comparison),
        "a": comparison.names[0],
        "b": comparison.names[1],
        "against": comparison.against or None,
        "torch": torch.__version__,
        "truth": comparison.truth or None,
        "runs": comparison.runs,
        "tensors": [_tensor(t, teller) for t in comparison.tensors],
        "place": None if comparison.place is None else _place(comparison.place, teller),
        "findings": [
            {"code": f.code, "data": jsonable(f.data), "text": teller.finding(f)} for f in comparison.findings
        ],
    }


def _tensor(t: Compared, teller: ComparisonTeller) -> dict[str, Any]:
    return {
        "name": t.name,
        "of": t.kind,
        "verdict": t.verdict,
        "reason": t.reason,
        "shapes": [None if s is None else list(s) for s in t.shapes],
        "dtypes": list(t.dtypes),
        "times": jsonable(t.times),
        "relative": jsonable(t.relative),
        "element": None if t.place is None else list(t.place),
        "a": jsonable(t.numbers[0], pairs=True) if t.numbers else None,
        "b": jsonable(t.numbers[1], pairs=True) if t.numbers else None,
        "float64": jsonable(t.truth, pairs=True),
        "ulps": jsonable(t.ulps),
        "nearer": t.nearer,
        "resolution": jsonable(t.resolution),
        "untested": t.untested,
        "hidden": jsonable(t.hidden or None),
        "pattern": None
        if t.pattern is None or t.reason != "beyond"
        else {"kind": t.pattern.kind, "data": jsonable(t.pattern.data), "text": teller.pattern(t)},
    }


def _place(place: Place, teller: ComparisonTeller) -> dict[str, Any]:
    return {
        "phase": place.phase,
        "how": place.how,
        "element": None if place.element is None else list(place.element),
        "relative": jsonable(place.relative),
        "data": jsonable(place.detail),
        "text": teller.how(place),
        "steps": [None if s is None else _step(s) for s in place.steps],
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "operator": step.operator,
        "module": step.module,
        "source": source_record(step.source),
        "number": jsonable(step.number, pairs=True),
    }
