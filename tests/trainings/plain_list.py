"""A deep network whose layers are kept in a plain list: the optimizer knows the last one alone."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32)]  # cause
        self.out = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.out(x)


model = Deep()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(4):
    for first in range(0, 512, 64):
        loss = nn.functional.cross_entropy(model(x[first : first + 64]), y[first : first + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
