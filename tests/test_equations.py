"""Displayed equations: `=` and `≈` are earned, and what is read back from the page is recomputed."""

import math
import re
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradexplain.mathematics.digits import rounding_of, shortest
from gradexplain.mathematics.equations import (
    CONTRADICTED,
    EXACT,
    ROUNDED,
    STORED,
    Equation,
    half_unit,
    holds,
    read_equations,
    recomputed,
    unwrapped,
)
from gradexplain.mathematics.equations import equation as equation_in
from gradexplain.mathematics.evaluation import is_explained
from gradexplain.mathematics.terms import Apply, Constant, Number, Term, product, text, total

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def equation(label: str, term: Term, value: float, dtype: torch.dtype = torch.float64) -> Equation:
    return equation_in(label, term, value, rounding_of(dtype))


NEGATIVE_CONTROLS = [
    # Equations printed by other tools, or rounded for display: "=" would be false.
    ("(1 + 2 + 3)²", EXACT, "14"),
    ("0.8707300", EXACT, "0.4353650"),
    ("100 × (0.91 - 1)", EXACT, "-8.75"),
    ("2.00 × 0.20", EXACT, "0.39"),
    ("(-3.00) × 0.20", EXACT, "-0.59"),
    ("(1 - 0.73) × 0.73", EXACT, "0.20"),
    ("-1 / 1.37²", EXACT, "-0.53"),
    ("exp(1.5)", EXACT, "4.4817"),
    ("exp(1.5)", ROUNDED, "4.4818"),
    ("1 - 1", ROUNDED, "1.1921e-07"),
    ("0 × inf", EXACT, "0"),
    ("1 / 0", ROUNDED, "inf"),
    # One unit of the last digit off: what intervals of the operands cannot see.
    ("1.2346 × 2.3457", ROUNDED, "2.8970"),
    ("1.2346 × 2.3457", ROUNDED, "2.8961"),
    ("1.4963 × 2.3074", ROUNDED, "3.4525"),
    ("0.5 + 0.00005", ROUNDED, "0.5001"),
    ("1.2345 + 0.00005", ROUNDED, "1.2346"),  # half a unit: another calculator rounds to the other side
    ("erf(0.25)", ROUNDED, "0.27634"),
    ("lgamma(2.0001)", ROUNDED, "4.2288e-05"),
    ("tanh(1e-40)", ROUNDED, "1.0001e-40"),
    # Exact is exact: what is left is 1e-7, 5e-55, 2e-127 and 3e-430.
    ("3e+38 + 1e-07", EXACT, "3e+38"),
    ("ln(sigmoid(125))", EXACT, "0"),
    ("ln(sigmoid(-200))", EXACT, "-200"),
    ("ln(sigmoid(-200))", ROUNDED, "-200.01"),
    ("sin(1e-42)", EXACT, "1e-42"),
    ("(-996) × sigmoid(-996)", EXACT, "0"),
    ("2^0.5", EXACT, "1.4142135623730950488"),
    # A number of fewer than five digits is exact.
    ("exp(1)", ROUNDED, "3"),
    ("1.459 / 3", ROUNDED, "0.4863"),
    ("1e-10", ROUNDED, "0"),
]
POSITIVE_CONTROLS = [
    ("1²", EXACT, "1"),
    ("1 + 4 + 9", EXACT, "14"),
    ("1 × 2 × 3", EXACT, "6"),
    ("(-2) × 3", EXACT, "-6"),
    ("2⁻¹", EXACT, "0.5"),
    ("4^0.5", EXACT, "2"),
    ("exp(0)", EXACT, "1"),
    ("exp(1.5)", ROUNDED, "4.4817"),
    ("ln(0.17530)", ROUNDED, "-1.7413"),
    ("0.78560 - 1", ROUNDED, "-0.21440"),
    ("0 × (1 / (2 × sqrt(0)))", EXACT, "nan"),
    ("1 / 0", EXACT, "inf"),
    ("ln(0)", EXACT, "-inf"),
    ("sqrt(-1)", EXACT, "nan"),
    ("1e-05 × 1e-05", EXACT, "1e-10"),
    ("maximum(2, 3)", EXACT, "3"),
    ("maximum(0.5, -inf)", EXACT, "0.5"),
    ("minimum(inf, 0.25)", EXACT, "0.25"),
    ("1 × (-(1²))", EXACT, "-1"),
    ("1 × (-((-3)²))", EXACT, "-9"),
    ("2 × π", ROUNDED, "6.2832"),
    ("3e+38 + 1e-07", ROUNDED, "3e+38"),
    ("sin(1e-42)", ROUNDED, "1e-42"),
    ("ln(sigmoid(125))", ROUNDED, "-5.1664e-55"),
    ("exp(1e-40) - 1", ROUNDED, "1e-40"),
    ("ln(sigmoid(-200))", ROUNDED, "-200"),
    ("1 / inf", EXACT, "0"),
    ("erf(-inf)", EXACT, "-1"),
    ("atan(inf)", ROUNDED, "1.5708"),
    ("0.25^0.5", EXACT, "0.5"),
    ("rsqrt(0.0625)", EXACT, "4"),
    ("log2(0.125)", EXACT, "-3"),
    ("log10(1000)", EXACT, "3"),
    ("0.1 + 0.2", EXACT, "0.3"),
]


