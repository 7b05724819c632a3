"""Mixed precision: what is computed is bfloat16, what is kept float32; the loss is taken in float32."""

import torch
from data import blobs
from torch import nn

torch.manual_seed(0)
x, y = blobs(512, 4)
model = nn.Sequential(nn.Linear(8, 48), nn.GELU(), nn.LayerNorm(48), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=64)
for epoch in range(4):
    for rows in torch.randperm(512).split(32):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = model(x[rows])
        loss = nn.functional.cross_entropy(scores.float(), y[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    print(epoch, loss.item())
