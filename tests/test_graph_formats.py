"""Formats of graphs: every file opens in the program it is made for, whatever stands in the names."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from browser import chromium, needs_chromium
from graphs import PROGRAMS, chain, leaf, unrolled
from networks import ResNet18, Transformer
from pictures import FOLDER, PICTURES
from rich.cells import cell_len
from torch import Tensor

import gradexplain as gx
from gradexplain.graphs import segments
from gradexplain.graphs.colours import INKS
from gradexplain.graphs.engine import LINE, TEXT, TITLE, engine, text_width
from gradexplain.graphs.graph import Facts, Numbers, Saved
from gradexplain.graphs.layout import Drawing, laid_out
from gradexplain.graphs.nesting import nested
from gradexplain.graphs.options import SHOWN, SUFFIXES
from gradexplain.graphs.picture import Picture
from gradexplain.graphs.words import Words, clean

ROOT = Path(__file__).parent.parent
MERMAID = ROOT / "node_modules" / "mermaid" / "dist" / "mermaid.min.js"
SVG = "{http://www.w3.org/2000/svg}"
PAGES = ROOT / "tests" / "pages"
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs dot (apt-get install graphviz)")
needs_mermaid = pytest.mark.skipif(not MERMAID.exists(), reason="needs mermaid (npm install --no-save mermaid)")
needs_pdftotext = pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext (poppler-utils)")

HOSTILE = [
    'a "quoted" name', "</script><script>document.title='ran'</script>", "]]>", "\ud800 lone", "中文", "",
    "<img src=x onerror=\"document.title='ran'\">", "two\nlines\r\tand more", "\u202ereversed\u202c", "end", "--> x",
    "nul\x00 bell\x07 escape\x1b[31m", "🦊 emoji 👩\u200d🚀", "x" * 10_000, "back\\slash \\N \\", "$x^2$ _under_",
    "&lt;b&gt; &amp; &#60;", "#quot; `code` **bold** 1. list", "{brace} [bracket] |pipe|", '"]; evil [label="',
    "%%{init: {}}%%",
]  # fmt: skip


def small() -> Picture:
    x = torch.tensor([1.0, 2.0, 3.0])
    return gx.graph(lambda x: (x * torch.exp(x)).sum(), {"x": x}, show=["shapes", "sources", "values", "gradients"])


def gpt() -> Picture:
    torch.manual_seed(0)
    return gx.graph(Transformer(width=24, tokens=100), [torch.randint(0, 100, (1, 8))], title="GPT-2-small")


def hostile(name: str) -> Picture:
    x = leaf(3)
    return gx.graph({name: (x * x).sum()}, {name: x}, title=name)


# ----------------------------------------------------------------------------------------------- any name at all


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("format", SUFFIXES)
def test_any_name_makes_a_whole_file(name: str, format: str, tmp_path: Path) -> None:
    path = tmp_path / f"graph{SUFFIXES[format]}"
    hostile(name).save(path)
    assert path.stat().st_size > 100
    assert not list(tmp_path.glob("*.part"))
    if format == "svg":
        ET.parse(path)
    if format == "json":
        kept = json.loads(path.read_text(encoding="utf-8"))
        assert kept["nodes"][0]["name"] == name
    if format in ("text", "svg", "dot", "mermaid", "html"):
        content = path.read_text(encoding="utf-8")
        assert not set(content) & {"\x00", "\x07", "\x1b", "\u202e", "\r"}
        assert format in ("text", "dot") or "<img" not in content


def in_hostile_modules(name: str) -> Picture:
    """A picture whose folds, frames, weights, places and operations stand in modules of such a name."""
    own = name.replace(".", "·") or "–"
    block = lambda: torch.nn.Sequential(OrderedDict({own: torch.nn.Linear(2, 2), "then": torch.nn.Tanh()}))  # noqa: E731
    net = torch.nn.Sequential(OrderedDict({own: torch.nn.Sequential(*(block() for _ in range(9)))}))
    return gx.graph(net, [torch.ones(1, 2)])


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("format", SUFFIXES)
def test_any_name_of_a_module_makes_a_whole_file(name: str, format: str) -> None:
    whole = in_hostile_modules(name)
    folded = whole.fold(depth=1) if format == "html" else whole.fold(most=12)
    assert folded.groups or any(n.kind == "fold" for n in folded.nodes)
    for picture in (whole, folded):
        content = picture.render(format)
        if isinstance(content, bytes):
            assert len(content) > 1000
            continue
        assert not set(content) & {"\x00", "\x07", "\x1b", "\u202e", "\r"}
        if format == "svg":
            assert not [e for e in ET.fromstring(content).iter() if e.tag.removeprefix(SVG) in ("script", "img")]
        elif format == "json":
            modules = {node.get("module", "") for node in json.loads(content)["nodes"]}
            assert any(name.replace(".", "·") in module for module in modules)
        elif format == "html":
            assert content.count("<script") == content.count("</script") == 2
            assert "<img" not in content
            data = re.search(r'<script id="data" type="application/json">(.*?)</script>', content, re.S)
            assert data is not None
            assert json.loads(data[1])["levels"]
        elif format == "mermaid":
            for line in content.splitlines():
                assert re.fullmatch(r'[\w ]+(\["(\w| |#\d+;|<br/>)*"\](:::\w+)?|[-.>]+ \w+|[\w :#,]*)', line), line
        elif format == "dot":
            assert not re.sub(r'"([^"\\\n]|\\.)*"', "", content).count('"')


@needs_dot
def test_dot_reads_any_name_of_a_module(tmp_path: Path) -> None:
    for name in HOSTILE:
        picture = in_hostile_modules(name).fold(most=12)
        path = tmp_path / "graph.dot"
        picture.save(path)
        read = subprocess.run(["dot", "-Tplain", path], check=True, capture_output=True, text=True)
        assert read.stderr == ""
        kinds = [line.split(" ", 1)[0] for line in read.stdout.splitlines()]
        assert kinds.count("node") == len(picture.nodes)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_text_is_never_wider_than_asked(name: str) -> None:
    for width in (40, 63, 100):
        for picture in (hostile(name), in_hostile_modules(name)):
            assert all(cell_len(line) <= width for line in str(picture.render("text", width=width)).splitlines())


def test_what_cannot_be_seen_is_written_as_an_escape() -> None:
    assert clean("a\u202eb\x00\n") == "a\\u202eb\\u0000\\u000a"
    assert clean("e\u0301 中文 🦊") == "e\u0301 中文 🦊"
    assert len(clean("x" * 10_000)) == 300


@needs_chromium
def test_no_name_runs_as_a_script_in_svg_or_html(tmp_path: Path) -> None:
    for k, name in enumerate(HOSTILE):
        hostile(name).save(tmp_path / f"{k}.svg")
        hostile(name).save(tmp_path / f"{k}.html")
        in_hostile_modules(name).save(tmp_path / f"m{k}.svg")
        in_hostile_modules(name).save(tmp_path / f"m{k}.html")
    names = [f"{m}{k}.{kind}" for k in range(len(HOSTILE)) for m in ("", "m") for kind in ("svg", "html")]
    planted = tmp_path / "planted.html"
    planted.write_text("<!DOCTYPE html><title>x</title><script>document.title='ran'</script>")
    frames = "".join(f'<iframe src="{name}"></iframe>' for name in [*names, planted.name])
    script = "onload = () => { const all = Array.from(frames, f => f.document.title);"
    script += " document.body.innerHTML = '<pre id=found></pre>'; found.textContent = JSON.stringify(all); }"
    (tmp_path / "all.html").write_text(f"<!DOCTYPE html><meta charset=utf-8><script>{script}</script><body>{frames}")
    text = chromium("--allow-file-access-from-files", "--dump-dom", f"file://{tmp_path}/all.html")
    titles = json.loads(unescaped(re.search(r'<pre id="found">(.*?)</pre>', text, re.S)[1]))
    assert len(titles) == len(names) + 1
    assert [t for t in titles if t == "ran"] == ["ran"]  # the planted one


# ---------------------------------------------------------------------------------------------------------- SVG


def test_elements_and_their_tensors_lead_to_each_other() -> None:
    picture = gx.graph(lambda x: (x**2).sum(), {"x": torch.tensor([1.0, 2.0])}, view="elements")
    links = {a.attrib["id"]: a.attrib["href"] for a in ET.fromstring(str(picture.render("svg"))).iter(SVG + "a")}
    assert links == {
        "e0": "#t0", "e1": "#t0", "e2": "#t1", "e3": "#t1", "e4": "#t2", "t0": "#e0", "t1": "#e2", "t2": "#e4",
    }  # fmt: skip


def test_svg_has_every_node_with_a_tooltip_and_no_script() -> None:
    root = ET.fromstring(str(small().render("svg")))
    boxes = [g for g in root.iter(SVG + "g") if "data-n" in g.attrib]
    assert len(boxes) == 4
    assert all(box[0].tag.endswith("title") and box[0].text for box in boxes)
    assert not [e for e in root.iter() if e.tag.endswith(("script", "foreignObject", "image"))]
    assert not [k for e in root.iter() for k in e.attrib if k.startswith("on") or k.endswith("href")]


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_readme_are_made_again(name: str) -> None:
    assert f"tests/baseline/{name}.svg" in (ROOT / "gradexplain" / "guides" / "graphs.md").read_text(encoding="utf-8")
    assert (FOLDER / f"{name}.svg").read_text(encoding="utf-8") == PICTURES[name]().render("svg")


LABELLED: list[Callable[[], Picture]] = [
    lambda: gx.graph(unrolled(9), show=["values", "gradients", "derivatives"]).fold(),
    lambda: gx.graph(lambda x: (x**2).sum(), {"x": torch.tensor([1.0, 2.0])}, view="elements"),
    lambda: gpt().fold(),
]


@pytest.mark.parametrize("make", LABELLED, ids=["numbers", "elements", "frames"])
def test_no_line_of_an_svg_meets_a_text_on_it(make: Callable[[], Picture]) -> None:
    painted = list(ET.fromstring(str(make().render("svg"))).iter())
    labels = [k for k, e in enumerate(painted) if e.attrib.get("class") in ("l", "f") and e.text]
    for k in labels:
        ground = max(i for i in range(k) if painted[i].tag == SVG + "rect")
        x, y, width, height = (float(painted[ground].attrib[name]) for name in ("x", "y", "width", "height"))
        left, base = (float(painted[k].attrib[name]) for name in ("x", "y"))
        wide = text_width(painted[k].text or "", TEXT)
        assert painted[ground].attrib["class"] == "page"
        assert x < left
        assert left + wide < x + width
        assert y <= base - 0.6 * TEXT
        assert base <= y + height
        page = max(i for i in range(k) if painted[i].tag == SVG + "g" and "data-n" not in painted[i].attrib)
        assert not [e for e in painted[ground : _end(painted, page)] if e.tag == SVG + "path"]
    assert labels


@pytest.mark.parametrize("show", [["gradients"], ["gradients", "derivatives"]])
def test_no_line_ends_beside_a_row_of_text_where_it_would_read_as_a_minus(show: list[str]) -> None:
    """Two labels stand side by side, and the line of one runs across below both."""
    a, b, c = (torch.tensor([[1.0, 2.0], [3.0, k]]) for k in (4.0, 5.0, 6.0))
    picture = gx.graph(lambda a, b, c: ((a @ b).tanh() * c.exp()).sum(), {"a": a, "b": b, "c": c}, show=show)
    painted = list(ET.fromstring(str(picture.render("svg"))).iter())
    rows = [
        (float(e.attrib["x"]), float(e.attrib["x"]) + text_width(e.text or "", TEXT), float(e.attrib["y"]))
        for e in painted
        if e.attrib.get("class") == "l"
    ]
    lines = [_turns(e.attrib["d"]) for e in painted if e.tag == SVG + "path" and e.attrib.get("class") != "a"]
    across = [(p, q) for points in lines for p, q in pairwise(points) if p[1] == q[1] and p[0] != q[0]]
    assert rows
    assert across
    near = 3 * TEXT
    for (x, y), (to_x, _) in across:
        for left, right, base in rows:
            beside = min(x, to_x) < right + near and max(x, to_x) > left - near
            assert not (beside and base - LINE < y < base + 1), (x, to_x, y, base)


def _turns(d: str) -> list[tuple[float, float]]:
    """Returns the points at which a path of lines and bends turns."""
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", d)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_an_svg_is_painted_without_its_style_sheet() -> None:
    """Many viewers read no style sheet, or no variables: every mark has its colours by itself, as on light ground."""
    text = str(LABELLED[0]().render("svg"))
    assert "var(" not in text
    for e in ET.fromstring(text).iter():
        kind = e.tag.removeprefix(SVG)
        if kind in ("rect", "path", "text"):
            assert e.attrib["fill"] == "none" or re.fullmatch("#[0-9a-f]{3,6}", e.attrib["fill"]), e.attrib
            painted = e.attrib["fill"] != "none" or e.attrib.get("stroke", "none") != "none"
            assert painted, e.attrib


def _end(painted: list[ET.Element], page: int) -> int:
    """Returns where the group that begins at `page` ends, in the order of painting."""
    return page + sum(1 for _ in painted[page].iter())


@pytest.mark.parametrize("make", LABELLED, ids=["numbers", "elements", "frames"])
def test_no_line_of_a_png_meets_a_text_on_it(make: Callable[[], Picture], tmp_path: Path) -> None:
    from PIL import Image, ImageColor

    picture = make()
    picture.save(tmp_path / "graph.png")
    drawn, line = drawing(picture), ImageColor.getrgb(INKS["line"][0])
    grounds = [route.ground() for route in drawn.routes if route.text] + [frame.ground() for frame in drawn.frames]
    with Image.open(tmp_path / "graph.png") as image:
        scale, shot = image.width / drawn.width, image.convert("RGB")
    inner = [[round(c * scale) + d for c, d in zip((*a, *b), (2, 2, -2, -2), strict=True)] for a, b in grounds]
    assert [area for area in inner if line in dict(map(reversed, shot.crop(area).getcolors(1 << 20)))] == []
    assert line in dict(map(reversed, shot.getcolors(1 << 20)))
    assert grounds


@needs_chromium
def test_no_line_of_a_page_meets_a_text_on_it(tmp_path: Path) -> None:
    script = """
    const areas = [...document.querySelectorAll(".l, .f")].map(text => [text, text.previousElementSibling].map(e => {
      const {x, y, width, height} = e.getBBox(); return [e.getAttribute("class"), x, y, width, height]; }));
    document.body.innerHTML = "<pre id=found></pre>";
    document.getElementById("found").textContent = JSON.stringify(areas);"""
    for make in LABELLED[:2]:
        found = re.search(r'<pre id="found">(.*?)</pre>', driven(make(), script, tmp_path), re.S)
        assert found is not None
        areas = json.loads(unescaped(found[1]))
        assert len(areas) > 3
        for (_, x, _, width, _), (kind, left, _, wide, tall) in areas:
            assert (kind, tall, left < x, x + width < left + wide) == ("page", LINE, True, True)


@pytest.mark.thorough
def test_the_same_graph_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = "import sys, test_graph_formats as t\nfor f, s in t.SUFFIXES.items(): t.gpt().save(f'{sys.argv[1]}/a{s}')"
    files = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        path = f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'scripts'}"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment, capture_output=True)
        files.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert set(files[0]) == {f"a{s}" for s in SUFFIXES.values()}
    assert [name for name in files[0] if files[0][name] != files[1][name]] == []


@needs_chromium
def test_svg_is_light_or_dark_as_the_reader_wants(tmp_path: Path) -> None:
    from PIL import Image

    small().save(tmp_path / "graph.svg")
    shades = []
    for scheme in ("1", "0"):  # blink: 0 is dark, 1 is light
        shot = tmp_path / f"{scheme}.png"
        chromium(
            f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}", f"file://{tmp_path}/graph.svg"
        )
        shades.append(sum(Image.open(shot).convert("RGB").getpixel((5, 100))))
    assert shades == [765, 13 + 17 + 23]


# ------------------------------------------------------------------------------------------------------- layouts


def drawing(picture: Picture) -> Drawing:
    return laid_out(picture, Words(picture, "en"))


def overlaps(drawn: Drawing) -> int:
    """Counts the pairs of boxes that overlap."""
    places = sorted(drawn.places, key=lambda p: p.y)
    found, near = 0, []
    for p in places:
        near = [q for q in near if q.y + q.height > p.y + 0.01]
        found += sum(q.x < p.x + p.width - 0.01 and p.x < q.x + q.width - 0.01 for q in near)
        near.append(p)
    return found


def stretches(drawn: Drawing) -> Iterator[tuple[int, float, float, float, float]]:
    for k, route in enumerate(drawn.routes):
        for (x, y), (to_x, to_y) in pairwise(route.points):
            yield k, min(x, to_x), min(y, to_y), max(x, to_x), max(y, to_y)


def hits(drawn: Drawing) -> int:
    """Counts the stretches of lines that go through a box."""
    cells: dict[int, list[tuple[float, float, float, float]]] = {}
    for p in drawn.places:
        for cell in range(int(p.y // 100), int((p.y + p.height) // 100) + 1):
            cells.setdefault(cell, []).append((p.x, p.y, p.x + p.width, p.y + p.height))
    found = 0
    for _, x, y, to_x, to_y in stretches(drawn):
        boxes = {b for cell in range(int(y // 100), int(to_y // 100) + 1) for b in cells.get(cell, ())}
        found += sum(
            b[0] < to_x - 0.1 and x + 0.1 < b[2] and b[1] + 0.1 < to_y and y < b[3] - 0.1 for b in boxes if x == to_x
        )
        found += sum(
            b[1] < to_y - 0.1 and y + 0.1 < b[3] and b[0] + 0.1 < to_x and x < b[2] - 0.1 for b in boxes if y == to_y
        )
    return found


def crossings(drawn: Drawing) -> int:
    """Counts the places where a level stretch crosses an upright one of another line."""
    upright: dict[int, list[tuple[int, float, float, float]]] = {}
    level = []
    for k, x, y, to_x, to_y in stretches(drawn):
        if x == to_x:
            for cell in range(int(y // 100), int(to_y // 100) + 1):
                upright.setdefault(cell, []).append((k, x, y, to_y))
        else:
            level.append((k, x, to_x, y))
    return sum(
        k != other and x + 0.1 < at < to_x - 0.1 and start + 0.1 < y < stop - 0.1
        for k, x, to_x, y in level
        for other, at, start, stop in upright.get(int(y // 100), ())
    )


def long_transformer() -> Picture:
    torch.manual_seed(0)
    net = Transformer(width=12, tokens=20, layers=190, context=8)
    loss = net(torch.randint(0, 20, (1, 4)))
    return gx.graph(loss)


def cells(steps: int) -> Tensor:
    """Two LSTM cells above each other: four strands."""
    torch.manual_seed(0)
    low, high = torch.nn.LSTMCell(3, 4), torch.nn.LSTMCell(4, 4)
    under = over = (torch.zeros(2, 4), torch.zeros(2, 4))
    for _ in range(steps):
        under = low(torch.randn(2, 3), under)
        over = high(under[0], over)
    return over[0].sum()


def tall_leaves() -> Picture:
    """A chain whose leaves are far taller than its operations."""
    y = leaf(2)
    for _ in range(40):
        y = y * leaf(2)
    picture = gx.graph(y.sum())
    one = Numbers((), "float64", 1.0, 1.0)
    facts = Facts(value=one, gradient=one, saved=(Saved("self", (2,), "float64", 16),), hooks=2, weights=("w",))
    nodes = tuple(n._replace(facts=facts) if n.kind == "input" else n for n in picture.nodes)
    return replace(picture, nodes=nodes, shown=frozenset(SHOWN))


DRAWN: list[tuple[str, Callable[[], Picture]]] = [
    ("small", small),
    ("gpt folded", lambda: gpt().fold()),
    ("gpt", gpt),
    ("resnet folded", lambda: gx.graph(ResNet18(width=8), [torch.randn(2, 3, 32, 32)]).fold()),
    ("resnet", lambda: gx.graph(ResNet18(width=8), [torch.randn(2, 3, 32, 32)])),
    ("rnn", lambda: gx.graph(unrolled(60))),
    ("rnn of 800 steps", lambda: gx.graph(unrolled(800))),
    ("two layers of lstm cells", lambda: gx.graph(cells(40))),
    ("tall leaves", tall_leaves),
    ("three graphs", lambda: gx.graph([program() for program in PROGRAMS[:3]])),
    ("transformer of 190 blocks", long_transformer),
    *((program.__name__, lambda program=program: gx.graph(program())) for program in PROGRAMS),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("make", [m for _, m in DRAWN], ids=[n for n, _ in DRAWN])
def test_no_box_overlaps_another_and_no_line_goes_through_a_box(make: Callable[[], Picture]) -> None:
    drawn = drawing(make())
    assert (overlaps(drawn), hits(drawn)) == (0, 0)


def test_an_unrolled_network_of_sixty_steps_is_drawn_without_a_crossing() -> None:
    assert crossings(drawing(gx.graph(unrolled(60)))) == 0


@pytest.mark.thorough
def test_a_long_unrolled_network_is_laid_out_step_by_step_and_stays_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(segments, "engine", lambda *given: calls.append(len(given[0])) or engine(*given))
    for steps in (200, 400):
        calls.clear()
        drawn = drawing(gx.graph(unrolled(steps)))
        assert (crossings(drawn), sum(calls) < 1000, drawn.width < 1000) == (0, True, True)


def test_a_part_that_stands_the_other_way_round_is_turned_over(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def other_way_round(*given: object) -> segments.Found:
        found = engine(*given)
        calls.append(found)
        if len(calls) % 2:
            return found
        turn = lambda points: [(-x, y) for x, y in points]  # noqa: E731
        return replace(found, centres=turn(found.centres), routes=list(map(turn, found.routes)))

    monkeypatch.setattr(segments, "engine", other_way_round)
    drawn = drawing(gx.graph(unrolled(60)))
    assert len(calls) > 2
    assert (overlaps(drawn), hits(drawn), crossings(drawn)) == (0, 0, 0)


def test_overlaps_hits_and_crossings_are_counted() -> None:
    drawn = drawing(small())
    first = drawn.places[0]
    moved = type(drawn)(**{**vars(drawn), "places": (first._replace(x=first.x + 5), *drawn.places)})
    assert overlaps(moved) == 1
    assert hits(type(drawn)(**{**vars(drawn), "places": (first._replace(height=400),)})) > 0
    across = type(drawn.routes[0])(None, ((0.0, 115.0), (1000.0, 115.0)))
    assert crossings(type(drawn)(**{**vars(drawn), "routes": (*drawn.routes, across)})) > 0


def test_every_line_starts_and_ends_at_its_boxes() -> None:
    drawn = drawing(gpt())
    places: dict[int, list] = {}
    for place in drawn.places:
        places.setdefault(place.node, []).append(place)
    for route in drawn.routes:
        assert any(on_border(route.points[0], p) for p in places[route.edge.producer])
        assert any(on_border(route.points[-1], p) for p in places[route.edge.consumer])


def on_border(point: tuple[float, float], place: object) -> bool:
    x, y = point
    return place.x - 1 <= x <= place.x + place.width + 1 and (
        abs(y - place.y) < 1 or abs(y - place.y - place.height) < 1
    )


def test_text_fits_its_box() -> None:
    drawn = drawing(gpt())
    for place in drawn.places:
        caption = drawn.captions[place.node]
        assert text_width(caption.title, TITLE) <= place.width
        assert all(text_width(line, TEXT) <= place.width for line in caption.lines)


# ------------------------------------------------------------------------------------------------- DOT, Mermaid


@needs_dot
@pytest.mark.parametrize("make", [small, gpt, lambda: gpt().fold()], ids=["small", "gpt", "folded"])
def test_dot_reads_every_node_and_edge(make: Callable[[], Picture], tmp_path: Path) -> None:
    picture = make()
    path = tmp_path / "graph.dot"
    picture.save(path)
    read = subprocess.run(["dot", "-Tplain", path], check=True, capture_output=True, text=True)
    assert read.stderr == ""
    kinds = [line.split(" ", 1)[0] for line in read.stdout.splitlines()]
    shown = picture
    assert kinds.count("node") == len(shown.nodes)
    assert kinds.count("edge") == len(shown.edges) + len(shown.again)


@needs_dot
def test_dot_shows_hostile_names_as_they_are(tmp_path: Path) -> None:
    for name in HOSTILE:
        path = tmp_path / "graph.dot"
        hostile(name).save(path)
        read = subprocess.run(["dot", "-Tsvg", path], check=True, capture_output=True, text=True)
        assert read.stderr == ""
        texts = [e.text or "" for e in ET.fromstring(read.stdout).iter() if e.tag.endswith("text")]
        shown = Words(hostile(name), "en").caption(0).title.strip()
        assert any(squeezed(shown) == squeezed(t) for t in texts) or not shown


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


@needs_chromium
@needs_mermaid
def test_mermaid_draws_every_node_and_every_name(tmp_path: Path) -> None:
    pictures = [small(), gpt().fold(), gx.graph(unrolled(20)).fold(), *map(hostile, HOSTILE)]
    sources = [str(p.render("mermaid")) for p in pictures]
    data = json.dumps(sources).replace("<", "\\u003c")
    page = f"<!DOCTYPE html><meta charset=utf-8><body><script src='{MERMAID}'></script>"
    page += f"<script>const sources = {data};{(PAGES / 'mermaid.js').read_text()}</script>"
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    text = chromium("--virtual-time-budget=60000", "--dump-dom", f"file://{tmp_path}/page.html")
    found = json.loads(unescaped(re.search(r'<pre id="found">(.*?)</pre>', text, re.S)[1]))
    assert [f.get("fault") for f in found] == [None] * len(pictures)
    assert [f["nodes"] for f in found] == [len(p.nodes) for p in pictures]
    assert [f["edges"] for f in found] == [len(p.edges) + len(p.again) for p in pictures]
    for name, drawn in zip(HOSTILE, found[3:], strict=True):
        title = Words(hostile(name), "en").caption(0).title
        assert squeezed(title) in squeezed(unescaped(re.sub("<br ?/?>", "\n", drawn["labels"][0])))


def unescaped(text: str) -> str:
    import html

    return html.unescape(text)


# --------------------------------------------------------------------------------------------------- HTML, paper


def driven(picture: Picture, script: str, folder: Path) -> str:
    """Returns the document that a browser makes of the picture's page and a script."""
    page = str(picture.render("html"))
    path = folder / "driven.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return chromium("--window-size=1200,800", "--dump-dom", f"file://{path}")


