"""Faults: each is one function that disturbs a run, and mends what it has disturbed."""

import itertools
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from jobs.experiments.chaos.door import Door
from jobs.experiments.chaos.machine import Machine, run
from jobs.experiments.chaos.processes import Run, until
from jobs.experiments.chaos.runs import KINDS, NAME

HERE = ("compare", "optimize", "train")
ON_RAY = ("compare on Ray", "train on Ray")
#: Seconds for which a process is stopped, a store or a network away.
FOR_S = 4.0


class Place(NamedTuple):
    """Where results go.

    Attributes:
        storage: a folder, or an address.
        environment: by which a run reaches it.
        door: of an object store.
        disk: where a disk of its own is mounted.
    """

    storage: str
    environment: Mapping[str, str]
    door: Door | None = None
    disk: Path | None = None


class Fault(NamedTuple):
    """A fault.

    Attributes:
        inject: disturbs a run that is under way, and mends what it has disturbed.
        kinds: of the runs that it disturbs, in turn.
        place: "folder", "tmpfs", "ext4" or "store".
        needs: what the machine must allow: "mounts", "network", "clock"; "" is nothing.
        embedded: whether runs on Ray have a Ray of their own.
    """

    inject: Callable[[Run, Place, Machine], None]
    kinds: tuple[str, ...] = HERE
    place: str = "folder"
    needs: str = ""
    embedded: bool = False


@contextmanager
def placed(fault: Fault, machine: Machine, folder: Path) -> Iterator[Place]:
    """Where a run of this fault writes."""
    if fault.place == "store":
        with machine.store() as (address, environment, door):
            yield Place(address, environment, door)
    elif fault.place == "folder":
        storage = folder / "results"
        storage.mkdir(exist_ok=True)
        yield Place(str(storage), {})
    else:
        with machine.disk(fault.place) as disk:
            (disk / "results").mkdir()
            yield Place(str(disk / "results"), {}, disk=disk)


def _signalled(number: int) -> Callable[[Run, Place, Machine], None]:
    def send(disturbed: Run, place: Place, machine: Machine) -> None:
        disturbed.signal(number)
        disturbed.wait()

    return send


def _stopped(disturbed: Run, place: Place, machine: Machine) -> None:
    disturbed.signal(signal.SIGSTOP)
    time.sleep(FOR_S)
    disturbed.signal(signal.SIGCONT)


def _worker(number: int) -> Callable[[Run, Place, Machine], None]:
    """A signal to one that computes a trial, or a rank's share."""

    def send(disturbed: Run, place: Place, machine: Machine) -> None:
        works = KINDS[disturbed.kind].works
        assert works is not None
        found = machine.cluster.workers(works)
        if not found and disturbed.over:
            return
        assert found, "no worker is there"
        with suppress(psutil.NoSuchProcess):  # a trial may end meanwhile
            found[-1].send_signal(number)
            if number == signal.SIGSTOP:
                time.sleep(FOR_S)
                found[-1].send_signal(signal.SIGCONT)

    return send


def _node(number: int) -> Callable[[Run, Place, Machine], None]:
    """A signal to the raylet of the node without a driver; another node comes."""

    def send(disturbed: Run, place: Place, machine: Machine) -> None:
        raylet = machine.cluster.raylet("node")
        assert raylet is not None
        raylet.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(3 * FOR_S)
            with suppress(psutil.NoSuchProcess):
                raylet.send_signal(signal.SIGCONT)
                time.sleep(FOR_S)  # it learns that it was given up, and ends
        else:
            until(lambda: not raylet.is_running() or _dead(raylet), "a raylet ends", 60)
        machine.cluster.restore()

    return send


def _dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _full(disturbed: Run, place: Place, machine: Machine) -> None:
    """No byte is left on the disk of the results."""
    assert place.disk is not None
    filler = place.disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
    disturbed.wait()  # it cannot go on for long
    filler.unlink()


def _no_inodes(disturbed: Run, place: Place, machine: Machine) -> None:
    """No file can be created on the disk of the results."""
    assert place.disk is not None
    fillers = place.disk / "fillers"
    fillers.mkdir()
    with suppress(OSError):
        for number in itertools.count():
            (fillers / str(number)).touch()
    disturbed.wait()  # it cannot go on for long
    shutil.rmtree(fillers)