@pytest.mark.parametrize(("expression", "relation", "result"), NEGATIVE_CONTROLS)
def test_a_false_equation_is_refused(expression: str, relation: str, result: str) -> None:
    assert not holds(expression, relation, result)


@pytest.mark.parametrize(("expression", "relation", "result"), POSITIVE_CONTROLS)
def test_a_true_equation_is_accepted(expression: str, relation: str, result: str) -> None:
    assert holds(expression, relation, result)


# fmt: off
NO_EXPRESSIONS = [
    "", "1 +", "(1", "f(2)", "1 2", "__import__", "1; 2", "9^9999999999", "exp()", "exp(0, 0)", "exp", "2**0", "1 // 1",
    "1_000", "0x1", "1j", "'1'", "(1, 2)", "1 if 1 else 1", "+1", "exp(a=0)", "exp(*1)", "π(1)", "1(1)", "[1][0]",
    "1 < 2", "lambda", " + ".join(["1"] * 5000),
]
# fmt: on


@pytest.mark.parametrize("text", NO_EXPRESSIONS)
def test_what_is_no_expression_holds_nothing(text: str) -> None:
    assert not holds(text, EXACT, "1")


# Functions near where they turn, vanish or bend, and the digits that a calculator of 60 digits shows of them.
VALUES = [
    ("sin(3.1416)", mpmath.sin, "3.1416"),
    ("ln(1.0001)", mpmath.log, "1.0001"),
    ("lgamma(1.4616)", mpmath.loggamma, "1.4616"),
    ("lgamma(2.0001)", mpmath.loggamma, "2.0001"),
    ("digamma(1.4616)", mpmath.digamma, "1.4616"),
    ("trigamma(0.5)", lambda x: mpmath.psi(1, x), "0.5"),
    ("tanh(0.34567)", mpmath.tanh, "0.34567"),
    ("erf(0.78901)", mpmath.erf, "0.78901"),
    ("erfc(9.8765)", mpmath.erfc, "9.8765"),
    ("erfinv(0.98765)", mpmath.erfinv, "0.98765"),
    ("log1p(1e-30)", mpmath.log1p, "1e-30"),
    ("expm1(1.2345e-30)", mpmath.expm1, "1.2345e-30"),
    ("i1(2.3456)", lambda x: mpmath.besseli(1, x), "2.3456"),
    ("sinc(1.0001)", mpmath.sincpi, "1.0001"),
]


@pytest.mark.parametrize(("expression", "function", "operand"), VALUES, ids=[v[0] for v in VALUES])
@pytest.mark.parametrize("digits", [5, 9])
def test_a_result_stands_within_half_a_unit_of_its_last_digit_and_one_unit_beside_it_does_not(
    expression: str, function: Callable[[mpmath.mpf], mpmath.mpf], operand: str, digits: int
) -> None:
    with mpmath.workdps(60):
        value = function(mpmath.mpf(operand))
        shown = f"{float(value):#.{digits}g}"
        unit = 2 * half_unit(shown)
        beside = mpmath.mpf(shown) + mpmath.mpf(unit.numerator) / unit.denominator
        other = mpmath.nstr(beside, digits, strip_zeros=False, min_fixed=-5, max_fixed=9)
        assert abs(value - mpmath.mpf(shown)) <= abs(value - mpmath.mpf(other))
    assert holds(expression, ROUNDED, shown)
    assert not holds(expression, ROUNDED, other)
    assert not holds(expression, EXACT, shown)


@pytest.mark.parametrize(
    ("result", "half"),
    [("2.8970", 5e-5), ("-0.0012300", 5e-8), ("12345", 0.5), ("1.2346e-40", 5e-45), ("0.5", 5e-6), ("3", 5e-5)],
)
def test_half_a_unit_is_that_of_the_last_digit_and_of_the_fifth_where_fewer_stand_there(
    result: str, half: float
) -> None:
    assert float(half_unit(result)) == pytest.approx(half, rel=1e-12)


def test_the_precision_of_mpmath_is_left_alone() -> None:
    before = mpmath.mp.prec, mpmath.iv.prec
    assert holds("exp(1.5)", ROUNDED, "4.4817")
    assert (mpmath.mp.prec, mpmath.iv.prec) == before == (53, 53)


