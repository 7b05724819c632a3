"""The parts of torch that are not its public interface and that we rely on, in one place, checked at first use."""

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from gradexplain.errors import RunError

# What we need, as dotted paths below `torch`, and what for.
_NEEDED = {
    "sequence_number": "autograd._get_sequence_nr",
    "dispatch_mode": "utils._python_dispatch.TorchDispatchMode",
    "without_modes": "utils._python_dispatch._disable_current_modes",
    "single_level_function": "autograd.function._SingleLevelFunction",
    "transforms_active": "_C._are_functorch_transforms_active",
    "saved_tensors_hooks": "_C._autograd._top_saved_tensors_default_hooks",
    "current_node": "_C._current_autograd_node",
    "is_zero_tensor": "_is_zerotensor",
    "is_transformed": "_C._functorch.is_functorch_wrapped_tensor",
    "before_forward": "nn.modules.module.register_module_forward_pre_hook",
    "after_forward": "nn.modules.module.register_module_forward_hook",
    "forward_ad": "autograd.forward_ad",
    "node_stacks": "fx.traceback",
}


@cache
def internals() -> Any:
    """Returns the private parts by our names; raises `RunError` that names what this torch lacks."""
    import importlib

    import torch

    found: dict[str, Any] = {}
    missing: list[str] = []
    for name, path in _NEEDED.items():
        module, _, attribute = f"torch.{path}".rpartition(".")
        try:
            found[name] = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            missing.append(f"torch.{path}")
    missing += _missing_attributes(torch)
    if missing:
        raise RunError("torch_lacks", version=torch.__version__, missing=", ".join(missing))
    found["dispatch_mode"] = _light(found["dispatch_mode"])
    return SimpleNamespace(**found)


