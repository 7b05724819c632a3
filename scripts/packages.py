"""Trainings with real packages, on tiny random models: sound ones are silent and bit-identical, faults are named.

    pip install torch==2.13.0 transformers lightning accelerate peft   # into an environment of its own
    PYTHONPATH=. path/to/that/python scripts/packages.py [NAME…]

The trainings stand in `scripts/packages/`; each prints a digest of its weights, and has a fault for the asking. What
needs a package that is absent is skipped, and says so.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "packages"
MARK = "# cause"
# fmt: off
TRAININGS = {  # script: the packages that it needs, and the code of its fault
    "accelerated":      (("accelerate",),          "made-after-optimizer"),
    "adapted":          (("transformers", "peft"), "no-gradient"),
    "distributed":      ((),                       "first-not-finite"),
    "hugging_face":     (("transformers", "accelerate"), "first-not-finite"),
    "lightning_module": (("lightning",),           "softmax-twice"),
}
# fmt: on


def main() -> None:
    failed = 0
    for name in sys.argv[1:] or TRAININGS:
        needed, code = TRAININGS[name]
        absent = [package for package in needed if importlib.util.find_spec(package) is None]
        if absent:
            print(f"{name}: skipped, without {', '.join(absent)}")
            continue
        wrong = [*sound(name), *faulty(name, code)]
        failed += bool(wrong)
        print(f"{name}: {'; '.join(wrong) or 'as it should be'}")
    sys.exit(bool(failed))


def sound(name: str) -> list[str]:
    """Returns what is wrong with a training without its fault."""
    plain, watched, record = run(name, ()), *under_watch(name, ())
    digests = [ended.stdout.split()[-1:] for ended in (plain, watched)]
    wrong = [] if digests[0] == digests[1] != [] else ["its weights are others under watch"]
    wrong += [] if plain.returncode == watched.returncode == 0 else [f"exit code {watched.returncode}"]
    return wrong + ([] if record["verdict"] == "nothing unusual" else [f"false alarm: {first(record)['text']}"])


def faulty(name: str, code: str) -> list[str]:
    """Returns what is wrong with what is said of a training with its fault."""
    watched, record = under_watch(name, ("fault",))
    if record["verdict"] != "found":
        return ["its fault was not found"]
    found, line = first(record), marked_line(FOLDER / f"{name}.py")
    place = found["source"] or {"file": None, "line": None}
    wrong = [] if found["code"] == code else [f"{found['code']} and not {code}"]
    wrong += [] if (place["file"], place["line"]) == (str(FOLDER / f"{name}.py"), line) else [f"told at {place}"]
    return wrong + ([] if watched.returncode == 1 else [f"exit code {watched.returncode}"])


def first(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the first cause that a record has: its own, or of another process that saw where it came from."""
    seen = [*record["findings"], *(other["finding"] for other in record["others"] if other["finding"])]
    causes: list[dict[str, Any]] = [f for f in seen if f["code"] not in ("loss-not-finite", "gradient-not-finite")]
    return (causes or seen)[0]


def marked_line(path: Path) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.rstrip().endswith(MARK))


def run(name: str, arguments: Sequence[str], before: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    several = ("torch.distributed.run", "--nproc-per-node", "2") if name == "distributed" else ()
    modules = [*several, *(("-m", *before) if several and before else before)]
    start = [sys.executable, *(("-m", *modules) if modules else ())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [*start, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def under_watch(name: str, arguments: Sequence[str]) -> "tuple[subprocess.CompletedProcess[str], dict[str, Any]]":
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        ended = run(name, arguments, ("gradexplain", "run", "--output", str(output)))
        return ended, json.loads(output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
