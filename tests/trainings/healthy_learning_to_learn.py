"""Learning a start from which one step fits a new sine: gradients of a loss after a step, through the step."""

import torch
from torch import nn
from torch.func import functional_call

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)


def task() -> tuple[torch.Tensor, torch.Tensor]:
    high, shift = 0.5 + 2 * torch.rand(()), 3 * torch.rand(())
    x = 6 * torch.rand(20, 1) - 3
    return x, high * torch.sin(x + shift)


for step in range(40):
    total = 0.0
    for _ in range(4):
        x, y = task()
        weights = dict(model.named_parameters())
        inner = nn.functional.mse_loss(functional_call(model, weights, (x[:10],)), y[:10])
        slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        moved = {name: w - 0.05 * g for (name, w), g in zip(weights.items(), slopes, strict=True)}
        total = total + nn.functional.mse_loss(functional_call(model, moved, (x[10:],)), y[10:])
    loss = total / 4
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(step, loss.item())
