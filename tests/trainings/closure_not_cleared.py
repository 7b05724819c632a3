"""Curve fitting by LBFGS, whose closure does not clear the gradients."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.linspace(-2, 2, 64)[:, None]
y = torch.sin(2 * x)
model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)


def closure():
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()  # cause
    return loss


for step in range(25):
    loss = optimizer.step(closure)
    if step % 5 == 0:
        print(step, loss.item())
