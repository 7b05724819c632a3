"""When what a training left in its ledger is a finding. Every criterion is a ratio or a count, and has no scale:
a loss that is a thousand times larger, with a learning rate that makes up for it, is judged the same."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import mean, median

import torch
from torch import Tensor, nn

from gradexplain.findings.finding import Finding, Phase, Remedy
from gradexplain.targets.sources import Source
from gradexplain.training.data import Labels, diversity
from gradexplain.training.ledger import KEPT, SKIPS, Call, Ledger, Steps
from gradexplain.training.lines import kept_in, steps_by_count
from gradexplain.training.looks import MOVING, TAKING_PART, Look, sampled

# Updates of a quarter of the weights at each of the first steps leave nothing of what was there before.
_LARGE_UPDATE, _FIRST, _FEW = 0.25, 8, 3
# A first update of ten times the weights, through five layers or eight moments and more.
_EXPLODED, _DEEP, _MANY = 10.0, 5, 8
# A gradient that loses six orders of magnitude on its way is below the rounding of the others.
_VANISHED = 1e-6
_LOOKS = 6
_CUT = 100.0
# Those that take the learning rate times the decay of each weight, whatever the gradient is.
_SHRINKING = frozenset({"SGD", "AdamW"})
# The steps of others are no smaller where all gradients are: they are divided by what is usual.
_IN_PROPORTION = frozenset({"SGD", "ASGD"})
# Batches that are judged: how many of them, of how many samples. So many labels that are the same are no rare event.
# The first part of an array cannot be told from what was made for a batch: so many must be known to be parts.
_BATCHES, _BATCH, _MANY_LABELS, _GIVEN = 5, 8, 2000, 4
# So many labels would differ from the one before in shuffled batches; in one class after the other, a fifth at most.
_DIFFERENT, _ONE_CLASS = 20, 0.2
# Steps without a gradient: of everything, and of a part, which may be used now and then.
_SOON, _NOW_AND_THEN = 3, 10
# Of so many steps, what is done at every fourth and more often is a part of the training.
_TAKEN, _RARELY = 8, 4
# Of a standard deviation, how far the mean of a channel goes that is no longer the same statistic.
_FAR = 0.5
# The course of a loss is seen in so many parts.
_TENTHS = 10
# Losses that grow this far above where they began do not oscillate: they diverge.
_DIVERGED, _DIVERGED_FINITE = 1e3, 1e6


def judged(ledger: Ledger) -> tuple[Finding, ...]:
    """Returns the findings of a ledger, those that come first in a step first."""
    apart = list(_not_in_optimizer(ledger))
    stale = list(_unreached(ledger))
    if any(f.code == "made-after-optimizer" for f in apart):  # what they replaced gets no gradient any more
        apart, stale = [replace(apart[0], consequences=tuple(stale)), *apart[1:]], []
    data = [*_same_draws(ledger), *_data(ledger)]
    blank = [f for f in data if f.code == "inputs-constant"]  # units are not to blame for what they never see
    data = [replace(f, consequences=tuple(_dead(ledger))) if f in blank else f for f in data]
    found = [
        *data,
        *_patterns(ledger),
        *apart,
        *stale,
        *_not_cleared(ledger),
        *_undivided(ledger),
        *_flat(ledger),
        *_carried(ledger),
        *_skipping(ledger),
        *_scheduled(ledger),
        *_falling(ledger),
        *_too_large(ledger),
        *_vanishing(ledger),
        *(() if blank else _dead(ledger)),
        *_lost_updates(ledger),
        *_clipped(ledger),
        *_modes(ledger),
        *_unlearned_statistics(ledger),
        *_moving_statistics(ledger),
        *_evaluated(ledger),
    ]
    return tuple(found)


# ------------------------------------------------------------------------------------------------------- the data


def _same_draws(ledger: Ledger) -> Iterator[Finding]:
    if (found := ledger.same_draws) is not None:
        data, code = {"code": found.code, "count": found.workers}, "same-draws"
        yield Finding(code, data, found.source, None, 0, "data", remedy=Remedy(code))


def _data(ledger: Ledger) -> Iterator[Finding]:
    """Data that teach nothing: one label, one input, or batches of one class each."""
    for call in ledger.calls.values():
        seen = [graph.batch for _, graph in call.graphs]
        labels = [batch.labels for batch in seen if batch.labels is not None and batch.labels.count >= _BATCH]
        if len(labels) < _BATCHES or len(labels) < len(seen):
            continue
        values = {own.value for own in labels}
        given = sum(own.given for own in labels) >= max(_GIVEN, len(labels) // 2)
        known = any(own.whole for own in labels) or sum(own.count for own in labels) >= _MANY_LABELS
        data: dict[str, object] = {"count": len(labels)}
        if len(values) == 1 and None not in values and given and known:
            code, data = "labels-constant", data | {"value": labels[0].value}
        elif values == {None} and all(batch.alike and batch.samples >= _BATCH for batch in seen):
            code = "inputs-constant"
        elif _is_sorted(labels) and given:
            code, classes = "batches-of-one-class", [len(own.classes) for own in labels]
            data |= {"classes": sum(classes) / len(classes), "all": len(_pooled(labels))}
        else:
            continue
        yield Finding(code, data, call.source, None, 0, "data", remedy=Remedy(code))


def _is_sorted(labels: Sequence[Labels]) -> bool:
    """Says whether batches that follow each other in the order of the data hold far fewer classes than all do."""
    if not all(own.classes for own in labels) or sum(own.ordered for own in labels) < max(_GIVEN, len(labels) // 2):
        return False
    pooled = _pooled(labels)
    expected = sum(pooled.values()) * diversity(pooled)
    return expected >= _DIFFERENT and mean(own.diversity for own in labels) <= _ONE_CLASS * diversity(pooled)


def _pooled(labels: Sequence[Labels]) -> Counter[int]:
    return sum((Counter(own.classes) for own in labels), Counter())


# ------------------------------------------------------------------------------------------------ the loss's graph


def _patterns(ledger: Ledger) -> Iterator[Finding]:
    seen: set[tuple[str, object]] = set()
    for call in ledger.calls.values():
        often = Counter(code for _, graph in call.graphs for code in {p.code for p in graph.patterns})
        for step, graph in call.graphs:
            for pattern in graph.patterns:
                key = pattern.code, pattern.operator
                if not pattern.sure or key in seen or often[pattern.code] * 2 < len(call.graphs):
                    continue
                seen.add(key)
                data = {"operator": pattern.operator, **pattern.data}
                source = pattern.source or call.source
                yield Finding(
                    pattern.code,
                    data,
                    source,
                    _PITFALLS.get(pattern.code),
                    step,
                    "forward",
                    remedy=Remedy(pattern.code),
                )


_PITFALLS = {"softmax-twice": "P38", "sigmoid-twice": "P38", "unmeant-broadcast": "P37", "probability-rounded": "P49"}


def _carried(ledger: Ledger) -> Iterator[Finding]:
    """Graphs that hang on to those of steps before: of the loss itself, or of losses that are kept."""
    for call in ledger.calls.values():
        older = [(step, graph.older) for step, graph in call.graphs if step >= 1]
        counts = [count for _, count in older]
        if len(counts) >= 4 and counts == sorted(set(counts)) and counts[0] > 0:
            (first, least), (last, most) = older[0], older[-1]
            if most - least >= last - first:
                data = {"count": most, "last": last}
                yield Finding(
                    "graph-carried", data, call.source, "P04", first, "forward", remedy=Remedy("graph-carried")
                )
                return
    step, alive = max(ledger.kept_graphs, key=lambda kept: kept[1], default=(0, 0))
    if alive >= KEPT:
        data = {"count": alive, "last": step}
        yield Finding("graphs-kept", data, ledger.keeper, "P39", 0, "forward", remedy=Remedy("graphs-kept"))


# ----------------------------------------------------------------------------------------------------- parameters


def _unreached(ledger: Ledger) -> Iterator[Finding]:
    """Parameters that an optimizer has and that never get a gradient, all of one reason together."""
    for steps in ledger.optimizers:
        found = unreached(ledger, steps)
        if not found:
            continue
        reached = [parameter for parameter in found if parameter in ledger.leaves]
        if reached:
            yield _without_gradient("nothing-sent", reached, steps, ledger)
        if len(found) == len(steps.parameters) and not reached:
            yield _without_gradient("nothing-learns", found, steps, ledger)
        elif apart := [parameter for parameter in found if parameter not in ledger.leaves]:
            yield _without_gradient("no-gradient", apart, steps, ledger)


def _without_gradient(code: str, found: Sequence[Tensor], steps: Steps, ledger: Ledger) -> Finding:
    names, source = tuple(map(ledger.names.of, found)), steps.source
    if code != "no-gradient":
        source = _source(_main_call(ledger)) or source
    data = {"names": listed(names), "count": steps.count}
    phase: Phase = "backward" if code == "nothing-sent" else "forward"
    return Finding(code, data, source, "P56", 0, phase, parameters=names, remedy=Remedy(code))


def unreached(ledger: Ledger, steps: Steps) -> list[Tensor]:
    """Returns the parameters of an optimizer that never got a gradient and are meant to."""
    all_of_them = len(steps.missing) == len(steps.parameters)
    places = [i for i, count in steps.missing.items() if count >= (_SOON if all_of_them else _NOW_AND_THEN)]
    found = [(i, t) for i in places if (t := steps.parameters[i]()) is not None and t.requires_grad]
    found = [(i, t) for i, t in found if ledger.names.in_place_of(t) is None]
    resting = [t for i, t in found if not _is_changed(t, steps.resting.get(i))]
    return [t for t in resting if not _has_learning_siblings(t, steps, ledger)]


@torch.no_grad()
def _is_changed(parameter: Tensor, before: Tensor | None) -> bool:
    """Says whether the script changes a parameter that has no gradient: an average over those that learn."""
    return before is not None and not torch.equal(sampled(parameter), before)


def _source(call: Call | None) -> Source | None:
    return call.source if call is not None else None


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
    replaced = next(
        ((steps.source, *steps.replaced) for steps in ledger.optimizers if steps.replaced is not None), None
    )
    if replaced is not None:
        (source, step, names), code = replaced, "made-after-optimizer"
        data = {"names": listed(names)}
        yield Finding(code, data, source, "P36", step, "optimizer", parameters=names, remedy=Remedy(code))
        return
    if not any(steps.count >= 3 for steps in ledger.optimizers):
        return
    stepped = [p for steps in ledger.optimizers for k in steps.parameters if (p := k()) is not None]
    had = {id(p) for p in stepped}
    put = {id(own) for p in stepped if (own := ledger.names.in_place_of(p)) is not None}
    first = min(steps.after for steps in ledger.optimizers)
    made_later = {id(module) for kept in ledger.modules[first:] if (module := kept()) is not None}
    apart = [leaf for leaf, seen in ledger.leaves.items() if seen >= 3]
    apart = [leaf for leaf in apart if isinstance(leaf, nn.Parameter) and leaf.requires_grad and id(leaf) not in had]
    hidden = [leaf for leaf in apart if leaf in ledger.names.hidden]
    later = [leaf for leaf in apart if id(ledger.names.module_of(leaf)) in made_later]
    roots = {ledger.names.root_of(p) for p in stepped}
    later = [leaf for leaf in later if leaf not in ledger.names.hidden and ledger.names.root_of(leaf) in roots]
    later += [leaf for leaf in apart if id(leaf) in put and not any(leaf is other for other in later)]
    for code, pitfall, found in (("hidden-from-optimizer", "P35", hidden), ("made-after-optimizer", "P36", later)):
        if found:
            names = tuple(sorted(ledger.names.of(leaf) for leaf in found))
            steps = max(ledger.optimizers, key=lambda s: s.count)
            data = {"names": listed(names)}
            kept = ledger.names.hidden.get(found[0])
            source = (kept_in(*kept) if kept is not None else None) or steps.source
            yield Finding(code, data, source, pitfall, 0, "optimizer", parameters=names, remedy=Remedy(code))


def listed(names: Sequence[str]) -> str:
    """Returns names in one line, many of them shortened."""
    shown = ", ".join(names[:4])
    return f"{shown}, … ({len(names)})" if len(names) > 4 else shown


def _flat(ledger: Ledger) -> Iterator[Finding]:
    """Gradients that are there and exactly 0, all of an optimizer's at every look, while no loss is 0."""
    if ledger.flag is not None or not all(all(call.losses) for call in ledger.calls.values()):
        return
    for steps in ledger.optimizers:
        parameter = steps.parameters[0]() if steps.parameters else None
        if steps.count < 20 or len(steps.looks) < _LOOKS or steps.zeros < len(steps.looks) or parameter is None:
            continue
        call, code = _main_call(ledger), "gradient-zero"
        seen = [[graph.flat for _, graph in call.graphs] for call in ledger.calls.values()]
        flat = next((own[0] for own in seen if own and None not in own), None)
        data: dict[str, object] = {"count": steps.count}
        source = call.source if call else None
        if flat is not None:
            source = flat.source or source
            data |= {**flat.data, "operator": flat.operator, "code": source.code if source else flat.operator}
        elif parameter.dtype == torch.float16:
            smallest = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
            data |= {"why": "underflow", "dtype": "float16", "smallest": smallest}
        yield Finding(code, data, source, "P08" if flat else "P54", 0, "backward", remedy=Remedy(code))
        return


