"""Expressions: what they accept, what they refuse and where, and that nothing in a text is ever executed."""

import ast
import builtins
import math
import re
import string
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import gradexplain
from gradexplain.errors import InputError, RunError
from gradexplain.locale import catalogue
from gradexplain.targets import sizes, vocabulary
from gradexplain.targets.expression import parse
from gradexplain.targets.interpreter import Runner

PACKAGE = Path(gradexplain.__path__[0])


def run(text: str, **inputs: object) -> object:
    return Runner(parse(text))(**inputs)


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(3, 4),
        "y": normal(3, 4).abs() + 0.1,
        "A": normal(3, 3),
        "B": normal(3, 2),
        "W": normal(4, 2),
        "b": normal(2),
        "v": normal(5),
        "t": torch.tensor([0, 1, 1]),
        "image": normal(1, 2, 6, 6),
        "kernel": normal(3, 2, 3, 3),
        "e": normal(2),
    }


# Each runs here as in Python with torch's names in reach.
GOOD = """
sum(x**2)
x**2 + 2*x
sum(A @ B)
h = tanh(x @ W + b); loss = F.cross_entropy(h, t); loss
values, indices = sort(v); values * 2
max(x, dim=0).values
torch.sum(x**2)
F.relu(x)
torch.nn.functional.softplus(x)
torch.linalg.norm(x)
torch.special.xlogy(x, y)
x.sum()
x.pow(2).mean()
x.T
x.mT @ A
x.detach() * x
x.float()
x.view(-1)
x.reshape(x.size(0) * 2, -1)
x / x.shape[0]
x.sum(dim=-1, keepdim=True)
F.mse_loss(x, y, reduction="sum")
x[1:2]
x[..., 0]
x[:, None]
x[[0, 2]]
x[x > 0]
x[-1, ::2]
x[(0, 1)]
where((x > 0) & ~(x > 1) | (x < -1), x, -x)
x > 0
x <= y
x != y
einsum("ij,kj->ik", x, y)
cat([x, y], dim=1)
stack((x, y))
torch.linalg.det(A)
torch.linalg.solve(A, B)
torch.linalg.vector_norm(x, ord=1)
torch.logdet(A @ A.T + 3 * eye(3, dtype=torch.float64))
outer(v, v)
softmax(x, 0)
logsumexp(x, dim=1)
F.conv2d(image, kernel, padding=1)
F.max_pool2d(image, 2)
F.layer_norm(x, (4,))
F.one_hot(t, num_classes=3)
F.pad(x, (1, 1))
x.add(1).add_(2)
u = x.clone(); u.mul_(3); u
zeros(2, 3) + ones(3)
arange(6).reshape(2, 3)
linspace(0, 1, 5)
full((2, 2), 3.5)
tensor([[1., 2.], [3., 4.]])
zeros_like(x) - 1e-3
clamp(x, min=-0.5, max=0.5)
gather(x, 1, t[:, None])
x // 2 + x % 2
-x + +y
1 / x
2 ** x
(x + 1j).real
sin(pi * x)
svd = torch.linalg.svd(A); svd.S
1 + 2 * 3 - 4 / 2
7 // 2 ** 2
2 ** 62
cumsum(x, 0)
std(x, dim=0, correction=0)
x.to(torch.float32)
x.masked_fill(x > 0, inf)
""".strip().splitlines()


def evaluated_by_python(text: str, names: dict[str, object]) -> object:
    tree = ast.parse(text.replace("; ", "\n"))
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    scope = {**vars(torch), "torch": torch, "F": torch.nn.functional, **names}
    exec(compile(tree, "<test>", "exec"), scope)
    return eval(compile(ast.Expression(last.value), "<test>", "eval"), scope)


@pytest.mark.parametrize("text", GOOD)
def test_an_expression_gives_what_python_gives(text):
    program = parse(text)
    ours = Runner(program)(**{name: inputs()[name] for name in program.inputs})
    theirs = evaluated_by_python(text, {name: inputs()[name] for name in program.inputs})
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    else:
        assert ours == theirs


def test_bare_names_reach_every_family():
    assert run("det(A)", A=torch.eye(2)) == 1
    assert run("cross_entropy(h, t)", h=torch.zeros(1, 2), t=torch.tensor([1])) == pytest.approx(math.log(2))
    assert run("expit(x)", x=torch.zeros(())) == 0.5
    assert run("zeros(2, dtype=float64)").dtype == torch.float64


