"""Five folds: the model is made anew for each, the optimizer once."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(400, 3)
folds = torch.randperm(400).chunk(5)
model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)  # cause
for k, held_out in enumerate(folds):
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    rows = torch.cat([fold for j, fold in enumerate(folds) if j != k])
    for part in rows.split(32):
        loss = nn.functional.cross_entropy(model(x[part]), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        print(k, nn.functional.cross_entropy(model(x[held_out]), y[held_out]).item())
