"""Hyperparameters inside the module, and in what happens to its inputs."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta.hypergrad import (
    Reverse,
    hypergradient,
)
from raymeta.modules import (
    ConcreteDropout,
    Noise,
    random_affine,
)
from raymeta.problem import BilevelProblem
from raymeta.testing.truth import largest_relative_error, run_differences
from raymeta.types import Hparams
from tests.support.module_cases import CLOSE, both, frozen, hparams_of, mlp, problem_of

pytestmark = pytest.mark.usefixtures("float64")


# ------------------------------------------------------ what is inside, but not trained


@both
def test_learned_features(estimator):
    """A frozen weight from λ; E depends on it directly as well."""
    problem = problem_of(frozen(), frozen=lambda h: {"0.weight": h["features"]})
    hparams = hparams_of(features=torch.linspace(-1, 1, 30).reshape(6, 5))
    result = hypergradient(problem, hparams, estimator)
    truth = run_differences(problem, hparams, 6)
    assert largest_relative_error(result.grads, truth) < 1e-7


def dropout(temperature: float = 0.1) -> BilevelProblem:
    return problem_of(
        mlp(ConcreteDropout(0.2, temperature)), frozen=lambda h: {"1.rate": h["rate"]}
    )


@both
def test_a_learned_dropout_rate(estimator):
    hparams = hparams_of(rate=torch.tensor(0.35))
    result = hypergradient(dropout(), hparams, estimator)
    truth = run_differences(dropout(), hparams, 6)
    assert abs(float(truth["rate"])) > 1e-3
    assert largest_relative_error(result.grads, truth) < 1e-6


def test_a_buffer_from_hyperparameters_is_no_part_of_the_state():
    hparams = hparams_of(rate=torch.tensor(0.35))
    assert dropout().init(hparams).buffers == {}
    own = problem_of(mlp(ConcreteDropout(0.2)))
    assert set(own.init(hparams_of()).buffers) == {"1.rate"}


def test_masks_without_relaxation_are_dropouts_and_are_no_way_for_a_derivative():
    hparams = hparams_of(rate=torch.tensor(0.35))
    with pytest.raises(ValueError, match="does not depend on hyperparameter 'rate'"):
        hypergradient(dropout(temperature=0.0), hparams, Reverse(3))
    layer = ConcreteDropout(0.3, temperature=0.0)
    torch.manual_seed(0)
    y = layer(torch.ones(100_000))
    assert sorted(y.unique().tolist()) == pytest.approx([0.0, 1 / 0.7])
    assert float((y == 0).double().mean()) == pytest.approx(0.3, abs=0.006)


def test_relaxed_masks_are_nearly_dropouts():
    torch.manual_seed(0)
    y = ConcreteDropout(0.3)(torch.ones(100_000))
    dropped = 1 - 0.7 * y
    assert float(dropped.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(((dropped < 0.1) | (dropped > 0.9)).double().mean()) > 0.85
    assert torch.equal(ConcreteDropout(0.3).eval()(y), y)


@pytest.mark.parametrize("settings", [(0.0, 0.1), (1.0, 0.1), (0.5, -1.0)])
def test_rates_and_temperatures_out_of_range(settings):
    with pytest.raises(ValueError, match="needs 0 < rate < 1 and temperature >= 0"):
        ConcreteDropout(*settings)


# ------------------------------------------------------------------------- augmentation

IMAGE = (2, 5, 6)


def images() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)
        )


def affine(inputs: tuple, targets: Tensor, h: Hparams, noise: Noise):
    strengths = {key: h[key] for key in ("rotation", "scale", "translation")}
    return (random_affine(*inputs, noise, **strengths),), targets


def mixup(inputs: tuple, targets: Tensor, h: Hparams, noise: Noise):
    """Inputs with noise, halfway to another example."""
    (x,) = inputs
    share = h["share"] * noise.uniform((len(x), 1))
    x = x + h["spread"] * noise.normal(x.shape)
    return (x + share * (x.flip(0) - x),), targets


@both
@pytest.mark.parametrize(
    ("module", "shape", "augment", "others"),
    [
        (images, IMAGE, affine, {"rotation": 0.3, "scale": 0.2, "translation": 0.15}),
        (mlp, (5,), mixup, {"share": 0.4, "spread": 0.3}),
    ],
    ids=["affine", "noise and mixup"],
)
def test_strength_of_augmentation(module, shape, augment, others, estimator):
    problem = problem_of(module(), *shape, augment=augment)
    hparams = hparams_of(**{k: torch.tensor(v) for k, v in others.items()})
    result = hypergradient(problem, hparams, estimator)
    truth = run_differences(problem, hparams, 6)
    assert largest_relative_error(result.grads, truth) < 1e-6


def test_augmentation_is_of_training_alone_and_a_function_of_seed_and_step():
    seen: list[Tensor] = []

    def look(inputs: tuple, targets: Tensor, h: Hparams, noise: Noise):
        seen.append(noise.uniform((2,)))
        return inputs, targets

    def drawn(problem: BilevelProblem, t: int) -> Tensor:
        problem.inner_loss(state, hparams_of(), problem.batch(t))
        return seen[-1]

    problems = [problem_of(mlp(), augment=look, seed=seed) for seed in (3, 3, 4)]
    state = problems[0].init(hparams_of())
    problems[0].outer_loss(state, hparams_of())
    assert not seen
    first = drawn(problems[0], 5)
    assert torch.equal(first, drawn(problems[1], 5))
    assert not torch.equal(first, drawn(problems[2], 5))
    assert not torch.equal(first, drawn(problems[0], 6))


def test_affine_is_torchs_sampling_of_the_same_grid():
    x = torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(0))
    strengths = {"rotation": 0.7, "scale": 0.3, "translation": 0.4}
    ours = random_affine(x, Noise(1, torch.tensor(2)), **strengths)
    u = 2 * Noise(1, torch.tensor(2)).uniform((4, 3)) - 1
    turn, grow = 0.7 * u[0], (0.3 * u[1]).exp()
    size = torch.tensor([6.0, 5.0])
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()])
    matrix = grow[:, None, None] * rotation.T.reshape(3, 2, 2)
    # From pixels to torch's coordinates, where the edges are at -1 and 1.
    matrix = matrix * size / size[:, None]
    shift = 0.4 * 2 * u[2:].T
    grid = F.affine_grid(
        torch.cat([matrix, shift[:, :, None]], 2), list(x.shape), align_corners=False
    )
    truth = F.grid_sample(x, grid, align_corners=False)
    torch.testing.assert_close(ours, truth, **CLOSE)
    still = random_affine(x, Noise(1, torch.tensor(2)))
    torch.testing.assert_close(still, x, **CLOSE)