@pytest.mark.parametrize(
    ("text", "names", "output"),
    [
        ("sum(A @ B)", ("A", "B"), None),
        ("h = tanh(x @ W + b); loss = cross_entropy(h, t)", ("x", "W", "b", "t"), "loss"),
        ("y = x; x = y * z\nx", ("x", "z"), None),
        ("x = x + 1", ("x",), "x"),
        ("e * pi + inf", (), None),
        ("e = x - y; sum(e**2)", ("x", "y"), None),
        ("mean = x.mean(); x - mean", ("x",), None),
        ("a, b = sort(x)", ("x",), None),
        ("zeros(3, dtype=float32)", (), None),
        ("  sin(x)\n", ("x",), None),
        ("变量**2", ("变量",), None),
    ],
)
def test_inputs_are_the_names_read_before_they_are_assigned(text, names, output):
    program = parse(text)
    assert program.inputs == names
    assert program.output == output


def test_the_last_statement_is_the_value():
    x = torch.tensor([1.0, 2.0])
    assert run("h = x * 2; y = h + 1", x=x).tolist() == [3, 5]
    assert run("h = x * 2\nh + 1", x=x).tolist() == [3, 5]
    _, indices = run("v, i = sort(x)", x=x)
    assert indices.tolist() == [0, 1]
    assert run("a, b = x; b", x=x) == 2


# ---- refusals ------------------------------------------------------------------------------------------------------

