"""The verbs of the package."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

import gradexplain.narration.comparisons
import gradexplain.narration.records
import gradexplain.narration.reports
import gradexplain.narration.trainings
import gradexplain.pages.page  # noqa: F401  # registers how results are told
from gradexplain.comparison.comparing import compare_sides
from gradexplain.comparison.comparison import Comparison
from gradexplain.comparison.presets import PRESETS, compare_against
from gradexplain.comparison.presets import Subject as Compared
from gradexplain.comparison.references import compare_with, load_reference, reference_of
from gradexplain.comparison.references import save_reference as write_reference
from gradexplain.comparison.sides import Side, sides_of
from gradexplain.errors import InputError, OptionError, RunError
from gradexplain.explanation.explanation import Explanation, explain_trace
from gradexplain.findings.diagnosis import findings_of
from gradexplain.findings.finding import Finding
from gradexplain.graphs.options import USUAL
from gradexplain.recording.computation import Computation, all_outputs, computation_of, one_question, with_dtype
from gradexplain.recording.frames import asking_frame
from gradexplain.recording.live import trace_live
from gradexplain.recording.naming import leaf_names, named_in, visible
from gradexplain.recording.summaries import SMALL
from gradexplain.recording.trace import Trace
from gradexplain.recording.tracing import trace, traced
from gradexplain.targets.loading import Target, load, match_inputs, parse_target
from gradexplain.targets.request import Request
from gradexplain.targets.sources import Source
from gradexplain.training.session import Watch
from gradexplain.verification.derivatives import HIGHEST, derivative_of
from gradexplain.verification.inquiry import inquire, judged
from gradexplain.verification.options import Options
from gradexplain.verification.oracles.question import Question
from gradexplain.verification.surrogates import inquire_as
from gradexplain.verification.verdicts import EFFORT, INTENDED, Report, Subject, is_declared, verify_trace

if TYPE_CHECKING:
    from gradexplain.graphs.picture import Picture


class Asked(TypedDict, total=False):
    """What `verify` may be asked by name; its docstring says what each means."""

    wrt: str | Sequence[str] | None
    by_hand: Mapping[str, Callable[..., Tensor]] | None
    dtype: torch.dtype | None
    each_operation: bool
    full: bool
    second: bool
    batched: bool
    exact: bool
    stops: str | Sequence[str]
    allow_unseen: bool
    as_if: Callable[..., object] | str | None
    effort: float
    target: str | None
    locate: Callable[[], Source | None] | None


class AskedOfTwo(TypedDict, total=False):
    """What `compare` may be asked by name; its docstring says what each means."""

    against: str | None
    parts: int
    backend: str | None
    rename: Mapping[str, str] | None
    wrt: str | Sequence[str] | None
    second: bool
    dtype: torch.dtype | None
    target: str | None
    reference: str | Path | None
    as_if: Callable[..., object] | str | None


# The further options of a verb, by how it is annotated.
_FURTHER: Mapping[str, type] = {"Unpack[Asked]": Asked, "Unpack[AskedOfTwo]": AskedOfTwo}

P = ParamSpec("P")
R = TypeVar("R")


def _refusing_unknown_options(verb: Callable[P, R]) -> Callable[P, R]:
    """Returns the verb that refuses an option that does not exist by its name, and gives the nearest that does."""
    parameters = inspect.signature(verb).parameters.values()
    further = next((_FURTHER.get(str(p.annotation), Asked) for p in parameters if p.kind is p.VAR_KEYWORD), None)
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    known += list(further.__annotations__) if further is not None else []

    @wraps(verb)
    def refusing(*args: P.args, **options: P.kwargs) -> R:
        __tracebackhide__ = True  # pytest shows the caller's line
        for name in options:
            if name not in known:
                data = {"verb": verb.__name__, "name": name, "names": ", ".join(known)}
                for close in difflib.get_close_matches(name, known, n=1):
                    raise OptionError("unknown_option", close=close, **data)
                raise OptionError("unknown_option_unlike", **data)
        return verb(*args, **options)

    return refusing


@_refusing_unknown_options
@one_question()
def explain(
    function: Callable[..., object] | Tensor | str,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    wrt: str | Sequence[str] | None = None,
    order: int = 1,
    cotangent: Tensor | float | Sequence[Any] | None = None,
    by_hand: Mapping[str, Callable[..., Tensor]] | None = None,
    dtype: torch.dtype | None = None,
    element: str | None = None,
    module: str | None = None,
    effort: float = EFFORT,
    target: str | None = None,
    locate: Callable[[], Source | None] | None = None,
    output_name: str | None = None,
) -> Explanation:
    """Explains the gradient of `function` at `inputs`, or of a live tensor, and checks it.

    `function` is a callable or an `nn.Module`, `inputs` a mapping by name or a sequence by position; its parameters and
    those of the modules that it uses are inputs as well. Or `function` is a text as the command line takes it, such as
    "sum(x**2)" or "file.py:loss"; or a tensor with a `grad_fn`: its graph is explained as it is, and nothing is run
    forward again.

    `wrt` names the inputs whose gradient is asked for; `order` asks for second and higher derivatives (by the first of
    them); `cotangent` weighs the elements of an output that is not one number, in the output's shape (ones without it);
    `by_hand` gives a callable per input that computes the gradient from the inputs by name; `dtype` converts the
    floating inputs; `element` ("x[1]") follows one element alone; `module` opens one module of a network; `effort` is
    the time in seconds that a check may take in running the function again (with more of it, large networks are checked
    by more than the rules).

    `target` is what the page calls the function (its name without it), `output_name` what it calls the output ("y"),
    and `locate`, called while the function runs, says which place in a source a step belongs to (the caller's line
    without it).

    Returns an `Explanation`: `verdict` is "agrees", "differs" or "cannot say", `gradients` has a tensor in the shape of
    each input by its name. Nothing of the caller's is changed: no `.grad` is written, no hook is left, random states
    and grad mode stay. Where no gradient leads from the output to an input, the verdict is "cannot say" and the reason
    "nothing". Raises `InputError` for arguments that cannot be used, `RunError` where the function or a backward fails.

    >>> import torch, gradexplain as gx
    >>> explanation = gx.explain(lambda x: (x**2).sum(), {"x": torch.tensor([1.0, 2.0, 3.0])})
    >>> explanation.verdict, explanation.gradients["x"]
    ('agrees', tensor([2., 4., 6.]))
    """
    seed = _as_tensor(cotangent)
    if isinstance(function, Tensor):
        recorded, name = _traced_live(function, inputs, seed)
        title, given = target or _live_title(recorded, name), seed is not None
        report = verify_trace(recorded, None)
        chosen = output_name or name
        return explain_trace(recorded, report, target=title, cotangent_given=given, element=element, output_name=chosen)
    if not 1 <= order <= HIGHEST:
        raise InputError("bad_order", order=order, highest=HIGHEST)
    asked = _Asked.of(function, inputs, target, locate, output_name)
    computation = _computation(asked, wrt, dtype)
    _check_names(by_hand or {}, computation)
    recorded = traced(computation, cotangent=seed)
    report = judged(Question(recorded, computation, by_hand or {}, effort), Options(effort))
    request = asked.request(computation, by_hand, dtype, order=order, cotangent=seed, element=element, module=module)
    first = explain_trace(
        recorded,
        report,
        target=target or computation.name,
        cotangent_given=seed is not None,
        element=element,
        module=module,
        output_name=asked.output_name,
        parameters=tuple(computation.parameters),
    )
    order = 1 if report.nothing else order
    return replace(first, request=request, higher=tuple(_higher(computation, first, seed, order, effort)))


@_refusing_unknown_options
@one_question()
def verify(
    function: Callable[..., object] | Tensor | str,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    wrt: str | Sequence[str] | None = None,
    by_hand: Mapping[str, Callable[..., Tensor]] | None = None,
    dtype: torch.dtype | None = None,
    each_operation: bool = False,
    full: bool = False,
    second: bool = False,
    batched: bool = False,
    exact: bool = False,
    stops: str | Sequence[str] = (),
    allow_unseen: bool = False,
    as_if: Callable[..., object] | str | None = None,
    effort: float = EFFORT,
    target: str | None = None,
    locate: Callable[[], Source | None] | None = None,
) -> Report:
    """Says whether the gradient of `function` at `inputs` is right, and where it is not, which operation is wrong.

    `function` is a callable or an `nn.Module`; it may return several tensors, and all that carry a gradient are
    verified together, along a generic cotangent. `inputs` is a mapping by name or a sequence by position, of tensors or
    of lists, tuples and mappings that hold tensors; of a sparse tensor, the values are the input. The parameters of the
    modules that it uses are inputs as well. Or `function` is a tensor with a `grad_fn`: its graph is judged as it is,
    by the rules, node by node, and stays usable; no option applies that needs another run. There is no tolerance: see
    `Report` and `Check` for what is found.

    `each_operation` checks every node of the graph alone, as is done anyway where the whole does not agree; `full`
    compares every element of the Jacobian; `second` verifies the second derivatives too, as derivatives of the gradient
    by the inputs and by the cotangent; `batched` compares several gradients at once (`vmap`) with one by one; `exact`
    asks sympy for the derivative with 50 digits. For `wrt`, `by_hand`, `dtype`, `effort`, `target` and `locate` see
    `explain`.

    Where part of a slope ends in something that torch holds constant (`detach`, `no_grad`, `.item()`), the gradient is
    right for the paths that are left: "cannot say", reason "stopped", unless `stops` declares the place (`"net.py:7"`,
    or several; `"intended"` for all). Elements too small for any judge make it "cannot say", reason "unseen", unless
    `allow_unseen`.

    A straight-through or surrogate backward is the gradient of another function: `as_if` is that function, and the
    gradient is held against its derivative, at the same inputs and parameters. Values are not compared.

    Where there is nothing to check (no element, no way back for a gradient), that is "cannot say", reason "nothing".
    Nothing of the caller's is changed. Raises `InputError` for arguments that cannot be used, `RunError` where the
    function or a backward fails.

    >>> import torch, gradexplain as gx
    >>> report = gx.verify(lambda x, y: x @ y, [torch.ones(2, 3), torch.ones(3)], full=True)
    >>> report.verdict, [check.oracle for check in report.checks if check.input == "y"][0]
    ('agrees', 'finite differences')
    """
    if isinstance(function, Tensor):
        again: dict[str, object] = {
            "wrt": wrt,
            "by_hand": by_hand,
            "dtype": dtype,
            "each_operation": each_operation,
            "full": full,
        }
        again |= {"second": second, "batched": batched, "exact": exact, "stops": stops, "as_if": as_if}
        for name in (name for name, value in again.items() if value):
            raise InputError("live_option", name=name)
        recorded, own = _traced_live(function, inputs, None)
        report = replace(verify_trace(recorded, None), options=Options(effort, allow_unseen=allow_unseen))
        findings = (*findings_of(recorded), *report.findings)
        return replace(report, subject=Subject(target or _live_title(recorded, own), recorded), findings=findings)
    asked = _Asked.of(function, inputs, target, locate)
    computation = all_outputs(_computation(asked, wrt, dtype))
    _check_names(by_hand or {}, computation)
    if as_if is not None:
        further = {"by_hand": by_hand, "each_operation": each_operation, "full": full, "second": second}
        for name in (n for n, given in {**further, "batched": batched, "stops": stops}.items() if given):
            raise InputError("as_if_option", name=name)
        return _verified_as(asked, as_if, wrt, dtype, Options(effort, exact=exact, allow_unseen=allow_unseen))
    places = (stops,) if isinstance(stops, str) else tuple(stops)
    options = Options(effort, each_operation, full, second, batched, exact, places, allow_unseen)
    report = inquire(computation, target=target or computation.name, by_hand=by_hand, options=options)
    _refuse_idle(report)
    assert report.subject is not None
    request = asked.request(computation, by_hand, dtype)
    findings = (*filter(report.stands, findings_of(report.subject.trace)), *report.findings)
    return replace(report, findings=findings, request=request)


@_refusing_unknown_options
def assert_gradients(
    function: Callable[..., object] | Tensor | str,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    undecided: bool = False,
    **options: Unpack[Asked],
) -> Report:
    """Raises `AssertionError`, in words that can be acted on, unless `verify` says that the gradients are right.

    `undecided=True` lets "cannot say" pass (a point exactly at a kink, for one). `function`, `inputs` and the other
    options are those of `verify`, whose report is returned; it raises what `verify` raises as well.

    >>> import torch, gradexplain as gx
    >>> gx.assert_gradients(torch.tanh, [torch.tensor([0.5, 1.0])], second=True).verdict
    'agrees'
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    try:
        report = verify(function, inputs, **options)
    except RunError as fault:
        if not fault.key.startswith("backward_"):
            raise
        broken = str(fault)  # said below, outside of the inner frames
    else:
        broken = ""
    if broken:
        raise AssertionError(broken)
    if report.verdict == "agrees" or (undecided and report.verdict == "cannot say"):
        return report
    from gradexplain.narration.reports import summary

    raise AssertionError(summary(report))


