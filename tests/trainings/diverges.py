"""Linear regression by gradient descent on features that were not scaled: every step overshoots the last."""

import torch

torch.manual_seed(0)
area = 50 + 100 * torch.rand(200, 1)
rooms = torch.randint(1, 6, (200, 1)).float()
x = torch.cat([area, rooms], 1)
price = 3 * area + 10 * rooms + 5 * torch.randn(200, 1)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # cause
for epoch in range(60):
    prediction = model(x)
    loss = ((prediction - price) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if epoch % 10 == 0:
        print(f"epoch {epoch} loss {loss.item():.4g}")
