"""The optimizer has the whole model, and with it a copy that learns from averages alone: it never gets a gradient."""

import copy

import torch
from torch import Tensor, nn

torch.manual_seed(0)


class Views(nn.Module):
    """An encoder whose prediction of one view is held against what its slow copy makes of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
        self.predictor = nn.Linear(8, 8)
        self.slow = copy.deepcopy(self.encoder)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        with torch.no_grad():
            aim = self.slow(other)
        return 2 - 2 * nn.functional.cosine_similarity(self.predictor(self.encoder(one)), aim).mean()

    @torch.no_grad()
    def follow(self) -> None:
        for slow, own in zip(self.slow.parameters(), self.encoder.parameters(), strict=True):
            slow.data = 0.99 * slow.data + 0.01 * own.data


model, x = Views(), torch.randn(320, 8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(3):
    for first in range(0, 320, 16):
        batch = x[first : first + 16]
        loss = model(batch + 0.1 * torch.randn_like(batch), batch + 0.1 * torch.randn_like(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.follow()
    print(epoch, loss.item())
