import pytest
import torch

from raymeta.hypergrad import Reverse, hypergradient
from raymeta.outer.report import plain_run
from raymeta.tasks import Cleaning
from raymeta.tasks.cleaning import f1


def test_half_of_the_labels_are_those_of_another_class():
    labels, clean = (
        Cleaning(share=share).sample(3).batch(0).data.targets for share in (0.5, 0.0)
    )
    wrong = Cleaning().corrupted(3)
    assert torch.equal(labels != clean, wrong)
    assert int(wrong.sum()) == 252
    assert set(labels.tolist()) == set(range(10))


def test_a_share_of_one_leaves_nothing_to_learn():
    with pytest.raises(ValueError, match=r"needs 0 <= share < 1, but got 1\.0"):
        Cleaning(share=1.0)


def test_f1_counts_hits_misses_and_false_alarms():
    truth = torch.tensor([True, True, True, False, False])
    said = torch.tensor([True, True, False, True, False])
    assert float(f1(said, truth)) == pytest.approx(4 / 6)
    nothing = torch.zeros(5, dtype=torch.bool)
    assert float(f1(nothing, nothing)) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_tells_wrong_labels_from_right_ones(seed):
    task = Cleaning()
    estimator = Reverse(task.horizon)
    slope = hypergradient(task.sample(seed), task.space.initial(), estimator)
    slope, wrong = slope.grads["weights"], task.corrupted(seed)
    # The share of (wrong, right) pairs in which the wrong one's weight is to fall more.
    ordered = slope[wrong][:, None] > slope[~wrong][None, :]
    assert float(ordered.double().mean()) > 0.95


def test_a_few_steps_find_the_wrong_labels():
    task = Cleaning()
    problem, wrong = task.sample(0), task.corrupted(0)
    logits = torch.zeros(len(wrong))
    for _ in range(8):
        hparams = {"weights": torch.sigmoid(logits)}
        slope = hypergradient(problem, hparams, Reverse(task.horizon)).grads["weights"]
        logits -= slope.sign()
    state, _ = plain_run(problem, hparams, task.horizon)
    metrics, weights = problem.metrics(state, hparams), hparams["weights"]
    # Calling every label wrong has an F1 of 2/3.
    assert float(metrics["test_f1"]) == float(f1(weights < 0.5, wrong)) > 0.9
    assert (
        float(weights[wrong].median()) < 0.01 < 0.99 < float(weights[~wrong].median())
    )
    # Half of the labels are wrong, and yet of the test digits more than nine in ten
    # are read right: 78 % before.
    assert float(metrics["test_accuracy"]) > 0.9
