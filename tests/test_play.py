"""The live page: who may ask, what is answered within which limits, and the page in a real browser."""

import http.client
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from browser import needs_chromium

pytest.importorskip("starlette", reason="needs the extra play (pip install gradexplain[play])")

from gradexplain import lessons
from gradexplain.errors import InputError
from gradexplain.playground.asked import MOST_BYTES, OPTIONS, Asked
from gradexplain.playground.computing import answered
from gradexplain.playground.drawing import End
from gradexplain.playground.page import shell

AXE = Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"
NAMED = Asked("x**2 + 2*x", {"x": "3"})


def question(target: str, inputs: dict[str, str] | None = None, **options: str) -> bytes:
    return json.dumps({"target": target, "inputs": inputs or {}, "options": {**OPTIONS, **options}}).encode()


def answer_to(
    target: str, inputs: dict[str, str] | None = None, named: Asked = NAMED, **options: str
) -> dict[str, Any]:
    """Returns what is answered, computed in this process."""
    found: dict[str, Any] = json.loads(answered(question(target, inputs, **options), named, "en"))
    return found


# --------------------------------------------------------------------------------------------------- what is answered


def test_the_numbers_are_torchs() -> None:
    x = torch.tensor(8.5, requires_grad=True)
    y = torch.tanh(x) * x**2
    y.backward()
    found = answer_to("tanh(x) * x**2", {"x": "8.5"})
    assert x.grad is not None
    assert float(found["gradients"]["x"]) == pytest.approx(x.grad.item(), rel=1e-6)
    assert float(found["output"][1]) == pytest.approx(y.item(), rel=1e-6)
    assert "tanh" in found["page"]


def test_a_complex_gradient_is_read_with_both_its_parts() -> None:
    found = answer_to("sum(abs(x)**2)", {"x": "1+2j,0.5-3j"})  # 2x, by the convention of torch
    parts = [complex(text.replace("−", "-")) for text in found["gradients"]["x"].strip("[]").split(", ")]
    assert parts == pytest.approx([2 + 4j, 1 - 6j])


def test_a_function_of_one_number_is_drawn_with_its_tangent() -> None:
    figure = answer_to("x**2 + 2*x", {"x": "8.5"})["figure"]
    assert (figure["variables"], figure["at"], figure["value"], figure["gradient"]) == (["x"], [8.5], 89.25, [19.0])
    assert figure["ends"] == [[-20, 20]]
    for x, y in zip(figure["x"], figure["y"], strict=True):
        assert y == pytest.approx(x * x + 2 * x, abs=1e-9)


def test_a_line_is_broken_at_a_pole() -> None:
    figure = answer_to("tan(x)", {"x": "1"}, ends="-2,2")["figure"]
    assert None in figure["y"]
    assert max(y for y in figure["y"] if y is not None) > 20 > figure["window"][1]


def test_a_function_of_two_numbers_is_drawn_by_its_values_with_its_gradient() -> None:
    figure = answer_to("x**2 + 3*x*y", {"x": "1", "y": "-0.5"})["figure"]
    assert (figure["variables"], figure["ends"]) == (["x", "y"], [[-2, 2], [-2, 2]])
    assert (figure["value"], figure["gradient"]) == (-0.5, [0.5, 3.0])
    for row, y in zip(figure["heights"], figure["y"], strict=True):
        assert row == pytest.approx([x * x + 3 * x * y for x in figure["x"]], abs=1e-9)


def test_descent_is_that_of_its_closed_form() -> None:
    path = answer_to("x**2 + 2*x", {"x": "3"}, lr="0.1", steps="5")["figure"]["descent"]
    assert [x for x, _ in path] == pytest.approx([-1 + 4 * 0.8**k for k in range(6)])
    assert [y for _, y in path] == pytest.approx([(4 * 0.8**k) ** 2 - 1 for k in range(6)])
    flat = answer_to("x**2 + 2*y**2", {"x": "3", "y": "1"}, lr="0.1", steps="5")["figure"]["descent"]
    assert [v for x, y, _ in flat for v in (x, y)] == pytest.approx([v for k in range(6) for v in (3 * 0.8**k, 0.6**k)])


