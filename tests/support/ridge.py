"""Ridge regression as a task: strongly convex, and its hypergradient in closed form."""

import math
from dataclasses import dataclass, replace

import torch

from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, TrainState, descent
from raymeta.space import Positive, Space
from raymeta.types import Batch, Hparams, Tensors

N, N_VAL, D = 24, 16, 6


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """f = |Xw - y|²/2n + Σ l2_j w_j²/2;  E = |X'w - y'|²/2n' + 0.01 Σ l2_j.

    One l2 per weight. All l2 begin too large by far.
    """

    horizon: int = 40
    budget: float = 6000.0
    name: str = "ridge"
    momentum: float = 0.0

    @property
    def space(self) -> Space:
        return Space(l2=Positive(0.5, low=1e-3, high=5.0, shape=(D,)))

    def sample(self, seed: int) -> BilevelProblem:
        x, y, x_val, y_val = self.data(seed)

        def inner_loss(params: Tensors, hparams: Hparams, batch: Batch) -> torch.Tensor:
            residual = x @ params["w"] - y
            penalty = (hparams["l2"] * params["w"].square()).sum()
            return 0.5 * residual.square().mean() + 0.5 * penalty

        def outer_loss(params: Tensors, hparams: Hparams) -> torch.Tensor:
            residual = x_val @ params["w"] - y_val
            return 0.5 * residual.square().mean() + 0.01 * hparams["l2"].sum()

        return descent(
            init_params=lambda hparams: {"w": torch.zeros(D)},
            inner_loss=inner_loss,
            outer_loss=outer_loss,
            optimizer=lambda hparams: sgd(0.4, momentum=self.momentum),
            outer_cost=N_VAL / N,
        )

    def data(self, seed: int) -> tuple[torch.Tensor, ...]:
        """X, y, X', y': columns of equal size, three of them without effect."""
        generator = torch.Generator().manual_seed(seed)
        w = torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0, 0.0])
        x, x_val = (
            torch.randn(n, D, generator=generator, dtype=torch.float64).to(w)
            for n in (N, N_VAL)
        )
        noise = [
            0.3 * torch.randn(n, generator=generator, dtype=torch.float64).to(w)
            for n in (N, N_VAL)
        ]
        return x, x @ w + noise[0], x_val, x_val @ w + noise[1]

    def closed_form(self, seed: int, l2: torch.Tensor) -> torch.Tensor:
        """dE/dl2 at the minimum: 0.01 - (A⁻¹ ∇E)_j w_j with A = X'X/n + diag(l2)."""
        x, y, x_val, y_val = self.data(seed)
        hessian = x.T @ x / N + torch.diag(l2)
        w = torch.linalg.solve(hessian, x.T @ y / N)
        outer = x_val.T @ (x_val @ w - y_val) / N_VAL
        return 0.01 - torch.linalg.solve(hessian, outer) * w


@dataclass(frozen=True, kw_only=True)
class Well(Ridge):
    """Its start is the best point: E is 1 lower there, and nowhere else.

    No hypergradient says so, for the bottom is flat: every descent leaves it.
    """

    name: str = "well"
    lowest: float = 1.0

    def sample(self, seed: int) -> BilevelProblem:
        problem = super().sample(seed)
        ridge = problem.outer_loss

        def outer_loss(state: TrainState, hparams: Hparams) -> torch.Tensor:
            away = (hparams["l2"].log() - math.log(0.5)).square().sum()
            return ridge(state, hparams) - self.lowest * (-away / 1e-4).exp()

        return replace(problem, outer_loss=outer_loss)
