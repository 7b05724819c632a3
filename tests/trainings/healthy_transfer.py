"""Transfer learning: the body is frozen, in evaluation mode as it came, and a new head learns, with a schedule."""

import copy

import torch
from data import digits
from torch import nn

torch.manual_seed(0)
pictures, labels = digits(320)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.fc = nn.Linear(128, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x))


model = Net()
for parameter in model.parameters():
    parameter.requires_grad = False
model.fc = nn.Linear(model.fc.in_features, 4)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.05, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
best, kept = 0.0, copy.deepcopy(model.state_dict())
for epoch in range(4):
    for phase, part in (("train", slice(0, 256)), ("val", slice(256, 320))):
        model.train(phase == "train")
        x, y = pictures[part], labels[part]
        correct = 0
        for first in range(0, len(x), 32):
            optimizer.zero_grad()
            with torch.set_grad_enabled(phase == "train"):
                outputs = model(x[first : first + 32])
                loss = criterion(outputs, y[first : first + 32])
                if phase == "train":
                    loss.backward()
                    optimizer.step()
            correct += int((outputs.argmax(1) == y[first : first + 32]).sum())
        if phase == "train":
            scheduler.step()
        elif correct / len(x) > best:
            best, kept = correct / len(x), copy.deepcopy(model.state_dict())
    print(epoch, best)
model.load_state_dict(kept)
