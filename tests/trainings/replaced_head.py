"""A pretrained network gets a new head after its optimizer was made."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


model = Network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # cause
model.head = nn.Linear(32, 4)
for epoch in range(4):
    for first in range(0, 512, 64):
        loss = nn.functional.cross_entropy(model(x[first : first + 64]), y[first : first + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
