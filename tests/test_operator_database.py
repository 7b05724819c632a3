"""A sample of `scripts/bench.py verify`: torch's own operators, wrong backward passes planted in them, and costs.

The whole takes a quarter of an hour; here is a fixed spread of it, and tests that the bench itself can fail.
"""

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch_is_wrong
from bench_bounds import POINTS, Point, stated
from bench_cost import FUNCTIONS, Counted, inputs
from bench_operators import RIGHT, SOUND, Outcome, surveyed
from bench_place import blamed, planted, start
from checkers import CHECKERS, FAST, OURS, SLOW, Answer
from operator_database import Case, able_in, case_of, cases_of, left_out, operators
from planted import CONTROL, KINDS, Mutant, Target, cotangents_of, element, mutants_of, right, seen_in, spoiled, wrapped
from torch_is_wrong import Fault, excuses

import gradexplain as gx

SPREAD = """
    __rsub__ addmm cdist cumprod einsum fft.irfft gather linalg.det logsumexp masked.softmax max.reduction_with_dim mul
    nn.functional.batch_norm nn.functional.cross_entropy nn.functional.gelu nn.functional.pad.reflect special.log_ndtr
    std.unbiased var_mean
""".split()  # noqa: SIM905  # read as a list of names


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own operators and checks
        yield


def as_it_should_be(outcome: Outcome) -> bool:
    """An error that rounding to the type hides may be seen or not."""
    if outcome.kind in SOUND:
        return outcome.answer.verdict == "agrees"
    return outcome.answer.verdict == "differs" or not seen_in(outcome.kind, outcome.dtype)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SPREAD)
def test_right_gradients_agree_and_planted_errors_are_seen_in_every_type(name: str) -> None:
    outcomes = surveyed(name, checkers=[OURS]).outcomes
    assert {o.kind for o in outcomes} >= {*SOUND, "scaled by 1.00001", "one element off by 1e-4"}
    assert {o.dtype for o in outcomes} >= {torch.float64, torch.float32}
    assert not [o for o in outcomes if not as_it_should_be(o)]


@pytest.mark.parametrize(
    "point", [p for points in POINTS.values() for p in points[::6]], ids=lambda p: f"{p.name} at {p.x:g}"
)
def test_the_stated_bound_covers_the_true_error(point: Point) -> None:
    found = stated(point)
    assert found.verdict != "differs"
    assert not found.confidently_wrong
    assert found.covers(10) or not found.judged


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [10, 3_000])
def test_a_verdict_costs_the_same_whatever_the_number_of_inputs(name: str, n: int) -> None:
    counted = Counted(FUNCTIONS[name](n))
    assert gx.verify(counted, [inputs(n)]).verdict == "agrees"
    assert counted.evaluations <= 120
    assert counted.backwards <= 12


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("factor", [1.01, 0.0])
def test_one_wrong_entry_of_ten_thousand_is_seen_and_named(name: str, factor: float) -> None:
    n, place = 10_000, 7_077
    case = case_of(name, FUNCTIONS[name](n), [inputs(n)])
    mutant = Counted(Mutant(case, "one entry", spoiled(element(factor)), Target(0, place)))
    report = gx.verify(mutant, [inputs(n)])
    assert [c.place for c in report.checks if c.verdict == "differs"] == [(place,)]
    assert mutant.evaluations <= 250


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("size", "kind"), [(20, "scaled by 1.001"), (60, "permuted or transposed")])
def test_the_wrong_node_of_a_network_is_named_and_no_other(size: int, kind: str) -> None:
    network, wrong = planted(size, kind, seed=2)
    report = gx.verify(network, [start(2)])
    assert report.verdict == "differs"
    assert len(network.custom) > size // 5
    assert blamed(report) == [wrong]


# ------------------------------------------------------------------------------------- the bench itself can fail


def product() -> Case:
    x, y = (torch.tensor(v, dtype=torch.float64).requires_grad_() for v in ([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0]))
    return case_of("product", torch.mul, [x, y])


