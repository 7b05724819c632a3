"""Which elements are written out: small values whole, of large ones one element, followed from an input upwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradexplain.errors import InputError
from gradexplain.explanation.elements import can_take_apart, is_real, parts_of
from gradexplain.mathematics.indices import Index, indices, unravelled
from gradexplain.recording.summaries import TensorSummary
from gradexplain.recording.trace import Trace
from gradexplain.rules.registry import rule_of

# By (node, output): the elements of that value.
Selection = Mapping[tuple[int, int], tuple[Index, ...]]
# A step that makes more elements than this passes on only its largest part.
_FANNED_OUT = 160


def shown_elements(trace: Trace, element: str | None, detailed: set[int]) -> Selection:
    """Returns which elements of which value are written out.

    Small values whole; of a large one the element that carries most of the followed element's gradient. With `element`,
    only what depends on that one.
    """
    shown: dict[tuple[int, int], dict[Index, None]] = {}
    used = {(e.producer, e.output) for n in trace.nodes for e in n.edges} | {trace.output}
    if element is None:
        for node in trace.nodes:
            for output, tensor in enumerate(node.outputs):
                if is_real(tensor) and TensorSummary(tensor).small and (node.index, output) in used:
                    shown[node.index, output] = dict.fromkeys(indices(tensor.shape))
    for start, index in _followed(trace, element):
        _follow(trace, start, index, shown, detailed)
    return {key: tuple(sorted(found)) for key, found in shown.items()}


def _followed(trace: Trace, element: str | None) -> list[tuple[int, Index]]:
    leaves = {n.leaf: n for n in trace.nodes if n.leaf is not None}
    if element is not None:
        name, index = parse_element(element, {n: tuple(t.shape) for n, t in trace.inputs.items()})
        return [(leaves[name].index, index)] if name in leaves else []
    large = [
        (leaf.index, g)
        for name, leaf in leaves.items()
        if (g := trace.gradients.get(name or "")) is not None and is_real(g) and not TensorSummary(g).small
    ]
    return [(index, unravelled(int(g.abs().argmax()), g.shape)) for index, g in large[:4]]


def parse_element(element: str, shapes: Mapping[str, Sequence[int]]) -> tuple[str, Index]:
    """Returns the input's name and the index of `x[1, 2]`; raises `InputError` where there is no such element."""
    name, _, rest = element.strip().partition("[")
    name = name.strip()
    if name not in shapes:
        raise InputError("unknown_element", element=element, names=", ".join(shapes) or "–")
    try:
        index = tuple(int(part) for part in rest.rstrip("] ").split(",") if part.strip())
    except ValueError as fault:
        raise InputError("bad_element", element=element, shape=tuple(shapes[name]), name=name) from fault
    sizes = tuple(shapes[name])
    if len(index) != len(sizes) or any(not -size <= i < size for i, size in zip(index, sizes, strict=True)):
        raise InputError("bad_element", element=element, shape=sizes, name=name)
    return name, tuple(i % size for i, size in zip(index, sizes, strict=True))


def _follow(
    trace: Trace,
    start: int,
    index: Index,
    shown: dict[tuple[int, int], dict[Index, None]],
    detailed: set[int],
) -> None:
    """Marks what one element goes into, step by step up to the output; of a large fan-out only its largest part."""
    consumers = trace.consumers()
    stack: list[tuple[tuple[int, int], Index]] = [((start, 0), index)]
    while stack:
        key, at = stack.pop()
        if at in shown.setdefault(key, {}) and key != (start, 0):
            continue
        shown[key][at] = None
        for consumer, slot in consumers.get(key[0], ()):
            node, edge = trace.nodes[consumer], trace.nodes[consumer].edges[slot]
            rule = rule_of(node.operator)
            if edge.output != key[1] or consumer not in detailed or not can_take_apart(node, edge, rule):
                continue
            assert rule is not None
            parts = sorted(parts_of(node, edge.argument, rule, at).parts, key=lambda p: -abs(p.value))
            whole = sum(t.numel() for t in node.outputs if t is not None) <= _FANNED_OUT
            stack.extend(((consumer, p.output), p.element) for p in (parts if whole else parts[:1]))
