"""Lightning's own loop, with optimizers that learn."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta import online

lightning = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=g)
    return torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())


class Module(lightning.LightningModule):
    def __init__(self, make=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        self.make = make or (lambda p: torch.optim.AdamW(p, lr=1e-3))

    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return self.make(self.net.parameters())


def fit(module, tmp_path, epochs=2, path=None, callbacks=(), **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"logger": False, "enable_checkpointing": False, **options},
    )
    trainer.fit(module, torch.utils.data.DataLoader(data(), 16), ckpt_path=path)
    return trainer


def weights(module):
    return [p.detach().clone() for p in module.net.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def by_hand(epochs=2, learn=("lr", "weight_decay"), clip=None, every=1, scheduler=None):
    """The same training in a plain loop."""
    module = Module()
    optimizer = online.AdamW(module.net.parameters(), lr=1e-3, learn=learn)
    schedule = scheduler and scheduler(optimizer)
    loader = torch.utils.data.DataLoader(data(), 16)
    for _ in range(epochs):
        for i, batch in enumerate(loader):
            (module.training_step(batch, i) / every).backward()
            if (i + 1) % every:
                continue
            if clip:
                nn.utils.clip_grad_norm_(module.net.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            if schedule:
                schedule.step()
    return module, optimizer


def warm(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(t / 4, 1.0))


def scheduled(params):
    optimizer = torch.optim.AdamW(params, lr=1e-3)
    return [optimizer], [{"scheduler": warm(optimizer), "interval": "step"}]


@pytest.mark.parametrize(
    ("make", "options", "ours"),
    [
        (None, {}, {}),
        (None, {"gradient_clip_val": 0.1}, {"clip": 0.1}),
        (None, {"accumulate_grad_batches": 2}, {"every": 2}),
        (scheduled, {}, {"scheduler": warm}),
    ],
    ids=["plain", "clipping", "accumulation", "scheduler"],
)
def test_it_learns_what_a_loop_of_one_s_own_does(tmp_path, make, options, ours):
    from raymeta.integrations.lightning import Hypergradient

    module, callback = Module(make), Hypergradient()
    trainer = fit(module, tmp_path, callbacks=[callback], **options)
    plain, optimizer = by_hand(**ours)
    assert same(weights(module), weights(plain))
    (learning,) = callback.optimizers
    assert learning.learned.equals(optimizer.learned)
    assert learning.learned["lr"].nunique() > 3
    assert trainer.logged_metrics["learned/lr"] == pytest.approx(learning.point["lr"])
    assert "learned/weight_decay" in trainer.logged_metrics


def test_a_checkpoint_goes_on_to_the_bit(tmp_path):
    from raymeta.integrations.lightning import Hypergradient

    whole, callback = Module(scheduled), Hypergradient()
    fit(whole, tmp_path, 4, callbacks=[callback])
    half = Module(scheduled)
    trainer = fit(half, tmp_path, 2, callbacks=[Hypergradient()])
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, again = Module(scheduled), Hypergradient()
    fit(resumed, tmp_path, 4, tmp_path / "half.ckpt", [again])
    assert same(weights(whole), weights(resumed))
    assert again.optimizers[0].learned.equals(callback.optimizers[0].learned)


def test_half_precision_and_several_optimizers(tmp_path):
    from raymeta.integrations.lightning import Hypergradient

    class Two(Module):
        automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(self.net[i].parameters(), lr=0.01) for i in (0, 2)]

        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    module, callback = Two(), Hypergradient()
    trainer = fit(module, tmp_path, callbacks=[callback], precision="bf16-mixed")
    assert {"learned/0/lr", "learned/1/lr"} <= set(trainer.logged_metrics)
    assert all(len(o.learned) == 12 for o in callback.optimizers)


def test_a_learned_schedule_as_lightning_s_scheduler(tmp_path):
    learnt, optimizer = by_hand()

    def replayed(params):
        plain = torch.optim.AdamW(params)
        return [plain], [{"scheduler": optimizer.export(plain), "interval": "step"}]

    module = Module(replayed)
    fit(module, tmp_path)
    assert same(weights(module), weights(learnt))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: None, {}, "configure_optimizers of Module returns none"),
        (torch.optim.RMSprop, {}, "only SGD, Adam, AdamW, Muon of torch.optim learn"),
        (None, {"learn": "momentum"}, "hyperparameter of raymeta.online.AdamW"),
    ],
)
def test_what_it_refuses_before_training(tmp_path, make, options, message):
    from raymeta.integrations.lightning import Hypergradient

    with pytest.raises(ValueError, match=message):
        fit(Module(make), tmp_path, callbacks=[Hypergradient(**options)])
    with pytest.raises(ValueError, match="unknown per 'layer'"):
        Hypergradient(per="layer")
    with pytest.raises(ValueError, match="'hyperlr': did you mean 'hyper_lr'"):
        Hypergradient(hyperlr=0.1)
