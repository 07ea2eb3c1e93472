"""Memory: what the graph of a run takes, and what the device has."""

import math
import os

import torch
from torch import Tensor

from raymeta.hypergrad.base import differentiable, unroll
from raymeta.hypergrad.preflight import ordinary, recording
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams

#: The share of a device's memory that the graph of a whole run may take; beyond it, a
#: run is checkpointed.
ROOM = 0.25


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
