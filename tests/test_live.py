"""Live tensors: whatever torch did not save is missing on the page, and never ends it or becomes a wrong number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gradexplain as gx
from gradexplain.mathematics.equations import CONTRADICTED, holds
from gradexplain.recording.computation import computation_of
from gradexplain.recording.live import trace_live
from gradexplain.recording.tracing import trace

INF = math.inf
T = torch.tensor([[0.3, -1.2, 2.0], [0.7, 1.5, -0.4]])
M = torch.tensor([[False, True, False], [True, False, False]])
ROWS, CLASSES = torch.tensor([1, 0]), torch.tensor([2, 0])
SQUARE = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.5, 0.2], [0.1, 0.2, 1.0]])

# Functions of an x of shape (2, 3), by what of them torch need not save. They are applied to 2x, which is no leaf.
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "x - t": lambda x: x - T,
    "t - x": lambda x: T - x,
    "1 - x": lambda x: 1 - x,
    "rsub": lambda x: torch.rsub(x, 3, alpha=2),
    "sub alpha": lambda x: torch.sub(x, T, alpha=3),
    "x + t": lambda x: x + T,
    "1 + x": lambda x: 1 + x,
    "x * t": lambda x: x * T,
    "x / t": lambda x: x / T,
    "t / x": lambda x: T / x,
    "2 / x": lambda x: 2 / x,
    "x ** 3": lambda x: x**3,
    "2 ** x": lambda x: 2**x,
    "x ** t": lambda x: (x * x + 1) ** T,
    "x - a row": lambda x: x - T[0],
    "x * a number": lambda x: x * T[0, 0],
    "abs": lambda x: (x - T).abs(),
    "clamp": lambda x: x.clamp(-1, 1),
    "clamp min": lambda x: x.clamp(min=0.5),
    "clamp tensors": lambda x: x.clamp(T - 1, T + 1),
    "relu": torch.relu,
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 1.5),
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": lambda x: F.softplus(x, 2),
    "hardtanh": F.hardtanh,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "logsigmoid": F.logsigmoid,
    "exp": torch.exp,
    "log": lambda x: (x * x + 1).log(),
    "log1p": lambda x: (x * x).log1p(),
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "rsqrt": lambda x: (x * x + 1).rsqrt(),
    "sin": torch.sin,
    "atan2": lambda x: torch.atan2(x, T),
    "hypot": lambda x: torch.hypot(x, T),
    "lerp": lambda x: torch.lerp(x, T, 0.3),
    "addcmul": lambda x: torch.addcmul(T, x, T, value=2),
    "addcdiv": lambda x: torch.addcdiv(x, T, T, value=2),
    "fmod": lambda x: x.fmod(0.7),
    "remainder": lambda x: x.remainder(0.7),
    "nan_to_num": lambda x: x.nan_to_num(5.0),
    "where": lambda x: torch.where(M, x, T),
    "where of numbers": lambda x: torch.where(M, x, 7.0),
    "where both": lambda x: torch.where(M, x, 2 * x),
    "masked_fill": lambda x: x.masked_fill(M, 0.5),
    "masked_fill -inf": lambda x: x.masked_fill(M, -INF).softmax(-1),
    "masked_fill by a tensor": lambda x: x.masked_fill(M, T[0, 0]),
    "masked_select": lambda x: x.masked_select(M),
    "index_fill": lambda x: x.index_fill(0, ROWS[:1], 2.0),
    "maximum": lambda x: torch.maximum(x, T),
    "minimum": lambda x: torch.minimum(x, T),
    "max": torch.max,
    "max dim": lambda x: x.max(-1)[0],
    "max dim keepdim": lambda x: x.max(0, keepdim=True)[0],
    "min dim": lambda x: x.min(1).values,
    "amax": lambda x: x.amax(-1),
    "amin": lambda x: x.amin(),
    "aminmax": lambda x: torch.stack(x.aminmax(dim=1)),
    "max of a softmax": lambda x: x.softmax(-1).max(-1)[0],
    "median": torch.median,
    "median dim": lambda x: x.median(-1)[0],
    "sort": lambda x: x.sort(-1)[0],
    "topk": lambda x: x.topk(2, -1)[0],
    "kthvalue": lambda x: x.kthvalue(2, -1)[0],
    "cummax": lambda x: x.cummax(-1)[0],
    "cumsum": lambda x: x.cumsum(-1),
    "cumprod": lambda x: x.cumprod(-1),
    "logcumsumexp": lambda x: x.logcumsumexp(-1),
    "prod": torch.prod,
    "prod dim": lambda x: x.prod(-1),
    "gather": lambda x: x.gather(1, CLASSES[:, None]),
    "rows": lambda x: x[ROWS],
    "rows, None": lambda x: x[ROWS, None],
    "rows and columns": lambda x: x[ROWS, CLASSES],
    "a mask": lambda x: x[M],
    "index_select": lambda x: x.index_select(0, ROWS),
    "take": lambda x: x.take(torch.tensor([0, 5, 5])),
    "take_along_dim": lambda x: torch.take_along_dim(x, CLASSES[:, None], 1),
    "slice": lambda x: x[:, 1:],
    "negative slice": lambda x: x[-1, ::2],
    "select": lambda x: x[..., -1],
    "narrow": lambda x: x.narrow(-1, -2, 2),
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: x.roll(1, -1),
    "cat": lambda x: torch.cat([x, T, x], -1),
    "stack": lambda x: torch.stack([x, T], -1),
    "stack after": lambda x: torch.stack([T, x]),
    "split": lambda x: x.split([1, 2], -1)[1],
    "chunk": lambda x: x.chunk(3, -1)[2],
    "unbind": lambda x: x.unbind(-1)[1],
    "expand": lambda x: x[:, None].expand(2, 4, 3),
    "repeat": lambda x: x.repeat(2, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, -1),
    "permute": lambda x: x.permute(1, 0),
    "unfold": lambda x: x.unfold(-1, 2, 1),
    "pad": lambda x: F.pad(x, (1, 2), value=3.0),
    "diagonal": lambda x: x.diagonal(0, -2, -1),
    "tril": lambda x: x.tril(-1),
    "scatter": lambda x: x.scatter(1, CLASSES[:, None], 5.0),
    "scatter_add": lambda x: x.scatter_add(1, CLASSES[:, None], T),
    "index_add": lambda x: x.index_add(0, ROWS, T, alpha=2),
    "index_copy": lambda x: x.index_copy(0, ROWS, T),
    "index_put": lambda x: x.index_put((ROWS, CLASSES), torch.tensor(1.0)),
    "scatter_reduce": lambda x: x.scatter_reduce(1, CLASSES[:, None], T, "amax"),
    "mean": torch.mean,
    "mean dim": lambda x: x.mean(-1, keepdim=True),
    "sum dim": lambda x: x.sum((-2, -1)),
    "var": lambda x: x.var(-1),
    "std": lambda x: x.std(),
    "var_mean": lambda x: torch.var_mean(x, -1)[0],
    "logsumexp": lambda x: x.logsumexp(-1),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "norm": lambda x: x.norm(),
    "norm 1": lambda x: x.norm(1, -1),
    "norm inf": lambda x: torch.linalg.vector_norm(x, INF),
    "norm 3": lambda x: torch.linalg.vector_norm(x, 3, -1),
    "normalize": lambda x: F.normalize(x),
    "cdist": lambda x: torch.cdist(x, T),
    "cosine": lambda x: F.cosine_similarity(x, T),
    "pairwise": lambda x: F.pairwise_distance(x, T),
    "dist": lambda x: torch.dist(x, T),
    "renorm": lambda x: x.renorm(2, 0, 1.0),
    "matmul": lambda x: x @ SQUARE,
    "t @ x": lambda x: T.mT @ x,
    "mv": lambda x: x @ SQUARE[0],
    "dot": lambda x: x[0] @ T[0],
    "outer": lambda x: torch.outer(x[0], T[1]),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, T),
    "addmm": lambda x: torch.addmm(T[:, :2], x, T.mT, beta=2, alpha=3),
    "bmm": lambda x: torch.bmm(x[None], T.mT[None]),
    "baddbmm": lambda x: torch.baddbmm(T[:, :2], x[None], T.mT[None], alpha=0.5),
    "linear": lambda x: F.linear(x, T, T[:, 0]),
    "bilinear": lambda x: F.bilinear(x, T, SQUARE[None]),
    "det": lambda x: torch.det(x @ x.mT + SQUARE[:2, :2]),
    "inverse": lambda x: torch.linalg.inv(x @ x.mT + SQUARE[:2, :2]),
    "solve": lambda x: torch.linalg.solve(SQUARE, x.mT),
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.mT + SQUARE[:2, :2]),
    "logdet": lambda x: torch.logdet(x @ x.mT + SQUARE[:2, :2]),
    "layer_norm": lambda x: F.layer_norm(x, (3,)),
    "layer_norm weights": lambda x: F.layer_norm(x, (3,), T[0], T[1]),
    "rms_norm": lambda x: F.rms_norm(x, (3,)),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "batch_norm running": lambda x: F.batch_norm(x, T[0], T[1].abs()),
    "group_norm": lambda x: F.group_norm(x[..., None], 3),
    "instance_norm": lambda x: F.instance_norm(x[None]),
    "local_response": lambda x: F.local_response_norm(x[None], 2),
    "conv1d": lambda x: F.conv1d(x[None], T.mT[:, :, None]),
    "conv2d": lambda x: F.conv2d(x[None, None], T[None, None, :, :2]),
    "conv_transpose": lambda x: F.conv_transpose1d(x[None], T[:, :, None]),
    "max_pool": lambda x: F.max_pool1d(x[None], 2),
    "avg_pool": lambda x: F.avg_pool1d(x[None], 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool1d(x[None], 2),
    "interpolate": lambda x: F.interpolate(x[None], scale_factor=2.0),
    "bilinear resize": lambda x: F.interpolate(x[None, None], (4, 4), mode="bilinear"),
    "embedding": lambda x: F.embedding(ROWS, x),
    "embedding padded": lambda x: F.embedding(ROWS, x, padding_idx=0),
    "embedding_bag": lambda x: F.embedding_bag(ROWS[None], x, mode="mean"),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], T[None], T[None]),
    "attention masked": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True),
    "mse": lambda x: F.mse_loss(x, T),
    "l1": lambda x: F.l1_loss(x, T),
    "smooth l1": lambda x: F.smooth_l1_loss(x, T, beta=0.5),
    "huber": lambda x: F.huber_loss(x, T, delta=0.5),
    "cross entropy": lambda x: F.cross_entropy(x, CLASSES),
    "nll": lambda x: F.nll_loss(x.log_softmax(-1), CLASSES),
    "cross entropy smoothed": lambda x: F.cross_entropy(x, CLASSES, T[0].abs(), label_smoothing=0.1),
    "soft targets": lambda x: F.cross_entropy(x, T.softmax(-1)),
    "ignored": lambda x: F.cross_entropy(x, torch.tensor([-100, 1])),
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid(), T.sigmoid()),
    "bce logits": lambda x: F.binary_cross_entropy_with_logits(x, T.sigmoid(), pos_weight=T[0].abs()),
    "kl": lambda x: F.kl_div(x.log_softmax(-1), T.softmax(-1), reduction="batchmean"),
    "cross entropy by hand": lambda x: -((1 - x.sigmoid()).log() * T.sigmoid()).mean(),
    "poisson": lambda x: F.poisson_nll_loss(x, T.abs()),
    "gaussian": lambda x: F.gaussian_nll_loss(x, T, T.abs() + 1),
    "margin": lambda x: F.multi_margin_loss(x, CLASSES),
    "triplet": lambda x: F.triplet_margin_loss(x, T, -T),
    "hinge embedding": lambda x: F.hinge_embedding_loss(x, T.sign()),
    "ctc": lambda x: F.ctc_loss(x[:, None].log_softmax(-1), torch.tensor([[1]]), (2,), (1,)),
    "to double": lambda x: x.double(),
    "to half and back": lambda x: x.bfloat16().float(),
    "clone": torch.clone,
    "xlogy": lambda x: torch.xlogy(T.abs(), x * x + 1),
    "logaddexp": lambda x: torch.logaddexp(x, T),
    "heaviside": lambda x: x * torch.heaviside(x.detach(), T),
    "i0": torch.special.i0,
    "erfinv": lambda x: torch.erfinv(x.tanh()),
    "polygamma": lambda x: torch.polygamma(1, x * x + 1),
    "cross": lambda x: torch.cross(x, T, dim=-1),
    "fft": lambda x: torch.fft.rfft(x).abs(),
    "complex": lambda x: torch.complex(x, T).abs(),
    "dropout": lambda x: F.dropout(x, 0.5),
    "round": lambda x: x + x.round(decimals=1),
    "trace": lambda x: torch.trace(x @ T.mT),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", CASES)
def test_no_operator_ends_the_page_of_a_live_tensor(name: str) -> None:
    x = torch.tensor([[0.5, -1.0, 2.5], [1.25, 0.75, -0.5]], requires_grad=True)
    torch.manual_seed(0)
    made = CASES[name](2 * x)
    output = (made * made).sum()
    (gradient,) = torch.autograd.grad(output, x, retain_graph=True)
    explanation = gx.explain(output)
    page = explanation.render("text")
    assert torch.equal(explanation.gradients["x"], gradient)
    assert explanation.verdict != "differs"
    assert "✗" not in page
    assert not [e for e in explanation.equations if e.relation == CONTRADICTED]


@pytest.mark.parametrize("name", ["slice", "select", "expand", "diagonal", "as_strided", "flip"])
def test_a_move_is_brought_back_by_the_shape_of_what_was_not_saved(name: str) -> None:
    """Positions that had no numbers once met a gradient that has some: torch 2.8 read what lay in memory there."""
    moves = {
        "slice": lambda x: x[1:, ::2],
        "select": lambda x: x[:, 1],
        "expand": lambda x: x[:1].expand(4, 3),
        "diagonal": lambda x: x.diagonal(),
        "as_strided": lambda x: x.as_strided((2, 2), (1, 2)),
        "flip": lambda x: x.flip(1),
    }
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    made = moves[name]((2 * x).mT.contiguous().mT)
    (report,) = (c for c in gx.explain((made * made).sum()).report.checks if c.oracle == "rules")
    assert (report.verdict, report.reason) == ("agrees", None) if name != "as_strided" else report.verdict != "differs"


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", CASES)
def test_what_an_operator_makes_again_is_what_it_made(name: str) -> None:
    """Of the same function, a recorder that watches the forward pass knows every value."""
    x = torch.tensor([[0.5, -1.0, 2.5], [1.25, 0.75, -0.5]])

    def whole(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        made = CASES[name](2 * x)
        return (made * made).sum()

    known = trace(computation_of(whole, {"x": x}), plain=False).nodes
    traced = trace_live(whole(x.clone().requires_grad_()))
    alive = traced.nodes
    assert traced.edited == ()
    assert len(alive) == len(known)
    for node, right in zip(alive, known, strict=True):
        for value, own in zip(node.outputs, right.outputs, strict=False):
            if value is not None and own is not None and not value.is_meta:
                torch.testing.assert_close(value, own, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_leaves_and_the_output_have_the_names_of_the_callers_code() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
    first, scales = torch.randn(4, 3, requires_grad=True), [torch.ones(2, requires_grad=True)]
    loss = (net(first) * scales[0]).square().mean()
    names = ["first", "0.weight", "0.bias", "scales[0]"]
    explanation = gx.explain(loss)
    assert sorted(explanation.gradients) == sorted(names)
    assert explanation.output_name == "loss"
    assert explanation.target == "loss ()"
    assert sorted(gx.verify(loss).inputs) == sorted(names)
    assert {node.name for node in gx.graph(loss).nodes} >= set(names)
    page = explanation.render("text", width=200)
    assert "leaf" not in page
    assert "∂loss/∂first" in page
    given = gx.explain(loss, {"mine": first})
    assert "mine" in given.gradients
    assert "first" not in given.gradients


def test_a_line_that_torch_kept_is_told_and_none_is_made_up() -> None:
    def made() -> tuple[Tensor, Tensor]:
        p = torch.tensor([0.0, 0.5], requires_grad=True)
        return p.log().sum(), p

    with pytest.warns(UserWarning, match="Anomaly"), torch.autograd.detect_anomaly(check_nan=False):
        kept, _ = made()
    line = made.__code__.co_firstlineno + 2
    assert f"(test_live.py:{line})" in gx.verify(kept).render("text", width=2000)
    other, _ = made()
    assert "test_live.py" not in gx.verify(other).render("text", width=2000)


def test_what_was_changed_after_it_was_kept_is_named() -> None:
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(second.parameters(), lr=0.1)
    loss = second(first(torch.ones(1, 1))).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(gx.RunError, match=r"that is second\.weight, or a view of it, .* a step of an optimizer"):
        gx.explain(loss)
    h = first(torch.ones(1, 1)).exp()
    made = h.square().sum()
    with torch.no_grad():
        h.mul_(2)
    with pytest.raises(gx.RunError, match=r"keeps .* for the backward pass, and it was changed in place") as failure:
        gx.explain(made)
    assert "optimizer" not in str(failure.value)


def live(function: Callable[[Tensor], Tensor], *numbers: float) -> gx.Explanation:
    return gx.explain(function(torch.tensor(numbers, dtype=torch.float64, requires_grad=True)))


# Gradients by hand.
@pytest.mark.parametrize(
    ("function", "right"),
    [
        (lambda x: ((x - torch.tensor([1.0, 2.0])) ** 2).mean(), [-0.5, -1.5]),  # 2 (x - t) / 2
        (lambda x: (1 - x).log().sum(), [-2.0, -2.0]),  # -1 / (1 - x)
        (lambda x: ((2 * x)[torch.tensor([1, 1])] ** 2).sum(), [0.0, 8.0]),  # 2 · 8x
        (lambda x: (x.masked_fill(torch.tensor([True, False]), 3.0) ** 2).sum(), [0.0, 1.0]),
        (lambda x: (x[None].max(-1)[0] ** 2).sum(), [1.0, 0.0]),  # of equal ones, the first
    ],
)
def test_the_rules_confirm_a_live_gradient_whose_constants_are_unknown(
    function: Callable[[Tensor], Tensor], right: list[float]
) -> None:
    explanation = live(function, 0.5, 0.5)
    gradient = explanation.gradients["x"]
    assert gradient is not None
    assert gradient.tolist() == pytest.approx(right)
    assert explanation.verdict == "agrees"


def test_what_was_not_saved_goes_by_the_name_of_the_argument() -> None:
    page = live(lambda x: ((x - 3) ** 2).sum(), 1.0, 2.0).render("text")
    assert "f1 = x - other" in page


@pytest.mark.parametrize("name", ["i0", "i1", "i0e", "i1e"])
@pytest.mark.parametrize("end", [INF, -INF, math.nan])
def test_bessel_functions_at_the_ends_of_the_line(name: str, end: float) -> None:
    function = getattr(torch.special, name)
    explanation = gx.explain(lambda x: function(x).sum(), {"x": torch.tensor([end, 1.0])})
    assert "Checked" in explanation.render("text")
    # I₀ is even and I₁ odd, and both grow without bound.
    limit = {"i0": abs(end), "i1": end}.get(name)
    assert limit is None or holds(f"{name}({end})", "=", str(limit))


@pytest.mark.parametrize("end", [INF, -INF, math.nan])
def test_an_exponent_that_is_no_number(end: float) -> None:
    page = gx.explain(lambda x: (2**x).sum(), {"x": torch.tensor([end, 1.0])}).render("text")
    shown = f"({end})" if end < 0 else f"{end}"
    assert f"2^{shown} = {2**end:.3g}" in page


@pytest.mark.parametrize("name", ["max", "min", "amax", "amin", "median"])
def test_the_largest_of_what_holds_nan(name: str) -> None:
    page = gx.explain(lambda x: getattr(x, name)(), {"x": torch.tensor([1.0, math.nan])}).render("text")
    assert "y: nan = nan" in page


def test_gradients_of_both_infinities_are_explained() -> None:
    """The rest of a long sum: inf - inf is nan, as the machine adds."""
    w = torch.ones(30)
    w[:10], w[10:20] = INF, -INF
    bias = torch.zeros((), requires_grad=True)
    explanation = gx.explain(((bias + torch.zeros(30)) * w).sum())
    gradient = explanation.gradients["bias"]
    assert gradient is not None
    assert gradient.isnan()
    assert "∂y/∂bias = nan" in explanation.render("text")


def test_where_no_line_is_known_an_operation_goes_by_its_node() -> None:
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    page = gx.explain((x.log() * 2).sum()).render("text", width=200)
    assert "in the backward pass of `LogBackward0`" in page
    assert "``" not in page


@pytest.mark.parametrize("ask", [gx.explain, gx.verify, gx.assert_gradients])
def test_a_live_tensor_is_judged_by_the_rules_and_stays_usable(ask: Callable[..., object]) -> None:
    w = torch.tensor([0.5, -1.5, 2.0], requires_grad=True)
    loss = (w.tanh() * w).sum()
    result = ask(loss)
    report = result if isinstance(result, gx.Report) else result.report
    assert result.verdict == "agrees"
    assert [c.oracle for c in report.checks if c.verdict == "agrees"] == ["rules"]
    (seen,) = [c.resolution for c in report.checks if c.verdict == "agrees"]
    assert report.resolution("w") == pytest.approx(seen)  # no more is claimed than the one judge says
    assert w.grad is None
    loss.backward()
    x = w.detach()
    assert torch.allclose(w.grad, x.tanh() + x * (1 - x.tanh() ** 2))


def test_what_no_rule_can_judge_is_not_called_small() -> None:
    class Planted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, g: Tensor) -> Tensor:
            return 4 * g

    report = gx.verify(Planted.apply(torch.ones(3, requires_grad=True)).sum())
    assert report.verdict == "cannot say"
    assert "no method could judge it" in str(report)


@pytest.mark.parametrize(
    "option", [{"second": True}, {"full": True}, {"wrt": "x"}, {"exact": True}, {"stops": "intended"}]
)
def test_what_would_need_another_run_is_refused_of_a_live_tensor(option: dict[str, object]) -> None:
    (name,) = option
    with pytest.raises(gx.InputError, match=name):
        gx.verify((torch.ones(2, requires_grad=True) * 2).sum(), **option)


def own_result(x: Tensor) -> tuple[Tensor, Tensor]:
    made = (2 * x).exp()
    return made, (3 * made).sum()


def own_argument(x: Tensor) -> tuple[Tensor, Tensor]:
    made = 2 * x
    return made, (made * made).sum()


def own_leaf(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, (x**2).sum()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("make", [own_result, own_argument, own_leaf])
@pytest.mark.parametrize("write", [lambda t: t.data.mul_(0.5), lambda t: t.detach().numpy().fill(4.0)])
def test_what_was_written_into_behind_torchs_back_is_said_and_not_judged(
    make: Callable[[Tensor], tuple[Tensor, Tensor]], write: Callable[[Tensor], object], language: str
) -> None:
    kept, loss = make(torch.tensor([0.25, -1.0, 2.0], requires_grad=True))
    assert gx.explain(loss).verdict == "agrees"
    write(kept)
    explanation = gx.explain(loss)
    (finding,) = explanation.findings
    assert (explanation.verdict, finding.code) == ("cannot say", "saved-edited")
    page = "".join(explanation.render("text", language=language).split())
    assert ("不是当时运行的那个函数的梯度" if language == "zh" else "isnotthatofthefunctionthatwasrun") in page


@pytest.mark.parametrize(
    "run",
    [
        lambda x: F.pad(2 * x, (1, 1), value=3.0),
        lambda x: torch.nan_to_num(x / x.relu(), nan=7.0, posinf=5.0),
        lambda x: torch.linalg.pinv(x @ x.T, hermitian=True),
        lambda x: torch.linalg.pinv(2 * x, rtol=0.5),
        lambda x: (2 * x).sort(descending=True).values,
        lambda x: (2 * x).topk(1, largest=False).values,
    ],
)
def test_an_argument_that_torch_did_not_save_is_not_taken_for_its_default(run: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([[3.0, 1.0], [-1.0, 2.0]], requires_grad=True)
    made = run(x)
    traced = trace_live((made * 1.0).sum())
    assert traced.edited == ()
    (value,) = [node.outputs[0] for node in traced.nodes if node.name == made.grad_fn.name()]
    if value is not None:
        torch.testing.assert_close(value, made.detach())


def test_what_a_distance_to_itself_takes_at_its_kink_cannot_be_asked_of_a_live_tensor() -> None:
    """Torch does not save how `cdist` was computed; ∂ Σ ‖wᵢ − wⱼ‖ / ∂w₀ is 2 (w₀ − w₁) / ‖w₀ − w₁‖: (1.2, 1.6)."""
    w = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    found = gx.explain(torch.cdist(w, w).sum())
    assert found.verdict == "cannot say"
    assert "∂y/∂w = [[1.2, 1.6], [-1.2, -1.6]]" in found.render("text").replace("\n ", "")
