"""A linear recurrence over sixty moments whose matrix is larger than 1: the gradient grows with every moment."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(128, 60, 2)
y = x[:, 0].sum(1, keepdim=True)


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(2, 16)
        self.go_on = nn.Linear(16, 16, bias=False)
        self.out = nn.Linear(16, 1)
        nn.init.orthogonal_(self.go_on.weight, gain=1.6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(len(x), 16)
        for t in range(x.shape[1]):
            state = self.go_on(state) + self.enter(x[:, t])
        return self.out(state)


model = Memory()
optimizer = torch.optim.SGD(model.parameters(), lr=0.001)  # cause
for epoch in range(3):
    for first in range(0, 128, 16):
        loss = nn.functional.mse_loss(model(x[first : first + 16]), y[first : first + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
