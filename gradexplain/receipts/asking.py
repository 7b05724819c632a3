"""The question of a receipt, put again to the same verb: from its own texts and numbers to a fresh record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradexplain import api
from gradexplain.errors import InputError, RunError
from gradexplain.receipts.reading import below
from gradexplain.receipts.report import Remark
from gradexplain.recording.computation import Computation, computation_of
from gradexplain.recording.frames import is_ours_or_torchs
from gradexplain.targets.expression import Program
from gradexplain.targets.loading import file_of, load, parse_target
from gradexplain.targets.provenance import file_digest
from gradexplain.targets.request import Request
from gradexplain.verification.options import Options

# What is asked of an explanation alone, and what of a verification alone.
_EXPLAINED = ("order", "cotangent", "element", "module")
_VERIFIED = ("each_operation", "full", "second", "batched", "exact", "stops", "allow_unseen")
# A function of which this many runs fit into the effort is never cut short by time.
_MANY = 1000


class Stopped(Exception):
    """The receipt cannot be asked again: it is refused, or it stays open."""

    def __init__(self, remark: Remark, *, refused: bool) -> None:
        super().__init__(remark.key)
        self.remark = remark
        self.refused = refused


@dataclass(frozen=True)
class Answer:
    """A fresh record of the same question; `timeless` where time cannot have decided what an oracle did."""

    record: Mapping[str, Any]
    timeless: bool


def foreign_code(receipt: Mapping[str, Any]) -> str | None:
    """Returns the target that would be imported to ask again; `None` for an expression, which runs nobody's code."""
    if receipt["asked"] is None:
        return None
    try:
        place = parse_target(receipt["target"]).place
    except InputError:
        return None
    return None if isinstance(place, Program) else receipt["target"]


def ask_again(receipt: Mapping[str, Any]) -> Answer:
    """Loads the receipt's target and asks what was asked.

    Raises `Stopped` where the receipt's own texts cannot be used, or tell too little; `InputError` where the target
    that they name cannot be loaded here.
    """
    typed = _is_typed(receipt)
    with torch.random.fork_rng(devices=[]):
        request = _request(receipt)
        if request.seed is not None:
            torch.manual_seed(request.seed)
        target = load(request.spec)
        try:
            loaded = target, request.tensors(target)
            function = target.called
            computation = computation_of(function, loaded[1], name=request.target, locate=target.locate)
            with _kept_parameters(receipt, computation):
                record = json.loads(_asked(receipt, request, loaded).to_json(full=not _has_summaries(receipt)))
                timeless = min(_seconds(computation) for _ in range(3)) * _MANY < receipt["asked"]["effort"]
        except InputError as fault:
            raise Stopped(Remark("$.asked", "text_unusable", {"fault": fault}), refused=typed) from fault
        except RunError as fault:
            raise Stopped(Remark("$.target", "run_fails", {"fault": fault}), refused=True) from fault
    if not typed and any(
        f["code"] == "random" for part in (record, *record.get("higher", ())) for f in part["findings"]
    ):
        raise Stopped(Remark("$.asked.seed", "random_unseeded"), refused=False)
    return Answer(record, timeless)


def _asked(receipt: Mapping[str, Any], request: Request, loaded: api.Loaded) -> Any:
    asked = receipt["asked"]
    if receipt["kind"] == "explanation":
        return api.explained(request, effort=asked["effort"], loaded=loaded)
    return api.verified(request, Options(asked["effort"], *(asked[name] for name in _VERIFIED)), loaded=loaded)


def _is_typed(receipt: Mapping[str, Any]) -> bool:
    """Says whether the question was typed, and not put from Python."""
    return receipt["asked"] is not None and receipt["asked"]["seed"] is not None


def _seconds(computation: Computation) -> float:
    start = time.perf_counter()
    computation.run(computation.leaf_values())
    return time.perf_counter() - start


# ----------------------------------------------------------------------------------------------------- the question


