"""Networks: small ones in full, large ones by module, all with gradients that are torch's own and agree."""

from collections.abc import Callable

import pytest
import torch
from networks import NETWORKS, Transformer
from torch import nn

import gradexplain as gx
from gradexplain.explanation.grouping import groups_of


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_network_is_explained_and_agrees(make: Callable, seed: int) -> None:
    torch.manual_seed(seed)
    loss, inputs = make()
    found = gx.explain(loss, inputs)
    assert found.verdict == "agrees"
    assert all(step.rule is not None for step in found.steps)
    page = found.render("text")
    assert "≠" not in page
    leaves = [i.clone().requires_grad_(i.is_floating_point()) for i in inputs]
    expected = torch.autograd.grad(loss(*leaves), [leaf for leaf in leaves if leaf.requires_grad])
    own = [g for name, g in found.gradients.items() if "." not in name]
    assert all(torch.equal(a, b) for a, b in zip(own, expected, strict=True) if b is not None)


@pytest.fixture(scope="module")
def transformer() -> tuple[nn.Module, torch.Tensor, gx.Explanation]:
    torch.manual_seed(0)
    net = Transformer()
    ids = torch.randint(0, 50257, (1, 16))
    return net, ids, gx.explain(net, [ids])


@pytest.mark.thorough
def test_a_transformer_of_124_million_parameters_is_explained(transformer) -> None:
    net, ids, found = transformer
    assert sum(p.numel() for p in net.parameters()) == 124_439_808
    assert (found.verdict, found.report.reason) == ("cannot say", "unseen")  # float32 has no digits for the smallest
    unseen = sum(int(found.report.unseen(name).sum()) for name in found.report.inputs)
    assert unseen < 0.01 * 124_439_808
    (expected,) = torch.autograd.grad(net(ids), net.layers[3].linear1.weight)
    assert torch.equal(found.gradients["layers.3.linear1.weight"], expected)


@pytest.mark.thorough
def test_its_repeated_blocks_share_a_line(transformer) -> None:
    _, _, found = transformer
    assert [g.paths for g in found.groups if len(g.paths) > 1] == [tuple(f"layers.{i}" for i in range(12))]
    page = found.render("text", width=120)
    assert "layers.0 … 11 (12×)" in page
    assert "148 parameters, 124,439,808 numbers" in page


@pytest.mark.thorough
def test_one_module_is_opened() -> None:
    net = Transformer(width=24, tokens=50, layers=4)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    page = gx.explain(net, [ids], module="layers.3.self_attn").render("text", width=120)
    assert "aten._scaled_dot_product_flash_attention_for_cpu" in page or "softmax" in page
    assert "layers.4" not in page.partition("Forward")[2].partition("Checked")[0]


def test_groups_follow_lists_and_join_equal_neighbours() -> None:
    modules = ["tok", "layers.0.a", "layers.0.b", "layers.1.a", "layers.1.b", "layers.2.a", "head"]
    operators = ["embed", "mm", "add", "mm", "add", "relu", "mm"]
    found = groups_of(modules, operators, {"layers.0": "Block", "layers.1": "Block", "layers.2": "Block"})
    assert [g.paths for g in found] == [("tok",), ("layers.0", "layers.1"), ("layers.2",), ("head",)]
    assert found[1].steps == ((1, 2), (3, 4))
    inside = groups_of(modules, operators, {}, scope="layers.0")
    assert [g.paths for g in inside] == [("layers.0.a",), ("layers.0.b",)]


def test_a_module_that_is_alone_is_opened_until_there_are_several() -> None:
    modules = ["", "net.0.a.x", "net.0.a.y", "net.0.b", "net.0", ""]
    found = groups_of(modules, ["op"] * 6, {"net.0.a": "Block"})
    assert [g.paths for g in found] == [("",), ("net.0.a",), ("net.0.b",), ("net.0",)]
    assert [g.steps for g in found] == [((0, 5),), ((1, 2),), ((3,),), ((4,),)]
    alone = groups_of(["net", "net", ""], ["op"] * 3, {})
    assert [g.paths for g in alone] == [("net",), ("",)]


def test_a_model_inside_a_loss_has_its_modules_and_what_shows_no_equation_counts_none() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Sequential(*[nn.Sequential(*[nn.Linear(4, 4) for _ in range(15)]) for _ in range(3)]))
    page = gx.explain(lambda x: net(x).square().mean(), {"x": torch.randn(2, 4)}).render("text", width=120)
    assert "net.0.0 … 2 (3×)" in page
    assert "0 of 0" not in page


def test_an_arrow_that_carries_nan_shows_it() -> None:
    f = lambda x: torch.where(x > 0, x.sqrt(), 2 * x).sum()  # noqa: E731
    assert "[nan, 0.5, 0.35355]" in gx.explain(f, {"x": torch.tensor([0.0, 1, 2])}).render("text", width=160)
    wide = gx.explain(f, {"x": torch.arange(6.0)}).render("text", width=160)
    assert "(6,) nan" in wide.partition("Graph:")[2].partition("Backward:")[0]


def test_cuda_tensors_are_explained_too() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.GELU(), nn.Linear(8, 3)).cuda()
    x = torch.randn(5, 4, device="cuda")
    state = torch.cuda.get_rng_state()
    found = gx.explain(lambda x: net(x).square().mean(), [x])
    assert found.verdict == "agrees"
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert found.gradients["x"] is not None
    assert found.gradients["x"].is_cuda
