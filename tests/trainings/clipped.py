"""Prices in cents and a sum over the batch: the gradient is clipped from millions to one at every step."""

import torch
from torch import nn

torch.manual_seed(0)
rooms = torch.randn(256, 5)
prices = 20_000 * rooms.sum(1, keepdim=True) + 150_000
model = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(4):
    for first in range(0, 256, 32):
        error = model(rooms[first : first + 32]) - prices[first : first + 32]
        loss = error.square().sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # cause
        optimizer.step()
    print(epoch, loss.item())
