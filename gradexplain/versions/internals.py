"""The parts of torch that are not its public interface and that we rely on, in one place, checked at first use."""

from collections.abc import Callable
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
    "is_zero_tensor": "_is_zerotensor",
    "is_transformed": "_C._functorch.is_functorch_wrapped_tensor",
    "before_forward": "nn.modules.module.register_module_forward_pre_hook",
    "after_forward": "nn.modules.module.register_module_forward_hook",
    "forward_ad": "autograd.forward_ad",
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
    with torch.enable_grad():
        node = torch.ones((), requires_grad=True).sin().grad_fn
    missing += [f"grad_fn.{a}" for a in ("_sequence_nr", "next_functions", "register_hook") if not hasattr(node, a)]
    if missing:
        raise RunError("torch_lacks", version=torch.__version__, missing=", ".join(missing))
    found["dispatch_mode"] = _light(found["dispatch_mode"])
    return SimpleNamespace(**found)


def _light(dispatch_mode: Any) -> Any:
    """Returns the class without its wrapper against torch's compiler, which would load the compiler: a second."""

    class DispatchMode(dispatch_mode):  # type: ignore[misc]  # torch's class is not typed
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False

    return DispatchMode


def sequence_number() -> Callable[[], int]:
    """Returns torch's counter of recorded autograd nodes on this thread."""
    counter: Callable[[], int] = internals().sequence_number
    return counter
