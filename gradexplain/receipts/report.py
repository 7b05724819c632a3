"""What a receipt's check comes to: how many claims hold, which do not, which stay open, and how that is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gradexplain.documents.doc import Doc, Paragraph, Tone
from gradexplain.documents.shown import Shown, recorded, told
from gradexplain.errors import GradexplainError
from gradexplain.locale.catalogue import say

Outcome = Literal["refused", "holds", "open"]


@dataclass(frozen=True)
class Remark:
    """One thing said of one place of a receipt: `key` names the sentence, `path` the place (`$.steps[2].label`)."""

    path: str
    key: str
    data: Mapping[str, object] = field(default_factory=dict)

    def sentence(self, language: str = "en") -> str:
        """Returns the sentence, with the place."""
        data = {k: v.sentence(language) if isinstance(v, GradexplainError) else v for k, v in self.data.items()}
        return say("receipts.at", language, path=self.path, sentence=say(f"receipts.{self.key}", language, **data))


@dataclass
class Ledger:
    """Gathers what the claims of one receipt come to."""

    claims: Counter[str] = field(default_factory=Counter)
    refusals: list[Remark] = field(default_factory=list)
    undecided: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)

    def claim(self, kind: str, holds: bool, path: str, key: str, **data: Any) -> None:
        """Counts one claim; one that does not hold is refused, in the words of `key`."""
        self.claims[kind] += 1
        if not holds:
            self.refusals.append(Remark(path, key, data))

    def leave_open(self, path: str, key: str, **data: Any) -> None:
        """Writes down what could not be decided."""
        self.undecided.append(Remark(path, key, data))

    def note(self, path: str, key: str, **data: Any) -> None:
        """Writes down what a reader should know; the same thing once."""
        remark = Remark(path, key, data)
        if remark not in self.notes:
            self.notes.append(remark)


@dataclass(frozen=True)
class ReceiptReport(Shown):
    """What became of a receipt's claims.

    `claimed` is the verdict that the receipt states (`None` where it could not be read so far); `claims` counts what
    was checked, by kind; `refusals` do not hold, `undecided` could not be decided, `notes` say under which conditions.
    """

    kind: str | None
    target: str | None
    claimed: str | None
    claims: Mapping[str, int]
    refusals: tuple[Remark, ...]
    undecided: tuple[Remark, ...]
    notes: tuple[Remark, ...]

    @property
    def outcome(self) -> Outcome:
        """Whether the receipt is refused, holds in every claim, or stays open."""
        if self.refusals:
            return "refused"
        return "open" if self.undecided else "holds"

    @property
    def verdict(self) -> str:
        """The verdict on the gradient that may be relied on: `differs` as well where the receipt is refused."""
        by_outcome = {"refused": "differs", "open": "cannot say"}
        return by_outcome.get(self.outcome, self.claimed or "cannot say")


_TONES: Mapping[Outcome, Tone] = {"refused": "bad", "open": "unsure", "holds": "good"}


@told.register
def receipt_page(report: ReceiptReport, language: str = "en", *, format: str = "text", width: int = 100) -> Doc:
    """Returns the outcome in words, a line each for what is refused, open or to be known."""
    verdict = say(f"receipt_verdicts.{(report.claimed or 'none').replace(' ', '_')}", language)
    count = len(report.refusals) or len(report.undecided)
    said = say(f"receipt_outcomes.{report.outcome}", language, count=count, verdict=verdict)
    counted = ", ".join(f"{say(f'receipt_claims.{kind}', language)} {n}" for kind, n in report.claims.items())
    marked: Mapping[str, tuple[Tone, tuple[Remark, ...]]] = {
        "✗": ("bad", report.refusals),
        "?": ("unsure", report.undecided),
        "·": ("plain", report.notes),
    }
    lines = [Paragraph(f"{m} {r.sentence(language)}", tone) for m, (tone, part) in marked.items() for r in part]
    last = [Paragraph(say("receipt_outcomes.counted", language, counted=counted))] if counted else []
    return Doc((Paragraph(said, _TONES[report.outcome]), *lines, *last))


@recorded.register
def receipt_record(report: ReceiptReport, *, full: bool = False) -> dict[str, Any]:
    """Returns the outcome as plain data."""
    marked = {"refusals": report.refusals, "undecided": report.undecided, "notes": report.notes}
    remarks = {n: [{"path": r.path, "code": r.key, "text": r.sentence()} for r in part] for n, part in marked.items()}
    told_ = {"target": report.target, "claimed": report.claimed, "outcome": report.outcome, "verdict": report.verdict}
    return {"kind": report.kind, **told_, "claims": dict(report.claims), **remarks}
