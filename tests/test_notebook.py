"""`gx.play` in a notebook: a real kernel answers what the page asks, and the page in a browser follows."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import needs_chromium
from torch import nn

pytest.importorskip("anywidget", reason="needs the extra notebook (pip install gradexplain[notebook])")

import gradexplain as gx
from gradexplain.errors import InputError, RunError
from gradexplain.playground.asked import OPTIONS
from gradexplain.playground.notebook import _text
from gradexplain.targets.values import parse_value, tensor_of

X = torch.tensor([1.0, 2.0, 3.0])


def asked(board: Any, inputs: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """Returns what a page is answered that first stands as it was made, with these inputs changed."""
    began = config(board)["named"]
    question = {"target": began["target"], **more, "inputs": {**began["inputs"], **(inputs or {})}}
    question["options"] = {**began["options"], **more.get("options", {})}
    found: dict[str, Any] = json.loads(board._answer(json.dumps(question).encode()))
    return found


def config(board: Any) -> dict[str, Any]:
    text = board.page.partition('<script type="application/json" id="config">')[2].partition("</script>")[0]
    found: dict[str, Any] = json.loads(text)
    return found


# --------------------------------------------------------------------------------------------- what the page stands for


def test_a_function_of_the_notebook_is_asked_with_other_numbers() -> None:
    scale = torch.tensor([2.0, -1.0, 0.5])
    board = gx.play(lambda x: (scale * x**2).sum(), {"x": X})
    assert config(board)["first"]["gradients"] == {"x": "[4, −4, 3]"}
    assert asked(board, {"x": "3,2,1"})["gradients"] == {"x": "[12, −4, 1]"}
    assert asked(board, {"x": "1,2"})["field"] == "target"  # a fault of the function, in words
    assert asked(board, {"x": "3", "y": "2"}, target="x * y")["gradients"] == {"x": "2", "y": "3"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (2, 2)])
def test_the_text_of_a_field_is_the_tensor_to_the_last_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    values = (torch.randn(shape, generator=generator, dtype=torch.float64) * 1000).to(dtype)
    made = tensor_of(parse_value(_text(values)), name="x")
    assert (made.shape, made.dtype) == (values.shape, values.dtype)
    assert torch.equal(made, values)


def test_what_is_no_small_tensor_stays_as_given() -> None:
    rows, mask = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), [True, False, True]
    board = gx.play(lambda w, rows, mask: (rows[:, mask] @ w).square().mean(), [torch.tensor([0.5, -1.0]), rows, mask])
    assert config(board)["named"]["inputs"] == {"w": "0.5, -1", "rows": "given", "mask": "given"}
    w = torch.tensor([2.0, 1.0], requires_grad=True)
    (rows[:, mask] @ w).square().mean().backward()
    found = asked(board, {"w": "2,1"}, options={"wrt": "w"})
    assert json.loads(found["gradients"]["w"].replace("−", "-")) == pytest.approx(w.grad.tolist(), rel=1e-6)
    assert "rows" in asked(board, {"rows": "gone"})["field"]


def test_the_gradient_is_asked_for_what_requires_it() -> None:
    w, x = torch.tensor([1.0], requires_grad=True), torch.tensor([2.0])
    assert config(gx.play(lambda w, x: (w * x).sum(), [w, x]))["first"]["gradients"].keys() == {"w"}


def test_a_module_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    drawn = torch.get_rng_state()

    def loss(shift: torch.Tensor) -> torch.Tensor:
        return net(X.reshape(3, 1) + shift).sum()

    board = gx.play(loss, [torch.tensor(0.5)])
    assert "too slow" in config(board)["first"]["no_figure"]  # it draws random numbers: each point is by itself
    asked(board, {"shift": "1"})
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_function_that_prints_or_is_interrupted_does_neither_to_the_notebook(capsys: Any) -> None:
    stop = False

    def f(x: torch.Tensor) -> torch.Tensor:
        print("heard")
        if stop:
            raise KeyboardInterrupt
        return x * x

    board = gx.play(f, [torch.tensor(2.0)])
    stop = True
    assert "KeyboardInterrupt" in asked(board, {"x": "3"})["fault"]
    assert capsys.readouterr() == ("", "")


def test_what_cannot_be_shown_is_said_at_once() -> None:
    with pytest.raises(InputError, match="takes"):
        gx.play(lambda x: x, {"z": X})
    with pytest.raises(RunError, match="boom"):
        gx.play(lambda x: (_ for _ in ()).throw(ValueError("boom")), [X])
    code = (
        "import sys; sys.modules['anywidget'] = None\nimport gradexplain as gx\n"
        "try:\n    gx.play('x**2', {'x': 3.0})\nexcept gx.InputError as fault:\n    print(fault)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "gradexplain[notebook]"' in done.stdout


# ------------------------------------------------------------------------------------------------------- a real kernel

CELL = """
import torch, gradexplain as gx
def loss(w, x):
    return ((w * x - 1) ** 2).sum()
