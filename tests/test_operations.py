"""Each node checked alone: planted errors are named with place and pattern, and nothing that is right is accused."""

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradexplain as gx
from gradexplain.findings.diagnosis import Finding
from gradexplain.locale.catalogue import LANGUAGES, say, sentences
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import generic, trace
from gradexplain.verification.operations import check_operations
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay
from gradexplain.verification.verdicts import Operation

Function = Callable[..., Tensor]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def checked(function: Function, *inputs: Tensor, **options: Any) -> tuple[Operation, ...]:
    return check_operations(computation_of(function, list(inputs)), **options)


def replayed(function: Function, *inputs: Tensor) -> tuple[Operation, ...]:
    """Checks the operations of the replay in float64, as is done for a function of float32."""
    computation = computation_of(function, list(inputs))
    replay = Question(trace(computation, cotangent=generic), computation).replay
    assert isinstance(replay, Replay)
    return check_operations(replay.computation)


def not_agreeing(operations: Sequence[Operation]) -> list[Operation]:
    return [o for o in operations if o.verdict != "agrees"]


def found(operations: Sequence[Operation], kind: str) -> list[tuple[Operation, Finding]]:
    return [(o, f) for o in operations for f in o.findings if f.code == kind]


def line_of(text: str, file: str = __file__) -> int:
    """Returns the line of this file that holds `text`."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line and "line_of" not in line)


# --------------------------------------------------------------------------------------------------- nothing wrong


def inplace(x: Tensor) -> Tensor:
    h = x * 2
    h.add_(1)
    h.mul_(x)
    h.exp_()
    return h.sum()


def written(x: Tensor, v: Tensor) -> Tensor:
    y = x * 1
    y[0] = v[0] * 2
    y[1:3].mul_(v[1:3])
    z = y[2]
    z.add_(v[3])
    y[:, 0].copy_(v[:, 1])
    y[[0, 3]] = x[[1, 1]].sin()
    return (y * y).sum() + z.sum()


def pieces(x: Tensor, v: Tensor) -> Tensor:
    a, b = x.split(2)
    c = torch.cat([a, b * v[:2], x])
    first, _, third = c.unbind(1)
    return torch.stack([first, third.exp()]).sum() + c.chunk(2)[0].sum()


def chosen(x: Tensor) -> Tensor:
    values, _ = x.max(1)
    ordered, _ = x.sort(0)
    return (values * 2).sum() + (ordered**2).sum() + x.topk(2, 1).values.sum() + x.amax(0).sum()


def losses(x: Tensor) -> Tensor:
    t = torch.tensor([0, 2, 1, 1])
    return F.cross_entropy(x, t, label_smoothing=0.1) + F.nll_loss(x.log_softmax(1), t) + F.smooth_l1_loss(x, x * 0)


def differentiated(x: Tensor) -> Tensor:
    (first,) = torch.autograd.grad((x**3 * x.sin()).sum(), x, create_graph=True)
    return (first**2).sum()


def conjugated(x: Tensor) -> Tensor:
    z = torch.view_as_complex(x)
    return (z * z.conj()).real.sum() + torch.fft.fft(z).abs().sum()


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


CONV = built(
    lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
)
LAYER = built(lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True))
CELL = built(lambda: nn.LSTMCell(3, 4))
TABLE = built(lambda: nn.Embedding(10, 4))

# fmt: off
RIGHT: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "relu net":       (lambda x, w, v: F.relu(F.relu(x @ w) @ v).sum(),               [(5, 4), (4, 6), (6, 2)]),
    "convolution":    (lambda x: F.cross_entropy(CONV(x), torch.tensor([0, 1])),      [(2, 3, 8, 8)]),
    "layer norm":     (lambda x, w, b: F.layer_norm(x, (3,), w, b).sin().sum(),       [(4, 3), (3,), (3,)]),
    "transformer":    (lambda x: LAYER(x).pow(2).sum(),                               [(2, 3, 8)]),
    "lstm cell":      (lambda x, h, c: sum(t.sum() for t in CELL(x, (h, c))),         [(2, 3), (2, 4), (2, 4)]),
    "dropout":        (lambda x: F.dropout(x.relu(), 0.5).sin().sum(),                [(20,)]),
    "in place":       (inplace,                                                       [(4, 3)]),
    "through a view": (written,                                                       [(4, 3), (4, 3)]),
    "pieces":         (pieces,                                                        [(4, 3), (4, 3)]),
    "index put":      (lambda x, v: x.clone().index_put_((torch.tensor([0, 2, 0]),), v, accumulate=True).sin().sum(),
                                                                                      [(4, 3), (3, 3)]),
    "maxima":         (chosen,                                                        [(4, 3)]),
    "embedding":      (lambda x: (TABLE(torch.tensor([1, 2, 2])) * x).sin().sum(),    [(4,)]),
    "losses":         (losses,                                                        [(4, 3)]),
    "checkpoint":     (lambda x: checkpoint(lambda v: v.sin().exp() * v, x, use_reentrant=False).sum(), [(4, 3)]),
    "twice":          (differentiated,                                                [(4,)]),
    "complex":        (conjugated,                                                    [(4, 2)]),
    # squared, as torch 2.8 cannot transform the cotangent of a bare sum, which is one number at every place
    "of a conjugate": (lambda x: (torch.fft.hfft(torch.view_as_complex(x)) ** 2).sum(), [(4, 2)]),
    "batched":        (lambda x, y: torch.vmap(torch.dot)(x, y).sum(),                [(4, 3), (4, 3)]),
    "one input":      (lambda x: x,                                                   [(3,)]),
}
# fmt: on


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", RIGHT)
def test_right_operators_are_not_accused(name: str) -> None:
    function, shapes = RIGHT[name]
    operations = checked(function, *(normal(i, *shape) for i, shape in enumerate(shapes)))
    assert [(o.label, o.node.name, o.report.checks) for o in not_agreeing(operations)] == []
    assert not [f for o in operations for f in o.findings if f.code.startswith(("saved", "hook"))]


def test_every_node_that_is_no_leaf_is_checked_in_the_order_of_the_forward_pass() -> None:
    operations = checked(lambda x, w: torch.tanh(x @ w).sum(), normal(0, 3, 4), normal(1, 4, 2))
    assert [o.label for o in operations] == ["mm", "tanh", "sum"]
    assert [c.input for c in operations[0].report.checks if c.oracle == "rules"] == ["self", "mat2"]


def test_only_the_chosen_nodes_are_checked() -> None:
    operations = checked(lambda x: x.sin().exp().sum(), normal(0, 3), only=lambda node: "Exp" in node.name)
    assert [o.label for o in operations] == ["exp"]


def test_items_of_a_list_are_arguments_of_their_own() -> None:
    (cat, *_) = checked(lambda x, y: torch.cat([x, y]).sum(), normal(0, 3), normal(1, 2))
    assert {c.input for c in cat.report.checks} == {"tensors[0]", "tensors[1]"}


def test_an_operator_that_wrote_into_a_view_is_checked_as_a_function_of_the_whole() -> None:
    operations = checked(written, normal(0, 4, 3), normal(1, 4, 3))
    whole = [o for o in operations if o.node.name.endswith("CopySlices")]
    assert [o.label for o in whole] == ["copy_", "mul_", "add_", "copy_"]
    assert all(o.verdict == "agrees" for o in whole)


# -------------------------------------------------------------------------------------------------- planted errors

Backward = Callable[..., Any]


def planted(forward: Function, backward: Backward, name: str = "Planted") -> Function:
    """Returns a custom Function of x (and b) whose backward is `backward(g, *saved)`."""

    class Planted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, *b: Tensor) -> Tensor:
            ctx.save_for_backward(x, *b)
            return forward(x, *b)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:  # this is where it is written
            return backward(g, *ctx.saved_tensors)

    Planted.__name__ = name
    return cast(Function, Planted.apply)


def one(g: Tensor, factor: float) -> Tensor:
    g = g.clone()
    g[1, 1] *= factor
    return g


NAN = math.nan
# fmt: off
WRONG: dict[str, tuple[Function, Backward, str, object]] = {
    "a half":        (lambda x: x**2,           lambda g, x: g * x,                   "factor",            "1/2"),
    "twice":         (lambda x: x**2,           lambda g, x: 4 * g * x,               "factor",            "2"),
    "1.001":         (lambda x: x.sin(),        lambda g, x: 1.001 * g * x.cos(),     "factor",            "1.001"),
    "one element":   (lambda x: x.sin(),        lambda g, x: one(g * x.cos(), 1.001), "one-factor",        "1.001"),
    "one zeroed":    (lambda x: x.sin(),        lambda g, x: one(g * x.cos(), 0.0),   "masked",            None),
    "the sign":      (lambda x: x.cos(),        lambda g, x: g * x.sin(),             "sign",              None),
    "mean for sum":  (lambda x: (x**2).sum(),   lambda g, x: g * 2 * x / 16,          "factor",            "1/16"),
    "sum for mean":  (lambda x: x.mean(),       lambda g, x: g.expand(x.shape),       "factor",            "16"),
    "the argument":  (lambda x: x**3,           lambda g, x: 3 * g * x,               "missing",           "x"),
    "one too many":  (lambda x: 2 * x,          lambda g, x: 2 * g * x,               "superfluous",       "x"),
    "the chain":     (lambda x: x.sin(),        lambda g, x: x.cos(),                 "cotangent-ignored", None),
    "zero":          (lambda x: x.sin(),        lambda g, x: torch.zeros_like(g),     "zero",              None),
    "nothing":       (lambda x: x.sin(),        lambda g, x: None,                    "zero",              None),
    "a term":        (lambda x: x**2 + x,       lambda g, x: g * 2 * x,               "term-missing",      "cotangent"),
    "a term with x": (lambda x: x**2 + x.sin(), lambda g, x: g * x.cos(),             "term-missing",  "2*x*cotangent"),
    "a term more":   (lambda x: x.sin(),        lambda g, x: g * x.cos() + g,         "term-extra",        "cotangent"),
    "a constant":    (lambda x: x**2,           lambda g, x: g * 2 * x + 1,           "offset",            1.0),
    "the mask":      (lambda x: x.clamp(min=0), lambda g, x: g,                       "unmasked",          None),
    "a mask more":   (lambda x: x**2,           lambda g, x: 2 * g * x * (x > 0),     "masked",            None),
    "transposed":    (lambda x: x @ x,          lambda g, x: x @ g.mT + g.mT @ x,     "transposed",        None),
    "nan":           (lambda x: x.sin(),        lambda g, x: one(g * x.cos(), NAN),   "elements",          None),
}
# fmt: on


def detail(finding: Finding) -> object:
    """Returns the number or tensor that a pattern names."""
    return next((finding.data[key] for key in ("factor", "term", "offset") if key in finding.data), None)


ROTATION = normal(9, 4, 4)


def network(layer: Function, depth: int, at: int, *more: Tensor) -> Function:
    """Returns a network of four operators a layer, with `layer` after one of them."""

    def run(x: Tensor) -> Tensor:
        for level in range(depth):
            x = torch.tanh(x @ ROTATION.to(x)) * 2 + 0.1
            if level == at:
                x = layer(x, *more) * torch.ones(4, 4).to(x)  # here it is used
        return torch.sigmoid(x).sum()

    return run


@cache
def planted_operations(name: str) -> tuple[Operation, ...]:
    forward, backward, *_ = WRONG[name]
    return checked(network(planted(forward, backward), 5, 2), normal(3, 4, 4))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_planted_error_is_named_with_its_place_and_what_it_looks_like(name: str, dtype: torch.dtype) -> None:
    forward, backward, kind, what = WRONG[name]
    if dtype == torch.float32:
        operations = replayed(network(planted(forward, backward), 5, 2), normal(3, 4, 4).to(dtype))
    else:
        operations = planted_operations(name)
    (operation,) = (o for o in operations if o.verdict == "differs")  # where tanh saturates, nothing can be said of it
    assert (operation.label, operation.verdict) == ("Planted", "differs")
    assert {c.input for c in operation.report.checks if c.verdict == "differs"} == {"x"}
    assert operation.node.source is not None
    assert operation.node.source.line == line_of("# here it is used")
    assert operation.backward is not None
    assert operation.backward.line == line_of("# this is where it is written") - 1  # with its decorator
    (finding,) = operation.findings
    assert (finding.code, finding.data["argument"], detail(finding)) == (kind, "x", what)
    if name in ("one element", "one zeroed", "nan"):
        assert (finding.data["count"], finding.data["place"]) == (1, (1, 1))


@pytest.mark.parametrize(("depth", "at"), [(4, 0), (4, 3), (14, 6), (14, 13)])
def test_the_wrong_node_is_named_wherever_it_stands(depth: int, at: int) -> None:
    operations = checked(network(planted(*WRONG["1.001"][:2]), depth, at), normal(3, 4, 4))
    assert len(operations) == 4 * depth + 4
    assert [(o.label, o.verdict) for o in not_agreeing(operations)] == [("Planted", "differs")]
    others = [o.node.index for o in operations if o.label == "Planted"]
    assert [o.node.index for o in not_agreeing(operations)] == others


@pytest.mark.parametrize("name", ["a half", "one element", "the argument", "a term", "the mask"])
def test_a_large_argument_is_measured_at_some_of_its_elements(name: str) -> None:
    forward, backward, kind, what = WRONG[name]
    function = planted(forward, backward)
    (operation,) = not_agreeing(checked(lambda x: function(x * 1).sin().sum(), normal(4, 70, 30)))
    (finding,) = operation.findings
    assert (finding.code, detail(finding)) == (kind, what)
    assert finding.data["size"] == 2100
    assert 20 <= cast(int, finding.data["total"]) <= 40


# fmt: off
BROADCAST: dict[str, tuple[Backward, str | None, dict[str, object]]] = {
    "summed":          (lambda g, x, b: (g * b, (g * x).sum(0)),    None,             {}),
    "left to torch":   (lambda g, x, b: (g * b, g * x),             None,             {}),
    "the mean":        (lambda g, x, b: (g * b, (g * x).mean(0)),   "unsummed-mean",  {"count": 4}),
    "the first row":   (lambda g, x, b: (g * b, (g * x)[0]),        "unsummed-slice", {"axis": 0, "index": 0}),
    "the last row":    (lambda g, x, b: (g * b, (g * x)[-1]),       "unsummed-slice", {"axis": 0, "index": 3}),
    "nothing":         (lambda g, x, b: (g * b, None),              "zero",           {}),
}
# fmt: on


@pytest.mark.parametrize("name", BROADCAST)
def test_a_broadcast_that_is_not_summed_is_recognised(name: str) -> None:
    backward, kind, data = BROADCAST[name]
    layer = planted(lambda x, b: x * b, backward)
    operations = checked(lambda x, b: network(layer, 3, 1, b)(x), normal(3, 4, 4), normal(5, 4))
    if kind is None:
        assert not_agreeing(operations) == []
        return
    ((operation, finding),) = found(operations, kind)
    assert operation.label == "Planted"
    assert finding.data["argument"] == "b[0]"
    assert {key: finding.data[key] for key in data} == data


def test_what_torch_makes_of_a_gradient_without_a_word_is_said() -> None:
    summed = planted(lambda x, b: x * b, lambda g, x, b: (g * b, g * x))
    cut = planted(lambda x: x * 3, lambda g, x: (3 * g).to(torch.int64))
    operations = checked(lambda x, b: cut(summed(x, b)).sum(), normal(0, 4, 3), normal(1, 3))
    ((_, shape),) = found(operations, "summed")
    assert (shape.data["seen"], shape.data["shape"]) == ((4, 3), (3,))
    ((wrong, kind),) = found(operations, "cast")
    assert (kind.data["seen"], kind.data["dtype"]) == ("int64", "float64")
    assert wrong.verdict == "differs"


class Both(torch.autograd.Function):
    """Two outputs, saved outputs, no zeros for what does not arrive; wrong in the gradient of the second."""

    @staticmethod
    def forward(x: Tensor, k: float = 3.0) -> tuple[Tensor, Tensor]:
        return x * k, x.exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.k = inputs[1]
        ctx.save_for_backward(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> Any:
        (e,) = ctx.saved_tensors
        first = 0 if g is None else g * ctx.k
        return first + (0 if h is None else 2 * h * e), None


class Dirty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(3)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Mapped(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, k: float) -> Tensor:
        return x.sin() * k

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.k = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 1.5 * g * x.cos() * ctx.k, None


class Once(torch.autograd.Function):
    clear_saved_tensors_on_access = True

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * x


class Numpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * g * torch.from_numpy(np.cos(x.numpy()))


# fmt: off
STYLES: dict[str, tuple[Function, str, str, dict[str, object]]] = {
    "both outputs":  (lambda x: sum(t.sum() for t in Both.apply(x)),  "Both",    "elements", {"count": 6}),
    "the second":    (lambda x: Both.apply(x, 2.0)[1].sum(),          "Both",    "factor",   {"factor": "2"}),
    "writes":        (lambda x: Dirty.apply(x * 1).sum(),             "Dirty",   "factor",   {"factor": "2/3"}),
    "gives it back": (lambda x: Same.apply(x * 1).sum(),              "Same",    "sign",     {}),
    "plain":         (lambda x: Mapped.apply(x, 2.0).sum(),           "Mapped",  "factor",   {"factor": "3/2"}),
    "under vmap":    (lambda x: torch.vmap(lambda r: Mapped.apply(r, 2.0))(x).sum(),
                                                               "VmappedMapped",  "factor",   {"factor": "3/2"}),
    "saved once":    (lambda x: Once.apply(x).sum(),                  "Once",    "factor",   {"factor": "1/2"}),
    "in numpy":      (lambda x: Numpy.apply(x).sum(),                 "Numpy",   "factor",   {"factor": "2"}),
    "checkpointed":  (lambda x: checkpoint(lambda v: Same.apply(v.sin()), x, use_reentrant=False).sum(),
                                                                      "Same",    "sign",     {}),
}
# fmt: on


@pytest.mark.parametrize("name", STYLES)
def test_custom_functions_of_every_style_are_checked(name: str) -> None:
    function, label, kind, data = STYLES[name]
    (operation,) = not_agreeing(checked(function, normal(0, 3, 2)))
    assert operation.label == label
    assert [f.code for f in operation.findings] == [kind]
    assert {key: operation.findings[0].data[key] for key in data} == data


def test_a_function_that_was_bound_before_the_recording_is_known() -> None:
    bound = Same.apply
    operations = checked(lambda x: bound(x * 1).sum(), normal(0, 3))
    assert [o.label for o in operations] == ["mul", "Same", "sum"]


# ------------------------------------------------------------------------------------------ what only looks like it

SQUARE = planted(lambda x: x**2, lambda g, x: 2 * g * x, "Square")
DOUBLE = planted(lambda x: x**2, lambda g, x: 4 * g * x, "Double")


def data_edit(x: Tensor) -> Tensor:
    h = x * 2
    y = h**2
    h.data.fill_(10.0)  # the edit
    return y.sum()


def numpy_edit(x: Tensor) -> Tensor:
    h = x * 2
    y = h.exp()
    y.detach().numpy()[1] = 7.0
    return y.sum()


def constant_edit(x: Tensor) -> Tensor:
    c = torch.ones(3, dtype=torch.float64)
    y = x * c
    c.numpy()[2] = 9.0
    return y.sum()


def custom_edit(x: Tensor) -> Tensor:
    h = x * 1
    y = SQUARE(h)
    h.data.mul_(3.0)
    return y.sum()


# fmt: off
EDITS: dict[str, tuple[Function, str, str, dict[str, object]]] = {
    "data":     (data_edit,     "pow",    "saved-changed",        {"argument": "self", "before": 1.0, "now": 10.0}),
    "numpy":    (numpy_edit,    "exp",    "saved-changed-unseen", {"argument": "result", "count": 1, "place": (1,)}),
    "constant": (constant_edit, "mul",    "saved-changed-unseen", {"argument": "other", "place": (2,), "now": 9.0}),
    "custom":   (custom_edit,   "Square", "saved-changed",        {"argument": "x", "before": 0.5, "now": 1.5}),
}
# fmt: on
POINT = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_what_was_saved_is_at_fault_and_not_the_formula(name: str) -> None:
    function, label, kind, data = EDITS[name]
    (operation,) = not_agreeing(checked(function, POINT))
    assert (operation.label, operation.verdict) == (label, "differs")
    assert [f.code for f in operation.findings] == [kind]
    assert {key: operation.findings[0].data[key] for key in data} == data
    assert {c.oracle for c in operation.report.checks if c.verdict == "differs"} == {"saved tensors"}


def test_the_line_of_an_edit_is_named() -> None:
    ((_, finding),) = found(checked(data_edit, POINT), "saved-changed")
    assert str(finding.source) == f"{__file__}:{line_of('# the edit')}"
    assert finding.data["code"] == "h.data.fill_(10.0)"


def test_a_wrong_formula_is_named_beside_an_edit() -> None:
    def both(x: Tensor) -> Tensor:
        h = x * 1
        y = DOUBLE(h)
        h.data.mul_(3.0)
        return y.sum()

    (operation,) = not_agreeing(checked(both, POINT))
    assert [f.code for f in operation.findings] == ["saved-changed", "factor"]


def test_running_averages_are_no_edit() -> None:
    net = built(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    operations = checked(lambda x: net(x).sin().sum(), normal(0, 5, 3))
    assert [f for o in operations for f in o.findings] == []


def tripled(g: Tensor) -> Tensor:
    return g * 3


def negated(g: Tensor) -> Tensor:
    return -g


def test_hooks_that_change_a_gradient_are_named_and_no_operator_is_accused() -> None:
    def hooked(x: Tensor) -> Tensor:
        h = x * 2
        h.register_hook(tripled)
        x.register_hook(negated)
        h.register_hook(lambda g: None)
        y = h.sin()
        assert y.grad_fn is not None
        y.grad_fn.register_hook(lambda sent, received: (sent[0] * 5,))
        return y.sum()

    operations = checked(hooked, normal(0, 4))
    assert not_agreeing(operations) == []
    named = [(f.data["value"], str(f.data["hook"]).rpartition(".")[2]) for _, f in found(operations, "hook")]
    assert named == [("x", "negated"), ("x * 2", "tripled")]
    assert [o.label for o, _ in found(operations, "hook-on-node")] == ["sin"]


def test_a_hook_that_only_looks_is_not_mentioned() -> None:
    def watched(x: Tensor) -> Tensor:
        h = x * 2
        h.register_hook(lambda g: None)
        return (h.sin() + h.cos() + h).sum()

    assert [f for o in checked(watched, normal(0, 4)) for f in o.findings] == []


def test_random_numbers_are_named() -> None:
    operations = checked(lambda x: F.dropout(x.sin(), 0.5).sum(), normal(0, 6))
    ((operation, finding),) = found(operations, "random")
    assert (operation.label, finding.data["operator"], finding.data["code"]) == (
        "mul",
        "bernoulli_",
        "F.dropout(x.sin(), 0.5)",
    )


def test_a_random_function_of_the_users_is_checked_with_its_numbers_held_fixed() -> None:
    noisy = planted(lambda x: x * torch.ones_like(x), lambda g, x: g)

    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(mask := torch.rand_like(x))
            return x * mask

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (mask,) = ctx.saved_tensors
            return g * mask

    operations = checked(lambda x: Noisy.apply(noisy(x)).sum(), normal(0, 4))
    assert not_agreeing(operations) == []
    assert [o.label for o, _ in found(operations, "random")] == ["Noisy"]


def test_a_stop_on_purpose_is_named_where_it_arrives() -> None:
    operations = checked(lambda x: (x * x.detach()).sum() + SQUARE(x * x.detach()).sum(), normal(0, 3))
    assert not_agreeing(operations) == []
    assert {(o.label, f.data["code"]) for o, f in found(operations, "stopped-detach")} == {("mul", "x.detach()")}


def test_a_cut_value_that_goes_into_a_custom_function_is_a_cut() -> None:
    product = planted(lambda x, b: x * b, lambda g, x, b: (g * b, None))
    computation = computation_of(lambda x: product(x, x.detach()).sum(), [normal(0, 3)])
    assert [cut.reason for cut in trace(computation).cuts] == ["detach"]


STEP = planted(lambda x: x.round(), lambda g, x: g, "Round")
SPIKE = planted(lambda x: (x > 0).to(x), lambda g, x: g / (1 + x.abs()) ** 2, "Spike")


@pytest.mark.parametrize("function", [STEP, SPIKE])
def test_a_straight_through_estimate_is_reported_as_what_it_is(function: Function) -> None:
    (operation,) = not_agreeing(checked(lambda x: function(x * 2).sum(), normal(0, 5)))
    assert operation.verdict == "cannot say"
    assert [f.code for f in operation.findings] == ["surrogate"]


ESTIMATED: dict[str, tuple[Function, list[str]]] = {
    "one": (STEP, ["Round"]),
    "on the way": (lambda x: (x * SPIKE(x.sin())).sum(), ["Spike"]),
    "two": (lambda x: SPIKE(x) + STEP(3 * x), ["Spike", "Round"]),
}


@pytest.mark.parametrize("case", ESTIMATED)
def test_a_gradient_that_is_an_estimate_on_purpose_is_told_as_one_in_the_first_sentence(case: str) -> None:
    function, labels = ESTIMATED[case]
    inputs = [torch.tensor([0.3, 1.7, -0.4])]
    report = gx.verify(function, inputs)
    assert (report.verdict, report.reason) == ("differs", "wrong")  # the derivative of a step is 0
    assert [operation.label for operation in report.estimates()] == labels
    for language in LANGUAGES:
        first = report.render("text", language=language, width=400).split("╯")[1].strip().splitlines()[0]
        assert all(label in first for label in labels)
    assert "put together" not in " ".join(str(report).split())
    with pytest.raises(AssertionError) as raised:
        gx.assert_gradients(function, inputs)
    assert "on purpose" in str(raised.value).splitlines()[0]


def test_an_error_beside_an_estimate_is_told_as_an_error() -> None:
    off = planted(torch.sin, lambda g, x: 1.01 * g * x.cos(), "Off")
    report = gx.verify(lambda x: STEP(3 * x) + off(x), [torch.tensor([0.3, 1.7, -0.4])])
    assert [operation.label for operation in report.wrong()] == ["Off"]
    assert "on purpose" not in report.render("text", width=400).split("Where")[0]


def test_a_function_that_is_flat_only_here_is_wrong_if_it_sends_something() -> None:
    relu = planted(lambda x: x.clamp(min=0), lambda g, x: g)
    (operation,) = not_agreeing(checked(lambda x: relu(-x.abs() - 1).sum(), normal(0, 5)))
    assert operation.verdict == "differs"


OWN_RELU = planted(lambda x: x.clamp(min=0), lambda g, x: g * (x > 0), "Relu")
OFF_RELU = planted(lambda x: x.clamp(min=0), lambda g, x: 1.01 * g * (x > 0), "Relu")


def test_kinks_at_this_very_point_are_named() -> None:
    operations = checked(lambda x: torch.relu(torch.relu(x) * 2).sum(), torch.tensor([-1.0, 0.5], dtype=torch.float64))
    assert not_agreeing(operations) == []
    assert [o.label for o, _ in found(operations, "kink")] == ["relu"]


@pytest.mark.parametrize("shape", [(4, 4), (30, 20)])
def test_many_kinks_at_once_do_not_refute_a_convention_nor_hide_an_error(shape: tuple[int, ...]) -> None:
    right = checked(lambda x: OWN_RELU(torch.relu(x) * 2).sum(), normal(0, *shape))
    assert not_agreeing(right) == []
    assert "Relu" in {o.label for o, _ in [*found(right, "kink"), *found(right, "kinks")]}
    wrong = checked(lambda x: OFF_RELU(torch.relu(x) * 2).sum(), normal(0, *shape))
    assert [(o.label, o.verdict) for o in not_agreeing(wrong)] == [("Relu", "differs")]
    assert [f.data["factor"] for _, f in found(wrong, "factor")] == ["1.01"]


def test_ctc_and_random_draws_are_no_errors_of_torch() -> None:
    def ctc(x: Tensor) -> Tensor:
        targets = torch.tensor([[1, 2], [2, 1]])
        return F.ctc_loss(x.log_softmax(2), targets, torch.tensor([4, 4]), torch.tensor([2, 2]))

    operations = [*checked(ctc, normal(0, 4, 2, 3)), *checked(lambda x: torch.normal(x, x.exp()).sum(), normal(1, 3))]
    assert [(o.label, o.verdict) for o in not_agreeing(operations)] == [("normal", "cannot say")]
    assert found(operations, "presumes-normalised") == []
    assert {f.data["argument"] for _, f in found(operations, "drawn")} == {"mean", "std"}


SCALED = planted(lambda x: x.clone(), lambda g, x: 1.01 * g, "Scaled")


def ctc_loss(x: Tensor) -> Tensor:
    return F.ctc_loss(x, torch.tensor([[1, 2], [2, 1]]), torch.tensor([4, 4]), torch.tensor([2, 2]))


def test_log_probabilities_are_taken_to_stay_normalised_and_that_hides_no_error() -> None:
    """By itself, torch's backward of the CTC loss is that of ctc(log_softmax(x)), where x is normalised."""
    x = normal(0, 4, 2, 3).log_softmax(-1)
    assert gx.verify(ctc_loss, [x]).verdict == "agrees"
    off = gx.verify(lambda x: ctc_loss(SCALED(x)), [x])
    assert (off.verdict, [o.label for o in off.wrong()]) == ("differs", ["Scaled"])


