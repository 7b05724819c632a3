"""A network's steps by module: one group a module, repeated blocks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Steps of one module, or of several modules that do the same thing one after another.

    `paths` are the modules' paths ("" for what runs outside of them); `steps[k]` are the indices of the steps of
    `paths[k]`.
    """

    paths: tuple[str, ...]
    kind: str
    steps: tuple[tuple[int, ...], ...]


def groups_of(
    modules: Sequence[str], operators: Sequence[str], kinds: Mapping[str, str], scope: str = ""
) -> tuple[Group, ...]:
    """Groups the steps whose module lies inside `scope` by the next module below it, in the order of their first step.

    `modules[i]` and `operators[i]` belong to step i. A module list is passed through: `layers.0`, `layers.1`, … are
    groups, and neighbours that run the same operators are one group. So is a module that is alone: its own are groups.
    """
    members = _members(modules, scope)
    while len(named := [path for path in members if path and path != scope]) == 1:
        (scope,) = named
        inner = _members(modules, scope)
        if inner.keys() == {scope}:
            break
        opened = ([(path, steps)] if path != scope else inner.items() for path, steps in members.items())
        members = dict(pair for pairs in opened for pair in pairs)
    groups: list[Group] = []
    for path, steps in members.items():
        group = Group((path,), kinds.get(path, ""), (tuple(steps),))
        if groups and _repeats(groups[-1], group, operators):
            last = groups.pop()
            group = Group((*last.paths, path), last.kind, (*last.steps, tuple(steps)))
        groups.append(group)
    return tuple(groups)


def _members(modules: Sequence[str], scope: str) -> dict[str, list[int]]:
    """Returns the steps inside a module, by the next module below it."""
    members: dict[str, list[int]] = {}
    for step, module in enumerate(modules):
        if inside(module, scope):
            members.setdefault(_below(module, scope), []).append(step)
    return members


def inside(module: str, scope: str) -> bool:
    """Says whether a module's path is `scope` or lies below it."""
    return not scope or module == scope or module.startswith(scope + ".")


def _below(module: str, scope: str) -> str:
    """Returns the path one level below `scope`; a numbered block counts as one level with the lists around it."""
    rest = [part for part in module.removeprefix(scope).split(".") if part]
    depth = next((i + 1 for i, part in enumerate(rest[:3]) if part.isdigit()), 1)
    return ".".join([*([scope] if scope else []), *rest[:depth]])


def _repeats(last: Group, group: Group, operators: Sequence[str]) -> bool:
    numbered = all(p.rpartition(".")[2].isdigit() for p in (last.paths[-1], group.paths[0]))
    same_list = last.paths[-1].rpartition(".")[0] == group.paths[0].rpartition(".")[0]
    return (
        numbered
        and same_list
        and last.kind == group.kind
        and [operators[s] for s in last.steps[-1]] == [operators[s] for s in group.steps[0]]
    )
