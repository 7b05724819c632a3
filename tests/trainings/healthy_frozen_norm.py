"""Fine-tuning as it is meant: batch normalisation kept in evaluation mode, then all of the model; doubt by dropout."""

import torch
from data import digits
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(128, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def keep_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def doubt(model: nn.Module, x: torch.Tensor) -> float:
    model.train()
    keep_statistics(model)
    with torch.no_grad():
        return torch.stack([model(x).softmax(1) for _ in range(5)]).std(0).mean().item()


def main() -> None:
    torch.manual_seed(0)
    pictures, labels = digits(320)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(6):
        model.train()
        if epoch >= 2:
            keep_statistics(model)
        if epoch >= 4:  # the last epochs without dropout
            model.eval()
        for rows in torch.randperm(256).split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(pictures[rows]), labels[rows])
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())
    print(doubt(model, pictures[256:]))


main()