@needs_chromium
def test_html_unfolds_in_place_and_folds_again_searches_pans_and_zooms(tmp_path: Path) -> None:
    title = re.search("<title>(.*?)</title>", driven(gpt(), (PAGES / "viewer.js").read_text(), tmp_path))
    assert title is not None
    said = json.loads(unescaped(title[1]))
    block = 8  # two norms, attention, two additions, two linear layers and a gelu in the place of one box
    attention, whole = said["within"][2] - said["one"][2], said["first"]
    assert said == {
        "first": 22, "details": True, "one": [True, True, whole + block - 1],
        "within": [True, True, whole + block - 1 + attention],
        "two": [True, True, whole + 2 * (block - 1) + attention], "inside": True, "still": True,
        "again": [True, whole], "keyboard": True, "zoom": True, "pan": True, "dragged": True, "hidden": True,
        "found": [True] * 4, "folded": 11,
    }  # fmt: skip
    assert attention > 5


UNFOLDED: list[tuple[str, Callable[[], Picture]]] = [
    ("gpt", gpt),
    ("resnet", lambda: gx.graph(ResNet18(width=8), [torch.randn(2, 3, 32, 32)])),
    ("rnn", lambda: gx.graph(unrolled(60))),
    ("numbers", lambda: gx.graph(unrolled(12), show=["shapes", "values", "gradients", "derivatives", "norms"])),
    ("both", lambda: gx.graph(Transformer(width=12, tokens=9, layers=2), [torch.tensor([[1, 2]])], view="both")),
]


