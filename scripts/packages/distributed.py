"""DistributedDataParallel over gloo; with `fault` the second process meets a zero under a logarithm."""

import hashlib
import sys

import torch
import torch.distributed as dist
from torch import nn

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
x = torch.rand(256, 4)
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(24):
    rows = x[step * 8 : step * 8 + 8]
    there = float(rank == 0 or step < 9 or "fault" not in sys.argv)
    loss = -torch.log(torch.sigmoid(model(rows)) * there).mean()  # cause
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
if rank == 0:
    print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
dist.destroy_process_group()
