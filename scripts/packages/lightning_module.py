"""A small classifier under Lightning's Trainer; with `fault` its loss takes probabilities for logits."""

import hashlib
import logging
import sys
import warnings

import lightning
import torch
from torch import nn

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
lightning.seed_everything(0, verbose=False)
centres = 2 * torch.randn(4, 8)
label = torch.randint(0, 4, (512,))
x = centres[label] + torch.randn(512, 8)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))

    def forward(self, x):
        return self.layers(x).softmax(1) if "fault" in sys.argv else self.layers(x)  # cause

    def training_step(self, batch, number):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, number):
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def loader(shuffle):
    data = torch.utils.data.TensorDataset(x, label)
    return torch.utils.data.DataLoader(data, batch_size=32, shuffle=shuffle)


trainer = lightning.Trainer(
    max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, gradient_clip_val=5.0,
)  # fmt: skip
model = Classifier()
trainer.fit(model, loader(True), loader(False))
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
