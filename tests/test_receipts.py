"""Receipts: what holds is confirmed, and every kind of broken receipt is refused for its own reason."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from conftest import in_process
from examples import EXAMPLES

import gradexplain as gx
from gradexplain.errors import InputError
from gradexplain.locale.catalogue import LANGUAGES, say, sentences
from gradexplain.receipts.answer import check_receipt
from gradexplain.receipts.report import ReceiptReport
from gradexplain.receipts.schema import schema
from gradexplain.targets.loading import load, parse_target

Receipt = dict[str, Any]
MORE = {
    "cut": ["h = x.detach(); sum(x * h)", "x=1,2"],
    "scaled": ["x**2", "x=1,2", "--cotangent", "2,3"],
    "third": ["x**4", "x=0.5", "--order", "3"],
    "constant": ["3*x", "x=2", "--order", "2", "--cotangent", "4"],
    "by hand": ["sum(x**2)", "x=1,2,3", "--by-hand", "x=2*x"],
    "wrong by hand": ["sum(x**2)", "x=1,2,3", "--by-hand", "x=2.002*x"],
    "linear": ["sum(tanh(A @ x) * w)", "A=randn(4,5)", "x=randn(5)", "w=1,-2,3,0.5"],
    "function of torch": ["torch.nn.functional:silu", "input=1,2,3"],
    "complex": ["sum(abs(z)**2)", "z=1+2j,3-1j"],
    "half": ["sum(softmax(x, 0)**2)", "x=1,2,3:float16"],
    "leaf": ["x", "x=3"],
}


@cache
def text(*arguments: str) -> str:
    return in_process(("explain", *arguments, "--format", "json")).out


def receipt(name: str) -> Receipt:
    found: Receipt = json.loads(text(*{**EXAMPLES, **MORE}[name]))
    return found


def checked(found: Receipt) -> ReceiptReport:
    return check_receipt(json.dumps(found, ensure_ascii=False), trust=True)


def reasons(report: ReceiptReport) -> list[str]:
    return [r.key for r in (*report.refusals, *report.undecided)]


# ------------------------------------------------------------------------------------------------------ what holds


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", [*EXAMPLES, *MORE])
def test_the_receipt_of_an_explanation_holds_and_keeps_its_verdict(name: str) -> None:
    made = receipt(name)
    report = checked(made)
    assert (report.outcome, reasons(report)) == ("holds", [])
    assert report.verdict == report.claimed == made["verdict"]
    assert report.notes == ()


def test_every_kind_of_claim_is_counted() -> None:
    report = checked(receipt("two paths"))
    assert {"input", "output", "gradient", "step", "value", "rule", "contribution"} <= report.claims.keys()
    assert {"sum", "equation", "path", "check", "verdict"} <= report.claims.keys()
    assert report.claims["contribution"] == 2 * 4  # whom to, and as which argument
    assert checked(receipt("kink")).claims["finding"] > 2


def test_a_receipt_that_honestly_records_a_difference_is_confirmed_as_such() -> None:
    report = checked(receipt("wrong by hand"))
    assert (report.outcome, report.verdict) == ("holds", "differs")
    assert "differs" in report.render()


def test_another_process_gives_the_same_record(tmp_path: Path) -> None:
    names = ["network and loss", "hessian", "wrong by hand"]
    files = [tmp_path / f"{i}.json" for i in range(len(names))]
    for file, name in zip(files, names, strict=True):
        file.write_text(text(*{**EXAMPLES, **MORE}[name]), encoding="utf-8")
    code = (
        "import sys\n"
        "from gradexplain.receipts.answer import check_receipt\n"
        "assert 'torch' not in sys.modules\n"
        "print([check_receipt(file).outcome for file in sys.argv[1:]])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["holds"] * len(names))


def test_the_callers_random_state_is_left_as_it_was() -> None:
    before = torch.get_rng_state()
    checked(receipt("network and loss"))
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------- broken receipts


@dataclass(frozen=True)
class Put:
    """Puts `value`, or what it makes of the old one, at a path such as `steps.0.forward.value`."""

    path: str
    value: Any

    def __call__(self, found: Receipt) -> None:
        place, last = parent(found, self.path)
        place[last] = self.value(place[last]) if callable(self.value) else self.value


@dataclass(frozen=True)
class Drop:
    """Removes what stands at a path."""

    path: str

    def __call__(self, found: Receipt) -> None:
        place, last = parent(found, self.path)
        del place[last]


@dataclass(frozen=True)
class Each:
    """Makes several changes."""

    changes: tuple[Callable[[Receipt], None], ...]

    def __call__(self, found: Receipt) -> None:
        for change in self.changes:
            change(found)


def parent(found: Receipt, path: str) -> tuple[Any, Any]:
    *above, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = found
    for key in above:
        place = place[key]
    return place, last


def shown(path: str) -> str:
    """Returns the path as refusals show it: `$.steps[0].label`."""
    return "".join(["$", *(f"[{key}]" if key.isdigit() else f".{key}" for key in path.split(".") if key)])


def nested(value: Any) -> Any:
    return value if isinstance(value, list) and len(json.dumps(value)) > 200 else nested([value])


def invent(found: Receipt) -> None:
    """Puts another step behind the last, consistent in itself."""
    step = deepcopy(found["steps"][-1])
    step |= {"index": 4, "label": "f4", "inputs": ["y", "y"], "sums": []}
    step["forward"] = {"name": "f4", "value": 15.0, "equations": []}
    for sent in step["contributions"]:
        sent |= {"to": "y", "equations": []}
    found["steps"].append(step)


def rewire(found: Receipt) -> None:
    """Lets the last step use one value twice."""
    found["steps"][2]["inputs"] = ["f1", "f1"]
    found["steps"][2]["contributions"][1]["to"] = "f1"


def rename(found: Receipt) -> None:
    """Gives a value another name, everywhere it is used."""
    found |= json.loads(json.dumps(found, ensure_ascii=False).replace("f2", "g"))
    found["steps"][1]["label"] = "f2"
    found["by_input"]["x"] = json.loads(json.dumps(found["by_input"]["x"]).replace('"g"', '"f2"'))


def agree(found: Receipt) -> None:
    """Lets a check agree that did not, without a contradiction in the receipt."""
    changes = {"verdict": "agrees", "reason": None, "text": None, "worst": 0.0, "bound": 1e-9, "resolution": 1e-9}
    next(check for check in found["checks"] if check["verdict"] != "agrees").update(changes)


def because(found: Receipt) -> None:
    """Gives another reason, in its own words."""
    found["checks"][0] |= {"reason": "live", "text": sentences("en")["verdicts.live"]}


def find(found: Receipt) -> None:
    """States a finding, in its own words."""
    said = sentences("en")["findings.no-influence"].format(name="x")
    found["findings"] = [{"code": "no-influence", "pitfall": None, "place": None, "data": {"name": "x"}, "text": said}]


def stored(found: Receipt) -> None:
    """Marks an equation as one that only the machine's arithmetic explains."""
    found["steps"][0]["forward"]["equations"] = ["f1: 3² ↦ 9"]


