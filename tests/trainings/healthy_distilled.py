"""A small model learns from a large one, which is trained first and then only asked."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 4)


def made(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 4))


teacher, student = made(64), made(8)
optimizer = torch.optim.Adam(teacher.parameters(), lr=5e-3)
for rows in torch.randperm(512).split(32):
    loss = nn.functional.cross_entropy(teacher(x[rows]), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
teacher.eval()
optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
for epoch in range(4):
    for rows in torch.randperm(512).split(32):
        with torch.no_grad():
            wanted = (teacher(x[rows]) / 2).softmax(1)
        scores = student(x[rows])
        soft = nn.functional.kl_div((scores / 2).log_softmax(1), wanted, reduction="batchmean") * 4
        loss = 0.7 * soft + 0.3 * nn.functional.cross_entropy(scores, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
