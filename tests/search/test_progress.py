import math

import pytest
from search_toys import Bowl

from raymeta.runtime.progress import Progress, clock
from raymeta.search.plan import make_plan
from raymeta.search.progress import opening, progress_lines
from raymeta.search.spec import StudyKey
from raymeta.search.study.coordinator import StudyProgress
from raymeta.space import Choice, Positive, Space, Unit

METHODS = ("random", "asha", "tpe", "short_term", "long_term", "forward")


def standing(method, seed, share, best=math.inf, running=0, failed=0, **more):
    study = StudyKey(more.get("task", "digits"), method, seed)
    return StudyProgress(study, share, best, running, failed, more.get("error", ""))


def test_a_line_says_time_shares_medians_and_trials():
    standings = [
        standing("tpe", 0, 0.5, 0.25, running=1),
        standing("tpe", 1, 0.259, 0.5, failed=2),
        standing("tpe", 2, 0.0),
        standing("walk", 0, 1.0, 0.123456),
        standing("walk", 1, 0.0),
        standing("walk", 2, 0.0, running=1),
    ]

    # The median of .25, .5 and none yet; none when most seeds have no value.
    assert progress_lines(standings, 83.9) == [
        "1:23 digits: tpe 25% 0.5    | walk 33% -      | 2 running, 2 failed"
    ]


def test_every_task_has_its_lines_within_the_width():
    standings = [
        standing(method, seed, 1.0, 0.12345678e-10, 12, 345, task=task)
        for task in ("digits", "a-task-with-a-rather-long-name-of-its-own")
        for method in METHODS
        for seed in range(3)
    ]

    lines = progress_lines(standings, 36000)

    assert lines[0].startswith("10:00:00 digits: random 100% 1.235e-11 | asha")
    assert any(line.startswith("10:00:00 a-task") for line in lines)
    assert max(map(len, lines)) <= 100
    for method in METHODS:
        assert sum(method in line for line in lines) == 2
    assert lines[-1].endswith("216 running, 6210 failed")


def test_tasks_that_nobody_works_on_share_a_line():
    standings = [
        standing("tpe", seed, share, 0.5, running, task=task)
        for task, shares, running in (
            ("a", (1.0, 1.0), 0), ("b", (0.5, 0.0), 1), ("c", (0.0, 0.0), 0),
            ("d", (1.0, 1.0), 0), ("e", (0.0, 0.0), 1),
        )
        for seed, share in enumerate(shares)
    ]  # fmt: skip

    assert progress_lines(standings, 5) == [
        "0:05 b: tpe 25% 0.5    | 2 running",
        "0:05 e: tpe  0% 0.5    | 2 running",
        "  done: a, d",
        "  to come: c",
    ]


def test_exceptions_are_told_once_per_method():
    standings = [
        standing("tpe", 0, 0.5, failed=3),
        standing("tpe", 1, 0.5, failed=1, error="ValueError: " + "x" * 100),
        standing("walk", 0, 0.5, failed=1, error="KeyError: 'a'"),
        standing("walk", 1, 0.5, failed=1, error="KeyError: 'b'"),
    ]

    _, *errors = progress_lines(standings, 1)

    assert errors == ["  walk: KeyError: 'a'", "  tpe: ValueError: " + "x" * 81]


@pytest.mark.parametrize("width", [40, 79])
def test_a_narrow_terminal_gets_narrow_lines(width):
    standings = [standing(method, 0, 0.5, 0.1) for method in METHODS]
    lines = progress_lines(standings, 1, width)
    assert max(map(len, lines)) <= width


def test_durations():
    assert [clock(s) for s in (0, 59.9, 60, 3599, 3600, 36061)] == [
        "0:00", "0:59", "1:00", "59:59", "1:00:00", "10:01:01",
    ]  # fmt: skip


def test_the_opening_says_what_will_run():
    plan = make_plan([Bowl(), Bowl(name="other", budget=5e4)], METHODS, None, (0, 7))

    lines = opening(plan, "results/x")

    text = "\n".join(lines)
    for part in (*METHODS, "bowl 100", "other 50,000", "(0, 7)", "24 studies"):
        assert part in text
    assert lines[-1] == "results go to results/x"
    assert max(map(len, lines[2:])) <= 100
    for line, name in zip(lines, ("bowl", "other"), strict=False):
        assert line.startswith(f"{name} at first look (1 hyperparameter, ")
        assert line.endswith("slopes: raymeta diagnose): trust")


class Fading(Bowl):
    space = Space(
        lr=Positive(0.1, low=0.01, high=1.9),
        fade=Unit(0.5, low=0.1, high=0.9),
        kind=Choice(("plain", None, 3)),
        when={"fade": {"kind": (None, 3)}},
    )


def test_the_opening_says_what_is_used_at_some_options_only():
    lines = opening(make_plan([Fading(), Bowl(name="b")], ["random"], None, 1), "x")
    assert "bowl uses at some options only: fade (kind None or 3)" in lines
    assert sum("some options" in line for line in lines) == 1


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_log_lines_come_every_ten_seconds(monkeypatch):
    time, lines = Clock(monkeypatch), []
    progress = Progress(lines.append)
    for second in range(35):
        time.now = float(second)
        progress.update(
            lambda width: progress_lines([standing("tpe", 0, 0.5)], progress.elapsed)
        )

    assert [line.split()[0] for line in lines] == ["0:10", "0:20", "0:30"]


def test_a_terminal_shows_one_block_in_place(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    time = Clock(monkeypatch)
    progress = Progress(True)
    for second in (2.0, 4.0):
        time.now = second
        progress.update(
            lambda width: progress_lines([standing("tpe", 0, 0.5)], progress.elapsed)
        )
    progress.print(["done"])

    block = "digits: tpe 50% -      | 0 running\n"
    assert capsys.readouterr().out == (
        f"0:02 {block}\x1b[1F\x1b[J0:04 {block}\x1b[1F\x1b[Jdone\n"
    )


def test_silence(capsys):
    Progress(False).print(["something"])
    assert capsys.readouterr().out == ""