def test_a_backward_that_presumes_what_is_not_so_is_not_called_right_by_itself() -> None:
    """Logits in place of log-probabilities: the gradient is none of this function."""
    report = gx.verify(ctc_loss, [normal(0, 4, 2, 3)])
    assert report.verdict == "differs"
    assert [(o.label, o.verdict) for o in report.operations if o.verdict != "agrees"] == [("_ctc_loss", "cannot say")]
    assert "_ctc_loss could not be judged alone" in " ".join(str(report).split())


# ---------------------------------------------------------------------------------------------------- cannot be told


def test_a_function_that_depends_on_something_else_cannot_be_judged() -> None:
    count = iter(range(1, 100))
    counting = planted(lambda x: x * next(count), lambda g, x: g)
    (operation,) = not_agreeing(checked(lambda x: counting(x).sum(), normal(0, 3)))
    assert operation.verdict == "cannot say"
    assert [c.reason for c in operation.report.checks] == ["not_reproduced"]


def test_sparse_operators_say_that_they_cannot_be_run_alone() -> None:
    operations = checked(lambda x: torch.sparse.sum((x * 2).to_sparse()), normal(0, 3, 3))
    assert {c.reason for o in not_agreeing(operations) for c in o.report.checks} == {"sparse_operator"}


# ------------------------------------------------------------------------------------------------ left as it was


