"""The command line: exit codes, bad input, files, real processes and a real terminal."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradexplain import lessons as course
from gradexplain.cli import teaching
from gradexplain.figures.design import designs
from gradexplain.versions.releases import version_line

BAD = [
    # arguments, a word that the sentence must hold
    (["explain"], "TARGET"),
    (["explain", "sum(x**2)"], "x"),
    (["explain", "sum(x**2)", "z=1"], "z"),
    (["explain", "sum(x**2)", "x=1", "x=2"], "x"),
    (["explain", "sum(x**2)", "x=1,,2"], "comma"),
    (["explain", "sum(x**2)", "x=[[1,2],[3]]"], "row"),
    (["explain", "sum(x**2)", "x=@missing.npy"], "missing.npy"),
    (["explain", "sum(x**2)", "x=randn(10000,1000000)"], "GiB"),
    (["explain", "__import__('os')"], "line 1, column 1"),
    (["explain", "x.__class__", "x=1"], "__class__"),
    (["explain", "().__class__.__bases__"], "__"),
    (["explain", "9**9**9"], "line 1"),
    (["explain", "(" * 500 + "x" + ")" * 500, "x=1"], "nest"),
    (["explain", "sum(randn(100000,100000))"], "GiB"),
    (["explain", "sun(x)", "x=1"], "sum"),
    (["explain", "sum(x", "x=1"], "line 1"),
    (["explain", "A @ B", "A=[[1,2]]", "B=[[1,2]]"], "A @ B"),
    (["explain", "x**2", "x=1", "--wrt", "z"], "z"),
    (["explain", "x**2", "x=1", "--order", "0"], "order"),
    (["explain", "x**2", "x=1", "--order", "99"], "order"),
    (["explain", "x**2", "x=1,2", "--cotangent", "1,2,3"], "shape"),
    (["explain", "x**2", "x=1,2", "--cotangent", "abc"], "abc"),
    (["explain", "x**2", "x=1,2", "--by-hand", "2*x"], "NAME=FORMULA"),
    (["explain", "x**2", "x=1,2", "--by-hand", "z=2*x"], "z"),
    (["explain", "x**2", "x=1,2", "--by-hand", "x=2*q"], "q"),
    (["explain", "x**2", "x=1,2", "--by-hand", "x=__import__('os')"], "line 1"),
    (["explain", "x**2", "x=1,2", "--dtype", "int64"], "float32"),
    (["explain", "x**2", "x=1,2", "--element", "x[7]"], "x[7]"),
    (["explain", "x**2", "x=1,2", "--element", "z[0]"], "z[0]"),
    (["explain", "x**2", "x=1,2", "--element", "x[a]"], "x[a]"),
    (["explain", "x**2", "x=1,2", "--module", "layers.0"], "layers.0"),
    (["explain", "x**2", "x=1,2", "--language", "fr"], "en, zh"),
    (["explain", "x**2", "x=1,2", "--format", "docx"], "terminal"),
    (["explain", "x**2", "x=1,2", "--width", "3"], "40"),
    (["explain", "x**2", "x=1,2", "--seed", "-1"], "seed"),
    (["explain", "x**2", "x=1,2", "--output", "/nowhere/at/all.txt"], "cannot be written"),
    (["explain", "x**2", "x=1,2", "--output", "a.docx"], "suffix"),
    (["explain", "no.such.module:f"], "no.such.module"),
    (["explain", "missing.py:f"], "missing.py"),
    (["explain", "x**2", "x=1,2", "--nonsense"], "--nonsense"),
    (["graph"], "TARGET"),
    (["graph", "sum(x**2)"], "x"),
    (["graph", "sum(x**2)", "x=1", "--view", "sideways"], "backward, forward"),
    (["graph", "sum(x**2)", "x=1", "--show", "colours"], "shapes"),
    (["graph", "sum(x**2)", "x=1", "--format", "docx"], "mermaid"),
    (["graph", "sum(x**2)", "x=1", "--output", "a.docx"], "suffix"),
    (["graph", "sum(x**2)", "x=1", "--output", "/nowhere/at/all.svg"], "cannot be written"),
    (["graph", "sum(x**2)", "x=1", "--max-nodes", "0"], "--max-nodes"),
    (["graph", "sum(x**2)", "x=1", "--radius", "-1"], "--radius"),
    (["graph", "sum(x**2)", "x=1", "--around", "nothing"], "nothing"),
    (["graph", "sum(x**2)", "x=1", "--module", "layers"], "layers"),
    (["graph", "sum(x**2)", "x=1", "--path", "y", "x"], "earlier"),
    (["graph", "x.detach()", "x=1"], "detach"),
    (["graph", "argmax(x)", "x=1,2"], "integers"),
    (["graph", "x", "x=1:int64"], "floating"),
    (["nonsense"], "nonsense"),
    (["explain", "x^2", "x=3"], "x**2"),
    (["explain", "2x", "x=3"], "write 2*x"),
    (["explain", "x²", "x=3"], "write x**2"),
    (["explain", "f(x)=x**2", "x=3"], "write x**2"),
    (["explain", "np.sin(x)", "x=1"], "write sin"),
    (["explain", "mymod.loss", "x=1"], "mymod:loss"),
    (["graph", "model.pt"], "file of data"),
    (["explain", "sum(x)", "x={'a': 1}"], "dict"),
    (["explain", "sum(x)", "x=sum"], "word"),
    (["verify", "x**2", "x=1", "--rtol", "1e-3"], "no tolerance to choose"),
    (["explain", "x**2", "x=1", "--device", "cuda"], "CPU"),
    (["graph", "x**2", "x=1", "--device=cuda"], "CPU"),
    (["figure"], "Usage"),
    (["lesson", "99"], "from 1 to 27"),
    (["lesson", "0"], "from 1 to 27"),
    (["figure", "curv"], "Did you mean 'curve'?"),
]


@pytest.mark.parametrize(("arguments", "word"), BAD, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else None)
def test_bad_input_exits_2_with_a_sentence_and_no_traceback(arguments: list[str], word: str, command: Callable) -> None:
    found = command(*arguments)
    assert found.code == 2
    assert found.out == "" or "Usage" in found.err + found.out
    assert word.lower() in (found.err + found.out).lower()
    assert "Traceback" not in found.err
    assert "failed on its own account" not in found.err


NO_GRADIENT = [
    (["argmax(x)", "x=1,2"], "integers"),
    (["sum(detach(x))", "x=1,2"], "detach"),
    (["sum(ones(2))"], "no input to differentiate by"),
    (["mean(x.float())", "x=1,2:int64"], "1.0 instead of 1"),
]


@pytest.mark.parametrize("verb", ["explain", "verify"])
@pytest.mark.parametrize(("arguments", "word"), NO_GRADIENT, ids=lambda v: " ".join(v) if isinstance(v, list) else None)
def test_where_no_gradient_leads_back_there_is_nothing_to_decide(
    verb: str, arguments: list[str], word: str, command: Callable
) -> None:
    found = command(verb, *arguments)
    assert (found.code, found.err) == (3, "")
    assert word in " ".join(found.out.split())
    assert "✓" not in found.out


@pytest.mark.parametrize(
    ("arguments", "word"), BAD[1:20], ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else None
)
def test_bad_input_is_told_in_chinese_too(arguments: list[str], word: str, command: Callable) -> None:
    found = command(*arguments, "--language", "zh")
    assert found.code == 2
    assert any("\u4e00" <= c <= "\u9fff" for c in found.err)


def test_nothing_is_executed_from_an_expression(tmp_path: Path, command: Callable) -> None:
    target = tmp_path / "planted"
    for text in (f"open('{target}', 'w')", f"__import__('pathlib').Path('{target}').touch()", f"exec('{target}')"):
        assert command("explain", text).code == 2
    assert not target.exists()


def test_help_shows_examples(command: Callable) -> None:
    found = command("explain", "--help")
    assert found.code == 0
    assert 'gradexplain explain "sum(x**2)" x=1,2,3' in found.out


def test_the_functions_of_expressions_are_listed(command: Callable) -> None:
    found = command("functions")
    assert found.code == 0
    assert all(f" {name} " in found.out.replace("\n", " ") for name in ("cross_entropy", "matmul", "detach", "pi"))


# ------------------------------------------------------------------------------------------------- targets and files

MODULE = """
import torch
from torch import nn

