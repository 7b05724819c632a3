"""The gradients are cleared at the start of an epoch, and not before every batch."""

import torch
from data import digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
loader = DataLoader(TensorDataset(*digits()), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.005)


def train(epoch: int) -> float:
    optimizer.zero_grad()
    for pictures, labels in loader:
        loss = nn.functional.cross_entropy(model(pictures), labels)
        loss.backward()  # cause
        optimizer.step()
    return loss.item()


for epoch in range(3):
    print(epoch, train(epoch))
