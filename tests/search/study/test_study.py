"""Studies driven by hand and without Ray; numbers against the toy's closed form."""

import math

import pytest
from ray.tune import TuneConfig
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from search_toys import Bowl, Listed, ListSearcher, Walk

from raymeta.outer.report import Report
from raymeta.search.methods import get
from raymeta.search.plan import make_plan
from raymeta.search.study.study import ATTEMPTS
from raymeta.search.tune.search_study import study_of


def told_searcher():
    """A searcher that stays in reach: its list of what it was told."""
    told = []
    return told, lambda searcher: setattr(searcher, "told", told)


def test_trials_start_while_a_full_run_fits_and_the_look_at_the_test_set_is_free(bench):
    done = bench(Bowl(), Listed((0.5, 0.8, 0.3, 0.2)), budget=39.9).run()

    frame = done.frame()
    assert done.studies[0].spent == 30
    assert list(frame.status) == ["complete", "complete", "complete", "final"]
    assert list(frame.trial) == [0, 1, 2, 3]
    assert list(frame.gradient_evals) == [10, 20, 30, 30]
    losses = [Bowl().outer(lr, seed=0) for lr in (0.5, 0.8, 0.3)]
    assert list(frame.outer_loss[:3]) == pytest.approx(losses, rel=1e-12)
    assert list(frame.best_outer_loss[:3]) == pytest.approx(
        [losses[0], losses[1], losses[1]], rel=1e-12
    )
    final = frame.iloc[-1]
    assert final["hp/lr"] == 0.8
    assert final.outer_loss == frame.outer_loss[1]
    assert final.best_outer_loss == final.outer_loss
    assert final.test_loss == pytest.approx(Bowl().outer(0.8, 0) ** 0.5, rel=1e-12)
    assert final.failure == ""
    assert frame.test_loss[:3].isna().all()


@pytest.mark.parametrize("outer_cost", [1.0, 0.1, 7.0])
def test_a_budget_of_exactly_n_runs_holds_n_runs(bench, outer_cost):
    task = Bowl(outer_cost=outer_cost)
    budget = 7 * (9 + outer_cost / 3)

    frame = bench(task, "random", budget=budget).run().frame()

    assert (frame.status == "complete").sum() == 7


@pytest.mark.parametrize("method", ["random", "tpe", "asha"])
@pytest.mark.parametrize("budget", [20.0, 55.5, 120.0])
def test_budgets_are_spent_and_never_overrun(bench, method, budget):
    task = Bowl(nan_above=1.2, raise_above=1.6)

    bench_ = bench(task, method, budget=budget, seeds=2).run()

    frame = bench_.frame()
    for _, study in frame.groupby("seed"):
        assert study.gradient_evals.max() <= budget
        full_run = bench_.studies[0].spec.full_run
        assert study.gradient_evals.max() > budget - full_run
        assert study.gradient_evals.is_monotonic_increasing


def test_a_trial_stopped_early_gives_back_what_it_did_not_use(bench):
    told, hook = told_searcher()
    # Reduction factor 2: at the rung a trial needs the median of those before it.
    method = Listed((0.5, 0.1, 0.8), rung=3, hook=hook)

    frame = bench(Bowl(), method, budget=3 * 11 - 7).run().frame()

    search = frame[frame.status != "final"]
    assert list(search.trial) == [0, 0, 1, 2, 2]
    assert list(search.inner_steps) == [3, 9, 3, 3, 9]
    assert list(search.status) == [
        "running", "complete", "running", "running", "complete",
    ]  # fmt: skip
    # A rung costs 3 + 1, the rest of the run 6 + 1.
    assert list(search.gradient_evals) == [4, 11, 15, 19, 26]
    at_rung = {lr: Bowl().outer(lr, 0, steps=3) for lr in (0.5, 0.1, 0.8)}
    end = {lr: Bowl().outer(lr, 0) for lr in (0.5, 0.8)}
    assert list(search.outer_loss) == pytest.approx(
        [at_rung[0.5], end[0.5], at_rung[0.1], at_rung[0.8], end[0.8]], rel=1e-12
    )
    assert math.isnan(search.best_outer_loss.iloc[0])  # a rung is no full run
    assert told == [
        ("0", "result", pytest.approx(at_rung[0.5])),
        ("0", "complete", pytest.approx(end[0.5])),
        ("1", "complete", pytest.approx(at_rung[0.1])),
        ("2", "result", pytest.approx(at_rung[0.8])),
        ("2", "complete", pytest.approx(end[0.8])),
    ]


