"""Tables of figures, printed for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Sheet:
    """A title, the names of the columns, and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(sheets: Iterable[Sheet], *, markdown: bool) -> None:
    """Prints sheets as they come."""
    console = Console(width=250 if markdown else None)
    for sheet in sheets:
        table = Table(*sheet.columns, box=box.MARKDOWN if markdown else box.HEAVY_HEAD)
        for row in sheet.rows:
            table.add_row(*row)
        console.print(f"\n{sheet.title}", highlight=False, markup=False)
        if sheet.rows:
            console.print(table)


def share(part: int, whole: int) -> str:
    """Returns "3 (1.50 %)", or just "0"."""
    percent = 100 * part / whole if whole else 0.0
    return f"{part} ({percent:.2f} %)" if part else "0"
