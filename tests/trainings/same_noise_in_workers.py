"""Noise is added by workers from one generator, of which each has a copy."""

import numpy as np
import torch
from data import blobs
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    def __init__(self) -> None:
        x, y = blobs(256)
        self.x, self.y = x.numpy(), y.numpy()
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        noise = self.generator.normal(0, 0.3, self.x.shape[1])  # cause
        return (self.x[place] + noise).astype("float32"), int(self.y[place])


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(2):
        for x, y in DataLoader(Noisy(), batch_size=32, shuffle=True, num_workers=2):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())


if __name__ == "__main__":
    main()
