"""At a kink, the function that torch differentiates goes along the branch that torch takes: measured, not tabled.

An operator bends where its second difference along the way that its arguments move shrinks like the step and not like
its square. There it is replaced by its recorded value and its own backward, J, times the change of its arguments,

    y(a) = y(a₀) + J (a − a₀),

so that what torch takes at a tie, a bound or a zero is followed on every version of torch. An element is replaced only
where J lies between the slopes on its two sides: a convention may be any number between them, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradexplain.errors import RunError
from gradexplain.recording.cuts import pads, short_name
from gradexplain.recording.events import Application, Event, Held, tensors_in
from gradexplain.recording.frozen import Bent, Frozen, Step
from gradexplain.versions.internals import schema_of

# A step at which a bend of an operator stands far above its last digits, and its curvature far below.
BEND_STEP = 2.0**-17
# Kinks that meet only after an earlier one was followed.
MOST_ROUNDS = 4
# Draws whose gradient moves a quantile of the distribution and not the draw (implicit reparametrisation: Figurnov and
# others, Adv. Neural Inf. Process. Syst. 31, 2018); torch approximates it.
_MOVES_QUANTILES = frozenset({"_standard_gamma", "torch.distributions.dirichlet._Dirichlet"})
# Operators that give numbers of their input and where they stood. Of several equal ones any may be given.
_SELECTING = frozenset({"sort", "topk", "kthvalue", "median", "nanmedian", "mode", "max", "min", "cummax", "cummin"})
# Rows of a Jacobian that are asked for one by one, where torch has no derivative of a backward.
MOST_ROWS = 64


def with_branches(function: Frozen, values: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Frozen:
    """Returns the function with every operator that bends at `values`, along a direction, put on torch's own branch."""
    for _ in range(MOST_ROUNDS):
        found = dict(_bent_steps(function, values, direction))
        if not found:
            return function
        function = replace(function, bent={**function.bent, **found})
    return function


def padding_steps(function: Frozen) -> Iterator[tuple[int, Bent]]:
    """Yields the steps that look up a row which by definition gets no gradient: its lookups stay as they are."""
    for number, step in enumerate(function.steps):
        if step.live and isinstance(step.origin, Event) and pads(step.origin):
            yield number, _padded(step)


def _padded(step: Step) -> Bent:
    indices, padding = step.origin.arguments[1].tensor, step.origin.arguments[2]
    recorded = step.made[0].tensor.detach()

    def bent(arguments: Sequence[Any], outputs: list[Tensor]) -> list[Tensor]:
        return [torch.where((indices == padding)[..., None], recorded, outputs[0])]

    return bent


# A function is replayed in float64; what was rounded to float32 before stays so.
_LAST_DIGITS = 64 * torch.finfo(torch.float32).eps


def symmetric_steps(function: Frozen, reads_symmetric: Callable[[object], bool]) -> Iterator[tuple[int, Bent]]:
    """Yields the steps of operators that read a symmetric matrix, as functions of its symmetric change alone.

    Torch's gradient by such a matrix is the one for symmetric changes, shared between an element and its mirror image.
    """
    for number, step in enumerate(function.steps):
        if step.live and isinstance(step.origin, Event) and reads_symmetric(step.origin.operator):
            yield number, _symmetric(function, step)


def _symmetric(function: Frozen, step: Step) -> Bent:
    given = [_plain(argument) for argument in step.origin.arguments]
    operator = _Local(function, step, given)

    def bent(arguments: Sequence[Any], outputs: list[Tensor]) -> list[Tensor]:
        change = [(c + c.mH) / 2 for c in operator.changes(arguments)]
        return operator.outputs(change, 1.0)

    return bent


def hermitian_steps(function: Frozen) -> Iterator[tuple[int, Bent]]:
    """Yields the steps that were told to read a Hermitian matrix, and read one, as those of any matrix.

    Torch's gradient by such a matrix (pinv) is the one for all changes, of which those that keep it Hermitian are some.
    """
    for number, step in enumerate(function.steps):
        if step.live and isinstance(step.origin, Event) and step.origin.keywords.get("hermitian") is True:
            given = _plain(step.origin.arguments[0])
            if given.numel() and bool(((given - given.mH).abs() <= _LAST_DIGITS * given.abs().amax()).all()):
                yield number, _of_any_matrix(step, given)


def _of_any_matrix(step: Step, given: Tensor) -> Bent:
    keywords = {**{k: _plain(v) for k, v in step.origin.keywords.items()}, "hermitian": False}
    below = given.tril(-1)
    read = below + below.mH + torch.diag_embed(given.diagonal(dim1=-2, dim2=-1).real)

    def bent(arguments: Sequence[Any], outputs: list[Tensor]) -> list[Tensor]:
        matrix, *rest = arguments
        return list(tensors_in(step.call([read + (matrix - given), *rest], keywords)))

    return bent


