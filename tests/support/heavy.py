"""A problem whose cost is its matrix products, and how many an estimate takes."""

import torch

from raymeta._tree import detach
from raymeta.hypergrad import Estimator
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent
from raymeta.testing.truth import flops
from raymeta.types import Hparams, Tensors


def layers(where: str = "optimizer") -> tuple[BilevelProblem, Hparams]:
    """Six equal layers; λ in the optimizer, in the "weights" decay, or the "inputs"."""
    generator = torch.Generator().manual_seed(0)
    start = {f"w{i}": torch.randn(48, 48, generator=generator) * 0.1 for i in range(6)}
    x = torch.randn(32, 48, generator=generator)

    def loss(params: Tensors, x: torch.Tensor) -> torch.Tensor:
        for i in range(6):
            x = torch.tanh(x @ params[f"w{i}"])
        return x.square().mean()

    def inner_loss(params: Tensors, hparams: Hparams, batch: object) -> torch.Tensor:
        if where == "inputs":
            return loss(params, x * hparams["gain"]) + _penalty(params)
        if where == "weights":
            return loss(params, x) + hparams["l2"] * _penalty(params)
        return loss(params, x)

    problem = descent(
        init_params=lambda hparams: start,
        inner_loss=inner_loss,
        outer_loss=lambda params, hparams: loss(params, x),
        optimizer=lambda h: sgd(h.get("lr", 0.1), momentum=0.5),
    )
    hparams = {
        "optimizer": {"lr": torch.tensor(0.1)},
        "weights": {"l2": torch.tensor(1.0)},
        "inputs": {"gain": torch.full((48,), 1.1)},
    }
    return problem, hparams[where]


def _penalty(params: Tensors) -> torch.Tensor:
    return 0.5 * torch.stack([w.square().sum() for w in params.values()]).sum()


def charged_and_counted(
    estimator: Estimator, problem: BilevelProblem, hparams: Hparams
) -> tuple[float, float]:
    """Gradient evaluations by what an estimate says, and by its matrix products."""
    state = detach(problem.init(hparams))
    unit = flops(lambda: problem.step(state, hparams, problem.batch(0)))
    rollout = estimator.init(problem, hparams)
    counted = flops(lambda: estimator.estimate(problem, hparams, rollout)) / unit
    charged = estimator.estimate(problem, hparams, rollout)[0].gradient_evals
    return charged, counted
