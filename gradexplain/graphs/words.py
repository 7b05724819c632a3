"""What is written on a node, on an edge and below a picture, as clean text of one language."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isfinite

from rich.cells import cell_len, set_cell_size

from gradexplain.documents.visible import escaped
from gradexplain.graphs.graph import CutAt, Edge, Facts, Fold, Graph, Group, Node, Numbers, Passed
from gradexplain.locale.catalogue import say
from gradexplain.mathematics.terms import number_text
from gradexplain.narration.explanations import elements_text, shape_text, short_place
from gradexplain.targets.sources import Source

# What a box has room for, in columns.
WIDEST = 34
# What a tooltip holds, in characters.
LONGEST = 300
_DIGITS = 4


@dataclass(frozen=True)
class Caption:
    """A title, the lines below it, and the details of a tooltip."""

    title: str
    lines: tuple[str, ...]
    details: tuple[str, ...]

    @property
    def text(self) -> str:
        """What is written in the box, a line each."""
        return "\n".join([self.title, *self.lines])


def clean(text: str, longest: int = LONGEST) -> str:
    """Returns `text` on one line: control, bidi and other invisible characters are written as escapes."""
    if text.isascii() and text.isprintable() and len(text) <= longest:
        return text
    shown = "".join(map(escaped, text[: longest + 1]))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def short(text: str, columns: int = WIDEST) -> str:
    """Returns clean text in at most so many columns."""
    cleaned = clean(text)
    return cleaned if cell_len(cleaned) <= columns else set_cell_size(cleaned, columns - 1).rstrip() + "…"


class Words:
    """The words of one language for one picture."""

    def __init__(self, picture: Graph, language: str) -> None:
        self.picture, self.language = picture, language
        self.shown = picture.shown
        self.say: Callable[..., str] = partial(_said, language)
        self.outputs: dict[int, list[str]] = {}
        for output in picture.outputs:
            self.outputs.setdefault(output.node, []).append(output.name)
        self.modules: dict[Source, set[str]] = {}
        for node in picture.nodes:
            if node.source is not None:
                self.modules.setdefault(node.source, set()).add(node.module)

    # ------------------------------------------------------------------------------------------------- nodes

    def caption(self, number: int) -> Caption:
        """Returns what is written on node `number` of the picture."""
        node = self.picture.nodes[number]
        lines = tuple(short(line) for line in self.lines(node) if line)
        return Caption(short(self.title(number)), lines, tuple(clean(d) for d in self.details(number, node) if d))

    def captions(self) -> dict[int, Caption]:
        """Returns what is written on every node, and as -1 - n what is written at the n-th cut."""
        found = {i: self.caption(i) for i in range(len(self.picture.nodes))}
        return found | {-1 - k: self.cut(cut) for k, cut in enumerate(self.picture.cuts)}

    def title(self, number: int) -> str:
        """Returns a node's name: the user's for a leaf, torch's for a node, the operator in the forward view."""
        node = self.picture.nodes[number]
        own = self._name(node)
        result = ", ".join(self.outputs.get(number, ()))
        if not result or node.kind in ("element", "input", "parameter", "gradient") or result == own:
            return own
        return f"{own} → {result}"

    def _name(self, node: Node) -> str:
        folded = node.facts.fold if node.facts else None
        if folded is not None and node.kind == "fold":
            return self._fold_name(node, folded)
        if self.picture.view in ("forward", "both") and node.kind in ("operation", "function"):
            return operator_of(node)
        if node.kind == "gradient":
            return node.name if node.name.endswith(("Backward", "Backward0", "Backward1")) else f"∂ {node.name}"
        return node.name

    def _fold_name(self, node: Node, folded: Fold) -> str:
        if folded.how == "module":
            return folded.first
        if folded.how == "repeat":
            span = folded.first if folded.last in ("", folded.first) else f"{folded.first} … {folded.last}"
            return f"{self.say('times', count=folded.times)} {span}"
        return node.source.code if node.source is not None else self.say("operations", count=folded.nodes)

    def lines(self, node: Node) -> Iterator[str]:
        facts = node.facts or Facts()
        if "sources" in self.shown and self.picture.view != "elements" and node.kind != "fold":
            yield self.origin(node)
        if facts.fold is not None:
            yield from self.fold(node, facts.fold)
        if "shapes" in self.shown and node.shapes and self.picture.view != "elements":
            yield " ".join([*map(shape_text, node.shapes[:3]), *([node.dtype] if "dtypes" in self.shown else [])])
        if facts.weights:
            yield "+ " + ", ".join(_last_parts(facts.weights))
        yield from self.numbers(facts)

    def origin(self, node: Node) -> str:
        """Returns the code that a node comes from, or its module where several modules ran in one expression."""
        if node.source is None or (node.module and len(self.modules.get(node.source, ())) > 1):
            return node.module
        return " = ".join(filter(None, (node.label or node.source.target, node.source.code)))

    def fold(self, node: Node, folded: Fold) -> Iterator[str]:
        if node.kind == "fold" and not (folded.how == "chain" and node.source is None):
            yield self.say("operations", count=folded.nodes)
        if node.kind == "input":
            yield self.say("times", count=folded.times)
        if folded.parameters:
            yield self.say("parameters", count=folded.parameters, size=f"{folded.numbers:,}")

    def numbers(self, facts: Facts) -> Iterator[str]:
        if facts.value is not None:
            yield f"= {self.value(facts.value)}"
        if facts.gradient is not None and "gradients" in self.shown:
            yield f"∂ {self.value(facts.gradient)}"
        if facts.gradient is not None and "norms" in self.shown and facts.gradient.norm is not None:
            yield self.say("norm", norm=number_text(facts.gradient.norm, 3))
        if facts.saved and "bytes" in self.shown:
            yield self.say("keeps_bytes", size=f"{sum(s.bytes for s in facts.saved if s.shares is None):,}")
        if facts.saved and "saved" in self.shown:
            yield self.say("keeps", names=", ".join(f"{s.name} {shape_text(s.shape)}" for s in facts.saved))
        if facts.hooks:
            yield self.say("hooks", count=facts.hooks)
        if facts.verdict == "differs":
            yield self.say("verdict_differs")

    def value(self, numbers: Numbers) -> str:
        """Returns a tensor in a few words: its elements, or its size and range."""
        if numbers.elements is not None:
            return elements_text(numbers.elements, _DIGITS)
        if numbers.nans or numbers.infinities:
            return self.say("not_finite", nans=numbers.nans, infinities=numbers.infinities)
        texts = {k: "–" if v is None else number_text(v, 3) for k, v in _range(numbers).items()}
        return self.say("large", **texts)

    def details(self, number: int, node: Node) -> Iterator[str]:
        facts = node.facts or Facts()
        yield self.title(number)
        if node.name not in self.title(number):
            yield node.name
        if node.operator:
            yield self.say("operator", operator=node.operator)
        if node.source is not None:
            yield self.say("place", place=short_place(node.source, self.language), code=node.source.code)
        if node.module:
            yield self.say("module", module=node.module)
        if node.shapes:
            yield f"{', '.join(map(shape_text, node.shapes))} {node.dtype}"
        if facts.fold is not None:
            yield from self.fold(node, facts.fold)
        yield ", ".join(facts.weights)
        yield from self.numbers(facts)
        for saved in facts.saved or ():
            if saved.shares is not None:
                yield self.say("shares", name=saved.name, node=saved.shares)

    # ------------------------------------------------------------------------------------------------- edges

    def edge(self, edge: Edge) -> tuple[str, ...]:
        """Returns the lines that are written on an edge: the local derivative, and what is sent back along it."""
        passed, both = edge.passed or Passed(), self.picture.view == "both"
        derivative = passed.derivative if "derivatives" in self.shown and not both else ""
        sent = passed.contribution if "gradients" in self.shown and self.picture.view != "elements" else None
        value = f"∂ {self.value(sent)}" if sent is not None and sent.elements is not None else ""
        return tuple(short(line) for line in (derivative, value) if line)

    def edge_details(self, edge: Edge) -> str:
        """Returns the tooltip of an edge."""
        ends = f"{self.title(edge.producer)} → {self.title(edge.consumer)}"
        passed = edge.passed or Passed()
        said = [
            ends,
            self.say("output_number", output=edge.output) if edge.output > 0 else "",
            self.say("argument", argument=edge.argument) if edge.argument else "",
            passed.derivative,
            self.say("contribution", value=self.value(passed.contribution)) if passed.contribution else "",
        ]
        return clean(" · ".join(p for p in said if p))

    # ------------------------------------------------------------------------------------------------ around

    def cut(self, cut: CutAt) -> Caption:
        """Returns what is written where a value went on without its gradient."""
        code = cut.source.code if cut.source else cut.operator
        details = (code, short_place(cut.source, self.language), cut.operator)
        return Caption(short(code), (self.say(f"cut_{cut.reason}"),), tuple(clean(d) for d in details if d))

    def group(self, group: Group) -> str:
        """Returns the title of a frame."""
        times = self.say("times", count=group.times) if group.times > 1 else ""
        return short(f"{group.title}  {times}".strip(), 60)

    def heading(self) -> str:
        """Returns what the picture is of."""
        return clean(self.say("graph_of", title=self.picture.title))

    def notes(self) -> Iterator[str]:
        """Yields the sentences below the picture."""
        picture = self.picture
        yield self.say(f"legend_{picture.view}" if picture.view in ("both", "elements") else "legend")
        for note in picture.notes:
            yield clean(self.say(note.key, **note.data))
        if not any(note.key in ("folded", "kept_part", "held") for note in picture.notes):
            yield self.say("everything", nodes=len(picture.nodes), edges=len(picture.edges))
        if picture.again:
            yield self.say("again")
        if picture.cuts:
            yield self.say("cuts")


def _said(language: str, key: str, **data: object) -> str:
    return say(f"graphs.{key}", language, **data)


def _range(numbers: Numbers) -> dict[str, float | None]:
    found = {"norm": numbers.norm, "low": numbers.low, "high": numbers.high}
    return {k: v if v is not None and isfinite(v) else None for k, v in found.items()}


def _last_parts(names: tuple[str, ...]) -> list[str]:
    return [name.rpartition(".")[2] or name for name in names]


def operator_of(node: Node) -> str:
    """Returns the operator without its namespace and overload, `mul` for aten.mul.Tensor; else what a node is of."""
    if node.operator:
        return node.operator.removeprefix("aten.").split(".")[0]
    return re.sub(r"Backward\d*$", "", node.name).rpartition("::")[2]
