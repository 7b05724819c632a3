"""Makes the pictures of README again, in `tests/baseline/`; a test holds the files against it.

.venv/bin/python scripts/pictures.py
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import gradexplain as gx

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "baseline"
sys.path.append(str(ROOT / "tests"))


def small() -> gx.Picture:
    """A function of two uses of one value, with every number."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        u = torch.exp(x)
        return (x * u).sum()

    show = ["shapes", "sources", "values", "gradients", "derivatives"]
    return gx.graph(loss, {"x": torch.tensor([0.0, 1.0])}, show=show, title="sum(x · exp(x))")


def resnet18() -> gx.Picture:
    from networks import ResNet18

    return gx.graph(ResNet18(), [torch.zeros(2, 3, 224, 224)], title="ResNet-18")


def gpt2() -> gx.Picture:
    from models import Transformer

    return gx.graph(Transformer(), [torch.zeros((1, 64), dtype=torch.int64)], title="GPT-2-small")


PICTURES: Mapping[str, Callable[[], gx.Picture]] = {"small": small, "resnet18": resnet18, "gpt2": gpt2}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, make in PICTURES.items():
        make().save(FOLDER / f"{name}.svg")
