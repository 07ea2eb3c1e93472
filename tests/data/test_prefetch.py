"""Prefetching changes when episodes are made, and nothing else."""

import threading
import time
from itertools import count as endless

import pytest
import torch

from raymeta._tree import tree_leaves
from raymeta.data import Sinusoid, prefetch
from raymeta.data.episodes import Episode


class Toy:
    """A family that notes which steps it made, and fails at one."""

    name = "toy"

    def __init__(self, failing=None):
        self.made, self.threads, self.failing = [], set(), failing

    def episodes(self, step, count, start, stop, *, seed, split):
        self.made.append(step)
        self.threads.add(threading.current_thread().name)
        if step == self.failing:
            raise ArithmeticError(f"no step {step}")
        return Episode(torch.full((stop - start,), step), ())


def alive():
    return [t for t in threading.enumerate() if t.name.startswith("raymeta-prefetch")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert not alive()
    yield
    assert not alive()


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


@pytest.mark.parametrize("ahead", [1, 2, 9])
@pytest.mark.parametrize("first", [0, 4])
def test_episodes_are_the_family_s_own_in_order(ahead, first):
    family = Sinusoid()
    steps = range(first, 7)
    got = list(
        prefetch(
            family, steps, count=5, seed=3, split="val", rank=1, world=2, ahead=ahead
        )
    )
    assert len(got) == len(steps)
    for step, episode in zip(steps, got, strict=True):
        wanted = family.episodes(step, 5, 2, 5, seed=3, split="val")
        assert type(episode) is Episode
        assert all(map(torch.equal, tree_leaves(episode), tree_leaves(wanted)))


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_next_steps_are_prepared_on_one_other_thread_and_no_more(ahead):
    toy = Toy()
    episodes = prefetch(toy, endless(5), count=2, seed=0, ahead=ahead)
    assert next(episodes).support.tolist() == [5, 5]
    assert eventually(lambda: len(toy.made) == ahead + 1)
    time.sleep(0.05)
    assert toy.made == list(range(5, 6 + ahead))
    assert next(episodes).support.tolist() == [6, 6]
    assert eventually(lambda: toy.made == list(range(5, 7 + ahead)))
    assert len(toy.threads) == 1
    assert toy.threads != {threading.current_thread().name}
    episodes.close()


def test_an_error_is_raised_when_its_step_is_due():
    episodes = prefetch(Toy(failing=2), range(9), count=1, seed=0, ahead=4)
    assert [next(episodes).support.item() for _ in range(2)] == [0, 1]
    with pytest.raises(ArithmeticError, match="no step 2"):
        next(episodes)
    assert not alive()
    assert list(episodes) == []


def test_the_thread_ends_with_the_iterator():
    episodes = prefetch(Toy(), endless(), count=1, seed=0)
    next(episodes)
    assert alive()
    episodes.close()
    assert not alive()
    episodes = prefetch(Toy(), endless(), count=1, seed=0)
    for episode in episodes:
        assert alive()
        if episode.support.item() == 3:
            break
    del episodes
    assert not alive()


def test_steps_that_are_waiting_when_it_ends_are_not_made():
    class Slow(Toy):
        def episodes(self, step, *places, **named):
            time.sleep(0.05)
            return super().episodes(step, *places, **named)

    slow = Slow()
    episodes = prefetch(slow, endless(), count=1, seed=0, ahead=50)
    next(episodes)
    episodes.close()
    assert len(slow.made) <= 3


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"ahead": 0}, "ahead >= 1, but got ahead=0"),
        ({"world": 3}, "got 2 for 3 workers"),
        ({"family": Sinusoid}, r"pass Sinusoid\(\)"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_episode(knobs, said):
    arguments = {"family": Toy(), "steps": range(2), "count": 2, "seed": 0} | knobs
    with pytest.raises(ValueError, match=said):
        prefetch(**arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_episodes_arrive_on_the_gpu():
    family = Sinusoid()
    got = prefetch(family, range(3), count=5, seed=3, device="cuda")
    for step, episode in enumerate(got):
        wanted = family.episodes(step, 5, 0, 5, seed=3, split="train")
        for a, b in zip(tree_leaves(episode), tree_leaves(wanted), strict=True):
            assert a.is_cuda
            assert a.cpu().equal(b)
