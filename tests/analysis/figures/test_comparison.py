import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from raymeta.analysis import save, write_figures
from raymeta.analysis.figures.layout import panels, spread, tick
from raymeta.analysis.figures.style import COLOURS, colour, context, text_colour

PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


def test_write_figures_draws_everything_twice(frame, tmp_path):
    both = pd.concat([frame, frame.assign(task="a/b c")])
    files = write_figures(both, tmp_path / "new" / "figures")
    stems = ["anytime_gradient_evals", "anytime_wall_s"]
    stems += ["trajectories_a-b-c", "trajectories_digits", "ranks"]
    names = [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    assert [file.name for file in files] == names
    for file in files:
        magic = PNG if file.suffix == ".png" else SVG
        assert file.read_bytes().startswith(magic)


def test_tasks_whose_names_coincide_get_files_of_their_own(frame, tmp_path):
    tasks = [frame.assign(task=name) for name in ("a b", "a/b", "a?b")]
    files = write_figures(pd.concat(tasks), tmp_path)
    assert len(set(files)) == len(files) == 4 + 6 + 2


def test_write_figures_copes_with_frames_that_just_began(frame, tmp_path):
    for rows in (frame.iloc[:0], frame.iloc[1:2], frame[frame["status"] == "failed"]):
        files = write_figures(rows, tmp_path)
        assert len(files) == 6 + 2 * rows["task"].nunique()


def test_write_figures_refuses_a_frame_without_its_columns(frame, tmp_path):
    with pytest.raises(ValueError, match="misses status"):
        write_figures(frame.drop(columns="status"), tmp_path)


def test_save_keeps_dots_in_the_stem_and_clears_the_figure(tmp_path):
    figure, _ = panels(2, across=2, width=2, height=1)
    files = save(figure, tmp_path / "lr_0.1")
    assert [file.name for file in files] == ["lr_0.1.png", "lr_0.1.svg"]
    assert figure.axes == []
    assert imread(files[0]).shape == (160, 4 * 160, 4)


def test_the_same_figure_is_the_same_file(frame, tmp_path):
    first = {f.name: f.read_bytes() for f in write_figures(frame, tmp_path / "a")}
    again = {f.name: f.read_bytes() for f in write_figures(frame, tmp_path / "b")}
    assert first == again


def test_matplotlibs_settings_are_left_alone(frame, tmp_path):
    before = dict(mpl.rcParams)
    write_figures(frame, tmp_path)
    assert dict(mpl.rcParams) == before
    with context():
        assert dict(mpl.rcParams) != before


def test_analysis_loads_neither_torch_nor_ray_nor_pyplot():
    code = (
        "import sys, raymeta.analysis; "
        "heavy = {'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_known_methods_have_colours_that_differ_in_light_or_hue():
    compared = ("short_term", "long_term", "forward", "random", "asha", "tpe")
    rgb = np.array([mpl.colors.to_rgb(COLOURS[name]) for name in compared])
    apart = np.linalg.norm(rgb[:, None] - rgb[None], axis=-1)
    assert apart[~np.eye(6, dtype=bool)].min() > 0.3


def test_unknown_methods_get_stable_colours_of_their_own():
    names = [f"method_{i}" for i in range(20)]
    assert len({colour(name) for name in names}) == 20
    assert colour("method_0") == "#1f4193"  # in every process, on every machine


@pytest.mark.parametrize("method", [*COLOURS, "method_0", "another"])
def test_text_is_dark_enough_to_read(method):
    rgb = np.array(mpl.colors.to_rgb(text_colour(method)))
    assert rgb @ [0.2126, 0.7152, 0.0722] <= 0.43


def test_spread_leaves_labels_that_are_apart():
    assert spread([0.9, 0.1, 0.5], 0.2) == pytest.approx([0.9, 0.1, 0.5])


def test_spread_stacks_crowded_labels_around_their_mean():
    assert spread([0.5, 0.52], 0.1) == pytest.approx([0.46, 0.56])
    assert spread([0.52, 0.5], 0.1) == pytest.approx([0.56, 0.46])


@pytest.mark.parametrize("aims", [[0, 0, 0], [1, 1, 1], [5, -5, 1, 0.98], [0.5] * 30])
def test_spread_stays_inside_and_keeps_the_gap(aims):
    places = np.sort(spread(aims, 0.1))
    gap = min(0.1, 1 / (len(aims) - 1))
    assert (np.diff(places) >= gap - 1e-9).all()
    assert places[0] >= -1e-9
    assert places[-1] <= 1 + 1e-9


def test_spread_of_nothing_is_nothing():
    assert spread([], 0.1) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (20_000, "20,000"),
        (2e6, "2e6"),
        (0.002, "0.002"),
        (0.001, "0.001"),
        (5e-5, "5e-5"),
        (1.5e-4, "1.5e-4"),
        (-3e-4, "-3e-4"),
    ],
)
def test_ticks(value, text):
    assert tick(value) == text


def test_panels_fill_rows():
    figure, axes = panels(5, across=3, width=2, height=1)
    assert isinstance(figure, Figure)
    assert (len(axes), len(figure.axes)) == (5, 5)
    assert figure.get_size_inches().tolist() == [6, 2]
