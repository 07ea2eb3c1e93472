"""Orphans: workers whose raylet is gone, which Ray lets compute on for minutes."""

import functools
import os
import threading
import time

LOOK_EVERY_S = 1.0


@functools.cache
def end_with_parent() -> None:
    """Let this process end soon after its parent: of Ray's workers, the raylet.

    For Ray they are dead then: it runs elsewhere what they ran, or nobody waits for it.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        os._exit(1)  # it may be deep in what it computes

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