def failing(x: Tensor) -> Tensor:
    Same.apply(x * 1)
    raise ValueError("halfway")


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    reached = torch.autograd.function._SingleLevelFunction
    net = built(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)))
    net[0].weight.grad = torch.ones_like(net[0].weight)
    x = normal(0, 2, 4).requires_grad_()
    before = torch.get_rng_state()
    if fails:
        with pytest.raises(Exception, match="halfway"):
            checked(failing, x)
    else:
        checked(lambda x: Same.apply(net(x)).sum(), x)
    assert "apply" not in vars(reached)
    assert torch.equal(torch.get_rng_state(), before)
    assert x.grad is None
    assert bool((net[0].weight.grad == 1).all())
    assert not nn.modules.module._global_forward_hooks
    assert Same.apply(x).grad_fn is not None


def test_a_recording_within_a_recording_gives_apply_back_in_turn() -> None:
    def outer(x: Tensor) -> Tensor:
        inner = checked(lambda v: Same.apply(v).sum(), x.detach())
        assert [o.label for o in inner] == ["Same", "sum"]
        return Same.apply(x).sum()

    assert [o.label for o in checked(outer, normal(0, 3))] == ["Same", "sum"]
    assert "apply" not in vars(torch.autograd.function._SingleLevelFunction)


