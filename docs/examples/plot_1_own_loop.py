"""
# Learn your learning rate in your own loop

An ordinary PyTorch loop whose learning rate is far too small, and the same loop with one
line changed: `raymeta.online.AdamW` in place of `torch.optim.AdamW`.
"""

# %%
# ## The loop
#
# Digits from scikit-learn, a small network, batches of 64. Nothing of it knows raymeta.
import torch
from sklearn.datasets import load_digits
from torch import nn

import raymeta

images, labels = load_digits(return_X_y=True)
x = torch.tensor(images / 16, dtype=torch.float32)
y = torch.tensor(labels)


def train(make_optimizer, steps=300):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = make_optimizer(net.parameters())
    for _ in range(steps):
        rows = torch.randint(1300, (64,))
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        held_out = nn.functional.cross_entropy(net(x[1300:]), y[1300:])
    return held_out.item(), optimizer


# %%
# ## One line changed
#
# From a rate of 1e-5, plain AdamW gets nowhere in 300 steps. The one that learns its rate
# ends where a tuned one does.
plain, _ = train(lambda params: torch.optim.AdamW(params, lr=1e-5))
learnt, optimizer = train(lambda params: raymeta.online.AdamW(params, lr=1e-5))
print(f"held-out loss: torch.optim {plain:.3f}, raymeta.online {learnt:.3f}")
assert learnt < plain / 2

# %%
# ## What was learnt
#
# A data frame with a row per step, and a figure of it.
print(optimizer.learned.tail(3))
figure = optimizer.plot()
figure
