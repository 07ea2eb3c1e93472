"""Figure data of a trained learner; `raymeta.analysis` draws it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from raymeta._tree import tree_map
from raymeta.data import Episode, Family, LinearClassifiers, Sinusoid
from raymeta.data.sinusoid import INPUTS
from raymeta.meta import MetaModule, learned_dataset

Arrays = dict[str, np.ndarray]
TASKS = 4
CANDIDATES = 32
POINTS = 201
CLASSIFIERS = 12


def sinusoids(network: nn.Module) -> Callable[[MetaModule, Family, int], Arrays]:
    """Fitted curves before and after adaptation.

    Returns:
        What gives "x" (points,), "truth" (tasks, points), "support_x" and "support_y"
        (tasks, K), "steps" (S,) and "fitted" (S, tasks, points): the curve after so
        many inner steps.
    """

    def draw(module: MetaModule, family: Family, seed: int) -> Arrays:
        tasks = family.episodes(0, TASKS, 0, TASKS, seed=seed, split="test")
        # The same tasks, asked on a grid.
        assert isinstance(family, Sinusoid)
        on_grid = Sinusoid(shots=family.shots, queries=family.queries, grid=POINTS)
        asked = on_grid.episodes(0, TASKS, 0, TASKS, seed=seed, split="test")
        x = asked.query.inputs
        steps = _chosen(module.learner.steps, 10)
        return {
            "kind": np.array("sinusoids"),
            "x": torch.linspace(*INPUTS, POINTS).numpy(),
            "truth": _array(asked.query.targets.squeeze(-1)),
            "support_x": _array(tasks.support.inputs.squeeze(-1)),
            "support_y": _array(tasks.support.targets.squeeze(-1)),
            "steps": np.array(steps),
            "fitted": np.stack(
                [_array(_answers(module, network, tasks, x, t))[..., 0] for t in steps]
            ),
        }

    return draw


def reconstructions(
    network: nn.Module, side: int, channels: int
) -> Callable[[MetaModule, Family, int], Arrays]:
    """Images, and what a network of coordinates makes of them.

    Of `CANDIDATES` test tasks a few from the half with more contrast: many patches of
    a photograph are of one colour.

    Returns:
        What gives "truth" (tasks, side, side, channels), "steps" (S,) and "fitted"
        (S, tasks, side, side, channels).
    """

    def draw(module: MetaModule, family: Family, seed: int) -> Arrays:
        every = family.episodes(0, CANDIDATES, 0, CANDIDATES, seed=seed, split="test")
        contrast = every.query.targets.std(1).mean(-1)
        half = CANDIDATES // 2
        chosen = contrast.topk(half).indices[:: half // TASKS]
        tasks = tree_map(lambda x: x[chosen], every)
        shape = (TASKS, side, side, channels)
        x = tasks.query.inputs
        steps = _chosen(module.learner.steps)
        return {
            "kind": np.array("reconstructions"),
            "truth": _array(tasks.query.targets).reshape(shape),
            "steps": np.array(steps),
            "fitted": np.stack(
                [
                    _array(_answers(module, network, tasks, x, t)).reshape(shape)
                    for t in steps
                ]
            ),
        }

    return draw


def dataset(module: MetaModule, family: Family, seed: int) -> Arrays:
    """A learned data set, and fresh classifiers before and after training on it.

    Returns:
        "first" and "points" (n, 2), "labels" (n,); "steps" (S,), "w" (S, classifiers,
        2) and "b" (S, classifiers): w·x + b = 0 is the line after so many inner steps.
    """
    assert isinstance(family, LinearClassifiers)
    tasks = family.episodes(0, CLASSIFIERS, 0, CLASSIFIERS, seed=seed, split="test")
    points = module.theta()["points"]
    steps = _chosen(module.learner.steps)
    states = [_adapted(module, tasks, t) for t in steps]
    first = learned_dataset(*points.shape, seed=seed).meta["points"]
    return {
        "kind": np.array("dataset"),
        "first": _array(first),
        "points": _array(points),
        "labels": (np.arange(len(points)) >= len(points) // 2).astype(int),
        "steps": np.array(steps),
        "w": np.stack([_array(params["w"]) for params in states]),
        "b": np.stack([_array(params["b"]) for params in states]),
    }


def images(module: MetaModule, family: Family, seed: int) -> Arrays:
    """Distilled images: "images" (steps m, height, width), "labels" (steps m,)."""
    learnt = module.theta()["images"]
    count = len(learnt)
    return {
        "kind": np.array("images"),
        "images": _array(learnt.flatten(0, 1).squeeze(1)),
        "labels": np.tile(np.arange(learnt.shape[1]), count),
    }


def _chosen(steps: int, *more: int) -> list[int]:
    """Before adaptation, after that of training, and after more."""
    return sorted({0, steps, *more})


def _adapted(module: MetaModule, tasks: Episode, steps: int) -> dict[str, Tensor]:
    """What the inner loop trained, of each task."""
    device = next(module.parameters()).device
    return module.adapt(tree_map(lambda x: x.to(device), tasks), steps).params


def _answers(
    module: MetaModule, network: nn.Module, tasks: Episode, x: Tensor, steps: int
) -> Tensor:
    """The adapted network's outputs at points x of each task, (tasks, points, ...)."""
    adapted, theta = _adapted(module, tasks, steps), module.theta()

    def of_one(params: dict[str, Tensor], x: Tensor) -> Tensor:
        own = {**theta, **params}
        weights = {name: own[name] for name, _ in network.named_parameters()}
        inputs: tuple[Tensor, ...] = (x,)
        if "context" in params:
            phi = params["context"]
            is_argument = hasattr(network, "latent")
            joined = torch.cat([x, phi.expand(len(x), len(phi))], -1)
            inputs = (x, phi) if is_argument else (joined,)
        return functional_call(network, weights, inputs)

    return vmap(of_one)(adapted, x.to(next(module.parameters()).device))


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
