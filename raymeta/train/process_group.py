"""Process group: the processes that share the tasks of a step."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from raymeta.data import share

CPU = torch.device("cpu")


class Gathering(NamedTuple):
    """Values of all ranks' tasks, on their way.

    Attributes:
        values: the tasks', then rank 0's flags, float64.
        tasks: number of them.
        work: what to wait for; None where they are there.
    """

    values: Tensor
    tasks: int
    work: Any

    def result(self, *more: Tensor) -> tuple[Tensor, list[bool], list[float]]:
        """Values, rank 0's flags, and numbers of this rank, in one look at the device.

        Args:
            more: numbers, shape ().
        """
        if self.work is not None:
            self.work.wait()
        own = [x.detach().to(self.values) for x in more]
        everything = torch.cat([self.values, torch.stack(own)]).cpu()
        losses, rest = everything[: self.tasks], everything[self.tasks :].tolist()
        flags = len(rest) - len(more)
        return losses, [x > 0 for x in rest[:flags]], rest[flags:]


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

    def gathering(self, mine: Tensor, count: int, flags: Sequence[bool]) -> Gathering:
        """Begin to gather values of this rank's tasks (n,), and rank 0's flags.

        On the device, and beside what is computed meanwhile: one collective.
        """
        start, stop = self.share(count)
        values = torch.zeros(
            count + len(flags), dtype=torch.float64, device=mine.device
        )
        values[start:stop] = mine.detach()
        if self.rank == 0 and any(flags):
            values[count:] = torch.tensor(flags, dtype=torch.float64)
        if self.world == 1:
            return Gathering(values, count, None)
        work = dist.all_reduce(values, group=self.gradients, async_op=True)
        return Gathering(values, count, work)

    def apart(self, module: Any) -> AbstractContextManager[None]:
        """A context in which ranks keep their own gradients of the module."""
        return nullcontext() if self.world == 1 else module.no_sync()

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module, with gradients averaged over ranks."""
        if self.world == 1:
            return module
        return DistributedDataParallel(module, process_group=self.gradients)