# ------------------------------------------------------------------------------------------------------- the loop


def _not_cleared(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers:
        if steps.count >= 8 and steps.stale > 0.5 * (steps.count - 1):
            call = _main_call(ledger)
            data = {"stale": steps.stale, "count": steps.count - 1}
            source = call.source if call else steps.source
            yield Finding("not-cleared", data, source, "P11", 1, "backward", remedy=Remedy("not-cleared"))


def _undivided(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers:
        if steps.count < 3 or not steps.repeated:
            continue
        ((call, passes), often), *_ = steps.repeated.most_common(1)
        own = next((c for c in ledger.calls.values() if id(c) == call), None)
        if own is None or passes < 2 or often < 0.8 * steps.count or not own.graphs:
            continue
        if all(graph.averaged for _, graph in own.graphs) and own.source and steps_by_count(own.source.file):
            data = {"passes": passes}
            yield Finding("not-divided", data, own.source, "P44", 0, "backward", remedy=Remedy("not-divided"))


def _skipping(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers:
        if steps.most_skipped >= SKIPS:
            data = {"count": steps.most_skipped, "taken": steps.count}
            call = _main_call(ledger)
            yield Finding(
                "scaler-skips",
                data,
                call.source if call else None,
                "P43",
                None,
                "optimizer",
                remedy=Remedy("scaler-skips"),
            )


def _scheduled(ledger: Ledger) -> Iterator[Finding]:
    taken = max((s.count for s in ledger.optimizers), default=0)
    for schedule in ledger.schedulers:
        kind = schedule.kind
        if kind not in ("StepLR", "MultiStepLR", "ExponentialLR", "MultiplicativeLR") or schedule.count < 0.8 * taken:
            continue
        for steps in ledger.optimizers:
            rates = steps.rates
            low = next((i for i, rate in enumerate(rates) if 0 < rate < 1e-4 * rates[0] or rate == 0), None)
            if low is not None and low < 0.8 * len(rates) and len(rates) >= 10 and rates[0] > 0:
                data = {"kind": kind, "start": rates[0], "rate": rates[-1], "low": low, "count": len(rates)}
                yield Finding(
                    "scheduler-each-batch",
                    data,
                    schedule.source,
                    None,
                    low,
                    "optimizer",
                    remedy=Remedy("scheduler-each-batch"),
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
    """A learning rate that is too high: the first steps rewrite a quarter of the weights each, and nothing is learned.

    Where the very first steps write more than the weights themselves and end in what is not finite, and the loss comes
    through many layers or moments, it is the gradient that explodes on the way.
    """
    for steps in ledger.optimizers:
        looks = [look for look in _before_flag(ledger, steps.looks) if look.step <= _FIRST]
        places = _matrices(steps) or list(range(len(steps.parameters)))
        # what starts at 0 and is no matrix, a temperature's logarithm, is rewritten by whatever moves it first
        begun = _matrices(steps) or [place for look in steps.looks[:1] for place in look.ratio]
        seen = [ratio for look in looks if (ratio := _overall(look, begun)) is not None]
        call = _main_call(ledger)
        if call is None:
            continue
        diverging = _diverging(ledger, steps, call, places)
        if diverging is not None and median(seen or [0.0]) <= _LARGE_UPDATE:
            yield diverging
            continue
        if not seen:
            continue
        early = len(seen) < _FEW
        if early and (ledger.flag is None or median(seen) <= 1):
            continue
        if not early and (median(seen) <= _LARGE_UPDATE or _learns(_losses_before_flag(ledger, call))):
            continue
        uses = max((graph.uses for _, graph in call.graphs), default=0)
        deep = seen[0] > _EXPLODED and (uses >= _MANY or len(places) >= _DEEP)
        data = {"ratio": seen[0] if deep else median(seen), "rate": steps.rates[0], "kind": steps.kind, "early": early}
        if steps.kind in _SHRINKING and steps.decay * steps.rates[0] > 0.5 * median(seen):
            code, share = "decay-too-strong", steps.decay * steps.rates[0]
            data = {"decay": steps.decay, "rate": steps.rates[0], "share": share}
            yield Finding(code, data, steps.source, None, looks[0].step, "optimizer", remedy=Remedy(code))
            continue
        code = "exploding" if deep else "rate-too-high"
        phase: Phase = "backward" if deep else "optimizer"
        data |= {"count": uses if uses >= _MANY else len(places)}
        yield Finding(code, data, steps.source, None, looks[0].step, phase, remedy=Remedy(code))


def _diverging(ledger: Ledger, steps: Steps, call: Call, places: Sequence[int]) -> Finding | None:
    """A rate that is too high for later steps: the loss leaves where it began by orders of magnitude, and grows."""
    losses = [loss for loss in _losses_before_flag(ledger, call) if math.isfinite(loss)]
    if len(losses) < 2 * _FIRST or len(ledger.optimizers) > 1:
        return None
    start, last = max(map(abs, losses[:_FEW])), losses[-_FEW:]
    if not start or last != sorted(last) or last[0] < (_DIVERGED if ledger.flag else _DIVERGED_FINITE) * start:
        return None
    above = next(i for i in range(len(losses), 0, -1) if losses[i - 1] <= start)
    step = call.steps[above] if above < len(call.steps) else call.steps[-1]
    ratios = [r for look in _before_flag(ledger, steps.looks) if look.step >= step and (r := _overall(look, places))]
    if not ratios:
        return None
    rate = steps.rates[min(step, len(steps.rates) - 1)]
    data = {"ratio": median(ratios), "rate": rate, "kind": steps.kind, "early": False}
    return Finding("rate-too-high", data, steps.source, None, step, "optimizer", remedy=Remedy("rate-too-high"))


def _falling(ledger: Ledger) -> Iterator[Finding]:
    """A loss that nothing bounds from below: it falls ever faster, by orders of magnitude, and its gradient grows.

    A density that becomes sharp falls as a logarithm, and a reward that is linear has a gradient that stays. What falls
    by the work of two, as a critic's loss or an actor's, may be moved by the other, and is not judged.
    """
    if len(ledger.optimizers) != 1 or len(ledger.calls) != 1:
        return
    (steps,), (call,) = ledger.optimizers, ledger.calls.values()
    losses = [loss for loss in _losses_before_flag(ledger, call) if math.isfinite(loss)]
    tenth = len(losses) // _TENTHS
    norms = [norm for norm in steps.norms if math.isfinite(norm)]
    if tenth < _FIRST or len(norms) < len(losses) // 2:
        return
    courses = [median(losses[i * tenth : (i + 1) * tenth]) for i in range(_TENTHS)]
    drops = [before - after for before, after in pairwise(courses)][-_TENTHS // 2 :]
    faster = drops[0] > 0 and all(before < after for before, after in pairwise(drops))
    small, great = median(norms[:tenth]), median(norms[-tenth:])
    if faster and courses[-1] < -_DIVERGED * max(map(abs, losses[:tenth])) and great > _DIVERGED * small > 0:
        data = {"start": losses[0], "end": losses[-1], "small": small, "great": great, "count": steps.count}
        code = "falls-without-bound"
        yield Finding(code, data, call.source, None, 0, "forward", remedy=Remedy(code))


def _overall(look: Look, places: Sequence[int]) -> float | None:
    known = [look.ratio[i] for i in places if i in look.ratio]
    return median(known) if known else None


def _losses_before_flag(ledger: Ledger, call: Call) -> list[float]:
    last = math.inf if ledger.flag is None else ledger.flag.step
    return [loss for loss, step in zip(call.losses, call.steps, strict=True) if step < last]


def _learns(losses: Sequence[float]) -> bool:
    """Says whether the last quarter of the losses lies below the start by more than a tenth of it, as far as known.

    Half of them below, and others that lie so far above that their mean is no lower than the start, is no learning.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < 3:
        return True
    start = min(finite[0], median(finite[:3]))
    last = finite[-max(1, len(finite) // 4) :]
    return median(last) < start - 0.1 * abs(start) and mean(last) < start


def _vanishing(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers:
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
                "vanishing", data, steps.source, None, 0, "backward", parameters=(name,), remedy=Remedy("vanishing")
            )


def _name(ledger: Ledger, steps: Steps, place: int) -> str:
    parameter = steps.parameters[place]()
    return "" if parameter is None else ledger.names.of(parameter)


def _dead(ledger: Ledger) -> Iterator[Finding]:
    """Units behind a gate that never had a gradient, most of a layer, while something learns."""
    for steps in ledger.optimizers:
        looks = [look for look in _before_flag(ledger, steps.looks) if look.step >= 1]
        learning = any(size for look in looks for size in look.rms)
        if len(looks) < _LOOKS or steps.count < 20 or not learning:
            continue
        for place, units in steps.units.items():
            parameter = steps.parameters[place]()
            if parameter is None or units.looks < _LOOKS or units.share >= TAKING_PART:
                continue
            name = ledger.names.of(parameter)
            data, cure = {"names": name, "share": 1 - units.share}, Remedy("dead-units")
            yield Finding("dead-units", data, None, "P52", looks[0].step, "forward", parameters=(name,), remedy=cure)
            break


def _lost_updates(ledger: Ledger) -> Iterator[Finding]:
    for steps in ledger.optimizers:
        looks = [look for look in _before_flag(ledger, steps.looks) if look.rate > 0]
        if len(looks) < 6 or steps.count < 20:
            continue
        moved = [look.moved for look in looks if look.moved is not None]
        if len(moved) == len(looks) and max(moved) < MOVING:
            names = tuple(_name(ledger, steps, i) for i in range(len(steps.parameters)))
            parameter = steps.parameters[0]()
            dtype = str(parameter.dtype).removeprefix("torch.") if parameter is not None else ""
            data = {"names": listed(names), "share": 1 - max(moved), "dtype": dtype, "rate": looks[0].rate}
            cure = Remedy("updates-lost")
            yield Finding("updates-lost", data, steps.source, None, 0, "optimizer", parameters=names, remedy=cure)


def divided_by_nothing(ledger: Ledger) -> Finding | None:
    """Returns that an optimizer divides by √v + ε where ε is 0 in the weights' type, and so is v somewhere."""
    flag = ledger.flag
    for steps in ledger.optimizers:
        optimizer = steps.own()
        if flag is None or not flag.step or optimizer is None or steps.kind not in _DIVIDING:
            continue
        for group in optimizer.param_groups:
            eps, types = group.get("eps"), {p.dtype for p in group["params"] if not bool(p.isfinite().all())}
            lost = [dtype for dtype in types if isinstance(eps, float) and not torch.tensor(eps, dtype=dtype)]
            if lost and not group.get("fused"):
                data = {"kind": steps.kind, "eps": eps, "dtype": str(lost[0]).removeprefix("torch.")}
                code, step = "divided-by-nothing", flag.step - 1
                return Finding(code, data, steps.source, None, step, "optimizer", remedy=Remedy(code))
    return None


_DIVIDING = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad"})


def _clipped(ledger: Ledger) -> Iterator[Finding]:
    """Gradients that are cut down by orders of magnitude at nearly every step, while nothing is learned."""
    clipping, call = ledger.clipping, _main_call(ledger)
    if not any(steps.kind in _IN_PROPORTION for steps in ledger.optimizers):
        return
    ratios = [ratio for ratio in clipping.ratios if math.isfinite(ratio)]
    cut = sum(ratio > _CUT for ratio in ratios)
    if len(ratios) >= 20 and cut >= 0.9 * len(clipping.ratios) and call and not _learns(call.losses):
        ratio = median(ratios)
        data = {"bound": clipping.bound, "norm": ratio * clipping.bound, "ratio": ratio, "count": len(ratios)}
        yield Finding("clipped", data, clipping.source, None, 0, "backward", remedy=Remedy("clipped"))


def _modes(ledger: Ledger) -> Iterator[Finding]:
    """A model that was in training mode and then trains in evaluation mode to the end."""
    if len(ledger.modes) < 3:
        return
    for name in ledger.modes[0].training:
        module = ledger.names.roots[name]()
        if module is None or not any(_has_modes(m) for m in module.modules()):
            continue
        switch = ledger.evaluations.switches.get(module)
        if switch is None or switch.training or not switch.evaluated:  # set to evaluation to be trained so: it is meant
            continue
        states = [(modes.step, modes.stage, modes.training[name]) for modes in ledger.modes if name in modes.training]
        off = next((i for i, (_, _, on) in enumerate(states) if not on), None)
        if off and states[off][1] != states[off - 1][1]:  # something else learns from there on: another stage
            continue
        if off and _is_trained(module, ledger) and len(states) - off >= 2 and not any(on for _, _, on in states[off:]):
            data, step, code = {"name": name or type(module).__name__, "step": switch.step}, switch.step, "left-in-eval"
            yield Finding(code, data, switch.source, "P41", step, "forward", module=name, remedy=Remedy(code))


def _unlearned_statistics(ledger: Ledger) -> Iterator[Finding]:
    """Batch normalisation that learns its weights in evaluation mode and has never seen a batch: it does nothing."""
    for steps in ledger.optimizers:
        if steps.count < _TAKEN:
            continue
        learning = {id(p) for i, k in enumerate(steps.parameters) if i not in steps.missing and (p := k()) is not None}
        for name, kept in ledger.names.roots.items():
            root = kept()
            layers = root.modules() if root is not None else ()
            found = [m for m in layers if _is_as_made(m) and id(m.weight) in learning]
            if found:
                shown = _named(ledger, found[0], name or type(root).__name__)
                data, code = {"name": shown, "layer": type(found[0]).__name__}, "statistics-unlearned"
                yield Finding(code, data, None, "P41", 0, "forward", module=shown, remedy=Remedy("left-in-eval"))
                return


def _moving_statistics(ledger: Ledger) -> Iterator[Finding]:
    """Batch normalisation of a frozen part, whose statistics have become others than those that it was frozen with."""
    if max((s.count for s in ledger.optimizers), default=0) < _TAKEN:
        return
    for frozen in ledger.frozen:
        layer, moved = frozen.layer(), frozen.moved()
        if layer is None or moved is None or not (moved[0] > _FAR or abs(math.log(moved[1])) > math.log(2)):
            continue
        name = _named(ledger, layer, type(layer).__name__)
        data = {"name": name, "layer": type(layer).__name__, "far": moved[0], "times": moved[1]}
        code, step = "frozen-statistics", frozen.step
        yield Finding(code, data, frozen.source, "P41", step, "forward", module=name, remedy=Remedy(code))
        return


def _named(ledger: Ledger, module: nn.Module, otherwise: str) -> str:
    return ledger.names.path_of(str(id(module))) or otherwise


def _is_as_made(module: nn.Module) -> bool:
    """Says whether a module is batch normalisation in evaluation mode, with the statistics that it was made with."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.training or module.running_mean is None:
        return False
    if nn.parameter.is_lazy(module.running_mean) or module.running_var is None:
        return False
    never = module.num_batches_tracked is not None and not int(module.num_batches_tracked)
    return never and not bool(module.running_mean.any()) and bool((module.running_var == 1).all())


def _is_trained(module: nn.Module, ledger: Ledger) -> bool:
    """Says whether an optimizer changes a module."""
    return any(
        p is not None and any(p is q for q in module.parameters())
        for steps in ledger.optimizers
        for p in (k() for k in steps.parameters[:1])
    )


def _evaluated(ledger: Ledger) -> Iterator[Finding]:
    """A model that is asked under no_grad now and then, never in evaluation mode, with dropout or batch statistics."""
    taken = max((s.count for s in ledger.optimizers), default=0)
    labels = [g.batch.labels for call in ledger.calls.values() for _, g in call.graphs if g.batch.labels is not None]
    is_judged = any(own.classes or own.given for own in labels)  # what samples a generator shows is meant
    for evaluation in ledger.evaluations.found.values():
        layer, often = evaluation.layer(), len(evaluation.steps)
        if layer is None or taken < _TAKEN or often > max(1, taken // _RARELY):
            continue
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not is_judged:
            continue
        for name, kept in ledger.names.roots.items():
            root = kept()
            layers = [] if root is None else list(root.modules())
            if root is None or layer not in layers or any(m in ledger.evaluations.at_rest for m in layers):
                continue
            if root.training and _is_trained(root, ledger):
                shown = name or type(root).__name__
                data = {"name": shown, "layer": type(layer).__name__, "times": often}
                code, first = "evaluated-in-training", min(evaluation.steps)
                yield Finding(code, data, evaluation.source, "P41", first, "forward", module=name, remedy=Remedy(code))
                return


def _has_modes(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm)
