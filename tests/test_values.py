"""Values: the numbers people write are the tensors they get, and what cannot be one is told in a sentence."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradexplain.errors import InputError
from gradexplain.locale import catalogue
from gradexplain.targets.values import ITEMSIZE, parse_assignments, parse_value, tensor_of


def tensor(text: str, dtype: str | None = None, seed: int | None = None) -> torch.Tensor:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return tensor_of(parse_value(text), name="x", dtype=dtype, generator=generator)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


# fmt: off
NUMBERS = {
    "3":                      torch.tensor(3.0),
    "-2.5":                   torch.tensor(-2.5),
    "1e-3":                   torch.tensor(1e-3),
    "+4":                     torch.tensor(4.0),
    "1,2,3":                  torch.tensor([1.0, 2, 3]),
    "1,":                     torch.tensor([1.0]),
    "[1]":                    torch.tensor([1.0]),
    " [ [1, 2] ,[3,4] ] ":    torch.tensor([[1.0, 2], [3, 4]]),
    "[1,2],[3,4]":            torch.tensor([[1.0, 2], [3, 4]]),
    "(1,2)":                  torch.tensor([1.0, 2]),
    "[]":                     torch.zeros(0),
    "[[],[]]":                torch.zeros(2, 0),
    "[[[1,2,3]]]":            torch.tensor([[[1.0, 2, 3]]]),
    "nan,inf,-inf":           torch.tensor([math.nan, math.inf, -math.inf]),
    "true,false":             torch.tensor([True, False]),
    "True":                   torch.tensor(True),
    "true:float32":           torch.tensor(1.0),
    "1,0:bool":               torch.tensor([True, False]),
    "1+2j":                   torch.tensor(1 + 2j),
    "1,2j":                   torch.tensor([1, 2j]),
    "1:complex128":           torch.tensor(1, dtype=torch.complex128),
    "0.1:float64":            torch.tensor(0.1, dtype=torch.float64),
    "0.1 : double":           torch.tensor(0.1, dtype=torch.float64),
    "0.1:bfloat16":           torch.tensor(0.1, dtype=torch.bfloat16),
    "1,2:int64":              torch.tensor([1, 2]),
    "9007199254740993:int64": torch.tensor(9007199254740993),
    "255:uint8":              torch.tensor(255, dtype=torch.uint8),
    "1e30,2":                 torch.tensor([1e30, 2]),
    "inf:float16":            torch.tensor(math.inf, dtype=torch.float16),
    "ones(5)":                torch.ones(5),
    "ones((2,3))":            torch.ones(2, 3),
    "ones(())":               torch.ones(()),
    "zeros(2, 3)":            torch.zeros(2, 3),
    "zeros(2,0)":             torch.zeros(2, 0),
    "full((2,),3)":           torch.full((2,), 3.0),
    "full((2,),1+2j)":        torch.full((2,), 1 + 2j),
    "full((2,),true)":        torch.full((2,), True),
    "full(3,-inf)":           torch.full((3,), -math.inf),
    "eye(3)":                 torch.eye(3),
    "eye(2,3):int64":         torch.eye(2, 3, dtype=torch.int64),
    "arange(1,6)":            torch.arange(1.0, 6),
    "arange(4):int64":        torch.arange(4),
    "arange(3,0,-0.5)":       torch.arange(3, 0, -0.5),
    "linspace(-2,2,9)":       torch.linspace(-2, 2, 9),
    "linspace(0,1,2):float64": torch.linspace(0, 1, 2, dtype=torch.float64),
}
# fmt: on


@pytest.mark.parametrize("text", NUMBERS)
def test_a_value_is_the_tensor_it_says(text):
    same(tensor(text), NUMBERS[text])


@pytest.mark.parametrize("dtype", ITEMSIZE)
def test_every_type_can_be_a_suffix(dtype):
    assert tensor(f"1,0:{dtype}").dtype == getattr(torch, dtype)
    assert getattr(torch, dtype).itemsize == ITEMSIZE[dtype]


def test_the_default_type_is_for_floating_values_only():
    assert tensor("3", "float64").dtype == torch.float64
    assert tensor("0.1", "float64") == 0.1
    assert tensor("3:float32", "float64").dtype == torch.float32
    assert tensor("2j", "float64").dtype == torch.complex128
    assert tensor("2j", "bfloat16").dtype == torch.complex64
    assert tensor("true", "float64").dtype == torch.bool
    assert tensor("randint(0,10,(4,))", "float64").dtype == torch.int64
    assert tensor("randn(2)", "float64").dtype == torch.float64


@pytest.mark.parametrize(
    "text", ["randn(3,2)", "rand(3,2)", "randint(0,10,(3,2))", "randint(10,(3,2))", "randn((3,2)):float64"]
)
def test_random_values_come_from_the_generator(text):
    before = torch.get_rng_state()
    first, again, other = tensor(text, seed=1), tensor(text, seed=1), tensor(text, seed=2)
    assert first.shape == (3, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


# ---- refusals ------------------------------------------------------------------------------------------------------

REFUSED = {
    "": "is empty",
    ":float64": "is empty",
    "abc": "abc is not a number",
    "1,two": "two is not a number",
    "1 2": "a comma is missing before 2",
    "[1 2]": "a comma is missing before 2",
    "[1][2]": "a comma is missing before [",
    "1,,2": "a number is missing before a comma",
    ",1": "a number is missing before a comma",
    "[1,2": "the bracket [ has no partner",
    "1]": "the bracket ] has no partner",
    "[1,2)": "the bracket ) has no partner",
    "[" * 40 + "]" * 40: "nests more than 32 brackets",
    "[[1,2],[3]]": "row 2 has length 1 and row 1 has length 2",
    "[[1],[]]": "row 2 has length 0",
    "[1,[2]]": "item 1 is the number 1 where a row",
    "[[1],2]": "item 2 is the number 2 where a row",
    "true,1": "mixes true or false with numbers",
    "1e999": "1e999 is beyond float64",
    "1" * 400: "is beyond float64",
    "1.5:int64": "1.5 is not a whole number",
    "nan:int64": "nan is not a whole number",
    "256:uint8": "256 is not a whole number from 0 to 255",
    "-1:uint8": "-1 is not a whole number from 0",
    "2:bool": "2 is not a whole number from 0 to 1",
    "1+2j:int64": "is complex and int64 is not",
    "1+2j:float32": "is complex and float32 is not",
    "1e39": "too large for float32",
    "70000:float16": "too large for float16",
    "1:flaot64": "did you mean float64?",
    "1:": "is not a type",
    "rnadn(3)": "did you mean randn?",
    "os.system(1)": "os.system is not a number",
    "__import__(1)": "__import__ is not a function that values know",
    "randn(10**10)": "computes inside randn(...)",
    "randn(2*3)": "computes inside randn(...)",
    "randn(2+3)": "2+3 is not a number",
    "randn(n)": "n is not a number",
    "randn(-1)": "randn is written like randn(3,2)",
    "randn(1.5)": "randn is written like",
    "randn(true)": "randn is written like",
    "full(3)": "full is written like full((3,2),0.5)",
    "full((2,),[1])": "full is written like",
    "eye(1,2,3)": "eye is written like",
    "eye()": "eye is written like",
    "arange(1,2,0)": "arange is written like",
    "arange(2,1)": "arange is written like",
    "arange(1,inf)": "arange is written like",
    "arange()": "arange is written like",
    "arange(1,2,3,4)": "arange is written like",
    "arange([1],2)": "arange is written like",
    "linspace(0,1)": "linspace is written like",
    "linspace(0,1,-1)": "linspace is written like",
    "randint(5,5,(2,))": "randint is written like",
    "randint(3)": "randint is written like",
    "randn(2):int64": "asks for random numbers of type int64",
    "ones(100000,100000)": "would take 37.3 GiB, and the limit is 1.0 GiB",
    "ones(1000000000,1000000000,1000000000)": "would take 10^27 B",
    "arange(0,1,1e-12)": "would take",
    "linspace(0,1,1000000000000)": "would take",
    "eye(100000):bool": "would take 9.3 GiB",
    "@": "neither .npy nor .pt",
    "@model.bin": "neither .npy nor .pt",
    "@missing.npy": "There is no file missing.npy for input x",
    "@missing.pt:float64": "There is no file missing.pt for input x",
    "\x1b[31m": "·",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:40]))
def test_what_is_no_value_is_refused_in_both_languages(text):
    with pytest.raises(InputError) as caught:
        tensor(text)
    assert REFUSED[text] in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.sentence("zh") != str(caught.value)


def test_size_is_refused_while_reading_where_the_text_tells_it():
    for text in ("randn(100000,100000)", "zeros(1000000000)", "full((100000,100000),1+1j)"):
        with pytest.raises(InputError, match=r"the limit is 1\.0 GiB"):
            parse_value(text)


def test_the_default_type_counts_for_the_limit():
    spec = parse_value("zeros(16384,16384)")
    with pytest.raises(InputError, match=r"would take 2\.0 GiB"):
        tensor_of(spec, name="x", dtype="float64")


def refusal(text):
    try:
        parse_value(text)
    except InputError as error:
        return error


@settings(max_examples=400, deadline=None)
@given(st.text() | st.text("0123456789.,:;=()[]{}+-*/@ejinfatrus \n\0", max_size=40))
def test_any_text_parses_or_raises_an_input_error(text):
    error = refusal(text)
    assert error is None or all(error.sentence(language) for language in catalogue.LANGUAGES)


@settings(max_examples=100, deadline=None)  # the first tensor loads torch
@given(st.lists(st.floats(width=32), min_size=1))
def test_written_numbers_come_back(numbers):
    same(tensor(",".join(map(repr, numbers)) + ","), torch.tensor(numbers))


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# fmt: off
ARRAYS = {
    "float64":    np.array([[1.5, 2], [3, 4]]),
    "float32":    np.array([1.5], np.float32),
    "int64":      np.array([1, 2]),
    "bool":       np.array([True, False]),
    "complex128": np.array(1 + 2j),
    "big endian": np.array([1.0, 2], ">f8"),
    "fortran":    np.asfortranarray(np.array([[1.0, 2, 3], [4, 5, 6]])),
    "empty":      np.zeros((2, 0)),
}
# fmt: on


@pytest.mark.parametrize("name", ARRAYS)
def test_a_numpy_file_is_read(name):
    np.save("a.npy", ARRAYS[name])
    read = tensor("@a.npy")
    assert read.tolist() == ARRAYS[name].tolist()
    assert read.shape == ARRAYS[name].shape


def test_a_torch_file_is_read():
    torch.save(torch.arange(3, dtype=torch.float64), "a.pt")
    same(tensor("@a.pt"), torch.arange(3, dtype=torch.float64))
    torch.save(torch.nn.Parameter(torch.ones(2)), "p.pt")
    assert not tensor("@p.pt").requires_grad


def test_a_file_keeps_its_type_unless_told_otherwise():
    np.save("a.npy", np.array([1.0]))
    np.save("i.npy", np.array([1]))
    assert tensor("@a.npy").dtype == torch.float64
    assert tensor("@a.npy", "float32").dtype == torch.float32
    assert tensor("@i.npy", "float32").dtype == torch.int64
    assert tensor("@i.npy : float32").dtype == torch.float32


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("SENTINEL"),)


def write_header(shape: tuple[int, ...]) -> None:
    with Path("a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})


# fmt: off
BROKEN = {
    "@a.npy: pickled objects": (lambda: np.save("a.npy", np.array([Bomb()]), allow_pickle=True), "holds numpy object"),
    "@a.npy: text":            (lambda: np.save("a.npy", np.array(["a"])),                       "holds numpy <U1"),
    "@a.npy: garbage":         (lambda: Path("a.npy").write_bytes(b"garbage"),                    "cannot be read"),
    "@a.npy: nothing":         (lambda: Path("a.npy").write_bytes(b""),                           "cannot be read"),
    "@a.npy: cut":             (lambda: write_header((10,)),                                      "cannot be read"),
    "@a.npy: huge":            (lambda: write_header((10**10,)),                                "would take 74.5 GiB"),
    "@a.npy: folder":          (lambda: Path("a.npy").mkdir(),                                    "no file a.npy"),
    "@a.pt: pickle":           (lambda: Path("a.pt").write_bytes(pickle.dumps(Bomb())),           "cannot be read"),
    "@a.pt: object":           (lambda: torch.save(Bomb(), "a.pt"),                               "cannot be read"),
    "@a.pt: garbage":          (lambda: Path("a.pt").write_bytes(b"garbage"),                     "cannot be read"),
    "@a.pt: nothing":          (lambda: Path("a.pt").write_bytes(b""),                            "cannot be read"),
    "@a.pt: dict":             (lambda: torch.save({"w": torch.ones(1)}, "a.pt"),                 "holds dict, not"),
    "@a.pt: expanded":         (lambda: torch.save(torch.ones(1).expand(10**9), "a.pt"),          "would take 3.7 GiB"),
}
# fmt: on


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_and_runs_nothing(case):
    write, words = BROKEN[case]
    write()
    with pytest.raises(InputError) as caught:
        tensor(case.partition(":")[0])
    assert words in str(caught.value)
    assert not Path("SENTINEL").exists()
    assert caught.value.sentence("zh")


def test_a_complex_file_does_not_lose_its_imaginary_part():
    np.save("a.npy", np.array([1j]))
    with pytest.raises(InputError, match="holds complex128, which cannot become float32"):
        tensor("@a.npy:float32")
    assert tensor("@a.npy", "float32").dtype == torch.complex128


# ---- assignments ---------------------------------------------------------------------------------------------------


def test_assignments_are_read_by_name():
    found = parse_assignments(["x=1,2", " W = randn(3,2):float64 ", "变量=3"])
    assert list(found) == ["x", "W", "变量"]
    assert found["W"].dtype == "float64"
    assert found["x"].text == "1,2"
    assert parse_assignments([]) == {}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["x"], '"x" is not NAME=VALUE'),
        (["=3"], '"=3" is not NAME=VALUE'),
        (["2x=3"], '"2x=3" is not NAME=VALUE'),
        (["x.y=3"], "is not NAME=VALUE"),
        (["x=1", "x=2"], "x is given twice, as 1 and as 2"),
        (["x="], "is empty"),
        (["x==3"], "=3 is not a number"),
    ],
)
def test_a_malformed_assignment_is_shown(texts, words):
    with pytest.raises(InputError) as caught:
        parse_assignments(texts)
    assert words in str(caught.value)
