"""Actor and critic: the critic gives a column, the returns are a row."""

import torch
from torch import nn

torch.manual_seed(0)


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.Tanh())
        self.actor, self.critic = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, state):
        h = self.body(state)
        return torch.distributions.Categorical(logits=self.actor(h)), self.critic(h)


model = ActorCritic()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for episode in range(40):
    state = torch.randn(24, 4)
    policy, value = model(state)
    action = policy.sample()
    returns = (action == state[:, :3].argmax(1)).float()
    advantage = returns - value.detach().squeeze(1)
    first = -(policy.log_prob(action) * advantage).mean()
    second = (returns - value).pow(2).mean()  # cause
    loss = first + 0.5 * second - 0.01 * policy.entropy().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if episode % 10 == 0:
        print(episode, loss.item())
