"""The place: every node of the graph checked alone, its own backward against its own operator.

A node is called by itself on a generic cotangent. What it sends for each argument is held against its recorded
operator, run again at its recorded inputs, by the oracles that judge whole functions, with their own error bounds. So
the wrong operator is named, and not only a wrong total; what looks wrong and is none (an edit of saved numbers, a hook,
a straight-through estimate) is named for what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gradexplain.documents.progress import followed
from gradexplain.errors import RunError, message_of
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import Computation, with_dtype
from gradexplain.recording.custom_functions import backward_place, is_once_differentiable
from gradexplain.recording.events import Application, Event
from gradexplain.recording.join import Run, joined, owners_of
from gradexplain.recording.nodes import ordered
from gradexplain.recording.plain import Cotangent
from gradexplain.recording.replay import (
    Alone,
    Operator,
    cotangents_from,
    nodes_alone,
    recorded_outputs,
    rerun,
    sent_alone,
)
from gradexplain.recording.trace import Cut, Node, Trace
from gradexplain.recording.tracing import generic, recorded, trace
from gradexplain.rules.registry import rule_of
from gradexplain.verification.derivatives import gradient_of
from gradexplain.verification.incidents import changed_gradients, draws, edits, sent_otherwise, stops
from gradexplain.verification.oracles import chain_rule as walk
from gradexplain.verification.oracles.answers import Unable, Verdict
from gradexplain.verification.oracles.chain_rule import COINCIDENT
from gradexplain.verification.oracles.ladders import USUAL_STEPS
from gradexplain.verification.oracles.measures import MARGIN, dense, epsilon, largest
from gradexplain.verification.oracles.patterns import Pattern, beside, pattern, shown, simplest
from gradexplain.verification.oracles.question import EFFORT, Question
from gradexplain.verification.oracles.replays import retraced
from gradexplain.verification.oracles.slopes import Slopes, fits_kinks, slopes
from gradexplain.verification.verdicts import ESTIMATE, RULES, SAVED, Check, Operation, Report, answered, verify_trace

# Up to this many elements of an argument, the right gradient is measured at each; of more, at this many.
MOST_EACH, SAMPLED_ELEMENTS = 48, 24
# Elements of an operator's tensors up to which it is run again and again, although its rule agrees.
MOST_MOVED = 10_000
# Runs of the operator that an element takes; so many elements are measured however long that takes.
RUNS_EACH, LEAST_ELEMENTS = 2 * len(USUAL_STEPS), 4
# Operators whose backward presumes something of what they are given, and is not their derivative without it.
PRESUMING = {
    "_ctc_loss": "presumes-normalised",
    "linalg_pinv": "presumes-hermitian",
    "cholesky_inverse": "presumes-triangular",
}
# What only looks like an error: an intended estimate, and kinks, where a gradient is a convention.
EXCUSES = (ESTIMATE, "kinks", "drawn", *PRESUMING.values())
# The last digit of a slope that is measured in float64.
FINEST = torch.finfo(torch.float64).eps
# Reasons that speak of the recording, not of an oracle.
RECORDING = "recording"


def check_operations(
    computation: Computation,
    *,
    cotangent: Cotangent = generic,
    effort: float = EFFORT,
    coarsest: float = 0.0,
    only: Callable[[Node], bool] | None = None,
) -> tuple[Operation, ...]:
    """Returns the nodes of the graph that `computation` makes, in the order of the forward pass, each checked alone.

    `cotangent` starts the backward pass in which hooks are looked for; `only` chooses among the nodes. `effort` is the
    time in seconds that one oracle may take for an operator without a rule; those that have one share as much, as the
    rules judge them without running anything. `coarsest` is the
    rounding error of the type that the user runs in, if that is another than the computation's.
    """
    with recorded(computation, cotangent, again=True) as run:
        if run.output.grad_fn is None:
            return ()
        trace = joined(run, computation)
        chosen = [a for a in nodes_alone(run, trace) if only is None or only(a.recorded)]
        notes = _Notes.of(run, trace, computation.modules)
        known = [rule_of(alone.recorded.operator) is not None for alone in chosen]
        share = effort / max(sum(known), 1)
        budgets = [(alone, share if ruled else effort) for alone, ruled in zip(chosen, known, strict=True)]
        asked = followed(budgets, "operations")
        return tuple(_operation(alone, run, notes, budget, coarsest) for alone, budget in asked)


def check_again(computation: Computation, cotangent: Tensor, *, effort: float = EFFORT) -> tuple[Operation, ...]:
    """Returns the operations whose own second derivatives are wrong, in the order of the forward pass.

    Those are nodes of the gradient's graph along `cotangent`, each checked alone; where none of them is wrong, custom
    Functions whose backward is not right when it is differentiated again: a path ended in it.
    """
    nodes = check_operations(gradient_of(computation, cotangent), effort=effort)
    wrong = tuple(operation for operation in nodes if operation.verdict == "differs")
    if wrong:
        return wrong
    with recorded(computation, again=True, backwards=False) as run:
        if run.output.grad_fn is None:
            return ()
        own = [a for a in nodes_alone(run, joined(run, computation)) if isinstance(a.origin, Application)]
        again = (_again(alone, effort) for alone in followed(own, "operations"))
        return tuple(operation for operation in again if operation is not None)


def _again(alone: Alone, effort: float) -> Operation | None:
    """Returns a custom Function whose second derivatives are wrong, with what that looks like; `None` for another."""
    try:
        assert alone.operator is not None
        assert isinstance(alone.origin, Application)
        function = rerun(alone, alone.operator)
        if function is None:
            return None
        # Where the backward runs, its own lines are the place.
        first = replace(function.computation, locate=None)
        with torch.no_grad():
            seed = generic(first.output(first.leaf_values()))
        gradient = gradient_of(first, seed)
        found = trace(gradient, cotangent=generic)
        own = replace(found, cuts=())
        report = answered(Question(own, gradient, effort=effort, stoppable=False))
    except (Exception, SystemExit):  # the user's own code does not run alone
        return None
    if report.verdict != "differs":
        return None
    asked = _Asked(alone, alone.operator, gradient, own, own, ())
    findings: list[Finding] = []
    for name in report.inputs:
        data = {"argument": name, "label": alone.operator.label, "size": own.inputs[name].numel(), "order": 2}
        if report.of(name) == "differs" and (seen := _pattern(asked, report, name, effort)) is not None:
            findings.append(Finding(seen[0].kind, {**seen[0].data, **data}))
    findings += (Finding("held", {"code": _code(cut)}, cut.source) for cut in found.cuts)
    if is_once_differentiable(alone.origin.function):
        findings.insert(0, Finding("once-differentiable", {}, backward_place(alone.origin.function)))
    return _concluded(alone, report, findings)


def _code(cut: Cut) -> str:
    return cut.source.code if cut.source and cut.source.code else cut.operator


@dataclass(frozen=True)
class _Notes:
    """What the run shows besides operators: hooks by node; draws and stops by who used them; modules by name.

    A leaf is no operation: hooks on it stand with the first node that uses it.
    """

    hooks: Mapping[int, Sequence[Finding]]
    draws: Mapping[int, Sequence[Finding]]
    stops: Mapping[int, Sequence[Finding]]
    modules: Mapping[str, nn.Module]

    @staticmethod
    def of(run: Run, trace: Trace, modules: Mapping[str, nn.Module]) -> _Notes:
        assert run.output.grad_fn is not None
        owners = owners_of(run.recorder.events, ordered(run.output.grad_fn))
        return _Notes(_by_user(changed_gradients(run, trace), trace), draws(run), stops(run, owners), modules)

    def on(self, alone: Alone) -> Iterator[Finding]:
        """Yields the notes on a node."""
        yield from self.hooks.get(alone.recorded.index, ())
        yield from self.draws.get(id(alone.origin), ())
        yield from self.stops.get(id(alone.origin), ())


def _by_user(hooks: Mapping[int, Sequence[Finding]], trace: Trace) -> dict[int, list[Finding]]:
    users = trace.consumers()
    placed: dict[int, list[Finding]] = {}
    for index, findings in hooks.items():
        leaf = trace.nodes[index].leaf is not None
        placed.setdefault(users[index][0][0] if leaf and index in users else index, []).extend(findings)
    return placed


@dataclass(frozen=True)
class _Asked:
    """A node's question: its operator to be run again, and the trace with what the node itself sent as gradients.

    `fresh` is the same trace with what a new node of the operator sends.
    """

    alone: Alone
    operator: Operator
    computation: Computation
    fresh: Trace
    own: Trace
    notes: tuple[Finding, ...]

    def send(self, cotangent: Tensor) -> Mapping[str, Tensor | None]:
        """Returns what the node sends for a cotangent of its outputs, joined."""
        return sent_alone(self.alone, self.operator, cotangents_from(self.alone, cotangent)).gradients


def _operation(alone: Alone, run: Run, notes: _Notes, effort: float, coarsest: float) -> Operation:
    findings = list(notes.on(alone))
    try:
        asked = _asked(alone)
        if isinstance(asked, Unable):
            return _concluded(alone, _mute(alone, asked), findings)
        changed = list(edits(alone, run))
        report = _report(asked, changed, effort, coarsest)
    except (Exception, SystemExit) as fault:  # the user's own code, or torch's refusal to run an operator alone
        return _concluded(alone, _mute(alone, Unable("node_failed", {"message": message_of(fault)})), findings)
    looks: dict[str, Finding] = {}
    for name in report.inputs:
        if report.of(name) == "differs" and not _blames_edit(report, name):
            with suppress(Exception):  # what a closer look shows is a help; the verdict stands without it
                looks[name] = _look(asked, report, name, effort)
        findings += _drawn(asked, report)
    with suppress(Exception):
        findings += sent_otherwise(alone, asked.operator, run, notes.modules)
    report = Report(tuple(_told(asked, check, looks) for check in report.checks))
    kinks = [Finding(c.reason, {**c.data, "argument": c.input}) for c in report.checks if c.reason in ("kink", "edge")]
    return _concluded(alone, report, [*changed, *looks.values(), *kinks, *asked.notes, *findings])


def _concluded(alone: Alone, report: Report, findings: Sequence[Finding]) -> Operation:
    own = alone.origin if isinstance(alone.origin, Application) else None
    label = alone.operator.label if alone.operator else alone.recorded.name
    backward = backward_place(own.function) if own else None
    distinct = [f for i, f in enumerate(findings) if f not in findings[:i]]
    return Operation(alone.recorded, report, label, backward, tuple(distinct))


def _mute(alone: Alone, why: Unable) -> Report:
    names = [name for name in (alone.operator.slots if alone.operator else ()) if name] or [""]
    return Report(tuple(Check(RECORDING, n, "cannot say", reason=why.reason, data=why.data) for n in names))


# --------------------------------------------------------------------------------------------------------- asking


def _asked(alone: Alone) -> _Asked | Unable:
    operator = alone.operator
    if operator is None:
        return Unable("not_recorded", {"node": alone.recorded.name})
    again = rerun(alone, operator)
    if again is None or not again.computation.wrt:
        return Unable("not_rerun", {"operator": operator.label})
    if any(t.layout != torch.strided for t in (*again.computation.inputs.values(), *again.outputs)):
        return Unable("sparse_operator", {"operator": operator.label})
    own = isinstance(alone.origin, Application)  # of torch's own operators, a watched run is enough
    fresh = replace(trace(again.computation, cotangent=generic, plain=own), cuts=())
    apart = _apart(recorded_outputs(alone, again), fresh.value)
    if apart is not None:
        return Unable("not_reproduced", {"operator": operator.label, "amplitude": apart})
    sent = sent_alone(alone, operator, cotangents_from(alone, fresh.cotangent))
    judged = with_gradients(fresh, {name: sent.gradients.get(name) for name in fresh.gradients})
    return _Asked(alone, operator, again.computation, fresh, judged, tuple(_silent(alone, operator, sent.raw)))


def _apart(recorded: Sequence[Tensor] | None, value: Tensor) -> float | None:
    """Returns how far the operator, run again, is from what was recorded, where rounding cannot explain it.

    Half of the digits: another layout in memory changes the last ones, another function more than half of them.
    """
    if recorded is None or value.layout != torch.strided:
        return None
    then, now = torch.cat([t.reshape(-1) for t in recorded]), value.reshape(-1)
    if then.shape != now.shape:
        return float("inf")
    if then.dtype != now.dtype or not now.numel() or torch.equal(then, now):
        return None
    apart = torch.where(then.isnan() & now.isnan() | (then == now), 0.0, (then - now).abs())
    size = torch.where(then.isfinite(), then.abs(), 0.0).max()
    return float(apart.max()) if not bool(apart.max() <= torch.finfo(now.dtype).eps ** 0.5 * size) else None


def with_gradients(trace: Trace, gradients: Mapping[str, Tensor | None]) -> Trace:
    """Returns the trace with other gradients, sent along the edges to the leaves as well."""
    leaves = {node.index: node.leaf for node in trace.nodes if node.leaf is not None}

    def edited(node: Node) -> Node:
        edges = [
            replace(e, contribution=gradients.get(leaves[e.producer] or "")) if e.producer in leaves else e
            for e in node.edges
        ]
        return replace(node, edges=tuple(edges))

    return replace(trace, gradients=dict(gradients), nodes=tuple(map(edited, trace.nodes)))


def _silent(alone: Alone, operator: Operator, raw: Mapping[str, object]) -> Iterator[Finding]:
    """Yields what torch does without a word to the gradients that a custom Function gives back."""
    for name, given in raw.items() if isinstance(alone.origin, Application) else ():
        argument = operator.arguments.get(name)
        if not isinstance(given, Tensor) or not isinstance(argument, Tensor) or name not in operator.slots:
            continue
        if given.shape != argument.shape:
            yield Finding("summed", {"argument": name, "seen": tuple(given.shape), "shape": tuple(argument.shape)})
        if given.dtype != argument.dtype:
            types = {"seen": _type(given), "dtype": _type(argument)}
            yield Finding("cast", {"argument": name} | types)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# -------------------------------------------------------------------------------------------------------- judging


def _report(asked: _Asked, changed: Sequence[Finding], effort: float, coarsest: float) -> Report:
    """Returns what the oracles say of what the node sent; where an edit explains that, of its formula, and the edit."""
    edited = [n for n in asked.own.gradients if changed and not _same(asked, n)]
    judged = asked.fresh if edited else asked.own
    report = _by_rule(asked, judged) or verify_trace(judged, asked.computation, effort=effort, coarsest=coarsest)
    if report.nothing is not None:  # without elements there is nothing that could be wrong
        return Report(tuple(Check(RECORDING, n, "agrees", 0.0, 0.0, 0.0) for n in asked.own.gradients))
    data = {**changed[0].data, "line": str(changed[0].source or "")} if changed else {}
    blame = [Check(SAVED, n, "differs", reason=changed[0].code, data=data) for n in edited]
    return Report((*report.checks, *blame))


def _by_rule(asked: _Asked, judged: Trace) -> Report | None:
    """Returns the report of the operator's rule alone, where the operator is large and the rule gives all its numbers.

    It would be dear to run it again and again. In a shorter type than float64 the operator is run once in float64, and
    the rule gives these numbers; what the node sent is near to them, in its largest.
    """
    tensors = [judged.value, *judged.inputs.values()]
    if sum(t.numel() for t in tensors) <= MOST_MOVED or rule_of(asked.alone.recorded.operator) is None:
        return None
    eps = epsilon(judged)
    exact: Trace | Unable = judged
    if eps > torch.finfo(torch.float64).eps:
        exact = retraced(with_dtype(asked.computation, torch.float64), judged)
    if isinstance(exact, Unable) or not walk.coincides(exact):
        return None
    for name, sent in judged.gradients.items():
        own, right = (dense(g, judged.inputs[name]).double() for g in (sent, exact.gradients[name]))
        if not bool(((own - right).abs() <= MARGIN * eps * largest(right.abs())).all()):
            return None

    def check(name: str) -> Check:
        bounds = torch.tensor(COINCIDENT).expand(judged.inputs[name].shape)
        return Check(RULES, name, "agrees", resolution=COINCIDENT, bounds=bounds)

    return Report(tuple(map(check, judged.gradients)))


def _blames_edit(report: Report, name: str) -> bool:
    """Says whether an edit of what was saved explains a wrong gradient: the formula by itself is not refuted."""
    wrong = [c for c in report.checks if c.input == name and c.verdict == "differs"]
    return bool(wrong) and all(c.oracle == SAVED for c in wrong)


def _same(asked: _Asked, name: str) -> bool:
    """Says whether the node sends what a new node of its operator sends, but for rounding."""
    own, fresh = (dense(t.gradients[name], t.inputs[name]) for t in (asked.own, asked.fresh))
    allowed = MARGIN * torch.finfo(own.dtype).eps * torch.maximum(own.abs(), fresh.abs())
    return bool((((own - fresh).abs() <= allowed) | (own.isnan() & fresh.isnan()) | (own == fresh)).all())


def _told(asked: _Asked, check: Check, looks: Mapping[str, Finding]) -> Check:
    """Returns the check as one on the node: with the node's own number and line, and an intended estimate as such."""
    look = looks.get(check.input)
    # Forward mode follows torch's conventions: that it agrees is no evidence here. The rules know the conventions, but
    # not whether what is presumed is so.
    overruled = look is not None and (check.oracle != RULES or look.code in PRESUMING.values())
    if look is not None and look.code in EXCUSES and check.verdict != "cannot say" and overruled:
        verdict: Verdict = "cannot say"
        return replace(check, verdict=verdict, reason=look.code, data={**check.data, **look.data}, bounds=None)
    if "node" not in check.data:
        return check
    node, source = asked.alone.recorded, asked.alone.recorded.source
    own = {"node": node.index, "operator": asked.operator.label, "argument": check.input}
    return replace(
        check, data={**check.data, **own, "code": source.code if source else "", "line": source.line if source else 0}
    )


