"""The arguments of a command, read and checked before torch is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradexplain.cli.checks import UsageError
from gradexplain.errors import InputError

if TYPE_CHECKING:
    from gradexplain.targets.expression import Program
    from gradexplain.targets.loading import Target
    from gradexplain.targets.values import ValueSpec


class Request:
    """A target and what was given with it."""

    def __init__(
        self,
        target: Any,
        values: Mapping[str, ValueSpec],
        formulas: Mapping[str, Program],
        cotangent: ValueSpec | None,
    ) -> None:
        self.target = target
        self.values = values
        self._formulas = formulas
        self._cotangent = cotangent

    @property
    def output_name(self) -> str | None:
        """The name of an expression's output."""
        return getattr(self.target.place, "output", None)

    def load(self, dtype: str | None, seed: int) -> tuple[Target, dict[str, Any]]:
        """Returns the target's function and its inputs as tensors."""
        import torch

        from gradexplain.targets.loading import load, match_inputs
        from gradexplain.targets.values import tensor_of

        torch.manual_seed(seed)
        loaded = load(self.target)
        match_inputs(loaded, list(self.values))
        generator = torch.Generator().manual_seed(seed)
        tensors = {n: tensor_of(v, name=n, dtype=dtype, generator=generator) for n, v in self.values.items()}
        return loaded, tensors

    def origin(self, seed: int, dtype: str | None, wrt: Sequence[str] | None, **asked: Any) -> Any:
        """Returns what was typed, for the receipt."""
        from gradexplain.targets.origin import Origin

        return Origin(
            inputs={name: value.text for name, value in self.values.items()},
            seed=seed,
            dtype=dtype,
            wrt=tuple(wrt or ()),
            cotangent=None if self._cotangent is None else self._cotangent.text,
            by_hand={name: program.text for name, program in self._formulas.items()},
            **asked,
        )

    def cotangent_tensor(self) -> Any:
        """Returns the cotangent, `None` where none was given."""
        from gradexplain.targets.values import tensor_of

        return None if self._cotangent is None else tensor_of(self._cotangent, name="cotangent", dtype=None)

    def formulas(self) -> dict[str, Any]:
        """Returns the formulas given by hand as callables of the inputs."""
        from gradexplain.targets.interpreter import Runner

        for name, program in self._formulas.items():
            unknown = [n for n in program.inputs if n not in self.values]
            if unknown:
                raise UsageError("by_hand_names", name=name, unknown=", ".join(unknown), names=", ".join(self.values))
        return {name: _Formula(Runner(program), program.inputs) for name, program in self._formulas.items()}


class _Formula:
    """A formula given by hand; `inputs` are the names that it asks for."""

    def __init__(self, runner: Any, inputs: tuple[str, ...]) -> None:
        self.runner = runner
        self.inputs = inputs

    def __call__(self, **given: Any) -> Any:
        return self.runner(**{name: given[name] for name in self.inputs})


def read_request(target: str, inputs: Sequence[str], by_hand: Sequence[str], cotangent: str | None) -> Request:
    from gradexplain.targets.expression import parse_formula
    from gradexplain.targets.loading import parse_target
    from gradexplain.targets.values import parse_assignments, parse_value

    formulas: dict[str, Any] = {}
    for text in by_hand:
        name, equals, formula = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise UsageError("bad_by_hand", text=text)
        if name in formulas:
            raise UsageError("twice_by_hand", name=name)
        formulas[name] = parse_formula(formula)
    place = parse_target(target)
    values = parse_assignments(inputs)
    program_inputs = getattr(place.place, "inputs", None)
    if program_inputs is not None:
        _match_expression(target, program_inputs, values)
    return Request(place, values, formulas, None if cotangent is None else parse_value(cotangent))


def _match_expression(target: str, takes: Sequence[str], given: Mapping[str, object]) -> None:
    """Matches an expression's inputs before torch is loaded; `loading.match_inputs` does it for functions."""
    missing = [name for name in takes if name not in given]
    superfluous = [name for name in given if name not in takes]
    names = ", ".join(takes) or "–"
    if superfluous:
        raise InputError("superfluous_inputs", target=target, names=", ".join(superfluous), takes=names)
    if missing:
        example = " ".join(f"{name}=1,2,3" for name in missing)
        raise InputError("missing_inputs", target=target, names=", ".join(missing), takes=names, example=example)