def triangular_steps(function: Frozen) -> Iterator[tuple[int, Bent]]:
    """Yields the inverses by a Cholesky factor, where it is triangular, as those by any matrix: (L Lᴴ)⁻¹.

    Torch's gradient is the one for all changes of L, of which those that keep it triangular are some.
    """
    for number, step in enumerate(function.steps):
        if step.live and _name(step) == "cholesky_inverse":
            given, upper = [*map(_plain, step.origin.arguments), False][:2]
            if not bool((given.tril(-1) if upper else given.triu(1)).any()):
                yield number, _of_any_factor(bool(upper))


def _of_any_factor(upper: bool) -> Bent:
    def bent(arguments: Sequence[Any], outputs: list[Tensor]) -> list[Tensor]:
        factor = arguments[0]
        return [torch.linalg.inv(factor.mH @ factor if upper else factor @ factor.mH)]

    return bent


def quantile_steps(function: Frozen) -> Iterator[tuple[int, Bent]]:
    """Yields the draws whose gradient moves a quantile, as what their own backward makes of a change."""
    for number, step in enumerate(function.steps):
        if step.live and _name(step) in _MOVES_QUANTILES:
            yield number, _linear(function, step)


def normalised_steps(function: Frozen) -> Iterator[tuple[int, Bent]]:
    """Yields the losses whose gradient is for log-probabilities that stay normalised, as what that is the gradient of.

    Torch's gradient of the CTC loss, p − γ, is the one by the logits of a softmax (Graves and others, ICML 2006). By
    the log-probabilities the loss alone has −γ, and p is what the sum of all p has.
    """
    for number, step in enumerate(function.steps):
        if step.live and _name(step) == "_ctc_loss" and _is_normalised(_plain(step.origin.arguments[0])):
            yield number, _with_probabilities(_plain(step.origin.arguments[0]))


def _is_normalised(log_probabilities: Tensor) -> bool:
    return bool((log_probabilities.logsumexp(-1).abs() <= _LAST_DIGITS).all())


def _with_probabilities(given: Tensor) -> Bent:
    def bent(arguments: Sequence[Any], outputs: list[Tensor]) -> list[Tensor]:
        log_probabilities, _, lengths = arguments[:3]
        times = torch.arange(len(given), device=given.device)[:, None]
        read = (times < torch.as_tensor(lengths, device=given.device))[..., None]
        added = ((log_probabilities.exp() - given.exp()) * read).sum((0, 2))
        return [outputs[0] + added, *outputs[1:]]

    return bent


def selecting_steps(function: Frozen) -> Iterator[tuple[int, Bent]]:
    """Yields the steps that select among numbers of which some are equal, with what they gave selected for good.

    Each selection that gives the same numbers is a branch of its own; beside three equal numbers, the slopes of one
    that moves alone are those of the first and the last branch, and torch's may be another.
    """
    for number, step in enumerate(function.steps):
        selects = step.live and isinstance(step.origin, Event) and short_name(step.origin) in _SELECTING
        if selects and len(step.made) == 2 and step.made[0].tensor.numel():
            given, dim = _plain(step.origin.arguments[0]), _dimension(step)
            if given.dim() and bool((given.sort(dim).values.diff(dim=dim) == 0).any()):
                yield number, _selected(step, dim)


def _dimension(step: Step) -> int:
    assert isinstance(step.origin, Event)
    names = [argument.name for argument in schema_of(step.origin.operator).arguments]
    named = {**dict(zip(names, step.origin.arguments, strict=False)), **step.origin.keywords}
    return int(named.get("dim", -1))


def _selected(step: Step, dim: int) -> Bent:
    places = step.made[1].tensor

    def bent(arguments: Sequence[Any], outputs: list[Tensor]) -> list[Tensor]:
        dropped = places.dim() < arguments[0].dim()
        chosen = arguments[0].gather(dim, places.unsqueeze(dim) if dropped else places)
        return [chosen.squeeze(dim) if dropped else chosen, *outputs[1:]]

    return bent


def _name(step: Step) -> str:
    if isinstance(step.origin, Event):
        return short_name(step.origin)
    return f"{step.origin.function.__module__}.{step.origin.function.__qualname__}"


