"""Trainings under watch, in this process: a script is run as `gradexplain run` runs it, and its report is returned."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradexplain.narration.trainings  # noqa: F401  # registers how reports are told
from gradexplain.training.launching import Script
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

    @property
    def codes(self) -> list[str]:
        return [finding["code"] for finding in self.record["findings"]]


def run_training(path: Path, *arguments: str, halt: bool = False, most: int | None = None) -> Training:
    """Runs a script of this process's own; its modules, arguments and random states do not stay."""
    import torch

    out, err = io.StringIO(), io.StringIO()
    main, argv, paths, modules = sys.modules["__main__"], [*sys.argv], [*sys.path], {*sys.modules}
    states = torch.get_rng_state(), torch.get_default_dtype()
    session = Session(Script(str(path), arguments), halt, most)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ending = session.run(lambda code: None)
            report = session.report(ending)
            record = json.loads(report.to_json())
    finally:
        sys.modules["__main__"], sys.argv[:], sys.path[:] = main, argv, paths
        for name in {*sys.modules} - modules:
            if getattr(sys.modules[name], "__file__", None) and str(FOLDER) in str(sys.modules[name].__file__):
                del sys.modules[name]
        torch.set_rng_state(states[0])
        torch.set_default_dtype(states[1])
    return Training(report, record, out.getvalue(), err.getvalue(), ending.code)


def marked_line(path: Path) -> int | None:
    """Returns the number of the line that a script marks as the cause."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((i for i, line in enumerate(lines, 1) if line.rstrip().endswith(MARK)), None)
