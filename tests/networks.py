"""The networks that the tests explain."""

import torch
from bench import Transformer as Transformer
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
