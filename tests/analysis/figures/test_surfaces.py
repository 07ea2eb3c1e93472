"""Figures of the loss over two hyperparameters, and of curves that improve."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from raymeta.analysis import (
    best_hparams,
    draw_curve_row,
    draw_surface,
    learnt_hparams,
    write_loss_animation,
)
from raymeta.analysis.figures.loss_animation import HOLD
from raymeta.analysis.figures.loss_rows_3d import best_run
from raymeta.analysis.figures.surfaces import is_logarithmic, surface_of

NAN = np.nan
LR, MOMENTUM = (0.01, 0.1, 1.0), (0.0, 0.5)


@pytest.fixture
def surface():
    """Losses 1 → lr + momentum; lr 1 diverges at momentum .5."""
    rows = [
        {
            "task": "digits",
            "seed": 0,
            "inner_steps": t,
            "outer_loss": NAN if t and (lr, mu) == (1, 0.5) else 1 + t * (lr + mu - 1),
            "hp/lr": lr,
            "hp/momentum": mu,
            "hp/decay": 0.1,
        }
        for lr in LR
        for mu in MOMENTUM
        for t in (0, 1)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


@pytest.fixture
def walks(report, final):
    """An online descent of two runs, one of whole runs, and two random trials."""

    def at(method, evals, best, lr, mu, **more):
        values = {"hp/lr": lr, "hp/momentum": mu, **more}
        return report(method, 0, evals, best, **values)

    steps = [(20, 0.9), (40, 0.8), (60, 0.7), (80, 0.65), (100, 0.6)]
    first = [
        at("short_term", t, NAN, 0.01, 0.0, inner_steps=t, outer_loss=loss + 1)
        for t, loss in steps
    ]
    second = [
        at("short_term", 100 + t, loss, 0.01 * t, 0.2, inner_steps=t, outer_loss=loss)
        for t, loss in steps
    ]
    for run in (first, second):
        for row in run[:-1]:
            row["status"] = "running"
    first[-1] |= {"best_outer_loss": 1.6}
    whole = [
        at("long_term", 50, NAN, 0.01, 0.0, status="running", inner_steps=50),
        at("long_term", 200, 0.9, 0.02, 0.1),
        at("long_term", 300, 0.9, 0.2, 0.1, outer_loss=1.5),
        at("long_term", 400, 0.5, 0.05, 0.4),
    ]
    trials = [at("random", 100, 0.7, 0.5, 0.3), at("random", 200, 0.7, 0.01, 0.1)]
    trials[1]["outer_loss"] = 0.8
    ends = [final("long_term", 0, 400, 0.5, 0.5, 0.9, **{"hp/lr": 0.05})]
    return pd.DataFrame([*first, *second, *whole, *trials, *ends])


def lines_of(axes):
    return {line.get_gid(): line for line in axes.lines if line.get_gid()}


def test_the_surface_is_a_grid_of_last_losses(surface):
    found = surface_of(surface)
    assert found.names == ("lr", "momentum")
    assert (found.x.tolist(), found.y.tolist()) == ([*LR], [*MOMENTUM])
    expected = [[0.01, 0.1, 1.0], [0.51, 0.6, NAN]]
    np.testing.assert_allclose(found.loss, expected)


def test_x_and_y_are_as_they_were_asked_for(surface):
    turned = surface_of(surface.assign(x="momentum", y="lr"))
    assert turned.names == ("momentum", "lr")
    assert turned.loss.shape == (len(LR), len(MOMENTUM))
    assert surface_of(surface.assign(x="lr", y="momentum")).names == ("lr", "momentum")


def test_a_surface_has_two_hyperparameters(surface):
    with pytest.raises(ValueError, match="but this one has lr: compute"):
        surface_of(surface[surface["hp/momentum"] == 0])


def test_grids_are_logarithmic_when_geometric():
    assert is_logarithmic(np.array(LR))
    assert not is_logarithmic(np.array([0.0, 0.5, 1.0]))
    assert not is_logarithmic(np.array([0.1, 0.5, 0.9]))


def test_ways_on_the_surface(surface, walks):
    axes = draw_surface(surface, walks).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    lines = lines_of(axes)
    assert lines["way long_term"].get_xdata().tolist() == [0.01, 0.02, 0.2, 0.05]
    assert lines["best long_term"].get_xydata().tolist() == [[0.05, 0.4]]
    assert lines["way random"].get_xydata().tolist() == [[0.5, 0.3]]
    assert len(lines["dots random"].get_xdata()) == 2
    assert lines["way random"].is_dashed()
    assert not lines["way long_term"].is_dashed()


def test_ways_are_those_of_the_surfaces_seed(surface, walks):
    axes = draw_surface(surface, walks.assign(seed=1)).axes[0]
    assert lines_of(axes) == {}


def test_the_best_run_of_an_online_descent(walks):
    rows = walks[walks["method"] == "short_term"]
    run = best_run(rows.sample(frac=1, random_state=1))
    assert run["inner_steps"].tolist() == [20, 40, 60, 80, 100]
    assert run["gradient_evals"].tolist() == [120, 140, 160, 180, 200]
    assert len(best_run(rows[rows["status"] == "running"])) == 0


def test_a_plain_run_between_is_not_the_best_run_of_an_online_descent(walks, report):
    plain = report("short_term", 0, 300, 0.1, **{"hp/lr": 0.1, "hp/momentum": 0.2})
    rows = pd.concat([walks[walks["method"] == "short_term"], pd.DataFrame([plain])])
    assert best_run(rows)["gradient_evals"].tolist() == [120, 140, 160, 180, 200]


def test_two_of_a_kind_are_followed_and_equal_ones_once(surface, walks):
    whole = walks[walks["method"] == "long_term"]
    losses = ["outer_loss", "best_outer_loss"]
    more = [whole.assign(method="same")]  # the same hypergradient
    for number in (1, 2):
        other = whole.assign(method=f"worse_{number}")
        other[losses] = other[losses] + number
        more.append(other)
    axes = draw_curve_row(surface, pd.concat([walks, *more])).axes[0]
    ways = {gid for gid in lines_of(axes) if gid.startswith("way ")}
    assert ways == {"way short_term", "way long_term", "way worse_1"}


def test_the_row_of_curves(surface, walks):
    axes = draw_curve_row(surface, walks).axes[0]
    lines = {gid: line.get_data_3d() for gid, line in lines_of(axes).items()}
    assert [gid for gid in lines if gid.startswith("curve")] == [
        *("curve 0.01000", "curve 0.1000", "curve 1.000")
    ]
    # Momentum .5 is nearest to that of the best run; its diverged curve ends on top.
    steps, depth, loss = (list(values) for values in lines["curve 1.000"])
    assert (steps, depth, loss) == ([0, 1], [0, 0], pytest.approx([1, 1.1]))
    steps, depth, loss = lines["way short_term"]
    assert list(steps) == [20, 40, 60, 80, 100]
    np.testing.assert_allclose(depth, np.log10([0.2, 0.4, 0.6, 0.8, 1.0]))
    np.testing.assert_allclose(loss, [0.9, 0.8, 0.7, 0.65, 0.6])
    steps, depth, loss = lines["way long_term"]
    assert list(steps) == [100, 100, 100]
    np.testing.assert_allclose(loss, [0.9, 1.1, 0.5])  # 1.5 is cut off
    assert "way random" not in lines


def test_what_was_learnt_run_by_run(walks):
    method, learnt = learnt_hparams(walks, "digits", 0)
    assert method == "long_term"  # short_term changes λ within a run
    assert [values["lr"] for values in learnt] == [0.01, 0.02, 0.05]
    assert best_hparams(walks, "digits", 0)["lr"] == 0.05
    others = walks[walks["method"] != "long_term"]
    method, learnt = learnt_hparams(others, "digits", 0)
    assert (method, len(learnt)) == ("random", 1)
    assert best_hparams(others, "digits", 0)["lr"] == 1.0


def test_many_runs_are_thinned_and_the_best_one_stays(report):
    rows = [report("tpe", 0, i, 1 / i, **{"hp/lr": i}) for i in range(1, 101)]
    _, learnt = learnt_hparams(pd.DataFrame(rows), "digits", 0)
    assert len(learnt) == 24
    assert (learnt[0]["lr"], learnt[-1]["lr"]) == (1, 100)


def test_nothing_learnt_is_said(walks):
    online = walks[walks["method"] == "short_term"]
    with pytest.raises(ValueError, match="add long_term"):
        learnt_hparams(online, "digits", 0)
    with pytest.raises(ValueError, match="'digits' has none under seed 5"):
        best_hparams(walks, "digits", 5)


def test_the_animation_has_a_frame_per_run_and_rests_on_the_last(tmp_path):
    rows = [
        {"outer_step": k, "inner_steps": t, "outer_loss": 2 - t * k, "hp/lr": k}
        for k in (0.1, 0.5, 0.9)
        for t in (0, 1)
    ]
    curves = pd.DataFrame(rows).assign(outer_step=[0, 0, 1, 1, 2, 2])
    path = write_loss_animation(curves, tmp_path / "new" / "a.gif", title="digits")
    with Image.open(path) as image:
        frames = []
        total = 0
        for place in range(image.n_frames):
            image.seek(place)
            total += image.info["duration"]
            frames.append(np.asarray(image.convert("RGB")))
    assert total == (2 + HOLD) * 500  # a GIF joins equal frames
    assert len(frames) == 3
    assert not (frames[0] == frames[1]).all()


def test_an_animation_needs_a_finite_loss(tmp_path):
    row = {"outer_step": 0, "inner_steps": 0, "outer_loss": NAN}
    with pytest.raises(ValueError, match="needs a finite loss"):
        write_loss_animation(pd.DataFrame([row]), tmp_path / "a.gif")
