"""A code of discrete letters: drawn by Gumbel noise, hard forward and soft backward, with a temperature that falls."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, _ = blobs(512, 4)
writing, reading = nn.Linear(8, 4 * 6), nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 8))
optimizer = torch.optim.Adam([*writing.parameters(), *reading.parameters()], lr=5e-3)
for epoch in range(4):
    for rows in torch.randperm(512).split(32):
        scores = writing(x[rows]).unflatten(1, (4, 6))
        letters = nn.functional.gumbel_softmax(scores, tau=2.0 * 0.7**epoch, hard=True)
        loss = nn.functional.mse_loss(reading(letters.flatten(1)), x[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
