"""Tuning-free runs: against torch's own loop, and what they override and refuse."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import raymeta
from raymeta import Positive, Space, Unit, module_problem
from raymeta.modules import smoothed_cross_entropy
from raymeta.optim import sgd
from raymeta.results.schema import TUNING_FREE
from raymeta.search.methods import missing
from raymeta.search.methods.tuning_free import RULES, TuningFree, cosine, wsd

T = 12


class Small:
    """Two classes of points; λ smooths labels, and sets SGD."""

    name, horizon, budget = "small", T, 100.0
    space = Space(
        lr=Positive(0.5, low=1e-3, high=1.0, shape=(2,)),
        smoothing=Unit(0.1, low=0.0, high=0.9),
    )

    def __init__(self, optimizer=lambda h: sgd({"0": h["lr"][0], "2": h["lr"][1]})):
        self.optimizer = optimizer

    def parts(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(40, 3, generator=generator)
        y = (x[:, 0] > 0).long()
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        return net, TensorDataset(x[:20], y[:20]), TensorDataset(x[20:], y[20:])

    def sample(self, seed):
        net, train, val = self.parts(seed)
        return module_problem(
            net,
            loss=F.cross_entropy,
            train=train,
            val=val,
            test=val,
            train_loss=lambda out, y, h, index: smoothed_cross_entropy(
                out, y, smoothing=h["smoothing"]
            ),
            optimizer=self.optimizer,
            seed=seed,
        )


def the_report(method, task, seed=0):
    problem = task.sample(seed)
    (report,) = method.reports(task, problem, seed, 100.0)
    return report


def by_hand(make, schedule, before=lambda o: None, after=lambda o: None):
    """The same run in plain torch; E at its end."""
    net, train, val = Small().parts(0)
    optimizer = make(net.parameters())
    lr = optimizer.param_groups[0]["lr"]
    before(optimizer)
    for t in range(T):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(t, T)
        optimizer.zero_grad()
        x, y = train.tensors
        F.cross_entropy(net(x), y, label_smoothing=0.1).backward()
        optimizer.step()
    after(optimizer)
    x, y = val.tensors
    return F.cross_entropy(net(x), y).item()


class NAdamW(torch.optim.Optimizer):
    """As AlgoPerf's baseline: Nesterov's momentum without a schedule of its own."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.0017486387539278373})
        self.t = 0

    @torch.no_grad()
    def step(self):
        b1, b2, decay = 1 - 0.06733926164, 0.9955159689799007, 0.08121616522670176
        self.t += 1
        (group,) = self.param_groups
        for p in group["params"]:
            s = self.state[p]
            m, v = s.setdefault("m", 0 * p), s.setdefault("v", 0 * p)
            p.mul_(1 - group["lr"] * decay)
            m.mul_(b1).add_((1 - b1) * p.grad)
            v.mul_(b2).add_((1 - b2) * p.grad**2)
            ahead = b1 * m / (1 - b1 ** (self.t + 1))
            ahead = ahead + (1 - b1) * p.grad / (1 - b1**self.t)
            p.sub_(group["lr"] * ahead / ((v / (1 - b2**self.t)).sqrt() + 1e-8))


@pytest.mark.parametrize(
    ("name", "make", "schedule"),
    [
        ("adamw_wsd", torch.optim.AdamW, wsd),
        ("adam_cosine_calibrated", lambda p: torch.optim.Adam(p, lr=0.1), cosine),
        ("sgd", torch.optim.SGD, lambda t, steps: 1.0),
        ("adam", torch.optim.Adam, lambda t, steps: 1.0),
        ("adamw_cosine", torch.optim.AdamW, cosine),
        ("nadamw_cosine", lambda p: NAdamW(list(p)), cosine),
        ("online_adamw", raymeta.online.AdamW, lambda t, steps: 1.0),
    ],
)
def test_a_rule_is_the_run_that_one_writes_in_torch(name, make, schedule):
    assert the_report(RULES[name], Small()).outer_loss == pytest.approx(
        by_hand(make, schedule), rel=1e-5
    )


def test_any_optimizer_of_torch_is_one_line():
    rule = TuningFree("mine", torch.optim.RMSprop, settings=(("lr", 0.02),))
    report = the_report(rule, Small())
    expected = by_hand(lambda p: torch.optim.RMSprop(p, lr=0.02), lambda t, steps: 1.0)
    assert report.outer_loss == pytest.approx(expected, rel=1e-5)
    assert rule.summary == "One run by RMSprop with lr=0.02."


@pytest.mark.skipif(bool(missing(RULES["schedule_free"])), reason="needs schedulefree")
def test_schedule_free_is_evaluated_at_the_mean_of_its_iterates():
    import schedulefree

    expected = by_hand(
        schedulefree.AdamWScheduleFree,
        lambda t, steps: 1.0,
        lambda optimizer: optimizer.train(),
        lambda optimizer: optimizer.eval(),
    )
    found = the_report(RULES["schedule_free"], Small()).outer_loss
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(bool(missing(RULES["prodigy"])), reason="needs prodigyopt")
def test_prodigy_is_its_authors_own():
    from prodigyopt import Prodigy

    for name, schedule in (
        ("prodigy", lambda t, steps: 1.0),
        ("prodigy_cosine", cosine),
    ):
        found = the_report(RULES[name], Small()).outer_loss
        assert found == pytest.approx(by_hand(Prodigy, schedule), rel=1e-5)


def test_what_it_overrides_has_no_value_and_the_rest_is_where_it_starts():
    report = the_report(RULES["adamw_wsd"], Small())
    assert report.complete
    assert report.gradient_evals == pytest.approx(T + 1 / 3)
    assert report.hparams["smoothing"] == pytest.approx(0.1)
    assert all(math.isnan(report.hparams[f"lr[{i}]"]) for i in range(2))


def test_what_the_task_reads_elsewhere_too_is_not_overridden():
    """Here both take the smoothing: it is where it starts, for the loss has it."""
    task = Small(lambda h: sgd(h["lr"][0] * (1 - h["smoothing"])))
    report = the_report(RULES["adamw_wsd"], task)
    assert report.hparams["smoothing"] == pytest.approx(0.1)
    assert math.isnan(report.hparams["lr[0]"])


def test_it_is_refused_where_it_would_spare_nothing():
    rule, fixed = RULES["adam_cosine"], Small(lambda h: sgd(0.1))
    with pytest.raises(ValueError, match="of task 'small' reads no hyperparameter"):
        rule.min_budget(fixed, fixed.sample(0))
    with pytest.raises(ValueError, match=r"no raymeta\.problem\.Descent: make it with"):
        rule.min_budget(fixed, replace(fixed.sample(0), step=lambda s, h, b: s))


def test_a_comparison_takes_it_as_a_family_of_one_run(bench):
    done = bench(Small(), RULES["adamw_wsd_calibrated"], budget=100.0).run()
    frame = done.frame()
    assert list(frame.status) == ["complete", "final"]
    assert set(frame.family) == {TUNING_FREE}
    assert done.studies[0].spent == pytest.approx(T + 1 / 3)
    assert frame["hp/lr[0]"].isna().all()
    final = frame.iloc[-1]
    assert final.test_loss == pytest.approx(final.outer_loss)


def test_schedules_rise_stay_and_fall():
    rates = [wsd(t, 100) for t in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:81] == pytest.approx([1.0] * 76)
    assert rates[95] == pytest.approx(1 - 0.75**0.5)
    assert [cosine(t, 100) for t in (4, 5, 100)] == pytest.approx([1.0, 1.0, 0.0])
    assert wsd(0, 1) == cosine(0, 1) == 1.0