W = nn.Parameter(torch.tensor([1.0, 2.0]))

def loss(x, scale=2.0):
    return scale * (x**2).sum()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)
    def forward(self, x):
        return self.fc(x).sum()

net = Net()

def broken(x):
    raise ValueError("halfway")

def own():
    return torch.ones(2, requires_grad=True).sum()

def whole(n):
    return (n * torch.ones(2, requires_grad=True)).sum()

def leaves():
    import sys
    sys.exit(7)

def text():
    return "no tensor"
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "some_module.py"
    path.write_text(MODULE)
    return path


def test_a_function_in_a_file_is_explained_with_its_source_lines(module: Path, command: Callable) -> None:
    found = command("explain", f"{module}:loss", "x=1,2,3")
    assert found.code == 0
    assert "some_module.py:8" in found.out
    assert "∂y/∂x = [4, 8, 12]" in found.out


def test_a_module_in_a_file_has_its_parameters_as_inputs(module: Path, command: Callable) -> None:
    for name in ("Net", "net"):
        found = command("explain", f"{module}:{name}", "x=[[1,2],[3,4]]")
        assert found.code == 0
        assert "∂y/∂fc.weight = [[4, 6]]" in found.out
        assert "∂y/∂fc.bias = [2]" in found.out


@pytest.mark.parametrize(
    ("name", "word"),
    [("broken", "halfway"), ("missing", "missing"), ("W", "W"), ("text", "no tensor"), ("leaves", "exit")],
)
def test_a_target_that_cannot_be_used_is_a_sentence(module: Path, name: str, word: str, command: Callable) -> None:
    found = command("explain", f"{module}:{name}", *(["x=1,2"] if name == "broken" else []))
    assert found.code == 2
    assert word in found.err
    assert "Traceback" not in found.err


