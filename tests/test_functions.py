"""Custom Functions: what a broken backward is told, and how their use is recorded."""

import warnings
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import gradexplain as gx
from gradexplain.errors import RunError
from gradexplain.locale.catalogue import LANGUAGES
from gradexplain.recording.computation import computation_of
from gradexplain.recording.custom_functions import fitted
from gradexplain.recording.trace import Node
from gradexplain.recording.tracing import trace
from gradexplain.versions.releases import minor_release

X, T, W = torch.ones(3, 4), torch.tensor([1, 2]), torch.ones(4)


def loss(backward: Callable[..., Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns a use of a loss of x, target, weight and scale with this backward."""

    class MyLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, target: Tensor, weight: Tensor, scale: float) -> Tensor:
            return (x * weight).sum() * scale

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return backward(g)

    return lambda x, weight: MyLoss.apply(x, T, weight, 2.0) * 3


def refusal(function: Callable[..., Tensor], *inputs: Tensor) -> RunError:
    with pytest.raises(RunError) as caught:
        trace(computation_of(function, list(inputs)))
    return caught.value


def failed(g: Tensor) -> Any:
    return g.reshape(7), None, None, None


EXPECTED = "grad_x (3, 4), None (target: (2,) int64), grad_weight (4,), None (scale: 2.0)"
# fmt: off
BROKEN: dict[str, tuple[Callable[[Tensor], Any], str, list[str]]] = {
    "one of four":    (lambda g: g,                                "backward_count",
                       ["returned 1 where 4 are needed", "x, target, weight, scale", EXPECTED]),
    "a list":         (lambda g: [g, None, None, None],            "backward_count", ["returned: list"]),
    "five":           (lambda g: (g, None, None, None, g),         "backward_count", ["returned 5 where 4"]),
    "for a number":   (lambda g: (g * X, None, g * W, g),          "backward_not_none", ["for scale", "2.0", EXPECTED]),
    "no tensor":      (lambda g: (2.0, None, None, None),          "backward_not_tensor", ["2.0", "of x"]),
    "another shape":  (lambda g: (g * torch.ones(2, 4), None, None, None), "backward_shape",
                       ["(2, 4) float32 for x", "(3, 4) float32", EXPECTED]),
    "too few axes":   (lambda g: (g, None, None, None),            "backward_shape", ["() float32 for x"]),
    "complex":        (lambda g: (g * X * 1j, None, None, None),   "backward_complex", ["(3, 4) complex64", "real"]),
    "an error":       (failed,                                     "backward_raised",
                       ["RuntimeError", "invalid for input of size 1", "return g.reshape(7), None, None, None"]),
}
# fmt: on


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_backward_is_told_what_to_return(name: str) -> None:
    backward, key, words = BROKEN[name]
    fault = refusal(loss(backward), X, W)
    assert fault.key == key
    assert all(word in fault.sentence() for word in words)
    for language in LANGUAGES:
        assert "MyLoss" in fault.sentence(language)
        assert __file__ in fault.sentence(language)
        assert (EXPECTED in fault.sentence(language)) == (key != "backward_raised")


def test_a_surplus_none_is_as_good_for_torch_as_for_us() -> None:
    trace(computation_of(loss(lambda g: (g * X, None, g * W, None, None)), [X, W]))


def test_the_function_at_fault_is_named_among_several() -> None:
    class First(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, k: float) -> Tensor:
            return x * k

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    fault = refusal(lambda x: loss(lambda g: (g * X, None, None, None))(First.apply(x, 2.0), W), X)
    assert fault.data["function"] == "First"
    assert (fault.data["count"], fault.data["needed"]) == (1, 2)


def test_an_exception_of_any_kind_names_the_function_that_raised_it() -> None:
    def missing(g: Tensor) -> Any:
        return {}["weight"]

    fault = refusal(loss(missing), X, W)
    assert (fault.key, fault.data["kind"], fault.data["function"]) == ("backward_raised", "KeyError", "MyLoss")


def overwriting(x: Tensor) -> Tensor:
    h = x.exp()
    y = h * 2
    h += 1
    return y + h


def test_who_overwrote_what_was_saved_is_named() -> None:
    fault = refusal(overwriting, torch.ones(2))
    assert fault.key == "saved_overwritten"
    assert (fault.data["code"], fault.data["kept"], fault.data["edit"]) == ("x.exp()", "result", "h += 1")
    start = overwriting.__code__.co_firstlineno
    assert (fault.data["place"], fault.data["where"]) == (f"{__file__}:{start + 1}", f"{__file__}:{start + 3}")


def test_who_overwrote_what_a_custom_function_saved_is_named() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * g * x

    def overwritten(x: Tensor) -> Tensor:
        h = x * 1
        y = Square.apply(h)
        h.mul_(2)
        return cast(Tensor, y + h)

    fault = refusal(overwritten, torch.ones(2))
    assert (fault.key, fault.data["code"], fault.data["edit"]) == ("saved_overwritten", "Square.apply(h)", "h.mul_(2)")


# -------------------------------------------------------------------------------------------------------- recording


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, factor: float = 2.0, *rest: Any) -> Tensor:
        ctx.factor = factor
        return x * y * factor

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, g, *(None for _ in ctx.needs_input_grad[2:])


def applied(function: Callable[..., Tensor], *inputs: Tensor) -> Node:
    return next(n for n in trace(computation_of(function, list(inputs))).nodes if "Scaled" in n.name)


def test_a_custom_functions_arguments_are_recorded_by_name() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    node = applied(lambda a, b: Scaled.apply(a * 1, b, 5.0, "text", 7).sum(), a, b)
    assert list(node.arguments) == ["x", "y", "factor", "rest[0]", "rest[1]"]
    assert torch.equal(node.arguments["x"], a)
    assert (node.arguments["factor"], node.arguments["rest[0]"], node.arguments["rest[1]"]) == (5.0, "text", 7)
    assert [e.argument for e in node.edges] == ["x", "y"]
    assert node.outputs[0] is not None
    assert torch.equal(node.outputs[0], a * b * 5)


def test_the_same_tensor_twice_is_two_arguments() -> None:
    node = applied(lambda a: Scaled.apply(a, a).sum(), torch.ones(2))
    assert [e.argument for e in node.edges] == ["x", "y"]


def test_a_custom_functions_place_is_where_it_is_used() -> None:
    node = applied(lambda a: Scaled.apply(a, a, 3.0).sum(), torch.ones(2))
    assert node.source is not None
    assert node.source.code == "Scaled.apply(a, a, 3.0)"


def test_what_is_saved_for_one_look_is_not_looked_at() -> None:
    class Once(torch.autograd.Function):
        clear_saved_tensors_on_access = True

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * g * x

    found = trace(computation_of(lambda x: Once.apply(x).sum(), [torch.tensor([1.0, 3.0])]))
    assert found.gradients["x"] is not None
    assert found.gradients["x"].tolist() == [2.0, 6.0]


@pytest.mark.parametrize(
    ("gradient", "shape", "expected"),
    [((4, 3), (3,), (3,)), ((4, 3), (4, 1), (4, 1)), ((3,), (3,), (3,)), ((), (3,), None), ((2, 3), (4, 3), None)],
)
def test_a_gradient_is_fitted_as_torch_fits_it(
    gradient: tuple[int, ...], shape: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    """The rule of the engine: what the argument can be broadcast to is summed back to it, all else is refused."""
    made = fitted(torch.ones(gradient), torch.zeros(shape, dtype=torch.float64))
    assert (None if made is None else tuple(made.shape)) == expected
    assert made is None or float(made.sum()) == torch.ones(gradient).sum()
    assert made is None or made.dtype == torch.float64


def test_looking_for_the_fault_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refusal(loss(lambda g: (g * X * 1j, None, None, None)), X, W)


def test_a_custom_function_takes_its_arguments_by_their_names() -> None:
    """Torch binds them by the code of `forward`, which recording must leave to be read."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(x, w)
            return x * w

        @staticmethod
        def backward(ctx, g):  # type: ignore[no-untyped-def]
            x, w = ctx.saved_tensors
            return g * w, g * x

    x, w = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    calls = [Scaled.apply]
    try:
        Scaled.apply(w=w, x=x)
        calls.append(lambda x, w: Scaled.apply(w=w, x=x))
    except TypeError:
        assert minor_release(torch.__version__) < (2, 13), "torch has bound them by name from some release on"
    for call in calls:
        found = gx.explain(call, {"w": w, "x": x}, cotangent=[1.0, 1.0])
        assert found.verdict == "agrees"
        assert found.gradients["x"].tolist() == [3.0, 4.0]
        assert found.gradients["w"].tolist() == [1.0, 2.0]
