"""What tests have ranks run: functions of a process group."""

from collections.abc import Callable
from contextlib import closing
from typing import Any
from unittest import mock

import torch
from torch import distributed as dist
from torch import nn
from torch.func import grad, hessian, jvp, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from raymeta import Batch, descent, hypergrad, hypergradient, module_problem, optim
from raymeta.distributed import data_parallel, replicated, summed
from raymeta.distributed.agreement import LostRank
from raymeta.search.worker import evaluation_log, trial_ranks, trial_runner
from raymeta.search.worker.stopwatch import Stopwatch
from raymeta.search.worker.trial_ranks import SharedEvaluator, TrialRanks
from raymeta.search.worker.trial_store import TrialStore
from raymeta.testing.distributed import Found, weighted
from raymeta.workers import rank

G = torch.Generator().manual_seed(0)
X = torch.randn(7, 3, generator=G, dtype=torch.float64)
W, U = (torch.randn(4, 3, generator=G, dtype=torch.float64) for _ in range(2))
H = torch.tensor(0.3, dtype=torch.float64)
DERIVATIVES: dict[str, Callable[[Any], Any]] = {
    "grad": lambda f: grad(f, (0, 1))(W[0], H),
    "jvp": lambda f: jvp(f, (W[0], H), (U[0], torch.ones_like(H))),
    "hessian": lambda f: hessian(f, (0, 1))(W[0], H),
    "vmap of grad": lambda f: vmap(grad(f, (0, 1)), (0, None))(W, H),
    "vmap of jvp of grad": lambda f: vmap(
        lambda t: jvp(grad(f), (W[0], H), (t, torch.ones_like(H)))
    )(U),
    "complex": lambda f: grad(lambda h: summed_complex(f, h))(H),
}


def summed_complex(f: Any, h: torch.Tensor) -> torch.Tensor:
    return torch.polar(f(W[0], h), h).real


