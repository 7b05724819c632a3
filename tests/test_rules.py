"""Every rule is run, proved by sympy, measured by finite differences and compared with torch. No rule is named here."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from proofs import Proof, proved
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gradexplain as gx
from gradexplain.locale.catalogue import LANGUAGES, sentences
from gradexplain.mathematics.terms import ARITY, Apply, Constant, Number, Term, names_in, number_text
from gradexplain.recording import kinks
from gradexplain.rules import registry
from gradexplain.rules.application import (
    FUNCTIONS,
    OfRealNumbers,
    bind,
    call,
    evaluated,
    has_one_output,
    slope,
    summed_to,
    vjp,
    written,
)
from gradexplain.rules.entries import Rule, elementwise, full_name, schema_names
from gradexplain.rules.registry import rule_of, rules
from gradexplain.rules.samples import Samples, examples
from gradexplain.rules.symbolic import sympy_of
from gradexplain.versions.releases import minor_release, minor_text

RULES = rules()
ALL = sorted(RULES)
ELEMENTWISE = [name for name in ALL if RULES[name].elementwise]
KINKED = [name for name in ELEMENTWISE if RULES[name].kink]
TIED = [name for name in ALL if RULES[name].tie]
WRITTEN = [name for name in ALL if RULES[name].terms is not None]


# Where torch 2.13 itself is off: finite differences side with the rule. A torch that is repaired fails this table.
TORCH_DIFFERS = {
    ("aten.celu.default", "self"): "1/alpha is rounded to float32",
    ("aten.hardsigmoid.default", "self"): "1/6 is rounded to float32",
    ("aten.cholesky_solve.default", "input2"): "sends a gradient to the triangle that is never read",
    ("aten.as_strided_scatter.default", "self"): "keeps the elements that were overwritten and drops the others",
}


def by_membership(self: Tensor, mat2: Tensor, offs: Tensor | None, **_: object) -> tuple[Tensor]:
    """`_grouped_mm` in float64: each element of a cut axis belongs to the group of the first end behind it."""
    if offs is None:
        return (torch.einsum("gmk,gkn->gmn", self, mat2),)
    axes = {(2, 3): ("mk,gkn->mn", "m"), (3, 2): ("gmk,kn->mn", "n"), (2, 2): ("mk,kn->gmn", "k")}
    equation, cut = axes[self.ndim, mat2.ndim]
    size = {"m": self.shape[0], "n": mat2.shape[-1], "k": self.shape[-1]}[cut]
    of = torch.searchsorted(offs, torch.arange(size, dtype=offs.dtype), right=True)
    member = (of == torch.arange(len(offs))[:, None]).to(self.dtype)
    return (torch.einsum(f"g{cut},{equation}", member, self, mat2),)


def by_steps(
    input: Tensor, weight0: Tensor, weight1: Tensor, weight2: Tensor, weight3: Tensor, hx_: Tensor, cx_: Tensor,
    reverse: bool, **_: object,
) -> tuple[Tensor, ...]:  # fmt: skip
    """`mkldnn_rnn_layer` in float64, where torch makes it of other operators."""
    turned = input.flip(0) if reverse else input
    weights = [weight0, weight1, weight2, weight3]
    out, h, c = torch._VF.lstm(turned, (hx_, cx_), weights, True, 1, 0.0, True, False, False)
    return (out.flip(0) if reverse else out, h, c)


def of_normalised(operator: str) -> Callable[..., tuple[Tensor, ...]]:
    """A loss of log-probabilities that torch takes for normalised: moved ones are made so again."""

    def run(log_probs: Tensor, **others: Any) -> tuple[Tensor, ...]:
        return call(operator, {"log_probs": log_probs.log_softmax(-1), **others})[:1]

    return run


# Operators that torch has no kernel for in float64, or a gradient of its own for, written out in others: there they can
# be measured.
WRITTEN_OUT: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "aten._grouped_mm.default": by_membership,
    "aten.mkldnn_rnn_layer.default": by_steps,
    "aten._ctc_loss.default": of_normalised("aten._ctc_loss.default"),
    "aten._ctc_loss.Tensor": of_normalised("aten._ctc_loss.Tensor"),
}
# Two computations of some hundred float64 operations each.
SAME_IN_FLOAT64 = 1e-11


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These tensors are tiny: on a busy machine, threads that wait for each other took two thirds of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------- the measuring


def differentiated(rule: Rule) -> list[str]:
    return list(rule.slopes or rule.derivatives)


def parts(value: Any) -> list[Tensor]:
    """A tensor argument as a list of one; a list of tensors as it is."""
    return [value] if isinstance(value, Tensor) else list(value or ())


def with_parts(arguments: Mapping[str, Any], name: str, tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {**arguments, name: tensors[0] if isinstance(arguments[name], Tensor) else list(tensors)}


def run(rule: Rule, arguments: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Runs the operator: on copies, for it may write in place, and always with the same random numbers."""
    copies = {k: v.clone() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    if rule.operator in WRITTEN_OUT:
        return WRITTEN_OUT[rule.operator](**copies)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return call(rule.operator, copies)


def tracked(rule: Rule, arguments: Mapping[str, Any], name: str) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    leaves = [part.clone().requires_grad_() for part in parts(arguments[name])]
    return leaves, run(rule, with_parts(arguments, name, leaves))


def generic(outputs: Sequence[Tensor], seed: int = 7) -> list[Tensor | None]:
    """Returns random cotangents for the outputs that torch differentiates, never ones."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(y.shape, generator=generator, dtype=y.dtype) if y.requires_grad else None for y in outputs]


def paired(rule: Rule, arguments: Mapping[str, Any], cotangents: Sequence[Tensor | None]) -> float:
    """Returns Σ Re ⟨g, y⟩, the number whose derivative the vector-Jacobian product is."""
    outputs = run(rule, arguments)
    return math.fsum(
        float((g.conj() * y).real.sum()) for g, y in zip(cotangents, outputs, strict=True) if g is not None
    )


def central(rule: Rule, arguments: Mapping[str, Any], name: str, part: int, element: int, g: Any, h: complex) -> float:
    ends = []
    for step in (h, -h):
        tensors = [t.contiguous().clone() for t in parts(arguments[name])]
        tensors[part].view(-1)[element] += step
        ends.append(paired(rule, with_parts(arguments, name, tensors), g))
    return (ends[0] - ends[1]) / (2 * abs(h))


def measured(rule: Rule, arguments: Mapping[str, Any], name: str, g: Any) -> list[tuple[Tensor, Tensor]]:
    """Returns (gradient, its error bound) by central differences, for each tensor of the argument.

    The step is eps^(1/3), where truncation and rounding are about equal. Two steps give Richardson's value, and their
    difference bounds the truncation. Rounding: each ⟨g, y⟩ is off by some 100 eps of its own size, divided by the step.
    """
    eps = torch.finfo(torch.float64).eps
    h = eps ** (1 / 3)
    size = math.fsum(float((c * y).abs().sum()) for c, y in zip(g, run(rule, arguments), strict=True) if c is not None)
    found = []
    for place, tensor in enumerate(parts(arguments[name])):
        values, bounds = torch.zeros_like(tensor).contiguous(), torch.zeros(tensor.shape).double()
        for element in range(tensor.numel()):
            for turn in (1, 1j) if tensor.is_complex() else (1,):  # the slopes along the real and the imaginary axis
                wide = central(rule, arguments, name, place, element, g, turn * h)
                narrow = central(rule, arguments, name, place, element, g, turn * h / 2)
                values.view(-1)[element] += turn * (4 * narrow - wide) / 3
                bounds.view(-1)[element] += abs(narrow - wide) + 100 * eps * (1 + size) / h
        found.append((symmetric(rule, name, values), bounds))
    return found


def symmetric(rule: Rule, name: str, gradient: Tensor) -> Tensor:
    return (gradient + gradient.mT) / 2 if name in rule.symmetric else gradient


def agrees(sent: Sequence[Tensor], truth: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Says whether each gradient has the right shape and lies within its bound; nan never does."""
    return all(
        s.shape == value.shape and bool(((s - value).abs() <= bound).all())
        for s, (value, bound) in zip(sent, truth, strict=True)
    )


def cases(name: str) -> Iterator[tuple[Rule, dict[str, Any], str]]:
    rule = RULES[name]
    for arguments in examples(rule):
        if name in WRITTEN_OUT:
            arguments = {
                k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in arguments.items()
            }
        for argument in differentiated(rule):
            if arguments[argument] is not None:
                yield rule, arguments, argument


def is_differentiated(name: str) -> bool:
    """Says whether this torch differentiates an operator as one: an older one may make it of others, or refuse."""
    if name in WRITTEN_OUT:
        return False
    made_of_others = torch._C._dispatch_has_kernel_for_dispatch_key(
        name.replace(".", "::", 1).removesuffix(".default"), "CompositeImplicitAutograd"
    )
    _, outputs = tracked(*next(cases(name)))
    nodes = [y.grad_fn.name() for y in outputs if y.grad_fn is not None]
    return not made_of_others and bool(nodes) and not any(node.endswith("NotImplemented") for node in nodes)


OWN = [name for name in ALL if is_differentiated(name)]


def applied(rule: Rule, arguments: Mapping[str, Any], name: str) -> tuple[list[Tensor], list[Tensor | None]]:
    """Returns what the rule sends to an argument, and the cotangents that it was given."""
    _, outputs = tracked(rule, arguments, name)
    g = generic(outputs)
    return parts(vjp(rule, name, g, arguments, [y.detach() for y in outputs])), g


# ------------------------------------------------------------------------------------------------------ the operators


class Recorder(TorchDispatchMode):
    """Lists the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_torch_differentiates_each_operator_but_two_of_late() -> None:
    assert {*ALL} - {*OWN} <= {"aten.ldexp.Tensor", "aten.aminmax.default", "aten.narrow_copy.default", *WRITTEN_OUT}


@pytest.mark.skipif(minor_release(torch.__version__) < (2, 9), reason="torch 2.8 has no kernel for the CPU")
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_torch_agrees_with_what_is_written_out_and_with_its_rule(name: str) -> None:
    rule = RULES[name]
    for arguments in examples(rule):
        for argument in differentiated(rule):
            leaf = arguments[argument].clone().requires_grad_()
            written_out = WRITTEN_OUT[name](**{**arguments, argument: leaf})
            outputs = call(name, {**arguments, argument: leaf})[: len(written_out)]
            torch.testing.assert_close(outputs, written_out)
            g = generic(outputs)
            (gradient,) = torch.autograd.grad(outputs, leaf, g)
            torch.testing.assert_close(gradient, vjp(rule, argument, g, arguments, [y.detach() for y in outputs]))


@pytest.mark.parametrize("name", OWN)
def test_the_operator_runs_under_its_name_and_makes_a_node(name: str) -> None:
    for rule, arguments, argument in cases(name):
        with Recorder() as recorder:
            leaves, outputs = tracked(rule, arguments, argument)
        assert name in recorder.seen
        assert all(leaf.is_leaf for leaf in leaves)
        assert any(y.grad_fn is not None for y in outputs), argument


@pytest.mark.parametrize("name", ALL)
def test_no_argument_that_torch_differentiates_is_left_out(name: str) -> None:
    rule = RULES[name]
    for arguments in examples(rule):
        for argument, value in arguments.items():
            if argument not in differentiated(rule) and isinstance(value, Tensor) and value.is_floating_point():
                assert not differentiable(rule, arguments, argument), argument


def differentiable(rule: Rule, arguments: Mapping[str, Any], argument: str) -> bool:
    try:
        leaves, outputs = tracked(rule, arguments, argument)
        given = [y for y in outputs if y.requires_grad]
        gradients = torch.autograd.grad(given, leaves, [torch.ones_like(y) for y in given], allow_unused=True)
    except (RuntimeError, NotImplementedError):
        return False
    return any(gradient is not None for gradient in gradients)


def test_there_are_at_least_150_operators() -> None:
    families = Counter("elementwise" if RULES[name].elementwise else "other" for name in ALL)
    print(f"{len(ALL)} operators: {dict(families)}")
    assert len(ALL) >= 150


# --------------------------------------------------------------------------------------------------------- the forward


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_elementwise_formula_is_the_operator(name: str) -> None:
    rule = RULES[name]
    for arguments in examples(rule):
        outputs = run(rule, arguments)
        found = evaluated(rule, rule.formula, arguments, outputs)
        torch.testing.assert_close(found, outputs[0], rtol=1e-12, atol=1e-13)


ARITHMETIC: Mapping[str, Callable[..., float]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "^": lambda a, b: a**b, "neg": lambda a: -a, "π": lambda: math.pi,
}  # fmt: skip


def value_of(term: Term) -> float:
    match term:
        case Number(value) | Constant(value):
            return value
        case Apply(operator, arguments):
            return float((ARITHMETIC | dict(FUNCTIONS))[operator](*map(value_of, arguments)))
    raise AssertionError(term)


@pytest.mark.parametrize("name", WRITTEN)
def test_terms_written_out_have_the_value_of_the_output(name: str) -> None:
    rule = RULES[name]
    compared = 0
    for arguments in examples(rule):
        outputs = run(rule, arguments)
        for made, output in zip(written(rule, arguments, outputs) or (), outputs, strict=False):
            if made is not None:
                values = torch.tensor([value_of(t) for t in made.reshape(-1)], dtype=torch.float64).reshape(made.shape)
                torch.testing.assert_close(values, output, rtol=1e-11, atol=1e-12)
                compared += 1
    assert compared


# ------------------------------------------------------------------------------------------------------------- proofs


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_sympy_proves_each_slope(name: str) -> None:
    assert {proof.holds for proof in proved(RULES[name]).values()} == {True}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("wrong", ["({})*1.001", "-({})", "({}) + 0.0001"])
def test_a_wrong_slope_is_refuted(name: str, wrong: str) -> None:
    for argument, right in RULES[name].slopes.items():
        mutant = replace(RULES[name], slopes={**RULES[name].slopes, argument: wrong.format(right)})
        if right != "0" or "+" in wrong:
            assert proved(mutant)[argument] == Proof(False, "50 digits"), argument


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_formula_has_a_sympy_form_in_its_own_variables(name: str) -> None:
    rule = RULES[name]
    assert {str(symbol) for symbol in sympy_of(rule.formula).free_symbols} == names_in(rule.formula)


# ---------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", ALL)
def test_the_vjp_agrees_with_finite_differences_and_mutants_do_not(name: str) -> None:
    for rule, arguments, argument in cases(name):
        sent, g = applied(rule, arguments, argument)
        truth = measured(rule, arguments, argument, g)
        assert all(bool((bound <= 1e-5 * (1 + value.abs().max())).all()) for value, bound in truth if value.numel())
        assert agrees(sent, truth), argument
        for error, mutant in mutants(rule, arguments, argument, sent, g):
            assert not agrees(mutant, truth), f"{argument}: {error} goes unseen"


def mutants(
    rule: Rule, arguments: Mapping[str, Any], name: str, sent: Sequence[Tensor], g: Sequence[Tensor | None]
) -> Iterator[tuple[str, list[Tensor]]]:
    """Yields wrong gradients, one error at a time."""
    first, rest = sent[0].contiguous(), list(sent[1:])
    off = first.clone()
    off.view(-1)[0] += 1e-4
    yield "one element off by 1e-4", [off, *rest]
    if bool((first == 0).all()):
        return
    yield "a factor of 1.001", [first * 1.001, *rest]
    yield "the other sign", [-first, *rest]
    holed = first.clone()
    holed.view(-1)[holed.abs().argmax()] = 0
    yield "one element zero", [holed, *rest]
    if first.ndim >= 2 and first.shape[-1] == first.shape[-2] and not torch.allclose(first, first.mT):
        yield "a transposed matrix", [first.mT, *rest]
    if first.numel() > 1 and not torch.allclose(first.flatten(), first.flatten().roll(1)):
        yield "elements in other places", [first.flatten().roll(1).reshape(first.shape), *rest]
    if rule.elementwise and arguments[name].shape != g[0].shape:  # type: ignore[union-attr]
        unsummed = g[0] * slope(rule, name, arguments, run(rule, arguments))  # type: ignore[operator]
        yield "a sum over broadcast axes dropped", [first_of(unsummed, first.shape), *rest]


def first_of(g: Tensor, shape: Sequence[int]) -> Tensor:
    for _ in range(g.ndim - len(shape)):
        g = g[0]
    for axis, size in enumerate(shape):
        g = g.narrow(axis, 0, size)
    return g


def in_complex(value: Any) -> Any:
    """Returns arguments with an imaginary part, which is another permutation of the real one."""
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return [in_complex(v) for v in value]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return torch.complex(value, 0.7 * value.flatten().roll(1).flip(0).reshape(value.shape))


def complex_cases(name: str) -> Iterator[tuple[Rule, dict[str, Any], str]]:
    """Yields the cases of a rule in complex numbers, where torch has the operator for them."""
    for rule, arguments, argument in cases(name):
        moved = {k: in_complex(v) for k, v in arguments.items()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of triangles that a complex product leaves to chance
                leaves, outputs = tracked(rule, moved, argument)
                pairs = [(y, torch.ones_like(y)) for y in outputs if y.requires_grad]
                torch.autograd.grad([y for y, _ in pairs], leaves, [g for _, g in pairs], materialize_grads=True)
        except Exception:  # in whatever words torch refuses complex numbers
            continue
        yield rule, moved, argument


IN_COMPLEX = [name for name in OWN if RULES[name].over != "real" and any(complex_cases(name))]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", IN_COMPLEX)
def test_a_rule_holds_for_complex_numbers_unless_it_says_that_it_is_of_real_ones(name: str) -> None:
    for rule, arguments, argument in complex_cases(name):
        sent, g = applied(rule, arguments, argument)
        truth = measured(rule, arguments, argument, g)
        assert agrees(sent, truth), argument
        assert not agrees([s.conj() for s in sent], truth) or not any(s.is_complex() and s.imag.any() for s in sent)


def test_most_operators_are_met_in_complex_numbers_and_a_rule_of_real_ones_is_caught() -> None:
    assert len(IN_COMPLEX) >= 140
    for name in ("aten.linalg_qr.default", "aten.linalg_cholesky_ex.default", "aten._linalg_slogdet.default"):
        rule, arguments, argument = next(complex_cases(name))
        with pytest.raises(OfRealNumbers):
            applied(rule, arguments, argument)
        wrong = replace(rule, over="analytic")
        assert not agrees(*compared(wrong, arguments, argument))


def compared(
    rule: Rule, arguments: Mapping[str, Any], argument: str
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    sent, g = applied(rule, arguments, argument)
    return sent, measured(rule, arguments, argument, g)


@pytest.mark.parametrize("name", OWN)
def test_torch_agrees_or_is_known_to_differ(name: str) -> None:
    for argument in differentiated(RULES[name]):
        apart = max(apart_from_torch(*case) for case in cases(name) if case[2] == argument)
        assert (apart <= SAME_IN_FLOAT64) is ((name, argument) not in TORCH_DIFFERS), (argument, apart)


def apart_from_torch(rule: Rule, arguments: Mapping[str, Any], name: str) -> float:
    """Returns the largest difference from autograd's gradient, relative to the largest element."""
    leaves, outputs = tracked(rule, arguments, name)
    g = generic(outputs)
    sent = parts(kinks.sent(rule, name, g, arguments, [y.detach() for y in outputs]))
    given = [(y, c) for y, c in zip(outputs, g, strict=True) if c is not None]
    theirs = torch.autograd.grad([y for y, _ in given], leaves, [c for _, c in given], materialize_grads=True)
    return max(
        float((s - symmetric(rule, name, t)).abs().max() / (1 + t.abs().max()))
        for s, t in zip(sent, theirs, strict=True)
    )


@pytest.mark.parametrize("name", ALL)
def test_every_vjp_is_linear_in_its_cotangent(name: str) -> None:
    for rule, arguments, argument in cases(name):
        _, outputs = tracked(rule, arguments, argument)
        plain = [y.detach() for y in outputs]
        g, k = generic(outputs, 1), generic(outputs, 2)
        both = [None if a is None or b is None else 2 * a - 3 * b for a, b in zip(g, k, strict=True)]
        sent = [parts(vjp(rule, argument, c, arguments, plain)) for c in (g, k, both)]
        for a, b, c in zip(*sent, strict=True):
            torch.testing.assert_close(2 * a - 3 * b, c, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_where_no_cotangent_arrived_the_gradient_is_zero(name: str) -> None:
    for rule, arguments, argument in cases(name):
        outputs = run(rule, arguments)
        sent = parts(vjp(rule, argument, [None] * len(outputs), arguments, outputs))
        assert [s.shape for s in sent] == [p.shape for p in parts(arguments[argument])]
        assert not any(bool(s.any()) for s in sent)


@pytest.mark.parametrize("name", [name for name in ALL if not has_one_output(name)])
def test_each_output_may_go_without_a_cotangent(name: str) -> None:
    for rule, arguments, argument in cases(name):
        _, outputs = tracked(rule, arguments, argument)
        plain = [y.detach() for y in outputs]
        g = generic(outputs)
        alone = [[c if i == k else None for i, c in enumerate(g)] for k in range(len(g)) if g[k] is not None]
        sent = [parts(vjp(rule, argument, c, arguments, plain))[0] for c in alone]
        torch.testing.assert_close(sum(sent), parts(vjp(rule, argument, g, arguments, plain))[0])


# ------------------------------------------------------------------------------------------------------ kinks and ties


def at_kinks(rule: Rule) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """Yields arguments, all tensors of one shape, and the mask of the elements that lie at a kink."""
    for arguments in examples(rule):
        full = {
            k: v.expand(4, 3).clone() if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in arguments.items()
        }
        first = next(iter(rule.slopes))
        numbers = [v for v in arguments.values() if isinstance(v, float)]
        tensors = [v for k, v in full.items() if isinstance(v, Tensor) and k != first]
        zeros = torch.zeros(4, 3, dtype=torch.float64)
        moves = [
            {first: zeros + c}
            for c in (0.0, 3.0, -3.0, *numbers, *(-n for n in numbers), *(1 - n for n in numbers), *tensors)
        ]
        others = [k for k, v in full.items() if isinstance(v, Tensor) and k != first]
        moves += [{first: zeros, **dict.fromkeys(others, zeros + c)} for c in (0.0, -1.0)]
        moves += [{first: 2 * tensor} for tensor in tensors] + [{first: -2 * tensor} for tensor in tensors]
        moves += [{first: zeros, "other": -1.0}] if isinstance(full.get("other"), float) else []
        for move in moves:
            moved = {**full, **move}
            kinks = evaluated(rule, rule.kink, moved, run(rule, moved))
            if bool(kinks.any()):
                yield moved, kinks


@pytest.mark.parametrize("name", KINKED)
def test_at_a_kink_the_sides_are_measured_and_what_torch_takes_lies_between(name: str) -> None:
    rule = RULES[name]
    met = 0
    for arguments, where in at_kinks(rule):
        outputs = run(rule, arguments)
        for argument in (a for a in rule.sides if isinstance(arguments[a], Tensor)):
            sides = [evaluated(rule, side, arguments, outputs)[where] for side in rule.sides[argument]]
            for side, way in zip(sides, (-1, 1), strict=True):
                seen = beside(rule, arguments, argument, way)[where]
                torch.testing.assert_close(side, seen, rtol=0, atol=1e-4, equal_nan=True)
            leaves, made = tracked(rule, arguments, argument)
            g = generic(made)[0]
            assert g is not None
            (theirs,) = torch.autograd.grad(made[0], leaves, g)
            torchs, bend = (theirs / g)[where], sides[0] != sides[1]
            slack = SAME_IN_FLOAT64 * torch.maximum(*(side.abs() for side in sides))
            low, high = torch.minimum(*sides) - slack, torch.maximum(*sides) + slack
            none_there, none_taken = low.isnan() & high.isnan(), torchs.isnan() & (name == "aten.hypot.default")
            assert bool((((torchs >= low) & (torchs <= high)) | none_there | none_taken)[bend].all())
            # Where this argument has one slope after all, as one that lies on two bounds at once, torch has no choice.
            expected = theirs.masked_scatter(where, torch.where(bend, torchs, sides[0]) * g[where])
            torch.testing.assert_close(kinks.sent(rule, argument, [g], arguments, outputs), expected, equal_nan=True)
            met += 1
    assert met


def beside(rule: Rule, arguments: Mapping[str, Any], argument: str, way: int) -> Tensor:
    """Returns the derivative just beside a point: both ends of the step lie on one side, so a jump is no matter."""
    h = 1e-6
    near, far = (run(rule, {**arguments, argument: arguments[argument] + way * n * h})[0] for n in (1, 2))
    return (far - near) / (way * h)


@pytest.mark.parametrize("name", [name for name in TIED if name in OWN])
def test_at_a_tie_the_gradient_is_divided_as_torch_divides_it(name: str) -> None:
    for rule, arguments, argument in cases(name):
        tied = {k: torch.full_like(v, 0.5) if k == argument else v for k, v in arguments.items()}
        assert apart_from_torch(rule, tied, argument) <= SAME_IN_FLOAT64


KINKED_WHOLE = [name for name in OWN if any(d.has_kinks for d in RULES[name].derivatives.values())]
Point = tuple[dict[str, Any], str, int]
# One-sided quotients over a step of 1e-5 are off by half the curvature times that, and curvatures are some tens.
NEAR = 3e-4


def points_at_kinks(rule: Rule) -> Iterator[Point]:
    """Yields arguments at which the rule has kinks by one argument, which one, and the number of the output."""
    for arguments in examples(rule):
        full = {k: 0.0 if k == "beta" else v for k, v in arguments.items()}
        for name in (a for a, d in rule.derivatives.items() if d.has_kinks):
            x = full[name]
            partly = x.clone()
            partly.view(-1)[::2] = 0
            others = [v for k, v in full.items() if isinstance(v, Tensor) and v.is_floating_point() and k != name]
            alike = [other.reshape(-1).repeat(x.numel())[: x.numel()].reshape(x.shape) for other in others]
            for moved in (x * 0, x * 0 + 0.5, partly, x.round(), -x.round().abs(), x.sign(), *alike):
                point = {**full, name: moved.contiguous()}
                try:
                    outputs = run(rule, point)
                except RuntimeError:  # outside the operator's domain
                    continue
                for number in range(len(outputs)):
                    if kinks.kinks_of(rule, name, number, point, outputs) is not None:
                        yield point, name, number


def of_one(rule: Rule, arguments: Mapping[str, Any], number: int, moves: Mapping[str, Tensor]) -> float:
    moved = {k: v + moves[k] if k in moves else v for k, v in arguments.items()}
    try:
        return float(run(rule, moved)[number].sum())
    except RuntimeError:  # outside the operator's domain
        return math.nan


def along(rule: Rule, point: Point, moves: Mapping[str, Tensor]) -> tuple[float, float]:
    """Returns the slopes of the sum of one output to the left and to the right of a point in a direction, measured."""
    h, (arguments, _, number) = 1e-5, point
    ends = [of_one(rule, arguments, number, {k: t * s for k, t in moves.items()}) for s in (-h, 0, h)]
    return (ends[1] - ends[0]) / h, (ends[2] - ends[1]) / h


def slopes_of(rule: Rule, point: Point, side: int) -> Tensor:
    arguments, name, number = point
    outputs = run(rule, arguments)
    ones = [torch.ones_like(y) if i == number else None for i, y in enumerate(outputs)]
    return parts(vjp(rule, name, ones, arguments, outputs, side=side))[0]


@pytest.mark.parametrize("name", KINKED_WHOLE)
def test_the_sides_of_a_whole_tensors_kinks_are_measured(name: str) -> None:
    """Among equal candidates one side is nothing and the other the whole, in whichever order; medians are between."""
    rule, met = RULES[name], 0
    for point in points_at_kinks(rule):
        left, right = slopes_of(rule, point, -1), slopes_of(rule, point, 1)
        for unit in torch.eye(left.numel(), dtype=torch.float64).reshape(-1, *left.shape):
            ours = [float(side[unit == 1]) for side in (left, right)]
            seen = along(rule, point, {point[1]: unit})
            if rule.tie:
                assert min(ours) - NEAR <= min(seen) <= max(seen) <= max(ours) + NEAR
                assert "median" in name or sorted(ours) == pytest.approx(sorted(seen), abs=NEAR)
                continue
            for stated, quotient in zip(ours, seen, strict=True):
                if math.isinf(stated):
                    assert quotient * stated > 0
                    assert abs(quotient) > 100
                else:  # beyond its domain an operator counts as held fixed
                    assert stated == pytest.approx(0 if math.isnan(quotient) else quotient, abs=NEAR)
        met += 1
    assert met


@pytest.mark.parametrize("name", KINKED_WHOLE)
def test_what_torch_takes_at_a_whole_tensors_kinks_is_taken_unless_a_direction_refutes_it(name: str) -> None:
    rule, met = RULES[name], 0
    for point in points_at_kinks(rule):
        arguments, argument, number = point
        theirs = kinks.own_gradients(rule, argument, arguments)[number]
        outputs = run(rule, arguments)
        ones = [torch.ones_like(y) if i == number else None for i, y in enumerate(outputs)]
        ours = parts(kinks.sent(rule, argument, ones, arguments, outputs))[0]
        taken = torch.allclose(ours, theirs, rtol=SAME_IN_FLOAT64, atol=SAME_IN_FLOAT64)
        assert taken is not is_refuted(rule, point), argument
        met += 1
    assert met


def is_refuted(rule: Rule, point: Point) -> bool:
    """Says whether torch's slopes contradict the function in some direction, all its kinked arguments moved at once."""
    arguments, name, number = point
    known = [a for a, d in rule.derivatives.items() if d.has_kinks]
    theirs = {a: kinks.own_gradients(rule, a, arguments)[number] for a in known}
    ones = {a: torch.ones_like(t) for a, t in theirs.items()}
    for moves in ({name: theirs[name].sign()}, {name: ones[name]}, ones):
        slope = math.fsum(float((theirs[a] * d).sum()) for a, d in moves.items())
        low, high = sorted(along(rule, point, moves))
        if slope < low - NEAR or slope > high + NEAR:
            return True
    return False


@pytest.mark.parametrize("name", [name for name in KINKED_WHOLE if not RULES[name].tie])
def test_the_page_says_of_a_whole_tensors_kink_what_torch_takes_and_the_slopes(name: str) -> None:
    rule = RULES[name]
    arguments, argument, number = next(points_at_kinks(rule))
    page = gx.explain(
        lambda x: call(rule.operator, {**arguments, argument: x})[number].sum(), {"x": arguments[argument]}
    )
    (kink,) = (f for f in page.findings if f.code == "kink")
    place = [int(i) for i in kink.data["element"].partition("[")[2].rstrip("]").split(",")]
    unit = torch.zeros_like(arguments[argument])
    unit[tuple(place)] = 1
    taken = kinks.own_gradients(rule, argument, arguments)[number][tuple(place)].item()
    seen = along(rule, (arguments, argument, number), {argument: unit})
    if rule.apart is None and math.isfinite(math.fsum(seen)):  # else the slopes are those of one pair among several
        assert (kink.data["left"], kink.data["right"]) == pytest.approx(seen, abs=NEAR)
        assert kink.data["chosen"] == taken
    said = " ".join(str(page).split())
    assert f"torch {minor_text(torch.__version__)} takes {number_text(kink.data['chosen'] + 0.0, 5)} here;" in said


@pytest.mark.parametrize("name", [name for name in ALL if RULES[name].kink or RULES[name].tie or name in KINKED_WHOLE])
def test_a_kink_has_a_reason(name: str) -> None:
    assert RULES[name].why


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_has_a_sentence(language: str) -> None:
    keys = {f"rules.{rule.why}" for rule in RULES.values() if rule.why}
    assert keys == {key for key in sentences(language) if key.startswith("rules.")}


# ------------------------------------------------------------------------------------------------------- the machinery


def test_a_second_rule_for_an_operator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"aten\.tanh\.default has a rule already"):
        elementwise("aten.tanh", "x", "tanh(x)", x="1 - y**2")


def test_a_formula_uses_only_the_names_of_its_rule() -> None:
    for name, rule in RULES.items():
        formulas = [rule.formula, *rule.slopes.values(), *(side for pair in rule.sides.values() for side in pair)]
        if rule.elementwise:
            assert {n for f in formulas for n in names_in(f)} <= {*rule.names.values(), "y"}, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_rule_runs_in_every_floating_type_that_its_operator_runs_in(dtype: torch.dtype) -> None:
    for name, rule in RULES.items():
        arguments = {k: lowered(v, dtype) for k, v in examples(rule)[0].items()}
        try:
            outputs = call(name, arguments)
        except (RuntimeError, NotImplementedError):  # torch itself has no kernel
            continue
        cotangents = [torch.ones_like(y) if y.is_floating_point() else None for y in outputs]
        for argument in {**rule.slopes, **rule.derivatives}:
            vjp(rule, argument, cotangents, arguments, outputs)


def lowered(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [lowered(v, dtype) for v in value]
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def test_an_operator_in_place_has_the_rule_of_its_twin() -> None:
    assert rule_of("aten.add_.Tensor") is RULES["aten.add.Tensor"]
    assert rule_of("aten.relu_.default") is RULES["aten.relu.default"]
    assert rule_of("aten.transpose_.default") is RULES["aten.transpose.int"]
    assert rule_of("aten.no_such_operator.default") is None
    assert rule_of(None) is None


def test_a_rule_asks_only_for_names_of_its_schema_and_outputs() -> None:
    for name, rule in RULES.items():
        outputs = {"y"} if has_one_output(name) else {f"y{i}" for i in range(8)}
        for derivative in rule.derivatives.values():
            assert set(derivative.needs) <= set(schema_names(name)) | outputs | {"side"}, name


def test_no_rule_asks_autograd_nor_runs_a_backward_kernel() -> None:
    from pathlib import Path

    for file in Path(registry.__file__).parent.glob("*.py"):
        code = file.read_text(encoding="utf-8")
        assert "autograd." not in code, file
        assert "_backward(" not in code, file


def test_every_function_of_the_formulas_runs_on_tensors_and_numbers() -> None:
    assert FUNCTIONS.keys() == {*ARITY, "pi"}
    assert FUNCTIONS["log"](math.e) == 1.0
    third = FUNCTIONS["where"](torch.tensor([True]), 1 / 3, 0)
    assert third.item() == 1 / 3, "a number must not pass through float32"


def test_arguments_are_bound_by_name_with_their_defaults() -> None:
    x = torch.zeros(2)
    assert bind("aten.add.Tensor", (x, 2), {}) == {"self": x, "other": 2, "alpha": 1}
    assert full_name("aten.mm") == "aten.mm.default"


def test_summing_to_a_shape_is_the_transpose_of_broadcasting() -> None:
    r = Samples(0)
    for shape in ((3,), (1, 3), (2, 1), (), (4, 2, 3), (1, 1, 1)):
        x, g = r(*shape), r(4, 2, 3)
        torch.testing.assert_close((summed_to(g, shape) * x).sum(), (g * x.expand(4, 2, 3)).sum())


REPEATED = {
    "aten.scatter.src": lambda r: (r(3, 4), 1, torch.tensor([[2, 2, 0], [1, 1, 1]]), r(2, 3)),
    "aten.index_copy.default": lambda r: (r(3, 4), 0, torch.tensor([2, 0, 2]), r(3, 4)),
    "aten.index_put.default": lambda r: (r(3, 4), [torch.tensor([1, 1, 2]), torch.tensor([0, 0, 3])], r(3)),
}


@pytest.mark.parametrize("name", REPEATED)
def test_of_values_written_to_one_place_only_the_one_that_stays_has_a_derivative(name: str) -> None:
    """Torch gives the whole to each, which its documentation calls incorrect; finite differences see one."""
    rule, arguments = RULES[name], bind(name, REPEATED[name](Samples(0)), {})
    for argument in differentiated(rule):
        sent, g = applied(rule, arguments, argument)
        assert agrees(sent, measured(rule, arguments, argument, g)), argument


def test_the_row_of_padding_gets_no_gradient_and_frequent_rows_can_be_averaged() -> None:
    """Finite differences see the padding row; that it gets nothing is torch's convention, so torch is asked here."""
    r = Samples(0)
    for options in ((1, False), (-1, True), (2, True)):
        arguments = bind("aten.embedding", (r(4, 3), torch.tensor([1, 2, 1, 0]), *options), {})
        assert apart_from_torch(RULES["aten.embedding.default"], arguments, "weight") <= SAME_IN_FLOAT64


def test_the_derivative_of_a_determinant_is_right_where_the_matrix_is_singular() -> None:
    """∂ det [[a, b], [c, d]] = [[d, −c], [−b, a]]. Torch 2.13 sends zeros here, without a warning."""
    rule = RULES["aten._linalg_det.default"]
    A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    outputs = run(rule, {"A": A})
    sent = vjp(rule, "A", [torch.tensor(1.0, dtype=torch.float64), None, None], {"A": A}, outputs)
    torch.testing.assert_close(sent, torch.tensor([[4.0, -2.0], [-2.0, 1.0]], dtype=torch.float64))
    assert apart_from_torch(rule, {"A": A}, "A") > 0.1


def test_nan_in_gives_nan_out_of_a_kinked_formula() -> None:
    nan = torch.full((2, 3), torch.nan, dtype=torch.float64)
    for name in ("aten.relu.default", "aten.leaky_relu.default", "aten.elu.default", "aten.clamp.default"):
        arguments = bind(name, (nan,), {"min": 0.0} if "clamp" in name else {})
        assert evaluated(RULES[name], RULES[name].formula, arguments, run(RULES[name], arguments)).isnan().all()


def test_the_margin_of_a_single_number_is_judged() -> None:
    """One class has no other to stay behind: the loss and its slope are 0."""
    report = gx.verify(lambda x: torch.nn.functional.multi_margin_loss(x, torch.tensor(0)), [torch.tensor(1.5)])
    assert report.verdict == "agrees"
