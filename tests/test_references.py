"""A reference in a file: what is the same later is said to be, what is not is told, and a wrong file is refused."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gradexplain as gx


def loss(x: Tensor, w: Tensor) -> Tensor:
    return ((x @ w).tanh() ** 2).mean()


def turned(x: Tensor, w: Tensor) -> Tensor:
    return (w.flip(0).T @ x.flip(1).T).tanh().pow(2).mean()


def scaled(x: Tensor, w: Tensor) -> Tensor:
    return ((x @ w).tanh() ** 2).sum() / 59


class Saturating(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return g * (1 - y)


def saturating(x: Tensor, w: Tensor) -> Tensor:
    return (Saturating.apply(x @ w) ** 2).mean()


def numbers(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draws = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in (("x", (10, 8)), ("w", (8, 6)))}
    return {n: t.to(dtype) for n, t in draws.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64])
def test_what_was_saved_is_the_same_and_what_is_another_thing_differs(dtype: torch.dtype, tmp_path: Path) -> None:
    given = numbers(torch.float32 if dtype.is_complex else dtype)
    turn = (lambda f: lambda x, w: f(x * 1j, w + 0j).abs()) if dtype.is_complex else (lambda f: f)
    path = gx.save_reference(turn(loss), given, path=tmp_path / "reference.safetensors")
    assert {p.name for p in tmp_path.iterdir()} == {"reference.safetensors"}
    assert gx.compare(turn(loss), inputs=given, reference=path).of("w").reason == "bits"
    assert gx.compare(turn(turned), inputs=given, reference=path).verdict == "same"
    wrong = gx.compare(turn(scaled), inputs=given, reference=path)
    assert wrong.verdict == "differs"
    assert wrong.of("w").pattern.kind == "factor"
    assert wrong.place is not None
    assert wrong.place.phase == "forward"


def test_the_place_is_known_by_the_outline_of_the_saved_run(tmp_path: Path) -> None:
    given = numbers(torch.float32)
    path = gx.save_reference(loss, given, path=tmp_path / "reference.safetensors")
    place = gx.compare(saturating, inputs=given, reference=path).place
    assert (place.phase, place.how) == ("backward", "sends")
    assert [s.operator for s in place.steps] == ["tanh", "SaturatingBackward"]
    assert [s.source.code for s in place.steps] == ["(x @ w).tanh()", "Saturating.apply(x @ w)"]
    path = gx.save_reference(saturating, given, path=tmp_path / "reference.safetensors")
    assert gx.compare(loss, inputs=given, reference=path).place.steps[0].operator == "SaturatingBackward"


def test_a_coarse_reference_hides_nothing_in_a_file(tmp_path: Path) -> None:
    def coarse(x: Tensor) -> Tensor:  # Var = E x² - (E x)², which cancels
        return (x.square().mean() - x.mean().square()) * x.numel()

    given = {"x": torch.randn(64, generator=torch.Generator().manual_seed(0)) + 300.0}
    path = gx.save_reference(coarse, given, path=tmp_path / "r.safetensors")
    right = gx.compare(lambda x: ((x - x.mean()) ** 2).sum(), inputs=given, reference=path)
    assert (right.verdict, right.of("x").nearer) == ("same", "b")
    wrong = gx.compare(lambda x: ((x - x.mean()) ** 2).sum() * (63 / 64), inputs=given, reference=path)
    assert wrong.of("x").pattern.data["formula"] == "(n − 1)/n"


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))


def test_a_model_is_known_by_its_weights_and_draws_as_it_drew(tmp_path: Path) -> None:
    path, x = tmp_path / "model.safetensors", torch.randn(6, 4)
    torch.manual_seed(7)
    gx.save_reference(model(), [x], path=path)
    torch.manual_seed(8)
    net = model()
    assert gx.compare(net, inputs=[x], reference=path).verdict == "same"
    net[1].running_mean += 1
    stale = gx.compare(net.eval(), inputs=[x], reference=path)
    assert (stale.verdict, "reference-buffers" in {f.code for f in stale.findings}) == ("differs", True)
    with pytest.raises(gx.InputError, match=r"The parameter 0\.weight has other numbers"):
        gx.compare(model(1), inputs=[x], reference=path)
    with pytest.raises(gx.InputError, match="The input input has other numbers"):
        gx.compare(model(), inputs=[x + 1], reference=path)
    with pytest.raises(gx.InputError, match=r"input is float32 \(7, 4\)"):
        gx.compare(model(), inputs=[torch.randn(7, 4)], reference=path)
    with pytest.raises(gx.InputError, match=r"input is float64 \(6, 4\)"):
        gx.compare(model().double(), inputs=[x.double()], reference=path)
    with pytest.raises(gx.InputError, match=r"Only in A: 0\.weight"):
        gx.compare(nn.Linear(4, 2), inputs=[x], reference=path)


def test_a_file_that_is_no_reference_is_refused_with_a_sentence(tmp_path: Path, command: Callable) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "r.safetensors"
    asked = ("compare", "mean(x**2)", "x=randn(9)")
    assert command(*asked, "--save", str(path)).code == 0
    whole = path.read_bytes()
    assert command(*asked, "--with", str(path)).code == 0
    assert command("compare", "sum(x**2)", "x=randn(9)", "--with", str(path)).code == 1
    assert command("compare", "mean(x**2)", "x=randn(9)", "--seed", "1", "--with", str(path)).code == 2
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])

    def changed(change: Callable[[dict], object]) -> bytes:
        own = json.loads(header["__metadata__"]["gradexplain"])
        change(own)
        text = json.dumps({**header, "__metadata__": {"gradexplain": json.dumps(own)}}).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + size :]

    broken = {
        "half": (whole[: len(whole) // 2], "is broken"),
        "empty": (b"", "is broken"),
        "text": (b"not a file of tensors at all", "is broken"),
        "format": (changed(lambda t: t.update(format=99)), "has format 99"),
        "key": (changed(lambda t: t.pop("gradients")), "is broken"),
        "name": (changed(lambda t: t["gradients"].update(y=True)), "is broken"),
        "steps": (changed(lambda t: t["outline"].update(output=999)), "is broken"),
        "none": (changed(lambda t: t.update(inputs=None)), "is broken"),
    }
    for name, (content, said) in broken.items():
        (tmp_path / name).write_bytes(content)
        run = command(*asked, "--with", str(tmp_path / name))
        assert (run.code, said in run.err) == (2, True), (name, run.err)
    save_file({"w": torch.ones(3)}, tmp_path / "other")
    assert "is no reference of gradexplain" in command(*asked, "--with", str(tmp_path / "other")).err
    assert "cannot be read" in command(*asked, "--with", str(tmp_path / "missing")).err
    assert "cannot be read" in command(*asked, "--with", str(tmp_path)).err
    missing = command("compare", "missing.py:f", "x=1", "--save", str(path))
    assert (missing.code, path.read_bytes()) == (2, whole)
    assert command(*asked, "--save", str(tmp_path / "no" / "r.safetensors")).code == 2
    assert command(*asked, "--save", str(path), "--with", str(path)).code == 2
    assert {p.name for p in tmp_path.iterdir()} == {"r.safetensors", "other", *broken}


def test_what_changes_from_run_to_run_is_not_saved(tmp_path: Path) -> None:
    calls = []

    def drifting(x: Tensor) -> Tensor:
        calls.append(x)
        return (x * (1 + len(calls))).sum()

    with pytest.raises(gx.InputError, match="changes from run to run"):
        gx.save_reference(drifting, [torch.ones(3)], path=tmp_path / "r.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_machine_is_read_and_says_the_same(command: Callable) -> None:
    kept = ("--with", str(Path(__file__).with_name("grown.safetensors")))
    pairs = f"{Path(__file__).with_name('pairs.py')}"
    assert command("compare", f"{pairs}:grown", "x=randn(6)", *kept).code == 0
    assert command("compare", f"{pairs}:dropped", "x=randn(6)", *kept).code == 1
    assert command("compare", f"{pairs}:grown", "x=randn(7)", *kept).code == 2


@pytest.mark.parametrize("word", ["input", "parameter"])
def test_another_torch_that_may_draw_other_numbers_is_named(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, layer = torch.linspace(-1, 1, 6), nn.Linear(6, 2)
    path = gx.save_reference(layer, [x], path=tmp_path / "made.safetensors")
    made, other = torch.__version__, nn.Linear(6, 2) if word == "parameter" else layer
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert gx.compare(layer, inputs=[x], reference=path).findings[0].code == "reference-torch"
    with pytest.raises(gx.GradexplainError) as fault:
        gx.compare(other, inputs=[x if word == "parameter" else x + 1], reference=path)
    assert f"The {word} " in str(fault.value)
    assert f"That was torch {made}, and this is torch 2.99.0" in str(fault.value)
