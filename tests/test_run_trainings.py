"""Whole trainings: each that fails is told its first cause, by code, step and line, and each that is sound is silent.

The table is that of the guide on `gradexplain run`; the line is the one that a script marks as the cause.
"""

import gc
import importlib
import json
import math
import random
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from copy import deepcopy
from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import jsonschema
import pytest
import torch
from runs import FOLDER, Training, in_a_process, marked_line, run_plainly, run_training, under_watch
from torch.overrides import TorchFunctionMode

import gradexplain as gx
import gradexplain.training.ledger
import gradexplain.training.ranks
import gradexplain.training.replaying
from gradexplain.findings.finding import Finding, Remedy
from gradexplain.narration.trainings import TrainingTeller
from gradexplain.receipts.schema import schema
from gradexplain.targets.sources import Source
from gradexplain.training import judging
from gradexplain.training.data import Labels, Loaded
from gradexplain.training.ledger import Ledger
from gradexplain.training.looks import is_looked_at
from gradexplain.training.losses import graph_of
from gradexplain.training.ranks import Rank, Seen
from gradexplain.training.report import TrainingReport
from gradexplain.training.session import leave
from gradexplain.training.watching import watched
from gradexplain.training.workers import same_draws
from gradexplain.versions.releases import minor_release

# fmt: off
FAILING = {  # script: code of the first finding, step, phase
    "all_in_main":           ("no-gradient",                0, "forward"),
    "all_pairs":             ("unmeant-broadcast",          0, "forward"),
    "angle":                 ("first-gradient-not-finite", 41, "backward"),
    "best_class":            ("loss-without-graph",         0, "forward"),
    "blank_inputs":          ("inputs-constant",            0, "data"),
    "branch_not_taken":      ("first-gradient-not-finite", 33, "backward"),
    "cleared_once_an_epoch": ("not-cleared",                1, "backward"),
    "clipped":               ("clipped",                    0, "backward"),
    "closure_not_cleared":   ("not-cleared",                1, "backward"),
    "critic_as_column":      ("unmeant-broadcast",          0, "forward"),
    "critic_not_cleared":    ("not-cleared",                1, "backward"),
    "cut_branch":            ("no-gradient",                0, "forward"),
    "dead_units":            ("dead-units",                 1, "forward"),
    "diverges":              ("rate-too-high",              0, "optimizer"),
    "empty_row_in_workers":  ("first-not-finite",           4, "forward"),
    "encoder_without_grad":  ("no-gradient",                0, "forward"),
    "episode_of_one_step":   ("first-not-finite",          14, "forward"),
    "evaluated_with_dropout": ("evaluated-in-training",    12, "forward"),
    "experts_in_a_dict":     ("hidden-from-optimizer",      0, "optimizer"),
    "exploding_in_depth":    ("exploding",                  0, "backward"),
    "exploding_in_time":     ("exploding",                  0, "backward"),
    "exponential":           ("first-not-finite",          26, "forward"),
    "frozen_but_moving":     ("frozen-statistics",         20, "forward"),
    "growing_graph":         ("graph-carried",              1, "forward"),
    "hidden_state":          ("graph-of-before",            1, "backward"),
    "history_of_losses":     ("graphs-kept",                0, "forward"),
    "huber_by_hand":         ("unmeant-broadcast",          0, "forward"),
    "in_order":              ("batches-of-one-class",       0, "data"),
    "in_place":              ("saved-changed",              0, "backward"),
    "kept_losses":           ("graphs-kept",                0, "forward"),
    "labels_from_one":       ("label-out-of-range",         2, "data"),
    "labels_of_one_class":   ("labels-constant",            0, "data"),
    "last_batch_of_one":     ("first-not-finite",          10, "forward"),
    "left_in_eval":          ("left-in-eval",               8, "forward"),
    "log_of_zero":           ("first-not-finite",           9, "forward"),
    "lost_in_bfloat16":      ("updates-lost",               0, "optimizer"),
    "masked_row":            ("first-not-finite",           8, "forward"),
    "meter":                 ("graphs-kept",                0, "forward"),
    "model_of_each_fold":    ("made-after-optimizer",       0, "optimizer"),
    "nan_in_data":           ("data-not-finite",           11, "data"),
    "never_in_training":     ("statistics-unlearned",       0, "forward"),
    "norm_at_zero":          ("first-gradient-not-finite",  6, "backward"),
    "not_cleared":           ("not-cleared",                1, "backward"),
    "not_divided":           ("not-divided",                0, "backward"),
    "numbers_of_losses":     ("nothing-learns",             0, "forward"),
    "plain_list":            ("hidden-from-optimizer",      0, "optimizer"),
    "rate_too_high":         ("rate-too-high",              0, "optimizer"),
    "rebuilt_loss":          ("nothing-learns",             0, "forward"),
    "replaced_head":         ("made-after-optimizer",       0, "optimizer"),
    "resumed_beside":        ("made-after-optimizer",      16, "optimizer"),
    "rounded_guess":         ("gradient-zero",              0, "backward"),
    "row_sums":              ("first-not-finite",           0, "forward"),
    "same_noise_in_workers": ("same-draws",                 0, "data"),
    "scaler_skips":          ("first-not-finite",          19, "forward"),
    "scheduler_each_batch":  ("scheduler-each-batch",      50, "optimizer"),
    "seeded_alike":          ("same-draws",                 0, "data"),
    "sigmoid_twice":         ("sigmoid-twice",              0, "forward"),
    "softmax_at_the_end":    ("softmax-twice",              0, "forward"),
    "softmax_by_hand":       ("first-not-finite",          16, "forward"),
    "softmax_twice":         ("softmax-twice",              0, "forward"),
    "step_between":          ("saved-changed",              1, "backward"),
    "sure_of_the_wrong":     ("probability-rounded",        0, "forward"),
    "too_small_for_float16": ("gradient-zero",              0, "backward"),
    "vanishing":             ("vanishing",                  0, "backward"),
    "warms_up_too_far":      ("rate-too-high",             39, "optimizer"),
}
# fmt: on
RECORDS = jsonschema.Draft202012Validator({"$ref": "#/$defs/training", "$defs": schema()["$defs"]})
# Torch tells from 2.10 on whether what it saved goes through hooks: before, nothing is said of data.
needs_told_hooks = pytest.mark.skipif(minor_release(torch.__version__) < (2, 10), reason="torch does not tell of hooks")
OF_DATA = {"blank_inputs", "in_order", "labels_of_one_class", "sure_of_the_wrong"}
HEALTHY = sorted(path.stem for path in FOLDER.glob("healthy_*.py"))
# Those that run by default: some of each phase and of each kind of finding.
QUICK = set(
    """all_in_main all_pairs best_class blank_inputs cut_branch dead_units exploding_in_depth growing_graph in_place
    log_of_zero norm_at_zero not_divided plain_list row_sums softmax_twice healthy_pairs healthy_pictures healthy_gan
    healthy_accumulation""".split()  # noqa: SIM905  # a list to read
)


def trainings(names: Iterable[str]) -> list[Any]:
    """Returns names as parameters of a test, with their marks."""
    slow, told = pytest.mark.thorough, needs_told_hooks
    marks = {name: [*(() if name in QUICK else (slow,)), *((told,) if name in OF_DATA else ())] for name in names}
    return [pytest.param(name, marks=marks[name]) for name in marks]