def part(w: torch.Tensor, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    z = torch.polar(x @ w, x @ w * h)
    return (torch.sin(x @ w) * h + (x @ w) ** 3 * h**2).sum() + z.imag.sum()


def derivatives(group, name: str) -> tuple[list, list]:
    """Of a sum over ranks, and of the whole."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)

    def split(w, h):
        w, h = replicated((w, h), group)
        return summed(part(w, h, X[rank::world]), group)

    def whole(w, h):
        return part(w, h, X)

    return tuple(tree_leaves(DERIVATIVES[name](f)) for f in (split, whole))


def estimate(group, kind: str, chunk: int | None = None) -> Found:
    """By an estimator that is split over ranks."""
    problem, hparams = weighted()
    estimators = {
        "forward": lambda: hypergrad.Forward(3, chunk=chunk),
        "es": lambda: hypergrad.ES(3, 0.01, 4),
        "es-one-by-one": lambda: hypergrad.ES(3, 0.01, 4, vectorized=False),
        "pes": lambda: hypergrad.PES(3, 0.01, 4),
    }
    estimator = estimators[kind]()
    if group is not None:
        estimator = estimator.split(group)
    rollout = estimator.init(problem, hparams)
    for _ in range(2):
        found, rollout = estimator.estimate(problem, hparams, rollout)
    return Found(found.outer_loss, found.grads, found.gradient_evals)


def _entropy(params, hparams, batch):
    inputs, targets = batch.data
    return F.cross_entropy(inputs @ params["w"], targets)


def _data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, generator=generator), torch.arange(count) % 3


def _descent(loss=_entropy, data=None):
    data = _data(8) if data is None else data
    return descent(
        init_params=lambda h: {"w": torch.eye(3)},
        inner_loss=loss,
        outer_loss=lambda p, h: p["w"].square().sum(),
        optimizer=lambda h: optim.sgd(h["lr"]),
        batch=lambda t: Batch(torch.tensor(t), data),
    )


def _network(module):
    x, y = _data(12)
    return module_problem(
        module,
        loss=F.cross_entropy,
        train=(x, y),
        val=(x[:7], y[:7]),
        optimizer=lambda h: optim.sgd(h["lr"]),
        batch_size=6,
    )


class OwnBuffer(nn.Linear):
    """Keeps a maximum over examples, of which ranks see other ones."""

    def __init__(self):
        super().__init__(3, 3)
        self.register_buffer("largest", torch.tensor(0.0))

    def forward(self, x):
        if self.training:
            self.largest = torch.maximum(self.largest, x.detach().abs().max())
        return super().forward(x)


def _seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return make()


def _by_classes(params, hparams, batch):
    weights = torch.tensor([1.0, 5.0, 0.2])
    inputs, targets = batch.data
    return F.cross_entropy(inputs @ params["w"], targets, weights)


def _contrast(params, hparams, batch):
    return (batch.data[0] @ params["w"] @ batch.data[0].T).logsumexp(0).mean()


def _of_rank(rank):
    return lambda p, h, b: _entropy(p, h, b) * (1 + rank)


#: What is wrong -> rank -> the problem.
MISTAKES: dict[str, Callable[[int], Any]] = {
    "other λ": lambda rank: _descent(),
    "other weights": lambda rank: _network(_seeded(lambda: nn.Linear(3, 3), rank)),
    "other data": lambda rank: _descent(data=(_data(8)[0] + rank, _data(8)[1])),
    "other code": lambda rank: _descent(_of_rank(rank)),
    "weights of classes": lambda rank: _descent(_by_classes),
    "a sum": lambda rank: _descent(lambda p, h, b: len(b.data[1]) * _entropy(p, h, b)),
    "contrast": lambda rank: _descent(_contrast),
    "a maximum in a buffer": lambda rank: _network(_seeded(OwnBuffer)),
    "too few examples": lambda rank: _descent(data=_data(1)),
    "no examples": lambda rank: _descent(data=()),
    "rows of two kinds": lambda rank: _descent(data=(torch.ones(8, 3), torch.ones(3))),
}


def mistake(group, name: str) -> str:
    """What an estimate says of it."""
    try:
        rank = dist.get_rank(group)
        lr = torch.tensor(0.1 + rank * (name == "other λ"))
        problem = data_parallel(MISTAKES[name](rank), group)
        hypergradient(problem, {"lr": lr}, hypergrad.Reverse(2))
    except ValueError as error:
        return str(error)
    return "nothing"


def sharded(group, kind: str, parts: bool) -> Any:
    """With parameters that are DTensors, or not; what an error says."""
    from torch.distributed.tensor import (
        DeviceMesh,
        Replicate,
        Shard,
        distribute_tensor,
    )

    mesh = DeviceMesh.from_group(group, "cpu")
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    y, a, b = x.sum(1, keepdim=True).sin(), x[:4].tanh(), x[4:8, :1].cos()

    def put(t, placement):
        return distribute_tensor(t, mesh, [placement]) if parts else t

    def full(t):
        return t.full_tensor() if parts else t

    inputs, targets = put(x, Replicate()), put(y, Replicate())
    start = {"a": put(a, Shard(1)), "b": put(b, Shard(0))}

    def loss(p):
        return full((torch.tanh(inputs @ p["a"]) @ p["b"] - targets).square().mean())

    problem = descent(
        init_params=lambda h: {"a": start["a"] * h["scale"], "b": start["b"]},
        inner_loss=lambda p, h, _: (
            loss(p) + h["l2"] * full(sum(q.square().sum() for q in p.values()))
        ),
        outer_loss=lambda p, h: loss(p) + h["l2"] ** 2,
        # Of whole tensors and of parts at once.
        optimizer=lambda h: optim.adam(h["lr"], weight_decay=h["l2"]),
    )
    hparams = {k: torch.tensor(v) for k, v in {"lr": 0.1, "l2": 0.01}.items()}
    scale = torch.tensor(1.1) if kind not in ("short_term", "implicit") else 1.1
    makers = {
        "reverse": lambda: hypergrad.Reverse(3),
        "checkpointed": lambda: hypergrad.Checkpointed(3),
        "truncated": lambda: hypergrad.Truncated(3, 3),
        "short_term": lambda: hypergrad.ShortTerm(2),
        "compiled": lambda: hypergrad.Reverse(3, compile=True),
        "higher": lambda: hypergrad.Reverse(3, engine="higher"),
        "forward": lambda: hypergrad.Forward(3),
        "implicit": lambda: hypergrad.Implicit(3),
        "es": lambda: hypergrad.ES(3, 0.01, 2, vectorized=False),
    }
    try:
        found = hypergradient(problem, {**hparams, "scale": scale}, makers[kind]())
    except ValueError as error:
        return str(error)
    return Found(found.outer_loss, found.grads, found.gradient_evals)


def dies(group, rank: int) -> None:
    """One is killed in mid-step."""
    import os
    import signal

    problem, hparams = weighted()
    problem = data_parallel(problem, group)
    plain = problem.batch

    def batch(t):
        if t == 2 and dist.get_rank(group) == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(t)

    object.__setattr__(problem, "batch", batch)
    try:
        hypergradient(problem, hparams, hypergrad.Reverse(4))
    finally:
        dist.destroy_process_group()  # as when the process ends


def not_of_the_group(group) -> str:
    """What is said of a group of others."""
    try:
        summed(torch.ones(2), dist.GroupMember.NON_GROUP_MEMBER)
    except ValueError as error:
        return str(error)
    return "nothing"


def optimized(group: Any, job: Any, end_after: int = 10**9) -> tuple[list, str]:
    """What rank 0 tells of an optimization, and what this rank refuses."""
    heard: list[Any] = []
    # The log is saved before each evaluation.
    evaluation_log.SAVE_EVERY_S, evaluation_log.SAVE_SHARE = -1.0, 0

    def send(told: Any) -> bool:
        heard.append(told)
        return sum(len(each.reports) for each in heard) >= end_after

    try:
        rank.run(job, group, send)
    except ValueError as error:
        return heard, str(error)
    return heard, ""


def trial(group, given: Any, folder: Any) -> list[Any]:
    """What a trial reports on a rank."""
    trial_runner._problems.clear()
    run, task, method = given
    ranks = TrialRanks(dist.FileStore(f"{folder}/meet"), group)
    states = TrialStore(folder)
    said = ranks.in_step(trial_runner.reports_of(run, task, method, states, ranks))
    eager = {"SAVE_EVERY_S": -1.0, "SAVE_SHARE": 0}  # logs saved at each evaluation
    with mock.patch.multiple(evaluation_log, **eager):
        return list(said)


def ended_early(group, given: Any, folder: Any) -> int:
    """How many reports a rank makes where rank 0 ends after two."""
    run, task, method = given
    ranks = TrialRanks(dist.FileStore(f"{folder}/meet"), group)
    said = ranks.in_step(trial_runner.reports_of(run, task, method, None, ranks))
    count = 0
    with closing(said):
        for _ in said:
            count += 1
            if count == 2 and dist.get_rank(group) == 0:
                break
    return count


def decided(group) -> int:
    """What ranks take where each has its own number."""
    log = evaluation_log.EvaluationLog(None, "")
    shared = SharedEvaluator(log, Stopwatch(), group)
    return shared.common(dist.get_rank(group))


def failing(group, folder: Any, errors: list[Exception], alone: bool) -> str:
    """What a rank learns of its own failure; alone, rank 0 fails after rank 1."""
    ranks = TrialRanks(dist.FileStore(f"{folder}/meet"), group)
    rank = dist.get_rank(group)
    if alone and rank == 0:
        dist.barrier(group)
    try:
        with mock.patch.object(trial_ranks, "ALONE_S", 0.5 if alone else 60.0):
            ranks.require_same_failure(errors[rank])
    except LostRank as error:
        return str(error)
    finally:
        if alone and rank == 1:
            dist.barrier(group)
    return "alike"
