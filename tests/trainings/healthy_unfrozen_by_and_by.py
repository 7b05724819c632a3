"""A body that is given free layer by layer, each with a learning rate of its own, the lowest at 0 for an epoch."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 3)
body = nn.ModuleList([nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, 24)])
head = nn.Linear(24, 3)


def model(rows: torch.Tensor) -> torch.Tensor:
    for layer in body:
        rows = torch.relu(layer(rows))
    return head(rows)


groups = [{"params": layer.parameters(), "lr": 0.0} for layer in body] + [{"params": head.parameters(), "lr": 1e-2}]
optimizer = torch.optim.AdamW(groups)
for epoch in range(5):
    free = len(body) - epoch
    for number, layer in enumerate(body):
        layer.requires_grad_(number >= free)
        optimizer.param_groups[number]["lr"] = 1e-2 * 0.5 ** (len(body) - number) if number >= free else 0.0
    for rows in torch.randperm(512).split(32):
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
