"""The verbs of the package."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.computation import Computation, chosen_output, computation_of, with_dtype
from gradexplain.drawing.making import picture_of
from gradexplain.drawing.options import USUAL
from gradexplain.drawing.picture import Picture
from gradexplain.errors import InputError, RunError
from gradexplain.explanation import Explanation, explain_trace
from gradexplain.live import trace_live
from gradexplain.recording import user_source
from gradexplain.summaries import SMALL
from gradexplain.traces import Source
from gradexplain.tracing import differentiated, trace
from gradexplain.verification import EFFORT, verify_trace

_HIGHEST = 6


def explain(
    function: Callable[..., object] | Tensor,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    wrt: str | Sequence[str] | None = None,
    order: int = 1,
    cotangent: Tensor | float | Sequence[Any] | None = None,
    by_hand: Mapping[str, Callable[..., Tensor]] | None = None,
    dtype: torch.dtype | None = None,
    element: str | None = None,
    module: str | None = None,
    effort: float = EFFORT,
    target: str | None = None,
    locate: Callable[[], Source | None] | None = None,
    output_name: str | None = None,
) -> Explanation:
    """Explains the gradient of `function` at `inputs`, or of a live tensor, and checks it.

    `function` is a callable or an `nn.Module`, `inputs` a mapping by name or a sequence by position; its parameters and
    those of the modules that it uses are inputs as well. Or `function` is a tensor with a `grad_fn`: its graph is
    explained as it is, and nothing is run forward again.

    `wrt` names the inputs whose gradient is asked for; `order` asks for second and higher derivatives (by the first of
    them); `cotangent` weighs the elements of an output that is not one number, in the output's shape (ones without it);
    `by_hand` gives a callable per input that computes the gradient from the inputs by name; `dtype` converts the
    floating inputs; `element` ("x[1]") follows one element alone; `module` opens one module of a network; `effort` is
    the time in seconds that a check may take in running the function again (with more of it, large networks are checked
    by more than the rules).

    Nothing of the caller's is changed: no `.grad` is written, no hook is left, random states and grad mode stay.
    Raises `InputError` for arguments that cannot be used, `RunError` where the function fails or its output cannot be
    differentiated.
    """
    seed = _as_tensor(cotangent)
    if isinstance(function, Tensor):
        if inputs is not None and not isinstance(inputs, Mapping):
            raise InputError("live_inputs")
        return _explain_live(function, inputs, seed, element=element, target=target)
    if not 1 <= order <= _HIGHEST:
        raise InputError("bad_order", order=order, highest=_HIGHEST)
    names = [wrt] if isinstance(wrt, str) else wrt
    given: Any = {} if inputs is None else inputs
    computation = computation_of(function, given, wrt=names, name=target, locate=locate)
    computation = with_dtype(computation, dtype) if dtype is not None else computation
    unknown = [name for name in by_hand or {} if name not in computation.wrt]
    if unknown:
        raise InputError("unknown_by_hand", name=unknown[0], names=", ".join(computation.wrt))
    recorded = trace(computation, cotangent=seed)
    report = verify_trace(recorded, computation, by_hand=by_hand, effort=effort)
    first = explain_trace(
        recorded,
        report,
        target=target or computation.name,
        cotangent_given=seed is not None,
        element=element,
        module=module,
        output_name=output_name,
        parameters=tuple(computation.parameters),
    )
    return replace(first, higher=tuple(_higher(computation, first, seed, order, effort)))


def graph(
    target: Callable[..., object] | Tensor | Sequence[Tensor] | Mapping[str, Any],
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    view: str = "backward",
    show: Sequence[str] = USUAL,
    wrt: str | Sequence[str] | None = None,
    title: str | None = None,
    output_name: str | None = None,
    locate: Callable[[], Source | None] | None = None,
) -> Picture:
    """Returns the picture of the graph that torch built: frozen data, which holds no tensor.

    `target` is a callable or an `nn.Module`, run once with `inputs`; or tensors with a graph (one, or a list, tuple or
    dict of them), which is walked as it is; their leaves have the names of the caller's variables and parameters, and
    `inputs` may map further names to leaves.

    `view` is "backward" (torch's nodes), "forward" (operators), "both" (joined) or "elements" (of small tensors).
    `show` names what stands on the nodes and edges: shapes, sources, values, gradients, derivatives, norms (as the
    width of edges), verdicts, dtypes, saved, bytes. `wrt` names the inputs whose gradient is asked for.

    Raises `InputError` for a target without a graph and for options that do not exist, `RunError` where the function
    fails or its output cannot be differentiated.
    """
    return picture_of(
        target,
        inputs,
        view=view,
        show=show,
        wrt=[wrt] if isinstance(wrt, str) else wrt,
        title=title,
        output_name=output_name,
        locate=locate,
        frame=sys._getframe(1),
    )


def _as_tensor(cotangent: Tensor | float | Sequence[Any] | None) -> Tensor | None:
    if cotangent is None or isinstance(cotangent, Tensor):
        return cotangent
    return torch.as_tensor(cotangent, dtype=torch.float64)


def _explain_live(
    output: Tensor, names: Mapping[str, Tensor] | None, seed: Tensor | None, *, element: str | None, target: str | None
) -> Explanation:
    recorded = trace_live(output, cotangent=seed, names=names)
    title = target or f"{recorded.nodes[recorded.output[0]].name} {tuple(output.shape)}"
    report = verify_trace(recorded, None)
    return explain_trace(recorded, report, target=title, cotangent_given=seed is not None, element=element)


# ------------------------------------------------------------------------------------------- higher derivatives


@dataclass
class _Derivative:
    """The function's gradient by one input, as a function; while it differentiates, no source line is current."""

    below: Computation
    wrt: str
    seed: Tensor | None
    name: str
    differentiating: bool = False

    def __call__(self, given: Mapping[str, Any]) -> Tensor:
        output, _ = chosen_output(self.below.call(given), self.below.name)
        seed = torch.ones_like(output) if self.seed is None else self.seed.to(output).expand(output.shape)
        if not output.requires_grad:
            raise RunError("constant_derivative")
        self.differentiating = True
        try:
            (found,) = differentiated(output, [given[self.wrt]], seed, create_graph=True)
        finally:
            self.differentiating = False
        if found is None or not found.requires_grad:
            raise RunError("constant_derivative")
        return found

    def locate(self) -> Source | None:
        if self.differentiating:
            return None
        return self.below.locate() if self.below.locate is not None else user_source()


def _higher(
    computation: Computation, first: Explanation, seed: Tensor | None, order: int, effort: float
) -> list[Explanation]:
    """Explains the derivatives of order 2 to `order` by the first of the inputs asked for."""
    found: list[Explanation] = []
    wrt = next((name for name in computation.wrt if name not in computation.parameters), None)
    if order > 1 and wrt is None:
        raise InputError("order_of_parameters", names=", ".join(computation.wrt))
    below, above = computation, first
    for k in range(2, order + 1):
        assert wrt is not None
        call = _Derivative(below, wrt, seed if k == 2 else None, f"{first.scalar}{_PRIMES[k - 1]}")
        below = replace(below, call=call, locate=call.locate, name=call.name)
        try:
            recorded = trace(below)
        except RunError as fault:
            if fault.key != "constant_derivative":
                raise
            extra = {"constant": True, "wrt": wrt}
            found.append(replace(above, order=k, steps=(), by_input=(), findings=(), groups=(), higher=(), extra=extra))
            break
        above = explain_trace(
            recorded, verify_trace(recorded, below, effort=effort), target=call.name, output_name=call.name
        )
        extra = {"wrt": wrt} | ({"hessian": _hessian(below, wrt)} if k == 2 else {})
        found.append(replace(above, order=k, extra={n: v for n, v in extra.items() if v is not None}))
    return found


_PRIMES = ("", "′", "″", "‴", "⁗", "⁽⁵⁾", "⁽⁶⁾")


def _hessian(gradient: Computation, wrt: str) -> list[Any] | None:
    """Returns the rows of the second derivatives by one small vector, `None` for any other input."""
    size = gradient.inputs[wrt].numel()
    if not 2 <= size <= SMALL or gradient.inputs[wrt].is_complex():
        return None
    rows = []
    for i in range(size):
        seed = torch.zeros(size, dtype=gradient.inputs[wrt].dtype)
        seed[i] = 1
        found = trace(gradient, cotangent=seed.reshape(gradient.inputs[wrt].shape)).gradients[wrt]
        rows.append([0.0] * size if found is None else found.flatten().tolist())
    return rows
