"""Two processes: the same learning rates, to the bit."""

import pytest
import torch
from torch import multiprocessing

from raymeta import online
from tests.support.online_worker import LEARN, batch, network, work


def single(**options):
    net = network()
    optimizer = online.AdamW(net.parameters(), learn=LEARN, **options)
    for t in range(6):
        x, y = batch(t)
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    return net.weight.detach(), optimizer


def test_ranks_learn_the_same_to_the_bit_and_what_one_process_does(tmp_path):
    multiprocessing.spawn(work, (2, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in ("ddp", "sharded"):
        a, b = first[name], second[name]
        pairs = zip(a, b, strict=True)
        assert all(torch.equal(x, y) for x, y in pairs)
    assert first["learned"] == second["learned"]
    assert first["lr"] == second["lr"]

    weight, optimizer = single(per="tensor")
    torch.testing.assert_close(first["ddp"][0], weight)
    assert first["learned"] == pytest.approx(optimizer.learned["lr[0,0]"].tolist())
    weight, optimizer = single()
    torch.testing.assert_close(first["sharded"], weight)
    assert first["lr"] == pytest.approx(optimizer.learned["lr"].tolist())
