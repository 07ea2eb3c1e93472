"""The scaling job: averaged draws, its measures against truth, and its figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, optimize, stats
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from jobs.experiments import scaling as job
from jobs.experiments import scaling_figures, scaling_tables
from jobs.experiments import scaling_runs as runs
from raymeta.meta import MetaModule

SMALL = ["--seeds", "2", "--steps", "4", "--fresh", "20"]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The folder of a small run."""
    out = tmp_path_factory.mktemp("scaling")
    flags = ["--workers", "1", "2", "--real-workers", "none", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "MORE_STEPS", (10,))
        job.main([*SMALL, *flags])
    return out


@pytest.fixture
def frame() -> pd.DataFrame:
    """Three seeds, two numbers of workers; ratios 1, 2, 6 and 9, 7, 5."""
    rows = [
        (0.1, workers, seed, step, loss + 0.1 * (step == 0), ratio, ratio > 5)
        for workers, loss, ratios in ((1, 0.9, (1, 2, 6)), (2, 0.8, (9, 7, 5)))
        for seed, ratio in enumerate(ratios)
        for step in (0, 10)
    ]
    columns = ["inner_lr", "workers", "seed", "outer_step"]
    columns += ["meta_loss", "gap_ratio", "separable"]
    more = {"expected_loss": 0.7, "accuracy": 0.5, "gap": 0.2, "best_line": 0.75}
    return pd.DataFrame(rows, columns=columns).assign(**more)


def test_averaged_draws_are_the_mean_of_the_workers_gradients(float64) -> None:
    """Against the published loop: a gradient for each worker, then Adam on the mean."""
    inner_lr, workers, seed, steps = 0.1, 3, 5, 4
    config = runs.settings(inner_lr, workers, [seed], steps)
    module = MetaModule(config.learner(seed))
    assert list(runs.learn(module, config, seed, every=3)) == [0, 3, 4]

    x = config.learner(seed).meta["points"].clone().requires_grad_()
    y = torch.cat([torch.zeros(50), torch.ones(50)])
    adam = torch.optim.Adam([x], lr=1e-2)
    for step in range(steps):
        grads = []
        for worker in range(workers):
            drawn = config.family.episodes(
                step, workers, worker, worker + 1, seed=seed, split="train"
            ).support
            w, b = (drawn[name][0].requires_grad_() for name in "wb")
            for _ in range(3):
                loss = bce(x @ w + b, y)
                slopes = torch.autograd.grad(loss, (w, b), create_graph=True)
                w, b = w - inner_lr * slopes[0], b - inner_lr * slopes[1]
            grads += torch.autograd.grad(bce(x @ w + b, y), x)
        x.grad = torch.stack(grads).mean(0)
        adam.step()
    np.testing.assert_allclose(runs.points_of(module), x.detach(), rtol=0, atol=1e-12)


def test_a_module_used_before_learns_the_same() -> None:
    config = runs.settings(0.1, 2, [0, 1], 3)
    module = MetaModule(config.learner(0))
    learnt = []
    for seed in (1, 0, 1):
        list(runs.learn(module, config, seed, every=1))
        learnt.append(runs.points_of(module).copy())
    np.testing.assert_array_equal(learnt[0], learnt[2])
    assert abs(learnt[0] - learnt[1]).max() > 0.1


def test_expected_loss_of_points_near_the_origin(float64) -> None:
    """At it the logit is b, which descends by itself: an integral over b."""
    config = runs.settings(0.1, 2, [0], 1)
    module = MetaModule(config.learner(0))
    with torch.no_grad():
        module.theta()["points"].mul_(1e-9)

    def weighted_loss(b: float) -> float:
        density = stats.norm.pdf(b)
        for _ in range(3):
            b -= 0.1 * (1 / (1 + np.exp(-b)) - 0.5)
        return density * (np.log1p(np.exp(b)) + np.log1p(np.exp(-b))) / 2

    truth, _ = integrate.quad(weighted_loss, -12, 12)
    measure = runs.Measure(config.family, 10)
    assert measure(module)["expected_loss"] == pytest.approx(truth, abs=1e-7)