def test_a_product_that_underflows_is_stored_and_one_of_the_wrong_sign_is_a_contradiction() -> None:
    assert equation("x", Number(1e-30) * Number(-1e-30), 0.0, torch.float32).relation == STORED
    assert equation("x", Number(4e-3) ** 4, 0.0, torch.float16).relation == STORED
    assert equation("x", Number(1e-30) * Number(-1e-30), 0.0).relation == CONTRADICTED
    assert equation("x", Number(1000.0) ** -1, 0.04).relation == CONTRADICTED


def test_the_sign_of_equality_tells_exact_from_rounded() -> None:
    assert str(equation("u[0]", Number(3.0) ** 2, 9.0)) == "u[0]: 3² = 9"
    assert str(equation("e", Apply("exp", (Number(1.5),)), math.exp(1.5))) == "e: exp(1.5) ≈ 4.4817"


def test_cancellation_is_shown_with_the_digits_that_it_needs() -> None:
    found = equation("d", Number(1.0000001) - Number(1.0), 1.0000001 - 1.0)
    assert found.expression == "1.0000001 - 1"


def test_what_the_machine_rounds_away_is_no_equation() -> None:
    assert equation("s", Number(1e8) + Number(1.0), 1e8, torch.float32).relation == STORED
    assert equation("s", Number(1e8) + Number(1.0), 1e8).relation == CONTRADICTED
    assert equation("o", Apply("exp", (Number(1000.0),)), math.inf).relation == STORED
    assert equation("o", Apply("exp", (Number(100.0),)), math.inf, torch.float32).relation == STORED
    assert equation("o", Apply("exp", (Number(100.0),)), math.inf).relation == CONTRADICTED
    infinite = Apply("exp", (Number(1000.0),))
    assert equation("o", infinite - infinite, math.nan).relation == STORED


CONTRADICTIONS = [
    (Number(3.0) ** 2, 8.0),
    (Number(3.0) * Number(2.0), -6.0),
    (Number(3.0) * Number(2.0), math.nan),
    (Number(3.0) * Number(2.0), math.inf),
    (Number(1e3) - Number(1.0), 0.0),
    (Apply("exp", (Number(2.0),)), 7.2),
    (Apply("exp", (Number(1.0),)), 5.4366),
]


@pytest.mark.parametrize(("term", "value"), CONTRADICTIONS)
def test_what_no_rounding_makes_is_a_contradiction_and_not_recomputed(term: Term, value: float) -> None:
    for dtype in TYPES:
        found = equation("x", term, value, dtype)
        assert found.relation == CONTRADICTED, dtype
        assert recomputed([found], str(found)) == 0


# By one operation of a machine, the type, and how large the operands are: a double rounds what it is held against.
OPERATIONS: dict[str, Callable[..., object]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "exp": torch.exp,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "erf": torch.erf,
    "lgamma": torch.lgamma,
    "sigmoid": torch.sigmoid,
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_torch_computes_is_no_contradiction_and_three_roundings_more_are_one(
    name: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-42, 1e-4, 1.0, 30.0):
        for _ in range(5):
            pair = [torch.randn((), generator=generator, dtype=torch.float64).mul(scale).to(dtype) for _ in "ab"]
            pair = pair[: 2 if name in "+-*/" else 1]
            value = OPERATIONS[name](*pair)
            assert isinstance(value, torch.Tensor)
            operands = tuple(Number(shortest(t.item(), dtype)) for t in pair)
            found = equation("x", Apply(name, operands), shortest(value.item(), dtype), dtype)
            assert found.relation != CONTRADICTED, found
            assert recomputed([found], str(found)) == 1
            if scale == 1.0 and name in ("*", "/", "exp", "sigmoid"):
                off = float(value) * (1 + 12 * torch.finfo(dtype).eps)
                assert not is_explained(text(Apply(name, operands), 17), off, rounding_of(dtype)), found


def test_where_nothing_is_known_of_the_rounding_off_the_page_it_may_explain_a_number() -> None:
    term = product(Number(1.0), Number(0.25))
    assert equation_in("x", term, 0.26, rounding_of(torch.float32)).relation == CONTRADICTED
    assert equation_in("x", term, 0.26, rounding_of(torch.float32), lambda: 0.02).relation == STORED


def test_guard_digits_let_a_calculator_come_to_the_last_digit() -> None:
    generator = torch.Generator().manual_seed(0)
    for a, b in (torch.rand(200, 2, generator=generator) + 1).tolist():
        value = torch.tensor(a) * torch.tensor(b)
        term = product(*(Number(shortest(v, torch.float32)) for v in (a, b)))
        found = equation("x", term, shortest(value.item(), torch.float32), torch.float32)
        left, right = (mpmath.mpf(part) for part in found.expression.split(" × "))
        assert found.relation in (EXACT, ROUNDED)
        half = half_unit(found.result)
        assert abs(left * right - mpmath.mpf(found.result)) <= mpmath.mpf(half.numerator) / half.denominator


@pytest.mark.parametrize("text", ["exp(exp(700000000))", "1e999999999", "2^1000000 × 9^1000000", "exp(9e99)"])
def test_a_number_beyond_display_takes_no_time(text: str) -> None:
    assert not holds(text, ROUNDED, "1.2346")


numbers = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6))
def test_every_sum_of_products_has_an_equation_that_holds(pairs: list[tuple[float, float]]) -> None:
    term = total([product(Number(a), Number(b)) for a, b in pairs])
    found = equation("x", term, math.fsum(a * b for a, b in pairs))
    assert found.relation in (EXACT, ROUNDED, STORED)
    assert found.relation == STORED or holds(found.expression, found.relation, found.result)
    assert recomputed([found], str(found)) == 1


