"""Asking again: from a receipt's own texts and numbers to a fresh trace and a fresh report of the same target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import InputError, RunError
from gradexplain.receipts.ledger import Remark
from gradexplain.receipts.reading import below
from gradexplain.receipts.tensors import read_tensor
from gradexplain.recording.computation import Computation, all_outputs, computation_of, with_dtype
from gradexplain.recording.trace import Trace
from gradexplain.recording.tracing import generic, trace
from gradexplain.targets.expression import parse_formula
from gradexplain.targets.interpreter import Runner
from gradexplain.targets.loading import FilePlace, Target, TargetSpec, file_of, load, match_inputs, parse_target
from gradexplain.targets.provenance import file_digest
from gradexplain.targets.values import parse_value, tensor_of
from gradexplain.verification.inquiry import inquire
from gradexplain.verification.options import Options
from gradexplain.verification.oracles.registry import REFEREE
from gradexplain.verification.verdicts import EFFORT, Report, verify_trace

# The options of a verification, and the oracle that is asked for by each.
OPTIONS = {
    "each_operation": None,
    "second": None,
    "full": "every element",
    "batched": "batched gradients",
    "exact": REFEREE,
}


class Stopped(Exception):
    """The receipt cannot be derived again: it is refused, or it stays open."""

    def __init__(self, remark: Remark, *, refused: bool) -> None:
        super().__init__(remark.key)
        self.remark = remark
        self.refused = refused


@dataclass(frozen=True)
class Derived:
    """What asking again gives."""

    computation: Computation
    trace: Trace
    report: Report
    output_name: str | None = None


@dataclass(frozen=True)
class _Formula:
    """A formula given by hand; `inputs` are the names that it asks for."""

    runner: Runner
    inputs: tuple[str, ...]

    def __call__(self, **given: Any) -> Any:
        return self.runner(**{name: given[name] for name in self.inputs})


def derive(receipt: Mapping[str, Any]) -> Derived:
    """Loads the receipt's target, runs and traces it, and asks every oracle.

    Raises `Stopped` where the receipt's own texts cannot be used, or tell too little; `InputError` where the target
    that they name cannot be loaded here.
    """
    spec = _target_spec(receipt)
    asked = receipt["asked"] or {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.get("seed", 0))
        target = load(spec)
        inputs = _typed(asked) if asked else _kept(receipt)
        _match(target, receipt, inputs)
        cotangent = _cotangent(receipt)
        computation = _computation(target, receipt, inputs)
    return _derived(computation, cotangent, receipt, getattr(spec.place, "output", None))


def _derived(computation: Computation, cotangent: Any, receipt: Mapping[str, Any], name: str | None) -> Derived:
    by_hand = {n: _formula(n, text) for n, text in (receipt["asked"] or {}).get("by_hand", {}).items()}
    effort = (receipt["asked"] or {}).get("effort", EFFORT)
    try:
        recorded = trace(computation, cotangent=cotangent)
    except InputError as fault:
        raise _refused("$.asked.cotangent", "text_unusable", fault=fault) from fault
    except RunError as fault:
        raise _refused("$.target", "run_fails", fault=fault) from fault
    if receipt["asked"] is None and _is_random(computation, recorded):
        raise Stopped(Remark("$.asked", "random_unseeded"), refused=False)
    if receipt["kind"] == "verification":
        options = {name: value for name, value in _options(receipt).items() if name in OPTIONS}
        report = inquire(
            computation, target=receipt["target"], by_hand=by_hand, options=Options(effort=effort, **options)
        )
    else:
        report = verify_trace(recorded, computation, by_hand=by_hand, effort=effort)
    return Derived(computation, recorded, report, name)


def _options(receipt: Mapping[str, Any]) -> Mapping[str, bool]:
    """Returns what was asked for besides the usual; where that is not said, what is there was asked for."""
    if receipt["asked"] is not None:
        return dict(receipt["asked"])
    asked = {check["oracle"] for check in receipt["checks"]}
    named = {name: oracle in asked for name, oracle in OPTIONS.items() if oracle is not None}
    return {**named, "each_operation": bool(receipt["operations"]), "second": receipt["second"] is not None}


def _refused(path: str, key: str, **data: object) -> Stopped:
    return Stopped(Remark(path, key, data), refused=True)


def _is_random(computation: Computation, recorded: Trace) -> bool:
    """Says whether another random state gives another output: that of a receipt without seed is not known."""
    other = torch.Generator().manual_seed(0x5EED).get_state()
    again = trace(replace(computation, random_states=(other, *computation.random_states[1:]))).value
    return again.shape != recorded.value.shape or not torch.equal(again.nan_to_num(), recorded.value.nan_to_num())


# ------------------------------------------------------------------------------------------------------------ targets


def _target_spec(receipt: Mapping[str, Any]) -> TargetSpec:
    if receipt["live"]:
        raise Stopped(Remark("$.live", "live_tensor"), refused=False)
    try:
        spec = parse_target(receipt["target"])
    except InputError as fault:
        if receipt["asked"] is not None:
            raise _refused("$.target", "text_unusable", fault=fault) from fault
        raise Stopped(Remark("$.target", "no_target"), refused=False) from fault
    # A callable that came without a target is called by its own name, which nobody typed, even where torch has it too.
    if receipt["asked"] is None and receipt["target"].isidentifier():
        raise Stopped(Remark("$.target", "no_target"), refused=False)
    if isinstance(spec.place, FilePlace) and (path := file_of(spec.place)) is not None:
        _unchanged(path, receipt["files"])
    return spec


def _unchanged(path: Path, files: Mapping[str, str]) -> None:
    """Refuses a target whose file is another one than it was, before anything of it is run."""
    recorded = next((digest for file, digest in files.items() if Path(file).name == path.name), None)
    if path.is_file() and recorded != file_digest(path):
        raise _refused(below("$.files", str(path)), "file_changed", file=path.name)


def _match(target: Target, receipt: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> None:
    try:
        match_inputs(target, list(inputs))
    except InputError as fault:
        path = "$.asked.inputs" if receipt["asked"] else "$.inputs"
        raise Stopped(Remark(path, "text_unusable", {"fault": fault}), refused=bool(receipt["asked"])) from fault


# ------------------------------------------------------------------------------------------------------------- inputs


def _typed(asked: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the inputs that the VALUE texts make, with the seed they were made with."""
    generator = torch.Generator().manual_seed(asked["seed"])
    found = {}
    for name, text in asked["inputs"].items():
        try:
            spec = parse_value(text)
            found[name] = tensor_of(spec, name=name, dtype=asked["dtype"], generator=generator)
        except InputError as fault:
            raise _refused(below("$.asked.inputs", name), "text_unusable", fault=fault) from fault
    return found


