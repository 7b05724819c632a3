"""A word language model: an LSTM whose state goes from piece to piece of the text, detached, with clipped gradients."""

import torch
from data import text
from torch import nn

torch.manual_seed(0)
length, rows = 10, 8
words = text(2008).narrow(0, 0, 2000).view(rows, -1).t()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(20, 16)
        self.rnn = nn.LSTM(16, 32)
        self.decoder = nn.Linear(32, 20)

    def forward(self, words: torch.Tensor, state: tuple) -> tuple:
        output, state = self.rnn(self.encoder(words), state)
        return self.decoder(output).view(-1, 20), state


model = Model()
criterion = nn.CrossEntropyLoss()
lr = 5.0
for epoch in range(2):
    total = 0.0
    state = (torch.zeros(1, rows, 32), torch.zeros(1, rows, 32))
    for i in range(0, words.size(0) - length - 1, length):
        state = tuple(part.detach() for part in state)
        model.zero_grad()
        output, state = model(words[i : i + length], state)
        loss = criterion(output, words[i + 1 : i + 1 + length].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-lr)
        total += loss.item()
    print(f"epoch {epoch}: {total / 24:.3f}")
