"""Every checker asked about every operator: right gradients, wrapped ones, and mutants, in three types."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from checkers import CHECKERS, OURS, SLOW, Answer, prepare
from operator_database import Case, able_in, cases_of, left_out, operators
from planted import CONTROL, KINDS, Mutant, mutants_of, wrapped
from rich.console import Console
from rich.progress import track
from sheets import Sheet, share
from torch_is_wrong import excuses

# How many of an operator's samples are checked as they are; mutants are made of the first.
SAMPLES = 3
TYPES = (torch.float64, torch.float32, torch.bfloat16)
RIGHT = "right"
SOUND = (RIGHT, CONTROL)


@dataclass(frozen=True)
class Outcome:
    """What one checker said of one case, and how long it took."""

    operator: str
    number: int
    kind: str
    dtype: torch.dtype
    checker: str
    answer: Answer
    seconds: float

    @property
    def verdict(self) -> str:
        """"agrees", "differs", "cannot say" or "error"."""
        return self.answer.verdict

    @property
    def wrong(self) -> bool:
        """Whether it is a false alarm or a miss. An alarm where torch is known to be wrong is neither."""
        if self.kind in SOUND:
            return self.verdict == "differs" and not self.excused
        return self.verdict == "agrees"

    @property
    def excused(self) -> bool:
        """Whether torch itself is wrong here."""
        return excuses(self.operator, self.dtype)


@dataclass(frozen=True)
class Survey:
    """What came of one operator: outcomes, or why there are none; and the mutants that would have changed nothing."""

    operator: str
    outcomes: Sequence[Outcome] = ()
    without: str = ""
    equivalent: Sequence[str] = ()


# ------------------------------------------------------------------------------------------------------- asking


def survey(names: Sequence[str], workers: int) -> list[Survey]:
    """Surveys operators in processes of one thread each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=prepare) as pool:
        tasks = [pool.submit(surveyed, name) for name in names]
        done = track(as_completed(tasks), "operators", len(tasks), console=Console(stderr=True), transient=True)
        return sorted((task.result() for task in done), key=lambda found: found.operator)


def surveyed(
    name: str,
    types: Sequence[torch.dtype] = TYPES,
    kinds: Collection[str] = tuple(KINDS),
    checkers: Collection[str] = tuple(CHECKERS),
) -> Survey:
    """Asks the checkers about one operator."""
    op = operators()[name]
    if left_out(op):
        return Survey(name, without="torch's CI skips its gradient test, or expects it to fail")
    try:
        cases = cases_of(name)
        mutants = dict(mutants_of(cases)) if cases else {}
    except Exception as fault:
        return Survey(name, without=f"its samples do not run outside of torch's CI: {_line(fault)}")
    if not cases:
        return Survey(name, without="no sample is real, strided, small and differentiable")
    subjects: list[tuple[str, Case | Mutant]] = [(RIGHT, case) for case in cases[:SAMPLES]]
    subjects.append((CONTROL, wrapped(cases[0])))
    subjects += [(kind, mutant) for kind, mutant in mutants.items() if mutant is not None and kind in kinds]
    outcomes = [
        _asked(name, kind, subject.to(dtype), dtype, checker)
        for dtype in types
        if able_in(op, dtype)
        for kind, subject in subjects
        for checker in checkers
    ]
    return Survey(name, outcomes, equivalent=[kind for kind, mutant in mutants.items() if mutant is None])


def _asked(name: str, kind: str, subject: Case | Mutant, dtype: torch.dtype, checker: str) -> Outcome:
    inputs, start = subject.inputs, time.perf_counter()
    try:
        answer = CHECKERS[checker](subject, inputs)
    except Exception as fault:
        answer = Answer("error", (_line(fault),))
    return Outcome(name, subject.number, kind, dtype, checker, answer, time.perf_counter() - start)


def _line(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}".split("\n", 1)[0]


# ------------------------------------------------------------------------------------------------------- tables


def sheets(surveys: Sequence[Survey]) -> Iterator[Sheet]:
    """Gives a table for each type, and those that name what is not as it should be."""
    outcomes = [outcome for found in surveys for outcome in found.outcomes]
    yield _cases(surveys)
    for dtype in TYPES:
        yield _figures(dtype, [o for o in outcomes if o.dtype == dtype], outcomes)
    ours = [o for o in outcomes if o.checker == OURS]
    yield _reasons([o for o in ours if o.verdict in ("cannot say", "error")])
    yield _named("gradexplain: false alarms and misses", [o for o in ours if o.wrong])
    yield _named("gradexplain: undecided, and errors", [o for o in ours if o.verdict in ("cannot say", "error")])
    excused = [o for o in ours if o.kind in SOUND and o.verdict == "differs" and o.excused]
    yield _named("gradexplain: alarms where torch itself is wrong", excused)
    yield _slowest(outcomes)


