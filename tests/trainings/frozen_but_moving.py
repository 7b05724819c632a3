"""A body that was trained before is frozen; its batch normalisation learns other statistics from the new pictures."""

import torch
from data import digits
from torch import nn


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.head = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def epochs(model: Net, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, count: int) -> None:
    for epoch in range(count):
        model.train()  # cause
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            print(epoch, (model(x).argmax(1) == y).float().mean().item())


torch.manual_seed(0)
pictures, labels = digits(320)
model = Net(4)
epochs(model, torch.optim.Adam(model.parameters(), lr=1e-2), pictures, labels, 2)
for parameter in model.body.parameters():
    parameter.requires_grad_(False)
brighter = 3 * pictures + 1
epochs(model, torch.optim.Adam(model.head.parameters(), lr=1e-2), brighter, labels, 3)
