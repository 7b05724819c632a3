"""Targets: which text is what, how the user's code is imported, and what is told when that fails."""

import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import gradexplain as gx
from gradexplain.errors import InputError, RunError
from gradexplain.targets.expression import Program
from gradexplain.targets.loading import FilePlace, ModulePlace, load, match_inputs, parse_target
from gradexplain.targets.vocabulary import FUNCTIONS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Runs each test in an empty folder and forgets what it imported."""
    monkeypatch.chdir(tmp_path)
    modules, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)) or name.startswith("pkg"):
            del sys.modules[name]


def write(name: str, text: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")


def target(text: str):
    return load(parse_target(text))


# ---- texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["x**2", "x[1:2]", "x[a:b]", "x[:, None]", "x[::2]", "h = x[1:]; h", "sum(x[i:j])", "x[1:2].sum()", "x", "x.T"],
)
def test_an_expression_stays_one(text):
    assert isinstance(parse_target(text).place, Program)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("pkg:f", ModulePlace("pkg", "f")),
        ("pkg.mod:f", ModulePlace("pkg.mod", "f")),
        ("pkg.mod:Class.method", ModulePlace("pkg.mod", "Class.method")),
        ("包:函数", ModulePlace("包", "函数")),
        ("model.py:f", FilePlace(Path("model.py"), "f")),
        (" ./a b/model.py:f ", FilePlace(Path("a b/model.py"), "f")),
        ("../my-model.py:net.forward", FilePlace(Path("../my-model.py"), "net.forward")),
        ("C:/work/model.py:f", FilePlace(Path("C:/work/model.py"), "f")),
        ("a[1].py:_private", FilePlace(Path("a[1].py"), "_private")),
    ],
)
def test_a_place_is_a_file_or_a_module(text, place):
    assert parse_target(text).place == place


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        (r"C:\f.py:loss", r"C:\f.py", "loss"),
        (r"C:\My Files\train.py : Net.forward", r"C:\My Files\train.py", "Net.forward"),
        ("D:/a/b.py:f", "D:/a/b.py", "f"),
    ],
)
def test_the_colon_of_a_drive_is_no_separator(text, path, name):
    assert parse_target(text).place == FilePlace(Path(path), name)
    with pytest.raises(InputError, match=r"write .*\.py:NAME") as caught:
        parse_target(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("gelu", ModulePlace("torch.nn.functional", "gelu")),
        ("F.gelu", ModulePlace("torch.nn.functional", "gelu")),
        ("torch.nn.functional.gelu", ModulePlace("torch.nn.functional", "gelu")),
        ("torch.sin", ModulePlace("torch", "sin")),
        ("torch.linalg.norm", ModulePlace("torch.linalg", "norm")),
    ],
)
def test_the_bare_name_of_a_function_of_torch_is_that_function(text, place):
    assert parse_target(text).place == place


@pytest.mark.parametrize("text", ["torch.nn.functional:gelu", "F.gelu", "gelu"])
def test_a_function_of_torch_takes_inputs_by_its_names_or_in_order(text):
    loaded, x = target(text), torch.tensor([0.5, -2.0])
    for name in ("input", "x"):
        match_inputs(loaded, [name])
        assert torch.equal(loaded.function(**{name: x}), torch.nn.functional.gelu(x))
    with pytest.raises(InputError, match="needs input"):
        match_inputs(loaded, [])


def test_what_a_function_of_torch_has_by_other_names_fills_its_free_places_in_order():
    a, b, c = torch.tensor(2.0), torch.tensor(3.0), torch.tensor(5.0)
    loaded = target("torch.lerp")  # input + weight * (end - input)
    assert loaded.function(weight=c, p=a, q=b) == 2 + 5 * (3 - 2)
    assert loaded.function(p=a, q=b, r=c) == 2 + 5 * (3 - 2)


class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        ctx.save_for_backward(values.exp())
        return values.exp()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


class Net(torch.nn.Module):
    def forward(self, left, right):
        return left * right


@pytest.mark.parametrize(
    ("function", "called", "names", "line"),
    [
        (Exp.apply, "Exp.forward", "values", Exp.forward.__code__.co_firstlineno),
        (torch.angle, "angle", "input", None),
        (torch.nn.functional.gelu, "gelu", "input, approximate", None),
        (Net(), "Net", "left, right", Net.forward.__code__.co_firstlineno),
        (within_a_name := lambda a, b: a * b, "<lambda>", "a, b", within_a_name.__code__.co_firstlineno),
    ],
)
@pytest.mark.parametrize("verb", [gx.explain, gx.verify])
def test_a_name_that_the_function_lacks_is_told_with_its_place_and_the_names_it_has(
    verb, function, called, names, line
):
    with pytest.raises(InputError) as caught:
        verb(function, {"z": torch.ones(2)})
    place = "" if line is None else f" ({__file__}:{line})"
    assert str(caught.value) == f"{called}{place} has no argument z; its arguments are: {names}."


def test_a_custom_function_takes_its_inputs_by_the_names_of_its_forward():
    assert gx.verify(Exp.apply, {"values": torch.ones(2)}).verdict == "agrees"


def test_a_fault_inside_a_function_stays_its_own():
    def f(x):
        raise TypeError("of its own")

    with pytest.raises(RunError, match="of its own"):
        gx.verify(f, {"x": torch.ones(2)})


def test_every_published_function_can_be_a_target():
    loaded = [target(name) for name in FUNCTIONS]
    assert all(one.open for one in loaded)
    assert len([one for one in loaded if one.parameters]) > 0.9 * len(loaded)


def test_functions_of_torch_that_take_any_number_take_their_inputs_in_order():
    a, b = torch.ones(2), torch.arange(3.0)
    assert torch.equal(target("block_diag").function(p=a, q=b), torch.block_diag(a, b))


@pytest.mark.parametrize("text", ["model.py", "model.py:", "a/b-c.py", "pkg.mod:", "pkg :"])
def test_a_place_without_a_name_is_told_how_to_go_on(text):
    with pytest.raises(InputError, match=r"does not say which function to take; write .*:NAME"):
        parse_target(text)


def test_reading_a_target_touches_no_file():
    parse_target("missing.py:f")
    parse_target("missing:f")


# ---- what is loaded ------------------------------------------------------------------------------------------------


def test_an_expression_is_a_function_of_its_inputs():
    loaded = target("h = x * w; h + 1")
    assert (loaded.name, loaded.parameters, loaded.required) == ("f", ("x", "w"), ("x", "w"))
    assert loaded.function(x=torch.tensor(2.0), w=torch.tensor(3.0)) == 7
    assert loaded.locate is not None
    assert loaded.locate().code == "h + 1"
    assert target("loss = x.sum()").name == "loss"


SIGNATURES = """
    import functools
    import torch

    def plain(x, y): return x - y
    def optional(x, n=3, *, scale=1.0): return scale * x**n
    def positional(x, y, /): return x - y
    def mixed(x, /, y, *, z=0): return x - y + z
    def anything(*values): return values[0] - values[1]
    def rest(x, *values): return x - values[0]
    def named(x, **options): return x - options["y"]
    def both(*values, **options): return options["x"] - options["y"]
    lambda_ = lambda x, y: x - y
    partial = functools.partial(plain, y=1.0)
    @functools.wraps(plain)
    def wrapped(*values, **options): return plain(*values, **options)
    class Callable:
        def __call__(self, x, y): return x - y
    instance = Callable()
    class Net(torch.nn.Module):
        def __init__(self, width=2):
            super().__init__()
            self.linear = torch.nn.Linear(width, 1)
        def forward(self, x, y): return x - y
    net = Net()
    def _private(x, y): return x - y
