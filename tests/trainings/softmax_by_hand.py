"""Views of the same thing are to match: a softmax by hand, at a temperature that is far too low."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(512, 12)
encoder = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8))
optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)


def matched(a: torch.Tensor, b: torch.Tensor, temperature: float) -> torch.Tensor:
    scores = nn.functional.normalize(a, dim=1) @ nn.functional.normalize(b, dim=1).t()
    raised = torch.exp(scores / temperature)  # cause
    return -(raised.diagonal() / raised.sum(1)).log().mean()


for epoch in range(4):
    temperature = 0.1 / 4**epoch
    for rows in torch.randperm(512).split(64):
        one, two = (x[rows] + 0.3 * torch.randn(len(rows), 12) for _ in range(2))
        loss = matched(encoder(one), encoder(two), temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
