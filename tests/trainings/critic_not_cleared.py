"""Two that play against each other: the gradients of the one that judges are never cleared."""

import torch
from torch import nn

torch.manual_seed(0)
making = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
judging = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
first = torch.optim.Adam(making.parameters(), lr=1e-3, betas=(0.5, 0.99))
second = torch.optim.Adam(judging.parameters(), lr=1e-3, betas=(0.5, 0.99))
loss_of = nn.BCEWithLogitsLoss()
for step in range(60):
    real = torch.randn(32, 2) * 0.3 + torch.tensor([1.0, -1.0])
    fake = making(torch.randn(32, 4))
    judged = loss_of(judging(real), torch.ones(32, 1)) + loss_of(judging(fake.detach()), torch.zeros(32, 1))
    judged.backward()
    second.step()
    first.zero_grad()
    made = loss_of(judging(fake), torch.ones(32, 1))
    made.backward()
    first.step()
    if step % 20 == 0:
        print(step, judged.item(), made.item())
