"""Q-learning one step at a time: of twelve actions few are ever taken, and the others get no gradient."""

import random

import torch
from torch import nn

torch.manual_seed(0)
random.seed(0)
values = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 12))
optimizer = torch.optim.SGD(values.parameters(), lr=1e-3)
state = torch.randn(1, 6)
for step in range(100):
    action = random.choice([0, 0, 0, 1, 2])
    reward, following = state[0, 0].item(), torch.randn(1, 6)
    with torch.no_grad():
        expected = reward + 0.9 * values(following).max()
    loss = (values(state)[0, action] - expected) ** 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    state = following
    if step % 25 == 0:
        print(step, loss.item())
