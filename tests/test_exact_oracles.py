"""The two oracles without a step of their own, complex step and symbolic derivative: what each can judge, and that it
can fail."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_oracles import ERRORS, POINT, altered, by_hand, question, smooth
from test_verification import RIGHT, normal
from torch import Tensor, nn

from gradexplain.locale.catalogue import LANGUAGES, say
from gradexplain.mathematics.terms import ARITY
from gradexplain.recording.computation import computation_of
from gradexplain.recording.live import trace_live
from gradexplain.recording.tracing import trace
from gradexplain.rules import application, symbolic
from gradexplain.rules.application import call
from gradexplain.rules.entries import Rule
from gradexplain.rules.registry import rules
from gradexplain.rules.samples import examples
from gradexplain.verification.oracles import complex_step as analytic
from gradexplain.verification.oracles import definitions, tape
from gradexplain.verification.oracles import symbolic as exact
from gradexplain.verification.oracles.answers import Check
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.registry import ON_REQUEST, ORACLES
from gradexplain.verification.oracles.tape import Tape


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
    others = {(c.verdict, c.reason) for c in found if c.verdict != "agrees"}
    rounded = name.startswith("aten.div.") and name.endswith("_mode")
    assert others == ({("cannot say", "not_analytic")} if rounded else set())


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
    "a product of zeros":        (lambda x: x.prod(),                                  at(0.0, 0.0, 0.0)),
    "a product of two zeros":    (lambda x: x.prod(),                                  at(0.0, 2.0, 0.0)),
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


# -------------------------------------------------------------------------------------------------- symbolic derivative

# Operators that are not written out, or only for some of their arguments.
UNDEFINED = frozenset(
    """
    nansum mode linalg_cholesky_ex _linalg_eigh _linalg_svd linalg_qr linalg_matrix_exp cholesky_solve as_strided
    as_strided_scatter _reshape_alias col2im scatter_reduce _adaptive_avg_pool2d upsample_bilinear2d upsample_linear1d
    multi_margin_loss linalg_vector_norm convolution _cdist_forward _grouped_mm polygamma igamma igammac nan_to_num
    rrelu_with_noise frexp bernoulli renorm linalg_lu_factor_ex
    linalg_lu_solve linalg_pinv linalg_lstsq linalg_householder_product ormqr unfold_backward
    _unsafe_masked_index_put_accumulate put _embedding_bag segment_reduce _batch_norm_with_update
    _batch_norm_no_update _weight_norm_interface avg_pool3d _adaptive_avg_pool3d upsample_trilinear3d
    upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d grid_sampler_3d
    angle affine_grid_generator mkldnn_rnn_layer multilabel_margin_loss_forward _ctc_loss _pdist_forward
    """.split()  # noqa: SIM905  # read as a list of words
)
# Operators of complex numbers, which this method does not judge.
COMPLEX = frozenset(
    "_conj _conj_physical _fft_c2c _fft_c2r _fft_r2c angle complex polar vdot view_as_complex view_as_real".split()  # noqa: SIM905
)
# Where torch 2.13 is not as precise as float64: two constants are rounded to float32, and its trigamma, which is the
# derivative of digamma, is a series cut off at 1e-9. A torch that is repaired fails this table.
IMPRECISE = {"celu": 1e-8, "hardsigmoid": 1e-8, "digamma": 1e-8}


@pytest.mark.parametrize("name", sorted(rules()))
def test_the_symbolic_derivative_of_each_operator_is_torchs(name: str) -> None:
    found = [c for example in questions(rules()[name]) for c in exact.ask(example)]
    assert found
    if family(name) in IMPRECISE:
        assert {c.verdict for c in found} == {"differs"}
        assert all(c.worst is not None and c.worst < IMPRECISE[family(name)] for c in found)
        return
    for check in found:
        if check.verdict != "agrees" and (check.reason != "complex" or family(name) not in COMPLEX):
            assert family(name) in UNDEFINED
            assert (check.verdict, check.reason) == ("cannot say", "no_symbol")


@pytest.mark.thorough
def test_no_operator_is_called_undefined_that_is_not() -> None:
    silent = {
        family(name)
        for name, rule in rules().items()
        if any(c.reason == "no_symbol" for example in questions(rule) for c in exact.ask(example))
    }
    assert silent == UNDEFINED


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_oracles_agree_with_right_gradients_or_say_why_not(name: str, dtype: torch.dtype) -> None:
    function, shapes = RIGHT[name]
    known = asked(function, *(normal(i, *shape, dtype=dtype) for i, shape in enumerate(shapes)))
    assert {c.verdict for c in exact.ask(known)} == {"agrees"}
    assert {(c.verdict, c.reason) for c in analytic.ask(known)} < {("agrees", None), ("cannot say", "not_analytic")}


@pytest.mark.parametrize("error", ERRORS)
def test_the_symbolic_derivative_catches_a_wrong_gradient_and_gives_the_right_one(error: str) -> None:
    found = next(iter(exact.ask(altered(question(smooth, POINT), ERRORS[error]))))
    assert (found.verdict, found.reason) == ("differs", "exact")
    assert found.data["right"] == pytest.approx(float(by_hand(POINT)[found.place]), rel=1e-14)


def test_the_symbolic_derivative_sees_the_last_digits() -> None:
    wrong = altered(question(smooth, POINT), lambda g: g + torch.tensor([[0, 1e-13, 0], [0, 0, 0]]).double())
    found = next(iter(exact.ask(wrong)))
    assert (found.verdict, found.place) == ("differs", (0, 1))


def test_a_gradient_of_float32_is_judged_by_its_own_rounding_where_nothing_can_be_run_again() -> None:
    x = POINT.float().requires_grad_()
    live = trace_live((x.sin() * x).softmax(0)[0].sum(), names={id(x): "x"})
    right = Question(live, None)
    assert next(iter(exact.ask(right))).verdict == "agrees"
    assert next(iter(exact.ask(altered(right, lambda g: 1.001 * g)))).verdict == "differs"


def flipped(name: str, known: Any = symbolic.elementary) -> Any:
    """Returns the elementary functions with the sign of one derivative turned."""
    found = known(name)
    return replace(found, partials=(lambda x: -found.partials[0](x),)) if name == "sin" else found


def without_the_last(tape: Any, seeds: Any, known: Any = Tape.adjoints) -> Any:
    """Returns the adjoints as they are when the chain rule forgets a cell that others were made of."""
    forgotten = next(i for i, cell in enumerate(tape.cells) if cell.parents)
    tape.cells[forgotten] = replace(tape.cells[forgotten], parents=())
    return known(tape, seeds)


# fmt: off
BROKEN_DERIVATIVES: dict[str, tuple[Any, str, Any, str]] = {
    "a sign":              (tape, "elementary", flipped, "differs"),
    "a cell is dropped":   (Tape, "adjoints", without_the_last, "differs"),
    "a wrong definition":  (definitions, "DEFINITIONS", {"cumsum": lambda self, dim: np.cumprod(self, axis=dim)},
                            "cannot say"),
}
# fmt: on


@pytest.mark.parametrize("way", BROKEN_DERIVATIVES)
def test_a_broken_symbolic_derivative_contradicts_the_right_gradient(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong definition is noticed by the value of the function, before its derivative is looked at."""
    owner, name, broken, verdict = BROKEN_DERIVATIVES[way]
    monkeypatch.setattr(owner, name, broken)
    found = next(iter(exact.ask(question(smooth, POINT))))
    assert found.verdict == verdict
    assert found.reason == {"differs": "exact", "cannot say": "other_value"}[verdict]


