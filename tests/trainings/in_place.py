"""A residual network that adds in place to what its activation saved."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(16, 16)
        self.fc2 = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.sigmoid(self.fc1(x))
        out = self.fc2(h)
        h += x  # cause
        return out + h


model = nn.Sequential(nn.Linear(8, 16), Block(), nn.Linear(16, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(3):
    for first in range(0, 512, 64):
        loss = nn.functional.cross_entropy(model(x[first : first + 64]), y[first : first + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
