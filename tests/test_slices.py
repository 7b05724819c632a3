"""Writes into a part of a tensor: the rules follow what torch calls CopySlices, and looks through the part again."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import gradexplain as gx
from gradexplain.locale.catalogue import say
from gradexplain.recording.computation import computation_of
from gradexplain.recording.trace import Trace
from gradexplain.recording.tracing import generic, trace
from gradexplain.verification.oracles import chain_rule
from gradexplain.verification.oracles.question import Question


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, W, C = normal(0, 3, 4), normal(1, 3, 4), normal(2, 3, 4)


def copied(x: Tensor, w: Tensor) -> Tensor:
    y = 2 * x
    y[:, 1:] = w[:, :-1] ** 2
    return (C * y).sum()


def scaled(x: Tensor, w: Tensor) -> Tensor:
    y = x + 0
    y.t()[1:3].mul_(w.t()[:2])
    return (C * y).sum()


def added(x: Tensor, w: Tensor) -> Tensor:
    y = x + 0
    y[1].add_(w[0], alpha=0.3)
    y[::2] = 0.7
    return (C * y).sum()


def looked_at_again(x: Tensor, w: Tensor) -> Tensor:
    y = torch.zeros(3, 4, dtype=x.dtype)
    row = y[1]
    y[1:, 2:] = x[:2, :2]
    y[:, 3] *= w[0, 0]
    return (C[0] * row).sum() + (C * y).sum()


def masked(c: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """Returns c outside and inside of a part, 0 elsewhere."""
    inside = torch.zeros_like(c)
    inside[rows, columns] = 1
    return c * (1 - inside), c * inside


def shifted(t: Tensor, columns: int) -> Tensor:
    """Moves columns to the left; what comes in is 0."""
    return torch.cat([t[:, columns:], torch.zeros(3, columns, dtype=t.dtype)], 1)


# By hand. What is written over has no influence; the rest goes on as it is.
EVERY = slice(None)
OUTSIDE, INSIDE = masked(C, EVERY, slice(1, None))
KEPT, MIDDLE = masked(C, EVERY, slice(1, 3))
BY_HAND: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]] = {
    # y = 2x in the first column, elsewhere w² of the column before
    "copied": (copied, 2 * OUTSIDE, 2 * W * shifted(INSIDE, 1)),
    # columns 1 and 2 are x times columns 0 and 1 of w
    "scaled": (scaled, KEPT + MIDDLE * torch.cat([W[:, :1], W[:, :2], W[:, :1]], 1), shifted(MIDDLE * X, 1)),
    # row 1 is x + 0.3 w of row 0, rows 0 and 2 are a number
    "added": (added, masked(C, slice(1, 2), EVERY)[1], torch.cat([0.3 * C[1:2], torch.zeros(2, 4)])),
    # y[1, 2:] = x[0, :2] and y[2, 2:] = x[1, :2], the last column times w[0, 0]; row 1 counts twice, once by C[0]
    "looked at again": (
        looked_at_again,
        torch.tensor(
            [
                [C[0, 2] + C[1, 2], (C[0, 3] + C[1, 3]) * W[0, 0], 0, 0],
                [C[2, 2], C[2, 3] * W[0, 0], 0, 0],
                [0, 0, 0, 0],
            ]
        ),
        torch.tensor([[(C[0, 3] + C[1, 3]) * X[0, 1] + C[2, 3] * X[1, 1], 0, 0, 0], [0] * 4, [0] * 4]),
    ),
}


def walked(found: Trace) -> dict[str, Tensor]:
    """The gradients by the rules; an operator without one would be in `missing`."""
    walk = chain_rule.walk(found)
    assert not any(walk.missing.values())
    return {n.leaf: walk.received[n.index, 0] for n in found.nodes if n.leaf is not None}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_rules_follow_a_write_into_a_part_to_the_gradients_by_hand(name: str) -> None:
    function, x_bar, w_bar = BY_HAND[name]
    found = walked(trace(computation_of(function, [X, W])))
    torch.testing.assert_close(found["x"], x_bar)
    torch.testing.assert_close(found["w"], w_bar.double())


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_rules_judge_a_write_into_a_part_and_see_an_error_in_it(name: str, dtype: torch.dtype) -> None:
    function, inputs = BY_HAND[name][0], [X.to(dtype), W.to(dtype)]
    report = gx.verify(function, inputs)
    assert report.verdict == "agrees"
    assert {c.verdict for c in report.checks if c.oracle == "rules"} == {"agrees"}
    found = trace(computation_of(function, inputs), cotangent=generic)
    wrong = replace(found, gradients={n: None if g is None else 1.001 * g for n, g in found.gradients.items()})
    assert {c.verdict for c in chain_rule.ask(Question(wrong, None))} == {"differs"}


def test_a_part_that_lies_elsewhere_is_another_function() -> None:
    """The place of the part counts: one element further on, the rules no longer give the gradient."""
    found = trace(computation_of(scaled, [X, W]))
    moved = [
        replace(n, part=replace(n.part, offset=n.part.offset + 1)) if n.part is not None and n.part.written else n
        for n in found.nodes
    ]
    assert not torch.allclose(walked(replace(found, nodes=tuple(moved)))["x"], BY_HAND["scaled"][1])


def added_to_one(x: Tensor) -> Tensor:
    y = x * 2
    y[1] += x[0]
    return (y**2).sum()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_write_into_a_part_stands_at_its_line_with_what_it_does(language: str) -> None:
    explanation = gx.explain(added_to_one, [torch.tensor([1.0, 2.0, 3.0])])
    writes = [step for step in explanation.steps if step.part is not None]
    assert [(s.code, s.operator) for s in writes] == [
        ("y[1] += x[0]", "aten.add_.Tensor"),
        ("y[1] += x[0]", None),
        ("y[1] += x[0]", "aten.copy_.default"),
    ]
    assert {s.source.line for s in writes if s.source} == {added_to_one.__code__.co_firstlineno + 2}
    assert [s.part.elements for s in writes if s.part] == [((1,),)] * 3
    page = explanation.render("text", language=language)
    for node in ("torch::autograd::CopySlices", "AsStridedBackward0"):
        assert say("explanation.black_box", language, operator=node) not in page
    assert "aten.add_.Tensor" in page
    assert {c.verdict for c in explanation.report.checks if c.oracle == "complex step"} == {"agrees"}


# What writes into a part keeps something that is written over: by itself, by a later step, behind a loop.
def by_itself(x: Tensor) -> Tensor:
    y = x.clone()
    y[1:3] *= y[0]
    return y.prod()


def afterwards(x: Tensor) -> Tensor:
    y, z = x.clone(), x * 2
    y[1:] *= z[1:]
    z += 1
    return y.prod()


def its_result(x: Tensor) -> Tensor:
    y = x.clone()
    y[1:].exp_()
    y[2] = 3.0
    return y.sum()


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (by_itself, ("y[1:3] *= y[0]", "keeps other", "y[1:3] *= y[0]")),
        (afterwards, ("y[1:] *= z[1:]", "keeps other", "z += 1")),
        (its_result, ("y[1:].exp_()", "keeps result", "y[2] = 3.0")),
    ],
)
def test_what_a_write_into_a_part_keeps_and_who_wrote_over_it_is_named(
    function: Callable[[Tensor], Tensor], told: tuple[str, ...]
) -> None:
    for verb in (gx.explain, gx.verify):
        with pytest.raises(gx.RunError) as fault:
            verb(function, [torch.tensor([1.0, 2.0, 3.0])])
        said = str(fault.value)
        assert [said.find(part) >= 0 for part in told] == [True] * len(told)
        assert said.index(told[0]) < said.index(told[1]) < said.rindex(told[2])
