"""Soak: memory and handles of long runs, which must not grow.

`python -m jobs.experiments.soak` takes 100,000 hyper-steps on the quadratic and 10,000
on digits, in a loop as users write it, and a comparison of 10,000 trials; after a
warm-up of a fifth, resident memory of the process may grow by 2 % and open files by
none. It prints a table, and ends with 1 where one is missed.
"""

import argparse
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

import raymeta
from raymeta import tasks
from raymeta.cli import exit_code

WARM_UP, GROWTH, LOOKS = 0.2, 0.02, 50
#: Factor by which a hyper-step moves each hyperparameter, against the derivative.
MOVE = 1.01


class Look(NamedTuple):
    """What a process holds.

    Attributes:
        bytes: resident memory.
        handles: open files, sockets and pipes.
    """

    bytes: int
    handles: int


def look() -> Look:
    """Of this process, now, as Linux says it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Look(pages * resource.getpagesize(), len(os.listdir("/proc/self/fd")))


def hyper_steps(name: str, count: int) -> Iterator[Look]:
    """Descend while training goes on, from the start again where a run ends."""
    task = tasks.get(name)
    problem, estimator = task.sample(0), raymeta.hypergrad.ShortTerm()
    first = task.space.initial()
    for k in range(count):
        if k % task.horizon == 0:
            hparams = dict(first)
            rollout = estimator.init(problem, hparams)
        result, rollout = estimator.estimate(problem, hparams, rollout)
        for key, slope in result.grads.items():
            hparams[key] = hparams[key] * MOVE ** -slope.sign()
        if (k + 1) % max(1, count // LOOKS) == 0:
            yield look()


def comparison(trials: int) -> Iterator[Look]:
    """Random search of one surface on Ray, looked at from a thread."""
    task = tasks.get("surface-branin")
    looks: list[Look] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            looks.append(look())

    watcher = threading.Thread(target=watch)
    with tempfile.TemporaryDirectory() as storage:
        watcher.start()
        try:
            raymeta.compare(
                task,
                ["random"],
                seeds=1,
                budget=float(trials * task.horizon),
                name="soak",
                storage=storage,
                progress=False,
            )
        finally:
            over.set()
            watcher.join()
        written = sum(f.stat().st_size for f in Path(storage).rglob("*") if f.is_file())
        print(f"{written / trials:,.0f} bytes a trial in the results' folder")
    yield from looks


#: Name -> (number, its looks).
PARTS: dict[str, tuple[int, Callable[[int], Iterator[Look]]]] = {
    "quadratic": (100_000, lambda count: hyper_steps("quadratic", count)),
    "digits": (10_000, lambda count: hyper_steps("digits", count)),
    "comparison": (10_000, comparison),
}


class Row(NamedTuple):
    """A part's outcome.

    Attributes:
        part: its name.
        number: hyper-steps or trials.
        seconds: what they took.
        megabytes: resident memory after the warm-up.
        growth: of memory from then on, as a share: the median of the last tenth over
            that of the first tenth, minus 1.
        handles: how many more were open at the end than then.
    """

    part: str
    number: int
    seconds: float
    megabytes: float
    growth: float
    handles: int

    @property
    def flat(self) -> bool:
        """Whether nothing grew."""
        return self.growth <= GROWTH and self.handles <= 0


def soak(part: str, number: int) -> Row:
    """Run a part.

    Raises:
        ValueError: too few looks were taken to tell.
    """
    begun = time.monotonic()
    looks = list(PARTS[part][1](number))
    seconds = time.monotonic() - begun
    warm = looks[int(WARM_UP * len(looks)) :]
    if len(warm) < 5:
        raise ValueError(
            f"soak needs 5 looks after its warm-up, but {part} had {len(warm)} in "
            f"{seconds:.0f} s: give it a larger --times"
        )
    tenth = max(1, len(warm) // 10)
    first, last = (
        statistics.median(x.bytes for x in some)
        for some in (warm[:tenth], warm[-tenth:])
    )
    more = warm[-1].handles - warm[0].handles
    return Row(part, number, seconds, first / 1e6, last / first - 1, more)


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that are asked for; end with 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--times", type=float, default=1.0, help="of the numbers above (default: 1)"
    )
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for part in given.parts:
        rows.append(soak(part, max(1, round(PARTS[part][0] * given.times))))
        print(rows[-1], flush=True)
    print("| part | number | s | MB | growth of memory | handles more |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.part} | {row.number:,} | {row.seconds:.0f} | {row.megabytes:.0f} "
            f"| {row.growth:+.1%} | {row.handles:+d} |"
        )
    if grown := [row.part for row in rows if not row.flat]:
        raise SystemExit(f"soak: grew: {', '.join(grown)}")


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
