"""The one walk over torch's own graph: every backward node and both edges of `x*x`, without recursion."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gradexplain.graphs.graph import Edge, Facts, Graph, Kind, Node, Note, Output, Saved, Shape
from gradexplain.recording.naming import Leaf
from gradexplain.recording.nodes import is_leaf, kept_by, ordered, saved_by
from gradexplain.recording.tracing import hooks_on
from gradexplain.targets.sources import Source

_FREED_PROBES = 64


class Mark(NamedTuple):
    """What a recorded run knows of a node: its operator, the place in the user's code, the module."""

    operator: str
    source: Source | None
    module: str


def walked(
    roots: Sequence[tuple[str, Tensor]],
    leaves: Mapping[int, Leaf],
    *,
    title: str,
    marks: Mapping[Any, Mark] | None = None,
    keeps: bool = False,
    hooked: Iterable[Tensor] = (),
) -> Graph:
    """Returns the picture of the graph below `roots`; `leaves` names leaf tensors by identity.

    `marks` are by torch's node; `keeps` asks for what each node saved; hooks are looked for on the roots, on
    the tensors `hooked`, and on what was saved where that is asked for. Nodes are in the order in which torch
    recorded them, leaves first, in the order of their first use.
    """
    with _collector_paused():
        ends = [(name, get_gradient_edge(tensor)) for name, tensor in roots]
        found = ordered(*(end.node for _, end in ends))
        number = {node: k for k, node in enumerate(found)}
        kept = (t for node in found for t in kept_tensors(node)) if keeps else ()
        hooks = counted(hooks_on([*hooked, *kept, *(tensor for _, tensor in roots)]))
        describe = _Describer(leaves, marks or {}, keeps, hooks)
        nodes = tuple([describe(node, k) for k, node in enumerate(found)])
        edges = tuple(
            [
                _new(Edge, (number[child], output, k, slot, "", None))
                for k, node in enumerate(found)
                for slot, (child, output) in enumerate(node.next_functions)
                if child is not None
            ]
        )
        outputs = tuple(Output(number[end.node], end.output_nr, name) for name, end in ends)
    notes = tuple(_notes(found, keeps))
    return Graph(title, "backward", nodes, edges, outputs, torch.__version__, notes=notes)


_Form = tuple[tuple[Shape, ...], str]
# Twice as fast as Node(…), which counts where there are millions.
_new: Any = tuple.__new__


