"""Spot nodes hear the notice, by stand-ins for the clouds' metadata services."""

import threading
import urllib.error
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from raymeta.runtime import spot


class Metadata(BaseHTTPRequestHandler):
    """As AWS answers to who asks with a token, and Google to who names it."""

    def do_PUT(self):
        ttl = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.server.tokens += 1
        good = self.path == "/latest/api/token" and 0 < int(ttl) <= 21600
        self.answer(200 if good else 400, f"token-{self.server.tokens}")

    def do_GET(self):
        if self.path == "/computeMetadata/v1/instance/preempted":
            google = self.headers["Metadata-Flavor"] == "Google"
            self.answer(200 if google else 403, self.server.notice or "FALSE")
        elif self.headers["X-aws-ec2-metadata-token"] != f"token-{self.server.tokens}":
            self.answer(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action":
            self.answer(400, "")
        else:
            self.answer(200 if self.server.notice else 404, self.server.notice)

    def answer(self, code, text):
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@contextmanager
def serving():
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        server.daemon_threads = True
        server.tokens, server.notice = 0, ""
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def service():
    with serving() as server:
        yield server


def in_two_minutes():
    ends = datetime.now(UTC) + timedelta(seconds=120)
    return f'{{"action": "terminate", "time": "{ends:%Y-%m-%dT%H:%M:%SZ}"}}'


def test_the_notice_of_aws_says_when(service):
    notice = spot.AwsNotice(service.url)
    assert notice() is None
    assert notice() is None
    assert service.tokens == 1  # one for six hours
    service.notice = in_two_minutes()
    assert notice() == pytest.approx(119.5, abs=2)


def test_a_token_that_has_expired_is_replaced(service):
    notice = spot.AwsNotice(service.url)
    notice()
    service.tokens = 7
    with pytest.raises(urllib.error.HTTPError, match="401"):
        notice()
    assert notice() is None


def test_the_notice_of_google(service):
    notice = spot.GcpNotice(service.url)
    assert notice() is None
    service.notice = "TRUE"
    assert notice() == spot.GOOGLE_S


def test_a_node_is_drained_once_the_notice_has_come_and_again_where_that_fails():
    answers = iter([OSError("away"), OSError("away"), None, None, 120.0, 115.0])
    asked, drained = [], iter([False, True])

    def notice():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def drain(left):
        asked.append(left)
        return next(drained)

    spot.watch(notice, drain, poll_s=0.0)
    assert asked == [120.0, 115.0]


def test_the_watcher_gives_ray_the_seconds_that_are_left(service, monkeypatch, capsys):
    service.notice, commands = in_two_minutes(), []

    def run(command, env, check):
        assert env["RAY_ADDRESS"] == "10.0.0.1:6379"
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(spot.subprocess, "run", run)
    spot.main(["--address", "10.0.0.1:6379", "--service", service.url])
    (command,) = commands
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options["--address"] == "10.0.0.1:6379"
    assert options["--reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert 115 <= int(options["--deadline-remaining-seconds"]) <= 120
    assert "this node goes in" in capsys.readouterr().out


def test_ray_takes_these_options():
    """A hidden command of Ray's: when this fails, another one takes its place."""
    from ray.scripts.scripts import drain_node

    known = {option for parameter in drain_node.params for option in parameter.opts}
    assert known >= {
        *("--address", "--reason", "--reason-message", "--deadline-remaining-seconds")
    }
    (reason,) = (p for p in drain_node.params if p.name == "reason")
    assert "DRAIN_NODE_REASON_PREEMPTION" in reason.type.choices


def test_a_service_that_is_not_there_is_no_notice(capsys):
    with serving() as server:
        url = server.url
    calls = iter([None, None, 3.0])
    gone = spot.AwsNotice(url)

    def notice():
        left = next(calls)
        return gone() if left is None else left

    spot.watch(notice, lambda left: True, poll_s=0.0)
    assert capsys.readouterr().out.count("no metadata") == 1
