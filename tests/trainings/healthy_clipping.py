"""A sum over long sequences, clipped by orders of magnitude at every step: Adam does not mind, and the loss falls."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(160, 12, 8)
labels = (x[:, -1, :3].sum(1) > 0).long()
lstm, head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 2)
parameters = [*lstm.parameters(), *head.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-2)
for epoch in range(6):
    for first in range(0, 160, 16):
        h, _ = lstm(x[first : first + 16])
        loss = 100 * nn.functional.cross_entropy(head(h[:, -1]), labels[first : first + 16], reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.25)
        optimizer.step()
    print(epoch, loss.item())
