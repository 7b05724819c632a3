"""Twelve layers whose weights start five times too large: numbers grow from layer to layer."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
layers: list[nn.Module] = [nn.Linear(8, 32), nn.ReLU()]
for _ in range(10):
    layers += [nn.Linear(32, 32), nn.ReLU()]
model = nn.Sequential(*layers, nn.Linear(32, 4))
for layer in model:
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 1.0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # cause
for epoch in range(2):
    for first in range(0, 512, 32):
        loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