# ------------------------------------------------------------------------------------------------------ sentences


def test_every_finding_can_be_said_in_every_language() -> None:
    runs = [planted_operations(name) for name in WRONG]
    runs += [checked(function, POINT) for function, *_ in EDITS.values()]
    runs += [checked(lambda x: OWN_RELU(torch.relu(x)).sum() + STEP(x).sum(), normal(0, 4, 4))]
    for operation in (o for run in runs for o in run):
        for finding in operation.findings:
            for language in LANGUAGES:
                text = say(f"operations.{finding.code}", language, **finding.data)
                assert not re.search(r"[{}]", text)
        for check in operation.report.checks:
            assert check.reason is None or say(f"verdicts.{check.reason}", "zh", **check.data)


def test_every_way_to_cannot_say_has_its_words() -> None:
    reasons = ("not_recorded", "not_rerun", "not_reproduced", "node_failed", "sparse_operator")
    assert all(f"verdicts.{reason}" in sentences("en") for reason in reasons)
    assert {"oracles.recording", "oracles.saved_tensors"} <= sentences("zh").keys()


def test_an_operator_that_reads_one_triangle_is_not_called_wrong() -> None:
    """The inverse of a aᵀ + 1 by its factor: `cholesky_inverse` reads the factor's lower triangle alone."""
    a = normal(5, 3, 3)
    report = gx.verify(
        lambda a: torch.cholesky_inverse(torch.linalg.cholesky(a @ a.T + torch.eye(3, dtype=a.dtype))).sum(),
        [a],
        each_operation=True,
    )
    assert report.verdict == "agrees"