def without_steps(found: Receipt) -> None:
    """Leaves the chain from the output to the input out."""
    found["steps"], found["by_input"]["x"]["uses"] = [], []
    found["equations"] = {"shown": 1, "recomputed": 1}


def early(found: Receipt) -> None:
    """Lets the first step use what the second makes."""
    found["steps"][0]["inputs"] = ["f2"]
    found["steps"][0]["contributions"][0]["to"] = "f2"


def swapped(found: Receipt) -> None:
    found["steps"][:2] = found["steps"][1::-1]


def times(factor: float) -> Callable[[float], float]:
    return lambda value: value * factor


TWO, KINK, HAND, SECOND, CUT, LARGE = "two paths", "kink", "by hand", "second derivative", "cut", "linear"
LINE, SENT, A = "steps.0.forward.equations.0", "steps.0.contributions.0", "inputs.A.value"
# What is broken → the example it is broken in, how, why it is refused, and where, if not at the place that was changed.
# fmt: off
BROKEN: dict[str, tuple[Any, ...]] = {
    # the format
    "a missing key":               (TWO, Drop("cotangent"), "missing_key", ""),
    "an unknown key":              (TWO, Put("steps.0.note", "x"), "unknown_key", "steps.0"),
    "another format":              (TWO, Put("format", 1), "other_format"),
    "no version":                  (TWO, Drop("gradexplain"), "no_receipt", ""),
    "an unknown kind":             (TWO, Put("kind", "proof"), "no_receipt", ""),
    "a kind that is a list":       (TWO, Put("kind", ["explanation"]), "no_receipt", ""),
    "a number for a text":         (TWO, Put("target", 3), "expected_text"),
    "a text for a number":         (TWO, Put("output.value", "15"), "expected_number"),
    "a text for a flag":           (TWO, Put("cotangent.given", "no"), "expected_flag"),
    "a flag for a count":          (TWO, Put("steps.0.index", True), "expected_count"),
    "an object for a list":        (TWO, Put("steps", {}), "expected_list"),
    "a list for an object":        (TWO, Put("inputs", []), "expected_object"),
    "an unknown verdict":          (TWO, Put("verdict", "right"), "expected_one_of"),
    "an unknown type":             (TWO, Put("dtype", "real"), "expected_dtype"),
    "an unknown reason":           (TWO, Put("checks.0.reason", "hunger"), "expected_reason"),
    "an unknown finding":          (KINK, Put("findings.0.code", "bump"), "expected_finding"),
    "no version of torch":         (TWO, Put("torch", "new"), "expected_version"),
    "half a digest":               (LARGE, Put(f"{A}.sha256", "ab12"), "expected_digest"),
    "deep nesting":                (TWO, Put("output.value", nested), "nested_deeply", "output.value" + ".0" * 79),
    # what contradicts itself
    "a false equation":            (TWO, Put(LINE, "f1: 3² = 8"), "equation_false"),
    "no equation":                 (TWO, Put(LINE, "f1 is 9"), "equation_unreadable"),
    "more equations counted":      (TWO, Put("equations.shown", 9), "equation_count"),
    "fewer equations held":        (TWO, Put("equations.recomputed", 7), "equation_count"),
    "a dropped equation":          (TWO, Drop(f"{SENT}.equations.0"), "equation_count", "equations.shown"),
    "an unfounded verdict":        (TWO, Put("verdict", "differs"), "verdict_unfounded"),
    "one check that differs":      (HAND, Put("checks.0.verdict", "differs"), "verdict_unfounded", "verdict"),
    "coarse evidence":             (TWO, Put("checks.0.resolution", 0.01), "differs"),
    "no reason given":             (TWO, Put("checks.2.verdict", "cannot say"), "differs"),
    "another sentence":            (KINK, Put("findings.0.text", "All is well."), "differs"),
    "the same check twice":        (TWO, Put("checks.0.oracle", "rules"), "check_invented", "checks.3"),
    "a check of nothing":          (TWO, Put("checks.0.input", "w"), "verdict_unfounded", "verdict"),
    "a wrong label":               (TWO, Put("steps.1.label", "f9"), "differs"),
    "a wrong order":               (TWO, swapped, "differs", "steps.1.index"),
    "an index that goes back":     (TWO, Put("steps.2.index", 1), "differs"),
    "one name for two values":     (TWO, Put("steps.1.forward.name", "f1"), "differs"),
    "a use before the making":     (TWO, early, "differs", "steps.0.inputs.0"),
    "sent to nobody":              (TWO, Drop("steps.2.contributions.1"), "equation_count", "equations.shown"),
    "gradients of others":         (TWO, Put("by_input", {}), "equation_count", "equations.shown"),
    "a live tensor with texts":    (TWO, Put("live", True), "differs"),
    "a cotangent out of thin air": (TWO, Put("cotangent.given", True), "differs"),
    "a constant of its own":       ("constant", Put("higher.0.gradients.x", 4.0), "differs"),
    "another title above":         (SECOND, Put("higher.0.target", "f″"), "differs"),
    # what was asked
    "an input that is no value":   (TWO, Put("asked.inputs.x", "randn("), "text_unusable", "asked"),
    "an input too many":           (TWO, Put("asked.inputs.w", "3"), "text_unusable", "asked"),
    "a target beyond syntax":      (TWO, Put("target", "x**"), "text_unusable"),
    "a target that is code":       (TWO, Put("target", "__import__('os')"), "text_unusable"),
    "a target that fails":         (LARGE, Put("target", "sum(tanh(x @ A) * w)"), "run_fails"),
    "another wrt":                 (TWO, Put("asked.wrt", ["w"]), "text_unusable", "asked"),
    "no formula":                  (HAND, Put("asked.by_hand.x", "2*"), "text_unusable", "asked"),
    "another formula":             (HAND, Put("asked.by_hand.x", "3*x"), "differs", "checks.4.verdict"),
    "a cotangent out of shape":    ("scaled", Put("asked.cotangent", "1,2,3"), "text_unusable", "asked"),
    "another seed":                (LARGE, Put("asked.seed", 1), "differs", "inputs.A.value.min"),
    "another order":               (SECOND, Put("asked.order", 3), "counted", "higher"),
    "a derivative by another":     (SECOND, Put("higher.0.wrt", "z"), "differs"),
    "constant, it is said":        ("third", Put("higher.1.constant", True), "differs"),
    "an element of nothing":       (TWO, Put("asked.element", "w[0]"), "text_unusable", "asked"),
    "a module of nothing":         (TWO, Put("asked.module", "net.0"), "text_unusable", "asked"),
    # what the target says otherwise
    "another target":              (TWO, Put("target", "x**2 + 3*x"), "differs", "output.value"),
    "another input":               (TWO, Put("inputs.x.value", 4.0), "differs"),
    "the last digit of an input":  (LARGE, Put("inputs.x.value.0", times(1 + 1e-6)), "differs"),
    "another digest":              (LARGE, Put(f"{A}.sha256", "0" * 64), "differs"),
    "another norm":                (LARGE, Put(f"{A}.norm", times(1.001)), "differs"),
    "another smallest":            (LARGE, Put("gradients.A.min", times(1 + 1e-6)), "differs"),
    "a nan that is none":          (LARGE, Put("gradients.A.nan", 1), "differs"),
    "another type":                (TWO, Put("inputs.x.dtype", "float64"), "differs"),
    "another type of output":      (TWO, Put("output.dtype", "float64"), "differs"),
    "another shape":               (LARGE, Put("inputs.x.value", [1.0, 2.0]), "differs"),
    "a ragged tensor":             (LARGE, Put("inputs.x.value.1", [1.0]), "differs", "inputs.x.value"),
    "a flag among numbers":        (LARGE, Put("inputs.x.value.1", False), "differs"),
    "another output":              (TWO, Put("output.value", 15.000001), "differs"),
    "another cotangent":           ("scaled", Put("cotangent.value.0", 2.5), "differs"),
    "another gradient":            (TWO, Put("gradients.x", 8.000001), "differs"),
    "no gradient":                 (TWO, Put("gradients.x", None), "differs"),
    "the sign of a zero":          (KINK, Put("gradients.x.0", -0.0), "differs"),
    "another second derivative":   (SECOND, Put("higher.0.gradients.x", 18.5), "differs"),
    "another Hessian":             ("hessian", Put("higher.0.hessian.0.1", 2.5), "differs"),
    "dropped steps":               ("used twice", without_steps, "counted", "steps"),
    "an invented step":            (TWO, invent, "counted", "steps"),
    "another operator":            (TWO, Put("steps.1.operator", "aten.div.Tensor"), "differs"),
    "another node":                (TWO, Put("steps.1.node", "DivBackward0"), "differs"),
    "another module":              (TWO, Put("steps.1.module", "net.0"), "differs"),
    "another line":                (TWO, Put("steps.1.source.line", 2), "differs"),
    "other code":                  (TWO, Put("steps.1.source.code", "3*x"), "differs"),
    "another backward order":      (TWO, Put("steps.1.order", 1), "differs"),
    "another index":               (TWO, Put("steps.2.index", 7), "differs"),
    "other inputs":                (TWO, rewire, "differs", "steps.2.inputs.1"),
    "a name of its own":           (TWO, rename, "differs", "steps.1.forward.name"),
    "another scalar":              (TWO, Put("scalar", "z"), "differs"),
    "another step's value":        (TWO, Put("steps.0.forward.value", 9.5), "differs"),
    "another gradient on the way": (TWO, Put("steps.0.cotangent", 2.0), "differs"),
    "another rule":                (TWO, Put("steps.0.rule", "f1 = x³"), "differs"),
    "another local derivative":    (TWO, Put(f"{SENT}.rule", "∂f1/∂x = 3·x"), "differs"),
    "another argument":            (TWO, Put(f"{SENT}.argument", "exponent"), "differs"),
    "another contribution":        (TWO, Put(f"{SENT}.value", 6.5), "differs"),
    "another equation":            (TWO, Put(LINE, "f1: 2² = 4"), "differs"),
    "other operands":              (TWO, Put(LINE, "f1: 9 × 1 = 9"), "differs"),
    "other parts of a sum":        (TWO, Put("by_input.x.sums.0", "∂y/∂x: 5 + 3 = 8"), "differs"),
    "a result beside the number":  ("matrix product", Put(LINE, "f1[0, 0]: 1 × 2 + 2 × 1 = 4"), "differs"),
    "a label of another value":    (TWO, Put(LINE, "f3: 3² = 9"), "differs"),
    "a label out of range":        (KINK, Put(LINE, "f1[3]: 0 = 0"), "differs"),
    "about, where it is equal":    (TWO, Put(LINE, "f1: 3² ≈ 9"), "differs"),
    "stored, where it is equal":   (TWO, stored, "equation_false", LINE),
    "a use left out":              (TWO, Put("by_input.x.uses", ["f1"]), "counted"),
    "a path left out":             (TWO, Drop("by_input.x.paths.0"), "counted", "by_input.x.paths"),
    "a path that is none":         (TWO, Put("by_input.x.paths.0.steps", ["f3"]), "counted"),
    "another part along a path":   (TWO, Put("by_input.x.paths.0.value", 6.1), "differs"),
    "a check left out":            (TWO, Drop("checks.1"), "check_missing", "checks"),
    "an invented check":           (TWO, Put("checks.1.oracle", "a witness"), "check_invented", "checks.1"),
    "a check that never agreed":   (KINK, agree, "differs", "checks.2.verdict"),
    "another reason":              (CUT, because, "differs", "checks.0.reason"),
    "a smaller difference":        (CUT, Put("checks.2.worst", 1e-30), "differs"),
    "a wider bound":               (TWO, Put("checks.0.bound", 1.0), "differs"),
    "a finer resolution":          (TWO, Put("checks.0.resolution", 1e-30), "differs"),
    "another slope":               (TWO, Put("checks.0.data.seen", 7.0), "differs"),
    "a finding of nothing":        (TWO, find, "counted", "findings"),
    "a finding left out":          (KINK, Drop("findings.0"), "counted", "findings"),
    "a parameter too many":        (TWO, Put("parameters", ["net.weight"]), "counted"),
}
# fmt: on