# -------------------------------------------------------------------------------------------------- what it looks like


def _look(asked: _Asked, report: Report, name: str, effort: float) -> Finding:
    """Returns what the error in one argument's gradient looks like."""
    data = {"argument": name, "label": asked.operator.label, "size": asked.own.inputs[name].numel()}
    if asked.operator.label in PRESUMING and asked.operator.arguments.get("hermitian", True):
        return Finding(PRESUMING[asked.operator.label], data)
    if _ignores_cotangent(asked, name):
        return Finding("cotangent-ignored", data)
    seen = _pattern(asked, report, name, effort)
    if seen is None:
        return Finding("kinks" if _has_kinks(asked, name, effort) else "wrong", data)
    recognised, known = seen
    passing = _passing(asked, name)
    if _is_surrogate(asked, name):
        return Finding(ESTIMATE, {**data, "slope": "0", **passing})
    if recognised.kind == "zero" and isinstance(asked.alone.origin, Event) and asked.alone.origin.random_states:
        return Finding("drawn", data)
    spread = _unsummed(asked, name, recognised)
    kind, more = spread or (recognised.kind, {})
    more = {**more, **passing, **_steepness(passing, known, asked.own.cotangent)}
    return Finding(kind, {**data, **recognised.data, **more})


def _drawn(asked: _Asked, report: Report) -> Iterator[Finding]:
    """Yields the arguments that draws follow, and whose gradient torch defines to be 0 all the same."""
    if isinstance(asked.alone.origin, Event) and asked.alone.origin.random_states:
        for name in dict.fromkeys(stop.input for stop in report.stops):
            size = asked.own.inputs[name].numel()
            yield Finding("drawn", {"argument": name, "label": asked.operator.label, "size": size})