def test_values_come_from_files(tmp_path: Path, command: Callable) -> None:
    import numpy as np

    np.save(tmp_path / "x.npy", np.array([1.0, 2.0]))
    torch.save(torch.tensor([1.0, 2.0]), tmp_path / "x.pt")
    for name in ("x.npy", "x.pt"):
        assert "[2, 4]" in command("explain", "sum(x**2)", f"x=@{tmp_path / name}").out


def test_a_seed_makes_random_values_repeatable(command: Callable) -> None:
    first = command("explain", "sum(x**2)", "x=randn(3)", "--seed", "1").out
    other = command("explain", "sum(x**2)", "x=randn(3)", "--seed", "2").out
    assert first != other
    again = subprocess.run(
        [sys.executable, "-m", "gradexplain", "explain", "sum(x**2)", "x=randn(3)", "--seed", "1"],
        capture_output=True,
        text=True,
    ).stdout
    assert again == first


def test_output_goes_to_a_file_whole_or_not_at_all(tmp_path: Path, command: Callable) -> None:
    path = tmp_path / "a.json"
    found = command("explain", "sum(x**2)", "x=1,2,3", "--output", str(path))
    assert found.code == 0
    assert json.loads(path.read_text(encoding="utf-8"))["gradients"] == {"x": [2.0, 4.0, 6.0]}
    failed = command("explain", "sum(y**2)", "x=1,2,3", "--output", str(tmp_path / "b.json"))
    assert failed.code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json"]


# ------------------------------------------------------------------------------------------------- processes


