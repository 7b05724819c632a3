"""Dropout and batch norm by design under no_grad: a teacher's targets at each step, samples of doubt at the end."""

import copy

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, label = blobs()
model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
teacher = copy.deepcopy(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)


@torch.no_grad()
def accuracy() -> float:
    model.eval()
    right = model(x[384:]).argmax(1) == label[384:]
    model.train()
    return right.float().mean().item()


for epoch in range(2):
    for rows in torch.randperm(384).split(32):
        with torch.no_grad():
            guess = teacher(x[rows] + 0.1 * torch.randn(len(rows), 8)).softmax(1)
        scores = model(x[rows])
        loss = nn.functional.cross_entropy(scores, label[rows]) + (scores.softmax(1) - guess).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for own, other in zip(teacher.parameters(), model.parameters(), strict=True):
                own.lerp_(other, 0.1)
    print(epoch, accuracy())
with torch.inference_mode():
    print(torch.stack([model(x[384:]).softmax(1) for _ in range(4)]).std(0).mean().item())
