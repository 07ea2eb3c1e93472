"""Three ways to a meta-gradient agree: both engines and a loop by hand."""

import pytest
import torch
from torch.nn import functional as F

from raymeta.hypergrad import Checkpointed, Forward, Reverse
from raymeta.meta import MetaModule, maml
from raymeta.optim import adam, sgd
from raymeta.testing.truth import largest_relative_error
from tests.support.learners import (
    CASES,
    assert_close,
    differences,
    gradients,
    hand_gradients,
    mlp,
    sinusoids,
)

pytestmark = pytest.mark.usefixtures("float64")

each_case = pytest.mark.parametrize("name", CASES)
each_engine = pytest.mark.parametrize("engine", ["functional", "higher"])


@each_case
@each_engine
def test_losses_and_meta_gradients_are_those_of_a_loop_by_hand(name, engine):
    case = CASES[name]
    module, episodes = MetaModule(case.make(), engine=engine), case.episodes()
    # The second time, programs that were traced before another θ.
    for _ in range(2):
        losses, grads = hand_gradients(case.by_hand, module.theta(), episodes)
        output = module(episodes)
        assert_close(output.losses.detach(), losses)
        assert_close(output.loss.detach(), losses.mean())
        assert_close(gradients(module, output.loss), grads)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.1)


@each_case
def test_meta_gradients_are_those_of_finite_differences(name):
    case = CASES[name]
    learner, episodes = case.make(), case.episodes()
    module = MetaModule(learner)
    grads = gradients(module, module(episodes).loss)
    assert largest_relative_error(grads, differences(learner, episodes)) < 1e-6


def test_compiled_is_eager():
    learner, episodes = CASES["maml"].make(), sinusoids()
    compiled, eager = MetaModule(learner, compile=True), MetaModule(learner)
    for _ in range(2):
        outputs = [module(episodes) for module in (compiled, eager)]
        assert_close(outputs[0].losses.detach(), outputs[1].losses.detach())
        slopes = [
            gradients(compiled, outputs[0].loss),
            gradients(eager, outputs[1].loss),
        ]
        assert_close(*slopes)
        for module in (compiled, eager):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(1.1)


@each_engine
def test_inner_optimizers_with_memory(engine):
    def learner():
        return maml(
            mlp(),
            loss=F.mse_loss,
            optimizer=lambda theta: adam(theta["lr"], betas=(0.7, 0.9)),
            hyperparameters={"lr": torch.tensor(0.05)},
            steps=4,
        )

    module, episodes = MetaModule(learner(), engine=engine), sinusoids()
    grads = gradients(module, module(episodes).loss)
    assert largest_relative_error(grads, differences(learner(), episodes)) < 1e-6


@pytest.mark.parametrize("estimator", [Reverse(3), Checkpointed(3), Forward(3)])
def test_any_estimator_gives_the_meta_gradient(estimator):
    def learner(estimator=None):
        return maml(
            mlp(width=2),
            loss=lambda outputs, targets: (outputs - targets).square().mean(),
            optimizer=sgd(0.1, momentum=0.5),
            steps=3,
            estimator=estimator,
        )

    episodes = sinusoids()
    exact, module = MetaModule(learner()), MetaModule(learner(estimator))
    outputs = exact(episodes), module(episodes)
    assert_close(outputs[1].losses.detach(), outputs[0].losses.detach())
    weights = torch.tensor([1.0, 2.0, -0.5])
    slopes = [
        gradients(m, (weights * out.losses).sum())
        for m, out in zip((exact, module), outputs, strict=True)
    ]
    assert_close(slopes[1], slopes[0])


@each_engine
def test_steps_may_be_others_than_those_learnt_for(engine):
    module, episodes = MetaModule(CASES["maml"].make(), engine=engine), sinusoids()
    longer = MetaModule(maml(mlp(), loss=F.mse_loss, optimizer=sgd(0.05), steps=7))
    shorter = MetaModule(maml(mlp(), loss=F.mse_loss, optimizer=sgd(0.05), steps=1))
    for other in (longer, shorter):
        assert_close(other(episodes, steps=4).losses, shorter(episodes, 4).losses)
    start = module(episodes, steps=0).losses
    assert_close(start, longer(episodes, steps=0).losses)
    assert_close(
        module.adapt(episodes, steps=0).params["0.weight"],
        module.theta()["0.weight"].expand(3, -1, -1),
    )
