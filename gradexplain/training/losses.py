"""The live graph of a loss, read before its backward pass frees it: what it reaches, and shapes of it that say more.

Only names, shapes and numbers of torch's nodes are read; no tensor is computed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

from torch import Tensor

from gradexplain.findings.births import born_live
from gradexplain.findings.finding import Finding
from gradexplain.recording.frames import is_ours_or_torchs
from gradexplain.recording.lifetime import SAFE, anchor
from gradexplain.recording.live import nodes_live
from gradexplain.recording.nodes import is_leaf, ordered
from gradexplain.targets.sources import Source
from gradexplain.training.data import Batch, Loaded, batch_of, is_cut, rounded
from gradexplain.versions.internals import results_of, sequence_of

# So many of a loss's probabilities, rounded to the wrong end, are no stray label.
_ROUNDED = 0.01
# Larger graphs are not walked.
MOST_NODES = 20_000
# What only lays numbers out anew.
_VIEWS = frozenset(
    f"{name}Backward{n}"
    for name in (
        "View", "ReshapeAlias", "UnsafeView", "T", "Transpose", "Permute", "Squeeze", "Unsqueeze", "Expand", "Clone",
        "Slice", "Select", "ToCopy", "Alias", "AsStrided", "Flatten", "Contiguous", "Split", "SplitWithSizes", "Index",
    )
    for n in range(3)
)  # fmt: skip
# What computes each element from the elements at its place.
_ELEMENTWISE = re.compile(
    r"(Pow|Mul|Div|Add|Sub|Abs|Neg|Exp|Log|Log1P|Sqrt|Square|Clamp\w*|Where|Huber|SmoothL1|Tanh|Relu|Softplus|Cosh)\w*"
    r"Backward\d$"
)
_BINARY = re.compile(r"(Sub|Add|Mul|Div)Backward\d$")
_PAIRED = re.compile(r"(MseLoss|SmoothL1Loss|HuberLoss|L1Loss|BinaryCrossEntropy)Backward\d$")
_GATES = re.compile(r"(Relu|LeakyRelu|Threshold|Hardtanh|Clamp\w*|Elu|Hardswish|Hardsigmoid|Maximum)\w*Backward\d$")
_TURNED = frozenset({"TBackward0", "TransposeBackward0", "PermuteBackward0"})
_BETWEEN = re.compile(r"\w*(BatchNorm|LayerNorm|GroupNorm)\w*Backward\d$|AddBackward\d$")
_PRODUCTS = re.compile(r"(Addmm|Mm|Bmm|Convolution|Mv|Addmv|Linear)\w*Backward\d$")
_STEPS = re.compile(r"(Round|Sign|Floor|Ceil|Trunc)Backward\d$")  # what goes up in steps: flat between them
_KL = re.compile(r"nn.functional\.py\", line \d+, in kl_div\n")
_REDUCED = re.compile(r"(Mean|Sum)Backward\d$")
# Losses that expect something else than what these give them: the finding's code by loss and by what comes before.
_TWICE: Mapping[str, Mapping[str, str]] = {
    "LogSoftmaxBackward0": {"SoftmaxBackward0": "softmax-twice", "SigmoidBackward0": "sigmoid-before-softmax"},
    "BinaryCrossEntropyWithLogitsBackward0": {
        "SigmoidBackward0": "sigmoid-twice",
        "SoftmaxBackward0": "softmax-before-sigmoid",
    },
    "NllLossBackward0": {"SoftmaxBackward0": "probabilities-not-logs"},
}


@dataclass(frozen=True)
class Pattern:
    """A place in a loss's graph that says more than its parts: the finding's code, where it is, and its numbers."""

    code: str
    operator: str
    source: Source | None
    data: Mapping[str, Any]
    sure: bool = True  # or what looks like it, in a graph of which torch noted no lines


@dataclass(frozen=True)
class LossGraph:
    """What a loss reaches: leaves, how many nodes, how many of them from before, and what its patterns are.

    `averaged` says that the loss is a mean and nothing divides it.
    """

    leaves: tuple[Tensor, ...]
    gated: frozenset[int]  # of the leaves, the weights of units that may be switched off
    uses: int  # how often one leaf is used, at most: in a recurrence, once a moment
    nodes: int
    older: int
    root: str
    averaged: bool
    batch: Batch
    patterns: tuple[Pattern, ...]
    ends: tuple[Any, ...] = ()  # of the nodes that are not older, the root and those that take leaves
    flat: Pattern | None = None  # what has slope 0 everywhere


def graph_of(loss: Tensor, since: int, loaded: Loaded) -> LossGraph | None:
    """Returns what there is to see of the graph of a loss, `None` of one that is too large to be walked.

    Nodes below the number `since` count as older; `loaded` is what a loader gave last.
    """
    root = loss.grad_fn
    if root is None:
        return None
    nodes = _walked(root)
    if nodes is None:
        return None
    inner = [node for node in nodes if not is_leaf(node)]
    if len(nodes) > SAFE:
        anchor(sorted(inner, key=sequence_of, reverse=True))
    users = _users(inner)
    patterns = (*_twice(inner), *_not_logarithms(inner), *_broadcast(inner, users, root), *_rounded(inner))
    return LossGraph(
        leaves=tuple(node.variable for node in nodes if is_leaf(node)),
        gated=frozenset(_gated(inner)),
        uses=max(_uses(inner).values(), default=0),
        nodes=len(inner),
        older=sum(sequence_of(node) < since for node in inner),
        root=root.name(),
        averaged=_averaged(root),
        batch=batch_of(inner, loaded),
        patterns=patterns,
        ends=tuple(_ends(inner, root, since)),
        flat=next(_flat(inner), None),
    )


def _ends(nodes: Sequence[Any], root: Any, since: int) -> Iterator[Any]:
    for node in nodes:
        takes = any(child is not None and is_leaf(child) for child, _ in node.next_functions)
        if node is root or (takes and sequence_of(node) >= since):
            yield node


def any_below(root: Any, is_sought: Callable[[Any], bool], passed: set[Any]) -> bool:
    """Says whether a node that is sought is below another; what was `passed` before is not asked again."""
    stack = [root]
    while stack:
        node = stack.pop()
        if node in passed:
            continue
        if is_sought(node):
            return True
        passed.add(node)
        stack.extend(child for child, _ in node.next_functions if child is not None)
    return False


def bridge_of(loss: Tensor, since: int) -> Pattern | None:
    """Returns what was made before the number `since` and is used by what was made after it: the way back."""
    for node in _walked(loss.grad_fn) or ():
        if is_leaf(node) or sequence_of(node) < since:
            continue
        for child, _ in node.next_functions:
            if child is not None and not is_leaf(child) and sequence_of(child) < since:
                return Pattern("graph-of-before", operator_text(child), source_of(child), {})
    return None


Lines = Sequence[tuple[str, Source | None]]


def lines_of(loss: Tensor) -> Lines:
    """Returns the nodes of a loss by name, producers first, each with its line where torch was asked to note it."""
    return [(node.name(), None if is_leaf(node) else source_of(node)) for node in ordered(loss.grad_fn)]


def born_in(loss: Tensor, names: Mapping[int, str], lines: Lines) -> Finding | None:
    """Returns where the first value of a live loss was made that is not finite.

    Its line is that of the node which stood at the same place in an earlier graph, whose `lines` are known.
    """
    nodes = nodes_live(loss, names)
    found = [node.name for node in nodes], [name.rpartition("::")[2] for name, _ in lines]
    places: dict[int, Source | None] = {}
    for own, other, count in SequenceMatcher(None, *found, autojunk=False).get_matching_blocks():
        places |= {own + i: lines[other + i][1] for i in range(count)}
    return born_live([replace(node, source=places.get(node.index)) for node in nodes])


def _walked(root: Any) -> list[Any] | None:
    found: dict[Any, None] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found[node] = None
        if len(found) > MOST_NODES:
            return None
        stack.extend(child for child, _ in node.next_functions if child is not None and child not in found)
    return list(found)


def _users(nodes: Sequence[Any]) -> dict[Any, list[Any]]:
    users: dict[Any, list[Any]] = {}
    for node in nodes:
        for child, _ in node.next_functions:
            if child is not None:
                users.setdefault(child, []).append(node)
    return users


def source_of(node: Any) -> Source | None:
    """Returns the line of the user's code that made a node, where torch was asked to note it."""
    for entry in reversed(node.metadata.get("traceback_", ())):
        place = re.match(r'\s*File "(.+)", line (\d+), in (.+)\n\s*(.*)', entry)
        if place and not is_ours_or_torchs(place[1]) and "site-packages" not in place[1]:
            return Source(place[1], int(place[2]), place[4].strip(), None, place[3])
    return None


