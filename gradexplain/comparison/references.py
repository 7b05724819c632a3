"""A reference in a file: what one side gave, to be held against another torch, machine or commit later.

The file is of the format safetensors. Its header says of which target, inputs and weights it is (by their digests), and
by which torch; which numbers are drawn in which order, and the steps of the run in a few numbers each. Its tensors are
the values and gradients, these in float64 (the truth of this side), and what rounding does to each of their elements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradexplain.comparison.comparing import compare_sides, draws_of, in_float64, outline_of
from gradexplain.comparison.comparison import Comparison
from gradexplain.comparison.judging import (
    Label,
    Measured,
    Pair,
    finite,
    is_low,
    is_rounded,
    last_digit,
    of_all,
    outcome_tensors,
)
from gradexplain.comparison.outlines import outline_from, outline_record
from gradexplain.comparison.rounding import STAGES, Rounding
from gradexplain.comparison.sides import Given, Outcome, Side, matched
from gradexplain.documents.shown import write
from gradexplain.errors import InputError
from gradexplain.findings.finding import Finding
from gradexplain.recording.computation import Computation, differentiable
from gradexplain.recording.plain import is_slight
from gradexplain.rules.application import wide
from gradexplain.targets.provenance import machine, tensor_digest
from gradexplain.versions.releases import __version__

# The number of the file's format: another one is not read.
FORMAT = 2
_KEY = "gradexplain"


@dataclass(frozen=True)
class Fixed:
    """A tensor that a run starts from, by what it was: an input, a parameter, or a buffer of a module."""

    shape: tuple[int, ...]
    dtype: str
    digest: str

    @classmethod
    def of(cls, value: Any) -> Fixed:
        """Returns what is kept of a tensor, or of what is no tensor."""
        if not isinstance(value, Tensor):
            return cls((), type(value).__name__, repr(value))
        return cls(tuple(value.shape), str(value.dtype).removeprefix("torch."), tensor_digest(value))


@dataclass(frozen=True)
class Reference:
    """What a file holds: what a side `gave`, and of which target, inputs, parameters and buffers.

    `seeds` is the cotangent that the outputs were differentiated with, by the side's key of it; `state` the random
    state that the run started from.
    """

    target: str
    torch: str
    machine: str
    inputs: Mapping[str, Fixed]
    parameters: Mapping[str, Fixed]
    buffers: Mapping[str, Fixed]
    gave: Given
    seeds: Mapping[tuple[Any, ...], Tensor]
    state: Tensor


def reference_of(side: Side) -> Reference:
    """Returns what a side gives, with its truth and its rounding; raises `InputError` where it is never the same."""
    computation = side.computation
    outcome, again = side.run(), outcome_tensors(side.run())
    own = outcome_tensors(outcome)
    for (_, name), value in own.items():
        if value is not None and ((found := again.get((_, name))) is None or not is_slight(value, found)):
            raise InputError("reference_unsteady", name=name)
    constants: list[Tensor] = []
    truth = in_float64(side, own, constants)[1] if is_low(outcome) else None
    pairs = [_pair(label, value, truth) for label, value in own.items() if value is not None and differentiable(value)]
    measured = Measured(pairs, (side, replace(side, gave=Given(outcome))))
    measured.repeat()
    measured.take(STAGES[-1])
    rounding = {}
    if measured.failed[0] is None:
        trials = measured.trials[0]
        for pair in pairs:
            rounding[pair.label] = trials.rounding(pair.label, last_digit(pair.one))
            rounding[of_all(pair)] = trials.rounding(of_all(pair), torch.zeros(()))
    draws = tuple(draws_of(side)) if outcome.drew else ()
    gave = Given(outcome, truth, rounding, draws, outline_of(side), any(map(is_rounded, constants)))
    own_inputs = {n: v for n, v in computation.inputs.items() if n not in computation.parameters}
    return Reference(
        computation.name,
        torch.__version__,
        machine(),
        {n: Fixed.of(v) for n, v in own_inputs.items()},
        {n: Fixed.of(p.detach()) for n, p in computation.parameters.items()},
        {n: Fixed.of(b) for n, b in _buffers(computation).items()},
        gave,
        dict(side.seeds),
        computation.random_states[0],
    )


def _pair(label: Label, value: Tensor, truth: Mapping[Label, Tensor | None] | None) -> Pair:
    known = None if truth is None else truth.get(label)
    own = finite(value)
    return Pair(*label, own, own, None if known is None else finite(wide(known)))


def _buffers(computation: Computation) -> dict[str, Tensor]:
    return {
        f"{name}.{n}" if name else n: b.detach()
        for name, module in computation.modules.items()
        for n, b in nn.Module.named_buffers(module)
    }


def compare_with(reference: Reference, computation: Computation, path: Path, rename: Mapping[str, str]) -> Comparison:
    """Returns what comes of holding a computation against a reference; raises `InputError` where it is of another."""
    own = [n for n in computation.inputs if n not in computation.parameters]
    alike = len(own) == len(reference.inputs) and not {*own} & {*reference.inputs}
    called = dict(zip(own, reference.inputs, strict=True)) if alike else matched(reference.inputs, own, rename)
    called |= matched(reference.parameters, computation.parameters, rename)
    known = {**reference.inputs, **reference.parameters}
    for name, ours in called.items():
        value = computation.inputs[name]
        seen = Fixed.of(value.detach() if isinstance(value, Tensor) else value)
        kind = "weights" if name in computation.parameters else "inputs"
        if known[ours] != seen:
            what = "shape" if (known[ours].shape, known[ours].dtype) != (seen.shape, seen.dtype) else kind
            data = {"name": name, "path": path, "one": _told(known[ours]), "other": _told(seen)}
            if what != "shape" and reference.torch != torch.__version__:  # which may draw others from the same seed
                raise InputError(f"reference_{what}_torch", **data, made=reference.torch, here=torch.__version__)
            raise InputError(f"reference_{what}", **data)
    seen_buffers = {n: Fixed.of(b) for n, b in _buffers(computation).items()}
    stale = [n for n, b in seen_buffers.items() if n in reference.buffers and reference.buffers[n] != b]
    findings = [Finding("reference-buffers", {"names": ", ".join(stale[:4])})] if stale else []
    if reference.torch != torch.__version__:
        findings.append(Finding("reference-torch", {"one": reference.torch, "other": torch.__version__}))
    wanted = {ours: name for name, ours in called.items()}
    wrt = tuple(wanted[n] for n in reference.gave.outcome.gradients if n in wanted)
    states = (reference.state, *computation.random_states[1:])
    computation = replace(computation, wrt=wrt or computation.wrt, random_states=states)
    before = replace(
        computation,
        name=f"{path.name}: {reference.target}",
        inputs={called[n]: v for n, v in computation.inputs.items()},
        parameters={called[n]: p for n, p in computation.parameters.items()},
    )
    one, other = Side(before, {}, gave=reference.gave), Side(computation, called, seeds=dict(reference.seeds))
    reached = other.run().reached
    if len(reached) != len(reference.gave.outcome.reached):
        ours, theirs = (", ".join(names) or "–" for names in (reference.gave.outcome.reached, reached))
        raise InputError("reference_outputs", path=path, ours=ours, theirs=theirs)
    found = compare_sides(one, other, rename=rename)
    return replace(found, against="reference", findings=(*findings, *found.findings))


def _told(fixed: Fixed) -> str:
    return f"{fixed.dtype} {fixed.shape}"


# ---------------------------------------------------------------------------------------------------------- the file


def save_reference(reference: Reference, path: Path) -> None:
    """Writes a reference, whole or not at all; raises `InputError` where that cannot be."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {"state": reference.state}
    seeds, freedom = [], {}
    for i, (key, value) in enumerate(reference.seeds.items()):
        seeds.append(key)
        tensors[f"seed.{i}"] = value
    outcome = reference.gave.outcome
    own = outcome_tensors(outcome)
    tensors |= {f"{kind}.{name}": t for (kind, name), t in own.items() if t is not None}
    truth = {label: t for label, t in (reference.gave.truth or {}).items() if label in own}
    tensors |= {f"truth.{kind}.{name}": t for (kind, name), t in truth.items() if t is not None}
    for (kind, name), known in reference.gave.rounding.items():
        tensors[f"rounding.{kind}.{name}"] = _short(known.deviation, own.get((kind, name)))
        freedom[f"{kind}.{name}"] = [x if math.isfinite(x) else None for x in (known.freedom, known.prior)]
    complex_ = [name for name, value in tensors.items() if value.is_complex()]
    outline = reference.gave.outline
    header = {
        "format": FORMAT,
        "gradexplain": __version__,
        "target": reference.target,
        "torch": reference.torch,
        "machine": reference.machine,
        **{kind: {n: asdict(f) for n, f in getattr(reference, kind).items()} for kind in _KINDS},
        "values": list(outcome.values),
        "gradients": {n: g is not None for n, g in outcome.gradients.items()},
        "reached": outcome.reached,
        "drew": outcome.drew,
        "draws": reference.gave.draws,
        "seeds": seeds,
        "freedom": freedom,
        "rounded": reference.gave.rounded,
        "complex": complex_,
        "outline": None if outline is None else outline_record(outline),
    }
    plain = {n: (torch.view_as_real(t) if t.is_complex() else t).contiguous().clone() for n, t in tensors.items()}
    write(path, save(plain, {_KEY: json.dumps(header)}))


