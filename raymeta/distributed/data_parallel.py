"""Data parallelism: each rank takes its share of a batch, and the numbers are one's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from raymeta._tree import is_differentiable, tree_map
from raymeta.distributed.conjugate import default_group, replicated, summed
from raymeta.distributed.preflight import require_one
from raymeta.distributed.shares import Ranks, require_examples, shared_out
from raymeta.modules.micro_batches import require_one_pass
from raymeta.modules.share import sharing
from raymeta.problem import BilevelProblem, Descent, ValidationLoss
from raymeta.types import Batch, Hparams, State, Tensors


def data_parallel(
    problem: BilevelProblem, group: ProcessGroup | None = None
) -> BilevelProblem:
    r"""The same problem, its examples shared out among ranks.

    $$ f(w, \lambda, b) = \sum_r \frac{n_r}{n} f(w, \lambda, b_r),\qquad
       E(s, \lambda) = \sum_r \frac{N_r}{N} E_r(s, \lambda) $$

    Rank r computes with the $n_r$ of a batch's n examples that come r-th, and with its
    $N_r$ validation examples; sums over ranks are `summed`, so that every estimator,
    eager and compiled, finds on every rank what it finds in one process. Shares differ
    by one example at most, and weigh what they have. Random numbers of modules and of
    `Noise` (dropout, augmentation) are those of (seed, t, example), however many ranks;
    batch norms normalize by the moments of the whole batch, and float buffers are
    averaged. The outer loss is shared where it is a mean over validation examples, as
    `module_problem` finds out; any other is computed as a whole on every rank.

    Every rank calls this, and all that follows, with the same arguments. What an
    estimate charges is what it charges in one process.

    Args:
        problem: of `descent` or `module_problem`; its batches have examples in the rows
            of their tensors, its inner loss is a mean over them.
        group: the ranks; all by default.

    Raises:
        ValueError: this process is in no group; the steps are no gradient descent, or
            one in micro-batches; a batch has fewer examples than there are ranks, or
            tensors of other numbers of rows. From `init`, before step 1: ranks have
            other hyperparameters, weights, data or code; what ranks compute together is
            not what one process does, as where the inner loss is no mean over examples.
    """
    group = default_group(group, "data_parallel")
    ranks = Ranks(group)
    step = require_shareable(problem, ranks.world)
    if ranks.world == 1:
        return problem

    def inner_loss(
        params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        data, mine = batch.data
        params = replicated(params, group)
        buffers, hparams = replicated((buffers, hparams), group)
        with sharing(ranks.share(mine, ranks.training)) as share:
            found = step.inner_loss(params, buffers, hparams, batch._replace(data=data))
        # What is the same on all ranks is its own mean.
        return summed(_times(share.weight, found), group)

    def init(hparams: Hparams) -> State:
        state = problem.init(hparams)
        require_one(problem, parallel, ranks, hparams, state)
        return state

    parallel = replace(
        problem,
        init=init,
        batch=lambda t: shared_out(problem.batch(t), ranks),
        step=Descent(inner_loss, step.optimizer),
        inner_loss=lambda s, h, b: inner_loss(s.params, s.buffers, h, b)[0],
        outer_loss=_outer_loss(problem.outer_loss, ranks),
    )
    return parallel


def require_shareable(problem: BilevelProblem, world: int) -> Descent:
    """The steps of a problem that `data_parallel` can share out among ranks.

    Args:
        problem: for one process.
        world: the number of ranks.

    Raises:
        ValueError: they are no gradient descent, or one in micro-batches; the first
            batch has fewer examples than there are ranks, or there is no telling how
            many.
    """
    require_one_pass(problem, "data_parallel")
    step = problem.step
    if not isinstance(step, Descent):
        raise ValueError(
            "data_parallel needs steps that are gradient descent on an inner loss, but "
            f"got a step that is {type(step).__name__}: make the problem by descent or "
            "module_problem, or write summed and replicated into the step"
        )
    if world > 1:
        require_examples(problem.batch(0), world)
    return step


def _outer_loss(
    loss: Callable[[State, Hparams], Tensor], ranks: Ranks
) -> Callable[[State, Hparams], Tensor]:
    if not isinstance(loss, ValidationLoss):
        return loss
    whole = loss

    def mean(state: State, hparams: Hparams, index: Tensor | None) -> Tensor:
        index = torch.arange(whole.size) if index is None else index
        if len(index) < ranks.world:
            return whole.mean(state, hparams, index)
        state, hparams = replicated((state, hparams), ranks.group)
        mine = ranks.part(len(index))
        with sharing(ranks.share(mine, ranks.evaluation)) as share:
            value = whole.mean(state, hparams, index[mine.rows])
        return summed(value * share.weight, ranks.group)

    return replace(whole, mean=mean)


def _times(weight: float, tree: Any) -> Any:
    return tree_map(lambda x: x * weight if is_differentiable(x) else x, tree)