REFUSED = {
    "__import__('os')": "__import__ is not a function",
    "__import__('os').system('touch SENTINEL')": "system is not a tensor method",
    "open('SENTINEL', 'w')": "open is not a function",
    "eval('1')": "eval is not a function",
    "exec('import os')": "exec is not a function",
    "x.__class__": "__class__ is not an attribute",
    "().__class__.__bases__": "__bases__ is not an attribute",
    "().__class__.__bases__[0].__subclasses__()": "__subclasses__ is not a tensor method",
    "x.data": "data is not an attribute",
    "x.grad": "grad is not an attribute",
    "x.grad_fn.next_functions": "next_functions is not an attribute",
    "x.numpy()": "numpy is not a tensor method",
    "x.tolist()": "tolist is not a tensor method",
    "x.item()": "item is not a tensor method",
    "x.backward()": "backward is not a tensor method",
    "x.register_hook(y)": "register_hook is not a tensor method",
    "x.untyped_storage()": "untyped_storage is not a tensor method",
    "x.set_(y)": "set_ is not a tensor method",
    "x.apply_(y)": "apply_ is not a tensor method",
    "torch.load('SENTINEL')": "load is not a function",
    "torch.ops.aten.add(x, x)": "add is not a function",
    "torch.hub.load('a', 'b')": "load is not a function",
    "torch.os.system('touch SENTINEL')": "system is not a function",
    "F.torch.load('SENTINEL')": "load is not a function",
    "torch": "torch cannot be the name of a value",
    "torch.nn": "nn is not an attribute",
    "__builtins__": "__builtins__ cannot be the name",
    "torch = x": "torch cannot be the name",
    "9**9**9": "9**9**9 is a number beyond",
    "2**63": "2**63 is a number beyond",
    "1 << 10**18": "1 << 10**18 is a number beyond",
    "-3 << 10**18": "is a number beyond",
    "10**400 * x": "10**400 is a number beyond",
    "9.0**999": "9.0**999 is a number beyond",
    "1e308 * 10": "is a number beyond",
    "1e999": "1e999 is a number beyond",
    "9" * 5000: "is a number beyond",
    "0x" + "f" * 5000: "is a number beyond",
    "1 / 0": "has no value (division by zero)",
    "1 @ 2": "has no value",
    "'a' * 10**9": "'a' is text",
    "b'a'": "is text",
    "lambda: 0": "with 'lambda'",
    "(lambda: x)()": "with 'lambda'",
    "[i for i in x]": "is a loop",
    "sum(i for i in x)": "is a loop",
    "{i: i for i in x}": "is a loop",
    "(y := x)": "':='",
    "f'{x}'": "f-string",
    "import os": "imports",
    "from os import path": "imports",
    "x; import os": "At line 1, column 4, import os imports",
    "def f(): pass": "defines a function or a class",
    "class A: pass": "defines a function or a class",
    "for i in x: y": "a loop or a branch",
    "while x: y": "a loop or a branch",
    "with x: y": "a loop or a branch",
    "del x": "no expression and no assignment",
    "global x": "no expression and no assignment",
    "pass": "no expression and no assignment",
    "assert x": "no expression and no assignment",
    "cat(*x)": "with a star",
    "cat(**x)": "with a star",
    "[*x]": "with a star",
    "x.sum()()": "x.sum() is called",
    "x[0](1)": "x[0] is called",
    "sort(x)(1)": "sort(x) is called",
    "crosentropy(x, y)": "did you mean cross_entropy?",
    "x.summ()": "did you mean sum?",
    "x.shap": "did you mean shape?",
    "x.sum": "write x.sum()",
    "sum": "sum is a function: call it",
    "x + mean": "column 5, mean is a function",
    "sum = x; sum(x)": "was assigned a value before",
    "x.y = 1": "not one plain name",
    "x[0] = 1": "not one plain name",
    "a = b = x": "not one plain name",
    "a: b = x": "not one plain name",
    "a, *b = x": "not one plain name",
    "x += 1": "x.add_(1)",
    "x and y": "&",
    "not x": "~(a > 0)",
    "x if y else z": "where(condition, a, b)",
    "0 < x < 1": "(a < b) & (b < c)",
    "x in y": "'in' or 'is'",
    "x is None": "'in' or 'is'",
    "{1: 2}": "Python that expressions do not have",
    "{1, 2}": "Python that expressions do not have",
    "await x": "Python that expressions do not have",
    "yield x": "Python that expressions do not have",
    "sin(x, out=y)": "out=y writes into another tensor",
    "(" * 3000: "nests more than 100",
    "(" * 3000 + "x" + ")" * 3000: "nests more than 100",
    "-" * 5000 + "x": "nests more than 100",
    "+".join("x" * 1000): "nests more than 100",
    "[" * 150 + "]" * 150: "nests more than 100",
    "x" + "[0]" * 2000: "nests more than 100",
    "x" * 10_001: "10001 characters",
    "": "The expression is empty",
    " \n; ": "The expression is empty",
    "# x": "The expression is empty",
    "x\0": "Character 2 of the expression is a null byte",
    "\ud800": "not valid Unicode",
    "x +": "Python's syntax",
    "2x": "write 2*x",
    "3.5x**2 - 1e2y": "write 3.5*x**2 - 1e2*y",
    "2(x + 1)": "a product is written with *",
    "x²": "write x**2",
    "2x³": "write 2*x**3",
    "a×b − c": "write a*b - c",
    "√(x)": "write sqrt(x)",
    "f(x)=x**2": "write x**2",
    "loss (x, w) = sum(x * w)": "write sum(x * w)",
    "x^2": "a power is written with **",
    "2^3": "a power is written with **",
    "sum(x^(1 + 1))": "column 5, x^(1 + 1) uses ^",
    "np.sin(x)": "np.sin belongs to another library; torch's is here without a prefix: write sin.",
    "math.pi * x": "write pi.",
    "numpy.arctan2(x, y)": "write atan2.",
    "np.foo(x)": "there is no foo here",
    "x..y": "Python's syntax does not allow this at line 1, column 3",
    "x = ": "Python's syntax",
    "x y": "Python's syntax",
    "'": "Python's syntax",
    "x\x1b[31m": "x·[31m",
}


@pytest.fixture
def _nothing_executes(monkeypatch, tmp_path):
    """Fails the test if text was executed: the builtins that could are traps, and files would show."""
    monkeypatch.chdir(tmp_path)
    for name in ("eval", "exec", "open", "__import__"):
        genuine = getattr(builtins, name)

        def trap(*values, genuine=genuine, name=name, **options):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            assert not caller.startswith("gradexplain.targets") or name == "__import__", f"{name} was called"
            return genuine(*values, **options)

        monkeypatch.setattr(builtins, name, trap)
    yield
    assert not list(tmp_path.iterdir())


def within(seconds, function):
    """Returns what `function` raised, or fails when it takes longer."""
    raised = []

    def target():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still running after {seconds} s"
    return raised[0] if raised else None


@pytest.mark.usefixtures("_nothing_executes")
@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:40]))
def test_a_hostile_text_is_refused_within_a_second_in_both_languages(text):
    error = within(1, lambda: parse(text))
    assert type(error) is InputError
    assert REFUSED[text] in str(error)
    assert error.sentence("zh") != str(error)
    assert len(str(error)) < 600


