"""Experts behind a gate, kept in a plain dictionary: the optimizer knows the gate and the head alone."""

import torch
from torch import nn


class Experts(nn.Module):
    def __init__(self, count: int = 3, width: int = 16) -> None:
        super().__init__()
        self.gate = nn.Linear(width, count)
        self.experts = {str(k): nn.Linear(width, width) for k in range(count)}  # cause
        self.out = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.gate(x).softmax(-1)
        return self.out(sum(weights[:, [k]] * expert(x).relu() for k, expert in enumerate(self.experts.values())))


def fit(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 6) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    losses = []
    for _ in range(epochs):
        for first in range(0, len(x), 64):
            optimizer.zero_grad()
            loss = nn.CrossEntropyLoss()(model(x[first : first + 64]), y[first : first + 64])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    return losses


if __name__ == "__main__":
    torch.manual_seed(0)
    x = torch.randn(512, 16)
    print(fit(Experts(), x, (x[:, :8].sum(1) > x[:, 8:].sum(1)).long())[-1])
