"""Fourteen layers of sigmoids: next to nothing of the gradient reaches the first."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
layers: list[nn.Module] = [nn.Linear(8, 16), nn.Sigmoid()]
for _ in range(12):
    layers += [nn.Linear(16, 16), nn.Sigmoid()]
model = nn.Sequential(*layers, nn.Linear(16, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(4):
    for first in range(0, 512, 32):
        loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