def test_every_training_is_in_the_table() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*FAILING, *HEALTHY, "data"}
    assert {*FAILING, *HEALTHY} >= QUICK


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore")  # what torch says of a script is the script's
@pytest.mark.parametrize("name", trainings(FAILING))
def test_a_training_that_fails_is_told_its_first_cause(name: str) -> None:
    code, step, phase = FAILING[name]
    path = FOLDER / f"{name}.py"
    training = run_training(path)
    assert [e.message for e in RECORDS.iter_errors(training.record)] == []
    assert training.record["verdict"] == "found"
    first = training.record["findings"][0]
    assert (first["code"], first["step"], first["phase"]) == (code, step, phase)
    assert first["remedy"] or code.startswith(("data", "first"))
    line = marked_line(path)
    assert line is None or (first["source"]["file"], first["source"]["line"]) == (str(path), line)
    assert training.codes[1:] == []


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", trainings(HEALTHY))
def test_a_training_that_is_sound_is_silent(name: str) -> None:
    training = run_training(FOLDER / f"{name}.py")
    assert [e.message for e in RECORDS.iter_errors(training.record)] == []
    assert (training.record["verdict"], training.codes, training.code) == ("nothing unusual", [], 0)
    assert training.record["steps"] >= 12
    assert (training.out, training.state) == run_plainly(FOLDER / f"{name}.py")


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["norm_at_zero", "growing_graph", "kept_losses", "scaler_skips", "in_place"])
def test_a_training_that_fails_is_the_same_with_and_without_us(name: str) -> None:
    training = run_training(FOLDER / f"{name}.py")
    assert (training.out, training.state) == run_plainly(FOLDER / f"{name}.py")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "element", "values"),
    [
        ("log_of_zero", "torch.log(1 - p)[12]", {"x": 0.0}),
        ("row_sums", "shares[6, 0]", {"x": 0.0, "z": 0.0}),
        ("norm_at_zero", "squares[8]", {"x": 0.0}),
        ("angle", "cosine[0]", {"x": 1.0}),
    ],
)
def test_a_birth_has_its_element_and_the_values_that_met(name: str, element: str, values: dict) -> None:
    first = run_training(FOLDER / f"{name}.py").record["findings"][0]
    assert first["element"] == element
    assert first["values"] == values


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["log_of_zero", "in_place"])
def test_a_record_of_a_training_with_another_key_is_refused_wherever_it_stands(name: str) -> None:
    record = deepcopy(run_training(FOLDER / f"{name}.py").record)
    (first, *_) = record["findings"]
    for place in (record, first, first["source"], first["remedy"], *first["consequences"]):
        place["planted"] = 3
        assert not RECORDS.is_valid(record)
        del place["planted"]
    assert RECORDS.is_valid(record)
    first["code"] = "unheard-of"
    assert not RECORDS.is_valid(record)


