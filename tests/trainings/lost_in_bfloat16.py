"""Weights in bfloat16 and a small learning rate: a step is less than half of a weight's last digit."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).to(torch.bfloat16)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)  # cause
for epoch in range(4):
    for first in range(0, 512, 32):
        output = model(x[first : first + 32].to(torch.bfloat16))
        loss = nn.functional.cross_entropy(output.float(), y[first : first + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