def broken(name: str) -> tuple[Receipt, str, str]:
    """Returns a broken receipt, and where and why it should be refused."""
    example, change, key, *at = BROKEN[name]
    found = receipt(example)
    change(found)
    return found, shown(at[0] if at else change.path), key


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_receipt_is_refused_for_its_own_reason(name: str) -> None:
    found, path, key = broken(name)
    report = checked(found)
    assert report.outcome == "refused"
    assert report.verdict == "differs"
    assert (path[:80] if key == "nested_deeply" else path, key) in [(r.path, r.key) for r in report.refusals]


# fmt: off
TEXTS: dict[str, tuple[Callable[[str], str], str]] = {
    "a key twice":        (lambda t: t.replace('"scalar"', '"dtype": "float32", "scalar"', 1), "duplicate_key"),
    "nan as a number":    (lambda t: t.replace('"value": 15.0', '"value": NaN', 1),           "no_number"),
    "infinity as a number": (lambda t: t.replace('"value": 15.0', '"value": -Infinity', 1),   "no_number"),
    "a huge float":       (lambda t: t.replace('"value": 15.0', '"value": 1e999', 1),         "huge_number"),
    "a huge integer":     (lambda t: t.replace('"index": 1', '"index": 1' + "0" * 5000, 1),   "huge_number"),
}
UNREADABLE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a truncated file":   (lambda b: b[: len(b) // 2],                     "receipt_not_json"),
    "two receipts":       (lambda b: b + b,                                "receipt_not_json"),
    "an empty file":      (lambda b: b"",                                  "receipt_not_json"),
    "UTF-16":             (lambda b: b.decode().encode("utf-16"),          "receipt_encoding"),
    "Latin-1":            (lambda b: b.decode().replace("→", "é").encode("latin-1", "ignore"), "receipt_encoding"),
    "a byte order mark":  (lambda b: b"\xef\xbb\xbf" + b,                  "receipt_not_json"),
    "a comment":          (lambda b: b.replace(b"{", b"{ // mine", 1),     "receipt_not_json"),
    "endless nesting":    (lambda b: b"[" * 100_000,                       "receipt_too_deep"),
}
# fmt: on


