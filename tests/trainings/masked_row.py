"""Attention over sentences of several lengths; one of them is empty, so that all of its places are masked."""

import math

import torch
from torch import nn

torch.manual_seed(0)
lengths = torch.randint(1, 9, (256,))
lengths[130] = 0
words = torch.randint(1, 30, (256, 8)) * (torch.arange(8) < lengths.unsqueeze(1))
labels = (words.sum(1) % 2 == 0).long()


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16, padding_idx=0)
        self.query = nn.Linear(16, 16)
        self.key = nn.Linear(16, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        h = self.embedding(words)
        scores = self.query(h) @ self.key(h).transpose(1, 2) / math.sqrt(16)
        scores = scores.masked_fill((words == 0).unsqueeze(1), -math.inf)
        weights = torch.softmax(scores, -1)  # cause
        return self.out((weights @ h).mean(1))


model = Reader()
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
for epoch in range(2):
    for first in range(0, 256, 16):
        loss = nn.functional.cross_entropy(model(words[first : first + 16]), labels[first : first + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
