"""Trainers on threads: so many at once, all of them in the end, or Ctrl-C."""

import threading

import pytest

from raymeta.train.fitting import fit_all, fitted


class Trainer:
    """Ends when it may, with a result or an error."""

    def __init__(self, result, working=None):
        self.result, self.working = result, [] if working is None else working
        self.may_end = threading.Event()

    def fit(self):
        self.working.append(self.result)
        assert self.may_end.wait(60)
        self.working.remove(self.result)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def never():
    return False


def nothing():
    pass


def test_the_next_one_begins_whenever_one_has_ended():
    working, ended, seen = [], {}, []
    error = ValueError("why")
    trainers = [Trainer(result, working) for result in (0, error, 2, 3, 4)]

    def tick():
        now = list(working)
        seen.append(len(now))
        if len(now) == 2 or (now and len(ended) == 4):
            # The one that began last ends first.
            next(t for t in trainers if t.result is now[-1]).may_end.set()

    def done(place, result):
        try:
            ended[place] = result()
        except ValueError as found:
            ended[place] = found

    fit_all(trainers, 2, never, tick, nothing, done)
    assert ended == {0: 0, 1: error, 2: 2, 3: 3, 4: 4}
    assert list(ended)[-1] == 0
    assert max(seen) == 2


def test_who_is_asked_to_end_begins_no_more():
    first, second = Trainer(1), Trainer(2)
    done = []
    with pytest.raises(KeyboardInterrupt):
        fit_all(
            [first, second],
            1,
            lambda: bool(first.working),
            nothing,
            first.may_end.set,
            lambda place, result: done.append(result()),
        )
    assert done == [1]
    assert second.working == []


def test_who_does_not_end_in_time_is_left():
    deaf = Trainer(1)
    with pytest.raises(KeyboardInterrupt):
        fitted(deaf, lambda: True, nothing, nothing, patience=0.1)
    deaf.may_end.set()


def test_an_error_is_raised_as_it_is():
    broken = Trainer(OSError("the disk"))
    broken.may_end.set()
    with pytest.raises(OSError, match="the disk"):
        fitted(broken, never, nothing, nothing)
