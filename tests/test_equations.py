"""Displayed equations: `=` and `≈` are earned, and what is read back from the page is recomputed."""

import math
import re
from collections.abc import Callable

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradexplain.mathematics.equations import (
    _INTERVALS,
    CONTRADICTED,
    EXACT,
    ROUNDED,
    STORED,
    _parsed,
    _value,
    equation,
    holds,
    read_equations,
    recomputed,
    unwrapped,
)
from gradexplain.mathematics.terms import Apply, Constant, Number, Term, product, total

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
    ("2 × π", ROUNDED, "6.2832"),
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


# An operand of five digits, and functions of it that turn, bend or end there; the operand is any number that rounds so.
TURNS = [
    ("sin({})", "1.5708", math.sin),
    ("cos({})", "3.1416", math.cos),
    ("(1.0000 - {})²", "1.0001", lambda x: (1 - x) ** 2),
    ("{}^0.3", "1.2345", lambda x: x**0.3),
    ("{}⁻³", "1.2345", lambda x: x**-3),
    ("abs({})", "1.2345", abs),
    ("cosh({})", "2.3456", math.cosh),
    ("lgamma({})", "1.4616", math.lgamma),
    ("1 / {}", "3.0003", lambda x: 1 / x),
    ("tanh({})", "0.34567", math.tanh),
    ("erf({})", "0.78901", math.erf),
    ("atan2(1, {})", "2.3456", lambda x: math.atan2(1, x)),
]


@pytest.mark.parametrize(
    ("expression", "shown", "function"), TURNS, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("part", [-1.0, -0.7, -0.2, 0.0, 0.3, 0.9, 1.0])
def test_what_any_operand_of_these_digits_gives_is_within_the_interval(
    expression: str, shown: str, function: Callable[[float], float], part: float
) -> None:
    half = 0.5 * 10.0 ** -len(shown.partition(".")[2])
    interval = _value(_parsed(expression.format(shown)), _INTERVALS)
    value = function(float(shown) + part * half)
    assert interval.a - 1e-15 <= value <= interval.b + 1e-15
    assert float(interval.delta.b) <= 4 * half * max(1, abs(value)), "and it is not wider than the operand makes it"


def test_the_precision_of_mpmath_is_left_alone() -> None:
    before = mpmath.mp.prec, mpmath.iv.prec
    assert holds("exp(1.5)", ROUNDED, "4.4817")
    assert (mpmath.mp.prec, mpmath.iv.prec) == before == (53, 53)


def test_a_product_that_underflows_is_stored_and_one_of_the_wrong_sign_is_a_contradiction() -> None:
    assert equation("x", Number(1e-30) * Number(-1e-30), 0.0).relation == STORED
    assert equation("x", Number(4e-7) ** 4, 0.0).relation == STORED
    assert equation("x", Number(1000.0) ** -1, 0.04).relation == CONTRADICTED


def test_the_sign_of_equality_tells_exact_from_rounded() -> None:
    assert str(equation("u[0]", Number(3.0) ** 2, 9.0)) == "u[0]: 3² = 9"
    assert str(equation("e", Apply("exp", (Number(1.5),)), math.exp(1.5))) == "e: exp(1.5) ≈ 4.4817"


def test_cancellation_is_shown_with_the_digits_that_it_needs() -> None:
    found = equation("d", Number(1.0000001) - Number(1.0), 1.0000001 - 1.0)
    assert found.expression == "1.0000001 - 1"


def test_what_the_machine_rounds_away_is_no_equation() -> None:
    assert equation("s", Number(1e8) + Number(1.0), 1e8).relation == STORED
    assert equation("o", Apply("exp", (Number(1000.0),)), math.inf).relation == STORED


CONTRADICTIONS = [
    (Number(3.0) ** 2, 8.0),
    (Number(3.0) * Number(2.0), -6.0),
    (Number(3.0) * Number(2.0), math.nan),
    (Number(3.0) * Number(2.0), math.inf),
    (Number(1e8) - Number(1.0), 0.0),
    (Apply("exp", (Number(1.0),)), 5.4366),
]


@pytest.mark.parametrize(("term", "value"), CONTRADICTIONS)
def test_what_no_rounding_makes_is_a_contradiction_and_not_recomputed(term: Term, value: float) -> None:
    found = equation("x", term, value)
    assert found.relation == CONTRADICTED
    assert recomputed([found], str(found)) == 0


numbers = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6))
def test_every_sum_of_products_has_an_equation_that_holds(pairs: list[tuple[float, float]]) -> None:
    term = total([product(Number(a), Number(b)) for a, b in pairs])
    found = equation("x", term, math.fsum(a * b for a, b in pairs))
    assert found.relation == STORED or holds(found.expression, found.relation, found.result)
    assert found.relation == STORED or recomputed([found], str(found)) == 1


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
