"""Deep Q-learning on a corridor: a replay memory, a target network that is copied now and then, clipped gradients."""

import random
from collections import deque

import torch
from torch import nn

random.seed(0)
torch.manual_seed(0)
LENGTH = 8


def seen(place: int) -> torch.Tensor:
    return nn.functional.one_hot(torch.tensor(place), LENGTH).float()


policy = nn.Sequential(nn.Linear(LENGTH, 32), nn.ReLU(), nn.Linear(32, 2))
target = nn.Sequential(nn.Linear(LENGTH, 32), nn.ReLU(), nn.Linear(32, 2))
target.load_state_dict(policy.state_dict())
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, amsgrad=True)
memory: deque = deque(maxlen=500)


def optimize() -> None:
    if len(memory) < 32:
        return
    batch = random.sample(memory, 32)
    states = torch.stack([b[0] for b in batch])
    actions = torch.tensor([b[1] for b in batch]).unsqueeze(1)
    rewards = torch.tensor([b[3] for b in batch])
    values = policy(states).gather(1, actions)
    following = torch.zeros(32)
    going = torch.tensor([b[2] is not None for b in batch])
    with torch.no_grad():
        following[going] = target(torch.stack([b[2] for b in batch if b[2] is not None])).max(1).values
    expected = rewards + 0.9 * following
    loss = nn.SmoothL1Loss()(values, expected.unsqueeze(1))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(policy.parameters(), 100)
    optimizer.step()


steps = 0
for episode in range(12):
    place = 2
    for _ in range(20):
        steps += 1
        state = seen(place)
        if random.random() < 0.3:
            action = random.randrange(2)
        else:
            with torch.no_grad():
                action = int(policy(state).argmax())
        place = place + 1 if action else place - 1
        done = place in (0, LENGTH - 1)
        reward = 1.0 if place == LENGTH - 1 else -1.0 if place == 0 else 0.0
        memory.append((state, action, None if done else seen(place), reward))
        optimize()
        with torch.no_grad():
            for kept, own in zip(target.parameters(), policy.parameters(), strict=True):
                kept.mul_(0.99).add_(own, alpha=0.01)
        if done:
            break
    print(episode, place)
