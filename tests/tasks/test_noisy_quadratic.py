import pytest
import torch

from raymeta.outer.report import plain_run
from raymeta.tasks import NoisyQuadratic, Quadratic

pytestmark = pytest.mark.usefixtures("float64")


def hparams(lr=0.2, final_lr=0.05, momentum=0.6):
    values = {"lr": lr, "final_lr": final_lr, "momentum": momentum}
    return {name: torch.tensor(value) for name, value in values.items()}


def test_without_noise_and_decay_it_is_the_quadratic():
    task = NoisyQuadratic(noise=0.0, horizon=30)
    value = plain_run(task.sample(4), hparams(final_lr=0.2), 30)[1]
    plain = Quadratic(eigenvalues=tuple(task.curvatures.tolist()))
    truth, _ = plain.closed_form(0.2, 0.6, 30, task.start(4))
    assert value == pytest.approx(truth, rel=1e-12)
    assert task.expected_loss(hparams(final_lr=0.2), 4) == pytest.approx(truth)


def test_curvatures_span_the_condition_number():
    h = NoisyQuadratic(condition=1e4).curvatures
    assert float(h.max() / h.min()) == pytest.approx(1e4)


def test_the_rate_decays_from_one_end_to_the_other():
    rates = NoisyQuadratic(horizon=5).rates(hparams(lr=0.16, final_lr=0.01))
    torch.testing.assert_close(rates, torch.tensor([0.16, 0.08, 0.04, 0.02, 0.01]))


def test_the_mean_over_runs_is_the_expected_loss():
    task = NoisyQuadratic(runs=4000, horizon=40)
    problem = task.sample(2)
    state, value = plain_run(problem, hparams(), 40)
    each = 0.5 * (task.curvatures * state.params["w"].square()).sum(1)
    error = float(each.std() / 4000**0.5)
    truth = task.expected_loss(hparams(), 2)
    held_out = float(problem.metrics(state, hparams())["test_loss"])
    assert abs(value - truth) < 4 * error
    assert abs(held_out - truth) < 4 * error
    assert value != held_out
    # The noise is most of it.
    quiet = NoisyQuadratic(noise=0.0, horizon=40).expected_loss(hparams(), 2)
    assert truth > 1.5 * quiet


@pytest.mark.parametrize("wrong", [{"condition": 0.5}, {"dimensions": 1}, {"runs": 0}])
def test_sizes_have_least_values(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"needs {name} >= .*, but got {value}"):
        NoisyQuadratic(**wrong)
