"""Small data sets that the trainings learn from, made and not loaded: equal on every machine."""

import torch
from torch import Tensor


def blobs(count: int = 512, classes: int = 4, features: int = 8, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Returns points around as many centres as there are classes, and the class of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, features, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return centres[labels] + torch.randn(count, features, generator=generator), labels


def curve(count: int = 512, *, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Returns the numbers of a noisy curve, each a row of one feature and one target."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-3, 3, count).unsqueeze(1)
    x = x[torch.randperm(count, generator=generator)]
    return x, torch.sin(2 * x) + 0.1 * torch.randn(count, 1, generator=generator)


def digits(count: int = 256, *, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Returns pictures of 12 × 12 with one of four strokes, and which it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    pictures = 0.2 * torch.randn(count, 1, 12, 12, generator=generator)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        place = int(torch.randint(2, 10, (), generator=generator))
        if label == 0:
            picture[0, place] += 1
        elif label == 1:
            picture[0, :, place] += 1
        elif label == 2:
            picture[0] += torch.eye(12)
        else:
            picture[0] += torch.eye(12).flip(0)
    return pictures, labels


def text(length: int = 2000, words: int = 20, *, seed: int = 4) -> Tensor:
    """Returns a text of numbered words in which each word makes two others likely."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, 10, (length,), generator=generator).tolist()
    found = [0]
    for draw in draws[1:]:
        found.append((3 * found[-1] + (1 if draw < 7 else 2 if draw < 9 else draw)) % words)
    return torch.tensor(found)
