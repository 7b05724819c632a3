"""README and the guides: their commands, their snippets, and what they show."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "README.md", *sorted((ROOT / "gradexplain" / "guides").glob("*.md")))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of a document: `number` counts those of its `kind` from 1."""

    file: Path
    kind: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file.stem}-{self.kind}-{self.number}"


def blocks(kind: str) -> list[Block]:
    """Returns the blocks of one kind of all documents, in order."""
    return [
        Block(file, kind, number, text)
        for file in FILES
        for number, text in enumerate(
            (body for found, body in BLOCK.findall(file.read_text(encoding="utf-8")) if found == kind), 1
        )
    ]
