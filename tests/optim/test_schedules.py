"""A learned schedule is exported, and replayed with plain torch.optim."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from raymeta import Positive, Real, Space, Unit, module_problem, optim, optimize
from raymeta.hypergrad import Reverse, ShortTerm
from raymeta.optim import (
    LearnedSchedule,
    Optimizer,
    export_schedule,
    load_schedule,
    replay_with_torch,
)
from raymeta.outer.descend import sure_cost
from raymeta.outer.replay import replay
from raymeta.outer.report import outer_value
from raymeta.problem import BilevelProblem
from raymeta.types import Hparams

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 24


def network() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def examples(start: int, end: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(60, 4, generator=generator)
    y = (x @ torch.randn(4, 3, generator=generator)).argmax(-1)
    return TensorDataset(x[start:end], y[start:end])


@dataclass(frozen=True)
class Small:
    """A small classifier, trained by any of our optimizers."""

    space: Space
    optimizer: Callable[[Hparams], Optimizer]
    name: str = "small"
    horizon: int = STEPS
    budget: float = 600.0

    def sample(self, seed: int) -> BilevelProblem:
        return module_problem(
            network(),
            loss=F.cross_entropy,
            train=examples(0, 40),
            val=examples(40, 60),
            optimizer=self.optimizer,
            batch_size=10,
            seed=seed,
        )


def validation_loss_of_plain_torch(
    task: Small, schedule: Any, make: Callable[[nn.Module], Any], settings: Any
) -> float:
    """An ordinary training loop; nothing of raymeta but the batches."""
    net, problem = network(), task.sample(0)
    optimizer = make(net)
    for t, hparams in replay_with_torch(optimizer, schedule, settings):
        (inputs,), targets, _ = problem.batch(t).data
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        if "max_norm" in hparams:
            nn.utils.clip_grad_norm_(net.parameters(), hparams["max_norm"])
        optimizer.step()
    inputs, targets = examples(40, 60).tensors
    return float(F.cross_entropy(net(inputs), targets).detach())


def by_layer(values: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(zip(("0", "2"), values.unbind(), strict=True))


def layers(net: nn.Module) -> list[dict[str, Any]]:
    return [{"params": net[i].parameters()} for i in (0, 2)]


SGD_BY_LAYER = Small(
    Space(
        lr=Positive(0.1, shape=(2,)),
        weight_decay=Positive(1e-3, shape=(2,)),
        momentum=Unit(0.8),
        dampening=Real(0.1),
        max_norm=Positive(0.5),
    ),
    lambda h: optim.clip_by_norm(
        optim.sgd(
            by_layer(h["lr"]),
            momentum=h["momentum"],
            dampening=h["dampening"],
            weight_decay=by_layer(h["weight_decay"]),
        ),
        h["max_norm"],
    ),
)


def sgd_groups(h: Hparams, t: int) -> list[dict[str, Any]]:
    return [
        {
            "lr": h[f"lr[{i}]"],
            "weight_decay": h[f"weight_decay[{i}]"],
            "momentum": h["momentum"],
            "dampening": h["dampening"],
        }
        for i in range(2)
    ]


ADAM = Small(
    Space(
        lr=Positive(0.03),
        beta1=Unit(0.8),
        beta2=Unit(0.9),
        eps=Positive(1e-3),
        weight_decay=Positive(1e-2),
    ),
    lambda h: optim.adam(
        h["lr"],
        betas=(h["beta1"], h["beta2"]),
        eps=h["eps"],
        weight_decay=h["weight_decay"],
    ),
)


def adam_group(h: Hparams, t: int) -> dict[str, Any]:
    numbers = {name: h[name] for name in ("lr", "eps", "weight_decay")}
    return numbers | {"betas": (h["beta1"], h["beta2"])}


PER_STEP = Small(
    Space(lr=Positive(0.1, shape=(STEPS,)), momentum=Unit(0.8)),
    lambda h: optim.sgd(h["lr"], momentum=h["momentum"], nesterov=True),
)


@pytest.mark.filterwarnings("ignore::raymeta.results.overfitting.Overfitting")
@pytest.mark.parametrize(
    ("task", "estimator", "make", "settings"),
    [
        (
            SGD_BY_LAYER,
            ShortTerm(3),
            lambda net: torch.optim.SGD(layers(net), lr=1.0),
            sgd_groups,
        ),
        (
            ADAM,
            ShortTerm(3),
            lambda net: torch.optim.Adam(net.parameters()),
            adam_group,
        ),
        (
            PER_STEP,
            Reverse(STEPS),
            lambda net: torch.optim.SGD(net.parameters(), momentum=0.5, nesterov=True),
            lambda h, t: {"lr": h[f"lr[{t}]"], "momentum": h["momentum"]},
        ),
    ],
    ids=["sgd-by-layer-online", "adam-online", "sgd-per-step"],
)
def test_plain_torch_reproduces_the_learned_run(
    tmp_path, task, estimator, make, settings
):
    budget = None
    if isinstance(estimator, ShortTerm):  # one run that learns, after that at the start
        budget = 1.01 * sure_cost(task, task.sample(0), estimator)
    result = optimize(task, estimator, budget=budget)
    if isinstance(estimator, ShortTerm):
        assert len({h["lr" if "lr" in h else "lr[0]"] for _, h in result.schedule}) > 5
    export_schedule(result.schedule, tmp_path / "schedule.json")
    schedule = load_schedule(tmp_path / "schedule.json")
    loss = validation_loss_of_plain_torch(task, schedule, make, settings)
    assert loss == pytest.approx(result.outer_loss, rel=1e-10)
    if task is ADAM:
        as_scheduler = validation_loss_by_scheduler(task, result, make)
        assert as_scheduler == pytest.approx(result.outer_loss, rel=1e-10)


def validation_loss_by_scheduler(task: Small, result: Any, make: Any) -> float:
    net, problem = network(), task.sample(0)
    optimizer = make(net)
    scheduler = result.export(optimizer)
    for t in range(STEPS):
        (inputs,), targets, _ = problem.batch(t).data
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
        scheduler.step()
    inputs, targets = examples(40, 60).tensors
    return float(F.cross_entropy(net(inputs), targets).detach())


def test_a_schedule_as_a_scheduler_of_torch_s():
    """It is a LambdaLR that sets everything, goes on from its state, and ends."""
    schedule = [(2, {"lr[1]": 0.5, "beta1": 0.8}), (1, {"lr[1]": 0.25, "beta1": 0.7})]

    def made():
        optimizer = torch.optim.Adam(layers(network()), lr=0.1)
        return optimizer, LearnedSchedule(optimizer, schedule)

    def settings(optimizer):
        return [(group["lr"], group["betas"]) for group in optimizer.param_groups]

    optimizer, scheduler = made()
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
    seen, states = [], []
    for _ in range(5):
        seen.append(settings(optimizer))
        states.append(scheduler.state_dict())
        optimizer.step()
        scheduler.step()
    first = [(0.1, (0.8, 0.999)), (0.5, (0.8, 0.999))]
    last = [(0.1, (0.7, 0.999)), (0.25, (0.7, 0.999))]
    assert seen == [first, first, last, last, last]
    resumed, again = made()
    again.load_state_dict(json.loads(json.dumps(states[1])))
    resumed.step()
    again.step()
    assert settings(resumed) == last


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([], "a schedule of 1 step or more"),
        ([(1, {"lr[2]": 0.1})], r"lr\[2\] of the schedule is no setting .* 2: give"),
        ([(1, {"l2": 0.1})], "l2 of the schedule is no setting"),
        ([(1, {"beta1": 0.1})], "beta1 of the schedule is no setting"),
    ],
)
def test_a_schedule_that_groups_have_no_settings_for(schedule, message):
    with pytest.raises(ValueError, match=message):
        LearnedSchedule(groups_of_two_layers(), schedule)


def test_a_momentum_of_exactly_zero_in_mid_run_is_replayed():
    space = Space(momentum=Real(0.0))
    task = Small(space, lambda h: optim.sgd(0.1, momentum=h["momentum"]))
    schedule = [(5, {"momentum": m}) for m in (0.0, 0.9, 0.0, 0.8)]
    problem = task.sample(0)
    ours = outer_value(problem, replay(problem, space, schedule), {})
    theirs = validation_loss_of_plain_torch(
        task,
        schedule,
        lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
        lambda h, t: h,
    )
    assert theirs == pytest.approx(ours, rel=1e-12)


def test_a_schedule_survives_the_file(tmp_path):
    schedule = [(3, {"lr[0]": 0.1 + 0.2, "kind": "adam"}), (1, {"lr[0]": 5e-324})]
    export_schedule(schedule, tmp_path / "schedule.json")
    assert load_schedule(tmp_path / "schedule.json") == schedule
    assert len((tmp_path / "schedule.json").read_text().splitlines()) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.tensor(1.0)])
def test_what_json_cannot_say_is_refused(tmp_path, bad):
    with pytest.raises(ValueError, match=r"finite numbers.* but got lr="):
        export_schedule([(1, {"lr": bad})], tmp_path / "schedule.json")
    assert not (tmp_path / "schedule.json").exists()


def groups_of_two_layers() -> torch.optim.Optimizer:
    return torch.optim.SGD(layers(network()), lr=0.1)


def test_a_name_that_torch_does_not_have_is_answered_with_a_guess():
    steps = replay_with_torch(
        groups_of_two_layers(), [(1, {"mu": 0.5})], lambda h, t: {"momentun": h["mu"]}
    )
    with pytest.raises(ValueError, match="'momentun': did you mean 'momentum'"):
        next(steps)


def test_one_mapping_per_group_is_needed():
    steps = replay_with_torch(
        groups_of_two_layers(), [(1, {"lr": 0.5})], lambda h, t: [h]
    )
    with pytest.raises(ValueError, match="but got 1 for 2 groups"):
        next(steps)


def test_each_step_has_its_settings():
    optimizer = groups_of_two_layers()
    seen = [
        (t, h["lr"], [group["lr"] for group in optimizer.param_groups])
        for t, h in replay_with_torch(
            optimizer,
            [(2, {"lr": 0.5}), (1, {"lr": 0.25})],
            lambda h, t: [{"lr": h["lr"]}, {"lr": h["lr"] * t}],
        )
    ]
    assert seen == [
        (0, 0.5, [0.5, 0.0]),
        (1, 0.5, [0.5, 0.5]),
        (2, 0.25, [0.25, 0.5]),
    ]
