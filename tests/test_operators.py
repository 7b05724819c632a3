"""Torch's own operators through the verbs: one sample of each here, all of them by `scripts/operators`."""

import os
import time
from pathlib import Path

import pytest
import torch
from operator_database import all_operators
from operator_verbs import TYPES, Answer, Question, answer
from test_scripts import loaded

NAMES = list(all_operators())
operators = loaded("operators")


def type_of(name: str) -> str:
    """Of the types that an operator has, the turn is each one's in order, so that all are met."""
    known = [t for t in TYPES if t in all_operators()[name].supported_dtypes("cpu")] or [torch.float32]
    return str(known[NAMES.index(name) % len(known)]).removeprefix("torch.")


def asked(name: str, verb: str) -> Answer:
    found = answer(Question(name, type_of(name), 0, verb))
    assert found.outcome != "error", found.said
    if found.outcome == "refused":
        assert found.said.strip()
        assert "\n" not in found.said
        assert "Traceback" not in found.said
    return found


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", NAMES)
def test_every_operator_is_explained_or_refused_in_one_sentence(name: str) -> None:
    assert asked(name, "explain").outcome in ("agrees", "cannot say", "differs", "refused", "none")


@pytest.mark.parametrize("name", NAMES[::8])
def test_the_graph_of_an_operator_is_drawn_or_refused_in_one_sentence(name: str) -> None:
    assert asked(name, "graph").outcome in ("drawn", "refused", "none")


@pytest.mark.parametrize("name", NAMES[1::16])
def test_an_operator_is_verified_or_refused_in_one_sentence(name: str) -> None:
    assert asked(name, "verify").outcome in ("agrees", "cannot say", "differs", "refused", "none")


# ----------------------------------------------------------------------------------------------------- the asking


def fickle(question: Question) -> Answer:
    if question.operator == "dies":
        os._exit(7)
    if question.operator == "hangs":
        time.sleep(60)
    return Answer("none" if question.sample else "agrees")


@pytest.mark.thorough
def test_a_crash_and_a_hang_are_answers_and_the_next_question_is_answered() -> None:
    asker = operators.Asker(5.0, fickle)
    found = [asker.ask(Question(name, "float64", 0, "explain")) for name in ("dies", "sin", "hangs")]
    asker.stop()
    assert [answer.outcome for answer in found] == ["crash", "agrees", "too long"]
    assert found[0].said == "exit code 7"


def test_what_stands_in_the_file_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen = tmp_path / "results.jsonl", []

    def ask(self: object, question: Question) -> Answer:
        seen.append(question)
        return fickle(question)

    monkeypatch.setattr(operators.Asker, "ask", ask)
    for verbs in (["explain"], ["explain", "graph"], ["explain", "graph"]):
        operators.ask(operators.Results.read(file), ["sin"], ["float64"], verbs, None)
    assert [(q.sample, q.verb) for q in seen] == [(0, "explain"), (1, "explain"), (0, "graph")]
    results = operators.Results.read(file)
    assert results.found[Question("sin", "float64", 0, "graph")].outcome == "agrees"
    (table,) = operators.sheets(results, [])
    assert [row[:5] for row in table.rows] == [
        ["explain", "float64", "1", "1", "1"],
        ["graph", "float64", "1", "1", "1"],
    ]
