"""What people see while it trains."""

import pytest

from raymeta.train.events import ProgressText


def start(**changes):
    usual = {
        "event": "start",
        "seed": 0,
        "step": 0,
        "attempt": 1,
        "workers": 2,
        "device": "cpu",
    }
    return usual | changes


def step(**changes):
    usual = {"event": "step", "seed": 0, "step": 120, "loss": 2.3456789}
    return usual | {"tasks_per_s": 1234.5, "skipped": 0} | changes


def test_the_live_line():
    text = ProgressText(500)
    assert text.live(3.0, 80) == []
    assert text.record(start()) == ["seed 0 begins on 2 processes, cpu"]
    assert text.record(step()) == []
    line = "0:34 seed 0: step 120 of 500 | loss 2.346 | 1,234 tasks/s"
    assert text.live(34.0, 80) == [line]
    assert text.live(34.0, 20) == [line[:20]]

    checkpoint = {"event": "checkpoint", "seed": 0, "step": 100, "val_loss": 2.5}
    text.record(checkpoint)
    text.record(step(step=130, skipped=2))
    assert text.live(35.0, 100) == [
        "0:35 seed 0: step 130 of 500 | loss 2.346 | val 2.5 at 100 | 1,234 tasks/s"
        " | 2 skipped"
    ]


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (
            start(step=50, workers=1),
            ["seed 0 goes on from outer step 50 on 1 process, cpu"],
        ),
        (start(step=500), ["seed 0 is evaluated on 2 processes, cpu"]),
        (
            {
                "event": "skip",
                "seed": 1,
                "step": 7,
                "reason": "a gradient is not finite",
            },
            ["seed 1, outer step 7: a gradient is not finite; the update is skipped"],
        ),
        ({"event": "failed", "reason": "why"}, []),
    ],
)
def test_what_is_worth_a_line(event, lines):
    assert ProgressText(500).record(event) == lines


def test_lost_workers_are_told():
    text = ProgressText(500)
    text.record(start(attempt=4))
    text.record(start(attempt=4, seed=1))
    assert text.record(start(attempt=5, seed=1, step=20)) == [
        "workers were lost",
        "seed 1 goes on from outer step 20 on 2 processes, cpu",
    ]


def test_how_it_ended_is_remembered():
    text = ProgressText(500)
    text.record({"event": "failed", "reason": "why"})
    assert (text.failures, text.stopped) == (["why"], False)
    text.record({"event": "stopped", "seed": 0, "step": 3})
    assert text.stopped
