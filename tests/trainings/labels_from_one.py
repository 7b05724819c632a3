"""The labels are numbered from 1."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
y[:40], y[40:] = y[:40].clamp(max=2) + 1, y[40:] + 1
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    for first in range(0, 512, 20):
        loss = nn.functional.cross_entropy(model(x[first : first + 20]), y[first : first + 20])  # cause
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
