"""What each process of `test_process_group` does; results go to a file of its rank."""

from pathlib import Path

import torch
from torch import distributed
from torch.profiler import profile
from train_toys import config

from raymeta.train.process_group import ProcessGroup
from raymeta.train.worker import work


def collectives(folder: Path, rank: int, world: int, steps: int, **more) -> int:
    """How many a run of so many outer steps has."""
    settings = config(outer_steps=steps, checkpoint_every=100, **more)
    with profile(acc_events=True) as profiled:
        work(settings, folder, ProcessGroup(rank, world), lambda e: None, lambda: False)
    return sum(event.name.startswith("gloo:") for event in profiled.events())


def run(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    place = Path(folder)
    counts = [
        collectives(place / "10", rank, world, 10),
        collectives(place / "20", rank, world, 20),
        collectives(place / "parts", rank, world, 20, micro_tasks=1),
    ]
    torch.save(counts, Path(folder) / f"rank{rank}.pt")
    distributed.destroy_process_group()
