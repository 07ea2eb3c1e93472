"""Events that rank 0 reports while it trains, and their lines for people."""

import math
import time
from typing import Any

from raymeta.runtime.progress import clock

#: The file of JSON lines in which rank 0's events reach the driver.
EVENTS = "events.jsonl"
#: Files by which the driver asks workers to stop, and a worker reports a mistake.
STOP, FAILED = ".stop", ".failed"

#: `event` says what happened; the rest depends on it.
Event = dict[str, Any]

TELL_EVERY_S = 1.0
FLUSH_EVERY_S = 5.0


class Throughput:
    """What the live line says, and when something is due."""

    def __init__(self, step: int) -> None:
        self._losses: list[float] = []
        self._tasks = 0
        self._told = self._flushed = time.monotonic()

    def add(self, loss: float, tasks: int) -> None:
        """Count a step."""
        self._losses.append(loss)
        self._tasks += tasks

    def is_due(self) -> bool:
        """Whether it is time to tell."""
        return time.monotonic() - self._told >= TELL_EVERY_S

    def take(self) -> dict[str, float]:
        """Mean loss and tasks per second since the last time."""
        now = time.monotonic()
        seconds = max(now - self._told, 1e-9)
        live = {
            "loss": sum(self._losses) / len(self._losses),
            "tasks_per_s": self._tasks / seconds,
        }
        self._losses, self._tasks, self._told = [], 0, now
        return live

    def flush_is_due(self) -> bool:
        """Whether it is time to write what has been added; then not for a while."""
        due = time.monotonic() - self._flushed >= FLUSH_EVERY_S
        if due:
            self._flushed = time.monotonic()
        return due


class ProgressText:
    """Events as lines for people.

    Args:
        outer_steps: number of them in each seed's training.
        others: whether there are other seeds that go on where one is given up.

    Attributes:
        failures: why trainings were given up.
        stopped: whether it ended before its end.
    """

    def __init__(self, outer_steps: int, others: bool = False) -> None:
        self._outer_steps, self._others = outer_steps, others
        self._now: Event = {}
        self._val, self._attempt, self._workers = "", 0, 0
        self.failures: list[str] = []
        self.stopped = False

    def record(self, event: Event) -> list[str]:
        """The lines to print for good."""
        kind = event["event"]
        if kind == "start":
            return self._start(event)
        if kind == "step":
            self._now = event
        if kind == "checkpoint" and math.isfinite(event["val_loss"]):
            self._val = f" | val {event['val_loss']:.4g} at {event['step']}"
        if kind == "skip":
            where = f"seed {event['seed']}, outer step {event['step']}"
            return [f"{where}: {event['reason']}; the update is skipped"]
        if kind == "preempted":
            where = f"seed {event['seed']}, outer step {event['step']}"
            return [f"{where}: a node is about to go; a checkpoint is written"]
        if kind == "failed":
            self.failures.append(event["reason"])
            return [f"{event['reason']}; the others go on"] if self._others else []
        if kind == "finished":
            self._now = {}
            return [f"seed {event['seed']} has finished"] if self._others else []
        self.stopped = kind == "stopped"
        return []

    def live(self, elapsed: float, width: int) -> list[str]:
        """Where the run stands."""
        if not self._now:
            return []
        now = self._now
        skipped = f" | {now['skipped']} skipped" if now["skipped"] else ""
        line = (
            f"{clock(elapsed)} seed {now['seed']}: step {now['step']} of "
            f"{self._outer_steps} | loss {now['loss']:.4g}{self._val} | "
            f"{now['tasks_per_s']:,.0f} tasks/s{skipped}"
        )
        return [line[:width]]

    def _start(self, event: Event) -> list[str]:
        self._now, self._val = {}, ""
        seed, step = event["seed"], event["step"]
        processes = (
            "1 process" if event["workers"] == 1 else f"{event['workers']} processes"
        )
        lines = []
        if event["attempt"] > self._attempt > 0:
            more = event["workers"] > self._workers
            lines = ["workers have come" if more else "workers were lost"]
        self._attempt, self._workers = event["attempt"], event["workers"]
        what = "begins"
        if step:
            done = step == self._outer_steps
            what = "is evaluated" if done else f"goes on from outer step {step}"
        return [*lines, f"seed {seed} {what} on {processes}, {event['device']}"]
