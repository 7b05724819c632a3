"""Taken up again: the optimizer is loaded, and after it the model is made anew and loaded."""

import io

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 3)


def made() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: range) -> None:
    for epoch in epochs:
        for first in range(0, 512, 32):
            loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())


model = made()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)  # cause
trained(model, optimizer, range(1))
saved = io.BytesIO()
torch.save(model.state_dict(), saved)
saved.seek(0)
model = made()
model.load_state_dict(torch.load(saved))
trained(model, optimizer, range(1, 5))