def shape_of(node: Any, number: int = 0) -> tuple[int, ...]:
    """Returns the shape of an output of a node; of one that torch does not tell, none."""
    results = results_of(node)
    return tuple(map(int, results[number].shape)) if number < len(results) else ()


def _through_views(node: Any, number: int) -> tuple[Any, int]:
    while node is not None and node.name() in _VIEWS and node.next_functions:
        node, number = node.next_functions[0]
    return node, number


def _twice(nodes: Sequence[Any]) -> Iterator[Pattern]:
    for node in nodes:
        for before, code in _TWICE.get(node.name(), {}).items():
            given, _ = _through_views(*node.next_functions[0])
            if given is not None and given.name() == before:
                yield Pattern(code, operator_text(given), source_of(given), {"loss": operator_text(node)})


def _not_logarithms(nodes: Sequence[Any]) -> Iterator[Pattern]:
    """Yields where kl_div was given probabilities: it takes their target times them, or the target less them.

    These two say nothing of kl_div: whether it asked for them is known where torch noted the lines.
    """
    for node in nodes:
        if node.name() not in ("MulBackward0", "SubBackward0"):
            continue
        given, _ = _through_views(*node.next_functions[1])
        if given is None or given.name() not in ("SoftmaxBackward0", "SigmoidBackward0"):
            continue
        noted = node.metadata.get("traceback_", ())
        if not noted or any(_KL.search(entry) for entry in noted):
            yield Pattern(
                "probabilities-not-logs", operator_text(given), source_of(given), {"loss": "kl_div"}, bool(noted)
            )


