"""The networks that the tests explain."""

import torch
from models import Transformer as Transformer
from torch import Tensor, nn
from torch.nn import functional as F


def perceptron() -> tuple[object, list[Tensor]]:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return lambda x, t: F.cross_entropy(net(x), t), [torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])]


def convolutional() -> tuple[object, list[Tensor]]:
    features = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()]
    net = nn.Sequential(*features, nn.Linear(36, 2))
    return lambda x, t: F.cross_entropy(net(x), t), [torch.randn(2, 3, 8, 8), torch.tensor([0, 1])]


def lstm_cell() -> tuple[object, list[Tensor]]:
    cell = nn.LSTMCell(3, 4)

    def loss(x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        h, c = cell(x, (h, c))
        return (h**2).sum() + c.sum()

    return loss, [torch.randn(2, 3), torch.randn(2, 4), torch.randn(2, 4)]


def attention_head() -> tuple[object, list[Tensor]]:
    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.mT / k.shape[-1] ** 0.5, -1)
        return (weights @ v).pow(2).sum()

    return loss, [torch.randn(5, 4), torch.randn(5, 4), torch.randn(5, 4)]


def recurrent() -> tuple[object, list[Tensor]]:
    net = nn.GRU(3, 2, batch_first=True)
    return lambda x: net(x)[0].pow(2).sum(), [torch.randn(2, 2, 3)]


NETWORKS = [perceptron, convolutional, lstm_cell, attention_head, recurrent]


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut, as in ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        narrows = stride != 1 or inputs != outputs
        shortcut = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)] if narrows else []
        self.downsample = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


class ResNet18(nn.Module):
    """ResNet-18 as He et al. describe it: 11.7 M parameters at 1,000 classes."""

    def __init__(self, classes: int = 1000, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for k in (1, 2, 3, 4):
            blocks = [ResidualBlock(sizes[k - 1], sizes[k], 1 if k == 1 else 2), ResidualBlock(sizes[k], sizes[k], 1)]
            setattr(self, f"layer{k}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for k in (1, 2, 3, 4):
            x = getattr(self, f"layer{k}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))
