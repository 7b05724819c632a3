"""Recording: what torch did is joined rightly, and the user's run is left as it was."""

import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradexplain as gx
from gradexplain.recording.computation import computation_of
from gradexplain.recording.trace import Node, Trace
from gradexplain.recording.tracing import trace
from gradexplain.targets.loading import load, parse_target


def traced(function: Callable[..., object], **inputs: Tensor) -> Trace:
    return trace(computation_of(function, inputs))


def inner(found: Trace) -> list[Node]:
    return [n for n in found.nodes if n.leaf is None]


def walked(root: object) -> tuple[set[str], int]:
    """The floor: a plain walk over grad_fn, for the multiset of nodes and edges."""
    seen, stack, names, edges = set(), [root], [], 0
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.append(node.name())
        edges += sum(child is not None for child, _ in node.next_functions)
        stack += [child for child, _ in node.next_functions]
    return set(names), edges


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin() * 2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * g * x.cos()


def in_place(x: Tensor) -> Tensor:
    h = x * 2
    h += 1
    h.relu_()
    return (h * x).sum()


def views(x: Tensor) -> Tensor:
    h = x * 1
    h[0] = 5.0
    return (h.view(-1)[1:] ** 2).sum()


def branching(x: Tensor) -> Tensor:
    return (x**3).sum() if float(x.detach().sum()) > 0 else x.sum()


