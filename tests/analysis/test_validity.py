"""What is made from a comparison that is not valid says so."""

import json

import pandas as pd
import pytest

from raymeta import analysis, cli
from raymeta.analysis.figures.comparison import write_surface_figures
from raymeta.results.validity import COLUMN, REMEDY, mark, reasons_of, sentence

WHY = {("digits", 1): "data and batches differ"}
SAID = "INVALID, for methods did not train on the same: digits, seed 1: data and"


@pytest.fixture
def unfair(frame):
    return mark(frame, WHY)


def plain(text):
    return " ".join(text.split())


def words(figure):
    texts = [figure.get_suptitle(), *(text.get_text() for text in figure.texts)]
    return plain(" ".join(texts))


def test_a_valid_frame_stays_as_it_is(frame):
    assert mark(frame, {}) is frame
    assert reasons_of(frame) == {}
    assert sentence({}) == ""


def test_the_mark_survives_filters_joins_and_files(unfair, frame, tmp_path):
    other = frame.assign(task="other")
    joined = pd.concat([other, unfair])
    joined.to_csv(tmp_path / "frame.csv")

    for found in (joined, pd.read_csv(tmp_path / "frame.csv")):
        assert reasons_of(found) == {"digits": ["seed 1: data and batches differ"]}
    assert reasons_of(joined[joined.task == "other"]) == {}
    assert reasons_of(unfair[unfair.seed == 0]) == {}


def test_the_ranking_says_so_for_the_task_concerned(unfair, frame):
    table = analysis.ranking(pd.concat([frame.assign(task="other"), unfair]))
    assert set(table[table.task == "other"][COLUMN]) == {""}

    text = analysis.format_ranking(table)

    first, second = text.split("\n\n")
    assert first.startswith("INVALID")
    assert plain(first).startswith(f"{SAID} batches differ: {REMEDY} digits: medians")
    assert "INVALID" not in second
    assert COLUMN not in analysis.ranking(frame)


@pytest.mark.parametrize(
    "draw",
    [
        analysis.draw_anytime,
        lambda frame: analysis.draw_anytime(frame, "wall_s"),
        lambda frame: analysis.draw_trajectories(frame, "digits"),
        analysis.draw_ranks,
        analysis.draw_performance_profile,
    ],
)
def test_every_figure_says_so(draw, unfair, frame):
    said = "INVALID: methods did not train on the same (digits)"
    assert said in words(draw(unfair))
    assert "INVALID" not in words(draw(frame))


def test_surfaces_and_curves_say_so(unfair, frame, tmp_path, monkeypatch):
    grid = [
        {"task": "digits", "seed": 0, "inner_steps": t, "outer_loss": 1.0 + x * y + t}
        | {"hp/lr": x, "hp/b": y}
        for x in (0.1, 0.2)
        for y in (0.3, 0.4)
        for t in (0, 100)
    ]
    pd.DataFrame(grid).to_parquet(tmp_path / "surface.parquet")
    curves = pd.DataFrame(grid).assign(method="forward", outer_step=1)
    curves.drop_duplicates("inner_steps").to_parquet(tmp_path / "curves.parquet")
    drawn = []
    monkeypatch.setattr(
        "raymeta.analysis.figures.style.save",
        lambda figure, stem: (
            drawn.append(
                words(figure)
                + " ".join(axes.get_title(loc="left") for axes in figure.axes)
            )
            or []
        ),
    )

    write_surface_figures(unfair.assign(**{"hp/b": 0.35}), tmp_path)

    assert len(drawn) == 3
    assert all("INVALID" in text for text in drawn)
    drawn.clear()
    write_surface_figures(frame.assign(**{"hp/b": 0.35}), tmp_path)
    assert not any("INVALID" in text for text in drawn)


def test_the_page_has_a_banner_above_everything(unfair, frame, tmp_path):
    frame.to_parquet(tmp_path / "frame.parquet")
    analysis.write_report(tmp_path)
    assert 'role="alert"' not in (tmp_path / "report.html").read_text()

    unfair.to_parquet(tmp_path / "frame.parquet")
    analysis.write_report(tmp_path)

    page = (tmp_path / "report.html").read_text()
    banner = page.index('<p class="alarm" role="alert">INVALID')
    assert banner < page.index("<header>")
    assert "seed the data" in page


@pytest.mark.parametrize("marked", [True, False], ids=["column", "older folder"])
def test_the_report_of_a_folder_ends_with_an_error(
    marked, unfair, frame, tmp_path, capsys
):
    (unfair if marked else frame).to_parquet(tmp_path / "frame.parquet")
    if not marked:
        unfair_then = ["digits, seed 1: data differ", "digits, seed 1: batches differ"]
        record = {"valid": False, "mismatches": unfair_then}
        (tmp_path / "spending.json").write_text(json.dumps(record))

    code = cli.main(["report", str(tmp_path)])

    said = capsys.readouterr()
    assert code == 2
    assert plain(said.out).startswith(f"{SAID} batches differ")
    (line,) = said.err.splitlines()
    assert line == (
        f"raymeta: error: the comparison in {tmp_path} is {SAID} batches differ: "
        f"{REMEDY}"
    )
    assert (tmp_path / "report.html").is_file()
