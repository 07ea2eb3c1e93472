import pytest
import torch

from raymeta.outer.report import plain_run
from raymeta.search.methods import METHODS
from raymeta.search.spec import StudyKey, TrialSpec
from raymeta.search.worker import trial_runner
from raymeta.space import Choice, Positive, Space
from raymeta.tasks import Digits, DigitsChoices
from raymeta.tasks.base import choice_key, origin, sample_problem

TASK = DigitsChoices()


@pytest.mark.parametrize("width", [32, 256])
def test_the_width_decides_the_shape(width):
    hparams = TASK.space.initial() | {"width": width}
    problem = sample_problem(TASK, 0, hparams)
    assert problem.init(hparams).params["2.weight"].shape == (width, width)


def test_by_default_the_options_are_the_initial_ones():
    hparams = TASK.space.initial()
    values = [
        plain_run(problem, hparams, 3)[1]
        for problem in (
            TASK.sample(1),
            sample_problem(TASK, 1),
            sample_problem(TASK, 1, hparams),
        )
    ]
    assert len(set(values)) == 1


@pytest.mark.parametrize("name", ["activation", "optimizer"])
def test_every_option_trains_otherwise(name):
    values = []
    for option in TASK.space.choices[name].options:
        hparams = TASK.space.initial() | {name: option}
        values.append(plain_run(sample_problem(TASK, 0, hparams), hparams, 5)[1])
    assert len(set(values)) == len(values)


def test_the_numbers_of_the_options_that_decide():
    hparams = TASK.space.initial() | {"width": 256, "optimizer": "adam"}
    assert choice_key(TASK, hparams) == (3, 0, 1)
    assert choice_key(Digits(), Digits().space.initial()) == ()


def test_choices_without_sample_for_are_values_only():
    class Mine:
        space = Space(lr=Positive(0.1), sign=Choice((1, -1)))

        def sample(self, seed):
            return seed

    assert sample_problem(Mine(), 7, {"lr": torch.tensor(0.1), "sign": -1}) == 7
    assert choice_key(Mine(), {"sign": -1}) == ()
    assert origin(Mine()) == ""


def test_a_worker_trains_the_network_that_the_trial_names():
    task = DigitsChoices(horizon=3)
    hparams = task.space.initial() | {"width": 32, "activation": "relu"}
    point = task.space.point(hparams)
    study = StudyKey(task.name, "random", 0)
    run = TrialSpec(study=study, number=0, kind="search", hparams=point)
    (message,) = trial_runner.reports_of(run, task, METHODS["random"])
    truth = plain_run(sample_problem(task, 0, hparams), hparams, 3)[1]
    assert message.outer_loss == truth
