"""Agreement of ranks: whether all of them see the same."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from raymeta.errors import said

#: What gloo and NCCL say of a rank that is gone.
GONE = re.compile(
    r"Connection (closed by peer|reset|refused)|[Tt]imed out waiting|Broken pipe|"
    r"NCCL (error|communicator was aborted)|remote process (exited|has exited)"
)


class LostRank(RuntimeError):
    """A rank died, or does not answer: the others cannot go on."""


@contextmanager
def telling_lost_ranks() -> Iterator[None]:
    """Raise LostRank, in one line, where a collective fails for want of a rank."""
    try:
        yield
    except RuntimeError as error:
        found = GONE.search(str(error))
        if found is None or isinstance(error, LostRank):
            raise
        raise LostRank(
            f"a rank died in mid-step, or does not answer ({found.group()}): look at "
            "what it said itself, and start all ranks again"
        ) from error


def agreed(value: Any, group: ProcessGroup) -> Any:
    """Rank 0's value, on every rank.

    Args:
        value: can be pickled; that of other ranks does not count.
        group: the ranks, all of which must call this.
    """
    box = [value]
    first = dist.get_global_rank(group, 0)
    dist.broadcast_object_list(box, src=first, group=group)
    return box[0]


def require_same(
    what: str, named: Mapping[str, Any], group: ProcessGroup, remedy: str
) -> None:
    """Raise ValueError, on every rank, unless all ranks have the same.

    Args:
        what: this is, in the plural.
        named: name -> tensor or any other value.
        group: the ranks, all of which must call this.
        remedy: for an error message.
    """
    mine = {name: _digest(value) for name, value in named.items()}
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, mine, group=group)
    first = everyone[0]
    for rank, other in enumerate(everyone):
        for name in (*first, *other):
            if first.get(name) != other.get(name):
                one, another = (x.get(name, ("nothing",))[0] for x in (first, other))
                raise ValueError(
                    f"ranks must have the same {what}, but {name!r} is {one} on rank 0 "
                    f"and {another} on rank {rank}: {remedy}"
                )


def _digest(value: Any) -> tuple[str, str]:
    """A value for people, and one that tells it from others."""
    if not isinstance(value, Tensor):
        return said(value), said(value)
    flat = value.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
    digest.update(flat.view(torch.uint8).numpy().tobytes())
    code = digest.hexdigest()
    if value.numel() == 1:
        return str(flat.tolist()[0]), code
    return f"{tuple(value.shape)} of {value.dtype} (digest {code[:6]})", code
