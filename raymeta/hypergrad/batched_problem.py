"""Batched problems: many training runs of one problem, at different λ, as one."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from raymeta._tree import tree_map
from raymeta.errors import one_line
from raymeta.problem import BilevelProblem, ValidationLoss
from raymeta.types import Batch, Hparams, State


def stacked(problem: BilevelProblem) -> BilevelProblem:
    r"""N runs of a problem as one problem, by `torch.func.vmap` over λ.

    Every tensor of λ and of the state has a leading dimension N, and E is the sum

    $$ E(s, \lambda) = \sum_{i=1}^N E(s^i, \lambda^i),\qquad
       \frac{dE}{d\lambda^i} = \frac{dE(s^i, \lambda^i)}{d\lambda^i}, $$

    so an estimator by reverse mode finds the N hypergradients at once. All runs have
    the same batches, the same random numbers and the same choices. Costs are of one.
    """
    loss = problem.outer_loss

    def init(hparams: Hparams) -> State:
        return _over(problem.init)(hparams)

    def step(state: State, hparams: Hparams, batch: Batch) -> State:
        return _over(lambda h, s: problem.step(s, h, batch))(hparams, state)

    def outer_loss(state: State, hparams: Hparams) -> Tensor:
        return outer_losses(problem, state, hparams).sum()

    def mean(state: State, hparams: Hparams, index: Tensor | None) -> Tensor:
        assert isinstance(loss, ValidationLoss)
        one = loss.mean
        return _over(lambda h, s: one(s, h, index))(hparams, state).sum()

    def inner_loss(state: State, hparams: Hparams, batch: Batch) -> Tensor:
        assert problem.inner_loss is not None
        inner = problem.inner_loss
        return _over(lambda h, s: inner(s, h, batch))(hparams, state).sum()

    return replace(
        problem,
        init=init,
        step=step,
        outer_loss=replace(loss, mean=mean)
        if isinstance(loss, ValidationLoss)
        else outer_loss,
        inner_loss=None if problem.inner_loss is None else inner_loss,
        metrics=None,
        fold_losses=None,
        holdout_loss=None,
    )


def outer_losses(problem: BilevelProblem, state: State, hparams: Hparams) -> Tensor:
    """E of each of N runs, shape (N,), from stacked s and λ."""
    return _over(lambda h, s: problem.outer_loss(s, h))(hparams, state)


def stack(runs: list[Hparams]) -> Hparams:
    """λ of N runs as one, with a leading dimension N; choices are the first's."""
    return {
        name: torch.stack([run[name] for run in runs])
        if isinstance(value, Tensor)
        else value
        for name, value in runs[0].items()
    }


def unstack(tree: Any, count: int) -> Iterator[Any]:
    """A stacked pytree as N, one for each run."""
    for index in range(count):
        yield tree_map(lambda leaf, i=index: leaf[i], tree)


def stackable(problem: BilevelProblem, runs: list[Hparams]) -> bool:
    """Whether `vmap` can take a step of these runs and differentiate it.

    What it cannot take is said on one line of the log: then runs go one by one.
    """
    many, hparams = stacked(problem), stack(runs)
    leaves = {k: v for k, v in hparams.items() if isinstance(v, Tensor)}
    live = {k: v.detach().requires_grad_() for k, v in leaves.items()}
    try:
        state = many.step(many.init(hparams), {**hparams, **live}, many.batch(0))
        loss = many.outer_loss(state, {**hparams, **live})
        torch.autograd.grad(loss, list(live.values()), allow_unused=True)
    except Exception as error:
        logging.getLogger(__name__).warning(
            "runs go one by one, for vmap cannot take a step: %s", one_line(error)[:200]
        )
        return False
    return True


def _over(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of (λ, …), mapped over the leading dimension of all tensors."""

    def mapped(hparams: Hparams, *others: Any) -> Any:
        tensors = {k: v for k, v in hparams.items() if isinstance(v, Tensor)}
        choices = {k: v for k, v in hparams.items() if k not in tensors}
        return vmap(lambda h, *o: function({**h, **choices}, *o), randomness="same")(
            tensors, *others
        )

    return mapped
