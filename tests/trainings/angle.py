"""Directions are compared by their angle; where two are the same, the arc cosine stands at the edge of its domain."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(256, 6)
aims = nn.functional.normalize(torch.randn(6, 3), dim=0)
model = nn.Linear(6, 3, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(60):
    batch = x[torch.randint(0, 256, (32,))]
    given = nn.functional.normalize(model(batch), dim=1)
    wanted = nn.functional.normalize(batch @ aims, dim=1)
    if step == 41:
        wanted = torch.cat([given[:1].detach(), wanted[1:]])
    cosine = (given * wanted).sum(1).clamp(-1, 1)
    if step == 41:
        cosine = torch.cat([cosine[:1] / cosine[:1].detach(), cosine[1:]])
    loss = torch.acos(cosine).mean()  # cause
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
