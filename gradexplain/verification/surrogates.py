"""The gradient of one function, verified as that of another: a straight-through or surrogate backward.

The user's run gives the gradient, in its own type and in float64; the other function gives everything that it is held
against. Values are not compared: the two are different functions by design.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gradexplain.errors import InputError
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import Computation
from gradexplain.recording.trace import Trace
from gradexplain.recording.tracing import generic, trace, traced
from gradexplain.verification.operations import with_gradients
from gradexplain.verification.options import Options
from gradexplain.verification.oracles.answers import Unable
from gradexplain.verification.oracles.registry import REFEREE
from gradexplain.verification.oracles.replays import Replay
from gradexplain.verification.verdicts import Question, Report, Subject, answered


@dataclass(frozen=True)
class Surrogate(Question):
    """The question whether the gradient of what was `run` is the derivative of this computation."""

    run: Question | None = None

    @cached_property
    def replay(self) -> Replay | Unable:
        """The computation in float64, with the gradient that the user's run has there."""
        assert self.run is not None
        meant, run = super().replay, self.run.replay
        if isinstance(meant, Unable) or isinstance(run, Unable):
            return meant if isinstance(meant, Unable) else run
        return replace(meant, trace=_given(meant.trace, run.trace))

    @cached_property
    def nearby(self) -> Question | None:
        """Both a little beside the point."""
        assert self.run is not None
        meant, run = super().nearby, self.run.nearby
        if not isinstance(meant, Surrogate) or run is None:
            return None
        return replace(meant, trace=_given(meant.trace, run.trace), run=run)

    def _changes(self, *runs: int) -> dict[str, Tensor]:
        """What rounding makes of the gradient, which is the run's: at least what it makes of what was meant."""
        assert self.run is not None
        run = self.run._changes(*runs)
        return {n: torch.maximum(t, run.get(n, t)) for n, t in super()._changes(*runs).items()}

    @cached_property
    def spread(self) -> dict[str, Tensor]:
        """The same in the user's own type."""
        assert self.run is not None
        return {n: torch.maximum(t, self.run.spread.get(n, t)) for n, t in super().spread.items()}


def _given(meant: Trace, run: Trace) -> Trace:
    """Returns the trace of what is meant with the gradients of a run."""
    found = with_gradients(meant, {name: run.gradients.get(name) for name in meant.gradients})
    return replace(found, apart=run.apart, hooked=run.hooked, plain=run.plain)


def inquire_as(computation: Computation, meant: Computation, *, target: str, options: Options) -> Report:
    """Returns the report on the gradients of a computation as those of another, which has inputs of the same names.

    Raises `InputError` where their outputs do not have one shape.
    """
    run = Question(traced(computation, cotangent=generic), computation, effort=options.effort)
    subject = Subject(target, run.trace, tuple(computation.parameters))
    if run.trace.lost is not None:
        return replace(answered(run), subject=subject, options=options)
    cotangent = run.trace.cotangent
    value = meant.output(meant.leaf_values())
    if value.shape != cotangent.shape:
        shapes = {"one": tuple(cotangent.shape), "other": tuple(value.shape)}
        raise InputError("as_if_shape", name=computation.name, meant=meant.name, **shapes)
    other = trace(meant, cotangent=cotangent.to(value.dtype))
    question = Surrogate(_given(other, run.trace), meant, effort=options.effort, run=run)
    report = answered(question, [REFEREE] if options.exact else [])
    said = Finding("verified-as", {"name": computation.name, "meant": meant.name})
    return replace(report, subject=subject, options=options, findings=(said, *report.findings))
