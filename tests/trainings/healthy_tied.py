"""A language model whose output layer is its embedding; padding is left out, and the lengths grow."""

import torch
from torch import nn

torch.manual_seed(0)
WORDS, PADDING = 24, 0
table = torch.randint(1, WORDS, (WORDS,))


class Model(nn.Module):
    def __init__(self, width: int = 24):
        super().__init__()
        self.embed = nn.Embedding(WORDS, width, padding_idx=PADDING)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.cell = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, WORDS, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.out(self.cell(self.embed(words))[0])


def batch(length: int) -> torch.Tensor:
    words = [torch.randint(1, WORDS, (16,))]
    for _ in range(length):
        words.append(table[words[-1]])
    words = torch.stack(words, 1)
    ends = torch.randint(2, length + 2, (16, 1))
    return words.masked_fill(torch.arange(length + 1) >= ends, PADDING)


model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for epoch, length in enumerate((3, 5, 8, 12)):
    for _ in range(15):
        words = batch(length)
        scores = model(words[:, :-1])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), words[:, 1:].flatten(), ignore_index=PADDING)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(epoch, length, loss.item())
