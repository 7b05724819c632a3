"""`gradexplain run` as a process: what a script sees, what it prints, how it ends, and where we speak."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import FOLDER

from gradexplain.cli.training import Saying
from gradexplain.training.launching import Ending, Script
from gradexplain.training.report import TrainingReport
from gradexplain.training.session import Session, own_file

TRAINING = """
import sys, torch
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(32, 3)
for step in range({steps}):
    loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    {each}
print("weights", [w.hex() for w in model.weight.flatten().tolist()], torch.rand(1).item().hex())
{end}
"""


def script(folder: Path, *, steps: int = 12, each: str = "pass", end: str = "", name: str = "train.py") -> Path:
    path = folder / name
    path.write_text(TRAINING.format(steps=steps, each=each, end=end))
    return path


def run(*arguments: object, cwd: Path | None = None, given: str = "") -> subprocess.CompletedProcess:
    return plainly("-m", "gradexplain", "run", *arguments, cwd=cwd, given=given)


def plainly(*arguments: object, cwd: Path | None = None, given: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=cwd, input=given, start_new_session=True
    )


SEES = """
import os, sys, __main__
from beside import word
print(sys.argv, sys.path[0], __file__, __name__, __package__, __spec__ and __spec__.name, os.getcwd(), word)
print(sys.stdin.read(), sys.stderr.isatty(), __main__ is sys.modules["__main__"], __main__.word)
sys.stderr.write("own words\\n")
class Kept: ...
import pickle, atexit; pickle.loads(pickle.dumps(Kept()))
atexit.register(print, "last word")
"""


def test_a_script_sees_what_it_sees_without_us(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "beside.py").write_text("word = 'beside'\n")
    (tmp_path / "inner" / "sees.py").write_text(SEES)
    arguments = ("inner/sees.py", "--epochs", "3", "-m", "--help", "--", "x")
    ours, own = (act(*arguments, cwd=tmp_path, given="typed") for act in (run, plainly))
    assert (ours.stdout, ours.returncode) == (own.stdout, own.returncode)
    assert ours.stderr.startswith(own.stderr)
    assert "No training seen" in ours.stderr


READS = """
import sys, torch
torch.manual_seed(0)
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=float(input()))
x = torch.rand(70, 4)
x[50] = 0
for line in sys.stdin:
    rows = x[int(line) : int(line) + 10]
    shares = rows / rows.sum(1, keepdim=True)
    optimizer.zero_grad()
    model(shares).sum().backward()
    optimizer.step()
