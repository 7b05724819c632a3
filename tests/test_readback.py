"""Pages are read back with a calculator of the script's own, in both languages and every format."""

import importlib.util
import re
from collections import Counter
from types import ModuleType

import pytest
import torch
from documents import ROOT

import gradexplain as gx

SAMPLES = {
    "products": lambda x: (x * x.flip(0) * 1.2345).sum(),
    "functions": lambda x: (torch.exp(x) * torch.erf(x) / (1 + x.sigmoid())).sum(),
    "a softmax": lambda x: torch.log_softmax(x, 0)[0],
    "a norm": lambda x: torch.nn.functional.layer_norm(x, x.shape).prod(),
    "two uses": lambda x: (x.tanh() * x).sum() - x.var(),
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readback", ROOT / "scripts" / "readback.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_calculator_confirms_every_equation_of_every_page(name: str, dtype: torch.dtype, script: ModuleType) -> None:
    x = torch.rand(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) + 0.5
    explanation = gx.explain(SAMPLES[name], {"x": x}, effort=0.1)
    counts: Counter[str] = Counter()
    assert script.read([explanation], counts) == []
    assert counts["≠"] == 0
    shown = len(explanation.equations) * counts["pages"]
    assert shown == sum(counts[sign] for sign in "=≈↦"), "each equation is read on each page"
    assert counts["≈"] or dtype == torch.float16


def test_a_page_with_one_last_digit_changed_is_not_confirmed(script: ModuleType) -> None:
    """Every digit that ends a result after ≈ is changed by one, in each format."""
    x = torch.tensor([1.4963, 2.3074], dtype=torch.float64)
    explanation = gx.explain(lambda x: (torch.exp(x) * x).sum(), {"x": x}, effort=0.1)
    for page in script.pages(explanation):
        found = [e for e in script.equations(page) if e[1] == "≈"]
        assert found
        for expression, sign, result in found:
            last = int(re.findall(r"\d", result.partition("e")[0])[-1])
            place = result.partition("e")[0].rindex(str(last))
            for other in {(last + 1) % 10, (last - 1) % 10}:
                assert not script.confirmed(expression, sign, f"{result[:place]}{other}{result[place + 1 :]}")


def test_the_calculator_knows_what_a_reader_knows(script: ModuleType) -> None:
    assert not script.confirmed("1.2346 × 2.3457", "≈", "2.8970")
    assert script.confirmed("1.2346 × 2.3457", "≈", "2.8960")
    assert script.confirmed("2 × π", "≈", "6.2832")
    assert script.confirmed("(-2)³", "=", "-8")
    assert not script.confirmed("3e+38 + 1e-07", "=", "3e+38")
    assert script.confirmed("ln(0)", "=", "-inf")