def _pattern(asked: _Asked, report: Report, name: str, effort: float) -> tuple[Pattern, Slopes] | None:
    """Returns what an error looks like, and the slopes that show it; `None` where no single element contradicts."""
    question = Question(asked.own, asked.computation, effort=effort)
    replay = question.replay
    if isinstance(replay, Unable) or asked.own.inputs[name].is_complex():
        return None
    sent = question.gradient(name)
    affordable = max(int(effort / (RUNS_EACH * max(replay.seconds, 1e-9))), LEAST_ELEMENTS)
    known = slopes(replay, name, sent, _positions(report, name, sent)[:affordable])
    if known is None or not bool(known.differs.any()):
        return None
    slack = 4 * known.bound + MARGIN * replay.eps * known.right.abs()
    compared = beside(
        sent, known.right, slack, known.differs, positions=known.positions, tensors=_tensors(asked, replay.trace)
    )
    return pattern(compared, sent.shape, known.positions), known


def _passing(asked: _Asked, name: str) -> dict[str, str]:
    """Returns the number that a custom Function's backward multiplies what arrives by, where it does nothing else."""
    sent, cotangent = asked.own.gradients[name], asked.own.cotangent
    if not isinstance(asked.alone.origin, Application) or sent is None or sent.shape != cotangent.shape:
        return {}
    ratios = (sent / cotangent).flatten()
    if sent.is_complex() or not bool(ratios.isfinite().all()) or not bool((ratios != 0).all()):
        return {}
    slack = MARGIN * torch.finfo(ratios.dtype).eps * float(ratios[0].abs())
    if not bool(((ratios - ratios[0]).abs() <= slack).all()):
        return {}
    return {"passes": shown(simplest(float(ratios[0]), slack))}


