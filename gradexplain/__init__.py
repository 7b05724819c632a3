"""Explains and verifies PyTorch gradients: where every number comes from, and whether it is right.

Names are loaded when they are first used, so that `import gradexplain` does not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradexplain import figures as figures
    from gradexplain import lessons as lessons
    from gradexplain.api import assert_gradients as assert_gradients
    from gradexplain.api import assert_same_gradients as assert_same_gradients
    from gradexplain.api import compare as compare
    from gradexplain.api import explain as explain
    from gradexplain.api import graph as graph
    from gradexplain.api import save_reference as save_reference
    from gradexplain.api import verify as verify
    from gradexplain.api import watch as watch
    from gradexplain.comparison.comparison import Comparison as Comparison
    from gradexplain.errors import GradexplainError as GradexplainError
    from gradexplain.errors import InputError as InputError
    from gradexplain.errors import RunError as RunError
    from gradexplain.explanation.explanation import Explanation as Explanation
    from gradexplain.graphs.picture import Picture as Picture
    from gradexplain.playground.notebook import play as play
    from gradexplain.receipts.answer import check_receipt as check_receipt
    from gradexplain.training.report import TrainingReport as TrainingReport
    from gradexplain.verification.verdicts import Report as Report
    from gradexplain.versions.releases import __version__ as __version__

_HOMES = {
    "assert_gradients": "api",
    "assert_same_gradients": "api",
    "compare": "api",
    "save_reference": "api",
    "explain": "api",
    "verify": "api",
    "graph": "api",
    "play": "playground.notebook",
    "watch": "api",
    "TrainingReport": "training.report",
    "Picture": "graphs.picture",
    "Comparison": "comparison.comparison",
    "Explanation": "explanation.explanation",
    "GradexplainError": "errors",
    "InputError": "errors",
    "RunError": "errors",
    "Report": "verification.verdicts",
    "__version__": "versions.releases",
    "check_receipt": "receipts.answer",
}
_FOLDERS = ("figures", "lessons")
__all__ = [
    "Comparison",
    "Explanation",
    "GradexplainError",
    "InputError",
    "Picture",
    "Report",
    "RunError",
    "TrainingReport",
    "assert_gradients",
    "assert_same_gradients",
    "check_receipt",
    "compare",
    "explain",
    "graph",
    "play",
    "save_reference",
    "verify",
    "watch",
]


if not TYPE_CHECKING:  # a checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        import importlib

        if name in _FOLDERS:
            return importlib.import_module(f"gradexplain.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'gradexplain' has no attribute '{name}'")
        return getattr(importlib.import_module(f"gradexplain.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_FOLDERS, "__doc__", "__version__"])
