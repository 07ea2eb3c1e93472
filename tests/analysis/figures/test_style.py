"""Colours, and saving."""

import warnings
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from raymeta.analysis import save, write_figures
from raymeta.analysis.figures.layout import panels
from raymeta.analysis.figures.style import COLOURS, colour, context, text_colour


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


def test_names_of_any_letters_are_drawn_as_they_are(frame, tmp_path):
    """A $ begins no formula, and what XML cannot have stands as its code."""
    name = "a\x01\u202e$x^{$"
    frame = frame.assign(
        task=frame["task"].astype(str) + name,
        method=frame["method"].replace({"random": name}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = write_figures(frame, tmp_path)
    drawn = [file for file in files if file.suffix == ".svg"]
    assert drawn
    for file in drawn:
        ElementTree.parse(file)
        assert "\u202e" not in file.read_text()
    assert any(r"a\u0001\u202e$x^{$" in file.read_text() for file in drawn)
