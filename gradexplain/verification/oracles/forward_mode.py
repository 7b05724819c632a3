"""Forward mode: torch's own dual numbers carry a direction through the function, and no step is needed.

Shares with the gradient under test the forward kernels and torch's table of derivatives, but no line of backward code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor

from gradexplain.errors import GradexplainError
from gradexplain.recording.computation import chosen_output
from gradexplain.recording.custom_functions import has_own_jvp
from gradexplain.recording.events import Application
from gradexplain.recording.nodes import ordered
from gradexplain.verification.oracles.answers import Check, Unable, Verdict
from gradexplain.verification.oracles.elements import RESOLUTION
from gradexplain.verification.oracles.measures import MARGIN, pair
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay
from gradexplain.versions.internals import function_of

ORACLE = "forward mode"
# What forward formulas round on their own account, in eps of each product: see `_products`.
FORWARD_EPS = 1e4
# More inputs than this are moved together.
MOST_ALONE = 8

Run = Callable[[Mapping[str, Tensor]], object]


def ask(question: Question) -> Iterator[Check]:
    """Compares ⟨v, J u⟩ from dual numbers with ⟨G, u⟩, for a random direction u of each input."""
    replay = question.replay
    if question.trace.cuts and isinstance(question.frozen, Replay):
        replay = question.frozen  # a tangent goes through what a gradient does not
    if isinstance(replay, Unable):
        yield from (Check(ORACLE, n, "cannot say", reason=replay.reason, data=replay.data) for n in question.names)
        return
    hidden = replay.trace.hidden
    yield from (Check(ORACLE, n, "cannot say", reason="hidden") for n in question.names if n in hidden)
    names = [n for n in question.names if n not in hidden]
    groups = [names] if len(names) > MOST_ALONE else [[n] for n in names]
    with replay.computation.running() as run:
        checks = [check for group in groups for check in _group(question, replay, run, group)]
    yield from checks


def _group(question: Question, replay: Replay, run: Run, names: list[str]) -> Iterator[Check]:
    generator = torch.Generator().manual_seed(7)
    claimed = {n: question.gradient(n) for n in names}
    u = {n: _direction(question, n, generator) for n in names}
    own = set() if replay is question.replay else _functions(question, jvp=True)
    try:
        slope = _slope(replay, run, u, own)
    except GradexplainError as fault:
        unable = _refusal(fault, _functions(question, jvp=False))
        yield from (Check(ORACLE, n, "cannot say", reason=unable.reason, data=unable.data) for n in names)
        return
    if own:  # what the user wrote for forward mode is no judge of what the user wrote for backward
        data = {"functions": ", ".join(sorted(own))}
        yield from (Check(ORACLE, n, "cannot say", reason="own_jvp", data=data) for n in names)
        return
    claim = sum(pair(claimed[n], d) for n, d in u.items())
    bound = _products(replay, claimed, u)
    if not abs(slope - claim) <= bound:
        bound += _own_rounding(question, u) + sum(question.slight(n, replay.eps) for n in names)
    yield from (_check(question, name, slope, claim, bound, len(names)) for name in names)


def _functions(question: Question, *, jvp: bool) -> set[str]:
    """Returns the recorded custom Functions that bring a jvp of their own, or that do not."""
    if isinstance(question.recorded, Unable):
        return set()
    functions = (s.origin.function for s in question.recorded.steps if isinstance(s.origin, Application))
    return {function.__name__ for function in functions if has_own_jvp(function) == jvp}


def _check(question: Question, name: str, slope: float, claim: float, bound: float, joint: int) -> Check:
    worst, resolution = abs(slope - claim), bound / question.scale(name)
    data: dict[str, object] = {"seen": claim, "right": slope, "resolution": resolution, "joint": joint}
    verdict, reason = _verdict(question, name, worst, bound, resolution)
    if reason == "departs":
        data |= question.departing
    return Check(ORACLE, name, verdict, worst, bound, resolution, reason, data)


def _verdict(
    question: Question, name: str, worst: float, bound: float, resolution: float
) -> tuple[Verdict, str | None]:
    if not math.isfinite(worst):
        return "cannot say", "tangent_not_finite"
    if worst <= bound:
        return ("agrees", None) if resolution <= RESOLUTION else ("cannot say", question.blur(name))
    if not math.isfinite(bound):
        return "cannot say", "coarse"
    if question.trace.cuts or question.departures:  # a tangent follows the function, element by element
        return "cannot say", "cut" if question.trace.cuts else "departs"
    return "differs", "tangent"


def _direction(question: Question, name: str, generator: torch.Generator) -> Tensor:
    """Returns ±U[½, 1] in units of each element's size, with the gradient's signs, so that nothing cancels."""
    x, gradient, unit = question.judged.inputs[name], question.gradient(name), question.units[name]
    size = torch.rand(x.shape, generator=generator, dtype=torch.float32).to(x.device, unit.dtype) / 2 + 0.5
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x.device, x.dtype) * 2 - 1
    return (size * unit).to(x.dtype) * torch.where(gradient == 0, signs, gradient.sgn())


def _products(replay: Replay, claimed: Mapping[str, Tensor], u: Mapping[str, Tensor]) -> float:
    """What rounding can make of ⟨G, u⟩ by an error of each product.

    Torch's forward formulas round on their own account, up to some hundred times as much (logcumsumexp goes through
    exponentials that the backward formula does without).
    """
    return FORWARD_EPS * replay.eps * sum(float((claimed[n] * d).abs().sum()) for n, d in u.items())


def _own_rounding(question: Question, u: Mapping[str, Tensor]) -> float:
    """What rounding can make of ⟨G, u⟩ by way of G itself."""
    return MARGIN * sum(float((question.rounding(n) * d.abs()).sum()) for n, d in u.items())


def _slope(replay: Replay, run: Run, u: Mapping[str, Tensor], own: set[str]) -> float:
    """Returns ⟨v, J u⟩; where torch lacks an operator, its slower decompositions are loaded first.

    The custom Functions on the way that bring their own jvp are added to `own`.
    """

    def chosen(result: object) -> list[Tensor]:
        output = chosen_output(result, replay.computation.name)[0]
        below = ordered(output.grad_fn) if output.grad_fn is not None else []
        functions = filter(None, map(function_of, below))
        own.update(function.__name__ for function in functions if has_own_jvp(function))
        return [output]

    try:
        (tangent,) = carried(run, replay.computation.leaf_values(), u, chosen)
    except GradexplainError as fault:
        if not isinstance(fault.__cause__, NotImplementedError) or not _decompositions():
            raise
        (tangent,) = carried(run, replay.computation.leaf_values(), u, chosen)
    return pair(replay.trace.cotangent, tangent)


def carried(
    run: Run, values: Mapping[str, Tensor], u: Mapping[str, Tensor], chosen: Callable[[object], list[Tensor]]
) -> list[Tensor]:
    """Returns the tangents of the outputs that are chosen of a run, where the inputs have the tangents `u`."""
    # torch._VF: what forward_ad.make_dual calls, without its import of the decompositions, which takes 0.3 s.
    from torch import _VF
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        duals = {n: _VF._make_dual(values[n], u[n], level=0) if n in u else t for n, t in values.items()}
        with torch.enable_grad():  # outputs may be chosen by `requires_grad`
            outputs = chosen(run(duals))
        tangents = [_VF._unpack_dual(output, level=0)[1] for output in outputs]
        return [torch.zeros_like(y) if t is None else t.detach() for y, t in zip(outputs, tangents, strict=True)]


def _decompositions() -> bool:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own use of torch.jit
            from torch._decomp import decompositions_for_jvp  # noqa: F401
    except Exception:
        return False
    return True


def _refusal(fault: GradexplainError, lacking: Collection[str]) -> Unable:
    """Returns which operator has no forward mode, as torch's message names it, or the Functions `lacking` a jvp."""
    message = str(fault.__cause__ or fault).split("\n", 1)[0]
    named = re.search(r"forward AD with (\S+)", message)
    if named:
        return Unable("no_forward", {"operator": named[1]})
    if "jvp" in message and lacking:
        return Unable("no_own_forward", {"functions": ", ".join(sorted(lacking))})
    return Unable("forward_failed", {"message": message})
