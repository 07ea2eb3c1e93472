"""Losses as users bring them: of whole batches, of any outputs, that look at values."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from raymeta.meta import Episode, Examples, MetaModule, maml
from raymeta.optim import sgd
from tests.support.learners import (
    assert_close,
    descend,
    gradients,
    hand_gradients,
    seeded,
    tasks,
)

pytestmark = pytest.mark.usefixtures("float64")

each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])
N, SHOTS, INPUTS, CLASSES = 3, 5, 4, 3


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator())


def labels(*shape: int) -> torch.Tensor:
    return torch.randint(CLASSES, shape, generator=generator())


def with_ignored(y: torch.Tensor, ignored: int = -100) -> torch.Tensor:
    y = y.clone()
    y[:, 0] = ignored
    return y


def net(outputs: int = CLASSES) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Linear(INPUTS, 5), nn.Tanh(), nn.Linear(5, outputs))
    )


def contrastive(outputs, targets):
    z = F.normalize(outputs, dim=1)
    return F.cross_entropy(z @ z.T / 0.5, torch.arange(len(z)))


def dice(outputs, targets):
    p, y = outputs.sigmoid(), F.one_hot(targets, CLASSES)
    return 1 - 2 * (p * y).sum() / (p.sum() + y.sum())


def root_mean_square(outputs, targets):
    return F.mse_loss(outputs, targets).sqrt()


def correlation(outputs, targets):
    x, y = (z.flatten() - z.mean() for z in (outputs, targets))
    return 1 - x @ y / (x.norm() * y.norm())


def class_weights(outputs, targets):
    return F.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 5.0, 0.3]))


def masked(outputs, targets):
    """Targets that are not there are NaN."""
    there = ~targets.isnan()
    return ((outputs - targets.nan_to_num()) ** 2 * there).sum() / there.sum()


def ranked(outputs, targets):
    """Pairs of a batch."""
    x, y = outputs[:, 0], targets[:, 0]
    return F.softplus((x[:, None] - x) * (y - y[:, None]).sign()).mean()


def summed(outputs, targets):
    return F.mse_loss(outputs, targets, reduction="sum")


def holes() -> torch.Tensor:
    y = normal(N, SHOTS, 3)
    y[:, 1, 0] = torch.nan
    return y


WHOLE = {
    "contrastive": (contrastive, labels),
    "dice": (dice, labels),
    "root mean square": (root_mean_square, lambda *n: normal(*n, 3)),
    "correlation": (correlation, lambda *n: normal(*n, 3)),
    "class weights": (class_weights, labels),
    "ignored labels": (F.cross_entropy, lambda *n: with_ignored(labels(*n))),
    "padding": (
        lambda o, y: F.cross_entropy(o, y, ignore_index=2),
        lambda *n: with_ignored(labels(*n), 2),
    ),
    "masked": (masked, lambda *n: holes()),
    "ranked": (ranked, lambda *n: normal(*n, 3)),
    "sum": (summed, lambda *n: normal(*n, 3)),
}
each_whole = pytest.mark.parametrize(("loss", "targets"), WHOLE.values(), ids=WHOLE)


def episodes_of(targets: torch.Tensor, *weights: torch.Tensor) -> Episode:
    x = torch.randn(2, N, SHOTS, INPUTS, generator=generator())
    weights = weights or (torch.ones(N, SHOTS),) * 2
    return Episode(*(Examples(x[i], targets, weights[i]) for i in range(2)))


def by_hand(module: nn.Module, loss: Any):
    def outer(theta, one):
        def of(params, data):
            return loss(functional_call(module, params, data.inputs), data.targets)

        phi = descend(lambda p: of(p, one.support), theta, lambda k, t: 0.1, 2)
        return of(phi, one.query)

    return outer


def learner_of(module: nn.Module, loss: Any, **others):
    return maml(module, loss=loss, optimizer=sgd(0.1), steps=2, **others)


def assert_by_hand(module: nn.Module, loss: Any, episodes: Episode, engine: str):
    found = MetaModule(learner_of(module, loss), engine=engine)
    losses, grads = hand_gradients(by_hand(module, loss), found.theta(), episodes)
    assert losses.isfinite().all()
    for _ in range(2):
        output = found(episodes)
        assert_close(output.losses.detach(), losses)
        assert_close(gradients(found, output.loss), grads)
    assert_close(found.eval()(episodes).losses, losses)


@each_whole
@each_engine
def test_a_batch_of_examples_has_its_own_loss(loss, targets, engine):
    assert_by_hand(net(), loss, episodes_of(targets(N, SHOTS)), engine)


# -------------------------------------------------------------- tasks of unequal sizes


def some_padding() -> torch.Tensor:
    weight = torch.ones(N, SHOTS)
    weight[1, -1] = 0
    return weight


@each_whole
@each_engine
@pytest.mark.parametrize("where", ["support", "query"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_padded_tasks_need_a_mean_over_examples(loss, targets, engine, where, mode):
    ones = torch.ones(N, SHOTS)
    weights = (some_padding(), ones) if where == "support" else (ones, some_padding())
    episodes = episodes_of(targets(N, SHOTS), *weights)
    module = MetaModule(learner_of(net(), loss), engine=engine).train(mode == "train")
    line = r"^tasks of unequal sizes .* need a loss that is a mean over examples, .*$"
    for _ in range(2):
        with pytest.raises(ValueError, match=line):
            module(episodes)


@each_engine
def test_padded_tasks_need_metrics_that_are_means(engine):
    ones = torch.ones(N, SHOTS)
    episodes = episodes_of(normal(N, SHOTS, 3), ones, some_padding())
    learner = learner_of(net(), F.mse_loss, metrics={"rmse": root_mean_square})
    with pytest.raises(ValueError, match=r"need a metric 'rmse' that is a mean over"):
        MetaModule(learner, engine=engine)(episodes)


@each_engine
def test_nothing_of_padding_comes_through(engine):
    """Neither NaN, nor what has no loss at all."""
    y = labels(N, SHOTS)
    y[1, -1] = -100
    episodes = episodes_of(y, some_padding(), some_padding())
    episodes.support.inputs[1, -1] = torch.nan
    module = MetaModule(learner_of(net(), F.cross_entropy), engine=engine)

    def outer(theta, one):
        keep = one.query.weight > 0
        few = Episode(*(Examples(*(x[keep] for x in part)) for part in one))
        return by_hand(net(), F.cross_entropy)(theta, few)

    losses, grads = hand_gradients(outer, module.theta(), episodes)
    output = module(episodes)
    assert_close(output.losses.detach(), losses)
    assert_close(gradients(module, output.loss), grads)


@each_engine
def test_a_task_that_diverges_is_not_taken_for_another_loss(engine):
    episodes = episodes_of(normal(N, SHOTS, 3), some_padding(), some_padding())
    learner = maml(net(), loss=F.mse_loss, optimizer=sgd(1e200), steps=2)
    assert not MetaModule(learner, engine=engine)(episodes).losses.isfinite().any()


@each_engine
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_padding_must_not_change_other_examples(engine, mode):
    module = nn.Sequential(nn.Linear(INPUTS, 3), nn.BatchNorm1d(3))
    episodes = episodes_of(normal(N, SHOTS, 3), some_padding(), some_padding())
    made = MetaModule(learner_of(module, F.mse_loss), engine=engine)
    with pytest.raises(ValueError, match="module that takes each example by itself"):
        made.train(mode == "train")(episodes)
    frozen = learner_of(module, F.mse_loss, batch_norm="frozen")
    assert MetaModule(frozen, engine=engine)(episodes).losses.isfinite().all()


# --------------------------------------------------------------------- kinds of outputs


@dataclass
class Answer:
    logits: torch.Tensor
    penalty: torch.Tensor


class Outputs(nn.Module):
    """Answers in a container, beside other things."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(INPUTS, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.a(x).tanh()
        z, size = self.b(h), h.square().mean()
        return {
            "a scalar": lambda: {"out": z, "aux": size},
            "None": lambda: (z, None),
            "nested": lambda: {"out": z, "more": [h, (size, None)]},
            "a dataclass": lambda: Answer(z, size),
            "hidden states": lambda: (z, h.T[None], "name", 3),
        }[self.kind]()