@_refusing_unknown_options
@one_question()
def compare(
    a: Callable[..., object] | str,
    b: Callable[..., object] | str | None = None,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    against: str | None = None,
    parts: int = 2,
    backend: str | None = None,
    rename: Mapping[str, str] | None = None,
    wrt: str | Sequence[str] | None = None,
    second: bool = False,
    dtype: torch.dtype | None = None,
    target: str | None = None,
    reference: str | Path | None = None,
    as_if: Callable[..., object] | str | None = None,
) -> Comparison:
    """Says whether `a` and `b` are two ways to the same values and gradients, and where they part if they are not.

    `a` is the reference, `b` what is held against it: functions, `nn.Module`s, texts as the command line takes them, or
    callables that return gradients by name (a training step, what a rank has). Both are called with the same `inputs`
    and the same random state. Parameters are matched by name, the shorter name being enough, and `rename` maps a name
    or the path of a module of `a` to what it is called in `b`; both run with the numbers of `a`, each in its own type.

    There is no tolerance. A difference is held against the rounding of both sides, measured in the types of each, and
    against a third run, `a` in float64: see the guide. `wrt` names the inputs whose gradient is asked for, `second`
    asks for second derivatives as well, `dtype` converts the floating inputs, and `target` is what `a` is called.

    Without `b`, `a` is held `against` itself, run in another way: "float64" or "float32", "eager" (the compiler's
    `backend` against the code as it was written), "batch" (a loss of the batch in so many `parts`, added up as their
    mean), or "math" (the plain formulas in place of fused kernels). Or it is held against the file of a `reference`
    that `save_reference` wrote: by another torch, on another machine, of another commit. Or only its gradients are
    held against those of another function, `as_if` it were that one: of a straight-through or surrogate backward.

    The `verdict` is "same", "differs" or "cannot say", `tensors` has one for each value and gradient, `place` the first
    place where the runs part. Nothing of the caller's is changed. Raises `InputError` where names do not match.

    >>> import torch, gradexplain as gx
    >>> x = torch.linspace(-2, 2, 9)
    >>> comparison = gx.compare(torch.nn.functional.silu, lambda x: x / (1 + (-x).exp()), [x])
    >>> comparison.verdict, comparison.of("input").reason
    ('same', 'rounding')
    """
    one = _Asked.of(a, inputs, None, None)
    if as_if is not None:
        if b is not None or against is not None or reference is not None:
            raise InputError("as_if_alone")
        return _compared_as(one, as_if, rename or {}, wrt, dtype, second, target)
    if against is not None and b is None and reference is None:
        name = target or str(one.target or getattr(a, "__name__", type(a).__name__))
        asked = _several(wrt)
        subject = Compared(one.function, one.inputs, name, asked, dtype, second)
        return compare_against(subject, against, parts=parts, backend=backend)
    if reference is not None:
        if b is not None or against is not None or second:
            raise InputError("reference_alone")
        path, asked = Path(reference), _several(wrt)
        computation = computation_of(one.function, one.inputs, wrt=asked, name=target or one.target)
        computation = computation if dtype is None else with_dtype(computation, dtype)
        return compare_with(load_reference(path), computation, path, rename or {})
    if b is None or against is not None:
        raise InputError("compare_second", names=", ".join(PRESETS))
    other = _Asked.of(b, inputs, None, None)
    given = one.inputs if isinstance(a, str) else other.inputs
    names = rename or {}
    asked = _several(wrt)
    called = (one.target or (a if isinstance(a, str) else None), other.target or (b if isinstance(b, str) else None))
    first, second_side, changed = sides_of(
        one.function, other.function, given, rename=names, wrt=asked, names=called, dtype=dtype
    )
    return compare_sides(first, second_side, rename=names, changed=changed, second=second)


