"""Trainings under watch, each in a process of its own: a script is run as `gradexplain run` runs it."""

import contextlib
import io
import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import gradexplain.narration.trainings  # registers how reports are told
import gradexplain.training.session
from gradexplain.training.launching import Script, launched
from gradexplain.training.session import Session

FOLDER = Path(__file__).parent / "trainings"
MARK = "# cause"
# Forks of a process that has torch and has run nothing with it: what runs on many threads cannot be forked.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "gradexplain.narration.trainings", "gradexplain.training.examination"])


@dataclass(frozen=True)
class Training:
    """What a script printed, how it ended, and what was said of it."""

    record: dict[str, Any]
    losses: list[float]
    text: str
    out: str
    code: int
    state: dict[str, Any]
    early: set[str] = field(default_factory=set)  # what was found at any backward pass before the end

    @property
    def codes(self) -> list[str]:
        return [finding["code"] for finding in self.record["findings"]]


@cache
def run_training(path: Path, *arguments: str) -> Training:
    """Runs a script under watch, as `gradexplain run` does; the same one twice is run once."""
    return in_a_process(under_watch, path, *arguments)


def under_watch(path: Path, *arguments: str, rerun: bool = False, early: set[str] | None = None) -> Training:
    session, out = Session(Script(str(path), arguments), rerun=rerun), io.StringIO()
    if early is not None:
        session.refresh = lambda: early.update(finding.code for finding in session.report(None).findings)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        ending = session.run(lambda code: None)
        state = state_of_main()
        report = session.report(ending)
        text = report.render("text")
    losses = [] if report.curves is None else [*report.curves.losses]
    return Training(json.loads(report.to_json()), losses, text, out.getvalue(), ending.code, state, early or set())


def throughout(path: Path) -> Training:
    """Runs a script under a watch that is asked for its report at every backward pass."""
    gradexplain.training.session.SOON = gradexplain.training.session.OFTEN = 0.0
    gradexplain.training.session.SHARE = 0.0
    return under_watch(path, early=set())


def run_plainly(path: Path) -> tuple[str, dict[str, Any]]:
    """Runs a script without a watch; returns what it printed, and the state that it left."""
    return in_a_process(without_watch, path)


def without_watch(path: Path) -> tuple[str, dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        launched(Script(str(path)))
    return out.getvalue(), state_of_main()


def in_a_process(run: Callable, *arguments: Any) -> Any:
    """Returns what a function of a module returns in a process of its own."""
    ours, its = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=answer, args=(its, run, arguments))
    process.start()
    its.close()
    try:
        return ours.recv()
    finally:
        process.join()


def answer(channel: Connection, run: Callable, arguments: tuple) -> None:
    # What a script finds that nobody started: its own choice of how to start others, its own temporary folder.
    multiprocessing.set_start_method(None, force=True)
    multiprocessing.process.current_process()._config.pop("tempdir", None)
    channel.send(run(*arguments))


def state_of_main() -> dict[str, Any]:
    """Returns the bits of all parameters and gradients of a script's modules, its random state and its hooks."""
    found: dict[str, Any] = {"random": torch.get_rng_state().tolist()}
    for name, value in vars(sys.modules["__main__"]).items():
        if isinstance(value, torch.nn.Module):
            for path, parameter in value.named_parameters():
                hooks = (parameter._backward_hooks, parameter._post_accumulate_grad_hooks)
                found[f"{name}.{path}"] = bits(parameter), bits(parameter.grad), bool(hooks[0]), bool(hooks[1])
            for path, buffer in value.named_buffers():
                found[f"{name}.{path}"] = bits(buffer)
        elif isinstance(value, torch.optim.Optimizer):
            found[name] = [len(value._optimizer_step_pre_hooks), len(value._optimizer_step_post_hooks)]
            found[name] += [bits(v) for s in value.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
        elif isinstance(value, torch.Tensor):
            found[name] = bits(value), bits(value.grad if value.is_leaf else None)
    return found


def bits(tensor: torch.Tensor | None) -> bytes | None:
    return None if tensor is None else tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def marked_line(path: Path) -> int | None:
    """Returns the number of the line that a script marks as the cause."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((i for i, line in enumerate(lines, 1) if line.rstrip().endswith(MARK)), None)
