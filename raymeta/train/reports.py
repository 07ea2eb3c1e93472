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


class Reports:
    """When Ray Train is told how the run stands, and of which checkpoint.

    Args:
        send: tells it, on every rank at the same outer step; None: nobody listens.
    """

    def __init__(self, send: Send | None) -> None:
        self._send, self._told = send, time.monotonic()
        self._sent: Path | None = None

    def are_due(self) -> bool:
        """Whether it is time for one; rank 0's answer counts."""
        waited = time.monotonic() - self._told
        return self._send is not None and waited >= REPORT_EVERY_S

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
