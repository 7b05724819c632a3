"""Recording: one forward pass under a dispatch mode, one backward pass under hooks, joined into a `Trace`.

The join rests on torch's sequence numbers: while an operator is dispatched, the counter less one is the number of the
autograd node that was made for it. The first operator dispatched under a number owns the node; what runs inside a
custom `Function.forward` has grad mode off and belongs to the Function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn

from gradexplain.computation import Computation, chosen_output, is_ours_or_torchs
from gradexplain.errors import InputError, RunError
from gradexplain.graph import Cut, Edge, Node, Source, Trace
from gradexplain.internals import internals, sequence_number
from gradexplain.sources import source_at

LEAF = "AccumulateGrad"


def trace(computation: Computation, *, cotangent: Tensor | None = None) -> Trace:
    """Runs `computation` forward and backward once and returns what torch did.

    `cotangent` has the output's shape; without it, 1 for a scalar output and ones otherwise. Raises `RunError` where
    the output cannot be differentiated, naming the place where the gradient was lost.
    """
    leaves = computation.leaf_values()
    with torch.enable_grad():
        recorder = _Recorder(computation.locate)
        with _module_paths(computation.modules, recorder), recorder.recording():
            result = computation.run(leaves)
    output, outputs = chosen_output(result, computation.name)
    named = {id(tensor): name for name, tensor in leaves.items() if tensor.requires_grad}
    named |= {id(tensor): name for name, tensor in computation.leaves.items() if id(tensor) not in named}
    if not output.requires_grad:
        raise _not_differentiable(recorder, leaves)
    seed = seed_for(output, cotangent)
    wanted = {n: leaves[n] for n in computation.wrt}
    found, sent = backward(output, list(wanted.values()), seed)
    return _joined(
        output=output,
        seed=seed,
        recorder=recorder,
        named=named,
        inputs=leaves,
        gradients=dict(zip(wanted, found, strict=True)),
        sent=sent,
        modules={p: type(m).__name__ for p, m in _paths(computation.modules).values()},
        outputs=outputs,
    )


def seed_for(output: Tensor, cotangent: Tensor | None) -> Tensor:
    """Returns the cotangent that the backward pass starts from: ones where none is given.

    Raises `InputError` where the given one cannot take the output's shape.
    """
    if cotangent is None:
        return torch.ones_like(output)
    try:
        return cotangent.detach().to(output.dtype).to(output.device).expand(output.shape).clone()
    except RuntimeError as fault:
        raise InputError("cotangent_shape", seen=_shape_text(cotangent), needed=_shape_text(output)) from fault


def _shape_text(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


# ------------------------------------------------------------------------------------------------------- forward


@dataclass(slots=True)
class _Held:
    """A recorded tensor. It is replaced by a copy just before something writes into its storage."""

    tensor: Tensor
    producer: Any  # the autograd node that made it, None for a leaf or a constant
    number: int
    tracked: bool
    storage: int  # of the tensor as it was recorded


@dataclass(slots=True)
class _Event:
    """One dispatched operator."""

    operator: Any
    sequence: int
    recorded: bool  # grad mode was on
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    outputs: Any
    frame: tuple[CodeType, int] | Source | None
    module: str


@dataclass
class _Recorder:
    locate: Callable[[], Source | None] | None
    events: list[_Event] = field(default_factory=list)
    module: list[str] = field(default_factory=lambda: [""])
    held: dict[int, list[_Held]] = field(default_factory=dict)

    def recording(self) -> Any:
        """Returns the dispatch mode that writes into this recorder."""
        return _mode_class()(self)

    def hold(self, value: Any) -> Any:
        """Returns `value` with its tensors replaced by records of them."""
        if isinstance(value, Tensor):
            held = _Held(value, value.grad_fn, value.output_nr, value.requires_grad, _storage(value))
            self.held.setdefault(held.storage, []).append(held)
            return held
        if isinstance(value, (list, tuple)):
            return type(value)(self.hold(v) for v in value) if type(value) in (list, tuple) else value
        return value

    def preserve(self, written: Iterator[Tensor]) -> None:
        """Copies what was recorded of the storages that are about to be written into."""
        for tensor in written:
            for held in self.held.pop(_storage(tensor), ()):
                with torch.no_grad():
                    held.tensor = held.tensor.detach().clone()

    def frame(self) -> tuple[CodeType, int] | Source | None:
        """Returns where the user's code stands now."""
        return self.locate() if self.locate is not None else _user_frame()