OUTPUTS = {
    "a scalar": lambda o, y: F.mse_loss(o["out"], y) + o["aux"],
    "None": lambda o, y: F.mse_loss(o[0], y),
    "nested": lambda o, y: F.mse_loss(o["out"], y) + o["more"][1][0],
    "a dataclass": lambda o, y: F.mse_loss(o.logits, y) + o.penalty,
    "hidden states": lambda o, y: F.mse_loss(o[0], y) + o[1].square().mean(),
}


@each_engine
@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_may_be_anything(kind, engine):
    module, episodes = seeded(lambda: Outputs(kind)), episodes_of(normal(N, SHOTS, 3))
    assert_by_hand(module, OUTPUTS[kind], episodes, engine)


@each_engine
@pytest.mark.parametrize("kind", ["a scalar", "nested", "a dataclass"])
def test_what_is_of_all_examples_together_is_not_of_a_padded_batch(kind, engine):
    module = seeded(lambda: Outputs(kind))
    episodes = episodes_of(normal(N, SHOTS, 3), some_padding(), some_padding())
    with pytest.raises(ValueError, match="tasks of unequal sizes"):
        MetaModule(learner_of(module, OUTPUTS[kind]), engine=engine)(episodes)


@each_engine
def test_outputs_without_examples_may_stand_beside(engine):
    module = seeded(lambda: Outputs("None"))
    padded = episodes_of(normal(N, SHOTS, 3), some_padding(), some_padding())
    plain = MetaModule(learner_of(seeded(lambda: Outputs("None")), OUTPUTS["None"]))
    found = MetaModule(learner_of(module, OUTPUTS["None"]), engine=engine)
    short = Episode(*(Examples(*(x[1:2, :-1] for x in part)) for part in padded))
    assert_close(found(padded).losses[1:2], plain(short).losses)