def test_an_error_shows_its_line_with_a_caret():
    with pytest.raises(InputError) as caught:
        parse("h = tanh(x)\nsum(h) + lenght(变量)")
    assert str(caught.value).endswith("\n    sum(h) + lenght(变量)\n             ^~~~~~")
    assert caught.value.data["line"] == 2
    assert caught.value.data["column"] == 10
    assert "第 2 行第 10 列" in caught.value.sentence("zh")


def test_a_caret_stands_under_its_piece_after_wide_characters_and_in_long_lines():
    with pytest.raises(InputError) as caught:
        parse("变量 + lenght(x)")
    assert str(caught.value).endswith("\n    变量 + lenght(x)\n           ^~~~~~")
    with pytest.raises(InputError) as caught:
        parse("x + " * 50 + "lenght(x)")
    shown, caret = str(caught.value).splitlines()[-2:]
    assert shown[caret.index("^") :].startswith("lenght(x)")
    assert len(shown) < 120


def raised_by(function):
    """Returns our error if `function` raises one; any other error passes."""
    try:
        function()
    except (InputError, RunError) as error:
        return error


@settings(max_examples=400, deadline=None)
@given(st.text() | st.text("xy0123456789.,:;=()[]{}+-*/@<>!~&|^'\"\\# \n\tsumtorcFlambdeifn_", max_size=60))
def test_any_text_parses_or_raises_an_input_error(text):
    error = raised_by(lambda: parse(text))
    assert error is None or all(error.sentence(language) for language in catalogue.LANGUAGES)


NAMES = st.sampled_from(["x", "sum", "torch", "F", "__import__", "x.T", "x.data", "1", "2.5", "'a'", "...", "None"])
TEXTS = st.recursive(
    NAMES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "**", "@", "<<", "<", " in ", " and "]), inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]}({pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]}[{pair[1]}:]"),
        inner.map(lambda text: f"[{text}]"),
        inner.map(lambda text: f"y = ({text}); y"),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_anything_like_an_expression_runs_or_raises_our_errors(text):
    def attempt():
        program = parse(text)
        Runner(program)(**dict.fromkeys(program.inputs, torch.eye(2)))

    error = raised_by(attempt)
    assert error is None or str(error)


# ---- running -------------------------------------------------------------------------------------------------------

TOO_LARGE = """
ones(10**5, 10**5)
zeros((100000, 100000))
full((100000, 100000), 1.)
eye(10**6)
arange(10**12)
arange(0, 1, 1e-12)
linspace(0, 1, 10**12)
randn(10**6, 10**6)
randint(0, 5, (10**6, 10**6))
randperm(10**12)
x.repeat(10**6, 10**6)
x.expand(10**9, 3, 3)
tile(x, (10**6, 10**6))
x.repeat_interleave(10**12)
repeat_interleave(tensor([1]), tensor([10**12]))
one_hot(tensor([10**10]))
one_hot(tensor([1]), 10**10)
x.new_zeros(10**6, 10**6)
n = x.shape[0] * 10**6; ones(n, n)
outer(v, v)
kron(v, v)
cdist(v[:, None], v[:, None])
v[:, None] + v
v[:, None] @ v[None]
diag(v)
einsum("i,j->ij", v, v)
cosine_similarity(w[:, None], w[None], dim=-1)
F.pad(x, (10**6, 10**6, 10**6, 10**6))
interpolate(x[None, None], scale_factor=1e5)
broadcast_to(x, (10**9, 3, 3))
v.expand(10**6, -1).contiguous()
linalg = torch.linalg.svd(v[:, None])
""".strip().splitlines()


@pytest.mark.parametrize("text", TOO_LARGE)
def test_a_tensor_of_more_than_a_gibibyte_is_refused_before_it_is_made(text):
    values = {"x": torch.ones(3, 3), "v": torch.ones(10**5), "w": torch.ones(5000, 100)}
    names = values.keys() & {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    error = within(60, lambda: run(text, **{name: values[name] for name in names}))
    assert type(error) is InputError
    assert error.key == "too_large"
    assert "the limit is 1.0 GiB" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "sum(x*eye(10**6))",
        "x + zeros(10**5, 2*10**4)",
        "torch.full((2**15, 2**14), 1.5)",
        "ones(2**14, 2**14, dtype=float64)",
    ],
)
def test_what_the_text_alone_shows_to_be_too_large_is_refused_while_reading(text):
    with pytest.raises(InputError, match="would make a tensor"):
        parse(text)


