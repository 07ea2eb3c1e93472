"""Tasks on which the constants of descents are chosen, unlike those that are reported.

Each has a usual start, as a practitioner would set it, and a bad one, under the name
with `-bad` behind it. All are small: a full run takes a fraction of a second. Seeds
below 50 are for choosing; what is reported are other seeds, and the shipped tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jobs.experiments.tuning import dynamics, many, networks, tables
from raymeta.problem import BilevelProblem
from raymeta.space import Positive, Real, Space, Unit
from raymeta.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class TuningTask:
    """A task of the tuning list.

    Attributes:
        name: of the task.
        horizon: T, training steps of a full run.
        space: starts at the usual values, or at bad ones.
        make: the problem of a seed.
    """

    name: str
    horizon: int
    space: Space
    make: Callable[[int], BilevelProblem]

    @property
    def budget(self) -> float:
        """Thirty full runs, their outer losses included."""
        return 30.0 * (self.horizon + self.make(0).outer_cost / 3)

    def sample(self, seed: int) -> BilevelProblem:
        """A new split, initialization and batch order."""
        return self.make(seed)


def _with_starts(
    name: str,
    horizon: int,
    make: Callable[[int], BilevelProblem],
    usual: Space,
    bad: Space,
) -> list[Task]:
    return [
        TuningTask(name=name, horizon=horizon, space=usual, make=make),
        TuningTask(name=f"{name}-bad", horizon=horizon, space=bad, make=make),
    ]


def _rates(lr: float, momentum: float, decay: float) -> Space:
    return Space(
        lr=Positive(lr, low=1e-4, high=3.0),
        momentum=Unit(momentum, low=0.0, high=0.99),
        weight_decay=Positive(decay, low=1e-6, high=1e-1),
    )


def _smoothing(lr: float, momentum: float, smoothing: float) -> Space:
    return Space(
        lr=Positive(lr, low=1e-4, high=3.0),
        momentum=Unit(momentum, low=0.0, high=0.99),
        smoothing=Unit(smoothing, low=1e-3, high=0.9),
    )


def _adam(lr: float, beta1: float, decay: float) -> Space:
    return Space(
        lr=Positive(lr, low=1e-5, high=0.3),
        beta1=Unit(beta1, low=0.0, high=0.99),
        beta2=Unit(0.99, low=0.8, high=0.9999),
        weight_decay=Positive(decay, low=1e-5, high=1.0),
    )


def _two(lr: float, decay: float, low: float = 1e-5) -> Space:
    return Space(
        lr=Positive(lr, low=low, high=1.0),
        weight_decay=Positive(decay, low=1e-6, high=1.0),
    )


def _vector(name: str, value: float, size: int, low: float, high: float) -> Space:
    domain = Positive(value, low=low, high=high, shape=(size,))
    return Space(when=None, **{name: domain})


def _denoising(lr: float, noise: float) -> Space:
    return Space(
        lr=Positive(lr, low=1e-5, high=0.3, shape=(2,)),
        weight_decay=Positive(1e-5, low=1e-7, high=1e-1),
        noise=Positive(noise, low=1e-3, high=2.0),
    )


def _classes(lr: float, weight: float) -> Space:
    return Space(
        lr=Positive(lr, low=1e-3, high=3.0),
        weight_decay=Positive(1e-3, low=1e-6, high=1.0),
        classes=Positive([1.0, 1.0, weight], low=1e-2, high=1e2, shape=(3,)),
    )


def _layers(lr: float, decay: float) -> Space:
    return Space(
        lr=Positive(lr, low=1e-5, high=0.3, shape=(2,)),
        weight_decay=Positive(decay, low=1e-5, high=1.0, shape=(2,)),
        beta1=Unit(0.9, low=0.0, high=0.99),
    )


def _valley(lr: float, momentum: float) -> Space:
    return Space(
        lr=Positive(lr, low=1e-6, high=1e-2),
        momentum=Unit(momentum, low=0.0, high=0.99),
    )


def _constants(*values: float) -> Space:
    names = zip("abcd", values, strict=True)
    return Space(when=None, **{n: Positive(v, low=0.02, high=5.0) for n, v in names})


def _swing(length: float, damping: float, drive: float) -> Space:
    return Space(
        length=Positive(length, low=0.2, high=5.0),
        damping=Positive(damping, low=0.01, high=5.0),
        drive=Real(drive, low=0.0, high=10.0),
    )


#: By name; half of them start where nobody would.
TUNING: dict[str, Task] = {
    task.name: task
    for pair in (
        _with_starts(
            *("relu-cnn", 40, networks.relu_cnn),
            *(_rates(0.05, 0.9, 5e-4), _rates(1e-3, 0.1, 0.05)),
        ),
        _with_starts(
            *("relu-mlp", 60, networks.relu_mlp),
            *(_smoothing(0.05, 0.9, 0.1), _smoothing(1e-3, 0.1, 0.5)),
        ),
        _with_starts(
            *("transformer", 50, networks.transformer),
            *(_adam(3e-3, 0.9, 1e-2), _adam(3e-5, 0.5, 0.5)),
        ),
        _with_starts(
            *("penalties", 80, many.penalties),
            *(
                _vector("penalties", 1e-2, 60, 1e-5, 10.0),
                _vector("penalties", 3.0, 60, 1e-5, 10.0),
            ),
        ),
        _with_starts(
            *("spirals", 40, many.spirals),
            *(
                _vector("lr", 0.1, 40, 1e-3, 3.0),
                _vector("lr", 2e-3, 40, 1e-3, 3.0),
            ),
        ),
        _with_starts(
            *("noisy-labels", 60, many.noisy_labels),
            *(
                Space(weights=Unit(0.5, low=1e-3, high=0.999, shape=(300,))),
                Space(weights=Unit(0.02, low=1e-3, high=0.999, shape=(300,))),
            ),
        ),
        _with_starts("graph", 60, tables.graph, _two(1e-2, 5e-4), _two(1e-4, 0.3)),
        _with_starts(
            *("autoencoder", 60, tables.autoencoder),
            *(_denoising(1e-3, 0.3), _denoising(3e-5, 1.5)),
        ),
        _with_starts("wine", 60, tables.wine, _classes(0.1, 1.0), _classes(3e-3, 0.05)),
        _with_starts(
            "diabetes", 80, tables.diabetes, _layers(1e-3, 1e-2), _layers(3e-5, 0.5)
        ),
        _with_starts(
            "rosenbrock",
            100,
            dynamics.rosenbrock,
            _valley(1e-3, 0.9),
            _valley(1e-5, 0.1),
        ),
        _with_starts(
            *("lotka-volterra", 100, dynamics.oscillator),
            *(_constants(1.0, 0.5, 0.5, 0.1), _constants(0.3, 0.1, 1.5, 0.5)),
        ),
        _with_starts(
            "pendulum",
            100,
            dynamics.pendulum,
            _swing(1.0, 0.5, 3.0),
            _swing(3.0, 0.05, 8.0),
        ),
    )
    for task in pair
}