@pytest.mark.parametrize(
    ("target", "inputs"), [("sum(x**2)", {"x": "1,2"}), ("x + y*z", {"x": "1", "y": "1", "z": "2"})]
)
def test_what_is_no_function_of_one_or_two_numbers_has_no_figure(target: str, inputs: dict[str, str]) -> None:
    found = answer_to(target, inputs)
    assert (found["figure"], found["verdict"]) == (None, "agrees")


OWN = """
import time
import torch
from torch import nn

net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
nn.init.constant_(net[0].weight, 0.5)
nn.init.zeros_(net[0].bias)
def bent(x):
    return 3 * x if x > 1 else x.square()
def fitted(a, b, data):
    return ((a * data + b - 1) ** 2).mean()
def single(x):  # takes float32 alone, and moves what it holds in training
    net.eval()
    return torch.sin(net[0](x)).sum()
def slow(x):
    time.sleep(0.05)
    return x * 1.0 if x > 0 else -x
"""


def own(tmp_path: Path, name: str, inputs: dict[str, str], **options: str) -> dict[str, Any]:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    target = f"{tmp_path}/own.py:{name}"
    return answer_to(target, inputs, Asked(target, inputs), **options)


def test_a_function_of_a_file_is_drawn_as_an_expression_is(tmp_path: Path) -> None:
    figure = own(tmp_path, "bent", {"x": "2"})["figure"]
    assert (figure["at"], figure["value"], figure["gradient"]) == ([2], 6, [3])
    # it jumps at 1, where the curve is broken
    assert None in figure["y"]
    for x, y in zip(figure["x"], figure["y"], strict=True):
        assert y is None or min(abs(y - 3 * x), abs(y - x * x)) < 1e-6


def test_inputs_that_are_no_number_are_held_in_a_figure(tmp_path: Path) -> None:
    figure = own(tmp_path, "fitted", {"a": "1", "b": "0.5", "data": "1,2,3"}, lr="0.1", steps="2")["figure"]
    assert (figure["variables"], figure["at"]) == (["a", "b"], [1, 0.5])
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, 0.5))
    data = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    y = ((a * data + b - 1) ** 2).mean()
    y.backward()
    assert figure["value"] == pytest.approx(y.item())
    assert figure["gradient"] == pytest.approx([a.grad.item(), b.grad.item()])
    assert figure["descent"][1][:2] == pytest.approx([1 - 0.1 * a.grad.item(), 0.5 - 0.1 * b.grad.item()])
    line = answer_to("sum((w*x - y)**2)", {"w": "1", "x": "1,2,3", "y": "2,4,6"})["figure"]
    assert (line["variables"], line["gradient"]) == (["w"], [-28])


def test_a_function_that_takes_float32_alone_is_drawn_in_it_and_in_its_shape(tmp_path: Path) -> None:
    figure = own(tmp_path, "single", {"x": "[[2]]"})["figure"]
    assert (figure["value"], figure["gradient"]) == (pytest.approx(math.sin(1)), [pytest.approx(0.5 * math.cos(1))])


def test_a_function_that_is_slow_is_explained_and_not_drawn(tmp_path: Path) -> None:
    found = own(tmp_path, "slow", {"x": "2"})
    assert (found["figure"], found["gradients"]) == (None, {"x": "1"})
    assert "too slow" in found["no_figure"]


@pytest.mark.parametrize(
    ("waited", "worked", "over"), [(0.5, 0.5, None), (2.0, 0.5, None), (2.0, 1.5, 1.0), (4.5, 0.5, 4.0)]
)
def test_a_figure_may_take_a_second_of_a_processor_and_four_of_the_clock(
    monkeypatch: pytest.MonkeyPatch, waited: float, worked: float, over: float | None
) -> None:
    end = End(began=100.0, worked=7.0)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0 + waited)
    monkeypatch.setattr(time, "process_time", lambda: 7.0 + worked)
    assert end.passed() == over


