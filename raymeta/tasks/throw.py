"""Throwing a ball through drag and wind, a run of solver steps without a network."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from raymeta.problem import BilevelProblem, no_data
from raymeta.space import Positive, Real, Space
from raymeta.types import Batch, Hparams, Tensors

#: m/s².
GRAVITY = 9.81
#: Of a baseball (Giordano & Nakanishi): drag coefficient over mass in 1/m beyond and
#: before the drag crisis, its speed and width in m/s, and S/m of the Magnus force.
DRAG, CRISIS_DRAG, CRISIS_SPEED, CRISIS_WIDTH = 0.0039, 0.0058, 35.0, 5.0
MAGNUS = 4.1e-4
#: The unit of spin, in rad/s.
SPIN_UNIT = 100.0
#: Deviation of the balls' winds in m/s, and range of the gusts' periods in s.
WIND_SPREAD, GUST_PERIODS = 1.0, (0.5, 2.0)
#: Gusts over mean wind.
GUST = 0.3


class Flight(NamedTuple):
    """The state of N balls: x forward, y to the left, z up from the hand.

    Attributes:
        position: in m, (N, 3).
        velocity: in m/s, (N, 3).
    """

    position: Tensor
    velocity: Tensor


class Wind(NamedTuple):
    """Horizontal wind on N balls: mean + gust sin(frequency t + phase).

    Attributes:
        mean: in m/s, (N, 3).
        gust: in m/s, (N, 3).
        frequency: in rad/s, (N, 1).
        phase: in rad, (N, 1).
    """

    mean: Tensor
    gust: Tensor
    frequency: Tensor
    phase: Tensor

    def at(self, times: Tensor) -> Tensor:
        """The wind in m/s, (k, N, 3), at times in s, (k, 1, 1)."""
        return self.mean + self.gust * torch.sin(self.frequency * times + self.phase)


@dataclass(frozen=True, kw_only=True)
class Throw:
    r"""Learn how to throw a ball such that it is at a target at a given time.

    $$ \dot x = v,\quad \dot v = -g \hat z - \frac{B}{m} |u| u
       + \frac{S}{m}\, \omega \times u,\quad u = v - w(t),\quad
       \frac{B}{m} = .0039 + \frac{.0058}{1 + e^{(|u| - 35) / 5}} $$

    in T steps of the classical Runge-Kutta method. λ: speed in m/s, elevation and
    azimuth in radians, backspin and sidespin in 100 rad/s. The outer loss is the mean
    squared distance from the target in m², over balls that meet different winds;
    as many further balls are held out. Speed and angles enter with the initial state
    only: what looks a few steps ahead while training goes on cannot learn them.

    Attributes:
        target: (x, y, z) in m from the hand.
        seconds: time of flight.
        wind: mean speed of the wind in m/s; its direction follows from the seed.
        drag: whether the air resists and bends the flight; without, it is a parabola.
        balls: balls that the outer loss averages, and again as many held out.
        horizon: T, solver steps of a full run.
        budget: solver steps of a comparison; 100 full runs by default.

    Source: Giordano & Nakanishi 2006, "Computational Physics", sections 2.2 to 2.4.
    """

    target: tuple[float, float, float] = (60.0, 5.0, 2.0)
    seconds: float = 2.5
    wind: float = 6.0
    drag: bool = True
    balls: int = 16
    horizon: int = 2000
    budget: float = 200_000.0
    name: str = "throw"
    source: ClassVar[str] = "Giordano & Nakanishi 2006"
    licence: ClassVar[str] = "none: no data"

    @property
    def space(self) -> Space:
        """Starts at the centre of what black-box search samples."""
        return Space(
            speed=Positive(600**0.5, low=10.0, high=60.0),
            elevation=Real(0.5, low=0.0, high=1.0),
            azimuth=Real(0.0, low=-0.5, high=0.5),
            backspin=Real(0.0, low=-2.0, high=2.0),
            sidespin=Real(0.0, low=-2.0, high=2.0),
        )

    def sample(self, seed: int) -> BilevelProblem:
        """The winds that the seed gives."""
        wind, dt = self._wind(seed), self.seconds / self.horizon
        target = torch.tensor(self.target)

        gravity = torch.tensor([0.0, 0.0, -GRAVITY])
        stages = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1)

        def acceleration(velocity: Tensor, wind: Tensor, spin: Tensor) -> Tensor:
            if not self.drag:
                return gravity.expand_as(velocity)
            return gravity + _air(velocity - wind, spin)

        def step(flight: Flight, hparams: Hparams, batch: Batch) -> Flight:
            spin = _spin(hparams)
            first, middle, last = wind.at((batch.index + stages) * dt)
            x, v = flight
            k1 = acceleration(v, first, spin)
            k2 = acceleration(v + dt / 2 * k1, middle, spin)
            k3 = acceleration(v + dt / 2 * k2, middle, spin)
            k4 = acceleration(v + dt * k3, last, spin)
            return Flight(
                x + dt * v + dt**2 / 6 * (k1 + k2 + k3),
                v + dt / 6 * (k1 + 2 * (k2 + k3) + k4),
            )

        def misses(flight: Flight) -> Tensor:
            return (flight.position - target).square().sum(1)

        def metrics(flight: Flight, hparams: Hparams) -> Tensors:
            held_out = misses(flight)[self.balls :]
            return {
                "test_loss": held_out.mean(),
                "test_distance": held_out.sqrt().mean(),
            }

        return BilevelProblem(
            init=self._release,
            batch=no_data,
            step=step,
            outer_loss=lambda flight, hparams: misses(flight)[: self.balls].mean(),
            metrics=metrics,
        )

    def _release(self, hparams: Hparams) -> Flight:
        speed, up, left = (hparams[k] for k in ("speed", "elevation", "azimuth"))
        forward = torch.cos(up)
        along = [forward * torch.cos(left), forward * torch.sin(left), torch.sin(up)]
        velocity = (speed * torch.stack(along)).repeat(2 * self.balls, 1)
        return Flight(torch.zeros_like(velocity), velocity)

    def _wind(self, seed: int) -> Wind:
        generator = torch.Generator().manual_seed(seed)
        count = 2 * self.balls

        def uniform(shape: tuple[int, ...]) -> Tensor:
            drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
            return drawn.to(torch.get_default_dtype())

        angle = 2 * math.pi * uniform(())
        middle = self.wind * torch.stack([torch.cos(angle), torch.sin(angle)])
        spread = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        horizontal = middle + WIND_SPREAD * spread.to(middle.dtype)
        mean = torch.cat([horizontal, torch.zeros(count, 1)], 1)
        shortest, longest = GUST_PERIODS
        period = shortest + (longest - shortest) * uniform((count, 1))
        phase = 2 * math.pi * uniform((count, 1))
        return Wind(mean, GUST * mean, 2 * math.pi / period, phase)


def _air(u: Tensor, spin: Tensor) -> Tensor:
    """Acceleration by drag and Magnus force in m/s² at speeds u through the air."""
    speed = torch.linalg.vector_norm(u, dim=1, keepdim=True)
    crisis = torch.sigmoid((CRISIS_SPEED - speed) / CRISIS_WIDTH)
    drag = (DRAG + CRISIS_DRAG * crisis) * speed * u
    return MAGNUS * torch.linalg.cross(spin.expand_as(u), u) - drag


def _spin(hparams: Hparams) -> Tensor:
    """ω in rad/s, (3,): backspin lifts a ball that flies forward, sidespin curves it.

    The cross product with a velocity along x points up, and to the left.
    """
    still = torch.zeros_like(hparams["backspin"])
    turning = [still, -hparams["backspin"], hparams["sidespin"]]
    return SPIN_UNIT * torch.stack(turning)
