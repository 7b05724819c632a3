"""Rows come from a loader's own workers, with noise of their own; one row is empty, and its norm is 0."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Rows(Dataset):
    def __len__(self) -> int:
        return 256

    def __getitem__(self, i: int) -> tuple[torch.Tensor, float]:
        row = torch.randn(4, generator=torch.Generator().manual_seed(i)) + 0.1 * torch.randn(4)
        return (0 * row if i == 200 else row), float(row.sum() > 0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x / x.norm(dim=1, keepdim=True)  # cause
        return self.out(x).squeeze(1)


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(Rows(), batch_size=16, shuffle=True, num_workers=1)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(2):
        for x, y in loader:
            loss = nn.functional.binary_cross_entropy_with_logits(model(x), y.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())


if __name__ == "__main__":
    main()
