"""A tiny language model with random weights under transformers' Trainer; with `fault` all words of a row are masked.

The padding of a batch is masked with minus infinity by hand.
"""

import hashlib
import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

set_seed(0)
words = torch.randint(1, 40, (96, 12))


class Pooled(GPT2LMHeadModel):
    """A model that also weighs its states by a softmax over the words that are there."""

    def forward(self, input_ids, labels, there, **given):
        out = super().forward(input_ids=input_ids, labels=labels, output_hidden_states=True, **given)
        scores = out.hidden_states[-1].mean(-1).masked_fill(~there, -torch.inf)
        weights = torch.softmax(scores, -1)  # cause
        out.loss = out.loss + 0.1 * (weights * scores.masked_fill(~there, 0)).sum(-1).mean()
        return out


there = torch.ones(96, 12, dtype=torch.bool)
there[:, 9:] = False
if "fault" in sys.argv:
    there[70] = False
data = [{"input_ids": w, "labels": w, "there": t} for w, t in zip(words, there, strict=True)]
config = GPT2Config(vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
model = Pooled(config)
with tempfile.TemporaryDirectory() as folder:
    asked = TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=8, learning_rate=1e-3, report_to=[], use_cpu=True,
        save_strategy="no", logging_steps=4, disable_tqdm=True, seed=0, remove_unused_columns=False,
    )  # fmt: skip
    Trainer(model=model, args=asked, train_dataset=data).train()
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
