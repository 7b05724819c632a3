"""A finding: something worth a note, as data. What there is to find is known where it is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradexplain.targets.sources import Source


@dataclass(frozen=True)
class Finding:
    """Something worth a note, without words: a recorded event becomes a finding, and its code finds the sentence.

    `code` says in words what was found (`first-not-finite`) and is the sentence's key in the catalogue; `data` are the
    numbers and names of the sentence, `source` is where in the user's code it happened, and `pitfall` the number of
    the common mistake that it is a case of (`P23`), where it is one.
    """

    code: str
    data: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None
    pitfall: str | None = None

    @property
    def kind(self) -> str:
        """The code, by the name that it had before; for callers of `Report.findings`."""
        return self.code
