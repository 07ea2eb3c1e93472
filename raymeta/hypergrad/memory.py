"""Memory: what states and the graph of a run take, and what the device has."""

import math
import os
import re

import torch
from torch import Tensor

from raymeta._tree import tree_leaves
from raymeta.errors import said
from raymeta.hypergrad.base import differentiable, unroll
from raymeta.hypergrad.preflight import ordinary, recording
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams, State

#: The share of a device's memory that the graph of a whole run may take; beyond it, a
#: run is checkpointed.
ROOM = 0.25
#: Powers of 1,000 and of 1,024.
UNITS = {
    "B": 1,
    **{f"{prefix}B": 1000**i for i, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}iB": 1024**i for i, prefix in enumerate("KMGT", 1)},
}


def parse_bytes(name: str, size: str | int) -> int:
    """Number of bytes, from a number or from text such as "2GB" or "512 MiB".

    Raises:
        ValueError: neither, or nothing.
    """
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", str(size).lower())
    factor = units.get(found[2] or "b") if found else None
    if found is None or factor is None or not float(found[1]) * factor >= 1:
        raise ValueError(
            f"{name} needs a number of bytes, or one with a unit of {', '.join(UNITS)} "
            f"such as '2GB', but got {name}={said(size)}"
        )
    return int(float(found[1]) * factor)


def state_bytes(state: State) -> int:
    """Bytes of the tensors of a state."""
    return sum(x.nbytes for x in tree_leaves(state) if isinstance(x, Tensor))


def device_memory(device: torch.device) -> float:
    """Bytes of a device, of the machine for the CPU; ∞ where it does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


def step_graph_bytes(problem: BilevelProblem, hparams: Hparams) -> int:
    """Bytes that the graph of one training step keeps; that of a run has T times that.

    Each storage counts once. One step is taken for it.
    """
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with recording():
        hparams = ordinary(hparams)
        live = {**hparams, **differentiable(hparams)}
        state = problem.init(live)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            after = unroll(problem, live, state, 0, 1)
    del after  # until here: what is freed lends its address to others
    return sum(kept.values())
