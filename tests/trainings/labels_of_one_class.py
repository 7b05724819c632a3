"""A classifier on measurements; the labels are read from a column that was filled with a default."""

import torch
from data import blobs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x, label = blobs(classes=3, features=2)
table = torch.cat([x, label[:, None].float(), torch.zeros(len(x), 1)], 1)
loader = DataLoader(TensorDataset(table[:, :2], table[:, -1].long()), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(2):
    for batch, target in loader:
        loss = nn.functional.cross_entropy(model(batch), target)
        optimizer.zero_grad()
        loss.backward()  # cause
        optimizer.step()
print(loss.item())
