"""A regression whose doubt is the deviation of what it says with dropout: set to training for that, on purpose."""

import torch
from data import curve
from torch import nn


def predict(model: nn.Module, x: torch.Tensor, times: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    model.train()
    with torch.no_grad():
        said = torch.stack([model(x) for _ in range(times)])
    return said.mean(0), said.std(0)


torch.manual_seed(0)
x, y = curve(400)
model = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(4):
    for first in range(0, 400, 20):
        loss = nn.functional.mse_loss(model(x[first : first + 20]), y[first : first + 20])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
mean, deviation = predict(model, x[:20])
print(mean.mean().item(), deviation.mean().item())
