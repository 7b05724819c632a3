"""One of two branches is detached, left over from a trial: its layers never learn."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(8, 16)
        self.right = nn.Linear(8, 16)
        self.out = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = torch.relu(self.left(x))
        right = torch.relu(self.right(x)).detach()  # cause
        return self.out(torch.cat([left, right], 1))


model = Two()
optimizer = torch.optim.Adam([*model.left.parameters(), *model.right.parameters(), *model.out.parameters()], lr=0.01)
for epoch in range(4):
    for first in range(0, 512, 64):
        loss = nn.functional.cross_entropy(model(x[first : first + 64]), y[first : first + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