def test_with_too_few_digits_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "DIGITS", 6)
    assert next(iter(exact.ask(question(smooth, POINT)))).reason == "other_value"


@pytest.mark.parametrize(("errors", "verdict", "why"), [
    ({50: 1e-3, 200: 0.0}, "agrees", None),
    ({50: 1e-3, 200: 1e-5}, "cannot say", "digits_lost"),
    ({50: 1e-3, 200: 1e-3}, "differs", "exact"),
])  # fmt: skip
def test_a_gradient_is_contradicted_only_if_more_digits_say_the_same(
    errors: Mapping[int, float], verdict: str, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = exact._derived

    def lossy(question: Question, digits: int) -> Any:
        derived: Any = known(question, digits)
        return {n: (right + errors[digits], apart + errors[digits]) for n, (right, apart) in derived.items()}

    monkeypatch.setattr(exact, "_derived", lossy)
    found = next(iter(exact.ask(question(smooth, POINT))))
    assert (found.verdict, found.reason) == (verdict, why)


def test_neither_the_rules_derivatives_nor_torchs_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError

    known = asked(lambda x: F.layer_norm(x.exp() @ x.T, (2,)).relu().log_softmax(0), POINT)
    assert known.changes  # what rounding does to torch's gradient is measured by running torch
    for name in ("vjp", "slope", "evaluated"):
        monkeypatch.setattr(application, name, refused)
    monkeypatch.setattr(torch.autograd, "grad", refused)
    assert next(iter(exact.ask(known))).verdict == "agrees"


def test_mpmaths_precision_is_left_as_it_was() -> None:
    with mpmath.workdps(23):
        judged(exact, smooth, POINT)
        assert mpmath.mp.dps == 23


# fmt: off
DEFINITIONS: dict[str, tuple[str, Callable[..., Any], Callable[..., Tensor]]] = {
    "an epsilon left out": ("native_layer_norm", lambda input, normalized_shape, weight, bias, eps:
                            definitions._layer_norm(input, normalized_shape, weight, bias, 0.0),
                            lambda x: F.layer_norm(x, (3,))),
    "a factor of 1 + 1e-9": ("cumsum", lambda self, dim: np.cumsum(self, axis=dim) * (1 + 1e-9), smooth),
    "a transposed factor": ("mm", lambda self, mat2: self @ mat2.T, lambda x: x[:, :2] @ x[:, 1:]),
    "a mean for a sum":    ("sum", lambda self: np.sum(self) / 6, lambda x: x.sum()),
}
# fmt: on


@pytest.mark.parametrize("way", DEFINITIONS)
def test_a_wrong_definition_is_noticed_by_the_value_of_the_function(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, wrong, function = DEFINITIONS[way]
    known = asked(function, POINT)
    assert next(iter(exact.ask(known))).verdict == "agrees"
    monkeypatch.setattr(definitions, "DEFINITIONS", {**definitions.DEFINITIONS, operator: wrong})
    assert next(iter(exact.ask(known))).reason == "other_value"


SMOOTH_AT: Mapping[str, tuple[str, ...]] = {"acosh": ("1.7",), "^": ("1.3", "0.7"), "lgamma": ("2.3",)}


@pytest.mark.parametrize("name", [*symbolic._ARITHMETIC, *(n for n in ARITY if n in symbolic.SMOOTH)])
def test_sympys_derivative_of_an_elementary_function_is_that_of_its_values(name: str) -> None:
    """mpmath differentiates numerically, with twice the digits."""
    known = symbolic.elementary(name)
    with mpmath.workdps(50):
        point = [mpmath.mpf(x) for x in SMOOTH_AT.get(name, ("0.3", "0.7")[: len(known.partials)])]
        for place, partial in enumerate(known.partials):
            order = tuple(int(place == i) for i in range(len(point)))
            measured = mpmath.diff(known.value, tuple(point), order)
            assert abs(partial(*point) - measured) < mpmath.mpf(10) ** -20 * max(1, abs(measured))


def test_a_power_is_differentiated_where_its_logarithm_has_no_value() -> None:
    assert symbolic.power(3.0).partials[0](mpmath.mpf(-2)) == 12
    assert symbolic.power(2.0).partials[0](mpmath.mpf(0)) == 0
    assert symbolic.power(0.0).partials[0](mpmath.mpf(0)) == 0


# fmt: off
TIES: dict[str, tuple[Callable[..., Tensor], Tensor, str]] = {
    "relu at 0":        (lambda x: x.relu(),                       at(0.0, 1.0),       "aten.relu.default"),
    "abs of nothing":   (lambda x: (x - 0.3).abs(),                at(0.3, 1.0),       "aten.abs.default"),
    "abs of a rounding": (lambda x: (x.sin()**2 + x.cos()**2 - 1).abs(), at(0.3, 1.0), "aten.abs.default"),
    "equal maxima":     (lambda x: x.max(),                        at(1.0, 1.0, 0.3),  "aten.max.default"),
    "equal rows":       (lambda x: x.sort()[0],                    at(1.0, 0.3, 1.0),  "aten.sort.default"),
    "a bound":          (lambda x: x.clamp(-0.5, 0.5),             at(0.5, 1.0),       "aten.clamp.default"),
    "a step":           (lambda x: x.floor() * x,                  at(2.0, 0.3),       "aten.floor.default"),
    "half a step":      (lambda x: x.round() * x,                  at(2.5, 0.3),       "aten.round.default"),
    "a sign":           (lambda x: x.sign() + x,                   at(0.0, 0.3),       "aten.sign.default"),
    "two equal inputs": (lambda x: torch.maximum(x, x.flip(0)),    at(0.3, 0.3),       "aten.maximum.default"),
    "a pool":           (lambda x: F.max_pool1d(x[None], 2),       at(1.0, 1.0),       ""),
}
NO_TIES: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "the same element twice": (lambda x: torch.cat([x, x]).max(),              at(1.0, 0.3)),
    "equal ones not chosen":  (lambda x: x.max(),                              at(0.3, 0.3, 1.0)),
    "equal constants":        (lambda x: torch.cat([x, x.new_zeros(2)]).topk(2)[0], at(1.0, 0.3)),
    "a bound that is far":    (lambda x: x.clamp(max=5.0),                     at(1.0, 0.3)),
    "near a kink":            (lambda x: x.relu(),                             at(1e-30, -1e-30)),
    "a subnormal number":     (lambda x: x.sigmoid(),                          at(-710.0)),
    "a constant's sign":      (lambda x: x * torch.zeros(2).double().sign(),   at(1.0, 0.3)),
}
# fmt: on


@pytest.mark.parametrize("name", TIES)
def test_at_a_tie_nothing_is_said(name: str) -> None:
    function, x, operator = TIES[name]
    found = judged(exact, function, x)
    assert (found.verdict, found.reason) == ("cannot say", "tie")
    assert operator in str(found.data["operator"])


@pytest.mark.parametrize("name", NO_TIES)
def test_what_only_looks_like_a_tie_is_judged(name: str) -> None:
    assert judged(exact, *NO_TIES[name]).verdict == "agrees"


def test_a_branch_that_is_not_taken_is_not_evaluated() -> None:
    """Its gradient in torch is nan; without the branch, 2x."""
    found = asked(lambda x: torch.where(x > 0, x.sqrt(), x**2), at(-1.2, 0.3))
    assert next(iter(exact.ask(found))).reason == "gradient_not_finite"
    masked = altered(found, lambda g: g.nan_to_num(2 * -1.2 * float(found.trace.cotangent[0])))
    assert next(iter(exact.ask(masked))).verdict == "agrees"


def copied_into(x: Tensor) -> Tensor:
    into = torch.zeros(3, dtype=x.dtype)
    into[1:] = x
    return into.sin()


def test_what_is_not_written_out_is_named() -> None:
    assert judged(exact, Sine.apply, POINT).data["operator"] == "SineBackward"
    assert judged(exact, copied_into, at(0.3, 1.2)).reason == "no_symbol"
    embedded = judged(exact, lambda w: F.embedding(torch.tensor([0, 1]), w, padding_idx=0), normal(0, 2, 3))
    assert embedded.reason == "no_symbol"  # a gradient of 0 by intention is no error


def test_what_is_too_large_is_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    large = judged(exact, lambda x: x.sin(), normal(0, exact.MOST_ELEMENTS + 1))
    assert (large.verdict, large.reason) == ("cannot say", "too_large_to_write_out")
    assert large.data == {"nodes": 2, "elements": 2 * exact.MOST_ELEMENTS + 2}
    assert judged(exact, torch.linalg.det, normal(0, 9, 9)).reason == "too_large_to_write_out"
    monkeypatch.setattr(tape, "MOST_CELLS", 10)
    assert judged(exact, smooth, POINT).reason == "too_large_to_write_out"


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "SECONDS", -1.0)
    assert judged(exact, lambda x: x.sin().cos(), normal(0, 300)).reason == "too_large_to_write_out"


