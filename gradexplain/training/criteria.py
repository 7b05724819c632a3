"""When what a training left in its ledger is a finding. Every criterion is a ratio or a count, and has no scale:
a loss that is a thousand times larger, with a learning rate that makes up for it, is judged the same."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from statistics import median

from torch import Tensor, nn

from gradexplain.findings.finding import Finding, Remedy
from gradexplain.training.ledger import Call, Ledger, Look, Steps

# Updates of a fifth of the weights, at half of the steps, leave nothing of what was learned before.
_LARGE_UPDATE = 0.2
# A gradient that loses six orders of magnitude on its way is below the rounding of the others.
_VANISHED = 1e-6
_SKIPS = 20
_DEAD = 0.5
_LOST = 0.9


def judged(ledger: Ledger) -> tuple[Finding, ...]:
    """Returns the findings of a ledger, those that come first in a step first."""
    found = [
        *_patterns(ledger),
        *_unreached(ledger),
        *_not_in_optimizer(ledger),
        *_not_cleared(ledger),
        *_undivided(ledger),
        *_carried(ledger),
        *_skipping(ledger),
        *_scheduled(ledger),
        *_too_large(ledger),
        *_vanishing(ledger),
        *_dead(ledger),
        *_lost_updates(ledger),
        *_modes(ledger),
    ]
    return tuple(found)


# ------------------------------------------------------------------------------------------------ the loss's graph


def _patterns(ledger: Ledger) -> Iterator[Finding]:
    seen: set[tuple[str, object]] = set()
    for call in ledger.calls.values():
        checked = [graph for _, graph in call.graphs]
        for step, graph in call.graphs:
            for pattern in graph.patterns:
                key = pattern.code, pattern.operator
                if key in seen or sum(any(p.code == pattern.code for p in g.patterns) for g in checked) * 2 < len(
                    checked
                ):
                    continue
                seen.add(key)
                data = {"operator": pattern.operator, **pattern.data}
                source = pattern.source or call.source
                yield Finding(
                    pattern.code, data, source, _PITFALLS.get(pattern.code), step, "forward", remedy=_cure(pattern.code)
                )


_PITFALLS = {"softmax-twice": "P38", "sigmoid-twice": "P38", "unmeant-broadcast": "P37"}


def _cure(code: str) -> Remedy:
    return Remedy(code)


def _carried(ledger: Ledger) -> Iterator[Finding]:
    for call in ledger.calls.values():
        older = [(step, graph.older, graph.nodes) for step, graph in call.graphs if step >= 1]
        grown = [count for _, count, _ in older]
        if len(grown) >= 3 and grown[-1] > grown[0] > 0 and grown == sorted(grown):
            steps = older[-1][0] - older[0][0]
            own = older[-1][2] - older[-1][1]
            if grown[-1] - grown[0] > 0.5 * own * steps:
                data = {"count": grown[-1], "step": older[-1][0]}
                yield Finding(
                    "graph-carried", data, call.source, "P04", older[0][0], "forward", remedy=_cure("graph-carried")
                )
                return
    kept = [(step, alive, made) for step, alive, made in ledger.kept_graphs if made >= 3]
    if len(kept) >= 2 and all(alive == made for _, alive, made in kept):
        step, alive, _ = kept[-1]
        yield Finding(
            "graphs-kept", {"count": alive, "step": step}, None, "P39", 0, "forward", remedy=_cure("graphs-kept")
        )


# ----------------------------------------------------------------------------------------------------- parameters


def _unreached(ledger: Ledger) -> Iterator[Finding]:
    """Parameters that an optimizer has and that never get a gradient, all of one reason together."""
    for steps in ledger.optimizers.values():
        places = [p for p, count in steps.missing.items() if count == len(steps.looks) and steps.count >= 3]
        found = [(p, t) for p in places if (t := steps.parameters[p]()) is not None and t.requires_grad]
        found = [(p, t) for p, t in found if not _has_learning_siblings(t, steps, ledger)]
        if found:
            names = tuple(ledger.names.of(t) for _, t in found)
            call = next(iter(ledger.calls.values()), None)
            everything = len(found) == len(steps.parameters)
            code = "nothing-learns" if everything else "no-gradient"
            data = {"names": listed(names), "count": steps.count}
            source = call.source if call else steps.source
            yield Finding(code, data, source, "P56", 0, "forward", parameters=names, remedy=_cure(code))


def _has_learning_siblings(parameter: Tensor, steps: Steps, ledger: Ledger) -> bool:
    """Says whether a parameter belongs to one of several equal parts of which others learn: an unchosen expert."""
    match = re.match(r"(.*?)\.(\d+)\.(.*)$", ledger.names.of(parameter))
    if match is None:
        return False
    like = re.compile(rf"{re.escape(match[1])}\.\d+\.{re.escape(match[3])}$")
    others = [p for kept in steps.parameters if (p := kept()) is not None and p is not parameter]
    return any(o.grad is not None and o.shape == parameter.shape and like.match(ledger.names.of(o)) for o in others)


def _not_in_optimizer(ledger: Ledger) -> Iterator[Finding]:
    """Parameters that the loss reaches and no optimizer has, where they cannot be meant to stay as they are."""
    if not any(steps.count >= 3 for steps in ledger.optimizers.values()):
        return
    had = {id(p) for steps in ledger.optimizers.values() for k in steps.parameters if (p := k()) is not None}
    known = frozenset().union(*(steps.known for steps in ledger.optimizers.values()))
    apart = [leaf for kept, seen in ledger.leaves.values() if seen >= 3 and (leaf := kept()) is not None]
    apart = [leaf for leaf in apart if isinstance(leaf, nn.Parameter) and leaf.requires_grad and id(leaf) not in had]
    hidden = [leaf for leaf in apart if id(leaf) in ledger.names.hidden]
    later = [leaf for leaf in apart if id(leaf) not in known and id(leaf) not in ledger.names.hidden]
    for code, found in (("hidden-from-optimizer", hidden), ("made-after-optimizer", later)):
        if found:
            names = tuple(ledger.names.of(leaf) for leaf in found)
            steps = max(ledger.optimizers.values(), key=lambda s: s.count)
            data = {"names": listed(names)}
            pitfall = "P35" if code.startswith("hidden") else "P36"
            yield Finding(code, data, steps.source, pitfall, 0, "optimizer", parameters=names, remedy=_cure(code))


def listed(names: Sequence[str]) -> str:
    """Returns names in one line, many of them shortened."""
    shown = ", ".join(names[:4])
    return f"{shown}, … ({len(names)})" if len(names) > 4 else shown


# ------------------------------------------------------------------------------------------------------- the loop


def _not_cleared(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers.values():
        if steps.count >= 8 and steps.stale > 0.5 * (steps.count - 1):
            call = _main_call(ledger)
            data = {"stale": steps.stale, "count": steps.count - 1}
            source = call.source if call else steps.source
            yield Finding("not-cleared", data, source, "P11", 1, "backward", remedy=_cure("not-cleared"))


def _undivided(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers.values():
        if steps.count < 3 or not steps.repeated:
            continue
        ((call, passes), often), *_ = steps.repeated.most_common(1)
        own = next((c for c in ledger.calls.values() if id(c) == call), None)
        if own is None or passes < 2 or often < 0.8 * steps.count or not own.graphs:
            continue
        if all(graph.averaged for _, graph in own.graphs):
            data = {"passes": passes}
            yield Finding("not-divided", data, own.source, "P44", 0, "backward", remedy=_cure("not-divided"))


def _skipping(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers.values():
        if steps.most_skipped >= _SKIPS:
            data = {"count": steps.most_skipped, "taken": steps.count}
            call = _main_call(ledger)
            yield Finding(
                "scaler-skips",
                data,
                call.source if call else None,
                "P43",
                None,
                "optimizer",
                remedy=_cure("scaler-skips"),
            )


def _scheduled(ledger: Ledger) -> Iterator[Finding]:
    taken = max((s.count for s in ledger.optimizers.values()), default=0)
    for kind, count in ledger.schedulers.values():
        if kind not in ("StepLR", "MultiStepLR", "ExponentialLR", "MultiplicativeLR") or count < 0.8 * taken:
            continue
        for steps in ledger.optimizers.values():
            rates = steps.rates
            low = next((i for i, rate in enumerate(rates) if 0 < rate < 1e-4 * rates[0] or rate == 0), None)
            if low is not None and low < 0.8 * len(rates) and len(rates) >= 10 and rates[0] > 0:
                data = {"kind": kind, "start": rates[0], "rate": rates[-1], "low": low, "count": len(rates)}
                yield Finding(
                    "scheduler-each-batch", data, None, None, low, "optimizer", remedy=_cure("scheduler-each-batch")
                )
                return


def _main_call(ledger: Ledger) -> Call | None:
    return max(ledger.calls.values(), key=lambda c: len(c.losses), default=None)


# -------------------------------------------------------------------------------------------------------- numbers


def _matrices(steps: Steps) -> list[int]:
    return [i for i, kept in enumerate(steps.parameters) if (p := kept()) is not None and p.dim() >= 2]


def _before_flag(ledger: Ledger, looks: Sequence[Look]) -> list[Look]:
    return [look for look in looks if ledger.flag is None or look.step < ledger.flag.step]


def _too_large(ledger: Ledger) -> Iterator[Finding]:
    """A learning rate that is too high: the first steps rewrite a fifth of the weights each, and nothing is learned."""
    for steps in ledger.optimizers.values():
        looks = [look for look in _before_flag(ledger, steps.looks) if look.step <= 20]
        places = _matrices(steps) or list(range(len(steps.parameters)))
        ratios = [_overall(look, places) for look in looks]
        seen = [ratio for ratio in ratios if ratio is not None]
        call = _main_call(ledger)
        if len(seen) < 3 or call is None or median(seen[1:] if len(seen) > 3 else seen) <= _LARGE_UPDATE:
            continue
        if not _learns(call.losses):
            data = {"ratio": median(seen), "rate": steps.rates[0], "kind": steps.kind}
            yield Finding(
                "rate-too-high", data, steps.source, None, looks[0].step, "optimizer", remedy=_cure("rate-too-high")
            )


def _overall(look: Look, places: Sequence[int]) -> float | None:
    known = [ratio for i in places if i < len(look.ratio) and (ratio := look.ratio[i]) is not None]
    return median(known) if known else None


def _learns(losses: Sequence[float]) -> bool:
    """Says whether the last quarter of the losses lies below the first by more than a tenth of it."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < len(losses) or len(finite) < 4:
        return False
    start = median(finite[:3])
    return median(finite[-max(1, len(finite) // 4) :]) < start - 0.1 * abs(start)


def _vanishing(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers.values():
        looks = [look for look in _before_flag(ledger, steps.looks) if look.step >= 1]
        places = [i for i in _matrices(steps) if all(i < len(k.rms) and k.rms[i] is not None for k in looks)]
        if len(places) < 3 or steps.count < 20:
            continue
        shares = [
            (look.rms[places[0]] or 0) / largest for look in looks if (largest := max(look.rms[i] or 0 for i in places))
        ]
        if shares and all(0 < share < _VANISHED for share in shares):
            name = _name(ledger, steps, places[0])
            last = max(places, key=lambda i: looks[0].rms[i] or 0)
            data = {"name": name, "other": _name(ledger, steps, last), "share": median(shares)}
            yield Finding(
                "vanishing", data, steps.source, None, 0, "backward", parameters=(name,), remedy=_cure("vanishing")
            )


def _name(ledger: Ledger, steps: Steps, place: int) -> str:
    parameter = steps.parameters[place]()
    return "" if parameter is None else ledger.names.of(parameter)


def _dead(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers.values():
        looks = [look for look in _before_flag(ledger, steps.looks) if look.step >= 1]
        if len(looks) < 6 or steps.count < 20:
            continue
        found = []
        for i in _matrices(steps):
            shares = [share for k in looks if i < len(k.dead) and (share := k.dead[i]) is not None]
            parameter = steps.parameters[i]()
            if parameter is None or isinstance(ledger.names.module_of(parameter), nn.Embedding | nn.EmbeddingBag):
                continue
            if len(shares) == len(looks) and min(shares) > _DEAD:
                found.append((i, min(shares)))
        learning = [
            i for i in range(len(steps.parameters)) if any((k.rms[i] or 0) > 0 for k in looks if i < len(k.rms))
        ]
        if found and learning:
            names = tuple(_name(ledger, steps, i) for i, _ in found)
            data = {"names": listed(names), "share": max(share for _, share in found)}
            yield Finding(
                "dead-units", data, None, "P52", looks[0].step, "forward", parameters=names, remedy=_cure("dead-units")
            )


def _lost_updates(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers.values():
        looks = [look for look in _before_flag(ledger, steps.looks) if look.rate > 0]
        if len(looks) < 6 or steps.count < 20:
            continue
        found = []
        for i, kept in enumerate(steps.parameters):
            moved = [share for k in looks if i < len(k.moved) and (share := k.moved[i]) is not None]
            if kept() is not None and len(moved) >= 6 and max(moved) < 1 - _LOST:
                found.append((i, 1 - max(moved)))
        if len(found) * 2 > len(steps.parameters):
            names = tuple(_name(ledger, steps, i) for i, _ in found)
            parameter = steps.parameters[found[0][0]]()
            dtype = str(parameter.dtype).removeprefix("torch.") if parameter is not None else ""
            data = {"names": listed(names), "share": min(s for _, s in found), "dtype": dtype, "rate": looks[0].rate}
            yield Finding(
                "updates-lost", data, steps.source, None, 0, "optimizer", parameters=names, remedy=_cure("updates-lost")
            )


def _modes(ledger: Ledger) -> Iterator[Finding]:
    """A model that was in training mode and then trains in evaluation mode to the end."""
    if len(ledger.modes) < 3:
        return
    for name in ledger.modes[0][1]:
        module = ledger.names.roots[name]()
        if module is None or not any(_has_modes(m) for m in module.modules()):
            continue
        states = [(step, modes[name]) for step, modes in ledger.modes if name in modes]
        off = next((i for i, (_, on) in enumerate(states) if not on), None)
        trained = any(
            p is not None and any(p is q for q in module.parameters())
            for steps in ledger.optimizers.values()
            for p in (k() for k in steps.parameters[:1])
        )
        if off and trained and len(states) - off >= 2 and not any(on for _, on in states[off:]):
            data = {"name": name or type(module).__name__, "step": states[off][0]}
            yield Finding(
                "left-in-eval", data, None, "P41", states[off][0], "forward", module=name, remedy=_cure("left-in-eval")
            )


def _has_modes(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm)
