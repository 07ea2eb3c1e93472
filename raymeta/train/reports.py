"""Reports to Ray Train: metrics and the newest checkpoint, now and then.

What they say is in our own files, which stay the truth: `ray.train.report` waits for
its controller, and keeps metrics with checkpoints only.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: (metrics, the newest checkpoint or None where it was sent before); on every rank.
Send = Callable[[dict[str, Any], Path | None], None]

REPORT_EVERY_S = 10.0
#: Asking whether a node is about to go is a meeting of all ranks.
ASK_EVERY_S = 2.0


class Reports:
    """When Ray Train is told how the run stands, and of which checkpoint.

    Args:
        send: tells it, on every rank at the same outer step; None: nobody listens.
        preempted: says whether a worker's node is about to be taken away, on every rank
            at the same outer step; None: nobody knows.
    """

    def __init__(
        self, send: Send | None = None, preempted: Callable[[], bool] | None = None
    ) -> None:
        self._send, self._preempted = send, preempted
        self._told = self._asked = time.monotonic()
        self._sent: Path | None = None
        self._warned = False

    def are_due(self) -> bool:
        """Whether it is time for one; rank 0's answer counts."""
        waited = time.monotonic() - self._told
        return self._send is not None and waited >= REPORT_EVERY_S

    def asks(self) -> bool:
        """Whether it is time to ask for a preemption; rank 0's answer counts."""
        waited = time.monotonic() - self._asked
        knows = self._preempted is not None and not self._warned
        return knows and waited >= ASK_EVERY_S

    def is_preempted(self) -> bool:
        """Whether a node is about to go, once; all ranks ask."""
        assert self._preempted is not None
        self._asked, self._warned = time.monotonic(), self._preempted()
        return self._warned

    def send(self, metrics: dict[str, Any], newest: Path | None) -> None:
        """Tell it, as all ranks do.

        Args:
            metrics: rank 0's are kept.
            newest: the last checkpoint that is on the disk, on rank 0.
        """
        if self._send is None:
            return
        fresh = newest if newest != self._sent else None
        self._send(metrics, fresh)
        self._sent, self._told = newest, time.monotonic()
