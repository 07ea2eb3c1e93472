"""Chaos: `python -m jobs.experiments.chaos --out FOLDER [--fault NAME …] [--times N]`.

Every fault is injected into real runs while they are under way; where the run ends by
it, the same call goes on. Then: the same frame as that of an undisturbed run, bit for
bit, the same files, no process, temporary file or shared memory left. What was injected
is kept in the folder, and the same command goes on with the rest.

As root, in mount and network namespaces of its own; without, what needs them is left
out, and said so.
"""

import argparse
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from jobs.experiments.chaos import machine as surroundings
from jobs.experiments.chaos.faults import FAULTS, Fault, Place, placed
from jobs.experiments.chaos.machine import Machine
from jobs.experiments.chaos.processes import (
    PATIENCE_S,
    Run,
    TooLong,
    adopt_orphans,
    named,
    tree,
    until,
)
from jobs.experiments.chaos.runs import KINDS, NAME
from jobs.experiments.damaged_folders import require_equal

#: Parts of a run at which faults come, in turn.
MOMENTS = (0.2, 0.6, 0.35, 0.75, 0.5, 0.1)
#: Seconds that processes have to go.
LEFT_S = 90.0

#: Of one injection: fault, number, kind of run, exit code, …; `wrong` is "" or why.
Outcome = dict[str, Any]


class Undisturbed(NamedTuple):
    """A run that nothing disturbed.

    Attributes:
        frame: what it found.
        files: those of its folder.
        temporary: what it leaves among temporary files: caches of torch.
        length: how far it came.
    """

    frame: pd.DataFrame
    files: set[str]
    temporary: set[str]
    length: int


