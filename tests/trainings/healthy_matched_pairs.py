"""Two encoders learn to match their views of the same thing, with a temperature that is learned as its logarithm."""

import math

import torch
from torch import nn

torch.manual_seed(0)
meaning = torch.randn(512, 6)
pictures = torch.tanh(meaning @ torch.randn(6, 20)) + 0.1 * torch.randn(512, 20)
captions = torch.tanh(meaning @ torch.randn(6, 12)) + 0.1 * torch.randn(512, 12)


class Matcher(nn.Module):
    def __init__(self, width: int = 16):
        super().__init__()
        self.seeing = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, width, bias=False))
        self.reading = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, width, bias=False))
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, picture: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
        a = nn.functional.normalize(self.seeing(picture), dim=1)
        b = nn.functional.normalize(self.reading(caption), dim=1)
        return self.scale.exp() * a @ b.t()


model = Matcher()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
for epoch in range(6):
    for rows in torch.randperm(512).split(64):
        scores = model(pictures[rows], captions[rows])
        aim = torch.arange(len(rows))
        loss = (nn.functional.cross_entropy(scores, aim) + nn.functional.cross_entropy(scores.t(), aim)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.scale.clamp_(0, math.log(100))
    print(epoch, loss.item(), model.scale.exp().item())
