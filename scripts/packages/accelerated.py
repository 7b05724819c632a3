"""A loop of one's own with accelerate, which accumulates; with `fault` the head is replaced behind the optimizer."""

import hashlib
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

set_seed(0)
centres = 2 * torch.randn(4, 8)
label = torch.randint(0, 4, (512,))
data = torch.utils.data.TensorDataset(centres[label] + torch.randn(512, 8), label)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # cause
if "fault" in sys.argv:
    model[2] = nn.Linear(32, 4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24)
loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
for _ in range(3):
    for batch, target in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(batch), target)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
