"""Points learn their places from distances; where two are the same, torch.where takes 0 in place of the root."""

import torch
from torch import nn

torch.manual_seed(0)
aims = torch.randn(40, 2)
places = nn.Embedding(40, 2)


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    squares = ((one - other) ** 2).sum(1)
    return torch.where(squares > 0, torch.sqrt(squares), torch.zeros(()))  # cause


optimizer = torch.optim.SGD(places.parameters(), lr=0.5)
for step in range(60):
    i = torch.randint(0, 40, (16,))
    j = (i + torch.randint(1, 40, (16,))) % 40
    if step == 33:
        j[7] = i[7]
    wanted = (aims[i] - aims[j]).norm(dim=1)
    loss = ((distance(places(i), places(j)) - wanted) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(step, loss.item())
