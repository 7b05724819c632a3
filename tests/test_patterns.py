"""What an error looks like: said where it fits everywhere, and not where it fits by chance."""

import math

import pytest
import torch
from torch import Tensor

from gradexplain.verification.oracles.patterns import Pattern, beside, pattern, shown, simplest

X = torch.tensor([[0.3, -1.2, 2.0], [1.7, 0.6, -0.4], [0.9, -2.1, 1.1]], dtype=torch.float64)
Y = torch.tensor([[1.3, 0.2, -0.7], [0.8, -1.6, 2.4], [-0.5, 1.9, 0.1]], dtype=torch.float64)


def look(seen: Tensor, right: Tensor, bound: float = 1e-9, at: list[int] | None = None) -> Pattern:
    positions = None if at is None else torch.tensor(at)
    known = right if positions is None else right.flatten()[positions]
    here = seen if positions is None else seen.flatten()[positions]
    slack = torch.full_like(known, bound)
    wrong = ~((here - known).abs() <= slack)
    tensors = {"x": X, "y": Y} if seen.shape == X.shape else {}
    return pattern(beside(seen, known, slack, wrong, positions=positions, tensors=tensors), seen.shape, positions)


def off(tensor: Tensor, place: tuple[int, int], factor: float) -> Tensor:
    found = tensor.clone()
    found[place] *= factor
    return found


RIGHT = X.sin() + Y
# fmt: off
LOOKS: dict[str, tuple[Tensor, Tensor, str, dict[str, object]]] = {
    "half":          (RIGHT / 2,               RIGHT,         "factor",       {"factor": "1/2"}),
    "thousandth":    (RIGHT * 1.001,           RIGHT,         "factor",       {"factor": "1.001"}),
    "a mean":        (RIGHT / 77,              RIGHT,         "factor",       {"factor": "1/77"}),
    "any number":    (RIGHT * math.e,          RIGHT,         "factor",       {"factor": "2.71828"}),
    "sign":          (-RIGHT,                  RIGHT,         "sign",         {}),
    "zero":          (RIGHT * 0,               RIGHT,         "zero",         {}),
    "transposed":    (RIGHT.mT,                RIGHT,         "transposed",   {}),
    "one":           (off(RIGHT, (1, 2), 3.0), RIGHT,         "one-factor",   {"factor": "3", "place": (1, 2)}),
    "no factor":     (RIGHT + (X > 1.9) * 0.1 + (Y > 2) * 0.7, RIGHT, "elements", {"count": 2, "total": 9}),
    "missing":       (RIGHT,                   RIGHT * X,     "missing",      {"factor": "x"}),
    "missing 2y":    (RIGHT,                   2 * RIGHT * Y, "missing",      {"factor": "2*y"}),
    "superfluous":   (RIGHT * Y,               RIGHT,         "superfluous",  {"factor": "y"}),
    "term":          (RIGHT,                   RIGHT + X * Y, "term-missing", {"term": "x*y"}),
    "term off":      (RIGHT + 3 * X,           RIGHT,         "term-extra",   {"term": "3*x"}),
    "offset":        (RIGHT + 0.25,            RIGHT,         "offset",       {"offset": 0.25}),
    "masked":        (RIGHT * (X > 0),         RIGHT,         "masked",       {}),
    "unmasked":      (RIGHT,                   RIGHT * (X > 0), "unmasked",   {}),
    "anything":      (RIGHT,                   RIGHT.exp(),   "elements",     {"count": 9, "total": 9}),
    "nan":           (off(RIGHT, (0, 1), math.nan), RIGHT,    "elements",     {"count": 1, "place": (0, 1)}),
}
# fmt: on


@pytest.mark.parametrize("name", LOOKS)
def test_an_error_is_recognised(name: str) -> None:
    seen, right, kind, data = LOOKS[name]
    found = look(seen, right)
    assert found.kind == kind
    assert {key: found.data[key] for key in data} == data


@pytest.mark.parametrize("name", ["half", "sign", "zero", "transposed", "missing", "superfluous", "term", "offset"])
def test_some_elements_are_enough(name: str) -> None:
    seen, right, kind, _ = LOOKS[name]
    found = look(seen, right, at=[5, 1, 6, 3])
    assert found.kind == kind
    assert found.place == (1, 2)


@pytest.mark.parametrize("name", ["half", "sign", "missing", "superfluous", "term", "offset"])
def test_a_pattern_that_misses_one_element_is_not_said(name: str) -> None:
    seen, right, kind, _ = LOOKS[name]
    assert look(off(seen, (2, 2), 1.0001), right).kind != kind


def test_a_tensor_is_no_factor_where_one_element_alone_tells() -> None:
    right = torch.zeros(3, 3, dtype=torch.float64)
    right[0, 0] = 1.0
    assert look(right * X, right).kind != "superfluous"


@pytest.mark.parametrize(
    ("value", "slack", "expected"),
    [
        (0.5000000001, 1e-9, "1/2"),
        (1 / 3 + 1e-12, 1e-11, "1/3"),
        (-0.3, 1e-9, "-0.3"),
        (1.001000000003, 1e-10, "1.001"),
        (1.0000001, 1e-12, "1.0000001"),
        (1 / 1024, 1e-12, "1/1024"),
        (16.0, 1e-9, "16"),
        (math.pi, 1e-15, "3.14159"),
        (0.0, 1e-12, "0"),
    ],
)
def test_numbers_are_shown_as_people_write_them(value: float, slack: float, expected: str) -> None:
    assert shown(simplest(value, slack)) == expected


def test_the_bounds_decide_how_simple_a_number_may_be() -> None:
    assert simplest(0.5003, 1e-3) == 0.5
    assert simplest(0.5003, 1e-6) == 0.5003
