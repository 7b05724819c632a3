"""The releases of torch: what `gradexplain --version` says of the one that is installed."""

import importlib.metadata
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

import gradexplain as gx
from gradexplain.errors import InputError, RunError
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import trace as traced
from gradexplain.versions import internals as internals_module
from gradexplain.versions import releases
from gradexplain.versions.internals import internals
from gradexplain.versions.releases import minor_release, version_line


def installed(monkeypatch, torch):
    def version(name):
        if torch is None:
            raise PackageNotFoundError(name)
        return torch

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(releases, "OLDEST", (2, 9))
    monkeypatch.setattr(releases, "NEWEST", (2, 15))


@pytest.mark.parametrize("torch", ["2.9.0", "2.15.3+cpu", "2.15.0.dev20261101", "2.10.0"])
def test_a_tested_torch_is_named_without_a_word_more(monkeypatch, torch):
    installed(monkeypatch, torch)
    assert f" · torch {torch} · Python 3." in version_line()


@pytest.mark.parametrize(
    ("torch", "words"), [("2.16.0+cpu", "newer than 2.15"), ("3.0.0", "newer than 2.15"), ("2.8.1", "older than 2.9")]
)
def test_an_untested_torch_is_called_so(monkeypatch, torch, words):
    installed(monkeypatch, torch)
    assert f"torch {torch} ({words}" in version_line()
    assert "未经测试" in version_line("zh")


def test_a_missing_torch_is_a_sentence(monkeypatch):
    installed(monkeypatch, None)
    assert "torch is not installed" in version_line()


def test_the_tested_releases_are_in_order():
    assert minor_release("2.6.0") < releases.OLDEST <= releases.NEWEST


@pytest.mark.parametrize(
    ("owner", "name", "words"),
    [
        (torch.autograd.graph.Node, "_input_metadata", "grad_fn._input_metadata"),
        (torch._C._autograd, "_top_saved_tensors_default_hooks", "torch._C._autograd._top_saved_tensors_default_hooks"),
        (torch, "_is_zerotensor", "torch._is_zerotensor"),
    ],
)
def test_what_torch_lacks_is_named(monkeypatch, owner, name, words):
    internals.cache_clear()
    if owner is torch.autograd.graph.Node:
        monkeypatch.setattr(internals_module, "hasattr", lambda thing, a: a != name, raising=False)
    else:
        monkeypatch.delattr(owner, name)
    with pytest.raises(RunError, match=re.escape(words)):
        internals()
    monkeypatch.undo()
    internals.cache_clear()
    assert internals()


def test_torch_is_not_imported_for_its_version():
    code = "from gradexplain.versions.releases import version_line; version_line(); import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "gradexplain.versions.releases" in loaded
    assert "torch" not in loaded


JVP = """
import torch, gradexplain as gx
def inner(u):
    return (u.sin() * torch.tensor([1., 2.], dtype=u.dtype)).sum()
def outer(t):
    return torch.func.jvp(inner, (t,), (torch.ones_like(t),))[1]
print(gx.verify(outer, {"t": torch.tensor(-.5).double()}, each_operation=True).verdict)
"""


def test_a_constant_inside_a_forward_mode_transform_does_not_end_the_interpreter():
    """The tangent of a constant is a zero tensor without storage, and tensors without numbers give its shape."""
    ran = subprocess.run([sys.executable, "-c", JVP], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, "agrees"), ran.stderr


def nested(a, b):
    return (torch.nested.as_nested_tensor([a, b], layout=torch.jagged) * 2).values().sum()


@pytest.mark.parametrize("ask", [gx.explain, gx.verify, gx.graph])
def test_a_nested_tensor_is_refused_with_its_layout_and_place(ask):
    with pytest.raises(InputError) as caught:
        ask(nested, {"a": torch.ones(2, 3), "b": torch.ones(1, 3)})
    assert (caught.value.key, caught.value.data["layout"]) == ("nested", "jagged")
    assert "test_versions.py" in str(caught.value)
    assert "嵌套张量" in caught.value.sentence("zh")


NESTED_ALREADY = """
import torch, gradexplain as gx
for layout in (torch.strided, torch.jagged):
    given = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout, requires_grad=True)
    whole = torch.nested.to_padded_tensor(given * 2, 0.0) if layout == torch.strided else (given * 2).values()
    for ask, *asked in (
        *((verb, torch.relu, [given]) for verb in (gx.explain, gx.verify, gx.graph)),
        *((verb, tensor) for verb in (gx.explain, gx.graph) for tensor in (given * 2, whole.sum())),
    ):
        try:
            ask(*asked)
        except gx.InputError as error:
            print(error.key, error.data["layout"], error.data["place"].rpartition(":")[2])
"""


def test_a_nested_tensor_that_is_given_or_that_a_graph_comes_from_is_refused_too(tmp_path):
    """Torch's own functions ended the interpreter there, so another one is asked; it names the line that asked."""
    file = tmp_path / "asking.py"
    file.write_text(NESTED_ALREADY)
    ran = subprocess.run([sys.executable, "-W", "ignore", str(file)], capture_output=True, text=True, check=False)
    line = NESTED_ALREADY.split("\n").index("            ask(*asked)") + 1
    said = [f"nested {layout} {line}" for layout in ("strided", "jagged") for _ in range(7)]
    assert (ran.returncode, ran.stdout.split("\n")) == (0, [*said, ""]), ran.stderr


class Hiding(torch.nn.Module):
    """A module with an attribute in the place of one of torch's methods."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 1)
        self.modules = [self.inner]

    def forward(self, x):
        return self.modules[0](x).sum()


@pytest.mark.parametrize("ask", [gx.explain, gx.verify, gx.graph])
def test_an_attribute_that_hides_a_method_of_modules_is_no_obstacle(ask):
    assert "inner.weight" in str(ask(Hiding(), [torch.ones(1, 2)]))


class Identity(torch.autograd.Function):
    """Gives its argument back, for which torch makes a view."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        return -g


class Both(torch.autograd.Function):
    """Written with a context of its own, and with an output that carries no gradient."""

    @staticmethod
    def forward(x, scale):
        return x * scale, x.round()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.scale = inputs[1]
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, g, _):
        return g * ctx.scale, None


reversed_, scaled = Identity.apply, Both.apply


@pytest.mark.parametrize(
    ("function", "name", "arguments"),
    [
        (lambda x: reversed_(x * 1).sum(), "IdentityBackward", {"x"}),
        (lambda x: Identity.apply(x * 1).sum(), "IdentityBackward", {"x"}),
        (lambda x: scaled(x * 1, 3.0)[0].sum(), "BothBackward", {"x", "scale"}),
        (lambda x: Both.apply(x * 1, 3.0)[0].sum(), "BothBackward", {"x", "scale"}),
    ],
)
def test_a_custom_function_is_seen_however_its_apply_was_reached(function, name, arguments):
    trace = traced(computation_of(function, [torch.tensor([1.0, 2.0])]))
    node = next(node for node in trace.nodes if node.name == name)
    assert set(node.arguments) == arguments
    assert node.source is not None
    assert node.outputs[0] is not None
    assert node.source.file.endswith("test_versions.py")


def test_the_class_of_functions_is_left_as_it_was():
    kind = type(torch.autograd.Function)
    before = dict(kind.__dict__)
    gx.explain(lambda x: reversed_(x).sum(), [torch.ones(2)])
    assert dict(kind.__dict__) == before