def test_what_the_text_alone_does_not_show_to_be_too_large_is_read():
    for text in ("eye(n)", "ones(2**14, 2**14)", "eye(2**14, dtype=x.dtype)", "eye = x; eye", "zeros(x.shape)"):
        parse(text)


def test_a_tensor_just_below_the_limit_passes():
    assert run("ones(16384, 16384)[0, 0]") == 1
    with pytest.raises(InputError, match="would make a tensor"):
        run("ones(16384, 16385)[0, 0]")


def test_taking_a_large_tensor_apart_is_refused():
    for text in ("unbind(v)", "v.split(1)", "v.chunk(10**6)", "torch.tensor_split(v, 10**6)"):
        with pytest.raises(InputError, match="more than 100000 tensors"):
            run(text, v=torch.ones(10**6))


def test_usual_sizes_wait_for_no_check(monkeypatch):
    monkeypatch.setattr(sizes, "_result_bytes", None)
    text = "h = relu(x @ x + 1e-9).reshape(-1); loss = mse_loss(h[:100] / 1e6, zeros(100), reduction='sum')"
    assert run(text, x=torch.ones(100, 100)).shape == ()


def test_checking_sizes_leaves_random_numbers_modes_and_graphs_alone():
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, values=(), options=None):
            seen.append(str(function))
            return function(*values, **(options or {}))

    x = torch.ones(1000, 1000, requires_grad=True)
    torch.manual_seed(0)
    expected = torch.randn(1000, 1000)
    torch.manual_seed(0)
    with Recorder():
        result = run("x * randn(1000, 1000)", x=x)
    assert seen == ["aten.randn.default", "aten.mul.Tensor"]
    assert torch.equal(result.detach(), expected)
    assert result.requires_grad


def test_it_runs_under_functorch():
    function = Runner(parse("sum(outer(x, x) @ x)"))
    x = torch.ones(400)
    assert torch.func.grad(lambda x: function(x=x))(x).shape == (400,)
    assert torch.func.vmap(lambda x: function(x=x))(torch.ones(2, 400)).shape == (2,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x @ x", "torch refused x @ x with operands of shape [3, 4], [3, 4]: "),
        ("x @ x", "mat1 and mat2 shapes cannot"),
        ("y = 1\nsum(x + y[0])", "y is of type int, which has no items"),
        ("cat([x, x.T])", "shape [3, 4], [4, 3]"),
        ("sin(2)", "torch refused sin(2) with operands of shape –"),
        ("a, b = x", "x gives 3 values for the 2 names a, b"),
        ("a, b = x.sum()", "x.sum() gives 1 values"),
        ("s = [x]; t = [s]; t", "s is a list or tuple inside another list"),
        ("x.shape * 2", "x.shape is of type Size"),
        ("None + 1", "None is of type NoneType"),
        ("sort(x).shape", "asks for shape of a value of type sort"),
        ("x.values", "asks for values of a value of type Tensor"),
        ("(3).sum()", "3 is of type int, but sum is a method of tensors"),
        ("n = x.size(0); n**n**n**n", "n**n**n**n is a number beyond"),
        ("n = x.size(0); n / (n - 3)", "n / (n - 3) has no value (division by zero)"),
        ("x.sum(dim=7)", "Dimension out of range"),
    ],
)
def test_what_fails_while_running_is_told_with_its_place(text, words):
    with pytest.raises((InputError, RunError)) as caught:
        run(text, x=torch.ones(3, 4))
    assert words in str(caught.value)
    assert "^" in str(caught.value).splitlines()[-1]
    assert caught.value.sentence("zh")


def test_a_power_written_with_a_caret_is_told_where_only_values_show_it():
    with pytest.raises(InputError, match=r"a power is written with \*\*"):
        run("x^y", x=torch.tensor(2.0), y=torch.tensor(3.0))
    assert run("(x > 0) ^ True", x=torch.tensor(1.0)) == torch.tensor(False)


def test_advice_of_torch_on_style_is_not_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(run("softmax(x)", x=torch.zeros(2)), torch.tensor([0.5, 0.5]))


def test_a_failing_operation_is_an_error_of_the_run():
    with pytest.raises(RunError) as caught:
        run("h = x * 2\nh @ h", x=torch.ones(3, 4))
    assert caught.value.data["line"] == 2
    assert caught.value.__cause__ is not None


