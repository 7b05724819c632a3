"""What was asked for, as it was typed, and the way from these texts to a function and its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

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
    """A target and what was given with it, in the texts that were typed: enough to ask again.

    `inputs` and `cotangent` are VALUE texts, `by_hand` formulas; an empty `wrt` asks for every input. `order`,
    `cotangent`, `element` and `module` belong to an explanation.
    """

    target: str
    inputs: Mapping[str, str]
    seed: int = 0
    dtype: str | None = None
    wrt: tuple[str, ...] = ()
    order: int = 1
    cotangent: str | None = None
    by_hand: Mapping[str, str] = field(default_factory=dict)
    element: str | None = None
    module: str | None = None

    @cached_property
    def spec(self) -> TargetSpec:
        """Where the target leads; an expression's inputs are matched, before anything is loaded."""
        spec = parse_target(self.target)
        if isinstance(spec.place, Program):
            match_inputs(load(spec), self.inputs)
        return spec

    @cached_property
    def values(self) -> Mapping[str, ValueSpec]:
        """The inputs, read."""
        return {name: parse_value(text) for name, text in self.inputs.items()}

    @cached_property
    def start(self) -> ValueSpec | None:
        """The cotangent, read."""
        return None if self.cotangent is None else parse_value(self.cotangent)

    @cached_property
    def formulas(self) -> Mapping[str, Callable[..., Tensor]]:
        """The formulas given by hand, as callables of the inputs that they name."""
        programs = {name: parse_formula(text) for name, text in self.by_hand.items()}
        for name, program in programs.items():
            unknown = [n for n in program.inputs if n not in self.inputs]
            if unknown:
                names = {"unknown": ", ".join(unknown), "names": ", ".join(self.inputs)}
                raise InputError("by_hand_names", name=name, **names)
        return {name: _Formula(Runner(program), program.inputs) for name, program in programs.items()}

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

        torch.manual_seed(self.seed)
        target = load(self.spec)
        match_inputs(target, self.inputs)
        generator = torch.Generator().manual_seed(self.seed)
        values = self.values.items()
        return target, {n: tensor_of(v, name=n, dtype=self.dtype, generator=generator) for n, v in values}

    def cotangent_tensor(self) -> Tensor | None:
        """Returns the cotangent, `None` where none was given."""
        return None if self.start is None else tensor_of(self.start, name="cotangent", dtype=None)

    def torch_dtype(self) -> torch.dtype | None:
        """Returns torch's type of the floating inputs, `None` where none was asked for."""
        import torch

        found: torch.dtype | None = None if self.dtype is None else getattr(torch, self.dtype)
        return found


@dataclass(frozen=True)
class _Formula:
    """A formula given by hand; `inputs` are the names that it asks for."""

    runner: Runner
    inputs: tuple[str, ...]

    def __call__(self, **given: Tensor) -> Tensor:
        result: Tensor = self.runner(**{name: given[name] for name in self.inputs})  # type: ignore[assignment]
        return result
