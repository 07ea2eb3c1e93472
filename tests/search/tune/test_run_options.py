"""What a user adds to a comparison's Tune run, driven by hand."""

from types import SimpleNamespace

import pytest
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.stopper import MaximumIterationStopper
from search_toys import Bowl, Listed

from raymeta.runtime.interrupt import Interrupt
from raymeta.search.compare import compare
from raymeta.search.methods import METHODS
from raymeta.search.tune.bridge import BridgeScheduler
from raymeta.search.tune.run_options import run_options
from raymeta.search.worker import trial_runner
from raymeta.search.worker.metrics import TrialMetrics


def options(callbacks=None, stop=None, resources=None, gpus=0.0, keep=False):
    return run_options(callbacks, stop, resources, gpus, keep)


class Broken(Callback):
    def on_trial_result(self, iteration, trials, trial, result, **info):
        raise OSError("No space left\non device")


def test_a_callback_that_raises_is_named_once():
    (guarded,) = options([Broken()]).guarded()
    guarded.on_trial_complete(iteration=1, trials=[], trial=None)
    said = "callback Broken raises OSError: No space left on device"
    with pytest.warns(UserWarning, match=said):
        guarded.on_trial_result(iteration=1, trials=[], trial=None, result={})
    guarded.on_trial_result(iteration=1, trials=[], trial=None, result={})


@pytest.mark.parametrize(
    ("stop", "ends"),
    [
        (None, [False, False]),
        ({"inner_steps": 6}, [False, True]),
        (lambda trial, result: result["hp/lr"] > 1, [False, False]),
        (MaximumIterationStopper(1), [True, True]),
    ],
)
def test_stop_takes_what_tune_takes(stop, ends):
    stopper = options(stop=stop).stop
    results = [
        {"inner_steps": n, "training_iteration": n // 3, "hp/lr": 1.0} for n in (3, 6)
    ]
    assert [stopper("x", result) for result in results] == ends


@pytest.mark.parametrize("method", ["asha", "pbt", "tpe_descent", "long_term"])
def test_stopped_trials_end_early_and_give_the_rest_back(bench, method):
    """And the journal, played again, stops them where they were."""
    methods, stop = [METHODS[method]], options(stop={"inner_steps": 3}).stop

    def result_of(run, report, spec):
        plain = TrialMetrics(1.0).of(report)
        return {**plain, "reports": [report], "last": False}

    def ran(one):
        scheduler = BridgeScheduler(one.coordinator, Interrupt(), stop)
        while run := one.coordinator.request_trial():
            spec = one.coordinator.studies[run.study].spec
            trial = SimpleNamespace(config={"run": run}, trial_id="x")
            for report in trial_runner.reports_of(run, spec.task, spec.method):
                result = result_of(run, report, spec)
                if scheduler.on_trial_result(None, trial, result) != (
                    TrialScheduler.CONTINUE
                ):
                    break
                assert result["reports"] == []
            else:
                one.coordinator.record(run, [], last=True)
        assert one.coordinator.finished
        return one

    task = Bowl(horizon=9, budget=60)
    stopped, whole = ran(bench(task, methods)), bench(task, methods).run()
    assert stopped.frame().trial.nunique() >= whole.frame().trial.nunique()
    trials = stopped.frame().groupby("trial").inner_steps
    assert all((steps[:-1] < 3).all() for _, steps in trials)
    assert stopped.frame().gradient_evals.max() <= 60
    events = [e for e in stopped.journal.read() if e["event"] != "schema"]
    again = bench(task, methods, events=events)
    assert again.coordinator.finished
    assert again.frame().equals(stopped.frame())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"callbacks": [print]}, "callbacks must be objects of ray.tune.Callback"),
        ({"stop": 3}, "stop must be a dictionary of thresholds"),
        ({"resources_per_trial": {"CPU": -1}}, "resources_per_trial must be numbers"),
        ({"resources_per_trial": {"CPU": 0}}, "must hold something"),
        (
            {"resources_per_trial": {"GPU": 1}, "gpus_per_trial": 1},
            "a trial's GPUs are said once",
        ),
    ],
)
def test_mistakes_are_one_line(given, said, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        compare(Bowl(), Listed((0.5,)), storage=tmp_path, progress=False, **given)
    assert "\n" not in str(error.value)


def test_a_threshold_of_a_metric_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="unknown metric of stop 'outer_los'"):
        options(stop={"outer_los": 1}).stop("x", {"outer_loss": 2.0})