# fmt: off
CHANGES = {
    "all_pairs":        "error = prediction.squeeze(1) - target[first : first + 64]",
    "angle":            "loss = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6)).mean()",
    "branch_not_taken": "return torch.where(squares > 0, torch.sqrt(squares + 1e-12), torch.zeros(()))",
    "diverges":         "optimizer = torch.optim.SGD(model.parameters(), lr=1e-05)",
    "episode_of_one_step": "returns = (returns - returns.mean()) / (returns.std(correction=0) + 1e-7)",
    "experts_in_a_dict": "self.experts = nn.ModuleDict({str(k): nn.Linear(width, width) for k in range(count)})",
    "exponential":      "rate = torch.exp(model(x[first : first + 20]).squeeze(1).clamp(max=80))",
    "in_place":         "h = h + x",
    "kept_losses":      "running += loss.item()",
    "log_of_zero":      "loss = -(t * torch.log(p) + (1 - t) * torch.log((1 - p).clamp_min(1e-12))).mean()",
    "masked_row":       "scores = scores.masked_fill((words == 0).unsqueeze(1), -1e9)",
    "norm_at_zero":     "distance = torch.sqrt(squares + 1e-12)",
    "not_cleared":      "optimizer.zero_grad(); loss.backward()",
    "not_divided":      "(loss / 4).backward()",
    "plain_list":       "self.layers = nn.ModuleList([nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32)])",
    "rate_too_high":    "optimizer = torch.optim.Adam(model.parameters(), lr=0.1)",
    "rebuilt_loss":     "loss = torch.stack(losses).mean().requires_grad_()",
    "row_sums":         "shares = x / (x.sum(1, keepdim=True) + 1e-12)",
    "softmax_twice":    "return self.fc2(x)",
}
# fmt: on


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHANGES)
def test_a_remedy_is_tried_before_it_is_offered(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.py"
    first = run_training(path).record["findings"][0]
    remedy = first["remedy"]
    assert remedy["change"].removesuffix("  # cause") == CHANGES[name]
    assert remedy["tried"]
    lines, line = path.read_text(encoding="utf-8").splitlines(), first["source"]["line"] - 1
    line -= name == "masked_row"  # the mask stands above the softmax
    lines[line] = lines[line][: len(lines[line]) - len(lines[line].lstrip())] + remedy["change"]
    (tmp_path / "data.py").write_bytes((FOLDER / "data.py").read_bytes())
    (tmp_path / "mended.py").write_text("\n".join(lines))
    mended = run_training(tmp_path / "mended.py")
    assert first["code"] not in mended.codes
    losses = mended.losses[: remedy["result"]["steps"]]
    assert losses[0] == remedy["result"]["first"]


# fmt: off
BORN = {  # a line, the number that u[2] is at step 2: where, the values that met, the change that was tried
    "u / u.norm(dim=1)[:, None]":
                             (0.0,  "v[2, 0]", {"x": 0.0, "z": 0.0},  "u / (u.norm(dim=1)[:, None] + 1e-12)"),
    "u ** 0.5":              (0.0,  "u[2, 0]", {"x": 0.0, "n": 0.5},  "u.clamp_min(1e-12) ** 0.5"),
    "torch.hypot(u, 0 * u)": (0.0,  "u[2, 0]", {"x": 0.0, "z": 0.0},  "torch.hypot(u + 1e-12, 0 * u)"),
    "u[rows].std(0)":        (1.0,  "v[0]",    {"count": 1, "correction": 1}, "u[rows].std(0, correction=0)"),
    "u.masked_fill(u > 0.5, -torch.inf).softmax(1)":
                             (1.0,  "v[2, 0]", {"x": "-inf"},         "u.masked_fill(u > 0.5, -1e9).softmax(1)"),
    "u.masked_fill(u > 0.5, -torch.inf).logsumexp(1)":
                             (1.0,  "v[2]",    {"x": "-inf"},         "u.masked_fill(u > 0.5, -1e9).logsumexp(1)"),
    "torch.logit(u)":        (1.0,  "v[2, 0]", {"x": 1.0},            "torch.logit(u.clamp(1e-6, 1 - 1e-6))"),
    "u / (u.norm(dim=1)[:, None])":
                             (0.0,  "v[2, 0]", {"x": 0.0, "z": 0.0},  "u / (u.norm(dim=1)[:, None] + 1e-12)"),
    "(u * 24).half().exp().float()":
                             (1.0,  "(u * 24).half().exp()[2, 0]", {"x": 24.0},
                                    "(u * 24).half().clamp(max=10).exp().float()"),
    "torch.where(u > 0, torch.sin(u) / u, 1.0)":
                             (0.0,  "torch.sin(u)[2, 0]", {"x": 0.0, "z": 0.0},
                                    "torch.where(u > 0, torch.sin(u) / torch.where(u > 0, u, 1.0), 1.0)"),
    "((u * 2e4).half() @ torch.full((3, 3), 4.0).half()).float()":
                             (1.0,  "(u * 2e4).half() @ torch.full((3, 3), 4.0).half()[2, 0]", {}, ""),
}
# fmt: on


@pytest.mark.sampled(2)
@pytest.mark.parametrize("line", BORN)
def test_where_a_number_was_born_is_told_with_what_met_and_a_change_that_was_tried(line: str, tmp_path: Path) -> None:
    number, element, values, change = BORN[line]
    script = tmp_path / "born.py"
    script.write_text(
        "import torch\n"
        "torch.manual_seed(0)\n"
        "model = torch.nn.Linear(3, 3)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)\n"
        "for step in range(4):\n"
        "    at = (torch.arange(6) == 2)[:, None] & (torch.tensor(step) == 2)\n"
        f"    u = torch.where(at, {number}, 0.25 + 0.0 * torch.arange(6)[:, None]) + 0 * model(torch.rand(6, 3))\n"
        "    rows = at[:, 0] if bool(at.any()) else ~at[:, 0]\n"
        f"    v = {line}\n"
        "    optimizer.zero_grad()\n"
        "    (v * torch.arange(1, 1 + v.shape[-1])).sum().backward()\n"
        "    optimizer.step()\n"
    )
    first = run_training(script).record["findings"][0]
    assert (first["step"], first["source"]["line"]) == (2, 9)
    assert (first["element"], first["values"]) == (element, values)
    remedy = first["remedy"] or {}
    assert (remedy.get("change"), remedy.get("tried")) == ((f"v = {change}", True) if change else (None, False))
    assert "inf" in first["reason"] or "nan" in first["reason"]
    assert ("float16 ends at 6.6e+04" in first["reason"]) is ("half" in line)
    assert str(tmp_path) not in first["reason"]  # of a place, the name of the file is enough


# fmt: off
RANKED = {  # optimizer, rate, loss of rows r and labels t: what comes first
    "a logarithm of data":  ("Adam", 0.5, "entropy(model(r + 0 * torch.log(r[:, :1].abs())), t)", "first-not-finite"),
    "data":                 ("Adam", 0.5, "entropy(model(r / (r[:, :1] != 0)), t)",               "first-not-finite"),
    "at once":              ("SGD", 1e3, "entropy(model(r + 0 * torch.log(r[:, :1].abs())), t)", "first-not-finite"),
    "a root of distances":  ("Adam", 0.5, "((model(r) - model(r.roll(1, 0) * (r[:, :1] != 0))).square().sum(1).sqrt()"
                                          " - t).square().mean()",                         "first-gradient-not-finite"),
    "saturated":            ("SGD", 60.0, "-(torch.log(1 - model(r).sigmoid()) * r.gt(0)[:, :4]"
                                          " + torch.log(model(r).sigmoid()) * r.lt(0)[:, :4]).mean()", "rate-too-high"),
    "a root of what learns": ("Adam", 0.8, "(torch.sqrt(6 + model(r)).sum(1) - 8).square().mean()",    "rate-too-high"),
    "an exponential":       ("SGD", 8.0, "(model(r).sum(1).exp() - t * model(r).sum(1)).mean()",       "rate-too-high"),
    "momentum":             ("SGD", 9.0, "(model(r).mean(1) - t).square().mean()",                     "rate-too-high"),
}
# fmt: on


@pytest.mark.thorough
@pytest.mark.parametrize("name", RANKED)
def test_a_rate_that_is_too_high_comes_first_where_the_rest_follows_from_it(name: str, tmp_path: Path) -> None:
    kind, rate, loss, first = RANKED[name]
    script = tmp_path / "ranked.py"
    script.write_text(
        "import torch\n"
        "from torch.nn.functional import cross_entropy as entropy\n"
        "torch.manual_seed(0)\n"
        "x, y = torch.randn(640, 8), torch.randint(0, 4, (640,))\n"
        f"x[{40 if name == 'at once' else 400}] = 0\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 32, bias=False), torch.nn.Tanh(), torch.nn.Linear(32, 4))\n"
        f"optimizer = torch.optim.{kind}(model.parameters(), lr={rate})\n"
        "for r, t in zip(x.split(32), y.split(32)):\n"
        "    optimizer.zero_grad()\n"
        f"    loss = {loss}\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
    )
    found = run_training(script).record["findings"]
    assert found[0]["code"] == first
    assert found[0]["source"]["line"] == (7 if first == "rate-too-high" else 10)
    others = [f["code"] for f in (found[0]["consequences"] if first == "rate-too-high" else found[1:])]
    assert (
        "first-not-finite" in others if first == "rate-too-high" else others == ["rate-too-high"] * (name != "at once")
    )


@pytest.mark.parametrize(
    ("learned", "key", "ratio", "last", "follows"),
    [
        (False, "overflow", 9.0, 9.0, False),
        (True, "overflow", 0.3, 1.0, True),
        (True, "logarithm", 0.3, 1.0, False),
        (True, "logarithm", 0.3, 11.0, True),
        (True, "logarithm", 9.0, 1.0, True),
    ],
)
def test_without_a_second_run_what_is_not_finite_follows_from_a_rate_if_something_grows(
    learned: bool, key: str, ratio: float, last: float, follows: bool
) -> None:
    large = Finding("rate-too-high", {"ratio": ratio}, remedy=Remedy("rate-too-high"))
    cause = Finding("first-not-finite", {"learned": learned, "remedy": key})
    ledger: Any = SimpleNamespace(flag=None, seconds=lambda: 1.0, trace=[1.0, last, math.nan])
    assert judging._leads_to(large, cause, ledger, lambda request: None) is follows


def test_steps_that_are_too_large_follow_from_gradients_that_pile_up() -> None:
    piles, large = Finding("not-cleared"), Finding("rate-too-high", {"ratio": 3.0}, consequences=(Finding("born"),))
    other = Finding("clipped")
    (first, second) = judging._under_piles([large, piles, other])
    assert (first.code, second) == ("not-cleared", other)
    assert [c.code for c in first.consequences] == ["rate-too-high", "born"]
    assert judging._under_piles([large, other]) == [large, other]
    assert judging._under_piles([piles, other]) == [piles, other]


@pytest.mark.parametrize(
    ("factor", "found"),
    [
        ("(h.round() - t).abs().mean() + 1", ["round", "flat"]),
        ("(h + 100 * t).clamp(-1, 1).square().mean()", ["clamp", "cut"]),
        ("(t + h.clamp(-50, 50) * 0).mean()", [None, None]),
        ("(h.round() - t).abs().mean() * 0", []),
        ("h.mean() * 1e-30", []),
        ("(h + 100 * t * (torch.arange(2) > 0)).clamp(-1, 1).square().mean()", []),
    ],
)
def test_gradients_that_are_all_zero_are_told_while_the_loss_is_not(factor: str, found: list) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    with gx.watch(model, quiet=True) as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(24):
            h, t = model(torch.rand(8, 3)), torch.ones(())
            optimizer.zero_grad()
            eval(factor, {"h": h, "t": t, "torch": torch}).backward()
            optimizer.step()
    told = [finding.data for finding in watch.report.findings if finding.code == "gradient-zero"]
    assert [data.get(key) for data in told for key in ("operator", "why")] == found


def test_a_model_that_is_frozen_is_not_said_to_be_unused(tmp_path: Path) -> None:
    text = """import torch
torch.manual_seed(0)
model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
model.requires_grad_(False)
model.requires_grad = True
optimizer = torch.optim.SGD({trained}.parameters(), lr=0.1)
{made}.sum().backward()
"""
    for trained, made, why in (("model", "model(torch.ones(3, 2))", "frozen"), ("other", "torch.ones(3)", "unused")):
        (tmp_path / f"{why}.py").write_text(text.format(trained=trained, made=made))
        (first,) = run_training(tmp_path / f"{why}.py").record["findings"]
        assert (first["code"], first["data"]["why"]) == ("loss-without-graph", why)
        assert ("requires_grad_(True)" in first["remedy"]["text"]) == (why == "frozen")


SECOND_LOSS = """
import torch
torch.manual_seed(0)
body, head, side = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters(), *side.parameters()], lr=0.01)
for _ in range(12):
    h = body(torch.rand(8, 4)).tanh()
    optimizer.zero_grad()
    head(h).square().mean().backward(retain_graph=True)
    {second}
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("second", "why", "text"),
    [
        ("(h.sum() + side(h).detach().sum()).backward()", "detach", "`side(h).detach()` detached what they made."),
        (
            "h.sum().backward()",
            "unused_in_step",
            "Nothing that is computed for the losses of the first step uses them.",
        ),
        ("(h.sum() + side(h).sum()).backward()", None, ""),
    ],
)
def test_a_parameter_is_unused_where_no_loss_of_the_step_uses_it(
    second: str, why: str | None, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.py"
    path.write_text(SECOND_LOSS.format(second=second))
    found = run_training(path).record["findings"]
    assert [(f["code"], f["data"]["why"]) for f in found] == ([("no-gradient", why)] if why else [])
    assert all(f["text"].endswith(text) for f in found)


def test_what_another_optimizer_has_stepped_by_is_not_the_way_of_this_one(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("""import torch
torch.manual_seed(0)
maker, judge = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
first, second = torch.optim.SGD(judge.parameters(), lr=0.01), torch.optim.SGD(maker.parameters(), lr=0.01)
for _ in range(12):
    made = maker(torch.rand(8, 2))
    first.zero_grad()
    judge(made.detach()).mean().backward()
    first.step()
    second.zero_grad()
    judge(made.data).square().mean().backward()
    second.step()
""")
    (found,) = run_training(path).record["findings"]
    assert (found["code"], found["source"]["line"]) == ("nothing-learns", 11)


def test_what_sends_no_gradient_back_is_named_where_the_loss_depends_on_parameters(tmp_path: Path) -> None:
    text = """import torch
torch.manual_seed(0)

class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, g):
        return {returned}

