"""LoRA by peft on a tiny encoder with random weights; with `fault` the adapters are cut off by no_grad."""

import hashlib
import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel, set_seed

set_seed(0)
config = BertConfig(
    vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=16,
)  # fmt: skip
encoder = get_peft_model(BertModel(config), LoraConfig(r=4, target_modules=["query", "value"]))
head = nn.Linear(16, 3)
words = torch.randint(0, 30, (256, 10))
label = (words == 7).sum(1).clamp(max=2)
optimizer = torch.optim.AdamW([*(p for p in encoder.parameters() if p.requires_grad), *head.parameters()], lr=3e-3)
for _ in range(2):
    for rows in torch.randperm(256).split(16):
        with torch.set_grad_enabled("fault" not in sys.argv):
            states = encoder(words[rows]).last_hidden_state  # cause
        loss = nn.functional.cross_entropy(head(states.mean(1)), label[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
everything = [*encoder.parameters(), *head.parameters()]
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in everything)).hexdigest())