def test_measures_of_fresh_classifiers(float64) -> None:
    config = runs.settings(0.1, 2, [0], 1)
    module = MetaModule(config.learner(0))
    measure = runs.Measure(config.family, 30)
    x, y = module.theta()["points"].detach(), torch.arange(100) >= 50
    losses, right = [], []
    for w, b in zip(
        measure.fresh.support["w"], measure.fresh.support["b"], strict=True
    ):
        for _ in range(3):
            error = torch.sigmoid(x @ w + b) - y.double()
            w, b = w - 0.1 * error @ x / 100, b - 0.1 * error.mean()
        losses.append(bce(x @ w + b, y.double()))
        right.append(((x @ w + b > 0) == y).double().mean())
    found = measure(module)
    assert found["meta_loss"] == pytest.approx(float(sum(losses)) / 30, abs=1e-12)
    assert found["accuracy"] == pytest.approx(float(sum(right)) / 30, abs=1e-12)


def test_more_steps_go_on_from_where_descent_ended(float64, monkeypatch) -> None:
    monkeypatch.setattr(runs, "MORE_STEPS", (5, 12))
    config = runs.settings(0.1, 2, [0], 1)
    module = MetaModule(config.learner(0))
    measure = runs.Measure(config.family, 10)
    for row in measure.after_more_steps(module):
        whole = module(measure.fresh, steps=row["inner_steps"])
        assert row["loss"] == pytest.approx(float(whole.loss.detach()), abs=1e-12)
        assert row["accuracy"] == float(whole.metrics["accuracy"].mean())


def test_geometry_of_two_crosses() -> None:
    cross = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], float)
    found = runs.geometry(np.concatenate([cross, cross + np.array([3, 4])]))
    # Each point is 1 from its centroid: .5 of variance per coordinate.
    truth = {"gap": 5.0, "gap_ratio": 5 / 0.5**0.5, "best_line": 1, "separable": True}
    assert found == pytest.approx(truth)


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([[0, 0], [1, 1.1], [0, 1], [1, 0]], 0.75),  # exclusive or
        ([[0, 0], [1, 0], [2, 0.1], [3, 0]], 1),
        ([[2, 0], [3, 0.1], [0, 0], [1, 0]], 1),
        ([[0, 0], [3, 0], [1, 0.01], [2, 0.01]], 1),  # a hair's breadth
        ([[-1, -1], [1, 1], [0, 0], [0, 0.1]], 0.75),
    ],
)
def test_best_line_of_few_points(points, best) -> None:
    assert runs.best_line(np.array(points, float)) == best


@pytest.mark.parametrize("seed", range(6))
def test_best_line_against_many_lines_and_linear_programs(seed) -> None:
    points = np.random.default_rng(seed).normal(size=(12, 2))
    points[6:] += 0.5 * seed
    labels = np.arange(12) >= 6
    angles = np.linspace(0, 2 * np.pi, 20_000)
    z = np.stack([np.cos(angles), np.sin(angles)], 1) @ points.T
    right = [((z >= z[:, [i]]) == labels).mean(1).max() for i in range(12)]
    assert runs.best_line(points) == max(right)

    sign = np.where(labels, -1.0, 1.0)[:, None]
    program = optimize.linprog(
        np.zeros(3),
        A_ub=sign * np.column_stack([points, np.ones(12)]),
        b_ub=-np.ones(12),
        bounds=(None, None),
    )
    assert runs.geometry(points)["separable"] == (program.status == 0)


def test_a_small_run_writes_every_row(written) -> None:
    run, cells = ["inner_lr", "workers", "seed"], 2 * 2 * 2
    frame = pd.read_parquet(written / "frame.parquet")
    assert len(frame.drop_duplicates([*run, "outer_step"])) == len(frame) == cells * 5
    assert not frame.isna().any(axis=None)
    points = pd.read_parquet(written / "points.parquet")
    assert points.groupby([*run, "label"]).size().tolist() == [50] * (2 * cells)
    inner_steps = pd.read_parquet(written / "inner_steps.parquet")
    assert inner_steps["inner_steps"].tolist() == [0, 3, 10] * cells
    lines = pd.read_parquet(written / "lines.parquet")
    assert lines.groupby([*run, "inner_steps"]).size().tolist() == [20] * (2 * cells)


