"""Two ranks against one process: steps a second of a transformer, in turns.

`python -m jobs.benchmarks.ranks` prints, for each way of sharing, how many times as
fast two processes of one thread each are as one, by rounds that take turns: medians of
ratios of neighbours, which a machine's load moves little.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import raymeta
from raymeta.distributed import data_parallel
from raymeta.hypergrad import ES, Checkpointed, Estimator, Forward, Rollout

#: λ of the run with many tangents: a learning rate for each of so many parts of AdamW.
TANGENTS = 32


class Blocks(nn.Module):
    """A pre-norm transformer that predicts the next token."""

    def __init__(self, width: int, depth: int, tokens: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.place = nn.Parameter(torch.randn(length, width) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth)
        )
        self.perceptrons = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, tokens)
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers (batch, length) -> logits (batch, tokens, length)."""
        y = self.embedding(x) + self.place
        for i, (attend, perceptron) in enumerate(
            zip(self.attention, self.perceptrons, strict=True)
        ):
            z = self.norms[2 * i](y)
            y = y + attend(z, z, z, attn_mask=self.mask, need_weights=False)[0]
            y = y + perceptron(self.norms[2 * i + 1](y))
        return self.head(y).mT


def transformer(width: int, depth: int, device: str = "cpu") -> raymeta.BilevelProblem:
    """Batches of 8 × 64 tokens, by AdamW; λ is its learning rate, in parts."""
    torch.manual_seed(0)
    text = torch.randint(64, (65, 65))
    module = Blocks(width, depth, 64, 64).to(device)
    data = TensorDataset(text[:, :-1], text[:, 1:])
    return raymeta.module_problem(
        module,
        loss=F.cross_entropy,
        train=torch.utils.data.Subset(data, range(48)),
        val=torch.utils.data.Subset(data, range(48, 56)),
        batch_size=8,
        # In single precision ε keeps the derivative of the first steps in bounds.
        optimizer=lambda h: raymeta.optim.adamw(h["lr"].mean(), eps=1e-2),
    )


def _cases(steps: int) -> dict[str, tuple[Estimator, bool, int]]:
    """Name -> (estimator, whether its data are shared, scalars of λ)."""
    return {
        "data, Checkpointed": (Checkpointed(steps), True, 1),
        f"tangents, Forward, K = {TANGENTS}": (Forward(steps), False, TANGENTS),
        "pairs, ES, N = 8": (ES(steps, 1e-4, 8), False, 1),
    }


def _rank(rank: int, folder: str, given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/group"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    problem = transformer(given.width, given.depth)
    ratios = {}
    for name, (estimator, data, scalars) in _cases(given.steps).items():
        hparams = {"lr": torch.full((scalars,), 1e-3)}
        if data:
            shared, split = data_parallel(problem), estimator
        else:
            assert isinstance(estimator, Forward | ES)
            shared, split = problem, estimator.split()
        one = _timed(problem, hparams, estimator)
        two = _timed(shared, hparams, split)
        found = []
        for _ in range(given.rounds + 1):
            distributed.barrier()
            alone = one() if rank == 0 else 0.0
            distributed.barrier()
            found.append(alone / two())
        ratios[name] = found[1:]  # the first one traces
    if rank == 0:
        torch.save(ratios, Path(folder) / "ratios.pt")
    distributed.destroy_process_group()


def _timed(
    problem: raymeta.BilevelProblem, hparams: dict[str, Tensor], estimator: Estimator
) -> Callable[[], float]:
    rollouts: list[Rollout] = []

    def seconds() -> float:
        if not rollouts:
            rollouts.append(estimator.init(problem, hparams))
        start = time.perf_counter()
        estimator.estimate(problem, hparams, rollouts[0])
        return time.perf_counter() - start

    return seconds


def main() -> None:
    """Print how many times as fast two ranks are."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--width", type=int, default=256)
    flags.add_argument("--depth", type=int, default=4)
    flags.add_argument("--steps", type=int, default=8)
    flags.add_argument("--rounds", type=int, default=5)
    given = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (folder, given), nprocs=2)
        ratios = torch.load(Path(folder) / "ratios.pt")
    for name, found in ratios.items():
        low, high = min(found), max(found)
        median = statistics.median(found)
        print(f"{name}: {median:.2f}× ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
