"""Graphs: the picture is exactly torch's graph, holds no tensor, and folds to a page at any size."""

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import PROGRAMS, bare_walk, chain, drawn_walk, leaf, on_several_threads, unrolled
from networks import NETWORKS, ResNet18, Transformer
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.recording.live import trace_live
from gradexplain.recording.nodes import is_leaf, nodes_below

ROOT = Path(__file__).parent.parent


# ------------------------------------------------------------------------------------------------- torch's graph


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_a_picture_has_exactly_torchs_nodes_edges_and_output_numbers(program: Callable[[], Tensor]) -> None:
    root = program()
    assert drawn_walk(gx.graph(root)) == bare_walk(root)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_producers_stand_before_their_consumers(program: Callable[[], Tensor]) -> None:
    assert all(edge.producer < edge.consumer for edge in gx.graph(program()).edges)


def test_what_several_threads_recorded_is_numbered_out_of_order_and_traced_in_order() -> None:
    root = on_several_threads()
    below = nodes_below(root.grad_fn)
    uses = [(child, node) for node in below for child, _ in node.next_functions if not is_leaf(child)]
    assert any(child._sequence_nr() >= node._sequence_nr() for child, node in uses)
    nodes = trace_live(root).nodes
    assert all(edge.producer < node.index for node in nodes for edge in node.edges)
    assert drawn_walk(gx.graph(root, show=["gradients"])) == bare_walk(root)


def test_a_lost_edge_or_a_wrong_output_number_is_noticed() -> None:
    root = PROGRAMS[0]()
    picture = gx.graph(root)
    nodes, edges, count = bare_walk(root)
    fewer = picture.edges[1:]
    assert drawn_walk(type(picture)("", "", picture.nodes, fewer, ())) != (nodes, edges, count)
    shifted = (picture.edges[0]._replace(output=1), *fewer)
    assert drawn_walk(type(picture)("", "", picture.nodes, shifted, ())) != (nodes, edges, count)


def test_both_uses_of_a_squared_value_are_edges() -> None:
    x = leaf(3)
    picture = gx.graph(x * x)
    assert [(e.producer, e.consumer, e.slot) for e in picture.edges] == [(0, 1, 0), (0, 1, 1)]


def test_which_output_of_a_split_is_used_is_kept() -> None:
    first, _, third = leaf(6).split(2)
    picture = gx.graph((first * third).sum())
    assert sorted(e.output for e in picture.edges if picture.nodes[e.producer].name == "SplitBackward0") == [0, 2]


def test_several_outputs_are_drawn_in_one_picture() -> None:
    x = leaf(2)
    results = {"loss": x.sum(), "parts": [x.exp(), x.sin()]}
    picture = gx.graph(results)
    assert [o.name for o in picture.outputs] == ["loss", "parts[0]", "parts[1]"]
    assert drawn_walk(picture) == bare_walk(results["loss"], *results["parts"])
    assert all(picture.nodes[o.node].name.endswith("Backward0") for o in picture.outputs)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.__name__)
def test_a_recorded_run_builds_the_same_graph_as_a_plain_one(network: Callable) -> None:
    torch.manual_seed(0)
    function, inputs = network()
    given = [t.clone().requires_grad_() if t.is_floating_point() else t for t in inputs]
    plain = function(*given)
    assert drawn_walk(gx.graph(function, inputs)) == bare_walk(plain)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.__name__)
def test_a_picture_with_numbers_has_the_same_nodes_as_one_without(network: Callable) -> None:
    torch.manual_seed(0)
    function, inputs = network()
    plain, numbered = gx.graph(function, inputs), gx.graph(function, inputs, show=["values", "gradients"])
    assert [n.name for n in numbered.nodes] == [n.name for n in plain.nodes]
    assert [(e.producer, e.output, e.consumer) for e in numbered.edges] == [
        (e.producer, e.output, e.consumer) for e in plain.edges
    ]