def test_every_kind_of_error_changes_the_gradient_as_it_says() -> None:
    """The gradient of ⟨v, x y⟩ by x is v y, by y the sum of v x over the rows, all of it in round numbers."""
    case, v = product(), torch.tensor([[1.0, -1.0], [2.0, 3.0]], dtype=torch.float64)
    assert right(case, case.inputs, [v])[0].tolist() == [[5.0, -6.0], [10.0, 18.0]]
    assert right(case, case.inputs, [v])[1].tolist() == [7.0, 10.0]
    found = {kind: mutant for kind, mutant in mutants_of([case]) if mutant is not None}
    assert set(found) == set(KINDS)
    first = {kind: torch.autograd.grad(m(*(xs := m.inputs)), xs, v) for kind, m in found.items()}
    x, y = right(case, case.inputs, [v])
    for kind, factor in (("scaled by 1.01", 1.01), ("scaled by 1.00001", 1.00001), ("sign flipped", -1.0)):
        changed = [torch.equal(a, factor * b) for a, b in zip(first[kind], (x, y), strict=True)]
        assert sorted(changed) == [False, True], kind
    assert first["broadcast not summed"][1].tolist() == [1.0, -2.0]
    for kind in ("one element zeroed", "one element off by 1e-4"):
        assert sum(int((a != b).sum()) for a, b in zip(first[kind], (x, y), strict=True)) == 1


def test_an_error_that_changes_nothing_is_not_planted() -> None:
    ones = torch.ones(3, dtype=torch.float64).requires_grad_()
    found = dict(mutants_of([case_of("sum", torch.sum, [ones])]))
    assert found["permuted or transposed"] is None
    assert found["sign flipped"] is not None
    assert set(dict(mutants_of([case_of("floor", torch.floor, [ones])])).values()) == {None}


def test_the_wrapping_alone_changes_nothing() -> None:
    for case in cases_of("addmm")[:2]:
        control, v = wrapped(case), cotangents_of(case, 1)
        xs = control.inputs
        seen = torch.autograd.grad(control(*xs), xs, v)
        assert all(torch.equal(a, b) for a, b in zip(seen, right(case, xs, v), strict=True))


def test_a_mutant_runs_in_every_type() -> None:
    case = product()
    mutant = dict(mutants_of([case]))["scaled by 1.01"]
    assert mutant is not None
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert {t.dtype for t in mutant.to(dtype).inputs} == {dtype}
        assert mutant(*mutant.to(dtype).inputs).dtype == dtype


def test_gradcheck_is_asked_as_its_users_ask_it() -> None:
    """It cannot see a thousandth, sees a flipped sign, and rejects what is right in float32."""
    case = product()
    found = {kind: mutant for kind, mutant in mutants_of([case]) if mutant is not None}
    for checker in (SLOW, FAST):
        ask = CHECKERS[checker]
        assert ask(case, case.inputs).verdict == "agrees"
        assert ask(found["scaled by 1.00001"], case.inputs).verdict == "agrees"
        assert ask(found["sign flipped"], case.inputs).verdict == "differs"
        assert ask(case, case.to(torch.float32).inputs).verdict == "differs"


def test_cases_are_the_same_every_time_and_torchs_own_exceptions_are_left_out() -> None:
    once, again = cases_of("addmm"), cases_of("addmm")
    assert all(
        torch.equal(a, b) for c, d in zip(once, again, strict=True) for a, b in zip(c.inputs, d.inputs, strict=True)
    )
    assert left_out(operators()["normal"])
    assert not left_out(operators()["addmm"])
    assert not able_in(operators()["linalg.det"], torch.bfloat16)


def test_false_alarms_misses_and_errors_are_told_apart() -> None:
    def outcome(kind: str, verdict: str, operator: str = "sin") -> Outcome:
        return Outcome(operator, 0, kind, torch.float64, OURS, Answer(verdict), 1.0)

    assert outcome(RIGHT, "differs").wrong
    assert outcome(CONTROL, "differs").wrong
    assert outcome("sign flipped", "agrees").wrong
    assert not outcome("sign flipped", "differs").wrong
    assert not outcome("sign flipped", "cannot say").wrong
    assert outcome("sign flipped", "cannot say").open
    assert outcome(RIGHT, "error").open


def test_only_a_fault_of_torch_that_is_measured_excuses_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(operator: str, error: float, what: torch_is_wrong.What = "backward") -> Fault:
        return Fault(operator, torch.float64, what, "planted", lambda: error)

    planted = (
        fault("off", 1e-8),
        fault("mended", 1e-16),
        fault("nan", torch.nan),
        fault("forward", 1.0, "forward mode"),
    )
    monkeypatch.setattr(torch_is_wrong, "FAULTS", planted)
    excused = [f.operator for f in planted if excuses.__wrapped__(f.operator, torch.float64)]
    assert excused == ["off", "nan"]
    assert not excuses.__wrapped__("off", torch.float32)
