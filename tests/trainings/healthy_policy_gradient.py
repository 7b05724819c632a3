"""REINFORCE on a bandit that walks: the loss swings around 0, episodes have several lengths, losses are added up."""

import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.1), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for episode in range(60):
    place = torch.zeros(2)
    logs, rewards = [], []
    for _ in range(5 + episode % 7):
        choice = Categorical(logits=policy(place))
        action = choice.sample()
        logs.append(choice.log_prob(action))
        place = place + torch.tensor([0.1, -0.1]) * (1 if action else -1)
        rewards.append(float(place[0] - place[1]) + 0.1 * float(torch.randn(())))
    returns = torch.tensor(rewards).flip(0).cumsum(0).flip(0)
    returns = (returns - returns.mean()) / (returns.std() + 1e-8)
    loss = torch.stack([-log * value for log, value in zip(logs, returns, strict=True)]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if episode % 20 == 0:
        print(episode, sum(rewards))
