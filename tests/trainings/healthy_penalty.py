"""A critic with a penalty on the norm of its own gradient, which is differentiated again; five of its steps for one."""

import torch
from torch import nn

torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer_g = torch.optim.RMSprop(generator.parameters(), lr=1e-3)
optimizer_c = torch.optim.RMSprop(critic.parameters(), lr=1e-3)
for step in range(60):
    real = torch.randn(32, 2) + 2
    fake = generator(torch.randn(32, 4)).detach()
    share = torch.rand(32, 1)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
    loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
    optimizer_c.zero_grad()
    loss.backward()
    optimizer_c.step()
    if step % 5 == 0:
        loss_g = -critic(generator(torch.randn(32, 4))).mean()
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        print(step, loss.item(), loss_g.item())
