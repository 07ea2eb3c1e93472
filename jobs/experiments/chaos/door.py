"""A local server's door: what comes and goes is counted, and can be disturbed."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

AWAY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Door(socketserver.ThreadingTCPServer):
    """Another port of a local server.

    Attributes:
        port: where it is.
        sent: bytes that went to the server.
        received: bytes that came from it.
        away: whether every request is answered by 503.
        delay_s: seconds that each piece of at most 64 kB takes longer.
        lost_after: bytes to the server after which a connection is lost; None: none is.
    """

    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.behind, self.port = port, self.server_address[1]
        self.sent = self.received = 0
        self.away, self.delay_s = False, 0.0
        self.lost_after: int | None = None


class _Passage(socketserver.BaseRequestHandler):
    server: Door

    def handle(self) -> None:
        if self.server.away:
            self.request.recv(1 << 16)
            self._refuse()
            return
        with socket.create_connection(("127.0.0.1", self.server.behind)) as behind:
            ways = [
                threading.Thread(target=self._pass_on, args=way)
                for way in (
                    (self.request, behind, "sent"),
                    (behind, self.request, "received"),
                )
            ]
            for way in ways:
                way.start()
            for way in ways:
                way.join()

    def _pass_on(self, source: socket.socket, target: socket.socket, way: str) -> None:
        passed = 0
        with suppress(OSError):  # either side may hang up
            while data := source.recv(1 << 16):
                if way == "sent" and self.server.away:
                    self._refuse()
                    break
                time.sleep(self.server.delay_s)
                limit = self.server.lost_after
                passed += len(data)
                if way == "sent" and limit is not None and passed > limit:
                    target.sendall(data[: len(data) // 2])
                    self.request.shutdown(socket.SHUT_RDWR)
                    break
                setattr(self.server, way, getattr(self.server, way) + len(data))
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _refuse(self) -> None:
        with suppress(OSError):
            self.request.sendall(AWAY)
            self.request.shutdown(socket.SHUT_RDWR)


@contextmanager
def opened(port: int) -> Iterator[Door]:
    """A door to the server of this machine at a port, open as long as this is."""
    with Door(port) as door:
        thread = threading.Thread(target=door.serve_forever)
        thread.start()
        try:
            yield door
        finally:
            door.shutdown()
            thread.join()