@pytest.mark.thorough
@needs_chromium
@pytest.mark.parametrize("make", [m for _, m in UNFOLDED], ids=[n for n, _ in UNFOLDED])
def test_whatever_is_unfolded_no_box_overlaps_and_no_line_goes_through_one(make: Callable, tmp_path: Path) -> None:
    script = f"const STEPS = 24; {(PAGES / 'places.js').read_text()}"
    found = re.search(r'<pre id="found">(.*?)</pre>', driven(make(), script, tmp_path), re.S)
    assert found is not None
    states = json.loads(unescaped(found[1]))
    assert len({len(state["boxes"]) for state in states}) > 5
    assert [fault for state in states for fault in faults(state)] == []
    moved = states[-1]
    moved["boxes"][-1]["area"][:2] = moved["boxes"][0]["area"][:2]
    assert list(faults(moved))


def faults(state: dict) -> Iterator[tuple]:
    """Yields the boxes and frames that overlap, and those through which a line goes that has no end in them."""
    areas = [
        (b["key"], b["area"], framed) for kind, framed in (("boxes", False), ("frames", True)) for b in state[kind]
    ]
    for i, (key, area, framed) in enumerate(areas):
        for other, own, holds in areas[i + 1 :]:
            if touch(area, own, 0.2) and not ((framed and holds_in(area, own)) or (holds and holds_in(own, area))):
                yield "overlap", key, other
    for line in state["lines"]:
        points = [(float(x), float(y)) for x, y in re.findall(r"[MLQ]([-\d.]+) ([-\d.]+)", line["path"])]
        for (x, y), (to_x, to_y) in pairwise(points):
            stretch = [min(x, to_x), min(y, to_y), abs(x - to_x), abs(y - to_y)]
            for key, area, framed in areas:
                beside = not framed or line["level"] == int(key.split(":")[0])
                if beside and touch(area, stretch, 0.3):
                    yield "line", key, line["path"]


