"""Recipes: an algorithm on a family, by name, with the papers' settings."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from raymeta import meta
from raymeta.data import Family, FewShot
from raymeta.data.images import PhotographFunctions
from raymeta.errors import require_arguments, unknown_name
from raymeta.meta import Learner
from raymeta.optim import sgd
from raymeta.train import figure_data, own
from raymeta.train.config import TrainConfig
from raymeta.train.published import published
from raymeta.train.task_kinds import (
    Domain,
    few_shot,
    functions,
    sinusoids,
    small_network,
)


class Parts(NamedTuple):
    """What a learner is made of.

    Attributes:
        domain: the family's kind of tasks.
        network: a network with fresh weights.
        seed: seeds whatever else is drawn.
        lr: inner learning rate.
        steps: inner steps.
        context: context parameters.
    """

    domain: Domain
    network: nn.Module
    seed: int
    lr: float
    steps: int
    context: int

    @property
    def shared(self) -> dict[str, Any]:
        """What every algorithm on a network takes."""
        return {"loss": self.domain.loss, "steps": self.steps}


def _adapting(algorithm: Callable[..., Learner]) -> Callable[[Parts], Learner]:
    """One that adapts weights by SGD."""
    return lambda parts: algorithm(
        parts.network, optimizer=sgd(parts.lr), **parts.shared
    )


def _learning_rates(algorithm: Callable[..., Learner]) -> Callable[[Parts], Learner]:
    """One that learns its own learning rates."""
    return lambda parts: algorithm(parts.network, lr=parts.lr, **parts.shared)


def _around_head(algorithm: Callable[..., Learner]) -> Callable[[Parts], Learner]:
    """One that adapts the head alone, or all but the head."""
    return lambda parts: algorithm(
        parts.network,
        head=parts.domain.head,
        optimizer=sgd(parts.lr),
        **parts.shared,
    )


def _protonet(parts: Parts) -> Learner:
    """The network without its last layer, which says how many classes there are."""
    head = parts.network.get_submodule(parts.domain.head)
    assert isinstance(head, nn.Linear)
    parts.network.set_submodule(parts.domain.head, nn.Identity())
    return meta.protonet(
        parts.network,
        ways=head.out_features,
        optimizer=sgd(parts.lr),
        **parts.shared,
    )


def _cavia(parts: Parts) -> Learner:
    optimizer, context = sgd(parts.lr), parts.context
    return meta.cavia(
        parts.network, context=context, optimizer=optimizer, **parts.shared
    )


def _learned_dataset(parts: Parts) -> Learner:
    return meta.learned_dataset(
        seed=parts.seed, optimizer=sgd(parts.lr), steps=parts.steps
    )


def _distillation(parts: Parts) -> Learner:
    """Ten images, one of each class, in every step."""
    generator = torch.Generator().manual_seed(parts.seed)
    images = torch.randn(1, 10, 1, 8, 8, generator=generator)
    return meta.distillation(
        parts.network,
        loss=parts.domain.loss,
        images=images,
        labels=torch.arange(10),
        lr=parts.lr,
        epochs=parts.steps,
    )


class Inner(NamedTuple):
    """An algorithm's inner loop on a kind of tasks: the papers' settings.

    Attributes:
        lr: its learning rate, or the first one where it is learnt.
        steps: T.
        context: parameters of the context.
    """

    lr: float
    steps: int
    context: int = 0


class Algorithm(NamedTuple):
    """An algorithm as recipes know it.

    Attributes:
        learner: makes the learner of its parts.
        inner: kind of tasks -> its settings there.
    """

    learner: Callable[[Parts], Learner]
    inner: Mapping[str, Inner]


#: One step of .01 on curves, one of .4 on images: Finn et al. 2017, appendix A.
_MAML = {"curves": Inner(0.01, 1), "few-shot": Inner(0.4, 1)}

#: Name -> algorithm.
ALGORITHMS: dict[str, Algorithm] = {
    "maml": Algorithm(_adapting(meta.maml), _MAML),
    "fomaml": Algorithm(_adapting(meta.fomaml), _MAML),
    "anil": Algorithm(_around_head(meta.anil), _MAML),
    "boil": Algorithm(
        _around_head(meta.boil),
        {"curves": Inner(0.01, 1), "few-shot": Inner(0.5, 1)},
    ),
    "meta_sgd": Algorithm(_learning_rates(meta.meta_sgd), _MAML),
    "lslr": Algorithm(
        _learning_rates(meta.lslr),
        {"curves": Inner(0.01, 5), "few-shot": Inner(0.1, 5)},
    ),
    "imaml": Algorithm(
        _adapting(meta.imaml), {"curves": Inner(0.01, 16), "few-shot": Inner(0.1, 16)}
    ),
    "reptile": Algorithm(
        _adapting(meta.reptile), {"curves": Inner(0.02, 5), "few-shot": Inner(0.1, 5)}
    ),
    "protonet": Algorithm(_protonet, {"few-shot": Inner(0.01, 0)}),
    "cavia": Algorithm(_cavia, {"curves": Inner(1.0, 1, 5)}),
    "functa": Algorithm(
        _learning_rates(meta.functa), {"functions": Inner(0.01, 3, 64)}
    ),
    "learned_dataset": Algorithm(_learned_dataset, {"classifiers": Inner(0.01, 3)}),
    "distillation": Algorithm(_distillation, {"batches": Inner(0.02, 3)}),
}


class Kind(NamedTuple):
    """A kind of tasks.

    Attributes:
        domain: family -> what its tasks ask for.
        outer: the run's settings, see `TrainConfig`.
    """

    domain: Callable[[Any], Domain]
    outer: Mapping[str, Any]


def _few_shot(family: FewShot) -> Domain:
    side = family.data.images.shape[-1]
    return few_shot(side, family.ways, width=16 if side < 16 else 32)


def _functions(family: Family) -> Domain:
    if isinstance(family, PhotographFunctions):
        return functions(family.size, 3)
    return functions(8, 1)


KINDS: dict[str, Kind] = {
    "curves": Kind(
        lambda family: sinusoids(),
        {"outer_steps": 20_000, "tasks_per_step": 25, "test_steps": 10},
    ),
    "few-shot": Kind(
        _few_shot, {"outer_steps": 2_000, "tasks_per_step": 16, "test_steps": 5}
    ),
    "functions": Kind(
        _functions, {"outer_steps": 500, "tasks_per_step": 16, "test_steps": 5}
    ),
    "classifiers": Kind(
        lambda family: Domain(
            network=lambda context, seed: nn.Identity(),
            loss=F.binary_cross_entropy_with_logits,
            pictures=lambda network: figure_data.dataset,
        ),
        {
            "outer_steps": 500,
            "tasks_per_step": 8,
            "outer_lr": 1e-2,
            "val_tasks": 500,
            "test_tasks": 2_000,
        },
    ),
    "batches": Kind(
        lambda family: Domain(
            network=small_network,
            loss=F.cross_entropy,
            pictures=lambda network: figure_data.images,
        ),
        {
            "outer_steps": 400,
            "tasks_per_step": 4,
            "outer_lr": 1e-2,
            "val_tasks": 4,
            "test_tasks": 4,
        },
    ),
}

#: Name of a family -> the kind of its tasks.
KIND_OF = {
    "sinusoid": "curves",
    "sinusoid-grid": "curves",
    "few-shot-digits": "few-shot",
    "omniglot": "few-shot",
    "digit-functions": "functions",
    "photograph-functions": "functions",
    "classifiers": "classifiers",
    "digit-batches": "batches",
}


def recipe(
    algorithm: str,
    family: str,
    *,
    data: str | Path | None = None,
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    inner_lr: float | None = None,
    inner_steps: int | None = None,
    context: int | None = None,
    **settings: Any,
) -> TrainConfig:
    """A run of an algorithm on a family, with the papers' settings unless others.

    Args:
        algorithm: one of `ALGORITHMS`; or a learner of one's own, a function of the
            seed, by `path.py:Name` or the entry point of an installed package.
        family: one of `KIND_OF`; or one's own, likewise, with a learner of one's own.
        data: path of the family's data, where it is the user's own.
        ways: classes of a task; the family's own number by default, as the next two.
        shots: support examples, of each class in classification.
        queries: query examples, likewise.
        inner_lr: learning rate of the inner loop.
        inner_steps: T, its steps; of distillation, how often they see the images.
        context: parameters of the context, for cavia and functa.
        **settings: fields of `TrainConfig`; None means the recipe's own.

    Raises:
        ValueError: an unknown name; an algorithm that cannot learn the family's tasks;
            a number that the family or the algorithm does not have; and see
            `TrainConfig`.
    """
    require_arguments(recipe, algorithm=algorithm, family=family, data=data)
    require_arguments(recipe, ways=ways, shots=shots, queries=queries, context=context)
    require_arguments(recipe, inner_lr=inner_lr, inner_steps=inner_steps)
    learner = None
    if algorithm not in ALGORITHMS:
        learner = own.learner(algorithm, ALGORITHMS)
    _require_settings(settings)
    given = {name: value for name, value in settings.items() if value is not None}
    every = {"ways": ways, "shots": shots, "queries": queries}
    sizes = {name: size for name, size in every.items() if size is not None}
    tasks = own.family(family, data, sizes)
    if learner is not None:
        own.require_left_out(
            "a learner of your own has its inner loop itself",
            {"inner_lr": inner_lr, "inner_steps": inner_steps, "context": context},
        )
        return TrainConfig(
            algorithm=own.name_of(algorithm),
            learner=learner,
            family=tasks,
            knobs=sizes,
            **{**KINDS[KIND_OF.get(family, "few-shot")].outer, **given},
        )
    if family not in KIND_OF:
        raise ValueError(
            f"{algorithm} has networks for families that ship, but got {family!r}: "
            "give a learner of your own as well, by path.py:Name"
        )
    kind = KIND_OF[family]
    learns = ALGORITHMS[algorithm].inner
    if kind not in learns:
        fitting = [name for name, its in KIND_OF.items() if its in learns]
        raise ValueError(
            f"{algorithm} does not learn tasks of family {family!r}: choose one of "
            f"{', '.join(fitting)}, or another algorithm"
        )
    domain, outer = KINDS[kind].domain(tasks), KINDS[kind].outer
    inner = learns[kind]
    if context is not None and not inner.context:
        raise ValueError(
            f"{algorithm} has no context, but got context={context}: leave it out"
        )
    if context is not None and context < 1:
        raise ValueError(f"{algorithm} needs context >= 1, but got context={context}")
    inner = Inner(
        inner.lr if inner_lr is None else inner_lr,
        inner.steps if inner_steps is None else inner_steps,
        inner.context if context is None else context,
    )
    if not inner.steps:  # what there is without any is what is learnt
        outer = {**outer, "test_steps": 0}
    _require_possible(inner, algorithm, min(learns[kind].steps, 1))
    arguments = {
        **{"algorithm": algorithm, "family": family},
        **({} if data is None else {"data": str(data)}),
        **_knobs(inner, sizes),
    }
    return TrainConfig(
        algorithm=algorithm,
        learner=partial(_learner, arguments, domain, inner),
        family=tasks,
        knobs=_knobs(inner, sizes),
        pictures=None
        if domain.pictures is None
        else domain.pictures(domain.network(inner.context, 0)),
        published=published(
            algorithm,
            tasks.name,
            {**_knobs(inner, sizes), "shots": getattr(tasks, "shots", None)},
        ),
        **{**outer, **given},
    )


def _require_settings(settings: Iterable[str]) -> None:
    """Raise ValueError for what is no field of a run that a recipe leaves free."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    free = fields - {"algorithm", "learner", "family", "knobs", "pictures", "published"}
    for name in settings:
        if name not in free:
            mine = set(signature(recipe).parameters) - {"settings"}
            raise unknown_name("setting of a recipe", name, free | mine)


