"""Sentences that assert a cause: each is printed where its event happened, and not where it would be false."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import gradexplain as gx


def told(f: Callable[..., Any], *inputs: Tensor, language: str = "en", **options: Any) -> str:
    """Returns a verification's page as one line."""
    return " ".join(gx.verify(f, list(inputs), **options).render("text", language=language, width=2000).split())


def codes(f: Callable[..., Any], *inputs: Tensor) -> list[str]:
    return [finding.code for finding in gx.verify(f, list(inputs)).findings]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------- random numbers


class Again(Function):
    """Runs the function again in its backward, from whatever random state it finds there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        with torch.no_grad():
            return dropout(torch.tanh(x), 0.5)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.x.requires_grad_()
            return torch.autograd.grad(dropout(torch.tanh(x), 0.5), x, g)[0]


def kept(x: Tensor) -> Tensor:
    return cast(Tensor, checkpoint(lambda x: dropout(torch.tanh(x), 0.5), x, use_reentrant=False)).square().sum()


def lost(x: Tensor) -> Tensor:
    block = checkpoint(lambda x: dropout(torch.tanh(x), 0.5), x, use_reentrant=False, preserve_rng_state=False)
    return cast(Tensor, block).square().sum()


@pytest.mark.parametrize("seed", range(3))
def test_random_numbers_that_a_backward_draws_again_are_named_and_never_right(seed: int) -> None:
    """Two masks of 8 elements are the same once in 256 times: by chance a draw may drop nothing that the value kept."""
    x = torch.linspace(-1, 1, 8)
    for f in (lambda x: cast(Tensor, Again.apply(x)).square().sum(), lost):
        torch.manual_seed(seed)
        report = gx.verify(f, [x])
        page = " ".join(report.render("text", width=2000).split())
        assert report.verdict == "differs"
        assert "The gradient of x is wrong: random numbers are drawn again in the backward pass of" in page
        assert "A hook" not in page
        assert "is rounding" not in page
    torch.manual_seed(seed)
    page = told(kept, x)
    assert "The gradient is right" in page
    assert "drawn again" not in page


def test_what_may_draw_and_does_not_is_not_called_random() -> None:
    q = normal(1, 1, 3, 4)
    assert "random" not in codes(lambda q: scaled_dot_product_attention(q, q, q), q)
    assert "random" not in codes(lambda q: dropout(q, 0.5, training=False), q)
    assert "random" in codes(lambda q: dropout(q, 0.5), q)
    assert "random" in codes(lambda q: q * torch.rand(4, dtype=q.dtype), q)
    own = torch.Generator().manual_seed(3)
    assert "random" in codes(lambda q: q * torch.rand(4, dtype=q.dtype, generator=own.manual_seed(3)), q)


# ------------------------------------------------------------------------------------------------ where a path ends


def grad_of_grad(x: Tensor, create_graph: bool) -> Tensor:
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=create_graph)
    return g.sum()


def without_recording(x: Tensor) -> Tensor:
    with torch.no_grad():
        return (x**2).sum()


def test_why_nothing_leads_back_is_what_happened() -> None:
    x = normal(3)
    asked: dict[str, Callable[[Tensor], Tensor]] = {
        "no_grad": without_recording,
        "create_graph=True": lambda x: grad_of_grad(x, create_graph=False),
        "takes the number out of the graph": lambda x: torch.tensor((x**2).sum().item()),
        "integers or truth values": lambda x: x.argmax(),
        "detached it": lambda x: (x**2).sum().detach(),
    }
    pages = {cause: told(f, x) for cause, f in asked.items()}
    for cause, page in pages.items():
        assert [other for other in asked if other in page] == [cause]
        assert "nothing to check" in page
    assert "The gradient is right" in told(lambda x: grad_of_grad(x, create_graph=True), x)


def test_a_gradient_that_is_used_as_a_constant_is_not_said_to_run_under_no_grad() -> None:
    page = told(lambda x: (x * grad_of_grad(x, create_graph=False)).sum(), normal(3))
    assert "ran a backward pass without create_graph=True: what it feeds counts as a constant here." in page
    assert "no_grad" not in page
    page = told(lambda x: (x * without_recording(x)).sum(), normal(3))
    assert "ran without recording (no_grad)" in page
    assert "create_graph" not in page


def test_what_a_custom_function_gives_on_without_a_gradient_is_not_said_to_run_under_no_grad() -> None:
    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            doubled = 2 * x
            ctx.mark_non_differentiable(doubled)
            return doubled

    page = told(lambda x: (x * Marked.apply(x)).sum(), normal(3))  # type: ignore[no-untyped-call]
    assert "`2 * x` ran inside a custom Function, which gave it on without a gradient" in page
    assert "no_grad" not in page
    page = told(lambda x: Marked.apply(x).sum(), normal(3))  # type: ignore[no-untyped-call]
    assert "2 * x" in page
    assert "ran inside a custom Function, which gives it on without a gradient" in page
    assert "no_grad" not in page


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_an_input_whose_path_ends_is_not_said_to_have_no_influence() -> None:
    """d/dw (w² + w³) = 16 at 2: there is an influence, and no way back for a gradient."""

    def copied(w: Tensor) -> Tensor:
        return torch.tensor([(w**2).sum(), (w**3).sum()], requires_grad=True).sum()

    for ask in (gx.verify, gx.explain):
        page = " ".join(ask(copied, {"w": torch.tensor([2.0])}).render("text", width=2000).split())
        assert "torch.tensor([(w**2).sum(), (w**3).sum()], requires_grad=True)" in page
        assert "no influence" not in page
        assert "does not depend on it" not in page
        page = " ".join(ask(lambda x, y: (x * x).sum(), [normal(2), normal(3)]).render("text", width=2000).split())
        assert "y has no influence on the output" in page


# --------------------------------------------------------------------------------------------------- custom Functions


def cube(mark: Callable[..., Any]) -> Any:
    class Cube(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @mark
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 3 * x.detach() ** 2 * g  # right once, and wrong when it is differentiated again

    return Cube.apply


def test_a_mark_that_forbids_a_second_derivative_is_named_where_it_is() -> None:
    """d²/dx² x³ = 6 x; torch raises by the mark, and the same backward without it gives 0."""
    marked, unmarked = (told(cube(m), normal(2), second=True) for m in (once_differentiable, lambda f: f))
    sentence = "Its backward is marked once_differentiable"
    assert sentence in marked
    assert sentence not in unmarked
    assert "The second derivatives by" in unmarked


def test_a_function_without_jvp_is_named_and_torch_is_not_blamed_for_it() -> None:
    page = told(cube(lambda f: f), normal(2))
    assert "Torch's forward mode needs a jvp, and Cube defines none." in page
    assert "Torch has no forward mode" not in page
    assert "defines none" not in told(lambda x: x.sin().sum(), normal(2))


class Packed(Function):
    """Three times what it is given; its backward reads the memory of what arrives as if it were in a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 3 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        there = g.untyped_storage().nbytes() // g.element_size() - g.storage_offset()
        flat = torch.zeros(g.numel(), dtype=g.dtype)
        n = min(g.numel(), there)
        flat[:n] = torch.as_strided(g, (n,), (1,), g.storage_offset())
        return 3 * flat.reshape(g.shape)


