"""`from_torch`, step by step against the optimizer and scheduler that it is given."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from raymeta.optim import from_torch
from raymeta.testing.optimizers import gradients
from raymeta.testing.problems import random_tensors

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 12


def leaves() -> dict[str, nn.Parameter]:
    return {k: nn.Parameter(x) for k, x in random_tensors(0).items()}


def follow(rule, optimizer, params, scheduler=None, every=1, steps=STEPS) -> None:
    """Both take the same steps, to twelve digits."""
    ours = {k: p.detach().clone() for k, p in params.items()}
    memory = rule.init(ours)
    for t, grads in enumerate(gradients(steps)):
        ours, memory = rule.update(grads, memory, ours, torch.tensor(t))
        for k, p in params.items():
            p.grad = grads[k].clone()
        optimizer.step()
        if scheduler is not None and (t + 1) % every == 0:
            scheduler.step()
        for k, p in params.items():
            torch.testing.assert_close(ours[k], p.detach(), rtol=1e-12, atol=1e-14)


def warmed(optimizer):
    """The usual: a linear warm-up, then a cosine."""
    return schedulers.SequentialLR(
        optimizer,
        [
            schedulers.LinearLR(optimizer, 0.1, total_iters=4),
            schedulers.CosineAnnealingLR(optimizer, T_max=8),
        ],
        milestones=[4],
    )


def chained(optimizer):
    return schedulers.ChainedScheduler(
        [
            schedulers.ConstantLR(optimizer, 0.3, total_iters=5),
            schedulers.ExponentialLR(optimizer, 0.8),
        ]
    )


class Own(schedulers.LRScheduler):
    """A user's own."""

    def get_lr(self):
        return [lr / (1 + self.last_epoch) for lr in self.base_lrs]


