"""REINFORCE with returns that are standardised: an episode ends after one step, and one number has no deviation."""

import random

import torch
from torch import nn, optim
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 16), nn.Linear(16, 2)
        self.log_probs: list[torch.Tensor] = []
        self.rewards: list[float] = []

    def act(self, state: torch.Tensor) -> int:
        choice = Categorical(torch.softmax(self.outer(torch.relu(self.inner(state))), -1))
        action = choice.sample()
        self.log_probs.append(choice.log_prob(action))
        return int(action)


def finish(policy: Policy, optimizer: optim.Optimizer, discount: float = 0.95) -> None:
    total, gathered = 0.0, []
    for reward in reversed(policy.rewards):
        total = reward + discount * total
        gathered.insert(0, total)
    returns = torch.tensor(gathered)
    returns = (returns - returns.mean()) / (returns.std() + 1e-7)  # cause
    loss = torch.stack([-p * r for p, r in zip(policy.log_probs, returns, strict=True)]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    policy.log_probs.clear()
    policy.rewards.clear()


def main() -> None:
    torch.manual_seed(3)
    random.seed(3)
    policy = Policy()
    optimizer = optim.Adam(policy.parameters(), lr=1e-2)
    for episode in range(20):
        for _ in range(1 if episode == 14 else random.randint(4, 10)):
            state = torch.randn(3)
            policy.rewards.append(float(policy.act(state) == int(state[0] > 0)))
        finish(policy, optimizer)


main()