def _steepness(passing: Mapping[str, str], known: Slopes, cotangent: Tensor) -> dict[str, str]:
    """Returns the slope of an elementwise function where what is passed on is not right, if that is one number there.

    One element alone tells a slope of 0, and no other: what comes from elsewhere may be there as well.
    """
    wrong, weights = known.differs, cotangent.flatten()
    if not passing or not bool((known.positions < weights.numel()).all()):
        return {}
    weights = weights[known.positions][wrong]
    found, slack = known.right[wrong] / weights, (known.bound[wrong] / weights).abs() + MARGIN * FINEST
    if not bool(((found - found[0]).abs() <= slack + slack[0]).all()):
        return {}
    slope = shown(simplest(float(found[0]), float(slack[0])))
    return {"slope": slope} if slope == "0" or found.numel() > 1 else {}


def _has_kinks(asked: _Asked, name: str, effort: float) -> bool:
    """Says whether kinks at this very point explain a gradient that no single element refutes."""
    question = Question(asked.own, asked.computation, effort=effort)
    replay = question.replay
    if isinstance(replay, Unable) or asked.own.inputs[name].is_complex() or asked.own.value.is_complex():
        return False
    return fits_kinks(replay, name, question.gradient(name))


def _positions(report: Report, name: str, sent: Tensor) -> list[int]:
    """Returns the elements to be measured: all of a few; of many, those that a check named, the largest, and others."""
    if sent.numel() <= MOST_EACH:
        return list(range(sent.numel()))
    named = [c.place for c in report.checks if c.input == name and c.verdict == "differs" and c.place]
    flat = torch.arange(sent.numel()).reshape(sent.shape)
    drawn = torch.randperm(sent.numel(), generator=torch.Generator().manual_seed(5))[:SAMPLED_ELEMENTS].tolist()
    largest = sent.abs().flatten().nan_to_num(torch.inf).topk(3).indices.tolist()
    return list(dict.fromkeys([*(int(flat[place]) for place in named), *largest, *drawn]))


