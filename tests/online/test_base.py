"""The interface of `torch.optim`, kept while hyperparameters learn."""

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raymeta
from raymeta import online

FLAGS = [
    (online.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    (online.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}),
    (online.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "foreach": True}),
    (online.SGD, {"lr": 0.1, "maximize": True, "fused": True}),
    (online.Adam, {"lr": 0.01, "weight_decay": 0.01, "foreach": True}),
    (online.Adam, {"lr": 0.01, "amsgrad": True, "maximize": True}),
    (online.Adam, {"lr": 0.01, "fused": True, "decoupled_weight_decay": True}),
    (online.AdamW, {"lr": torch.tensor(0.01), "betas": (0.8, 0.9), "eps": 1e-6}),
    (online.AdamW, {"lr": 0.01, "amsgrad": True, "foreach": False}),
    (online.Muon, {"lr": 0.01, "adjust_lr_fn": "match_rms_adamw"}),
]


def network(bias=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8, bias=bias), nn.Tanh(), nn.Linear(8, 3, bias=bias)
    )


def gradient(net, t, scale=1.0):
    g = torch.Generator().manual_seed(t)
    x, y = torch.randn(16, 6, generator=g), torch.randint(3, (16,), generator=g)
    net.zero_grad()
    loss = F.cross_entropy(net(x), y)
    (loss * scale).backward()
    return loss


def train(net, optimizer, steps):
    for t in steps:
        gradient(net, t)
        optimizer.step()


def assert_same(net, other):
    for w, v in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(w, v)


@pytest.mark.parametrize(("rule", "flags"), FLAGS)
@pytest.mark.parametrize("options", [{"learn": ()}, {"hyper_lr": 0.0}])
def test_what_does_not_learn_is_torch_optim_to_the_bit(rule, flags, options):
    net, plain = network(), network()
    train(net, rule(net.parameters(), **flags, **options), range(5))
    train(plain, rule.RULE(plain.parameters(), **flags), range(5))
    assert_same(net, plain)


@pytest.mark.parametrize("rule", [online.SGD, online.Adam, online.AdamW, online.Muon])
def test_values_per_tensor_and_weight_start_as_the_group_s(rule):
    plain = network().double()
    train(plain.float(), rule.RULE(plain.parameters(), lr=0.01), range(5))
    for per in ("model", "tensor", "weight"):
        net = network()
        train(net, rule(net.parameters(), lr=0.01, per=per, hyper_lr=0.0), range(5))
        for w, v in zip(net.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(w, v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"learn": ("lr", "weight_decay", "beta1", "beta2"), "per": "tensor"},
        {"learn": ("lr", "weight_decay"), "per": "weight"},
        {"learn": ("lr", "beta1"), "trace": 0.9},
    ],
)
def test_a_state_goes_on_to_the_bit(options):
    def made(net):
        return online.AdamW(net.parameters(), lr=1e-3, **options)

    whole = network()
    optimizer = made(whole)
    train(whole, optimizer, range(12))

    first = network()
    half = made(first)
    train(first, half, range(6))
    file = io.BytesIO()
    torch.save({"net": first.state_dict(), "optimizer": half.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)  # plain data: weights_only
    second = network()
    second.load_state_dict(saved["net"])
    resumed = made(second)
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, range(6, 12))
    assert_same(whole, second)
    assert optimizer.learned.equals(resumed.learned)

    third = copy.deepcopy((first, half))
    train(*third, range(6, 12))
    assert_same(whole, third[0])


def test_a_state_of_torch_optim_s_own_class_starts_the_learning():
    net = network()
    plain = torch.optim.AdamW(net.parameters(), lr=0.02)
    train(net, plain, range(3))
    optimizer = online.AdamW(net.parameters(), lr=0.5, learn=["lr"])
    optimizer.load_state_dict(plain.state_dict())
    train(net, optimizer, range(3, 5))
    assert optimizer.learned["lr"][0] == 0.02


