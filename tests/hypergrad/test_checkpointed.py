"""Reverse mode with recomputation: what it recomputes and what it keeps."""

import math
import os
import resource
import signal
from dataclasses import replace
from functools import cache

import pytest
import torch

import raymeta
from raymeta.hypergrad import Checkpointed, Reverse, hypergradient, resumable
from raymeta.hypergrad.base import with_steps
from raymeta.hypergrad.checkpoint_schedules import advances, beta, binomial, even
from raymeta.hypergrad.memory import state_bytes
from raymeta.tasks import Quadratic
from raymeta.testing.problems import sgd_everything
from raymeta.testing.truth import largest_relative_error
from tests.support.memory import peak_bytes

pytestmark = pytest.mark.usefixtures("float64")


@cache
def fewest_repeats(length: int, states: int) -> int:
    """By dynamic programming over where to keep the next state."""
    if length == 1:
        return 0
    if states == 1:
        return length * (length - 1) // 2
    return min(
        m + fewest_repeats(length - m, states - 1) + fewest_repeats(m, states)
        for m in range(1, length)
    )


def formula(length: int, states: int) -> int:
    """t(l, s) = r l - β(s + 1, r - 1) with β(s, r - 1) < l <= β(s, r)."""
    r = 0
    while beta(states, r) < length:
        r += 1
    return r * length - beta(states + 1, r - 1)


@pytest.mark.parametrize("states", range(1, 9))
def test_binomial_recomputes_as_little_as_possible(states):
    for length in range(1, 61):
        repeats = advances(binomial(length, states))
        assert repeats == fewest_repeats(length, states) == formula(length, states)


def test_binomial_attains_the_formula_on_long_runs():
    for length, states in [(1000, 10), (1000, 3), (5000, 40), (252, 5)]:
        assert advances(binomial(length, states)) == formula(length, states)
    # With 5 states, 252 steps are the most that need no step more than 5 times again.
    assert beta(5, 5) == 252
    assert formula(252, 5) == 5 * 252 - beta(6, 4)


def schedules():
    for length in (1, 2, 5, 12, 30):
        for count in range(1, length + 1):
            most = count + math.ceil(length / count)
            yield even(length, count), length, most
            yield binomial(length, count), length, count


def test_every_schedule_covers_the_run_backwards_and_keeps_to_its_budget():
    for schedule, length, count in schedules():
        kept, end = {0}, length
        for pullback in schedule:
            assert pullback.origin in kept
            assert pullback.origin <= pullback.step == end - 1
            assert all(pullback.origin < t <= pullback.step for t in pullback.keep)
            assert list(pullback.keep) == sorted(pullback.keep)
            kept |= set(pullback.keep)
            assert len(kept) <= count
            kept = {t for t in kept if t < pullback.step}
            end = pullback.step
        assert end == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 17])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"segments": 1},
        {"states": 1},
        {"states": 2},
        {"states": 40},
        {"memory": "4 kB"},
    ],
    ids=str,
)
def test_every_schedule_gives_the_gradient_of_reverse(steps, knobs):
    problem, hparams = sgd_everything()
    result = hypergradient(problem, hparams, Checkpointed(steps, **knobs))
    truth = hypergradient(problem, hparams, Reverse(steps))
    for name, grad in truth.grads.items():
        assert (result.grads[name] - grad).norm() <= 1e-11 * grad.norm()
    assert float(result.outer_loss) == pytest.approx(float(truth.outer_loss), rel=1e-13)


def peaks(make, lengths: list[int]) -> list[int]:
    problem, hparams = sgd_everything()
    return [
        peak_bytes(lambda n=n: hypergradient(problem, hparams, make(n)))
        for n in lengths
    ]


def test_memory_is_the_square_root_of_the_steps():
    lengths = [9, 36, 144]
    reverse, segments = peaks(Reverse, lengths), peaks(Checkpointed, lengths)
    # Four times the steps: four times the memory of reverse mode beyond a constant,
    # twice that of √T segments.
    assert (reverse[2] - reverse[1]) / (reverse[1] - reverse[0]) == pytest.approx(
        4, rel=0.02
    )
    assert (segments[2] - segments[1]) / (segments[1] - segments[0]) == pytest.approx(
        2, rel=0.1
    )
    assert segments[2] < reverse[2] / 8


