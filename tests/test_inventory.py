"""What is known of each operator: told from the rules, tried in torch, and true of operators whose answer is known."""

import json
from collections.abc import Callable

import pytest
from test_exact_oracles import COMPLEX, UNDEFINED, family

from gradexplain.errors import InputError
from gradexplain.locale.catalogue import LANGUAGES
from gradexplain.rules.registry import rules
from gradexplain.verification.inventory import Inventory, inventory


@pytest.fixture(scope="module")
def everything() -> Inventory:
    return inventory()


def test_every_operator_with_a_rule_is_there(everything: Inventory) -> None:
    assert {known.operator for known in everything.known} == {*rules()}
    assert all(known.rule is not None and known.proof is not None for known in everything.known)


# y″ of exp is exp, of a sum 0, of |x| and relu 0 beside the kink, of x·z mixed 1; torch has no second derivative of the
# last, and says so.
SECOND = {
    "aten.exp.default": "yes",
    "aten.mul.Tensor": "yes",
    "aten._softmax.default": "yes",
    "aten.sum.default": "zero",
    "aten.view.default": "zero",
    "aten.abs.default": "zero",
    "aten.relu.default": "zero",
    "aten._fft_r2c.default": "zero",
    "aten._adaptive_avg_pool2d.default": "zero",
    "aten._ctc_loss.default": "refuses",
}


@pytest.mark.parametrize("operator", SECOND)
def test_the_second_derivative_is_what_mathematics_and_torch_make_of_it(operator: str, everything: Inventory) -> None:
    known = next(known for known in everything.known if known.operator == operator)
    assert known.second == SECOND[operator]
    assert bool(known.refusal) == (known.second == "refuses")


def test_what_sympy_is_said_to_prove_is_what_it_proves_in_the_tests(everything: Inventory) -> None:
    """`UNDEFINED` lists the operators that are not written out, or only for some arguments, measured there."""
    alone = {family(known.operator) for known in everything.known if known.proof == "differences"}
    assert alone <= UNDEFINED | COMPLEX
    formulas = {known.operator for known in everything.known if known.proof == "formula"}
    assert formulas == {name for name, rule in rules().items() if rule.elementwise}


def test_a_name_finds_its_operators_and_one_without_a_rule_has_a_reason() -> None:
    assert [k.operator for k in inventory(["tanh"]).known] == ["aten.tanh.default"]
    assert [k.operator for k in inventory(["aten.div.Tensor_mode"]).known] == ["aten.div.Tensor_mode"]
    assert {k.operator for k in inventory(["softmax"]).known} == {"aten._softmax.default"}
    assert {k.without for k in inventory(["_sparse_softmax"]).known} == {"sparse"}
    assert [k.without for k in inventory(["cross_entropy"]).known] == ["others"]
    assert {k.without for k in inventory(["argmax"]).known} == {"yet"}
    assert {k.without for k in inventory(["layer_norm"]).known} == {"others"}
    with pytest.raises(InputError, match=r"no operator 'tahn'.*tanh"):
        inventory(["tahn"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_of_an_operator_has_its_rule_kinks_second_order_and_proof(command: Callable, language: str) -> None:
    found = command("functions", "relu", "ctc_loss", "cross_entropy", "--language", language)
    assert found.code == 0
    for text in (
        "aten.relu",
        "0 if x ≤ 0 else 1",
        "aten._ctc_loss.Tensor",
        "torch.nn.functional.cross_entropy",
        "sympy",
    ):
        assert text in found.out
    assert command("functions", "nonsense", "--language", language).code == 2


def test_the_table_has_a_line_for_every_operator_and_json_has_all_of_it(command: Callable) -> None:
    table = command("functions", "--operators", "--format", "markdown").out
    assert sum(line.startswith("| aten.") for line in table.splitlines()) == len(rules())
    (known,) = json.loads(command("functions", "atan", "--format", "json").out)["operators"]
    assert known["derivatives"] == {"self": "∂y/∂x = 1 / (1 + x²)"}
    assert (known["second"], known["proof"], known["numbers"]) == ("yes", "formula", "analytic")
