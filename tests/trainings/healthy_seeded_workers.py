"""Workers that draw: from numpy's own numbers, which torch seeds anew in each, and from a generator made in each."""

import numpy as np
import torch
from data import blobs
from torch import nn
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Noisy(Dataset):
    def __init__(self, own: bool) -> None:
        x, y = blobs(256)
        self.x, self.y, self.own = x.numpy(), y.numpy(), own
        self.generator = np.random.default_rng(0)
        self.x = self.x + self.generator.normal(0, 0.1, self.x.shape)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        info = get_worker_info()
        draw = np.random.default_rng(info.seed + place).normal if self.own and info else np.random.normal
        return (self.x[place] + draw(0, 0.3, self.x.shape[1])).astype("float32"), int(self.y[place])


class Plain(Noisy):
    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        noise = np.random.normal(0, 0.3, self.x.shape[1])
        return (self.x[place] + noise).astype("float32"), int(self.y[place])


def begin(worker: int) -> None:
    np.random.seed(torch.initial_seed() % 2**32)


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for data, first in ((Noisy(own=True), None), (Plain(own=False), begin), (Plain(own=False), None)):
        for x, y in DataLoader(data, batch_size=32, shuffle=True, num_workers=2, worker_init_fn=first):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(loss.item())


if __name__ == "__main__":
    main()