def _read_only(disturbed: Run, place: Place, machine: Machine) -> None:
    """The disk has an error, after which the kernel lets nobody write to it."""
    assert place.disk is not None
    device = machine.device(place.disk)
    Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("chaos")
    disturbed.wait()  # it cannot go on for long
    until(lambda: run("umount", place.disk), "nobody uses the disk")
    image = place.disk.with_suffix(".image")
    run("e2fsck", "-p", image)
    assert machine.mount(image, place.disk)


def _removed(disturbed: Run, place: Place, machine: Machine) -> None:
    """Somebody removes the folder while the run writes in it."""
    folder = Path(place.storage) / NAME
    while folder.exists():  # it may write meanwhile
        shutil.rmtree(folder, ignore_errors=True)
    disturbed.wait()


def _store_away(disturbed: Run, place: Place, machine: Machine) -> None:
    """The store answers 503, and comes back."""
    assert place.door is not None
    place.door.away = True
    time.sleep(FOR_S)
    place.door.away = False


def _store_slow(disturbed: Run, place: Place, machine: Machine) -> None:
    """Every piece of what goes to the store and comes from it takes longer."""
    assert place.door is not None
    place.door.delay_s = 0.3
    time.sleep(FOR_S)
    place.door.delay_s = 0.0


def _store_lossy(disturbed: Run, place: Place, machine: Machine) -> None:
    """Connections are lost in the midst of uploads."""
    assert place.door is not None
    place.door.lost_after = 4000
    time.sleep(FOR_S)
    place.door.lost_after = None


def _network_lost(disturbed: Run, place: Place, machine: Machine) -> None:
    """The cable between both nodes is cut for long enough that one is given up."""
    assert run("ip", "link", "set", "here", "down")
    time.sleep(5 * FOR_S)
    assert run("ip", "link", "set", "here", "up")
    machine.reconnect()
    time.sleep(FOR_S)
    machine.cluster.restore()


def _clock(seconds: int) -> Callable[[Run, Place, Machine], None]:
    def jump(disturbed: Run, place: Place, machine: Machine) -> None:
        machine.shift_clock(seconds)
        with suppress(AssertionError):
            disturbed.wait(2 * FOR_S)
        machine.shift_clock(0)

    return jump


FAULTS = {
    "SIGKILL of the driver": Fault(_signalled(signal.SIGKILL)),
    "SIGTERM of the driver": Fault(_signalled(signal.SIGTERM)),
    "SIGINT of the driver": Fault(_signalled(signal.SIGINT)),
    "SIGSTOP of the driver": Fault(_stopped),
    "a full disk": Fault(_full, place="tmpfs", needs="mounts"),
    "no inodes left": Fault(_no_inodes, place="tmpfs", needs="mounts"),
    "a disk read-only after an error": Fault(_read_only, place="ext4", needs="mounts"),
    "the folder removed": Fault(_removed),
    "an object store that answers 503": Fault(_store_away, place="store"),
    "a slow object store": Fault(_store_slow, place="store"),
    "uploads cut off": Fault(_store_lossy, place="store"),
    "a clock that jumps ahead": Fault(_clock(86_400), needs="clock"),
    "a clock that jumps back": Fault(_clock(-86_400), needs="clock"),
    "SIGKILL of a driver with its own Ray": Fault(
        _signalled(signal.SIGKILL), ON_RAY, embedded=True
    ),
    "SIGINT of a driver with its own Ray": Fault(
        _signalled(signal.SIGINT), ON_RAY, embedded=True
    ),
    "SIGKILL of a worker": Fault(_worker(signal.SIGKILL), ON_RAY),
    "SIGTERM of a worker": Fault(_worker(signal.SIGTERM), ON_RAY),
    "SIGINT of a worker": Fault(_worker(signal.SIGINT), ON_RAY),
    "SIGSTOP of a worker": Fault(_worker(signal.SIGSTOP), ON_RAY),
    "SIGKILL of a raylet": Fault(_node(signal.SIGKILL), ON_RAY),
    "SIGTERM of a raylet": Fault(_node(signal.SIGTERM), ON_RAY),
    "SIGSTOP of a raylet": Fault(_node(signal.SIGSTOP), ON_RAY),
    "the network between two nodes lost": Fault(_network_lost, ON_RAY, needs="network"),
}
