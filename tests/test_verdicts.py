"""How answers make a verdict: each rule on answers written down by hand, with what it must not excuse beside it."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gradexplain.findings.finding import Finding
from gradexplain.narration.explanations import Teller
from gradexplain.targets.sources import Source
from gradexplain.verification import verdicts
from gradexplain.verification.options import Options
from gradexplain.verification.oracles.answers import Check, Stop
from gradexplain.verification.verdicts import DOUBTS, Operation, Report, is_declared

D, F, R, C, S = "finite differences", "forward mode", "rules", "complex step", "symbolic"


def says(oracle: str, verdict: Any, why: str | None = None, *bounds: float, **parts: Any) -> Check:
    """Returns an answer about x; without bounds, one that agrees saw both elements to 1e-9."""
    told = torch.tensor(bounds or ((1e-9, 1e-9) if verdict == "agrees" else (math.inf, math.inf)), dtype=torch.float64)
    seen = {"worst": 0.0, "bound": 1e-9, "resolution": 1e-9} | parts
    return Check(oracle, seen.pop("input", "x"), verdict, reason=why, bounds=told, **seen)


def stop(share: float = 0.5, file: str = "net.py", line: int = 7, name: str = "x") -> Stop:
    return Stop(name, share, Source(file, line, "detach(x)"), "detach(x)")


def operation(verdict: Any, resolution: float = 1e-9, oracle: str = D) -> Operation:
    node: Any = SimpleNamespace(name="MulBackward0")
    bounds = () if verdict == "cannot say" else (resolution, resolution)
    return Operation(node, Report((says(oracle, verdict, "slope" if verdict == "differs" else None, *bounds),)))


# fmt: off
VERDICTS: dict[str, tuple[list[Check], dict[str, Any], str, str | None]] = {
    "all seen":               ([says(D, "agrees")], {}, "agrees", None),
    "at the limit":           ([says(D, "agrees", None, 1e-4, 1e-9)], {}, "agrees", None),
    "one too coarse":         ([says(D, "agrees", None, 1.1e-4, 1e-9)], {}, "cannot say", "unseen"),
    "one unseen":             ([says(D, "agrees", None, math.inf, 1e-9)], {}, "cannot say", "unseen"),
    "one unseen, allowed":    ([says(D, "agrees", None, math.inf, 1e-9)], {"allow_unseen": True}, "agrees", None),
    "none seen":              ([says(D, "agrees", None, math.inf, math.inf)], {}, "cannot say", "unseen"),
    "none seen, allowed":     ([says(D, "agrees", None, math.inf, math.inf)], {"allow_unseen": True}, "cannot say",
                               "unseen"),
    "nan is not seen":        ([says(D, "agrees", None, math.nan, 1e-9)], {}, "cannot say", "unseen"),
    "each seen by another":   ([says(D, "agrees", None, math.inf, 1e-9), says(R, "agrees", None, 1e-9, math.inf)], {},
                               "agrees", None),
    "seen by a wrong one":    ([says(D, "agrees", None, math.inf, 1e-9), says(S, "differs", "slope", 1e-9, 1e-9)], {},
                               "differs", "wrong"),
    "two inputs":             ([says(D, "agrees"), says(D, "agrees", input="y")], {}, "agrees", None),
    "one input of two":       ([says(D, "agrees"), says(D, "differs", "slope", input="y")], {}, "differs", "wrong"),
    "one of two unseen":      ([says(D, "agrees"), says(D, "agrees", None, math.inf, 1e-9, input="y")], {},
                               "cannot say", "unseen"),
    "lost":                   ([says(D, "differs", "lost")], {}, "differs", "lost"),
    "lost and wrong":         ([says(D, "differs", "lost"), says(S, "differs", "slope")], {}, "differs", "wrong"),
    "not finite":             ([says(D, "cannot say", "not_finite")], {}, "cannot say", "not_finite"),
    "nothing":                ([], {}, "cannot say", "nothing"),
    "a jump":                 ([says(D, "cannot say", "jump"), says(R, "agrees")], {}, "cannot say", "doubtful"),
    "a kink":                 ([says(D, "cannot say", "kink"), says(R, "agrees")], {}, "agrees", None),
    "cancelled":              ([says(R, "cannot say", "cancelled"), says(C, "agrees")], {}, "cannot say", "doubtful"),
    "cancelled, D agrees":    ([says(R, "cannot say", "cancelled"), says(D, "agrees")], {}, "agrees", None),
    "cancelled, S agrees":    ([says(R, "cannot say", "cancelled"), says(S, "agrees")], {}, "agrees", None),
    "noise":                  ([says(D, "cannot say", "noise"), says(R, "agrees")], {}, "cannot say", "doubtful"),
    "noise, S agrees":        ([says(D, "cannot say", "noise"), says(S, "agrees")], {}, "agrees", None),
    "a jump, S agrees":       ([says(D, "cannot say", "jump"), says(S, "agrees")], {}, "cannot say", "doubtful"),
    "no rule":                ([says(D, "agrees"), says(R, "cannot say", "no_rule")], {}, "agrees", None),
    "stopped":                ([says(D, "agrees", "cut", stops=(stop(),))], {}, "cannot say", "stopped"),
    "stopped, intended":      ([says(D, "agrees", "cut", stops=(stop(),))], {"stops": ("intended",)}, "agrees", None),
    "stopped, declared":      ([says(D, "agrees", "cut", stops=(stop(),))], {"stops": ("net.py:7",)}, "agrees", None),
    "stopped elsewhere":      ([says(D, "agrees", "cut", stops=(stop(),))], {"stops": ("net.py:8",)}, "cannot say",
                               "stopped"),
    "one of two declared":    ([says(D, "agrees", "cut", stops=(stop(), stop(line=8)))], {"stops": ("net.py:8",)},
                               "cannot say", "stopped"),
    "both declared":          ([says(D, "agrees", "cut", stops=(stop(), stop(line=8)))],
                               {"stops": ("net.py:8", "net.py:7")}, "agrees", None),
    "stopped and wrong":      ([says(D, "differs", "slope", stops=(stop(),))], {"stops": ("intended",)}, "differs",
                               "wrong"),
    "stopped and unseen":     ([says(D, "agrees", "cut", math.inf, 1e-9, stops=(stop(),))], {"stops": ("intended",)},
                               "cannot say", "unseen"),
    "stopped and in doubt":   ([says(D, "agrees", "cut", stops=(stop(),)), says(R, "cannot say", "not_deterministic")],
                               {}, "cannot say", "doubtful"),
    "another is stopped":     ([says(D, "agrees", "cut", stops=(stop(),)), says(D, "agrees", input="y")], {},
                               "cannot say", "stopped"),
}
# fmt: on


@pytest.mark.parametrize("name", VERDICTS)
def test_answers_make_a_verdict_and_a_reason(name: str) -> None:
    checks, options, verdict, why = VERDICTS[name]
    report = Report(tuple(checks), options=Options(**options))
    assert (report.verdict, report.reason) == (verdict, why)


def test_a_stop_of_one_input_is_none_of_another() -> None:
    report = Report((says(D, "agrees", "cut", stops=(stop(),)), says(D, "agrees", input="y")))
    assert (report.of("x"), report.of("y")) == ("cannot say", "agrees")


def test_a_doubt_about_one_input_is_none_about_another() -> None:
    report = Report((says(D, "agrees"), says(D, "agrees", input="y"), says(R, "cannot say", "jump", input="y")))
    assert (report.of("x"), report.of("y")) == ("agrees", "cannot say")


@pytest.mark.parametrize("why", sorted(DOUBTS - {"noise", "cancelled"}))
def test_a_doubt_of_the_function_is_one_of_everybody(why: str) -> None:
    agreeing = [says(oracle, "agrees") for oracle in (D, F, R, S)]
    assert Report((*agreeing, says(C, "cannot say", why))).verdict == "cannot say"


@pytest.mark.parametrize("judge", [says(D, "agrees", "cut", stops=(stop(),)), says(D, "cannot say", "replay_differs")])
def test_beside_a_stop_methods_that_follow_the_function_as_written_are_no_judges_and_others_are(judge: Check) -> None:
    for oracle in (F, C, R, S, "by hand"):
        check = says(oracle, "differs", "slope")
        found = verdicts._following(Report((judge, check)), check)
        follows = oracle in (F, C)
        assert (found.verdict, found.reason) == (("cannot say", "follows") if follows else ("differs", "slope"))
        assert verdicts._following(Report((says(D, "agrees"), check)), check) == check


def test_stops_are_told_by_their_share() -> None:
    small, large = stop(0.1), stop(0.9, line=8)
    assert Report((says(D, "agrees", "cut", stops=(small, large)),)).stops == (large, small)
    assert Report((says(D, "agrees", "cut", stops=(large, small)),)).stops == (large, small)


# fmt: off
PLACES = [
    ("net.py:7",            "net.py:7",         True),
    ("net.py:7",            "intended",         True),
    ("net.py:7",            "src/net.py:7",     False),
    ("net.py:17",           "net.py:7",         False),
    ("anet.py:7",           "net.py:7",         False),
    ("src/net.py:7",        "net.py:7",         True),
    ("src/net.py:7",        "src/net.py:7",     True),
    ("src/net.py:7",        "src\\net.py:7",    True),
    ("src/net.py:7",        "rc/net.py:7",      False),
    ("C:\\src\\net.py:7",   "src/net.py:7",     True),
]
# fmt: on


@pytest.mark.parametrize(("place", "declared", "same"), PLACES)
def test_a_declared_place_is_a_whole_part_of_the_path(place: str, declared: str, same: bool) -> None:
    file, _, line = place.rpartition(":")
    assert is_declared(stop(file=file, line=int(line)), declared) == same


def test_a_stop_without_a_line_is_declared_by_intended_alone() -> None:
    lost = replace(stop(), source=None)
    assert is_declared(lost, "intended")
    assert not is_declared(lost, "net.py:7")
    assert not is_declared(lost, "None")


# fmt: off
REFUTED = [  # an answer beside finite differences that agree to 1e-9, and whether these contradict it
    (says(F, "differs", "slope", worst=1e-2, bound=1e-9, resolution=1e-9), True),
    (says(C, "differs", "slope", worst=1e-2, bound=1e-9, resolution=1e-9), True),
    (says(S, "differs", "slope", worst=1e-2, bound=1e-9, resolution=1e-9), False),   # it shares nothing with torch
    (says(F, "differs", "slope", worst=1.5e-9, bound=1e-9, resolution=1e-9), False), # less than twice their resolution
    (says(F, "differs", "slope", worst=2.5e-9, bound=1e-9, resolution=1e-9), True),
    (says(F, "differs", "slope", worst=5.0, bound=10.0, resolution=1e-9), False),    # 5 / 10 of 1e-9
    (says(F, "differs", "slope", worst=None), False),                                # of unknown size
    (says(F, "differs", "slope", worst=1e-2, bound=0.0), False),
    (says(F, "differs", "slope", worst=1e-2, resolution=None), False),
    (says(R, "differs", "node", worst=None, data={"seen": 1.0, "right": 1.01}), True),
    (says(R, "differs", "node", worst=None, data={"seen": 1.01, "right": 1.0}), True),
    (says(R, "differs", "node", worst=None, data={"seen": 1.0, "right": 1.0 + 1e-9}), False),
    (says(R, "differs", "node", worst=None, data={"seen": 1e9, "right": 1e9 + 1.0}), False),  # relative to the gradient
    (says(R, "cannot say", "cancelled", worst=1e6, bound=1.0, resolution=1e-9), True),        # 1e-3: rounding's work
    (says(R, "cannot say", "cancelled", worst=1e4, bound=1.0, resolution=1e-9), False),       # 1e-5
    (says(R, "cannot say", "no_rule", worst=1e6, bound=1.0, resolution=1e-9), False),
    (says(R, "agrees", None, worst=1e6, bound=1.0, resolution=1e-9), False),
    (says(F, "differs", "slope", worst=1e-2, input="y"), False),                              # they judge x alone
]
# fmt: on


@pytest.mark.parametrize(("answer", "refuted"), REFUTED)
def test_differences_overrule_what_is_off_by_twice_what_they_resolve(answer: Check, refuted: bool) -> None:
    # The rules start from what was recorded: they are overruled where that was edited since, and a wrong rule is not.
    edited = (operation("differs", oracle="saved tensors"),) if answer.oracle == R else ()
    assert Report((says(D, "agrees"), answer), edited).is_refuted(answer) == refuted
    assert Report((says(D, "agrees"), answer)).is_refuted(answer) == (refuted and answer.oracle != R)
    for verdict in ("cannot say", "differs"):  # what does not agree overrules nothing
        assert not Report((says(D, verdict, "slope"), answer), edited).is_refuted(answer)


@pytest.mark.parametrize(
    "beside", [says(F, "differs", "slope", worst=1e-2), says(R, "cannot say", "cancelled", worst=1e6)]
)
def test_an_answer_that_is_overruled_is_no_doubt(beside: Check) -> None:
    assert Report((says(D, "agrees"), beside)).verdict == "agrees"


def test_what_no_float64_kernel_narrows_is_seen_to_a_hundredth() -> None:
    for bound, verdict in ((0.9e-2, "agrees"), (1.1e-2, "cannot say")):
        coarse = Report((says(D, "agrees", None, bound, bound),))
        assert coarse.verdict == "cannot say"
        assert replace(coarse, findings=(Finding("no-float64"),)).verdict == verdict
        assert replace(coarse, findings=(Finding("other"),)).verdict == "cannot say"


@pytest.mark.parametrize(
    ("operations", "verdict"),
    [
        ([], "cannot say"),
        (["agrees", "agrees"], "agrees"),
        (["agrees", "cannot say"], "cannot say"),
        (["agrees", "differs"], "differs"),
    ],
)
def test_elements_are_seen_where_every_operation_is_right_by_itself(operations: list[str], verdict: str) -> None:
    unseen = says(D, "agrees", None, math.inf, 1e-9)
    report = Report((unseen,), operations=tuple(map(operation, operations)))
    assert report.verdict == verdict
    assert len(report.wrong()) == operations.count("differs")


def test_the_coarsest_operation_bounds_what_operations_see() -> None:
    unseen = says(D, "agrees", None, math.inf, 1e-9)
    report = Report((unseen,), operations=(operation("agrees", 1e-6), operation("agrees", 1e-8)))
    assert report.bounds("x").tolist() == [1e-6, 1e-9]
    assert report.worst == report.resolution("x") == 1e-6


def test_an_edit_of_what_was_saved_is_no_error_where_the_function_itself_agrees() -> None:
    edited = operation("differs", oracle="saved tensors")
    assert Report((says(D, "agrees"),), operations=(edited,)).wrong() == ()
    assert Report((says(D, "agrees", "cut"),), operations=(edited,)).wrong() == (edited,)
    assert Report((says(R, "agrees"),), operations=(edited,)).wrong() == (edited,)
    assert Report((says(D, "agrees"), says(R, "agrees", input="y")), operations=(edited,)).wrong() == (edited,)
    assert Report((), operations=(edited,)).wrong() == (edited,)
    wrong = operation("differs")
    assert Report((says(D, "agrees"),), operations=(wrong, edited)).wrong() == (wrong,)


def test_the_worst_element_is_quoted_and_the_coarser_of_formula_and_number() -> None:
    report = Report((says(D, "agrees", None, 1e-9, 1e-6), says(R, "agrees", None, 1e-7, 1e-7)))
    assert report.resolution("x") == 1e-7
    rounded = Report((says(D, "agrees", None, 1e-9, 1e-6, number=1e-5), says(D, "agrees", input="y", number=1e-3)))
    assert (rounded.resolution("x"), rounded.resolution("y"), rounded.worst) == (1e-5, 1e-3, 1e-3)
    part = Report((says(D, "agrees", None, math.inf, 1e-6),))
    assert part.resolution("x") == 1e-6
    assert part.unseen("x").tolist() == [True, False]
    assert Report((says(D, "agrees", None, math.inf, math.inf),)).resolution("x") is None


def test_the_formula_by_hand_alone_is_suspect_where_all_others_agree() -> None:
    formula = says("by hand", "differs", "factor")
    assert Report((says(D, "agrees"), formula)).formula_alone("x")
    assert not Report((says(D, "differs", "slope"), formula)).formula_alone("x")
    assert not Report((says(D, "agrees"),)).formula_alone("x")
    assert not Report((says(D, "cannot say", "jump"), formula)).formula_alone("x")


# fmt: off
SECOND = [  # the first and the second derivatives, what both make, and why
    ("agrees", None, "agrees", None, "agrees", None),
    ("agrees", None, "differs", "slope", "differs", "wrong"),
    ("agrees", None, "cannot say", "jump", "cannot say", "doubtful"),
    ("agrees", None, "cannot say", "not_finite", "cannot say", "not_finite"),
    ("agrees", None, "cannot say", "no_rule", "cannot say", "unseen"),
    ("cannot say", "no_rule", "cannot say", "jump", "cannot say", "doubtful"),
    ("cannot say", "no_rule", "agrees", None, "cannot say", "unseen"),
    ("differs", "slope", "agrees", None, "differs", "wrong"),
]
# fmt: on


@pytest.mark.parametrize(("first", "why", "second", "also", "verdict", "reason"), SECOND)
def test_second_derivatives_count_as_the_first(
    first: str, why: str | None, second: str, also: str | None, verdict: str, reason: str | None
) -> None:
    report = Report((says(D, first, why),), second=Report((says(D, second, also),)))
    assert (report.verdict, report.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("why", "met"), [("kink", True), ("edge", True), ("tie", True), ("jump", False), (None, False)]
)
def test_a_kink_or_an_edge_is_a_point_of_convention(why: str | None, met: bool) -> None:
    answer = says(D, "cannot say", why)
    assert Report((says(R, "agrees"), answer)).conventions() == ((answer,) if met else ())


def test_of_many_inputs_that_were_seen_in_part_a_verdict_names_the_first() -> None:
    checks = tuple(says(D, "agrees", None, 1e-9, math.inf, input=name) for name in "abcdef")
    sentence = Teller("en").verdict(Report(checks), ())
    assert "in 1 of 2 elements of c (c[1] is too small to be seen); in some elements of another 3 inputs." in sentence
    assert "of d (" not in sentence