first, last = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], lr=0.1)
for _ in range(24):
    optimizer.zero_grad()
    loss = last(Sign.apply(first(torch.rand(3, 2)))).square().mean()
    loss.backward({given})
    optimizer.step()
"""
    for returned, given, place, why in (
        ("None", "", "Sign.apply(first(torch.rand(3, 2)))", "silent"),
        ("g", "inputs=[*last.parameters()]", "loss.backward(inputs=[*last.parameters()])", None),
    ):
        (tmp_path / f"{returned}.py").write_text(text.format(returned=returned, given=given))
        (first,) = run_training(tmp_path / f"{returned}.py").record["findings"]
        assert (first["code"], first["parameters"]) == ("nothing-sent", ["first.weight", "first.bias"])
        assert (first["source"]["code"], first["data"].get("why")) == (place, why)
        assert ("gives none back" in first["text"]) == (why == "silent")
    (tmp_path / "sound.py").write_text(text.format(returned="g", given=""))
    assert run_training(tmp_path / "sound.py").codes == []


def test_an_optimizer_whose_epsilon_is_0_in_the_weights_type_made_what_is_not_finite(tmp_path: Path) -> None:
    text = """import torch
torch.manual_seed(0)
model = torch.nn.Linear(2, 1).to(torch.{dtype})
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3{eps})
x = torch.tensor([[1.0, 0.0]]).to(torch.{dtype})
for step in range(24):
    optimizer.zero_grad()
    (model(x) * (1 if step < 4 or {nan} is None else {nan})).float().square().mean().backward()
    optimizer.step()
