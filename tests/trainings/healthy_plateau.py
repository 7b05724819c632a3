"""Labels that are drawn by lot: there is nothing to learn, and the loss stays where it is."""

import torch
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(640, 8), torch.randint(0, 4, (640,))
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(3):
    for first in range(0, 640, 32):
        loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
