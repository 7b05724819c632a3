"""All in float16: slopes of the loss are smaller than the smallest number that is there."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 4)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).half()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for rows in torch.randperm(512).split(32):
        loss = 1e-7 * nn.functional.cross_entropy(model(x[rows].half()), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