# --------------------------------------------------------------------------------------------------------- names


def test_leaves_have_the_names_of_the_callers_variables() -> None:
    weight, shift = leaf(3), leaf(3)
    assert [n.name for n in gx.graph((weight * 2 + shift).sum()).nodes[:2]] == ["weight", "shift"]


def test_parameters_have_their_paths_and_items_their_places() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    inputs = [leaf(1, 2).float().detach().requires_grad_()]
    names = {n.name: n.kind for n in gx.graph(net(inputs[0]).sum()).nodes if n.kind in ("input", "parameter")}
    assert names == {"inputs[0]": "input", "0.weight": "parameter", "0.bias": "parameter"}


def test_parameters_are_parameters_in_a_picture_with_numbers_too() -> None:
    net = nn.Linear(2, 2)
    picture = gx.graph(net(torch.ones(1, 2)).sum(), show=["gradients"])
    assert {n.name: n.kind for n in picture.nodes if n.name in ("weight", "bias")} == {
        "weight": "parameter", "bias": "parameter",
    }  # fmt: skip


def test_names_can_be_given() -> None:
    def hidden() -> tuple[Tensor, Tensor]:
        x = leaf(2)
        return x, x.exp()

    known, y = hidden()
    assert gx.graph(y, {"the angle": known}).nodes[0].name == "the angle"


def test_every_node_that_is_no_leaf_has_the_users_line() -> None:
    def loss(x: Tensor) -> Tensor:
        y = torch.nn.functional.linear(x, x)
        y.mul_(2)
        return torch.nn.functional.cross_entropy(y, torch.tensor([0, 1, 0]))

    start = loss.__code__.co_firstlineno
    inner = [n for n in gx.graph(loss, [leaf(3, 3)]).nodes if n.kind == "operation"]
    assert {(Path(n.source.file), n.source.line - start) for n in inner if n.source} == {
        (Path(__file__), 1), (Path(__file__), 2), (Path(__file__), 3),
    }  # fmt: skip
    assert all(n.source for n in inner)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.__name__)
def test_every_node_of_a_network_has_a_line(network: Callable) -> None:
    function, inputs = network()
    assert all(n.source for n in gx.graph(function, inputs).nodes if n.kind not in ("input", "parameter"))


def test_modules_are_those_that_ran() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh()))
    assert {n.module for n in gx.graph(net, [torch.ones(1, 2)]).nodes if n.kind == "operation"} == {"0", "1.0"}


def read_behind_a_view(x: Tensor) -> Tensor:
    y = x * 1.0
    v = y[0]
    y.mul_(3)
    return v.exp() + v.sin()


def written_through_a_view(x: Tensor) -> Tensor:
    y = x * 1.0
    y[1].mul_(y[0] * 2)
    return (y * y.exp()).sum()


def a_view_of_a_written_view(x: Tensor) -> Tensor:
    y = x.clone()
    v, w = y[:2], y[1:]
    v.add_(1)
    w.mul_(v.clone())
    return (v.cos() * w.sqrt()).sum()


def conjugated(x: Tensor) -> Tensor:
    z = torch.complex(x, x * 2)
    return torch.real(z.conj() * torch.exp(z).conj().resolve_conj()).sum()


