"""The course of a comparison: both sides run, what they gave is judged, and a difference is looked into."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gradexplain.comparison.comparison import Compared, Comparison, Place
from gradexplain.comparison.differences import Size, meant, pattern_of, sizes_in, sizes_of
from gradexplain.comparison.draws import Draw, aligning, noting
from gradexplain.comparison.judging import (
    Judged,
    Label,
    Measured,
    Pair,
    decide,
    is_low,
    is_rounded,
    outcome_tensors,
    settled,
    verdict_of,
)
from gradexplain.comparison.outlines import Outline, outlined, parted
from gradexplain.comparison.places import Watched, hooked_place, parting
from gradexplain.comparison.sides import Outcome, Returned, Side, matched
from gradexplain.errors import GradexplainError, InputError, NoGradientError, SideError
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import Computation
from gradexplain.recording.join import joined
from gradexplain.recording.trace import Hooked
from gradexplain.recording.tracing import recorded, trace
from gradexplain.rules.application import wide
from gradexplain.verification.incidents import hooks_of_modules, hooks_that_changed
from gradexplain.versions.internals import has_hooks

Tensors = Mapping[Label, Tensor | None]

# A difference that is so many last digits of a type is plain in it at every step.
_PLAIN = 1e4


def compare_sides(
    a: Side,
    b: Side,
    *,
    rename: Mapping[str, str],
    changed: Sequence[str] = (),
    second: bool = False,
    sizes: Sequence[Size] = (),
    values: bool = True,
) -> Comparison:
    """Returns what came of comparing two sides; with `second`, of their second derivatives as well.

    Without `values`, only their gradients are compared: then there is no place where the forward passes part. `sizes`
    are further numbers that a factor may be made of.
    """
    names = (a.computation.name, b.computation.name)
    a, b, one, other, findings = both_run(a, b, rename)
    _refuse_unused(rename, {*a.computation.inputs, *one.gradients})
    if not values:
        for n in one.reached:
            if n in other.values and one.values[n].shape != other.values[n].shape:
                shapes = [tuple(o.values[n].shape) for o in (other, one)]
                raise InputError("as_if_shape", name=names[1], meant=names[0], one=shapes[0], other=shapes[1])
        one, other = replace(one, values={}), replace(other, values={})
    if changed:
        findings = (*findings, Finding("other-numbers", {"names": _some(changed), "count": len(changed)}))
    course = judged(a, b, one, other)
    if course.differs and one.drew and other.drew:
        course, more = _aligned(course)
        findings = (*findings, *more)
    tensors, runs = course.tensors(), course.runs
    if second and one.reached and not any(c.reason == "shape" for c in tensors):
        a2, b2 = a.second(), b.second()
        again = judged(a2, b2, a2.run(), b2.run())
        tensors += [
            replace(c, kind="second") for c in again.tensors() if c.kind == "gradient" and c.name in one.gradients
        ]
        runs = max(runs, again.runs)
    place, steps = course.place(tensors) if one.reached and values else (None, ())
    known = [*sizes, *sizes_of(a.computation.inputs), *steps]
    tensors = [c if c.pattern is None else replace(c, pattern=meant(c.pattern, known)) for c in tensors]
    if any(f.code in ("draws-differ", "draws-compiled") for f in findings):
        tensors = [replace(c, verdict="cannot say", reason="draws") if c.reason == "beyond" else c for c in tensors]
    return Comparison(
        names,
        tuple(tensors),
        place,
        tuple(findings),
        truth=course.truth,
        runs=runs,
        inputs={n: v for n, v in a.computation.inputs.items() if n not in a.computation.parameters},
        parameters=len(a.computation.parameters),
    )


def _refuse_unused(rename: Mapping[str, str], names: Collection[str]) -> None:
    for old, new in rename.items():
        if not any(name == old or name.startswith(f"{old}.") for name in names):
            raise InputError("compare_rename", old=old, new=new, names=_some(sorted(names)) or "–")


def _aligned(course: Course) -> tuple[Course, Iterator[Finding]]:
    """Returns the course where every draw has the same numbers on both sides, if they draw the same in another order.

    And what is to be said of that.
    """
    drawn: tuple[list[Draw], list[Draw]] = ([], [])
    for side, draws in zip(course.sides, drawn, strict=True):
        draws += draws_of(side)
    if drawn[0] == drawn[1]:
        return course, _drawn_by_compiler(course)
    if sorted(drawn[0]) != sorted(drawn[1]) or any(side.gave is not None for side in course.sides):
        ours, theirs = (_some([f"{name} ({count})" for name, count in draws]) for draws in drawn)
        return course, iter([Finding("draws-differ", {"ours": ours, "theirs": theirs})])
    a, b = (replace(side.measurable(), around=(*side.measurable().around, aligning)) for side in course.sides)
    return judged(a, b, a.run(), b.run()), iter([Finding("draws-aligned", {})])


def _drawn_by_compiler(course: Course) -> Iterator[Finding]:
    """Yields that compiled code draws numbers of its own, where the code as it was written gives the same."""
    if "torch._dynamo" in sys.modules and all(side.gave is None for side in course.sides):
        a, b = (side.uncompiled() for side in course.sides)
        if not judged(a, b, a.run(), b.run()).differs:
            yield Finding("draws-compiled", {})


def draws_of(side: Side) -> Sequence[Draw]:
    """Returns what a side draws, in its order."""
    draws: list[Draw] = []
    if side.gave is not None:
        return side.gave.draws
    side.measurable().run(noting(draws))
    return draws


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def both_run(a: Side, b: Side, rename: Mapping[str, str]) -> tuple[Side, Side, Outcome, Outcome, tuple[Finding, ...]]:
    """Returns both sides with what they gave: of outputs that both have, all under the reference's names.

    And what is to be said of outputs that only one of them has.
    """
    one, other = _run("A", a), _run("B", b)
    if not one.reached or not other.reached:
        called = matched(tuple(one.gradients), tuple(other.gradients), rename)
        b = replace(b, names={**b.names, **called})
        gradients = {called[n]: g for n, g in other.gradients.items()}
        return a, b, replace(one, values={}), replace(other, values={}, gradients=gradients), ()
    alike = dict(zip(other.values, one.values, strict=False)) if len(one.values) == len(other.values) else {}
    alike = {n: n if n in one.values else alike.get(n, n) for n in other.values}
    common = [n for n in other.reached if alike[n] in one.reached]
    if not common:
        raise InputError("compare_outputs", ours=", ".join(one.reached), theirs=", ".join(other.reached))
    alone = [(a, n) for n in one.reached if n not in {alike[c] for c in common}]
    alone += [(b, n) for n in other.reached if n not in common]
    if alone or alike != {n: n for n in other.values}:
        a, b = replace(a, outputs=tuple(alike[n] for n in common)), replace(b, outputs=tuple(common), results=alike)
        one, other = a.run(), b.run()
    findings = tuple(Finding("output-alone", {"name": n, "side": side.computation.name}) for side, n in alone)
    return a, b, one, other, findings


def _run(letter: str, side: Side) -> Outcome:
    try:
        return side.run()
    except NoGradientError as fault:
        raise SideError(letter, fault) from fault


@dataclass(frozen=True)
class Settled:
    """What is kept of a pair that was judged: the verdict, and how far beyond what explains it the difference is.

    `formulas` is that of the two formulas in float64, `eps` the reference's last digit, `known` says that there is a
    truth.
    """

    compared: Compared
    worst: float
    formulas: float
    eps: float
    known: bool

    @classmethod
    def of(cls, judged: Judged, scale: float) -> Settled:
        """Returns what is kept, where the largest number of all pairs is `scale`."""
        compared = verdict_of(judged, scale)
        if compared.verdict == "differs":
            compared = replace(compared, pattern=pattern_of(judged))
        eps = torch.finfo(judged.pair.one.dtype).eps
        return cls(compared, judged.worst, judged.formulas, eps, judged.pair.truth is not None)


@dataclass(frozen=True)
class Course:
    """What was found out about two sides: what needed no measure, and how the other pairs were judged."""

    sides: tuple[Side, Side]
    widened: tuple[Callable[[], Side] | None, Callable[[], Side] | None]
    labels: Sequence[Label]
    done: Mapping[Label, Compared]
    judged: Mapping[Label, Settled]
    runs: int

    @property
    def differs(self) -> bool:
        """Whether a tensor differs."""
        return any(c.verdict == "differs" for c in self.done.values()) or any(j.worst > 1 for j in self.judged.values())

    @property
    def truth(self) -> str:
        """The type of the third run, "" where there was none."""
        return "float64" if any(j.known for j in self.judged.values()) else ""

    def tensors(self) -> list[Compared]:
        """Returns the verdict on every tensor, and of those that differ what that looks like."""
        found = {**self.done, **{label: one.compared for label, one in self.judged.items()}}
        return [found[label] for label in self.labels if label in found]

    def place(self, tensors: Sequence[Compared]) -> tuple[Place | None, Sequence[Size]]:
        """Returns the first place where the two runs part, and the sizes of what the reference's steps give.

        That is in float64 where the formulas themselves do, by less than their own type shows at every step.
        """
        telling = [c for c in tensors if c.verdict == "differs" and c.reason != "shape" and c.kind != "second"]
        if not telling:
            return None, ()
        size = max((c.relative for c in telling if math.isfinite(c.relative) and c.relative > 0), default=1.0)
        reference, candidate = self.sides
        if reference.gave is not None and reference.gave.outline is not None:
            eps = max(torch.finfo(getattr(torch, t)).eps for c in telling for t in c.dtypes if t)
            outline = outline_of(candidate)
            return (
                None if outline is None else parted(reference.gave.outline, outline, candidate.names, eps, size)
            ), ()
        exact = any(_PLAIN * j.eps > size for j in self.judged.values() if j.formulas > 1)
        one, other = (w() if exact and w is not None else s for w, s in zip(self.widened, self.sides, strict=True))
        # Where the values differ, no backward pass is needed to see where.
        forward = any(c.kind == "value" for c in telling)
        for backwards in (False, True) if forward else (True,):
            try:
                first, second = (watched(side.measurable(), backwards) for side in (one, other))
            except GradexplainError:  # what cannot be watched has no steps
                return None, ()
            eps = max(torch.finfo(w.trace.value.dtype).eps for w in (first, second))
            if (found := parting(first, second, other.names, eps, size)) is not None:
                break
        return found or self._hooked(), tuple(sizes_in(first.trace))

    def _hooked(self) -> Place | None:
        """Returns the place of an input or a parameter of whose own hooks one changed the gradient."""
        hooks: list[dict[str, Hooked]] = []
        for side in self.sides:
            own = side.gave is None and any(map(has_hooks, side.computation.own.values()))
            found = watched_as_it_is(side) if own else ()
            hooks.append({side.names.get(h.leaf, h.leaf): h for h in found})
        name = next((n for kind, n in self.labels if kind == "gradient" and any(n in h for h in hooks)), None)
        return None if name is None else hooked_place([h.get(name) for h in hooks], [None, None], [None, None], name)


def judged(a: Side, b: Side, one: Outcome, other: Outcome) -> Course:
    """Returns what is found out about two sides that gave these outcomes."""
    ours, theirs = outcome_tensors(one), outcome_tensors(other)
    done, pairs = settled(ours, theirs)
    widened: tuple[Callable[[], Side] | None, Callable[[], Side] | None] = (None, None)
    if pairs and (is_low(one) or is_low(other)):
        constants: list[Tensor] = []
        (first, right), (second, formula) = in_float64(a, ours, constants), in_float64(b, theirs, constants)
        widened = (first, second)
        formula = formula if right is not None else None
        rounded = any(map(is_rounded, constants)) or any(s.gave is not None and s.gave.rounded for s in (a, b))
        pairs = [replace(p, truth=_known(right, p), formula=_known(formula, p), rounded=rounded) for p in pairs]
        del right, formula
    measured = Measured(pairs, (a, b))
    del pairs
    found, runs = decide(measured, partial(Settled.of, scale=measured.scale))
    done |= {pair.label: c for pair in measured.doubtful if (c := measured.unjudged(pair)) is not None}
    return Course((a, b), widened, tuple(ours), done, {n: j for n, j in found.items() if n not in done}, runs)


def outline_of(side: Side) -> Outline | None:
    """Returns the steps of a side in a few numbers each, `None` where it cannot be watched."""
    try:
        return outlined(watched(side.measurable()).trace)
    except GradexplainError:
        return None


def watched(side: Side, backwards: bool = True) -> Watched:
    """Returns the steps of a side, forward and, where asked for, backward."""
    computation, cotangent = _watchable(side)
    with recorded(computation, cotangent, backwards=backwards) as run:
        found = joined(run, computation)
        hooks = {(node.index, k): hook for node, k, hook in hooks_that_changed(run, found)}
        return Watched(found, hooks, {n.index: h for n, h in hooks_of_modules(found, computation.modules)})


def watched_as_it_is(side: Side) -> tuple[Hooked, ...]:
    """Returns the hooks of a side's own inputs and parameters that changed a gradient."""
    computation, cotangent = _watchable(side)
    return trace(computation, cotangent=cotangent).hooked