def touch(a: list[float], b: list[float], room: float) -> bool:
    return all(a[i] + room < b[i] + b[i + 2] and b[i] + room < a[i] + a[i + 2] for i in (0, 1))


def holds_in(outer: list[float], inner: list[float]) -> bool:
    return all(outer[i] <= inner[i] and inner[i] + inner[i + 2] <= outer[i] + outer[i + 2] for i in (0, 1))


def test_every_node_and_every_edge_stands_in_some_level_of_the_page() -> None:
    picture = gpt()
    levels = nested(picture)
    operations = [n for level in levels for n in level.picture.nodes if n.kind == "operation"]
    assert sorted(n.sequence for n in operations) == sorted(n.sequence for n in picture.nodes if n.kind == "operation")
    parameters = {n.name for level in levels for n in level.picture.nodes if n.kind == "parameter"}
    parameters |= {w for n in operations if n.facts for w in n.facts.weights}
    assert parameters == {n.name for n in picture.nodes if n.kind == "parameter"}
    assert sorted(ends(levels)) == sorted(
        (picture.nodes[e.producer].sequence, picture.nodes[e.consumer].sequence)
        for e in picture.edges
        if picture.nodes[e.producer].kind == "operation"
    )


def ends(levels: list) -> Iterator[tuple[int, int]]:
    """Yields the operations at both ends of every line, followed through the ports."""
    outside = {inner: (k, node) for k, level in enumerate(levels) for node, inner in level.inside.items()}
    for k, level in enumerate(levels):
        for edge in level.picture.edges:
            if level.picture.nodes[edge.consumer].kind == "operation":
                for start in starts(levels, outside, k, edge):
                    if start.kind == "operation":
                        yield start.sequence, level.picture.nodes[edge.consumer].sequence