def test_a_quick_figure_does_not_ask_again_and_again_how_long_the_processor_worked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where that is slow to be known, it was most of what an edit waited for."""
    asked = []
    real = time.process_time
    monkeypatch.setattr(time, "process_time", lambda: asked.append(1) or real())
    assert len(answer_to("x**2 + 2*x", {"x": "3"}, lr="0.1")["figure"]["descent"]) == 21
    assert len(asked) == 1


def test_a_point_without_a_derivative_says_why_there_is_no_figure() -> None:
    found = answer_to("log(x) + y", {"x": "-1", "y": "0"})
    assert found["figure"] is None
    assert "x = −1" in found["no_figure"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("target", ["1/x", "log(x)", "sqrt(x)", "abs(x)", "x/abs(x)", "exp(1e9*x + 1e9)", "x*nan"])
@pytest.mark.parametrize("x", ["0", "nan", "inf", "1e38"])
def test_what_is_not_finite_is_answered_in_json_that_a_browser_reads(target: str, x: str) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(answered(question(target, {"x": x}, lr="0.1"), NAMED, "en"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("body", "inputs", "said"),
    [
        ("torch.relu(x).sum()", "x=0,1", "kink"),
        ("(torch.log(x) * x).sum()", "x=0,1", "-inf"),
        ("(x * x.detach()).sum()", "x=2,1", "detach"),
    ],
)
def test_findings_of_a_function_of_a_file_stand_on_its_page(body: str, inputs: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"import torch\n\n\ndef f(x):\n    return {body}\n")
    named = Asked(f"{tmp_path}/own.py:f", {"x": inputs.removeprefix("x=")})
    found = answer_to(named.target, dict(named.inputs), named)
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', found["page"], re.DOTALL)
    assert data
    shown = json.loads(data[1])
    assert any(said in json.dumps(finding, ensure_ascii=False) for finding in shown["findings"])
    assert any(body in line for _, line in shown["code"][0]["lines"])


def test_an_input_that_an_edit_brings_is_asked_for() -> None:
    assert answer_to("x * w + b", {"x": "3"}) == {"names": ["x", "w", "b"], "missing": ["w", "b"]}


@pytest.mark.parametrize(
    ("target", "inputs", "options", "field", "words"),
    [
        ("x +", {"x": "1"}, {}, "target", "syntax"),
        ("__import__('os').system('id')", {}, {}, "target", "__import__"),
        ("x.__class__", {"x": "1"}, {}, "target", "__class__"),
        ("/etc/passwd.py:main", {}, {}, "target", "was started with"),
        ("os:getcwd", {}, {}, "target", "was started with"),
        ("setup.py", {}, {}, "target", "py"),
        ("x", {"x": "1,,2"}, {}, "inputs.x", "1,,2"),
        ("x", {"x": "@/etc/secret.npy"}, {}, "inputs.x", "not named"),
        ("x", {"x": "1"}, {"cotangent": "@a.pt"}, "cotangent", "not named"),
        ("x**2", {"x": "1"}, {"dtype": "int8"}, "dtype", "int8"),
        ("x**2", {"x": "1,2"}, {"cotangent": "1,2,3"}, "cotangent", "shape"),
        ("x**2", {"x": "1"}, {"wrt": "z"}, "wrt", "z"),
        ("x**2", {"x": "1"}, {"order": "two"}, "order", "two"),
        ("x**2", {"x": "1"}, {"order": "9"}, "order", "9"),
        ("x**2", {"x": "1"}, {"lr": "-1"}, "lr", "-1"),
        ("x**2", {"x": "1"}, {"lr": "1", "steps": "100000"}, "steps", "1000"),
        ("x @ x", {"x": "[[1,2,3]]"}, {}, "target", "shape"),
        ("randn(5) * x", {"x": "ones(100000,100000)"}, {}, "inputs.x", "GiB"),
        ("x" * 20_000, {}, {}, "target", "10000"),
    ],
)
def test_a_fault_is_said_at_its_field(
    target: str, inputs: dict[str, str], options: dict[str, str], field: str, words: str
) -> None:
    found = answer_to(target, inputs, **options)
    assert found["field"] == field
    assert words in found["fault"]
    assert "Traceback" not in found["fault"]


def test_a_value_of_a_file_that_was_named_is_taken(tmp_path: Path) -> None:
    torch.save(torch.tensor([1.0, 2.0]), tmp_path / "x.pt")
    named = Asked("sum(x**2)", {"x": f"@{tmp_path}/x.pt"})
    assert answer_to("sum(x**3)", dict(named.inputs), named)["gradients"] == {"x": "[3, 12]"}


@pytest.mark.parametrize(
    "sent", [b"", b"[]", b"{}", b'{"target": 1, "inputs": {}, "options": {}}', b"\xff", b"[" * 9999]
)
def test_what_no_page_sends_is_refused(sent: bytes) -> None:
    with pytest.raises(InputError):
        Asked.read(sent)


def test_nothing_that_was_named_leaves_its_script() -> None:
    page = shell(Asked("x", {"x": "</script><script>alert(1)</script>"}), "en", watches=False)
    assert "</script><script>alert" not in page


def test_a_lesson_is_run_and_answered_as_its_page() -> None:
    found = json.loads(answered(b'{"lesson": "accumulation"}', NAMED, "zh"))
    assert found["page"] == lessons.run("accumulation").render("html", language="zh")
    assert "accumulation" in json.loads(answered(b'{"lesson": "accumulate"}', NAMED, "en"))["fault"]
    for sent in (b'{"lesson": 3}', b'{"lesson": "nan", "more": 1}', b'["lesson"]'):
        assert "does not send" in json.loads(answered(sent, NAMED, "en"))["fault"]


# ---------------------------------------------------------------------------------------------------------- processes


def behaved(script: str) -> Any:
    """Returns what came of a script of `behaving.py`."""
    done = subprocess.run([sys.executable, Path(__file__).parent / "behaving.py", script], stdout=-1, timeout=60)
    return json.loads(done.stdout)


def test_what_passes_a_limit_is_ended_and_the_next_is_answered() -> None:
    faults = ["play_too_long", "play_ended", "play_ended", "play_too_large"]
    assert behaved("limits") == [[fault, "next"] for fault in faults]


def test_two_pages_at_once_do_not_disturb_each_other() -> None:
    assert behaved("pages") == [["0", "1", "2", "3"], True, "InputError"]


def test_fifty_quick_edits_end_in_the_last_though_one_hangs() -> None:
    *before, last = behaved("edits")
    assert last == "edit 49"
    assert before.count(None) > 40
    assert all(found is None or found == f"edit {k}" for k, found in enumerate(before))


# --------------------------------------------------------------------------------------------------------- the server


@dataclass
class Served:
    """A server in a process of its own, as a user starts it."""

    process: "subprocess.Popen[str]"
    port: int
    token: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def ask(
        self, path: str = "/answer", body: bytes = b"", method: str = "POST", **headers: str | None
    ) -> tuple[int, str, dict[str, str]]:
        given = {"Authorization": f"Bearer {self.token}", "X-Page": "a", **headers}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, {k: v for k, v in given.items() if v is not None})
            response = connection.getresponse()
            return response.status, response.read().decode(), {k.lower(): v for k, v in response.getheaders()}


def started(*arguments: str, **options: Any) -> Served:
    command = [sys.executable, "-m", "gradexplain", "play", *arguments, "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", process.stdout.readline())
    assert found, process.communicate()[1]
    return Served(process, int(found[1]), found[2])


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    server = started("x**2 + 2*x", "x=3")
    yield server
    server.process.send_signal(signal.SIGINT)
    code, said = server.process.wait(20), server.process.communicate()[1]
    assert (code, said) == (0, "")  # Ctrl-C is how it is meant to end


def test_a_page_with_the_token_is_served_and_holds_no_token(served: Served) -> None:
    status, page, headers = served.ask(f"/?token={served.token}", method="GET", Authorization=None)
    assert status == 200
    assert served.token not in page
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"  # what the page says stays in no cache of the browser


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/play.js", "/docs"]
)
def test_no_file_is_served(served: Served, path: str) -> None:
    for token, status in ((None, 403), (f"Bearer {served.token}", 404)):
        assert served.ask(path, method="GET", Authorization=token)[0] == status


def test_an_address_or_a_header_that_is_too_large_is_refused(served: Served) -> None:
    long = "x" * 2 * MOST_BYTES
    for path, headers in ((f"/?token={long}", {}), ("/answer", {"X-Page": long})):
        with suppress(ConnectionError):  # the server need not read it to its end
            assert served.ask(path, **headers)[0] == 400
    assert served.ask("/changed")[0] == 200


@pytest.mark.parametrize(("origin", "status"), [("http://evil.example", 403), (None, 405)])
def test_there_is_no_websocket(served: Served, origin: str | None, status: int) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "AAAA", "Origin": origin}
    assert served.ask("/answer", method="GET", **upgrade)[0] == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": None},
        {"Authorization": "Bearer wrong"},
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
)
def test_who_may_not_ask_is_refused(served: Served, headers: dict[str, str | None]) -> None:
    given = {k: v and v.format(port=served.port) for k, v in headers.items()}
    status, said, _ = served.ask(body=question("x**2", {"x": "1"}), **given)
    assert (status, "gradients" in said) == (403, False)


def test_the_address_without_its_token_asks_for_it(served: Served) -> None:
    for path in ("/", "/?token=wrong"):
        status, page, _ = served.ask(path, method="GET", Authorization=None)
        assert status == 403
        assert "<form" in page
        assert "x**2" not in page


def test_a_question_is_answered_by_the_server(served: Served) -> None:
    status, said, _ = served.ask(body=question("x**2 + 2*x", {"x": "8.5"}), Origin=f"http://127.0.0.1:{served.port}")
    assert (status, json.loads(said)["gradients"]) == (200, {"x": "19"})


def test_a_question_that_is_too_large_is_refused_in_a_sentence(served: Served) -> None:
    status, said, _ = served.ask(body=b"x" * (MOST_BYTES + 1))
    assert (status, "64 kB" in said) == (200, True)
    assert served.ask(body=question("x**2", {"x": "3"}))[0] == 200


def test_the_server_listens_on_the_loopback_interface_alone(served: Served) -> None:
    listening = Path("/proc/net/tcp").read_text(encoding="utf-8")
    mine = [line.split()[1] for line in listening.splitlines() if f":{served.port:04X} 00000000:0000" in line]
    assert mine == [f"0100007F:{served.port:04X}"]


@pytest.mark.thorough
def test_a_function_of_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(x):\n    return x**2\n")
    server = started(f"{file}:f", "x=3")
    try:
        asked = question(f"{file}:f", {"x": "3"})
        assert json.loads(server.ask(body=asked)[1])["gradients"] == {"x": "6"}
        before = server.ask("/changed")[1]
        file.write_text("def f(x):\n    return x**3\n\n")
        assert server.ask("/changed")[1] != before
        assert json.loads(server.ask(body=asked)[1])["gradients"] == {"x": "27"}
        refused = json.loads(server.ask(body=question(f"{tmp_path}/other.py:f", {"x": "3"}))[1])
        assert "was started with" in refused["fault"]
    finally:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
        assert server.process.communicate()[1] == ""


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_it_is_ended_without_a_word_before_it_is_ready(seconds: float) -> None:
    server = started("x**2", "x=3", start_new_session=True)
    time.sleep(seconds)
    os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does: to all that it started
    assert (server.process.wait(20), server.process.communicate()[1]) == (0, "")


def test_without_the_extra_the_command_says_how_to_install_it() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv = ['gradexplain', 'play', 'x', 'x=1']\n"
        "from gradexplain.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "gradexplain[play]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said(served: Served) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradexplain", "play", "--port", str(served.port), "--no-open"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, f"The port {served.port} cannot be used" in done.stderr) == (2, True)


# -------------------------------------------------------------------------------------------------------- the browser


# Pages as the explanation's own is: one whose reader goes to step 7, and one that says which step it is sent.
FIRST = (
    "<!doctype html><body>first<script>setTimeout(() => parent.postMessage({kind: 'step', step: 7}, '*'), 100)</script>"
    "</body>"
)
SECOND = (
    "<!doctype html><body>second<script>addEventListener('message', e => { if (e.data.kind === 'step')"
    " document.body.textContent = 'step ' + e.data.step; }); parent.postMessage({kind: 'ready'}, '*')</script></body>"
)


@needs_chromium
def test_the_point_is_dragged_to_its_gradient_in_a_browser(served: Served, browser: Any) -> None:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
    page = browser.new_page(viewport={"width": 360, "height": 760})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda fault: said.append(str(fault)))
    elsewhere: list[str] = []
    page.on("request", lambda asked: elsewhere.append(asked.url) if f":{served.port}/" not in asked.url else None)
    page.goto(served.address)
    gradient = page.locator("#readout .gradient")
    sync.expect(gradient).to_have_text("∂y/∂x = 8", timeout=30_000)

    drag(page, 8.5)
    sync.expect(gradient).to_have_text("∂y/∂x = 19")
    assert page.input_value("[id='inputs.x']") == "8.5"
    shown = page.frame_locator("#shown iframe.now")
    sync.expect(shown.locator("body")).to_contain_text("19")
    for width, value, slope in ((360, "7.5", "17"), (1280, "8.5", "19")):  # the new page within is drawn in its size
        page.set_viewport_size({"width": width, "height": 760})
        page.fill("[id='inputs.x']", value)
        sync.expect(shown.locator("#values")).to_contain_text(slope)
        sync.expect(page.locator("iframe")).to_have_count(1)
        assert min(float(n) for n in shown.locator("svg.g").get_attribute("viewBox").split()[2:]) > 0
    page.set_viewport_size({"width": 360, "height": 760})

    # Steps that are too large jump from side to side, which is seen by the line along which they went.
    page.fill("#lr", "1.01")
    sync.expect(page.locator("#plot polyline")).to_have_count(1)
    went = [float(place.split(",")[0]) for place in page.get_attribute("#plot polyline", "points").split()]
    assert len(went) == 21
    assert all((to - at) * (at - before) < 0 for before, at, to in zip(went, went[1:], went[2:], strict=False))
    page.fill("#lr", "")
    sync.expect(page.locator("#plot polyline")).to_have_count(0)

    # While one types, the last good page stays, and the fault stands at its field.
    page.fill("#target", "x**2 + 2*")
    sync.expect(page.locator("#target-fault")).to_contain_text("syntax")
    assert page.get_attribute("#target", "aria-invalid") == "true"
    sync.expect(gradient).to_have_text("∂y/∂x = 19")
    page.fill("#target", "x * w")
    sync.expect(page.locator("[id='inputs.w']")).to_have_value("1")
    sync.expect(page.locator("#target-fault")).to_be_empty()
    sync.expect(page.locator("#plot .name")).to_have_text(["x", "w"])
    for k in range(50):  # as fast as they come
        page.evaluate("v => { const f = document.getElementById('inputs.w'); f.value = v;"
                      " f.dispatchEvent(new Event('input')); }", str(k))  # fmt: skip
    sync.expect(page.locator("#readout")).to_contain_text("∂y/∂x = 49")

    # The step that the reader is at is kept over an edit, by what the page within says to the page about it.
    sync.expect(page.locator("iframe")).to_have_count(1)
    page.evaluate(f"open({FIRST!r})")
    sync.expect(shown.locator("body")).to_contain_text("first")
    page.evaluate(f"setTimeout(() => open({SECOND!r}), 200)")
    sync.expect(shown.locator("body")).to_contain_text("step 7")

    page.fill("#target", "constructor * x")  # a name that every object of JavaScript has
    sync.expect(page.locator("[id='inputs.constructor']")).to_have_value("1")
    sync.expect(page.locator("#readout")).to_contain_text("∂y/∂constructor")

    # A link holds the state and no token; without a token it leads to where one is asked for, and then on.
    link = page.url
    assert served.token not in link
    other = browser.new_page()
    other.goto(link)
    other.fill("#token", served.address)
    other.click("button")
    sync.expect(other.locator("#readout")).to_contain_text("∂y/∂constructor", timeout=10_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert not said
    assert not elsewhere
    other.close()
    page.close()


@needs_chromium
def test_a_lesson_stands_in_the_page_plays_with_it_and_is_remembered(served: Served, browser: Any) -> None:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda fault: said.append(str(fault)))
    page.goto(served.address)
    page.select_option("#lesson", "three-ways")
    lesson = page.frame_locator("iframe.taught")
    lesson.locator(".live input").fill("31", timeout=60_000)
    lesson.locator("button.play").click()
    sync.expect(page.locator("#target")).to_have_value("x**2 + 2*x")
    sync.expect(page.locator("[id='inputs.x']")).to_have_value("1.55")
    sync.expect(page.locator("#readout .gradient")).to_have_text("∂y/∂x = 5.1")  # 2x + 2
    for number, exercise in enumerate(lessons.run("three-ways").exercises):
        form = lesson.locator("form.exercise").nth(number)
        form.locator("input").fill(str(exercise.answer))
        form.locator("button").click()
        sync.expect(form.locator(".said")).to_have_text("✓ Right.")
    sync.expect(page.locator("#lesson option[value=three-ways]")).to_have_text("✓ Three ways to a derivative")
    page.reload()  # the address holds the lesson, and this browser what was right in it
    sync.expect(lesson.locator("form.exercise.done")).to_have_count(number + 1, timeout=60_000)
    page.select_option("#lesson", "")
    sync.expect(page.locator("iframe.taught")).to_have_count(0)
    assert [text for text in said if "403" not in text] == []
    page.close()


HOSTILE = "</script><img src=x onerror=\"document.title='ran'\"> ]]> \u202ereversed\u2028 'quoted' <!--"


@needs_chromium
@pytest.mark.parametrize("text", [HOSTILE, "x" * 10_000], ids=["hostile", "long"])
def test_a_link_with_anything_in_it_runs_nothing(served: Served, browser: Any, text: str) -> None:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
    state = {"target": text, "inputs": {text: text, "x": text}, "options": dict.fromkeys(OPTIONS, text[:50])}
    page = browser.new_page(viewport={"width": 360, "height": 760})
    said: list[str] = []
    page.on("pageerror", lambda fault: said.append(str(fault)))
    page.goto(f"{served.address}#{quote(json.dumps(state))}")
    sync.expect(page.locator("form .fault:not(:empty)")).to_have_count(1, timeout=30_000)
    assert page.input_value("#target") == text
    page.fill("#target", "2*x")
    sync.expect(page.locator("[id='inputs.x-fault']")).not_to_be_empty()
    assert (page.title(), page.locator("img").count(), said) == ("gradexplain play", 0, [])
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()


@pytest.mark.sampled(2)
@needs_chromium
@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (npm install --no-save axe-core)")
@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("zh", "dark")])
def test_the_controls_keep_every_rule_of_accessibility(
    served: Served, browser: Any, language: str, scheme: str
) -> None:
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra dev)")
    page = browser.new_page(viewport={"width": 1024, "height": 760}, color_scheme=scheme)
    html = shell(NAMED, language, watches=False)
    page.route(served.address, lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto(served.address)
    sync.expect(page.locator("#readout .gradient")).to_have_text("∂y/∂x = 8", timeout=30_000)
    page.click("summary")
    page.fill("#target", "x +")
    sync.expect(page.locator("#target-fault")).not_to_be_empty()
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found] == []
    page.close()


def drag(page: Any, to: float) -> None:
    """Takes the point of the curve to a place, as a hand does."""
    place = page.evaluate(
        "v => { const plot = document.getElementById('plot'), box = plot.getBoundingClientRect();"
        "return [box.left + scale.x(v) * box.width / plot.viewBox.baseVal.width, box.top + box.height / 2]; }", to
    )  # fmt: skip
    point = page.locator("#plot .point").bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.mouse.down()
    for part in (0.3, 0.6, 1.0):
        page.mouse.move(point["x"] + part * (place[0] - point["x"]), place[1])
        time.sleep(0.05)
    page.mouse.move(*place)
    page.mouse.up()
