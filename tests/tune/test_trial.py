"""Trials as Tune steps, saves and restores them, without Ray."""

import math
from dataclasses import replace

import pytest
from ray.tune.search.basic_variant import BasicVariantGenerator
from search_toys import Bowl, Noted

from raymeta import tune
from raymeta.outer.conditions import Conditioned
from raymeta.space import Positive, Space
from raymeta.tasks import Digits, Quadratic
from raymeta.tune.trial import point_of

KEYS = ["outer_loss", "best_outer_loss", "inner_steps", "gradient_evals", "flops"]
KEYS += ["training_iteration", "done"]


def run(trial):
    """The results to the end, as Tune would take them."""
    results = []
    while not results or not results[-1]["done"]:
        results.append(trial.train())
    trial.stop()
    return [found for found in results if "__duplicate__" not in found]


def shown(results):
    """Everything but times; NaN as a word, which is equal to itself."""
    return [
        {
            key: repr(value)
            for key, value in found.items()
            if key in KEYS or key.startswith("hp/")
        }
        for found in results
    ]


def test_training_reports_ten_times_what_training_at_that_point_gives():
    task = Bowl(horizon=20)
    trial = tune.trainable(task, seed=3)(config={"lr": 0.3})

    results = run(trial)

    assert [found["inner_steps"] for found in results] == list(range(2, 21, 2))
    for found in results:
        true = task.outer(0.3, 3, found["inner_steps"])
        assert found["outer_loss"] == pytest.approx(true, rel=1e-6)
        assert (found["hp/lr"], found["hp/kind"]) == (0.3, "plain")
    assert [found["done"] for found in results] == [False] * 9 + [True]
    assert math.isnan(results[8]["best_outer_loss"])
    assert results[9]["best_outer_loss"] == results[9]["outer_loss"]
    assert results[9]["gradient_evals"] == pytest.approx(20 + 10)  # steps and losses
    assert results[9]["wall_s"] >= results[8]["wall_s"] > 0


@pytest.mark.parametrize(
    ("task", "method", "budget"),
    [
        (Digits(horizon=20), "train", None),
        (Quadratic(), "tpe_descent", None),
        (Quadratic(), "reverse", 300),
        (Quadratic(), "short_term", 300),
        (Quadratic(), "restarts", 300),
    ],
)
def test_a_restored_trial_reports_what_it_would_have_reported(
    task, method, budget, tmp_path
):
    made = tune.trainable(task, method, seed=1, budget=budget)
    undisturbed = run(made(config={}))
    half = len(undisturbed) // 2
    begun = made(config={})
    for _ in range(half):
        begun.train()
    saved = begun.save(str(tmp_path / "saved"))
    begun.stop()
    other = made(config={})

    other.restore(saved)

    assert shown(run(other)) == shown(undisturbed[half:])


def test_a_saved_descent_is_played_not_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("raymeta.search.worker.evaluation_log.SAVE_EVERY_S", -1.0)
    monkeypatch.setattr("raymeta.search.worker.evaluation_log.SAVE_SHARE", 0)
    notes = tmp_path / "notes"
    made = tune.trainable(Noted(notes=notes), "reverse", budget=300)
    begun, other = made(config={}), made(config={})
    for _ in range(8):
        begun.train()
    taken = notes.stat().st_size
    saved = begun.save(str(tmp_path / "saved"))
    before = notes.stat().st_size

    other.restore(saved)

    assert notes.stat().st_size - before < taken / 4  # the last report's at most
    assert shown(run(other)) == shown(run(begun))


def test_a_log_of_other_code_is_computed_again(tmp_path, monkeypatch):
    made = tune.trainable(Bowl(), "reverse", budget=200)
    monkeypatch.setattr("raymeta.search.worker.evaluation_log.SAVE_EVERY_S", -1.0)
    begun = made(config={"lr": 0.2})
    for _ in range(4):
        begun.train()
    saved = begun.save(str(tmp_path / "saved"))
    begun.stop()
    other, fresh = made(config={"lr": 0.5}), made(config={"lr": 0.5})

    other.restore(saved)

    assert shown(run(other)) == shown(run(fresh)[4:])