def test_a_function_that_this_torch_lacks_is_named_only_when_used(monkeypatch):
    program = parse("sin(x); softplus(x)")
    monkeypatch.delattr(torch.nn.functional, "softplus")
    with pytest.raises(
        InputError, match=rf"needs torch\.nn\.functional\.softplus, which torch {torch.__version__[:3]}"
    ):
        Runner(program)(x=torch.ones(2))


def places(text: str, **values: object) -> list[tuple[str, str | None, int]]:
    """Returns what `locate` says at every operator that torch runs."""
    runner = Runner(parse(text))
    found = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, values=(), options=None):
            source = runner.locate()
            found.append((source.code, source.target, source.line))
            assert source.file == "<expression>"
            return function(*values, **(options or {}))

    with Recorder():
        runner(**values)
    return found


def test_locate_names_the_sub_expression_that_runs():
    x = torch.ones(2, 2)
    assert places("x**2 + 2*x", x=x) == [("x**2", None, 1), ("2*x", None, 1), ("x**2 + 2*x", None, 1)]
    assert places("h = tanh(x @ x)\nsum(h, dim=0)[0]", x=x) == [
        ("x @ x", None, 1),
        ("tanh(x @ x)", "h", 1),
        ("sum(h, dim=0)", None, 2),
        ("sum(h, dim=0)[0]", None, 2),
    ]
    assert places("变 = (-x).T; 变.exp()", x=x) == [("-x", None, 1), ("(-x).T", "变", 1), ("变.exp()", None, 1)]


# ---- the published lists -------------------------------------------------------------------------------------------


def torch_object(path: str) -> object:
    found: object = torch
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    return found


def test_every_published_name_exists_in_torch():
    assert len(vocabulary.FUNCTIONS) > 200
    for path in vocabulary.SPELLINGS:
        assert callable(torch_object(path)), path
    for name in vocabulary.METHODS | vocabulary.ATTRIBUTES:
        assert hasattr(torch.Tensor, name), name
    for name in vocabulary.TORCH_DTYPES:
        assert isinstance(getattr(torch, name), torch.dtype)


def test_no_name_is_published_twice():
    names = [name for _, text in vocabulary.FAMILIES.values() for name in text.split()]
    assert len(names) == len(set(names))


def test_the_published_list_is_complete():
    listed = {name for _, names in vocabulary.published() for name in names}
    assert listed >= set(vocabulary.FUNCTIONS) | vocabulary.METHODS | vocabulary.ATTRIBUTES


def test_no_published_name_reaches_python_or_storage():
    private = [name for name in vocabulary.FUNCTIONS.keys() | vocabulary.METHODS if name.startswith("_")]
    forbidden = "data storage numpy tolist item backward register_hook set_ resize_ apply_ map_ load save compile"
    assert not private
    assert not set(forbidden.split()) & (vocabulary.METHODS | vocabulary.ATTRIBUTES | vocabulary.FUNCTIONS.keys())


def test_only_the_published_methods_with_an_underscore_change_tensors():
    changing = {name for name in vocabulary.METHODS if name.endswith("_")}
    assert changing == vocabulary.IN_PLACE


def test_reading_imports_no_torch():
    code = (
        "import sys; from gradexplain.targets.expression import parse; "
        "from gradexplain.targets.values import parse_value; "
        "from gradexplain.targets.loading import parse_target;"
        "parse('sum(x**2)'); parse_value('randn(3)'); parse_target('a.py:f'); parse_target('x@x');"
        "print([name for name in ('torch', 'numpy', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert done.stdout.strip() == "[]"


# ---- the sentences -------------------------------------------------------------------------------------------------


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def error_sentences(language: str) -> dict[str, str]:
    return {key: text for key, text in catalogue.sentences(language).items() if key.startswith("errors.")}


def test_both_languages_say_the_same_errors_with_the_same_data():
    english, chinese = error_sentences("en"), error_sentences("zh")
    assert english.keys() == chinese.keys()
    for key in english:
        assert placeholders(english[key]) == placeholders(chinese[key]), key


def test_every_error_that_is_raised_has_a_sentence():
    keys = set()
    for file in (PACKAGE / "targets").glob("*.py"):
        source = file.read_text(encoding="utf-8")
        keys |= set(re.findall(r'(?:InputError|RunError|fault_at|unknown)\(\s*"(\w+)"', source))
    keys |= set(vocabulary.REFUSED.values())
    assert len(keys) > 70
    assert {f"errors.{key}" for key in keys} <= error_sentences("en").keys()
