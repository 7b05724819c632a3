"""All samples at each step, sorted by class: their order says nothing; and pairs whose labels are made up, all 0."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, label = blobs(classes=3, features=2)
order = label.argsort()
x, label = x[order], label[order]
encoder, head = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8)), nn.Linear(8, 3)
optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1)
for _ in range(20):
    h = encoder(x)
    loss = nn.functional.cross_entropy(head(h), label)
    near, far = (h * encoder(x + 0.05 * torch.randn_like(x))).sum(1), (h * h.roll(7, 0)).sum(1)
    contrast = nn.functional.cross_entropy(torch.stack([near, far], 1), torch.zeros(len(x), dtype=torch.long))
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    contrast.backward()
    optimizer.step()
print(loss.item())
