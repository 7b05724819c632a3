"""Making a picture: from live tensors as they are, from a recorded run of a function, or from a full explanation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gradexplain.errors import InputError
from gradexplain.explanation.explanation import explain_trace
from gradexplain.graphs.detail import Subject, detailed, placed
from gradexplain.graphs.graph import Graph
from gradexplain.graphs.options import SHOWN, USUAL, VIEWS
from gradexplain.graphs.picture import Picture
from gradexplain.graphs.views import elements_of, viewed
from gradexplain.graphs.walk import Mark, counted, hooks_of, kept_tensors, walked
from gradexplain.recording.computation import Computation, chosen_output, computation_of, in_one, named_outputs
from gradexplain.recording.containers import refuse_nested
from gradexplain.recording.cuts import cuts_in, not_differentiable
from gradexplain.recording.events import source_of
from gradexplain.recording.join import Run, joined, looks_through_a_view, owners_of, writer_of
from gradexplain.recording.live import trace_live
from gradexplain.recording.naming import Leaf, leaf_names, named_in, tensors_in, visible
from gradexplain.recording.nodes import is_leaf, nodes_below, ordered
from gradexplain.recording.recorder import Recorder, tensors_of, watching_functions, watching_modules
from gradexplain.recording.tracing import hooks_in, hooks_on, record
from gradexplain.targets.sources import Source
from gradexplain.verification.verdicts import Report, verify_trace
from gradexplain.versions.internals import hooks_after, internals, sequence_number

# What only a recorded backward pass knows.
_NUMBERS = frozenset({"values", "gradients", "derivatives", "norms", "verdicts"})
_KEEPS = frozenset({"saved", "bytes", "hooks"})


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
        graph = _of_function(computation, asked, view, output_name)
    else:
        scope = visible(frame)
        graph = _of_tensors(_live(target, output_name, scope), asked, view, scope, inputs, title)
    return Picture.of(replace(viewed(graph, view), shown=asked))


def _known(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError("parameter_choice", name=option, seen=name, names=", ".join(known))


# ------------------------------------------------------------------------------------------------------- tensors


def _live(target: object, name: str | None, scope: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    found = named_outputs(target, name or named_in(scope, target) or "y")
    if not found:
        raise InputError("nothing_to_draw", kind=type(target).__name__)
    own = [(n, _drawable(n, t)) for n, t in found if t.requires_grad or len(found) == 1]
    if all(t.grad_fn is None for _, t in own):
        raise InputError("no_grad_fn", flag=any(t.requires_grad for _, t in own))
    return own


def _drawable(name: str, tensor: Tensor) -> Tensor:
    """Returns `tensor`; raises `InputError`, which says why it has no graph, where it has none."""
    if internals().is_transformed(tensor):
        raise InputError("transformed", name=name)
    refuse_nested(tensor)
    if tensor.is_inference():
        raise InputError("inference", name=name)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise InputError("integer_tensor", name=name, dtype=str(tensor.dtype).removeprefix("torch."))
    return tensor


def _of_tensors(
    roots: list[tuple[str, Tensor]],
    asked: frozenset[str],
    view: str,
    scope: Mapping[str, Any],
    names: object,
    title: str | None,
) -> Graph:
    if names is not None and not isinstance(names, Mapping):
        raise InputError("live_inputs")
    given = {id(t): Leaf(n, isinstance(t, torch.nn.Parameter)) for n, t in (names or {}).items()}
    leaves = {**leaf_names(scope), **given}
    name, first = roots[0]
    shown = title or (f"{name} {tuple(first.shape)}" if len(roots) == 1 else f"{name} … {roots[-1][0]}")
    variables = [tensor for _, tensor in tensors_in(scope)]
    if asked & _NUMBERS:
        return _numbered(*_of_live(roots, leaves, variables), shown, name, asked, view)
    return walked(roots, leaves, title=shown, keeps=bool(asked & _KEEPS), hooked=variables)


def _of_live(
    roots: Sequence[tuple[str, Tensor]], leaves: Mapping[int, Leaf], variables: Sequence[Tensor]
) -> tuple[Subject, Report]:
    tensors = [tensor for _, tensor in roots]
    with torch.enable_grad():
        whole = in_one(tensors)
    nodes = ordered(whole.grad_fn)
    known = [leaves.get(id(n.variable), Leaf(f"leaf{i}")) for i, n in enumerate(filter(is_leaf, nodes), 1)]
    named = {id(node.variable): leaf.name for leaf, node in zip(known, filter(is_leaf, nodes), strict=True)}
    kept = [tensor for node in nodes for tensor in kept_tensors(node)]
    counts = counted(hooks_on([*variables, *kept, *tensors]))
    hooks = {i: hooks_of(n.variable) if is_leaf(n) else counts.get(n, 0) for i, n in enumerate(nodes)}
    found = trace_live(whole, names=named)
    parameters = frozenset(leaf.name for leaf in known if leaf.parameter)
    subject = Subject(found, [n for n, _ in roots], _joining(whole, tensors), parameters, hooks)
    return subject, verify_trace(found, None)


def _joining(whole: Tensor, parts: Sequence[Tensor]) -> int:
    """Returns how many nodes join the parts into one vector."""
    inside = {node for part in parts for node in nodes_below(get_gradient_edge(part).node)}
    return sum(node not in inside for node in nodes_below(whole.grad_fn))


def _numbered(
    subject: Subject, report: Report, title: str, output: str | None, asked: frozenset[str], view: str
) -> Graph:
    explanation = explain_trace(subject.trace, report, target=title, output_name=output)
    tensors = detailed(subject, explanation, asked)
    return elements_of(subject.nodes, explanation, title, tensors) if view == "elements" else tensors


# ----------------------------------------------------------------------------------------------------- functions


def _of_function(computation: Computation, asked: frozenset[str], view: str, output: str | None) -> Graph:
    if asked & _NUMBERS:
        whole, outputs = _with_all_outputs(computation, output or "y")
        subject = _of_run(record(whole), whole, tuple(outputs))
        report = verify_trace(subject.trace, whole) if "verdicts" in asked else Report(())
        return _numbered(subject, report, computation.name, output, asked, view)
    return _recorded(computation, bool(asked & _KEEPS), output)


def _of_run(run: Run, whole: Computation, outputs: Sequence[tuple[str, Tensor]]) -> Subject:
    found = joined(run, whole)
    hooks = counted(hooks_in(run))
    inputs = {node.index: _hooks_left_out(whole, node.leaf) for node in found.nodes if node.leaf is not None}
    hooks |= {index: hooks.get(index, 0) + own for index, own in inputs.items()}
    joining = _joining(run.output, [t for _, t in outputs]) if len(outputs) > 1 else 0
    return Subject(found, [name for name, _ in outputs], joining, frozenset(whole.parameters), hooks)


def _with_all_outputs(computation: Computation, name: str) -> tuple[Computation, list[tuple[str, Tensor]]]:
    """Returns the computation of all outputs in one vector, and the outputs of its latest run, by name."""
    found: list[tuple[str, Tensor]] = []

    def call(given: Mapping[str, Any]) -> object:
        result = computation.call(given)
        found[:] = [(n, t) for n, t in named_outputs(result, name) if t.requires_grad]
        return in_one([t for _, t in found]) if found else result

    return replace(computation, call=call), found


def _hooks_on_input(computation: Computation, name: str | None) -> int:
    """Returns how many hooks wait on an input itself: a run starts from a copy of it."""
    given = computation.inputs.get(name or "")
    return hooks_of(given) if isinstance(given, Tensor) else 0


def _hooks_left_out(computation: Computation, name: str) -> int:
    """Returns how many hooks wait on an input itself and not on the leaf of a run that stands for it."""
    own = computation.own.get(name)
    return _hooks_on_input(computation, name) if own is None else len(hooks_after(own))


def _recorded(computation: Computation, keeps: bool, output: str | None) -> Graph:
    """Runs the function forward once, under a recorder, and walks the graph that it built."""
    leaves = computation.leaf_values()
    before = sequence_number()()
    with torch.enable_grad():
        recorder = Recorder(computation.locate)
        with watching_modules(computation.modules, recorder), watching_functions(recorder), recorder.recording():
            result = computation.run(leaves)
    results = [(n, t) for n, t in named_outputs(result, output or "y") if t.requires_grad]
    if not results:
        chosen_output(result, computation.name)  # refuses a result without a tensor
        raise not_differentiable(recorder, leaves)
    nodes = nodes_below(*(tensor.grad_fn for _, tensor in results))
    owners = {n: e for n, e in owners_of(recorder.events, nodes).items() if n._sequence_nr() >= before}
    named = {id(t): Leaf(n, n in computation.parameters, _hooks_on_input(computation, n)) for n, t in leaves.items()}
    named |= {id(t): Leaf(n) for n, t in computation.leaves.items() if id(t) not in named}
    marks = {n: Mark(str(e.operator), source_of(e.frame), e.module) for n, e in owners.items()}
    own = {a.node: a for a in recorder.applications}
    marks |= {n: Mark("", source_of(a.frame), a.module) for n, a in own.items()}
    for node in nodes:
        writer = writer_of(node, recorder.events) if node not in owners else None
        if writer is not None:
            operator = "" if looks_through_a_view(node) else str(writer.operator)
            marks[node] = Mark(operator, source_of(writer.frame), writer.module)
    picture = walked(results, named, title=computation.name, marks=marks, keeps=keeps, hooked=tensors_of(recorder))
    place = {node.sequence: number for number, node in enumerate(picture.nodes)}
    numbers = {id(user): node._sequence_nr() for known in (owners, own) for node, user in known.items()}
    cuts = cuts_in(recorder.events, recorder.applications, owners, list(leaves.values()), numbers)
    return replace(picture, cuts=tuple(cut for c in cuts if (cut := placed(c, place)) is not None))
