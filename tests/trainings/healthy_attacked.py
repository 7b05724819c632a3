"""Trained on examples that were moved along the sign of the slope of the loss, and on those as they are."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 3)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(4):
    for rows in torch.randperm(512).split(32):
        moved = x[rows].clone().requires_grad_()
        nn.functional.cross_entropy(model(moved), y[rows]).backward()
        attacked = (moved + 0.1 * moved.grad.sign()).detach()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(attacked), y[rows]) + nn.functional.cross_entropy(
            model(x[rows]), y[rows]
        )
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
