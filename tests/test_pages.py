"""The page of an explanation, driven in a real browser as a reader would: every number on it held against torch."""

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Window, opened
from mistakes import loss
from models import Transformer
from page_picture import BASELINE, COARSE, KEPT, SHOTS, made_with, readme_picture, shot
from PIL import Image, ImageFilter
from torch import Tensor, nn

import gradexplain as gx
import gradexplain.api  # registers how results are told
from gradexplain.documents.visible import visible
from gradexplain.explanation.explanation import explain_trace
from gradexplain.locale.catalogue import sentences
from gradexplain.mathematics.terms import number_text
from gradexplain.pages.data import data_of
from gradexplain.pages.moments import moments_of
from gradexplain.recording.computation import computation_of
from gradexplain.recording.tracing import traced
from gradexplain.verification.verdicts import Report

AXE = Path(__file__).parent.parent / "node_modules" / "axe-core" / "axe.min.js"
WIDTHS = (360, 1024, 1920)
X = torch.tensor([1.0, 2.0, 3.0])


def used_twice() -> gx.Explanation:
    return gx.explain("sum(x**2 * sin(x))", {"x": X})


def classifier() -> gx.Explanation:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return gx.explain(net, [torch.randn(5, 3, generator=generator)], target="classifier")


@cache
def mistaken() -> gx.Explanation:
    return gx.explain(loss, {"x": torch.tensor([1.0, 2.0, 3.0, 4.0]), "w": torch.ones(4)}, target="mistaken")


def graph() -> gx.Picture:
    return gx.graph(Transformer(width=24, tokens=100, layers=3), [torch.arange(8).reshape(1, 8)])


def transformer(layers: int) -> gx.Explanation:
    """Returns the explanation of a network, without the checks, which take longest."""
    torch.manual_seed(0)
    net = Transformer(width=24, tokens=100, layers=layers)
    return explain_trace(traced(computation_of(net, [torch.randint(0, 100, (1, 8))])), Report(()), target="net")


def numbers(window: Window, where: str = "#step") -> list[tuple[str, float, int, str]]:
    """Returns the numbers in a part of the page: name, full value, step, and the digits that are displayed."""
    found = window.page.eval_on_selector_all(
        f"{where} [data-value]", "all => all.map(e => [e.dataset.name, e.dataset.value, e.dataset.step, e.textContent])"
    )
    return [(name, float(value), int(step), shown) for name, value, step, shown in found]


def last(window: Window) -> int:
    return int(window.page.get_attribute("#slider", "max"))


def step_to(window: Window, step: int) -> None:
    window.page.evaluate("s => { slider.value = s; slider.dispatchEvent(new Event('input')); }", step)