def _tensors(asked: _Asked, trace: Trace) -> dict[str, Tensor]:
    """Returns what a formula may have lost or gained as a factor, by name."""
    real = {n: t for n, t in trace.inputs.items() if t.is_floating_point()}
    single = {"cotangent": trace.cotangent, "output": trace.value} if len(asked.alone.used) == 1 else {}
    return real | {n: t for n, t in single.items() if t.is_floating_point()}


def _ignores_cotangent(asked: _Asked, name: str) -> bool:
    """Says whether the node sends the same for twice the cotangent: a backward is linear in what it receives."""
    sent, twice = asked.send(asked.own.cotangent)[name], asked.send(2 * asked.own.cotangent)[name]
    return sent is not None and twice is not None and bool((sent != 0).any()) and torch.equal(sent, twice)


def _unsummed(asked: _Asked, name: str, recognised: Pattern) -> tuple[str, dict[str, object]] | None:
    """Recognises a gradient that was not summed over the places where its argument was repeated, by what it ignores."""
    x, y = asked.own.inputs[name], asked.own.value
    shape = (*(1,) * (y.dim() - x.dim()), *x.shape)
    repeated = [a for a in range(y.dim()) if shape[a:] and shape[a] == 1 and y.shape[a] > 1]
    fits = len(shape) == y.dim() and all(a in repeated or shape[a] == y.shape[a] for a in range(y.dim()))
    if len(asked.alone.used) != 1 or not fits or not repeated:
        return None
    count = 1
    for axis in repeated:
        count *= y.shape[axis]
    if recognised.kind == "factor" and abs(float(str(recognised.data["ratio"])) * count - 1) <= 1e-12 * count:
        return "unsummed-mean", {"count": count}
    for axis in repeated:
        for index in (0, y.shape[axis] - 1):
            if _sees_only(asked, name, axis, index):
                return "unsummed-slice", {"axis": axis, "index": index, "count": y.shape[axis]}
    return None