"""
    for name, dtype, eps, nan, expected in (
        ("half", "float16", "", None, ["divided-by-nothing"]),
        ("none", "float32", ", eps=0.0", None, ["divided-by-nothing"]),
        ("whole", "float32", "", None, []),
        ("mended", "float16", ", eps=1e-4", None, []),
        ("other", "float16", ", eps=1e-4", "float('nan')", ["loss-not-finite"]),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text(text.format(dtype=dtype, eps=eps, nan=nan))
        training = run_training(path)
        assert training.codes == expected or (name == "other" and "divided-by-nothing" not in training.codes)
        if expected == ["divided-by-nothing"]:
            first = training.record["findings"][0]
            assert (first["step"], first["source"]["line"], first["remedy"]["tried"]) == (0, 4, True)
            assert first["remedy"]["change"].endswith("eps=1e-4)")
            assert first["consequences"][0]["code"] == "weight-not-finite"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("lr=0.1, weight_decay=5.0", "decay-too-strong"),
        ("lr=300.0, weight_decay=1e-5", "rate-too-high"),
        ("lr=0.1", None),
    ],
)
def test_weights_that_decay_at_once_are_not_blamed_on_the_gradient(given: str, code: str | None) -> None:
    torch.manual_seed(0)
    model, true = torch.nn.Linear(8, 4), torch.randn(8, 4)
    with gx.watch(model, quiet=True) as watch:
        optimizer = eval(f"torch.optim.SGD(model.parameters(), {given})")
        for _ in range(60):
            x = torch.randn(64, 8)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), (x @ true).argmax(1)).backward()
            optimizer.step()
    assert [finding.code for finding in watch.report.findings] == [code] * (code is not None)


def test_the_line_that_freed_a_graph_is_told_where_only_one_can_have(capsys: pytest.CaptureFixture) -> None:
    model = torch.nn.Linear(2, 2)
    for others in (1, 2):
        with suppress(RuntimeError), gx.watch(model) as watch:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loss = model(torch.ones(3, 2)).square().sum()
            loss.backward()
            if others > 1:
                model(torch.ones(3, 2)).sum().backward()
            (2 * loss).backward()
            optimizer.step()
        (first,) = watch.report.findings
        assert (first.code, first.data["freed"] is None) == ("graph-freed", others > 1)
        text = " ".join(capsys.readouterr().err.split())
        assert ("an earlier one has freed (test_run_trainings.py:" in text) == (others == 1)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_gradients_that_are_cut_down_slow_only_what_steps_in_proportion_to_them(kind: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    with gx.watch(model, quiet=True) as watch:
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=1e-4)
        for _ in range(24):
            optimizer.zero_grad()
            (model(torch.rand(8, 3)) - 1000).square().sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    assert [finding.code for finding in watch.report.findings] == ["clipped"] * (kind == "SGD")


@pytest.mark.parametrize(("put", "codes"), [("other.weight", []), ("torch.nn.Parameter(weight)", [True])])
def test_a_parameter_that_stands_in_the_place_of_an_optimizers_is_told_unless_that_has_it(
    put: str, codes: list
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    with gx.watch(model, quiet=True) as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        model[1].weight = eval(put, {"other": model[0], "torch": torch, "weight": torch.ones(3, 3)})
        for _ in range(24):
            optimizer.zero_grad()
            model(torch.rand(8, 3)).square().mean().backward()
            optimizer.step()
    told = [(finding.code, finding.parameters) for finding in watch.report.findings]
    assert told == [("made-after-optimizer", ("model.1.weight",))] * len(codes)


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize(
    ("loss", "operator"),
    [
        ("F.kl_div(h.softmax(1), t)", "softmax"),
        ("nn.KLDivLoss(reduction='batchmean')(2 * h.softmax(1) / 2, t)", None),
        ("nn.KLDivLoss(reduction='sum', log_target=True)(h.softmax(1).view(8, 1, 3), t.log()[:, None])", "softmax"),
        ("F.kl_div(torch.sigmoid(h), t)", "sigmoid"),
        ("F.nll_loss(h.softmax(1), t.argmax(1))", "softmax"),
        ("F.kl_div(h.softmax(1).log(), t)", None),
        ("F.kl_div(t.log(), h.softmax(1))", None),
        ("F.kl_div(h.log_softmax(1), (2 * h).log_softmax(1), log_target=True)", None),
        ("(t - t * h.softmax(1)).mean()", None),
        ("F.kl_div(h.log_softmax(1), t) + (2 * h * h.softmax(1)).mean()", None),
        ("(t * (t.log() - h.sigmoid())).mean()", None),
    ],
)
def test_a_loss_that_takes_logarithms_and_is_given_probabilities_is_told(loss: str, operator: str | None) -> None:
    torch.manual_seed(0)
    model, target = torch.nn.Linear(3, 3), torch.rand(8, 3).softmax(1)
    scope = {"F": torch.nn.functional, "nn": torch.nn, "t": target, "torch": torch}
    with gx.watch(model, quiet=True) as watch:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(9):
            optimizer.zero_grad()
            eval(loss, scope | {"h": model(torch.rand(8, 3))}).backward()
            optimizer.step()
    told = [f.data["operator"] for f in watch.report.findings if f.code == "probabilities-not-logs"]
    assert told == ([operator] if operator else [])


def test_a_script_may_not_act_when_it_is_run_again(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    script = tmp_path / "writes.py"
    script.write_text(
        "import os, sys, torch, pathlib\n"
        "w = torch.nn.Parameter(torch.ones(2))\n"
        "optimizer = torch.optim.SGD([w], lr=0.1)\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "for step in range(6):\n"
        "    optimizer.zero_grad()\n"
        "    loss = (w * (0.0 if step == 4 else 1.0)).sum().log()\n"
        "    with (folder / 'log.txt').open('a') as log: log.write(f'{step} ')\n"
        "    torch.save(w, folder / f'{step}.pt')\n"
        "    os.makedirs(folder / f'made{step}', exist_ok=True)\n"
        "    if (folder / f'{step - 1}.pt').exists(): os.remove(folder / f'{step - 1}.pt')\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
    )
    training = run_training(script)
    assert training.record["examined"] == "replay"
    assert training.record["findings"][0]["code"] == "first-not-finite"
    assert log.read_text() == "0 1 2 3 4 5 "
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".pt") == ["5.pt"]


@pytest.mark.parametrize("rerun", [False, True])
def test_where_nothing_keeps_a_script_from_acting_it_runs_again_only_if_asked_to(tmp_path: Path, rerun: bool) -> None:
    script = tmp_path / "writes.py"
    script.write_text(
        "import pathlib, sys, torch\n"
        "w = torch.nn.Parameter(torch.ones(2))\n"
        "optimizer = torch.optim.SGD([w], lr=0.1)\n"
        "for step in range(6):\n"
        "    optimizer.zero_grad()\n"
        "    loss = (w * (0.0 if step == 4 else 1.0)).sum().sqrt()\n"
        "    with pathlib.Path(sys.argv[1]).open('a') as log: log.write(f'{step} ')\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
    )
    log = tmp_path / "log.txt"
    training = in_a_process(without_a_guard, script, log, rerun)
    first = training.record["findings"][0]
    if rerun:
        assert (training.record["examined"], first["code"]) == ("rerun", "first-gradient-not-finite")
        assert first["source"]["line"] == 6
        assert log.read_text() == "0 1 2 3 4 5 0 1 2 3 4 "
        assert "it wrote, sent and started again" in " ".join(training.text.split())
    else:
        assert (training.record["examined"], first["code"]) == ("unguarded", "gradient-not-finite")
        assert log.read_text() == "0 1 2 3 4 5 "
        assert "With gradexplain run --rerun" in " ".join(training.text.split())
    assert first["remedy"] is None or not first["remedy"]["tried"]


def without_a_guard(path: Path, log: Path, rerun: bool) -> Training:
    gradexplain.training.replaying.abi = lambda: 0
    return under_watch(path, str(log), rerun=rerun)


def test_a_training_in_a_thread_of_the_script_is_seen(tmp_path: Path) -> None:
    script = tmp_path / "threaded.py"
    script.write_text(
        "import threading, torch\n"
        "w = torch.nn.Parameter(torch.ones(2))\n"
        "optimizer = torch.optim.SGD([w], lr=0.1)\n"
        "def train():\n"
        "    for step in range(9):\n"
        "        optimizer.zero_grad()\n"
        "        (w - 3).square().mean().backward()\n"
        "        optimizer.step()\n"
        "thread = threading.Thread(target=train)\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    record = run_training(script).record
    assert (record["verdict"], record["steps"]) == ("nothing unusual", 9)


@pytest.mark.parametrize(
    ("function", "examined", "code"), [("log", "graph", "first-not-finite"), ("sqrt", "parted", "gradient-not-finite")]
)
def test_of_a_run_that_cannot_be_had_again_only_the_first_tells(
    function: str, examined: str, code: str, tmp_path: Path
) -> None:
    script = tmp_path / "unseeded.py"
    script.write_text(
        "import os, torch\n"
        "torch.manual_seed(int.from_bytes(os.urandom(4), 'little'))\n"
        "w = torch.nn.Parameter(3 + torch.rand(2))\n"
        "optimizer = torch.optim.SGD([w], lr=0.1)\n"
        "for step in range(6):\n"
        "    optimizer.zero_grad()\n"
        f"    loss = (w * (0.0 if step == 4 else 1.0)).sum().{function}()\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
    )
    training = run_training(script)
    assert (training.record["examined"], training.codes) == (examined, [code])


def test_a_block_is_watched_and_its_report_stays(capsys: pytest.CaptureFixture) -> None:
    p = torch.nn.Parameter(torch.tensor([0.5, 1.0]))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with gx.watch() as training:
        for step in range(4):
            optimizer.zero_grad()
            loss = -torch.log(p - (p.detach() if step == 3 else 0)).mean()
            loss.backward()
            optimizer.step()
    assert training.report.verdict == "found"
    (finding,) = training.report.findings
    assert (finding.code, finding.step, finding.data["values"]) == ("first-not-finite", 3, {"x": 0.0})
    assert finding.source is not None
    assert "torch.log(p" in finding.source.code
    assert "ln(0) = -inf" in " ".join(capsys.readouterr().err.split())
    assert not torch.is_anomaly_enabled()


def test_a_script_that_looks_for_anomalies_itself_finds_them_under_watch() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    with gx.watch(quiet=True), torch.autograd.set_detect_anomaly(True):
        with pytest.warns(UserWarning, match="of forward call"), pytest.raises(RuntimeError, match="SqrtBackward0"):
            (p.sqrt() * 0).sum().backward()
        assert torch.is_anomaly_enabled()
    assert not torch.is_anomaly_enabled()


def test_what_is_watched_by_name_gives_parameters_their_names() -> None:
    def train() -> gx.TrainingReport:
        encoder, decoder = torch.nn.Linear(3, 2), torch.nn.Sequential(torch.nn.Linear(2, 1))
        one = torch.optim.SGD(encoder.parameters(), lr=0.1)
        other = torch.optim.SGD(decoder.parameters(), lr=0.1)
        with gx.watch(encoder, decoder, one, other, quiet=True) as training:
            for _ in range(4):
                (decoder(encoder(torch.ones(4, 3)).detach()).square().mean()).backward()
                one.step()
                other.step()
                other.zero_grad()
        return training.report

    report = train()
    (finding,) = report.findings
    assert (finding.code, finding.parameters) == ("nothing-learns", ("encoder.weight", "encoder.bias"))
    assert [layer.name for layer in report.curves.layers] == ["decoder.0.weight"]


def test_leaves_that_no_module_holds_are_called_by_the_variables_that_hold_them() -> None:
    def train() -> gx.TrainingReport:
        weights = [torch.ones(3, 2, requires_grad=True), torch.ones(2, 1, requires_grad=True)]
        with gx.watch(quiet=True) as training:
            for step in range(3):
                loss = torch.ones(4, 3).mm(weights[0]).mm(weights[1]).sub(6 * (step == 1)).square().sum()
                loss.sqrt().backward()  # the slope at 0 is infinite
        return training.report

    (finding,) = train().findings
    assert {*finding.parameters} == {"weights[0]", "weights[1]"}


def test_only_modules_and_optimizers_can_be_watched_by_name() -> None:
    with pytest.raises(gx.InputError, match="this is a Tensor"):
        gx.watch(torch.ones(2))  # type: ignore[arg-type]


def test_an_exception_of_a_block_goes_on(capsys: pytest.CaptureFixture) -> None:
    w = torch.ones(2, requires_grad=True)
    training = gx.watch(language="zh")

    def twice() -> None:
        with training:
            loss = (w * w).sum()
            loss.backward()
            loss.backward()

    with pytest.raises(RuntimeError, match="second time"):
        twice()
    assert training.report.findings[0].code == "graph-freed"
    assert "计算图" in capsys.readouterr().err


def test_a_block_that_goes_on_has_no_report() -> None:
    with gx.watch(quiet=True) as training, pytest.raises(gx.InputError, match="is there when it has ended"):
        training.report  # noqa: B018  # asked for too early


def test_every_line_that_starts_a_backward_pass_has_its_own_losses() -> None:
    w, ledger = torch.ones(2, requires_grad=True), Ledger()
    with watched(ledger):
        for _ in range(3):
            (2 * w).sum().backward()
            torch.autograd.backward((3 * w).sum())
    calls = [(call.source.line, list(call.losses)) for call in ledger.calls.values() if call.source is not None]
    (one, first), (other, second) = calls
    assert other == one + 1
    assert (first, second) == ([4.0] * 3, [6.0] * 3)


def labels_of(target: torch.Tensor, loaded: Loaded | None = None) -> Labels | None:
    logits = torch.zeros(len(target), 3, requires_grad=True)
    return labels_in(torch.nn.functional.cross_entropy(logits, target), loaded or Loaded())


def labels_in(loss: torch.Tensor, loaded: Loaded) -> Labels | None:
    graph = graph_of(loss, 0, loaded)
    assert graph is not None
    return graph.batch.labels


@needs_told_hooks
def test_of_labels_is_known_where_they_are_from() -> None:
    column = torch.cat([torch.ones(8), torch.full((8,), 2)]).long()
    assert labels_of(column[:8]) == Labels(8, 1, given=False, classes={1: 8})  # nobody knows that it is a part
    assert labels_of(column[8:12]) == Labels(4, 2, given=True, ordered=True, classes={2: 4})
    assert labels_of(column[:8].clone()[4:]) == Labels(4, 1, given=True, ordered=True, whole=True, classes={1: 4})
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(16, 3), column), 4)
    for shuffled in (False, True):
        loader = torch.utils.data.DataLoader(loader.dataset, 4, shuffle=shuffled)
        batches = iter(loader)
        _, target = next(batches)
        labels = labels_of(target, Loaded.of(batches, [target]))
        assert labels is not None
        assert (labels.given, labels.ordered, labels.whole) == (True, not shuffled, False)


def test_what_is_saved_through_hooks_is_not_asked_for() -> None:
    def refuse(packed: object) -> torch.Tensor:
        raise AssertionError("unpacked")

    logits, target = torch.zeros(4, 3, requires_grad=True), torch.arange(12)[8:] // 4
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, refuse):
        loss = torch.nn.functional.cross_entropy(logits, target)
    assert labels_in(loss, Loaded()) is None


@needs_told_hooks
@pytest.mark.parametrize("share", [0.0, 0.005, 0.25])
def test_probabilities_are_rounded_where_they_are_sure_of_the_wrong_label(share: float) -> None:
    wrong = torch.arange(1000) < 1000 * share
    label = (torch.arange(1000) % 2).float()
    logits = (50 * (2 * label - 1) * (1 - 2 * wrong.float())).requires_grad_()  # float32 has no number as near 1
    loss = torch.nn.functional.binary_cross_entropy(torch.sigmoid(logits), label)
    graph = graph_of(loss, 0, Loaded())
    assert graph is not None
    found = {p.code: p.data["share"] for p in graph.patterns}
    right = wrong & (label == 0)  # exp(-50) is a number: only 1 is rounded to
    assert found == ({"probability-rounded": pytest.approx(float(right.float().mean()))} if share > 0.01 else {})


@pytest.mark.parametrize(
    ("loss", "codes"),
    [
        (lambda e: e.pow(2).mean() + e.abs().mean(), ["unmeant-broadcast"]),
        (lambda e: e.pow(2).mean() + e.max(), []),  # all pairs are looked at for their own sake
    ],
)
def test_a_broadcast_is_unmeant_where_it_goes_into_sums_and_means_alone(loss: Any, codes: list[str]) -> None:
    prediction, target = torch.arange(8.0, requires_grad=True), torch.arange(8.0)
    graph = graph_of(loss(2 * prediction[:, None] - target), 0, Loaded())
    assert graph is not None
    assert [pattern.code for pattern in graph.patterns] == codes


@pytest.mark.parametrize("by_name", [True, False])
def test_a_step_that_computes_its_gradients_by_a_closure_is_looked_at_when_they_are_there(by_name: bool) -> None:
    w, ledger = torch.nn.Parameter(torch.tensor([3.0, 4.0])), Ledger()
    optimizer = torch.optim.SGD([w], lr=0.25)
    values = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w * w).sum() + (0 * w.log()).sum()  # the gradient of a square is twice the number
        loss.backward()
        values.append(loss.item())
        return loss

    with watched(ledger):
        for step in range(4):
            if step == 2:
                w.data[0] = 0
            assert optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    (steps,) = ledger.optimizers
    assert list(steps.norms)[:2] == [10.0, 5.0]
    assert steps.count == len(values) == 4
    assert ledger.flag is not None
    assert ledger.flag.step == 2


def test_an_optimizer_is_not_taken_for_one_that_is_gone() -> None:
    def train(places: set[int]) -> int:
        w = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([w], lr=0.1)
        for _ in range(3):
            (w * w).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        names.append(ledger.names.of(w))
        places.add(id(optimizer))
        return id(optimizer)

    ledger, names, places = Ledger(), [], set()  # type: ignore[var-annotated]
    with watched(ledger):
        while len(names) < 100 and train(places) != train(places):
            pass
    assert len(places) < len(names)  # two had the same place in memory
    assert {steps.count for steps in ledger.optimizers} == {3}
    assert [steps.number for steps in ledger.optimizers] == [*range(len(names))][-len(ledger.optimizers) :]
    assert names == ["w"] * len(names)


def test_what_is_known_of_optimizers_that_are_gone_has_a_bound() -> None:
    ledger = Ledger()
    outer = torch.optim.SGD([w := torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with watched(ledger):
        for _ in range(100):
            inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
            (w * w).sum().backward()
            outer.step()
            del inner
    assert len(ledger.optimizers) < 20
    assert max(steps.count for steps in ledger.optimizers) == 100


def test_a_line_of_the_script_is_named_before_one_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "a_trainer.py").write_text("def learn(loss):\n    loss.backward()\n")
    monkeypatch.syspath_prepend(folder)
    learn = importlib.import_module("a_trainer").learn
    w, ledger = torch.ones(2, requires_grad=True), Ledger()
    with watched(ledger):
        for _ in range(3):
            learn((w * w).sum())
            learn((w + w).sum())
    calls = [(call.source.file, call.source.code, len(call.losses)) for call in ledger.calls.values() if call.source]
    assert calls == [(__file__, "learn((w * w).sum())", 3), (__file__, "learn((w + w).sum())", 3)]


def test_of_several_processes_the_first_tells_what_the_others_saw(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gradexplain.training.ranks, "_PATIENCE", 0.1)
    data = {"code": "torch.log(x)", "operator": "aten.log", "detail": "plain", "element": "log[0]", "value": -inf}
    birth = Finding("first-not-finite", data, step=3)
    effect = Finding("gradient-not-finite", {"names": "w", "value": 0.5}, step=3)
    found = {}
    for number in (2, 1, 0):
        for name, value in {"RANK": number, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4}.items():
            monkeypatch.setenv(name, str(value))
        rank = Rank.own()
        assert rank is not None
        own = (birth,) if number == 1 else (effect,) if number == 0 else ()
        found[number] = TrainingReport("train.py", 9, own, rank=rank, others=rank.others())
        leave(found[number])
    assert found[1].others == found[2].others == ()
    assert found[0].others == (Seen(1, 9, birth), Seen(2, 9), Seen(3, heard=False))
    assert found[0].elsewhere == Seen(1, 9, birth)
    assert found[2].verdict == "nothing unusual"
    assert [*tmp_path.iterdir()] == []
    page = found[0].render("text", width=200)
    assert "✗ rank 1: step 3: The first value that is not finite" in page
    assert "rank 3 has not said" in page
    assert [e.message for e in RECORDS.iter_errors(json.loads(found[0].to_json()))] == []
    silent = replace(found[0], findings=(), others=(Seen(1, 9),))
    assert (silent.elsewhere, silent.verdict) == (None, "nothing unusual")


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("fails", [False, True])
def test_a_block_without_gradients_leaves_torch_as_it_was(
    context: type, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test of this process may have compiled, after which blocks are left alone.
    monkeypatch.setattr("gradexplain.training.evaluations.has_compiled", lambda: False)
    functions = torch.nn.functional.dropout, torch.nn.functional.batch_norm, context.__enter__, context.__exit__
    model, ledger = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5)), Ledger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(ledger):
        for _ in range(8):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
        with suppress(ZeroDivisionError), context():
            torch.manual_seed(3)
            seen = model(torch.ones(2, 3))
            with torch.no_grad():
                pass
            assert torch.nn.functional.dropout is not functions[0]
            if fails:
                raise ZeroDivisionError
        assert torch.nn.functional.dropout is functions[0]
    after = torch.nn.functional.dropout, torch.nn.functional.batch_norm, context.__enter__, context.__exit__
    assert after == functions
    torch.manual_seed(3)
    assert torch.equal(seen, model(torch.ones(2, 3)))
    (evaluation,) = ledger.evaluations.found.values()
    assert evaluation.layer() is model[1]
    assert (evaluation.steps, ledger.broken) == ({8}, "")


@pytest.mark.parametrize(
    ("answer", "tried", "said"),
    [
        ([0.9, 0.5, 0.1], True, "Tried: the same script with this change ran 3 steps"),
        ([0.9, math.inf], True, "(Tried by a change of this line, which did not help here.)"),
        (None, False, "(Not tried.)"),
    ],
)
def test_a_change_that_was_tried_in_vain_is_not_called_untried(
    tmp_path: Path, answer: list[float] | None, tried: bool, said: str
) -> None:
    path = tmp_path / "script.py"
    path.write_text("optimizer = torch.optim.SGD(model.parameters(), lr=10.0)\n", encoding="utf-8")
    source = Source(str(path), 1, path.read_text(encoding="utf-8").strip())
    data = {"ratio": 2.0, "rate": 10.0, "kind": "SGD", "early": True}
    found = Finding("rate-too-high", data, source, step=0, phase="optimizer", remedy=Remedy("rate-too-high"))
    ledger: Any = SimpleNamespace(flag=None, seconds=lambda: 1.0, trace=[1.0, 5.0, 9.0])
    remedy = judging._tried(found, ledger, lambda request: answer).remedy
    assert remedy is not None
    assert (remedy.tried, bool(remedy.change), bool(remedy.result)) == (
        tried,
        said.startswith("Tried:"),
        said.startswith("Tried:"),
    )
    assert said in TrainingTeller("en").cure(remedy)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("1.0", ("a tenth of it.", "取十分之一。")),
        ("0.1", ("a hundredth of it.", "取百分之一。")),
        ("0.01", ("a thousandth of it.", "取千分之一。")),
        ("0.001", ("a ten-thousandth of it.", "取万分之一。")),
        ("", ("a tenth of it for example.", "例如取十分之一。")),
    ],
)
def test_the_words_of_a_rate_are_those_of_the_change_that_was_tried(
    tmp_path: Path, rate: str, said: tuple[str, str]
) -> None:
    path = tmp_path / "script.py"
    path.write_text("optimizer = torch.optim.SGD(model.parameters(), lr=10.0)\n", encoding="utf-8")
    source = Source(str(path), 1, path.read_text(encoding="utf-8").strip())
    found = Finding("rate-too-high", {"ratio": 2.0}, source, remedy=Remedy("rate-too-high"))
    ledger: Any = SimpleNamespace(flag=None, seconds=lambda: 1.0, trace=[1.0, 5.0, 9.0])

    def answer(request: Any) -> list[float]:
        return [0.9, 0.5] if request.change.new.endswith(f"lr={float(rate or 'nan'):g})") else [0.9, math.inf]

    remedy = judging._tried(found, ledger, answer).remedy
    assert remedy is not None
    for language, words in zip(("en", "zh"), said, strict=True):
        assert words in TrainingTeller(language).cure(remedy)


def test_a_watch_that_fails_lets_the_training_go_on() -> None:
    training = in_a_process(under_a_watch_that_fails, FOLDER / "healthy_pairs.py")
    assert training.code == 0
    assert "planted" in training.text
    assert (training.out, training.state) == run_plainly(FOLDER / "healthy_pairs.py")


def under_a_watch_that_fails(path: Path) -> Training:
    def fail(*_: object) -> None:
        raise ValueError("planted")

    gradexplain.training.ledger.graph_of = fail
    return under_watch(path)


class Reads(TorchFunctionMode):
    """Notes the steps at which tensors are asked for their numbers, which on a device waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.steps = 0, Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        reading = getattr(function, "__name__", "") in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__")
        self.steps[self.step] += reading
        return function(*args, **(kwargs or {}))


