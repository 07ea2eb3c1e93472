"""Tune's schedulers decide on our controller what they decide on Tune's own."""

import json
import random
import sys
from pathlib import Path

import pytest
from ray import cloudpickle, tune
from ray.tune import Callback, RunConfig, TuneConfig, Tuner
from search_toys import Bowl

from raymeta.runtime.ray_session import prepared
from raymeta.search.methods.asha import Asha
from raymeta.search.methods.hyperband import HyperBand
from raymeta.search.methods.median import Median
from raymeta.search.methods.pb2 import Pb2
from raymeta.search.methods.pbt import Pbt
from raymeta.search.tune.quiet import quiet_tune

pytestmark = pytest.mark.ray

# Workers cannot import what lies among the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

#: Each with so many trials that some are stopped, or copied.
METHODS = {
    Asha(): 6,
    Median(): 6,
    HyperBand(halvings=1): 5,
    Pbt(population=4, intervals=3, quantile=0.5): 4,
    Pb2(population=4, intervals=3, quantile=0.5): 4,
}
TASK = Bowl(horizon=9, budget=100.0)


class Fake(tune.Trainable):
    """w' = w - lr (w - 1), as in `Bowl`."""

    def setup(self, config):
        self.t, self.w = 0, 0.0

    def reset_config(self, new_config):
        self.config = new_config
        self.setup(new_config)
        return True

    def step(self):
        end = min(rung for rung in self.config["rungs"] if rung > self.t)
        for _ in range(end - self.t):
            self.w -= self.config["lr"] * (self.w - 1)
        self.t = end
        loss = (self.w - 1) ** 2
        return {"inner_steps": end, "outer_loss": loss, "lr": self.config["lr"]}

    def save_checkpoint(self, folder):
        (Path(folder) / "at.json").write_text(json.dumps([self.t, self.w]))

    def load_checkpoint(self, folder):
        self.t, self.w = json.loads((Path(folder) / "at.json").read_text())


class Record(Callback):
    """What trials report: {(trial, training steps): (lr, loss)}."""

    def __init__(self):
        self.rows = {}

    def on_trial_result(self, iteration, trials, trial, result, **info):
        at = trials.index(trial), result["inner_steps"]
        self.rows[at] = (result["lr"], result["outer_loss"])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_scheduler_decides_the_same_on_tune(method, cluster, bench, tmp_path):
    count = METHODS[method]
    frame = bench(TASK, method, seeds=1).run().frame()
    rows = frame[(frame.status != "final") & (frame.trial < count)]
    ours = {
        (row.trial, row.inner_steps): (row["hp/lr"], row.outer_loss)
        for _, row in rows.iterrows()
    }
    rungs = method.rungs(TASK)
    first = [ours[number, rungs[0]][0] for number in range(count)]

    record = Record()
    random.seed(0)
    with prepared(), quiet_tune():
        Tuner(
            tune.with_resources(Fake, {"CPU": 2}),  # one at a time
            param_space={"lr": tune.grid_search(first), "rungs": list(rungs)},
            tune_config=TuneConfig(
                metric="outer_loss",
                mode="min",
                scheduler=method.tune_config(TASK, 0).scheduler,
                reuse_actors=True,
                # Of a batch all trials are known before the first one runs.
                max_concurrent_trials=None if method.pauses else 1,
            ),
            run_config=RunConfig(
                storage_path=str(tmp_path / "tune"),
                stop={"inner_steps": TASK.horizon},
                callbacks=[record],
                verbose=0,
            ),
        ).fit()

    copies = (rows.parent != rows.trial).any()
    assert copies or len(ours) < count * len(rungs)  # or some are stopped
    assert record.rows.keys() == ours.keys()
    for at, values in record.rows.items():
        assert values == pytest.approx(ours[at], rel=1e-4), at  # λ is float32 in ours
