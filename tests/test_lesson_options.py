"""Lessons with other options than the usual ones, what they measure with, and errors planted in what they compute."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gradexplain import lessons
from gradexplain.lessons.counting import operators
from gradexplain.lessons.course import descent, frozen, training_step
from gradexplain.lessons.keeping import alive, bytes_of, watched


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("higher-derivatives", {"x": -3.7}),
        ("higher-derivatives", {"x": 0.0}),
        ("stopping", {"x": 0.1}),
        ("stopping", {"x": 9.7}),
        ("training-step", {"lr": 1.0, "steps": 20}),
        ("training-step", {"lr": 1e-6, "steps": 1}),
        ("descent", {"lr": 1.01, "steps": 50}),
        ("descent", {"lr": 1.9, "steps": 500, "x0": -100.0}),
        ("descent", {"lr": 1e-6, "x0": 3.3}),
        ("descent", {"lr": 0.5, "x0": 0.1}),
        ("descent", {"lr": 0.1, "x0": -1.0, "steps": 1}),
        ("memory", {"rows": 8, "steps": 20}),
        ("memory", {"rows": 1024, "steps": 1}),
        ("frozen", {"layers": 8, "frozen": 1}),
        ("frozen", {"layers": 3, "frozen": 2}),
        ("summary", {"a": 1e-3}),
        ("summary", {"a": 1e6}),
    ],
)
def test_a_lesson_is_true_for_other_options(name: str, options: dict[str, Any]) -> None:
    assert [claim for claim in lessons.run(name, **options).claims if not claim.holds] == []


def untrue(name: str) -> set[str]:
    return {claim.key for claim in lessons.run(name).claims if not claim.holds}


def test_a_learning_rate_that_is_a_little_off_is_outside_of_what_rounding_explains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true = descent._walk

    def wrong(lr: float, *arguments: Any, **options: Any) -> descent.Walk:
        walk = true(lr * (1 + 1e-5), *arguments, **options)
        return descent.Walk(lr, walk.points, walk.held)

    monkeypatch.setattr(descent, "_walk", wrong)
    assert {"every-step", "all-ends", "pendulum"} <= untrue("descent")


def test_a_slope_by_hand_without_its_factor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    true = training_step._slope
    monkeypatch.setattr(training_step, "_slope", lambda *a: (true(*a)[0] / 2, true(*a)[1]))
    assert untrue("training-step") == {"by-hand"}


def test_a_wrong_rule_of_which_nodes_are_recorded_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_recorded", lambda layers, trained: 4 * len(trained) + 2)
    assert untrue("frozen") == {"count"}


@pytest.mark.parametrize("run", [torch.exp, torch.tanh, torch.sin])
def test_what_is_kept_is_alive_exactly_as_long_as_its_graph(run: Callable) -> None:
    x = torch.ones(6, requires_grad=True)
    with watched() as kept:
        y = run(x)
    assert bytes_of(alive(kept)) == 6 * 4
    y.sum().backward()
    assert alive(kept) == []
    assert torch.equal(x.grad, torch.autograd.grad(run(x).sum(), x)[0])
    with watched() as kept:
        y = run(x)
    del y
    assert alive(kept) == []


def test_operators_are_counted_forward_and_backward() -> None:
    a, b = torch.ones(2, 3, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    assert operators(lambda: torch.mm(a, b).sum().backward())["mm"] == 3
    assert operators(lambda: torch.mm(a.detach(), b).sum().backward())["mm"] == 2
