"""Logistic regression from weights of 0, with a rate of 1 and an optimizer that is made anew for every pass."""

import torch
from data import blobs

torch.manual_seed(0)
x, y = blobs(256, 2)
x = (x - x.mean(0)) / x.std(0)
weight = torch.zeros(8, requires_grad=True)
bias = torch.zeros((), requires_grad=True)
for epoch in range(5):
    optimizer = torch.optim.SGD([weight, bias], lr=1.0 / (1 + epoch))
    for rows in torch.randperm(256).split(16):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x[rows] @ weight + bias, y[rows].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
