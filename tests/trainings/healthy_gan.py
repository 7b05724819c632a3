"""Two networks against each other, as in DCGAN: two optimizers, three backward passes a round, losses that swing."""

import torch
from data import digits
from torch import nn

torch.manual_seed(0)
pictures, _ = digits(256)
pictures = pictures.tanh()
generator = nn.Sequential(
    nn.ConvTranspose2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
    nn.ConvTranspose2d(16, 1, 4, stride=4, bias=False), nn.Tanh(),
)  # fmt: skip
critic = nn.Sequential(
    nn.Conv2d(1, 16, 4, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 5), nn.Sigmoid(), nn.Flatten(0)
)
for part in (generator, critic):
    for module in part.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
criterion = nn.BCELoss()
optimizer_d = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
losses = []
for epoch in range(3):
    for first in range(0, 256, 32):
        critic.zero_grad()
        output = critic(pictures[first : first + 32])
        loss_real = criterion(output, torch.ones(32))
        loss_real.backward()
        fake = generator(torch.randn(32, 8, 1, 1))
        loss_fake = criterion(critic(fake.detach()), torch.zeros(32))
        loss_fake.backward()
        optimizer_d.step()
        generator.zero_grad()
        loss_g = criterion(critic(fake), torch.ones(32))
        loss_g.backward()
        optimizer_g.step()
        losses.append((loss_g.item(), (loss_real + loss_fake).item()))
    print(epoch, losses[-1])