# --------------------------------------------------------------- losses of other kinds


def likelihood(outputs, targets):
    return F.gaussian_nll_loss(outputs, targets, outputs.square() + 1)


def branching(outputs, targets):
    if outputs.mean() > 0:
        return F.mse_loss(outputs, targets)
    return F.huber_loss(outputs, targets, delta=0.5)


@each_engine
@pytest.mark.parametrize("loss", [likelihood, branching], ids=lambda f: f.__name__)
def test_losses_may_look_at_values(loss, engine):
    assert_by_hand(net(), loss, episodes_of(normal(N, SHOTS, 3)), engine)


@each_engine
def test_padded_tasks_may_have_losses_that_look_at_values(engine):
    episodes = episodes_of(normal(N, SHOTS, 3), some_padding(), some_padding())
    module = MetaModule(learner_of(net(), likelihood), engine=engine)
    short = Episode(*(Examples(*(x[1:2, :-1] for x in part)) for part in episodes))
    outputs = module(episodes), module(short)
    assert_close(outputs[0].losses[1:2], outputs[1].losses)
    each = [
        gradients(module, out.losses[i]) for out, i in zip(outputs, (1, 0), strict=True)
    ]
    assert_close(*each)


@each_engine
@pytest.mark.parametrize("weights", ["equal", "padded"])
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda o, y: F.mse_loss(o, y, reduction="none"),
            r"loss must .* of shape \(\)",
        ),
        (
            lambda o, y: (F.mse_loss(o, y), {"a": 1}),
            "loss must .* a tuple of 2: .*logs",
        ),
        (lambda o, y: {"loss": F.mse_loss(o, y)}, "loss must return .* a dict of 1"),
        (lambda o, y: 0.5, "loss must return .* but returned a float"),
        (lambda o, y: None, "loss must return .* but returned a NoneType"),
    ],
    ids=["each", "with logs", "a dict", "a float", "nothing"],
)
def test_a_loss_is_one_number(loss, message, weights, engine):
    own = [some_padding()] * 2 if weights == "padded" else []
    episodes = episodes_of(normal(N, SHOTS, 3), *own)
    with pytest.raises(ValueError, match=f"^{message}.*$"):
        MetaModule(learner_of(net(), loss), engine=engine)(episodes)
    measured = learner_of(net(), F.mse_loss, metrics={"m": loss})
    with pytest.raises(
        ValueError, match=f"^{message.replace('loss', 'metric .m.', 1)}"
    ):
        MetaModule(measured, engine=engine)(episodes)


@each_engine
def test_a_metric_may_count(engine):
    def right(outputs, targets):
        return (outputs.argmax(1) == targets).sum()

    episodes = episodes_of(labels(N, SHOTS))
    learner = learner_of(net(), F.cross_entropy, metrics={"right": right})
    count = MetaModule(learner, engine=engine)(episodes).metrics["right"]
    assert count.dtype == torch.float64
    state = MetaModule(learner, engine=engine).adapt(episodes)
    for i, one in enumerate(tasks(episodes)):
        params = {k: x[i] for k, x in state.params.items()}
        z = functional_call(net(), params, one.query.inputs)
        assert float(count[i]) == float(right(z, one.query.targets))
