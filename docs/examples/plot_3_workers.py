"""
# Meta-learn on N workers

MAML on sinusoids: θ from which one gradient step learns a curve from ten points. Two
workers of Ray Train share the tasks of each step; on any number of them the result is the
same.
"""

# %%
# ## The run
import torch

import raymeta
from raymeta.train import recipe

config = recipe(
    "maml", "sinusoid", outer_steps=60, outer_lr=5e-3, val_tasks=20, test_tasks=50
)
result = raymeta.train(config, workers=2, name="sinusoids", progress=False)
print(result)

# %%
# After more inner steps on tasks that were never seen, the loss is lower.
print(result.evaluation[["inner_steps", "outer_loss", "ci95"]].round(3))
figure = result.plot()
figure

# %%
# ## The learnt module, in another program
#
# The folder of the run is enough. `adapt` gives a plain `nn.Module` for one task.
module = raymeta.meta.load("results/sinusoids")
tasks = config.family.episodes(0, 1, 0, 1, seed=7, split="test")
x, y = tasks.support.inputs[0], tasks.support.targets[0]
net = module.adapt((x, y), steps=10)
with torch.no_grad():
    before = torch.nn.functional.mse_loss(module.adapt((x, y), steps=0)(x), y)
    after = torch.nn.functional.mse_loss(net(x), y)
print(f"{type(net).__name__}: loss on the ten points {before:.3f}, adapted {after:.3f}")
assert after < before
