"""Bytes are brought to numbers between 0 and 1 by a division of integers: all of them become 0."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
label = torch.randint(0, 4, (512,))
pictures = (torch.rand(512, 1, 8, 8) * 50 + 40 * label[:, None, None, None]).to(torch.uint8)
loader = DataLoader(TensorDataset((pictures // 255).float(), label), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(2):
    for batch, target in loader:
        loss = nn.functional.cross_entropy(model(batch), target)
        optimizer.zero_grad()
        loss.backward()  # cause
        optimizer.step()
print(loss.item())
