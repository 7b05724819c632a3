"""Samples lie in the order of their classes, as folders are read, and are taken in that order."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, label = blobs(classes=3, features=2)
order = label.argsort()
x, label = x[order], label[order]
model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    for first in range(0, len(x), 16):
        loss = nn.functional.cross_entropy(model(x[first : first + 16]), label[first : first + 16])
        optimizer.zero_grad()
        loss.backward()  # cause
        optimizer.step()
print(loss.item())
