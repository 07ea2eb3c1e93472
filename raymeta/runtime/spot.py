"""Watcher of a spot node: hears the cloud's notice, and drains the node.

Nothing else tells Ray that a spot instance goes (2.60). A drained node gets no new
work, and Ray Train knows that it goes. It runs beside Ray on each node: `python -m
raymeta.runtime.spot --address HEAD:6379`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

#: As often as AWS advises.
POLL_S = 5.0
#: A service that answers at all does so at once: it is on the machine itself.
TIMEOUT_S = 2.0
TOKEN_S = 21600
#: From Google's notice to the end, which it does not say.
GOOGLE_S = 30.0
SERVICES = {
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
}

#: Seconds until the node goes; None while nobody has said that it does.
Notice = Callable[[], float | None]


class AwsNotice:
    """The notice of AWS, by its instance metadata service, version 2.

    Args:
        service: its address.
    """

    def __init__(self, service: str) -> None:
        self._service, self._token = service, ""

    def __call__(self) -> float | None:
        """Seconds until the instance is stopped or terminated; None without a notice.

        Raises:
            OSError: the service does not answer.
        """
        try:
            action = json.loads(self._ask())
        except urllib.error.HTTPError as error:
            if error.code == 404:  # no notice
                return None
            self._token = ""  # it may have expired
            raise
        ends = datetime.fromisoformat(action["time"]).astimezone(UTC)
        return max(0.0, (ends - datetime.now(UTC)).total_seconds())

    def _ask(self) -> str:
        if not self._token:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
            self._token = _answer(f"{self._service}/latest/api/token", ttl, "PUT")
        return _answer(
            f"{self._service}/latest/meta-data/spot/instance-action",
            {"X-aws-ec2-metadata-token": self._token},
        )


class GcpNotice:
    """The notice of Google Cloud, by its metadata server.

    Args:
        service: its address.
    """

    def __init__(self, service: str) -> None:
        self._url = f"{service}/computeMetadata/v1/instance/preempted"

    def __call__(self) -> float | None:
        """Seconds until the instance is stopped; None without a notice.

        Raises:
            OSError: the server does not answer.
        """
        said = _answer(self._url, {"Metadata-Flavor": "Google"})
        return GOOGLE_S if said.strip() == "TRUE" else None


NOTICES: dict[str, type[AwsNotice] | type[GcpNotice]] = {
    "aws": AwsNotice,
    "gcp": GcpNotice,
}


def watch(
    notice: Notice, drain: Callable[[float], bool], poll_s: float = POLL_S
) -> None:
    """Wait for the notice, and drain the node, again where that fails.

    Args:
        notice: asks for it.
        drain: drains the node that goes in so many seconds; returns whether it did.
        poll_s: seconds between two questions.
    """
    silent = False
    while True:
        try:
            left, silent = notice(), False
        except (OSError, ValueError, KeyError) as error:
            left = None
            if not silent:
                print(f"no metadata: {error}; asking on", flush=True)
            silent = True
        if left is not None and drain(left):
            return
        time.sleep(poll_s)


def drain_node(address: str, left: float) -> bool:
    """Tell Ray that this node goes; returns whether it was heard.

    Args:
        address: of the head, host:port.
        left: seconds until then.
    """
    print(f"this node goes in {left:.0f} s: draining it", flush=True)
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    command += ["--address", address, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the cloud takes this spot instance back"]
    command += ["--deadline-remaining-seconds", str(max(1, int(left)))]
    # By which Ray finds the node that this is.
    environment = os.environ | {"RAY_ADDRESS": address}
    return subprocess.run(command, env=environment, check=False).returncode == 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Watch until the node is drained."""
    parser = argparse.ArgumentParser(prog="python -m raymeta.runtime.spot")
    parser.add_argument("--address", required=True, help="Ray's head, as host:port")
    parser.add_argument("--cloud", choices=NOTICES, default="aws")
    parser.add_argument("--service", help="address of the metadata service")
    given = parser.parse_args(arguments)
    notice = NOTICES[given.cloud](given.service or SERVICES[given.cloud])
    watch(notice, lambda left: drain_node(given.address, left))


def _answer(url: str, headers: dict[str, str], method: str = "GET") -> str:
    """What a service on this machine answers; proxies do not reach it."""
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=TIMEOUT_S) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    main()
