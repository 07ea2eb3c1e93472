"""
# Settle it on your task: gradients or search

Hypergradients are not always worth it. `raymeta.compare` runs both on your task, with the
same space, seeds and counted budget, on Ray Tune.
"""

# %%
# ## The task
#
# A linear classifier with a penalty of its own for each of 20 features, of which three
# matter: 21 hyperparameters.
import torch
from torch import nn

import raymeta

torch.manual_seed(0)
x = torch.randn(300, 20)
y = (x[:, :3].sum(1) + 0.5 * torch.randn(300) > 0).long()
problem = raymeta.module_problem(
    nn.Linear(20, 2),
    loss=nn.functional.cross_entropy,
    batch_size=50,
    train=(x[:150], y[:150]),
    val=(x[150:], y[150:]),
    optimizer=lambda h: raymeta.optim.adam(h["lr"]),
    regularizer=lambda w, h: (h["decay"] * w["weight"] ** 2).sum(),
)


class Penalties:
    name = "penalties"
    horizon = 30
    budget = 900.0  # gradient evaluations of each method: 30 runs
    space = raymeta.Space(
        lr=raymeta.Positive(0.03, low=1e-3, high=1.0),
        decay=raymeta.Positive(0.01, low=1e-5, high=1.0, shape=(20,)),
    )

    def sample(self, seed):
        return problem


# %%
# ## The comparison
frame = raymeta.compare(
    Penalties(), ["long_term", "random"], seeds=1, name="penalties", progress=False
)
print(raymeta.analysis.format_ranking(raymeta.analysis.ranking(frame)))
figure = raymeta.analysis.draw_anytime(frame)
figure

# %%
# ## The best hyperparameters
#
# As tensors for the problem, by flat name, and for `torch.optim`.
best = raymeta.best(frame, Penalties())
print(f"{best.method}: {best.outer_loss:.4f}")
print(best.torch_options(torch.optim.Adam))
penalties = best.hparams["decay"]
print(
    f"features that matter: {penalties[:3].mean():.2g}, others {penalties[3:].mean():.2g}"
)
