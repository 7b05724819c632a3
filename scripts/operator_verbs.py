"""What explain, verify and graph say of one sample of an operator in torch's own database."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from checkers import reasons
from operator_database import Case, all_operators, sample_of

import gradexplain as gx
from gradexplain.errors import GradexplainError
from gradexplain.verification.verdicts import Report

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.complex64)


Judged = tuple[str, str]


def explain(case: Callable[..., Any], inputs: Sequence[Any]) -> Judged:
    """Returns the verdict of the explanation and its reasons; its page is written in both languages."""
    explanation = gx.explain(case, inputs)
    for language in ("en", "zh"):
        explanation.render("text", language=language)
    return explanation.verdict, _reasons(explanation.report)


def verify(case: Callable[..., Any], inputs: Sequence[Any]) -> Judged:
    """Returns the verdict of the report and its reasons; its page is written in both languages."""
    report = gx.verify(case, inputs)
    for language in ("en", "zh"):
        report.render("text", language=language)
    return report.verdict, _reasons(report)


def _reasons(report: Report) -> str:
    if report.verdict == "agrees":
        return ""
    return report.nothing.code if report.nothing else "; ".join(reasons(report)) or str(report.reason)


def graph(case: Callable[..., Any], inputs: Sequence[Any]) -> Judged:
    """Returns "drawn"."""
    picture = gx.graph(case, inputs)
    for format in ("text", "json"):
        picture.render(format)
    return "drawn", ""


VERBS: Mapping[str, Callable[[Callable[..., Any], Sequence[Any]], Judged]] = {
    "explain": explain,
    "verify": verify,
    "graph": graph,
}


@dataclass(frozen=True)
class Question:
    """One verb asked of one sample of an operator in one type."""

    operator: str
    dtype: str
    sample: int
    verb: str


@dataclass(frozen=True)
class Answer:
    """What came of it, and what was `said` of it.

    The outcome is a verdict, "drawn", "refused" in one sentence, "error", or "none" where there is no such sample; one
    who asks in another process adds "crash" and "too long".
    """

    outcome: str
    said: str = ""
    seconds: float = 0.0


def answer(question: Question) -> Answer:
    """Asks one verb of one sample."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own operators
        try:
            case = sample_of(question.operator, getattr(torch, question.dtype), question.sample)
        except Exception as fault:  # torch's samples do not run outside of its CI
            return Answer("none", f"{type(fault).__name__}: {fault}".split("\n", 1)[0])
        if case is None:
            return Answer("none")
        start = time.perf_counter()
        outcome, said = _asked(case, question.verb)
    return Answer(outcome, said, round(time.perf_counter() - start, 3))


def names() -> list[str]:
    """Returns the names of all operators, in the database's order."""
    return list(all_operators())


def serve(pipe: Connection, answering: Callable[[Question], Answer] = answer) -> None:
    """Answers one question after the other, for another process."""
    torch.set_num_threads(1)
    pipe.send("ready")
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        pipe.send(answering(question))


def _asked(case: Case, verb: str) -> tuple[str, str]:
    try:
        return VERBS[verb](_named(case), case.inputs)
    except GradexplainError as fault:
        return "refused", str(fault)
    except Exception as fault:
        return "error", f"{type(fault).__name__}: {fault}".split("\n", 1)[0] + _place(fault)


def _place(fault: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(fault.__traceback__)
    own = [f for f in frames if "gradexplain" in f.filename and "scripts" not in f.filename]
    return f" ({own[-1].filename.rpartition('gradexplain/')[2]}:{own[-1].lineno} {own[-1].name})" if own else ""


def _named(case: Case) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        return case(*inputs)

    run.__name__ = case.operator
    return run