def _kept(receipt: Mapping[str, Any], *, parameters: bool = False) -> dict[str, Tensor]:
    """Returns the inputs, or the parameters, that the receipt keeps number by number."""
    found = {}
    for name, entry in receipt["inputs"].items():
        if (name in receipt["parameters"]) != parameters:
            continue
        path = f"{below('$.inputs', name)}.value"
        if isinstance(entry["value"], dict):
            raise Stopped(Remark(path, "input_not_kept", {"name": name}), refused=False)
        dtype = getattr(torch, entry["dtype"], None)
        tensor = read_tensor(entry["value"], dtype, entry["shape"]) if isinstance(dtype, torch.dtype) else None
        if tensor is None:
            raise _refused(path, "tensor_shape", seen="?", right=str(tuple(entry["shape"])), dtype=entry["dtype"])
        found[name] = tensor
    return found


def _cotangent(receipt: Mapping[str, Any]) -> Any:
    """Returns what the backward pass starts from: as it was asked for, or, without a text, as the receipt keeps it."""
    if receipt["kind"] == "verification":
        return generic
    if not receipt["cotangent"]["given"]:
        return None
    if receipt["asked"] is not None:
        return _made(receipt["asked"]["cotangent"])
    output, value = receipt["output"], receipt["cotangent"]["value"]
    found = None if isinstance(value, dict) else read_tensor(value, getattr(torch, output["dtype"]), output["shape"])
    if found is None:
        raise Stopped(Remark("$.cotangent.value", "input_not_kept", {"name": "cotangent"}), refused=False)
    return found


def _made(text: str) -> Tensor:
    try:
        return tensor_of(parse_value(text), name="cotangent", dtype=None)
    except InputError as fault:
        raise _refused("$.asked.cotangent", "text_unusable", fault=fault) from fault


def _computation(target: Target, receipt: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Computation:
    asked = receipt["asked"]
    wrt = list(asked["wrt"]) or None if asked else list(receipt["gradients"])
    function = target.module if target.module is not None else target.function
    try:
        found = computation_of(function, inputs, wrt=wrt, name=receipt["target"], locate=target.locate)
    except InputError as fault:
        raise _refused("$.asked.wrt" if asked else "$.gradients", "text_unusable", fault=fault) from fault
    if asked is None:
        found = replace(found, inputs={**found.inputs, **_kept(receipt, parameters=True)})
    elif asked["dtype"] is not None:
        found = with_dtype(found, getattr(torch, asked["dtype"]))
    return all_outputs(found) if receipt["kind"] == "verification" else found


def _formula(name: str, text: str) -> _Formula:
    try:
        program = parse_formula(text)
    except InputError as fault:
        raise _refused(below("$.asked.by_hand", name), "text_unusable", fault=fault) from fault
    return _Formula(Runner(program), program.inputs)
