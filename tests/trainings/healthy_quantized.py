"""Weights that are rounded to a few levels, and learn as if they were not: the step has the slope of a line."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 4)


class Quantized(nn.Linear):
    def forward(self, given: torch.Tensor) -> torch.Tensor:
        step = self.weight.detach().abs().max() / 7
        rounded = self.weight + (torch.round(self.weight / step) * step - self.weight).detach()
        return nn.functional.linear(given, rounded, self.bias)


model = nn.Sequential(Quantized(8, 32), nn.ReLU(), Quantized(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(4):
    for rows in torch.randperm(512).split(32):
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
