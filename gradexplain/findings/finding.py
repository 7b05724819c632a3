"""A finding: something worth a note, as data. What there is to find is known where it is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gradexplain.targets.sources import Source

Phase = Literal["forward", "backward", "optimizer", "data"]


@dataclass(frozen=True)
class Remedy:
    """What to do about a finding: its code finds the sentence, `change` is the user's own line as it should be.

    `tried` says that the run was repeated with a change of it; where one helped, that is the `change`, and `result` has
    what came of it, by name.
    """

    code: str
    data: Mapping[str, Any] = field(default_factory=dict)
    change: str = ""
    tried: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Something worth a note, without words: a recorded event becomes a finding, and its code finds the sentence.

    `code` says in words what was found (`first-not-finite`) and is the sentence's key in the catalogue; `data` are the
    numbers and names of the sentence, `source` is where in the user's code it happened, and `pitfall` the number of
    the common mistake that it is a case of (`P23`), where it is one.

    Of a training a finding has a `step` (the first is 0) and a `phase` of it, the `parameters` that it is about,
    `consequences` (what it led to, which is no cause of its own) and a `remedy`.
    """

    code: str
    data: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None
    pitfall: str | None = None
    step: int | None = None
    phase: Phase | None = None
    module: str = ""
    parameters: tuple[str, ...] = ()
    consequences: tuple[Finding, ...] = ()
    remedy: Remedy | None = None

    @property
    def kind(self) -> str:
        """The code, by the name that it had before; for callers of `Report.findings`."""
        return self.code
