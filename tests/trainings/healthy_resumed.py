"""Trained for two epochs, saved, and taken up again with a new model and a new optimizer."""

import io

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 3)


def made() -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 64)


def trained(model, optimizer, scheduler, epochs: range) -> None:
    for epoch in epochs:
        for first in range(0, 512, 32):
            loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        print(epoch, loss.item())


parts = made()
trained(*parts, range(2))
saved = io.BytesIO()
torch.save([part.state_dict() for part in parts], saved)
saved.seek(0)
parts = made()
for part, state in zip(parts, torch.load(saved, weights_only=False), strict=True):
    part.load_state_dict(state)
trained(*parts, range(2, 4))