@pytest.mark.parametrize("name", TEXTS)
def test_what_json_does_not_have_is_refused_with_its_place(name: str) -> None:
    change, key = TEXTS[name]
    broken = change(text(*EXAMPLES["two paths"]))
    assert broken != text(*EXAMPLES["two paths"])
    refusals = check_receipt(broken).refusals
    assert [r.key for r in refusals] == [key]
    assert refusals[0].path.startswith("$")


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_an_input_error(name: str, tmp_path: Path) -> None:
    change, key = UNREADABLE[name]
    file = tmp_path / "receipt.json"
    file.write_bytes(change(text(*EXAMPLES["two paths"]).encode()))
    with pytest.raises(InputError) as fault:
        check_receipt(file)
    assert fault.value.key == key
    assert all(fault.value.sentence(language) for language in LANGUAGES)


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, "none\0.json"):
        with pytest.raises(InputError, match="cannot be read"):
            check_receipt(path)


def test_other_json_is_refused_as_no_receipt() -> None:
    assert [r.key for r in check_receipt('{"gradients": 3}').refusals] == ["no_receipt"]


# Nothing is claimed by these that could be derived: under which conditions a receipt was made, and what plays no part.
CONDITIONS = {"gradexplain", "torch", "machine", "asked.seed", "asked.effort", "asked.element"}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from leaves(part, (*path, key))
    if not isinstance(value, (dict, list)):
        yield path


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return "x" if value is None else f"{value}x"


