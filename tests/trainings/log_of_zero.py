"""A classifier whose cross-entropy is written by hand: a probability rounds to 0 when a distant point comes."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 2)
target = y.float()
x[300] *= 1000
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(4):
    for first in range(0, 512, 32):
        p = model(x[first : first + 32]).squeeze(1)
        t = target[first : first + 32]
        loss = -(t * torch.log(p) + (1 - t) * torch.log(1 - p)).mean()  # cause
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