def test_memory_is_constant_with_a_number_of_states():
    small, large = peaks(lambda n: Checkpointed(n, states=4), [12, 60])
    assert small == large


def test_with_all_states_kept_one_step_has_a_graph():
    problem, hparams = sgd_everything()
    size = state_bytes(problem.init(hparams))
    short, long = peaks(lambda n: Checkpointed(n, segments=1), [12, 60])
    assert long - short == 48 * size


def test_memory_is_bytes_of_kept_states():
    problem, hparams = sgd_everything()
    size = state_bytes(problem.init(hparams))

    def same(memory, states) -> bool:
        ours, truth = Checkpointed(60, memory=memory), Checkpointed(60, states=states)
        costs = {each.cost(problem, hparams) for each in (ours, truth)}
        most = {
            peaks(lambda n, e=each: with_steps(e, n), [60])[0] for each in (ours, truth)
        }
        return len(costs) == len(most) == 1

    assert same(4 * size, 4)
    assert same(f"{(5 * size - 1) / 1000} kB", 4)
    assert same("1GiB", 60)
    with pytest.raises(ValueError, match=f"one state, {size:,} bytes .* memory='10B'"):
        Checkpointed(60, memory="10B").init(problem, hparams)


@pytest.mark.parametrize("knobs", [{}, {"states": 3}], ids=str)
def test_spilled_states_are_the_same_and_in_no_memory(tmp_path, knobs):
    problem, hparams = sgd_everything()
    inside = Checkpointed(16, **knobs)
    outside = Checkpointed(16, spill=str(tmp_path), **knobs)
    truth = hypergradient(problem, hparams, inside)
    ours = hypergradient(problem, hparams, outside)
    assert all(torch.equal(ours.grads[k], g) for k, g in truth.grads.items())
    assert not list(tmp_path.iterdir())
    few, many = peaks(
        lambda n: Checkpointed(n, segments=1, spill=str(tmp_path)), [9, 36]
    )
    assert few == many