def test_no_leaf_of_a_receipt_can_be_changed_unseen() -> None:
    found = receipt("used twice")
    unseen = set()
    for path in leaves(found):
        other = deepcopy(found)
        Put(".".join(map(str, path)), changed)(other)
        if checked(other).outcome != "refused":
            unseen.add(".".join(map(str, path)))
    assert unseen == CONDITIONS


# -------------------------------------------------------------------------------------------- programs and their files

PROGRAM = """
import pathlib
import torch
from helper import third

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * FACTOR * x**2

def cube(x):
    return Cube.apply(third(x)).sum()

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)
        self.drop = torch.nn.Dropout(0.5)
    def forward(self, x):
        return self.drop(torch.tanh(self.inner(x))).square().sum()

ran = pathlib.Path("ran")
ran.write_text((ran.read_text() if ran.exists() else "") + ".")
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the program with a factor in its backward pass into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(factor: str) -> Path:
        (tmp_path / "program.py").write_text(PROGRAM.replace("FACTOR", factor))
        (tmp_path / "helper.py").write_text("def third(x):\n    return x / 3\n")
        for name in ("program", "helper"):
            sys.modules.pop(name, None)
        return tmp_path

    return write


def explained(*arguments: str) -> Receipt:
    """Explains in the folder and with the files as they are now."""
    run = in_process.__wrapped__(("explain", *arguments, "--format", "json"))
    assert run.err == ""
    return dict(json.loads(run.out))


@pytest.mark.parametrize(("factor", "verdict"), [("3", "agrees"), ("3.003", "differs")])
def test_the_receipt_of_a_program_holds_and_a_wrong_backward_stays_wrong(
    factor: str, verdict: str, program: Callable[[str], Path]
) -> None:
    program(factor)
    found = explained("program.py:cube", "x=1,2,3")
    assert sorted(Path(file).name for file in found["files"]) == ["helper.py", "program.py"]
    report = checked(found)
    assert (report.outcome, report.verdict) == ("holds", verdict)


def test_a_module_with_dropout_holds_by_its_seed(program: Callable[[str], Path]) -> None:
    program("3")
    found = explained("program.py:Net", "x=randn(4,3)", "--seed", "5")
    assert found["parameters"] == ["inner.weight", "inner.bias"]
    assert checked(found).outcome == "holds"


def test_a_changed_program_is_named_and_not_run(program: Callable[[str], Path]) -> None:
    folder = program("3")
    found = explained("program.py:cube", "x=1,2,3")
    program("3.0")
    before = (folder / "ran").read_text()
    report = checked(found)
    assert [(r.key, r.data["file"]) for r in report.refusals] == [("file_changed", "program.py")]
    assert (folder / "ran").read_text() == before


def test_a_program_is_neither_imported_nor_run_without_trust(program: Callable[[str], Path]) -> None:
    folder = program("3")
    found = json.dumps(explained("program.py:cube", "x=1,2,3"))
    before = (folder / "ran").read_text()
    with pytest.raises(InputError, match=r"program\.py:cube, which would be imported and run.*trust=True"):
        check_receipt(found)
    assert (folder / "ran").read_text() == before


@pytest.mark.parametrize("target", ["stranger:f", "pack.stranger:f", "stranger.py:f"])
def test_a_module_whose_digest_the_receipt_does_not_hold_is_not_run(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planted = "open('ran', 'w').close()\ndef f(x):\n    return (x**2).sum()\n"
    (tmp_path / "stranger.py").write_text(planted)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text(planted)
    (tmp_path / "pack" / "stranger.py").write_text(planted)
    found = receipt("sum of squares")
    found["target"] = target
    assert reasons(checked(found)) == ["file_changed"]
    assert not (tmp_path / "ran").exists()


def test_a_changed_helper_is_named(program: Callable[[str], Path]) -> None:
    folder = program("3")
    found = explained("program.py:cube", "x=1,2,3")
    (folder / "helper.py").write_text("def third(x):\n    return x / 3.0\n")
    sys.modules.pop("helper")
    assert [(r.key, r.data["file"]) for r in checked(found).refusals] == [("file_changed", "helper.py")]


def test_a_receipt_that_contradicts_itself_runs_nothing(program: Callable[[str], Path]) -> None:
    folder = program("3")
    found = explained("program.py:cube", "x=1,2,3")
    before = (folder / "ran").read_text()
    Put("verdict", "differs")(found)
    assert checked(found).outcome == "refused"
    assert (folder / "ran").read_text() == before


def test_a_program_that_moved_with_its_receipt_holds(
    program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = program("3")
    found = explained("program.py:cube", "x=1,2,3")
    other = tmp_path_factory.mktemp("other")
    for name in ("program.py", "helper.py"):
        (folder / name).rename(other / name)
        sys.modules.pop(name.removesuffix(".py"))
    monkeypatch.chdir(other)
    assert checked(found).outcome == "holds"


def test_a_target_that_is_gone_is_an_input_error(program: Callable[[str], Path]) -> None:
    folder = program("3")
    found = explained("program.py:cube", "x=1,2,3")
    (folder / "program.py").unlink()
    with pytest.raises(InputError, match=r"no file .*program\.py"):
        checked(found)


# ------------------------------------------------------------------------------------------------- what stays open


def python_receipt(function: Any, inputs: Any, **options: Any) -> Receipt:
    full = options.pop("full", False)
    found: Receipt = json.loads(gx.explain(function, inputs, **options).to_json(full=full))
    return found


def square(x: torch.Tensor) -> torch.Tensor:
    return (x**2).sum()


X = torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize("function", [square, lambda x: (x**2).sum()])
def test_a_callable_without_a_target_stays_open_and_says_what_to_do(function: Any) -> None:
    report = checked(python_receipt(function, {"x": X}))
    assert (report.outcome, report.verdict, reasons(report)) == ("open", "cannot say", ["no_target"])
    assert 'target="file.py:function"' in report.render()


def test_a_callable_without_a_target_is_refused_where_it_contradicts_itself() -> None:
    found = python_receipt(square, {"x": X})
    Put("steps.0.forward.equations.0", "f1[0]: 1² = 2")(found)
    assert reasons(checked(found)) == ["equation_false", "equation_count"]


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a function into the current folder and returns it."""
    monkeypatch.chdir(tmp_path)
    Path("squares.py").write_text("def square(x):\n    return (x**2).sum()\n")
    return load(parse_target("squares.py:square")).function