def test_failed_trials_are_rows_and_the_search_goes_on(bench):
    told, hook = told_searcher()
    task = Bowl(nan_above=0.85, raise_above=0.95)

    frame = bench(task, Listed((0.9, 0.99, 0.5), hook=hook), budget=30).run().frame()

    nan, raised, complete, final = frame.itertuples()
    assert (nan.status, raised.status) == ("failed", "failed")
    assert nan.failure == "non-finite outer loss at inner step 9"
    assert raised.failure == "ValueError: boom, it went"
    assert math.isnan(nan.outer_loss)
    assert math.isnan(raised.outer_loss)
    assert nan.gradient_evals == 10
    assert raised.gradient_evals == 20  # what it had spent is not known
    assert [value for *_, value in told] == [
        "error",
        "error",
        pytest.approx(complete.outer_loss),
    ]
    assert final.best_outer_loss == complete.outer_loss


def test_a_diverged_trial_ends_at_its_rung(bench):
    method = Listed((0.9, 0.5), rung=3)

    frame = bench(Bowl(nan_above=0.85), method, budget=15).run().frame()

    assert list(frame.status) == ["failed", "running", "complete", "final"]
    assert frame.failure[0] == "non-finite outer loss at inner step 3"
    assert list(frame.gradient_evals) == [4, 8, 15, 15]


@pytest.mark.parametrize("task", [Bowl(nan_above=0.0), Bowl(raise_above=0.0)])
def test_a_cell_without_a_value_has_no_final_row(bench, task):
    for method in (Listed((0.5, 0.6)), Walk((0.5, 0.6))):
        frame = bench(task, method, budget=50).run().frame()
        assert set(frame.status) <= {"failed", "complete"}
        assert frame.best_outer_loss.isna().all()


def test_a_descent_is_one_trial_with_its_best_state_looked_at_once(bench):
    frame = bench(Bowl(), Walk((0.2, 0.8, 0.4)), budget=30).run().frame()

    assert list(frame.status) == ["complete", "complete", "complete", "final"]
    assert set(frame.trial) == {0}
    assert list(frame.outer_step) == [1, 2, 3, 2]
    assert list(frame.gradient_evals) == [10, 20, 30, 30]
    final = frame.iloc[-1]
    assert final["hp/lr"] == pytest.approx(0.8)
    assert final.test_loss == pytest.approx(Bowl().outer(0.8, 0) ** 0.5, rel=1e-12)
    assert final.outer_loss == frame.outer_loss[1] == final.best_outer_loss


def test_a_non_finite_report_does_not_end_a_descent(bench):
    task = Bowl(nan_above=0.85)

    frame = bench(task, Walk((0.2, 0.9, 0.4)), budget=30).run().frame()

    assert list(frame.status) == ["complete", "complete", "complete", "final"]
    assert frame.failure[1] == "non-finite outer loss at inner step 9"
    assert frame.best_outer_loss[1] == frame.outer_loss[0]
    assert frame.iloc[-1].outer_step == 3


def test_what_a_descent_found_before_its_exception_counts(bench):
    frame = bench(Bowl(), Walk((0.2, 0.4, None)), budget=50).run().frame()

    assert list(frame.status) == ["complete", "complete", "failed", "final"]
    failed, final = frame.iloc[2], frame.iloc[3]
    assert failed.failure == "RuntimeError: lost the way"
    assert math.isnan(failed.outer_loss)
    assert failed.best_outer_loss == frame.outer_loss[1]
    assert failed.gradient_evals == 20
    assert (final.failure, final.outer_loss) == ("", frame.outer_loss[1])


def test_a_final_run_that_differs_says_so(bench):
    one = bench(Bowl(), Listed((0.5,)), budget=10)
    one.play(one.coordinator.request_trial())
    (study,) = one.studies
    study.best = (study.best[0] + 1e-9, study.best[1])

    frame = one.run().frame()

    assert "differs from the recorded" in frame.failure.iloc[-1]
    assert frame.status.iloc[-1] == "final"
    assert frame.best_outer_loss[1] == frame.outer_loss[0]


def test_trials_at_once_reserve_their_full_runs(bench):
    two = bench(Bowl(), Listed((0.1, 0.2, 0.3), at_once=2), budget=29)
    first, second = two.coordinator.request_trial(), two.coordinator.request_trial()

    assert (first.number, second.number) == (0, 1)
    assert two.coordinator.request_trial() is None
    assert not two.coordinator.finished
    two.play(second)
    assert two.coordinator.request_trial() is None  # 9 of 29 left, and 10 reserved
    two.play(first)
    assert two.run().frame().status.value_counts()["complete"] == 2


def test_a_trial_whose_worker_dies_runs_again(bench):
    study = study_of(
        make_plan(Bowl(), Listed((0.5, 0.4), rung=3), 22, 1).study_specs()[0]
    )
    run = study.request_trial()
    rung = Report(1, 3, 4.0, 0.5, hparams={"lr": 0.5, "kind": "plain"})
    study.record(0, [rung])

    assert study.on_worker_lost(0, "node gone") is None
    assert (study.spent, study.reports, study.running) == (0, [], set())
    assert study.request_trial() == run  # the same trial, before any other