def trained(
    steps: int, *, broken: int | None = None, clear: bool = True, device: str = "cpu", reads: Reads | None = None
) -> Ledger:
    """Returns the ledger of a training of two layers, whose loss is nan at the step that is `broken`."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(16, 3, generator=generator).to(device)
    first, second = (torch.randn(*shape, generator=generator).to(device) for shape in ((3, 4), (4, 1)))
    parameters = [torch.nn.Parameter(first), torch.nn.Parameter(second)]
    optimizer, ledger = torch.optim.SGD(parameters, lr=0.01), Ledger()
    with watched(ledger), reads or nullcontext():
        for step in range(steps):
            if reads is not None:
                reads.step = step
            if clear:
                optimizer.zero_grad()
            loss = ((x @ parameters[0]).relu() @ parameters[1] - x.sum(1, keepdim=True)).square().mean()
            (loss * (torch.nan if step == broken else 1.0)).backward()
            optimizer.step()
    return ledger


@pytest.mark.parametrize("broken", [None, 11])
@pytest.mark.parametrize("clear", [True, False])
def test_what_lies_on_a_device_is_read_in_blocks_and_says_the_same(
    monkeypatch: pytest.MonkeyPatch, broken: int | None, clear: bool
) -> None:
    plain = trained(100, broken=broken, clear=clear)
    for module in ("ledger", "readings"):
        monkeypatch.setattr(f"gradexplain.training.{module}.is_waited_for", lambda tensor: True)
    waiting = trained(100, broken=broken, clear=clear, reads=(reads := Reads()))
    assert {step for step, count in reads.steps.items() if count} == {*filter(is_looked_at, range(100))}
    assert reads.steps[64] == 2  # what was kept, and what the look has seen
    waiting.settle()
    assert list(map(str, waiting.trace)) == list(map(str, plain.trace))
    for own, other in zip(waiting.optimizers, plain.optimizers, strict=True):
        assert list(map(str, own.norms)) == list(map(str, other.norms))
        assert (own.stale, own.count, len(own.looks)) == (other.stale, other.count, len(other.looks))
        assert [str(look.rms) for look in own.looks] == [str(look.rms) for look in other.looks]
    flags = [(f.kind, f.step, f.backward, f.after) for ledger in (waiting, plain) if (f := ledger.flag)]
    assert flags == ([("loss", 11, 11, 11)] * 2 if broken else [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_losses_on_a_gpu_are_told_and_nothing_waits_for_them() -> None:
    ledger = trained(100, device="cuda", reads=(reads := Reads()))
    assert {step for step, count in reads.steps.items() if count} == {*filter(is_looked_at, range(100))}
    ledger.settle()
    assert list(ledger.trace) == pytest.approx(list(trained(100).trace), rel=1e-4)


def test_where_a_second_run_may_not_act_a_loss_that_is_not_finite_is_looked_into_by_its_graph(tmp_path: Path) -> None:
    script = tmp_path / "starts.py"
    script.write_text(
        "import subprocess, sys, torch\n"
        "w = torch.nn.Parameter(torch.ones(2))\n"
        "optimizer = torch.optim.SGD([w], lr=0.1)\n"
        "for step in range(6):\n"
        "    subprocess.run([sys.executable, '-c', ''], check=True)\n"
        "    optimizer.zero_grad()\n"
        "    loss = (w * (0.0 if step == 4 else 1.0)).sum().log()\n"
        "    loss.backward()\n"
        "    optimizer.step()\n"
    )
    training = run_training(script)
    first = training.record["findings"][0]
    assert (training.record["examined"], first["code"]) == ("graph", "first-not-finite")
    assert (first["step"], first["source"]["line"]) == (4, 7)


def test_what_learns_is_held_to_be_judged_and_let_go_before_another_model_is_made() -> None:
    ledger = Ledger()

    def train() -> ref:
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(4):
            model(torch.ones(2, 3)).sum().backward()
            torch.nn.MSELoss()  # a module without parameters is no other model
            optimizer.step()
        return ref(model)

    with watched(ledger):
        first = train()
        assert first() is not None
        torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        gc.collect()
        assert first() is None
        second = train()
        assert second() is not None
    ledger.let_go()
    gc.collect()
    assert second() is None


def test_workers_draw_the_same_only_where_nothing_tells_them_apart() -> None:
    class Own(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.generator = torch.Generator()
            self.made = torch.rand(3, generator=self.generator)

        def __getitem__(self, place: int) -> float:
            return random.gauss(0, 1)

    class Drawing(Own):
        def __getitem__(self, place: int) -> float:
            return float(torch.rand((), generator=self.generator))

    class Asking(Drawing):
        def __getitem__(self, place: int) -> float:
            self.generator.manual_seed(torch.utils.data.get_worker_info().seed + place)
            return super().__getitem__(place)

    def alike(worker: int) -> None:
        random.seed(0)

    def apart(worker: int) -> None:
        random.seed(worker)

    def drawn(data: Own, **options: object) -> str | None:
        found = same_draws(torch.utils.data.DataLoader(data, **{"num_workers": 2, **options}))
        return None if found is None else found.code

    assert drawn(Drawing()) == "self.generator"
    assert drawn(torch.utils.data.Subset(Drawing(), [0, 1])) == "self.generator"
    assert drawn(Own(), worker_init_fn=alike) == "random.seed(0)"
    assert drawn(Own(), worker_init_fn=lambda worker: random.seed(7)) == "random.seed(7)"
    quiet = [drawn(Own()), drawn(Asking()), drawn(Drawing(), worker_init_fn=apart), drawn(Own(), worker_init_fn=apart)]
    assert [*quiet, drawn(Drawing(), num_workers=1), drawn(Drawing(), num_workers=0)] == [None] * 6


KEEPING = """
import torch

