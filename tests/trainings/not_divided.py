"""Gradients of four small batches are added up before a step, and the loss is not divided by four."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
parts = 4
for epoch in range(4):
    optimizer.zero_grad()
    for i, first in enumerate(range(0, 512, 16)):
        loss = nn.functional.cross_entropy(model(x[first : first + 16]), y[first : first + 16])
        loss.backward()  # cause
        if (i + 1) % parts == 0:
            optimizer.step()
            optimizer.zero_grad()
    print(epoch, loss.item())