def by_element(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns every element by its name on the page: x[0], W[1, 2]."""
    found = {}
    for name, tensor in values.items():
        for flat, value in enumerate(tensor.flatten().tolist()):
            index = [int(i) for i in torch.unravel_index(torch.tensor(flat), tensor.shape)] if tensor.dim() else []
            found[f"{name}[{', '.join(map(str, index))}]" if index else name] = value
    return found


# ---------------------------------------------------------------------------------------------- every number is torch's


def passes() -> tuple[dict[str, Tensor], dict[tuple[str, str], Tensor]]:
    """Returns the values and gradients of the example, and what each operator sends to each value, by torch."""
    x = X.clone().requires_grad_()
    f1, f2 = x**2, torch.sin(x)
    f3 = f1 * f2
    y = f3.sum()
    g1, g2, g3, gx_ = torch.autograd.grad(y, [f1, f2, f3, x], retain_graph=True)
    values = {"x": x, "f1": f1, "f2": f2, "f3": f3, "y": y}
    values |= {"∂y/∂x": gx_, "∂y/∂f1": g1, "∂y/∂f2": g2, "∂y/∂f3": g3, "∂y/∂y": torch.ones(())}
    sent = {("x**2", "x"): torch.autograd.grad(f1, x, g1)[0], ("sin(x)", "x"): torch.autograd.grad(f2, x, g2)[0]}
    sent |= {("sum(x**2 * sin(x))", "f3"): g3, ("x**2 * sin(x)", "f1"): g1, ("x**2 * sin(x)", "f2"): g2}
    return values, sent


def test_each_step_shows_the_numbers_of_torch(browser: Any, tmp_path: Path) -> None:
    values, sent = passes()
    known = by_element(values)
    with opened(browser, used_twice().render("html"), tmp_path) as window:
        kinds, seen, arrived = [], set(), list[str]()
        for step in range(last(window) + 1):
            kinds.append(window.page.get_attribute("#step", "data-kind"))
            expected = dict(known)
            head = window.page.inner_text("#step h2")
            if kinds[-1] == "backward":
                source, to = re.fullmatch(r"Backward: (?:\w+ = )?(.*) sends to (\w+)", head).groups()
                expected |= by_element({f"→ {to}": sent[source, to]})
                arrived += [source] if to == "x" else []
                if to == "x":  # the sum of what has arrived by now
                    expected |= by_element({"∂y/∂x": sum(sent[one, "x"] for one in arrived)})
            shown = numbers(window)
            assert shown
            for name, value, at, digits in shown:
                assert at == step
                assert value == pytest.approx(expected[name], rel=1e-6), (step, name)
                assert float(digits) == pytest.approx(value, rel=1e-4)
            seen |= {name for name, *_ in shown}
            if step < last(window):
                window.page.click("#next")
        assert kinds == ["inputs"] + ["forward"] * 4 + ["seed"] + ["backward"] * 5
        assert {*known} <= seen
        assert len(arrived) == 2
        for step in reversed(range(last(window))):
            window.page.click("#back")
            assert window.page.get_attribute("#step", "data-kind") == kinds[step]
        assert window.page.is_disabled("#back")


def test_a_wrong_number_on_the_page_is_seen(browser: Any, tmp_path: Path) -> None:
    page = used_twice().render("html")
    planted = page.replace('"f2[0]","sin(1)","≈","0.84147",0.84147', '"f2[0]","sin(1)","≈","0.84147",0.94147')
    assert planted != page
    with opened(browser, planted, tmp_path) as window:
        step_to(window, 2)
        known = by_element(passes()[0])
        assert [name for name, value, *_ in numbers(window) if value != pytest.approx(known[name], rel=1e-6)] == [
            "f2[0]"
        ]


def test_the_gradients_of_a_network_stand_in_the_table(browser: Any, tmp_path: Path) -> None:
    explanation = classifier()
    small = {f"∂L/∂{n}": g for n, g in explanation.gradients.items() if g is not None and g.numel() <= 12}
    with opened(browser, explanation.render("html"), tmp_path) as window:
        found = {name: value for name, value, *_ in numbers(window, "#values") if name.startswith("∂")}
        expected = by_element(small)
        assert len(expected) > 20
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


AWKWARD = [
    1.03125, 0.1, 1 / 3, -2.5e-7, 12345.678, 123456.789, 6.02e23, 1e-5, 1.5e-5, 99999.5, 0.00012345678, -0.0, 1e9,
    123456789.0, 5.0, 0.5, 2**-20, 1.00005, 0.999995, 1e100, -7.25, 3.14159265358979,
]  # fmt: skip


def test_a_number_has_the_digits_that_it_has_in_the_text(browser: Any, tmp_path: Path) -> None:
    for k in (0, 11):
        some = torch.tensor(AWKWARD[k : k + 11], dtype=torch.float64)
        page = gx.explain("sum(x + 1)", {"x": some}).render("html")
        with opened(browser, page, tmp_path) as window:
            shown = [digits for name, _, _, digits in numbers(window) if name.startswith("x[")]
            assert shown == [number_text(value, 5) for value in some.tolist()]


def test_what_arrives_adds_up_as_torch_adds_it_or_the_page_says_that_it_does_not() -> None:
    def plain(x: Tensor) -> Tensor:
        return (x.exp() + x * x + x.sin()).sum()

    def hooked(x: Tensor) -> Tensor:
        u = x * 1.0
        u.register_hook(lambda g: 2 * g)
        return plain(u)

    for function, apart in ((plain, []), (hooked, ["u"])):
        explanation = gx.explain(function, {"x": X})
        steps = {step.index: step for step in explanation.steps}
        seen = []
        for moment in moments_of(explanation):
            if moment.kind == "backward":
                sent = steps[moment.node].contributions[moment.slot]
                seen += [sent.to] if moment.apart else []
                assert moment.sum is not None
                if moment.arrival == moment.arrivals and not moment.apart and sent.to == "x":
                    assert torch.equal(moment.sum.tensor, explanation.gradients["x"])
        assert seen == apart


# -------------------------------------------------------------------------------------------------------- the graph


def lit(window: Window, kind: str) -> list[str]:
    return window.page.eval_on_selector_all(
        f"#stage .box.{kind}", "all => all.map(box => box.querySelector('.t').textContent)"
    )


def test_the_operator_lights_up_and_values_flow_in_on_its_edges(browser: Any, tmp_path: Path) -> None:
    with opened(browser, used_twice().render("html"), tmp_path) as window:
        texts = "all => all.map(text => text.textContent)"
        step_to(window, 3)
        assert lit(window, "now") == ["mul"]
        assert lit(window, "ahead") == ["sum → y"] or lit(window, "ahead") == ["sum"]
        assert window.page.eval_on_selector_all("#stage .flows .l", texts) == ["[1, 4, 9]", "[0.8415, 0.9093, 0.1411]"]
        assert window.page.locator("#stage path.line.on").count() == 2
        step_to(window, last(window))
        assert (lit(window, "now"), lit(window, "next")) == (["pow"], ["x"])
        assert window.page.locator("#stage path.line.against").count() == 1
        rows = window.page.locator("#stage .box.next text").all_text_contents()
        assert rows[-1] == "∂ [2.223, 1.973, -8.063]"
        step_to(window, last(window) - 1)
        assert window.page.locator("#stage .box.next text").all_text_contents()[-1] == "∂ [0.5403, -1.665, -8.910]"


def test_an_element_of_a_gradient_tells_the_way_that_made_it(browser: Any, tmp_path: Path) -> None:
    explanation = gx.explain("sum(A @ b)", {"A": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([5.0, 7.0])})
    with opened(browser, explanation.render("html"), tmp_path) as window:
        window.page.focus("[data-name='∂y/∂A[1, 0]']")
        assert lit(window, "trail") == ["A", "mv", "sum"] or lit(window, "trail") == ["A", "mv", "sum → y"]
        assert window.page.locator("#stage path.line.path").count() == 2
        told = window.page.inner_text("#asked")
        assert "→ A[1, 0]: 1 × 5 = 5" in told
        assert "→ f1[1]: 1 × 1 = 1" in told
        assert "f1[0]" not in told
        assert all(check.oracle.partition(" ")[0] in told for check in explanation.report.checks if check.input == "A")
        window.page.focus("#next")
        assert lit(window, "trail") == []


def test_the_way_of_an_element_goes_through_every_element_that_it_was_used_in(browser: Any, tmp_path: Path) -> None:
    """A[1, 0] stands in the three products of row 1: its gradient came from all of them, and from no other row."""
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0, 7.0], [8.0, 9.0, 1.0]])
    own = a.clone().requires_grad_()
    product = own @ b
    sent, whole = torch.autograd.grad((product**2).sum(), [product, own])
    with opened(browser, gx.explain("sum((A @ b)**2)", {"A": a, "b": b}).render("html"), tmp_path) as window:
        window.page.focus("[data-name='∂y/∂A[1, 0]']")
        shown = {name: value for name, value, *_ in numbers(window, "#asked")}
        of_product = {name: value for name, value in shown.items() if name.startswith("→ f1[")}
        assert of_product == {f"→ f1[1, {k}]": sent[1, k].item() for k in range(3)}
        assert shown["→ A[1, 0]"] == whole[1, 0].item()


def test_a_line_of_code_and_its_operator_light_up_together(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "own_code.py").write_text("def f(x):\n    u = x * 3\n    v = u.exp()\n    return v.sum()\n")
    page = gx.explain(f"{tmp_path / 'own_code.py'}:f", {"x": X}).render("html")
    folder = tmp_path / "pages"
    folder.mkdir()
    with opened(browser, page, folder) as window:
        step_to(window, 2)
        assert window.page.inner_text("#listing .now code") == "    v = u.exp()"
        assert window.page.inner_text("#listing mark") == "u.exp()"
        window.page.focus("#listing button:has-text('x * 3')")
        assert lit(window, "hovered") == ["mul"]
        window.page.click("#listing button:has-text('v.sum')")
        assert lit(window, "now")[0].startswith("sum")


@pytest.mark.parametrize(
    ("expression", "x", "operator", "said"),
    [("sum(relu(x))", [0.0, 1.0], "relu", "kink"), ("sum(sqrt(x))", [0.0, 4.0], "sqrt", "finite")],
)
def test_a_finding_is_marked_at_its_node_in_the_words_of_the_page(
    browser: Any, tmp_path: Path, expression: str, x: list[float], operator: str, said: str
) -> None:
    explanation = gx.explain(expression, {"x": torch.tensor(x)})
    with opened(browser, explanation.render("html"), tmp_path) as window:
        marks = window.page.locator("#stage .badge title").all_text_contents()
        assert len(marks) == 1
        assert said in marks[0]
        assert marks[0] in explanation.render("text", width=10_000)
        step_to(window, 1)
        assert lit(window, "now") == [operator]
        assert marks[0].replace("`", "") == window.page.text_content("#step .note")


def test_a_cut_stands_in_the_graph(browser: Any, tmp_path: Path) -> None:
    explanation = gx.explain(lambda x: (x * x.detach()).sum(), {"x": X})
    with opened(browser, explanation.render("html"), tmp_path) as window:
        assert window.page.locator("#stage .cut").count() == 1
        assert "detach" in window.page.text_content("#stage .badge title")


# ------------------------------------------------------------------------------------------------- how it is reached


def test_keys_the_slider_and_a_frame_step_as_well(browser: Any, tmp_path: Path) -> None:
    with opened(browser, used_twice().render("html"), tmp_path) as window:
        window.page.keyboard.press("ArrowRight")
        window.page.keyboard.press("ArrowRight")
        window.page.keyboard.press("ArrowLeft")
        assert window.page.inner_text("#count") == f"Step 1 of {last(window)}"
        window.page.focus("#slider")
        window.page.keyboard.press("End")
        assert window.page.inner_text("#count") == f"Step {last(window)} of {last(window)}"
        assert window.page.text_content("#said").startswith(f"Step {last(window)} of")
        window.page.click("#play")
        assert window.page.get_attribute("#play", "aria-pressed") == "true"
        window.page.locator("#count", has_text="Step 1 of").wait_for(timeout=4000)
        window.page.click("#play")
        assert window.page.get_attribute("#play", "aria-pressed") == "false"
    inner = json.dumps(used_twice().render("html")).replace("<", "\\u003c")
    outer = (
        "<!doctype html><title>outer</title><iframe sandbox='allow-scripts' width=900 height=700></iframe><script>"
        f"const said = [], frame = document.querySelector('iframe'); frame.srcdoc = {inner};"
        "addEventListener('message', e => { if (e.source === frame.contentWindow) said.push(e.data);"
        " if (e.data.kind === 'ready') frame.contentWindow.postMessage({kind: 'step', step: 4}, '*'); })</script>"
    )
    with opened(browser, outer, tmp_path) as window:
        window.page.wait_for_function("said.length >= 2")
        window.page.frames[1].click("#next")
        window.page.wait_for_function("said.length >= 3")
        told = window.page.evaluate("said")
        assert told == [{"kind": "ready"}, {"kind": "step", "step": 4}, {"kind": "step", "step": 5}]


@pytest.mark.parametrize("dark", [False, True])
def test_a_cell_of_a_notebook_steps_in_a_frame_and_has_the_scheme_of_the_notebook(
    browser: Any, tmp_path: Path, dark: bool
) -> None:
    cell = used_twice()._repr_html_()
    scheme = "dark" if dark else "light"
    body = f"<body data-jp-theme-light={str(not dark).lower()}>{cell}"
    notebook = f"<!doctype html><title>notebook</title><style>:root{{color-scheme:{scheme}}}</style>{body}"
    with opened(browser, notebook, tmp_path, color_scheme="null") as window:
        frame = window.page.frames[1]
        frame.click("#next")
        assert frame.inner_text("#count").startswith("Step 1 of")
        assert frame.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == dark
        assert not window.page.is_visible("body > .gx")
        assert window.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        box = window.page.locator("iframe").bounding_box()
        assert (box["width"] > 1000, 480 <= box["height"] <= 900) == (True, True)
        with pytest.raises(Exception, match=r"[Bb]locked|sandbox|cross-origin"):
            frame.evaluate("parent.document.title")


def test_a_viewer_that_drops_frames_shows_the_text_of_a_cell(browser: Any, tmp_path: Path) -> None:
    explanation = used_twice()
    kept = re.sub("<iframe.*?</iframe>", "", explanation._repr_html_(), flags=re.S)
    for shown in (kept, re.sub("<style>.*?</style>", "", kept, flags=re.S)):
        with opened(browser, f"<!doctype html><title>viewer</title>{shown}", tmp_path) as window:
            text = window.page.inner_text("body")
            assert all(str(equation) in text for equation in explanation.equations)


def test_a_network_folds_and_its_steps_light_up_in_folds(browser: Any, tmp_path: Path) -> None:
    page = transformer(3).render("html")
    assert len(page) < 2_000_000
    with opened(browser, page, tmp_path) as window:
        middle = last(window) // 3
        step_to(window, middle)
        before = window.page.locator("#stage .box").count()
        assert window.page.locator("#stage .now").count() == 1
        window.page.locator("#stage .opens").first.dispatch_event("click")
        assert window.page.locator("#stage .box").count() > before
        window.page.click("#fold_all")
        assert window.page.locator("#stage .bar").count() == 0
        canvas = window.page.locator("#step canvas").first
        canvas.focus()
        window.page.keyboard.press("ArrowRight")
        assert window.page.inner_text("#count").startswith(f"Step {middle} of")
        assert window.page.locator("#step .readout").first.inner_text()
        assert max(timed(window)) < 0.25  # the machine of a test may be busy; what it takes alone is measured elsewhere


def timed(window: Window) -> list[float]:
    """Returns the seconds that a few steps take."""
    script = "steps => steps.map(s => { const t = performance.now(); slider.value = s;"
    script += " slider.dispatchEvent(new Event('input')); slider.getBoundingClientRect();"
    script += " return (performance.now() - t) / 1000; })"
    return window.page.evaluate(script, list(range(1, last(window), max(1, last(window) // 8))))


@pytest.mark.parametrize(("make", "most"), [(used_twice, 300_000), (classifier, 300_000)])
def test_a_page_is_small_and_asks_for_nothing(make: Any, most: int) -> None:
    page = make().render("html")
    assert len(page.encode()) < most
    outside = re.sub(r'<script id="data".*?</script>', "", page, flags=re.S).replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|<link|@import|url\(", outside)


@pytest.mark.thorough
def test_a_page_of_twelve_layers_is_below_two_megabytes() -> None:
    assert len(transformer(12).render("html").encode()) < 2_000_000


# ------------------------------------------------------------------------------------------------------ what is shown


def test_nothing_is_cut_off_and_nothing_scrolls_sideways(browser: Any, tmp_path: Path) -> None:
    with opened(browser, classifier().render("html"), tmp_path) as window:
        for width in WIDTHS:
            window.page.set_viewport_size({"width": width, "height": 800})
            for step in (2, last(window) - 2):
                step_to(window, step)
                assert window.page.evaluate("document.documentElement.scrollWidth") <= width
                outside = """all => all.filter(e => e.getClientRects().length
                    && e.getBoundingClientRect().right > innerWidth + 1
                    && !e.closest('.tensor, .lines, svg')).map(e => e.outerHTML.slice(0, 90))"""
                assert window.page.eval_on_selector_all("#board *", outside) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark_as_the_reader_wants(browser: Any, tmp_path: Path, scheme: str) -> None:
    with opened(browser, used_twice().render("html"), tmp_path, color_scheme=scheme) as window:
        window.page.screenshot(path=tmp_path / "shot.png")
        colours = Image.open(tmp_path / "shot.png").convert("L")
        places = [window.page.locator(name).bounding_box() for name in ("#stage", "#step", "main")]
        shades = [colours.getpixel((int(at["x"]) + 3, int(at["y"]) + 9)) for at in places if at is not None]
        assert all(shade > 200 for shade in shades) if scheme == "light" else all(shade < 60 for shade in shades)


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (npm install --no-save axe-core)")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("page", [classifier, mistaken, graph])
def test_a_page_keeps_every_rule_of_accessibility(
    browser: Any, tmp_path: Path, page: Any, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    with opened(browser, page().render("html"), tmp_path, color_scheme=scheme, viewport=size) as window:
        if page is not graph:
            step_to(window, last(window))
        assert violations(window) == []
        if page is graph and scheme == "dark":
            window.page.evaluate("document.querySelector('#fit').textContent = ''")
            assert {rule for rule, *_ in violations(window)} == {"button-name"}, "a button without a name"


def violations(window: Window) -> list[tuple[str, str, str]]:
    window.page.evaluate(AXE.read_text(encoding="utf-8"))
    found = window.page.evaluate("axe.run()")["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found]


def focused(window: Window) -> str:
    """Returns what has the focus: its id, or the title of its box in the graph."""
    return window.page.evaluate("(e => e.id || (e.querySelector('.t, .f') || e).textContent)(document.activeElement)")


def test_the_keys_alone_reach_everything(browser: Any, tmp_path: Path) -> None:
    with opened(browser, used_twice().render("html"), tmp_path) as window:
        reached = []
        for _ in range(9):
            window.page.keyboard.press("Tab")
            reached.append(focused(window))
        assert reached == ["next", "play", "slider", "search", "fit", "nearer", "farther", "x", "2.2232"]
        window.page.keyboard.press("Shift+Tab")
        went = []
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
            window.page.keyboard.press(key)
            went.append(focused(window))
        assert went == ["pow", "sin", "mul", "sin"]
        assert lit(window, "now") == []
        window.page.keyboard.press("Enter")
        assert lit(window, "now") == [focused(window)] == ["sin"]
        window.page.keyboard.press("ArrowRight")
        assert lit(window, "now") == ["mul"]


def test_the_keys_open_a_fold_and_what_has_the_focus_is_in_view(browser: Any, tmp_path: Path) -> None:
    with opened(browser, graph().render("html"), tmp_path, viewport={"width": 360, "height": 740}) as window:
        window.page.focus("#stage [tabindex='0']")
        folds, own = 0, "document.activeElement.dataset.n"
        for _ in range(200):
            before = window.page.evaluate(own)
            opens = window.page.evaluate("document.activeElement.getAttribute('aria-expanded')")
            if opens == "false" and folds < 2:
                window.page.keyboard.press("Enter")
                folds += 1
                assert window.page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
            inside = """(() => { const box = document.activeElement.querySelector('.t, .f').getBoundingClientRect();
                const room = stage.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
                return room.left < x && x < room.right && room.top < y && y < room.bottom; })()"""
            assert window.page.evaluate(inside), focused(window)
            window.page.keyboard.press("ArrowDown")
            if window.page.evaluate(own) == before:
                break
        assert folds == 2
        assert "→ y" in focused(window)  # the last box is the output


def test_a_reader_who_wants_no_motion_gets_none(browser: Any, tmp_path: Path) -> None:
    for wanted, moving in (("reduce", 0), ("no-preference", 2)):
        with opened(browser, used_twice().render("html"), tmp_path, reduced_motion=wanted) as window:
            step_to(window, 3)
            running = "all => all.filter(path => path.getAnimations().length).length"
            assert window.page.eval_on_selector_all("#stage path.on", running) == moving
            assert window.page.locator("#stage animateMotion").count() == moving


@pytest.mark.parametrize("layer", ["layers.0", "layers.1"])
def test_a_fold_that_was_opened_begins_in_view(browser: Any, tmp_path: Path, layer: str) -> None:
    with opened(browser, transformer(2).render("html"), tmp_path) as window:
        window.page.click(f"#stage .opens:has-text('{layer}')")
        title = window.page.locator(f"#stage .bar:has-text('− {layer}')").locator(".f").bounding_box()
        stage = window.page.locator("#stage").bounding_box()
        for side, size in (("x", "width"), ("y", "height")):
            assert stage[side] <= title[side]
            assert title[side] + title[size] <= stage[side] + stage[size]


def test_what_is_searched_is_found_in_its_fold_and_gone_to(browser: Any, tmp_path: Path) -> None:
    with opened(browser, transformer(3).render("html"), tmp_path) as window:
        assert window.page.locator("#stage .t", has_text="layers.1.norm2").count() == 0
        window.page.fill("#search", "layers.1.linear2.bias")
        hits = window.page.locator("#hits button")
        assert "layers.1" in hits.last.inner_text()
        hits.last.click()
        box = window.page.locator("#stage .box", has_text="layers.1.linear2.bias").last.bounding_box()
        room = window.page.locator("#stage").bounding_box()
        assert room["x"] < box["x"] < room["x"] + room["width"] - box["width"]
        assert room["y"] < box["y"] < room["y"] + room["height"] - box["height"]
        window.page.fill("#search", "no such box")
        assert hits.count() == 0
    with opened(browser, used_twice().render("html"), tmp_path) as window:
        window.page.fill("#search", "SIN(")
        window.page.keyboard.press("Enter")
        assert lit(window, "now") == ["sin"]
        assert window.page.inner_text("#count").startswith("Step 2 of")


def test_on_paper_stand_both_passes_whole(browser: Any, tmp_path: Path) -> None:
    """The whole graph with every gradient, in light colours; nothing of a step, and nothing is cut."""
    with opened(browser, used_twice().render("html"), tmp_path, color_scheme="dark") as window:
        step_to(window, 3)
        window.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        window.page.emulate_media(media="print", color_scheme=None)
        assert window.page.locator("#stage .ahead, #stage .now, #stage .on, #stage .flows").count() == 0
        gradients = [text for text in window.page.locator("#stage .box text").all_text_contents() if "∂" in text]
        assert gradients == [
            "∂ [2.223, 1.973, -8.063]",
            "∂ [0.8415, 0.9093, 0.1411]",
            "∂ [1, 4, 9]",
            "∂ [1, 1, 1]",
            "∂ 1",
        ]
        assert not window.page.is_visible("#step")
        assert not window.page.is_visible("#controls")
        assert window.page.eval_on_selector_all(
            ".wide svg", "all => all.every(e => e.clientWidth <= e.parentNode.clientWidth)"
        )
        shown = "e => getComputedStyle(e).getPropertyValue('--page').trim()"
        assert window.page.eval_on_selector("#board", shown) == "#fff"
        window.page.emulate_media(media="screen", color_scheme="dark")
        window.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert lit(window, "now") == ["mul"]


def test_what_is_wrong_is_red_at_its_input_at_its_operation_and_in_the_table(browser: Any, tmp_path: Path) -> None:
    """One of four elements of the gradient of x is wrong, that of w is right; tanh passes on what it was sent."""
    with opened(browser, mistaken().render("html"), tmp_path) as window:
        assert lit(window, "bad") == ["x", "Weighted"]
        mark, cause = window.page.locator("#stage .badge.wrong title").all_text_contents()
        right, seen = map(float, re.findall(r"\d+\.\d+(?=\W)", mark))
        assert seen / right == pytest.approx(1.001, rel=1e-6)
        assert "(1,)" in cause
        assert cause in mistaken().render("text", width=10_000)
        wrong = window.page.eval_on_selector_all("#values .wrong", "all => all.map(e => e.dataset.name)")
        assert wrong == ["∂y/∂x[1]"]


def test_a_fold_shows_no_number_before_it_is_there(browser: Any, tmp_path: Path) -> None:
    explanation = transformer(2)
    of_layer = [step.index for step in explanation.steps if (step.module or "").startswith("layers.0")]
    (made,) = [k for k, m in enumerate(moments_of(explanation)) if (m.kind, m.node) == ("forward", of_layer[-1])]
    texts = """() => [...document.querySelectorAll('#stage .opens')].filter(e => e.textContent.includes('layers.0'))
        .flatMap(e => [...e.querySelectorAll('text')]).filter(e => /^[=∂] /.test(e.textContent))
        .map(e => [e.textContent[0], getComputedStyle(e).visibility])"""
    with opened(browser, explanation.render("html"), tmp_path) as window:
        for step, shown in ((0, ""), (made - 1, ""), (made, "="), (last(window), "=∂")):
            step_to(window, step)
            found = window.page.evaluate(texts)
            assert [sign for sign, _ in found] == ["=", "∂"]
            assert "".join(sign for sign, seen in found if seen == "visible") == shown, step


def test_of_complex_numbers_a_page_shows_the_digits_that_its_text_has(browser: Any, tmp_path: Path) -> None:
    x = torch.tensor([1 + 2j, -3e-5 - 0.125j])
    explanation, y = gx.explain("sum(abs(exp(x) * x))", {"x": x}), torch.exp(x)
    with opened(browser, explanation.render("html"), tmp_path) as window:
        step_to(window, 1)
        shown = window.page.locator('#step [data-name^="f1["]').all_text_contents()
        full = window.page.eval_on_selector_all('#step [data-name^="f1["]', "all => all.map(e => e.dataset.value)")
        assert list(map(complex, full)) == y.tolist()
        assert [complex(text) for text in shown] == pytest.approx(y.tolist(), rel=1e-4)
        assert f"[{', '.join(shown)}]" in explanation.render("text", width=10_000)


@pytest.mark.parametrize("made", [classifier, used_twice, lambda: gx.explain("sum(x*x + sin(x))", {"x": X})])
def test_no_number_on_an_edge_lies_over_another(
    browser: Any, tmp_path: Path, made: Callable[[], gx.Explanation]
) -> None:
    """A number half under another would read as one of another sign."""
    over = """() => {
        const all = [...document.querySelectorAll('#stage .flows .page')].map(part => part.getBoundingClientRect());
        const shared = (a, b, from, to) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
        return all.some((a, k) => all.slice(k + 1).some(b =>
            shared(a, b, 'left', 'right') > 1 && shared(a, b, 'top', 'bottom') > 1));
    }"""
    with opened(browser, made().render("html"), tmp_path) as window:
        several = 0
        for step in range(last(window) + 1):
            step_to(window, step)
            several = max(several, window.page.locator("#stage .flows .l").count())
            assert not window.page.evaluate(over), step
        assert several >= 2


HOSTILE = [
    "</script><script>document.title='ran'</script>", "<img src=x onerror=\"document.title='ran'\">", "]]>",
    'a "quoted" \'name\'', "\u202ereversed\u202c \u2028 line", "{{ 7 * 7 }} {% raw %} {from} &lt;b&gt;", "<!-- --> <b>",
]  # fmt: skip


@pytest.mark.parametrize("name", [" ".join(HOSTILE), "x" * 10_000], ids=["hostile", "long"])
def test_no_name_and_no_code_runs_or_breaks_the_page(browser: Any, tmp_path: Path, name: str) -> None:
    code = tmp_path / "own.py"
    quoted = name.replace("\u2028", " ")
    code.write_text(f"def f(x):\n    # {quoted}\n    y = x * len({quoted!r})  # {quoted}\n    return y.sum()\n")
    inner: dict[str, Any] = {}
    exec(compile(code.read_text(), str(code), "exec"), inner)
    page = gx.explain(inner["f"], {"x": X}, target=name).render("html")
    folder = tmp_path / "pages"
    folder.mkdir()
    with opened(browser, page, folder, viewport={"width": 360, "height": 700}) as window:
        step_to(window, 1)
        assert window.page.title() == " ".join(visible(f"gradexplain: {name}").split())
        assert f"# {visible(quoted)}" in window.page.text_content("#listing")
        assert repr(quoted) in window.page.text_content("#step h2")
        assert window.page.locator("#board img, #board b, script").count() == 2  # the page's own data and script
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 360


NAMES = [
    *HOSTILE, "50% of $x_1$ #1 & \\alpha{} ~^", "中文 名字", "🦊 👩\u200d🚀", "new\nline", "esc\x1b[31m", "nul\x00",
    "half \ud83d", "--", "", "@import url(http://example.invalid)", "</style><style>*{display:none}",
]  # fmt: skip


def test_names_of_inputs_are_shown_as_they_are_and_do_nothing(browser: Any, tmp_path: Path) -> None:
    inputs = {name: torch.tensor([float(k), 1.0]) for k, name in enumerate(NAMES)}
    explanation = gx.explain(lambda **values: sum((x * x).sum() for x in values.values()), inputs)
    with opened(browser, explanation.render("html"), tmp_path) as window:
        window.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        shown = window.page.locator("#values .own").all_text_contents()
        assert shown == [visible(name) for name in NAMES]
        for name in NAMES:
            window.page.fill("#search", name)
            assert window.page.locator("#hits button").count() or not name or name != visible(name) or "\n" in name
        for step in range(0, last(window), 5):
            step_to(window, step)
        window.page.evaluate("document.querySelectorAll('#values .ask').forEach(one => one.focus())")
        assert "gradexplain" in window.page.title()
        assert window.page.locator("#board img, #board b, script").count() == 2
        assert window.page.is_visible("#controls")


@pytest.mark.parametrize("format", ["terminal", "text", "markdown", "html", "json"])
def test_what_cannot_be_seen_is_an_escape_in_every_format(format: str, tmp_path: Path) -> None:
    """But for what colours the terminal, and in JSON, where a name is whole."""
    names = ["esc\x1b[31m", "\u202ereversed\u202c", "half \ud83d", "bell\x07"]
    explanation = gx.explain(lambda **values: sum(x.sum() for x in values.values()), dict.fromkeys(names, X))
    text = explanation.render(format)
    assert "\\u202ereversed" in text or format == "json"
    assert "\x1b[31m" not in text.replace("esc\\u001b[31m", "")
    assert not set(text) & {"\u202e", "\x07", "\ud83d"} or format == "json"
    assert text.encode()
    if format == "json":
        assert list(json.loads(text)["inputs"]) == names


def test_the_whole_text_stands_on_the_page_without_scripts(browser: Any, tmp_path: Path) -> None:
    explanation = used_twice()
    with opened(browser, explanation.render("html"), tmp_path, java_script_enabled=False) as window:
        text = window.page.inner_text("main")
        assert all(str(equation) in text for equation in explanation.equations)
        assert not window.page.is_visible("#board")


def test_the_page_speaks_chinese(browser: Any, tmp_path: Path) -> None:
    with opened(browser, used_twice().render("html", language="zh"), tmp_path) as window:
        assert window.page.get_attribute("html", "lang") == "zh"
        step_to(window, last(window))
        said = window.page.inner_text("#board")
        assert "下一步" in said
        assert not re.search("[A-Za-z]{4,}", window.page.inner_text("#keys"))
        assert said.count("{") == 0


def test_a_page_without_steps_is_its_text_alone() -> None:
    page = gx.explain(lambda x: x.detach().sum(), {"x": X}).render("html")
    assert 'id="board"' not in page
    assert "<h2>" in page


def test_every_word_of_the_page_is_used() -> None:
    package = Path(gx.__file__).parent
    own = [package / folder / "page.html" for folder in ("pages", "graphs/formats")]
    text = "".join(path.read_text(encoding="utf-8") for path in (package / "pages" / "page.js", *own))
    known = {key.removeprefix("page.") for key in sentences("en") if key.startswith("page.")}
    assert {word for word in known if not re.search(rf"\b(say\(|words\.|words\[)?\"?{word}\b", text)} == set()


def test_of_a_line_that_runs_twice_the_operator_that_made_the_infinity_has_the_badge() -> None:
    inputs = {"x": torch.ones(2), "y": torch.tensor([0.0, 2.0])}
    explanation = gx.explain(lambda x, y: sum(part.log().sum() for part in (x, y)), inputs)
    (of_y,) = [step.index for step in explanation.steps if step.inputs == ("y",)]
    assert [finding["nodes"] for finding in data_of(explanation, "en")["findings"]] == [[of_y], [of_y]]


# ------------------------------------------------------------------------------------------------------- as a picture


def difference(one: Image.Image, other: Image.Image) -> float:
    """Returns by how many of 255 levels the place differs most where two small pictures differ most.

    A place is 32 dots of the page wide and high, taken after a blur of 8: letters of another font are grey alike.
    """
    if one.size != other.size:
        return math.inf
    soft, other_soft = (np.asarray(picture.filter(ImageFilter.GaussianBlur(2)), float) for picture in (one, other))
    apart, (height, width) = np.abs(soft - other_soft), soft.shape
    places = apart[: height // 8 * 8, : width // 8 * 8].reshape(height // 8, 8, width // 8, 8)
    return float(places.mean((1, 3)).max())


# With other monospaced fonts than those of the kept pictures places differ by 8 at most. A button that is missing makes
# 13 and more, a box that is not lit 13, a missing arrow 2.
TOLERANCE = {"elsewhere": 10.0, "here": 1.0}


def tolerance(browser: Any) -> float:
    kept = json.loads((KEPT / "made_with.json").read_text(encoding="utf-8"))
    return TOLERANCE["here" if kept == made_with(browser) else "elsewhere"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", SHOTS)
def test_a_page_looks_as_it_did(browser: Any, name: str) -> None:
    kept = Image.open(KEPT / f"{name}.png")
    assert difference(kept, shot(browser, SHOTS[name])) <= tolerance(browser)


PLANTED = {
    "a button": ("graph-360-light", "#fit{visibility:hidden}", "elsewhere"),
    "a light": ("steps-1024-dark", "#stage .now .b{stroke:var(--line)!important;stroke-width:1px}", "elsewhere"),
    "letters": ("graph-1920-light", "#stage text{display:none}", "elsewhere"),
    "an arrow": ("steps-1024-dark", "#stage path.line:first-of-type{display:none}", "here"),
    "a border": ("wrong-360-light", "#board{border-color:transparent!important}", "here"),
    "a badge": ("wrong-360-light", ".badge{display:none}", "here"),
}  # fmt: skip


@pytest.mark.parametrize("change", PLANTED)
def test_a_page_that_lost_something_is_not_taken_for_the_kept_one(browser: Any, change: str) -> None:
    name, style, where = PLANTED[change]
    whole = shot(browser, SHOTS[name])
    assert difference(whole, shot(browser, SHOTS[name], style=style)) > TOLERANCE[where]


def test_a_picture_in_other_letters_is_taken_for_the_kept_one(browser: Any) -> None:
    name, mono = "steps-1024-dark", '*{font-family:"Liberation Mono","Noto Sans Mono",monospace!important}'
    assert difference(shot(browser, SHOTS[name]), shot(browser, SHOTS[name], style=mono)) <= TOLERANCE["elsewhere"]


def test_readmes_picture_is_the_page_of_today(browser: Any) -> None:
    kept, made = (image.convert("L") for image in (Image.open(BASELINE / "page.png"), readme_picture(browser)))
    if tolerance(browser) == TOLERANCE["here"]:
        assert difference(kept.reduce(COARSE), made.reduce(COARSE)) <= TOLERANCE["here"]
    else:  # lines break elsewhere in another font: the picture has the size of the page, and its drawing the same place
        assert made.width == kept.width
        assert abs(made.height - kept.height) <= 80
