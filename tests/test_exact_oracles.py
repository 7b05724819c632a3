"""The two oracles without a step of their own, complex step and symbolic derivative: what each can judge, and that it
can fail."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from test_oracles import ERRORS, POINT, altered, question, smooth
from test_verification import normal
from torch import Tensor, nn

from gradexplain.catalogue import say
from gradexplain.computation import computation_of
from gradexplain.oracles import analytic
from gradexplain.oracles.question import Check, Question
from gradexplain.rules import Rule, rules
from gradexplain.rules.application import call
from gradexplain.rules.samples import examples
from gradexplain.tracing import trace


def asked(function: Callable[..., Tensor], *inputs: Tensor) -> Question:
    """Returns the question about a function with a generic cotangent of its output's shape, or 1 for a number."""
    computation = computation_of(function, list(inputs))
    shape = computation.output(computation.leaf_values()).shape
    return Question(trace(computation, cotangent=normal(77, *shape) if shape else None), computation)


def judged(oracle: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Check:
    """Returns an oracle's check of the first input."""
    return next(iter(oracle.ask(asked(function, *inputs))))


def at(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def questions(rule: Rule) -> Iterator[Question]:
    """Yields, for each example of a rule, the question about its operator and all the arguments with a derivative."""
    for drawn in examples(rule):
        given = {n: drawn[n] for n in rule.slopes or rule.derivatives}
        lists = {n: v for n, v in given.items() if isinstance(v, list)}
        tensors = {n: v for n, v in given.items() if isinstance(v, Tensor)}
        tensors |= {f"{n}{i}": t for n, v in lists.items() for i, t in enumerate(v)}
        computation = computation_of(_applied(rule, drawn, lists), tensors, wrt=list(tensors))
        output = computation.output(computation.leaf_values())
        yield Question(trace(computation, cotangent=normal(77, *output.shape)), computation)


def _applied(rule: Rule, drawn: Mapping[str, Any], lists: Mapping[str, Any]) -> Callable[..., Tensor]:
    def apply(**given: Tensor) -> Tensor:
        joined = {n: [given[f"{n}{i}"] for i in range(len(v))] for n, v in lists.items()}
        arguments = {**drawn, **{n: t for n, t in given.items() if n in drawn}, **joined}
        # An operator that writes in place is given a copy to write on.
        copied = {n: v.clone() if isinstance(v, Tensor) else v for n, v in arguments.items()}
        return next(y for y in call(rule.operator, copied) if y.requires_grad)

    return apply


def family(operator: str) -> str:
    """Returns `add` for `aten.add.Tensor`."""
    return operator.split(".")[1].rstrip("_")


# -------------------------------------------------------------------------------------------------------- complex step

ANALYTIC_RULES = sorted(name for name in rules() if family(name) in analytic.ANALYTIC)


def checks(name: str) -> list[Check]:
    return [c for example in questions(rules()[name]) for c in analytic.ask(example)]


@pytest.mark.parametrize("name", ANALYTIC_RULES)
def test_an_operator_on_the_list_is_continued_by_torch_as_its_rule_says(name: str) -> None:
    """The gradient under test is torch's; `test_rules` compares that with the rule on the same examples."""
    found = checks(name)
    assert "agrees" in {c.verdict for c in found}
    for other in (c for c in found if c.verdict != "agrees"):
        written_over = family(name) == "copy" and other.input == "src"  # a real tensor has no room for ih
        rounded = name.startswith("aten.div") and name.endswith("_mode")
        assert (other.verdict, other.reason) == ("cannot say", "not_analytic")
        assert written_over or rounded


def test_every_operator_on_the_list_has_a_rule_or_makes_constants() -> None:
    constants = set(analytic._CONTINUED["only the shape counts"].split())
    assert {family(name) for name in ANALYTIC_RULES} == analytic.ANALYTIC - constants
    for name in constants:
        make = getattr(torch.ops.aten, name).default
        more = {"full": (0.7,), "new": ((2,),), "new_full": ((2,), 0.7)}
        extra = more.get(name, more.get(name.partition("_")[0], ()))
        if "empty" not in name:
            x = at(0.3, 1.2)
            assert torch.equal(make(torch.complex(x, x), *extra), make(x, *extra).to(torch.complex128))


@pytest.mark.parametrize("name", ["vdot", "sgn", "linalg_cholesky_ex", "_linalg_slogdet", "cholesky_solve"])
def test_an_operator_that_does_not_belong_on_the_list_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "ANALYTIC", analytic.ANALYTIC | {name})
    assert {c.verdict for c in checks(f"aten.{name}.default")} != {"agrees"}


@pytest.mark.parametrize("error", ERRORS)
def test_the_complex_step_catches_a_wrong_gradient(error: str) -> None:
    found = next(iter(analytic.ask(altered(question(smooth, POINT), ERRORS[error]))))
    assert (found.verdict, found.reason) == ("differs", "complex_slope")


def test_the_complex_step_sees_what_no_difference_can() -> None:
    """The last ten digits of a gradient: a tenth-order difference would have noise of 1e-14 of f itself."""
    wrong = altered(question(smooth, POINT), lambda g: (1 + 1e-11) * g)
    assert next(iter(analytic.ask(wrong))).verdict == "differs"


# fmt: off
BROKEN_STEPS: dict[str, tuple[str, Any]] = {
    "the wrong sign":        ("_continued", lambda *given, known=analytic._continued: known(*given).conj()),
    "a coarse step":         ("STEP", 1e-3),
    "a step without digits": ("STEP", 1e-322),
    "half of the direction": ("pair", lambda a, b: float((a * b).flatten()[::2].sum())),
}
# fmt: on


@pytest.mark.parametrize("way", BROKEN_STEPS)
def test_a_broken_complex_step_does_not_pass_the_right_gradient(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, broken = BROKEN_STEPS[way]
    known = question(smooth, POINT)
    assert next(iter(analytic.ask(known))).verdict == "agrees"
    monkeypatch.setattr(analytic, name, broken)
    assert next(iter(analytic.ask(known))).verdict != "agrees"


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def without_recording(x: Tensor) -> Tensor:
    with torch.no_grad():
        top = x.exp()
    return x * top


# fmt: off
NOT_ANALYTIC: dict[str, tuple[Callable[..., Tensor], Tensor, str]] = {
    "abs":               (lambda x: x.abs().log(),                    at(0.3, -1.2),  "aten.abs.default"),
    "relu":              (lambda x: x.relu(),                         at(0.3, -1.2),  "aten.relu.default"),
    "max":               (lambda x: x.max() * x,                      at(0.3, -1.2),  "aten.max.default"),
    "a comparison":      (lambda x: torch.where(x > 0, x * x, x),     at(0.3, -1.2),  "aten.gt.Scalar"),
    "a decision":        (lambda x: x * x if x[0] < 1 else x,         at(0.3, -1.2),  "aten.lt.Scalar"),
    "a norm":            (lambda x: x.norm(),                         at(0.3, -1.2), "aten.linalg_vector_norm.default"),
    "a custom Function": (Sine.apply,                                 at(0.3, -1.2),  "SineBackward"),
    "no_grad":           (without_recording,                          at(0.3, -1.2),  "aten.exp.default"),
    "a cast":            (lambda x: x.float().sin(),                  at(0.3, -1.2),  "aten._to_copy.default"),
    "a power behind 0":  (lambda x: x**4,                             at(0.3, -1.2),  "aten.pow.Tensor_Scalar"),
    "a rounded number":  (lambda x: x * torch.div(x, 7, rounding_mode="floor"), at(0.3), "aten.div.Tensor_mode"),
    "into real numbers": (lambda x: torch.zeros(2).double().copy_(x), at(0.3, -1.2),  "aten.copy_.default"),
}
# fmt: on


@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_where_the_function_does_not_go_on_the_operator_is_named(name: str) -> None:
    function, x, operator = NOT_ANALYTIC[name]
    found = judged(analytic, function, x)
    assert (found.verdict, found.reason, found.data["operator"]) == ("cannot say", "not_analytic", operator)
    assert operator in say("verdicts.not_analytic", "en", **found.data)


def test_a_branch_cut_that_no_condition_names_is_noticed_by_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "CONDITIONS", {})
    for power in (4, 5, 7, -3, 100):
        assert judged(analytic, lambda x, n=power: x**n, at(-1.2)).reason == "not_continued"


# fmt: off
CONTINUED: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "small powers behind 0":     (lambda x: x**2 + x**3 + x**-1 + x**-2,               at(0.3, -1.2)),
    "a root of a square":        (lambda x: (x**2).sqrt(),                             at(0.3, -1.2)),
    "a logarithm of a square":   (lambda x: (x**2).log(),                              at(0.3, -1.2)),
    "a real matrix":             (lambda x: x @ torch.eye(2).double(),                 at(0.3, -1.2)),
    "in place":                  (lambda x: x.clone().mul_(x).add_(1.0).exp_(),        at(0.3, -1.2)),
    "a stopped gradient":        (lambda x: x * x.detach(),                            at(0.3, -1.2)),
    "numpy behind detach":       (lambda x: x * torch.from_numpy(abs(x.detach().numpy())), at(0.3, -1.2)),
    "an addend of 1e8":          (lambda x: (1e8 + x.sin()) - 1e8,                     at(0.3, -1.2)),
    "a fast sine":               (lambda x: (1e5 * x).sin(),                           at(0.3, -1.2)),
    "zeros":                     (lambda x: x.sin() / (1 + x),                         at(0.0, 0.0)),
    "large and small":           (lambda x: (x * x.flip(0)).exp(),                     at(1e10, 1e-10)),
}
# fmt: on


