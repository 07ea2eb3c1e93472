"""The `Trainer` of transformers, with an optimizer that learns."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta import online

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.last = nn.Linear(8, 2)

    def forward(self, x, labels):
        logits = self.last(torch.tanh(self.norm(self.first(x))))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=g)
    return [{"x": row, "labels": int(row[0] > 0)} for row in x]


def trained(tmp_path, callbacks=(), optimizers=None, resume=None, **options):
    net = Net()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        **{
            "per_device_train_batch_size": 16,
            "max_steps": 12,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "logging_steps": 3,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **options,
        },
    )
    trainer = transformers.Trainer(
        model=net,
        args=arguments,
        train_dataset=data(),
        callbacks=list(callbacks),
        optimizers=optimizers(net) if optimizers else (None, None),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer):
    return [p.detach() for p in trainer.model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_it_learns_what_an_optimizer_of_ours_does(tmp_path):
    """With the trainer's linear schedule, clipping and accumulation."""
    from raymeta.integrations.transformers import Hypergradient

    options = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "max_steps": 6}
    callback = Hypergradient()
    trainer = trained(tmp_path, [callback], **options)

    def ours(net):
        decays = [net.first.weight, net.last.weight]
        others = [p for p in net.parameters() if not any(p is q for q in decays)]
        groups = [
            {"params": decays, "learn": ("lr", "weight_decay")},
            {"params": others, "weight_decay": 0.0},
        ]
        return online.AdamW(groups, lr=1e-3, weight_decay=0.01, fused=True), None

    other = trained(tmp_path, optimizers=ours, **options)
    assert same(trainer, other)
    assert callback.optimizer.learned["lr[0]"].nunique() > 3
    row = next(row for row in reversed(trainer.state.log_history) if "loss" in row)
    assert row["learned/lr[0]"] == callback.optimizer.point["lr[0]"]
    assert {"learned/lr[1]", "learned/weight_decay[0]"} < set(row)


def test_a_checkpoint_goes_on_to_the_bit(tmp_path):
    from raymeta.integrations.transformers import Hypergradient

    whole = Hypergradient()
    trainer = trained(tmp_path, [whole], save_strategy="steps", save_steps=6)
    resumed = Hypergradient()
    other = trained(tmp_path, [resumed], resume=str(tmp_path / "checkpoint-6"))
    assert same(trainer, other)
    assert resumed.optimizer.learned.equals(whole.optimizer.learned)


def test_optimizers_for_the_trainer(tmp_path):
    """The same as the callback at a constant schedule, also from a checkpoint."""
    from raymeta.integrations.transformers import Hypergradient, optimizers

    options = {"save_strategy": "steps", "save_steps": 6}
    trainer = trained(tmp_path, optimizers=optimizers, **options)
    constant = {"lr_scheduler_type": "constant", "optim": "adamw_torch"}
    assert same(trainer, trained(tmp_path / "other", [Hypergradient()], **constant))
    path = str(tmp_path / "checkpoint-6")
    assert same(trainer, trained(tmp_path, optimizers=optimizers, resume=path))


def test_a_learned_schedule_as_the_trainer_s_scheduler(tmp_path):
    from raymeta.integrations.transformers import Hypergradient

    callback = Hypergradient(per="model", learn="lr")
    trainer = trained(tmp_path, [callback], weight_decay=0.0)

    def replayed(net):
        decays = [net.first.weight, net.last.weight]
        others = [p for p in net.parameters() if not any(p is q for q in decays)]
        plain = torch.optim.AdamW(
            [{"params": decays}, {"params": others}], weight_decay=0.0, fused=True
        )
        return plain, callback.optimizer.export(plain)

    assert same(trainer, trained(tmp_path, optimizers=replayed))


def test_what_it_refuses_before_training(tmp_path):
    from raymeta.integrations.transformers import Hypergradient

    with pytest.raises(ValueError, match="only SGD, Adam, AdamW, Muon"):
        trained(tmp_path, [Hypergradient()], optim="adagrad")
