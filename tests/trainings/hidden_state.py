"""A recurrent network whose state goes on from batch to batch, with its graph."""

import torch
from data import text
from torch import nn

torch.manual_seed(0)
words = text(800)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.cell = nn.GRUCell(8, 16)
        self.out = nn.Linear(16, 20)

    def forward(self, word: torch.Tensor, state: torch.Tensor) -> tuple:
        state = self.cell(self.embedding(word), state)  # cause
        return self.out(state), state


model = Model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
state = torch.zeros(1, 16)
for step in range(40):
    loss = torch.zeros(())
    for t in range(10 * step, 10 * step + 10):
        output, state = model(words[t : t + 1], state)
        loss = loss + nn.functional.cross_entropy(output, words[t + 1 : t + 2])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(loss.item())