"""


@pytest.mark.parametrize(
    ("name", "parameters", "required", "open_"),
    [
        ("plain", ("x", "y"), ("x", "y"), False),
        ("optional", ("x", "n", "scale"), ("x",), False),
        ("positional", ("x", "y"), ("x", "y"), False),
        ("mixed", ("x", "y", "z"), ("x", "y"), False),
        ("anything", (), (), True),
        ("rest", ("x",), ("x",), True),
        ("named", ("x",), ("x",), True),
        ("both", (), (), True),
        ("lambda_", ("x", "y"), ("x", "y"), False),
        ("partial", ("x", "y"), ("x",), False),
        ("wrapped", ("x", "y"), ("x", "y"), False),
        ("instance", ("x", "y"), ("x", "y"), False),
        ("net", ("x", "y"), ("x", "y"), False),
        ("Net", ("x", "y"), ("x", "y"), False),
        ("net.forward", ("x", "y"), ("x", "y"), False),
        ("_private", ("x", "y"), ("x", "y"), False),
    ],
)
def test_every_kind_of_callable_takes_its_inputs_by_name(name, parameters, required, open_):
    write("signatures.py", SIGNATURES)
    loaded = target(f"signatures.py:{name}")
    assert (loaded.name, loaded.parameters, loaded.required, loaded.open) == (name, parameters, required, open_)
    given = {"x": 5.0} if name == "optional" else {"x": 5.0, "y": 2.0}
    match_inputs(loaded, given)
    assert loaded.function(**given) == (125 if name == "optional" else 3)
    assert isinstance(loaded.module, torch.nn.Module) == (name in ("net", "Net"))


def test_a_module_of_a_package_is_found_in_the_folder():
    write("pkg_a/__init__.py", "")
    write("pkg_a/mod.py", "from pkg_a import helper\ndef f(x): return helper.g(x)")
    write("pkg_a/helper.py", "def g(x): return x * 2")
    assert target("pkg_a.mod:f").function(x=3) == 6


def test_a_file_finds_its_neighbours_and_gets_its_own_name():
    write("sub/neighbour.py", "two = 2")
    write("sub/main_file.py", "import neighbour\ndef f(x): return x * neighbour.two\nname = __name__")
    assert target("sub/main_file.py:f").function(x=3) == 6
    assert sys.modules["main_file"].name == "main_file"


def test_a_file_named_like_a_module_in_use_does_not_replace_it():
    write("torch.py", "def f(x): return x + 1")
    write("json.py", "def f(x): return x + 2")
    genuine = torch
    assert target("torch.py:f").function(x=1) == 2
    assert target("json.py:f").function(x=1) == 3
    assert sys.modules["torch"] is genuine


def test_a_file_is_read_anew_each_time():
    write("again.py", "def f(x): return 1")
    assert target("again.py:f").function(x=0) == 1
    write("again.py", "def f(x): return 12345")
    assert target("again.py:f").function(x=0) == 12345


def test_a_dataclass_in_a_file_works():
    write("data.py", "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'float'\n    y: float = 2.0")
    loaded = target("data.py:A")
    assert (loaded.parameters, loaded.required) == (("x", "y"), ("x",))


# ---- what fails ----------------------------------------------------------------------------------------------------

FILES = {
    "model.py": """
        import math
        import torch
        from pathlib import Path

        answer = 42
        def loss(x): return x
        def predict(x): return x
        class Net(torch.nn.Module):
            def __init__(self, width, depth=1): super().__init__()
        class Broken(torch.nn.Module):
            def __init__(self): raise ValueError("no weights")
        sin = torch.sin
        biggest = max
    """,
    "raises.py": "\n\nx = 1 / 0\n",
    "deep.py": "\nimport raises\n",
    "syntax.py": "x = 1\ndef f(:\n",
    "lacks.py": "import no_such_package_at_all\n",
    "exits.py": "import sys\nprint('hello')\nsys.exit(3)\n",
    "pkg_b/__init__.py": "",
    "pkg_b/raises.py": "\nraise RuntimeError('first line\\nsecond line')",
    "latin.py": "",
}

# fmt: off
FAILURES = {
    "missing.py:f":        "There is no file",
    "modle.py:f":          "did you mean model.py?",
    "pkg_b:":              "does not say which function",
    "no_such_module_x:f":  "There is no module no_such_module_x, needed for no_such_module_x; run in the folder",
    "pkg_b.none:f":        "There is no module pkg_b.none",
    "model.py:loos":       "has no loos; did you mean loss?",
    "model.py:zzz":        "model.py has no zzz; it has Broken, Net, biggest, loss, predict, sin.",
    "model.py:loss.zzz":   "has no zzz",
    "model.py:answer":     "answer in model.py:answer is of type int and cannot be called",
    "model.py:math":       "is of type module and cannot be called",
    "model.py:Net":        "Net in model.py:Net cannot be made without the arguments width;",
    "model.py:Broken":     "Making the module Broken() for model.py:Broken raised ValueError: no weights",
    "model.py":            "such as model.py:loss. It has loss, predict, Net, Broken.",
    "raises.py":           "no function is defined in it",
    "model.py:Net.forward": "forward is a method of the class Net in model.py and needs an instance",
    "model.loss":          "if model is a module of yours, write model:loss.",
    "weights/model.pt":    "is a file of data",
    "notes.ipynb":         "is a file of data",
    "model.py:biggest":    "does not tell the names of its inputs",
    "raises.py:f":         "raises.py:3: division by zero",
    "deep.py:f":           "raises.py:3: division by zero",
    "syntax.py:f":         "syntax.py:2: ",
    "lacks.py:f":          "raised ModuleNotFoundError at",
    "lacks:f":             "No module named 'no_such_package_at_all'",
    "exits.py:f":          "ended the program at",
    "exits:f":             "exits.py:3 with exit code 3; put what runs a script under if __name__",
    "pkg_b.raises:f":      "raises.py:2: first line; correct",
    "latin.py:f":          "raised SyntaxError",
}
# fmt: on


@pytest.mark.parametrize("text", FAILURES)
def test_what_cannot_be_loaded_is_told_in_both_languages(text):
    for name, source in FILES.items():
        write(name, source)
    Path("latin.py").write_bytes(b"x = '\xe9'\n")
    with pytest.raises(InputError) as caught:
        target(text)
    assert FAILURES[text] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.sentence("zh") != str(caught.value)


def test_an_interrupt_is_not_swallowed():
    write("interrupted.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        target("interrupted.py:f")
    assert "interrupted" not in sys.modules


def test_a_module_that_failed_is_forgotten():
    write("halfway.py", "x = 1\nraise ValueError")
    with pytest.raises(InputError, match="ValueError"):
        target("halfway.py:f")
    assert "halfway" not in sys.modules


# ---- inputs --------------------------------------------------------------------------------------------------------


def test_missing_inputs_are_named_with_an_example():
    with pytest.raises(InputError) as caught:
        match_inputs(target("sum(A @ B)"), ["A"])
    assert str(caught.value) == "sum(A @ B) still needs B (it takes A, B); add for example B=1,2,3."


def test_superfluous_inputs_are_named():
    with pytest.raises(InputError) as caught:
        match_inputs(target("sum(A @ B)"), ["A", "B", "C"])
    assert str(caught.value) == "sum(A @ B) does not take C; it takes A, B."
    with pytest.raises(InputError, match="does not take x; it takes –"):
        match_inputs(target("1 + 1"), ["x"])


def test_inputs_that_fit_pass():
    match_inputs(target("sum(A @ B)"), ["B", "A"])
    write("options.py", "def f(x, n=3): return x")
    match_inputs(target("options.py:f"), ["x"])
    match_inputs(target("options.py:f"), ["n", "x"])


# ---- texts from Python ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs", [{"x": torch.tensor([1.0, 2.0])}, [torch.tensor([1.0, 2.0])], torch.tensor([1.0, 2.0])]
)
def test_a_text_in_the_place_of_the_function_is_read_as_the_command_line_reads_it(inputs):
    explanation = gx.explain("h = x**2; sum(h)", inputs)
    assert explanation.target == "h = x**2; sum(h)"
    assert torch.equal(explanation.gradients["x"], torch.tensor([2.0, 4.0]))
    assert gx.verify("sum(x**2)", inputs).verdict == "agrees"
    assert gx.assert_gradients("sum(x**2)", inputs).verdict == "agrees"
    assert "x" in {node.name for node in gx.graph("sum(x**2)", inputs).nodes}


def test_a_text_is_refused_in_the_words_of_the_command_line():
    for text, inputs, words in (
        ("sum(x^2)", {"x": torch.ones(2)}, "a power is written with"),
        ("sum(x**2)", {"z": torch.ones(2)}, "does not take z; it takes x"),
        ("sum(x**2)", [torch.ones(2), torch.ones(2)], "does not take input1"),
        ("open('x')", {}, "is not a function that expressions know"),
    ):
        for verb in (gx.explain, gx.verify, gx.graph, gx.assert_gradients):
            with pytest.raises(InputError, match=words):
                verb(text, inputs)


def test_a_backward_that_torch_refuses_fails_an_assertion_in_one_line_with_a_place():
    class Shaped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.exp()

        @staticmethod
        def backward(ctx, g):
            return torch.ones(5, 7)

    for function in (Shaped.apply, lambda x: Shaped.apply(x)):
        with pytest.raises(AssertionError, match=r"returned a gradient \(5, 7\)") as caught:
            gx.assert_gradients(function, [torch.ones(2, 3)])
        assert f"Used at {__file__}:" in str(caught.value)
        assert "?" not in str(caught.value)
        assert caught.value.__context__ is None
        assert len(caught.traceback.filter(caught)) == 1  # the caller's own line


ODD = """
    import torch

    async def waiting(x):
        return x.sum()

    def yielding(x):
        yield x.sum()

    def silent(x):
        x.sum()

    class Maker:
        def __init__(self, k):
            self.k = k

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return 2 * g
"""


@pytest.mark.filterwarnings("error")  # a coroutine that nobody waited for is warned of
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("waiting", "returned a coroutine"),
        ("yielding", "returned a generator"),
        ("silent", "returned None, in which there is no tensor"),
        ("Maker", "Maker in odd.py:Maker is a class"),
        ("Twice", "write odd.py:Twice.apply"),
    ],
)
def test_what_gives_no_tensor_is_told_by_what_it_is(name: str, told: str) -> None:
    write("odd.py", ODD)
    for verb in (gx.explain, gx.verify, gx.graph):
        with pytest.raises((InputError, RunError), match=re.escape(told)):
            verb(f"odd.py:{name}", {"x": torch.ones(2)})


def test_what_is_no_file_of_python_is_told_as_that(folder: Path) -> None:
    write("numbers.json", "{}")
    (folder / "empty").mkdir()
    for target, told in (("numbers.json:f", "not one of Python"), ("empty:f", "nothing else in it can be called")):
        with pytest.raises(InputError, match=told):
            load(parse_target(target))
