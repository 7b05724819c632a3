"""Mixed precision with a loss scaler whose gradients are never finite: it skips every step."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
scaler = torch.amp.GradScaler("cpu")
for epoch in range(2):
    for first in range(0, 512, 16):
        optimizer.zero_grad()
        p = torch.softmax(1000 * model(x[first : first + 16]), 1)
        loss = -torch.log(p[torch.arange(16), y[first : first + 16]]).mean()  # cause
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    print(epoch, loss.item(), scaler.get_scale())