SCHEDULERS = {
    "linear": lambda o: schedulers.LinearLR(o, 0.1, total_iters=5),
    "constant": lambda o: schedulers.ConstantLR(o, 0.2, total_iters=5),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.5, total_steps=STEPS),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.4, step_size_up=4),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, T_max=STEPS),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=5),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda t: 0.9**t),
    "multiplied": lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.9),
    "steps": lambda o: schedulers.StepLR(o, 3, 0.5),
    "milestones": lambda o: schedulers.MultiStepLR(o, [2, 7], 0.3),
    "polynomial": lambda o: schedulers.PolynomialLR(o, STEPS, 2.0),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.8),
    "averaged": lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=6),
    "a warm-up": warmed,
    "two at once": chained,
    "its user's own": Own,
}
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.2, momentum=0.8, nesterov=True),
    "adamw": partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("scheduled", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_scheduler_is_followed(make, scheduled):
    """Momentum that it cycles, too; and it stays where it was."""
    params = leaves()
    optimizer = make(params.values())
    scheduler = scheduled(optimizer)
    before = repr(optimizer.state_dict()["param_groups"])
    rule = from_torch(optimizer, scheduler=scheduler, steps=STEPS)
    assert repr(optimizer.state_dict()["param_groups"]) == before
    follow(rule, optimizer, params, scheduler)


@pytest.mark.parametrize("scheduled", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_scheduler_that_is_not_given_is_refused(scheduled):
    """Whether or not it has changed the learning rate already."""
    optimizer = torch.optim.SGD(leaves().values(), lr=0.2, momentum=0.5)
    _ = scheduled(optimizer)
    with pytest.raises(
        ValueError,
        match=r"a scheduler changes those of this SGD: pass scheduler= and steps=",
    ):
        from_torch(optimizer)


def test_a_scheduler_that_steps_once_an_epoch():
    params = leaves()
    optimizer = OPTIMIZERS["adamw"](params.values())
    scheduler = schedulers.StepLR(optimizer, 1, 0.5)
    rule = from_torch(optimizer, scheduler=scheduler, steps=STEPS, every=5)
    follow(rule, optimizer, params, scheduler, every=5)


def test_past_the_steps_the_last_value_holds():
    params = leaves()
    optimizer = OPTIMIZERS["sgd"](params.values())
    scheduler = schedulers.LinearLR(optimizer, 0.1, total_iters=4)
    rule = from_torch(optimizer, scheduler=scheduler, steps=5)
    follow(rule, optimizer, params, scheduler)


def test_groups_have_schedules_of_their_own():
    params = leaves()
    first, *others = params
    groups = [
        {"params": [params[first]], "lr": 0.3},
        {"params": [params[k] for k in others], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    factors = [lambda t: 0.9**t, lambda t: 1 / (1 + t)]
    scheduler = schedulers.LambdaLR(optimizer, factors)
    rule = from_torch(optimizer, params, scheduler=scheduler, steps=STEPS)
    follow(rule, optimizer, params, scheduler)


def test_groups_of_named_parameters_need_no_other_names():
    params = leaves()
    first, *others = params.items()
    groups = [{"params": [first], "lr": 0.3}, {"params": others}]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    follow(from_torch(optimizer), optimizer, params)


tensor = partial(torch.tensor, dtype=torch.float64)
SETTINGS = {
    "a learning rate that is a tensor": {"lr": tensor(0.1), "foreach": False},
    "of one element": {"lr": tensor([0.1]), "foreach": False},
    "ascent": {"lr": 0.1, "maximize": True},
    "how it is computed": {"lr": 0.1, "foreach": True},
    "differentiable": {"lr": 0.1, "differentiable": False},
    "the greatest v": {"lr": 0.1, "amsgrad": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_however_they_are_given(settings):
    params = leaves()
    optimizer = torch.optim.Adam(params.values(), **settings)
    rule = from_torch(optimizer)
    if isinstance(settings["lr"], torch.Tensor):  # what becomes of it is not followed
        optimizer.param_groups[0]["lr"] = settings["lr"].clone()
        settings["lr"].fill_(9.0)
    follow(rule, optimizer, params)


def test_defaults_that_change_after_the_groups_were_made_do_not_count():
    params = leaves()
    optimizer = torch.optim.SGD(params.values(), lr=0.1)
    optimizer.defaults["lr"] = 7.0
    follow(from_torch(optimizer), optimizer, params)


def test_an_initial_lr_alone_is_no_scheduler():
    params = leaves()
    groups = [{"params": list(params.values()), "initial_lr": 0.1}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    follow(from_torch(optimizer), optimizer, params)


def with_hook(optimizer, kind):
    getattr(optimizer, f"register_step_{kind}_hook")(lambda *_: None)
    return optimizer


def replaced(optimizer):
    optimizer.step = lambda: None
    return optimizer


def scheduled(make, **arguments):
    def refused():
        optimizer = torch.optim.SGD(leaves().values(), lr=0.1)
        return from_torch(optimizer, scheduler=make(optimizer), **arguments)

    return refused


def stepped(optimizer):
    scheduler = schedulers.StepLR(optimizer, 3)
    optimizer.step()
    scheduler.step()
    return scheduler


class Uncopied(Own):
    def __init__(self, optimizer):
        self.generator = (x for x in range(9))
        super().__init__(optimizer)


def sgd_of(change, *arguments):
    optimizer = torch.optim.SGD(leaves().values(), lr=0.1)
    return lambda: from_torch(change(optimizer, *arguments))


def on_plateau(optimizer):
    KEPT.append(schedulers.ReduceLROnPlateau(optimizer))
    return optimizer


KEPT = []
REFUSED = {
    "a metric's that is not given": (
        sgd_of(on_plateau),
        "but a scheduler changes those of this SGD: pass scheduler=",
    ),
    "a hook before": (sgd_of(with_hook, "pre"), "this SGD has hooks on its step"),
    "a hook after": (sgd_of(with_hook, "post"), "this SGD has hooks on its step"),
    "a step of its own": (sgd_of(replaced), "the step of this SGD was replaced"),
    "only a scheduler": (
        sgd_of(lambda o: schedulers.StepLR(o, 3)),
        r"needs an optimizer of torch.optim, .* but got StepLR: pass the optimizer",
    ),
    "a number": (lambda: from_torch(0.1), "but got float: pass the optimizer"),
    "of a metric": (
        scheduled(schedulers.ReduceLROnPlateau, steps=9),
        "whose values depend on the step alone, but got ReduceLROnPlateau",
    ),
    "no scheduler": (scheduled(lambda o: "cosine", steps=9), "but got str: take one"),
    "that of another": (
        scheduled(
            lambda o: schedulers.StepLR(torch.optim.SGD(leaves().values(), 0.1), 3),
            steps=9,
        ),
        "needs the scheduler of its optimizer, but this StepLR has another one",
    ),
    "after a step": (scheduled(stepped, steps=9), "but this StepLR has taken steps"),
    "how long?": (
        scheduled(lambda o: schedulers.StepLR(o, 3)),
        "needs steps >= 1 to follow StepLR, but got None: give steps=, the training",
    ),
    "never": (
        scheduled(lambda o: schedulers.StepLR(o, 3), steps=9, every=0),
        "needs every >= 1 to follow StepLR, but got 0",
    ),
    "too long": (
        scheduled(
            lambda o: schedulers.OneCycleLR(
                o, 0.5, total_steps=6, cycle_momentum=False
            ),
            steps=9,
        ),
        r"OneCycleLR ends before step 7 \(Tried to step 7 times.*: give fewer steps",
    ),
    "not to be copied": (
        scheduled(Uncopied, steps=9),
        r"Uncopied cannot be copied \(TypeError: .*generator.*\): give its values to",
    ),
    "steps of nothing": (
        lambda: from_torch(partial(torch.optim.SGD, lr=0.1), steps=9),
        "steps and every are those of a scheduler, but got steps=9 and every=1",
    ),
} | {
    name: (
        lambda name=name: from_torch(getattr(torch.optim, name)([torch.zeros(2, 2)])),
        rf"needs one of SGD, Adam, .*, Adadelta, but got {name}: use a rule",
    )
    for name in ("LBFGS", "Adafactor", "Adamax", "ASGD", "Rprop", "SparseAdam", "Muon")
    if hasattr(torch.optim, name)
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses_in_one_line_what_it_would_read_wrong(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
