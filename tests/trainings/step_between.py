"""Two networks against each other: one steps between the forward pass of a loss and its backward pass."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, _ = blobs()
generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
critic = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
one = torch.optim.Adam(generator.parameters(), lr=1e-3)
other = torch.optim.Adam(critic.parameters(), lr=1e-3)
criterion = nn.BCEWithLogitsLoss()
for _ in range(30):
    batch = x[torch.randint(0, 512, (32,))]
    fake = generator(torch.randn(32, 4))
    judged = critic(fake)
    loss_g = criterion(judged, torch.ones(32, 1))
    loss_d = criterion(critic(batch), torch.ones(32, 1)) + criterion(critic(fake.detach()), torch.zeros(32, 1))
    other.zero_grad()
    loss_d.backward()
    other.step()  # cause
    one.zero_grad()
    loss_g.backward()
    one.step()