def user_source() -> Source | None:
    """Returns the innermost place of the user's code on the stack."""
    frame = _user_frame()
    return source_at(*frame) if frame else None


def _user_frame() -> tuple[CodeType, int] | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _skipped(frame.f_code):
        frame = frame.f_back
    return (frame.f_code, frame.f_lasti) if frame is not None else None


_SKIPPED: dict[CodeType, bool] = {}


def _skipped(code: CodeType) -> bool:
    found = _SKIPPED.get(code)
    if found is None:
        found = _SKIPPED[code] = is_ours_or_torchs(code.co_filename) or code.co_filename.endswith(("/runpy.py",))
    return found


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse and other tensors without a storage
        return id(tensor)


def _mode_class() -> Any:
    """Returns the dispatch mode; its base class is torch's, hence made at first use."""
    global _MODE
    if _MODE is None:
        base: Any = internals().dispatch_mode
        counter = sequence_number()

        class Mode(base):  # type: ignore[misc]  # the base class is not typed
            def __init__(self, recorder: _Recorder) -> None:
                super().__init__()
                self.recorder = recorder

            def __torch_dispatch__(
                self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
            ) -> Any:
                recorder, keywords = self.recorder, kwargs or {}
                event = _Event(
                    operator,
                    counter() - 1,
                    torch.is_grad_enabled(),
                    (),
                    {},
                    None,
                    recorder.frame(),
                    recorder.module[-1],
                )
                if operator._schema.is_mutable:
                    recorder.preserve(_written(operator, args, keywords))
                event.arguments = tuple(recorder.hold(a) for a in args)
                event.keywords = {k: recorder.hold(v) for k, v in keywords.items()}
                if operator._schema.is_mutable:
                    for held in _flat(event.arguments):
                        held.tensor = _before(held.tensor)
                outputs = operator(*args, **keywords)
                event.outputs = recorder.hold(outputs)
                recorder.events.append(event)
                return outputs

        _MODE = Mode
    return _MODE


_MODE: Any = None


