"""Figures of a comparison."""

import pandas as pd
import pytest

from raymeta.analysis import write_figures

PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


def test_write_figures_draws_everything_twice(frame, tmp_path):
    both = pd.concat([frame, frame.assign(task="a/b c")])
    files = write_figures(both, tmp_path / "new" / "figures")
    stems = ["anytime_gradient_evals", "anytime_wall_s"]
    stems += ["trajectories_a-b-c", "trajectories_digits", "profile", "ranks"]
    names = [f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    assert [file.name for file in files] == names
    for file in files:
        magic = PNG if file.suffix == ".png" else SVG
        assert file.read_bytes().startswith(magic)


def test_tasks_whose_names_coincide_get_files_of_their_own(frame, tmp_path):
    tasks = [frame.assign(task=name) for name in ("a b", "a/b", "a?b")]
    files = write_figures(pd.concat(tasks), tmp_path)
    assert len(set(files)) == len(files) == 4 + 6 + 4


def test_write_figures_copes_with_frames_that_just_began(frame, tmp_path):
    for rows in (frame.iloc[:0], frame.iloc[1:2], frame[frame["status"] == "failed"]):
        files = write_figures(rows, tmp_path)
        assert len(files) == 8 + 2 * rows["task"].nunique()


def test_write_figures_refuses_a_frame_without_its_columns(frame, tmp_path):
    with pytest.raises(ValueError, match="misses status"):
        write_figures(frame.drop(columns="status"), tmp_path)
