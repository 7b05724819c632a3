"""What every backward promises, asked of each custom Function once: for each class and signature that a run applies.

A backward computes v ↦ vᵀJ, whatever v is and however it lies in memory. So it is linear in what arrives; it reads
numbers, not the memory that they lie in; an output that is not used counts as zeros; and what it sends to one input
does not depend on which of the others need a gradient. The Function is applied anew for every question, so that a
backward that can run only once is asked like any other. None of this needs to know what the Function computes: two
answers of the same backward are held against each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradexplain.errors import message_of
from gradexplain.findings.finding import Finding
from gradexplain.mathematics.indices import unravelled
from gradexplain.recording.computation import Computation
from gradexplain.recording.custom_functions import arguments_of, backward_place, forward_place
from gradexplain.recording.events import Application, held_in, tensors_in
from gradexplain.recording.join import joined
from gradexplain.recording.recorder import copy_of
from gradexplain.recording.replay import Alone, applied_anew, nodes_alone
from gradexplain.recording.trace import Trace
from gradexplain.recording.tracing import generic, recorded
from gradexplain.verification.oracles.elements import output_parts
from gradexplain.verification.oracles.measures import MARGIN, plain
from gradexplain.verification.tangents import asked_of_jvp
from gradexplain.verification.verdicts import Check, Operation, Report

ORACLE = "contract"
# A power of two scales a number without rounding it; this one leaves room in half precision. One turns the sign.
_SCALES = (2.0**-6, -(2.0**6))


@dataclass(frozen=True)
class Contracts:
    """What the custom Functions of a run broke, by the node that was asked, and what is worth a note beside it."""

    broken: tuple[Operation, ...] = ()
    notes: tuple[Finding, ...] = ()


def contracts_of(computation: Computation, trace: Trace, *, effort: float) -> Contracts:
    """Asks each custom Function of a traced computation; no other question is begun after `effort` seconds each."""
    if all(node.operator is not None or node.leaf is not None for node in trace.nodes):
        return Contracts()
    with recorded(computation, again=True, backwards=False) as run:
        if not run.recorder.applications:
            return Contracts()
        first: dict[object, Alone] = {}
        for alone in nodes_alone(run, joined(run, computation)):
            if isinstance(alone.origin, Application):
                first.setdefault(_signature(alone.origin), alone)
        broken: list[Operation] = []
        notes: list[Finding] = []
        for alone in first.values():
            notes += asked_of_jvp(alone)
            found: list[Finding] = []
            try:
                function = _Function.of(alone, trace)
                found.extend(_until(_breaches(function), effort))  # what was found stays where a later question fails
                notes += _notes(function, alone)
            except (Exception, SystemExit) as fault:  # the user's own code does not run alone
                notes.append(_unasked(alone, fault))
            if found:
                broken.append(_operation(alone, found))
        return Contracts(tuple(broken), tuple(notes))


def _signature(origin: Application) -> object:
    """Returns the class with the shapes, types and flags that it was applied to."""
    given = held_in([origin.arguments, origin.keywords])
    return origin.function, tuple((held.tensor.shape, held.tensor.dtype, held.tracked) for held in given)


def _until(findings: Iterator[Finding | None], effort: float) -> Iterator[Finding]:
    end = time.perf_counter() + effort
    for finding in findings:
        if finding is not None:
            yield finding
        if time.perf_counter() > end:
            return


def _operation(alone: Alone, found: Sequence[Finding]) -> Operation:
    assert isinstance(alone.origin, Application)
    function = alone.origin.function
    names = dict.fromkeys(str(finding.data["argument"]) for finding in found)
    report = Report(tuple(Check(ORACLE, name, "differs") for name in names))
    return Operation(alone.recorded, report, function.__name__, backward_place(function), tuple(found))


# ------------------------------------------------------------------------------------------------------- the Function


@dataclass(frozen=True)
class _Function:
    """A Function to be applied anew: to what, its outputs that carry a gradient, and a cotangent for each.

    `arrived` are the cotangents that it was given in the run, none where these say nothing.
    """

    computation: Computation
    outputs: tuple[Tensor, ...]
    cotangents: tuple[Tensor, ...]
    arrived: tuple[Tensor, ...] = ()

    @cached_property
    def given(self) -> list[Tensor]:
        """The cotangents that the first question hands over: a backward may write into them."""
        return [g.clone() for g in self.cotangents]

    @cached_property
    def twice(self) -> list[dict[str, Tensor]]:
        """What a new node sends for the cotangents in its first call and, where it can run again, in its second."""
        try:
            return self.sent(self.given, times=2)
        except Exception:  # one that can run only once says so itself
            return self.sent(self.given)

    @property
    def whole(self) -> dict[str, Tensor]:
        """The answer that others are held against."""
        return self.twice[0]

    @cached_property
    def noise(self) -> dict[str, float]:
        """How far rounding inside the backward may move what is sent, by argument.

        Sums may cancel: a last digit of the cotangents shows by how much. Where one number swallows another, that shows
        nothing; so what is 1/ε times smaller than |v|·|y|/|x|, the unit of a gradient, is taken for noise as well.
        """
        nudged = [g * (1 + torch.finfo(g.dtype).eps * (2 * _alternating(g) - 1)) for g in self.cotangents]
        (sent,) = self.sent(nudged)
        size = max(_largest(y) * _largest(g) for y, g in zip(self.outputs, self.cotangents, strict=True))
        units = {n: size / (_largest(self.computation.inputs[n]) or math.inf) for n in self.whole}
        return {n: max(_largest(sent[n] - g), torch.finfo(g.dtype).eps * units[n]) for n, g in self.whole.items()}

    @classmethod
    def of(cls, alone: Alone, trace: Trace) -> _Function:
        assert alone.operator is not None
        computation = applied_anew(alone, alone.operator)
        with computation.running() as run, torch.enable_grad():
            made = tuple(t.detach() for t in tensors_in(run(computation.leaf_values())) if t.requires_grad)
        return cls(computation, made, tuple(map(generic, made)), _arrived(alone, trace, made))

    def sent(
        self, cotangents: Sequence[Tensor | None], needed: Sequence[str] = (), *, times: int = 1
    ) -> list[dict[str, Tensor]]:
        """Returns what a new node sends to each argument, once for each of `times` calls of its backward.

        `needed` are the arguments that need a gradient, all without it; `None` stands for an output that is not used.
        """
        names = needed or self.computation.wrt
        with self.computation.running() as run, torch.enable_grad():
            leaves = {n: v.detach().requires_grad_(n in names) for n, v in self.computation.leaf_values().items()}
            made = [t for t in tensors_in(run(leaves)) if t.requires_grad]
            used = [(t, g) for t, g in zip(made, cotangents, strict=True) if g is not None]
            return [self._backward(used, {n: leaves[n] for n in names}, keep=i + 1 < times) for i in range(times)]

    def _backward(
        self, used: Sequence[tuple[Tensor, Tensor]], leaves: Mapping[str, Tensor], *, keep: bool
    ) -> dict[str, Tensor]:
        outputs, cotangents = zip(*used, strict=True)
        found = torch.autograd.grad(outputs, list(leaves.values()), cotangents, retain_graph=keep, allow_unused=True)
        pairs = zip(leaves.items(), found, strict=True)
        return {n: torch.zeros_like(leaf) if g is None else copy_of(g).to_dense() for (n, leaf), g in pairs}


def _arrived(alone: Alone, trace: Trace, made: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Returns the cotangent of each output in the run that is explained, zeros for one that was not used."""
    node = trace.nodes[alone.recorded.index] if alone.recorded.index < len(trace.nodes) else alone.recorded
    if node.name != alone.recorded.name or len(node.cotangents) != len(made):
        return ()
    given = [torch.zeros_like(y) if g is None else g.detach() for g, y in zip(node.cotangents, made, strict=True)]
    fits = all(g.shape == y.shape and g.dtype == y.dtype for g, y in zip(given, made, strict=True))
    return tuple(given) if fits and all(bool(g.isfinite().all()) for g in given) else ()


