"""A schedule that is meant for epochs is stepped with every batch: soon the learning rate is nothing."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.1)
for epoch in range(4):
    for first in range(0, 512, 16):
        loss = nn.functional.cross_entropy(model(x[first : first + 16]), y[first : first + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()  # cause
    print(epoch, loss.item(), scheduler.get_last_lr())