def test_a_state_of_another_class_is_refused():
    state = torch.optim.SGD(network().parameters(), lr=0.1).state_dict()
    optimizer = online.AdamW(network().parameters())
    with pytest.raises(ValueError, match=r"another optimizer than AdamW.*betas"):
        optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="needs what state_dict"):
        optimizer.load_state_dict({})


def test_what_was_learnt_is_replayed_by_torch_optim_to_the_bit(tmp_path):
    net, replayed = network(), network()
    optimizer = online.AdamW(net.parameters(), learn=("lr", "weight_decay", "beta1"))
    train(net, optimizer, range(20))
    assert not optimizer.learned["null"].any()
    assert optimizer.learned["lr"].nunique() > 15
    optimizer.export(tmp_path / "schedule.json")
    schedule = raymeta.optim.load_schedule(tmp_path / "schedule.json")
    plain = torch.optim.AdamW(replayed.parameters())

    def settings(h, t):
        return {
            "lr": h["lr"],
            "weight_decay": h["weight_decay"],
            "betas": (h["beta1"], 0.999),
        }

    for t, _ in raymeta.optim.replay_with_torch(plain, schedule, settings):
        gradient(replayed, t)
        plain.step()
    assert_same(net, replayed)


def test_what_was_learnt_as_a_scheduler_gives_the_same_weights():
    net, replayed = network(), network()
    optimizer = online.AdamW(net.parameters(), learn=("lr", "weight_decay", "beta1"))
    train(net, optimizer, range(20))
    plain = torch.optim.AdamW(replayed.parameters(), lr=0.5)
    scheduler = optimizer.export(plain)
    for t in range(20):
        gradient(replayed, t)
        plain.step()
        scheduler.step()
    assert_same(net, replayed)
    of_tensors = online.AdamW(net.parameters(), per="tensor")
    with pytest.raises(ValueError, match="nothing is learnt yet"):
        of_tensors.export(plain)
    train(net, of_tensors, range(1))
    with pytest.raises(ValueError, match="cannot have what was learnt"):
        of_tensors.export(plain)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.5),
    ],
)
def test_a_scheduler_scales_what_is_learnt(schedule):
    net = network()
    optimizer = online.Adam(net.parameters(), lr=0.01, hyper_lr=0.0)
    scheduler, factors = schedule(optimizer), []
    for t in range(5):
        gradient(net, t)
        optimizer.step()
        factors.append(optimizer.param_groups[0]["lr"] / 0.01)
        scheduler.step()
    assert optimizer.learned["lr"].tolist() == pytest.approx(
        [0.01 * f for f in factors]
    )
    assert len(set(factors)) > 2


def test_a_rate_that_is_set_by_other_hands_is_said_once():
    net = network()
    optimizer = online.Adam(net.parameters(), lr=0.01)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    plateau.step(1.0)
    train(net, optimizer, range(1))
    plateau.step(1.0)
    with pytest.warns(UserWarning, match=r"lr of group 0 was set from 0.01 to 0.001"):
        train(net, optimizer, range(1, 2))
    train(net, optimizer, range(2, 3))
    assert optimizer.learned["lr"].max() < 0.012


def test_a_state_with_a_scheduler_s_notes_and_one_of_an_older_torch_are_taken():
    net = network()
    optimizer = online.AdamW(net.parameters(), lr=0.01)
    torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=9, cycle_momentum=False
    )
    train(net, optimizer, range(3))
    state = optimizer.state_dict()
    del state["param_groups"][0]["decoupled_weight_decay"]
    other = online.AdamW(net.parameters())
    other.load_state_dict(state)
    assert other.point == optimizer.point


def test_a_scheduler_from_zero_is_fine():
    net = network()
    optimizer = online.Adam(net.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(t / 3, 1))
    for t in range(8):
        gradient(net, t)
        optimizer.step()
        scheduler.step()
    learned = optimizer.learned["lr"]
    assert learned[0] == 0.0
    assert 0.005 < learned[4] < 0.03


