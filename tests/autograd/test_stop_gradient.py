"""Stopped gradients and hooks act on training gradients, and not on hypergradients."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

from raymeta import descent, hypergradient, meta, module_problem, optim, tower
from raymeta.data.episodes import Episode, Examples
from raymeta.hypergrad import (
    Checkpointed,
    Forward,
    Implicit,
    Reverse,
    Reversible,
    ShortTerm,
    Truncated,
)
from raymeta.problem import BilevelProblem

pytestmark = [
    pytest.mark.usefixtures("float64"),
    # What torch says of torch.tensor(tensor), and of float(tensor).
    pytest.mark.filterwarnings("ignore:To copy construct", "ignore:Converting a tens"),
]
STEPS = 5
ESTIMATORS = {
    "reverse": Reverse(STEPS),
    "checkpointed": Checkpointed(STEPS),
    "truncated": Truncated(STEPS, STEPS),
    "forward": Forward(STEPS),
    "short_term": ShortTerm(STEPS),
    "higher": Reverse(STEPS, engine="higher"),
}


class Net(nn.Module):
    """Two layers, whose features a subclass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.features(torch.tanh(self.a(x))))

    def features(self, z: Tensor) -> Tensor:
        return z


class Detached(Net):
    def features(self, z):
        return z / (1 + z.detach().square().mean() + z.data.mean().square())


class Copied(Net):
    def features(self, z):
        mean = z.square().mean()
        return z / (1 + z.new_tensor(mean) + torch.tensor(mean))


class NoGrad(Net):
    def features(self, z):
        with torch.no_grad():
            scale = z.square().mean() * 2
            scale.add_(z.abs().mean())
        return z / (1 + scale)


class Decorated(Net):
    @torch.no_grad()
    def scale(self, z):
        return z.square().mean()

    def features(self, z):
        return z * self.scale(z)


class ClampedInPlace(Net):
    def features(self, z):
        z = z * 1.0
        with torch.no_grad():
            z.clamp_(-0.3, 0.3)
            z[:, 0] = z[:, 1] * 0.5
        return z


class RunningMaximum(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(()))

    def features(self, z):
        if self.training:
            with torch.no_grad():
                self.largest.mul_(0.9)
                torch.maximum(self.largest, z.abs().max(), out=self.largest)
        return z / (1 + self.largest)


class RunningMean(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def features(self, z):
        if self.training:
            self.mean = 0.8 * self.mean + 0.2 * z.detach().mean(0)
        return z - self.mean


class Renormalized(Net):
    """Batch renormalization (Ioffe 2017): buffers are read, then moved in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("std", torch.ones(5))

    def features(self, z):
        if not self.training:
            return (z - self.mean) / self.std
        mean, std = z.mean(0), z.std(0)
        r, d = std.detach() / self.std, (mean.detach() - self.mean) / self.std
        self.mean.lerp_(mean.detach(), 0.1)
        self.std.lerp_(std.detach(), 0.1)
        return (z - mean) / std * r + d


class TensorHook(Net):
    def features(self, z):
        if z.requires_grad:
            z.register_hook(lambda g: 2 * g + g.square())
        return z


class Straight(Net):
    """A straight-through estimator: its training gradient is not its derivative."""

    def features(self, z):
        return z + (z.pow(3) - z).detach()


class Inference(Net):
    def features(self, z):
        with torch.inference_mode():
            scale = z.square().mean() * 2
        return z * scale


class Force(nn.Module):
    """The derivative of an energy in its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(x).sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=self.training)
        return force[:, :1]


class Penalized(Force):
    """The same without a thought of no_grad."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        energy = self.energy(x).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0][:, :1]


class StoppedInHook(Net):
    """A gradient of a norm that none passes through."""

    def features(self, z):
        if z.requires_grad:
            z.register_hook(lambda g: g / (1e-3 + g.detach().norm()))
            z.register_hook(torch.no_grad()(lambda g: 2 * g.clamp(-0.2, 0.2)))
        return z


class Equilibrium(Net):
    """Fixed points whose gradient a hook finds (Bai et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.2 * torch.randn(5, 5))

    def features(self, z):
        def layer(at: Tensor) -> Tensor:
            return torch.tanh(at @ self.w + z)

        with torch.no_grad():
            at = z
            for _ in range(60):
                at = layer(at)
        at = layer(at)
        if self.training and at.requires_grad:
            near = at.detach().requires_grad_()
            after = layer(near)

            def solve(g: Tensor) -> Tensor:
                u = g
                for _ in range(60):
                    u = g + torch.autograd.grad(after, near, u, retain_graph=True)[0]
                return u

            at.register_hook(solve)
        return at


