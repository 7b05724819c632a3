"""A backward that is meant to be that of another function is verified as that, and a mistake in it is found."""

from collections.abc import Callable

import pytest
import torch
from pairs import identity, rounded, smooth, spikes, wrong_spikes
from torch import Tensor, nn

import gradexplain as gx

TYPES = (torch.float64, torch.bfloat16)


def points(dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("function", "meant"), [(spikes, smooth), (rounded, identity)])
def test_a_surrogate_is_the_gradient_of_what_it_is_meant_to_be(
    dtype: torch.dtype, function: Callable, meant: Callable
) -> None:
    report = gx.verify(function, points(dtype), as_if=meant)
    assert report.verdict == "agrees"
    assert gx.verify(function, points(dtype)).verdict != "agrees"
    found = gx.compare(function, inputs=points(dtype), as_if=meant)
    assert found.verdict == "same"
    assert {c.kind for c in found.tensors} == {"gradient"}
    assert found.findings[0].code == "compared-as"
    assert report.findings[0].code == "verified-as"
    page = " ".join(str(report).split())
    assert f"✓ As that of {report.findings[0].data['meant']}: The gradient is right" in page
    assert "values were not compared" in page


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("function", "meant"),
    [(wrong_spikes, smooth), (lambda x: rounded(x) * 1.01, identity), (spikes, lambda x: smooth(x) + 0.02 * x)],
)
def test_a_mistake_in_a_surrogate_is_found(dtype: torch.dtype, function: Callable, meant: Callable) -> None:
    assert gx.verify(function, points(dtype), as_if=meant).verdict == "differs"
    assert gx.compare(function, inputs=points(dtype), as_if=meant).verdict == "differs"
    with pytest.raises(AssertionError, match="wrong"):
        gx.assert_gradients(function, points(dtype), as_if=meant)


class Quantised(nn.Module):
    """A linear map whose weights are rounded straight through; as it is meant, they are not."""

    def __init__(self, *, plainly: bool = False) -> None:
        super().__init__()
        self.weight, self.plainly = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4)), plainly

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight if self.plainly else self.weight + (self.weight.round() - self.weight).detach()).T


def test_the_parameters_of_what_is_meant_have_the_numbers_of_what_ran() -> None:
    model, meant = Quantised(), Quantised(plainly=True)
    with torch.no_grad():
        meant.weight.zero_()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    report = gx.verify(model, [x], as_if=meant, wrt="weight")
    assert (report.verdict, report.checks[0].input) == ("agrees", "weight")
    assert not meant.weight.any()
    assert gx.verify(model, [x], as_if=meant).of("x") == "differs"


@pytest.mark.parametrize("option", ["full", "second", "batched", "each_operation"])
def test_what_asks_about_the_function_that_ran_is_refused(option: str) -> None:
    with pytest.raises(gx.InputError, match=f"{option} does not apply"):
        gx.verify(spikes, points(torch.float64), as_if=smooth, **{option: True})


def test_what_cannot_be_meant_is_refused(command: Callable) -> None:
    with pytest.raises(gx.InputError, match="the gradient of one cannot be that of the other"):
        gx.verify(spikes, points(torch.float64), as_if=lambda x: smooth(x).sum())
    with pytest.raises(gx.InputError, match="the gradient of one cannot be that of the other"):
        gx.compare(spikes, inputs=points(torch.float64), as_if=lambda x: smooth(x).sum())
    with pytest.raises(gx.InputError, match="what one target is held against"):
        gx.compare(spikes, smooth, points(torch.float64), as_if=smooth)
    both = command("compare", "x**2", "x=1,2", "--as-if", "x**2", "--against", "float64")
    assert (both.code, "--as-if FUNCTION" in both.err) == (2, True)
    assert command("verify", "x**2", "x=1,2", "--as-if", "nothing.py:f").code == 2
    right = command("verify", "round(x)", "x=1.2,2.3", "--as-if", "x*0")
    assert right.code == 0, right.out