def test_settings_that_are_learnt_are_not_set_from_outside():
    net = network()
    optimizer = online.Adam(net.parameters(), learn=["lr", "beta1"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    gradient(net, 0)
    with pytest.raises(ValueError, match=r"beta1 is learnt, but was set from 0.9 to"):
        optimizer.step()


def test_groups_have_settings_and_values_of_their_own():
    net = network()
    first, second = net[0].weight, net[2].weight
    optimizer = online.AdamW([{"params": [first], "lr": 1e-3}], lr=1e-2, per="model")
    optimizer.add_param_group({"params": [second], "learn": (), "weight_decay": 0.5})
    train(net, optimizer, range(5))
    assert list(optimizer.learned) == ["step", "lr[0]", "null"]
    both = online.AdamW(
        [{"params": [first], "lr": 1e-3}, {"params": [second]}], lr=1e-2, per="model"
    )
    train(net, both, range(5))
    ratio = both.learned["lr[1]"] / both.learned["lr[0]"]
    assert ratio.tolist() == pytest.approx([10.0] * 5)
    far = online.AdamW(
        [{"params": [first], "lr": 0.1}, {"params": [second]}], lr=1.0, per="model"
    )
    train(net, far, range(3))
    assert far.counts["null_steps"] == 1
    assert far.point["lr[1]"] / far.point["lr[0]"] == pytest.approx(10.0)


def test_a_closure_is_called_once():
    net, calls = network(), []
    optimizer = online.Adam(net.parameters())

    def closure():
        calls.append(1)
        return gradient(net, 0)

    assert float(optimizer.step(closure).detach()) > 0
    assert len(calls) == 1
    for each in (optimizer, online.Adam(net.parameters(), learn=())):
        with pytest.raises(ValueError, match="needs a function as closure"):
            each.step(closure())


def test_step_hooks_run_once():
    torch.optim.Adam(network().parameters())  # whose step then has hooks, too
    net, calls = network(), []
    optimizer = online.Adam(net.parameters())
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    gradient(net, 0)
    optimizer.step()
    assert calls == [1]


@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_learn_as_unscaled_ones(fused):
    plain, net = network(), network()
    train(plain, online.Adam(plain.parameters(), lr=1e-3), range(6))
    optimizer = online.Adam(net.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for t in range(6):
        gradient(net, t, scale=float(scaler.get_scale()))
        scaler.scale(torch.tensor(1.0))
        scaler.step(optimizer)
        scaler.update()
    for w, v in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(w, v, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [online.SGD, online.AdamW])
@pytest.mark.parametrize("per", ["group", "tensor", "weight"])
def test_a_step_too_far_is_taken_back(rule, per):
    w = nn.Parameter(torch.tensor([3.0, -2.0]))
    scales = torch.tensor([1.0, 10.0])

    def descend():
        optimizer.zero_grad()
        loss = 0.5 * (scales * w**2).sum()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    optimizer = rule([w], lr=0.01, per=per)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 1 if t < 3 else 3e3
    )
    for _ in range(3):
        descend()
        scheduler.step()
    near = w.detach().clone()
    descend()
    far = w.detach().abs().max()
    descend()
    torch.testing.assert_close(w.detach(), near, rtol=1e-3, atol=0)
    assert far > 20
    assert optimizer.counts["null_steps"] == 1
    assert optimizer.learned["null"].tolist() == [False] * 4 + [True]
    last = [descend() for _ in range(60)][-1]
    assert last < 0.1


@pytest.mark.parametrize("per", ["group", "tensor", "weight"])
def test_a_first_step_as_long_as_the_weights_is_taken_back_once(per):
    net = network()
    before = torch.cat([w.detach().flatten() for w in net.parameters()])
    optimizer = online.Adam(net.parameters(), lr=30.0, per=per)
    train(net, optimizer, range(1))
    after = torch.cat([w.detach().flatten() for w in net.parameters()])
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    train(net, optimizer, range(1, 2))
    step = torch.cat([w.detach().flatten() for w in net.parameters()]) - before
    assert step.norm() / before.norm() == pytest.approx(0.1, rel=0.3)
    assert optimizer.learned["null"].tolist() == [True, False]
    # Of weights that are 0 any step is.
    zeros = [nn.Parameter(torch.zeros(3))]
    optimizer = online.Adam(zeros, lr=1.0)
    zeros[0].grad = torch.ones(3)
    optimizer.step()
    assert optimizer.counts["null_steps"] == 0


def test_gradients_that_are_not_finite_do_no_harm_and_end_in_one_line():
    net = network()
    optimizer = online.Adam(net.parameters(), lr=1e-3)
    train(net, optimizer, range(3))
    gradient(net, 3)
    net[0].weight.grad[0, 0] = float("nan")
    optimizer.step()
    assert optimizer.counts["null_steps"] == optimizer.counts["non_finite"] == 1
    assert all(w.isfinite().all() for w in net.parameters())
    train(net, optimizer, range(3, 6))

    def lost(steps):
        for t in range(steps):
            gradient(net, t)
            net[0].weight.grad[0, 0] = float("nan")
            optimizer.step()

    with pytest.raises(ValueError, match="not finite"):
        lost(200)
    assert all(w.isfinite().all() for w in net.parameters())


def test_a_compiled_step_is_the_same():
    net, plain = network(), network()
    train(plain, online.AdamW(plain.parameters(), learn=("lr", "beta1")), range(4))
    optimizer = online.AdamW(net.parameters(), learn=("lr", "beta1"))
    step = torch.compile(optimizer.step, backend="aot_eager")
    for t in range(4):
        gradient(net, t)
        step()
    for w, v in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(w, v)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn": ["momentum"]}, r"hyperparameter of raymeta.online.AdamW 'momentum'"),
        ({"learn": ["betas"]}, "did you mean 'beta1'"),
        ({"learn": None}, "learn needs names"),
        ({"lr": float("inf")}, "lr needs a finite start"),
        ({"lr": 0.0}, "lr needs a start above 0"),
        ({"weight_decay": 0.0, "learn": ["weight_decay"]}, "give weight_decay=0.0001"),
        ({"lr": 60.0}, r"lr \* weight_decay <= 1/2"),
        ({"per": "layer"}, "unknown per 'layer'"),
        ({"per": "weight", "learn": ["beta1"]}, "per='tensor' at most"),
        ({"trace": 1.0}, r"trace needs a number in \[0, 1\)"),
        ({"hyper_lr": -1.0}, r"hyper_lr needs a number in \[0, inf\)"),
        ({"hyper_rate": 0.1}, "did you mean 'hyper_lr'"),
        ({"differentiable": True}, r"needs learn=\(\)"),
        ({"space": raymeta.Space(rate=raymeta.Unit(0.9))}, "unknown hyperparameter"),
        (
            {"space": raymeta.Space(lr=raymeta.Choice((1e-3, 1e-2)))},
            "choices have no derivative",
        ),
        (
            {"space": raymeta.Space(lr=raymeta.Positive(1e-2, low=5e-3, high=1.0))},
            "low <= initial",
        ),
    ],
)
def test_bad_settings_get_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        online.AdamW(network().parameters(), **options)
    assert "\n" not in str(caught.value)


def test_a_space_bounds_the_walk():
    space = raymeta.Space(lr=raymeta.Positive(1e-3, low=9e-4, high=1.1e-3))
    net = network()
    optimizer = online.Adam(net.parameters(), lr=1e-3, space=space, hyper_lr=1.0)
    train(net, optimizer, range(10))
    lr = optimizer.learned["lr"]
    assert lr.between(9e-4 * (1 - 1e-9), 1.1e-3 * (1 + 1e-9)).all()
    assert lr.max() == pytest.approx(1.1e-3)


def test_gradients_that_are_missing_or_sparse_get_one_line():
    net = network(bias=True)
    optimizer = online.Adam(net.parameters())
    with pytest.raises(ValueError, match=r"none of 4 parameters .*backward"):
        optimizer.step()
    gradient(net, 0)
    net[0].bias.grad = None
    with pytest.warns(UserWarning, match="no gradient for .*parameter 1 of group 0"):
        optimizer.step()
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = online.SGD(table.parameters(), lr=0.1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.step()