def test_what_a_layout_explains_is_not_put_down_to_a_hook() -> None:
    def joined(x: Tensor) -> Tensor:
        return torch.cat([cast(Tensor, Packed.apply(x)), x], 1).square().sum()

    page = told(joined, normal(2, 3))
    assert "reads memory instead of numbers" in page
    assert "hook" not in page


def test_a_number_of_the_second_derivative_that_is_not_finite_names_whose_backward_makes_it() -> None:
    """The second derivative of sin(πt)/(πt) is −π²/3 at 0, where torch's own formula divides 0 by 0."""
    page = told(lambda t: 3 * torch.sinc(t), torch.tensor(0.0, dtype=torch.float64), second=True)
    assert "It is part of the backward pass of `torch.sinc(t)`. (test_causes.py:" in page
    assert "Keep the divisor" not in page  # it is torch's
    page = told(lambda t: (t / t).sum(), torch.tensor([0.0]))
    assert "part of the backward pass" not in page
    assert "Keep the divisor" in page


def doubled_in_place(marks: bool) -> Any:
    class Double(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            if marks:
                ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2 * g

    return Double.apply


def test_a_forward_that_changes_its_argument_and_does_not_say_so_is_named() -> None:
    sentence = "The forward of Double changes x in place and does not say so"
    assert sentence in told(lambda w: doubled_in_place(marks=False)(w.sin()).square().sum(), normal(2))
    assert sentence not in told(lambda w: doubled_in_place(marks=True)(w.sin()).square().sum(), normal(2))


def test_a_backward_of_torchs_own_that_torch_refuses_is_named_with_its_argument() -> None:
    index = torch.tensor([[1, 0, 1]])
    with pytest.raises(gx.RunError) as failure:
        gx.verify(lambda src: torch.zeros(2, 3).to(src).scatter_add(0, index, src).square().sum(), [normal(2, 3)])
    sentence = str(failure.value)
    assert "aten.scatter_add.default" in sentence
    assert "test_causes.py" in sentence
    assert "index is (1, 3) and smaller than src, which is (2, 3)" in sentence
    same = told(lambda src: torch.zeros(2, 3).to(src).scatter_add(0, index, src).square().sum(), normal(1, 3))
    assert "The gradient is right" in same


# ------------------------------------------------------------------------------------------------------------ jumps


class Steep(Function):
    """x / max(|x|, 10⁻¹²), with a gradient of the given times its slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, times: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.times = times
        return x / x.abs().clamp_min(1e-12)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.times * g * (x.abs() < 1e-12) / 1e-12, None


def test_what_is_steep_is_not_said_to_jump_and_what_jumps_is() -> None:
    """x / max(|x|, ε) is continuous with slope 1/ε at 0; sign and floor jump there, as close as numbers are."""
    zero = torch.zeros(3, dtype=torch.float64)
    page = told(lambda x: torch.nn.functional.normalize(x, dim=0).sum(), zero)
    assert "The gradient is right" in page
    for times, verdict in ((1.0, "agrees"), (2.0, "differs")):
        report = gx.verify(lambda x, t=times: cast(Tensor, Steep.apply(x, t)).sum(), [zero])
        assert report.verdict == verdict
        assert "jumps exactly here" not in report.render("text", width=2000)
    one = torch.ones(1, dtype=torch.float64)
    for f, x in ((lambda x: x * torch.floor(x), one), (lambda x: torch.where(x >= 0, x + 1, x), 0 * one)):
        assert "jumps exactly here" in told(lambda x, f=f: f(x).sum(), x)
