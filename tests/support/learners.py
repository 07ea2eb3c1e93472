"""Small learners with their tasks, and the same algorithms as loops by hand."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from raymeta._tree import tree_leaves, tree_map
from raymeta.data import DigitFunctions, LinearClassifiers, Sinusoid
from raymeta.meta import (
    Episode,
    Examples,
    Learner,
    MetaModule,
    Siren,
    cavia,
    functa,
    learned_dataset,
    maml,
)
from raymeta.optim import sgd
from raymeta.testing.truth import central_differences
from raymeta.types import Tensors

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return make()


def mlp(inputs: int = 1, *between: nn.Module, width: int = 6) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(inputs, width), *between, nn.Tanh(), nn.Linear(width, 1)
        )
    )


def siren() -> Siren:
    return seeded(lambda: Siren(2, 1, width=5, depth=2, latent=4, frequency=3.0))


def sinusoids(count: int = 3, step: int = 0, shots: int = 4) -> Episode:
    family = Sinusoid(shots=shots, queries=5)
    return family.episodes(step, count, 0, count, seed=1, split="train")


def classifiers(count: int = 3, step: int = 0) -> Episode:
    return LinearClassifiers().episodes(step, count, 0, count, seed=1, split="train")


def images(count: int = 3, step: int = 0) -> Episode:
    family = DigitFunctions(support=20)
    return family.episodes(step, count, 0, count, seed=1, split="train")


def task(episodes: Episode, i: int) -> Episode:
    return tree_map(lambda x: x[i], episodes)


def tasks(episodes: Episode) -> list[Episode]:
    return [task(episodes, i) for i in range(len(tree_leaves(episodes)[0]))]


# ------------------------------------------------------------------------ loops by hand


def descend(
    loss: Callable[[Tensors], Tensor], params: Tensors, lr: Any, steps: int
) -> Tensors:
    """Gradient descent, in the graph of what it starts from; lr: name -> rate."""
    for t in range(steps):
        at = {
            k: p if p.requires_grad else p.requires_grad_() for k, p in params.items()
        }
        grads = torch.autograd.grad(loss(at), list(at.values()), create_graph=True)
        params = {
            k: p - lr(k, t) * g for (k, p), g in zip(at.items(), grads, strict=True)
        }
    return params


def maml_by_hand(theta: Tensors, episode: Episode) -> Tensor:
    net = mlp()

    def loss(params: Tensors, data: Examples) -> Tensor:
        return F.mse_loss(functional_call(net, params, data.inputs), data.targets)

    weights = {k: theta[k] for k in dict(net.named_parameters())}
    params = descend(
        lambda p: loss(p, episode.support),
        weights,
        lambda name, t: theta["log_lr"].exp(),
        3,
    )
    return loss(params, episode.query)


def cavia_by_hand(theta: Tensors, episode: Episode) -> Tensor:
    net = mlp(3)

    def loss(params: Tensors, data: Examples) -> Tensor:
        phi = params["context"].expand(len(data.inputs), 2)
        outputs = functional_call(net, theta, torch.cat([data.inputs, phi], 1))
        return F.mse_loss(outputs, data.targets)

    params = descend(
        lambda p: loss(p, episode.support),
        {"context": torch.zeros(2)},
        lambda name, t: 1.0,
        2,
    )
    return loss(params, episode.query)


def learned_dataset_by_hand(theta: Tensors, episode: Episode) -> Tensor:
    labels = torch.cat([torch.zeros(5), torch.ones(5)])

    def loss(params: Tensors) -> Tensor:
        logits = theta["points"] @ params["w"] + params["b"]
        return F.binary_cross_entropy_with_logits(logits, labels)

    start = {k: x.clone() for k, x in episode.support.items()}
    return loss(descend(loss, start, lambda name, t: 0.3, 3))


def functa_by_hand(theta: Tensors, episode: Episode) -> Tensor:
    net = siren()
    weights = {k: theta[k] for k in dict(net.named_parameters())}

    def loss(params: Tensors, data: Examples) -> Tensor:
        outputs = functional_call(net, weights, (data.inputs, params["context"]))
        return F.mse_loss(outputs, data.targets)

    params = descend(
        lambda p: loss(p, episode.support),
        {"context": torch.zeros(4)},
        lambda name, t: theta["lr"],
        3,
    )
    return loss(params, episode.query)


class Case(NamedTuple):
    """An algorithm with settings that are not its defaults.

    Attributes:
        make: of the learner.
        episodes: (count, step) -> tasks.
        by_hand: (θ, task) -> the outer loss.
    """

    make: Callable[[], Learner]
    episodes: Callable[..., Episode]
    by_hand: Callable[[Tensors, Episode], Tensor]


CASES = {
    "maml": Case(
        lambda: maml(
            mlp(),
            loss=F.mse_loss,
            optimizer=lambda theta: sgd(theta["log_lr"].exp()),
            hyperparameters={"log_lr": torch.tensor(-3.0)},
            steps=3,
        ),
        sinusoids,
        maml_by_hand,
    ),
    "cavia": Case(
        lambda: cavia(mlp(3), loss=F.mse_loss, context=2, steps=2),
        sinusoids,
        cavia_by_hand,
    ),
    "learned_dataset": Case(
        lambda: learned_dataset(10, optimizer=sgd(0.3)),
        classifiers,
        learned_dataset_by_hand,
    ),
    "functa": Case(lambda: functa(siren(), lr=0.5), images, functa_by_hand),
}


# -------------------------------------------------------------------- values and slopes


def gradients(module: MetaModule, loss: Tensor) -> Tensors:
    """Of a loss in θ; zeros where it does not depend."""
    theta = module.theta()
    grads = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
    return dict(zip(theta, grads, strict=True))


def hand_gradients(
    by_hand: Callable[[Tensors, Episode], Tensor], theta: Tensors, episodes: Episode
) -> tuple[Tensor, Tensors]:
    """Losses of all tasks, shape (N,), and the derivatives of their mean."""
    leaves = {k: x.detach().clone().requires_grad_() for k, x in theta.items()}
    losses = torch.stack([by_hand(leaves, one) for one in tasks(episodes)])
    grads = torch.autograd.grad(
        losses.mean(), list(leaves.values()), materialize_grads=True
    )
    return losses.detach(), dict(zip(leaves, grads, strict=True))


def differences(learner: Learner, episodes: Episode, step: float = 1e-5) -> Tensors:
    """dE/dθ by central differences of evaluation runs."""
    module = MetaModule(learner).eval()
    return central_differences(
        lambda theta: loss_at(module, theta, episodes), learner.meta, step
    )


def along(theta: Tensors) -> Tensors:
    """A random direction in each of the meta-parameters, of length 1."""
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(x.shape, generator=generator, dtype=x.dtype)
        for name, x in theta.items()
    }
    return {name: way / way.norm() for name, way in drawn.items()}


def slopes(learner: Learner, episodes: Episode, step: float = 1e-6) -> Tensors:
    """dE/dθ along `along`, by central differences of evaluation runs; each shape ()."""
    module, ways = MetaModule(learner).eval(), along(learner.meta)

    def at(name: str, length: float) -> float:
        moved = {name: learner.meta[name] + length * ways[name]}
        return loss_at(module, {**learner.meta, **moved}, episodes)

    return {
        name: torch.tensor((at(name, step) - at(name, -step)) / (2 * step))
        for name in ways
    }


def loss_at(module: MetaModule, theta: Tensors, episodes: Episode) -> float:
    with torch.no_grad():
        for name, parameter in module.theta().items():
            parameter.copy_(theta[name])
        return float(module(episodes).loss)


def assert_close(actual: Any, expected: Any, **tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, **(CLOSE | tolerance))


def mse(params, data: Examples, net: nn.Module):
    return F.mse_loss(functional_call(net, params, data.inputs), data.targets)


def fitted(net, start, data: Examples, steps: int):
    """Weights after gradient descent at a rate of 0.1."""
    return descend(lambda p: mse(p, data, net), start, lambda name, t: 0.1, steps)


def agree(learner, by_hand, engine="functional", episodes=None) -> None:
    """The losses and meta-gradients of a learner are those of a function of θ."""
    episodes = sinusoids() if episodes is None else episodes
    module = MetaModule(learner, engine=engine)
    losses, grads = hand_gradients(by_hand, module.theta(), episodes)
    output = module(episodes)
    assert_close(output.losses.detach(), losses)
    assert_close(gradients(module, output.loss), grads)
