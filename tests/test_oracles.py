"""Each oracle by itself: what it catches, how sharp its bounds are, and that it can fail."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gradexplain.locale.catalogue import say
from gradexplain.recording.computation import computation_of
from gradexplain.recording.trace import Edge
from gradexplain.recording.tracing import trace
from gradexplain.rules import registry
from gradexplain.verification.oracles import chain_rule as walk
from gradexplain.verification.oracles import directions, ladders
from gradexplain.verification.oracles import finite_differences as differences
from gradexplain.verification.oracles import forward_mode as tangents
from gradexplain.verification.oracles.answers import Check
from gradexplain.verification.oracles.measures import unexplained
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.registry import ORACLES
from gradexplain.verification.oracles.rounding import jittered
from gradexplain.verification.verdicts import DOUBTS


def question(function: Callable[..., Tensor], *inputs: Tensor, **options: Any) -> Question:
    """Returns the question about a function, with a generic cotangent."""
    computation = computation_of(function, list(inputs))
    shape = computation.output({}).shape
    cotangent = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Question(trace(computation, cotangent=cotangent), computation, **options)


def answers(asked: Question) -> dict[str, Check]:
    """Returns the first check of each oracle."""
    return {name: check for name, ask in ORACLES.items() for check in list(ask(asked))[:1]}


def altered(asked: Question, change: Callable[[Tensor], Tensor]) -> Question:
    """Returns the question with torch's gradients replaced: an error that no rule and no run shares."""
    gradients = {n: None if g is None else change(g) for n, g in asked.trace.gradients.items()}
    return replace(asked, trace=replace(asked.trace, gradients=gradients))


POINT = torch.tensor([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6]], dtype=torch.float64)


def smooth(x: Tensor) -> Tensor:
    return (x.sin() * x.exp()).cumsum(1)


def by_hand(x: Tensor) -> Tensor:
    """The derivative of `smooth` under the cotangent of `question`: x ↦ Σⱼ vⱼ Σ_{i≤j} f(xᵢ)."""
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return v.flip(1).cumsum(1).flip(1) * (x.sin() + x.cos()) * x.exp()


ERRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "factor": lambda g: 1.001 * g,
    "tiny factor": lambda g: (1 + 1e-7) * g,
    "sign": lambda g: -g,
    "zeroed": lambda g: g * torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]),
    "one element": lambda g: g + torch.tensor([[0.0, 1e-4, 0.0], [0.0, 0.0, 0.0]]),
    "swapped": lambda g: g.flip(1),
}


@pytest.mark.parametrize("oracle", ORACLES)
def test_an_oracle_agrees_with_the_right_gradient(oracle: str) -> None:
    assert answers(question(smooth, POINT, by_hand={"x": by_hand}))[oracle].verdict == "agrees"


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("error", ERRORS)
def test_an_oracle_catches_an_error(oracle: str, error: str) -> None:
    asked = altered(question(smooth, POINT, by_hand={"x": by_hand}), ERRORS[error])
    assert answers(asked)[oracle].verdict == "differs"


# How to break each oracle so that it says what torch says, or something false.
BROKEN: dict[str, tuple[Any, str, Any]] = {
    "finite differences": (directions, "judge", lambda ladder, noise=0.0: ladders.Slope("agrees", 0.0, 0.0)),
    "forward mode": (tangents, "_products", lambda *given: math.inf),
    "rules": (walk, "_sent", lambda node, *_: ([e.contribution for e in node.edges], frozenset())),
}


