"""What was asked for, as it was typed, and the way from these texts to a function and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gradexplain.errors import InputError
from gradexplain.targets.expression import Program, parse_formula
from gradexplain.targets.interpreter import Runner
from gradexplain.targets.loading import Target, TargetSpec, load, match_inputs, parse_target
from gradexplain.targets.values import ValueSpec, parse_value, tensor_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Request:
    """A target and what was given with it: enough to ask again.

    `inputs` and `cotangent` are VALUE texts as they were typed, `by_hand` formulas. From Python, they are tensors and
    callables (`None` for an argument that is no tensor), and there is no `seed`. An empty `wrt` asks for every input.
    `order`, `cotangent`, `element` and `module` belong to an explanation.
    """

    target: str
    inputs: Mapping[str, str | Tensor | None]
    seed: int | None = 0
    dtype: str | None = None
    wrt: tuple[str, ...] = ()
    order: int = 1
    cotangent: str | Tensor | None = None
    by_hand: Mapping[str, str | Callable[..., Tensor]] = field(default_factory=dict)
    element: str | None = None
    module: str | None = None

    def typed(self) -> dict[str, Any]:
        """Returns the texts, without the target, as plain data: `None` stands for what was no text."""
        asked = {f.name: getattr(self, f.name) for f in fields(self)}
        del asked["target"]
        texts = {"cotangent": _text(self.cotangent), "wrt": list(self.wrt)}
        return {**asked, **texts, "inputs": _texts(self.inputs), "by_hand": _texts(self.by_hand)}

    @cached_property
    def spec(self) -> TargetSpec:
        """Where the target leads; an expression's inputs are matched, before anything is loaded."""
        spec = parse_target(self.target)
        if isinstance(spec.place, Program):
            match_inputs(load(spec), self.inputs)
        return spec

    @cached_property
    def values(self) -> Mapping[str, ValueSpec]:
        """The inputs that were typed, read."""
        return {name: parse_value(given) for name, given in self.inputs.items() if isinstance(given, str)}

    @cached_property
    def start(self) -> ValueSpec | None:
        """The cotangent that was typed, read."""
        return parse_value(self.cotangent) if isinstance(self.cotangent, str) else None

    @cached_property
    def formulas(self) -> Mapping[str, Callable[..., Tensor]]:
        """The formulas given by hand, as callables of the inputs that they name."""
        given = {name: formula for name, formula in self.by_hand.items() if not isinstance(formula, str)}
        programs = {name: parse_formula(text) for name, text in self.by_hand.items() if isinstance(text, str)}
        for name, program in programs.items():
            unknown = [n for n in program.inputs if n not in self.inputs]
            if unknown:
                names = {"unknown": ", ".join(unknown), "names": ", ".join(self.inputs)}
                raise InputError("by_hand_names", name=name, **names)
        return {**given, **{name: _Formula(Runner(program), program.inputs) for name, program in programs.items()}}

    @property
    def output_name(self) -> str | None:
        """The name of an expression's output."""
        return self.spec.place.output if isinstance(self.spec.place, Program) else None

    def read(self) -> Request:
        """Reads every text, without loading torch or the target; raises `InputError` for one that cannot be used."""
        _ = self.formulas, self.values, self.spec, self.start
        return self

    def load(self) -> tuple[Target, dict[str, Tensor]]:
        """Returns the target's function and its inputs; torch's random numbers start from `seed`."""
        import torch

        if self.seed is not None:
            torch.manual_seed(self.seed)
        target = load(self.spec)
        return target, self.tensors(target)

    def tensors(self, target: Target) -> dict[str, Tensor]:
        """Returns the inputs, which `target` must take; those that are drawn start from `seed`."""
        import torch

        match_inputs(target, self.inputs)
        generator = torch.Generator().manual_seed(self.seed or 0)
        given = {n: v for n, v in self.inputs.items() if isinstance(v, torch.Tensor)}
        made = {n: tensor_of(v, name=n, dtype=self.dtype, generator=generator) for n, v in self.values.items()}
        return {**given, **made}

    def cotangent_tensor(self) -> Tensor | None:
        """Returns the cotangent, `None` where none was given."""
        if self.cotangent is None or not isinstance(self.cotangent, str):
            return self.cotangent
        return tensor_of(parse_value(self.cotangent), name="cotangent", dtype=None)

    def torch_dtype(self) -> torch.dtype | None:
        """Returns torch's type of the floating inputs, `None` where none was asked for."""
        import torch

        found: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        return found


def _text(given: object) -> str | None:
    return given if isinstance(given, str) else None


def _texts(given: Mapping[str, object]) -> dict[str, str | None]:
    return {name: _text(value) for name, value in given.items()}


@dataclass(frozen=True)
class _Formula:
    """A formula given by hand; `inputs` are the names that it asks for."""

    runner: Runner
    inputs: tuple[str, ...]

    def __call__(self, **given: Tensor) -> Tensor:
        result: Tensor = self.runner(**{name: given[name] for name in self.inputs})  # type: ignore[assignment]
        return result
