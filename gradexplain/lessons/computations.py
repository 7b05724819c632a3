"""Expressions explained, verified and pictured, with their code as the title and each step's place in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradexplain import api
from gradexplain.explanation.explanation import Explanation
from gradexplain.graphs.picture import Picture
from gradexplain.targets.expression import parse
from gradexplain.targets.interpreter import Runner
from gradexplain.verification.verdicts import Report


def explained(code: str, inputs: Mapping[str, Tensor], **options: Any) -> Explanation:
    """Explains an expression; `options` are those of `explain`."""
    run = Runner(parse(code))
    return api.explain(run, inputs, **{"target": code, **options}, locate=run.locate)


def verified(code: str, inputs: Mapping[str, Tensor], **options: Any) -> Report:
    """Verifies an expression; `options` are those of `verify`."""
    run = Runner(parse(code))
    return api.verify(run, inputs, target=code, locate=run.locate, **options)


def pictured(code: str, inputs: Mapping[str, Tensor], **options: Any) -> Picture:
    """Draws the graph of an expression; `options` are those of `graph`."""
    run = Runner(parse(code))
    return api.graph(run, inputs, **{"title": code, **options}, locate=run.locate)