EXAMPLES: list[tuple[Term, float]] = [
    (Number(3.0) ** 2, 9.0),
    (total([Number(1.0), Number(4.0), Number(9.0)]), 14.0),
    (product(Number(0.7856), Number(1.5)), 0.7856 * 1.5),
    (Apply("exp", (Number(1.5),)), math.exp(1.5)),
    (Number(2 / 3) * Number(1 / 7), 2 / 21),
    (Constant(1.0) - Number(0.96403) ** 2, 1 - 0.96403**2),
    (Number(-1.2345678) / Number(0.3456789), -1.2345678 / 0.3456789),
    (total([product(Number(i / 7), Number(i / 3)) for i in range(1, 6)]), sum(i * i / 21 for i in range(1, 6))),
]


def edits(shown: str) -> dict[str, str]:
    """Returns the page with its result edited: sign, factor 2, last digit either way."""
    head, result = shown.rsplit(" ", 1)
    last = max(i for i, c in enumerate(result.partition("e")[0]) if c.isdigit())
    bumped = {d: result[:last] + str((int(result[last]) + d) % 10) + result[last + 1 :] for d in (1, 9)}
    flipped = result[1:] if result.startswith("-") else f"-{result}"
    return {"sign": f"{head} {flipped}", "factor": f"{head} {float(result) * 2:g}"} | {
        f"digit {d}": f"{head} {text}" for d, text in bumped.items()
    }


@pytest.mark.parametrize(("term", "value"), EXAMPLES)
def test_every_planted_edit_of_a_result_is_caught(term: Term, value: float) -> None:
    shown = equation("x", term, value)
    assert recomputed([shown], str(shown)) == 1
    for name, page in edits(str(shown)).items():
        assert recomputed([shown], page) == 0, name


@pytest.mark.parametrize(("term", "value"), EXAMPLES)
def test_every_planted_edit_of_an_operand_is_caught(term: Term, value: float) -> None:
    shown = equation("x", term, value)
    for match in re.finditer(r"\d+(\.\d+)?", shown.expression):
        digit = match.end() - 1
        bumped = str((int(shown.expression[digit]) + 1) % 10)
        page = f"x: {shown.expression[:digit]}{bumped}{shown.expression[digit + 1 :]} {shown.relation} {shown.result}"
        assert recomputed([shown], page) == 0, page


def test_equations_are_found_side_by_side_and_across_broken_lines() -> None:
    page = " numbers  a: 1 + 1 = 2    b[0, 1]: 2 × 3 = 6\n          c: 1 + 2 +\n          ↪ 3 = 6\n"
    found = [e.label for line in unwrapped(page) for e in read_equations(line.replace(" numbers  ", ""))]
    assert found == ["a", "b[0, 1]", "c"]


def test_prose_with_a_colon_is_not_taken_for_an_equation() -> None:
    assert read_equations("seed: the pass starts with = 1") == []


@pytest.mark.parametrize(
    ("expression", "value", "dtype"),
    [
        ("tan(1.57)", math.tan(1.5703125), torch.bfloat16),  # between the digits and the number lies a pole
        ("tan(1.571)", math.tan(1.5712890625), torch.float16),
        ("cosh(0)", 1.0, torch.bfloat16),
        ("lgamma(1.46)", -0.12148629053584961, torch.bfloat16),
        ("digamma(-1)", 256.0, torch.bfloat16),
    ],
)
def test_the_rounding_of_an_operand_is_carried_over_poles_and_turns(
    expression: str, value: float, dtype: torch.dtype
) -> None:
    """A numeral of a half type stands for the nearest number of the type, which a pole may part from it."""
    kept = float(torch.tensor(value, dtype=dtype))
    assert is_explained(expression, kept, rounding_of(dtype))
    assert not is_explained("tan(0.5)", 2 * math.tan(0.5), rounding_of(dtype))
    assert not is_explained("lgamma(3)", 1.0, rounding_of(dtype))