def _request(receipt: Mapping[str, Any]) -> Request:
    """Returns what was asked, with the numbers that the receipt keeps where nothing was typed."""
    asked = receipt["asked"]
    if asked is None:
        raise Stopped(Remark("$.asked", "live_tensor" if receipt["live"] else "no_target"), refused=False)
    try:
        place = parse_target(receipt["target"]).place
    except InputError as fault:
        if _is_typed(receipt):
            raise Stopped(Remark("$.target", "text_unusable", {"fault": fault}), refused=True) from fault
        raise Stopped(Remark("$.target", "no_target"), refused=False) from fault
    path = file_of(place)
    if path is not None and not is_ours_or_torchs(str(path)):
        _unchanged(path, receipt["files"])
    inputs = {n: _kept(receipt, n) if text is None else text for n, text in asked["inputs"].items()}
    by_hand = {name: text for name, text in asked["by_hand"].items() if text is not None}
    of_kind = {name: asked[name] for name in _EXPLAINED if receipt["kind"] == "explanation"}
    if of_kind and receipt["cotangent"]["given"] and not _is_typed(receipt):
        value, output = receipt["cotangent"]["value"], receipt["output"]
        of_kind["cotangent"] = _tensor(value, output, "$.cotangent.value", "cotangent")
    dtype = _dtype(asked["dtype"], "$.asked.dtype") if asked["dtype"] else None
    try:
        return Request(
            receipt["target"],
            inputs,
            seed=asked["seed"],
            dtype=None if dtype is None else asked["dtype"],
            wrt=tuple(asked["wrt"]),
            by_hand=by_hand,
            **of_kind,
        ).read()
    except InputError as fault:
        raise Stopped(Remark("$.asked", "text_unusable", {"fault": fault}), refused=_is_typed(receipt)) from fault


def _unchanged(path: Path, files: Mapping[str, str]) -> None:
    """Refuses a target whose file is another one than it was, before anything of it is run."""
    recorded = next((digest for file, digest in files.items() if Path(file).name == path.name), None)
    if path.is_file() and recorded != file_digest(path):
        where = below("$.files", str(path))
        raise Stopped(Remark(where, "file_changed", {"file": path.name}), refused=True)


# ------------------------------------------------------------------------------------------------------ its numbers


@contextmanager
def _kept_parameters(receipt: Mapping[str, Any], computation: Computation) -> Iterator[None]:
    """Gives the parameters of the target's modules, inside the block, the numbers that the receipt keeps."""
    own = {} if _is_typed(receipt) else computation.parameters
    kept = {name: _kept(receipt, name) for name in own if name in receipt["inputs"]}
    before = {name: own[name].data for name in kept}
    try:
        for name, value in kept.items():
            own[name].data = value
        yield
    finally:
        for name, value in before.items():
            own[name].data = value


def _kept(receipt: Mapping[str, Any], name: str) -> Tensor:
    """Returns an input, or a parameter, that the receipt keeps number by number."""
    path = below("$.inputs", name)
    if name not in receipt["inputs"]:
        raise Stopped(Remark(path, "argument_not_kept", {"name": name}), refused=False)
    return _tensor(receipt["inputs"][name]["value"], receipt["inputs"][name], f"{path}.value", name)


def _tensor(value: Any, like: Mapping[str, Any], path: str, name: str) -> Tensor:
    if isinstance(value, dict):
        raise Stopped(Remark(path, "input_not_kept", {"name": name}), refused=False)
    dtype, shape = _dtype(like["dtype"], path), tuple(like["shape"])
    try:
        tensor = torch.tensor(_numbers(value, dtype.is_complex), dtype=_widest(dtype)).to(dtype)
        tensor = tensor if tensor.numel() else tensor.reshape(shape)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        tensor = None
    if tensor is None or tensor.shape != shape:
        raise Stopped(Remark(path, "tensor_shape", {"right": str(shape), "dtype": like["dtype"]}), refused=True)
    return tensor


def _numbers(value: Any, pairs: bool) -> Any:
    """Returns nested lists with their numbers: "nan" and "inf" are texts there, complex numbers are pairs."""
    if isinstance(value, list) and not (pairs and len(value) == 2 and not any(isinstance(v, list) for v in value)):
        return [_numbers(part, pairs) for part in value]
    if isinstance(value, list):
        return complex(*map(float, value))
    return float(value) if isinstance(value, str) else value


def _widest(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else dtype


def _dtype(name: str, path: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise Stopped(Remark(path, "expected_dtype", {"seen": name}), refused=True)
    return dtype


def _has_summaries(value: Any) -> bool:
    """Says whether a tensor is kept in a few numbers somewhere: then large ones are, and the fresh record's as well."""
    if isinstance(value, dict):
        return "sha256" in value or any(map(_has_summaries, value.values()))
    return isinstance(value, list) and any(map(_has_summaries, value))
