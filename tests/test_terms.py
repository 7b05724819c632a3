"""Terms: formulas typeset, folded and written out."""

import math

import numpy as np
import pytest

from gradexplain.mathematics.terms import (
    Apply,
    Constant,
    Number,
    Term,
    number_text,
    product,
    symbolic_text,
    terms_of,
    text,
    total,
)

FORMULAS = [
    ("n*x**(n-1)", {"n": 2.0}, "2·x"),
    ("n*x**(n-1)", {"n": 3.0, "x": "h"}, "3·h²"),
    ("n*x**(n-1)", {}, "n·x^(n - 1)"),
    ("n*x**(n-1)", {"n": 0.5}, "0.5·x^(-0.5)"),
    ("1 - y**2", {"y": "h"}, "1 - h²"),
    ("x + alpha*z", {"alpha": 1.0}, "x + z"),
    ("x + alpha*z", {"alpha": 2.0}, "x + 2·z"),
    ("where(x > 0, 1, 0)", {}, "1 if x > 0 else 0"),
    ("where(x >= 0, where(x <= 1, 1, 0), 0)", {}, "(1 if x ≤ 1 else 0) if x ≥ 0 else 0"),
    ("a - (b - c)", {}, "a - (b - c)"),
    ("a / (b * c)", {}, "a / (b·c)"),
    ("(a / b) * c", {}, "(a / b)·c"),
    ("-x / z**2", {}, "-x / z²"),
    ("(-x)**2", {}, "(-x)²"),
    ("2/sqrt(pi)*exp(-x**2)", {}, "(2 / sqrt(π))·exp(-x²)"),
    ("log(x)", {}, "ln(x)"),
    ("x*z", {"z": 2.0}, "2·x"),
    ("minimum(maximum(x, low), high)", {"low": 0.0, "high": math.inf}, "maximum(x, 0)"),
    ("minimum(maximum(x, low), high)", {"low": -math.inf, "high": 6.0}, "minimum(x, 6)"),
    ("where(x >= low, where(x <= high, 1, 0), 0)", {"low": 0.0, "high": math.inf}, "1 if x ≥ 0 else 0"),
    ("where(x >= low, where(x <= high, 1, 0), 0)", {"low": -math.inf, "high": 6.0}, "1 if x ≤ 6 else 0"),
    ("where(x < low, where(low <= high, 1, 0), 0)", {"high": math.inf}, "1 if x < low else 0"),
    ("g*(-y**2)", {}, "g·(-y²)"),
]


@pytest.mark.parametrize(("formula", "variables", "expected"), FORMULAS)
def test_a_formula_is_typeset(formula: str, variables: dict[str, object], expected: str) -> None:
    assert symbolic_text(formula, variables) == expected


def test_numbers_of_the_run_are_never_folded_away() -> None:
    assert text(Number(1.0) * 1 + Number(0.0), 5) == "1 + 0"
    assert text(product(Number(1.0), Constant(1.0)), 5) == "1 × 1"
    assert text(total([]), 5) == "0"


def test_the_sign_before_a_power_of_a_number_is_not_read_as_the_numbers_own() -> None:
    sent = [product(Number(1.0), -(Number(y) ** 2)) for y in (1.0, -3.0)]
    assert [text(term, 5) for term in sent] == ["1 × (-(1²))", "1 × (-((-3)²))"]


def test_an_infinite_number_of_the_run_binds_and_is_shown() -> None:
    found = terms_of("maximum(x, z)", {"x": Number(2.0), "z": Number(-math.inf)})
    assert isinstance(found, Term)
    assert text(found, 5) == "maximum(2, -inf)"


def test_a_condition_on_numbers_picks_its_branch() -> None:
    found = [terms_of("where(x > 0, x, 0.1*x)", {"x": Number(v)}) for v in (2.0, -2.0)]
    assert [text(t, 5) for t in found if isinstance(t, Term)] == ["2", "0.1 × (-2)"]


def test_a_condition_on_what_is_computed_from_numbers_picks_its_branch_too() -> None:
    found = [terms_of("where(abs(x) > l, x, 0)", {"x": Number(v), "l": Constant(0.5)}) for v in (-1.2, 0.3)]
    assert [text(t, 5) for t in found if isinstance(t, Term)] == ["(-1.2)", "0"]


def test_arrays_of_terms_multiply_as_matrices_do() -> None:
    a = np.array([[Number(1.0), Number(2.0)]], dtype=object)
    b = np.array([[Number(3.0)], [Number(4.0)]], dtype=object)
    assert text((a @ b)[0, 0], 5) == "1 × 3 + 2 × 4"


def test_a_formula_cannot_reach_python() -> None:
    with pytest.raises(NameError):
        terms_of("open('x')", {})


NUMBERS = [
    (3.0, "3"),
    (-2.5, "-2.5"),
    (0.1, "0.1"),
    (2 / 3, "0.66667"),
    (0.785601, "0.78560"),
    (123456.0, "123456"),
    (75752.7, "75752.7"),
    (1234567.8, "1.2346e+06"),
    (1e-7, "1e-07"),
    (1.23456e-5, "1.2346e-05"),
    (1e12, "1e+12"),
    (0.0, "0"),
    (-0.0, "0"),
    (math.inf, "inf"),
    (-math.inf, "-inf"),
    (math.nan, "nan"),
]


@pytest.mark.parametrize(("value", "expected"), NUMBERS)
def test_a_number_shows_that_it_is_rounded_by_its_full_digits(value: float, expected: str) -> None:
    assert number_text(value, 5) == expected


def test_a_sum_to_the_right_of_a_minus_keeps_its_parentheses() -> None:
    assert text(Number(1.0) - (Number(2.0) + Number(3.0)), 5) == "1 - (2 + 3)"


def test_unknown_functions_keep_their_name() -> None:
    assert text(Apply("digamma", (Number(2.0),)), 5) == "digamma(2)"
