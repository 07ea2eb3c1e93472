"""What is meta-learned in the benchmark, by raymeta and by hand with `higher`."""

from collections.abc import Callable
from typing import NamedTuple

import higher
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raymeta._tree import tree_map
from raymeta.data import Episode, Family, FewShot, LabelledImages, Sinusoid, digits
from raymeta.meta import Learner, maml
from raymeta.optim import sgd

SEED = 0


class Case(NamedTuple):
    """Second-order MAML on a family of tasks.

    Attributes:
        name: the name in the tables.
        family: makes the family of tasks.
        network: makes the network, with the same weights every time.
        loss: the mean over a batch's examples.
        lr: learning rate of the inner SGD.
        inner_steps: T.
        tasks: number of tasks of an outer step.
    """

    name: str
    family: Callable[[], Family]
    network: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    lr: float
    inner_steps: int
    tasks: int

    def episodes(self, step: int, start: int = 0, stop: int | None = None) -> Episode:
        """Tasks of an outer step; all of them by default."""
        last = self.tasks if stop is None else stop
        return self.family().episodes(
            step, self.tasks, start, last, seed=SEED, split="train"
        )

    def learner(self) -> Learner:
        """The learner as raymeta's users write it."""
        return maml(
            self.network(),
            loss=self.loss,
            optimizer=sgd(self.lr),
            steps=self.inner_steps,
        )


def unroll_tasks_with_higher(
    case: Case, network: nn.Module, episodes: Episode
) -> Tensor:
    """The mean outer loss; its gradients are added to the network's weights.

    The loop over tasks of `higher`'s own MAML example.
    """
    total = torch.zeros(())
    optimizer = torch.optim.SGD(network.parameters(), lr=case.lr)
    for i in range(case.tasks):
        support, query = tree_map(lambda x, i=i: x[i], episodes)
        with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (
            learner,
            inner,
        ):
            for _ in range(case.inner_steps):
                inner.step(case.loss(learner(support.inputs), support.targets))
            loss = case.loss(learner(query.inputs), query.targets) / case.tasks
        loss.backward()
        total += loss.detach()
    return total


def sinusoid_network() -> nn.Module:
    """1-40-40-1, Finn et al. 2017, section 5.1."""
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)
        )
    )


def convolutions(ways: int = 5, filters: int = 32) -> nn.Module:
    """Four blocks of convolution, batch norm, ReLU, pooling (Vinyals et al. 2016).

    On 8x8 images three blocks pool.
    """

    def block(channels: int, pooled: bool) -> list[nn.Module]:
        pool = [nn.MaxPool2d(2)] if pooled else []
        conv = nn.Conv2d(channels, filters, 3, padding=1)
        return [conv, nn.BatchNorm2d(filters), nn.ReLU(), *pool]

    return seeded(
        lambda: nn.Sequential(
            *block(1, False),
            *block(filters, True),
            *block(filters, True),
            *block(filters, True),
            nn.Flatten(),
            nn.Linear(filters, ways),
        )
    )


def rotated_digits() -> FewShot:
    """5-way 5-shot digits, of which quarter turns make forty classes.

    New classes by rotation: Santoro et al. 2016, section 4.1.
    """
    images, labels = digits()
    images = images.view(-1, 1, 8, 8)
    turned = torch.cat([images.rot90(turns, (2, 3)) for turns in range(4)])
    classes = torch.cat([labels + 10 * turns for turns in range(4)])
    names = tuple(f"{digit} turned {90 * t}" for t in range(4) for digit in range(10))
    return FewShot(
        name="rotated-digits",
        data=LabelledImages(turned, classes, names, "scikit-learn's digits"),
        classes={
            "train": range(20),
            "val": range(20, 30),
            "test": range(30, 40),
        },
        ways=5,
        shots=5,
        queries=15,
    )


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose weights do not depend on what was drawn before."""
    with torch.random.fork_rng([]):
        torch.manual_seed(SEED)
        return make()


CASES: tuple[Case, ...] = (
    Case("sinusoid MLP", Sinusoid, sinusoid_network, F.mse_loss, 0.01, 5, 25),
    Case("5-way digits CNN", rotated_digits, convolutions, F.cross_entropy, 0.1, 5, 4),
)
