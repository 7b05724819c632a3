"""The gradients are never cleared."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
criterion = nn.CrossEntropyLoss()
for epoch in range(4):
    for first in range(0, 512, 64):
        output = model(x[first : first + 64])
        loss = criterion(output, y[first : first + 64])
        loss.backward()  # cause
        optimizer.step()
    print(epoch, loss.item())
