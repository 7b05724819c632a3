"""A network that ends in a softmax, and a loss that applies one itself."""

import torch
from data import digits
from torch import nn

torch.manual_seed(0)
pictures, labels = digits()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc1 = nn.Linear(8 * 25, 32)
        self.fc2 = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        x = torch.relu(self.fc1(x.flatten(1)))
        return torch.softmax(self.fc2(x), dim=1)  # cause


model = Network()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range(4):
    for first in range(0, 256, 32):
        optimizer.zero_grad()
        loss = criterion(model(pictures[first : first + 32]), labels[first : first + 32])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