_KINDS = ("inputs", "parameters", "buffers")


def _short(deviation: Tensor, value: Tensor | None) -> Tensor:
    """Returns deviations in float32 where they are of numbers that are not longer, and large enough for it."""
    if value is None or value.dtype in (torch.float64, torch.complex128):
        return deviation
    least = torch.finfo(torch.float32).smallest_normal
    return torch.where(deviation > 0, deviation.clamp_min(least), deviation).float()


def load_reference(path: Path) -> Reference:
    """Reads a reference; raises `InputError` where there is none, or a broken one, or a file of another kind."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY)
            if header is None:
                raise InputError("reference_foreign", path=path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        tree = json.loads(header)
        if tree["format"] != FORMAT:
            raise InputError("reference_format", path=path, seen=tree["format"], known=FORMAT)
        return _read(tree, tensors)
    except OSError as fault:
        raise InputError("reference_unread", path=path, reason=fault.strerror or "not a file") from fault
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as fault:
        raise InputError("reference_broken", path=path) from fault


def _read(tree: Mapping[str, Any], packed: Mapping[str, Tensor]) -> Reference:
    tensors = {n: torch.view_as_complex(t) if n in tree["complex"] else t for n, t in packed.items()}
    values = {str(n): tensors[f"value.{n}"] for n in tree["values"]}
    gradients = {str(n): tensors[f"gradient.{n}"] if there else None for n, there in tree["gradients"].items()}
    outcome = Outcome(values, gradients, tuple(tree["reached"]), bool(tree["drew"]))
    labels = outcome_tensors(outcome)
    truth = {label: tensors.get(f"truth.{label[0]}.{label[1]}") for label in labels}
    rounding: dict[Label, Rounding] = {}
    for text, (freedom, prior) in tree["freedom"].items():
        kind, _, name = text.partition(".")
        rounding[kind, name] = Rounding(
            tensors[f"rounding.{text}"].double(), *(math.inf if x is None else float(x) for x in (freedom, prior))
        )
    for label, value in labels.items():
        found = (truth[label], rounding[label].deviation if label in rounding else None)
        if value is not None and any(t is not None and t.shape != value.shape for t in found):
            raise ValueError(f"{label} has another shape")
    draws = tuple((str(name), int(count)) for name, count in tree["draws"])
    outline = None if tree["outline"] is None else outline_from(tree["outline"])
    known = truth if any(t is not None for t in truth.values()) else None
    return Reference(
        str(tree["target"]),
        str(tree["torch"]),
        str(tree["machine"]),
        _fixed(tree["inputs"]),
        _fixed(tree["parameters"]),
        _fixed(tree["buffers"]),
        Given(outcome, known, rounding, draws, outline, bool(tree["rounded"])),
        {_key(key): tensors[f"seed.{i}"] for i, key in enumerate(tree["seeds"])},
        tensors["state"],
    )


def _fixed(tree: Mapping[str, Any]) -> dict[str, Fixed]:
    return {n: Fixed(tuple(f["shape"]), f["dtype"], f["digest"]) for n, f in tree.items()}


def _key(key: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_key(part) if isinstance(part, list) else part for part in key)
