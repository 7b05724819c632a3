"""LBFGS, which calls a closure several times a step, on a smooth regression in float64."""

import torch
from data import curve
from torch import nn

torch.manual_seed(0)
x, y = (part.double() for part in curve(128))
model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()
criterion = nn.MSELoss()
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=8)
for step in range(12):

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    print(step, loss.item())
