"""Several processes against one, by torchrun on this machine."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import alone, make, mean_step

import gradexplain as gx
from gradexplain.comparison.ranks import Job

ROOT = Path(__file__).parent.parent
PAIRS = "tests/pairs.py"


def ranks(count: int, step: str, *options: str, x: str = "randn(6,4)") -> tuple[int, dict[str, Any], str]:
    """Returns torchrun's exit code, the record that the first rank printed, and what was said beside it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    compare = ["-m", "gradexplain", "compare", f"{PAIRS}:{step}", f"x={x}", "--against", "single"]
    asked = [*torchrun, *compare, "--model", f"{PAIRS}:make", "--format", "json", *options]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else {}, done.stderr


@pytest.mark.thorough
def test_two_ranks_that_shard_a_model_and_take_the_mean_are_one_process() -> None:
    code, record, _ = ranks(2, "mean_step", "--wrap", f"{PAIRS}:sharded")
    assert (code, record["verdict"]) == (0, "same")
    assert record["b"] == "tests/pairs.py:mean_step, 2 ranks"


def test_a_sum_where_a_mean_belongs_is_a_factor_of_the_ranks() -> None:
    code, record, _ = ranks(3, "sum_step")
    assert (code, record["verdict"]) == (1, "differs")
    pattern = record["tensors"][0]["pattern"]["data"]
    assert (pattern["factor"], pattern["kind"]) == ("1/3", "ranks")


def test_ranks_that_do_not_hear_of_each_other_are_named() -> None:
    code, record, said = ranks(2, "mean_step", "--wrap", f"{PAIRS}:alone")
    assert (code, record["verdict"]) == (1, "differs"), said
    assert record["findings"][0]["code"] == "ranks-apart"


@pytest.mark.thorough
def test_a_model_that_is_divided_by_tensors_is_one_process_and_a_factor_is_found() -> None:
    wrap = ("--wrap", f"{PAIRS}:tensor_parallel", "--divide", "none")
    code, record, said = ranks(2, "mean_step", *wrap)
    assert (code, record.get("verdict")) == (0, "same"), said
    assert {t["name"] for t in record["tensors"]} == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.thorough
def test_a_sequence_in_shards_is_one_process_where_the_loss_is_a_mean() -> None:
    shards = ("--divide", "1")
    code, record, said = ranks(2, "mean_step", *shards, x="randn(2,6,4)")
    assert (code, record.get("verdict")) == (0, "same"), said
    code, record, _ = ranks(2, "mean_step", *shards, x="randn(2,5,4)")  # shards of 3 and 2
    assert (code, record["verdict"]) == (1, "differs")
    code, record, _ = ranks(2, "sum_step", *shards, x="randn(2,6,4)")
    assert (code, record["tensors"][0]["pattern"]["data"]["factor"]) == (1, "1/2")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("wrap", "wrong"),
    [("right", set()), ("forgetful", {f"{n}.{p}" for n in ("key", "value") for p in ("weight", "bias")})],
)
def test_attention_over_shards_by_collectives_of_the_user(wrap: str, wrong: set[str]) -> None:
    of_shards = ("--model", "tests/shards.py:make", "--wrap", f"tests/shards.py:{wrap}", "--divide", "1")
    code, record, said = ranks(2, "mean_step", *of_shards, x="randn(2,6,4)")
    assert (code, record.get("verdict")) == ((1, "differs") if wrong else (0, "same")), said
    assert {t["name"] for t in record["tensors"] if t["verdict"] == "differs"} == wrong


@pytest.mark.thorough
def test_a_rank_that_hangs_is_named_and_nothing_is_left_running() -> None:
    code, record, said = ranks(2, "hanging_step", "--patience", "5")
    assert (code != 0, record) == (True, {})
    assert "Rank 1 was waited for in vain, by rank 0" in said
    assert not any("hanging_step" in line for line in running())


@pytest.mark.thorough
def test_a_rank_that_fails_says_why() -> None:
    code, record, said = ranks(2, "failing_step", "--patience", "10")
    assert (code != 0, record) == (True, {})
    assert "On rank 1 the step failed: no such shard" in said
    assert not any("failing_step" in line for line in running())


def running() -> list[str]:
    """Returns the command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace").replace("\0", " "))
    return found


def test_what_cannot_be_divided_or_has_no_ranks_is_refused(command: Any) -> None:
    job = Job(mean_step, make, alone, {"x": torch.randn(3, 4)})
    assert [len(job.divided(rank, 2)["x"]) for rank in (0, 1)] == [2, 1]
    with pytest.raises(gx.InputError, match="4 ranks cannot divide 3 rows"):
        job.divided(0, 4)
    asked = ("compare", f"{PAIRS}:mean_step", "x=randn(4,4)", "--against", "single")
    assert "--model" in command(*asked).err
    lonely = command(*asked, "--model", f"{PAIRS}:make")
    assert (lonely.code, "not started by torchrun" in lonely.err) == (2, True)
