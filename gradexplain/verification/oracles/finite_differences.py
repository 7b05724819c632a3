"""Finite differences that know their own error, of what a user wrote and of what torch differentiates.

The function is F, as it was written. Where that does not settle a gradient (something is held constant, there is a
kink), the function G is asked that torch differentiates: see `recording.frozen`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradexplain.recording.frozen import Frozen
from gradexplain.verification.oracles.answers import Check, Stop, Unable
from gradexplain.verification.oracles.directions import Place
from gradexplain.verification.oracles.ladders import STEPS
from gradexplain.verification.oracles.probing import MOST_ALONE, ORACLE, Probe
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.oracles.replays import Replay
from gradexplain.verification.oracles.stops import stops_of

# Runs of the function for the random directions of all inputs.
DIRECTION_RUNS = 150
# What a stop of less than can be measured makes of a slope.
SLIGHT = 1e-8
# Where F does so at the point, a share of its slope is none.
UNSETTLED = ("jump", "steep", "singular")


def ask(question: Question) -> Iterator[Check]:
    """Compares the gradient of each input with differences of the function, rerun in float64."""
    replay = question.replay
    if isinstance(replay, Unable):
        yield from (Check(ORACLE, n, "cannot say", reason=replay.reason, data=replay.data) for n in question.names)
        return
    runs = int(min(question.effort / max(replay.seconds, 1e-9), DIRECTION_RUNS))
    if runs < len(STEPS):
        data = {"elements": question.elements}
        yield from (Check(ORACLE, n, "cannot say", reason="too_costly", data=data) for n in question.names)
        return
    written = _probed(question, replay, question.names, runs)
    open_ = [n for n, check in written.items() if _is_open(question, check)]
    frozen = question.frozen if open_ else None
    if isinstance(frozen, Replay):
        kept = _probed(question, frozen, open_, runs)
        stops = {n: _stops(question, written[n]) for n in open_}
        # What moved together with other inputs may have differed for what stops those.
        doubtful = [n for n in open_ if written[n].verdict == "differs" or written[n].reason == "joint"]
        free = [n for n in doubtful if not stops[n] and kept[n].verdict == "agrees"]
        if len(question.names) > MOST_ALONE and free:
            written |= _probed(question, replay, free, runs)
        written |= {n: _of_both(question, written[n], kept[n], stops[n]) for n in open_}
    elif isinstance(frozen, Unable):
        written |= {n: _uncertain(question, written[n], frozen) for n in open_}
    bent = [n for n in open_ if written[n].verdict == "cannot say" and written[n].reason in ("kink", "edge")]
    branched = question.branched if bent else None
    if isinstance(branched, Replay):
        along = _probed(question, branched, bent, runs)
        written |= {n: _at_kink(written[n], along[n]) for n in bent}
    own = {"dtype": replay.dtype} if replay.dtype == "float32" else {}  # a user's kernel that is written for it alone
    yield from (replace(written[n], data={**written[n].data, **own}) for n in question.names)


def _probed(question: Question, replay: Replay, names: Sequence[str], runs: int) -> dict[str, Check]:
    with replay.running() as output:
        return {check.input: check for check in Probe(question, replay, output, runs, names).checks()}


def _is_open(question: Question, check: Check) -> bool:
    """Says whether what torch holds constant, or takes at a kink, may be behind what F does not settle."""
    if check.verdict == "agrees":
        return False
    return check.reason not in ("unseen", "coarse", "joint", "cancelled", "nan") or bool(question.trace.cuts)


def _of_both(question: Question, written: Check, kept: Check, stops: tuple[Stop, ...]) -> Check:
    """Returns what F and G say: G judges, and what F says beside it is what was stopped, by definition or at a line."""
    if written.reason in UNSETTLED:
        return written
    seen = question.stoppable and all(stop.seen for stop in stops)
    if (not stops or not seen) and kept.verdict == "agrees" and _is_entangled(question):
        return replace(kept, verdict="cannot say", reason="cut", data={**kept.data, **written.data})
    if stops and not seen:
        lost = tuple(stop for stop in stops if not stop.seen)
        return replace(written, verdict="differs", stops=lost, reason="lost" if lost else "slope")
    if stops:
        reason = "cut" if kept.verdict == "agrees" else kept.reason
        return replace(kept, reason=reason, data={**kept.data, **written.data}, stops=stops)
    if "quantile" in question.definitions and written.verdict == "differs":
        unclear = replace(kept, verdict="cannot say", reason="quantile") if kept.verdict == "agrees" else kept
        return replace(unclear, data={**kept.data, **written.data, **question.departing})
    if question.departures and written.verdict == "differs":
        return replace(kept, reason=kept.reason or "departs", data={**kept.data, **question.departing})
    if kept.verdict == "agrees" and _is_slight(written):  # a share that is too small to be measured
        return replace(kept, reason="cut", data={**kept.data, **written.data})
    return written


def _is_entangled(question: Question) -> bool:
    """Says whether a path may end where no share of it can be measured."""
    return question.stoppable and isinstance(question.recorded, Frozen) and question.recorded.entangled


def _is_slight(written: Check) -> bool:
    """Says whether F differs in known elements alone, and by next to nothing of each."""
    pairs = [(complex(str(seen)), complex(str(right))) for _, seen, right in _elements(written)]
    return bool(pairs) and all(abs(a - b) <= SLIGHT * max(abs(a), abs(b)) for a, b in pairs)


def _elements(check: Check) -> Sequence[tuple[Place, object, object]]:
    """Returns the elements that were found wrong: place, torch's gradient, the function's slope."""
    wrong = check.data.get("elements")
    return wrong if isinstance(wrong, tuple) else ()


def _stops(question: Question, written: Check) -> tuple[Stop, ...]:
    """Returns what is stopped; near the point where the point itself has a kink, or where a path seems to be lost."""
    if written.reason in UNSETTLED:
        return ()
    places = [place for place, _, _ in _elements(written)]
    if written.reason not in ("kink", "edge"):
        stops = stops_of(question, written.input, places)
        if all(stop.seen for stop in stops):
            return stops
    nearby = question.nearby
    return stops_of(nearby, written.input, places) if nearby is not None else ()


def _at_kink(met: Check, along: Check) -> Check:
    """Returns what the function on torch's own branch says at a kink; torch's choice lies between the slopes there."""
    if along.verdict != "agrees":
        return met if along.verdict == "cannot say" else along
    return replace(along, reason=met.reason, data={**along.data, **met.data}, place=met.place, stops=met.stops)


def _uncertain(question: Question, check: Check, unable: Unable) -> Check:
    """Returns what F alone says where G cannot be had: a difference may be something that torch holds constant."""
    if check.verdict != "differs" or check.reason != "slope":
        return check
    if unable.reason != "replay_failed":
        return replace(check, verdict="cannot say", reason=unable.reason, data=unable.data)
    return replace(check, verdict="cannot say", reason="cut") if question.trace.cuts else check
