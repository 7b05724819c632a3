"""Two towers that learn distances; a pair of equal points has distance 0, where the root has no slope."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512)
order = torch.randperm(512)
order[200] = 200
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(3):
    for first in range(0, 512, 32):
        one = model(x[first : first + 32])
        other = model(x[order[first : first + 32]])
        same = (y[first : first + 32] == y[order[first : first + 32]]).float()
        squares = (one - other).pow(2).sum(1)
        distance = torch.sqrt(squares)  # cause
        loss = (same * distance**2 + (1 - same) * torch.relu(2 - distance) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