"""


@pytest.mark.thorough
@pytest.mark.parametrize("through", ["a file", "a pipe"])
def test_a_second_run_reads_a_file_again_and_of_a_pipe_it_is_said_that_it_ended_before(
    tmp_path: Path, through: str
) -> None:
    (tmp_path / "reads.py").write_text(READS)
    (tmp_path / "given.txt").write_text("the first line is read before\n0.1\n0\n10\n20\n30\n40\n50\n60\n")
    command = [sys.executable, "-m", "gradexplain", "run", "--format", "json", "--output", "report.json", "reads.py"]
    with (tmp_path / "given.txt").open() as given:
        os.lseek(given.fileno(), len("the first line is read before\n"), os.SEEK_SET)
        stream = {"stdin": given} if through == "a file" else {"input": given.read()}
        subprocess.run(command, cwd=tmp_path, timeout=120, check=False, capture_output=True, text=True, **stream)
    record = json.loads((tmp_path / "report.json").read_text())
    first = record["findings"][0]
    assert (record["steps"], first["step"]) == (7, 5)
    if through == "a file":
        assert (record["examined"], first["code"], first["element"]) == ("replay", "first-not-finite", "shares[0, 0]")
    else:
        assert (record["examined"], first["code"]) == ("stopped", "loss-not-finite")


def test_numbers_are_the_same_and_our_words_come_last_on_standard_error(tmp_path: Path) -> None:
    path = script(tmp_path, end="import sys; sys.exit(0)")
    ours, own = run(path), plainly(path)
    assert (ours.stdout, ours.returncode) == (own.stdout, own.returncode)
    assert "Nothing unusual in 12 steps." in ours.stderr


def test_a_script_begins_in_a_process_of_one_thread_that_a_second_run_can_be_forked_from(tmp_path: Path) -> None:
    path = tmp_path / "first.py"
    path.write_text("import os, sys\nprint(len(os.listdir('/proc/self/task')), {'numpy', 'torch'} & {*sys.modules})\n")
    assert run("--output", tmp_path / "report.html", path).stdout == "1 set()\n"


def test_a_module_is_run_as_python_does(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "beside.py").write_text("word = 'beside'\n")
    (package / "main.py").write_text(SEES.replace("from beside", "from .beside"))
    arguments = ("-m", "package.main", "--steps", "3")
    ours, own = (act(*arguments, cwd=tmp_path, given="typed") for act in (run, plainly))
    assert (ours.stdout, ours.returncode) == (own.stdout, own.returncode)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("end", "code"), [("sys.exit(7)", 7), ("sys.exit('gone')", 1), ("1 / 0", 1)])
def test_the_exit_code_and_the_traceback_are_the_script_s_own(tmp_path: Path, end: str, code: int) -> None:
    path = script(tmp_path, steps=4, end=end)
    ours, own = run(path), plainly(path)
    assert (ours.returncode, own.returncode) == (code, code)
    assert ours.stderr.startswith(own.stderr)
    assert ours.stdout == own.stdout


def test_a_finding_makes_1_of_0_and_goes_into_a_file(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    done = run("--output", output, FOLDER / "softmax_twice.py")
    assert done.returncode == 1
    record = json.loads(output.read_text(encoding="utf-8"))
    assert record["verdict"] == "found"
    assert record["findings"][0]["code"] == "softmax-twice"
    assert "softmax" not in done.stderr


def test_the_run_is_ended_before_what_is_not_finite_is_written_into_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "halts.py"
    body = (FOLDER / "norm_at_zero.py").read_text(encoding="utf-8").replace("from data", "from trainings.data")
    body = "try:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    path.write_text(body + "finally:\n    print(all(p.isfinite().all() for p in model.parameters()))\n")
    done = subprocess.run(
        [sys.executable, "-m", "gradexplain", "run", "--halt", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{FOLDER.parent}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.stdout.splitlines() == ["True"]
    assert done.returncode == 1
    assert "step 6, halts.py:20" in done.stderr


def test_steps_end_a_run_as_ctrl_c_would(tmp_path: Path) -> None:
    path = script(tmp_path, steps=10_000)
    path.write_text(
        "try:\n" + "".join(f"    {x}\n" for x in path.read_text().splitlines()) + "finally:\n    print('end')"
    )
    done = run("--steps", 5, path)
    assert done.stdout == "end\n"
    assert done.returncode == 0
    assert "after 5 steps" in done.stderr


def test_ctrl_c_is_told_what_was_seen(tmp_path: Path) -> None:
    path = script(tmp_path, steps=10_000, each="print(step, flush=True); import time; time.sleep(0.01)")
    process = subprocess.Popen(
        [sys.executable, "-m", "gradexplain", "run", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )  # fmt: skip
    assert process.stdout is not None
    while process.stdout.readline() != "20\n":
        time.sleep(0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "KeyboardInterrupt" in said
    assert "ended before its end" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Nothing to run"),
        (("nowhere.py",), "nowhere.py cannot be read: No such file or directory."),
        (("-m", "nowhere.at.all"), "There is no module nowhere.at.all to run"),
        (("--steps", "0", "x.py"), "steps"),
    ],
)
def test_bad_usage_is_said_in_a_sentence(arguments: tuple, said: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


REFRESHED = """
import sys
import gradexplain.training.session as session
session.SOON = session.OFTEN = session.SHARE = 0.0
from gradexplain.__main__ import main
sys.argv[1:1] = ["run"]
main()
"""


def test_the_file_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    path = script(tmp_path, end="import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    output = tmp_path / "report.json"
    command = [sys.executable, "-c", REFRESHED, "--output", str(output), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    record = json.loads(output.read_text(encoding="utf-8"))
    # Refreshed at the end of every backward pass: at the last one, eleven steps of the optimizer were done.
    assert (record["steps"], record["interrupted"]) == (11, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "train.py"]


ENDED = """
import os, signal, time
child = os.fork()
if child == 0: time.sleep(20); os._exit(5)
os.kill(child, signal.SIGTERM); print(os.waitpid(child, 0)[1], flush=True)
os.kill(os.getpid(), signal.SIGTERM); print("not here")
"""


def test_a_signal_that_ends_a_script_or_its_child_ends_it_still(tmp_path: Path) -> None:
    done = run(script(tmp_path, end=ENDED))
    assert (done.stdout.splitlines()[1:], done.returncode) == (["15"], -15)
    assert "ended before its end, after 12 steps" in " ".join(done.stderr.split())


OWN = """
import os, signal
print(signal.getsignal(15), signal.signal(15, lambda *_: print("own")), flush=True)
os.kill(os.getpid(), 15); print("on")
"""


def test_what_a_script_does_with_a_signal_is_its_own(tmp_path: Path) -> None:
    done = run(script(tmp_path, end=OWN))
    assert (done.stdout.splitlines()[1:], done.returncode) == (["0 0", "own", "on"], 0)
    assert "Nothing unusual in 12 steps." in done.stderr


def test_whoever_does_not_wait_for_a_second_run_is_told_what_the_first_showed(tmp_path: Path) -> None:
    class Interrupted(Session):
        def report(self, ending: Ending | None) -> TrainingReport:
            if ending is not None:
                raise KeyboardInterrupt
            return TrainingReport("train.py", 7, interrupted=True)

    output = tmp_path / "report.json"
    code = Saying(Interrupted(Script("train.py")), "json", output, "en", None).say(Ending(0))
    record = json.loads(output.read_text(encoding="utf-8"))
    assert (code, record["steps"], record["interrupted"]) == (0, 7, True)


def test_of_several_processes_each_has_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, name in {"0": "report.json", "1": "report-rank1.json", "12": "report-rank12.json"}.items():
        monkeypatch.setenv("RANK", rank)
        assert own_file(Path("out/report.json")) == Path("out", name)
    assert own_file(None) is None
