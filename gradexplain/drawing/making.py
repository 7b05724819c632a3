"""Making a picture: from live tensors as they are, from a recorded run of a function, or from a full explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gradexplain.computation import Computation, computation_of
from gradexplain.cuts import cuts_in, not_differentiable
from gradexplain.drawing.detail import detailed, placed
from gradexplain.drawing.naming import leaf_names, named_outputs, visible
from gradexplain.drawing.options import SHOWN, USUAL, VIEWS
from gradexplain.drawing.picture import Picture
from gradexplain.drawing.views import elements_of, viewed
from gradexplain.drawing.walk import Leaf, Mark, walked
from gradexplain.errors import InputError
from gradexplain.explanation import explain_trace
from gradexplain.internals import internals, sequence_number
from gradexplain.live import trace_live
from gradexplain.recording import Event, Recorder, source_of, watching_modules
from gradexplain.traces import Source, Trace
from gradexplain.tracing import is_leaf, nodes_below, trace
from gradexplain.verification import Report, verify_trace

# What only a recorded backward pass knows.
_NUMBERS = frozenset({"values", "gradients", "derivatives", "norms", "verdicts"})
_KEEPS = frozenset({"saved", "bytes"})


def picture_of(
    target: Callable[..., object] | Tensor | Sequence[Tensor] | Mapping[str, Any],
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    view: str = "backward",
    show: Sequence[str] = USUAL,
    wrt: Sequence[str] | None = None,
    title: str | None = None,
    output_name: str | None = None,
    locate: Callable[[], Source | None] | None = None,
    frame: FrameType | None = None,
) -> Picture:
    """Returns the picture of `target`'s graph; `frame` is where variables are looked up for the names of leaves."""
    _known("view", [view], VIEWS)
    _known("show", show, SHOWN)
    asked = frozenset(show) | (frozenset({"values", "gradients", "derivatives"}) if view == "elements" else frozenset())
    if callable(target) and not isinstance(target, Tensor):
        given = {} if inputs is None else [inputs] if isinstance(inputs, Tensor) else inputs
        computation = computation_of(target, given, wrt=wrt, name=title, locate=locate)
        found = _of_function(computation, asked, view, output_name)
    else:
        scope = visible(frame)
        found = _of_tensors(_live(target, output_name, scope), asked, view, scope, inputs, title)
    return replace(viewed(found, view), shown=asked)


def _known(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError("unknown_option", option=option, name=name, names=", ".join(known))


# ------------------------------------------------------------------------------------------------------- tensors


def _live(target: object, name: str | None, scope: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    variable = next((n for n, v in scope.items() if v is target and not n.startswith("_")), None)
    found = named_outputs(target, name or variable or "y")
    if not found:
        raise InputError("nothing_to_draw", kind=type(target).__name__)
    own = [(n, _drawable(n, t)) for n, t in found if t.requires_grad or len(found) == 1]
    if not own:
        raise InputError("no_grad_fn", flag=False)
    return own


def _drawable(name: str, tensor: Tensor) -> Tensor:
    """Returns `tensor`; raises `InputError`, which says why it has no graph, where it has none."""
    if internals().is_transformed(tensor):
        raise InputError("transformed", name=name)
    if tensor.is_inference():
        raise InputError("inference", name=name)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise InputError("integer_tensor", name=name, dtype=str(tensor.dtype).removeprefix("torch."))
    if tensor.grad_fn is None:
        raise InputError("no_grad_fn", flag=tensor.requires_grad)
    return tensor


def _of_tensors(
    roots: list[tuple[str, Tensor]],
    asked: frozenset[str],
    view: str,
    scope: Mapping[str, Any],
    names: object,
    title: str | None,
) -> Picture:
    if names is not None and not isinstance(names, Mapping):
        raise InputError("live_inputs")
    given = {id(t): Leaf(n, isinstance(t, torch.nn.Parameter)) for n, t in (names or {}).items()}
    leaves = {**leaf_names(scope), **given}
    name, first = roots[0]
    shown = title or (f"{name} {tuple(first.shape)}" if len(roots) == 1 else f"{name} … {roots[-1][0]}")
    if asked & _NUMBERS:
        known = _leaf_tensors(first, leaves)
        found = trace_live(first, names={leaf.name: tensor for leaf, tensor in known})
        own = frozenset(leaf.name for leaf, _ in known if leaf.parameter)
        return _numbered(found, verify_trace(found, None), shown, name, asked, view, own)
    return walked(roots, leaves, title=shown, keeps=bool(asked & _KEEPS))


def _leaf_tensors(root: Tensor, leaves: Mapping[int, Leaf]) -> list[tuple[Leaf, Tensor]]:
    found = {id(n.variable): n.variable for n in nodes_below(root.grad_fn) if is_leaf(n)}
    return [(leaves.get(k, Leaf(f"leaf{i}")), t) for i, (k, t) in enumerate(found.items(), 1)]


def _numbered(
    found: Trace, report: Report, title: str, output: str | None, asked: frozenset[str], view: str, own: frozenset[str]
) -> Picture:
    explanation = explain_trace(found, report, target=title, output_name=output)
    tensors = detailed(found, explanation, asked, own)
    return elements_of(found, explanation, title, tensors) if view == "elements" else tensors


# ----------------------------------------------------------------------------------------------------- functions


def _of_function(computation: Computation, asked: frozenset[str], view: str, output: str | None) -> Picture:
    if asked & _NUMBERS:
        found = trace(computation)
        report = verify_trace(found, computation) if "verdicts" in asked else Report(())
        name, own = computation.name, frozenset(computation.parameters)
        return _numbered(found, report, name, output, asked, view, own)
    return _recorded(computation, bool(asked & _KEEPS), output)


def _recorded(computation: Computation, keeps: bool, output: str | None) -> Picture:
    """Runs the function forward once, under a recorder, and walks the graph that it built."""
    leaves = computation.leaf_values()
    before = sequence_number()()
    with torch.enable_grad():
        recorder = Recorder(computation.locate)
        with watching_modules(computation.modules, recorder), recorder.recording():
            result = computation.run(leaves)
    results = [(n, t) for n, t in named_outputs(result, output or "y") if t.requires_grad]
    if not results:
        raise not_differentiable(recorder, leaves)
    events = _by_number(recorder.events)
    named = {id(t): Leaf(n, n in computation.parameters) for n, t in leaves.items()}
    named |= {id(t): Leaf(n) for n, t in computation.leaves.items() if id(t) not in named}
    marks = {k: Mark(str(e.operator), source_of(e.frame), e.module) for k, e in events.items() if k >= before}
    picture = walked(results, named, title=computation.name, marks=marks, keeps=keeps)
    place = {node.sequence: number for number, node in enumerate(picture.nodes)}
    owners = {number: event for number, event in events.items() if number in place}
    numbers = {id(event): number for number, event in owners.items()}
    cuts = cuts_in(recorder.events, recorder.applications, owners, list(leaves.values()), numbers)
    return replace(picture, cuts=tuple(cut for c in cuts if (cut := placed(c, place)) is not None))


def _by_number(events: Sequence[Event]) -> dict[int, Event]:
    """Returns the operator that each of torch's sequence numbers belongs to: see `tracing.owners_of`."""
    found: dict[int, Event] = {}
    inside: dict[int, Event] = {}
    for event in events:
        inside.setdefault(event.sequence, event)
        if event.recorded:
            copied = event.sequence in found and event.operator._schema.is_mutable
            found.setdefault(event.sequence - copied, event)
    return {**inside, **found}
