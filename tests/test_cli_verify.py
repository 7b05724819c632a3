"""`gradexplain verify` on the command line: what it names, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conftest import Run

MISTAKES = str(Path(__file__).with_name("mistakes.py"))
WRONG = ("verify", f"{MISTAKES}:loss", "x=1,2,3,4", "w=2,3,4,5")
Command = Callable[..., Run]
Process = Callable[[Sequence[str]], Run]

OWN = """
import torch
import torch.nn.functional as F


def relu(x):
    return F.relu(x).sum()


def dropout(x):
    return F.dropout(x, 0.5).sin().sum()


def stopped(x):
    return (x * x.detach()).sum()


def jump(x):
    return (x.round() * x).sum()


class Short(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        return x * w

    @staticmethod
    def backward(ctx, g):
        return g


def short(x, w):
    return Short.apply(x, w).sum()
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    file = tmp_path / "own_losses.py"
    file.write_text(OWN, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_subtly_wrong_function_is_named_with_line_input_element_and_factor(dtype: str, command: Command) -> None:
    found = command(*WRONG, "--dtype", dtype)
    assert found.code == 1
    page = " ".join(found.out.split())
    for part in ("Weighted", "mistakes.py:25", "backward at mistakes.py:15", "one element of x, (1,)", "1.001 times"):
        assert part in page


@pytest.mark.parametrize(
    ("name", "words"),
    [("relu", "exactly at a kink"), ("dropout", "draws random numbers"), ("stopped", "stops the gradient")],
)
def test_what_only_looks_like_an_error_is_named_and_agrees(name: str, words: str, own: str, command: Command) -> None:
    found = command("verify", f"{own}:{name}", "x=0,1,-1", "--stops", "intended")
    assert found.code == 0
    assert words in " ".join(found.out.split())
    assert "is wrong" not in found.out


def test_what_cannot_be_decided_has_an_exit_code_of_its_own(own: str, command: Command) -> None:
    assert command("verify", f"{own}:jump", "x=0.5").code == 3


def test_a_wrong_count_of_gradients_is_said_in_words(own: str, command: Command) -> None:
    found = command("verify", f"{own}:short", "x=1,2", "w=3,4")
    assert found.code == 2
    for part in ("Short", "returned 1 where 2 are needed", "grad_x (2,), grad_w (2,)"):
        assert part in found.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing.json",), "cannot be read"),
        (("nothing.json", "x=1"), "brings its own inputs"),
        (("sum(x**2)",), "x=1,2,3"),
        (("sum(x**2)", "x=1", "--effort", "0"), "effort"),
        (("sum(x**2)", "x=1", "--by-hand", "w=2"), "w"),
        (("sum(x**2)", "x=1", "--dtype", "int8"), "int8"),
        (("sum(x**2)", "x=1", "--format", "papyrus"), "papyrus"),
    ],
)
def test_bad_input_gets_a_sentence(arguments: tuple[str, ...], words: str, command: Command) -> None:
    found = command("verify", *arguments)
    assert found.code == 2
    assert words in found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize("option", ["--full", "--second", "--batched", "--exact", "--each-operation"])
def test_every_kind_of_check_can_be_asked_for(option: str, command: Command) -> None:
    found = command("verify", "log_softmax(x, 0)", "x=0.3,1.7,-0.4", option)
    assert found.code == 0
    assert len(found.out) > len(command("verify", "log_softmax(x, 0)", "x=0.3,1.7,-0.4").out)


def test_json_holds_what_was_found(command: Command) -> None:
    found = json.loads(command(*WRONG, "--format", "json").out)
    assert found["verdict"] == "differs"
    (wrong,) = [o for o in found["operations"] if o["verdict"] == "differs"]
    assert wrong["label"] == "Weighted"


def test_a_receipt_is_derived_again_and_a_broken_one_refused(tmp_path: Path, command: Command) -> None:
    receipt = tmp_path / "receipt.json"
    assert command("verify", "sum(x**2)", "x=1,2,3", "--output", str(receipt)).code == 0
    assert command("verify", str(receipt)).code == 0
    broken = tmp_path / "broken.json"
    record = json.loads(receipt.read_text(encoding="utf-8"))
    record["gradients"]["x"][1] *= 1.5
    broken.write_text(json.dumps(record), encoding="utf-8")
    found = command("verify", str(broken), "--language", "zh")
    assert found.code == 1
    assert "✗" in found.out


@pytest.fixture
def program_receipt(tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a receipt of a program that notes each time it is imported."""
    monkeypatch.chdir(tmp_path)
    source = "open('ran', 'a').write('.')\ndef f(x):\n    return (x**2).sum()\n"
    (tmp_path / "program.py").write_text(source)
    assert process(["verify", "program.py:f", "x=1,2,3", "--output", "receipt.json"]).code == 0
    return tmp_path / "ran"


@pytest.mark.sampled(2)
def test_a_program_in_a_receipt_runs_only_with_consent(program_receipt: Path, process: Process) -> None:
    before = program_receipt.read_text()
    refused = process(["verify", "receipt.json"])
    assert (refused.code, refused.out) == (2, "")
    assert "program.py:f" in refused.err
    assert "gradexplain verify receipt.json --trust" in refused.err
    assert program_receipt.read_text() == before
    assert process(["verify", "receipt.json", "--trust"]).code == 0
    assert program_receipt.read_text() == before + "."


@pytest.mark.sampled(2)
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("answer", "code", "runs"), [("y", 0, 1), ("n", 2, 0)])
def test_the_terminal_asks_before_a_program_in_a_receipt_runs(
    answer: str, code: int, runs: int, program_receipt: Path
) -> None:
    import pty

    before = program_receipt.read_text()
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "gradexplain", "verify", "receipt.json"]
    with subprocess.Popen(words, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs) as run:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said = b"".join(until_closed(ours))
        assert run.wait(timeout=120) == code
    os.close(ours)
    assert b"Do you trust that code?" in said
    assert program_receipt.read_text() == before + "." * runs


def until_closed(terminal: int) -> Iterator[bytes]:
    """Yields what is written to a terminal, until nobody has it open any more."""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 10_000):
            yield part


def test_both_languages_say_the_same_numbers(command: Command) -> None:
    pages = [command(*WRONG, "--language", language).out for language in ("en", "zh")]
    for page in pages:
        assert "1.001" in page
        assert "2.2405195" in page
        assert "2.2382812" in page
