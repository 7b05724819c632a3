"""What is known of operators, as a page: one entry each where some were named, a table of all otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from gradexplain.documents.doc import Block, Doc, Entry, Heading, Paragraph, Row, Table, Title
from gradexplain.documents.shown import recorded, told
from gradexplain.locale.catalogue import formula, say
from gradexplain.mathematics.terms import symbolic_text
from gradexplain.rules.entries import Rule
from gradexplain.verification.inventory import Inventory, Known, Second


@told.register
def inventory_page(inventory: Inventory, language: str = "en", *, format: str = "text", width: int = 100) -> Doc:
    """Returns the whole document."""
    teller = _Teller(language)
    return Doc(tuple(teller.entries(inventory) if inventory.names else teller.table(inventory)), language)


@recorded.register
def inventory_record(inventory: Inventory, *, full: bool = False) -> dict[str, Any]:
    """Returns what is known as plain data, in English."""
    teller = _Teller("en")
    return {"operators": [teller.record(known) for known in inventory.known]}


@dataclass(frozen=True)
class _Teller:
    language: str

    def say(self, key: str, **data: object) -> str:
        return say(f"inventory.{key}", self.language, **data)

    def entries(self, inventory: Inventory) -> Iterator[Block]:
        yield Title("gradexplain functions", (" ".join(inventory.names),))
        for known in inventory.known:
            yield Entry(_short(known), "", "", tuple(self._rows(known)))

    def _rows(self, known: Known) -> Iterator[Row]:
        rule = known.rule
        if rule is None:
            yield Row(self.say("rule"), self.say(f"without_{known.without}"))
            return
        yield Row(self.say("rule"), self._forward(rule))
        for argument, text in self._derivatives(rule):
            yield Row(argument, text)
        yield Row(self.say("kinks"), self._kinks(rule))
        yield Row(self.say("complex"), self.say(f"over_{rule.over}"))
        yield Row(self.say("second"), self._second(known))
        yield Row(self.say("proof"), self.say(f"proof_{known.proof}"))

    def _forward(self, rule: Rule) -> str:
        return f"y = {symbolic_text(rule.formula)}" if rule.elementwise else formula(rule.formula, self.language)

    def _derivatives(self, rule: Rule) -> Iterator[tuple[str, str]]:
        for argument, slope in rule.slopes.items():
            yield argument, f"∂y/∂{rule.names[argument]} = {symbolic_text(slope)}"
        for argument, derivative in rule.derivatives.items():
            yield argument, formula(derivative.shown, self.language)

    def _kinks(self, rule: Rule) -> str:
        return say(f"rules.{rule.why}", self.language) if rule.why else self.say("no_kinks")

    def _second(self, known: Known) -> str:
        return self.say(f"second_{known.second or 'unknown'}", refusal=known.refusal)

    def table(self, inventory: Inventory) -> Iterator[Block]:
        yield Title("gradexplain functions --operators", (self.say("count", count=len(inventory.known)),))
        header = tuple(self.say(key) for key in ("operator", "rule", "kinks", "second_order", "proof"))
        yield Table(header, tuple(map(self._line, inventory.known)))
        yield Heading(self.say("words"))
        proofs = Counter(str(known.proof) for known in inventory.known)
        for proof, count in proofs.items():
            yield Paragraph(f"{self.say(f'short_{proof}')} ({count}): {self.say(f'proof_{proof}')}")
        for second in get_args(Second):
            yield Paragraph(f"{self._shortly(second)}: {self.say(f'second_{second}', refusal='…')}")
        yield Paragraph(self.say("one"))

    def _shortly(self, second: Second | None) -> str:
        return "?" if second is None else "0" if second == "zero" else self.say(f"short_{second}")

    def _line(self, known: Known) -> tuple[str, ...]:
        rule = known.rule
        assert rule is not None
        kinks = "kinks_tie" if rule.tie else "kinks_some" if rule.kink or _whole(rule) else ""
        return (
            _short(known),
            self._forward(rule),
            self.say(kinks) if kinks else "–",
            self._shortly(known.second),
            self.say(f"short_{known.proof}"),
        )

    def record(self, known: Known) -> dict[str, Any]:
        found: dict[str, Any] = {"operator": known.operator, "without": known.without}
        if known.rule is None:
            return found
        return found | {
            "rule": self._forward(known.rule),
            "derivatives": dict(self._derivatives(known.rule)),
            "kinks": self._kinks(known.rule),
            "numbers": known.rule.over,
            "second": known.second,
            "refusal": known.refusal,
            "proof": known.proof,
        }


def _whole(rule: Rule) -> bool:
    return any(derivative.has_kinks for derivative in rule.derivatives.values())


def _short(known: Known) -> str:
    return known.operator.removesuffix(".default")