@pytest.mark.parametrize(
    "function", [read_behind_a_view, written_through_a_view, a_view_of_a_written_view, conjugated],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_operators_are_those_of_an_explanation_also_behind_views(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([1.0, 2.0, 0.5])[: 2 if function is written_through_a_view else 3]
    drawn = [(n.name, n.operator) for n in gx.graph(function, [x]).nodes if n.kind == "operation"]
    explained = [(step.node, step.operator or "") for step in gx.explain(function, [x]).steps]
    assert sorted(drawn) == sorted(explained)
    assert all(is_named_alike(*pair) for pair in drawn)


def is_named_alike(node: str, operator: str) -> bool:
    """Says whether torch names a node after an operator; one that writes or looks through a view it does not."""
    name = operator.removeprefix("aten.").split(".")[0].replace("_", "")
    if node == "torch::autograd::CopySlices":
        return bool(name)
    return node.lower().startswith(f"{name}backward") if operator else node == "AsStridedBackward0"


def test_what_is_made_of_a_picture_is_a_picture() -> None:
    picture = gx.graph(Transformer(layers=2), [torch.zeros((1, 8), dtype=torch.int64)])
    x = leaf(2)
    for made in (picture.fold(), picture.fold(depth=1), picture.around("#3"), gx.graph(x.exp().sum(), view="both")):
        assert isinstance(made, gx.Picture)
    assert isinstance(gx.graph(x.exp().sum(), view="elements").tensors, gx.Picture)


def test_a_custom_function_is_its_own_kind_of_node() -> None:
    (node,) = [n for n in gx.graph(PROGRAMS[4]()).nodes if n.kind == "function"]
    assert node.name == "SquareBackward"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: (x * x.detach()).sum(), "detach"),
        (lambda x: (x * _without_grad(x)).sum(), "no_grad"),
        (lambda x: (x * _own_gradient(x * 1)).sum(), "backward"),
        (lambda x: (x * x.round().long().float()).sum(), "integer"),
        (lambda x: (x * Unmarked.apply(x)[1]).sum(), "function"),
    ],
)
@pytest.mark.parametrize("show", [["shapes"], ["values"]])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_cut_is_drawn_where_its_value_is_used(
    function: Callable, reason: str, show: list[str], language: str
) -> None:
    picture = gx.graph(function, [leaf(3)], show=show)
    assert [(picture.nodes[c.consumer].name, c.reason) for c in picture.cuts] == [("MulBackward0", reason)]
    assert all(picture.render(format, language=language) for format in ("text", "svg", "mermaid"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_row_of_padding_is_a_cut_of_a_picture(language: str) -> None:
    indices = torch.tensor([0, 2])
    picture = gx.graph(lambda w: nn.functional.embedding(indices, w, padding_idx=0).sum(), [torch.rand(3, 2)])
    assert [(picture.nodes[c.consumer].name, c.reason) for c in picture.cuts] == [("EmbeddingBackward0", "padding")]
    assert "padding_idx" in picture.render("svg", language=language)


class Unmarked(torch.autograd.Function):
    """Gives on its second output without a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        twice, thrice = x * 2, x * 3
        ctx.mark_non_differentiable(thrice)
        return twice, thrice

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> Tensor:
        return 2 * g


@pytest.mark.parametrize("view", ["backward", "forward"])
def test_a_custom_function_is_called_by_its_own_name_and_line(view: str) -> None:
    picture = gx.graph(lambda x: Unmarked.apply(x)[0].sum(), [leaf(3)], view=view)
    (node,) = [n for n in picture.nodes if n.kind == "function"]
    assert node.source is not None
    assert node.source.code == "Unmarked.apply(x)"
    assert "Unmarked" in str(picture)
    assert "mul" not in str(picture)


def _own_gradient(x: Tensor) -> Tensor:
    return torch.autograd.grad((x**3).sum(), x, retain_graph=True)[0]


def _without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


def hooks(picture: gx.Picture) -> dict[str, int]:
    return {n.name: n.facts.hooks for n in picture.nodes if n.facts is not None and n.facts.hooks}


@pytest.mark.parametrize("show", [["shapes"], ["hooks"], ["gradients"]], ids=lambda s: s[0])
def test_hooks_of_a_live_graph_are_counted_where_they_wait(show: list[str]) -> None:
    x = leaf(3)
    x.register_hook(lambda g: g * 2)
    inner = x.exp()
    inner.register_hook(lambda g: g)
    inner.register_hook(lambda g: g * 1)
    out = (inner * x).sum()
    out.register_hook(lambda g: g)
    assert hooks(gx.graph(out, show=show)) == {"x": 1, "ExpBackward0": 2, "SumBackward0": 1}
    assert "hooks: 2" in str(gx.graph(out, show=show))


def test_hooks_on_what_has_no_name_any_more_are_found_through_what_was_saved() -> None:
    def hidden() -> Tensor:
        inner = leaf(3).exp()
        inner.register_hook(lambda g: g)
        return inner.sin().sum()

    out = hidden()
    assert hooks(gx.graph(out, show=["hooks"])) == {"ExpBackward0": 1}
    assert hooks(gx.graph(out, show=["values"])) == {"ExpBackward0": 1}


@pytest.mark.parametrize("show", [["shapes"], ["values"]], ids=lambda s: s[0])
def test_hooks_of_a_recorded_run_are_counted_where_they_wait(show: list[str]) -> None:
    def loss(x: Tensor, w: Tensor) -> Tensor:
        inner = x.exp()
        inner.register_hook(lambda g: g * 2)
        out = (inner * w).sum()
        out.register_hook(lambda g: g)
        return out

    x = leaf(3)
    x.register_hook(lambda g: g)
    picture = gx.graph(loss, [x, leaf(3)], show=show)
    assert hooks(picture) == {"x": 1, "ExpBackward0": 1, "SumBackward0": 1}


# ------------------------------------------------------------------------------------------------------- numbers


def test_values_gradients_and_contributions_are_those_of_torch() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    picture = gx.graph(lambda x: (x * x).sum(), {"x": x}, show=["values", "gradients", "derivatives"])
    (of_x, of_product, of_sum) = (n.facts for n in picture.nodes)
    assert of_x.gradient.elements == [2, 4, 6]
    assert (of_product.value.elements, of_sum.value.elements) == ([1, 4, 9], 14)
    uses = [e.passed.contribution.elements for e in picture.edges if e.producer == 0]
    assert uses == [[1, 2, 3], [1, 2, 3]]
    assert [sum(parts) for parts in zip(*uses, strict=True)] == of_x.gradient.elements


def test_all_outputs_are_drawn_with_their_values_and_gradients() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)

    def outputs(x: Tensor) -> dict[str, object]:
        return {"loss": (x * x).sum(), "parts": [x.t() * 3, x]}

    picture = gx.graph(outputs, {"x": x}, show=["values", "gradients"])
    assert [n.name for n in picture.nodes] == [n.name for n in gx.graph(outputs, {"x": x}).nodes]
    values = {o.name: picture.nodes[o.node].facts.value.elements for o in picture.outputs}
    assert values == {"loss": 30, "parts[0]": [[3, 9], [6, 12]], "parts[1]": [[1, 2], [3, 4]]}
    assert picture.nodes[0].facts.gradient.elements == [[6, 8], [10, 12]]  # 2x + 3 + 1
    assert {n.facts.gradient.elements for n in picture.nodes if n.name == "SumBackward0"} == {1}
    assert "sum of all 3 outputs" in str(picture)
    inner = x.clone().requires_grad_()
    live = gx.graph(outputs(inner), show=["values", "gradients"])
    assert [(o.name, live.nodes[o.node].kind) for o in live.outputs] == [
        ("loss", "operation"), ("parts[0]", "operation"), ("parts[1]", "input"),
    ]  # fmt: skip
    leaf_gradients = [n.facts.gradient.elements for n in live.nodes if n.kind == "input"]
    assert leaf_gradients == [[[6, 8], [10, 12]]]


def test_the_elements_of_all_outputs_are_drawn() -> None:
    picture = gx.graph(lambda x: (x**2, x[0] * 3), {"x": torch.tensor([1.0, 2.0])}, view="elements")
    assert [o.name for o in picture.outputs] == ["f1[0]", "f1[1]", "f3"]
    gradients = {n.name: n.facts.gradient.elements for n in picture.nodes}
    assert (gradients["x[0]"], gradients["x[1]"]) == (5, 4)


def test_a_wrong_node_is_red_among_several_outputs() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * x

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            return g

    picture = gx.graph(lambda x: (Wrong.apply(x), x.sin()), [leaf(3)], show=["verdicts"])
    assert "differs" in {n.facts.verdict for n in picture.nodes}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.__name__)
def test_what_arrives_along_the_edges_of_a_leaf_adds_up_to_its_gradient(network: Callable) -> None:
    torch.manual_seed(0)
    function, inputs = network()
    picture = gx.graph(function, inputs, show=["gradients"])
    for number, node in enumerate(picture.nodes):
        uses = [e.passed.contribution for e in picture.edges if e.producer == number and e.passed]
        if node.kind == "input" and node.facts.gradient is not None and node.facts.gradient.elements is not None:
            total = sum(torch.tensor(u.elements, dtype=torch.float64) for u in uses)
            torch.testing.assert_close(
                total, torch.tensor(node.facts.gradient.elements, dtype=torch.float64), rtol=1e-5, atol=1e-6
            )  # float32 sums


def test_the_element_view_has_one_edge_for_each_derivative_that_can_be_other_than_zero() -> None:
    picture = gx.graph(lambda x: (x**2).sum(), [torch.tensor([1.0, 2.0, 3.0])], view="elements")
    name = [n.name for n in picture.nodes]
    assert {(name[e.producer], name[e.consumer]): e.passed.derivative for e in picture.edges} == {
        ("x[0]", "f1[0]"): "2", ("x[1]", "f1[1]"): "4", ("x[2]", "f1[2]"): "6",
        ("f1[0]", "y"): "1", ("f1[1]", "y"): "1", ("f1[2]", "y"): "1",
    }  # fmt: skip


def test_the_element_view_of_a_matrix_product_is_its_jacobian() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [5.0]])
    picture = gx.graph(lambda a, b: a @ b, [a, b], view="elements")
    slopes = {picture.nodes[e.producer].name: float(e.passed.derivative) for e in picture.edges}
    assert slopes == {"a[0, 0]": 3, "a[0, 1]": 5, "b[0, 0]": 1, "b[1, 0]": 2}


def test_a_wrong_custom_backward_is_red_at_its_node() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x * x

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            return g

    picture = gx.graph(lambda x: Wrong.apply(x).sum(), [leaf(3)], show=["verdicts"])
    assert "differs" in {n.facts.verdict for n in picture.nodes}
    assert 'class="input bad"' in picture.render("svg") or 'class="function bad"' in picture.render("svg")


def test_bytes_held_for_backward_count_each_storage_once() -> None:
    x = leaf(4)
    picture = gx.graph((x * x).sum(), show=["bytes", "saved"])
    (product,) = [n for n in picture.nodes if n.name == "MulBackward0"]
    assert [(s.name, s.bytes) for s in product.facts.saved] == [("other", 32), ("self", 32)]
    y = x.exp()
    kept = [s for n in gx.graph((y * y.sin()).sum(), show=["bytes"]).nodes if n.facts for s in n.facts.saved or ()]
    assert sum(s.bytes for s in kept if s.shares is None) < sum(s.bytes for s in kept)


def test_a_graph_that_was_freed_is_drawn_and_says_what_is_missing() -> None:
    x = leaf(3)
    y = (x * x).sum()
    y.backward()
    assert drawn_walk(gx.graph(y)) == bare_walk(y)
    assert "freed" in gx.graph(y, show=["saved"]).render("text")


# ------------------------------------------------------------------------------------------------ nothing is kept


def test_no_tensor_lives_on_because_its_graph_was_drawn() -> None:
    x = leaf(3)
    inner = x.exp()
    root = (inner * inner).sum()
    picture = gx.graph(root)
    gone = [weakref.ref(t) for t in (inner, root)]
    nodes = len(picture.nodes)
    del inner, root
    gc.collect()
    assert [r() for r in gone] == [None, None]
    assert nodes == 4


def test_no_tensor_of_a_recorded_run_lives_on() -> None:
    made: list[weakref.ref[Tensor]] = []

    def loss(x: Tensor) -> Tensor:
        y = x.exp()
        made.append(weakref.ref(y))
        return (y * y).sum()

    picture = gx.graph(loss, [leaf(3)])
    gc.collect()
    assert [r() for r in made] == [None]
    assert picture.nodes


def test_a_picture_cannot_be_changed() -> None:
    picture = gx.graph(PROGRAMS[0]())
    with pytest.raises(FrozenInstanceError):
        picture.title = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        picture.nodes[0].name = "other"  # type: ignore[misc]


def test_the_users_state_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    random = torch.get_rng_state()
    gx.graph(net, [torch.ones(2, 3)]).render("svg")
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_the_collector_runs_again_after_the_walk() -> None:
    gx.graph(PROGRAMS[0]())
    assert gc.isenabled()


# ------------------------------------------------------------------------------------------------------- any size


@pytest.mark.thorough
def test_a_long_chain_is_walked_folded_and_written_at_the_usual_recursion_limit(tmp_path: Path) -> None:
    assert sys.getrecursionlimit() <= 1000
    picture = gx.graph(chain(50_000))
    assert (len(picture.nodes), len(picture.edges)) == (100_001, 100_000)
    for suffix in ("dot", "json", "svg", "html", "txt", "mmd"):
        picture.save(tmp_path / f"chain.{suffix}")
    kept = json.loads((tmp_path / "chain.json").read_text())
    assert (len(kept["nodes"]), len(kept["edges"])) == (100_001, 100_000)
    assert "×50000" in (tmp_path / "chain.svg").read_text()


@pytest.mark.thorough
def test_a_deep_graph_can_be_dropped_after_it_was_drawn() -> None:
    code = (
        "import gc, gradexplain as gx; from graphs import chain; y = chain(60_000); h = y.grad_fn.next_functions\n"
        "gx.graph(y); z = y * 2; del y; gc.collect(); del z; gc.collect(); del h; gc.collect()\n"
        "from gradexplain.recording import lifetime; print(len(lifetime._held), len(gc.callbacks))"
    )
    path = f"{ROOT}:{ROOT / 'tests'}"
    environment = {**os.environ, "PYTHONPATH": path}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, "0 0"), found.stderr


DEEP = """
import gc, threading, torch, gradexplain as gx
def deep(x):
    for _ in range(8_000): x = x + 1
    return x
def run():
    start = torch.ones((), requires_grad=True)
    {act}
    gc.collect()
threading.stack_size(1 << 20)  # torch needs more of it to take such a graph apart by recursion, once it was walked
worker = threading.Thread(target=run)
worker.start()
worker.join()
print("alive")
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("y = deep(start); found = gx.explain(y); del y, found", 0),
        ("found = gx.explain(deep, [start]); del found", 0),
        ("found = gx.verify(deep, [start]); del found", 0),
        ("y = deep(start); found = gx.graph(y, show=['gradients']); del y, found", 0),
        ("try: gx.explain(lambda x: deep(x).nothing(), [start])\n    except gx.RunError: pass", 0),
        ("node = root = deep(start).grad_fn\n    while node.next_functions: node = node.next_functions[0][0]\n"
         "    del node, root", -11),
    ],
    ids=["live", "function", "verify", "graph", "a run that fails", "walked by hand"],
)  # fmt: skip
def test_a_deep_graph_can_be_dropped_whoever_walked_it(act: str, code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", DEEP.format(act=act)], env=environment, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (code, "" if code else "alive\n"), found.stderr


def test_gpt_2_small_folds_to_a_page_with_its_layers_as_one() -> None:
    net = Transformer(width=24, tokens=100)
    picture = gx.graph(net, [torch.randint(0, 100, (1, 8))])
    folded = picture.fold()
    assert len(folded.nodes) <= 25 < len(picture.nodes)
    assert [(g.title, g.times) for g in folded.groups] == [("layers.0 … layers.11", 12)]
    assert folded.size == (len(picture.nodes), len(picture.edges))
    assert f"Nodes: {len(picture.nodes)}" in str(picture)


def test_a_loop_of_fifty_steps_folds_to_ten_nodes() -> None:
    def loop(x: Tensor) -> Tensor:
        y = x
        for _ in range(50):
            y = torch.sin(y) * 1.1 + x
        return y.sum()

    folded = gx.graph(loop, [leaf(2)]).fold(most=10)
    assert len(folded.nodes) <= 10
    assert [g.times for g in folded.groups] == [50]
    (again,) = folded.again
    assert (folded.nodes[again.producer].name, folded.nodes[again.consumer].name) == ("AddBackward0", "SinBackward0")


def test_one_repeated_operation_is_one_box_with_its_number() -> None:
    y = leaf(2)
    for _ in range(50):
        y = y + 1
    for _ in range(5):
        y = y.sin()
    text = str(gx.graph(y.sum()).fold(most=5))
    assert all(word in text for word in ("×50 AddBackward0", "50 operations", "×5 SinBackward0", "SumBackward0"))


def test_blocks_that_hold_one_module_keep_their_number() -> None:
    block = lambda: nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh()))  # noqa: E731
    picture = gx.graph(nn.Sequential(*(block() for _ in range(9))), [torch.ones(1, 2)])
    assert picture.fold().groups[0].times == 9