# ------------------------------------------------------------------------------------------------------ the questions


def _breaches(function: _Function) -> Iterator[Finding | None]:
    """Yields how a backward breaks its promises, `None` after every question that it stands."""
    whole = function.whole
    if any(not g.isfinite().all() for g in whole.values()):
        return  # at a point without a gradient, two answers say nothing
    yield from _linear(function)
    yield from _layouts(function)
    if len(function.cotangents) > 1:
        yield from _unused(function)
    if len(whole) > 1:
        for name in whole:
            (alone,) = function.sent([g.clone() for g in function.cotangents], (name,))
            yield _apart(function, "needs-alone", alone, {name: whole[name]})


def _linear(function: _Function) -> Iterator[Finding | None]:
    """Asks with other scales, with two parts that are zero where the other is not, and with each size that arrived.

    What arrived in one size is judged with the whole; a small one beside a large one may be lost in it.
    """
    whole = function.whole
    yield from _scaled(function, function.cotangents, whole, _SCALES)
    masks = [_alternating(g) for g in function.cotangents]
    (one,) = function.sent([g * mask for g, mask in zip(function.cotangents, masks, strict=True)])
    (other,) = function.sent([g * ~mask for g, mask in zip(function.cotangents, masks, strict=True)])
    yield _apart(function, "not-additive", {n: one[n] + other[n] for n in whole}, whole, one, other)
    sizes = list(_sizes(function.arrived))
    for cotangents in sizes if len(sizes) > 1 else []:
        scale = 2.0 ** math.floor(math.log2(max(map(_largest, cotangents))))
        normal = [g / scale for g in cotangents]
        (own,) = function.sent([g.clone() for g in normal])
        yield from _scaled(function, normal, own, (scale,))


