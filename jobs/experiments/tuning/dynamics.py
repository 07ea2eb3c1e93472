"""Dynamical systems without a network: problems of the tuning list."""

import torch
from torch import Tensor

from jobs.experiments.tuning.draws import random_of
from raymeta.optim import sgd
from raymeta.problem import BilevelProblem, descent, no_data


def rosenbrock(seed: int) -> BilevelProblem:
    """Rosenbrock's valley from random starts, under heavy-ball momentum."""
    start = torch.randn(8, 2, generator=random_of(seed, 6)) * 0.7

    def valley(params, hparams, batch=None):
        x, y = params["w"].unbind(-1)
        return ((1 - x).square() + 100 * (y - x.square()).square()).mean()

    return descent(
        init_params=lambda h: {"w": start},
        inner_loss=valley,
        outer_loss=lambda params, h: valley(params, h).clamp(max=1e6).log1p(),
        optimizer=lambda h: sgd(h["lr"], momentum=h["momentum"]),
    )


def oscillator(seed: int) -> BilevelProblem:
    """Four constants of Lotka and Volterra's equations, from a noisy course."""
    truth = torch.tensor([1.1, 0.4, 0.4, 0.1]) * torch.exp(
        0.2 * torch.randn(4, generator=random_of(seed, 7))
    )
    step, T = 0.1, 100

    def move(state: Tensor, k: Tensor) -> Tensor:
        x, y = state[0], state[1]
        change = torch.stack([k[0] * x - k[1] * x * y, k[3] * x * y - k[2] * y])
        return (state + step * change).clamp(1e-3, 1e3)

    course = [torch.tensor([10.0, 5.0])]
    for _ in range(T):
        course.append(move(course[-1], truth))
    seen = torch.stack(course).log()
    seen = seen + 0.05 * torch.randn(seen.shape, generator=random_of(seed, 8))

    def forward(state, hparams, batch):
        place, error = state["place"], state["error"]
        moved = move(place, torch.stack([hparams[n] for n in ("a", "b", "c", "d")]))
        miss = (moved.log() - seen[batch.index + 1]).square().mean()
        return {"place": moved, "error": error + miss / T}

    return BilevelProblem(
        init=lambda h: {"place": course[0], "error": torch.zeros(())},
        step=forward,
        outer_loss=lambda state, h: state["error"],
        batch=no_data,
    )


def pendulum(seed: int) -> BilevelProblem:
    """Length, damping and drive of a pendulum whose last second was seen."""
    random = random_of(seed, 9)
    truth = 0.2 * torch.randn(3, generator=random)
    starts = torch.rand(16, generator=random) * 2 - 1
    step, T = 0.04, 100

    def move(state, t, length, damping, drive):
        angle, speed = state
        pull = -9.81 / length * angle.sin() - damping * speed
        speed = speed + step * (pull + drive * torch.cos(2.0 * step * t))
        return angle + step * speed, speed

    def course(length, damping, drive):
        state, angles = (starts, torch.zeros(16)), []
        for t in range(T):
            state = move(state, torch.tensor(float(t)), length, damping, drive)
            angles.append(state[0])
        return torch.stack(angles)

    seen = course(*(torch.tensor([1.0, 0.5, 3.0]) * truth.exp()).unbind())

    def forward(state, h, batch):
        moved = move(
            (state["angle"], state["speed"]),
            batch.index.to(starts.dtype),
            *(h["length"], h["damping"], h["drive"]),
        )
        miss = (moved[0] - seen[batch.index]).square().mean()
        return {
            "angle": moved[0],
            "speed": moved[1],
            "error": state["error"] + miss / T,
        }

    zero = torch.zeros(())
    return BilevelProblem(
        init=lambda h: {"angle": starts, "speed": torch.zeros(16), "error": zero},
        step=forward,
        outer_loss=lambda state, h: state["error"],
        batch=no_data,
    )