def test_a_callable_with_its_target_is_derived_from_the_numbers_it_keeps(squares: Any) -> None:
    found = python_receipt(squares, {"x": torch.tensor([0.1, -2.5, 3.0])}, target="squares.py:square")
    assert checked(found).outcome == "holds"
    Put("gradients.x.0", 0.3)(found)
    assert [(r.path, r.key) for r in checked(found).refusals] == [("$.gradients.x[0]", "differs")]


def test_a_callable_under_another_title_stays_open() -> None:
    assert reasons(checked(python_receipt(square, {"x": X}, target="sum(x**2)"))) == ["source_elsewhere"]


def test_a_large_input_is_kept_whole_or_leaves_the_receipt_open(squares: Any) -> None:
    inputs, target = {"x": torch.linspace(0, 1, 20)}, "squares.py:square"
    assert reasons(checked(python_receipt(squares, inputs, target=target))) == ["input_not_kept"]
    assert checked(python_receipt(squares, inputs, target=target, full=True)).outcome == "holds"


def test_an_argument_that_is_no_tensor_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("powers.py").write_text("def power(x, k=2): return (x**k).sum()\n")
    power = load(parse_target("powers.py:power")).function
    found = python_receipt(power, {"x": X, "k": 3}, target="powers.py:power")
    assert reasons(checked(found)) == ["argument_not_kept"]
    assert checked(python_receipt(power, {"x": X}, target="powers.py:power")).outcome == "holds"


MODULE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)
    def forward(self, x): return torch.tanh(self.inner(x)).square().sum()
