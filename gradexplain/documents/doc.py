"""The document that every renderer draws: a closed union of blocks, plain data. Imports nothing of ours."""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "unsure", "plain"]


@dataclass(frozen=True)
class Title:
    """What is explained: the first line is the computation, the others say where and how."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Heading:
    """The head of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Row:
    """One line of an entry: a key, then text, or equations that may stand side by side."""

    key: str
    text: str = ""
    equations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One step: a label, what it is (`head`), where it comes from (`detail`), and its rows."""

    label: str
    head: str
    detail: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Link:
    """A line that leads to another document beside this one, and a remark on it."""

    text: str
    file: str
    remark: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header; a cell is text, or a link without a remark; `tones` colours a row."""

    header: tuple[str, ...]
    rows: tuple[tuple[str | Link, ...], ...]
    tones: tuple[Tone, ...] = ()


@dataclass(frozen=True)
class Box:
    """A node of a diagram: lines of text, and the one line that stands for it where there is no room."""

    name: str
    lines: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Arrow:
    """An edge of a diagram, from box to box, with the text that stands on it."""

    tail: str
    head: str
    label: str = ""


@dataclass(frozen=True)
class Diagram:
    """A small graph, drawn from left to right."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


@dataclass(frozen=True)
class Curve:
    """A few numbers by the steps at which they were seen; `short` is its name where its panel's title says the rest."""

    name: str
    places: tuple[int, ...]
    numbers: tuple[float, ...]
    short: str = ""


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Plot:
    """Curves over the steps of a run, the panels one below the other; `mark` is a step that stands out.

    `across` is what a step is called.

    Where there are only letters it is a table with a line a curve, and has this header: of the name, of the first
    number, of the course and of the last number.
    """

    header: tuple[str, str, str, str]
    panels: tuple[Panel, ...]
    across: str
    mark: int | None = None


@dataclass(frozen=True)
class Listing:
    """Text that keeps its lines: code, or what it printed."""

    text: str
    kind: Literal["code", "output", "error"] = "code"


@dataclass(frozen=True)
class Image:
    """A picture in a file beside the document; where there is none, its caption and the command that makes it."""

    caption: str
    file: str = ""
    command: str = ""


@dataclass(frozen=True)
class Notes:
    """Remarks, each a sentence."""

    items: tuple[str, ...]


Block = Title | Heading | Paragraph | Entry | Table | Diagram | Plot | Listing | Image | Link | Notes


@dataclass(frozen=True)
class Doc:
    """A document: its blocks in order, in a language."""

    blocks: tuple[Block, ...]
    language: str = "en"