def _broadcast(nodes: Sequence[Any], users: Mapping[Any, Sequence[Any]], root: Any) -> Iterator[Pattern]:
    """Yields where a column met a row of the same length and the square of all pairs went into the loss."""
    for node in nodes:
        if _BINARY.match(node.name()) and _into_reduction(node, users):
            yield from _squared(node, node.next_functions, shape_of(node))
        elif _PAIRED.match(node.name()):
            for child, _ in node.next_functions:
                if child is not None and child.name() == "ExpandBackward0":
                    yield from _squared(node, child.next_functions, shape_of(child))


def _squared(node: Any, inputs: Sequence[tuple[Any, int]], shape: tuple[int, ...]) -> Iterator[Pattern]:
    slot = next((i for i, (child, _) in enumerate(inputs) if child is not None), 0)
    given = [(child, number) for child, number in inputs if child is not None]
    if len(given) != 1 or len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2 or is_leaf(given[0][0]):
        return
    own = shape_of(*given[0])
    if own in ((shape[0], 1), (shape[0],)):
        other = (shape[0],) if len(own) == 2 else (shape[0], 1)
        data = {"one": str(own), "other": str(other), "shape": str(shape), "given": len(own), "slot": slot}
        yield Pattern("unmeant-broadcast", operator_text(node), source_of(node), data)


def _rounded(nodes: Sequence[Any]) -> Iterator[Pattern]:
    """Yields where a loss takes probabilities of which some were rounded to the wrong one of 0 and 1."""
    for node in nodes:
        if node.name() != "BinaryCrossEntropyBackward0":
            continue
        made, _ = _through_views(*node.next_functions[0])
        if made is not None and made.name() in ("SigmoidBackward0", "SoftmaxBackward0"):
            share, dtype = rounded(node, made)
            if share >= _ROUNDED:
                data = {"share": share, "dtype": dtype, "loss": operator_text(node)}
                yield Pattern("probability-rounded", operator_text(made), source_of(made), data)


def _flat(nodes: Sequence[Any]) -> Iterator[Pattern]:
    for node in nodes:
        why = "flat" if _STEPS.match(node.name()) else "cut" if is_cut(node) else ""
        if why:
            yield Pattern("gradient-zero", operator_text(node), source_of(node), {"why": why})


def _into_reduction(node: Any, users: Mapping[Any, Sequence[Any]]) -> bool:
    """Says whether what a node made goes element by element into sums and means, and nowhere else."""
    shape, waiting, seen, ends = shape_of(node), [node], {node}, set()
    while waiting:
        own = set(users.get(waiting.pop(), ())) - seen
        for user in own:
            if _REDUCED.match(user.name()) and shape_of(user) == ():
                ends.add(user)
            elif not _ELEMENTWISE.match(user.name()) or shape_of(user) != shape:
                return False
        waiting += own - ends
        seen |= own
    return True


def _uses(nodes: Sequence[Any]) -> Counter[int]:
    children = (child for node in nodes for child, _ in node.next_functions if child is not None and is_leaf(child))
    return Counter(id(child.variable) for child in children)


def _gated(nodes: Sequence[Any]) -> Iterator[int]:
    """Yields the weights whose product goes straight, or normalised, into what may switch units off."""
    for node in nodes:
        if not _GATES.match(node.name()):
            continue
        given = node.next_functions[0][0]
        while given is not None and (given.name() in _VIEWS or _BETWEEN.match(given.name())):
            given = given.next_functions[0][0]
        if given is not None and _PRODUCTS.match(given.name()):
            for factor, _ in given.next_functions:
                while factor is not None and factor.name() in _TURNED:
                    factor = factor.next_functions[0][0]
                if factor is not None and is_leaf(factor):
                    yield id(factor.variable)


def _averaged(root: Any) -> bool:
    name = root.name()
    if name.startswith("MeanBackward"):
        return True
    return bool(re.search(r"Loss\w*Backward|CrossEntropy", name)) and getattr(root, "_saved_reduction", 0) == 1


def operator_text(node: Any) -> str:
    """Returns `log_softmax` for LogSoftmaxBackward0."""
    name = re.sub(r"Backward\d*$", "", node.name())
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
