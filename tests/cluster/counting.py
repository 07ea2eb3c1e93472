"""A server's door at which the bytes are counted that come and go."""

import socket
import socketserver
import threading
from contextlib import contextmanager, suppress


class Door(socketserver.ThreadingTCPServer):
    """Another port of a local server."""

    block_on_close = False

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), Passage)
        self.behind, self.port = port, self.server_address[1]
        self.sent = self.received = 0


class Passage(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.behind)) as behind:
            ways = [
                threading.Thread(target=self.pass_on, args=way)
                for way in (
                    (self.request, behind, "sent"),
                    (behind, self.request, "received"),
                )
            ]
            for way in ways:
                way.start()
            for way in ways:
                way.join()

    def pass_on(self, source, target, way):
        with suppress(OSError):  # either side may hang up
            while data := source.recv(1 << 16):
                setattr(self.server, way, getattr(self.server, way) + len(data))
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def counted(port):
    """A door whose `sent` and `received` count the bytes to a server, and from it."""
    with Door(port) as door:
        thread = threading.Thread(target=door.serve_forever)
        thread.start()
        try:
            yield door
        finally:
            door.shutdown()
            thread.join()
