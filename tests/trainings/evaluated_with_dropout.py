"""A classifier with dropout that is measured after each epoch, and never told that it is."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, label = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(3):
    for rows in torch.randperm(384).split(32):
        loss = nn.functional.cross_entropy(model(x[rows]), label[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = model(x[384:]).argmax(1) == label[384:]  # cause
    print(epoch, right.float().mean().item())