def test_an_unrolled_network_folds_to_one_step() -> None:
    folded = gx.graph(unrolled(60)).fold()
    assert [g.times for g in folded.groups] == [60]
    assert len(folded.nodes) <= 15


def test_resnet_18_folds_to_its_blocks() -> None:
    folded = gx.graph(ResNet18(), [torch.randn(2, 3, 32, 32)]).fold()
    blocks = [n.name for n in folded.nodes if n.kind == "fold" and n.name.startswith("layer")]
    assert blocks == [f"layer{k}.{i}" for k in (1, 2, 3, 4) for i in (0, 1)]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 10, 25, 60])
@pytest.mark.parametrize("program", [*PROGRAMS, lambda: unrolled(7)])
def test_a_folded_picture_is_small_and_its_arrows_go_one_way(most: int, program: Callable[[], Tensor]) -> None:
    picture = gx.graph(program())
    folded = picture.fold(most=most)
    leaves = sum(n.kind in ("input", "parameter") for n in folded.nodes)
    assert len(folded.nodes) <= max(most, leaves + 1)
    assert all(e.producer < e.consumer for e in folded.edges)
    assert {o.name for o in folded.outputs} == {o.name for o in picture.outputs}


def test_no_operation_is_lost_in_a_fold() -> None:
    picture = gx.graph(Transformer(width=24, tokens=100), [torch.randint(0, 100, (1, 8))])
    folded = picture.fold(most=8)
    inner = sum(n.kind == "operation" for n in picture.nodes)
    counted = sum(
        n.facts.fold.nodes if n.kind == "fold" else 1 for n in folded.nodes if n.kind in ("fold", "operation")
    )
    assert not any(g.times > 1 for g in folded.groups)
    assert counted == inner


