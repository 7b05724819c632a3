"""A network that ends in a sigmoid, and a loss that takes logits."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 2)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(4):
    for first in range(0, 512, 64):
        output = model(x[first : first + 64]).squeeze(1)  # cause
        loss = criterion(output, y[first : first + 64].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
