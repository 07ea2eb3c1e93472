"""A problem whose module has buffers that change and randomness of its own."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import module_problem, optim
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams


def noisy_network() -> tuple[BilevelProblem, Hparams]:
    """Batch norms and dropout: buffers that change, randomness that depends on t."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(40, 5, generator=generator),
        torch.randint(3, (40,), generator=generator),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3)
        )
    problem = module_problem(
        net,
        loss=F.cross_entropy,
        train=data,
        val=data,
        batch_size=8,
        # The bias before the norm has gradient 0 but for rounding: ε keeps it so.
        optimizer=lambda h: optim.adam(h["lr"], betas=(h["beta1"], 0.99), eps=1e-3),
    )
    return problem, {"lr": torch.tensor(0.03), "beta1": torch.tensor(0.8)}
