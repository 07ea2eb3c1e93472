"""A headless Chromium, spoken to over a pipe (the Chrome DevTools Protocol)."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-extensions"),
    *("--disable-component-update", "--remote-debugging-pipe", "about:blank"),
]


def executable() -> str | None:
    """Where Chromium is; None if nowhere."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page: commands go down the pipe, answers and events come up."""

    def __init__(self, down: int, up: int) -> None:
        self._down, self._up, self._buffer, self._number = down, up, b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command; return its result. Events on the way are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._down, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, address: str) -> None:
        """Load a page, and wait until it is there with its images."""
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + 60
        ready = "location.href != 'about:blank' && document.readyState == 'complete'"
        while not self.value(ready):
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        options = {"returnByValue": True, "awaitPromise": True}
        return self.call("Runtime.evaluate", expression=expression, **options)[
            "result"
        ].get("value")

    def said(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of a kind so far."""
        return [e["params"] for e in self.events if e.get("method") == method]

    def resize(self, width: int, height: int) -> None:
        """Show the page in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Prefer `dark` or `light`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._up, 1 << 20)
            assert chunk, "Chromium has gone"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def chromium(profile: str) -> Iterator[Page]:
    """Start Chromium for one page; it ends with the context."""
    child_in, down = os.pipe()
    up, child_out = os.pipe()

    def connect() -> None:  # Chromium reads descriptor 3 and writes 4
        copies = os.dup(child_in), os.dup(child_out)
        for copy, wanted in zip(copies, (3, 4), strict=True):
            os.dup2(copy, wanted)
            os.set_inheritable(wanted, True)

    program = executable()
    assert program is not None
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=connect,
    )
    os.close(child_in)
    os.close(child_out)
    try:
        yield Page(down, up)
    finally:
        process.terminate()
        process.wait(30)
        os.close(down)
        os.close(up)