def _sees_only(asked: _Asked, name: str, axis: int, index: int) -> bool:
    """Says whether the node sends the same when the cotangent is zero outside one slice of an axis."""
    mask = torch.zeros_like(asked.own.value)
    mask.select(axis, index).fill_(1)
    whole, part = asked.send(asked.own.cotangent)[name], asked.send(asked.own.cotangent * mask)[name]
    return whole is not None and part is not None and torch.equal(whole, part)


def _is_surrogate(asked: _Asked, name: str) -> bool:
    """Says whether the operator is piecewise constant in an argument, so that its derivative carries nothing.

    It is, if small steps change nothing at points drawn from near and far around, and yet these points differ in value.
    """
    x = asked.own.inputs[name]
    generator = torch.Generator().manual_seed(3)
    values: list[Tensor] = []
    with asked.computation.running() as run, torch.no_grad():
        for spread in (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 3.0):
            size = x.detach().abs().max().clamp_min(1.0)
            point = x + spread * size * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
            try:
                near, far = run({name: point.clone()}), run({name: point + 1e-6 * size})
            except RunError:  # what has a domain is not made of steps
                return False
            if not (isinstance(near, Tensor) and isinstance(far, Tensor) and torch.equal(near, far)):
                return False
            values.append(near)
    return any(not torch.equal(values[0], other) for other in values[1:])
