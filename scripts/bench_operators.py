"""Every checker asked about every operator: right gradients, the same in a custom Function, mutants; in three types."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch
import torch_is_wrong
from checkers import CHECKERS, OURS, SLOW, Answer, prepare
from operator_database import Case, able_in, cases_of, left_out, operators
from planted import CONTROL, KINDS, Mutant, mutants_of, seen_in, wrapped
from rich.console import Console
from rich.progress import track
from sheets import Sheet, share

# How many of an operator's samples are checked as they are.
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
    def wrong(self) -> bool:
        """Whether it is a false alarm, or a miss of an error that is larger than the type's own rounding.

        An alarm where torch is known to be wrong is neither.
        """
        if self.kind in SOUND:
            return self.answer.verdict == "differs" and not self.excused
        return self.answer.verdict == "agrees" and seen_in(self.kind, self.dtype)

    @property
    def open(self) -> bool:
        """Whether there is no verdict."""
        return self.answer.verdict in ("cannot say", "error")

    @property
    def excused(self) -> bool:
        """Whether torch itself is wrong here."""
        return torch_is_wrong.excuses(self.operator, self.dtype)

    @property
    def type(self) -> str:
        """The name of the type."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Survey:
    """What came of one operator: outcomes, or why there are none; and the mutants that would have changed nothing."""

    operator: str
    outcomes: Sequence[Outcome] = ()
    without: str = ""
    equivalent: Sequence[str] = ()


def part(quick: bool, workers: int) -> Iterator[Sheet]:
    """Gives the tables; quick takes every twentieth operator."""
    names = list(operators())
    yield from sheets(survey(names[::20] if quick else names, workers))
    yield torch_is_wrong.sheet()


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
        yield _figures([o for o in outcomes if o.dtype == dtype], _seconds_of_slow(outcomes))
    ours = [o for o in outcomes if o.checker == OURS]
    yield _reasons([o for o in ours if o.open])
    yield _named("false alarms and misses", [o for o in ours if o.wrong])
    yield _named("undecided, and errors", [o for o in ours if o.open])
    excused = [o for o in ours if o.kind in SOUND and o.answer.verdict == "differs" and o.excused]
    yield _named("alarms where torch itself is wrong", excused)
    yield _slowest(outcomes)


def _cases(surveys: Sequence[Survey]) -> Sheet:
    """Says what the figures are of."""
    without = Counter(found.without.split(":")[0] for found in surveys if found.without)
    same = Counter(kind for found in surveys for kind in found.equivalent)
    used = sum(bool(found.outcomes) for found in surveys)
    rows = [["operators", str(used)], *([f"left out: {why}", str(n)] for why, n in without.items())]
    rows += [[f"not planted, as it would change nothing: {kind}", str(same[kind])] for kind in KINDS]
    return Sheet("Cases: torch's operator database on the CPU", ["what", "number"], rows)


def _figures(outcomes: Sequence[Outcome], slow: dict[tuple[str, int], float]) -> Sheet:
    """The table of one type. Times are relative to gradcheck slow over the same cases in float64."""
    rows = []
    for kind in SOUND:
        found = [o for o in outcomes if o.kind == kind]
        rows.append(_counted(f"false alarms: {kind}", found, [o.wrong for o in found]))
    for kind in KINDS:
        found = [o for o in outcomes if o.kind == kind]
        below = "" if seen_in(kind, outcomes[0].dtype) else " (below the type's own rounding)"
        rows.append(_counted(f"missed: {kind}{below}", found, [o.answer.verdict == "agrees" for o in found]))
    for kind in (*SOUND, "wrong"):
        found = [o for o in outcomes if o.kind == kind or (kind == "wrong" and o.kind in KINDS)]
        rows.append(_counted(f"undecided: {kind}", found, [o.answer.verdict == "cannot say" for o in found]))
    rows.append(_counted("raised an error", outcomes, [o.answer.verdict == "error" for o in outcomes]))
    right = [o for o in outcomes if o.kind == RIGHT]
    base = sum(slow[o.operator, o.number] for o in right if o.checker == OURS)
    times = [sum(o.seconds for o in right if o.checker == checker) / base for checker in CHECKERS]
    rows.append(["time, right (gradcheck slow in float64 = 1)", f"{base:.1f} s", *(f"{t:.2f}" for t in times)])
    return Sheet(outcomes[0].type, ["", "of", *CHECKERS], rows)


def _counted(what: str, outcomes: Sequence[Outcome], marks: Sequence[bool]) -> list[str]:
    """A row: how many of each checker's outcomes are marked."""
    marked = Counter(o.checker for o, mark in zip(outcomes, marks, strict=True) if mark)
    number = sum(o.checker == OURS for o in outcomes)
    return [what, str(number), *(share(marked[checker], number) for checker in CHECKERS)]


def _seconds_of_slow(outcomes: Sequence[Outcome]) -> dict[tuple[str, int], float]:
    """Returns what gradcheck slow took for each right case in float64."""
    found = (o for o in outcomes if o.checker == SLOW and o.kind == RIGHT and o.dtype == torch.float64)
    return {(o.operator, o.number): o.seconds for o in found}


def _reasons(undecided: Sequence[Outcome]) -> Sheet:
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in undecided:
        found.setdefault((outcome.type, ", ".join(outcome.answer.reasons)), []).append(outcome)
    rows = [
        [dtype, reason, str(len(of)), ", ".join(dict.fromkeys(o.operator for o in of))]
        for (dtype, reason), of in sorted(found.items(), key=lambda item: (item[0][0], -len(item[1])))
    ]
    return Sheet(f"{OURS}: undecided, by reason", ["type", "reason", "cases", "operators"], rows)


def _named(title: str, outcomes: Sequence[Outcome]) -> Sheet:
    rows = [
        [f"{o.operator} #{o.number}", o.kind, o.type, o.answer.verdict, ", ".join(o.answer.reasons)] for o in outcomes
    ]
    return Sheet(f"{OURS}: {title}: {len(rows)}", ["operator", "case", "type", "verdict", "because of"], rows)


def _slowest(outcomes: Sequence[Outcome]) -> Sheet:
    """Names the right cases in float64 that take us longest."""
    right = [o for o in outcomes if o.kind == RIGHT and o.dtype == torch.float64]
    slow = _seconds_of_slow(right)
    longest = sorted((o for o in right if o.checker == OURS), key=lambda o: -o.seconds)[:10]
    rows = [
        [f"{o.operator} #{o.number}", f"{1e3 * o.seconds:.0f} ms", f"{o.seconds / slow[o.operator, o.number]:.1f}"]
        for o in longest
    ]
    return Sheet(f"{OURS}: the slowest, float64", ["operator", "time", "of gradcheck slow's"], rows)
