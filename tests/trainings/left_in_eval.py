"""After the first evaluation the model is never set back: dropout stays off."""

import torch
from data import digits
from torch import nn

torch.manual_seed(0)
pictures, labels = digits(320)
model = nn.Sequential(
    nn.Flatten(), nn.Linear(144, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4)
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def accuracy() -> float:
    model.eval()  # cause
    with torch.no_grad():
        return (model(pictures[256:]).argmax(1) == labels[256:]).float().mean().item()


model.train()
for epoch in range(4):
    for first in range(0, 256, 32):
        loss = nn.functional.cross_entropy(model(pictures[first : first + 32]), labels[first : first + 32])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item(), accuracy())