@pytest.mark.parametrize("oracle", BROKEN)
def test_a_broken_oracle_would_be_noticed(oracle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_an_oracle_catches_an_error` or `test_a_wrong_backward_is_caught` fails for each of these."""
    module, name, broken = BROKEN[oracle]
    monkeypatch.setattr(module, name, broken)
    assert not caught(oracle)


def caught(oracle: str) -> bool:
    """Says whether an oracle passes the right gradient and catches each error, in the result and inside a node."""
    right = answers(question(smooth, POINT))[oracle].verdict == "agrees"
    results = [answers(altered(question(smooth, POINT), error))[oracle].verdict for error in ERRORS.values()]
    return right and set(results) == {"differs"} and inner(oracle) == "differs"


def inner(oracle: str) -> str:
    """Returns the verdict where the last node sent 1.001 times what it should and what follows is consistent."""
    asked = question(smooth, POINT)
    nodes = tuple(replace(node, edges=tuple(map(raised, node.edges))) for node in asked.trace.nodes)
    wrong = replace(altered(asked, lambda g: 1.001 * g).trace, nodes=nodes)
    return answers(replace(asked, trace=wrong))[oracle].verdict


def raised(edge: Edge) -> Edge:
    return edge if edge.contribution is None else replace(edge, contribution=1.001 * edge.contribution)


@pytest.mark.parametrize("oracle", BROKEN)
def test_a_wrong_backward_is_caught(oracle: str) -> None:
    assert caught(oracle)


@pytest.mark.parametrize("error", [1e-3, 1e-11])
def test_a_wrong_rule_is_caught_at_its_node(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradexplain.recording import kinks

    right = kinks.sent

    def wrong(rule: Any, *given: Any) -> Any:
        found = right(rule, *given)
        return found * (1 + error) if rule.operator == "aten.exp.default" else found

    monkeypatch.setattr(kinks, "sent", wrong)
    found = answers(question(lambda x: (x.exp().tanh() * x).sin(), POINT))["rules"]
    assert (found.verdict, found.reason, found.data["operator"]) == ("differs", "node", "aten.exp.default")
    assert "aten.exp.default" in say("verdicts.node", "en", **found.data)


def test_rules_follow_a_run_in_float32_in_float64() -> None:
    x = torch.tensor([0.3, -1.2, 0.7])
    recorded = trace(computation_of(torch.sin, [x]))
    (received,) = walk.walk(recorded).received.values()
    expected = recorded.cotangent.double() * x.double().cos()
    assert torch.allclose(received, expected, rtol=1e-15, atol=0)
    assert received.dtype == torch.float64


def test_an_operator_without_a_rule_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.rule_of
    monkeypatch.setattr(registry, "rule_of", lambda name: None if name == "aten.exp.default" else known(name))
    found = answers(question(lambda x: x.exp().tanh(), POINT))["rules"]
    assert (found.verdict, found.reason, found.data["operators"]) == ("cannot say", "no_rule", "aten.exp.default")


def of_each_row(scores: Tensor) -> Tensor:
    """softmax, whose second row may look nowhere: it is nan, and not asked for."""
    mask = torch.tensor([[True, True, False], [False, False, False]])
    return scores.masked_fill(~mask, -math.inf).softmax(-1)[0, :2]


SIGNED = torch.tensor([-1.0, 4.0, 9.0, -2.0], dtype=torch.float64)
# Numbers that are not finite, on paths that end in nothing: the right gradients, for a cotangent v.
UNSEEN: dict[str, tuple[Callable[[Tensor], Tensor], Tensor, Callable[[Tensor], Tensor]]] = {
    "clamp": (  # √ has the slope ∞ at 0, where the clamped numbers are
        lambda x: x.clamp(min=0).sqrt()[1:3], SIGNED, lambda v: torch.tensor([0, v[0] / 4, v[1] / 6, 0])
    ),
    "relu": (  # 1 / √0
        lambda x: x.relu().rsqrt()[1:3], SIGNED, lambda v: torch.tensor([0, -v[0] / 16, -v[1] / 54, 0])
    ),
    "maximum": (
        lambda x: torch.maximum(x, torch.zeros_like(x)).log()[1:3], SIGNED,
        lambda v: torch.tensor([0, v[0] / 4, v[1] / 9, 0])
    ),
    "where": (
        lambda x: torch.where(x > 0, x, 0).log()[1:3], SIGNED, lambda v: torch.tensor([0, v[0] / 4, v[1] / 9, 0])
    ),
    "softmax of nothing": (
        of_each_row, POINT,
        lambda v: torch.cat([  # p₀ = σ(x₀ − x₁), p₁ = 1 − p₀
            (v[0] - v[1]) * torch.tensor([1.0, -1, 0]) / (2 + 2 * math.cosh(1.5)), torch.zeros(3),
        ]).view(2, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_a_rule_takes_no_number_from_where_nothing_is_asked_for(name: str) -> None:
    """Torch leaves out what a mask covers; written as 0 · nan, that made a rule's nan a doubt of a right gradient."""
    function, x, right = UNSEEN[name]
    asked = question(function, x)
    torch.testing.assert_close(asked.gradient(asked.names[0]), right(asked.trace.cotangent).double())
    assert answers(asked)["rules"].verdict == "agrees"
    assert answers(altered(asked, lambda g: 1.001 * g))["rules"].verdict == "differs"


def test_a_rule_that_gives_no_number_where_torch_does_is_no_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradexplain.recording import kinks

    right = kinks.sent
    monkeypatch.setattr(kinks, "sent", lambda r, *given: right(r, *given) * (math.nan if "exp" in r.operator else 1))
    found = answers(question(lambda x: x.exp().tanh(), POINT))["rules"]
    assert (found.verdict, found.reason, found.data["operators"]) == ("cannot say", "rule_unable", "aten.exp.default")
    assert found.reason not in DOUBTS


@pytest.mark.parametrize("backend", ["MATH", "FLASH_ATTENTION"])
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_query_that_may_look_nowhere_spoils_no_rule(backend: str, additive: bool, rows: int) -> None:
    """Its row is 0 and depends on nothing: the gradients are those of the other rows, written out."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(1, 1, 3, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    mask: Tensor = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    given = torch.zeros(3, 3, dtype=torch.float64).masked_fill(~mask, -math.inf) if additive else mask

    def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=given)[:, :, :rows]

    asked = question(attended, q, k, v)
    found = {check.input: check.verdict for check in walk.ask(asked)}
    assert set(found.values()) == {"agrees"}
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    one, other = (
        torch.softmax(leaves[0][..., i, None, :] @ leaves[1][..., :n, :].mT / 2, -1) @ leaves[2][..., :n, :]
        for i, n in ((0, 2), (2, 3))
    )
    written = torch.cat([one, torch.zeros_like(one), other], -2)[:, :, :rows]
    for gradient, name in zip(torch.autograd.grad(written, leaves, asked.trace.cotangent), asked.names, strict=True):
        torch.testing.assert_close(asked.gradient(name), gradient)


def test_forward_mode_says_which_operator_it_lacks() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2 * g

    assert answers(question(Twice.apply, POINT))["forward mode"].reason == "no_own_forward"


# --------------------------------------------------------------------------------------------------------- by hand


def hand(formula: Any, x: Tensor, function: Callable[..., Tensor] = lambda x: (x**2).sum()) -> Check:
    computation = computation_of(function, {"x": x})
    asked = Question(trace(computation), computation, {"x": formula})
    return next(iter(ORACLES["by hand"](asked)))


X = torch.tensor([1.1, 2.0, -3.0], dtype=torch.float64)
M = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)

# fmt: off
BY_HAND: dict[str, tuple[Any, Tensor, str, str | None, dict[str, object]]] = {
    "right":       (lambda x: 2 * x,             X,         "agrees",     None,          {}),
    "float32":     (lambda x: 2 * x,             X.float(), "agrees",     None,          {}),
    "3x":          (lambda x: 3 * x,             X,         "differs",    "factor",      {"factor": "3/2"}),
    "irrational":  (lambda x: math.pi * x,       X,         "differs",    "factor",      {"factor": "1.5708"}),
    "sign":        (lambda x: -2 * x,            X,         "differs",    "sign",        {}),
    "offset":      (lambda x: 2 * x + 1,         X,         "differs",    "offset",      {}),
    "element":     (lambda x: 2 * x * (x > 0),   X,         "differs",    "masked",      {"count": 1, "place": (2,)}),
    "transposed":  (lambda x: (2 * x).T,         M,         "differs",    "transposed",  {}),
    "shape":       (lambda x: x[:2],             X,         "differs",    "hand_shape",  {}),
    "failing":     (lambda x: x.nothing,         X,         "cannot say", "hand_failed", {}),
    "nan":         (lambda x: 2 * x / 0 * 0,     X,         "differs",    "elements",    {}),
    "one number":  (lambda: 2.0,                 X / X,     "agrees",     None,          {}),
}
# fmt: on


@pytest.mark.parametrize("name", BY_HAND)
def test_a_gradient_by_hand_is_judged_and_its_error_recognised(name: str) -> None:
    formula, x, verdict, why, data = BY_HAND[name]
    found = hand(formula, x)
    assert (found.verdict, found.reason) == (verdict, why)
    assert {key: found.data[key] for key in data} == data
    if why:
        assert say(f"verdicts.{why}", "en", **found.data) != say(f"verdicts.{why}", "zh", **found.data)


@pytest.mark.parametrize(("digits", "differs"), [(1, False), (1000, True)])
def test_what_rounding_of_the_inputs_makes_of_a_formula_is_no_difference(digits: int, differs: bool) -> None:
    """x + 1e6 (x − c) is x at c; beside it, a last digit of x makes a million last digits."""
    c = X * (1 + digits * 2.0**-52)
    found = hand(lambda x: x + 1e6 * (x - c), X, lambda x: (x**2).sum() / 2)
    assert found.worst is not None
    assert found.worst > 1e-10
    assert (found.verdict == "differs") == differs


def test_a_formula_with_inputs_of_its_own_is_called_with_them() -> None:
    class Formula:
        inputs = ("x",)

        def __call__(self, **given: Tensor) -> Tensor:
            return 2 * given["x"]

    assert hand(Formula(), X).verdict == "agrees"


# ---------------------------------------------------------------------------------------------------------- rounding


def test_whole_numbers_become_numbers_of_float64_in_a_replay() -> None:
    computation = computation_of(lambda x: x * torch.arange(1, 4).float().sqrt(), [X.float()])
    replay = Question(trace(computation), computation).replay
    roots = torch.arange(1, 4, dtype=torch.float64).sqrt()
    assert torch.allclose(replay.trace.value, X.float().double() * roots, rtol=1e-15)  # type: ignore[union-attr]


def test_a_gradient_is_measured_by_its_effect_and_one_of_0_by_the_output() -> None:
    constant, line = question(lambda x: 0 * x + 3, X), question(lambda x: 2 * x, X)
    assert constant.scale("x") == constant.value == pytest.approx(3 * float(constant.trace.cotangent.norm()))
    assert line.scale("x") == pytest.approx(2 * float((line.trace.cotangent * X).abs().max()))
    # In float32 no bound can ask for more digits of the output than it has: what is beneath is measured by all of it.
    slight = Question(trace(computation_of(lambda x: 1 + 1e-9 * x, [X.float()])), None)
    assert slight.scale("x") == slight.value > 0


def test_gradients_elsewhere_are_those_of_the_moved_inputs_with_the_others_as_they_were() -> None:
    x, y = X, X.flip(0)
    asked = question(lambda x, y: (x**2 * y).sum(), x, y)
    found = asked.gradients_at({"x": x + 1})
    assert found is not None
    assert set(found) == {"x"}
    assert torch.allclose(found["x"], asked.trace.cotangent * 2 * (x + 1) * y)


def test_random_rounding_shows_cancellation_where_it_is() -> None:
    """d/dx (1 − cos x)/x² at 1e-4 is the difference of two terms of 1e4, one of them good to eight digits."""
    asked = question(lambda x: (1 - x.cos()) / x**2, torch.tensor([1e-4, 1.0], dtype=torch.float64))
    changes = jittered(asked.replay)["x"]  # type: ignore[arg-type]  # the computation can be run again
    assert 1e-6 < float(changes[0]) < 1e-2
    assert float(changes[1]) < 1e-14


def test_an_error_that_goes_unseen_is_no_larger_than_what_would_have_been_seen() -> None:
    asked = question(torch.sin, torch.tensor(0.7, dtype=torch.float64))
    verdicts = []
    for error in (2.0**-e for e in range(20, 50)):
        (found,) = differences.ask(altered(asked, lambda g, error=error: g * (1 + error)))
        verdicts.append(found.verdict)
        assert found.verdict == "differs" or (found.resolution or math.inf) >= error
    assert {"agrees", "differs"} == set(verdicts)


def test_an_error_beneath_the_last_digits_does_not_make_rounding_beside_it_an_error() -> None:
    """The first gradient cancels to six digits or fewer; the second is a thousandth beside an output of 1."""
    x = torch.tensor([1e-4, 1.0], dtype=torch.float64)
    asked = question(lambda x: torch.stack([(1 - x[0].cos()) / x[0] ** 2, 1 + 1e-3 * x[1]]), x)
    for error, verdict in ((1e-16, "agrees"), (1e-9, "differs")):
        change = torch.tensor([1e-7, error], dtype=torch.float64)
        (found,) = ORACLES["rules"](altered(asked, lambda g, change=change: g + change))
        assert (found.verdict == "differs") == (verdict == "differs")


@pytest.mark.parametrize(("count", "beyond"), [(999, True), (1000, False)])
def test_one_element_in_a_thousand_may_have_drawn_too_small_a_change(count: int, beyond: bool) -> None:
    changes = torch.full((count,), 1e-11, dtype=torch.float64)
    difference = torch.zeros_like(changes)
    changes[7], difference[7] = 0, 1e-10
    assert bool(unexplained(difference, changes, torch.zeros_like(changes), 1e-16)[7]) == beyond


def test_nan_is_never_explained() -> None:
    nan, one = torch.tensor([math.nan]), torch.tensor([1.0])
    assert bool(unexplained(nan, 0.0, one, 1e-16))
    assert bool(unexplained(one, nan, one, 1e-16))