@pytest.mark.parametrize("name", CONTINUED)
def test_where_the_function_goes_on_the_right_gradient_agrees(name: str) -> None:
    found = judged(analytic, *CONTINUED[name])
    assert (found.verdict, found.reason) == ("agrees", None)


@pytest.mark.parametrize("x", [at(1e30), at(1e-200), at(1e-170, 1.0)])
def test_numbers_without_room_for_a_step_are_no_verdict(x: Tensor) -> None:
    assert judged(analytic, lambda x: x * x, x).reason == "step_range"


def test_a_complex_input_is_not_followed() -> None:
    assert judged(analytic, lambda x: (x * x.conj()).real, torch.complex(POINT, POINT)).reason == "complex"


def test_a_gradient_that_is_nan_is_no_verdict() -> None:
    wrong = altered(question(smooth, POINT), lambda g: g * torch.nan)
    assert next(iter(analytic.ask(wrong))).reason == "gradient_not_finite"


def test_a_module_is_followed_through_each_of_its_parameters() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    found = list(analytic.ask(asked(module, normal(0, 5, 3))))
    assert [c.verdict for c in found] == ["agrees"] * 5
    assert all(p.dtype == torch.float64 for p in module.parameters())


def test_many_inputs_are_moved_together() -> None:
    names = ", ".join(f"x{i}" for i in range(20))
    function = eval(f"lambda {names}: sum(x.sin().sum() for x in ({names}))")
    found = list(analytic.ask(asked(function, *(normal(i, 2, 3) for i in range(20)))))
    assert [(c.verdict, c.data["joint"]) for c in found] == [("agrees", 20)] * 20
