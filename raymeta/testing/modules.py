"""Conformance suites of modules that `module_problem` trains."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from raymeta import module_problem, optim
from raymeta._tree import tree_leaves
from raymeta.hypergrad import Checkpointed, Forward, Reverse, hypergradient
from raymeta.modules import smoothed_cross_entropy
from raymeta.outer.report import plain_run
from raymeta.problem import BilevelProblem
from raymeta.testing.precision import DoublePrecision
from raymeta.testing.truth import largest_relative_error, run_differences
from raymeta.types import Hparams

STEPS, TRAIN, VAL, CLASSES = 4, 12, 8, 3


class ModuleConformance(DoublePrecision):
    """What every classifier must do in training.

        class TestMyModule(ModuleConformance):
            @pytest.fixture
            def make(self):
                return lambda: MyModule(inputs=5, classes=3)

    Fixtures:
        make: () -> the module, of which the outputs have shape (N, 3).
        inputs: (N, generator) -> N inputs; normal ones of shape (5,) by default.
        options: further arguments of `module_problem`.
    """

    @pytest.fixture
    def make(self) -> Callable[[], nn.Module]:
        raise NotImplementedError

    @pytest.fixture
    def inputs(self) -> Callable[[int, torch.Generator], Tensor]:
        return lambda n, generator: torch.randn(n, 5, generator=generator) + 0.2

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        return {}

    @pytest.fixture
    def module(self, make: Callable[[], nn.Module]) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            return make()

    @pytest.fixture
    def problem(
        self, module: nn.Module, inputs: Any, options: Mapping[str, Any]
    ) -> BilevelProblem:
        generator = torch.Generator().manual_seed(5)

        def part(n: int) -> Dataset:
            x = inputs(n, generator)
            return TensorDataset(x, torch.randint(CLASSES, (n,), generator=generator))

        return module_problem(
            module,
            loss=F.cross_entropy,
            train=part(TRAIN),
            val=part(VAL),
            batch_size=6,
            seed=2,
            optimizer=lambda h: optim.sgd(
                h["lr"], momentum=0.5, weight_decay=h["weight_decay"]
            ),
            train_loss=lambda outputs, targets, h, index: smoothed_cross_entropy(
                outputs, targets, h["smoothing"]
            ),
            **options,
        )

    @pytest.fixture
    def hparams(self) -> Hparams:
        values = {"lr": 0.3, "weight_decay": 0.02, "smoothing": 0.1}
        return {name: torch.tensor(value) for name, value in values.items()}

    def test_estimators_agree_with_one_another_and_with_finite_differences(
        self, problem: BilevelProblem, hparams: Hparams
    ) -> None:
        reverse = hypergradient(problem, hparams, Reverse(STEPS))
        truth = run_differences(problem, hparams, STEPS)
        assert largest_relative_error(reverse.grads, truth) < 1e-5
        for estimator in (Forward(STEPS), Checkpointed(STEPS)):
            result = hypergradient(problem, hparams, estimator)
            assert float(result.outer_loss) == pytest.approx(float(reverse.outer_loss))
            assert largest_relative_error(result.grads, reverse.grads) < 1e-8

    def test_a_step_can_be_traced(
        self, problem: BilevelProblem, hparams: Hparams
    ) -> None:
        """Also what is random: the graph of one step is that of every step."""
        state = problem.init(hparams)
        graph = make_fx(problem.step)(state, hparams, problem.batch(0))
        for t in (0, 3):
            replayed = tree_leaves(graph(state, hparams, problem.batch(t)))
            stepped = tree_leaves(problem.step(state, hparams, problem.batch(t)))
            for ours, theirs in zip(replayed, stepped, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)

    def test_the_module_is_never_changed(
        self, module: nn.Module, problem: BilevelProblem, hparams: Hparams
    ) -> None:
        before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        hypergradient(problem, hparams, Reverse(2))
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[key])


class PlainModuleConformance(ModuleConformance):
    """What a module without randomness and options must do besides: train as torch."""

    def test_training_is_torchs_own(
        self, module: nn.Module, problem: BilevelProblem, hparams: Hparams
    ) -> None:
        state, _ = plain_run(problem, hparams, STEPS)
        free = [p for p in module.parameters() if p.requires_grad]
        sgd = torch.optim.SGD(free, lr=0.3, momentum=0.5, weight_decay=0.02)
        for layer in module.modules():
            if isinstance(layer, nn.Embedding):
                layer.sparse = False
        for t in range(STEPS):
            inputs, targets, _ = problem.batch(t).data
            sgd.zero_grad()
            F.cross_entropy(module(*inputs), targets, label_smoothing=0.1).backward()
            sgd.step()
        theirs = dict(module.named_parameters())
        for key, p in state.params.items():
            torch.testing.assert_close(p, theirs[key].detach(), rtol=1e-11, atol=1e-12)
