"""The networks that are measured and drawn."""

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """A decoder of GPT-2-small's shape: 12 layers, 12 heads, width 768, 50,257 tokens, tied ends, 124 M parameters."""

    def __init__(self, width: int = 768, tokens: int = 50257, layers: int = 12, context: int = 1024) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens, width)
        self.positions = nn.Embedding(context, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 12, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for layer in self.layers:
            h = layer(h, src_mask=mask, is_causal=True)
        logits = self.head(self.norm(h))
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


class Perceptron(nn.Module):
    """Three layers, 784 to 512 to 512 to 10, with cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.net(x), t)
