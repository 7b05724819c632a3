"""A trainer that keeps its losses, with all that made them."""

import torch
from data import blobs
from torch import nn


class Trainer:
    def __init__(self, model: nn.Module):
        self.model, self.history = model, []
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.model(x), y)
        self.history.append(loss)  # cause
        return loss

    def fit(self, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
        for epoch in range(epochs):
            for rows in torch.randperm(len(x)).split(32):
                self.optimizer.zero_grad()
                self.training_step(x[rows], y[rows]).backward()
                self.optimizer.step()
            print(epoch, torch.stack(self.history[-16:]).mean().item())


torch.manual_seed(0)
Trainer(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))).fit(*blobs(512, 4), epochs=4)
