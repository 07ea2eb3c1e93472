"""A loop of accelerate's, with an optimizer that learns."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta import online
from tests.online.test_base import assert_same, network

accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=g)
    return torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())


def warm(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(t / 4, 1.0))


class Loop:
    """Accumulation over two batches, clipping, warm-up."""

    def __init__(self):
        self.accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=2
        )
        self.plain = network()
        optimizer = torch.optim.AdamW(self.plain.parameters(), lr=1e-3)
        loader = torch.utils.data.DataLoader(data(), 16)
        self.net, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            self.plain, optimizer, loader, warm(optimizer)
        )

    def run(self, epochs):
        for _ in range(epochs):
            for x, y in self.loader:
                with self.accelerator.accumulate(self.net):
                    self.accelerator.backward(F.cross_entropy(self.net(x), y))
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.net.parameters(), 0.5)
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()


def test_it_learns_what_a_plain_loop_does_and_goes_on_to_the_bit(tmp_path):
    from raymeta.integrations.accelerate import Hypergradient

    loop = Loop()
    learnt = Hypergradient(loop.optimizer)
    loop.run(2)
    loop.accelerator.save_state(str(tmp_path))
    loop.run(2)

    net = network()
    optimizer = online.AdamW(net.parameters(), lr=1e-3, learn=("lr", "weight_decay"))
    schedule = warm(optimizer)
    for _ in range(4):
        for i, (x, y) in enumerate(torch.utils.data.DataLoader(data(), 16)):
            (F.cross_entropy(net(x), y) / 2).backward()
            if i % 2:
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    assert_same(net, loop.plain)
    assert learnt.optimizers[0].learned.equals(optimizer.learned)
    assert learnt.values == {f"learned/{k}": v for k, v in optimizer.point.items()}

    resumed = Loop()
    again = Hypergradient(resumed.optimizer)
    resumed.accelerator.load_state(str(tmp_path))
    resumed.run(2)
    assert_same(net, resumed.plain)
    assert again.values == learnt.values


def test_with_a_scaler_as_without():
    from accelerate.optimizer import AcceleratedOptimizer

    from raymeta.integrations.accelerate import Hypergradient

    accelerate.Accelerator(cpu=True)
    nets = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        net = network()
        plain = torch.optim.AdamW(net.parameters(), lr=1e-3)
        optimizer = AcceleratedOptimizer(plain, scaler=scaler)
        learnt = Hypergradient(optimizer)
        for x, y in torch.utils.data.DataLoader(data(), 16):
            loss = F.cross_entropy(net(x), y)
            (scaler.scale(loss) if scaler else loss).backward()
            optimizer.step()
            assert not optimizer.step_was_skipped
            optimizer.zero_grad()
        assert len(learnt.optimizers[0].learned) == 6
        nets.append(net)
    for w, v in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(w, v)
