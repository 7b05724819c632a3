"""A mixture of experts: each input goes to one of them, and one is never chosen."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        nn.init.constant_(self.gate.bias[3:], -50.0)
        self.experts = nn.ModuleList(nn.Linear(8, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.gate(x), 1)
        chosen = weights.argmax(1)
        output = torch.zeros(len(x), 4)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero().flatten()
            if len(rows):
                output = output.index_add(0, rows, weights[rows, i : i + 1] * expert(x[rows]))
        return output


model = Mixture()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch in range(4):
    for first in range(0, 512, 32):
        loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