def _sizes(cotangents: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yields cotangents with only the elements of about one size each, zeros elsewhere."""
    if cotangents:
        joint = torch.cat([g.abs().flatten().double() for g in cotangents])
        for mask in output_parts(joint):
            if bool(joint[mask].any()):
                masks = mask.split([g.numel() for g in cotangents])
                yield [torch.where(m.view_as(g), g, 0.0) for g, m in zip(cotangents, masks, strict=True)]


def _scaled(
    function: _Function, cotangents: Sequence[Tensor], sent: Mapping[str, Tensor], scales: Sequence[float]
) -> Iterator[Finding | None]:
    """Asks with other scales of cotangents for which `sent` was sent."""
    for scale in scales:
        (scaled,) = function.sent([scale * g for g in cotangents])
        back = {n: g / scale for n, g in scaled.items()}
        if all(g.isfinite().all() for g in scaled.values()):
            yield _apart(function, "not-linear", back, sent, scale=f"{scale:.6g}")


def _alternating(like: Tensor) -> Tensor:
    """Returns true and false in turn, in the order of the elements."""
    return (torch.arange(like.numel(), device=like.device) % 2 == 0).reshape(like.shape)


def _layouts(function: _Function) -> Iterator[Finding | None]:
    """Asks with the same numbers in another layout: with gaps, along other axes, or one number for all elements."""
    spaced = [torch.stack([g, -g], -1)[..., 0] for g in function.cotangents]
    axes = [tuple(range(g.dim()))[::-1] for g in function.cotangents]  # none, of a number
    turned = [g.permute(a).contiguous().permute(a) for g, a in zip(function.cotangents, axes, strict=True)]
    layouts = [("with gaps", spaced)]
    if any(g.dim() > 1 for g in turned):
        layouts.append(("transposed", turned))
    for layout, cotangents in layouts:
        with suppress(Exception):  # a refusal is heard
            (sent,) = function.sent(cotangents)
            yield _apart(function, "layout", sent, function.whole, layout=layout)
    (ones,) = function.sent([torch.ones_like(g) for g in function.cotangents])
    with suppress(Exception):
        (sent,) = function.sent([torch.ones_like(g.sum()).expand(g.shape) for g in function.cotangents])
        yield _apart(function, "layout", sent, ones, layout="expanded")


def _unused(function: _Function) -> Iterator[Finding | None]:
    """Asks with one output that is used alone, and with zeros for the others."""
    for used, cotangent in enumerate(function.cotangents):
        alone: list[Tensor | None] = [None] * len(function.cotangents)
        alone[used] = cotangent.clone()
        (sent,) = function.sent(alone)
        (right,) = function.sent([g * (number == used) for number, g in enumerate(function.cotangents)])
        yield _apart(function, "output-unused", sent, right, output=used)


def _apart(
    function: _Function,
    code: str,
    seen: Mapping[str, Tensor],
    right: Mapping[str, Tensor],
    *parts: Mapping[str, Tensor],
    **data: object,
) -> Finding | None:
    """Returns where two answers differ by more than rounding: in the answers, in `parts` of them, in what arrives.

    Where both are nan, they do not differ.
    """
    for name, expected in right.items():
        size = max((_largest(part[name]) for part in (right, function.whole, *parts)), default=0.0)
        kind = torch.finfo(expected.dtype)
        alike = (seen[name] == expected) | (seen[name].isnan() & expected.isnan())
        off = torch.where(alike, 0.0, (seen[name] - expected).abs())
        # An algorithm that changes with the size of what arrives, as of a matrix's exponential, rounds in other places.
        bound = max(MARGIN * kind.eps, kind.eps**0.75) * size + MARGIN * kind.tiny
        if not bool((off <= bound).all()) and not bool((off <= bound + MARGIN * function.noise[name]).all()):
            at = unravelled(int(off.nan_to_num(torch.inf).flatten().argmax()), expected.shape)
            numbers = {"seen": plain(seen[name][at]), "right": plain(expected[at])}
            return Finding(code, {"argument": name, "place": at, **numbers, **data})
    return None


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().nan_to_num(0.0, posinf=torch.inf).max()) if tensor.numel() else 0.0


# ---------------------------------------------------------------------------------------------------------- the notes


def _unasked(alone: Alone, fault: BaseException) -> Finding:
    """Says that a backward could not be asked, or not everything."""
    assert isinstance(alone.origin, Application)
    function = alone.origin.function
    return Finding(
        "contract-unasked", {"function": function.__name__, "message": message_of(fault)}, backward_place(function)
    )


def _notes(function: _Function, alone: Alone) -> Iterator[Finding]:
    """Yields what is no breach, and yet a surprise: a backward that changes from call to call, draws, or writes."""
    assert isinstance(alone.origin, Application)
    data, place = {"function": alone.origin.function.__name__}, backward_place(alone.origin.function)
    if alone.origin.silent:
        named = list(arguments_of(alone.origin))
        names = ", ".join(named[i] for i in sorted(alone.origin.silent))
        yield Finding("argument-overwritten", {**data, "names": names}, forward_place(alone.origin.function))
    if not all(torch.equal(g, kept) for g, kept in zip(function.given, function.cotangents, strict=True)):
        yield Finding("backward-writes", data, place)
    elif len(function.twice) > 1 and _apart(function, "", function.twice[1], function.whole) is not None:
        yield Finding("backward-not-reentrant", data, place)