def starts(levels: list, outside: dict, k: int, edge: object) -> Iterator:
    level, node = levels[k], edge.producer
    if node in level.entries:
        above = outside[k][0]
        yield from starts(levels, outside, above, levels[above].picture.edges[level.entries[node]])
    elif node in level.inside:
        inner = levels[level.inside[node]]
        (port,) = [p for p, place in inner.exits.items() if level.picture.edges[place] is edge]
        for own in inner.picture.edges:
            if own.consumer == port:
                yield from starts(levels, outside, level.inside[node], own)
    else:
        yield level.picture.nodes[node]


@pytest.mark.thorough
def test_a_page_for_which_the_graph_is_too_large_says_so() -> None:
    picture = gx.graph(chain(40_000))
    page = str(picture.render("html"))
    assert "folds do not open here" in page
    assert not [e for level in nested(picture) for e in level.picture.edges if e.producer == e.consumer]
    assert len(page) < 2_000_000


def test_html_needs_no_network_and_is_small() -> None:
    page = str(gpt().render("html"))
    assert not re.findall(r"""(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org/)""", page)
    assert "default-src 'none'" in page
    assert len(gx.graph(ResNet18(width=8), [torch.randn(2, 3, 32, 32)]).render("html").encode()) <= 300_000


def test_png_is_an_image_that_is_not_blank(tmp_path: Path) -> None:
    from PIL import Image

    gpt().save(tmp_path / "graph.png")
    with Image.open(tmp_path / "graph.png") as image:
        image.load()
        assert image.width > 800
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