def _cases(surveys: Sequence[Survey]) -> Sheet:
    """Says what the figures are of."""
    without = Counter(found.without.split(":")[0] for found in surveys if found.without)
    same = Counter(kind for found in surveys for kind in found.equivalent)
    used = sum(bool(found.outcomes) for found in surveys)
    rows = [["operators", str(used)], *([f"left out: {why}", str(n)] for why, n in without.items())]
    rows += [[f"not planted: {kind} (changes nothing there)", str(same[kind])] for kind in KINDS]
    return Sheet("Cases: torch's operator database on the CPU", ["what", "number"], rows)


def _figures(dtype: torch.dtype, outcomes: Sequence[Outcome], every: Sequence[Outcome]) -> Sheet:
    """The table of one type. Times are relative to gradcheck slow over the same cases in float64."""
    by_checker = {c: [o for o in outcomes if o.checker == c] for c in CHECKERS}
    rows = []
    for kind in (*SOUND, *KINDS):
        found = {c: [o for o in own if o.kind == kind] for c, own in by_checker.items()}
        n = len(found[OURS])
        what = f"false alarms: {kind}" if kind in SOUND else f"missed: {kind}"
        rows.append([what, str(n), *(share(sum(o.wrong for o in own), n) for own in found.values())])
    n = len(by_checker[OURS])
    for verdict in ("cannot say", "error"):
        counts = [sum(o.verdict == verdict for o in own) for own in by_checker.values()]
        rows.append(["undecided" if verdict == "cannot say" else "raised an error", str(n), *(share(c, n) for c in counts)])
    right = {c: [o for o in own if o.kind == RIGHT] for c, own in by_checker.items()}
    base = _seconds_of_slow(every, {(o.operator, o.number) for o in right[OURS]})
    times = [f"{sum(o.seconds for o in own) / base:.2f}" for own in right.values()]
    rows.append(["time over the right ones (gradcheck slow in float64 = 1)", f"{base:.1f} s", *times])
    return Sheet(_name(dtype), ["", "of", *CHECKERS], rows)


def _seconds_of_slow(every: Sequence[Outcome], cases: Collection[tuple[str, int]]) -> float:
    slow = (o for o in every if o.checker == SLOW and o.kind == RIGHT and o.dtype == torch.float64)
    return sum(o.seconds for o in slow if (o.operator, o.number) in cases)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _reasons(undecided: Sequence[Outcome]) -> Sheet:
    found: Mapping[tuple[str, str], list[Outcome]] = {}
    for outcome in undecided:
        found.setdefault((_name(outcome.dtype), ", ".join(outcome.answer.reasons)), []).append(outcome)
    rows = [
        [dtype, reason, str(len(of)), ", ".join(dict.fromkeys(o.operator for o in of))]
        for (dtype, reason), of in sorted(found.items(), key=lambda item: (item[0][0], -len(item[1])))
    ]
    return Sheet("gradexplain: undecided, by reason", ["type", "reason", "cases", "operators"], rows)


def _named(title: str, outcomes: Sequence[Outcome]) -> Sheet:
    rows = [
        [f"{o.operator} #{o.number}", o.kind, _name(o.dtype), o.verdict, ", ".join(o.answer.reasons)] for o in outcomes
    ]
    return Sheet(f"{title}: {len(rows)}", ["operator", "case", "type", "verdict", "because of"], rows)


def _slowest(outcomes: Sequence[Outcome]) -> Sheet:
    """Names the right cases in float64 that take us longest."""
    right = [o for o in outcomes if o.kind == RIGHT and o.dtype == torch.float64]
    slow = {(o.operator, o.number): o.seconds for o in right if o.checker == SLOW}
    longest = sorted((o for o in right if o.checker == OURS), key=lambda o: -o.seconds)[:10]
    rows = [
        [f"{o.operator} #{o.number}", f"{1e3 * o.seconds:.0f} ms", f"{o.seconds / slow[o.operator, o.number]:.1f}"]
        for o in longest
    ]
    return Sheet("gradexplain: the slowest, float64", ["operator", "time", "of gradcheck slow's"], rows)