gx.play(loss, {"w": torch.tensor(2.0), "x": torch.tensor([1.0, 3.0])})
"""


class Notebook:
    """A kernel, and what it says."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def heard(self, request: str, wanted: str) -> list[dict[str, Any]]:
        """Returns what came of a request: the contents of its messages of a kind, until the kernel is idle again."""
        found = []
        while True:
            message = self.client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            assert kind != "error", "\n".join(content["traceback"])
            found += [content] if kind == wanted else []
            if kind == "status" and content["execution_state"] == "idle":
                return found

    def run(self, code: str) -> list[dict[str, Any]]:
        return self.heard(self.client.execute(code), "execute_result")

    def ask(self, model: str, question: dict[str, Any]) -> dict[str, Any]:
        content = {"serial": 1, "view": "a", "body": json.dumps(question)}
        data = {"comm_id": model, "data": {"method": "custom", "content": content}}
        message = self.client.session.msg("comm_msg", data)
        self.client.shell_channel.send(message)
        said = self.heard(message["header"]["msg_id"], "comm_msg")
        (one,) = (m["data"]["content"] for m in said if m["data"].get("method") == "custom")
        assert (one["serial"], one["view"]) == (1, "a")
        found: dict[str, Any] = json.loads(one["text"])
        return found


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    client = pytest.importorskip("jupyter_client", reason="needs a kernel (the extra dev)")
    pytest.importorskip("ipykernel", reason="needs a kernel (the extra dev)")
    manager = client.KernelManager()
    manager.start_kernel()
    talk = manager.client()
    talk.start_channels()
    try:
        talk.wait_for_ready(timeout=120)
        yield Notebook(talk)
    finally:
        talk.stop_channels()
        manager.shutdown_kernel(now=False)
    assert not manager.is_alive()


VIEW = "application/vnd.jupyter.widget-view+json"


def test_a_kernel_answers_its_page_and_a_second_one(notebook: Notebook) -> None:
    models = []
    for _ in range(2):
        (shown,) = notebook.run(CELL)
        models.append(shown["data"][VIEW]["model_id"])
        assert "<iframe" in shown["data"]["text/html"]
        assert "32" in shown["data"]["text/html"]  # seen where no widgets are: 2·1·1 + 2·3·5, of w
    named = {"target": "notebook:loss", "options": dict(OPTIONS)}
    for model, w in zip(models, (2.0, -1.0), strict=True):
        found = notebook.ask(model, {**named, "inputs": {"w": str(w), "x": "1,3"}})
        leaf = torch.tensor(w, requires_grad=True)
        ((leaf * torch.tensor([1.0, 3.0]) - 1) ** 2).sum().backward()
        assert float(found["gradients"]["w"].replace("−", "-")) == leaf.grad.item()
        assert found["figure"]["variables"] == ["w"]
    (processes,) = notebook.run("import multiprocessing, threading; len(multiprocessing.active_children())")
    assert processes["data"]["text/plain"] == "0"


# -------------------------------------------------------------------------------------------------------- in a browser

WIDGET = Path(gx.__file__).parent / "playground" / "widget.js"
# The widget as a notebook mounts it; `kernel` is this test, which answers after a while.
MOUNTED = """async ([source, page]) => {
  const { default: widget } = await import("data:text/javascript;base64," + btoa(source));
  let heard = null;
  window.asked = 0;
  const model = {
    get: (name) => ({ page })[name], on: (_, hear) => { heard = hear; }, off() { heard = null; },
    send(question) {
      if (window.dead) throw new Error("no kernel");
      window.asked++;
      kernel(question.body).then((text) => heard({ ...question, text }));
    },
  };
  window.unmount = widget.render({ model, el: document.body });
}"""


@needs_chromium
def test_the_page_in_a_cell_follows_what_the_kernel_answers(browser: Any, tmp_path: Path) -> None:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
    board = gx.play(lambda w: w**3, {"w": torch.tensor(2.0)}, language="zh")
    page = browser.new_page(viewport={"width": 900, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda fault: said.append(str(fault)))
    page.expose_function("kernel", lambda body: board._answer(body.encode()).decode())
    (tmp_path / "cell.html").write_text("<!doctype html><title>cell</title><body></body>", encoding="utf-8")
    page.goto(f"file://{tmp_path}/cell.html")
    page.evaluate(MOUNTED, [WIDGET.read_text(encoding="utf-8"), board.page])
    cell = page.frame_locator("iframe.gx-live")
    gradient = cell.locator("#readout .gradient")
    sync.expect(gradient).to_have_text("∂y/∂w = 12")  # it stands there before anything is asked
    assert page.evaluate("asked") == 0
    field = cell.locator("[id='inputs.w']")
    field.evaluate(  # as fast as they come: the newest is asked last, most of the others never
        "f => { for (let k = 1; k <= 20; k++) {"
        " f.value = k; f.dispatchEvent(new Event('input')); f.form.requestSubmit(); } }"
    )
    sync.expect(gradient).to_have_text("∂y/∂w = 1200", timeout=30_000)
    assert page.evaluate("asked") <= 3
    assert cell.locator("#link").is_hidden()
    assert cell.locator("#lesson").count() == 0
    sync.expect(cell.frame_locator("iframe.now").locator("body")).to_contain_text("1200")
    assert said == []
    page.evaluate("window.dead = true")
    field.fill("3")
    sync.expect(cell.locator("#status")).to_contain_text("内核没有回答")
    sync.expect(gradient).to_have_text("∂y/∂w = 1200")
    page.evaluate("unmount()")
    page.close()
