"""A Tuner of one's own on a slow task, to be killed: `python own_asha.py storage`."""

import sys

from ray import tune
from search_toys import Bowl

import raymeta

SLOW = raymeta.tune.trainable(Bowl(horizon=20, step_s=0.3), seed=1)


def main(storage):
    tune.Tuner(
        SLOW,
        param_space={"lr": 0.1},
        run_config=tune.RunConfig(
            name="killed",
            storage_path=storage,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    ).fit()


if __name__ == "__main__":
    main(sys.argv[1])
