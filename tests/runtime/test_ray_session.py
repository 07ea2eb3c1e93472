import os
import signal
import subprocess
import sys

import pytest

from raymeta.runtime import ray_session
from raymeta.runtime.interrupt import Interrupt

PREPARED = """
import os, sys
import raymeta
assert "ray" not in sys.modules, "raymeta imported Ray"

class Watch:  # looks at the environment when Ray is first imported
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            values = "TUNE_WARN_THRESHOLD_S", "RAY_USAGE_STATS_ENABLED"
            print(*(os.environ.get(value) for value in values))
            sys.exit()

sys.meta_path.insert(0, Watch())
import raymeta.search.methods.tpe
"""


def test_the_environment_is_prepared_before_ray_is_imported():
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNE", "RAY"))}
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", PREPARED],
        env=clean | path | {"RAY_USAGE_STATS_ENABLED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["60", "1"]  # set, unless the user has set it


@pytest.mark.parametrize("given", ["", "RAY_ADDRESS", "RAY_AUTH_MODE"])
def test_an_embedded_ray_has_a_token_of_its_own(given, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(given, "disabled")
    before = dict(os.environ)
    tokens = []
    for _ in range(2):
        with ray_session.own_token():
            tokens.append(os.environ.get("RAY_AUTH_TOKEN"))
            assert os.environ.get("RAY_AUTH_MODE") == before.get(
                "RAY_AUTH_MODE", None if given else "token"
            )
        assert dict(os.environ) == before

    if given:  # it is the cluster's affair, or decided
        assert tokens == [None, None]
    else:
        assert [len(token) for token in tokens] == [64, 64]
        assert tokens[0] != tokens[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops(number):
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(number)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before


def test_paragraphs_about_dead_workers_stay_off_the_screen_meanwhile():
    death = "A worker died or was killed while executing a task by an unexpected …"
    batch = {"lines": [death, "hello"], "pid": "raylet", "is_err": False}

    def shown():
        (said, *_) = ray_session.stdout_deduplicator.deduplicate(batch)
        return said["lines"]

    with ray_session.quiet_deaths():
        assert shown() == ["hello"]
    assert death in shown()
