"""Trainings under watch, in this process: a script is run as `gradexplain run` runs it, and its report is returned."""

import contextlib
import io
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gradexplain.narration.trainings  # noqa: F401  # registers how reports are told
from gradexplain.training.launching import Script, launched
from gradexplain.training.report import TrainingReport
from gradexplain.training.session import Session

FOLDER = Path(__file__).parent / "trainings"
MARK = "# cause"


@dataclass(frozen=True)
class Training:
    """What a script printed, how it ended, and what was said of it."""

    report: TrainingReport
    record: dict[str, Any]
    out: str
    err: str
    code: int
    state: dict[str, Any]

    @property
    def codes(self) -> list[str]:
        return [finding["code"] for finding in self.record["findings"]]


def run_training(path: Path, *arguments: str, halt: bool = False, most: int | None = None) -> Training:
    """Runs a script under watch in this process; its modules, arguments and random states do not stay."""
    session = Session(Script(str(path), arguments), halt, most)
    out, err = io.StringIO(), io.StringIO()
    with as_it_was(out, err):
        ending = session.run(lambda code: None)
        state = state_of_main()
        report = session.report(ending)
        record = json.loads(report.to_json())
    return Training(report, record, out.getvalue(), err.getvalue(), ending.code, state)


def run_plainly(path: Path) -> tuple[str, dict[str, Any]]:
    """Runs a script without a watch; returns what it printed, and the state that it left."""
    out = io.StringIO()
    with as_it_was(out, io.StringIO()):
        launched(Script(str(path)))
        state = state_of_main()
    return out.getvalue(), state


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


@contextlib.contextmanager
def as_it_was(out: io.StringIO, err: io.StringIO) -> Iterator[None]:
    """Puts back what a script changes in this process."""
    main, argv, paths, modules = sys.modules["__main__"], [*sys.argv], [*sys.path], {*sys.modules}
    states = torch.get_rng_state(), torch.get_default_dtype(), random.getstate()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield
    finally:
        sys.modules["__main__"], sys.argv[:], sys.path[:] = main, argv, paths
        for name in {*sys.modules} - modules:
            if getattr(sys.modules[name], "__file__", None) and str(FOLDER) in str(sys.modules[name].__file__):
                del sys.modules[name]
        torch.set_rng_state(states[0])
        torch.set_default_dtype(states[1])
        random.setstate(states[2])


def marked_line(path: Path) -> int | None:
    """Returns the number of the line that a script marks as the cause."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((i for i, line in enumerate(lines, 1) if line.rstrip().endswith(MARK)), None)
