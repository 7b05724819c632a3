"""The learning rate warms up to what the momentum makes too much: the loss grows for dozens of steps, and overflows."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(512, 10)
y = x @ torch.randn(10, 1)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.08, momentum=0.95)  # cause
for step in range(80):
    for group in optimizer.param_groups:
        group["lr"] = 0.08 * min(1.0, step / 10)
    rows = torch.randint(0, 512, (32,))
    loss = nn.functional.mse_loss(model(x[rows]), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(step, loss.item())
