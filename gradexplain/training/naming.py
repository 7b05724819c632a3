"""The names of parameters: by the path in the modules that hold them, and by the variables of the script."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from gradexplain.recording.naming import tensors_in


@dataclass
class Names:
    """The parameters that were found so far and are still alive: their name, and which no module's `parameters()` has.

    Another tensor in the place of one that is gone is not taken for it.
    """

    known: MutableMapping[Tensor, str] = field(default_factory=WeakTensorKeyDictionary)
    hidden: MutableMapping[Tensor, tuple[type, str]] = field(  # the class that keeps it, and its attribute
        default_factory=WeakTensorKeyDictionary
    )
    owners: MutableMapping[Tensor, ref[nn.Module]] = field(default_factory=WeakTensorKeyDictionary)
    roots: dict[str, ref[nn.Module]] = field(default_factory=dict)
    tops: MutableMapping[Tensor, int] = field(  # the module at the top, by identity
        default_factory=WeakTensorKeyDictionary
    )
    paths: dict[str, str] = field(default_factory=dict)  # of modules, by identity
    given: dict[str, ref[nn.Module]] = field(default_factory=dict)  # modules that we were told of, and their names

    def give(self, modules: Mapping[str, nn.Module]) -> None:
        """Takes the names of some modules as they are given: those of their parameters begin with them."""
        self.given |= {name: ref(module) for name, module in modules.items()}

    def see(self, scope: Mapping[str, Any]) -> None:
        """Takes from a scope the names of the leaves that no module holds."""
        for name, tensor in tensors_in(scope):
            if tensor.requires_grad and tensor.is_leaf and not name.startswith("_"):
                self.known.setdefault(tensor, name)

    def look(self, modules: Sequence[nn.Module] | None = None) -> None:
        """Finds the names in some modules; without them, in all that there are: a pass over all that Python holds."""
        modules = everything() if modules is None else modules
        inside = {id(child) for module in modules for child in module._modules.values() if child is not None}
        listed = dict(_listed(modules))
        variables = {id(value): name for name, value in vars(sys.modules["__main__"]).items() if _is_module(value)}
        roots = [m for m in modules if id(m) not in inside and any(True for _ in m.parameters())]
        own = [m for m in roots if id(m) not in listed]
        given = {name: module for name, kept in self.given.items() if (module := kept()) is not None}
        variables |= {id(module): name for name, module in given.items()}
        for module in own:
            name = variables.get(id(module), "" if len(own) == 1 else type(module).__name__)
            self.roots[name] = ref(module)
            self._enter(module, name)
        for module in roots:
            if id(module) in listed:
                owner, attribute, key = listed[id(module)]
                path = next((self.known[p].rpartition(".")[0] for p in owner.parameters(recurse=False)), "")
                prefix = path or variables.get(id(owner), "")
                self._enter(module, _joined(prefix, f"{attribute}[{key!r}]"))
                self.hidden.update(dict.fromkeys(module.parameters(), (type(owner), attribute)))
        for name, module in given.items():
            self.known.update({p: _joined(name, path) for path, p in module.named_parameters()})

    def _enter(self, module: nn.Module, name: str) -> None:
        for path, child in module.named_modules():
            self.paths[str(id(child))] = _joined(name, path)
            for own, parameter in child.named_parameters(recurse=False):
                self.known[parameter] = _joined(name, path, own)
                self.owners[parameter] = ref(child)
                self.tops[parameter] = id(module)

    def of(self, parameter: Tensor) -> str:
        """Returns the name of a parameter; of one that no module holds, the variable of the script, or its shape."""
        if parameter not in self.known:
            self.look()
        if parameter not in self.known:
            variables = vars(sys.modules["__main__"]).items()
            name = next((n for n, value in variables if value is parameter), f"{tuple(parameter.shape)}")
            self.known[parameter] = name
        return self.known[parameter]

    def parameters(self) -> list[Tensor]:
        """Returns the parameters of the modules that were found."""
        owners = {id(owner): owner for kept in self.owners.values() if (owner := kept()) is not None}
        return [p for owner in owners.values() for p in owner.parameters(recurse=False)]

    def path_of(self, identity: str) -> str:
        """Returns the path of a module whose identity was noted."""
        return self.paths.get(identity, "")

    def root_of(self, parameter: Tensor) -> int:
        """Returns the identity of the module at the top that has a parameter, 0 where none has."""
        if parameter not in self.known:
            self.look()
        return self.tops.get(parameter, 0)

    def module_of(self, parameter: Tensor) -> nn.Module | None:
        """Returns the module that holds a parameter itself."""
        owner = self.owners.get(parameter)
        return owner() if owner is not None else None

    def in_place_of(self, parameter: Tensor) -> Tensor | None:
        """Returns what a module has now in the place of a parameter; `None` where it has that one, or none."""
        module = self.module_of(parameter)
        own = None if module is None else module._parameters.get(self.known[parameter].rpartition(".")[2])
        return None if own is parameter else own


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def everything() -> list[nn.Module]:
    """Returns all modules that there are."""
    things = gc.get_objects()
    kinds = {kind for kind in set(map(type, things)) if issubclass(kind, nn.Module)}
    return [thing for thing in things if type(thing) in kinds and "_modules" in vars(thing)]


def _is_module(thing: Any) -> bool:
    return issubclass(type(thing), nn.Module) and "_modules" in vars(thing)


def _listed(modules: Sequence[nn.Module]) -> Iterator[tuple[int, tuple[nn.Module, str, Any]]]:
    """Yields the modules that others keep in plain lists and dictionaries, which torch does not look into."""
    for module in modules:
        for name, value in vars(module).items():
            if name.startswith("_") and name in ("_modules", "_parameters", "_buffers"):
                continue
            items = value.items() if type(value) is dict else enumerate(value) if type(value) in (list, tuple) else ()
            for key, item in items:
                if _is_module(item):
                    yield id(item), (module, name, key)
