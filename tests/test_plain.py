"""The gradient that is shown and judged is that of one plain run: what the user's own `.backward()` leaves."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from test_verification import normal
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradexplain as gx
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import generic, trace

SIZES = [3, 40]  # a small custom Function is measured element by element, a large one is not
TYPES = [torch.float64, torch.float32]
ASKED: list[Callable[..., Any]] = [gx.explain, gx.verify]


def gradients(asked: Any) -> dict[str, Tensor]:
    """Returns the gradients that an explanation shows, or that a report judged."""
    return dict(asked.gradients if isinstance(asked, gx.Explanation) else asked.subject.trace.gradients)


def codes(asked: Any) -> list[str]:
    return [finding.code for finding in asked.findings]


def linear(dtype: torch.dtype, size: int) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(size, 1, dtype=dtype), normal(1, 2, size).to(dtype)


# ------------------------------------------------------------------------------------------------------------- hooks


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_hook_that_changes_the_gradient_of_a_parameter_is_seen_and_named(
    asked: Callable[..., Any], dtype: torch.dtype, size: int
) -> None:
    net, x = linear(dtype, size)

    def halve(g: Tensor) -> Tensor:
        return g / 2

    net.weight.register_hook(halve)
    found = asked(lambda x: net(x).sum(), [x])
    net(x).sum().backward()
    assert net.weight.grad is not None
    if asked is gx.explain:
        assert torch.equal(gradients(found)["net.weight"], net.weight.grad)
        assert torch.allclose(net.weight.grad, x.sum(0, keepdim=True) / 2)
    assert found.verdict == "differs"
    (hook,) = [f for f in found.findings if f.code == "leaf-hook"]
    assert (hook.data["value"], hook.data["hook"].split(".")[-1]) == ("net.weight", "halve")
    assert (hook.source.file, hook.source.line) == (__file__, halve.__code__.co_firstlineno)
    assert "halve" in found.render("text")
    if asked is gx.verify and dtype == torch.float32:  # the formula is right, and that is said
        differing = [check for check in found.checks if check.verdict == "differs"]
        assert {(check.input, check.reason) for check in differing} == {("net.weight", "hooked")}
    assert "how they were put together" not in found.render("text", width=400)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_hook_that_changes_what_was_accumulated_is_seen_and_named(
    asked: Callable[..., Any], dtype: torch.dtype
) -> None:
    net, x = linear(dtype, 3)

    def clip(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.clamp_(-0.01, 0.01)

    net.weight.register_post_accumulate_grad_hook(clip)
    found = asked(lambda x: net(x).sum(), [x])
    net(x).sum().backward()
    assert net.weight.grad is not None
    assert torch.equal(gradients(found)["net.weight"], net.weight.grad)
    assert found.verdict == "differs"
    assert "leaf-hook" in codes(found)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_hook_that_changes_nothing_is_no_finding(asked: Callable[..., Any], dtype: torch.dtype) -> None:
    net, x = linear(dtype, 3)
    heard: list[Tensor] = []
    net.weight.register_hook(heard.append)
    net.bias.register_post_accumulate_grad_hook(lambda p: heard.append(p))
    found = asked(lambda x: net(x).sum(), [x])
    assert found.verdict == "agrees"
    assert "leaf-hook" not in codes(found)
    assert heard[1] is net.bias or heard[0] is net.bias  # the user's very parameter


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_hook_on_a_leaf_of_the_users_counts(asked: Callable[..., Any], dtype: torch.dtype) -> None:
    w = normal(0, 3).to(dtype).requires_grad_()
    w.register_hook(lambda g: 3 * g)
    found = asked(lambda w: (w**2).sum(), [w])
    assert found.verdict == "differs"
    if asked is gx.explain:
        assert torch.equal(found.gradients["w"], 6 * w.detach())
    assert w.grad is None


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("after", [False, True])
def test_a_hook_counts_in_whatever_type_it_is_asked_for(
    asked: Callable[..., Any], dtype: torch.dtype, after: bool
) -> None:
    net, x = linear(torch.float32, 3)

    def double(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad *= 2

    if after:
        net.weight.register_post_accumulate_grad_hook(double)
    else:
        net.weight.register_hook(lambda g: 2 * g)
    found = asked(lambda x: net(x).sum(), [x], dtype=dtype)
    assert found.verdict == "differs"
    assert "leaf-hook" in codes(found)
    assert gradients(found)["net.weight"].dtype == dtype


@pytest.mark.parametrize("asked", ASKED)
def test_an_input_that_is_used_twice_has_its_hooks_at_both_places(asked: Callable[..., Any]) -> None:
    w = normal(0, 3).requires_grad_()
    w.register_hook(lambda g: 2 * g)
    found = asked(lambda a, b: (a * b**2).sum(), [w, w])
    assert found.verdict == "differs"
    assert "changed-by-watching" not in codes(found)
    if asked is gx.explain:
        assert torch.equal(found.gradients["a"], 2 * w.detach() ** 2)


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("slope", "right"), [(0.9, "agrees"), (1.1, "differs")])
def test_a_hook_that_clips_sees_what_backward_sends_it(
    asked: Callable[..., Any], dtype: torch.dtype, slope: float, right: str
) -> None:
    w = torch.tensor(0.5, dtype=dtype, requires_grad=True)
    w.register_hook(lambda g: g.clamp(-1, 1))  # not linear: it does nothing to a part of 1.1
    assert asked(lambda w: slope * w, [w]).verdict == right


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("by_parameter", [False, True])
def test_a_hook_that_steps_an_optimizer_leaves_everything_as_found(
    asked: Callable[..., Any], by_parameter: bool
) -> None:
    net, x = linear(torch.float32, 3)
    if by_parameter:
        own = {p: torch.optim.Adam([p], lr=0.5) for p in net.parameters()}
    else:
        own = dict.fromkeys(net.parameters(), torch.optim.Adam(net.parameters(), lr=0.5))

    def step(parameter: Tensor) -> None:
        own[parameter].step()
        own[parameter].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    net(x).sum().backward()  # the optimizer has a state
    numbers = copy.deepcopy(list(net.parameters()))
    groups = [copy.deepcopy(optimizer.state_dict()["param_groups"]) for optimizer in own.values()]
    kept = [optimizer.state[p] for p, optimizer in own.items()]
    states = copy.deepcopy(kept)
    found = asked(lambda x: net(x).sum(), [x])
    assert found.verdict == "agrees"
    assert "leaf-hook" not in codes(found)
    if asked is gx.explain:
        assert torch.allclose(found.gradients["net.weight"], x.sum(0, keepdim=True))
    assert all(torch.equal(p, was) for p, was in zip(net.parameters(), numbers, strict=True))
    assert all(p.grad is None for p in net.parameters())
    assert [optimizer.state_dict()["param_groups"] for optimizer in own.values()] == groups
    assert all(optimizer.state[p] is state for (p, optimizer), state in zip(own.items(), kept, strict=True))
    for state, was in zip(kept, states, strict=True):
        assert all(torch.equal(number, was[name]) for name, number in state.items())


@pytest.mark.parametrize("asked", ASKED)
def test_what_a_run_may_change_ends_as_it_was(asked: Callable[..., Any]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(4, 3, max_norm=0.5)  # scales its own weight in forward
            self.norm = nn.BatchNorm1d(3)
            self.dropout = nn.Dropout()

        def forward(self, i: Tensor) -> Tensor:
            self.embedding.weight.register_hook(lambda g: None)  # one more hook in every run
            return self.dropout(self.norm(self.embedding(i))).square().sum() * random.random()

    torch.manual_seed(0)
    random.seed(0)
    net = Net()
    kept = torch.ones(4, 3)
    weight = net.embedding.weight
    weight.grad = kept
    handles: list[Any] = []
    calls: list[int] = []

    def once(g: Tensor) -> None:
        calls.append(1)
        handles[0].remove()

    handles.append(weight.register_hook(once))
    numbers, buffers = weight.detach().clone(), [b.clone() for b in net.buffers()]
    hooks, state, python = dict(weight._backward_hooks or {}), torch.get_rng_state(), random.getstate()
    asked(net, [torch.tensor([0, 2, 1])])
    assert calls
    assert weight.grad is kept
    assert torch.equal(kept, torch.ones(4, 3))
    assert torch.equal(weight, numbers)
    assert all(torch.equal(b, was) for b, was in zip(net.buffers(), buffers, strict=True))
    assert weight._backward_hooks == hooks
    assert net.norm.weight._backward_hooks is None
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python


@pytest.mark.parametrize("asked", ASKED)
def test_a_leaf_that_no_one_asked_about_keeps_its_gradient(asked: Callable[..., Any]) -> None:
    hidden = [normal(0, 3).requires_grad_()]
    hidden[0].grad = kept = torch.zeros(3, dtype=torch.float64)
    assert asked(lambda x: (x * hidden[0]).sum(), [normal(1, 3)]).verdict == "agrees"
    assert hidden[0].grad is kept
    assert not kept.any()


# --------------------------------------------------------------------------------------------- whoever is not watched


class Shy(torch.autograd.Function):
    """x², and whenever a dispatch mode is active, x³."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.power = 3 if torch._C._len_torch_dispatch_stack() else 2
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return ctx.power * g * x ** (ctx.power - 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("asked", ASKED)
def test_what_changes_under_watch_is_a_finding_and_the_plain_run_is_judged(
    asked: Callable[..., Any], dtype: torch.dtype, size: int
) -> None:
    x = (normal(0, size) + 3).to(dtype)
    found = asked(lambda x: Shy.apply(x).sum(), [x])
    assert "changed-by-watching" in codes(found)
    assert found.verdict == "agrees"
    if asked is gx.explain:
        assert torch.equal(found.gradients["x"], 2 * x)


@pytest.mark.parametrize("dtype", TYPES)
def test_torchs_other_formula_under_a_mode_is_not_judged(dtype: torch.dtype) -> None:
    turned = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=dtype)  # equal singular values

    def penalty(a: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(torch.linalg.det(a), a, create_graph=True)
        return (g**2).sum()

    for asked in ASKED:
        assert asked(penalty, {"a": turned}).verdict == "agrees"
    assert torch.allclose(gx.explain(penalty, {"a": turned}).gradients["a"], 2 * turned)  # Σ g² = Σ a² for 2 × 2
    assert gx.verify(torch.linalg.det, {"A": torch.eye(3, dtype=dtype)}, second=True).verdict == "agrees"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("asked", ASKED)
def test_a_backward_that_is_wrong_in_its_first_call_alone_is_wrong(
    asked: Callable[..., Any], dtype: torch.dtype, size: int
) -> None:
    class First(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            First.calls += 1
            return g * ctx.saved_tensors[0].exp() * (2 if First.calls == 1 else 1)

    x = normal(0, size).to(dtype)
    found = asked(lambda x: First.apply(x).sum(), [x])
    assert found.verdict == "differs"
    assert "changes-from-run-to-run" in codes(found)
    if asked is gx.explain:
        assert torch.allclose(found.gradients["x"], 2 * x.exp())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("asked", ASKED)
def test_a_backward_that_is_wrong_every_second_time_is_not_said_to_be_watched(
    asked: Callable[..., Any], size: int
) -> None:
    class Second(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.exp()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            Second.calls += 1
            return g * ctx.saved_tensors[0].exp() * (1 + Second.calls % 2)

    found = asked(lambda x: Second.apply(x).sum(), [normal(0, size)])
    assert found.verdict == "differs"
    assert "changes-from-run-to-run" in codes(found)
    assert "changed-by-watching" not in codes(found)


@pytest.mark.parametrize("asked", ASKED)
def test_random_numbers_in_a_backward_leave_the_generators_alone(asked: Callable[..., Any]) -> None:
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g + torch.rand_like(g)

    state = torch.get_rng_state()
    found = asked(lambda x: Noisy.apply(x).sum(), [normal(0, 3)])
    assert found.verdict == "differs"
    assert "changes-from-run-to-run" not in codes(found)  # every run draws the same
    assert torch.equal(torch.get_rng_state(), state)


# ----------------------------------------------------------------------------------------- backwards of many kinds


class Square(torch.autograd.Function):
    """x², whose backward is given by a subclass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = [x.detach().clone()]
        ctx.buffer = torch.empty_like(x)
        return x**2


class Once(Square):
    """Its context is freed by its first backward."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.kept.pop()


class Writing(Square):
    """It writes into the cotangent that arrives."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.mul_(2 * ctx.kept[0])


class Reusing(Square):
    """It gives back the same memory in every call."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        torch.mul(g, 2 * ctx.kept[0], out=ctx.buffer)
        return ctx.buffer[:]


class Shared(Square):
    """It gives back the same memory in every run of the function."""

    memory: ClassVar[dict[Any, Tensor]] = {}

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        buffer = Shared.memory.setdefault((g.shape, g.dtype), torch.empty_like(g))
        return torch.mul(g, 2 * ctx.kept[0], out=buffer)[:]


class Unmaterialised(torch.autograd.Function):
    """(x², x³), with nothing for an output that is not used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return x**2, x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> Tensor:
        (x,) = ctx.saved_tensors
        parts = [2 * g * x] if g is not None else []
        return sum(parts + ([3 * h * x**2] if h is not None else []), torch.zeros_like(x))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("function", [Once, Writing, Reusing])
def test_a_right_backward_agrees_whatever_it_does_with_its_memory(
    asked: Callable[..., Any], function: Any, dtype: torch.dtype, size: int
) -> None:
    x = normal(0, size).to(dtype)
    # not the last operator, nor the first: what is sent to it and from it is memory of others
    found = asked(lambda x: function.apply((3 * x).reshape(-1)).reshape(x.shape).sin().sum(), [x])
    assert found.verdict == "agrees"
    assert not {"changed-by-watching", "changes-from-run-to-run"} & {*codes(found)}
    if asked is gx.explain:
        assert torch.allclose(found.gradients["x"], 18 * x * (9 * x**2).cos(), atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("function", [Once, Writing, Reusing, Shared])
def test_a_right_backward_may_write_into_the_first_cotangent_and_the_last_gradient(
    asked: Callable[..., Any], function: Any, dtype: torch.dtype, size: int
) -> None:
    x = normal(0, size).to(dtype)
    found = asked(function.apply, [x])
    assert found.verdict == "agrees"
    cotangent = found.subject.trace.cotangent if asked is gx.verify else torch.ones_like(x)
    assert torch.allclose(gradients(found)["x"], 2 * x * cotangent)
    assert asked is gx.explain or torch.equal(cotangent, generic(x))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_into_a_cotangent_is_not_shown_as_what_arrived(size: int) -> None:
    x = normal(0, size)
    steps = {s.node: s for s in gx.explain(lambda x: Writing.apply(x).sin().sum(), [x]).steps}
    received = steps["WritingBackward"].cotangent
    assert received is not None
    assert torch.allclose(received.tensor, (x**2).cos())
    assert torch.allclose(steps["SinBackward0"].contributions[0].value.tensor, (x**2).cos())


@pytest.mark.parametrize("function", [Once, Writing, Reusing, Shared])
def test_a_small_jacobian_is_that_of_the_backward_whatever_it_does_with_its_memory(function: Any) -> None:
    x = normal(0, 3)
    jacobians = next(node.jacobians for node in trace(computation_of(function.apply, [x])).nodes if node.leaf is None)
    assert all(torch.allclose(j, torch.diag(2 * x)) for j in jacobians.values())
    assert jacobians or function is Once  # its backward ran in the pass


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
def test_an_output_that_is_not_used_may_send_nothing(
    asked: Callable[..., Any], size: int, used: tuple[int, ...]
) -> None:
    x = normal(0, size)
    found = asked(lambda x: sum(Unmaterialised.apply(x)[i].sin().sum() for i in used), [x])
    assert found.verdict == "agrees"
    if asked is gx.explain:
        right = (2 * x * (x**2).cos(), 3 * x**2 * (x**3).cos())
        assert torch.allclose(found.gradients["x"], sum(right[i] for i in used))


class Adjoint(torch.autograd.Function):
    """A module's output, whose backward runs the module again, with its parameters."""

    @staticmethod
    def forward(ctx: Any, net: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.net = net
        ctx.save_for_backward(x)
        with torch.no_grad():
            return net(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return None, *torch.autograd.grad(ctx.net(x), (x, *ctx.net.parameters()), g)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("asked", ASKED)
def test_a_backward_may_need_the_modules_own_parameters(
    asked: Callable[..., Any], dtype: torch.dtype, size: int
) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(size, 2, dtype=dtype)

        def forward(self, x: Tensor) -> Tensor:
            return Adjoint.apply(self.net, x, *self.net.parameters()).square().sum()

    outer, x = Outer(), normal(0, 2, size).to(dtype)
    assert asked(outer, {"x": x}).verdict == "agrees"
    report = gx.verify(outer, {"x": x}, each_operation=True)
    assert [o.verdict for o in report.operations if o.label == "Adjoint"] == ["agrees"]


# ---------------------------------------------------------------------------------------------- re-entrant checkpoints


class Blocks(nn.Module):
    """Two blocks in re-entrant checkpoints, with dropout, and the same one twice."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(size, size, dtype=dtype), nn.Tanh(), nn.Dropout(0.3))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = checkpoint(self.block, x, use_reentrant=True)
        return x.square().sum()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
def test_a_reentrant_checkpoint_is_explained_and_verified(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(0)
    net, x = Blocks(size, dtype), normal(0, 2, size).to(dtype).requires_grad_()
    state = torch.get_rng_state()
    net(x).backward()
    torch.set_rng_state(state)
    right = {"x": x.grad, "block.0.weight": net.block[0].weight.grad, "block.0.bias": net.block[0].bias.grad}
    explanation, report = gx.explain(net, [x]), gx.verify(net, [x])
    assert explanation.verdict == report.verdict == "agrees"
    assert all(torch.equal(explanation.gradients[n], g) for n, g in right.items() if g is not None)
    assert all(p.grad is g for p, g in ((x, right["x"]), (net.block[0].bias, right["block.0.bias"])))
    assert [s.node for s in explanation.steps].count("TanhBackward0") == 2  # the inside is seen
    for found in (explanation, report):
        (said,) = {(f.source.line, f.source.code) for f in found.findings if f.code == "checkpoint-in-line"}
        assert "use_reentrant=True" in said[1]
        assert not {"changed-by-watching", "changes-from-run-to-run"} & {*codes(found)}


class Reentrant(torch.autograd.Function):
    """What a function gives, computed again in the backward pass, which runs another one inside."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], x: Tensor, factor: float = 1.0) -> Tensor:
        ctx.function, ctx.factor = function, factor
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.function(x)
        torch.autograd.backward(y, ctx.factor * g)
        return None, x.grad / ctx.factor if x.grad is not None else None, None


@pytest.mark.sampled(3)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("outside", [False, True], ids=["inside", "inside and outside"])
@pytest.mark.parametrize("factor", [1.0, 2.0], ids=["right", "wrong"])
def test_a_backward_pass_inside_a_backward_is_judged_by_what_it_leaves(
    asked: Callable[..., Any], dtype: torch.dtype, size: int, outside: bool, factor: float
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(size, 2, dtype=dtype), nn.Tanh())
    x = normal(1, 2, size).to(dtype)

    def function(x: Tensor) -> Tensor:
        made = Reentrant.apply(net, x, factor).sum()
        return made + net[0].bias.exp().sum() if outside else made

    found = asked(function, [x])
    assert found.verdict == ("agrees" if factor == 1.0 else "differs")
    if asked is gx.verify and factor == 1.0:
        assert not [check for check in found.checks if check.verdict == "differs"]
    assert "backward-inside" in codes(found)
    assert not {"changed-by-watching", "changes-from-run-to-run"} & {*codes(found)}
    function(x.clone().requires_grad_()).backward()
    if asked is gx.explain:
        assert all(torch.equal(found.gradients[f"net.{n}"], p.grad) for n, p in net.named_parameters())


def test_a_wrong_backward_in_a_reentrant_checkpoint_is_found() -> None:
    class Wrong(Square):
        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 3 * g * ctx.kept[0]

    report = gx.verify(lambda x: checkpoint(Wrong.apply, x, use_reentrant=True).sum(), [normal(0, 3)])
    assert report.verdict == "differs"
    assert [operation.label for operation in report.wrong()] == ["Wrong"]


def test_a_reentrant_checkpoint_none_of_whose_inputs_needs_a_gradient_gives_its_parameters_none() -> None:
    net = nn.Linear(3, 3)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        found = gx.explain(
            lambda x, y: (checkpoint(net, x, use_reentrant=True) + y).sum(), [normal(0, 3).float(), torch.ones(3)],
            wrt=["y", "net.weight"],
        )  # fmt: skip
    assert found.gradients["net.weight"] is None
    assert "changed-by-watching" not in codes(found)
    assert "TBackward0" not in [step.node for step in found.steps]  # nothing inside has a part in the gradient


@pytest.mark.parametrize("asked", ASKED)
def test_a_function_that_fails_when_it_is_watched_is_judged_all_the_same(asked: Callable[..., Any]) -> None:
    def shy(x: Tensor) -> Tensor:
        if torch._C._len_torch_dispatch_stack():
            raise NotImplementedError("not under a mode")
        return (x**2).sum()

    found = asked(shy, [normal(0, 3)])
    assert found.verdict == "agrees"
    (said,) = [f.data["message"] for f in found.findings if f.code == "unwatched"]
    assert "not under a mode" in said
    assert said in found.render("text", width=300)
    if asked is gx.explain:
        assert torch.equal(found.gradients["x"], 2 * normal(0, 3))


def test_threads_that_ask_at_once_get_the_answers_that_they_would_get_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 1))
    x, verdicts, state = normal(0, 3, 4).float(), list[str](), torch.get_rng_state()

    def ask(verb: Callable[..., Any]) -> None:
        for _ in range(2):
            verdicts.append(verb(lambda x: Reusing.apply(net(x)).sum(), [x]).verdict)

    threads = [threading.Thread(target=ask, args=(verb,)) for verb in (*ASKED, *ASKED)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == ["agrees"] * 8
    assert "__getattribute__" not in vars(type(torch.autograd.Function))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.thorough
def test_threads_that_ask_and_one_that_trains_do_not_meet() -> None:
    """Verdicts of unlike functions stay apart; a thread that asks nothing sees torch as it is, as it is afterwards."""

    class Doubled(Square):
        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 4 * g * ctx.kept[0]

    asked: dict[str, tuple[Callable[[Tensor], Tensor], str | None]] = {
        "right": (lambda x: (x * x.sin()).sum(), None),
        "wrong": (lambda x: Doubled.apply(x).sum(), "wrong"),
        "stopped": (lambda x: (x * x.detach()).sum(), "stopped"),
        "inside": (lambda x: x.sin() if gx.verify(lambda y: Doubled.apply(y), [x.detach()]).wrong() else x, None),
    }
    owners = (torch.Tensor, torch.autograd, torch.autograd.Function, nn.Module, Doubled)
    before, torchs = [dict(vars(owner)) for owner in owners], vars(torch).get("tensor")
    found: list[tuple[str, str | None]] = []
    trained: list[Tensor] = []
    done = threading.Event()

    def ask(name: str) -> None:
        found.extend((name, gx.verify(asked[name][0], [normal(0, 3)]).reason) for _ in range(2))

    def train() -> None:
        while not done.is_set():
            x = normal(1, 3).requires_grad_()
            (Doubled.apply(x).sum() + x.detach().sum() * float(x[0].detach())).backward()
            trained.append(x.grad / x.detach())  # type: ignore[operator]

    threads = [threading.Thread(target=ask, args=(name,)) for name in asked]
    for thread in (training := threading.Thread(target=train), *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    training.join()
    assert sorted(found, key=str) == sorted([(n, why) for n, (_, why) in asked.items()] * 2, key=str)
    assert trained
    assert all(torch.equal(ratio, torch.full((3,), 4.0, dtype=torch.float64)) for ratio in trained)
    assert all(vars(owner).get(n) is v for owner, kept in zip(owners, before, strict=True) for n, v in kept.items())
    assert [vars(owner).keys() - kept.keys() for owner, kept in zip(owners, before, strict=True)] == [set()] * 5
    assert vars(torch).get("tensor") is torchs
    assert torch._C._len_torch_dispatch_stack() == torch._C._len_torch_function_stack() == 0


def test_a_question_may_be_asked_inside_another() -> None:
    inner: list[str] = []

    def function(x: Tensor) -> Tensor:
        inner.append(gx.verify(lambda y: Reusing.apply(y).sum(), [x.detach()]).verdict)
        return Reusing.apply(x).sum()

    assert gx.verify(function, [normal(0, 3)]).verdict == "agrees"
    assert {*inner} == {"agrees"}


_FREEING = """
import torch, gradexplain as gx

class Freed(torch.autograd.Function):
    factor = 1.0

    @staticmethod
    def forward(ctx, x):
        y = x.sin()
        ctx.x, ctx.y = x.detach().clone(), y.detach()
        x.untyped_storage().resize_(0)
        return y

    @staticmethod
    def backward(ctx, g):
        ctx.y.untyped_storage().resize_(0)
        return Freed.factor * g * ctx.x.cos()

def function(x):
    return Freed.apply(1.0 * x)

x = torch.tensor([0.3, 0.8, -1.2], dtype=torch.float64)
print(gx.verify(function, [x]).verdict, gx.verify(function, [x], each_operation=True, second=True).verdict)
page = str(gx.explain(function, [x]))
gx.graph(function, [x], show=("values", "gradients"))
Freed.factor = 1.01
report = gx.verify(function, [x])
print(report.verdict, [operation.label for operation in report.wrong()], x.tolist(), "nan" in page)
"""


def test_memory_that_a_function_frees_is_not_read() -> None:
    """In a process of its own: to read it would end the interpreter. Forward frees its input, backward its output."""
    done = subprocess.run([sys.executable, "-c", _FREEING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "agrees differs"  # ctx.x has no graph: the second derivative of sin is lost
    assert second == "differs ['Freed'] [0.3, 0.8, -1.2] False"


@pytest.mark.parametrize("ask", [gx.explain, gx.verify, gx.graph])
def test_inference_mode_is_left_for_the_question_alone(ask: Callable[..., object]) -> None:
    x = torch.tensor([0.5, 1.0])
    with torch.inference_mode():
        ask(lambda x: x.sin().sum(), {"x": x})
        assert torch.is_inference_mode_enabled()
        assert gx.compare(torch.sin, lambda x: x.sin(), [torch.ones(2)]).verdict == "same"
