"""An own meter adds up losses as tensors, and with them every graph."""

import torch
from data import blobs
from torch import nn


class Meter:
    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: torch.Tensor, count: int) -> None:
        self.total = self.total + value * count  # cause
        self.count += count


def main() -> None:
    torch.manual_seed(0)
    x, y = blobs()
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    meter = Meter()
    for epoch in range(3):
        for first in range(0, 512, 32):
            loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            meter.update(loss, 32)
        print(epoch, float(meter.total) / meter.count)


main()