def test_exit_codes_reach_the_shell(process: Callable) -> None:
    assert process(["explain", "sum(x**2)", "x=1,2,3"]).code == 0
    assert process(["explain", "sum(x**2)", "x=1,2,3", "--by-hand", "x=3*x"]).code == 1
    assert process(["explain", "sum(x**2)"]).code == 2
    assert process(["explain", "sum(sqrt(x))", "x=0,1"]).code == 3


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    run = f"{sys.executable} -m gradexplain explain 'sum(x**2)' x=1,2,3 | head -1"
    done = subprocess.run(["bash", "-c", run], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_output_that_is_not_utf_8_is_no_traceback(process: Callable) -> None:
    found = process(["explain", "sum(x**2)", "x=1,2,3"], PYTHONIOENCODING="ascii")
    assert "Traceback" not in found.err


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, a real terminal; apt-get install tmux")
def test_a_real_terminal_gets_colours_and_its_own_width(tmp_path: Path) -> None:
    name, out = f"gx{os.getpid()}", tmp_path / "done"
    shell = f"{sys.executable} -m gradexplain explain 'x**2 + 2*x' x=3 --language zh; echo $? > {out}; sleep 60"
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    subprocess.run(
        ["tmux", "-u", "new-session", "-d", "-s", name, "-x", "90", "-y", "120", shell], check=True, env=environment
    )
    try:
        for _ in range(120):
            if out.exists() and out.read_text().strip():
                break
            time.sleep(0.5)
        shown = subprocess.run(
            ["tmux", "capture-pane", "-p", "-e", "-t", name], capture_output=True, text=True, check=True
        )
    finally:
        subprocess.run(["tmux", "kill-session", "-t", name], check=False)
    assert out.read_text().strip() == "0"
    assert "\x1b[" in shown.stdout
    assert "6 + 2 = 8" in shown.stdout
    assert "前向传播" in shown.stdout


@pytest.mark.parametrize("suffix", ["txt", "svg", "png", "pdf", "dot", "mmd", "json", "html"])
def test_a_graph_is_written_in_the_format_of_its_suffix(suffix: str, tmp_path: Path, command: Callable) -> None:
    path = tmp_path / f"graph.{suffix}"
    found = command("graph", "sum(x * exp(x))", "x=1,2", "--show", "shapes,values,gradients", "--output", str(path))
    assert (found.code, found.err) == (0, "")
    assert path.stat().st_size > 100
    assert str(path) in found.out


def test_a_graph_is_drawn_in_the_terminal_with_both_uses_of_a_value(command: Callable) -> None:
    drawn = command("graph", "sum(x*x)", "x=1,2,3").out
    assert "MulBackward0" in drawn
    assert drawn.count("▶") == 3


def test_the_parts_of_a_graph_can_be_asked_for(command: Callable) -> None:
    near = command("graph", "sum(tanh(sin(x)))", "x=1", "--around", "x", "--radius", "1").out
    assert "SinBackward0" in near
    assert "TanhBackward0" not in near
    way = command("graph", "sum(tanh(sin(x)) + y)", "x=1", "y=2", "--path", "SinBackward0", "TanhBackward0").out
    assert "AddBackward0" not in way
    assert "≤" not in command("graph", "sum(x**2)", "x=1,2", "--view", "elements", "--language", "zh").err


def test_a_graph_that_goes_elsewhere_as_bytes_is_those_bytes(process: Callable) -> None:
    run = [sys.executable, "-m", "gradexplain", "graph", "sum(x**2)", "x=1,2", "--format", "png"]
    assert subprocess.run(run, check=True, capture_output=True).stdout.startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------ what people expect of a command


@pytest.mark.parametrize("arguments", [["--version"], ["-V"], ["version"]])
def test_the_versions_are_said_in_one_line(arguments: list[str], command: Callable) -> None:
    found = command(*arguments)
    assert (found.code, found.out) == (0, version_line() + "\n")


def test_help_is_a_command_too(command: Callable) -> None:
    assert command("help").out == command("--help").out
    assert command("help", "explain").out == command("explain", "--help").out


def test_the_shell_completes_commands(process: Callable) -> None:
    asked = {"_GRADEXPLAIN_COMPLETE": "complete_bash", "COMP_WORDS": "gradexplain ver", "COMP_CWORD": "1"}
    code = "from gradexplain.cli.app import app; app(prog_name='gradexplain')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["verify"]
    assert "--show-completion" in process(["--help"]).out


def test_lessons_and_figures_are_listed_and_lessons_have_numbers(command: Callable) -> None:
    assert command("lesson", "--list").out == command("lesson").out
    assert {line.split()[0] for line in command("figure", "--list").out.splitlines()} == {*designs()}
    for number, name in enumerate(course.names(), 1):
        assert f" lesson {name} " in command("lesson", str(number), "--help").out


def test_the_next_lesson_is_the_one_after_the_last_that_was_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(teaching, "_LAST", tmp_path / "folder" / "lesson")
    names = course.names()
    assert teaching._meant("next") == names[0]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    teaching._remember(names[2])
    assert teaching._meant("next") == names[3]
    teaching._remember(names[-1])
    assert teaching._meant("next") == names[0]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    teaching._remember(names[2])
    assert teaching._meant("next") == names[0]


def test_what_other_tools_have_is_answered_in_the_language_asked_for(command: Callable) -> None:
    found = command("verify", "x**2", "x=1", "--atol", "1", "--language", "zh")
    assert found.code == 2
    assert "没有容差可选" in found.err
    assert "是不是想写“curve”" in command("figure", "curv", "--language", "zh").err


@pytest.mark.parametrize("verb", ["explain", "verify"])
def test_of_inputs_without_elements_nothing_is_claimed(verb: str, command: Callable) -> None:
    found = command(verb, "sum(x*x)", "x=zeros(0)")
    assert (found.code, found.err) == (3, "")
    first = next(line for line in found.out.splitlines() if line.startswith("  "))
    assert first == "  ? There is nothing to check: x has no elements."
    assert "✓" not in found.out
    assert command(verb, "sum(x*x) + sum(y)", "x=zeros(0)", "y=1").code == 0


@pytest.mark.parametrize("verb", ["explain", "verify"])
def test_where_there_is_nothing_to_differentiate_by_nothing_is_claimed(
    verb: str, module: Path, command: Callable
) -> None:
    for target, word in (("own", "There is no input"), ("whole", "None of the inputs (n: int64)")):
        found = command(verb, f"{module}:{target}", *(["n=2:int64"] if target == "whole" else []))
        assert (found.code, found.err) == (3, "")
        assert word in found.out
        assert command("graph", f"{module}:{target}", *(["n=2:int64"] if target == "whole" else [])).code == 0


@pytest.mark.parametrize("text", ["max(x)", "amin(x)", "sum(exp(x))"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_value_that_was_given_is_not_said_to_be_made(text: str, value: str, command: Callable) -> None:
    found = command("explain", text, f"x=2,{value}")
    if "Notes" in found.out:
        assert f"What it starts from is not finite: x[1] is {value}." in found.out
    assert "value that is not finite is made" not in found.out
    assert "``" not in found.out


def test_a_figure_without_a_file_is_told_the_whole_line_that_was_typed(process: Callable) -> None:
    found = process(["figure", "surface", "x**2 + 4*y**2", "--at", "1,1"])
    assert found.code == 2
    assert "gradexplain figure surface 'x**2 + 4*y**2' --at 1,1 --output surface.svg" in found.err


def test_a_script_sees_no_arguments_but_its_own(tmp_path: Path, process: Callable) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\nLOADED = list(sys.argv)\n"
        "def f(x):\n    assert sys.argv == LOADED == [__file__], sys.argv\n    return (x * x).sum()\n"
    )
    found = process(["verify", f"{script}:f", "x=1,2", "--seed", "3"])
    assert found.code == 0, found.err


@pytest.mark.parametrize("verb", ["explain", "graph"])
def test_what_a_function_prints_does_not_stand_in_the_page(verb: str, tmp_path: Path, process: Callable) -> None:
    script = tmp_path / "talks.py"
    script.write_text("print('loaded')\ndef f(x):\n    print('called')\n    return (x * x).sum()\n")
    found = process([verb, f"{script}:f", "x=1,2", "--format", "json"])
    assert json.loads(found.out)
    assert {"loaded", "called"} <= set(found.err.split())


SHUTTING = {
    "closed": "sys.stdout.close()",
    "none": "sys.stdout = None",
    "wrapped": "wrap()",
}


@pytest.mark.parametrize("shutting", SHUTTING.values(), ids=SHUTTING)
def test_a_function_may_close_or_replace_its_streams(shutting: str, tmp_path: Path) -> None:
    script = tmp_path / "shuts.py"
    wrap = "if sys.stdout.encoding != 'cp437':\n        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'cp437')"
    script.write_text(
        f"import io, sys\ndef wrap():\n    {wrap}\n    print('called')\n"
        f"def f(x):\n    {shutting}\n    return (x * x).sum()\n"
    )
    words = [sys.executable, "-m", "gradexplain", "graph", f"{script}:f", "x=1,2", "--format", "json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "failed" in done.stderr) == (0, False)
    assert json.loads(done.stdout)
    assert ("called" in done.stderr) == ("wrap" in shutting)


def test_who_shuts_the_output_of_the_process_is_named(tmp_path: Path) -> None:
    script = tmp_path / "shuts.py"
    script.write_text("import os\ndef f(x):\n    os.close(1)\n    return (x * x).sum()\n")
    words = [sys.executable, "-m", "gradexplain", "explain", f"{script}:f", "x=1,2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert f"{script}:f closed the standard output" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
@pytest.mark.parametrize("arguments", [["explain", "sum(sin(x)**2)", "x=1,2"], ["explain", "x²", "x=1"], ["--version"]])
def test_a_console_of_any_encoding_shows_the_page(encoding: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradexplain", *arguments],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
    )
    said = (done.stdout + done.stderr).decode(encoding)
    assert "Traceback" not in said
    assert "failed on its own account" not in said
    assert done.returncode == (2 if "x²" in arguments else 0)
    if arguments[1:2] == ["sum(sin(x)**2)"] and encoding == "ascii":
        assert "dy/dx" in said
        assert "?" not in said.replace("?)", "")


def test_batch_normalisation_in_training_is_told_what_to_do(tmp_path: Path, command: Callable) -> None:
    (tmp_path / "net.py").write_text("import torch\nnet = torch.nn.BatchNorm1d(2)\n")
    found = command("graph", f"{tmp_path}/net.py:net", "input=randn(1,2)")
    assert found.code == 2
    assert ".eval()" in found.err
    assert "?" not in found.err


def test_a_typed_expression_has_its_own_place_in_a_comparison(command: Callable) -> None:
    found = command("compare", "x**2", "x.detach()", "x=1,2")
    assert found.code == 2
    assert "B gives no gradient." in found.err
    assert "x.detach() (at <expression>:1) detached it" in found.err
    assert "sin(x)" in command("compare", "x**2", "sin(x) * x", "x=1,2").out
