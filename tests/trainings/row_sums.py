"""Features are divided by the sum of their row, and one row of the data is empty."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
x = torch.relu(x)
x[451] = 0


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = x / x.sum(1, keepdim=True)  # cause
        return self.classifier(shares)


model = Shares()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
criterion = nn.CrossEntropyLoss()
for epoch in range(3):
    for first in range(0, 512, 32):
        loss = criterion(model(x[first : first + 32]), y[first : first + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