def test_training_goes_on_from_a_state_at_its_own_point(tmp_path):
    """As population based training copies: w_T of two learning rates in a row."""
    task = Bowl(horizon=20)
    made = tune.trainable(task)
    first = made(config={"lr": 0.3})
    for _ in range(5):
        first.train()
    saved = first.save(str(tmp_path / "saved"))

    second = made(config={"lr": 0.1})
    second.restore(saved)

    (*_, last) = run(second)
    assert last["outer_loss"] == pytest.approx(0.7**20 * 0.9**20, rel=1e-6)
    assert last["training_iteration"] == 10


def test_a_descent_starts_at_the_configuration():
    (first, *_) = run(tune.trainable(Bowl(), "reverse", budget=100)({"lr": 0.5}))
    assert first["hp/lr"] == 0.5
    assert first["outer_loss"] == pytest.approx(0.5**18, rel=1e-6)


def test_a_trial_that_diverges_is_over():
    *_, last = run(tune.trainable(Bowl(nan_above=1.0))(config={"lr": 1.5}))
    assert math.isnan(last["outer_loss"])
    assert last["training_iteration"] == 1


def test_the_next_configuration_runs_in_the_same_process():
    trial = tune.trainable(Bowl())(config={"lr": 0.3})
    trial.train()
    assert trial.reset({"lr": 0.1})
    assert run(trial)[-1]["outer_loss"] == pytest.approx(0.9**18, rel=1e-6)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: tune.trainable("bowl"), "unknown task 'bowl'"),
        (lambda: tune.trainable(Bowl(), "revers"), "did you mean 'reverse'"),
        (lambda: tune.tuner(Bowl(), "hyperband"), "the brackets of 'hyperband' are"),
        (lambda: tune.trainable(Bowl(), 3), "methods must be names, or objects of"),
        (lambda: tune.trainable(Bowl(), seed=-1), "seed must be an integer"),
        (lambda: tune.trainable(Bowl(), budget=9), "a trial of 'train' trains once"),
        (
            lambda: tune.trainable(Bowl(), "reverse", budget=9),
            "reverse on 'bowl' takes at least",
        ),
        (lambda: tune.config("tpe", Bowl(), budget=1), "must cover a full training"),
        (
            lambda: tune.trainable(Bowl())(config={"rl": 0.1}),
            "unknown hyperparameter 'rl'",
        ),
        (
            lambda: tune.trainable(Bowl(), "reverse")(config={"lr": 3.0}),
            "needs low <= initial <= high",
        ),
    ],
)
def test_mistakes_are_one_line(made, said):
    with pytest.raises(ValueError, match=said) as error:
        made()
    assert "\n" not in str(error.value)


def test_the_settings_of_a_method_are_those_of_a_tuner():
    asha = tune.config("asha", Bowl(), seed=1, budget=100)
    assert (asha.metric, asha.mode, asha.num_samples) == ("outer_loss", "min", 8)
    assert asha.scheduler is not None
    pbt = tune.config("pbt", Bowl(), budget=1000)
    assert pbt.num_samples == 20  # a population
    assert isinstance(pbt.search_alg, BasicVariantGenerator)  # Tune refuses others
    assert tune.config("reverse", Bowl()).num_samples == 1


def test_a_slash_in_a_name_survives_tune():
    task = replace(Bowl(), name="slashed")
    space = Space(**{"block/lr": Positive(0.1, low=0.01, high=1.9)})
    assert list(tune.space(Conditioned(task, space))) == ["block∕lr"]
    for config in ({"block∕lr": 0.2}, {"block": {"lr": 0.2}}, {"block/lr": 0.2}):
        assert point_of(space, config) == {"block/lr": 0.2}