def _linear(function: Frozen, step: Step) -> Bent:
    operator = _Local(function, step, [_plain(argument) for argument in step.origin.arguments])

    def bent(arguments: Sequence[Any], outputs: list[Tensor]) -> list[Tensor]:
        whole = [torch.ones_like(y, dtype=torch.bool) for y in outputs]
        along = operator.along(operator.changes(arguments), whole)
        return [held.tensor.detach() + j for held, j in zip(step.made, along, strict=True)]

    return bent


def _bent_steps(
    function: Frozen, values: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> Iterator[tuple[int, Bent]]:
    here: dict[int, tuple[Sequence[Any], list[Tensor]]] = {}
    there: dict[int, Sequence[Any]] = {}
    moved = {n: x + BEND_STEP * direction[n] if n in direction else x for n, x in values.items()}
    function.replayed(values, lambda number, given, made: here.update({number: (given, made)}))
    function.replayed(moved, lambda number, given, made: there.update({number: given}))
    for number, (given, made) in here.items():
        step = function.steps[number]
        if number in function.bent or _looks_on(step):
            continue
        branch = _branch(function, step, given, made, there[number])
        if branch is not None:
            yield number, branch


def _looks_on(step: Step) -> bool:
    """Says whether an operator only looks at memory (a view): it has no kink."""
    if isinstance(step.origin, Application) or step.origin.writes:
        return False
    return all(result.alias_info is not None for result in schema_of(step.origin.operator).returns)


def _branch(
    function: Frozen, step: Step, given: Sequence[Any], made: list[Tensor], moved: Sequence[Any]
) -> Bent | None:
    operator = _Local(function, step, given)
    change = operator.changes(moved)
    if not any(bool((c != 0).any()) for c in change):
        return None
    try:
        ends = {s: operator.outputs(change, s) for s in (1.0, 0.5, -0.5, -1.0)}
    except Exception:  # a number next to the one it was given is none that it takes
        return None
    masks = [
        _bends(y, ends[1.0][i], ends[0.5][i], ends[-0.5][i], ends[-1.0][i])
        if y.is_floating_point()
        else torch.zeros_like(y, dtype=torch.bool)
        for i, y in enumerate(made)
    ]
    if not any(bool(mask.any()) for mask in masks):
        return None
    try:
        taken = operator.along(change, masks)
    except Exception:  # a backward that fails has no branch to follow
        return None
    within = [
        mask & _between(y, ends[1.0][i], ends[-1.0][i], taken[i]) if bool(mask.any()) else mask
        for i, (y, mask) in enumerate(zip(made, masks, strict=True))
    ]
    if not any(bool(mask.any()) for mask in within):
        return None

    def bent(arguments: Sequence[Any], outputs: list[Tensor]) -> list[Tensor]:
        along = operator.along(operator.changes(arguments), within)
        return [
            torch.where(mask, y + j, new) if bool(mask.any()) else new
            for mask, y, j, new in zip(within, made, along, outputs, strict=True)
        ]

    return bent


def _bends(y: Tensor, ahead: Tensor, half: Tensor, back: Tensor, behind: Tensor) -> Tensor:
    """Says where a second difference does not shrink like the square of the step."""
    whole, halved = (ahead - 2 * y + behind).abs(), (half - 2 * y + back).abs()
    reach = (ahead - y).abs() + (behind - y).abs()
    noise = 64 * torch.finfo(y.dtype).eps * torch.maximum(y.abs(), torch.maximum(ahead.abs(), behind.abs()))
    kinked = (halved > 0.4 * whole) & (halved < 0.75 * whole)  # a jump does not shrink at all
    return kinked & (whole > noise) & (whole > 1e-3 * reach)


def _between(y: Tensor, ahead: Tensor, behind: Tensor, taken: Tensor) -> Tensor:
    """Says where a change lies between those on the two sides, but for rounding."""
    right, left = ahead - y, y - behind
    low, high = torch.minimum(right, left), torch.maximum(right, left)
    slack = 1e-3 * (high - low) + 64 * torch.finfo(y.dtype).eps * y.abs()
    return (taken >= low - slack) & (taken <= high + slack)


@dataclass(frozen=True)
class _Local:
    """One operator at the arguments that it had: what it gives near them, and what its own backward makes of it."""

    function: Frozen
    step: Step
    given: Sequence[Any]

    def changes(self, arguments: Sequence[Any]) -> list[Tensor]:
        """Returns by how much each live argument differs."""
        pairs = zip(self._live(arguments), self._live(self.given), strict=True)
        return [new - old for new, old in pairs]

    def outputs(self, change: Sequence[Tensor], size: float) -> list[Tensor]:
        """Returns the outputs with the live arguments moved by a part of a change."""
        with torch.no_grad():
            return self._called([x + size * c for x, c in zip(self._live(self.given), change, strict=True)])

    def along(self, change: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """Returns J times a change for each output, by the operator's own backward; right where the mask is set."""
        with torch.enable_grad():
            leaves = [x.clone().requires_grad_() for x in self._live(self.given)]
            outputs = self._called(leaves)
            return [
                self._output_along(y, leaves, change, mask) if bool(mask.any()) else torch.zeros_like(y)
                for y, mask in zip(outputs, masks, strict=True)
            ]

    def _output_along(self, y: Tensor, leaves: Sequence[Tensor], change: Sequence[Tensor], mask: Tensor) -> Tensor:
        def against(cotangent: Tensor, **options: bool) -> Tensor:
            gradients = torch.autograd.grad(y, leaves, cotangent, retain_graph=True, allow_unused=True, **options)
            parts = [_paired(g, c).sum() for g, c in zip(gradients, change, strict=True) if g is not None]
            return torch.stack(parts).sum() if parts else torch.zeros((), dtype=y.dtype)

        if not y.requires_grad:
            return torch.zeros_like(y)
        if all(leaf.shape == y.shape for leaf in leaves) and self._is_elementwise():
            gradients = torch.autograd.grad(y, leaves, torch.ones_like(y), retain_graph=True, allow_unused=True)
            own = [_paired(g, c) for g, c in zip(gradients, change, strict=True) if g is not None]
            return torch.stack(own).sum(0).detach() if own else torch.zeros_like(y)
        if int(mask.sum()) > MOST_ROWS:
            return self._transposed(y, against)
        found = torch.zeros_like(y).detach()
        for place in mask.nonzero().tolist():
            unit = torch.zeros_like(y)
            unit[tuple(place)] = 1
            found[tuple(place)] = float(against(unit))
        return found

    def _is_elementwise(self) -> bool:
        """Says whether each element of the output depends on the arguments' elements at its own place alone."""
        if isinstance(self.step.origin, Application):
            return False
        return torch.Tag.pointwise in self.step.origin.operator.tags or _name(self.step) == "_standard_gamma"

    def _transposed(self, y: Tensor, against: Callable[..., Tensor]) -> Tensor:
        """Returns J times the change as the derivative of a vjp by its cotangent, held against one plain vjp."""
        cotangent = torch.zeros_like(y, requires_grad=True)
        pairing = against(cotangent, create_graph=True)
        if not pairing.requires_grad:
            return torch.zeros_like(y)
        (found,) = torch.autograd.grad(pairing, cotangent)
        probe = torch.linspace(0.5, 1.0, y.numel(), dtype=y.dtype, device=y.device).reshape(y.shape)
        apart = (against(probe) - (probe * found).sum()).abs()
        if not bool(apart <= 1e-9 * (probe * found).abs().sum()):  # a double backward may have another convention
            raise RunError("replay_misaligned", operator=str(self.step.origin))
        return found.detach()

    def _live(self, arguments: Sequence[Any]) -> list[Tensor]:
        """Returns the tensors among arguments that torch differentiates by."""
        return [value for held, value in _pairs(self.step.origin.arguments, arguments) if self._is_live(held, value)]

    def _is_live(self, held: Any, value: Any) -> bool:
        if not isinstance(held, Held) or not (value.is_floating_point() or value.is_complex()):
            return False
        return self.function.reaches(held)

    def _called(self, live: Sequence[Tensor]) -> list[Tensor]:
        rest = list(live)

        def filled(held: Any, value: Any) -> Any:
            if type(held) in (list, tuple):
                return type(held)(filled(h, v) for h, v in zip(held, value, strict=True))
            chosen = rest.pop(0) if self._is_live(held, value) else value
            return chosen.clone() if isinstance(chosen, Tensor) else chosen

        positional = [filled(h, v) for h, v in zip(self.step.origin.arguments, self.given, strict=True)]
        keywords = {k: _plain(v) for k, v in self.step.origin.keywords.items()}
        return list(tensors_in(self.step.call(positional, keywords)))


def _paired(gradient: Tensor, change: Tensor) -> Tensor:
    """Returns what each element of a change makes of a real number with this gradient."""
    return (gradient.conj() * change).real if gradient.is_complex() else gradient * change


def _pairs(held: Sequence[Any], values: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    for one, value in zip(held, values, strict=True):
        if type(one) in (list, tuple):
            yield from _pairs(one, value)
        else:
            yield one, value


def _plain(value: Any) -> Any:
    if isinstance(value, Held):
        return value.tensor.detach()
    return type(value)(_plain(v) for v in value) if type(value) in (list, tuple) else value
