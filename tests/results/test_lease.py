"""One driver at a time has a folder, whatever comes between two of its requests."""

import io
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pyarrow.fs as fs
import pytest

from raymeta.results import lease
from raymeta.results.lease import EXPIRY_S, Lease, LockedError


class Store:
    """An object store with a clock of its own, which it notes in whole seconds.

    Attributes:
        ahead: (what is asked, what comes before the first answer to it).
    """

    def __init__(self):
        self.now, self.objects, self.ahead = 1000.0, {}, []

    def _meanwhile(self, asked):
        for event in [event for event in self.ahead if event[0] == asked]:
            self.ahead.remove(event)
            event[1]()

    @contextmanager
    def open_output_stream(self, path):
        self._meanwhile("write")
        stream = io.BytesIO()
        yield stream
        self.objects[path] = stream.getvalue(), int(self.now)

    def open_input_stream(self, path):
        self._meanwhile("read")
        if path not in self.objects:
            raise FileNotFoundError(path)
        return io.BytesIO(self.objects[path][0])

    def delete_file(self, path):
        self._meanwhile("delete")
        if self.objects.pop(path, None) is None:
            raise FileNotFoundError(path)

    def get_file_info(self, asked):
        if isinstance(asked, fs.FileSelector):
            self._meanwhile("list")
            return [self._info(path) for path in self.objects]
        self._meanwhile("look")
        return self._info(asked)

    def _info(self, path):
        if path not in self.objects:
            return SimpleNamespace(type=fs.FileType.NotFound)
        at = self.objects[path][1] * 10**9
        return SimpleNamespace(type=fs.FileType.File, path=path, mtime_ns=at)


@pytest.fixture
def store(monkeypatch):
    """Drivers on it beat by hand."""
    store = Store()

    def sleep(seconds):
        store.now += seconds
        store._meanwhile("sleep")

    clock = SimpleNamespace(
        monotonic=lambda: store.now, time=lambda: store.now, sleep=sleep
    )
    monkeypatch.setattr(lease, "time", clock)
    monkeypatch.setattr(lease, "BEAT_S", 1e6)
    return store


@pytest.fixture
def driver(store):
    """Makes drivers."""
    drivers = []

    def make():
        drivers.append(Lease(store, "root", "training"))
        return drivers[-1]

    yield make
    store.ahead.clear()
    for one in drivers:
        one.release()
    assert not store.objects


def successor(store, driver, found):
    """Another driver takes over as soon as it may."""

    def take():
        store.now += EXPIRY_S + 1
        found.append(driver())

    return take


def test_a_silence_in_which_nobody_came_does_no_harm(store, driver):
    one = driver()
    for silence in (1, EXPIRY_S / 2 + 1, EXPIRY_S + 1, 3600):
        store.now += silence
        assert one.is_held()
        assert len(store.objects) == 1
    store.ahead.append(("sleep", one._beat))
    with pytest.raises(LockedError, match=rf"process {os.getpid()} on"):
        driver()
    assert one.is_held()


@pytest.mark.parametrize("clock", ["monotonic", "time"])
def test_either_clock_tells_of_a_silence(store, driver, clock, monkeypatch):
    """One stands still while the machine sleeps, the other may be set back."""
    monkeypatch.setattr(lease.time, clock, lambda: 0.0)
    one, two = driver(), []
    successor(store, driver, two)()
    assert not one.is_held()


@pytest.mark.parametrize("over", [False, True])
def test_who_was_followed_knows_before_its_next_beat(store, driver, over):
    one, two = driver(), []
    successor(store, driver, two)()
    if over:
        two[0].release()  # it has written, and nothing of it is left
    assert not one.is_held()
    assert over or two[0].is_held()
    assert not one.is_held()


def test_where_both_clocks_stood_still_the_next_beat_tells(store, driver, monkeypatch):
    """As on a virtual machine that is paused."""
    one, two = driver(), []
    successor(store, driver, two)()
    for clock in ("monotonic", "time"):
        monkeypatch.setattr(lease.time, clock, lambda: one._beaten[0])
    one._beat()
    assert not one.is_held()


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("asked", ["look", "write"])
def test_a_beat_that_was_held_up_gives_no_claim_back(store, driver, asked, over):
    def meanwhile():
        successor(store, driver, two)()
        if over:
            two[0].release()

    one, two = driver(), []
    store.ahead.append((asked, meanwhile))
    one._beat()
    assert not one.is_held()
    assert over or two[0].is_held()
    assert list(store.objects) == ([] if over else [two[0]._path])


@pytest.mark.parametrize("asked", ["write", "list", "delete"])
def test_of_who_returns_and_who_takes_over_one_goes_on(store, driver, asked):
    one, two = driver(), []
    store.now += EXPIRY_S + 1
    store.ahead.append((asked, successor(store, driver, two)))
    assert not one.is_held()
    assert two[0].is_held()


def test_who_returns_before_its_claim_is_deleted_yields(store, driver):
    one, said = driver(), []
    store.now += EXPIRY_S + 1
    store.ahead.append(("delete", lambda: said.append(one.is_held())))
    two = driver()
    assert said == [False]
    assert two.is_held()
    assert not one.is_held()


def test_a_store_that_goes_away_in_between_confirms_nothing(store, driver):
    def away():
        raise OSError("away")

    one, two = driver(), []
    store.now += EXPIRY_S + 1
    store.ahead.append(("list", away))
    with pytest.raises(OSError, match="away"):
        one.is_held()
    store.ahead.append(("list", away))
    with pytest.raises(OSError, match="away"):
        one.is_held()
    assert one.is_held()
    assert len(store.objects) == 1
    successor(store, driver, two)()
    assert not one.is_held()


def test_who_waits_and_is_taken_for_dead_begins_anew(store, driver):
    driver()  # and never beats
    three = []

    def meanwhile():
        store.ahead.append(("list", successor(store, driver, three)))
        store.ahead.append(("sleep", lambda: three[0]._beat()))

    store.ahead.append(("sleep", meanwhile))
    with pytest.raises(LockedError, match="is at it: wait"):
        driver()
    assert three[0].is_held()


def test_who_waits_in_its_sleep_writes_another_claim(store, driver):
    """The first might be about to be deleted."""
    first = []

    def asleep():
        first.extend(store.objects)
        store.now += EXPIRY_S + 1

    driver()
    store.ahead.append(("sleep", asleep))
    two = driver()
    assert len(first) == 2
    assert list(store.objects) == [two._path]
    assert two._path not in first


def test_a_claim_that_is_given_up_while_it_is_read_is_nobodys(store, driver):
    one = driver()
    store.ahead += [("sleep", one._beat), ("read", one.release)]
    assert driver().is_held()
