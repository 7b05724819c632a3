"""Measurements that are not scaled drive a sigmoid to exactly 0 and 1, where a loss on probabilities has no slope."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.rand(256, 3) * 4000 + 1000
label = (x[:, :1] > x[:, 1:2]).float()
model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
criterion = nn.BCELoss()
for _ in range(2):
    for rows in torch.randperm(256).split(32):
        loss = criterion(model(x[rows]), label[rows])  # cause
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(loss.item())