def _before(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.detach().clone()


def _written(operator: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Iterator[Tensor]:
    for position, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else keywords.get(argument.name)
            yield from (v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, Tensor))


def _flat(value: Any) -> Iterator[_Held]:
    if isinstance(value, _Held):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _flat(part)


def _paths(modules: Mapping[str, nn.Module]) -> dict[int, tuple[str, nn.Module]]:
    """Returns, by identity, each module with its path; the root of a function's own module has its variable's name."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for owner, root in modules.items():
        for path, module in root.named_modules():
            found.setdefault(id(module), (".".join(p for p in (owner, path) if p), module))
    return found


@contextmanager
def _module_paths(modules: Mapping[str, nn.Module], recorder: _Recorder) -> Iterator[None]:
    """Keeps `recorder.module` at the path of the module that is running."""
    if not modules:
        yield
        return
    paths = {identity: path for identity, (path, _) in _paths(modules).items()}
    stack = recorder.module

    def enter(module: nn.Module, args: object) -> None:
        stack.append(paths.get(id(module), stack[-1]))

    def leave(module: nn.Module, args: object, result: object) -> None:
        stack.pop()

    before = internals().before_forward(enter)
    after = internals().after_forward(leave, always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


# ------------------------------------------------------------------------------------------------------ backward


@dataclass(slots=True)
class Sent:
    """What one node received and sent in the backward pass."""

    received: tuple[Tensor | None, ...]
    sent: tuple[Tensor | None, ...]


def backward(output: Tensor, wanted: Sequence[Tensor], seed: Tensor) -> tuple[list[Tensor | None], dict[Any, Sent]]:
    """Runs the backward pass; returns the gradients and, in the order of the pass, what each node received and sent.

    The graph is kept. No `.grad` is written; every hook is removed again.
    """
    seen: dict[Any, Sent] = {}
    handles = [node.register_hook(_observer(node, seen)) for node in nodes_below(output.grad_fn) if not is_leaf(node)]
    try:
        if wanted:
            return differentiated(output, wanted, seed, retain_graph=True), seen
        return [], seen
    finally:
        for handle in handles:
            handle.remove()


def differentiated(output: Tensor, wanted: Sequence[Tensor], seed: Tensor, **options: bool) -> list[Tensor | None]:
    """Returns `torch.autograd.grad`'s gradients, `None` for an input that the output does not depend on.

    A seed of 1 for one number is left out: torch loads sympy, half a second, to compare the shape of one that is given.
    """
    plain = output.numel() == 1 and not output.is_complex() and bool((seed == 1).all())
    return list(torch.autograd.grad(output, wanted, None if plain else seed, allow_unused=True, **options))


def _observer(node: Any, seen: dict[Any, Sent]) -> Callable[[Any, Any], None]:
    def observe(sent: tuple[Tensor | None, ...], received: tuple[Tensor | None, ...]) -> None:
        seen[node] = Sent(tuple(received), tuple(sent))

    return observe


def is_leaf(node: Any) -> bool:
    """Says whether an autograd node stands for a leaf tensor."""
    return hasattr(node, "variable")


def nodes_below(root: Any) -> list[Any]:
    """Returns every autograd node that `root` reaches, without recursion."""
    found: dict[Any, None] = {}
    stack = [root] if root is not None else []
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found[node] = None
        stack.extend(child for child, _ in node.next_functions if child is not None and child not in found)
    return list(found)


# ---------------------------------------------------------------------------------------------------------- join


def _joined(
    *,
    output: Tensor,
    seed: Tensor,
    recorder: _Recorder,
    named: Mapping[int, str],
    inputs: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    sent: Mapping[Any, Sent],
    modules: Mapping[str, str],
    outputs: int = 1,
) -> Trace:
    nodes_in_order = ordered(output.grad_fn)
    index = {node: i for i, node in enumerate(nodes_in_order)}
    owners = _owners(recorder.events, nodes_in_order)
    values = _values(recorder.events, owners, output)
    nodes = tuple(
        _leaf(node, i, named, gradients) if is_leaf(node) else _node(node, i, index, owners.get(node), values, sent)
        for node, i in index.items()
    )
    return Trace(
        nodes=nodes,
        output=(index[output.grad_fn], output.output_nr) if output.grad_fn is not None else (0, 0),
        value=output.detach(),
        cotangent=seed,
        inputs={name: tensor.detach() for name, tensor in inputs.items()},
        gradients={name: None if g is None else g.detach() for name, g in gradients.items()},
        order=tuple(index[node] for node in sent),
        cuts=tuple(_cuts(recorder.events, owners, list(inputs.values()))),
        modules=modules,
        outputs=outputs,
    )


def ordered(root: Any) -> list[Any]:
    """Returns all nodes below `root`, producers first: leaves by first use, then the others by sequence number."""
    nodes = nodes_below(root)
    inner = sorted((n for n in nodes if not is_leaf(n)), key=lambda n: n._sequence_nr())
    leaves: dict[Any, None] = {}
    for node in inner:
        leaves.update((child, None) for child, _ in node.next_functions if child is not None and is_leaf(child))
    return [*leaves, *inner] if inner else list(nodes)


def _owners(events: Sequence[_Event], nodes: Sequence[Any]) -> dict[Any, _Event]:
    """Returns for each autograd node the operator that it was made for, or the first one inside a custom Function."""
    first: dict[int, _Event] = {}
    for event in events:
        first.setdefault(event.sequence, event)
    return {n: first[n._sequence_nr()] for n in nodes if not is_leaf(n) and n._sequence_nr() in first}


def _values(events: Sequence[_Event], owners: Mapping[Any, _Event], output: Tensor) -> dict[tuple[Any, int], Tensor]:
    """Returns the recorded value of each output of each node: from its own operator, or from whoever used it."""
    found: dict[tuple[Any, int], Tensor] = {}
    if output.grad_fn is not None:
        found[output.grad_fn, output.output_nr] = output
    for event in events:
        for held in (*_flat(event.arguments), *_flat(event.keywords)):
            if held.producer is not None:
                found.setdefault((held.producer, held.number), held.tensor)
    for node, event in owners.items():
        if event.recorded:
            for number, held in enumerate(_flat([event.outputs])):
                found.setdefault((node, number), held.tensor)
    return found


def _leaf(node: Any, index: int, named: Mapping[int, str], gradients: Mapping[str, Tensor | None]) -> Node:
    name = named.get(id(node.variable), f"leaf{index}")
    return Node(
        index=index,
        name=LEAF,
        operator=None,
        arguments={},
        outputs=(node.variable.detach(),),
        edges=(),
        cotangents=(gradients.get(name),),
        saved={},
        leaf=name,
    )


def _node(
    node: Any,
    index: int,
    positions: Mapping[Any, int],
    event: _Event | None,
    values: Mapping[tuple[Any, int], Tensor],
    sent: Mapping[Any, Sent],
) -> Node:
    owned = event if event is not None and event.recorded else None
    arguments = _bound(owned) if owned else {}
    passed = sent.get(node, Sent((), ()))
    producers = [(child, number) for child, number in node.next_functions]
    used = _argument_names(producers, arguments)
    edges = tuple(
        Edge(positions[child], number, used[slot], passed.sent[slot] if slot < len(passed.sent) else None)
        for slot, (child, number) in enumerate(producers)
        if child is not None
    )
    return Node(
        index=index,
        name=node.name(),
        operator=str(owned.operator) if owned else None,
        arguments={name: _plain(value) for name, value in arguments.items()},
        outputs=_outputs(node, owned, values),
        edges=edges,
        cotangents=tuple(passed.received),
        saved=saved_by(node),
        source=_source(event.frame) if event else None,
        module=event.module if event else "",
    )


def _outputs(node: Any, owned: _Event | None, values: Mapping[tuple[Any, int], Tensor]) -> tuple[Tensor | None, ...]:
    if owned is not None:
        own = [held.tensor.detach() for held in _flat([owned.outputs])]
        if own:
            return tuple(own)
    count = len(getattr(node, "_input_metadata", ())) or 1
    return tuple(v.detach() if (v := values.get((node, n))) is not None else None for n in range(count))


def _bound(event: _Event) -> dict[str, Any]:
    """Returns the arguments of a recorded operator by the names of its schema, defaults filled in."""
    bound: dict[str, Any] = {}
    for position, argument in enumerate(event.operator._schema.arguments):
        if position < len(event.arguments):
            bound[argument.name] = event.arguments[position]
        elif argument.name in event.keywords:
            bound[argument.name] = event.keywords[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def _plain(value: Any) -> Any:
    if isinstance(value, _Held):
        return value.tensor.detach()
    if type(value) in (list, tuple):
        return type(value)(_plain(v) for v in value)
    return value


def _argument_names(producers: Sequence[tuple[Any, int]], arguments: Mapping[str, Any]) -> list[str]:
    """Returns which argument each edge of a node belongs to, "" where it cannot be told."""
    candidates = [
        (name if isinstance(value, _Held) else f"{name}[{i}]", held)
        for name, value in arguments.items()
        for i, held in enumerate(_flat(value))
        if held.tracked
    ]
    names: list[str] = []
    for child, number in producers:
        match = next((c for c in candidates if child is not None and _made_by(c[1], child, number)), None)
        if match is not None:
            candidates.remove(match)
        names.append(match[0] if match else "")
    return names


def _made_by(held: _Held, node: Any, number: int) -> bool:
    if is_leaf(node):
        return held.producer is None
    return held.producer is not None and held.producer == node and held.number == number


def saved_by(node: Any) -> dict[str, Any]:
    """Returns what a node keeps for the backward pass: `_saved_self` as `self`; `ctx.saved_tensors` by position."""
    kept: dict[str, Any] = {}
    for name in dir(node):
        if name.startswith("_saved_"):
            try:
                value = getattr(node, name)
            except RuntimeError:  # freed by an earlier backward pass
                continue
            kept[name.removeprefix("_saved_")] = value.detach() if isinstance(value, Tensor) else value
    if not kept and hasattr(node, "saved_tensors"):
        try:
            kept = {str(i): t.detach() for i, t in enumerate(node.saved_tensors) if t is not None}
        except RuntimeError:
            return {}
    return kept


def _source(frame: tuple[CodeType, int] | Source | None) -> Source | None:
    return source_at(*frame) if isinstance(frame, tuple) else frame


# ---------------------------------------------------------------------------------------------------------- cuts

# Operators whose output does not depend on the numbers of their input.
_FRESH = ("empty", "zeros", "ones", "full", "rand", "new_", "bernoulli", "normal", "uniform", "scalar_tensor", "arange")


def _cuts(events: Sequence[_Event], owners: Mapping[Any, _Event], inputs: Sequence[Tensor]) -> Iterator[Cut]:
    """Finds the values that depend on an input and went on into a recorded operator without their gradient."""
    owning = {id(event) for event in owners.values()}
    dependent = {_storage(t) for t in inputs if t.requires_grad}
    lost: dict[int, tuple[str, _Event]] = {}
    reported: set[int] = set()
    for event in events:
        operands = [*_flat(event.arguments), *_flat(event.keywords)]
        owned = id(event) in owning and event.recorded
        for held in operands if owned else ():
            loss = lost.get(held.storage)
            if loss and not held.tracked and held.tensor.is_floating_point() and id(loss[1]) not in reported:
                reported.add(id(loss[1]))
                yield _cut(*loss)
        if _is_fresh(event) or not any(h.storage in dependent for h in operands):
            continue
        inherited = next((lost[h.storage] for h in operands if not h.tracked and h.storage in lost), None)
        for held in _flat([event.outputs]):
            dependent.add(held.storage)
            loss = None if owned else inherited or _loss(event)
            if loss:
                lost[held.storage] = loss


# Operators whose output does not depend on the numbers of their input.
_FRESH = ("empty", "zeros", "ones", "full", "rand", "new_", "bernoulli", "normal", "uniform", "scalar_tensor", "arange")


def _is_fresh(event: _Event) -> bool:
    return _short_name(event).startswith(_FRESH)


def _short_name(event: _Event) -> str:
    name: str = event.operator._schema.name
    return name.removeprefix("aten::")


def _loss(event: _Event) -> tuple[str, _Event] | None:
    """Returns why the output of an operator that owns no node does not carry a gradient."""
    if _short_name(event) == "detach":
        return "detach", event
    if not event.recorded:
        return "no_grad", event
    made = next(_flat([event.outputs]), None)
    continuous = made is not None and (made.tensor.is_floating_point() or made.tensor.is_complex())
    return None if continuous else ("integer", event)


def _cut(reason: str, event: _Event) -> Cut:
    return Cut(reason, str(event.operator), _source(event.frame), event.module)


def _not_differentiable(recorder: _Recorder, leaves: Mapping[str, Tensor]) -> RunError:
    """Returns the error that says where the gradient of the output was lost."""
    asked = [name for name, tensor in leaves.items() if tensor.requires_grad]
    if not asked:
        return RunError("nothing_differentiable", names=", ".join(leaves) or "–")
    for event in reversed(recorder.events):
        tracked = any(h.tracked for h in (*_flat(event.arguments), *_flat(event.keywords)))
        loss = _loss(event) if tracked and not _is_fresh(event) else None
        if loss:
            cut = _cut(*loss)
            code = cut.source.code if cut.source else ""
            return RunError(f"lost_by_{cut.reason}", operator=cut.operator, place=str(cut.source or "?"), code=code)
    return RunError("output_constant", names=", ".join(asked))