def test_the_frame_is_of_the_points_beside_it(written) -> None:
    frame = scaling_tables.last(pd.read_parquet(written / "frame.parquet"))
    points = pd.read_parquet(written / "points.parquet")
    for (_, group), row in zip(
        points.groupby(["inner_lr", "workers", "seed"]), frame.itertuples(), strict=True
    ):
        found = runs.geometry(group[["x", "y"]].to_numpy(float))
        assert found["gap_ratio"] == pytest.approx(row.gap_ratio, rel=1e-6)


def test_a_small_run_draws_every_figure(written) -> None:
    stems = ["curves", "inner_steps", "row_0.01", "row_0.1", "workers"]
    for kind in ("png", "svg"):
        assert sorted(path.stem for path in written.glob(f"*.{kind}")) == stems


def test_row_has_a_panel_for_each_number_of_workers(written) -> None:
    tables = [pd.read_parquet(written / f"{n}.parquet") for n in ("frame", "points")]
    lines = pd.read_parquet(written / "lines.parquet")
    figure = scaling_figures.draw_row(*tables, lines, 0.1)
    assert [axes.get_title("left") for axes in figure.axes] == ["1 worker", "2 workers"]
    for axes in figure.axes:
        marks = [line.get_gid() for line in axes.lines]
        assert marks.count("before") == marks.count("after") == scaling_figures.LINES
        shown = sum(len(line.get_xdata()) for line in axes.lines[:2])
        assert shown == 100


def test_interval_is_students(frame) -> None:
    found = scaling_tables.interval(
        scaling_tables.last(frame), ["workers"], "gap_ratio"
    )
    for row, values in zip(found.itertuples(), ([1, 2, 6], [9, 7, 5]), strict=True):
        truth = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert (row.mean - row.half, row.mean + row.half) == pytest.approx(truth)


def test_table_and_criteria(frame) -> None:
    table = scaling_tables.table(frame)
    assert table["workers"].tolist() == [1, 2]
    assert table["separable"].tolist() == ["1 of 3", "2 of 3"]
    assert table["gap_ratio"].tolist() == ["3.0 ± 6.6", "7.0 ± 5.0"]
    assert table["meta_loss"].tolist() == ["0.9000 ± 0.0000", "0.8000 ± 0.0000"]
    assert scaling_tables.criteria(frame)["met"].tolist() == [
        True,
        True,
        False,
        True,
        True,
    ]
    worse = frame.assign(meta_loss=1 - frame["meta_loss"], separable=True)
    worse["gap_ratio"] = 5 - worse["gap_ratio"]
    assert scaling_tables.criteria(worse)["met"].tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]
    alone = frame[frame["workers"] == 2]
    assert scaling_tables.criteria(alone)["met"].tolist() == [True, True, False]


def test_median_seeds(frame) -> None:
    assert scaling_tables.median_seeds(frame)["gap_ratio"].tolist() == [2, 7]
    two = frame[frame["seed"] < 2]
    assert scaling_tables.median_seeds(two)["gap_ratio"].tolist() == [1, 7]


@pytest.mark.ray
def test_real_workers_learn_what_averaged_draws_learn(
    cluster, written, tmp_path
) -> None:
    lines: list[str] = []
    points = pd.read_parquet(written / "points.parquet")
    configs = [job.settings(0.1, workers, [0, 1], 4) for workers in (2, 3)]
    differences = job.compare_workers(configs, points, tmp_path, lines.append)
    assert len(differences) == 2
    assert 0 < max(differences) <= 1e-5  # another order of summation
    assert lines[-1] == "3 workers: not compared, the cluster has 2 CPUs"
    assert not list(tmp_path.iterdir())


def test_a_difference_fails_the_job(monkeypatch, tmp_path) -> None:
    flags = [*SMALL, "--workers", "1", "--inner-lrs", "0.1", "--out", str(tmp_path)]
    for difference, fails in ((1e-6, False), (2e-5, True), (float("nan"), True)):
        monkeypatch.setattr(job, "compare_workers", lambda *_, d=difference: [0.0, d])
        options = job.parse(flags)
        if fails:
            with pytest.raises(SystemExit, match="must learn the points"):
                job.require_equality(options, pd.DataFrame(), tmp_path)
        else:
            job.require_equality(options, pd.DataFrame(), tmp_path)
