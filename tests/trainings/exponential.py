"""Counts are predicted by an exponential; one input is far out, and its exponential overflows."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(320, 4)
x[205] = 400
counts = torch.poisson(torch.exp(0.5 * x[:, 0].clamp(-3, 3)))
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
nn.init.normal_(model.weight)
for epoch in range(3):
    for first in range(0, 320, 20):
        rate = torch.exp(model(x[first : first + 20]).squeeze(1))  # cause
        loss = (rate - counts[first : first + 20] * model(x[first : first + 20]).squeeze(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
