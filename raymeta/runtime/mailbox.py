"""Mailbox between a driver and its workers, an actor of Ray."""


class Mailbox:
    """Messages of workers to their driver, and whether that asks them to end.

    A process of its own, for both sides poll. Nothing in it needs to be opened there.
    """

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._asked = False

    def post(self, message: bytes) -> bool:
        """Leave a message; whether the driver asks to end."""
        self._messages.append(message)
        return self._asked

    def collect(self) -> list[bytes]:
        """The messages since the last time, in order."""
        messages, self._messages = self._messages, []
        return messages

    def ask_to_end(self) -> None:
        """Ask the workers to end."""
        self._asked = True
