"""Five folds, each with a model and an optimizer of its own; the number of epochs is found by stopping early."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(400, 3)
folds = torch.randperm(400).chunk(5)


def fitted(rows: torch.Tensor, held_out: torch.Tensor, patience: int = 3) -> float:
    model = nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
    best, since = float("inf"), 0
    for _ in range(12):
        model.train()
        for part in rows[torch.randperm(len(rows))].split(32):
            loss = nn.functional.cross_entropy(model(x[part]), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            measured = nn.functional.cross_entropy(model(x[held_out]), y[held_out]).item()
        scheduler.step(measured)
        best, since = (measured, 0) if measured < best else (best, since + 1)
        if since >= patience:
            break
    return best


results = []
for k, held_out in enumerate(folds):
    rows = torch.cat([fold for j, fold in enumerate(folds) if j != k])
    results.append(fitted(rows, held_out))
    print(k, results[-1])