def _watchable(side: Side) -> tuple[Computation, Callable[[Tensor], Tensor]]:
    returned: list[Returned] = []
    computation = side.joined(returned)

    def call(given: Mapping[str, Any]) -> object:
        with side.running():
            return computation.call(given)

    return replace(computation, call=call), lambda output: side.seed(output, returned[-1])


def _known(found: Tensors | None, pair: Pair) -> Tensor | None:
    """Returns the tensor of a pair in a run in float64, with 0 where the pair has it."""
    value = None if found is None else found.get((pair.kind, pair.name))
    if value is None:
        return None
    spoilt = ~wide(value).isfinite()
    if not bool(spoilt.any()):
        return wide(value)  # type: ignore[no-any-return]
    return None if bool((spoilt & (pair.one != 0)).any()) else wide(value).masked_fill(spoilt, 0)


def in_float64(side: Side, own: Tensors, constants: list[Tensor]) -> tuple[Callable[[], Side] | None, Tensors | None]:
    """Returns what makes a side in float64, and what that gives, of the same shapes; `None` where it does not run so.

    What it holds in a shorter type is added to `constants`.
    """
    if all(t is None or t.dtype in (torch.float64, torch.complex128) for t in own.values()):
        return lambda: side, own
    if side.gave is not None:
        return None, side.gave.truth
    for number, candidate in enumerate(side.widened(constants)):
        try:
            found = outcome_tensors(candidate.run())
        except Exception:  # the user's function, or torch's, is not made for these types
            continue
        if all(t is None or ((u := found.get(n)) is not None and u.shape == t.shape) for n, t in own.items()):
            return lambda number=number: next(islice(side.widened([]), number, None)), found
    return None, None
