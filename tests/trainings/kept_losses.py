"""The running loss adds up tensors and not numbers: every graph of the epoch stays in memory."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(2):
    running = 0.0
    for first in range(0, 512, 16):
        loss = nn.functional.cross_entropy(model(x[first : first + 16]), y[first : first + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss  # cause
    print(epoch, float(running) / 32)