def test_a_module_a_neighbourhood_and_a_way_are_parts_of_the_picture() -> None:
    picture = gx.graph(Transformer(width=24, tokens=100), [torch.randint(0, 100, (1, 8))])
    linear = picture.module("layers.3.linear1")
    assert {n.module for n in linear.nodes if n.kind == "operation"} == {"layers.3.linear1"}
    near = picture.around("head", 1)
    assert {n.name for n in near.nodes} >= {"TBackward0", "tokens.weight"}
    way = picture.path("positions.weight", "y")
    assert {n.name for n in way.nodes} >= {"positions.weight", "EmbeddingBackward0", "NllLossBackward0"}
    assert "SelectBackward0" in {n.name for n in picture.module("layers.0").nodes}
    assert "are shown" in str(way)


def test_depth_opens_modules_as_far_as_asked() -> None:
    picture = gx.graph(ResNet18(), [torch.randn(2, 3, 32, 32)])
    assert [n.name for n in picture.fold(depth=0).nodes if n.name.startswith("layer")] == [
        f"layer{k}" for k in (1, 2, 3, 4)
    ]
    assert "layer2.0" in [n.name for n in picture.fold(depth=1).nodes]
    assert any(n.module == "layer2.0.conv1" and n.kind == "operation" for n in picture.fold(depth=2).nodes)