class Centred(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.ring = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)), Ring()
        self.register_buffer("centre", torch.zeros(8))

    def forward(self, x):
        h = self.net[:2](x)
        out = self.net[2](h - self.centre.detach())
        {statement}
        return out

class Ring:
    def __init__(self):
        self.itself = self

torch.manual_seed(0)
model = Centred()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
outputs = []
for step in range(40):
    x = torch.randn(16, 4)
    loss = torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("statement", "change"),
    [
        (
            "self.centre = 0.9 * self.centre + 0.1 * h.mean(0)",
            "self.centre = (0.9 * self.centre + 0.1 * h.mean(0)).detach()",
        ),
        ("self.centre = 0.9 * self.centre + 0.1 * h.mean(0).detach()", None),
        ("outputs.append(out)", "outputs.append(out.detach())"),
        ("outputs[:] = [*outputs[-3:], out]", None),  # a few of the last
        ("self.ring = Ring(); self.ring.out = out", None),  # alive until Python collects what only holds itself
    ],
)
def test_what_keeps_a_part_of_earlier_graphs_is_told_by_its_line(
    statement: str, change: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "train.py"
    path.write_text(KEEPING.format(statement=statement))
    training = run_training(path)
    assert training.codes == ["graphs-kept"] * (change is not None)
    for found in training.record["findings"]:
        assert found["source"]["code"] == statement
        assert (found["remedy"]["change"], found["remedy"]["tried"]) == (change, True)


# fmt: off
COURSES = [  # the loss of a weight that starts at ones, the learning rates at first and from step 10 on, steps, found
    ("w.square().sum()",                         (0.01, 1.2),   60, ["rate-too-high"]),
    ("-w.square().sum()",                        (0.1, 0.1),    60, []),
    ("-w.square().sum()",                        (0.1, 0.1),   120, ["falls-without-bound"]),
    ("-w.square().sum()",                         (0.1, 0.1),   260, ["falls-without-bound"]),  # to −∞
    ("-(1e9 * (w.square() - 1).tanh()).sum()",   (1e-12, 1e-12), 120, []),  # it slows down
    ("-w.sum()",                                 (1e4, 1e4),   120, []),  # its gradient stays
    ("(1e-3 / w.exp().square() + w).sum()",      (0.5, 0.5),   120, []),  # the density of what hardly differs
]
# fmt: on


@pytest.mark.parametrize(("loss", "rates", "steps", "found"), COURSES)
def test_a_loss_that_falls_is_not_blamed_on_the_rate(loss: str, rates: tuple, steps: int, found: list) -> None:
    w = torch.nn.Parameter(torch.ones(2, 3))
    with gx.watch(quiet=True) as watch:
        optimizer = torch.optim.SGD([w], lr=rates[0])
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rates[step >= 10]
            optimizer.zero_grad()
            eval(loss, {"w": w}).backward()
            optimizer.step()
    assert [finding.code for finding in watch.report.findings] == found


def test_what_two_work_on_may_fall_by_the_other() -> None:
    w, v = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    with gx.watch(quiet=True) as watch:
        optimizers = [torch.optim.SGD([p], lr=0.1) for p in (w, v)]
        for _ in range(120):
            for optimizer in optimizers:
                optimizer.zero_grad()
                (-w.square().sum() - v.square().sum()).backward()
                optimizer.step()
    assert not watch.report.findings


@pytest.mark.skipif(minor_release(torch.__version__) < (2, 6), reason="torch cannot be told to leave off compiling")
@pytest.mark.parametrize("step", [5, 99])
def test_the_line_of_a_compiled_module_is_told(step: int, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(f"""import torch

class Length(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.move = torch.nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return (self.move(x) ** 2).sum(-1).sqrt()

torch.manual_seed(0)
model = torch.compile(Length(), backend="aot_eager")
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
for step in range(8):
    x = torch.rand(8, 3) + 0.1
    if step == {step}:
        x[2] = 0
    loss = (model(x) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""")
    found = run_training(path).record["findings"]
    assert [(f["code"], f["step"], f["source"]["line"]) for f in found] == (
        [("first-gradient-not-finite", 5, 9)] if step == 5 else []
    )
