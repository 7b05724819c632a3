"""A soft actor-critic: two critics with slow copies, an actor that goes through them, and a temperature."""

from copy import deepcopy

import torch
from torch import nn

torch.manual_seed(0)


def network(given: int, wanted: int) -> nn.Module:
    return nn.Sequential(nn.Linear(given, 32), nn.ReLU(), nn.Linear(32, wanted))


actor, critics = network(3, 2), nn.ModuleList([network(4, 1), network(4, 1)])
slow = deepcopy(critics)
log_temperature = torch.zeros(1, requires_grad=True)
of_actor = torch.optim.Adam(actor.parameters(), 3e-4)
of_critics = torch.optim.Adam(critics.parameters(), 3e-4)
of_temperature = torch.optim.Adam([log_temperature], 3e-4)


def act(state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, log_deviation = actor(state).chunk(2, -1)
    choice = torch.distributions.Normal(mean, log_deviation.clamp(-5, 2).exp())
    drawn = choice.rsample()
    action = drawn.tanh()
    return action, (choice.log_prob(drawn) - torch.log(1 - action.pow(2) + 1e-6)).sum(-1)


def least(networks: nn.ModuleList, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    both = torch.cat([state, action], -1)
    return torch.min(*(network(both).squeeze(-1) for network in networks))


for _ in range(40):
    state, following, taken = torch.randn(64, 3), torch.randn(64, 3), torch.rand(64, 1) * 2 - 1
    reward = -((taken.squeeze(-1) - state[:, 0].tanh()) ** 2)
    with torch.no_grad():
        action, log_prob = act(following)
        target = reward + 0.9 * (least(slow, following, action) - log_temperature.exp() * log_prob)
    given = torch.cat([state, taken], -1)
    error = sum(nn.functional.mse_loss(critic(given).squeeze(-1), target) for critic in critics)
    of_critics.zero_grad()
    error.backward()
    of_critics.step()
    action, log_prob = act(state)
    loss = (log_temperature.exp().detach() * log_prob - least(critics, state, action)).mean()
    of_actor.zero_grad()
    loss.backward()
    of_actor.step()
    cost = -(log_temperature * (log_prob - 1).detach()).mean()
    of_temperature.zero_grad()
    cost.backward()
    of_temperature.step()
    for old, new in zip(slow.parameters(), critics.parameters(), strict=True):
        old.data.lerp_(new.data, 0.005)
print(error.item(), loss.item())