class _Describer:
    """Describes torch's nodes one after another; equal shapes are kept once, a node without a mark has the last one's
    place."""

    def __init__(
        self, leaves: Mapping[int, Leaf], marks: Mapping[Any, Mark], keeps: bool, hooks: Mapping[Any, int]
    ) -> None:
        self.leaves, self.marks, self.keeps, self.hooks = leaves, marks, keeps, hooks
        self.forms: dict[Any, _Form] = {}
        self.kinds: dict[type, tuple[str, Kind]] = {}
        self.dtypes: dict[torch.dtype, str] = {}
        self.storages: dict[int, int] = {}
        self.unnamed = 0
        self.last: Mark = Mark("", None, "")

    def __call__(self, node: Any, number: int) -> Node:
        name, kind = self.kinds.get(type(node)) or self.kind(node)
        if kind == "input":
            return self.leaf(node.variable)
        results = node._input_metadata
        shapes, dtype = self.single(results[0]) if len(results) == 1 else self.several(results)
        sequence = node._sequence_nr()
        operator, source, module = self.marked(node) if self.marks else _UNMARKED
        facts = Facts(saved=self.saved(node, number)) if self.keeps else None
        if self.hooks and node in self.hooks:
            facts = replace(facts or Facts(), hooks=self.hooks[node])
        found: Node = _new(Node, (name, kind, shapes, dtype, "", operator, source, module, sequence, facts))
        return found

    def kind(self, node: Any) -> tuple[str, Kind]:
        """Returns a node's name and kind; torch has a type of its own for every kind of node, but for a few helpers."""
        own = hasattr(node, "_forward_cls")
        kind: Kind = "input" if hasattr(node, "variable") else "function" if own else "operation"
        if type(node).__name__ != "CppFunction":
            self.kinds[type(node)] = (node.name(), kind)
        return node.name(), kind

    def leaf(self, tensor: Tensor) -> Node:
        known = self.leaves.get(id(tensor))
        if known is None:
            self.unnamed += 1
            known = Leaf(f"leaf{self.unnamed}", isinstance(tensor, torch.nn.Parameter))
        hooks = hooks_of(tensor) + known.hooks
        kind: Kind = "parameter" if known.parameter else "input"
        facts = Facts(hooks=hooks) if hooks else None
        return Node(known.name, kind, (tuple(tensor.shape),), self.dtype(tensor.dtype), facts=facts)

    def single(self, result: Any) -> _Form:
        key = (tuple(result.shape), result.dtype)
        return self.forms.get(key) or self.forms.setdefault(key, ((key[0],), self.dtype(key[1])))

    def several(self, results: Sequence[Any]) -> _Form:
        shapes = tuple([shape for result in results for shape in self.single(result)[0]])
        return shapes, self.dtype(results[0].dtype) if results else ""

    def dtype(self, dtype: torch.dtype) -> str:
        return self.dtypes.setdefault(dtype, str(dtype).removeprefix("torch."))

    def marked(self, node: Any) -> Mark:
        mark = self.marks.get(node)
        if mark is None:
            return self.last._replace(operator="")
        self.last = mark if mark.source is not None else mark._replace(source=self.last.source)
        return self.last

    def saved(self, node: Any, number: int) -> tuple[Saved, ...]:
        return tuple(self.kept(name, tensor, number) for name, tensor in _named_tensors(saved_by(node)))

    def kept(self, name: str, tensor: Tensor, number: int) -> Saved:
        first = self.storages.setdefault(_storage(tensor), number)
        size = tensor.numel() * tensor.element_size()
        shares = first if first != number else None
        return Saved(name, tuple(tensor.shape), self.dtype(tensor.dtype), size, shares)


_UNMARKED = Mark("", None, "")


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse and other tensors without a storage
        return id(tensor)


def _named_tensors(saved: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in saved.items():
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor):
                yield name, tensor


def kept_tensors(node: Any) -> Iterator[Tensor]:
    """Yields the tensors that a node keeps for its backward, as they hang on the graph."""
    return (tensor for _, tensor in _named_tensors({} if is_leaf(node) else kept_by(node)))


def counted(hooks: Mapping[tuple[Any, int], Sequence[object]]) -> dict[Any, int]:
    """Returns how many hooks wait on the results of each node together."""
    found: dict[Any, int] = {}
    for (node, _), own in hooks.items():
        found[node] = found.get(node, 0) + len(own)
    return found


def hooks_of(tensor: Tensor) -> int:
    """Returns how many of the user's hooks wait on a tensor."""
    tables = (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None))
    return sum(len(table) for table in tables if table)


def _notes(nodes: Sequence[Any], keeps: bool) -> Iterator[Note]:
    compiled = sum(node.name().startswith("CompiledFunction") for node in nodes if hasattr(node, "_forward_cls"))
    if compiled:
        yield Note("compiled", {"count": compiled})
    if keeps and _freed(nodes):
        yield Note("freed")


def _freed(nodes: Sequence[Any]) -> bool:
    """Says whether an earlier backward pass freed what the first nodes with saved tensors kept."""
    for node in nodes[:_FREED_PROBES]:
        for name in dir(node):
            if name.startswith("_saved_") or name == "saved_tensors":
                try:
                    getattr(node, name)
                except RuntimeError:
                    return True
    return False


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pauses Python's cycle collector, which would look through millions of tuples again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