"""


def test_a_module_is_asked_again_with_the_parameters_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("network.py").write_text(MODULE)
    network = load(parse_target("network.py:Net")).module
    assert network is not None
    with torch.no_grad():
        network.inner.weight.fill_(0.5)  # a trained one
    found = python_receipt(network, {"x": X}, target="network.py:Net", full=True)
    assert found["inputs"]["inner.weight"]["value"] == [[0.5] * 3] * 2
    assert checked(found).outcome == "holds"
    assert bool((network.inner.weight == 0.5).all())


@pytest.mark.parametrize("asked", [{"element": "x[1]"}, {"order": 2}])
def test_what_python_asks_besides_is_asked_again(squares: Any, asked: dict[str, Any]) -> None:
    found = python_receipt(squares, {"x": X}, target="squares.py:square", **asked)
    assert checked(found).outcome == "holds"
    assert found["asked"]["inputs"] == {"x": None}


def test_a_formula_that_is_a_callable_stays_open(squares: Any) -> None:
    found = python_receipt(squares, {"x": X}, target="squares.py:square", by_hand={"x": lambda x: 2 * x})
    assert reasons(checked(found)) == ["formula_not_kept"]


def test_random_numbers_without_a_seed_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("noise.py").write_text("import torch\ndef noisy(x): return (x * torch.rand(3)).sum()\n")
    noisy = load(parse_target("noise.py:noisy")).function
    found = python_receipt(noisy, {"x": X}, target="noise.py:noisy")
    assert reasons(checked(found)) == ["random_unseeded"]


def test_a_function_that_never_gives_the_same_twice_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clock.py").write_text("import time\ndef late(x): return x.sum() * time.perf_counter()\n")
    report = checked(explained("clock.py:late", "x=1,2"))
    assert (report.outcome, reasons(report)) == ("open", ["not_deterministic"])


def test_a_live_tensor_stays_open() -> None:
    x = X.clone().requires_grad_()
    found = json.loads(gx.explain((x * x).sum()).to_json())
    assert reasons(checked(found)) == ["live_tensor"]


# --------------------------------------------------------------------------------------------- from another machine


@pytest.mark.parametrize(
    ("factor", "outcome"), [(1, "holds"), (1 + 3e-7, "holds"), (1 + 3e-5, "open"), (1 + 1e-3, "refused")]
)
def test_elsewhere_rounding_is_accepted_and_said_and_an_error_refused(factor: float, outcome: str) -> None:
    found = receipt("linear")
    found["machine"] = "another"
    Put("gradients.x", lambda values: [v * factor for v in values])(found)
    report = checked(found)
    assert report.outcome == outcome
    assert "other_setting" in [n.key for n in report.notes]
    if outcome == "holds" and factor != 1:
        assert "within_rounding" in [n.key for n in report.notes]


@pytest.mark.parametrize("name", ["kink", "third", "constant", "network and loss"])
def test_a_receipt_of_another_torch_is_of_that_torch_throughout(name: str) -> None:
    other = text(*{**EXAMPLES, **MORE}[name]).replace(torch.__version__, "2.1.0")
    other = other.replace(f'"{".".join(torch.__version__.split(".")[:2])}"', '"2.1"')  # as a sentence names it
    report = check_receipt(other)
    assert (report.outcome, reasons(report)) == ("holds", [])
    assert "other_setting" in [n.key for n in report.notes]


def test_elsewhere_the_evidence_may_be_other_numbers_of_the_same_kind() -> None:
    found = receipt("linear")
    found["torch"] = "2.6.0"
    Put("checks.0.bound", lambda v: 2 * v)(found)
    assert checked(found).outcome == "holds"
    Put("checks.0.bound", lambda v: 1e6 * v)(found)
    assert reasons(checked(found)) == ["evidence_apart"]


def test_a_check_that_was_too_costly_claims_nothing_against_one_that_is_not() -> None:
    found, data = receipt("linear"), {"elements": 29}
    said = say("verdicts.too_costly", **data)
    found["checks"][0] |= {"verdict": "cannot say", "reason": "too_costly", "text": said, "data": data}
    report = checked(found)
    assert (report.outcome, [n.key for n in report.notes]) == ("holds", ["time_allows_more"])


def test_a_check_that_is_too_costly_here_leaves_the_receipt_open() -> None:
    found = receipt("linear")
    found["asked"]["effort"] = 1e-9
    report = checked(found)
    assert report.outcome == "open"
    assert "check_open" in reasons(report)


# ------------------------------------------------------------------------------------------------------ verifications


VERIFIED = {
    "all that can be asked": [
        "x**2 * exp(-y)", "x=1,2,3", "y=0.5,0.1,-1",
        *("--each-operation", "--full", "--second", "--batched", "--exact"),
    ],
    "a kink": ["sum(relu(x) * x)", "x=0,1,-1", "--each-operation"],
    "a draw": ["sum(dropout(x, 0.5) * x)", "x=1,2,3", "--seed", "4"],
    "a cut": ["sum(x * x.detach())", "x=1,2"],
    "a wrong formula": ["sum(x**2)", "x=1,2,3", "--by-hand", "x=3*x"],
    "outside the domain": ["sum(log(x))", "x=-1,2"],
    "half precision": ["sum(softmax(x, 0)**2)", "x=1,2,3:float16"],
}  # fmt: skip


@cache
def verified(*arguments: str) -> str:
    return in_process(("verify", *arguments, "--format", "json")).out


def verification(name: str) -> Receipt:
    return dict(json.loads(verified(*VERIFIED[name])))


@pytest.mark.parametrize("name", VERIFIED)
def test_the_receipt_of_a_verification_holds_and_keeps_its_verdict(name: str) -> None:
    report = checked(verification(name))
    assert (report.kind, report.outcome, reasons(report)) == ("verification", "holds", [])
    assert report.verdict == verification(name)["verdict"]


def test_a_wrong_operation_is_confirmed_with_its_place_and_what_it_looks_like(program: Callable[[str], Path]) -> None:
    program("3.003")
    run = in_process.__wrapped__(("verify", "program.py:cube", "x=1,2,3", "--format", "json"))
    found = json.loads(run.out)
    report = checked(found)
    assert (report.outcome, report.verdict) == ("holds", "differs")
    (wrong,) = [o for o in found["operations"] if o["verdict"] == "differs"]
    assert (wrong["label"], wrong["findings"][0]["code"], wrong["findings"][0]["data"]["ratio"]) == (
        "Cube", "factor", pytest.approx(1.001),
    )  # fmt: skip
    found["operations"][found["operations"].index(wrong)]["findings"] = []
    assert reasons(checked(found)) == ["counted"]


def test_a_verification_from_python_is_derived_from_the_numbers_it_keeps(squares: Any) -> None:
    report = gx.verify(squares, {"x": X}, target="squares.py:square", each_operation=True, second=True)
    assert checked(json.loads(report.render("json"))).outcome == "holds"
    assert reasons(checked(json.loads(gx.verify(square, {"x": X}).render("json")))) == ["no_target"]


WHOLE, WRONG = "all that can be asked", "a wrong formula"


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        (WHOLE, Put("gradients.x.1", 2.5), "differs"),
        (WHOLE, Put("cotangent.value.0", 1.0), "differs"),
        (WHOLE, Put("verdict", "differs"), "verdict_unfounded"),
        (WHOLE, Drop("checks.3"), "check_missing"),
        (WHOLE, Put("steps", []), "unknown_key"),
        (WHOLE, Put("output.name", "y"), "differs"),
        (WHOLE, Drop("operations"), "missing_key"),
        (WHOLE, Put("operations", []), "counted"),
        (WHOLE, Drop("operations.1"), "counted"),
        (WHOLE, Put("operations.1.label", "aten.exp"), "differs"),
        (WHOLE, Put("operations.0.source.line", 3), "differs"),
        (WHOLE, Put("operations.0.checks.0.worst", 1e-30), "differs"),
        (WHOLE, Put("operations.0.verdict", "differs"), "differs"),
        (WHOLE, Put("second", None), "differs"),
        (WHOLE, Put("second.checks.0.bound", 2.0), "differs"),
        (WHOLE, Put("asked.second", False), "differs"),
        (WHOLE, Put("asked.exact", False), "check_invented"),
        (WRONG, Put("asked.by_hand.x", "2*x + 1"), "differs"),
        (WRONG, Put("asked.order", 2), "differs"),
        ("a kink", Put("operations.0.findings", []), "counted"),
        ("a kink", Put("operations.0.findings.0.data.below", 0.5), "differs"),
        ("a draw", Put("findings", []), "counted"),
        ("a draw", Put("asked.seed", 5), "differs"),
        ("a cut", Put("findings.0.place.line", 2), "differs"),
    ],
)
def test_a_broken_verification_is_refused(name: str, change: Callable[[Receipt], None], key: str) -> None:
    found = verification(name)
    change(found)
    report = checked(found)
    assert report.outcome == "refused"
    assert key in reasons(report)


# ------------------------------------------------------------------------------------------------------------- schema


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(part)


def test_every_record_is_valid_by_the_published_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    for made in (*map(receipt, [*EXAMPLES, *MORE]), *map(verification, VERIFIED)):
        assert [e.message for e in validator.iter_errors(made)] == []


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", [*EXAMPLES, "kink"])
def test_a_planted_key_is_refused_wherever_the_keys_are_known(name: str) -> None:
    made = receipt(name)
    names = {*made["inputs"], *made["gradients"]}
    free = [made["files"], made["asked"]["inputs"], made["asked"]["by_hand"]]
    for place in objects(made):
        if any(place is f for f in free) or not place or place.keys() & names:
            continue
        known = jsonschema.Draft202012Validator(schema()).is_valid(made)
        assert known
        place["planted"] = 3
        valid = jsonschema.Draft202012Validator(schema()).is_valid(made)
        del place["planted"]
        if valid:  # what a sentence is filled with is free
            assert any(place is f.get("data") for f in objects(made))


# -------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_refusal_is_a_sentence_with_its_place(language: str) -> None:
    for name in list(BROKEN)[::4]:
        found, path, _ = broken(name)
        page = checked(found).render("text", language=language)
        assert path[:80] in page
        assert page.count("✗") >= 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_receipt_that_holds_says_what_was_checked(language: str) -> None:
    report = checked(receipt("two paths"))
    page = report.render("text", language=language)
    assert page.strip().startswith("✓")
    assert str(report.claims["equation"]) in page