def test_a_descent_whose_worker_dies_starts_again(bench):
    study = study_of(make_plan(Bowl(), Walk(), 30, 1).study_specs()[0])
    run = study.request_trial()
    study.record(0, [Report(1, 9, 10.0, 0.5, True, {"lr": 0.5})])
    assert study.best == (0.5, {"lr": 0.5})

    assert study.on_worker_lost(0, "node gone") is None

    assert (study.best, study.spent, study.reports) == (None, 0, [])
    assert study.request_trial() == run


def test_a_descent_whose_workers_keep_dying_fails_where_it_comes_no_further(bench):
    study = study_of(make_plan(Bowl(), Walk(), 30, 1).study_specs()[0])

    def loses(*spent):
        for each in spent:
            study.request_trial()
            message = Report(1, 9, each, 0.5, True, {"lr": 0.5})
            study.record(0, [message])
            end = study.on_worker_lost(0, "node gone")
        return end

    assert loses(1.0, 2.0, 2.0, 3.0, 4.0, 4.0) is None
    assert loses(3.0).failure == f"its worker died {ATTEMPTS} times: node gone"


def test_a_trial_whose_workers_keep_dying_fails(bench):
    one = bench(Bowl(), Listed((0.5, 0.4)), budget=20)
    one.play(one.coordinator.request_trial())
    for _ in range(ATTEMPTS):
        one.coordinator.on_worker_lost(one.coordinator.request_trial(), "node gone")

    frame = one.run().frame()

    assert list(frame.status) == ["complete", "failed", "final"]
    assert frame.failure[1] == f"its worker died {ATTEMPTS} times: node gone"
    assert list(frame.gradient_evals) == [10, 20, 20]


def test_workers_that_never_say_anything_are_an_error(bench):
    one = bench(Bowl(), Listed((0.5, 0.4)), budget=20)
    for _ in range(ATTEMPTS - 1):
        one.coordinator.on_worker_lost(
            one.coordinator.request_trial(), "No module named 'x'"
        )
    run = one.coordinator.request_trial()

    with pytest.raises(ValueError, match=r"every one failed \(No module named 'x'\)"):
        one.coordinator.on_worker_lost(run, "No module named 'x'")


def test_the_scheduler_sees_its_trials_come_and_go(bench):
    calls = []

    class Watching(FIFOScheduler):
        def on_trial_add(self, tune_controller, trial):
            calls.append(("add", trial.trial_id, trial.config["lr"]))

        def on_trial_result(self, tune_controller, trial, result):
            calls.append(("result", trial.trial_id, result["inner_steps"]))
            return TrialScheduler.CONTINUE

        def on_trial_complete(self, tune_controller, trial, result):
            calls.append(("complete", trial.trial_id, result["inner_steps"]))

        def on_trial_remove(self, tune_controller, trial):
            calls.append(("remove", trial.trial_id))

    class Watched(Listed):
        def tune_config(self, task, seed):
            config = super().tune_config(task, seed)
            config.scheduler = Watching()
            return config

        def rungs(self, task):
            return (3, task.horizon)

    bench(Bowl(nan_above=0.6), Watched((0.5, 0.7)), budget=22).run()

    assert calls == [
        ("add", "0", 0.5),
        ("result", "0", 3),
        ("result", "0", 9),
        ("complete", "0", 9),
        ("add", "1", 0.7),
        ("remove", "1"),
    ]


class TestMethodsThatAreNotLeftToTheComparison:
    def study(self, **changes):
        class Odd(Listed):
            def tune_config(self, task, seed):
                options = {"search_alg": ListSearcher([{"lr": 0.1, "kind": None}])}
                return TuneConfig(
                    metric="outer_loss", mode="min", **(options | changes)
                )

        return study_of(make_plan(Bowl(), Odd((0.1,)), 20, 1).study_specs()[0])

    def test_a_searcher_with_its_own_space(self):
        own = OptunaSearch(space=lambda trial: {}, metric="outer_loss", mode="min")
        with pytest.raises(ValueError, match="'listed' needs a searcher that takes"):
            self.study(search_alg=own)

    def test_no_searcher(self):
        with pytest.raises(ValueError, match=r"needs a ray.tune.search.Searcher"):
            self.study(search_alg=None)

    def test_a_scheduler_that_pauses(self):
        class Pausing(FIFOScheduler):
            def on_trial_result(self, tune_controller, trial, result):
                return TrialScheduler.PAUSE

        study = self.study(scheduler=Pausing())
        study.request_trial()
        with pytest.raises(ValueError, match="decided to PAUSE: use another"):
            study.record(0, [Report(inner_steps=3, outer_loss=1.0)])


def test_registered_methods_are_found_by_name():
    assert get("tpe").name == "tpe"
    with pytest.raises(ValueError, match="did you mean 'random'"):
        get("randon")
