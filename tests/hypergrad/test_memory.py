"""Bytes of graphs and devices."""

import os

import pytest
import torch

from raymeta.hypergrad.memory import (
    device_memory,
    parse_bytes,
    state_bytes,
    step_graph_bytes,
)
from raymeta.problem import BilevelProblem, no_data


def test_the_graph_of_a_step_keeps_what_its_derivatives_need():
    """λ x of 1,000 numbers in single precision: x, λ; the sine of it: the product."""
    problem = BilevelProblem(
        init=lambda hparams: torch.ones(1000) * hparams["scale"],
        step=lambda x, hparams, batch: torch.sin(hparams["scale"] * x) + x,
        outer_loss=lambda x, hparams: x.sum(),
        batch=no_data,
    )
    found = step_graph_bytes(problem, {"scale": torch.tensor(0.5)})
    assert found == 4 + 2 * 4000
    with torch.no_grad():
        assert step_graph_bytes(problem, {"scale": torch.tensor(0.5)}) == found


def test_the_memory_of_the_machine_is_that_of_the_cpu():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert device_memory(torch.device("cpu")) == pages


@pytest.mark.parametrize(
    ("size", "count"),
    [(7, 7), ("7", 7), ("2GB", 2 * 10**9), (" 1.5 kb ", 1500), ("512MiB", 2**29)],
)
def test_sizes_are_numbers_of_bytes(size, count):
    assert parse_bytes("memory", size) == count


@pytest.mark.parametrize("size", ["", "GB", "1 GBs", "-1GB", "0", 0, "nan", "1e3"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match="memory needs a number of bytes"):
        parse_bytes("memory", size)


def test_a_state_has_the_bytes_of_its_tensors():
    assert state_bytes({"w": torch.ones(3), "t": (torch.tensor(1), 0.5)}) == 12 + 8
