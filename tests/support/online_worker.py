"""What each process of `test_distributed` does; results go to a file of its rank."""

from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from raymeta import online

LEARN = ("lr", "weight_decay", "beta1")


def batch(t: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(t)
    return torch.randn(8, 4, generator=g), torch.randn(8, 2, generator=g)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 2, bias=False)


def work(rank: int, world: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    ddp = DistributedDataParallel(network())
    optimizer = online.AdamW(ddp.parameters(), learn=LEARN, per="tensor")
    for t in range(6):
        x, y = (a[rank::world] for a in batch(t))
        optimizer.zero_grad()
        (ddp(x) - y).square().mean().backward()
        optimizer.step()

    mesh = init_device_mesh("cpu", (world,))
    whole = network().weight.detach()
    shard = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
    sharded = online.AdamW([shard], learn=LEARN)
    for t in range(6):
        x, y = batch(t)
        sharded.zero_grad()
        plain = shard.full_tensor()
        (x @ plain.T - y).square().mean().backward()
        sharded.step()
    found = {
        "ddp": [w.detach() for w in ddp.parameters()],
        "learned": optimizer.learned["lr[0,0]"].tolist(),
        "sharded": shard.full_tensor().detach(),
        "lr": sharded.learned["lr"].tolist(),
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()