def test_a_folder_that_is_none_or_full_is_told_in_one_line(tmp_path):
    problem, hparams = sgd_everything()
    with pytest.raises(ValueError, match=r"spill='/none' is none: make it first"):
        Checkpointed(4, spill="/none").init(problem, hparams)
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a disk that fills up
    try:
        with pytest.raises(ValueError, match="cannot write a state into") as told:
            hypergradient(problem, hparams, Checkpointed(4, spill=str(tmp_path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    assert "\n" not in str(told.value)
    assert "File too large; spill into a folder with more room" in str(told.value)
    assert not list(tmp_path.iterdir())


def killed_after(count: int, estimator: Checkpointed) -> bool:
    """Whether an estimate in a process of its own was killed when it asked for a batch.

    Args:
        count: how many batches it is given.
        estimator: makes the estimate.
    """
    problem, hparams = sgd_everything()

    def batch(t: int):
        nonlocal count
        count -= 1
        if count < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return problem.batch(t)

    child = os.fork()
    if child == 0:
        hypergradient(replace(problem, batch=batch), hparams, estimator)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("knobs", [{}, {"states": 3}], ids=str)
def test_an_estimate_that_is_killed_goes_on_to_the_same_bits(
    tmp_path, knobs, monkeypatch
):
    monkeypatch.setattr(resumable, "SHARE", math.inf)  # where it stands is noted always
    problem, hparams = sgd_everything()
    truth = hypergradient(problem, hparams, Checkpointed(30, **knobs))
    resuming = Checkpointed(30, spill=str(tmp_path), resume=True, **knobs)
    lives = 0
    while killed_after(20, resuming):  # of about 90 altogether: in either pass
        lives += 1
        assert list(tmp_path.iterdir())
        assert lives < 30
    assert lives >= 4
    assert not list(tmp_path.iterdir())
    for _ in range(3):
        assert killed_after(20, resuming)
    ours = hypergradient(problem, hparams, resuming)
    assert not list(tmp_path.iterdir())
    assert torch.equal(ours.outer_loss, truth.outer_loss)
    assert all(torch.equal(ours.grads[k], g) for k, g in truth.grads.items())


def test_another_run_in_the_same_folder_begins_anew(tmp_path):
    problem, hparams = sgd_everything()
    resuming = Checkpointed(30, spill=str(tmp_path), resume=True)
    assert killed_after(70, resuming)
    turned = replace(problem, outer_loss=lambda s, h: -problem.outer_loss(s, h))
    for other, h, estimator in (
        (problem, {**hparams, "lr": 0.9 * hparams["lr"]}, resuming),
        (problem, hparams, with_steps(resuming, 29)),
        (turned, hparams, resuming),
    ):
        plain = replace(estimator, spill=None, resume=False)
        truth = hypergradient(other, h, plain)
        ours = hypergradient(other, h, estimator)
        assert all(torch.equal(ours.grads[k], g) for k, g in truth.grads.items())
    assert len(list(tmp_path.iterdir())) == 1  # what was killed is kept


def test_what_cannot_go_on_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"in a folder, but got spill=None: give"):
        Checkpointed(4, resume=True)
    problem = raymeta.BilevelProblem(
        init=lambda h: (h["a"], 3),
        step=lambda s, h, b: (s[0] * h["a"], s[1]),
        outer_loss=lambda s, h: s[0],
    )
    resuming = Checkpointed(4, spill=str(tmp_path), resume=True)
    with pytest.raises(ValueError, match=r"but state\[1\] is .*3.*: make it a tensor"):
        hypergradient(problem, {"a": torch.tensor(0.5)}, resuming)


def test_a_thousand_steps_in_the_memory_of_sixty():
    problem = Quadratic().sample(0)
    hparams = {name: 0.5 * v for name, v in Quadratic().space.initial().items()}

    def peak(estimator) -> int:
        return peak_bytes(lambda: hypergradient(problem, hparams, estimator))

    assert peak(Checkpointed(1000)) < peak(Reverse(64))
    result = hypergradient(problem, hparams, Checkpointed(1000))
    truth = hypergradient(problem, hparams, Reverse(1000))
    assert largest_relative_error(result.grads, truth.grads) < 1e-11


def test_shorter_runs_have_fewer_segments():
    assert with_steps(Checkpointed(100), 9) == Checkpointed(9)
    assert with_steps(Checkpointed(100, segments=20), 9) == Checkpointed(9, segments=9)
    assert with_steps(Checkpointed(100, states=5), 3) == Checkpointed(3, states=5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"segments": 2, "states": 2}, "segments or states, but got segments=2, st"),
        ({"memory": 9, "states": 2}, "states or memory, but got .* leave one out"),
        (
            {"memory": "much"},
            "memory needs a number of bytes, or one with a unit of",
        ),
        ({"memory": "2XB"}, "such as '2GB', but got memory='2XB'"),
        ({"memory": 0}, "but got memory=0"),
        ({"memory": -5}, "but got memory=-5"),
        ({"memory": 2.5}, "memory"),
        ({"segments": 0}, "1 <= segments <= steps, but got segments=0, steps=4"),
        ({"segments": 5}, "1 <= segments <= steps, but got segments=5, steps=4"),
        ({"states": 0}, "states >= 1, but got states=0"),
    ],
)
def test_impossible_schedules_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Checkpointed(4, **knobs)


def test_charges_what_it_recomputes():
    problem, hparams = sgd_everything()
    outer = problem.outer_cost
    assert Checkpointed(20, segments=4).cost(problem, hparams) == 60 + 31 + outer
    assert Checkpointed(20, segments=1).cost(problem, hparams) == 60 + 19 + outer
    assert Checkpointed(20, states=1).cost(problem, hparams) == 60 + 190 + outer
    assert Checkpointed(20, states=20).cost(problem, hparams) == 60 + 19 + outer