PROGRAMS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda x: (x**2).sum(),
    "used twice by one node": lambda x: (x * x).sum(),
    "fan-out": lambda x: (x**2 + 2 * x).sum(),
    "split": lambda x: (x.split([1, 2])[0].exp() * x.split([1, 2])[1]).sum(),
    "custom Function": lambda x: Twice.apply(x).sum(),
    "custom Function last": lambda x: Twice.apply(x.sum()),
    "in place": in_place,
    "in place on what is saved": lambda x: (x * 1).mul_(x.sigmoid()).sum(),
    "writes through a view": views,
    "data-dependent branch": branching,
    "composite": lambda x: nn.functional.cross_entropy(x[None], torch.tensor([1])),
    "no gradient arrives": lambda x: x.max(0).values + x.detach().exp().sum(),
    "long chain": lambda x: sum((x * i for i in range(600)), x).sum(),
    "double backward": lambda x: torch.autograd.grad((x**3).sum(), x, create_graph=True)[0].sum(),
    "checkpoint": lambda x: torch.utils.checkpoint.checkpoint(lambda v: v.sin().exp(), x, use_reentrant=False).sum(),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_graph_and_the_gradient_are_torchs_own(name: str) -> None:
    function = PROGRAMS[name]
    x = torch.tensor([0.5, 1.5, 2.5])
    found = traced(lambda x: function(x), x=x)
    leaf = x.clone().requires_grad_()
    output = function(leaf)
    (expected,) = torch.autograd.grad(output, leaf)
    again = function(x.clone().requires_grad_())  # until torch 2.12 a custom Function's node dies with its output
    names, edges = walked(again.grad_fn)
    assert {n.name for n in inner(found)} == {n for n in names if "AccumulateGrad" not in n}
    assert sum(len(n.edges) for n in found.nodes) == edges
    gradient = found.gradients["x"]
    assert gradient is not None
    assert torch.equal(gradient.view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("name", [n for n in PROGRAMS if n not in ("writes through a view", "checkpoint")])
def test_contributions_add_up_to_the_gradient_of_every_value(name: str) -> None:
    found = traced(lambda x: PROGRAMS[name](x), x=torch.tensor([0.5, 1.5, 2.5]))
    for node in found.nodes:
        for output, cotangent in enumerate(node.cotangents):
            arrived = [
                e.contribution for n in found.nodes for e in n.edges if (e.producer, e.output) == (node.index, output)
            ]
            arrived += [found.cotangent] if (node.index, output) == found.output else []
            if cotangent is not None:
                total = sum(c for c in arrived if c is not None)
                torch.testing.assert_close(cotangent, total, rtol=1e-6, atol=0)


def test_an_operator_keeps_the_arguments_it_was_given_though_they_were_changed_later() -> None:
    found = traced(in_place, x=torch.tensor([1.0, -2.0]))
    add = next(n for n in inner(found) if n.operator == "aten.add_.Tensor")
    assert add.arguments["self"].tolist() == [2.0, -4.0]
    assert add.outputs[0] is not None
    assert add.outputs[0].tolist() == [3.0, -3.0]


def test_a_custom_function_owns_what_runs_inside_it() -> None:
    found = traced(lambda x: Twice.apply(x).sum(), x=torch.tensor([1.0, 2.0]))
    node = inner(found)[0]
    assert (node.name, node.operator) == ("TwiceBackward", None)
    assert node.outputs[0] is not None
    torch.testing.assert_close(node.outputs[0], 2 * torch.sin(torch.tensor([1.0, 2.0])))


def helper(x: Tensor) -> Tensor:
    return x.exp()


def lines(x: Tensor) -> Tensor:
    h = torch.tanh(x @ x)
    return helper(h) + (x * 2).sum()


def test_every_node_names_the_innermost_sub_expression_of_the_users_code() -> None:
    codes = {n.operator: n.source.code for n in inner(traced(lines, x=torch.ones(3))) if n.source}
    assert codes["aten.dot.default"] == "x @ x"
    assert codes["aten.tanh.default"] == "torch.tanh(x @ x)"
    assert codes["aten.exp.default"] == "x.exp()"
    assert codes["aten.mul.Tensor"] == "x * 2"
    targets = [n.source.target for n in inner(traced(lines, x=torch.ones(3))) if n.source and n.source.target]
    assert targets == ["h"]


CUTS = [
    (lambda x: (x * x.detach()).sum(), "detach"),
    (lambda x: (x * (x.argmax().float() + 1)).sum(), "integer"),
    (lambda x: (x * (x > 1).float()).sum(), "integer"),
    (lambda x: (x * without_grad(x)).sum(), "no_grad"),
]


def without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.exp()


@pytest.mark.parametrize(("function", "reason"), CUTS)
def test_a_value_that_goes_on_without_its_gradient_is_found(function: Callable[..., Tensor], reason: str) -> None:
    assert [c.reason for c in traced(function, x=torch.tensor([1.0, 2.0])).cuts] == [reason]


@pytest.mark.parametrize("name", ["square", "fan-out", "in place", "composite", "split"])
def test_no_cut_is_claimed_where_there_is_none(name: str) -> None:
    assert traced(lambda x: PROGRAMS[name](x), x=torch.tensor([0.5, 1.5, 2.5])).cuts == ()


LOST = [
    (lambda x: x.detach().sum(), "detach"),
    (lambda x: without_grad(x).sum(), "no_grad"),
    (lambda x: x.argmax().float(), "integers"),
    (lambda x: torch.ones(2).sum(), "No recorded operation leads from x"),
]


@pytest.mark.parametrize(("function", "word"), LOST)
def test_an_output_without_a_gradient_is_refused_with_the_reason(function: Callable[..., Tensor], word: str) -> None:
    with pytest.raises(gx.RunError, match=word):
        traced(function, x=torch.tensor([1.0, 2.0]))


# ------------------------------------------------------------------------------------------- the user's own things


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    return net, torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def step(net: nn.Module, x: Tensor, t: Tensor) -> list[Tensor]:
    loss = nn.functional.cross_entropy(net(x), t)
    loss.backward()
    state = [p.grad for p in net.parameters() if p.grad is not None]
    return [loss.detach(), *state, *(b.clone() for b in net.buffers())]


def test_the_users_run_is_bit_identical_with_and_without_us() -> None:
    net, x, t = network()
    expected = step(net, x, t)
    net, x, t = network()
    gx.explain(lambda x: nn.functional.cross_entropy(net(x), t), {"x": x})
    found = step(net, x, t)
    assert [t.numpy().tobytes() for t in found] == [t.numpy().tobytes() for t in expected]


def test_gradients_random_states_modes_and_hooks_are_left_as_found() -> None:
    net, x, t = network()
    calls: list[str] = []
    net[0].register_forward_hook(lambda *a: calls.append("forward"))
    net[0].weight.grad = torch.full_like(net[0].weight, 7.0)
    x.requires_grad_()
    random.seed(1)
    np.random.seed(1)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    hooks = [dict(m._forward_hooks) for m in net.modules()]

    def noisy(x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(net(x), t) * (1 + 0 * random.random() + 0 * np.random.rand())

    with torch.no_grad():
        gx.explain(noisy, {"x": x})
        assert not torch.is_grad_enabled()
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert x.grad is None
    assert net[0].weight.grad is not None
    assert bool((net[0].weight.grad == 7.0).all())
    assert [dict(m._forward_hooks) for m in net.modules()] == hooks
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks
    assert all(isinstance(p, nn.Parameter) for p in net.parameters())


def test_a_function_that_fails_leaves_everything_as_found_too() -> None:
    net, x, _ = network()

    def failing(x: Tensor) -> Tensor:
        net(x)
        raise ValueError("halfway")

    state = torch.get_rng_state()
    with pytest.raises(gx.RunError, match="halfway"):
        gx.explain(failing, {"x": x})
    assert torch.equal(torch.get_rng_state(), state)
    assert not nn.modules.module._global_forward_hooks
    assert int(net[1].num_batches_tracked) == 0


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    net[2].weight = net[0].weight
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(net(x).sum(), net[0].weight)
    found = gx.explain(net, [x]).gradients["0.weight"]
    assert found is not None
    assert torch.equal(found, expected)


# --------------------------------------------------------------------------------------------------- live tensors


def test_a_live_tensor_is_explained_without_running_anything_again() -> None:
    runs: list[int] = []
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)

    def f() -> Tensor:
        runs.append(1)
        return (x**2 + torch.exp(x)).sum()

    y = f()
    found = gx.explain(y)
    assert runs == [1]
    assert x.grad is None
    assert found.live
    torch.testing.assert_close(found.gradients["x"], 2 * x.detach() + torch.exp(x.detach()))
    assert [s.operator for s in found.steps] == [
        "aten.pow.Tensor_Scalar",
        "aten.exp.default",
        "aten.add.Tensor",
        "aten.sum.default",
    ]
    assert "the function was not run again" in " ".join(str(found).split())
    y.backward()  # the graph was kept


def test_live_leaves_take_the_names_they_are_given() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    found = gx.explain((a * b).sum(), {"a": a, "b": b})
    assert set(found.gradients) == {"a", "b"}


def test_a_tensor_without_history_is_refused_with_the_cure() -> None:
    with pytest.raises(gx.InputError, match="requires_grad_"):
        gx.explain(torch.ones(3))


def test_a_freed_graph_is_refused_with_the_cure() -> None:
    x = torch.ones(3, requires_grad=True)
    y = (x**2).sum()
    y.backward()
    with pytest.raises(gx.RunError, match="retain_graph=True"):
        gx.explain(y)


def test_recording_gives_no_warning_of_its_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gx.explain(lambda x: (x**2).sum(), [torch.ones(3)])


def test_a_graph_that_the_user_built_before_is_not_freed() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    h = w**2
    found = gx.explain(lambda x: (h * x).sum(), [torch.ones(2)])
    assert set(found.gradients) == {"x"}
    h.sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [2.0, 4.0]


def test_an_operator_without_a_derivative_is_named_with_its_line() -> None:
    for verb in (gx.explain, gx.verify):
        with pytest.raises(gx.RunError, match=r"floor_divide.*`x // 2` \(.*test_tracing.py:\d+\)"):
            verb(lambda x: (x // 2 * x).sum(), [torch.tensor([1.5, -2.5])])


def test_a_saved_tensor_changed_in_place_is_torchs_error_in_a_sentence() -> None:
    def broken(x: Tensor) -> Tensor:
        y = x.exp()
        y += 1
        return y.sum()

    with pytest.raises(gx.RunError, match="modified by an inplace operation"):
        gx.explain(broken, [torch.ones(2)])


def test_no_hook_stays_on_a_graph_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(
        "gradexplain.recording.tracing._observed",
        lambda node, seen, copying: [node.register_hook(lambda sent, received: called.append(node))],
    )
    x = torch.ones(2, requires_grad=True)
    y = (x**2).sum()
    nodes, _ = y.grad_fn, gx.explain(y)
    assert called
    called.clear()
    y.backward()
    assert called == []
    assert nodes is y.grad_fn


def test_the_first_use_may_be_under_no_grad() -> None:
    lines = [
        "import torch, gradexplain as gx",
        "with torch.no_grad():",
        "    print(gx.explain(lambda x: x**2, [torch.ones(())]).verdict)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.stdout == "agrees\n", done.stderr


def test_an_operator_in_place_whose_input_torch_copies_owns_its_node() -> None:
    found = traced(lambda x: (x * 1).mul_(x.sigmoid()).sum(), x=torch.tensor([1.0, 2.0]))
    assert [n.operator for n in inner(found)] == [
        "aten.mul.Tensor",
        "aten.sigmoid.default",
        "aten.mul_.Tensor",
        "aten.sum.default",
    ]


def test_what_calls_us_is_no_place_of_the_function() -> None:
    found = trace(computation_of(torch.nn.functional.silu, {"input": torch.ones(2)}))
    assert [n.source for n in inner(found)] == [None]


def test_equal_code_of_two_files_is_told_apart(tmp_path: Path) -> None:
    found = []
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("def f(x):\n    return x * 2\n")
        function = load(parse_target(f"{tmp_path / name}:f")).function
        (step,) = inner(trace(computation_of(function, {"x": torch.ones(2)})))
        assert step.source is not None
        found.append(Path(step.source.file).name)
    assert found == ["one.py", "two.py"]


class Silent(torch.autograd.Function):
    """Twice the input, by an operator that torch does not see."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(2 * x.detach().numpy())

    @staticmethod
    def backward(ctx, g):
        return 2 * g


@pytest.mark.parametrize("before", [Silent.apply, torch.exp], ids=["a custom Function", "an operator"])
def test_a_node_from_before_has_no_operator_of_the_run(before: Callable[[Tensor], Tensor]) -> None:
    y = before(torch.tensor([1.0, 2.0], requires_grad=True))
    found = traced(lambda x: (torch.ones(2) * y * x).sum(), x=torch.tensor([3.0, 4.0]))
    (old,) = [n for n in inner(found) if n.name == y.grad_fn.name()]
    assert old.operator is None
    assert old.source is None


def test_what_runs_after_a_custom_function_is_not_inside_it() -> None:
    ready = torch.tensor([6.0, 8.0])

    class Ready(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return ready

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    found = traced(lambda x: (Ready.apply(x) * torch.ones(2)).sum(), x=torch.tensor([3.0, 4.0]))
    assert [n.operator for n in inner(found)] == [None, "aten.mul.Tensor", "aten.sum.default"]


class Called:
    """A backward that is no function."""

    def __call__(self, ctx: Any, g: Tensor) -> Tensor:
        return torch.ones(7)


def doubled(ctx: Any, x: Tensor) -> Tensor:
    return x * 2


def refused(backward: Any) -> Any:
    """Returns the apply of a Function whose backward gives back what torch refuses."""
    names = {"forward": staticmethod(doubled), "backward": staticmethod(backward)}
    return type("Refused", (torch.autograd.Function,), names).apply


def sevens(size: int, ctx: Any, g: Tensor) -> Tensor:
    return torch.ones(size)


def own_line(needle: str) -> str:
    lines = Path(__file__).read_text(encoding="utf-8").split("\n")
    return f"{__file__}:{next(i for i, line in enumerate(lines, 1) if line.strip().startswith(needle))}"


WITHOUT_A_LINE = {
    "a detach": (torch.detach, "detach (at {asked}) detached it"),
    "a choice": (torch.argmax, "argmax (at {asked}) gives integers"),
    "an object": (refused(Called()), f"({own_line('def __call__(self, ctx')}) returned a gradient (7,)"),
    "a partial": (refused(partial(sevens, 7)), f"({own_line('def sevens')}) returned a gradient (7,)"),
    "an apply": (refused(partial(sevens, 7)), "Used at {asked}."),
    "code without a file": (eval("lambda x: x.detach()"), "detach (at <string>:1) detached it"),
}


@pytest.mark.parametrize("ask", [gx.explain, gx.verify])
@pytest.mark.parametrize("name", WITHOUT_A_LINE)
def test_of_what_runs_without_the_users_code_the_line_that_asked_is_the_place(ask: Any, name: str) -> None:
    function, said = WITHOUT_A_LINE[name]
    try:
        told = ask(function, [torch.tensor([0.5, 1.5, 2.5])]).to_json()
    except gx.RunError as fault:
        told = str(fault)
    assert said.format(asked=own_line("told = ask(function, [torch.tensor")) in told
    assert "?" not in told


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # of torch, at the first jvp
def test_what_torch_asks_for_shapes_alone_is_no_step_and_a_tangent_of_0_is_shown_as_zeros() -> None:
    def product(x: Tensor, v: Tensor) -> Tensor:
        """The Hessian of Σ x⁴, which is 12 x² on the diagonal, by v."""
        slope = torch.func.grad(lambda t: (t**4).sum())
        return torch.func.jvp(slope, (x,), (v,))[1].sum()

    found = gx.explain(product, {"x": torch.tensor([1.0, 2.0]), "v": torch.tensor([1.0, 3.0])})
    assert not any(step.forward.tensor.is_meta for step in found.steps if step.forward is not None)
    said = found.render("text")
    assert "∂y/∂x = [24, 144]" in said
    assert "∂y/∂v = [12, 48]" in said
