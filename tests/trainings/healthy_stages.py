"""A new head learns first, then all of it, in evaluation mode to keep the statistics; another one now and then."""

import torch
from torch import Tensor, nn

torch.manual_seed(0)
x = torch.randn(320, 8)
labels = (x[:, :3].sum(1) > 0).long()
body = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU())
head, side = nn.Linear(32, 2), nn.Linear(32, 1)
model = nn.ModuleDict({"body": body, "head": head, "side": side})


def loss_of(step: int) -> Tensor:
    chosen = torch.randint(0, 320, (16,))
    h = body(x[chosen])
    loss = nn.functional.cross_entropy(head(h), labels[chosen])
    if step % 10 == 9:
        loss = loss + 0.1 * (side(h).squeeze(1) - x[chosen].sum(1)).square().mean()
    return loss


for stage, rate in enumerate((1e-2, 1e-3)):
    body.requires_grad_(stage == 1)
    model.train(stage == 0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for step in range(50):
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(stage, loss.item())