@_refusing_unknown_options
@one_question()
def save_reference(
    function: Callable[..., object] | str,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    path: str | Path,
    wrt: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    target: str | None = None,
) -> Path:
    """Writes what `function` gives at `inputs` into a file that `compare(…, reference=path)` is held against later.

    The file is of the format safetensors. It has the values and gradients, these in float64, how far rounding moves
    each element, and in its header the digests of inputs, parameters and buffers, torch's release, and the steps of the
    run; no input and no weight is in it. Returns the path. Raises `InputError` where the gradients change from run to
    run, or where the file cannot be written; it is written whole or not at all.

    >>> import tempfile, torch, gradexplain as gx
    >>> x, folder = torch.linspace(-2, 2, 9), tempfile.mkdtemp()
    >>> path = gx.save_reference(torch.tanh, [x], path=f"{folder}/tanh.safetensors")
    >>> gx.compare(lambda x: x.sinh() / x.cosh(), inputs=[x], reference=path).verdict
    'same'
    """
    one = _Asked.of(function, inputs, target, None)
    write_reference(reference_of(Side(_computation(one, wrt, dtype), {})), Path(path))
    return Path(path)


@_refusing_unknown_options
def assert_same_gradients(
    a: Callable[..., object] | str,
    b: Callable[..., object] | str | None = None,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    undecided: bool = False,
    **options: Unpack[AskedOfTwo],
) -> Comparison:
    """Raises `AssertionError`, in words that can be acted on, unless `compare` says that the two are the same.

    `undecided=True` lets "cannot say" pass. The other options are those of `compare`, whose result is returned.

    >>> import torch, gradexplain as gx
    >>> gx.assert_same_gradients(torch.square, lambda x: x * x, [torch.tensor([0.5, 1.0])]).verdict
    'same'
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    comparison = compare(a, b, inputs, **options)
    if comparison.verdict == "same" or (undecided and comparison.verdict == "cannot say"):
        return comparison
    from gradexplain.narration.comparisons import summary

    raise AssertionError(summary(comparison))


def _several(names: str | Sequence[str] | None) -> Sequence[str] | None:
    """Returns names of which one may stand alone."""
    return [names] if isinstance(names, str) else names


def _verified_as(
    asked: _Asked,
    as_if: Callable[..., object] | str,
    wrt: str | Sequence[str] | None,
    dtype: torch.dtype | None,
    options: Options,
) -> Report:
    """Verifies the gradient of one function as that of another, with the parameters of the first."""
    other = _Asked.of(as_if, asked.inputs, None, None)
    wanted, called = _several(wrt), (asked.target, other.target)
    first, second, _ = sides_of(
        asked.function, other.function, asked.inputs, rename={}, wrt=wanted, names=called, dtype=dtype
    )
    computation, meant = all_outputs(first.computation), all_outputs(second.by_names())
    title = f"{computation.name} --as-if {meant.name}"
    return inquire_as(computation, meant, target=title, options=options)


def _compared_as(
    one: _Asked,
    as_if: Callable[..., object] | str,
    rename: Mapping[str, str],
    wrt: str | Sequence[str] | None,
    dtype: torch.dtype | None,
    second: bool,
    target: str | None,
) -> Comparison:
    """Holds the gradients of a function against those of another, which is the reference."""
    meant, wanted = _Asked.of(as_if, one.inputs, None, None), _several(wrt)
    names = meant.target, target or one.target
    a, b, changed = sides_of(
        meant.function, one.function, one.inputs, rename=rename, wrt=wanted, names=names, dtype=dtype
    )
    found = compare_sides(a, b, rename=rename, changed=changed, second=second, values=False)
    said = Finding("compared-as", {"name": b.computation.name, "meant": a.computation.name})
    return replace(found, against="as if", findings=(said, *found.findings))


def _refuse_idle(report: Report) -> None:
    """Raises `InputError` for a declared place where nothing is stopped."""
    for place in () if report.nothing else report.options.stops:
        if place != INTENDED and not any(is_declared(stop, place) for stop in report.stops):
            known = ", ".join(dict.fromkeys(f"{stop.source}" for stop in report.stops if stop.source)) or "–"
            raise InputError("stops_nothing", place=place, known=known)


# ------------------------------------------------------------------------------------------------ what was typed


Loaded = tuple[Target, Mapping[str, Tensor]]


def explained(request: Request, *, effort: float = EFFORT, loaded: Loaded | None = None) -> Explanation:
    """Explains what was asked for: loads the target and its inputs, unless they are `loaded`, and keeps the request."""
    explanation = explain(
        **_typed(request, loaded),
        order=request.order,
        cotangent=request.cotangent_tensor(),
        element=request.element,
        module=request.module,
        effort=effort,
        output_name=request.output_name,
    )
    return replace(explanation, request=request)


def verified(request: Request, options: Options, *, loaded: Loaded | None = None, as_if: str | None = None) -> Report:
    """Verifies what was asked for: loads the target and its inputs, unless they are `loaded`, and keeps the request.

    The question whether it is the gradient of another function cannot be asked of a record again: it keeps no request.
    """
    report = verify(**_typed(request, loaded), **asdict(options), as_if=as_if)
    return replace(report, request=request) if as_if is None else report


def compared(request: Request, other: str | None, **options: Any) -> Comparison:
    """Compares what was asked for with another target, whose inputs are the same by name; with itself without one."""
    target, inputs = request.load()
    options |= {"wrt": request.wrt or None, "dtype": request.torch_dtype()}
    if other is None:
        return compare(target.called, None, inputs, target=request.target, **options)
    second = load(parse_target(other))
    names: Mapping[str, str] = options.get("rename") or {}
    match_inputs(second, [names.get(name, name) for name in inputs])
    return replace(compare(target.called, second.called, inputs, **options), names=(request.target, other))


def saved(request: Request, path: Path) -> Path:
    """Writes what was asked for as a reference: loads the target and its inputs."""
    target, inputs = request.load()
    asked: dict[str, Any] = {"wrt": request.wrt or None, "dtype": request.torch_dtype(), "target": request.target}
    return save_reference(target.called, inputs, path=path, **asked)


def compared_single(
    request: Request, model: str, wrap: str | None, dim: int | None, patience: float
) -> tuple[Comparison | None, Literal["same", "differs", "cannot say"]]:
    """Holds what was asked for, a step of a model, on all ranks against one process: see `comparison.ranks`."""
    from gradexplain.comparison.ranks import Job, compare_single

    target = load(request.spec)
    if len(target.parameters) < 1 + bool(request.inputs):
        raise InputError("ranks_target", name=request.target)
    step = replace(target, parameters=target.parameters[1:], required=target.required[1:])
    inputs = _in_type(request.tensors(step), request.torch_dtype())
    made = load(parse_target(model))
    making: Any = made.function if made.module is None else type(made.module)
    wrapping: Any = load(parse_target(wrap)).called if wrap else torch.nn.parallel.DistributedDataParallel
    return compare_single(
        Job(target.called, making, wrapping, inputs, dim, request.seed or 0, request.target, patience)
    )


def _in_type(inputs: Mapping[str, Tensor], dtype: torch.dtype | None) -> Mapping[str, Tensor]:
    return inputs if dtype is None else {n: t.to(dtype) if t.is_floating_point() else t for n, t in inputs.items()}


def _typed(request: Request, loaded: Loaded | None) -> dict[str, Any]:
    """Returns the arguments of either verb, as a request names them."""
    target, inputs = loaded or request.load()
    return {
        "function": target.called,
        "inputs": inputs,
        "wrt": request.wrt or None,
        "by_hand": request.formulas,
        "dtype": request.torch_dtype(),
        "target": request.target,
        "locate": target.locate,
    }


@dataclass(frozen=True)
class _Asked:
    """A function and its inputs, with what a text that was given in its place says of them."""

    function: Any
    inputs: Any
    target: str | None
    locate: Callable[[], Source | None] | None
    output_name: str | None

    @classmethod
    def of(
        cls,
        function: Any,
        inputs: Any,
        target: str | None,
        locate: Callable[[], Source | None] | None,
        output_name: str | None = None,
    ) -> _Asked:
        """Returns what is asked; a text is read as the command line reads it, and its inputs are matched by name."""
        if not isinstance(function, str):
            return cls(function, {} if inputs is None else inputs, target, locate, output_name)
        spec = parse_target(function)
        loaded = load(spec)
        if not isinstance(inputs, Mapping):
            values = [inputs] if isinstance(inputs, Tensor) else list(inputs or ())
            further = (f"input{i}" for i in range(len(loaded.parameters), len(values)))
            inputs = dict(zip([*loaded.parameters, *further], values, strict=False))
        match_inputs(loaded, list(inputs))
        output = output_name or getattr(spec.place, "output", None)
        return cls(loaded.called, inputs, target or function, locate or loaded.locate, output)

    def request(
        self,
        computation: Computation,
        by_hand: Mapping[str, Callable[..., Tensor]] | None,
        dtype: torch.dtype | None,
        **explained: Any,
    ) -> Request | None:
        """Returns what was asked for; `None` where no text names the function, so that it cannot be asked again."""
        if self.target is None:
            return None
        own = {n: v for n, v in computation.inputs.items() if n not in computation.parameters}
        own = {n: v if isinstance(v, Tensor) else None for n, v in own.items()}
        name = None if dtype is None else str(dtype).removeprefix("torch.")
        return Request(self.target, own, None, name, computation.wrt, by_hand=dict(by_hand or {}), **explained)


def _computation(asked: _Asked, wrt: str | Sequence[str] | None, dtype: torch.dtype | None) -> Computation:
    names = _several(wrt)
    computation = computation_of(asked.function, asked.inputs, wrt=names, name=asked.target, locate=asked.locate)
    return computation if dtype is None else with_dtype(computation, dtype)


def _check_names(by_hand: Mapping[str, Any], computation: Computation) -> None:
    unknown = [name for name in by_hand if name not in computation.wrt]
    if unknown:
        raise InputError("unknown_by_hand", name=unknown[0], names=", ".join(computation.wrt))


@_refusing_unknown_options
def graph(
    target: Callable[..., object] | Tensor | str | Sequence[Tensor] | Mapping[str, Any],
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor | None = None,
    *,
    view: str = "backward",
    show: Sequence[str] = USUAL,
    wrt: str | Sequence[str] | None = None,
    title: str | None = None,
    output_name: str | None = None,
    locate: Callable[[], Source | None] | None = None,
) -> Picture:
    """Returns the picture of the graph that torch built: frozen data, which holds no tensor.

    `target` is a callable or an `nn.Module`, run once with `inputs`; or tensors with a graph (one, or a list, tuple or
    dict of them), which is walked as it is; their leaves have the names of the caller's variables and parameters, and
    `inputs` may map further names to leaves.

    `view` is "backward" (torch's nodes), "forward" (operators), "both" (joined) or "elements" (of small tensors).
    `show` names what stands on the nodes and edges: shapes, sources, values, gradients, derivatives, norms (as the
    width of edges), verdicts, dtypes, saved, bytes, hooks. `wrt` names the inputs whose gradient is asked for; `title`,
    `output_name` and `locate` are as `target`, `output_name` and `locate` of `explain`.

    Raises `InputError` for a target without a graph and for options that do not exist, `RunError` where the function
    fails or its output cannot be differentiated.

    >>> import torch, gradexplain as gx
    >>> picture = gx.graph(lambda x: x * x, [torch.tensor([2.0])])
    >>> len(picture.nodes), len(picture.edges)  # an edge for each use of x
    (2, 2)
    """
    from gradexplain.graphs.making import picture_of  # explaining and verifying need not wait for it

    asked = _Asked.of(target, inputs, title, locate, output_name)
    with one_question():
        return picture_of(
            asked.function,
            asked.inputs if isinstance(target, str) else inputs,
            view=view,
            show=show,
            wrt=_several(wrt),
            title=asked.target,
            output_name=asked.output_name,
            locate=asked.locate,
            frame=asking_frame(),
        )


@_refusing_unknown_options
def watch(*watched: nn.Module | Optimizer, language: str = "en", quiet: bool = False) -> Watch:
    """Watches the training in a `with` block, changes nothing of it, and says at its end what is wrong with it.

    What `gradexplain run` does for a script, for a notebook and for a loop of your own: the page is printed on standard
    error in `language`, unless `quiet`, and is the `report` of what the block yields: a `TrainingReport`. An exception
    of the block goes on, and is explained where it is of autograd. The script cannot be run again from here, so that
    a gradient that is born not finite is told with its parameters alone, and a loss with what its graph still holds.

    Every training in the block is watched. The modules and optimizers that are `watched` by name, as many as there are,
    give their names to what is said: a parameter is called by its path in the module that you gave, under the name of
    your variable, also inside a function. Raises `InputError` for what is neither a module nor an optimizer.

    >>> import torch, gradexplain as gx
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> with gx.watch(model, optimizer, quiet=True) as training:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         model(torch.ones(4, 2)).square().mean().backward()
    ...         optimizer.step()
    >>> training.report.verdict, [layer.name for layer in training.report.curves.layers]
    ('nothing unusual', ['model.weight'])
    """
    other = next((thing for thing in watched if not isinstance(thing, (nn.Module, Optimizer))), None)
    if other is not None:
        raise InputError("watched_kind", kind=type(other).__name__)
    scope = visible(asking_frame())
    modules = [thing for thing in watched if isinstance(thing, nn.Module)]
    names = {named_in(scope, m) or (type(m).__name__ if len(modules) > 1 else ""): m for m in modules}
    return Watch(language, quiet, names, [thing for thing in watched if isinstance(thing, Optimizer)])


def _as_tensor(cotangent: Tensor | float | Sequence[Any] | None) -> Tensor | None:
    if cotangent is None or isinstance(cotangent, Tensor):
        return cotangent
    return torch.as_tensor(cotangent, dtype=torch.float64)


def _traced_live(
    output: Tensor, names: Mapping[str, Any] | Sequence[Any] | Tensor | None, seed: Tensor | None
) -> tuple[Trace, str | None]:
    """Returns the trace of a live tensor, with the names that the caller's code has, and the tensor's own."""
    if names is not None and not isinstance(names, Mapping):
        raise InputError("live_inputs")
    scope = visible(asking_frame())
    known = {identity: leaf.name for identity, leaf in leaf_names(scope).items()}
    known |= {id(tensor): name for name, tensor in (names or {}).items()}
    return trace_live(output, cotangent=seed, names=known), named_in(scope, output)


def _live_title(recorded: Trace, name: str | None) -> str:
    return f"{name or recorded.nodes[recorded.output[0]].name} {tuple(recorded.value.shape)}"


# ------------------------------------------------------------------------------------------- higher derivatives


def _higher(
    computation: Computation, first: Explanation, seed: Tensor | None, order: int, effort: float
) -> list[Explanation]:
    """Explains the derivatives of order 2 to `order` by the first of the inputs asked for."""
    found: list[Explanation] = []
    wrt = next((name for name in computation.wrt if name not in computation.parameters), None)
    if order > 1 and wrt is None:
        raise InputError("order_of_parameters", names=", ".join(computation.wrt))
    below, above = computation, first
    for k in range(2, order + 1):
        assert wrt is not None
        below = derivative_of(below, wrt, first.scalar, k, seed if k == 2 else None)
        try:
            recorded = trace(below)
        except RunError as fault:
            if fault.key != "constant_derivative":
                raise
            extra = {"constant": True, "wrt": wrt}
            found.append(replace(above, order=k, steps=(), by_input=(), findings=(), groups=(), higher=(), extra=extra))
            break
        above = explain_trace(
            recorded, verify_trace(recorded, below, effort=effort), target=below.name, output_name=below.name
        )
        extra = {"wrt": wrt} | ({"hessian": _hessian(below, wrt)} if k == 2 else {})
        found.append(replace(above, order=k, extra={n: v for n, v in extra.items() if v is not None}))
    return found


def _hessian(gradient: Computation, wrt: str) -> list[Any] | None:
    """Returns the rows of the second derivatives by one small vector, `None` for any other input."""
    size = gradient.inputs[wrt].numel()
    if not 2 <= size <= SMALL or gradient.inputs[wrt].is_complex():
        return None
    rows = []
    for i in range(size):
        seed = torch.zeros(size, dtype=gradient.inputs[wrt].dtype)
        seed[i] = 1
        found = trace(gradient, cotangent=seed.reshape(gradient.inputs[wrt].shape)).gradients[wrt]
        rows.append([0.0] * size if found is None else found.flatten().tolist())
    return rows
