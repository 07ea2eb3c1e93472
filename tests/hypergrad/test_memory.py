"""Bytes of graphs and devices."""

import os

import torch

from raymeta.hypergrad.memory import device_memory, step_graph_bytes
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
