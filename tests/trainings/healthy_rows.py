"""A table of words of which few occur, and a second network, made later and left as it is, that judges the output."""

import torch
from torch import nn

torch.manual_seed(0)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2000, 16))
        self.hidden = nn.Linear(16, 32)
        self.out = nn.Linear(32, 2000)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(self.table[words])))


model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
judge = nn.Sequential(nn.Linear(2000, 8), nn.ReLU(), nn.Linear(8, 4))
for step in range(60):
    words = torch.randint(0, 200, (16,))
    output = model(words)
    likeness = (judge(output) - judge(0.9 * output.detach())).pow(2).mean()
    loss = nn.functional.cross_entropy(output, words) + 0.01 * likeness
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(step, loss.item())
