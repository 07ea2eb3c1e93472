"""`MetaModule` as a module: its parameters, modes, copies, precision."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta._tree import tree_leaves
from raymeta.hypergrad import Reverse
from raymeta.meta import MetaModule, anil, imaml, maml
from raymeta.optim import lion, sgd
from tests.support.learners import (
    CASES,
    assert_close,
    gradients,
    hand_gradients,
    maml_by_hand,
    mlp,
    sinusoids,
)
from tests.support.memory import peak_bytes

pytestmark = pytest.mark.usefixtures("float64")

each_case = pytest.mark.parametrize("name", CASES)
each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


def tensors_of(module: MetaModule) -> dict:
    return dict(module.named_parameters()) | dict(module.named_buffers())


@each_case
@each_engine
def test_parameters_are_theta_before_and_after_forward(name, engine):
    case = CASES[name]
    learner = case.make()
    module = MetaModule(learner, engine=engine)
    before = tensors_of(module)
    assert sorted(before) == sorted(learner.meta)
    assert all(isinstance(p, nn.Parameter) for p in before.values())
    module(case.episodes()).loss.backward()
    module.eval()(case.episodes())
    after = tensors_of(module)
    assert [*after] == [*before]
    assert all(after[k] is p for k, p in before.items())


@each_case
@each_engine
def test_evaluation_builds_no_graph(name, engine):
    case = CASES[name]
    module, episodes = MetaModule(case.make(), engine=engine), case.episodes()
    trained = module(episodes)
    module.eval()
    output = module(episodes)
    assert_close(output.losses, trained.losses.detach())
    adapted = module.adapt(episodes)
    for leaf in tree_leaves((output, adapted)):
        assert not leaf.requires_grad
        assert leaf.grad_fn is None
    module.train()
    with torch.no_grad():
        assert not module(episodes).loss.requires_grad


@each_engine
def test_evaluation_needs_no_more_memory_for_more_steps(engine):
    net = mlp(1, nn.BatchNorm1d(40), width=40)
    rule = sgd(0.01, momentum=0.5, weight_decay=0.1)
    learner = maml(net, loss=F.mse_loss, optimizer=rule, batch_norm="running")
    module, episodes = MetaModule(learner, engine=engine), sinusoids()

    def peak(steps: int) -> int:
        module(episodes, steps)
        return peak_bytes(lambda: module(episodes, steps))

    a_state = 3 * 8 * sum(x.numel() for x in learner.meta.values())
    trained = peak(16) - peak(2)
    module.eval()
    assert abs(peak(16) - peak(2)) < a_state / 2
    assert trained > 14 * a_state


@each_engine
def test_the_users_module_stays_as_it_is(engine):
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net[0].bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    own = list(net.parameters())
    learner = maml(net, loss=F.mse_loss, steps=2, batch_norm="running")
    module = MetaModule(learner, engine=engine)
    module(sinusoids()).loss.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    module(sinusoids())
    assert net.training
    assert all(p is q for p, q in zip(net.parameters(), own, strict=True))
    assert all(p.grad is None for p in own)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    # Nor does training the module move the learner.
    losses = MetaModule(learner)(sinusoids()).losses
    with torch.no_grad():
        for parameter in own:
            parameter.mul_(3.0)
    assert_close(MetaModule(learner)(sinusoids()).losses, losses)


@each_case
def test_a_state_dict_goes_round(name, tmp_path):
    case = CASES[name]
    module, other = MetaModule(case.make()), MetaModule(case.make(), engine="higher")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.3)
    torch.save(module.state_dict(), tmp_path / "theta.pt")
    other.load_state_dict(torch.load(tmp_path / "theta.pt"))
    assert_close(other(case.episodes()).losses, module(case.episodes()).losses)


class NamedLikeOurs(nn.Module):
    """Layers with the names that a meta-module's own attributes have."""

    def __init__(self) -> None:
        super().__init__()
        self.learner, self.adapt = nn.Linear(1, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.adapt(self.learner(x).tanh())


@pytest.mark.parametrize("make", [mlp, NamedLikeOurs])
def test_names_are_those_of_the_users_module(make):
    net = make()
    module = MetaModule(maml(net, loss=F.mse_loss))
    first = next(iter(net.state_dict()))
    with torch.no_grad():
        module.theta()[first].fill_(2.0)
    for state in (module.theta(), module.state_dict()):
        assert list(state) == list(net.state_dict())
        net.load_state_dict(state)
        assert (net.state_dict()[first] == 2.0).all()
    assert dict(module.named_parameters()).keys() == state.keys()
    assert MetaModule(maml(net, loss=F.mse_loss))(sinusoids()).loss.requires_grad


def test_states_with_slashes_in_their_names_still_load():
    """As they were saved before names were the module's own."""
    module = MetaModule(CASES["maml"].make())
    old = {k.replace(".", "/"): x + 1 for k, x in module.state_dict().items()}
    nn.ModuleDict({"m": module}).load_state_dict({f"m.{k}": x for k, x in old.items()})
    for name, value in module.theta().items():
        assert torch.equal(value, old[name.replace(".", "/")])


@each_engine
def test_copies_are_independent(engine):
    module, episodes = MetaModule(CASES["maml"].make(), engine=engine), sinusoids()
    first = module(episodes).losses.detach()
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5)
    assert_close(module(episodes).losses.detach(), first)
    losses, grads = hand_gradients(maml_by_hand, twin.theta(), episodes)
    output = twin(episodes)
    assert_close(output.losses.detach(), losses)
    assert_close(gradients(twin, output.loss), grads)