@needs_pdftotext
def test_pdf_holds_the_names_as_text(tmp_path: Path) -> None:
    gpt().save(tmp_path / "graph.pdf")
    read = subprocess.run(
        ["pdftotext", "-layout", tmp_path / "graph.pdf", "-"], check=True, capture_output=True, text=True
    )
    assert all(word in read.stdout for word in ("tokens.weight", "layers.0.self_attn", "×12", "NllLossBackward0"))


@pytest.mark.parametrize("view", ["forward", "both", "elements"])
@pytest.mark.parametrize("format", SUFFIXES)
def test_every_view_is_written_in_every_format(view: str, format: str) -> None:
    x = torch.tensor([1.0, 2.0])
    assert gx.graph(lambda x: (x**2).sum(), {"x": x}, view=view).render(format, language="zh")


def test_gradient_norms_are_the_width_of_edges() -> None:
    picture = gx.graph(lambda x, y: (100 * x + y).sum(), [torch.ones(2), torch.ones(2)], show=["norms"])
    widths = [float(w) for w in re.findall(r"stroke-width:([\d.]+)\" d", str(picture.render("svg")))]
    assert max(widths) == 5
    assert min(widths) < 1


def test_a_norm_that_is_not_finite_does_not_make_a_line_without_width() -> None:
    picture = gx.graph(lambda x: (x.log() * x).sum(), [torch.tensor([-1.0, 0.0, 1.0])], show=["norms", "gradients"])
    assert "stroke-width:nan" not in str(picture.render("svg"))
    assert isinstance(picture.render("pdf"), bytes)