class Jacobian(Net):
    """A derivative by a transform, in which nothing is stopped."""

    def features(self, z):
        slopes = torch.func.vmap(torch.func.jacrev(lambda row: row.pow(3).sum()))
        return z.detach() + slopes(z)


class StopsLater(Net):
    """A gradient that is not stopped at first."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def features(self, z):
        self.calls = self.calls + self.training
        scale = 1 + z.square().mean()
        return z / (scale.detach() if self.calls > 2 else scale)


def hooked_parameters() -> nn.Module:
    net = Net()
    net.a.weight.register_hook(lambda g: 3 * g + g.square())
    net.b.bias.register_hook(torch.zeros_like)
    net.b.weight.register_hook(lambda g: g / (1 + g.detach().norm()))
    return net


def spectral() -> nn.Module:
    layer = parametrizations.spectral_norm(nn.Linear(4, 5))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 1))


MODULES = [
    Detached,
    Copied,
    NoGrad,
    Decorated,
    ClampedInPlace,
    RunningMaximum,
    RunningMean,
    Renormalized,
    TensorHook,
    Straight,
    Inference,
    Force,
    Penalized,
    StoppedInHook,
    Equilibrium,
    Jacobian,
    StopsLater,
    hooked_parameters,
    spectral,
]


def make(module) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return module()


def data(n: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    return x, 0.7 * torch.tanh(x[:, :1] - x[:, 1:2])


def problem_of(module: nn.Module, loss=F.mse_loss) -> BilevelProblem:
    return module_problem(
        module,
        loss=loss,
        train=TensorDataset(*data()),
        val=TensorDataset(*data(9)),
        optimizer=lambda h: optim.sgd(h["lr"], momentum=0.5),
    )


def trained(problem: BilevelProblem, lr: float) -> float:
    hparams = {"lr": torch.tensor(lr)}
    state = problem.init(hparams)
    for t in range(STEPS):
        state = problem.step(state, hparams, problem.batch(t))
    return float(problem.outer_loss(state, hparams))


def central_difference(problem: BilevelProblem, at: float = 0.1) -> float:
    step = 1e-5
    return (trained(problem, at + step) - trained(problem, at - step)) / (2 * step)


def of_lr(problem: BilevelProblem, estimator) -> float:
    return float(
        hypergradient(problem, {"lr": torch.tensor(0.1)}, estimator).grads["lr"]
    )


@pytest.mark.parametrize("module", MODULES)
def test_training_is_that_of_torch(module):
    if module is Inference:
        pytest.skip("torch itself cannot train it")
    net = make(module)
    problem = problem_of(net)
    own = net if module is hooked_parameters else copy.deepcopy(net)
    (x, y), sgd = data(), torch.optim.SGD(own.parameters(), 0.1, momentum=0.5)
    for _ in range(STEPS):
        sgd.zero_grad()
        F.mse_loss(own(x), y).backward()
        sgd.step()
    own.eval()
    inputs, targets = data(9)
    torch.testing.assert_close(
        trained(problem, 0.1),
        F.mse_loss(own(inputs), targets).item(),
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("module", MODULES)
def test_hypergradients_see_what_training_gradients_do_not(module, name):
    if module in (Force, Penalized, Equilibrium) and name == "forward":
        pytest.skip("torch.func has no requires_grad_(): refused by Forward itself")
    problem = problem_of(make(module))
    right = central_difference(problem)
    assert of_lr(problem, ESTIMATORS[name]) == pytest.approx(right, rel=1e-6)


def test_evaluation_without_a_graph_may_take_derivatives_of_its_own():
    problem, hparams = problem_of(make(Penalized)), {"lr": torch.tensor(0.1)}
    state = problem.init(hparams)
    with torch.no_grad():
        value = problem.outer_loss(state, hparams)
    assert not value.requires_grad
    assert value == problem.outer_loss(state, hparams)


def test_compiled_steps_see_it_too():
    problem = problem_of(make(RunningMaximum))
    right = of_lr(problem, Reverse(STEPS))
    assert of_lr(problem, Checkpointed(STEPS, compile=True)) == pytest.approx(right)


def test_exactly_reversed_steps_see_it_too():
    problem = problem_of(make(Detached))
    right = of_lr(problem, Reverse(STEPS))
    assert of_lr(problem, Reversible(STEPS)) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_losses_may_stop_gradients(name):
    def focal(outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs - targets).square()
        return (errors.detach().sqrt() * errors).mean()

    problem = problem_of(make(Net), focal)
    right = central_difference(problem)
    assert of_lr(problem, ESTIMATORS[name]) == pytest.approx(right, rel=1e-6)


def stationary() -> BilevelProblem:
    """Training follows 2 (w - λ w / 2 - 1), which is 0 at w* = 1 / (1 - λ / 2)."""
    return descent(
        init_params=lambda h: {"w": torch.zeros(())},
        inner_loss=lambda p, h, b: (p["w"] - h["a"] * p["w"].detach() / 2 - 1).square(),
        outer_loss=lambda p, h: p["w"].square(),
        optimizer=lambda h: optim.sgd(0.3),
    )


@pytest.mark.parametrize("estimator", [Implicit(200), Reverse(200), Forward(200)])
def test_losses_of_tensors_may_stop_gradients(estimator):
    a = 0.4
    found = hypergradient(stationary(), {"a": torch.tensor(a)}, estimator)
    # d(w*²)/dλ = 2 w* · (1/2) / (1 - λ/2)²
    right = (1 - a / 2) ** -3
    assert float(found.grads["a"]) == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("module", [Net, Detached, hooked_parameters])
def test_the_next_batchs_loss_has_its_own_derivative(module):
    problem = problem_of(make(module))

    def next_loss(lr: float) -> float:
        hparams = {"lr": torch.tensor(lr)}
        state = problem.step(problem.init(hparams), hparams, problem.batch(0))
        return float(problem.inner_loss(state, hparams, problem.batch(1)))

    right = (next_loss(0.1 + 1e-5) - next_loss(0.1 - 1e-5)) / 2e-5
    estimator = ShortTerm(loss="next_batch")
    assert of_lr(problem, estimator) == pytest.approx(right, rel=1e-6)
    shared = estimator.cost(problem, {"lr": torch.tensor(0.1)}) == 1
    assert shared == (module is Net)


def test_a_tower_passes_through_as_well():
    problem = problem_of(make(Detached))
    learns = tower(
        problem, {"lr": torch.tensor(0.1)}, lambda kappa: optim.sgd(kappa["hyper_lr"])
    )

    def value(rate: float) -> float:
        kappa = {"hyper_lr": torch.tensor(rate)}
        state = learns.init(kappa)
        for t in range(3):
            state = learns.step(state, kappa, learns.batch(t))
        return float(learns.outer_loss(state, kappa))

    right = (value(0.01 + 1e-5) - value(0.01 - 1e-5)) / 2e-5
    found = hypergradient(learns, {"hyper_lr": torch.tensor(0.01)}, Reverse(3))
    assert float(found.grads["hyper_lr"]) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("engine", ["functional", "higher"])
@pytest.mark.parametrize("module", [Detached, NoGrad, TensorHook, hooked_parameters])
def test_meta_gradients_pass_through(module, engine):
    learner = meta.maml(
        make(module), loss=F.mse_loss, steps=2, optimizer=optim.sgd(0.2)
    )
    outer = meta.MetaModule(learner, engine=engine)
    x = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    examples = Examples(x, torch.tanh(x[..., :1]), torch.ones(3, 6))
    tasks = Episode(examples, examples)
    outer(tasks).loss.backward()
    theta = dict(outer.named_parameters())
    weight = next(p for name, p in theta.items() if name.endswith("a/weight"))
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))

    def value(step: float) -> float:
        with torch.no_grad():
            weight.add_(step * way)
            loss = float(outer(tasks).loss)
            weight.sub_(step * way)
        return loss

    right = (value(1e-5) - value(-1e-5)) / 2e-5
    assert float((weight.grad * way).sum()) == pytest.approx(right, rel=1e-6)


class Logged(Net):
    """A number for a log, and one that decides which way to go."""

    def features(self, z):
        self.seen = z.mean().item()
        return z * 2 if z.mean().item() > 5 else z


def test_numbers_that_no_result_depends_on_may_leave_the_graph():
    problem = problem_of(make(Logged))
    right = central_difference(problem)
    assert of_lr(problem, Reverse(STEPS)) == pytest.approx(right, rel=1e-6)


def test_numbers_that_leave_the_graph_of_a_run_that_diverged_are_none_of_it():
    class Diverged(Logged):
        """From its second step on."""

        def forward(self, x):
            y, weights = super().forward(x), next(iter(self.parameters()))
            return y * torch.where((weights == self.start).all(), 1.0, math.nan)

    class Start(Diverged):
        def __init__(self) -> None:
            super().__init__()
            self.start = next(iter(self.parameters())).detach().clone()

    assert math.isnan(of_lr(problem_of(make(Start)), Reverse(STEPS)))


class ByItem(Net):
    def features(self, z):
        return z / (1 + z.square().mean().item())


class ByFloat(Net):
    def features(self, z):
        return z * float(z.square().mean())


class ByNumpy(Net):
    def features(self, z):
        return z * torch.from_numpy(z.square().mean(0).detach().numpy())


class ByList(Net):
    def features(self, z):
        return z * torch.tensor(z.square().mean(0).tolist())


class ByItemLater(StopsLater):
    def features(self, z):
        z = super().features(z)
        return z / (1 + z.square().mean().item()) if self.calls > 2 else z


class ByItemInHook(Net):
    def features(self, z):
        if z.requires_grad:
            z.register_hook(lambda g: g / (1 + g.norm().item()))
        return z


def test_random_numbers_in_hooks_are_refused():
    class Noisy(Net):
        def features(self, z):
            if z.requires_grad:
                z.register_hook(lambda g: g + torch.randn_like(g))
            return z

    with pytest.raises(ValueError, match="draw them in forward"):
        of_lr(problem_of(make(Noisy)), Reverse(STEPS))


def test_numbers_that_a_hooks_gradient_depends_on_are_refused():
    with pytest.raises(ValueError, match="a hook on gradients to compute with tensors"):
        of_lr(problem_of(make(ByItemInHook)), Reverse(STEPS))


@pytest.mark.parametrize("module", [ByItem, ByFloat, ByNumpy, ByList, ByItemLater])
def test_numbers_that_a_result_depends_on_are_refused(module):
    problem = problem_of(make(module))
    with pytest.raises(ValueError, match=f"of {module.__name__} to compute with tens"):
        of_lr(problem, Reverse(STEPS))


class DetachedInPlace(Net):
    def features(self, z):
        return z * (z * 2).detach_()


class Initialized(Net):
    """Weights that the first batch decides."""

    def features(self, z):
        self.b.weight.data.copy_(self.b.weight / z.detach().std())
        return z


class Transformed(Net):
    def features(self, z):
        return torch.func.grad(lambda z: (z * z.detach()).sum())(z)


class Backward(Net):
    def features(self, z):
        z.sum().backward(retain_graph=True)
        return z


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (DetachedInPlace, r"detach_\(\)"),
        (Backward, r"backward\(\)"),
        (Initialized, r"copy_\(\) on a detached tensor"),
        (Transformed, r"torch\.func transform of the forward pass"),
    ],
)
def test_what_leaves_the_graph_for_good_is_refused(module, named):
    with pytest.raises(ValueError, match=named):
        problem_of(make(module))


def test_hooks_of_layers_and_after_accumulation_are_refused():
    net = Net()
    net.a.register_full_backward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"backward hooks .* 'a' has some"):
        problem_of(net)
    net = Net()
    net.a.weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(ValueError, match=r"'a\.weight' has a post-accumulate"):
        problem_of(net)