def test_no_value_of_theta_outlives_a_step():
    """Programs are traced once, θ is read at every forward; so for any N."""
    module = MetaModule(CASES["maml"].make())
    outer = torch.optim.Adam(module.parameters(), lr=0.05)
    for step, count in enumerate([3, 3, 2, 5, 3, 1]):
        episodes = sinusoids(count, step)
        losses, grads = hand_gradients(maml_by_hand, module.theta(), episodes)
        output = module(episodes)
        assert output.losses.shape == (count,)
        assert_close(output.losses.detach(), losses)
        assert_close(gradients(module, output.loss), grads)
        module.zero_grad()
        module(episodes).loss.backward()
        outer.step()


def test_a_loop_that_no_graph_can_hold_runs_eagerly():
    class Nonzero(nn.Module):
        """As many elements as there are: no graph of operators of fixed shapes."""

        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            keep = torch.nonzero(torch.ones(len(x)))[:, 0]
            return self.net(x)[keep]

    episodes = sinusoids()
    module = MetaModule(maml(Nonzero(), loss=F.mse_loss, optimizer=sgd(0.05), steps=3))
    plain = MetaModule(maml(mlp(), loss=F.mse_loss, optimizer=sgd(0.05), steps=3))
    for _ in range(2):
        output, truth = module(episodes), plain(episodes)
        assert_close(output.losses.detach(), truth.losses.detach())
        grads = gradients(module, output.loss)
        assert_close(
            {k.removeprefix("net."): g for k, g in grads.items()},
            gradients(plain, truth.loss),
        )


@each_engine
def test_diverging_tasks_are_reported_and_raise_nothing(engine):
    episodes = sinusoids(4)
    episodes.support.targets[1] *= 1e200
    learner = maml(mlp(), loss=F.mse_loss, optimizer=sgd(0.1), steps=3)
    module = MetaModule(learner, engine=engine)
    output = module(episodes)
    finite = output.losses.isfinite()
    assert finite.tolist() == [True, False, True, True]
    grads = gradients(module, output.losses[finite].sum())
    assert all(len(g) for g in grads.values())
    module.eval()
    assert module(episodes).losses.isfinite().tolist() == finite.tolist()


def test_a_diverging_task_is_reported_with_an_estimator():
    episodes = sinusoids(3)
    episodes.support.targets[1] *= 1e200
    learner = maml(
        mlp(), loss=F.mse_loss, optimizer=sgd(0.1), steps=3, estimator=Reverse(3)
    )
    finite = MetaModule(learner)(episodes).losses.isfinite()
    assert finite.tolist() == [True, False, True]


@each_engine
def test_metrics_are_of_each_tasks_query(engine):
    module = MetaModule(
        maml(
            mlp(),
            loss=F.mse_loss,
            metrics={"absolute": F.l1_loss, "mse": F.mse_loss},
        ),
        engine=engine,
    )
    output = module(sinusoids())
    assert_close(output.metrics["mse"], output.losses.detach())
    assert output.metrics["absolute"].shape == (3,)
    assert (output.metrics["absolute"].square() < output.metrics["mse"]).all()
    assert not any(value.requires_grad for value in output.metrics.values())