def test_complex_numbers_and_infinities_are_not_written_out() -> None:
    assert judged(exact, lambda x: (x * x.conj()).real, torch.complex(POINT, POINT)).reason == "complex"
    assert judged(exact, lambda x: 1 / x, at(0.0, 1.0)).reason == "not_finite"


def test_a_sum_of_a_thousand_terms_is_no_recursion() -> None:
    assert judged(exact, lambda x: x.exp().sum().log(), normal(0, 1000)).verdict == "agrees"


def test_sympy_waits_until_the_referee_is_asked() -> None:
    code = (
        "import sys, torch\n"
        "from gradexplain.verification.oracles.registry import ORACLES, ON_REQUEST\n"
        "assert 'symbolic' in ON_REQUEST and 'symbolic' not in ORACLES\n"
        "assert 'sympy' not in sys.modules and 'gradexplain.rules.symbolic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------------------ the words


def only_real(x: Tensor) -> Tensor:
    if x.is_complex():
        raise TypeError("real numbers only")
    return x.sin()


def spoken() -> Iterator[Check]:
    """Yields a check with each reason of the two oracles."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(definitions, "DEFINITIONS", {"sum": lambda self: np.sum(self) / 6})
        yield judged(exact, lambda x: x.sum(), POINT)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(analytic, "CONDITIONS", {})
        yield judged(analytic, lambda x: x**4, at(-1.2))
    wrong = altered(question(smooth, POINT), ERRORS["factor"])
    yield from (*exact.ask(wrong), *analytic.ask(wrong))
    yield judged(exact, *TIES["relu at 0"][:2])
    yield judged(exact, Sine.apply, POINT)
    yield judged(exact, lambda x: x.sin(), normal(0, exact.MOST_ELEMENTS + 1))
    yield judged(exact, lambda x: 0.0**x, at(1.2))
    yield judged(exact, torch.sinc, at(1e-300))
    yield judged(analytic, only_real, POINT)
    yield judged(analytic, lambda x: x.abs(), POINT)
    yield judged(analytic, lambda x: x * x, at(1e30))
    yield next(iter(exact.ask(altered(question(smooth, POINT), lambda g: g * torch.nan))))


def test_every_reason_can_be_said_in_every_language() -> None:
    found = {c.reason: c for c in spoken()}
    keys = """
        complex_slope not_analytic not_continued complex_failed gradient_not_finite step_range
        exact tie no_symbol too_large_to_write_out other_value exact_not_finite digits_lost
    """
    assert set(found) == set(keys.split())
    for key, check in found.items():
        said = {say(f"verdicts.{key}", language, **check.data) for language in LANGUAGES}
        assert len(said) == len(LANGUAGES)
        assert not any("{" in sentence for sentence in said)


@pytest.mark.parametrize("oracle", [*ORACLES, *ON_REQUEST])
def test_every_oracle_has_a_name_in_every_language(oracle: str) -> None:
    names = {say(f"oracles.{oracle.replace(' ', '_')}", language, dtype="float64") for language in LANGUAGES}
    assert len(names) == len(LANGUAGES)