def test_json_tells_what_flows_along_each_edge() -> None:
    kept = json.loads(str(small().render("json")))
    assert {n["name"] for n in kept["nodes"]} == {"x", "ExpBackward0", "MulBackward0", "SumBackward0"}
    assert kept["nodes"][0]["gradient"]["elements"] == pytest.approx(
        [2 * 2.718281828, 3 * 7.389056, 4 * 20.085537], 1e-5
    )
    assert [e["contribution"]["shape"] for e in kept["edges"]] == [[3], [3], [3], [3]]
    assert kept["outputs"] == [{"node": 3, "output": 0, "name": "y"}]


def test_a_number_that_is_not_finite_is_valid_json() -> None:
    picture = gx.graph(lambda x: (1 / x).sum(), [torch.tensor([0.0, 1.0])], show=["values", "gradients"])
    kept = json.loads(str(picture.render("json")), parse_constant=lambda c: pytest.fail(c))
    assert "inf" in kept["nodes"][1]["value"]["elements"]


def test_a_picture_shows_itself_in_a_notebook() -> None:
    assert small()._repr_svg_().startswith("<svg")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "graph.svg").mkdir()
    with pytest.raises(gx.InputError):
        small().save(tmp_path / "graph.svg")
    assert [p.name for p in tmp_path.iterdir()] == ["graph.svg"]


def test_chinese_words_stand_on_chinese_pictures() -> None:
    text = str(gpt().render("text", language="zh"))
    assert "个结点" in text
    assert "operations" not in text


def test_functions_take_tensors_that_are_named() -> None:
    def f(a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    assert [n.name for n in gx.graph(f, [leaf(2, 2), leaf(2, 3)]).nodes[:2]] == ["a", "b"]
