"""Process group: the processes that share the tasks of a step."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from raymeta.data import share

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ProcessGroup:
    """Which of how many this one is, and what they do together.

    Attributes:
        rank: this one, 0 … world - 1.
        world: number of processes.
        device: the device that this one computes on.
        gradients: the process group that averages gradients; None: the default one.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    gradients: Any = None

    def share(self, count: int) -> tuple[int, int]:
        """The (start, stop) of this rank's tasks, of `count`."""
        return share(count, self.rank, self.world)

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks, in double precision on the CPU, the same on every one."""
        values = values.detach().to("cpu", torch.float64, copy=True)
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gathered(self, mine: Tensor, count: int) -> Tensor:
        """Values of this rank's tasks (..., n) -> those of all of them (..., count)."""
        start, stop = self.share(count)
        everyone = torch.zeros(*mine.shape[:-1], count, dtype=torch.float64)
        everyone[..., start:stop] = mine.detach()
        return self.total(everyone)

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module, with gradients averaged over ranks."""
        if self.world == 1:
            return module
        return DistributedDataParallel(module, process_group=self.gradients)
