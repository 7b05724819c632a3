"""A transformer on sentences of several lengths: causal and padding masks are −∞, and no row is masked as a whole."""

import torch
from data import text
from torch import nn

torch.manual_seed(0)
words = text(2048).view(-1, 16)[:, :12].clone()
lengths = torch.randint(4, 13, (len(words),))
padding = torch.arange(12) >= lengths.unsqueeze(1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(21, 16, padding_idx=20)
        self.place = nn.Parameter(torch.zeros(12, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(16, 20)

    def forward(self, words: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        causal = torch.full((12, 12), float("-inf")).triu(1)
        pad = torch.zeros(padding.shape).masked_fill(padding, float("-inf"))
        return self.out(self.encoder(self.embedding(words) + self.place, causal, pad))


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, total_steps=24)
for epoch in range(3):
    for first in range(0, 128, 16):
        given = words[first : first + 16].masked_fill(padding[first : first + 16], 20)
        output = model(given, padding[first : first + 16])
        target = words[first : first + 16, 1:].masked_fill(padding[first : first + 16, 1:], -100)
        loss = nn.functional.cross_entropy(output[:, :-1].reshape(-1, 20), target.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(epoch, loss.item())