class Suite:
    """The suite.

    Args:
        out: the folder of what was tried.
        machine: what can be disturbed.
    """

    def __init__(self, out: Path, machine: Machine) -> None:
        self.out, self.machine = out, machine
        self._undisturbed: dict[str, Undisturbed] = {}

    def undisturbed(self, kind: str) -> Undisturbed:
        """What a run of this kind comes to."""
        if kind not in self._undisturbed:
            length = 0
            with _folder() as here:
                run = Run(kind, str(here / "results"), here, self._environment(kind))
                while not run.over:
                    length = max(run.progress, length)
                    time.sleep(0.02)
                if run.code:
                    raise SystemExit(f"undisturbed {kind}: {run.code}, {run.said}")
                self._undisturbed[kind] = Undisturbed(
                    pd.read_parquet(here / "found.parquet"),
                    _files(here / "results" / NAME),
                    set(os.listdir(run.temporary)),
                    length,
                )
        return self._undisturbed[kind]

    def _environment(self, kind: str, *, embedded: bool = False) -> dict[str, str]:
        if KINDS[kind].works is None or embedded:
            return {}
        self.machine.cluster.restore()
        return {"RAY_ADDRESS": self.machine.cluster.address}

    def inject(self, name: str, number: int) -> Outcome:
        """Inject a fault for the so manieth time; what became of it."""
        fault = FAULTS[name]
        kind = fault.kinds[number % len(fault.kinds)]
        share = MOMENTS[number // len(fault.kinds) % len(MOMENTS)]
        outcome: Outcome = {"fault": name, "number": number, "kind": kind}
        expected = self.undisturbed(kind)
        with _folder() as here:
            try:
                with placed(fault, self.machine, here) as place:
                    before = set(os.listdir("/dev/shm"))
                    run = Run(kind, place.storage, here, self._around(fault, place))
                    run.wait_for(share * expected.length)
                    if run.over:
                        raise AssertionError(f"over too early: {run.code}, {run.said}")
                    fault.inject(run, place, self.machine)
                    gone = self._gone_s() if run.over else 0.0
                    outcome |= self._resumed(fault, place, run, expected)
                    outcome["gone_s"] = round(max(gone, self._gone_s()), 2)
                    outcome["wrong"] = self._left(before, run, expected)
            except (TooLong, AssertionError, OSError) as error:
                outcome["wrong"] = f"{type(error).__name__}: {error}"
            finally:
                self._clear()
            if outcome["wrong"]:
                kept = self.out / f"{re.sub('[^A-Za-z0-9]+', '-', name)}-{number}"
                kept.mkdir(exist_ok=True)
                for file in ("said", "found.parquet"):
                    if (here / file).exists():
                        shutil.copy(here / file, kept)
                if (here / "results").exists():
                    shutil.copytree(here / "results", kept, dirs_exist_ok=True)
        return outcome

    def _around(self, fault: Fault, place: Place) -> dict[str, str]:
        """What a run finds in its environment."""
        found = self._environment(fault.kinds[0], embedded=fault.embedded)
        return {**place.environment, **found}

    def _resumed(
        self, fault: Fault, place: Place, run: Run, expected: Undisturbed
    ) -> Outcome:
        """The same call until it is done, and what it has found then."""
        code, resumed = run.code, 0
        while True:
            recovery = _recovery(run)
            if run.wait() == 0:
                break
            code = code or run.code
            if run.code == 1 or "Traceback" in run.said or resumed == 3:
                raise AssertionError(f"it ends with {run.code}: {run.said[-1500:]}")
            resumed += 1
            run = Run(run.kind, place.storage, run.here, self._around(fault, place))
        require_equal(pd.read_parquet(run.here / "found.parquet"), expected.frame)
        if fault.place != "store":
            folder = Path(place.storage) / NAME
            require_equal(pd.read_parquet(folder / "frame.parquet"), expected.frame)
            if differ := _files(folder) ^ expected.files:
                raise AssertionError(f"other files than undisturbed: {sorted(differ)}")
        return {"code": code, "resumed": resumed, "recovery_s": round(recovery, 2)}

    def _gone_s(self) -> float:
        """Seconds until no process of a run is left."""
        begun = time.monotonic()

        def left() -> list[str]:
            servants = self.machine.servants
            return [named(p)[:99] for pid, p in tree().items() if pid not in servants]

        try:
            until(lambda: not left(), "no process is left", LEFT_S)
        except TooLong as error:
            raise TooLong(f"{error}, but {left()}") from None
        return time.monotonic() - begun

    def _left(self, before: set[str], run: Run, expected: Undisturbed) -> str:
        """Temporary files and shared memory that are left of a run; "" for none."""
        files = sorted(set(os.listdir(run.temporary)) - expected.temporary)
        if self.machine.mounts:
            files += sorted(set(os.listdir("/dev/shm")) - before)
        return f"left: {files}" if files else ""

    def _clear(self) -> None:
        """End what is left: the next fault finds nothing of this one."""
        servants = self.machine.servants
        for pid, process in tree().items():
            if pid not in servants:
                process.kill()
        if self.machine.clock is not None:
            self.machine.shift_clock(0)


def _recovery(run: Run) -> float:
    """Seconds until a run computes something new, or ends."""
    begun, at = time.monotonic(), run.progress
    until(lambda: run.over or run.progress > at, "it goes on", PATIENCE_S)
    return time.monotonic() - begun


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie in it."""
    path = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _files(folder: Path) -> set[str]:
    """The files of a folder; of those that bear a time, the folder."""
    found = (f.relative_to(folder) for f in folder.rglob("*") if f.is_file())
    several = ("tensorboard", "parts")  # of each attempt its own
    return {f.parts[0] if f.parts[0] in several else _stable(f) for f in found}


def _stable(file: Path) -> str:
    """The name of a log without what it depends on."""
    return re.sub(r"[0-9a-f]{32}", "…", str(file))


def _kept(file: Path) -> list[Outcome]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def table(outcomes: list[Outcome]) -> str:
    """What was injected, as markdown."""
    lines = [
        "| fault | injected | survived | identical, nothing left | worst recovery, s | "
        "worst end of processes, s |",
        "|---|---|---|---|---|---|",
    ]
    for name in FAULTS:
        if of := [outcome for outcome in outcomes if outcome["fault"] == name]:
            survived = sum("recovery_s" in outcome for outcome in of)
            right = sum(not outcome["wrong"] for outcome in of)
            worst = [
                f"{max((o[what] for o in of if what in o), default=math.nan):.1f}"
                for what in ("recovery_s", "gone_s")
            ]
            counts = map(str, (len(of), survived, right))
            lines.append(f"| {' | '.join([name, *counts, *worst])} |")
    total = sum(not outcome["wrong"] for outcome in outcomes)
    return "\n".join([*lines, "", f"{total} of {len(outcomes)}"])


def main(arguments: list[str] | None = None) -> None:
    """Inject, and say what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fault", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if surroundings.INSIDE not in os.environ:
        surroundings.enter(sys.argv[1:] if arguments is None else arguments)
    adopt_orphans()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing stays
    folder = Path(os.environ[surroundings.INSIDE])
    file = options.out / "chaos.jsonl"
    outcomes = _kept(file)
    done = {(o["fault"], o["number"]) for o in outcomes}
    machine = Machine(folder)
    suite = Suite(options.out, machine)
    try:
        for number in range(options.times):
            for name in options.fault:
                need = FAULTS[name].needs
                if need and not getattr(machine, need):
                    print(f"{name}: left out, this machine allows none", flush=True)
                    continue
                if (name, number) in done:
                    continue
                outcome = suite.inject(name, number)
                outcomes.append(outcome)
                with file.open("a") as lines:
                    lines.write(json.dumps(outcome) + "\n")
                print(*outcome.values(), flush=True)  # the last is what is wrong
    finally:
        machine.close()
    print(table(outcomes))
    if any(outcome["wrong"] for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