def _require_possible(inner: Inner, algorithm: str, least: int) -> None:
    """Raise ValueError for numbers that no inner loop can have."""
    if not 0 < inner.lr < math.inf:
        raise ValueError(
            f"inner steps need inner_lr > 0, but got inner_lr={inner.lr}: leave it out "
            "for the recipe's own"
        )
    if inner.steps < least:
        raise ValueError(
            f"{algorithm} needs inner_steps >= {least}, but got "
            f"inner_steps={inner.steps}"
        )


def _learner(
    arguments: Mapping[str, Any], domain: Domain, inner: Inner, seed: int
) -> Learner:
    network = domain.network(inner.context, seed)
    parts = Parts(domain, network, seed, inner.lr, inner.steps, inner.context)
    return ALGORITHMS[arguments["algorithm"]].learner(parts)


def arguments_of(learner: Callable[[int], Learner]) -> Mapping[str, Any] | None:
    """What `recipe` makes this learner of, JSON values; None of any other learner."""
    made = isinstance(learner, partial) and learner.func is _learner
    return learner.args[0] if made else None  # type: ignore[attr-defined]


def _knobs(inner: Inner, sizes: Mapping[str, int]) -> dict[str, Any]:
    """What is worth saying of a recipe, and must be the same to continue its run."""
    context = {"context": inner.context} if inner.context else {}
    return {"inner_lr": inner.lr, "inner_steps": inner.steps, **context, **sizes}