def _missing_attributes(torch: Any) -> list[str]:
    """Returns which private attributes of tensors, nodes, operators and custom Functions this torch lacks."""

    class Function(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

    with torch.enable_grad():
        leaf = torch.ones((), requires_grad=True)
        made, custom = leaf.exp(), Function.apply(leaf)
    needed = {
        "grad_fn": (
            made.grad_fn,
            ("_sequence_nr", "_input_metadata", "_saved_result", "next_functions", "register_hook"),
        ),
        "tensor": (leaf, ("_version", "_base", "_backward_hooks", "_post_accumulate_grad_hooks")),
        "storage": (leaf.untyped_storage(), ("_cdata",)),
        "operator": (torch.ops.aten.exp.default, ("_schema",)),
        "Function": (Function, ("_backward_cls",)),
        "grad_fn of a Function": (custom.grad_fn, ("_forward_cls", "_input_metadata")),
    }
    return [f"{owner}.{name}" for owner, (thing, names) in needed.items() for name in names if not hasattr(thing, name)]


def _light(dispatch_mode: Any) -> Any:
    """Returns the class of modes that give each operator with its arguments and keywords to `run`, which runs it.

    Without torch's wrapper against its compiler, which would load the compiler: a second.
    """

    class DispatchMode(dispatch_mode):  # type: ignore[misc]  # torch's class is not typed
        def __init__(self, run: Callable[..., Any] | None = None) -> None:
            super().__init__()
            self.run = run

        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert self.run is not None
            return self.run(operator, args, kwargs or {})

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False

    return DispatchMode


def sequence_number() -> Callable[[], int]:
    """Returns torch's counter of recorded autograd nodes on this thread."""
    counter: Callable[[], int] = internals().sequence_number
    return counter


def node_stacks() -> Any:
    """Returns the module whose `format_stack` torch calls for each node that it makes while it looks for anomalies."""
    return internals().node_stacks


def sequence_of(node: Any) -> int:
    """Returns the number under which torch made an autograd node: those made later have larger ones."""
    return int(node._sequence_nr())


def results_of(node: Any) -> Sequence[Any]:
    """Returns shape, type and device of each output that a node stands for; none where torch does not say."""
    results: Sequence[Any] = getattr(node, "_input_metadata", ())
    return results


def nested_layout(node: Any) -> str | None:
    """Returns the layout of the nested tensors that a node stands for, `None` where it stands for others."""
    for result in results_of(node):
        if getattr(result, "is_nested_tensor", False):
            return "strided" if result.is_cpp_nested_tensor else "jagged"
    return None


def function_of(node: Any) -> Any:
    """Returns the custom Function that a node belongs to, `None` for a node of torch's own."""
    return getattr(node, "_forward_cls", None)


def has_edges(node: Any) -> bool:
    """Says whether a custom Function's node leads anywhere; of one that does not, older torch keeps nothing to ask."""
    try:
        return bool(node.next_functions)
    except RuntimeError:
        return False


def node_class(function: Any) -> Any:
    """Returns the class of the nodes that a custom Function makes, which is also that of its `ctx`."""
    return function._backward_cls


def is_reentrant_checkpoint(function: Any) -> bool:
    """Says whether a custom Function is torch's checkpoint that runs a backward pass inside its own."""
    return (function.__module__, function.__qualname__) == ("torch.utils.checkpoint", "CheckpointFunction")


def saved_names(node: Any) -> tuple[str, ...]:
    """Returns the names of what a node of torch's own keeps for the backward pass."""
    return _saved_names(node.__class__)


@cache
def _saved_names(kind: Hashable) -> tuple[str, ...]:
    return tuple(name.removeprefix(_SAVED) for name in dir(kind) if name.startswith(_SAVED))


def saved(node: Any, name: str) -> Any:
    """Returns what a node keeps under a name; raises `RuntimeError` where it was freed or overwritten."""
    return getattr(node, _SAVED + name)


def has_compiled() -> bool:
    """Says whether torch has compiled anything: what was, knows the functions that it calls by identity."""
    return bool(getattr(sys.modules.get("torch._dynamo.convert_frame"), "FRAME_COUNTER", 0))


def plainly_saved(node: Any, name: str) -> Any:
    """Returns a tensor that a node keeps as it is, `None` where it has none, or where hooks would be run to get it.

    Torch tells from 2.10 on whether there are hooks; before, nothing is returned.
    """
    kept = getattr(node, "_raw_saved_" + name, None)
    if kept is None or getattr(kept, "unpack_hook", kept) is not None:
        return None
    try:
        return saved(node, name)
    except RuntimeError:  # freed or overwritten
        return None


_SAVED = "_saved_"


def schema_of(operator: Any) -> Any:
    """Returns the schema of a dispatched operator: its name, arguments and returns, and what it writes into."""
    return operator._schema


def written_out(operator: Any, arguments: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the tensors on the way to what an operator gives, where torch has it written out in other operators."""
    import torch
    from torch._decomp import decomposition_table

    steps: list[tuple[Sequence[Any], Sequence[Any]]] = []

    def run(inner: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        result = inner(*args, **keywords)
        steps.append((_tensors_in([result]), _tensors_in([args, list(keywords.values())])))
        return result

    def copied(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(copied, value))
        return value.detach().clone() if isinstance(value, torch.Tensor) else value

    formula = decomposition_table.get(operator)
    if formula is None:
        return ()
    given = {n: copied(value) for n, value in arguments.items()}
    own = schema_of(operator).arguments
    args = [given.get(a.name, a.default_value) for a in own if not a.kwarg_only]
    keywords = {a.name: given[a.name] for a in own if a.kwarg_only and a.name in given}
    try:
        with torch.no_grad(), internals().dispatch_mode(run):
            needed = {id(t) for t in _tensors_in([formula(*args, **keywords)])}
    except Exception:  # not every formula runs by itself
        return ()
    found: list[Any] = []
    for made, used in reversed(steps):
        if any(id(t) in needed for t in made):
            needed.update(map(id, used))
            found += made
    return [t for t in reversed(found) if t.device.type != "meta" and t.numel()]


def _tensors_in(values: Any) -> list[Any]:
    import torch

    if isinstance(values, list | tuple):
        return [t for value in values for t in _tensors_in(value)]
    return [values] if isinstance(values, torch.Tensor) else []


def storage_of(tensor: Any) -> int:
    """Returns the identity of the memory that a tensor lies in."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse and other tensors without a storage
        return id(tensor)


def version_of(tensor: Any) -> int:
    """Returns how often a tensor was written into; 0 for one that does not count it."""
    return 0 if tensor.is_inference() else int(tensor._version)


def is_dual(tensor: Any) -> bool:
    """Says whether a tensor carries a tangent of forward mode."""
    import torch

    return bool(torch._VF._unpack_dual(tensor, level=0)[1] is not None)


def viewed(tensor: Any) -> Any:
    """Returns the tensor that this one is a view of, `None` for one that is no view."""
    return tensor._base


def hooks_of(tensor: Any) -> list[Callable[..., object]]:
    """Returns the hooks on a tensor's gradient."""
    return list((tensor._backward_hooks or {}).values())


def hooks_after(tensor: Any) -> list[Callable[..., object]]:
    """Returns the hooks that run when a leaf's gradient was accumulated into it."""
    return list((tensor._post_accumulate_grad_hooks or {}).values())


def backward_hooks_of(module: Any) -> tuple[list[Callable[..., object]], list[Callable[..., object]]]:
    """Returns the hooks that a module's backward pass runs: on what it sent, and before, on what arrives."""
    return list(module._backward_hooks.values()), list(module._backward_pre_hooks.values())


HookTables = dict[str, tuple[Any, dict[Any, Any]]]


def hook_tables(tensor: Any) -> HookTables:
    """Returns the tables of a tensor's hooks, each with what is in it now."""
    tables = {name: getattr(tensor, name) for name in _HOOKS}
    return {name: (table, dict(table or {})) for name, table in tables.items()}


def put_hook_tables(tensor: Any, tables: HookTables) -> None:
    """Gives a tensor the hooks back that it had."""
    for name, (table, entries) in tables.items():
        if table is not None and dict(table) != entries:
            table.clear()
            table.update(entries)
        if getattr(tensor, name) is not table:
            setattr(tensor, name, table)


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def has_hooks(tensor: Any) -> bool:
    """Says whether hooks wait on a tensor's gradient."""
    return any(getattr(tensor, name) for name in _HOOKS)
