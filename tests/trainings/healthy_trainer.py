"""A trainer as of a library: accumulated over four batches, warmed up, decayed, clipped, evaluated, the best kept."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from data import blobs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Arguments:
    epochs: int = 4
    rate: float = 3e-3
    accumulate: int = 4
    warmup: int = 6
    decay: float = 0.01
    largest: float = 1.0


class Trainer:
    def __init__(self, model: nn.Module, train: DataLoader, held_out: DataLoader, arguments: Arguments):
        self.model, self.train_loader, self.held_out, self.arguments = model, train, held_out, arguments
        self.history: list[dict[str, float]] = []
        self.best, self.best_state, self.global_step = float("inf"), None, 0

    def create_optimizer(self) -> None:
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": self.arguments.decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.arguments.rate)
        total = self.arguments.epochs * len(self.train_loader) // self.arguments.accumulate
        warm = self.arguments.warmup
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: step / warm if step < warm else max(0.0, (total - step) / (total - warm))
        )

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> float:
        self.model.train()
        loss = nn.functional.cross_entropy(self.model(x), y) / self.arguments.accumulate
        loss.backward()
        return loss.detach().item()

    def train(self) -> None:
        self.create_optimizer()
        self.model.zero_grad()
        total = 0.0
        for epoch in range(self.arguments.epochs):
            for number, (x, y) in enumerate(self.train_loader):
                total += self.training_step(x, y)
                if (number + 1) % self.arguments.accumulate == 0:
                    nn.utils.clip_grad_norm_(self.model.parameters(), self.arguments.largest)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.model.zero_grad()
                    self.global_step += 1
                    if self.global_step % 5 == 0:
                        self.history.append({"loss": total / 5, "rate": self.scheduler.get_last_lr()[0]})
                        total = 0.0
            self.evaluate(epoch)

    @torch.no_grad()
    def evaluate(self, epoch: int) -> None:
        self.model.eval()
        losses = [nn.functional.cross_entropy(self.model(x), y).item() for x, y in self.held_out]
        loss = sum(losses) / len(losses)
        if loss < self.best:
            self.best, self.best_state = loss, deepcopy(self.model.state_dict())
        print(epoch, round(loss, 4), self.history[-1])


torch.manual_seed(0)
x, y = blobs(1152, 4)
model = nn.Sequential(
    nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 4)
)
trainer = Trainer(
    model,
    DataLoader(TensorDataset(x[:1024], y[:1024]), 16, shuffle=True),
    DataLoader(TensorDataset(x[1024:], y[1024:]), 32),
    Arguments(),
)
trainer.train()
model.load_state_dict(trainer.best_state)
