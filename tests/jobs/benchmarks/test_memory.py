"""Meters of memory, against known allocations."""

import gc
from functools import partial

import pytest
import torch
from torch.func import grad, jvp, vmap

from jobs.benchmarks import benchmark as job
from jobs.benchmarks.memory import PeakMemory
from raymeta.hypergrad import Checkpointed, Forward, Reverse


@pytest.fixture
def meter():
    return PeakMemory()


def test_meter_knows_what_lives_and_what_lived(meter) -> None:
    with meter:
        x = torch.ones(1000)  # 4,000 bytes
        x = x.double()  # 8,000 while the first still lives
        assert (meter.live, meter.peak) == (8000, 12000)
        for _ in range(10):
            torch.ones(250)
    assert (meter.live, meter.peak) == (8000, 12000)
    del x
    assert (meter.live, meter.peak) == (0, 12000)


def test_meter_counts_a_storage_once_and_until_its_last_view_dies(meter) -> None:
    with meter:
        x = torch.zeros(10, 100)
        view = x.t()[3:].reshape(-1, 10)[0]
        x.add_(1)
        assert meter.live == 4000
        del x
        gc.collect()
        assert meter.live == 4000
        del view
    assert (meter.live, meter.peak) == (0, 4000)


def test_meter_ignores_storages_from_before_the_block(meter) -> None:
    x, y = torch.zeros(1000), torch.zeros(1000)
    with meter:
        views = [x.detach(), x.view(10, 100)[2:], *y.split(500)]
        y.mul_(2)
    assert len(views) == 4
    del x, y, views
    assert (meter.live, meter.peak) == (0, 0)


def test_meter_counts_what_autograd_saves(meter) -> None:
    x = torch.ones(1000, requires_grad=True)
    with meter:
        loss = x.exp().sum()
        assert meter.live == 4004  # exp saves its result, which no name holds
        loss.backward()
        assert meter.live == 4004  # the gradient instead
    assert x.grad is not None
    del loss
    assert meter.live == 4000


def test_meter_counts_inside_function_transforms(meter) -> None:
    x = torch.ones(10, 100)
    with meter:
        mapped = vmap(torch.sin)(x)
        assert meter.live == 4000
        del mapped
        values = jvp(torch.exp, (x,), (x,))
        assert meter.live == 8000
        del values
        meter.peak = 0
        gradient = grad(lambda x: x.exp().sum())(x)
        assert meter.live == gradient.nbytes == 4000
        assert 8000 <= meter.peak <= 8016  # exp(x), its gradient; E and its seed
        del gradient
        rows = vmap(lambda v: jvp(torch.exp, (x[0],), (v,))[1])(x)
        assert meter.live == 4000
    del rows
    assert meter.live == 0


def test_meter_gives_no_bytes_to_tensors_without_memory(meter) -> None:
    with meter:
        tensors = [
            torch.empty(1000, device="meta"),
            torch._efficientzerotensor(1000),
        ]
    assert len(tensors) == 2
    assert meter.peak == 0


@pytest.mark.parametrize("estimator", [Reverse, Checkpointed, Forward])
def test_both_meters_agree_on_eager_code(estimator) -> None:
    call = partial(job.follow, estimator(20), job.small_run(20))
    call()  # traces, where something is traced
    # But for a scalar that an operator allocates and frees inside itself.
    assert 0 <= job.peak_allocated(call) - job.peak_bytes(call) <= 8
