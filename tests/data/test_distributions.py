"""Tasks have the distributions that the papers state."""

import math

import pytest
import torch

from raymeta.data import LinearClassifiers, Sinusoid
from raymeta.data.random import Draws, draws

TASKS = 4000
# Kolmogorov: exceeded by one sample in 2,000 of the stated distribution.
LIMIT = 2.03 / math.sqrt(TASKS)


def distance(sample, distribution):
    """Kolmogorov-Smirnov distance between a sample and a distribution function."""
    values = distribution(sample.flatten().double().sort().values)
    ranks = torch.arange(len(values) + 1) / len(values)
    return torch.maximum(ranks[1:] - values, values - ranks[:-1]).max().item()


def uniform(low, high):
    return lambda x: ((x - low) / (high - low)).clamp(0, 1)


def sinusoids(split="train", **knobs):
    family = Sinusoid(**knobs)
    return family.episodes(11, TASKS, 0, TASKS, seed=2, split=split)


def parameters(examples):
    """A and φ of each task: y = (A cos φ) sin x - (A sin φ) cos x, solved for both."""
    design = torch.cat([examples.inputs.sin(), -examples.inputs.cos()], dim=-1)
    solution = torch.linalg.lstsq(design, examples.targets).solution
    residual = (design @ solution - examples.targets).abs().max()
    assert residual < 1e-9
    a, b = solution.squeeze(-1).unbind(-1)
    return torch.hypot(a, b), torch.atan2(b, a)


def test_sinusoids_are_those_of_finn(float64):
    support, query = sinusoids(shots=5, queries=7)
    assert support.inputs.shape == (TASKS, 5, 1)
    assert query.targets.shape == (TASKS, 7, 1)
    assert support.weight.eq(1).all()
    amplitude, phase = parameters(support)
    assert distance(amplitude, uniform(0.1, 5.0)) < LIMIT
    assert distance(phase, uniform(0.0, math.pi)) < LIMIT
    for x in (support.inputs, query.inputs):
        assert distance(x[:, 0], uniform(-5.0, 5.0)) < LIMIT
    # The ends of a range are not passed, and come nearer than this but for odds e^-10.
    for sample, low, high in [(amplitude, 0.1, 5.0), (phase, 0.0, math.pi)]:
        gap = 10 * (high - low) / TASKS
        assert low <= sample.min() <= low + gap
        assert high - gap <= sample.max() <= high
    # Independent: a correlation of n pairs has standard deviation 1/√n.
    joint = torch.stack(
        [amplitude, phase, *support.inputs[:, :2, 0].T, query.inputs[:, 0, 0]]
    )
    off = torch.corrcoef(joint) - torch.eye(5)
    assert off.abs().max() < 4 / math.sqrt(TASKS)


def test_support_and_query_are_of_one_curve(float64):
    support, query = sinusoids()
    for one, other in zip(parameters(support), parameters(query), strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=0)


def test_grid_is_for_evaluation_alone(float64):
    on_grid = [sinusoids(split, grid=100).query.inputs for split in ("val", "test")]
    for x in on_grid:
        assert x.shape == (TASKS, 100, 1)
        assert (x[:, :, 0] == torch.linspace(-5, 5, 100)).all()
    assert sinusoids("train", grid=100).query.inputs.equal(sinusoids().query.inputs)
    assert sinusoids("test", grid=100).support.inputs.equal(
        sinusoids("test").support.inputs
    )


def test_classifiers_are_standard_normal(float64):
    family = LinearClassifiers()
    support, query = family.episodes(0, TASKS, 0, TASKS, seed=1, split="train")
    assert query == ()
    assert {name: tuple(x.shape) for name, x in support.items()} == {
        "w": (TASKS, 2),
        "b": (TASKS,),
    }
    columns = [*support["w"].T, support["b"]]
    for sample in columns:
        assert distance(sample, torch.special.ndtr) < LIMIT
    off = torch.corrcoef(torch.stack(columns)) - torch.eye(3)
    assert off.abs().max() < 4 / math.sqrt(TASKS)


@pytest.fixture
def random():
    return draws(0, TASKS, 0, TASKS, seed=0, split="train")


def test_integers_and_choices_without_replacement_are_uniform(random):
    integers = random.integers("a", 5)
    chosen = random.distinct("b", 2, 5)
    assert (chosen[:, 0] != chosen[:, 1]).all()
    # A count of n tries has standard deviation √(n p (1 - p)).
    for sample, kinds in [(integers, 5), (5 * chosen[:, 0] + chosen[:, 1], 20)]:
        counts = sample.unique(return_counts=True)[1].double()
        assert len(counts) == kinds
        p = 1 / kinds
        assert (counts - TASKS * p).abs().max() < 4 * math.sqrt(TASKS * p * (1 - p))


def test_streams_steps_seeds_and_splits_are_unrelated(random):
    others = [
        draws(1, TASKS, 0, TASKS, seed=0, split="train"),
        draws(0, TASKS, 0, TASKS, seed=1, split="train"),
        draws(0, TASKS, 0, TASKS, seed=0, split="val"),
    ]
    rows = [one.uniform("x") for one in (random, *others)] + [random.uniform("y")]
    # Numbers of neighbouring tasks, too.
    rows += [rows[0].roll(1)]
    off = torch.corrcoef(torch.stack(rows)) - torch.eye(6)
    assert off.abs().max() < 4 / math.sqrt(TASKS)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (5,), (2, 3)])
def test_a_task_s_numbers_are_its_own(random, shape):
    whole = random.uniform("x", *shape)
    assert whole.shape == (TASKS, *shape)
    for start, stop in [(0, 1), (1, 2), (17, 40), (TASKS - 1, TASKS)]:
        part = Draws(0, "train", 0, start, stop).uniform("x", *shape)
        assert part.equal(whole[start:stop])


def test_numbers_never_change():
    """Results are reproducible across versions: these were drawn once."""
    x = Draws(seed=0, split="train", step=0, start=3, stop=4).uniform("x", 2)
    assert x.tolist() == [[0.9299172748908769, 0.014980757110623744]]
