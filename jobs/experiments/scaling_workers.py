"""The learned data set with real workers, who must learn what averaged draws learn."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from jobs.experiments.scaling_runs import run_of
from raymeta.runtime.ray_session import ray, running
from raymeta.train import TrainConfig, train
from raymeta.train.checkpoints import step_file

#: How much a learned coordinate may differ.
TOLERANCE = 1e-5


def compare_workers(
    configs: Sequence[TrainConfig],
    points: pd.DataFrame,
    folder: Path,
    say: Callable[[str], None],
) -> list[float]:
    """Learn with a process for each worker, on Ray, whose gradients travel by Gloo.

    An embedded Ray starts as many as needed. A cluster that is used instead must have a
    CPU for each: where it has fewer, this is said and nothing compared.

    Args:
        configs: what to learn; `tasks_per_step` is the number of workers.
        points: those of the averaged draws, see `scaling_runs.Tables`.
        folder: scratch space that all nodes see; it is left empty.
        say: takes lines.

    Returns:
        Of each run that is compared, how much a coordinate differs at most.
    """
    differences = []
    most = max(config.tasks_per_step for config in configs)
    with running(most), tempfile.TemporaryDirectory(dir=folder) as scratch:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        for number, config in enumerate(configs):
            workers, name = config.tasks_per_step, str(number)
            if workers > cpus:
                say(f"{workers} workers: not compared, the cluster has {cpus} CPUs")
                continue
            train(config, workers=workers, name=name, storage=scratch, progress=False)
            for seed in config.seeds:
                run = run_of(config, seed)
                ours = points[(points[[*run]] == pd.Series(run)).all(axis=1)]
                theirs = _learned(Path(scratch) / name / f"seed-{seed}", config)
                gap = float(abs(theirs - ours[["x", "y"]].to_numpy()).max())
                differences.append(gap)
                which = ", ".join(f"{name} {value:g}" for name, value in run.items())
                say(f"{which}: points differ by at most {gap:.1e}")
    return differences


def _learned(folder: Path, config: TrainConfig) -> np.ndarray:
    """The points after the last outer step, (n, 2)."""
    checkpoint = torch.load(step_file(folder, config.outer_steps), weights_only=True)
    return checkpoint["theta"]["points"].numpy()
