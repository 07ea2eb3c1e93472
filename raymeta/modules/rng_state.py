"""State of the global random generators: seeded for a while, and given back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: The states of torch's, Python's and numpy's.
States = tuple[Any, ...]


@contextmanager
def restored(device: torch.device | None = None) -> Iterator[None]:
    """Give the global generators back as they were.

    Args:
        device: whose generator of torch's; the CPU's own always is.
    """
    generators = _of_torch(device)
    before = [generator.get_state() for generator in generators]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def host_number(x: Tensor) -> int:
    """A 64-bit integer of a tensor, which seeds what draws outside of tensors.

    By way of float, two halves of it: steps that are traced may read truth values and
    integers, as they seldom change, but what comes out of a generator of the host must
    not be taken for a part of a graph.
    """
    return (int(float(x >> 32)) << 32) | int(float(x & 0xFFFFFFFF))


def seed_all(seed: int, device: torch.device | None = None) -> None:
    """Seed the global generators; `restored` gives them back.

    Args:
        seed: an integer of 63 bits.
        device: whose generator of torch's; the CPU's own always is.
    """
    # Not torch.manual_seed: it walks the Python stack, which costs more than a step.
    for generator in _of_torch(device):
        generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed([seed >> 32, seed % (1 << 32)])  # noqa: NPY002


def states(device: torch.device | None = None) -> States:
    """Where the global generators stand, comparable by ==; torch's are last."""
    state: Any = np.random.get_state()  # noqa: NPY002
    _, keys, *others = state
    of_torch = [bytes(g.get_state().numpy()) for g in _of_torch(device)]
    return random.getstate(), keys.tobytes(), others, of_torch


def _of_torch(device: torch.device | None) -> list[torch.Generator]:
    if device is None or device.type != "cuda":
        return [torch.default_generator]
    return [
        torch.default_generator,
        torch.cuda.default_generators[device.index or 0],
    ]
