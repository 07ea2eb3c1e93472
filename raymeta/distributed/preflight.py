"""Preflight of data parallelism: whether ranks together compute what one would."""

import math

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from raymeta._tree import detach, in_transform, named_leaves
from raymeta.compile.dispatch import dtypes_in
from raymeta.distributed.agreement import require_same
from raymeta.distributed.shares import Examples, Ranks
from raymeta.modules.parts import (
    Part,
    differing,
    random_axes,
    rows,
    rows_of,
    tolerance_of,
)
from raymeta.problem import BilevelProblem, Descent, Known, TrainState, ValidationLoss
from raymeta.types import Batch, Hparams, State


def require_one(
    problem: BilevelProblem,
    parallel: BilevelProblem,
    ranks: Ranks,
    hparams: Hparams,
    state: TrainState,
) -> None:
    """Raise ValueError unless ranks agree, and compute what one process does.

    λ is compared each time, all else once, with the first few examples.

    Args:
        problem: for one process.
        parallel: for these ranks.
        ranks: find out where random tensors have the examples.
        hparams: λ; those that only watch what is read, or are traced, pass.
        state: s_0(λ).

    Raises:
        ValueError: see `data_parallel`.
    """
    if in_transform() or type(hparams) not in (dict, Known):
        return
    require_same_hparams(ranks.group, hparams)
    if ranks.checked:
        return
    ranks.checked = True
    hparams, state = detach((dict(hparams), state))
    try:
        require_same_start(ranks.group, hparams, state, problem.batch(0))
        _require_training(problem, parallel, ranks, hparams, state)
        _require_evaluation(problem, parallel, ranks, hparams, state)
    except Exception:
        ranks.checked = False
        raise


def require_same_hparams(group: ProcessGroup, hparams: Hparams) -> None:
    """Raise ValueError, on every rank, unless all have the same λ."""
    require_same("hyperparameters", hparams, group, "give every rank the same λ")


def require_same_start(
    group: ProcessGroup, hparams: Hparams, state: State, batch: Batch
) -> None:
    """Raise ValueError, on every rank, unless all have the same λ, s_0 and b_0."""
    require_same_hparams(group, hparams)
    seeded = "seed each rank alike (torch.manual_seed) before the module is made"
    require_same("initial state", named_leaves(state), group, seeded)
    data = "read the same files, and shuffle by the same seed, on every rank"
    require_same("first batch", named_leaves(batch), group, data)


def _require_training(
    problem: BilevelProblem,
    parallel: BilevelProblem,
    ranks: Ranks,
    hparams: Hparams,
    state: TrainState,
) -> None:
    batch = problem.batch(0)
    few = _few(rows_of(batch.data, "data_parallel"), ranks)
    some = rows(batch.data, few)
    whole = batch._replace(data=some)
    mine = ranks.part(few.size)
    own = batch._replace(data=Examples(rows(some, mine), mine))
    one, together = problem.step, parallel.step
    assert isinstance(one, Descent)
    assert isinstance(together, Descent)
    at = (state.params, state.buffers, hparams)

    with torch.no_grad():
        ranks.training = random_axes(
            lambda: one.inner_loss(*at, whole),
            lambda: one.inner_loss(*at, own._replace(data=own.data.data)),
            mine,
        )
    with torch.no_grad(), dtypes_in() as seen:
        loss, grads, buffers = one.value_and_gradient(*at, whole)
    _require_equal_losses("training loss of the first examples", loss, ranks)
    with torch.no_grad():
        found = together.value_and_gradient(*at, own)
    tolerance = tolerance_of(seen)
    remedy = (
        "data_parallel needs an inner loss that is the mean over its examples (a mean "
        "of each one's own loss, no weights by class or by count, no random numbers "
        "but raymeta's, no examples that depend on one another but by batch norms)"
    )
    # Where it is 0 but for rounding, its own size tells nothing.
    size = max(float(g.abs().max()) for g in grads.values() if g.numel())
    like = {name: torch.full_like(g, size) for name, g in grads.items()}
    pairs = {
        "the loss": ({"": loss}, {"": found[0]}),
        "the gradient": (
            like,
            {k: like[k] + found[1][k] - g for k, g in grads.items()},
        ),
        "a buffer": (buffers, found[2]),
    }
    for what, (truth, ours) in pairs.items():
        name = differing(truth, ours, tolerance)
        if name is not None:
            of = f" of {name!r}" if name else ""
            raise ValueError(
                f"{remedy}, but {what}{of} for {few.size} examples on {ranks.world} "
                "ranks is not that of one process"
            )


def _require_evaluation(
    problem: BilevelProblem,
    parallel: BilevelProblem,
    ranks: Ranks,
    hparams: Hparams,
    state: TrainState,
) -> None:
    one, together = problem.outer_loss, parallel.outer_loss
    with torch.no_grad():
        if not isinstance(one, ValidationLoss):
            _require_equal_losses("outer loss", one(state, hparams), ranks)
            return
        assert isinstance(together, ValidationLoss)
        few = _few(one.size, ranks)
        if few.size < ranks.world:
            return
        # From everywhere, to see whether ranks have the same.
        index = torch.arange(few.size) * one.size // few.size
        mine = ranks.part(few.size)
        ranks.evaluation = random_axes(
            lambda: one.mean(state, hparams, index),
            lambda: one.mean(state, hparams, index[mine.rows]),
            mine,
        )
        with dtypes_in() as seen:
            truth = one.mean(state, hparams, index)
        _require_equal_losses("outer loss of some examples", truth, ranks)
        found = together.mean(state, hparams, index)
    if differing({"": truth}, {"": found}, tolerance_of(seen)) is not None:
        raise ValueError(
            "data_parallel needs validation examples that do not depend on one "
            f"another, but the outer loss of {few.size} examples on {ranks.world} "
            f"ranks is {float(found):.6g}, in one process {float(truth):.6g}: draw "
            "random numbers by raymeta's Noise alone"
        )


def _few(total: int, ranks: Ranks) -> Part:
    """So many that no two ranks are alike, and batch norms have moments."""
    size = min(total, 4 * ranks.world + 1)
    return Part(0, size, size)


def _require_equal_losses(what: str, loss: Tensor, ranks: Ranks) -> None:
    """By rounding they may differ, on processors of different kinds."""
    mine, everyone = float(loss), [0.0] * ranks.world
    dist.all_gather_object(everyone, mine, group=ranks.group)
    for rank, other in enumerate(everyone):
        close = math.isclose(everyone[0], other, rel_tol=1e-3, abs_tol=1e-6)
        if not close and not (math.isnan(everyone[0]) and math.isnan(other)):
            raise ValueError(
                f"ranks must have the same data and code, but the {what} is "
                f"{everyone[0]:.6g} on rank 0 and {other:.6g} on rank {rank}: read the "
                "same files, and run the same program, on every rank"
            )