@each_engine
def test_mixed_precision_around_forward(engine):
    torch.set_default_dtype(torch.float32)
    learner = maml(mlp(width=32), loss=F.mse_loss, optimizer=sgd(0.05), steps=3)
    module, episodes = MetaModule(learner, engine=engine), sinusoids(8)
    full = gradients(module, module(episodes).loss)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(episodes)
    mixed = gradients(module, output.loss)
    again = module(episodes)
    truth = MetaModule(learner)(episodes)
    assert_close(again.losses, truth.losses, rtol=1e-5, atol=1e-6)
    assert not torch.equal(output.losses, again.losses)
    for name, g in mixed.items():
        assert g.dtype == torch.float32
        assert float((g - full[name]).norm() / full[name].norm()) < 0.03
    assert_close(output.loss, again.loss, rtol=0.01)


def test_engines_are_known_and_higher_neither_compiles_nor_estimates():
    learner = CASES["maml"].make()
    with pytest.raises(ValueError, match="'functional'"):
        MetaModule(learner, engine="functionl")
    with pytest.raises(ValueError, match="use engine='functional'"):
        MetaModule(learner, engine="higher", compile=True)
    with pytest.raises(ValueError, match="use engine='functional'"):
        MetaModule(imaml(mlp(), loss=F.mse_loss), engine="higher")


def test_meta_meta_gradients_are_highers_alone():
    episodes, norms = sinusoids(2), []
    learner = maml(mlp(), loss=lambda o, y: (o - y).square().mean(), optimizer=sgd(0.1))
    module = MetaModule(learner)
    with pytest.raises(ValueError, match=r"first derivatives only.* engine='higher'"):
        norm(module, episodes)
    module = MetaModule(learner, engine="higher")
    (slope,) = torch.autograd.grad(norm(module, episodes), [module.theta()["2.bias"]])
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            module.theta()["2.bias"].add_(shift)
        norms.append(norm(module, episodes))
        with torch.no_grad():
            module.theta()["2.bias"].sub_(shift)
    assert_close(slope[0], (norms[0] - norms[1]).detach() / 2e-5, rtol=1e-6)


def norm(module, episodes):
    grads = torch.autograd.grad(
        module(episodes).loss, list(module.parameters()), create_graph=True
    )
    return torch.stack([g.square().sum() for g in grads]).sum()


def test_learners_need_steps_and_weights():
    with pytest.raises(ValueError, match="needs steps >= 1, but got steps=0"):
        maml(mlp(), loss=F.mse_loss, steps=0)
    with pytest.raises(ValueError, match="parameters that require grad, but got Tanh"):
        maml(nn.Tanh(), loss=F.mse_loss)
    frozen = mlp().requires_grad_(False)
    with pytest.raises(ValueError, match="unfreeze some"):
        anil(frozen, head="0", loss=F.mse_loss)


def test_learnt_rates_that_go_out_of_bounds_are_no_error():
    learner = maml(
        mlp(),
        loss=F.mse_loss,
        optimizer=lambda theta: sgd(theta["lr"]),
        hyperparameters={"lr": torch.tensor(-1e300)},
        steps=5,
    )
    assert not MetaModule(learner)(sinusoids()).losses.isfinite().any()


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (
            nn.Sequential(nn.Embedding(4, 3, max_norm=1.0), nn.Linear(3, 1)),
            {},
            "^raymeta cannot differentiate Embedding with max_norm",
        ),
        (
            nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2)),
            {"batch_norm": "batsh"},
            "^batch_norm must be 'running', .* but got 'batsh'",
        ),
        (
            nn.Sequential(nn.Linear(1, 2), nn.InstanceNorm1d(2, track_running_stats=1)),
            {},
            "^raymeta cannot differentiate the running statistics of InstanceNorm1d",
        ),
    ],
)
def test_refusals_of_a_module_name_nothing_that_the_user_did_not_call(
    module, options, message
):
    with pytest.raises(ValueError, match=message):
        maml(module, loss=F.mse_loss, **options)


def test_refusals_of_higher_name_the_engine():
    learner = maml(mlp(), loss=F.mse_loss, optimizer=lion(0.1))
    with pytest.raises(ValueError, match=r"^engine='higher' needs sgd, adam, .*: use"):
        MetaModule(learner, engine="higher")(sinusoids(2))