# ----------------------------------------------------------------------------------------------------- bad targets


def inference_tensor() -> Tensor:
    with torch.inference_mode():
        return torch.ones(3) * 2


BAD = [
    (lambda: gx.graph(torch.ones(3)), "requires_grad"),
    (lambda: gx.graph(torch.ones(3, requires_grad=True)), "requires_grad"),
    (lambda: gx.graph(torch.arange(3)), "whole numbers"),
    (lambda: gx.graph(inference_tensor()), "inference"),
    (lambda: gx.graph([]), "no tensor"),
    (lambda: gx.graph(7), "no tensor"),
    (lambda: gx.graph([torch.ones(2), torch.ones(3)]), "requires_grad"),
    (lambda: gx.graph(leaf(3).exp(), view="sideways"), "backward, forward"),
    (lambda: gx.graph(leaf(3).exp(), show=["colours"]), "shapes"),
    (lambda: gx.graph(leaf(3).exp(), [1, 2]), "live tensor"),
    (lambda: gx.graph(lambda x: x.detach(), [leaf(3)]), "detach"),
    (lambda: gx.graph(lambda x: 1 / 0, [leaf(3)]), "division by zero"),
    (lambda: gx.graph(lambda x: x.sum(), [leaf(1000)], view="elements"), "1001"),
    (lambda: gx.graph(leaf(3).exp()).render("docx"), "svg"),
    (lambda: gx.graph(leaf(3).exp()).save("graph.docx"), "suffix"),
    (lambda: gx.graph(leaf(3).exp()).save("/nowhere/at/all.svg"), "cannot be written"),
    (lambda: gx.graph(leaf(3).exp()).module("no.such"), "no.such"),
    (lambda: gx.graph(leaf(3).exp()).around("no_such"), "ExpBackward0"),
    (lambda: gx.graph(leaf(3).exp()).path("y", "leaf1"), "earlier"),
    (lambda: torch.func.grad(lambda x: gx.graph(x.exp().sum()) and x.sum())(torch.ones(3)), "torch.func"),
]


@pytest.mark.parametrize(("act", "word"), BAD, ids=[word for _, word in BAD])
def test_what_cannot_be_drawn_is_said_in_a_sentence(act: Callable[[], object], word: str) -> None:
    with pytest.raises(gx.GradexplainError) as fault:
        act()
    assert word in fault.value.sentence("en")
    assert any("\u4e00" <= c <= "\u9fff" for c in fault.value.sentence("zh"))


def test_a_compiled_module_is_drawn_with_a_remark() -> None:
    compiled = torch.compile(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), backend="aot_eager")
    root = compiled(torch.ones(1, 2)).sum()
    assert drawn_walk(gx.graph(root)) == bare_walk(root)
    assert "torch.compile" in str(gx.graph(root))


def test_a_step_whose_line_nobody_has_is_called_by_its_name_alone() -> None:
    scope: dict[str, Any] = {}
    exec("def function(x):\n    return x.exp().sum()", scope)
    said = gx.graph(scope["function"], [leaf(2)], show=["sources", "values"]).render("text")
    assert "f1" in said
    assert "f1 =" not in said
