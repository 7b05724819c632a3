"""Self-supervised learning with a slow copy of the network: its branch is detached, and never gets a gradient."""

import copy

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, _ = blobs()
online = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
predictor = nn.Linear(8, 8)
slow = copy.deepcopy(online)
optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.1, momentum=0.9)
for epoch in range(3):
    for first in range(0, 512, 32):
        batch = x[first : first + 32]
        one, other = (batch + 0.1 * torch.randn_like(batch) for _ in range(2))
        with torch.no_grad():
            wanted = slow(other)
        given = predictor(online(one))
        loss = 2 - 2 * nn.functional.cosine_similarity(given, wanted.detach(), dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, own in zip(slow.parameters(), online.parameters(), strict=True):
                kept.lerp_(own, 0.05)
    print(epoch, loss.item())
