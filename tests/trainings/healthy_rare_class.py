"""A class of one in five hundred, in the order in which it was recorded, and a loss on probabilities."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(4096, 3)
label = (x[:, :1] > 2.9).float()
loader = DataLoader(TensorDataset(x, label), batch_size=128)
model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid())
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for batch, target in loader:
    loss = nn.functional.binary_cross_entropy(model(batch), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
