"""`recording.holdings`: in whichever way modules reach a function, their parameters are its inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.recording.holdings import held_by

Words = Tensor


def table() -> nn.Embedding:
    return nn.Embedding(4, 2, _weight=torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]], dtype=torch.float64))


SHARED = table()
ROWS = [table()]


def squares(rows: Tensor) -> Tensor:
    return rows.square().sum()


def of_global(words: Words) -> Tensor:
    return squares(SHARED(words))


def of_global_inside(words: Words) -> Tensor:
    return torch.stack([squares(SHARED(w)) for w in words]).sum()


def of_list(words: Words) -> Tensor:
    return squares(ROWS[0](words))


def of_helper(words: Words) -> Tensor:
    return of_global(words) / 1


def counted(function: Callable[[Words], Tensor]) -> Callable[[Words], Tensor]:
    def inner(words: Words) -> Tensor:
        return function(words)

    return inner


class Loss:
    """A plain object with a module; it also holds one that it does not use here."""

    def __init__(self) -> None:
        self.net, self.teacher = table(), table()

    def looked_up(self, words: Words) -> Tensor:
        rows: Tensor = self.net(words)
        return rows

    def direct(self, words: Words) -> Tensor:
        return squares(self.net(words))

    def by_method(self, words: Words) -> Tensor:
        return squares(self.looked_up(words))

    def __call__(self, words: Words) -> Tensor:
        return self.direct(words)


def _closure() -> Any:
    own = table()
    return lambda words: squares(own(words))


def _closure_of_dict() -> Any:
    own = {"rows": table(), "name": "words"}
    return lambda words: squares(own["rows"](words))  # type: ignore[operator]


def _object_in_a_closure() -> Any:
    loss = Loss()
    return lambda words: loss(words)


def _of_keyword(words: Words, *, own: nn.Embedding = table()) -> Tensor:  # noqa: B008  # what is tested
    return squares(own(words))


def _given(own: Any, words: Words) -> Tensor:
    return squares(own(words))


_WAYS: dict[str, tuple[Any, str]] = {
    "closure": (_closure(), "own"),
    "dict in a closure": (_closure_of_dict(), "own['rows']"),
    "global": (of_global, "SHARED"),
    "global in an inner function": (of_global_inside, "SHARED"),
    "list": (of_list, "ROWS[0]"),
    "tuple by default": (lambda words, own=(table(),): squares(own[0](words)), "own[0]"),  # noqa: B008
    "default": (lambda words, own=table(): squares(own(words)), "own"),  # noqa: B008
    "keyword default": (_of_keyword, "own"),
    "another function": (of_helper, "SHARED"),
    "decorator": (counted(of_global), "SHARED"),
    "cache": (functools.lru_cache(of_global), "SHARED"),
    "partial": (functools.partial(_given, table()), "own"),
    "partial by name": (functools.partial(lambda words, own: squares(own(words)), own=table()), "own"),
    "partial of a lambda with a closure": (functools.partial(_closure()), "own"),
    "method": (Loss().direct, "net"),
    "method of a method": (Loss().by_method, "net"),
    "callable object": (Loss(), "net"),
    "callable object in a closure": (_object_in_a_closure(), "net"),
}


@pytest.mark.parametrize("way", _WAYS)
def test_a_module_is_found_in_whichever_way_it_is_reached(way: str) -> None:
    """Σ w² over the rows looked up has the gradient 2 · count · w, and nothing else is asked for."""
    function, owner = _WAYS[way]
    words = torch.tensor([0, 1, 1])
    explanation = gx.explain(function, {"words": words})
    assert list(explanation.gradients) == [f"{owner}.weight"]
    count = torch.tensor([1.0, 2, 0, 0], dtype=torch.float64)[:, None]
    assert torch.equal(explanation.gradients[f"{owner}.weight"], 2 * count * table().weight.detach())
    assert explanation.verdict == "agrees"


def test_partial_of_a_module_keeps_the_names_of_its_parameters() -> None:
    linear, teacher = nn.Linear(2, 1), nn.Linear(1, 1)
    modules, _ = held_by(functools.partial(linear.forward, teacher))
    assert modules == {"": linear, "input": teacher}
    forward = linear.forward
    assert held_by(lambda x: forward(x))[0] == {"": linear}


def test_modules_of_one_name_are_told_apart_and_shared_parameters_are_named_once() -> None:
    one, other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    tied = nn.Sequential(one)

    def first(net: nn.Module = one) -> Callable[[Tensor], Tensor]:
        return lambda x: net(x)  # type: ignore[no-any-return]

    def second(x: Tensor, net: nn.Module = other) -> Tensor:
        return net(x)  # type: ignore[no-any-return]

    inner = first()
    function = lambda x: (inner(x) + second(x) + tied(x)).sum()  # noqa: E731
    assert held_by(function)[0] == {"tied": tied, "net": one, "second.net": other}
    gradients = gx.explain(function, [torch.tensor([1.0, 2.0])]).gradients
    assert gradients.keys() == {"x", "tied.0.weight", "second.net.weight"}
    # d/dW Σ W x = 1 xᵀ, twice for the shared one
    assert gradients["tied.0.weight"].tolist() == [[2, 4], [2, 4]]
    assert gradients["second.net.weight"].tolist() == [[1, 2], [1, 2]]


def test_leaf_tensors_are_found_as_modules_are() -> None:
    w = torch.ones(2, requires_grad=True)
    function = lambda x, weights=(w, 1): (x * weights[0]).sum()  # noqa: E731
    assert held_by(function)[1] == {"weights[0]": w}


def test_functions_that_call_each_other_end_the_search() -> None:
    loss = Loss()
    loss.net.again = lambda words: loss.direct(words)  # type: ignore[assignment]
    loss.teacher = loss  # type: ignore[assignment]
    assert held_by(loss.by_method)[0] == {"net": loss.net}


class Listed(nn.Module):
    """Layers in a plain list and a dict, one of them registered as well."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        self.shared = nn.Linear(2, 2)
        layers: list[nn.Module] = [nn.Linear(2, 2), self.shared]
        heads: dict[str, nn.Module] = {"top": nn.Linear(2, 1)}
        self.layers: Any = nn.ModuleList(layers) if registered else layers
        self.heads: Any = nn.ModuleDict(heads) if registered else heads

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        made: Tensor = self.heads["top"](x).sum()
        return made


def test_modules_in_a_plain_list_are_named_judged_and_said_not_to_be_registered() -> None:
    torch.manual_seed(0)
    net, x = Listed(registered=False).double(), torch.ones(3, 2, dtype=torch.float64)
    for module in (net.layers[0], net.heads["top"]):
        module.double()
    report = gx.verify(net, [x], second=True)
    names = ["layers[0].weight", "layers[0].bias", "shared.weight", "shared.bias"]
    assert {*report.inputs} == {"x", *names, "heads['top'].weight", "heads['top'].bias"}
    assert report.verdict == "agrees"
    (finding,) = (f for f in report.findings if f.code == "unregistered")
    assert finding.data["names"] == "layers[0], heads['top']"
    assert "leaf" not in gx.graph(net, [x]).render("text")
    inside = gx.verify(lambda x: net(x) * 2, [x])
    assert "net.layers[0].weight" in inside.inputs
    registered = gx.verify(Listed(registered=True).double(), [x])
    assert "unregistered" not in {f.code for f in registered.findings}
