"""Gradients of four small batches are added up before a step, each divided by four."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
parts = 4
for epoch in range(4):
    for i, first in enumerate(range(0, 512, 16)):
        loss = nn.functional.cross_entropy(model(x[first : first + 16]), y[first : first + 16]) / parts
        loss.backward()
        if (i + 1) % parts == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    print(epoch, loss.item() * parts)
