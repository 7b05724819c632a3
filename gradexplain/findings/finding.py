"""A finding: something worth a note, as data. What there is to find is known where it is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something worth a note. `kind` is the catalogue's key, `data` fills the sentence, `place` is a source place."""

    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
